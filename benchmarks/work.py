"""The work that is timed: its signal and numbers, and it done by C, by this project's stages and by the whole chain."""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from dsp.chain import Chain, ChainSettings, Levels
from dsp.detect import Shrug, ShrugDetector, ShrugSettings, Thresholds
from dsp.filters import BandPass, FilterSettings, band_of, design
from dsp.level import RmsFrames
from dsp.reference import Calibration
from firmware_bridge.blocks import SampleBlock, Signal

Array = NDArray[np.float64]

RATE = 1000
HOP, WINDOW = 25, 200
REFERENCE_UV, ON_PCT, OFF_PCT, LEAST_S = 80.0, 30.0, 18.0, 3.0
LEAST_HOPS = round(LEAST_S * RATE / HOP)
CHUNK = 25_000

# Five minutes of wearing as (seconds, µV); the one stretch of 3 s or more at 60 µV is an event.
_CYCLE = ((20, 2.5), (15, 60), (20, 2.5), (1.2, 60), (1.2, 2.5), (1.2, 60), (60, 9), (181.4, 2.5))
CYCLE_S = 300
REST_S, ACTIVE_S = (3, 17), (22, 33)
TILE_S = 2 * CYCLE_S


@dataclass(frozen=True, slots=True)
class Result:
    """Levels of shape (channels, hops), in the implementation's own unit, and the number of events."""

    levels: Array
    events: int


@cache
def noise(channels: int = 1) -> Array:
    """Ten minutes of noise with about the spectrum of EMG and RMS 1, of shape (channels, samples)."""
    white = np.random.default_rng(1).standard_normal((channels, TILE_S * RATE))
    shaped = sosfilt(butter(1, [60, 150], "bandpass", fs=RATE, output="sos"), white)
    return np.asarray(shaped / shaped.std())


@cache
def tile(channels: int = 1) -> Array:
    """Ten minutes of wearing in µV, of shape (channels, samples)."""
    envelope = np.concatenate([np.full(round(s * RATE), float(uv)) for s, uv in _CYCLE])
    return np.asarray(noise(channels) * np.tile(envelope, TILE_S // CYCLE_S))


def recording(seconds: float, channels: int = 1) -> Array:
    """The ten minutes over and over, of shape (channels, samples)."""
    samples = round(seconds * RATE)
    out = np.empty((channels, samples))
    for start in range(0, samples, TILE_S * RATE):
        part = out[:, start : start + TILE_S * RATE]
        part[:] = tile(channels)[:, : part.shape[1]]
    return out


def blocks(seconds: float, channels: int = 1) -> Iterator[Array]:
    """The same, some samples at a time and never whole in memory."""
    left = round(seconds * RATE)
    while left:
        for start in range(0, min(left, TILE_S * RATE), CHUNK):
            part = tile(channels)[:, start : start + min(CHUNK, left)]
            left -= part.shape[1]
            yield part


def pooled_uv(levels: Array, stretch: tuple[float, float]) -> float:
    """RMS of one channel's levels over a stretch of each cycle; `levels` cover whole cycles."""
    cycles = levels[: len(levels) // (TILE_S // CYCLE_S) * (TILE_S // CYCLE_S)].reshape(TILE_S // CYCLE_S, -1)
    start, end = (round(s / CYCLE_S * cycles.shape[1]) for s in stretch)
    return float(np.sqrt(np.nanmean(cycles[:, start:end] ** 2)))


def count_events(pct: Array) -> int:
    """Hysteresis events of 3 s or more in levels of shape (channels, hops), in %."""
    count = 0
    for row in pct:
        marks = (row >= ON_PCT).astype(np.int8) - (row < OFF_PCT)
        where = np.flatnonzero(marks)
        changes = np.flatnonzero(np.diff(marks[where], prepend=-1))
        edges = np.append(where[changes], [len(row)] * (len(changes) % 2))
        count += int((edges[1::2] - edges[::2] >= LEAST_HOPS).sum())
    return count


def filter_settings() -> FilterSettings:
    """The band of the work: 20-450 Hz and a notch at 50 Hz."""
    return FilterSettings(high_pass_hz=20.0, low_pass_hz=450.0, mains="50")


def sections() -> Array:
    """The second-order sections of that band."""
    return np.ascontiguousarray(design(band_of(filter_settings(), RATE), RATE))


class Stages(Protocol):
    """Something that does the work block by block."""

    @property
    def events(self) -> int:
        """Events found so far."""
        ...

    def push(self, x: Array) -> Array:
        """Take samples of shape (channels, samples); return levels of shape (channels, hops completed)."""
        ...


def whole(make: Callable[[int], Stages]) -> Callable[[Array], Result]:
    """Return what does the work over a recording of shape (channels, samples), chunk by chunk."""

    def run(x: Array) -> Result:
        stages = make(len(x))
        levels = [stages.push(x[:, start : start + CHUNK]) for start in range(0, x.shape[1], CHUNK)]
        return Result(np.concatenate(levels, axis=1), stages.events)

    return run


@cache
def _library() -> ctypes.CDLL:
    """Compile the C code for this run only. Raises OSError where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise OSError("no C compiler")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "fused.so"
        source = Path(__file__).with_name("fused.c")
        subprocess.run([compiler, "-O3", "-shared", "-fPIC", "-o", made, source, "-lm"], check=True)
        library = ctypes.CDLL(str(made))
    double = ctypes.c_double
    library.fused.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_long, ctypes.c_void_p, double, double, double]
    library.fused.argtypes += [ctypes.c_long, ctypes.c_void_p]
    library.fused.restype = library.state_size.restype = ctypes.c_long
    return library


def has_compiler() -> bool:
    """Whether the limit can be measured here."""
    try:
        _library()
    except OSError:
        return False
    return True


class Fused:
    """One pass of C over the samples."""

    def __init__(self, channels: int) -> None:
        self._fused = _library().fused
        self._sos = sections()
        self._states = np.zeros((channels, _library().state_size() // 8), dtype=np.int64)

    @property
    def events(self) -> int:
        return int(self._states[:, -1].sum())  # the last number of the state

    def push(self, x: Array) -> Array:
        levels = np.empty((len(x), x.shape[1] // HOP + 1))
        done = 0
        for c, state in enumerate(self._states):
            row = np.ascontiguousarray(x[c])
            done = self._fused(
                state.ctypes.data, row.ctypes.data, len(row), self._sos.ctypes.data,
                REFERENCE_UV, ON_PCT, OFF_PCT, LEAST_HOPS, levels[c].ctypes.data,
            )  # fmt: skip
        return levels[:, :done] * (REFERENCE_UV / 100)


def fused_whole(x: Array) -> Result:
    """The limit over a recording: one call, no chunks."""
    stages = Fused(len(x))
    return Result(stages.push(x), stages.events)


class Sosfilt:
    """`scipy.signal.sosfilt` with its state kept, energy per hop and events in numpy."""

    def __init__(self, channels: int) -> None:
        self._sos = sections()
        self._state = np.zeros((len(self._sos), channels, 2))
        self._rms = RmsFrames(HOP, WINDOW // HOP, channels, 0.0)
        self._levels: list[Array] = []

    @property
    def events(self) -> int:
        return count_events(np.concatenate(self._levels, axis=1) * (100 / REFERENCE_UV))

    def push(self, x: Array) -> Array:
        y, self._state = sosfilt(self._sos, x, zi=self._state)
        levels = self._rms.push(y)
        self._levels.append(levels)
        return levels


class Ours:
    """This project's own stages, set to do exactly the work."""

    def __init__(self, channels: int) -> None:
        self._band = BandPass(band_of(filter_settings(), RATE), RATE, channels)
        self._rms = RmsFrames(HOP, WINDOW // HOP, channels, 0.1)
        settings = ShrugSettings(debounce_on_s=HOP / RATE, debounce_off_s=HOP / RATE, drop_ratio=0.01, merge_s=0.0)
        limits = Thresholds(ON_PCT, OFF_PCT)
        self._detectors = [
            ShrugDetector(c, limits, settings, HOP / RATE, window_s=WINDOW / RATE) for c in range(channels)
        ]
        self.events = 0

    def push(self, x: Array) -> Array:
        levels = self._rms.push(self._band.filter(x))
        pct = levels * (100 / REFERENCE_UV)
        for detector, row in zip(self._detectors, pct, strict=True):
            self.events += sum(shrug.phase == "started" for shrug in detector.push(row))
        return levels


def calibrated_chain(channels: int) -> Chain:
    """The whole chain as it is by default, knowing the wearer's levels."""
    names = tuple(f"ch{c + 1}" for c in range(channels))
    chain = Chain(Signal(float(RATE), names, 0.5, (-1024.0, 1023.5)), ChainSettings())
    chain.calibrate(Calibration((2.5,) * channels, (0.5,) * channels, (REFERENCE_UV,) * channels))
    return chain


class WholeChain:
    """`dsp.chain.Chain` by default: also quality, exposure frames and everything else that it measures."""

    def __init__(self, channels: int) -> None:
        self.chain = calibrated_chain(channels)
        self.events = 0

    def push(self, x: Array) -> Array:
        messages = self.chain.process(SampleBlock(self.chain.signal, self.chain.samples, x.T))
        self.events += sum(isinstance(m, Shrug) and m.phase == "started" for m in messages)
        return np.concatenate([m.control_uv for m in messages if isinstance(m, Levels)], axis=1)
