"""Where a wearer stands in a plan, why, and what can be said of cues."""

import itertools
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.plan import (
    CueOutcome,
    Day,
    Pain,
    Phase,
    Plan,
    PlanError,
    RestTarget,
    days_of,
    default_plan,
    effect,
    is_withheld,
    load_plan,
    outcomes_of,
    pains_of,
    standing,
)
from services.settings import Settings, load_settings

START = date(2026, 1, 5)
PLAN = Plan(START)
ACTIVE = Plan(START, phase=(Phase("active", 70),))
H = 3600.0


def on(n: int) -> date:
    return START + timedelta(days=n)


def worn(*rests: float | None, first: int = 0) -> list[Day]:
    return [Day(on(first + k), 2 * H, rest) for k, rest in enumerate(rests)]


def sore(*days: int, peak: int | None = None) -> list[Pain]:
    return [Pain(on(k), True, peak) for k in days]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "plan.toml"


def test_the_plan_that_is_written_is_the_default(file: Path) -> None:
    file.write_text(default_plan(START))
    assert load_plan(file) == PLAN


def test_the_phases_follow_each_other_with_their_share_of_cues() -> None:
    days = [standing(PLAN, on(n), [], []) for n in range(-1, 57)]
    phases = [(s.phase.kind if s.phase else None, s.cue_share) for s in days]
    assert [(kind, share, len(list(same))) for (kind, share), same in itertools.groupby(phases)] == [
        (None, 1.0, 1),
        ("baseline", 0.0, 7),
        ("active", 1.0, 14),
        ("faded", 0.67, 14),
        ("faded", 0.33, 14),
        ("washout", 0.0, 7),
        (None, 1.0, 1),
    ]
    assert [s.day for s in days[1:10]] == [1, 2, 3, 4, 5, 6, 7, 1, 2]
    assert "begins on 2026-01-05" in days[0].why
    assert "over" in days[-1].why


def test_a_week_that_met_the_target_is_a_step_up_to_the_ceiling() -> None:
    reviews = standing(ACTIVE, on(49), worn(*[40.0] * 49), []).reviews
    assert [r.after_pct for r in reviews] == [22.5, 25.0, 27.5, 30.0, 30.0, 30.0, 30.0]
    assert [r.date for r in reviews] == [on(7 * k) for k in range(1, 8)]
    assert reviews[0].why == "a step up: the target was met on 7 of 7 worn days"


@pytest.mark.parametrize(
    ("rests", "after"),
    [
        ((40, 40, 40, 40, 40, 10, 10), 22.5),  # 5 of 7
        ((40, 40, 40, 40, 10, 10, 10), 20.0),  # 4 of 7
        ((40, 40), 22.5),
        ((40,), 20.0),  # too few
        ((40, None, None), 20.0),
        ((20.0, 20.0), 22.5),
        ((19.9, 19.9), 20.0),
        ((), 20.0),
    ],
)
def test_a_step_needs_seven_of_ten_worn_days(rests: tuple[float | None, ...], after: float) -> None:
    assert standing(ACTIVE, on(7), worn(*rests), []).rest_target_pct == after


@pytest.mark.parametrize(
    ("pains", "why"),
    [
        (sore(8, 9), "2 days with headache, 0 in the week before"),
        (sore(1, 8), None),
        (sore(1, 2, 8), None),
        ([*sore(1, peak=3), *sore(8, peak=5)], "peaks of 5.0 of 10, 3.0 in the week before"),
        ([*sore(1, peak=3), *sore(8, peak=4)], None),
        ([*sore(1), *sore(8, peak=9)], None),
        ([Pain(on(8), False)], None),
    ],
)
def test_more_pain_is_a_step_back(pains: list[Pain], why: str | None) -> None:
    last = standing(ACTIVE, on(14), worn(*[40.0] * 14), pains).reviews[-1]
    assert (why or "the target was met") in last.why
    assert last.after_pct - last.before_pct == (-2.5 if why else 2.5)


def test_the_target_never_falls_below_five() -> None:
    plan = replace(ACTIVE, rest=RestTarget(5.0, 2.5, 30.0))
    assert standing(plan, on(14), [], sore(8, 9)).rest_target_pct == 5.0


def test_silent_phases_change_nothing() -> None:
    assert standing(PLAN, on(8), worn(*[40.0] * 8), []).reviews == ()
    ended = standing(PLAN, on(80), worn(*[40.0] * 80), [])
    assert [r.date for r in ended.reviews] == [on(7 * k) for k in range(2, 8)]


def test_what_happens_today_or_later_changes_nothing_today() -> None:
    days, pains = worn(*[40.0] * 7), sore(3)
    now = standing(ACTIVE, on(7), days, pains)
    assert standing(ACTIVE, on(7), [*days, *worn(*[0.0] * 9, first=7)], [*pains, *sore(7, 8, 9)]) == now


@settings(max_examples=60, derandomize=True, deadline=None)
@given(data=st.data())
def test_no_records_make_a_step_of_more_than_two_and_a_half_a_week(data: st.DataObject) -> None:
    rest = st.none() | st.floats(0, 100)
    some_days = st.tuples(st.integers(-9, 80), st.floats(0, 9 * H), rest)
    some_pains = st.tuples(st.integers(-9, 80), st.booleans(), st.none() | st.integers(0, 10))
    days = [Day(on(n), worn_s, pct) for n, worn_s, pct in data.draw(st.lists(some_days, unique_by=lambda d: d[0]))]
    pains = [Pain(on(n), headache, peak) for n, headache, peak in data.draw(st.lists(some_pains))]
    found = [standing(ACTIVE, on(n), days, pains) for n in range(72)]
    targets = [s.rest_target_pct for s in found]
    assert all(5 <= t <= 30 for t in targets)
    for n, (one, other) in enumerate(itertools.pairwise(targets), 1):
        assert abs(other - one) <= (2.5 if n % 7 == 0 else 0)
    assert standing(ACTIVE, on(71), days[::-1], pains[::-1]).reviews == found[-1].reviews, "their order does not matter"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "start: expected it to be given"),
        ('start = "soon"', "start: expected a date such as 2026-01-31, got 'soon'"),
        ("start = 2026-01-05T10:00:00", "start: expected a date"),
        ("start = 2026-01-05\nrest.step_pct = 5", "rest.step_pct: expected 0 to 2.5 %, got 5"),
        ("start = 2026-01-05\nrest.ceiling_pct = 60", "rest.ceiling_pct: expected 5 to 30 %, got 60"),
        ("start = 2026-01-05\nrest.ceiling_pct = 10", "rest.ceiling_pct: expected 20 (start_pct) to 30 %"),
        ("start = 2026-01-05\ndose.most_hours = 12", "dose.most_hours: expected 0.5 to 8 h, got 12"),
        ("start = 2026-01-05\ndose.most_hours = 1", "dose.hours_per_day: expected 1 h (most_hours) or less"),
        ("start = 2026-01-05\ndose.hour_per_day = 1", "did you mean hours_per_day (in h)?"),
        ('start = 2026-01-05\n[[phase]]\nkind = "training"', 'phase 1, kind: expected "baseline" or "active"'),
        ('start = 2026-01-05\n[[phase]]\nkind = "faded"', "phase 1, cue_pct: expected more than 0 and less than 100 %"),
        ('start = 2026-01-05\n[[phase]]\nkind = "baseline"\ncue_pct = 50', "cue_pct: expected 0 % or nothing"),
        ('start = 2026-01-05\n[[phase]]\ndays = 0', "phase 1, days: expected 1 to 365 days, got 0"),
        ("start = 2026-01-05\nphase = 3", "phase: expected sections [[phase]], got 3"),
        ("start = 2026-01-05\nphase = []", "phase: expected one [[phase]] or more"),
        ("start = ", "not TOML"),
    ],
)  # fmt: skip
def test_an_unsafe_or_unknown_value_is_refused_with_what_was_expected(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(PlanError, match=r"plan\.toml: ") as error:
        load_plan(file)
    assert said in str(error.value)


def test_settings_name_the_plan_from_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "unshrug.toml").write_text('[plan]\nfile = "anna.toml"')
    assert load_settings(tmp_path / "unshrug.toml").plan.file == str(tmp_path / "anna.toml")
    assert Settings().plan.file == ""


def test_a_lot_withholds_the_share_that_it_should_and_the_same_each_time() -> None:
    drawn = [is_withheld(3, on(k // 30), k % 30, 0.67) for k in range(6000)]
    assert np.mean(drawn) == pytest.approx(0.33, abs=0.02)
    assert drawn == [is_withheld(3, on(k // 30), k % 30, 0.67) for k in range(6000)]
    assert drawn != [is_withheld(4, on(k // 30), k % 30, 0.67) for k in range(6000)]
    assert not any(is_withheld(1, START, k, 1.0) for k in range(100))
    assert all(is_withheld(1, START, k, 0.0) for k in range(100))


def cues(rng: np.random.Generator, n: int, gain: float, drift: float = 0.0) -> list[CueOutcome]:
    """Return outcomes of two fortnights, in the second of which fewer cues are given and there is more rest anyway."""
    out = []
    for share, more in ((0.67, 0.0), (0.33, drift)):
        for _ in range(n):
            is_given = bool(rng.random() < share)
            rest = float(np.clip(rng.normal(40 + more + gain * is_given, 20), 0, 100))
            out.append(CueOutcome(share, is_given, rest, 10.0 if rng.random() < 0.3 + 0.4 * is_given else None))
    return out


def test_what_cues_do_is_the_difference_within_each_share() -> None:
    found = effect(cues(np.random.default_rng(1), 400, 10.0, drift=20.0))
    assert found.rest.points == pytest.approx(10, abs=3)
    assert found.rest.low is not None
    assert found.rest.low > 0
    assert found.relaxed.points == pytest.approx(40, abs=7)
    assert found.rest.given + found.rest.withheld == 800


def test_the_interval_holds_the_truth_95_times_in_100() -> None:
    rng = np.random.default_rng(2)
    held = []
    for _ in range(400):
        rest = effect(cues(rng, 30, 8.0, drift=15.0)).rest
        assert rest.low is not None
        assert rest.high is not None
        held.append(rest.low <= 7.5 <= rest.high)  # what is cut off at 0 and 100 makes it a little less than 8
    assert 0.92 <= np.mean(held) <= 0.98


def test_without_a_lot_nothing_is_said() -> None:
    always = [CueOutcome(1.0, True, 50.0, 3.0)] * 50 + [CueOutcome(0.0, False, 20.0, None)] * 50
    assert effect(always).rest.points is None
    few = effect([CueOutcome(0.5, k % 2 == 0, 50.0, 3.0) for k in range(18)]).rest
    assert (few.given, few.withheld, few.why) == (9, 9, "9 given and 9 withheld; expected 10 of each or more")
    same = effect([CueOutcome(0.5, k % 2 == 0, 50.0, 3.0) for k in range(20)]).rest
    assert (same.points, same.low, same.high) == (0.0, 0.0, 0.0)


STRANGE: list[dict[str, Any]] = [
    {},
    {"date": None},
    {"date": "2026-01-05"},
    {"kind": "headache"},
    {"kind": "headache", "start": 3},
]


def test_payloads_are_read_and_strange_ones_left_out() -> None:
    day = {"date": "2026-01-05", "wear_time_s": 7200.0, "free_rest_pct": 21.5}
    assert days_of([*STRANGE, day, day | {"free_rest_pct": None}]) == [
        Day(START, 7200.0, 21.5),
        Day(START, 7200.0, None),
    ]
    ache = {"kind": "headache", "start": "2026-01-05T23:30:00+01:00", "peak": 4}
    assert pains_of([*STRANGE, ache, ache | {"deleted": True}, {"kind": "no_headache", "date": "2026-01-06"}]) == [
        Pain(START, True, 4),
        Pain(on(1), False, None),
    ]
    cue = {"share": 0.67, "outcome": "withheld", "seq": 1, "rest_after_pct": 12.5, "relaxed_after_s": None}
    assert outcomes_of([*STRANGE, cue, cue | {"seq": 0}, cue | {"share": None}]) == [
        CueOutcome(0.67, False, 12.5, None)
    ]


def test_the_dose_is_that_of_the_last_seven_days() -> None:
    found = standing(ACTIVE, on(10), [*worn(*[10.0] * 10), Day(on(9), 60.0, None)], [])
    assert (found.worn_days, found.worn_hours) == (7, 14.0)
