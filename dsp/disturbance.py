"""What disturbs the EMG, judged on blocks of one second: mains, drift, movement, loose electrodes, spikes.

The mains rule (signal over mains, from power within a few Hz of the harmonics less that of their neighbours) and its
limit of 9 dB follow Abser et al. 2011.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dsp.filters import Band, FilterSettings, response
from dsp.quality import Counts, Flags, QualitySettings, graded
from dsp.spectrum import block_power
from firmware_bridge.blocks import Signal

Array = NDArray[np.float64]

_MOST_MISSING = 0.1  # of a block, to be judged all the same
_HUM_VOTES = 5  # blocks of the last `_HUM_MEMORY` in which a harmonic has to be strong to get a notch
_HUM_MEMORY = 20
_HEART_VOTES = 6  # blocks of the last `_HEART_MEMORY` in which beats disturb, for the high-pass to go up
_HEART_MEMORY = 10
_DECIDE_BLOCKS = 5  # a band is looked at this often, so that one change is over before the next
_HUM_SHARE = 0.05  # of the EMG: a weaker harmonic needs no notch
_FLAT_TOPS_WARN_PCT = 0.5  # by chance the highest value of a second comes twice, not five times
_FLAT_TOPS_BAD_PCT = 50.0  # a guess at the range must not hide a strong contraction that touches it
_FLOOR_BLOCKS = 600  # that the noise floor looks back, and how often it is looked up
_FLOOR_EVERY = 60
_FLOOR_PERCENTILE = 5
_WANDER_BLOCKS = 10
_LIVED_BLOCKS = 10  # the first seconds of a channel, and how many ADC steps it must span in each to be judged by that
_LIVELY_STEPS = 4
_SPIKE_S = 0.020
_AROUND = 5  # bins of that length on either side
_CREST = 4.5  # highest value over RMS that EMG hardly ever has within a second
_SPIKE_RATIO = 4.0  # 8 standard deviations: the highest of 20 ms of EMG has about two


class Blocks:
    """Gather samples into whole blocks."""

    def __init__(self, channels: int, samples: int) -> None:
        self._samples = samples
        self._rest = np.empty((channels, 0))

    def push(self, x: Array) -> Array:
        """Take values of shape (channels, samples); return the whole blocks, of shape (channels, k * samples)."""
        line = np.concatenate([self._rest, x], axis=1) if self._rest.shape[1] else x
        whole = line.shape[1] // self._samples * self._samples
        self._rest = line[:, whole:].copy()
        return line[:, :whole]


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in the blocks that are complete: codes of shape (channels, blocks), and changes of the band.

    A change is (number of the block after which it holds, the new band).
    """

    codes: Counts
    power: Array  # raw, of shape (channels, blocks, bins of `Survey.hz`)
    changes: tuple[tuple[int, Band], ...] = ()


class Survey:
    """Judge the raw signal by its spectrum, and decide by rule which notches it needs."""

    def __init__(
        self, signal: Signal, settings: QualitySettings, filters: FilterSettings, band: Band, samples: int
    ) -> None:
        self._settings = settings
        self._samples = samples
        self._rate_hz = signal.rate_hz
        self._blocks = Blocks(len(signal.channels), samples)
        self._auto = filters.mains != "off"
        self._knows_rails = signal.rails_uv is not None
        self._count = 0
        self._loose: Flags = np.zeros((len(signal.channels), 1), dtype=bool)
        self._floating: Flags = np.zeros(len(signal.channels), dtype=bool)
        self._means = np.full((len(signal.channels), _WANDER_BLOCKS - 1), np.nan)
        self._step_uv = signal.uv_per_count or 0.0
        self._lived: Counts = np.zeros(len(signal.channels), dtype=np.int64)
        self._least_steps = np.full(len(signal.channels), np.inf)
        self.hz = hz = np.asarray(np.fft.rfftfreq(samples, 1 / signal.rate_hz), dtype=np.float64)
        self._passed = response(band, signal.rate_hz, hz)
        self._slow = int(np.count_nonzero(hz < 10))
        self._leaky = int(np.count_nonzero(hz < 20))
        self._hums = [
            _Hum(f0, hz, band.high_hz) for f0 in (50.0, 60.0) if filters.mains in ("auto", "off", f"{f0:.0f}")
        ]
        harmonics = sum(len(hum.harmonics_hz) for hum in self._hums)
        self._votes: Flags = np.zeros((len(signal.channels), _HUM_MEMORY, harmonics), dtype=bool)
        self._beats: Flags = np.zeros((len(signal.channels), _HEART_MEMORY), dtype=bool)
        self._heart_hz = filters.heart_high_pass_hz
        self.band = band

    def push(self, x: Array, beats: Flags) -> Findings:
        """Take raw values of shape (channels, samples), and for each block that they complete whether beats disturb."""
        x = self._blocks.push(x)
        if not x.shape[1]:
            return Findings(np.zeros((len(x), 0), dtype=np.int64), np.empty((len(x), 0, len(self.hz))))
        flat_tops = np.zeros(1, dtype=np.int64) if self._knows_rails else self._flat_tops(x)
        _, power = block_power(_bridged(x, self._samples), self._samples, self._rate_hz)
        passed = power * self._passed
        total = _known(power.sum(axis=2))
        band = _known(passed.sum(axis=2))
        below = np.cumsum(passed, axis=2)
        hums = [hum.power(below) for hum in self._hums]
        worst = np.max([hum.sum(axis=2) for hum in hums], axis=0) if hums else np.zeros_like(band)
        emg = np.maximum(band - worst, 1e-3 * band)
        mains = _below(_db(emg, worst), self._settings.mains_warn_db, self._settings.mains_bad_db)
        loose = (total > self._settings.lead_off_uv**2) & (emg < (self._settings.lead_off_share_pct / 100) ** 2 * total)
        loose |= self._floats(mains == 2, self._wanders(x))
        slow = np.sqrt(_known(power[..., : self._slow].sum(axis=2)))
        leak = _known(passed[..., : self._leaky].sum(axis=2))
        motion = np.maximum(
            (slow >= self._settings.drift_warn_uv).astype(np.int64) + (slow >= self._settings.drift_bad_uv),
            _below(_db(band - leak, leak), self._settings.motion_warn_db, self._settings.motion_bad_db),
        )
        codes = (
            graded("mains", mains)
            | graded("motion", motion)
            | graded("lead_off", 2 * self._for_two_blocks(loose))
            | graded("saturation", flat_tops)
            | graded("ecg", beats.astype(np.int64))
            | graded("flat", 2 * self._is_dead(x))
        )
        judged = (mains == 1) & ~loose
        votes = [self._strong(h, emg) & judged[..., None] for h in hums]
        return Findings(codes, power, tuple(self._decide(np.concatenate(votes, axis=2), beats)))

    def _flat_tops(self, x: Array) -> Counts:
        """Find clipping where the range is not known: the highest or lowest value comes again and again, by jumps."""
        blocks = x.reshape(len(x), -1, self._samples)
        high, low = blocks.max(axis=2, keepdims=True), blocks.min(axis=2, keepdims=True)
        extreme = (blocks == high) | (blocks == low)
        share = 100 * (np.count_nonzero(extreme, axis=2) - 2) / self._samples
        grade = (share >= _FLAT_TOPS_WARN_PCT).astype(np.int64) + (share >= _FLAT_TOPS_BAD_PCT)
        for c, k in np.argwhere(grade):
            steps = np.abs(np.diff(blocks[c, k]))
            span = float(high[c, k, 0] - low[c, k, 0])
            jumps = extreme[c, k, 1:] & (steps > 0.05 * span)
            if span < 64 * np.min(steps[steps > 0], initial=span) or np.count_nonzero(jumps) < 4:
                grade[c, k] = 0  # a coarse ADC, or the crest of something slow
        return np.asarray(grade)

    def _is_dead(self, x: Array) -> Counts:
        """Find seconds in which only the converter's last bit moves, on a channel that has moved more when worn."""
        if not self._step_uv:
            return np.zeros(1, dtype=np.int64)
        blocks = x.reshape(len(x), -1, self._samples)
        steps = (blocks.max(axis=2) - blocks.min(axis=2)) / self._step_uv
        learning = int(np.clip(_LIVED_BLOCKS - self._lived.min(), 0, steps.shape[1]))
        alive = np.repeat(self._is_lively()[:, None], steps.shape[1], axis=1)
        for k in range(learning):
            learns = (self._lived < _LIVED_BLOCKS) & (steps[:, k] > 1.5)
            self._least_steps = np.where(learns, np.minimum(self._least_steps, steps[:, k]), self._least_steps)
            self._lived += learns
            alive[:, k + 1 :] = self._is_lively()[:, None]
        return np.asarray(alive & (steps < 1.5), dtype=np.int64)

    def _is_lively(self) -> Flags:
        return np.asarray((self._lived >= _LIVED_BLOCKS) & (self._least_steps >= _LIVELY_STEPS))

    def _wanders(self, x: Array) -> Flags:
        """Tell where the baseline has moved far within the last seconds, slower than a block can show."""
        means = np.concatenate([self._means, x.reshape(len(x), -1, self._samples).mean(axis=2)], axis=1)
        self._means = means[:, 1 - _WANDER_BLOCKS :].copy()
        recent = sliding_window_view(means, _WANDER_BLOCKS, axis=1)
        return np.asarray(
            np.fmax.reduce(recent, axis=2) - np.fmin.reduce(recent, axis=2) > self._settings.drift_warn_uv
        )

    def _floats(self, hum: Flags, wanders: Flags) -> Flags:
        """Tell where there is nothing but hum on a baseline that wanders, or has wandered since the hum began."""
        out = np.zeros(hum.shape, dtype=bool)
        if not hum.any():
            self._floating[:] = False
            return out
        for k in range(hum.shape[1]):
            self._floating = hum[:, k] & (wanders[:, k] | self._floating)
            out[:, k] = self._floating
        return out

    def _for_two_blocks(self, loose: Flags) -> Counts:
        line = np.concatenate([self._loose, loose], axis=1)
        self._loose = line[:, -1:].copy()
        return np.asarray(line[:, 1:] & line[:, :-1], dtype=np.int64)

    @staticmethod
    def _strong(hum: Array, emg: Array) -> Flags:
        return np.asarray(hum > _HUM_SHARE * emg[..., None])

    def _decide(self, votes: Flags, beats: Flags) -> Iterable[tuple[int, Band]]:
        hums = np.concatenate([self._votes, votes], axis=1)
        hearts = np.concatenate([self._beats, beats], axis=1)
        for k in range(1, votes.shape[1] + 1):
            if (self._count + k) % _DECIDE_BLOCKS == 0:
                band = self.band
                if self._auto and hums[:, k : k + _HUM_MEMORY].any():
                    band = band.with_notches(self._notches(hums[:, k : k + _HUM_MEMORY]))
                if hearts[:, k : k + _HEART_MEMORY].sum(axis=1).max() >= _HEART_VOTES:
                    band = band.above(self._heart_hz)
                if band != self.band:
                    self.band = band
                    yield self._count + k, band
        self._votes, self._beats = hums[:, votes.shape[1] :].copy(), hearts[:, votes.shape[1] :].copy()
        self._count += votes.shape[1]

    def _notches(self, votes: Flags) -> list[float]:
        """Return which harmonics of the one mains frequency are strong, on whichever channel."""
        count = votes.sum(axis=1).max(axis=0)
        ends = np.cumsum([0, *(len(hum.harmonics_hz) for hum in self._hums)])
        parts = [count[a:b] for a, b in pairwise(ends)]
        known = [hum for hum in self._hums if set(hum.harmonics_hz[:1]) & set(self.band.notches_hz)]
        hum, votes_of = max(zip(self._hums, parts, strict=True), key=lambda p: (p[0] in known, p[1].sum()))
        return [hz for hz, n in zip(hum.harmonics_hz, votes_of, strict=True) if n >= _HUM_VOTES]


class _Hum:
    """Where one mains frequency and its harmonics stand in a spectrum."""

    def __init__(self, f0_hz: float, hz: Array, high_hz: float) -> None:
        step = hz[1]
        self.harmonics_hz = tuple(
            k * f0_hz for k in range(1, 20) if k * f0_hz < high_hz and k * f0_hz + 7 * step < hz[-1]
        )
        centre = np.round(np.array(self.harmonics_hz) / step).astype(np.int64)
        self._edges = np.concatenate([centre + offset for offset in (-7, -3, 2, 6)])

    def power(self, below: Array) -> Array:
        """Return each harmonic's power over that of its neighbours, of shape (channels, blocks, harmonics).

        `below` is the power in all bins up to each: ±2 bins are the harmonic's, 3 to 6 on either side its neighbours.
        """
        a, b, c, d = np.split(below[..., self._edges], 4, axis=2)
        over, beside = c - b, (d - c) + (b - a)
        floor = beside * (5 / 8)
        over = over - floor
        # Chance puts some power there too; a line stands out.
        return np.where(over > 4 * floor, over, 0.0)


def _bridged(x: Array, samples: int) -> Array:
    """Fill a few missing values of a block by straight lines; a block with many stays unknown."""
    missing = ~np.isfinite(x)
    if not missing.any():
        return x
    x = x.copy()
    for c, k in np.argwhere(missing.reshape(len(x), -1, samples).any(axis=2)):
        block, gone = x[c, k * samples : (k + 1) * samples], missing[c, k * samples : (k + 1) * samples]
        if gone.sum() <= _MOST_MISSING * samples:
            block[gone] = np.interp(np.flatnonzero(gone), np.flatnonzero(~gone), block[~gone])
    return x


def _known(power: Array) -> Array:
    """A block that is not known has no power."""
    return np.where(np.isnan(power), 0.0, power)


def _db(signal: Array, disturbance: Array) -> Array:
    """Signal over disturbance in dB; very much where there is none of it, nothing known where there is no signal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(disturbance > 0, signal / disturbance, np.inf)
        return np.asarray(10 * np.log10(np.maximum(ratio, 1e-9)))


def _below(db: Array, warn_db: float, bad_db: float) -> Counts:
    return (db < warn_db).astype(np.int64) + (db < bad_db)


class FilteredChecks:
    """Judge blocks of the filtered signal: spikes, and a level that is far below rest."""

    def __init__(self, channels: int, rate_hz: float, settings: QualitySettings, samples: int) -> None:
        self._settings = settings
        self._samples = samples
        self._bin = max(1, round(_SPIKE_S * rate_hz))
        self._blocks = Blocks(channels, samples)
        self._dead_uv = np.zeros((channels, 1))
        self._before = np.full((channels, 2 * _AROUND * self._bin), np.nan)
        self._high: Flags = np.zeros((channels, 1), dtype=bool)
        self._levels = np.full((channels, _FLOOR_BLOCKS), np.nan)
        self._count = 0
        self._noisy: Counts = np.zeros((channels, 1), dtype=np.int64)

    def calibrate(self, rest_uv: tuple[float, ...]) -> None:
        """Know the rest levels; what is far below is no electrode on skin."""
        self._dead_uv = np.nan_to_num(np.array(rest_uv))[:, None] * self._settings.flat_rest_ratio

    def push(self, y: Array) -> Counts:
        """Take filtered values of shape (channels, samples); return codes of shape (channels, blocks)."""
        y = self._blocks.push(y).reshape(len(y), -1, self._samples)
        if not y.shape[1]:
            return np.zeros(y.shape[:2], dtype=np.int64)
        level = np.sqrt((y * y).sum(axis=2) / self._samples)
        dead = level < self._dead_uv
        spikes = self._spikes(y, level)
        noise = np.maximum(
            (spikes >= self._settings.spikes_warn).astype(np.int64) + (spikes >= self._settings.spikes_bad),
            self._noise_floor(level),
        )
        return graded("flat", 2 * dead.astype(np.int64)) | graded("noise", noise)

    def _noise_floor(self, level: Array) -> Counts:
        """Return 1 for blocks before which even the quietest level was loud, of shape (channels, blocks)."""
        out, done = np.repeat(self._noisy, level.shape[1], axis=1), 0
        while done < level.shape[1]:
            part = level[:, done : done + _FLOOR_EVERY - self._count % _FLOOR_EVERY]
            self._levels[:, (self._count + np.arange(part.shape[1])) % _FLOOR_BLOCKS] = part
            self._count += part.shape[1]
            done += part.shape[1]
            if self._count % _FLOOR_EVERY == 0:
                known = [row[np.isfinite(row)] for row in self._levels]
                floor = [np.percentile(row, _FLOOR_PERCENTILE) if len(row) else 0.0 for row in known]
                self._noisy = (np.array(floor) > self._settings.noise_uv).astype(np.int64)[:, None]
                out[:, done - 1 :] = self._noisy
        return np.asarray(out)

    def _spikes(self, y: Array, level: Array) -> Counts:
        """Count what is up for some 20 ms and stands alone: a burst of EMG is as high all around."""
        # Both sides have to be known, so what is counted lags by `_AROUND`; most seconds stop at their highest value.
        high = np.maximum(y.max(axis=2), -y.min(axis=2)) > _CREST * level
        line = np.concatenate([self._high, high], axis=1)
        self._high = line[:, -1:].copy()
        samples = 2 * _AROUND * self._bin
        flat = np.concatenate([self._before, y.reshape(len(y), -1)], axis=1)
        self._before = flat[:, -samples:].copy()
        counts = np.zeros(level.shape, dtype=np.int64)
        for c, k in np.argwhere(line[:, 1:] | line[:, :-1]):
            counts[c, k] = self._alone(flat[c, k * self._samples : (k + 1) * self._samples + samples])
        return counts

    def _alone(self, y: Array) -> int:
        bins = len(y) // self._bin
        peaks = np.abs(y[: bins * self._bin]).reshape(bins, self._bin).max(axis=1)
        around = np.median(sliding_window_view(peaks, 2 * _AROUND + 1), axis=1)
        alone = peaks[_AROUND:-_AROUND] > _SPIKE_RATIO * around
        return int(np.count_nonzero(alone & ~np.concatenate([[False], alone[:-1]])))
