"""The signal chain: sample blocks in, levels, quality and shrugs out; the same for live, replay and analysis."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dsp.detect import Shrug, ShrugDetector, ShrugSettings, Thresholds, thresholds
from dsp.disturbance import FilteredChecks, Survey
from dsp.exposure import ExposureSettings
from dsp.filters import Band, ChangingBandPass, FilterSettings, band_of
from dsp.heartbeat import Heartbeat, HeartbeatSettings
from dsp.level import GatedFrames, LevelSettings, RmsFrames
from dsp.low_rest import LowRest, LowRestDetector, LowRestSettings
from dsp.quality import BLOCK_S, Counts, Flags, Quality, QualitySettings, QuickChecks, Reason, Verdicts, is_bad
from dsp.reference import Calibration, Verdict, verdict
from dsp.spectrum import frequencies
from firmware_bridge.blocks import SampleBlock, Signal

Array = NDArray[np.float64]

# Some 25,000 samples at a time is fastest, and keeps memory flat for any length of block.
_CHUNK_SAMPLES = 25_000
_MOST_UV = 1e9  # a thousand volts: no electrode gives that, and its square would swamp all that comes after
_LATE_BLOCKS = 4  # an exposure frame may come this much later than its block's verdict
_LASTING: tuple[Reason, ...] = ("saturation", "flat", "mains", "lead_off")


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """Every number of the signal chain."""

    filter: FilterSettings = field(default_factory=FilterSettings)
    level: LevelSettings = field(default_factory=LevelSettings)
    heartbeat: HeartbeatSettings = field(default_factory=HeartbeatSettings)
    shrug: ShrugSettings = field(default_factory=ShrugSettings)
    low_rest: LowRestSettings = field(default_factory=LowRestSettings)
    quality: QualitySettings = field(default_factory=QualitySettings)
    exposure: ExposureSettings = field(default_factory=ExposureSettings)


@dataclass(frozen=True, slots=True)
class Levels:
    """Amplitudes in µV, NaN where unknown.

    `control_uv` has the shape (channels, hops), the last hop ending at `at_s`. `frames_uv` has the shape
    (channels, exposure frames), the last frame ending at `frames_at_s`: a frame waits until its second is judged.
    `on` says per channel whether a raise is on and its level known now.
    """

    at_s: float
    control_uv: Array
    frames_uv: Array
    frames_at_s: float
    on: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class BandChange:
    """From `at_s` on the levels are those of this band."""

    at_s: float
    band: Band


@dataclass(frozen=True, slots=True)
class Spectra:
    """Median and mean frequency of the seconds up to `at_s`, of shape (channels, seconds), NaN where it is bad."""

    at_s: float
    mdf_hz: Array
    mnf_hz: Array


Message = Levels | Spectra | Shrug | LowRest | Quality | BandChange


class Chain:
    """Filter, measure, judge and detect, in whole hops counted from sample 0, so that no cut changes the result.

    Without a calibration levels and quality are measured and no shrug is looked for. `band` is what to begin with
    where that is known already: levels can only be compared within one band. With `spectra` there are messages of
    them as well.
    Raises SignalError where the rate is too low for the band.
    """

    def __init__(
        self,
        signal: Signal,
        settings: ChainSettings,
        first_sample: int = 0,
        band: Band | None = None,
        *,
        spectra: bool = False,
    ) -> None:
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
        block = max(1, round(BLOCK_S / self.hop_s)) * self.hop
        band = band or band_of(settings.filter, signal.rate_hz)
        self.first_band = band
        self._wants_spectra = spectra
        self._filter = ChangingBandPass(band, signal.rate_hz, channels)
        self._control = RmsFrames(self.hop, hops, channels, missing)
        self._heart = Heartbeat(settings.heartbeat, signal.rate_hz, channels)
        self._exposure = GatedFrames(frame, channels, missing, settings.heartbeat.least_left_pct / 100)
        self._hops, before = divmod(first_sample, self.hop)
        self._first = self._hops
        self._quick = QuickChecks(signal, settings.quality, self.hop)
        self._survey = Survey(signal, settings.quality, settings.filter, band, block)
        self._checks = FilteredChecks(channels, signal.rate_hz, settings.quality, block)
        self._verdicts = Verdicts(channels, self._hops, self.hop_s)
        self._judged = _Judged(channels, block // self.hop, block, frame)
        self._disturbing = _Disturbing(channels, block, self._heart.hop)
        self._detectors: list[ShrugDetector] = []
        self._low_rest: list[LowRestDetector | None] = [None] * channels
        self.thresholds: list[Thresholds] = []
        self.verdicts: tuple[Verdict, ...] = ()
        self._pending = np.full((channels, before), np.nan)
        self._blank_until = 0

    @property
    def band(self) -> Band:
        """The band that the filter has, or is going over to."""
        return self._filter.band

    @property
    def samples(self) -> int:
        """Samples taken so far, lost ones included."""
        return self._hops * self.hop + self._pending.shape[1]

    def calibrate(self, calibration: Calibration) -> None:
        """Look for shrugs from here on, by these levels; what was under way is forgotten."""
        n, rest_rve = len(self.signal.channels), self.settings.exposure.rest_rve
        self.thresholds = [thresholds(calibration, c, self.settings.shrug) for c in range(n)]
        self.verdicts = tuple(verdict(calibration, c, rest_rve, self.signal.uv_per_count) for c in range(n))
        self._checks.calibrate(calibration.rest_uv)
        self._detectors = [
            ShrugDetector(c, limits, self.settings.shrug, self.hop_s, self._hops, window_s=self._window_s)
            for c, limits in enumerate(self.thresholds)
        ]
        self._low_rest = [self._low_rest_detector(calibration, c) for c in range(len(self.thresholds))]

    def _low_rest_detector(self, calibration: Calibration, channel: int) -> LowRestDetector | None:
        """Return the detector of a channel, None where its rest can't be seen."""
        of = self.settings.exposure
        rest_uv = calibration.level_at_rve(of.rest_rve, channel)
        active_uv = calibration.level_at_rve(of.sulma_rve, channel)
        if rest_uv is None or active_uv is None or not self.verdicts[channel].sees_rest:
            return None
        return LowRestDetector(
            channel,
            rest_uv,
            # A rest level near the threshold would pass for activity without a break.
            max(active_uv, self.settings.low_rest.active_rest_ratio * calibration.rest_uv[channel]),
            self.settings.low_rest,
            self.frame_s,
            window_s=of.window_s,
            least_valid=of.least_valid_pct / 100,
            start_s=self._frames_s(),
        )

    @property
    def undecided_since_s(self) -> float | None:
        """Since when there may be low rest that is not known yet, on any channel; None where rest can't be seen."""
        return min((d.pending_since_s for d in self._low_rest if d), default=None)

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
        last = self._exposure.push(np.empty((len(self._pending), 0)), self._heart.finish().mask)
        codes, frames = self._judged.finish(last)
        shrugs = [shrug for detector in self._detectors for shrug in detector.finish()]
        low_rest = [*self._find_low_rest(frames), *(m for d in self._low_rest if d for m in d.finish())]
        return [*self._verdicts.push(codes), *shrugs, *low_rest, self._levels(np.empty((len(codes), 0)), frames)]

    def _take(self, x: Array) -> list[Message]:
        x = np.concatenate([self._pending, x], axis=1)
        hops = x.shape[1] // self.hop
        self._pending = x[:, hops * self.hop :].copy()
        if not hops:
            return []
        x = np.ascontiguousarray(x[:, : hops * self.hop])
        usable = np.abs(x) < _MOST_UV  # false for what is no number, too
        return self._whole_hops(x if usable.all() else np.where(usable, x, np.nan))

    def _whole_hops(self, x: Array) -> list[Message]:
        first = self._hops
        quick = self._quick.push(x)
        heart = self._heart.push(x)
        survey = self._survey.push(x, self._disturbing.push(heart.disturbs, x.shape[1]))
        y, changes = self._filtered(x, survey.changes)
        blank = self._blank_until - first * self.hop
        if blank > 0:
            y[:, :blank] = np.nan
        unusable = is_bad(quick, ("saturation", "flat"))
        if unusable.any():
            y[np.repeat(unusable, self.hop, axis=1)] = np.nan
        slow = survey.codes | self._checks.push(y)
        codes, frames, known_bad = self._judged.push(quick, slow, self._exposure.push(y, heart.mask))
        control = self._control.push(y)
        control[known_bad] = np.nan
        shrugs = [shrug for c, d in enumerate(self._detectors) for shrug in d.push(control[c])]
        self._hops += x.shape[1] // self.hop
        steps: list[Shrug | LowRest | BandChange | Quality]
        steps = [*shrugs, *changes, *self._verdicts.push(codes), *self._find_low_rest(frames)]
        spectra = self._spectra(survey.power, is_bad(slow)) if self._wants_spectra else []
        return [*sorted(steps, key=self._known_at), *spectra, self._levels(control, frames)]

    def _spectra(self, power: Array, bad: Flags) -> list[Spectra]:
        if not power.shape[1]:
            return []
        mdf, mnf = frequencies(self._survey.hz, power, self.band.notches_hz)
        return [Spectra(self._hops * self.hop_s, np.where(bad, np.nan, mdf), np.where(bad, np.nan, mnf))]

    def _find_low_rest(self, frames: Array) -> list[LowRest]:
        return [m for c, d in enumerate(self._low_rest) if d for m in d.push(frames[c])]

    def _frames_s(self) -> float:
        """Return where the exposure frames that were let go end."""
        return self._first * self.hop_s + self._judged.frames * self.frame_s

    def _levels(self, control: Array, frames: Array) -> Levels:
        on = tuple(bool(d.on and np.isfinite(control[c, -1:]).any()) for c, d in enumerate(self._detectors))
        return Levels(self._hops * self.hop_s, control, frames, self._frames_s(), on or (False,) * len(control))

    def _filtered(self, x: Array, changes: tuple[tuple[int, Band], ...]) -> tuple[Array, list[BandChange]]:
        """Filter, going over to another band after the block that called for it."""
        if not changes:
            return self._filter.filter(x), []
        parts, done, said = [], 0, []
        for blocks, band in changes:
            hop = self._first + blocks * self._judged.block_hops
            at = (hop - self._hops) * self.hop
            parts.append(self._filter.filter(x[:, done:at]))
            self._filter.change(band)
            done = at
            said.append(BandChange(hop * self.hop_s + self._filter.CHANGE_S, band))
        if done < x.shape[1]:
            parts.append(self._filter.filter(x[:, done:]))
        return np.concatenate(parts, axis=1), said

    def _known_at(self, message: Shrug | LowRest | Quality | BandChange) -> int:
        """Return the hop after which a message is known: a quality at the end of the block that it is about."""
        hops = self._judged.block_hops
        match message:
            case Shrug():
                return round(message.at_s / self.hop_s)
            case LowRest():
                return self._first + int(np.ceil((message.at_s / self.hop_s - self._first) / hops - 1e-6)) * hops
            case BandChange():
                return round((message.at_s - self._filter.CHANGE_S) / self.hop_s)
            case Quality():
                return self._first + ((round(message.at_s / self.hop_s) - self._first) // hops + 1) * hops


class _Disturbing:
    """Tell for each block whether the heartbeat disturbs, as far as that is known when the block is complete."""

    def __init__(self, channels: int, block: int, hop: int) -> None:
        self._block = block
        self._hop = hop
        self._samples = 0
        self._first = -1  # number of the first of the heart's hops that is kept; before any is known there is no beat
        self._kept: Flags = np.zeros((channels, 1), dtype=np.bool_)

    def push(self, disturbs: Flags, samples: int) -> Flags:
        """Take what became known of the heart's hops with so many samples; return (channels, blocks completed)."""
        blocks = np.arange(self._samples // self._block, (self._samples + samples) // self._block) + 1
        self._samples += samples
        self._kept = np.concatenate([self._kept, disturbs], axis=1)
        # A hop is decided on when the next one is complete.
        known = np.maximum(blocks * self._block // self._hop - 2, -1)
        out = self._kept[:, known - self._first]
        spare = max(0, self._kept.shape[1] - 2 - self._block // self._hop)
        self._kept, self._first = self._kept[:, spare:].copy(), self._first + spare
        return out


class _Judged:
    """Hold back what waits for its block's verdict: the codes of hops, and the exposure frames."""

    def __init__(self, channels: int, block_hops: int, block: int, frame: int) -> None:
        self.block_hops = block_hops
        self.frames = 0  # frames let go so far
        self._block = block
        self._frame = frame
        self._blocks = 0
        self._last: Counts = np.zeros((channels, _LATE_BLOCKS), dtype=np.int64)
        self._codes: list[Counts] = [np.zeros((channels, 0), dtype=np.int64)]
        self._hops = 0
        self._frames: list[Array] = [np.empty((channels, 0))]
        self._last_is_bad: Flags = np.zeros((channels, 1), dtype=bool)

    def push(self, quick: Counts, slow: Counts, frames: Array) -> tuple[Counts, Array, Flags]:
        """Take codes of hops, codes of the blocks that are complete now, and exposure frames.

        Return the codes of the hops and the frames whose blocks are judged, and which of the hops given (the same
        number as `quick`) come after a block known to be bad.
        """
        self._codes.append(quick)
        self._frames.append(frames)
        before, self._hops = self._hops, self._hops + quick.shape[1]
        if not slow.shape[1]:
            known_bad = np.repeat(self._last_is_bad, quick.shape[1], axis=1)
            return slow, self._frames[0][:, :0], known_bad
        verdicts = np.concatenate([self._last, slow], axis=1)
        expected_bad = self._expect(verdicts[:, _LATE_BLOCKS - 2 :])
        known_bad = expected_bad[:, np.arange(before, self._hops) // self.block_hops]
        whole = slow.shape[1] * self.block_hops
        codes: Counts = np.concatenate(self._codes, axis=1)
        self._codes, self._hops = [codes[:, whole:].copy()], self._hops - whole
        self._blocks += slow.shape[1]
        self._last = verdicts[:, -_LATE_BLOCKS:].copy()
        self._last_is_bad = expected_bad[:, -1:]
        released = self._release(verdicts, self._blocks * self._block // self._frame)
        return codes[:, :whole] | np.repeat(slow, self.block_hops, axis=1), released, known_bad

    def finish(self, frames: Array) -> tuple[Counts, Array]:
        """Let the rest go, with the last frames: its block is taken to be as the last one was."""
        self._frames.append(frames)
        codes = np.concatenate(self._codes, axis=1) | self._last[:, -1:]
        verdicts = np.concatenate([self._last, self._last[:, -1:]], axis=1)
        self._blocks += 1
        return codes, self._release(verdicts, self._blocks * self._block)

    @staticmethod
    def _expect(verdicts: Counts) -> Flags:
        """Tell for each verdict but the first whether the next second will be bad too: a jerk is over by then."""
        bad = is_bad(verdicts)
        return np.asarray(is_bad(verdicts, _LASTING)[:, 1:] | bad[:, 1:] & bad[:, :-1])

    def _release(self, verdicts: Counts, until: int) -> Array:
        """Return the frames before number `until` that have come, NaN where they touch a bad block."""
        waiting = np.concatenate(self._frames, axis=1)
        until = min(until, self.frames + waiting.shape[1])
        number = np.arange(self.frames, until)
        first = self._blocks - verdicts.shape[1]
        ends = np.stack([number * self._frame, (number + 1) * self._frame - 1]) // self._block - first
        bad = is_bad(verdicts)[:, np.clip(ends, 0, verdicts.shape[1] - 1)].any(axis=1)
        self._frames = [waiting[:, len(number) :].copy()]
        waiting[:, : len(number)][bad] = np.nan
        self.frames = until
        return waiting[:, : len(number)]
