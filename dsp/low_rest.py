"""Low rest: minutes of low activity with too little rest between, which nobody notices while it happens."""

from dataclasses import dataclass
from math import isnan
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dsp.detect import Event
from dsp.exposure import pooled_levels
from dsp.parameters import parameter

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class LowRestSettings:
    """When there has been too little rest; levels are those of [exposure]."""

    low_pct: float = parameter(
        20.0, "Less rest than this in a window is too little (Hermens & Hutten 2002).", unit="%", low=1, high=50
    )
    clear_pct: float = parameter(30.0, "From this much rest on it is enough again.", unit="%", low=5, high=80)
    hold_s: float = parameter(60.0, "Too little rest for this long is low rest.", unit="s", low=1, high=600)
    active_s: float = parameter(
        240.0, "So is uninterrupted activity of this length (Hanvold 2013).", unit="s", low=30, high=3600
    )
    active_rest_ratio: float = parameter(
        1.5, "Activity is at least this many times the rest level.", unit="x rest", low=1, high=5
    )


@dataclass(frozen=True, slots=True)
class LowRest(Event):
    """A stretch without rest has started, or ended; `mean_uv` is the RMS over it, `peak_uv` its highest second."""

    kind: ClassVar[str] = "low_rest"


@dataclass(slots=True)
class _Sum:
    """Seconds of an event added up."""

    seconds: int = 0
    valid: int = 0
    power: float = 0.0
    peak: float = 0.0

    def add(self, levels: Array) -> None:
        """Take the levels of some more seconds, NaN where invalid; one by one, so that no cut changes the sum."""
        for level in levels.tolist():
            self.seconds += 1
            if not isnan(level):
                self.valid += 1
                self.power += level * level
                self.peak = max(self.peak, level)


class LowRestDetector:
    """Find low rest on one channel, second by second, from exposure frames.

    `rest_uv` and `active_uv` are the levels below which the muscle rests and from which on it is active (SULMA).
    The window's rest must be low for `hold_s` without a break, so that the median is above the rest level, too; the
    event is then taken to have begun with the first active frame of the first low window. It ends with the last
    active frame when the rest is enough again. Uninterrupted activity counts from its start to its end.
    """

    def __init__(
        self,
        channel: int,
        rest_uv: float,
        active_uv: float,
        settings: LowRestSettings,
        frame_s: float,
        *,
        window_s: float = 60.0,
        least_valid: float = 0.6,
        start_s: float = 0.0,
    ) -> None:
        self._channel = channel
        self._rest_uv = rest_uv
        self._active_uv = active_uv
        self._settings = settings
        self._frame_s = frame_s
        self._start_s = start_s
        self._second = max(1, round(1 / frame_s))  # frames
        self._window = max(self._second, round(window_s / frame_s))
        self._least = least_valid * self._window - _ROUNDING
        self._hold = settings.hold_s / (self._second * frame_s) - _ROUNDING
        self._active = settings.active_s / (self._second * frame_s) - _ROUNDING
        self._keep = self._window + self._second + round(max(settings.hold_s, settings.active_s) / frame_s)
        self._frames = np.empty(0)  # the last ones, as many as an event may reach back
        self._count = 0
        self._low_since: int | None = None  # the first second of the low windows in a row, and their event's start
        self._low_start = 0
        self._low = False
        self._run = 0  # seconds of activity in a row
        self._start: int | None = None  # frame at which the event that is on began
        self._sum = _Sum()
        self._out: list[LowRest] = []

    def push(self, frames_uv: Array) -> list[LowRest]:
        """Take exposure frames of shape (frames,), NaN where invalid; return what became known."""
        if not len(frames_uv):
            return []
        line = np.concatenate([self._frames, frames_uv])
        origin = self._count - len(self._frames)  # number of the first frame in `line`
        before = self._count // self._second
        self._count += len(frames_uv)
        ends = np.arange(before + 1, self._count // self._second + 1) * self._second
        if len(ends):
            self._follow(line, origin, ends)
        self._frames = line[-self._keep :].copy()
        out, self._out = self._out, []
        return out

    def finish(self) -> list[LowRest]:
        """End what is still on because the recording ends here."""
        if self._start is not None:
            self._end(np.isfinite(self._frames), self._count, truncated=True)
        out, self._out = self._out, []
        return out

    @property
    def pending_since_s(self) -> float:
        """The earliest moment at which an event that is on or not yet known may have begun."""
        if self._start is not None:
            return self._time(self._start)
        origin = self._count - len(self._frames)
        # A low window can't reach back over more rest than it may hold.
        rested = np.cumsum((self._frames < self._rest_uv)[::-1])
        reach = int(np.searchsorted(rested, self._settings.low_pct / 100 * self._window))
        recent = self._frames[len(self._frames) - min(reach, self._window) :]
        active = np.flatnonzero(recent >= self._rest_uv)
        since = self._count - len(recent) + int(active[0]) if len(active) else self._count
        if self._low_since is not None:
            since = min(since, self._low_start)
        if self._run:
            since = min(since, (self._count // self._second - self._run) * self._second)
        return self._time(max(since, origin))

    def _time(self, frame: int) -> float:
        return self._start_s + frame * self._frame_s

    def _follow(self, line: Array, origin: int, ends: Counts) -> None:
        """Go through the seconds that end at these frames."""
        rest_pct, known = self._rest_of_windows(line, ends - origin)
        known &= ends >= self._window
        first = int(ends[0]) - self._second - origin
        level = pooled_levels(line[first : int(ends[-1]) - origin], self._second)
        for k, end in enumerate(ends.tolist()):
            was_low = self._low
            self._run = self._run + 1 if level[k] >= self._active_uv else 0
            self._rate(line, origin, end, float(rest_pct[k]) if known[k] else None)
            on = self._low or self._run >= self._active
            if on and self._start is None:
                self._begin(line, origin, end)
            elif self._start is not None:
                self._sum.add(level[k : k + 1])
                if not on:
                    limit = self._rest_uv if was_low else self._active_uv
                    self._end(line[: end - origin] >= limit, end, truncated=not known[k] or bool(np.isnan(level[k])))

    def _rest_of_windows(self, line: Array, ends: Counts) -> tuple[Array, NDArray[np.bool_]]:
        """Return the rest in % of the windows that end there, and whether it is known."""
        valid = np.concatenate([[0], np.cumsum(np.isfinite(line))])
        below = np.concatenate([[0], np.cumsum(line < self._rest_uv)])
        starts = np.maximum(ends - self._window, 0)
        known = valid[ends] - valid[starts]
        return 100.0 * (below[ends] - below[starts]) / np.maximum(known, 1), known >= self._least

    def _rate(self, line: Array, origin: int, end: int, rest_pct: float | None) -> None:
        """Follow how long the rest has been low."""
        second = end // self._second
        if rest_pct is None or rest_pct >= self._settings.clear_pct:
            self._low = False
        if rest_pct is None or rest_pct >= self._settings.low_pct:
            self._low_since = None
            return
        if self._low_since is None:
            self._low_since = second
            window = line[max(0, end - origin - self._window) : end - origin]
            self._low_start = end - len(window) + int(np.argmax(window >= self._rest_uv))
        self._low = self._low or second - self._low_since >= self._hold

    def _begin(self, line: Array, origin: int, end: int) -> None:
        starts = [self._low_start] if self._low and self._low_since is not None else []
        if self._run >= self._active:
            starts.append(end - self._run * self._second)
        self._start = max(min(starts), origin)
        seconds = (end - self._start) // self._second
        self._sum = _Sum()
        self._sum.add(pooled_levels(line[end - origin - seconds * self._second : end - origin], self._second))
        self._say("started", end, None)

    def _end(self, active: NDArray[np.bool_], end: int, *, truncated: bool) -> None:
        """End the event with the last active frame; `active` tells of the frames up to `end`."""
        idle = int(np.argmax(active[::-1])) if active.any() else 0
        self._say("ended", end, max(end - idle, self._start or 0), truncated=truncated)
        self._start, self._low, self._low_since = None, False, None

    def _say(self, phase: Literal["started", "ended"], at: int, end: int | None, *, truncated: bool = False) -> None:
        self._out.append(
            LowRest(
                phase,
                self._channel,
                self._time(at),
                self._time(self._start or 0),
                None if end is None else self._time(end),
                float(np.sqrt(self._sum.power / max(self._sum.valid, 1))),
                self._sum.peak,
                self._sum.valid / max(self._sum.seconds, 1),
                truncated,
            )
        )
