"""How detected events are held against the truth."""

from dataclasses import dataclass, field
from itertools import product

import numpy as np

from benchmarks.scenes import Span

LEAST_OVERLAP = 0.5
STRICT_S = 0.7


def overlap(a: Span, b: Span) -> float:
    """Intersection over union of two stretches."""
    both = min(a[1], b[1]) - max(a[0], b[0])
    return max(0.0, both / (max(a[1], b[1]) - min(a[0], b[0])))


def joined(spans: list[Span], gap_s: float, least_s: float = 0.0) -> list[Span]:
    """Join stretches with gaps of up to `gap_s`, then drop what is shorter than `least_s`."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start - out[-1][1] <= gap_s:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return [(start, end) for start, end in out if end - start >= least_s]


@dataclass(slots=True)
class Score:
    """What was found, of how many, what else, in how many hours; how late, in s; `failed` says why there is nothing."""

    holds: int = 0
    found: int = 0
    exact: int = 0  # found with both ends within STRICT_S
    false: int = 0
    hours: float = 0.0
    onset_s: list[float] = field(default_factory=list)
    offset_s: list[float] = field(default_factory=list)
    failed: str = ""

    def add(self, other: "Score") -> None:
        """Take another recording's score in."""
        self.holds += other.holds
        self.found += other.found
        self.exact += other.exact
        self.false += other.false
        self.hours += other.hours
        self.onset_s += other.onset_s
        self.offset_s += other.offset_s
        self.failed = self.failed or other.failed

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where there was nothing to find and nothing was found."""
        wrong = self.holds - self.found + self.false
        return 1.0 if not wrong else 2 * self.found / (2 * self.found + wrong)

    @property
    def clean(self) -> bool:
        """Whether every hold was found with both ends in time, and nothing else."""
        return not self.failed and self.exact == self.holds and not self.false

    def per_hour(self) -> float:
        """False events per hour."""
        return self.false / self.hours if self.hours else float("nan")


def score(events: list[Span], holds: tuple[Span, ...], seconds: float, maybe: tuple[Span, ...] = ()) -> Score:
    """Match events and holds one to one, best overlap first; an event like one of `maybe` counts neither way."""
    out = Score(holds=len(holds), hours=seconds / 3600)
    pairs = sorted(((overlap(e, h), e, h) for e, h in product(events, holds)), reverse=True)
    free, left = set(events), set(holds)
    for shared, event, hold in pairs:
        if shared < LEAST_OVERLAP or event not in free or hold not in left:
            continue
        free.remove(event)
        left.remove(hold)
        onset, offset = event[0] - hold[0], event[1] - hold[1]
        out.found += 1
        out.exact += max(abs(onset), abs(offset)) <= STRICT_S
        out.onset_s.append(onset)
        out.offset_s.append(offset)
    out.false = sum(not any(overlap(e, m) >= LEAST_OVERLAP for m in maybe) for e in free)
    return out


def spread(delays_s: list[float]) -> str:
    """Mean ± standard deviation in ms."""
    if not delays_s:
        return "–"
    return f"{1000 * np.mean(delays_s):+.0f} ± {1000 * np.std(delays_s):.0f}"
