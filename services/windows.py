"""What batches of levels hold: the newest of each channel, and the exposure frames of a stretch of time."""

import numpy as np
from numpy.typing import NDArray

from dsp.chain import Levels

Array = NDArray[np.float64]

_ROUNDING_S = 1e-9


def newest_uv(levels: Levels) -> list[float | None]:
    """Return the level of each channel now, µV; None where it is not known."""
    return [float(level) if np.isfinite(level) else None for level in levels.control_uv[:, -1]]


def frames_within(levels: Levels, frame_s: float, start_s: float, end_s: float) -> Array:
    """Return the exposure frames that lie in a stretch of time as a whole, of shape (channels, frames), µV."""
    n = levels.frames_uv.shape[1]
    begins = levels.frames_at_s - frame_s * np.arange(n, 0, -1)
    within = (begins >= start_s - _ROUNDING_S) & (begins + frame_s <= end_s + _ROUNDING_S)
    return levels.frames_uv[:, within]
