"""Whether the signal can be trusted, and why not: saturation, a flat line, lost samples."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dsp.parameters import parameter
from firmware_bridge.blocks import Signal

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
State = Literal["ok", "warn", "bad"]

STATES: tuple[State, State, State] = ("ok", "warn", "bad")
_LOOK_BACK_S = 1.0


@dataclass(frozen=True, slots=True)
class QualitySettings:
    """Limits on what may be wrong within one second."""

    saturated_warn_pct: float = parameter(
        0.1, "Share of samples at the ADC's ends that is worth a warning.", unit="%", low=0.01, high=100
    )
    saturated_bad_pct: float = parameter(
        1.0, "Share of samples at the ADC's ends that makes the signal bad.", unit="%", low=0.1, high=100
    )
    lost_warn_pct: float = parameter(
        0.5, "Share of lost samples that is worth a warning.", unit="%", low=0.01, high=100
    )
    lost_bad_pct: float = parameter(
        5.0, "Share of lost samples that makes the signal bad.", unit="%", low=0.1, high=100
    )
    flat_s: float = parameter(
        0.05,
        "The same value for this long is a flat line: no electrode does that.",
        unit="s",
        low=0.02,
        high=5,
    )


@dataclass(frozen=True, slots=True)
class Quality:
    """What a channel's signal is worth from `at_s` on."""

    channel: int
    at_s: float
    state: State
    reasons: tuple[str, ...] = ()


class QualityMeter:
    """Judge each hop of raw values by the second that ends with it.

    A flat line is bad at once, and good again with the first value that differs: on a coarse ADC a muscle at rest is
    flat too, and the contraction after it must not be missed.
    """

    def __init__(self, signal: Signal, settings: QualitySettings, hop: int) -> None:
        self._hop = hop
        self._back = max(1, round(_LOOK_BACK_S * signal.rate_hz / hop))
        self._flat_run = max(10, round(settings.flat_s * signal.rate_hz))
        window = self._back * hop / 100
        self._saturated_limits = settings.saturated_warn_pct * window, settings.saturated_bad_pct * window
        self._lost_limits = settings.lost_warn_pct * window, settings.lost_bad_pct * window
        self._rails = self._near_rails(signal)
        self._channels = len(signal.channels)
        self.reset()

    def reset(self) -> None:
        """Forget everything, as before the first sample."""
        self._saturated: Counts = np.zeros((self._channels, self._back - 1), dtype=np.int64)
        self._lost: Counts = np.zeros((self._channels, self._back - 1), dtype=np.int64)
        self._last = np.full((self._channels, 1), np.nan)
        self._run: Counts = np.zeros((self._channels, 1), dtype=np.int64)
        self._code: Counts = np.zeros(self._channels, dtype=np.int64)

    @staticmethod
    def _near_rails(signal: Signal) -> tuple[float, float] | None:
        """Values within 1 % of the range count as clipped: amplifiers rail before converters do."""
        if signal.rails_uv is None:
            return None
        low, high = signal.rails_uv
        return low + 0.01 * (high - low), high - 0.01 * (high - low)

    def push(self, x: Array, first_hop: int, hop_s: float) -> tuple[list[Quality], NDArray[np.bool_]]:
        """Take raw values of shape (channels, whole hops of samples).

        Return each change of a channel's quality, and which hops of shape (channels, hops) are unusable.
        """
        hops = x.shape[1] // self._hop
        saturated, self._saturated = self._recent(self._saturated, self._clipped(x, hops))
        lost, self._lost = self._recent(self._lost, (~np.isfinite(x)).reshape(-1, hops, self._hop).sum(axis=2))
        flat = self._is_flat(x).reshape(-1, hops, self._hop).any(axis=2)
        grade_s, grade_l = _grade(saturated, self._saturated_limits), _grade(lost, self._lost_limits)
        worst = np.maximum(np.maximum(grade_s, grade_l), 2 * flat)
        code = 8 * worst + 1 * (grade_s > 0) + 2 * (grade_l > 0) + 4 * flat
        changes: list[Quality] = []
        for c in range(self._channels):
            line = np.concatenate([self._code[c : c + 1], code[c]])
            changes += [
                _quality(c, (first_hop + int(h)) * hop_s, int(code[c, h])) for h in np.flatnonzero(np.diff(line))
            ]
        self._code = code[:, -1].copy()
        return changes, flat | (grade_s == 2)

    def _clipped(self, x: Array, hops: int) -> Counts:
        if self._rails is None:
            return np.zeros((self._channels, hops), dtype=np.int64)
        low, high = self._rails
        return np.asarray(((x <= low) | (x >= high)).reshape(-1, hops, self._hop).sum(axis=2))

    def _is_flat(self, x: Array) -> NDArray[np.bool_]:
        """Mark the samples at which the same value has come `flat_run` times or more in a row."""
        index = np.arange(x.shape[1])
        changed = x != np.concatenate([self._last, x[:, :-1]], axis=1)
        since = np.maximum.accumulate(np.where(changed, index, -self._run), axis=1)
        run = index - since + 1
        self._last, self._run = x[:, -1:].copy(), np.minimum(run[:, -1:], self._flat_run)
        return run >= self._flat_run

    def _recent(self, before: Counts, new: Counts) -> tuple[Counts, Counts]:
        line = np.concatenate([before, new], axis=1)
        total = np.cumsum(line, axis=1)
        recent = total[:, self._back - 1 :].copy()
        recent[:, 1:] -= total[:, : -self._back]
        return recent, line[:, line.shape[1] - self._back + 1 :].copy()


def _grade(count: Counts, limits: tuple[float, float]) -> Counts:
    warn, bad = limits
    return (count >= max(warn - 1e-6, 1)).astype(np.int64) + (count >= max(bad - 1e-6, 1))


def _quality(channel: int, at_s: float, code: int) -> Quality:
    reasons = tuple(reason for bit, reason in enumerate(("saturation", "lost", "flat")) if code >> bit & 1)
    return Quality(channel, at_s, STATES[code >> 3], reasons)
