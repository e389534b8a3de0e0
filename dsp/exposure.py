"""How much rest the muscle gets: relative rest time (RRT) from exposure frames."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsp.parameters import parameter

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ExposureSettings:
    """What counts as rest, and how much valid data a figure needs."""

    rest_rve: float = parameter(5.0, "Below this level the muscle rests.", unit="%RVE", low=3, high=10)
    window_s: float = parameter(60.0, "Time that the live rest figure looks back.", unit="s", low=10, high=600)
    least_valid_pct: float = parameter(
        60.0, "Share of a window that must be valid for a rest figure.", unit="%", low=10, high=100
    )


def rest_pct(frames_uv: Array, rest_uv: float, least_valid: float) -> float | None:
    """Return RRT, the % of valid frames strictly below `rest_uv` (Hermens & Hutten 2002).

    `frames_uv` has the shape (frames,), NaN where invalid, which is neither rest nor activity. None where less than
    the fraction `least_valid` is valid.
    """
    valid = np.isfinite(frames_uv)
    known = int(valid.sum())
    if known == 0 or known < least_valid * len(frames_uv):
        return None
    return 100.0 * int((frames_uv[valid] < rest_uv).sum()) / known


class RecentRest:
    """RRT over the last `window_s`, per channel; None until the window is full."""

    def __init__(self, rest_uv: list[float | None], frame_s: float, settings: ExposureSettings) -> None:
        self._rest_uv = rest_uv
        self._least = settings.least_valid_pct / 100
        self._n = round(settings.window_s / frame_s)
        self._recent = np.empty((len(rest_uv), 0))

    def push(self, frames_uv: Array) -> None:
        """Take exposure frames of shape (channels, frames), µV."""
        if frames_uv.shape[1]:
            self._recent = np.concatenate([self._recent, frames_uv], axis=1)[:, -self._n :]

    def pct(self, channel: int) -> float | None:
        """Return the rest time of the channel in %."""
        limit = self._rest_uv[channel]
        if limit is None or self._recent.shape[1] < self._n:
            return None
        return rest_pct(self._recent[channel], limit, self._least)
