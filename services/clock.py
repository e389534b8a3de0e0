"""Time: the machine's clocks, and what is known of them.

A Raspberry Pi has no clock that runs while it is off: its wall time is wrong until the network has told it, minutes
after the start perhaps. So everything is timed by the monotonic clock, and wall time is added where it is told.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
_STEP_S = 0.1


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

    def now(self) -> datetime:
        """Return the time with its offset from UTC where the machine is."""
        return datetime.fromtimestamp(self.wall(), UTC).astimezone()

    def local(self) -> datetime:
        """Return the machine's local date and time, without an offset, whatever the speed.

        A time zone that is changed while the program runs counts at once.
        """
        time.tzset()
        return datetime.now()

    def synchronised(self) -> bool:
        """Whether wall time is known to be right: systemd's time service says so. Not known is False."""
        return _SYNCHRONISED.exists()


class Steps:
    """Notice that the wall clock was set: it moved by 0.1 s against the monotonic one, or became known to be right."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_s, self._known = self._now()

    def stepped(self) -> bool:
        """Say whether the clock was set since this was last true."""
        ahead_s, known = self._now()
        if abs(ahead_s - self._ahead_s) < _STEP_S and known == self._known:
            return False
        self._ahead_s, self._known = ahead_s, known
        return True

    def _now(self) -> tuple[float, bool]:
        return self._clock.wall() - self._clock.mono(), self._clock.synchronised()


def rfc3339(wall_s: float) -> str:
    """Return UTC with milliseconds, such as 2026-01-31T12:00:00.000Z."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
