"""What a decoder makes of bytes: samples, facts about the board, or a count of damage."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Samples:
    """ADC codes of shape (samples, channels), NaN where the board had no value.

    `seq` is the board's counter and `device_us` its clock, both at the first sample and as they come, wrapping; None
    where the format has none. `steps` is how far the counter goes on over this packet: 1 where it counts packets,
    the number of samples where it counts samples. `times_us` is the clock at every sample, where the board sends that.
    """

    codes: NDArray[np.float64]
    seq: int | None = None
    device_us: int | None = None
    labels: tuple[str, ...] = ()
    steps: int = 1
    times_us: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Info:
    """What a board says of itself."""

    channels: int
    rate_hz: float
    adc_bits: int
    vref_mv: int
    gain: float
    kind: str
    boot_id: int
    overruns: int
    dropped: int

    @property
    def uv_per_count(self) -> float:
        """One ADC step referred to the electrodes: Vref / 2^bits / gain."""
        return float(self.vref_mv * 1000 / 2**self.adc_bits / self.gain)

    @property
    def codes(self) -> tuple[int, int]:
        """Lowest and highest code: unsigned up to 15 bits, two's complement at 16."""
        top: int = 2**self.adc_bits
        return (-top // 2, top // 2 - 1) if self.adc_bits == 16 else (0, top - 1)


@dataclass(frozen=True, slots=True)
class BadFrame:
    """Damage: why, and how many samples it stood for as far as that can be told."""

    reason: str
    samples: int = 0


Packet = Samples | Info | BadFrame
