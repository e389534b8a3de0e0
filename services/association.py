"""Tension before attacks, against the same hours of other weeks: counts first, and an estimate from 24 attacks on.

One question, declared beforehand: is there more tension than usual from 48 h to 2 h before an attack? It is asked as a
time-stratified case-crossover study (Maclure 1991; Janes, Sheppard & Lumley 2005) of one person; docs/association.md
says why so. Times are naive and local, because people and their days follow the clock on the wall.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW_H = (48, 2)  # hours before an onset, from and to
EARLY_H = (2, 0)
LEAST_WORN_H, LEAST_EARLY_H = 4.0, 0.5
LEAST_ATTACKS = 24
LEAST_SHIFTS = 999
ALPHA = 0.05

_WASHOUT = timedelta(hours=48)
_LONGEST = timedelta(hours=72)  # of an attack without an end, as long as a migraine lasts by its usual definition
_HOUR = timedelta(hours=1)
_WEEK, _WEEK_H = timedelta(weeks=1), 168
_STRATUM_WEEKS = 4
_HOUR_MS = 3_600_000
_MOST_WORN_S = 7200.0  # the hour that comes twice when summer time ends
_ROUNDING_S = 0.1
_Z = 1.96
_UNKNOWN = -1

Ints = NDArray[np.int64]
Span = tuple[datetime, datetime]  # when an attack began and was over
States = NDArray[np.int8]  # 1 exposed, 0 not, _UNKNOWN where too little was worn


@dataclass(frozen=True, slots=True)
class Attack:
    """One headache of the diary, in naive local time; `end` is None while it is not over or not known."""

    onset: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour, from a full hour of naive local time on, in which the device was worn.

    `worn_s` is the valid wear time in it, `tense_s` how much of that had a sustained shrug or low rest.
    """

    start: datetime
    worn_s: float
    tense_s: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of a window before an attack and its comparison window, by which of them was exposed.

    `b` are those where only the one before the attack was, `c` those where only the comparison window was.
    """

    b: int
    c: int
    both: int
    neither: int

    @property
    def n(self) -> int:
        """All of them."""
        return self.b + self.c + self.both + self.neither


@dataclass(frozen=True, slots=True)
class Odds:
    """What pairs say: b/c, its 95 % interval and the two-sided p of the exact McNemar test.

    Where b or c is 0 there is no ratio, and the interval is exact; `high` is None where nothing bounds it.
    """

    ratio: float | None
    low: float
    high: float | None
    exact_p: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Attacks that began, and the days on which one could have."""

    attacks: int
    days: float

    @property
    def per_100_days(self) -> float | None:
        """None without a day."""
        return 100 * self.attacks / self.days if self.days else None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is said from 24 attacks on. `shift_p` comes from `shifts` circular shifts of tension against the diary.

    `exposed` and `unexposed` are the rates of attacks after more tension than usual, and after no more than usual.
    """

    odds: Odds
    shift_p: float
    shifts: int
    exposed: Rate
    unexposed: Rate

    @property
    def distinguishable(self) -> bool:
        """Whether both p-values are below 0.05. The exact test takes pairs for independent, the shifts do not."""
        return max(self.odds.exact_p, self.shift_p) < ALPHA

    @property
    def risk_ratio(self) -> float | None:
        """The rate after more tension over the other; None where either is not known or the other is 0."""
        more, less = self.exposed.per_100_days, self.unexposed.per_100_days
        return None if more is None or not less else more / less


@dataclass(frozen=True, slots=True)
class Association:
    """Attacks and tension side by side.

    `attacks` = `washout` (began within 48 h after another) + `uncovered` (too little worn before them) + `unmatched`
    (no comparison window) + `pairs.n`. `early` are the pairs of the last two hours, which never join the others.
    `worn_before_h` and `worn_compared_h` are the median wear times of the windows, None without pairs.
    """

    attacks: int
    washout: int
    uncovered: int
    unmatched: int
    pairs: Pairs
    early: Pairs
    worn_before_h: float | None
    worn_compared_h: float | None
    estimate: Estimate | None


def associate(
    attacks: Sequence[Attack], hours: Sequence[Hour], *, seed: int = 1, permutations: int = LEAST_SHIFTS
) -> Association:
    """Compare tension before attacks with tension before comparison times; `seed` draws these and the shifts.

    Both may come in any order. Without any hour, no attack is covered. Raises ValueError for attacks that overlap, end
    before they begin or begin before anything was worn, for hours that come twice or cannot be, for times with a zone,
    and for fewer than 999 permutations.
    """
    if permutations < LEAST_SHIFTS:
        raise ValueError(f"permutations: expected at least {LEAST_SHIFTS}, got {permutations}")
    attacks = _checked_attacks(attacks)
    hours = _checked_hours(hours)
    if not hours:
        none = Pairs(0, 0, 0, 0)
        return Association(len(attacks), 0, len(attacks), 0, none, none, None, None, None)
    if attacks and attacks[0].onset < hours[0].start:
        raise ValueError(f"attack of {_say(attacks[0].onset)}: began before anything was worn; expected it left out")
    rng = np.random.default_rng(seed)
    grid = _Grid(hours)
    spans = _spans(attacks)
    used = _after_washout(spans)
    before, compared = grid.design(used, spans, rng)
    states = grid.states(WINDOW_H, LEAST_WORN_H)
    early = grid.states(EARLY_H, LEAST_EARLY_H)
    case, control, chosen = _pick(states, before, compared)
    matched = (case != _UNKNOWN) & (control != _UNKNOWN)
    covered = int((case != _UNKNOWN).sum())
    estimate = None
    if matched.sum() >= LEAST_ATTACKS:
        shifts = rng.permutation(np.arange(1, len(states)))[:permutations]
        estimate = _estimate(states, before, compared, shifts, grid.at_risk(spans))
    worn_h = grid.worn_h(WINDOW_H)
    return Association(
        attacks=len(attacks),
        washout=len(attacks) - len(used),
        uncovered=len(used) - covered,
        unmatched=covered - int(matched.sum()),
        pairs=_pairs(case, control),
        early=_pairs(*_pick(early, before, compared)[:2]),
        worn_before_h=_median(worn_h[before[matched]]),
        worn_compared_h=_median(worn_h[chosen[matched]]),
        estimate=estimate,
    )


def odds_of(pairs: Pairs) -> Odds:
    """Return b/c with Wald's interval exp(ln(b/c) ± 1.96 √(1/b + 1/c)) and McNemar's exact p (Breslow & Day 1980).

    With b or c at 0 the interval is that of Clopper & Pearson (1934) for b/(b + c), as odds.
    """
    b, c = pairs.b, pairs.c
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    exact_p = min(1.0, 2 * tail)
    if b and c:
        spread = math.exp(_Z * math.sqrt(1 / b + 1 / c))
        return Odds(b / c, b / c / spread, b / c * spread, exact_p)
    bound = (ALPHA / 2) ** (1 / (b + c)) if b + c else 0.0
    low = bound / (1 - bound) if b else 0.0
    high = (1 - bound) / bound if c else None
    return Odds(None, low, high, exact_p)


def lines(association: Association) -> list[str]:
    """Return it in words, for a terminal and a report: counts, the estimate if there is one, the last hours."""
    pairs = association.pairs
    counts = (
        f"Attacks in the diary: {association.attacks}; usable: {pairs.n}. Not used: {association.washout} within 48 h "
        f"after another, {association.uncovered} with too little worn before, {association.unmatched} without a "
        "comparison window."
    )
    compared = (
        f"Tension from {WINDOW_H[0]} h to {WINDOW_H[1]} h before an attack, and before the same time on the same day "
        "of another week; high is above your median for that time."
    )
    out = [counts, compared, *_table(pairs)]
    if association.worn_before_h is not None:
        out.append(
            f"Worn of these {WINDOW_H[0] - WINDOW_H[1]} h (median): {association.worn_before_h:.1f} h before attacks, "
            f"{association.worn_compared_h:.1f} h before comparison times."
        )
    estimate = association.estimate
    if estimate is None:
        out.append(f"An estimate needs {LEAST_ATTACKS} usable attacks; there are {pairs.n}.")
    else:
        out += _words(estimate)
    return [
        *out,
        "Possible early attack: the last 2 h before it, counted apart and no part of the result above.",
        *_table(association.early),
    ]


def _words(estimate: Estimate) -> list[str]:
    odds = estimate.odds
    ratio = "Odds ratio: none, as one count is 0" if odds.ratio is None else f"Odds ratio {odds.ratio:.2f}"
    kind = "exact" if odds.ratio is None else "Wald"
    high = "no upper limit" if odds.high is None else f"{odds.high:.2f}"
    risk = "" if estimate.risk_ratio is None else f"; ratio {estimate.risk_ratio:.2f}"
    link = (
        f"{ratio}; 95 % interval ({kind}) {odds.low:.2f} to {high}; p {_p(odds.exact_p)} (exact McNemar), "
        f"{_p(estimate.shift_p)} ({estimate.shifts} circular shifts)."
    )
    risks = (
        f"Without matching, attacks began {_rate(estimate.exposed)} after high tension, {_rate(estimate.unexposed)} "
        f"otherwise{risk}."
    )
    return [link, risks, _verdict(estimate)]


def _verdict(estimate: Estimate) -> str:
    if not estimate.distinguishable:
        return (
            "High tension and attacks: not distinguishable from chance in your records; this shows neither a link nor "
            "that there is none."
        )
    odds = estimate.odds
    more = odds.low > 0 if odds.ratio is None else odds.ratio > 1
    return (
        f"High tension and attacks occurred together {'more' if more else 'less'} often than comparison days in your "
        "records; this cannot show cause, and tension can be an early symptom of an attack."
    )


def _table(pairs: Pairs) -> list[str]:
    return [
        f"  {'':26}{'comparison high':>17}{'comparison not':>17}",
        f"  {'before the attack high':26}{pairs.both:17}{pairs.b:17}",
        f"  {'before the attack not':26}{pairs.c:17}{pairs.neither:17}",
    ]


def _rate(rate: Rate) -> str:
    per = "" if rate.per_100_days is None else f" ({rate.per_100_days:.1f} in 100)"
    return f"{rate.attacks} times in {rate.days:.0f} days{per}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _say(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def _checked_attacks(attacks: Sequence[Attack]) -> list[Attack]:
    for attack in attacks:
        if attack.onset.tzinfo or (attack.end and attack.end.tzinfo):
            raise ValueError(f"attack of {_say(attack.onset)}: has a time zone; expected naive local time")
        if attack.end and attack.end < attack.onset:
            raise ValueError(f"attack of {_say(attack.onset)}: ends at {_say(attack.end)}; expected no earlier end")
    ordered = sorted(attacks, key=lambda attack: attack.onset)
    for one, other in pairwise(ordered):
        if other.onset < (one.end or one.onset) or other.onset == one.onset:
            raise ValueError(
                f"attack of {_say(other.onset)}: overlaps that of {_say(one.onset)}; expected one at a time"
            )
    return ordered


def _checked_hours(hours: Sequence[Hour]) -> list[Hour]:
    for hour in hours:
        start, worn_s, tense_s = hour.start, hour.worn_s, hour.tense_s
        if start.tzinfo or start.minute or start.second or start.microsecond:
            raise ValueError(f"hour of {start}: expected a full hour of naive local time")
        if not 0 <= worn_s <= _MOST_WORN_S:
            raise ValueError(f"hour of {_say(start)}: worn for {worn_s:g} s; expected 0 to {_MOST_WORN_S:g} s")
        if not 0 <= tense_s <= worn_s + _ROUNDING_S:
            raise ValueError(f"hour of {_say(start)}: tense for {tense_s:g} s; expected 0 to the {worn_s:g} s worn")
    ordered = sorted(hours, key=lambda hour: hour.start)
    for one, other in pairwise(ordered):
        if one.start == other.start:
            raise ValueError(f"hour of {_say(one.start)}: comes twice; expected once")
    return ordered


def _spans(attacks: Sequence[Attack]) -> list[Span]:
    """Return when attacks began and were over; one without an end lasted to the next, 72 h at most."""
    following = [attack.onset for attack in attacks[1:]] + [datetime.max]
    return [
        (attack.onset, attack.end or min(latest, attack.onset + _LONGEST))
        for attack, latest in zip(attacks, following, strict=False)  # without attacks one is left over
    ]


def _after_washout(spans: Sequence[Span]) -> list[datetime]:
    first = [spans[0][0]] if spans else []
    return first + [onset for (_, end), (onset, _) in pairwise(spans) if onset >= end + _WASHOUT]


class _Grid:
    """All hours in a row from a Monday 0:00 on, whole weeks of them, so that a shift in a circle keeps the week.

    At least 48 hours at its end were not worn, so that no window reaches round.
    """

    def __init__(self, hours: Sequence[Hour]) -> None:
        first = hours[0].start.replace(hour=0)
        self._start = first - timedelta(days=first.weekday())
        at = [self._index(hour.start) for hour in hours]
        n = _WEEK_H * math.ceil((at[-1] + 1 + WINDOW_H[0]) / _WEEK_H)
        self._worn_ms, self._tense_ms = np.zeros((2, n), dtype=np.int64)
        self._worn_ms[at] = [round(1000 * hour.worn_s) for hour in hours]
        self._tense_ms[at] = [round(1000 * min(hour.tense_s, hour.worn_s)) for hour in hours]

    def design(self, onsets: Sequence[datetime], spans: Sequence[Span], rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Return the hours of onsets, shape (n,), and of their comparison times in random order, (n, 3).

        Hours that are not on the grid, and comparison times that do not exist, are _UNKNOWN.
        """
        compared = np.full((len(onsets), _STRATUM_WEEKS - 1), _UNKNOWN)
        for row, onset in zip(compared, onsets, strict=True):
            week = (onset.toordinal() - 1) // 7 % _STRATUM_WEEKS  # day 1 was a Monday
            times = [onset + _WEEK * (k - week) for k in range(_STRATUM_WEEKS) if k != week]
            row[:] = rng.permutation([self._known(time) if _free(time, spans) else _UNKNOWN for time in times])
        return np.array([self._known(onset) for onset in onsets], dtype=np.int64), compared

    def states(self, window_h: tuple[int, int], least_h: float) -> States:
        """Return for every hour whether the window before it is exposed, of shape (hours,).

        Exposed is a share of tense time above the median of all windows before the same hour of the week.
        """
        worn, tense = _sums(self._worn_ms, window_h), _sums(self._tense_ms, window_h)
        share = np.where(worn >= least_h * _HOUR_MS, tense / np.maximum(worn, 1), np.nan).reshape(-1, _WEEK_H)
        exposed = np.where(np.isnan(share), _UNKNOWN, share > _medians(share))
        return exposed.astype(np.int8).ravel()

    def worn_h(self, window_h: tuple[int, int]) -> NDArray[np.float64]:
        """Return for every hour how long the device was worn in the window before it."""
        return _sums(self._worn_ms, window_h) / _HOUR_MS

    def at_risk(self, spans: Sequence[Span]) -> NDArray[np.bool_]:
        """Return for every hour whether an attack that counts could have begun in it."""
        free = np.ones(len(self._worn_ms), dtype=np.bool_)
        for onset, end in spans:
            free[self._index(onset) + 1 : self._index(end + _WASHOUT)] = False
        return free

    def _index(self, time: datetime) -> int:
        return (time - self._start) // _HOUR

    def _known(self, time: datetime) -> int:
        at = self._index(time)
        return at if 0 <= at < len(self._worn_ms) else _UNKNOWN


def _free(time: datetime, spans: Sequence[Span]) -> bool:
    return all(time <= onset - _WASHOUT or time >= end + _WASHOUT for onset, end in spans)


def _sums(values: Ints, window_h: tuple[int, int]) -> Ints:
    """Sum over the window before every hour, in a circle. Whole numbers, so that equal windows compare as equal."""
    far, near = window_h
    total = np.concatenate([[0], np.cumsum(np.concatenate([values[-far:], values]))])
    n = len(values)
    return np.asarray(total[far - near : far - near + n] - total[:n])


def _medians(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of what is known in each column, NaN where nothing is."""
    ordered = np.sort(rows, axis=0)
    n, columns = np.isfinite(rows).sum(axis=0), np.arange(rows.shape[1])
    return np.asarray((ordered[(n - 1) // 2, columns] + ordered[n // 2, columns]) / 2)


def _pick(states: States, before: Ints, compared: Ints, shifts: Ints | int = 0) -> tuple[States, States, Ints]:
    """Return the states before attacks and before the first comparison time that is known, and that hour.

    With shifts of shape (s, 1), tension is moved against the diary by so many hours, and the shape is (s, n).
    """
    case = _at(states, before, shifts)
    control = _at(states, compared, np.expand_dims(shifts, -1))
    first = np.expand_dims((control != _UNKNOWN).argmax(axis=-1), -1)
    chosen = np.take_along_axis(np.broadcast_to(compared, control.shape), first, axis=-1)
    return case, np.take_along_axis(control, first, axis=-1)[..., 0], chosen[..., 0]


def _at(states: States, hours: Ints, shifts: Ints | int) -> States:
    return np.where(hours == _UNKNOWN, np.int8(_UNKNOWN), states[(hours - shifts) % len(states)])


def _pairs(case: States, control: States) -> Pairs:
    known = (case != _UNKNOWN) & (control != _UNKNOWN)
    counts = [int((known & (case == x) & (control == y)).sum()) for x, y in ((1, 0), (0, 1), (1, 1), (0, 0))]
    return Pairs(*counts)


def _estimate(states: States, before: Ints, compared: Ints, shifts: Ints, at_risk: NDArray[np.bool_]) -> Estimate:
    case, control, _ = _pick(states, before, compared)
    shifted = _pick(states, before, compared, shifts[:, np.newaxis])
    extreme = int((_lopsided(*shifted[:2]) >= _lopsided(case, control)).sum())
    exposed, unexposed = (Rate(int((case == x).sum()), float((at_risk & (states == x)).sum() / 24)) for x in (1, 0))
    return Estimate(odds_of(_pairs(case, control)), (1 + extreme) / (1 + len(shifts)), len(shifts), exposed, unexposed)


def _lopsided(case: States, control: States) -> NDArray[np.float64]:
    """Return (b - c)²/(b + c), McNemar's statistic, over the last axis."""
    known = (case != _UNKNOWN) & (control != _UNKNOWN)
    b, c = (known & (case > control)).sum(axis=-1), (known & (case < control)).sum(axis=-1)
    return np.asarray((b - c) ** 2 / np.maximum(b + c, 1))


def _median(values: NDArray[np.float64]) -> float | None:
    return float(np.median(values)) if len(values) else None


def attacks_of(entries: Iterable[dict[str, Any]]) -> list[Attack]:
    """Return the headaches of a diary, in the machine's local time."""
    return [
        Attack(_local(entry["start"]), _local(entry["end"]) if entry.get("end") else None)
        for entry in entries
        if entry.get("kind") == "headache" and not entry.get("deleted")
    ]


def hours_of(payloads: Iterable[dict[str, Any]]) -> list[Hour]:
    """Return the hours that `summary/day` tells of."""
    return [
        Hour(datetime.fromisoformat(day["date"]) + k * _HOUR, hour["wear_s"], min(hour["tense_s"], hour["wear_s"]))
        for day in payloads
        for k, hour in enumerate(day.get("hours", ()))
        if hour["wear_s"] > 0
    ]


def _local(time: str) -> datetime:
    return datetime.fromisoformat(time).astimezone().replace(tzinfo=None)
