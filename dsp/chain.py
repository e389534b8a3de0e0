"""The signal chain: sample blocks in, levels, quality and shrugs out; the same for live, replay and analysis."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dsp.detect import Shrug, ShrugDetector, ShrugSettings, Thresholds, thresholds
from dsp.exposure import ExposureSettings
from dsp.filters import BandPass, FilterSettings
from dsp.level import LevelSettings, RmsFrames
from dsp.quality import Quality, QualityMeter, QualitySettings
from dsp.reference import Calibration
from firmware_bridge.blocks import SampleBlock, Signal

Array = NDArray[np.float64]

# Some 25,000 samples at a time is fastest, and keeps memory flat for any length of block.
_CHUNK_SAMPLES = 25_000


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """Every number of the signal chain."""

    filter: FilterSettings = field(default_factory=FilterSettings)
    level: LevelSettings = field(default_factory=LevelSettings)
    shrug: ShrugSettings = field(default_factory=ShrugSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    exposure: ExposureSettings = field(default_factory=ExposureSettings)


@dataclass(frozen=True, slots=True)
class Levels:
    """Amplitudes in µV, NaN where unknown.

    `control_uv` has the shape (channels, hops), the last hop ending at `at_s`; `frames_uv` the shape
    (channels, exposure frames completed since the last message). `on` says per channel whether a raise is on.
    """

    at_s: float
    control_uv: Array
    frames_uv: Array
    on: tuple[bool, ...]


Message = Levels | Shrug | Quality


class Chain:
    """Filter, measure, judge and detect, in whole hops counted from sample 0, so that no cut changes the result.

    Without a calibration levels and quality are measured and no shrug is looked for.
    Raises SignalError where the rate is too low for the band.
    """

    def __init__(self, signal: Signal, settings: ChainSettings, first_sample: int = 0) -> None:
        channels = len(signal.channels)
        self.signal = signal
        self.settings = settings
        self.hop = max(1, round(settings.level.hop_s * signal.rate_hz))
        self.hop_s = self.hop / signal.rate_hz
        frame = max(1, round(settings.level.frame_s * signal.rate_hz))
        self.frame_s = frame / signal.rate_hz
        missing = settings.level.max_missing_pct / 100
        hops = max(1, round(settings.level.window_s / self.hop_s))
        self._window_s = hops * self.hop_s
        self._band = BandPass(settings.filter, signal.rate_hz, channels)
        self._control = RmsFrames(self.hop, hops, channels, missing)
        self._exposure = RmsFrames(frame, 1, channels, missing)
        self._quality = QualityMeter(signal, settings.quality, self.hop)
        self._detectors: list[ShrugDetector] = []
        self.thresholds: list[Thresholds] = []
        self._hops, before = divmod(first_sample, self.hop)
        self._pending = np.full((channels, before), np.nan)
        self._blank_until = 0

    @property
    def samples(self) -> int:
        """Samples taken so far, lost ones included."""
        return self._hops * self.hop + self._pending.shape[1]

    def calibrate(self, calibration: Calibration) -> None:
        """Look for shrugs from here on, by these levels; what was under way is forgotten."""
        self.thresholds = [thresholds(calibration, c, self.settings.shrug) for c in range(len(self.signal.channels))]
        self._detectors = [
            ShrugDetector(c, limits, self.settings.shrug, self.hop_s, self._hops, window_s=self._window_s)
            for c, limits in enumerate(self.thresholds)
        ]

    def blank(self, until_s: float) -> None:
        """Take what comes before `until_s` as unusable: the motor runs and would be measured."""
        self._blank_until = max(self._blank_until, round(until_s * self.signal.rate_hz))

    def process(self, block: SampleBlock) -> list[Message]:
        """Take the next block; return what became known, in order of time, levels last in each stretch.

        Samples between the last block's end and this one's start are lost ones.
        Raises ValueError for a block that starts before that end.
        """
        lost = block.start - self.samples
        if lost < 0:
            raise ValueError(f"block starts at sample {block.start}; expected {self.samples} or later")
        out: list[Message] = []
        channels = len(self.signal.channels)
        while lost:
            part = min(lost, _CHUNK_SAMPLES)
            out += self._take(np.full((channels, part), np.nan))
            lost -= part
        for start in range(0, len(block.values), _CHUNK_SAMPLES):
            out += self._take(block.values[start : start + _CHUNK_SAMPLES].T)
        return out

    def finish(self) -> list[Message]:
        """End what is still on: the recording ends here. A last incomplete hop is left out."""
        return [shrug for detector in self._detectors for shrug in detector.finish()]

    def _take(self, x: Array) -> list[Message]:
        x = np.concatenate([self._pending, x], axis=1)
        hops = x.shape[1] // self.hop
        self._pending = x[:, hops * self.hop :].copy()
        return self._whole_hops(np.ascontiguousarray(x[:, : hops * self.hop])) if hops else []

    def _whole_hops(self, x: Array) -> list[Message]:
        first, hops = self._hops, x.shape[1] // self.hop
        quality, unusable = self._quality.push(x, first, self.hop_s)
        y = self._band.filter(x)
        blank = self._blank_until - first * self.hop
        if blank > 0:
            y[:, :blank] = np.nan
        if unusable.any():
            y[np.repeat(unusable, self.hop, axis=1)] = np.nan
        control = self._control.push(y)
        frames = self._exposure.push(y)
        shrugs = [shrug for c, d in enumerate(self._detectors) for shrug in d.push(control[c])]
        self._hops += hops
        on = tuple(d.on for d in self._detectors) or (False,) * len(x)
        steps: list[Shrug | Quality] = [*quality, *shrugs]
        return [*sorted(steps, key=self._known_at), Levels(self._hops * self.hop_s, control, frames, on)]

    def _known_at(self, message: Shrug | Quality) -> int:
        """Return the hop after which a message is known: a quality holds from its hop's start, a shrug at its end."""
        return round(message.at_s / self.hop_s) + isinstance(message, Quality)
