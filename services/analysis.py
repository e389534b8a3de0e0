"""Offline analysis: the same chain as live, over whole recordings of any length in bounded memory."""

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsp.chain import BandChange, Chain, Levels, Message, Spectra
from dsp.detect import Event, Shrug
from dsp.exposure import Exposure, Gaps, Sulma, asymmetry, exposure, pooled_levels
from dsp.filters import Band, SignalError
from dsp.low_rest import LowRest
from dsp.quality import Quality
from dsp.reference import Calibration, Verdict, pooled, quietest, reference_of
from dsp.spectrum import LEAST_RATE_HZ, Jasa, Trend, jasa
from firmware_bridge.recordings import Recording, RecordingError
from services.episodes import Episodes
from services.messages import Episode
from services.pipeline import noise_of
from services.settings import Settings

Array = NDArray[np.float64]

_NAMESPACE = uuid.UUID("6b1f5f0e-2f0c-5b1e-9d54-6d1d0f4f9a11")
_LEAST_SPECTRUM_RVE = 15.0
_LEAST_SPECTRUM_SNR = 10**0.5  # 10 dB over rest


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller knows of the levels: a stretch (start, end) in seconds, or a level in µV, or neither."""

    rest_s: tuple[float, float] | None = None
    rest_uv: float | None = None
    reference_s: tuple[tuple[float, float], ...] = ()
    reference_uv: float | None = None


def calibrate(recording: Recording, settings: Settings, given: Given) -> Calibration:
    """Take the levels from the recording where the caller does not give them.

    Without a word about the rest it is the quietest stretch of each channel.
    Raises RecordingError where a stretch lies outside the recording or holds nothing usable.
    """
    n = len(recording.signal.channels)
    frames, frame_s, band = np.empty((n, 0)), 1.0, None
    if given.rest_uv is None or given.reference_s:
        frames, frame_s, band = _frames(recording, settings)
    try:
        if given.rest_uv is not None:
            rest, source = (given.rest_uv,) * n, "rest given"
        elif given.rest_s is not None:
            rest, source = _stretch(recording, frames, frame_s, "rest", given.rest_s)
        else:
            found = [quietest(row, frame_s) for row in frames]
            rest = tuple(level for level, _, _ in found)
            stretches = [f"{start:.1f}-{end:.1f} s" if end else "unknown" for _, start, end in found]
            source = f"rest {', '.join(stretches)} (quietest)"
        reference = None
        if given.reference_uv is not None:
            reference, source = (given.reference_uv,) * n, f"{source}; reference given"
        elif given.reference_s:
            reference, what = _reference(recording, frames, frame_s, given.reference_s)
            source = f"{source}; {what}"
        return Calibration(rest, noise_of(recording.signal, rest), reference, source, band)
    except SignalError as error:
        raise RecordingError(f"{recording.path}: {error}") from None


def _stretch(
    recording: Recording, frames: Array, frame_s: float, name: str, stretch: tuple[float, float]
) -> tuple[tuple[float, ...], str]:
    start, end = stretch
    duration = frames.shape[1] * frame_s
    if not 0 <= start < end <= duration + frame_s:
        raise RecordingError(
            f"{recording.path}: {name} {start:g}-{end:g} s; expected START-END within 0-{duration:.1f} s"
        )
    levels = tuple(pooled(row[round(start / frame_s) : max(round(end / frame_s), 1)]) for row in frames)
    if not np.isfinite(levels).any():
        raise RecordingError(f"{recording.path}: {name} {start:g}-{end:g} s holds no usable data")
    return levels, f"{name} {start:g}-{end:g} s"


def _reference(
    recording: Recording, frames: Array, frame_s: float, stretches: tuple[tuple[float, float], ...]
) -> tuple[tuple[float, ...], str]:
    """Return the RVE of each channel, the median of the repeats, and how well they agree."""
    repeats = [_stretch(recording, frames, frame_s, "reference", stretch) for stretch in stretches]
    found = [
        reference_of(levels) if np.isfinite(levels).all() else None
        for levels in zip(*(levels for levels, _ in repeats), strict=True)
    ]
    what = ", ".join(what for _, what in repeats)
    if len(repeats) > 1:
        cvs = ", ".join("unknown" if r is None else f"{r.cv_pct:.0f} % ({r.verdict})" for r in found)
        what = f"{what}, which differ by a CV of {cvs}"
    return tuple(float("nan") if r is None else r.rve_uv for r in found), what


def _frames(recording: Recording, settings: Settings) -> tuple[Array, float, Band]:
    """Return exposure frames, their length and their band: the one that the recording calls for, from its start on."""
    band: Band | None = None
    while True:
        chain, messages = _run(recording, settings, band)
        frames = np.concatenate([m.frames_uv for m in messages if isinstance(m, Levels)], axis=1)
        if chain.band == chain.first_band:
            return frames, chain.frame_s, chain.band
        band = chain.band  # it only ever gets narrower, so this ends


def _run(
    recording: Recording, settings: Settings, band: Band | None, *, spectra: bool = False
) -> tuple[Chain, Iterator[Message]]:
    try:
        chain = Chain(recording.signal, settings.chain(), 0, band, spectra=spectra)
    except SignalError as error:
        raise RecordingError(f"{recording.path}: {error}") from None

    def messages() -> Iterator[Message]:
        samples = 0
        for block in recording.blocks():
            samples = block.end
            yield from chain.process(block)
        if samples < chain.hop:
            raise RecordingError(f"{recording.path}: {samples} samples; expected {chain.hop} or more")
        yield from chain.finish()

    return chain, messages()


def analyze(recording: Recording, settings: Settings, calibration: Calibration) -> dict[str, Any]:
    """Return the analysis of one recording, of the schema unshrug.analysis/1. Raises RecordingError."""
    chain, messages = _run(recording, settings, calibration.band, spectra=True)
    chain.calibrate(calibration)
    names, signal = recording.signal.channels, recording.signal
    events: list[Event] = []
    quality: list[Quality] = []
    frames: list[Array] = []
    spectra: list[Spectra] = []
    bands = [BandChange(0.0, chain.band)]
    for message in messages:
        match message:
            case Levels():
                frames.append(message.frames_uv)
            case Spectra():
                spectra.append(message)
            case Quality():
                quality.append(message)
            case BandChange():
                bands.append(message)
            case Shrug() | LowRest() if message.phase == "ended":
                events.append(message)
    all_frames = np.concatenate(frames, axis=1)
    mdf = np.concatenate([m.mdf_hz for m in spectra], axis=1) if spectra else np.empty((len(names), 0))
    mnf = np.concatenate([m.mnf_hz for m in spectra], axis=1) if spectra else np.empty((len(names), 0))
    duration_s = chain.samples / signal.rate_hz
    measures = [
        exposure(all_frames[c], c, chain.frame_s, calibration, seen, settings.exposure)
        for c, seen in enumerate(chain.verdicts)
    ]
    sha256 = recording.sha256()
    return {
        "schema": "unshrug.analysis/1",
        "recording": {
            "path": str(recording.path),
            "rate_hz": signal.rate_hz,
            "duration_s": round(duration_s, 3),
            "channels": list(names),
            "sha256": sha256,
        },
        "calibration": {
            "rest_uv": [_r(v) for v in calibration.rest_uv],
            "noise_uv": [_r(v) for v in calibration.noise_uv],
            "reference_uv": calibration.reference_uv and [_r(v) for v in calibration.reference_uv],
            "source": calibration.source,
            "verdicts": [_verdict(v) for v in chain.verdicts],
        },
        "bands": [_band(b) for b in bands],
        "settings": asdict(settings.chain()) | {"episode": asdict(settings.episode)},
        "channels": [
            {
                "name": name,
                "valid_s": round(float(np.isfinite(all_frames[c]).sum() * chain.frame_s), 3),
                "rms_uv": _levels(all_frames[c]),
                "events": [_event(e, calibration) for e in sorted(events, key=_start) if e.channel == c],
                "quality": _intervals([q for q in quality if q.channel == c], duration_s),
                "exposure": _exposure(measures[c]),
                "spectrum": _spectrum(all_frames[c], mdf[c], mnf[c], c, chain, calibration),
            }
            for c, name in enumerate(names)
        ],
        "asymmetry": _asymmetry(all_frames, names, calibration, settings),
        "episodes": [_episode(e) for e in _episodes(events, recording, settings, calibration, sha256)],
    }


def _start(event: Event) -> float:
    return event.start_s


def _episodes(
    events: list[Event], recording: Recording, settings: Settings, calibration: Calibration, sha256: str
) -> list[Episode]:
    """Merge events into episodes: they are all known by now, so they come in the order of their starts."""
    names = recording.signal.channels
    merging = Episodes(
        settings.episode, names, calibration, lambda at_s: _episode_id(sha256, at_s), settings.shrug.patience_s
    )
    said: list[Episode] = []
    for event in sorted(events, key=_start):
        said += merging.event(replace(event, phase="started", end_s=None))
        said += merging.event(event)
    said += merging.finish(0.0)
    return [e for e in said if e.event == "ended"]


def _episode_id(sha256: str, start_s: float) -> str:
    """The same episode of the same recording has the same id in every analysis."""
    return str(uuid.uuid5(_NAMESPACE, f"{sha256}:{start_s:.3f}"))


def _levels(frames: Array) -> dict[str, float | None]:
    valid = frames[np.isfinite(frames)]
    if not len(valid):
        return dict.fromkeys(("p10", "p50", "p90", "mean"))
    p10, p50, p90 = np.percentile(valid, [10, 50, 90])
    return {"p10": _r(p10), "p50": _r(p50), "p90": _r(p90), "mean": _r(valid.mean())}


def _event(event: Event, calibration: Calibration) -> dict[str, Any]:
    return {
        "kind": event.kind,
        "start_s": round(event.start_s, 6),
        "end_s": None if event.end_s is None else round(event.end_s, 6),
        "mean_uv": _r(event.mean_uv),
        "peak_uv": _r(event.peak_uv),
        "mean_rve": _r(calibration.rve(event.mean_uv, event.channel)),
        "peak_rve": _r(calibration.rve(event.peak_uv, event.channel)),
        "valid_pct": _r(100 * event.valid_fraction),
        "truncated": event.truncated,
        "long": isinstance(event, Shrug) and event.long,
    }


def _intervals(changes: list[Quality], duration_s: float) -> list[dict[str, Any]]:
    """Return stretches of one quality each, which cover the recording without overlap."""
    starts = [Quality(0, 0.0, "ok"), *changes]
    ends = [q.at_s for q in changes] + [duration_s]
    return [
        {"start_s": round(q.at_s, 6), "end_s": round(end, 6), "state": q.state, "reasons": list(q.reasons)}
        for q, end in zip(starts, ends, strict=True)
        if end > q.at_s
    ]


def _exposure(measured: Exposure) -> dict[str, Any]:
    why = dict(measured.why)
    if "gaps" in why:
        why["gaps_per_min"] = why["gap_time_pct"] = why.pop("gaps")
    found: Gaps | None = measured.gaps
    activity: Sulma | None = measured.sulma
    apdf = measured.apdf_rve
    return {
        "rrt_pct": _r(measured.rrt_pct),
        "gaps_per_min": _r(found.per_min if found else None),
        "gaps_long_per_min": _r(found.long_per_min if found else None),
        "gap_time_pct": _r(found.time_pct if found else None),
        "gap_longest_s": _r(found.longest_s if found else None),
        "apdf_rve": apdf and dict(zip(("p10", "p50", "p90"), map(_r, apdf), strict=True)),
        "eva": None if measured.eva is None else [[_r(v) for v in row] for row in measured.eva.tolist()],
        "sulma": activity
        and {
            "counts": list(activity.counts),
            "time_pct": [_r(v) for v in activity.time_pct],
            "gt4min_pct": _r(activity.gt4min_pct),
        },
        "reasons_null": why,
    }


def _spectrum(
    frames: Array, mdf: Array, mnf: Array, channel: int, chain: Chain, calibration: Calibration
) -> dict[str, Any]:
    """Median frequencies over the seconds of a clear contraction, and their course. For research only."""
    if chain.signal.rate_hz < LEAST_RATE_HZ:
        reason: str | None = f"less than {LEAST_RATE_HZ:g} Hz: the EMG's spectrum is cut off"
    elif calibration.reference_uv is None or np.isnan(calibration.rest_uv[channel]):
        reason = "no reference contraction"
    else:
        reason = None
    none = dict.fromkeys(("mdf_hz", "mnf_hz", "jasa"))
    if reason:
        return {**none, "seconds": 0, "reason_null": reason}
    n = max(1, round(1 / chain.frame_s))
    level_uv = pooled_levels(frames, n)[: len(mdf)]
    level = calibration.rve_of(level_uv, channel)
    clear = (level >= _LEAST_SPECTRUM_RVE) & (level_uv >= _LEAST_SPECTRUM_SNR * calibration.rest_uv[channel])
    clear &= np.isfinite(mdf[: len(level)])
    if not clear.any():
        return {**none, "seconds": 0, "reason_null": f"no second of {_LEAST_SPECTRUM_RVE:g} %RVE or more"}
    view = jasa(np.where(clear, level, np.nan), np.where(clear, mdf[: len(level)], np.nan), n * chain.frame_s)
    return {
        "mdf_hz": _r(np.median(mdf[: len(level)][clear])),
        "mnf_hz": _r(np.median(mnf[: len(level)][clear])),
        "jasa": view and _jasa(view),
        "seconds": int(clear.sum()),
        "reason_null": None if view else "less than 5 min of clear contraction",
    }


def _jasa(view: Jasa) -> dict[str, Any]:
    def trend(of: Trend) -> dict[str, float | None]:
        return {"per_min": _r(of.per_min), "low": _r(of.low), "high": _r(of.high)}

    return {"level_rve": trend(view.level), "mdf_hz": trend(view.mdf), "reads_as": view.reads_as}


def _asymmetry(
    frames: Array, names: tuple[str, ...], calibration: Calibration, settings: Settings
) -> dict[str, Any] | None:
    found = asymmetry(frames, names, calibration, settings.exposure)
    if found is None:
        return None
    return {"level_pct": _r(found.level_pct), "rest_points": _r(found.rest_points), "unit": found.unit}


def _verdict(of: Verdict) -> dict[str, Any]:
    return {"state": of.state, "sees_rest": of.sees_rest, "snr_db": _r(of.snr_db), "reasons": list(of.reasons)}


def _band(change: BandChange) -> dict[str, Any]:
    band = change.band
    return {
        "at_s": round(change.at_s, 6),
        "low_hz": band.low_hz,
        "high_hz": band.high_hz,
        "notches_hz": list(band.notches_hz),
    }


def _episode(episode: Episode) -> dict[str, Any]:
    return {
        "id": episode.id,
        "start_s": round(episode.start_s, 6),
        "end_s": None if episode.end_s is None else round(episode.end_s, 6),
        "kinds": list(episode.kinds),
        "peak_rve": _r(episode.peak_rve),
        "mean_rve": _r(episode.mean_rve),
        "channels": list(episode.channels),
    }


def _r(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 3)
