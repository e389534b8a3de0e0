"""Power spectra of whole blocks of signal, and what they say of the muscle."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]


def block_power(x: Array, samples: int, rate_hz: float) -> tuple[Array, Array]:
    """Return (Hz of shape (bins,), power of shape (channels, blocks, bins)) of each block of `samples` samples.

    The power is one-sided, of the block less its mean, under a Hann window whose gain is taken out again: its sum
    over the bins is the mean square in µV². A block with a NaN in it has only NaN.
    """
    window = _window(samples)
    blocks = x.reshape(len(x), -1, samples)
    centred = blocks - blocks.mean(axis=2, keepdims=True)
    spectrum = np.fft.rfft(centred * window, axis=2)
    power = (spectrum.real**2 + spectrum.imag**2) * (2.0 / (samples * np.sum(window**2)))
    power[..., 0] /= 2
    if samples % 2 == 0:
        power[..., -1] /= 2
    return np.asarray(np.fft.rfftfreq(samples, 1 / rate_hz), dtype=np.float64), power


@cache
def _window(samples: int) -> Array:
    return np.hanning(samples)


# De Luca's band of surface EMG; a slower board than this sees too little of it.
_EMG_HZ = 20.0, 450.0
LEAST_RATE_HZ = 1000.0
_BIN_S = 30.0
_LEAST_IN_BIN = 10
_LEAST_S = 300.0


def frequencies(hz: Array, power: Array, notches_hz: tuple[float, ...] = ()) -> tuple[Array, Array]:
    """Return median and mean frequency in Hz (MDF, MNF) of power spectra of shape (..., bins), over 20-450 Hz.

    Half of the power lies below the MDF; the MNF is sum(f P) / sum(P). What is left of mains lines that were notched
    is replaced by the mean of its neighbours.
    """
    power = np.where((hz >= _EMG_HZ[0]) & (hz <= _EMG_HZ[1]), power, 0.0)
    for notch in notches_hz:
        away = np.abs(hz - notch)
        power[..., away <= 2.5] = power[..., (away > 2.5) & (away <= 6.5)].mean(axis=-1, keepdims=True)
    total = power.sum(axis=-1)
    below = np.cumsum(power, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (power * hz).sum(axis=-1) / total
        k = np.argmax(below >= total[..., None] / 2, axis=-1)[..., None]
        over = np.take_along_axis(below, k, -1) - total[..., None] / 2
        share = over / np.take_along_axis(power, k, -1)
    # A bin's power is spread over its width, half of it on either side.
    median = hz[k[..., 0]] + (0.5 - share[..., 0]) * (hz[1] - hz[0])
    return np.asarray(np.where(total > 0, median, np.nan)), np.asarray(np.where(total > 0, mean, np.nan))


@dataclass(frozen=True, slots=True)
class Trend:
    """A slope per minute with its 95 % confidence interval."""

    per_min: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves 0 out, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True, slots=True)
class Jasa:
    """Joint analysis of spectrum and amplitude (Luttmann 1996): how level and median frequency moved together.

    For research only. `reads_as` is None unless both slopes are clear: a median frequency that falls by itself says
    nothing of fatigue, mental load lowers it too (Wijsman 2013).
    """

    level: Trend
    mdf: Trend
    reads_as: Literal["fatigue", "force up", "recovery", "force down"] | None


def jasa(level_rve: Array, mdf_hz: Array, step_s: float) -> Jasa | None:
    """Return the JASA view of seconds of shape (blocks,), NaN where a second does not count.

    Medians of 30 s are fitted by straight lines; None where less than 5 minutes have them.
    """
    n = max(1, round(_BIN_S / step_s))
    bins = len(level_rve) // n
    level, mdf = (values[: bins * n].reshape(bins, n) for values in (level_rve, mdf_hz))
    known = np.isfinite(level) & np.isfinite(mdf)
    used = known.sum(axis=1) >= _LEAST_IN_BIN
    if used.sum() * n * step_s < _LEAST_S - 1e-6:
        return None
    minutes = np.flatnonzero(used) * n * step_s / 60
    medians = (np.nanmedian(np.where(known, values, np.nan)[used], axis=1) for values in (level, mdf))
    up, shift = (_trend(minutes, values) for values in medians)
    reads: dict[tuple[int, int], Literal["fatigue", "force up", "recovery", "force down"]] = {
        (1, -1): "fatigue",
        (1, 1): "force up",
        (-1, 1): "recovery",
        (-1, -1): "force down",
    }
    return Jasa(up, shift, reads.get((up.sign, shift.sign)))


def _trend(minutes: Array, values: Array) -> Trend:
    """Fit a straight line by least squares; the interval is Student's."""
    centred = minutes - minutes.mean()
    slope = float((centred * values).sum() / (centred**2).sum())
    rest = values - values.mean() - slope * centred
    degrees = len(values) - 2
    error = float(np.sqrt((rest**2).sum() / degrees / (centred**2).sum()))
    reach = float(stdtrit(degrees, 0.975)) * error
    return Trend(slope, slope - reach, slope + reach)
