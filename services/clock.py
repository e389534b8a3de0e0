"""Time: the machine's clocks, and where a board's seconds lie on them."""

import time
from datetime import UTC, datetime

_BUCKET_S = 5.0


class Clock:
    """The machine's clocks. `speed` lets a recording pass faster than life."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._mono0 = time.monotonic()
        self._wall0 = time.time()

    def mono(self) -> float:
        """Return seconds since the start; no clock step changes it."""
        return (time.monotonic() - self._mono0) * self._speed

    def wall(self) -> float:
        """Return seconds since 1970."""
        return time.time() if self._speed == 1 else self._wall0 + self.mono()


class BoardClock:
    """Map a board's seconds to the machine's monotonic seconds.

    Blocks arrive late, never early, so the earliest arrivals of the last seconds tell the offset; only the last
    seconds count because a board's clock drifts.
    """

    def __init__(self, bucket_s: float = _BUCKET_S) -> None:
        self._bucket_s = bucket_s
        self._buckets: list[tuple[float, float]] = []

    def see(self, board_s: float, mono_s: float) -> None:
        """Note that the sample at `board_s` had arrived at `mono_s`."""
        offset = mono_s - board_s
        if not self._buckets or mono_s - self._buckets[-1][0] > self._bucket_s:
            self._buckets = [*self._buckets[-1:], (mono_s, offset)]
        elif offset < self._buckets[-1][1]:
            self._buckets[-1] = (self._buckets[-1][0], offset)

    def mono(self, board_s: float) -> float:
        """Return the monotonic time of a board's second."""
        return board_s + self._offset()

    def board(self, mono_s: float) -> float:
        """Return the board's second of a monotonic time."""
        return mono_s - self._offset()

    def _offset(self) -> float:
        return min((offset for _, offset in self._buckets), default=0.0)


def rfc3339(wall_s: float) -> str:
    """Return UTC with milliseconds, such as 2026-01-31T12:00:00.000Z."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
