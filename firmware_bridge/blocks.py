"""The one thing that this room hands out: blocks of samples, each tied to the signal that it belongs to."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Signal:
    """What a board sends, as far as it is known.

    `uv_per_count` is the size of one ADC step in µV referred to the electrodes, None where the values
    did not come from a known ADC. `rails_uv` are the lowest and highest value that the ADC can give.
    """

    rate_hz: float
    channels: tuple[str, ...]
    uv_per_count: float | None = None
    rails_uv: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class SampleBlock:
    """Consecutive samples of all channels.

    `values` has the shape (samples, channels), in µV; NaN marks a value that was lost. `start` counts samples
    since the stream began, lost ones included, so a block that starts after its predecessor's end leaves a gap.
    """

    signal: Signal
    start: int
    values: Array

    @property
    def end(self) -> int:
        """Index of the sample after the last one."""
        return self.start + len(self.values)
