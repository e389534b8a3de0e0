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
_DECIDE_BLOCKS = 5  # a band is looked at this often, so that one change is over before the next
_HUM_SHARE = 0.05  # of the EMG: a weaker harmonic needs no notch
_SPIKE_S = 0.020
_AROUND = 5  # bins of that length on either side
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
        self._auto = filters.mains == "auto"
        self._count = 0
        self._loose: Flags = np.zeros((len(signal.channels), 1), dtype=bool)
        hz = np.asarray(np.fft.rfftfreq(samples, 1 / signal.rate_hz), dtype=np.float64)
        self._passed = response(band, signal.rate_hz, hz)
        self._slow = (hz < 10).astype(float)
        self._leak = np.where(hz < 20, self._passed, 0.0)
        self._hums = [
            _Hum(f0, hz, band.high_hz) for f0 in (50.0, 60.0) if filters.mains in ("auto", "off", f"{f0:.0f}")
        ]
        harmonics = sum(len(hum.harmonics_hz) for hum in self._hums)
        self._votes: Flags = np.zeros((len(signal.channels), _HUM_MEMORY, harmonics), dtype=bool)
        self.band = band

    def push(self, x: Array) -> Findings:
        """Take raw values of shape (channels, samples)."""
        x = self._blocks.push(x)
        if not x.shape[1]:
            return Findings(np.zeros((len(x), 0), dtype=np.int64))
        _, power = block_power(_bridged(x, self._samples), self._samples, self._rate_hz)
        passed = power * self._passed
        total = np.nan_to_num(power.sum(axis=2))
        band = np.nan_to_num(passed.sum(axis=2))
        hums = [hum.power(passed) for hum in self._hums]
        worst = np.max([hum.sum(axis=2) for hum in hums], axis=0) if hums else np.zeros_like(band)
        emg = np.maximum(band - worst, 1e-3 * band)
        loose = (total > self._settings.lead_off_uv**2) & (emg < (self._settings.lead_off_share_pct / 100) ** 2 * total)
        mains = _below(_db(emg, worst), self._settings.mains_warn_db, self._settings.mains_bad_db)
        slow = np.sqrt(np.nan_to_num((power * self._slow).sum(axis=2)))
        leak = np.nan_to_num((power * self._leak).sum(axis=2))
        motion = np.maximum(
            (slow >= self._settings.drift_warn_uv).astype(np.int64) + (slow >= self._settings.drift_bad_uv),
            _below(_db(band - leak, leak), self._settings.motion_warn_db, self._settings.motion_bad_db),
        )
        codes = graded("mains", mains) | graded("motion", motion) | graded("lead_off", 2 * self._for_two_blocks(loose))
        judged = (mains == 1) & ~loose
        votes = [self._strong(h, emg) & judged[..., None] for h in hums]
        return Findings(codes, tuple(self._decide(np.concatenate(votes, axis=2)) if self._auto else ()))

    def _for_two_blocks(self, loose: Flags) -> Counts:
        line = np.concatenate([self._loose, loose], axis=1)
        self._loose = line[:, -1:].copy()
        return np.asarray(line[:, 1:] & line[:, :-1], dtype=np.int64)

    @staticmethod
    def _strong(hum: Array, emg: Array) -> Flags:
        return np.asarray(hum > _HUM_SHARE * emg[..., None])

    def _decide(self, votes: Flags) -> Iterable[tuple[int, Band]]:
        line = np.concatenate([self._votes, votes], axis=1)
        for k in range(1, votes.shape[1] + 1):
            if (self._count + k) % _DECIDE_BLOCKS == 0:
                found = self._notches(line[:, k : k + _HUM_MEMORY])
                if not set(found) <= set(self.band.notches_hz):
                    self.band = self.band.with_notches(found)
                    yield self._count + k, self.band
        self._votes = line[:, votes.shape[1] :].copy()
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
        centre = np.round(np.array(self.harmonics_hz) / step).astype(np.int64)[:, None]
        self._at = centre + np.arange(-2, 3)
        self._beside = centre + np.array([-6, -5, -4, -3, 3, 4, 5, 6])

    def power(self, passed: Array) -> Array:
        """Return each harmonic's power over that of its neighbours, of shape (channels, blocks, harmonics)."""
        floor = 5 * passed[..., self._beside].mean(axis=3)
        over = passed[..., self._at].sum(axis=3) - floor
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
        self._before = np.full((channels, 2 * _AROUND), np.nan)

    def calibrate(self, rest_uv: tuple[float, ...]) -> None:
        """Know the rest levels; what is far below is no electrode on skin."""
        self._dead_uv = np.nan_to_num(np.array(rest_uv))[:, None] * self._settings.flat_rest_ratio

    def push(self, y: Array) -> Counts:
        """Take filtered values of shape (channels, samples); return codes of shape (channels, blocks)."""
        y = self._blocks.push(y).reshape(len(y), -1, self._samples)
        if not y.shape[1]:
            return np.zeros(y.shape[:2], dtype=np.int64)
        dead = (y * y).sum(axis=2) < self._dead_uv**2 * self._samples
        spikes = self._spikes(y)
        noise = (spikes >= self._settings.spikes_warn).astype(np.int64) + (spikes >= self._settings.spikes_bad)
        return graded("flat", 2 * dead.astype(np.int64)) | graded("noise", noise)

    def _spikes(self, y: Array) -> Counts:
        """Count what is up for some 20 ms and stands alone: a burst of EMG is as high all around."""
        bins = self._samples // self._bin
        peaks = np.abs(y[..., : bins * self._bin]).reshape(*y.shape[:2], bins, self._bin).max(axis=3)
        # Five bins on either side have to be known, so what is counted lags by five.
        line = np.concatenate([self._before, peaks.reshape(len(peaks), -1)], axis=1)
        self._before = line[:, -2 * _AROUND :].copy()
        counts = np.zeros(y.shape[:2], dtype=np.int64)
        for c, k in np.argwhere((peaks > _SPIKE_RATIO * np.median(peaks, axis=2, keepdims=True)).any(axis=2)):
            near = line[c, k * bins : (k + 1) * bins + 2 * _AROUND]
            alone = near[_AROUND:-_AROUND] > _SPIKE_RATIO * np.median(
                sliding_window_view(near, 2 * _AROUND + 1), axis=1
            )
            counts[c, k] = np.count_nonzero(alone & ~np.concatenate([[False], alone[:-1]]))
        return counts
