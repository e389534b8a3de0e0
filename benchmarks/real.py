"""Real recordings with their truth: those of a package on PyPI, and those of the folder named by UNSHRUG_DATA."""

import csv
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import Scene, Span
from benchmarks.scoring import joined
from dsp.filters import BandPass, FilterSettings, band_of
from dsp.level import RmsFrames
from dsp.reference import quietest
from services.analysis import Given

Array = NDArray[np.float64]

_MERGE_S = 1.0  # detectors join holds with such a pause, so the truth does
_UNCLEAR_S = (2.5, 3.5)  # around the least duration a label's edges decide nothing


@dataclass(frozen=True, slots=True)
class Real:
    """A recording of one channel; `maybe` are stretches that count neither way, `reference` is how to give one."""

    half: str
    scene: Scene
    given: Given
    reference: Given | None = None
    maybe: tuple[Span, ...] = ()


def recordings() -> Iterator[Real]:
    """Yield every recording that is there."""
    folder = os.environ.get("UNSHRUG_DATA")
    data = Path(folder) / "data" if folder else None
    yield from _plux(data)
    if data is not None:
        yield from _myo(data / "myo_5s_rest_5s_hold_labelled")
        yield _emggo(data / "emggo_ecg_drift")
        yield _pyomeca(data / "pyomeca_trapezius_boxlift")
        yield from _biosppy(data / "biosppy_examples")


def _frames(uv: Array, rate_hz: float) -> tuple[Array, float]:
    frame = max(1, round(0.125 * rate_hz))
    y = BandPass(band_of(FilterSettings(), rate_hz), rate_hz, 1).filter(uv[None])
    return RmsFrames(frame, 1, 1, 0.1).push(y)[0], frame / rate_hz


def _scene(
    name: str,
    rate_hz: float,
    values: Array,
    holds: list[Span],
    *,
    step_uv: float | None = None,
    bits: int | None = None,
    rest: Span | None = None,
) -> Scene:
    """Return a scene whose rest, for the detectors that must be told, is the quietest stretch of the recording."""
    if rest is None:
        _, start, end = quietest(*_frames(values * (step_uv or 1.0), rate_hz))
        rest = start, end
    return Scene(name, rate_hz, values[:, None], (tuple(holds),), rest, step_uv, bits, hopeless=("",))


def _labels(folder: Path, file: str) -> list[tuple[str, Span, str]]:
    with (folder / "annotations.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["file"] == file]
    return [(row["channel"], (float(row["start_s"]), float(row["end_s"])), row["label"]) for row in rows]


def _column(path: Path, name: str) -> Array:
    with path.open() as file:
        header = file.readline().strip().split(",")
        return np.loadtxt(file, delimiter=",", usecols=header.index(name))


def _inner(hold: Span) -> Span:
    """The middle of a hold, which serves as the reference contraction."""
    quarter = (hold[1] - hold[0]) / 4
    return hold[0] + quarter, hold[1] - quarter


def _plux(data: Path | None) -> Iterator[Real]:
    spec = importlib.util.find_spec("biosignalsnotebooks")
    if spec is None or not spec.submodule_search_locations:
        return
    samples = Path(spec.submodule_search_locations[0]) / "notebook_files" / "osf_files" / "signal_samples"
    for name, file, channel in (
        ("PLUX biceps, 9 bursts of 1 s", "emg_bursts.h5", "channel_3"),
        ("PLUX thumb, twitches", "emg_1000_hz_16_bits_solo.h5", "channel_1"),
    ):
        scene = _scene(name, 1000, _counts(samples / file, channel), [], step_uv=3e6 / 2**16 / 1000, bits=16)
        yield Real("test", scene, Given())
    yield _fatigue(_counts(samples / "emg_fatigue.h5", "channel_2"), data)


def _counts(path: Path, channel: str) -> Array:
    with h5py.File(path) as file:
        device = file[next(iter(file))]
        return np.asarray(device["raw"][channel], dtype=float).ravel()


def _fatigue(counts: Array, data: Path | None) -> Real:
    """Thirty contractions of 3 s with pauses of about 1 s: long ones where the pauses are short."""
    step = 3e6 / 2**12 / 1000
    if data is not None:
        labels = _labels(data / "plux_biosignalsnotebooks", "biceps_fatigue_12bit.csv")
        spans = [span for _, span, label in labels if label.startswith("sustained")]
    else:
        spans = _by_rule(counts * step)
    spans = joined(spans, _MERGE_S)
    clear = [s for s in spans if s[1] - s[0] > _UNCLEAR_S[1]]
    unclear = [s for s in spans if _UNCLEAR_S[0] <= s[1] - s[0] <= _UNCLEAR_S[1]]
    name = "PLUX biceps, 3 s on and 1 s off"
    scene = _scene(name, 1000, counts, clear, step_uv=step, bits=12, rest=(122.0, 126.0))
    given = Given(rest_s=scene.rest)
    return Real("test", scene, given, Given(rest_s=scene.rest, reference_s=(_inner(spans[0]),)), tuple(unclear))


def _by_rule(uv: Array) -> list[Span]:
    """Where 125 ms frames are above a tenth of their 95th percentile."""
    frames, frame_s = _frames(uv, 1000)
    up = np.flatnonzero(frames > 0.1 * np.nanpercentile(frames, 95))
    return joined([(k * frame_s, (k + 1) * frame_s) for k in up], 0.3, 0.5)


def _myo(folder: Path) -> Iterator[Real]:
    for person in ("S1", "S2", "S3"):
        for gesture in (0, 1, 2, 7):
            file = f"{person}_gesture{gesture}.csv"
            labels = _labels(folder, file)
            channel = labels[0][0] if labels else "ch1" if person == "S3" else "ch4"
            held = [span for _, span, _ in labels]
            scene = _scene(f"Myo {file.removesuffix('.csv')}", 200, _column(folder / file, channel), held, step_uv=1.0)
            reference = Given(reference_s=(_inner(held[0]),)) if held else None
            yield Real("test" if person == "S3" else "tune", scene, Given(), reference)


def _emggo(folder: Path) -> Real:
    values = _column(folder / "emggo_ta.csv", "emg")
    return Real("test", _scene("emgGO shin, 56 bursts, heartbeat, drift", 250, values, []), Given())


def _pyomeca(folder: Path) -> Real:
    file, channel = "boxlift_shoulder.csv", "trap_upper_uV"
    spans = {label[:4]: span for at, span, label in _labels(folder, file) if at == channel}
    values = _column(folder / file, channel)
    scene = _scene("pyomeca trapezius, one lift of 3 s", 2000, values, [spans["sust"]], rest=spans["rest"])
    # What follows the lift is not a quiet rest; a relaxed trapezius has some 5 µV.
    return Real("test", scene, Given(rest_s=scene.rest), Given(rest_uv=5.0, reference_uv=150.0))


def _biosppy(folder: Path) -> Iterator[Real]:
    for file, name in (("biosppy_emg.csv", "2 holds at 6 dB"), ("biosppy_emg_1.csv", "brief bursts")):
        held = [span for _, span, label in _labels(folder, file) if label.startswith("sustained")]
        scene = _scene(f"BioSPPy example, {name}", 1000, _column(folder / file, "emg"), held, step_uv=1.0, bits=12)
        yield Real("test", scene, Given())
