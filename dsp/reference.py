"""What a level means for this wearer: rest, noise, the reference contraction and the thresholds from them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsp.filters import Band, SignalError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Levels in µV, one per channel; `reference_uv` is the RVE, the level at the submaximal reference exertion.

    A rest of NaN is unknown: there was nothing usable to take it from, and the channel has no shrugs.
    `band` is what the levels were measured in, None where that is not known.
    Raises SignalError for a rest, noise or reference that no electrode could give.
    """

    rest_uv: tuple[float, ...]
    noise_uv: tuple[float, ...]
    reference_uv: tuple[float, ...] | None = None
    source: str = "given"
    band: Band | None = None

    def __post_init__(self) -> None:
        for rest, noise in zip(self.rest_uv, self.noise_uv, strict=True):
            if np.isnan(rest):
                continue
            if not 0 < rest < np.inf:
                raise SignalError(f"rest level is {rest:g} µV; expected more than 0 (is the sensor on the skin?)")
            if not 0 <= noise <= rest:
                raise SignalError(f"noise level is {noise:g} µV; expected 0 to the rest level, {rest:g} µV")
        if self.reference_uv is None:
            return
        for rest, reference in zip(self.rest_uv, self.reference_uv, strict=True):
            if not (np.isnan(rest) or rest < reference < np.inf):
                raise SignalError(
                    f"reference level is {reference:g} µV; expected more than the rest level, {rest:g} µV"
                )

    def rve(self, level_uv: float, channel: int) -> float | None:
        """Return the level as % of the reference, noise removed from both in the power domain; None without one."""
        if self.reference_uv is None or not np.isfinite(level_uv) or np.isnan(self.rest_uv[channel]):
            return None
        noise = self.noise_uv[channel] ** 2
        return 100 * float(np.sqrt(max(level_uv**2 - noise, 0) / (self.reference_uv[channel] ** 2 - noise)))

    def level_at_rve(self, rve: float, channel: int) -> float | None:
        """Return the level in µV that is `rve` % of the reference; None without one."""
        if self.reference_uv is None or np.isnan(self.rest_uv[channel]):
            return None
        noise = self.noise_uv[channel] ** 2
        return float(np.sqrt((rve / 100) ** 2 * (self.reference_uv[channel] ** 2 - noise) + noise))


def pooled(frames_uv: Array) -> float:
    """Return the RMS over equal frames: sqrt(mean(frames²)), not their mean. NaN frames do not count."""
    valid = frames_uv[np.isfinite(frames_uv)]
    return float(np.sqrt(np.mean(valid**2))) if len(valid) else float("nan")


def quietest(frames_uv: Array, frame_s: float) -> tuple[float, float, float]:
    """Find the quietest contiguous stretch of fully valid frames: 10 s, or a twentieth of a shorter recording.

    The stretch is short where the recording is, because the rests in it are. `frames_uv` has the shape (frames,).
    Returns (level in µV, start in s, end in s), the level NaN where nothing long enough is valid.
    """
    n = round(min(10.0, max(1.0, len(frames_uv) * frame_s / 20)) / frame_s)
    if len(frames_uv) < n:
        return float("nan"), 0.0, 0.0
    power = np.convolve(frames_uv**2, np.ones(n), mode="valid") / n
    if not np.isfinite(power).any():
        return float("nan"), 0.0, 0.0
    start = int(np.nanargmin(power))
    return float(np.sqrt(power[start])), start * frame_s, (start + n) * frame_s
