"""Whether the signal can be trusted, and why not, second by second."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dsp.parameters import parameter
from firmware_bridge.blocks import Signal

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]
State = Literal["ok", "warn", "bad"]
Reason = Literal["saturation", "flat", "mains", "lead_off", "motion", "ecg", "noise", "lost"]

STATES: tuple[State, State, State] = ("ok", "warn", "bad")
# A code holds a grade (0 ok, 1 warn, 2 bad) for each reason, two bits each, in this order.
REASONS: tuple[Reason, ...] = ("saturation", "flat", "mains", "lead_off", "motion", "ecg", "noise", "lost")
_ONES = sum(1 << 2 * k for k in range(len(REASONS)))
_ANY_BAD = 1 << 2 * len(REASONS)
BLOCK_S = 1.0


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
    flat_rest_ratio: float = parameter(
        0.2, "Less than this share of the rest level is a dead channel.", unit="x rest", low=0.0, high=0.5
    )
    mains_warn_db: float = parameter(
        9.0, "EMG over mains hum below which there is a warning, and a notch.", unit="dB", low=0, high=30
    )
    mains_bad_db: float = parameter(
        -10.0, "EMG over mains hum below which the signal is nothing but hum.", unit="dB", low=-40, high=0
    )
    drift_warn_uv: float = parameter(
        100.0, "RMS of what is slower than 10 Hz that is worth a warning.", unit="µV", low=1, high=100_000
    )
    drift_bad_uv: float = parameter(
        500.0, "RMS of what is slower than 10 Hz that makes the signal bad.", unit="µV", low=1, high=100_000
    )
    motion_warn_db: float = parameter(
        12.0, "EMG over movement that passes the high-pass, below which there is a warning.", unit="dB", low=0, high=30
    )
    motion_bad_db: float = parameter(
        6.0, "EMG over movement that passes the high-pass, below which the signal is bad.", unit="dB", low=-20, high=30
    )
    lead_off_uv: float = parameter(
        1000.0, "RMS of the raw signal that no worn electrode has ...", unit="µV", low=100, high=100_000
    )
    lead_off_share_pct: float = parameter(
        5.0, "... where less than this share of it is EMG, for 2 s.", unit="%", low=0.1, high=50
    )
    spikes_warn: float = parameter(1.0, "Spikes in a second that are worth a warning.", unit="1/s", low=1, high=50)
    spikes_bad: float = parameter(6.0, "Spikes in a second that make the signal bad.", unit="1/s", low=1, high=50)
    noise_uv: float = parameter(
        5.0, "Quietest level of the last 10 minutes that is worth a warning.", unit="µV", low=0.5, high=1000
    )


@dataclass(frozen=True, slots=True)
class Quality:
    """What a channel's signal is worth from `at_s` on."""

    channel: int
    at_s: float
    state: State
    reasons: tuple[str, ...] = ()


def graded(reason: Reason, grade: Counts) -> Counts:
    """Return the code that has this grade for this reason."""
    return np.asarray(grade, dtype=np.int64) << 2 * REASONS.index(reason)


def is_bad(code: Counts, reasons: tuple[Reason, ...] = REASONS) -> Flags:
    """Tell whether any of the reasons is bad."""
    return np.asarray(code & _bad_mask(reasons) != 0)


@cache
def _bad_mask(reasons: tuple[Reason, ...]) -> int:
    return sum(2 << 2 * REASONS.index(reason) for reason in reasons)


class QuickChecks:
    """Judge each hop of raw values by the second that ends with it: clipped, lost, flat.

    A flat line is bad at once, and good again with the first value that differs: on a coarse ADC a muscle at rest is
    flat too, and the contraction after it must not be missed.
    """

    def __init__(self, signal: Signal, settings: QualitySettings, hop: int) -> None:
        self._hop = hop
        self._back = max(1, round(BLOCK_S * signal.rate_hz / hop))
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
        self._tail = np.full((self._channels, self._flat_run - 1), np.nan)
        self._clean = 0  # hops since the last one with anything lost or clipped

    @staticmethod
    def _near_rails(signal: Signal) -> tuple[float, float] | None:
        """Values within 1 % of the range count as clipped: amplifiers rail before converters do."""
        if signal.rails_uv is None:
            return None
        low, high = signal.rails_uv
        return low + 0.01 * (high - low), high - 0.01 * (high - low)

    def push(self, x: Array) -> Counts:
        """Take raw values of shape (channels, whole hops of samples); return a code for each hop."""
        hops = x.shape[1] // self._hop
        finite = np.isfinite(x)
        clean = finite.all() and self._is_off_rails(x)
        flat = self._is_flat(x, hops)
        self._clean = self._clean + hops if clean else 0
        if self._clean >= self._back + hops:
            return graded("flat", 2 * flat.astype(np.int64))
        saturated, self._saturated = self._recent(self._saturated, self._clipped(x, hops))
        lost, self._lost = self._recent(self._lost, self._per_hop(~finite, hops))
        return (
            graded("saturation", _grade(saturated, self._saturated_limits))
            | graded("lost", _grade(lost, self._lost_limits))
            | graded("flat", 2 * flat.astype(np.int64))
        )

    def _per_hop(self, flags: Flags, hops: int) -> Counts:
        return np.asarray(flags.reshape(self._channels, hops, self._hop).sum(axis=2))

    def _is_off_rails(self, x: Array) -> bool:
        return self._rails is None or bool(self._rails[0] < x.min() and x.max() < self._rails[1])

    def _clipped(self, x: Array, hops: int) -> Counts:
        if self._rails is None:
            return np.zeros((self._channels, hops), dtype=np.int64)
        low, high = self._rails
        return self._per_hop((x <= low) | (x >= high), hops)

    def _is_flat(self, x: Array, hops: int) -> Flags:
        """Tell in which hops the same value has come `flat_run` times or more in a row."""
        line = np.concatenate([self._tail, x], axis=1)
        self._tail = line[:, line.shape[1] - self._flat_run + 1 :].copy()
        # So long a run holds at least four of the points looked at here; most signals stop at this.
        coarse = line[:, :: max(1, self._flat_run // 4)]
        same = coarse[:, 1:] == coarse[:, :-1]
        if not (same[:, 2:] & same[:, 1:-1] & same[:, :-2]).any():
            return np.zeros((self._channels, hops), dtype=bool)
        index = np.arange(line.shape[1])
        changed = np.ones(line.shape, dtype=bool)
        changed[:, 1:] = line[:, 1:] != line[:, :-1]
        since = np.maximum.accumulate(np.where(changed, index, 0), axis=1)
        flat = (index - since + 1 >= self._flat_run)[:, self._flat_run - 1 :]
        return np.asarray(flat.reshape(self._channels, hops, self._hop).any(axis=2))

    def _recent(self, before: Counts, new: Counts) -> tuple[Counts, Counts]:
        line = np.concatenate([before, new], axis=1)
        total = np.cumsum(line, axis=1)
        recent = total[:, self._back - 1 :].copy()
        recent[:, 1:] -= total[:, : -self._back]
        return recent, line[:, line.shape[1] - self._back + 1 :].copy()


def _grade(count: Counts, limits: tuple[float, float]) -> Counts:
    warn, bad = limits
    return (count >= max(warn - 1e-6, 1)).astype(np.int64) + (count >= max(bad - 1e-6, 1))


class Verdicts:
    """Put together what is known of each hop once its block is judged; say when it changes."""

    def __init__(self, channels: int, first_hop: int, hop_s: float) -> None:
        self._hop_s = hop_s
        self._hop = first_hop
        self._code: Counts = np.zeros((channels, 1), dtype=np.int64)

    def push(self, codes: Counts) -> list[Quality]:
        """Take the codes of the next hops, of shape (channels, hops); return each change of a channel's quality."""
        if not codes.shape[1]:
            return []
        bad = codes >> 1 & _ONES
        codes = np.where(bad != 0, _ANY_BAD, 0) | bad | codes & _ONES
        line = np.concatenate([self._code, codes], axis=1)
        first, self._hop = self._hop, self._hop + codes.shape[1]
        self._code = line[:, -1:].copy()
        return [
            _quality(int(c), (first + int(h)) * self._hop_s, int(codes[c, h]))
            for c, h in np.argwhere(np.diff(line, axis=1))
        ]


def _quality(channel: int, at_s: float, code: int) -> Quality:
    reasons = tuple(reason for k, reason in enumerate(REASONS) if code >> 2 * k & 1)
    return Quality(channel, at_s, "bad" if code & _ANY_BAD else "warn" if reasons else "ok", reasons)
