"""Power spectra of whole blocks of signal."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def block_power(x: Array, samples: int, rate_hz: float) -> tuple[Array, Array]:
    """Return (Hz of shape (bins,), power of shape (channels, blocks, bins)) of each block of `samples` samples.

    The power is one-sided, of the block less its mean, under a Hann window whose gain is taken out again: its sum
    over the bins is the mean square in µV². A block with a NaN in it has only NaN.
    """
    window = np.hanning(samples)
    blocks = x.reshape(len(x), -1, samples)
    centred = blocks - blocks.mean(axis=2, keepdims=True)
    spectrum = np.fft.rfft(centred * window, axis=2)
    power = (spectrum.real**2 + spectrum.imag**2) * (2.0 / (samples * np.sum(window**2)))
    power[..., 0] /= 2
    if samples % 2 == 0:
        power[..., -1] /= 2
    return np.asarray(np.fft.rfftfreq(samples, 1 / rate_hz), dtype=np.float64), power
