"""Signals made for the tests: fixed seeds, µV at the electrodes, arrays of shape (channels, samples)."""

import numpy as np
from numpy.typing import NDArray

from dsp.filters import BandPass, FilterSettings, band_of
from dsp.level import RmsFrames

Array = NDArray[np.float64]

RATE_HZ = 1000.0
HOP = 50
HOP_S = 0.05

# What the default band, 30-450 Hz at 1 kHz, leaves of the RMS of white noise and of EMG.
WHITE_KEPT = 0.9144
EMG_KEPT = 0.968


def white(seconds: float, seed: int, channels: int = 1, rate_hz: float = RATE_HZ) -> Array:
    """White Gaussian noise of RMS 1."""
    return np.random.default_rng(seed).standard_normal((channels, round(seconds * rate_hz)))


def emg_power(hz: Array) -> Array:
    """Power spectrum of surface EMG after Shwedyk et al. 1977, with corners at 60 and 120 Hz."""
    return np.asarray(120.0**4 * hz**2 / ((hz**2 + 60.0**2) * (hz**2 + 120.0**2) ** 2))


def emg(seconds: float, seed: int, channels: int = 1) -> Array:
    """Gaussian noise of RMS 1 with the spectrum of surface EMG."""
    noise = white(seconds, seed, channels)
    n = noise.shape[1]
    shape = np.sqrt(emg_power(np.asarray(np.fft.rfftfreq(n, 1 / RATE_HZ), dtype=np.float64)))
    shaped = np.fft.irfft(np.fft.rfft(noise, axis=1) * shape, n, axis=1)
    return np.asarray(shaped / shaped.std(axis=1, keepdims=True))


def heart(seconds: float, uv: float, bpm: float) -> Array:
    """R-waves of Gaussian shape, standard deviation 10 ms, of shape (1, samples)."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    beat_s = 60 / bpm
    since = (t + beat_s / 2) % beat_s - beat_s / 2
    return np.asarray(uv * np.exp(-0.5 * (since / 0.010) ** 2))[None]


def steps(*parts: tuple[float, float], per_second: float = RATE_HZ) -> Array:
    """A level over time from (seconds, µV) pieces, of shape (samples,)."""
    return np.concatenate([np.full(round(seconds * per_second), float(uv)) for seconds, uv in parts])


def filtered(x: Array, settings: FilterSettings | None = None, rate_hz: float = RATE_HZ) -> Array:
    """What a new band-pass makes of the signal in one go."""
    return BandPass(band_of(settings or FilterSettings(), rate_hz), rate_hz, len(x)).filter(x)


def control(y: Array) -> Array:
    """Control levels of a filtered signal: RMS over 250 ms, every 50 ms."""
    return RmsFrames(HOP, 5, len(y), 0.1).push(y)


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


def same(a: Array, b: Array) -> bool:
    """Equal bit for bit, with NaN in the same places."""
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=True))
