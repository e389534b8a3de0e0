"""Where a board's seconds lie on the host's: a clock that drifts, seen through a cable that delays."""

from collections import deque
from itertools import pairwise

_BIN_S = 1.0
_MOST_POINTS = 60
_FEW_POINTS = 10
_TO_FIT = 3
_EARLY_S = 0.05  # nothing comes before its time: where it seems to, the line is wrong
_AWAY_S, _AWAY_POINTS = 0.1, 8  # as it is where all of so many points have left it

Point = tuple[float, float]  # a board's second; what the host's clock showed more


class Line:
    """Map a board's seconds to the host's monotonic seconds.

    Samples arrive late, never early. So of each second of the host only the most punctual arrival counts, and the line
    runs below the last 60 of these as close as can be (Moon, Skelly, Towsley 1999, "Estimation and removal of clock
    skew from network delay measurements"): however late others come, they do not move it. Simulated over 10 min, with
    stalls: 0.3 ms off at most where USB delays by 1 ms, 8 ms where an adapter asks every 16 ms; a second after
    the start as far off as the first arrivals are late.

    Without `follow` the board's seconds are as long as the host's, and the last 10 points count.
    """

    def __init__(self, *, follow: bool = True) -> None:
        self._follow = follow
        self._points: deque[Point] = deque(maxlen=_MOST_POINTS if follow else _FEW_POINTS)
        self._newest: Point | None = None  # the most punctual of the second that goes on
        self._since_s = 0.0
        self._slope = 0.0
        self._foot: Point = (0.0, 0.0)

    def restart(self) -> None:
        """Forget where the line lies, but not how steep it is: it may be the same board again."""
        self._points.clear()
        self._newest = None

    @property
    def seconds(self) -> int:
        """How many of the last 60 seconds it knows of."""
        return len(self._points)

    @property
    def fitted(self) -> bool:
        """Whether it knows of enough seconds to say how steep it is: three."""
        return len(self._points) >= _TO_FIT

    @property
    def stretch(self) -> float:
        """Seconds of the host in one of the board."""
        return 1 + self._slope

    def see(self, board_s: float, host_s: float) -> bool:
        """Note that what is of `board_s` had come at `host_s`; say whether this began another second."""
        point = board_s, host_s - board_s
        if self._newest is not None and host_s - self._since_s < _BIN_S:
            if self._above(point, self._newest) < 0:
                self._newest = point
            return False
        full = self._newest is not None
        if self._newest is not None:
            self._take(self._newest)
        self._since_s, self._newest = host_s, point
        return full

    def host(self, board_s: float) -> float:
        """Return the host's time of a board's second, as early as it can be."""
        return board_s + self._offset(board_s)

    def board(self, host_s: float) -> float:
        """Return the board's second at a time of the host."""
        return (host_s - self._offset(0.0)) / self.stretch

    def late(self, board_s: float, host_s: float) -> float:
        """Return by how many of the host's seconds something came late; 0 as long as nothing is known."""
        return host_s - self.host(board_s) if self._newest is not None else 0.0

    def residuals(self) -> list[float]:
        """Return how far each of the last seconds, oldest first, lies above the line, in seconds."""
        return [self._above(point, self._foot) for point in self._points]

    def skip(self, points: int, seconds: float) -> None:
        """Move the last points on by so many of the board's seconds, which were not counted then."""
        moved = [self._points.pop() for _ in range(points)]
        self._points.extend((x + seconds, y - seconds) for x, y in reversed(moved))
        self._fit()

    def _above(self, point: Point, foot: Point) -> float:
        return point[1] - foot[1] - self._slope * (point[0] - foot[0])

    def _offset(self, board_s: float) -> float:
        if self._follow and self.fitted:
            return self._foot[1] + self._slope * (board_s - self._foot[0])
        seen = [*self._points, self._newest] if self._newest else [*self._points]
        return min((y + self._slope * (board_s - x) for x, y in seen), default=0.0)

    def _take(self, point: Point) -> None:
        known = self._follow and self.fitted
        self._points.append(point)
        if known:
            residuals = self.residuals()
            if residuals[-1] < -_EARLY_S:
                self._keep(_TO_FIT)
            elif len(residuals) > _AWAY_POINTS and min(residuals[-_AWAY_POINTS:]) > _AWAY_S:
                self._keep(_AWAY_POINTS)
        self._fit()

    def _keep(self, points: int) -> None:
        while len(self._points) > points:
            self._points.popleft()

    def _fit(self) -> None:
        """Take the edge of the points' lower convex hull at their mean: no line below all is closer to them."""
        if not (self._follow and self.fitted):
            return
        hull: list[Point] = []
        for point in self._points:
            while len(hull) > 1 and _turns_down(hull[-2], hull[-1], point):
                hull.pop()
            hull.append(point)
        middle = sum(x for x, _ in self._points) / len(self._points)
        for (x0, y0), (x1, y1) in pairwise(hull):
            if x1 >= middle and x1 > x0:
                self._foot, self._slope = (x0, y0), max((y1 - y0) / (x1 - x0), -_STEEPEST)
                return


_STEEPEST = 0.99  # the host's clock goes on, however fast samples come


def _turns_down(a: Point, b: Point, c: Point) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])
