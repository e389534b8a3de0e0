"""Amplitude: the RMS of fixed frames, in µV, exact for any cut of the input."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsp.parameters import parameter

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LevelSettings:
    """The two amplitude streams: a quick one for control and display, a fine one for exposure."""

    hop_s: float = parameter(0.05, "Time between two control levels.", unit="s", low=0.01, high=0.1)
    window_s: float = parameter(0.25, "Time that one control level looks back.", unit="s", low=0.1, high=0.5)
    frame_s: float = parameter(
        0.125, "Length of one exposure frame; frames do not overlap.", unit="s", low=0.1, high=0.2
    )
    max_missing_pct: float = parameter(
        10.0,
        "Share of a window that may be missing before its level counts as unknown.",
        unit="%",
        low=0,
        high=25,
    )


class RmsFrames:
    """RMS = sqrt(mean(x²)) of windows of `hops` frames of `frame` samples each, one value per frame.

    Squares are summed per frame and the last few sums added up: one pass, no drift. A window of which more than
    `max_missing` (a fraction) is NaN gives NaN; so does one that reaches back before the first sample.
    """

    def __init__(self, frame: int, hops: int, channels: int, max_missing: float) -> None:
        self._frame = frame
        self._hops = hops
        self._least = frame * hops * (1 - max_missing) - 1e-6
        self._channels = channels
        self.reset()

    def reset(self) -> None:
        """Forget everything, as before the first sample."""
        self._rest = np.empty((self._channels, 0))
        self._energy = np.zeros((self._channels, self._hops - 1))
        self._count = np.zeros((self._channels, self._hops - 1))
        self._whole = 0  # frames since the last one in which something was missing

    def push(self, y: Array) -> Array:
        """Take filtered values of shape (channels, samples); return RMS of shape (channels, frames completed)."""
        if self._rest.shape[1]:
            y = np.concatenate([self._rest, y], axis=1)
        frames = y.shape[1] // self._frame
        self._rest = y[:, frames * self._frame :].copy()
        y = np.ascontiguousarray(y[:, : frames * self._frame]).reshape(self._channels, frames, self._frame)
        energy = (y * y).sum(axis=2)
        missing = np.isnan(energy).any()
        self._whole = 0 if missing else self._whole + frames
        if missing:
            energy = np.where(np.isfinite(y), y * y, 0.0).sum(axis=2)
        energy, self._energy = self._slide(self._energy, energy)
        if self._whole >= self._hops + frames:
            return np.sqrt(energy / float(self._frame * self._hops))
        count, self._count = self._slide(self._count, np.isfinite(y).sum(axis=2).astype(float))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(count >= self._least, np.sqrt(energy / count), np.nan)

    def _slide(self, before: Array, new: Array) -> tuple[Array, Array]:
        """Add up each run of `hops` values, always in the same order; return the sums and the new memory."""
        if self._hops == 1:
            return new, before
        line = np.concatenate([before, new], axis=1)
        n = new.shape[1]
        total = line[:, :n].copy()
        for k in range(1, self._hops):
            total += line[:, k : k + n]
        return total, line[:, n:].copy()


class GatedFrames:
    """RMS of frames without what a mask leaves out, which may come later than the samples.

    A frame of which more than `max_missing` (a fraction) was lost gives NaN. Of one that the mask leaves less than
    the fraction `least_left`, the level is that of what is left of it and of the frame before.
    """

    def __init__(self, frame: int, channels: int, max_missing: float, least_left: float) -> None:
        self._frame = frame
        self._least_known = frame * (1 - max_missing) - 1e-6
        self._least_left = frame * least_left - 1e-6
        self._y = np.empty((channels, 0))
        self._mask = np.empty((channels, 0), dtype=np.bool_)
        self._before = np.zeros((2, channels, 1))

    def push(self, y: Array, mask: NDArray[np.bool_]) -> Array:
        """Take filtered values and the mask, both of shape (channels, any number); return (channels, frames)."""
        self._y = np.concatenate([self._y, y], axis=1)
        self._mask = np.concatenate([self._mask, mask], axis=1)
        frames = min(self._y.shape[1], self._mask.shape[1]) // self._frame
        if not frames:
            return np.empty((len(y), 0))
        cut, shape = frames * self._frame, (len(y), frames, self._frame)
        out = self._levels(
            np.ascontiguousarray(self._y[:, :cut]).reshape(shape),
            np.ascontiguousarray(self._mask[:, :cut]).reshape(shape),
        )
        self._y, self._mask = self._y[:, cut:].copy(), self._mask[:, cut:].copy()
        return out

    def _levels(self, y: Array, mask: NDArray[np.bool_]) -> Array:
        energy: Array = (y * y).sum(axis=2)
        if not mask.any() and not np.isnan(energy).any():
            self._before = np.stack([energy[:, -1:], np.full_like(energy[:, -1:], self._frame)])
            return np.asarray(np.sqrt(energy / float(self._frame)))
        finite = np.isfinite(y)
        used = finite & ~mask
        sums = np.stack([np.where(used, y * y, 0.0).sum(axis=2), used.sum(axis=2).astype(float)])
        line = np.concatenate([self._before, sums], axis=2)
        self._before = sums[:, :, -1:]
        both = np.where(sums[1] < self._least_left, line[:, :, :-1] + sums, sums)
        known = (finite.sum(axis=2) >= self._least_known) & (both[1] >= self._least_left)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(known, np.sqrt(both[0] / both[1]), np.nan))
