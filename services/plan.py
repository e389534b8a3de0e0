"""The therapist's plan: phases, the share of cues that is given, the rest to aim at, and what cues have done.

Where the wearer stands follows from the plan and the records alone, so that it can always be said why.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dsp.parameters import parameter
from services.settings import SettingsError, read_toml

_WEEK = timedelta(days=7)
_LEAST_TARGET_PCT = 5.0
_LEAST_DAYS = 2  # worn in a week, for a step
_WORN_S = 600.0
_MORE_PAIN = 2.0
_RELAXED_S = 30.0
_LEAST_CUES = 10  # of each kind, for an estimate

SILENT = ("baseline", "washout")


class PlanError(SettingsError):
    """A plan that cannot be used; the message names file, key, what was wrong and what was expected."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the plan: `baseline` and `washout` measure without cues, `faded` withholds a share by lot."""

    kind: str = parameter("active", "What it is.", choices=("baseline", "active", "faded", "washout"))
    days: int = parameter(14, "How long it lasts.", unit="days", low=1, high=365)
    cue_pct: float = parameter(
        -1.0, "Share of cues that is given; only with `faded`, between 0 and 100.", unit="%", low=-1, high=100
    )

    @property
    def share(self) -> float:
        """Share of cues that is given, 0 to 1."""
        return {"active": 1.0, "faded": self.cue_pct / 100}.get(self.kind, 0.0)


@dataclass(frozen=True, slots=True)
class RestTarget:
    """Less rest than the target, in % of the time, is low rest. It changes by one step a week at most."""

    start_pct: float = parameter(20.0, "Where it begins.", unit="%", low=5, high=30)
    step_pct: float = parameter(2.5, "How much it changes at a time.", unit="%", low=0, high=2.5)
    ceiling_pct: float = parameter(30.0, "It never rises above.", unit="%", low=5, high=30)
    met_pct: float = parameter(
        70.0, "Share of the worn days that must meet it for a step up.", unit="%", low=50, high=100
    )


@dataclass(frozen=True, slots=True)
class Dose:
    """How much to wear it."""

    hours_per_day: float = parameter(2.0, "On a day that it is worn.", unit="h", low=0.5, high=8)
    days_per_week: int = parameter(3, "How many days.", unit="days", low=1, high=7)
    most_hours: float = parameter(8.0, "After so long in a day there are no more cues.", unit="h", low=0.5, high=8)


def _usual_phases() -> tuple[Phase, ...]:
    return (
        Phase("baseline", 7),
        Phase("active", 14),
        Phase("faded", 14, 67.0),
        Phase("faded", 14, 33.0),
        Phase("washout", 7),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it."""

    start: date
    seed: int = parameter(1, "Another number, another lot; it must not change on the way.", low=0, high=2**31)
    rest: RestTarget = field(default_factory=RestTarget)
    dose: Dose = field(default_factory=Dose)
    phase: tuple[Phase, ...] = field(default_factory=_usual_phases)


@dataclass(frozen=True, slots=True)
class Day:
    """A day that is over: how long it was worn, and the rest in it but for the minutes after cues, in %."""

    date: date
    wear_s: float
    free_rest_pct: float | None


@dataclass(frozen=True, slots=True)
class Pain:
    """What the diary says of a day."""

    date: date
    headache: bool
    peak: int | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """The weekly look at the target: from that date on it is `after_pct`."""

    date: date
    before_pct: float
    after_pct: float
    why: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the wearer is on a day: phase, its day from 1 on, the share of cues, the target, and why."""

    date: date
    phase: Phase | None
    day: int
    cue_share: float
    rest_target_pct: float
    reviews: tuple[Review, ...]
    why: str
    worn_days: int  # in the last seven
    worn_hours: float


def load_plan(path: Path) -> Plan:
    """Read a plan; what it leaves out but its start keeps its default. Raises PlanError."""
    try:
        plan: Plan = read_toml(Plan, path)
        _check(plan)
    except PlanError as error:
        raise PlanError(f"{path.name}: {error}") from None
    except SettingsError as error:
        raise PlanError(str(error)) from None
    return plan


def _check(plan: Plan) -> None:
    if not plan.phase:
        raise PlanError("phase: expected one [[phase]] or more")
    for k, phase in enumerate(plan.phase, 1):
        given = phase.cue_pct >= 0
        if phase.kind == "faded" and not 0 < phase.cue_pct < 100:
            raise PlanError(f"phase {k}, cue_pct: expected more than 0 and less than 100 % in a faded phase")
        if phase.kind != "faded" and given and phase.cue_pct != 100 * phase.share:
            raise PlanError(
                f"phase {k}, cue_pct: expected {100 * phase.share:g} % or nothing in the phase {phase.kind}"
            )
    if plan.rest.ceiling_pct < plan.rest.start_pct:
        raise PlanError(f"rest.ceiling_pct: expected {plan.rest.start_pct:g} (start_pct) to 30 %")
    if plan.dose.hours_per_day > plan.dose.most_hours:
        raise PlanError(f"dose.hours_per_day: expected {plan.dose.most_hours:g} h (most_hours) or less")


def default_plan(start: date) -> str:
    """Return a plan as a file that states every default, its range and its meaning."""
    rest, dose = RestTarget(), Dose()
    phases = "\n".join(
        f'[[phase]]\nkind = "{p.kind}"\ndays = {p.days}\n' + (f"cue_pct = {p.cue_pct:g}\n" if p.kind == "faded" else "")
        for p in _usual_phases()
    )
    return f"""\
# A plan for one wearer. `unshrug plan` says where they are in it, and why.
start = {start.isoformat()}
seed = 1  # of the lot that withholds cues; leave it as it is once the plan has begun

[rest]  # less rest than the target, in % of the time, is low rest; it is looked at once a week
start_pct = {rest.start_pct:g}  # 5 to 30
step_pct = {rest.step_pct:g}  # 0 to 2.5: up when the target was met, down when there was more pain
ceiling_pct = {rest.ceiling_pct:g}  # start_pct to 30
met_pct = {rest.met_pct:g}  # 50 to 100: share of the worn days that must have met it

[dose]
hours_per_day = {dose.hours_per_day:g}  # 0.5 to 8
days_per_week = {dose.days_per_week}  # 1 to 7
most_hours = {dose.most_hours:g}  # 0.5 to 8: after so long in a day there are no more cues

# One after the other. baseline and washout measure without cues; active gives each; faded withholds some by lot,
# so that what cues do can be told from what would have happened anyway.
{phases}"""


def standing(plan: Plan, today: date, days: Sequence[Day], pains: Sequence[Pain]) -> Standing:
    """Return where the wearer stands on a day, from the records of the days before it."""
    past = {day.date: day for day in days if plan.start <= day.date < today and day.wear_s >= _WORN_S}
    sore = _sore_days(pains, today)
    target, reviews = plan.rest.start_pct, []
    week = plan.start + _WEEK
    while week <= today:
        phase, _ = _phase_on(plan, week - timedelta(days=1))
        review = _review(plan, week, target, phase, past, sore)
        if review is not None:
            reviews.append(review)
            target = review.after_pct
        week += _WEEK
    phase, day = _phase_on(plan, today)
    recent = [d for d in past.values() if today - d.date <= _WEEK]
    return Standing(
        today,
        phase,
        day,
        1.0 if phase is None else phase.share,
        target,
        tuple(reviews),
        _why(plan, today, phase),
        len(recent),
        sum(d.wear_s for d in recent) / 3600,
    )


def _phase_on(plan: Plan, day: date) -> tuple[Phase | None, int]:
    """Return the phase of a day and the day's number in it; before the start and after the end there is none."""
    n = (day - plan.start).days
    if n < 0:
        return None, 0
    for phase in plan.phase:
        if n < phase.days:
            return phase, n + 1
        n -= phase.days
    return None, n + 1


def _why(plan: Plan, today: date, phase: Phase | None) -> str:
    if today < plan.start:
        return f"the plan begins on {plan.start}; until then cues are as the settings say"
    if phase is None:
        return "the plan is over; cues are as the settings say. Time for a review with the therapist"
    return {
        "baseline": "no cues: this is how it is without them",
        "active": "each cue is given",
        "faded": f"{phase.cue_pct:g} % of the cues are given, by lot: to need them less, and to see what they do",
        "washout": "no cues: this is what has stayed",
    }[phase.kind]


def _review(
    plan: Plan, week: date, target: float, phase: Phase | None, past: dict[date, Day], sore: dict[date, int | None]
) -> Review | None:
    """Look at the seven days before a date."""
    if phase is None or phase.kind in SILENT:
        return None
    worse = _worse(sore, week)
    if worse:
        after = max(_LEAST_TARGET_PCT, target - plan.rest.step_pct)
        return Review(week, target, after, f"a step back: {worse}")
    known = [d for d in past.values() if week - _WEEK <= d.date < week and d.free_rest_pct is not None]
    met = sum(d.free_rest_pct is not None and d.free_rest_pct >= target for d in known)
    said = f"the target was met on {met} of {len(known)} worn days"
    if len(known) < _LEAST_DAYS:
        return Review(week, target, target, f"as before: {len(known)} worn days with known rest are too few")
    if met < plan.rest.met_pct / 100 * len(known) - 1e-9:
        return Review(week, target, target, f"as before: {said}")
    after = min(plan.rest.ceiling_pct, target + plan.rest.step_pct)
    return Review(week, target, max(target, after), f"{'a step up' if after > target else 'as before'}: {said}")


def _sore_days(pains: Iterable[Pain], today: date) -> dict[date, int | None]:
    """Return the days with a headache before today, each with its worst peak."""
    sore: dict[date, int | None] = {}
    for pain in pains:
        if pain.headache and pain.date < today:
            known = [peak for peak in (sore.get(pain.date), pain.peak) if peak is not None]
            sore[pain.date] = max(known, default=None)
    return sore


def _worse(sore: dict[date, int | None], week: date) -> str | None:
    """Say how pain rose against the week before, None if it did not."""
    now, before = ([peak for day, peak in sore.items() if end - _WEEK <= day < end] for end in (week, week - _WEEK))
    if len(now) > len(before):
        return f"{len(now)} days with headache, {len(before)} in the week before"
    peaks = [[p for p in some if p is not None] for some in (now, before)]
    if all(peaks) and np.mean(peaks[0]) >= np.mean(peaks[1]) + _MORE_PAIN:
        return f"peaks of {np.mean(peaks[0]):.1f} of 10, {np.mean(peaks[1]):.1f} in the week before"
    return None


def is_withheld(seed: int, day: date, nth: int, share: float) -> bool:
    """Whether the nth cue of a day is withheld where `share` of them is given: a lot that a restart does not change."""
    drawn = hashlib.sha256(f"{seed} {day.isoformat()} {nth}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") >= share * 2.0**64


@dataclass(frozen=True, slots=True)
class CueOutcome:
    """What came of a cue that a lot gave or withheld: rest in the 5 min after, and when the wearer had relaxed."""

    share: float
    given: bool
    rest_after_pct: float | None
    relaxed_s: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Given less withheld, in percentage points, with its 95 % interval; None with `why` where that cannot be said."""

    given: int
    withheld: int
    points: float | None = None
    low: float | None = None
    high: float | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """What cues do: to the rest in the five minutes after, and to relaxing within 30 s."""

    rest: Difference
    relaxed: Difference


def effect(cues: Iterable[CueOutcome]) -> Effect:
    """Compare cues that a lot gave with those that it withheld.

    Within each share the difference of the means, Welch's variance of it; over the shares the mean of the
    differences, weighted by given * withheld / all, as in a trial with strata (Cochran 1954, Mantel & Haenszel 1959).
    Only where a lot decided: a cue that always comes has nothing to be compared with.
    """
    drawn = [cue for cue in cues if 0 < cue.share < 1]
    rest = [(c.share, c.given, c.rest_after_pct) for c in drawn if c.rest_after_pct is not None]
    relaxed = [
        (c.share, c.given, 100.0 if c.relaxed_s is not None and c.relaxed_s <= _RELAXED_S else 0.0) for c in drawn
    ]
    return Effect(_difference(rest), _difference(relaxed))


def _difference(values: Sequence[tuple[float, bool, float]]) -> Difference:
    given, withheld = (sum(is_given is want for _, is_given, _ in values) for want in (True, False))
    if min(given, withheld) < _LEAST_CUES:
        why = f"{given} given and {withheld} withheld; expected {_LEAST_CUES} of each or more"
        return Difference(given, withheld, why=why)
    parts = []  # weight, difference, its variance, and that over its degrees of freedom
    for share in sorted({share for share, _, _ in values}):
        arms = [np.array([v for s, g, v in values if s == share and g is want]) for want in (True, False)]
        if min(map(len, arms)) < 2:
            continue
        spread = [arm.var(ddof=1) / len(arm) for arm in arms]
        weight = len(arms[0]) * len(arms[1]) / (len(arms[0]) + len(arms[1]))
        parts.append(
            (weight, arms[0].mean() - arms[1].mean(), sum(spread),
             sum(s * s / (len(arm) - 1) for s, arm in zip(spread, arms, strict=True)))
        )  # fmt: skip
    weights = np.array([p[0] for p in parts]) / sum(p[0] for p in parts)
    points = float(np.sum(weights * [p[1] for p in parts]))
    variance = float(np.sum(weights**2 * [p[2] for p in parts]))
    if variance <= 0:
        return Difference(given, withheld, points, points, points)
    freedom = variance**2 / float(np.sum(weights**4 * [p[3] for p in parts]))  # Welch-Satterthwaite
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance)
    return Difference(given, withheld, points, points - half, points + half)


def days_of(payloads: Iterable[dict[str, Any]]) -> list[Day]:
    """Return the days that `summary/day` tells of; what is none is left out."""
    out = []
    for payload in payloads:
        try:
            rest = payload.get("free_rest_pct")
            out.append(
                Day(
                    date.fromisoformat(payload["date"]),
                    float(payload["wear_time_s"]),
                    None if rest is None else float(rest),
                )
            )
        except (KeyError, TypeError, ValueError):
            continue
    return out


def pains_of(entries: Iterable[dict[str, Any]]) -> list[Pain]:
    """Return what the diary says, a day for each entry; the days are those that the entries' own offsets give."""
    out = []
    for entry in entries:
        try:
            if entry.get("deleted") or entry["kind"] not in ("headache", "no_headache"):
                continue
            headache = entry["kind"] == "headache"
            day = date.fromisoformat(entry["start"][:10] if headache else entry["date"])
            out.append(Pain(day, headache, entry.get("peak")))
        except (KeyError, TypeError, ValueError):
            continue
    return out


def outcomes_of(payloads: Iterable[dict[str, Any]]) -> list[CueOutcome]:
    """Return what came of the cues that a lot gave or withheld; those of which nothing is known yet are left out."""
    out = []
    for payload in payloads:
        share, outcome = payload.get("share"), payload.get("outcome")
        if isinstance(share, int | float) and outcome in ("given", "withheld") and payload.get("seq", 0) > 0:
            rest, relaxed = payload.get("rest_after_pct"), payload.get("relaxed_after_s")
            out.append(CueOutcome(float(share), outcome == "given", rest, relaxed))
    return out
