"""Offline analysis: the same chain as live, over whole recordings of any length in bounded memory."""

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsp.chain import BandChange, Chain, Levels, Message
from dsp.detect import Shrug
from dsp.exposure import rest_pct
from dsp.filters import Band, SignalError
from dsp.quality import Quality
from dsp.reference import Calibration, pooled, quietest
from firmware_bridge.recordings import Recording, RecordingError
from services.episodes import Episodes
from services.messages import Episode
from services.pipeline import noise_of
from services.settings import Settings

Array = NDArray[np.float64]

_NAMESPACE = uuid.UUID("6b1f5f0e-2f0c-5b1e-9d54-6d1d0f4f9a11")
_LEAST_REPORT_S = 600.0
_NOT_YET = "not measured by this version"


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller knows of the levels: a stretch (start, end) in seconds, or a level in µV, or neither."""

    rest_s: tuple[float, float] | None = None
    rest_uv: float | None = None
    reference_s: tuple[float, float] | None = None
    reference_uv: float | None = None


def calibrate(recording: Recording, settings: Settings, given: Given) -> Calibration:
    """Take the levels from the recording where the caller does not give them.

    Without a word about the rest it is the quietest stretch of each channel.
    Raises RecordingError where a stretch lies outside the recording or holds nothing usable.
    """
    n = len(recording.signal.channels)
    frames, frame_s, band = np.empty((n, 0)), 1.0, None
    if given.rest_uv is None or given.reference_s is not None:
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
        elif given.reference_s is not None:
            reference, what = _stretch(recording, frames, frame_s, "reference", given.reference_s)
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


def _frames(recording: Recording, settings: Settings) -> tuple[Array, float, Band]:
    """Return exposure frames, their length and their band: the one that the recording calls for, from its start on."""
    band: Band | None = None
    while True:
        chain, messages = _run(recording, settings, band)
        frames = np.concatenate([m.frames_uv for m in messages if isinstance(m, Levels)], axis=1)
        if chain.band == chain.first_band:
            return frames, chain.frame_s, chain.band
        band = chain.band  # it only ever gets narrower, so this ends


def _run(recording: Recording, settings: Settings, band: Band | None) -> tuple[Chain, Iterator[Message]]:
    try:
        chain = Chain(recording.signal, settings.chain(), 0, band)
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
    chain, messages = _run(recording, settings, calibration.band)
    chain.calibrate(calibration)
    names = recording.signal.channels
    sha256 = recording.sha256()
    episodes = Episodes(
        settings.episode, names, calibration, lambda at_s: _episode_id(sha256, at_s), settings.shrug.patience_s
    )
    shrugs: list[Shrug] = []
    quality: list[Quality] = []
    found: list[Episode] = []
    frames: list[Array] = []
    bands = [BandChange(0.0, chain.band)]
    now_s = 0.0
    for message in messages:
        match message:
            case Levels():
                frames.append(message.frames_uv)
                now_s = message.at_s
            case Quality():
                quality.append(message)
            case BandChange():
                bands.append(message)
            case Shrug():
                found += episodes.advance(message.at_s)
                found += episodes.shrug(message)
                shrugs.append(message)
    found += episodes.finish(now_s)
    all_frames = np.concatenate(frames, axis=1)
    duration_s = chain.samples / recording.signal.rate_hz
    return {
        "schema": "unshrug.analysis/1",
        "recording": {
            "path": str(recording.path),
            "rate_hz": recording.signal.rate_hz,
            "duration_s": round(duration_s, 3),
            "channels": list(names),
            "sha256": sha256,
        },
        "calibration": {
            "rest_uv": [_r(v) for v in calibration.rest_uv],
            "noise_uv": [_r(v) for v in calibration.noise_uv],
            "reference_uv": calibration.reference_uv and [_r(v) for v in calibration.reference_uv],
            "source": calibration.source,
        },
        "bands": [
            {
                "at_s": round(b.at_s, 6),
                "low_hz": b.band.low_hz,
                "high_hz": b.band.high_hz,
                "notches_hz": list(b.band.notches_hz),
            }
            for b in bands
        ],
        "settings": asdict(settings.chain()) | {"episode": asdict(settings.episode)},
        "channels": [
            {
                "name": name,
                "valid_s": round(float(np.isfinite(all_frames[c]).sum() * chain.frame_s), 3),
                "rms_uv": _levels(all_frames[c]),
                "events": [_event(s, calibration) for s in shrugs if s.channel == c and s.phase == "ended"],
                "quality": _intervals([q for q in quality if q.channel == c], duration_s),
                "exposure": _exposure(all_frames[c], c, chain.frame_s, calibration, settings),
            }
            for c, name in enumerate(names)
        ],
        "episodes": [_episode(e) for e in found if e.event == "ended"],
    }


def _episode_id(sha256: str, start_s: float) -> str:
    """The same episode of the same recording has the same id in every analysis."""
    return str(uuid.uuid5(_NAMESPACE, f"{sha256}:{start_s:.3f}"))


def _levels(frames: Array) -> dict[str, float | None]:
    valid = frames[np.isfinite(frames)]
    if not len(valid):
        return dict.fromkeys(("p10", "p50", "p90", "mean"))
    p10, p50, p90 = np.percentile(valid, [10, 50, 90])
    return {"p10": _r(p10), "p50": _r(p50), "p90": _r(p90), "mean": _r(valid.mean())}


def _event(shrug: Shrug, calibration: Calibration) -> dict[str, Any]:
    return {
        "kind": "shrug",
        "start_s": round(shrug.start_s, 6),
        "end_s": None if shrug.end_s is None else round(shrug.end_s, 6),
        "mean_uv": _r(shrug.mean_uv),
        "peak_uv": _r(shrug.peak_uv),
        "mean_rve": _r(calibration.rve(shrug.mean_uv, shrug.channel)),
        "peak_rve": _r(calibration.rve(shrug.peak_uv, shrug.channel)),
        "valid_pct": _r(100 * shrug.valid_fraction),
        "truncated": shrug.truncated,
        "long": shrug.long,
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


def _exposure(
    frames: Array, channel: int, frame_s: float, calibration: Calibration, settings: Settings
) -> dict[str, Any]:
    figures: dict[str, Any] = dict.fromkeys(("rrt_pct", "gaps_per_min", "gap_time_pct", "apdf_rve", "eva", "sulma"))
    why = dict.fromkeys(figures, _NOT_YET)
    limit = calibration.level_at_rve(settings.exposure.rest_rve, channel)
    valid = int(np.isfinite(frames).sum())
    least = settings.exposure.least_valid_pct
    if np.isnan(calibration.rest_uv[channel]):
        reason: str | None = "no usable data"
    elif limit is None:
        reason = "no reference contraction"
    elif valid * frame_s < _LEAST_REPORT_S:
        reason = f"less than {_LEAST_REPORT_S / 60:.0f} min of valid data"
    elif valid < least / 100 * len(frames):
        reason = f"less than {least:g} % of the data is valid"
    else:
        reason = None
    for key in ("rrt_pct", "apdf_rve"):
        if reason is None:
            why.pop(key)
        else:
            why[key] = reason
    if reason is None and limit is not None:
        figures["rrt_pct"] = _r(rest_pct(frames, limit, least / 100))
        rve = [calibration.rve(v, channel) for v in np.percentile(frames[np.isfinite(frames)], [10, 50, 90])]
        figures["apdf_rve"] = dict(zip(("p10", "p50", "p90"), map(_r, rve), strict=True))
    return figures | {"reasons_null": why}


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
