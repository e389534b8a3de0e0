"""Tension before attacks is compared with that before other weeks' same hours, and no more is said than it shows."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.association import AFTERNOONS, EARLY, Life, false_share, live, result
from services.association import (
    Association,
    Attack,
    Estimate,
    Hour,
    Pairs,
    Rate,
    associate,
    lines,
    odds_of,
)

MONDAY = datetime(2026, 1, 5)  # begins four weeks that are compared with one another
HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)
WEDNESDAY_16 = MONDAY + 2 * DAY + timedelta(hours=16, minutes=40)


def worn(weeks: int, tense_at: Sequence[datetime] = (), tense_s: float = 900.0) -> list[Hour]:
    """Every hour of some weeks worn, calm but for the hours from some times on."""
    tense = set(tense_at)
    starts = [MONDAY + k * HOUR for k in range(weeks * 168)]
    return [Hour(start, 3600.0, tense_s if start in tense else 0.0) for start in starts]


def day_before(onset: datetime) -> datetime:
    return onset.replace(minute=0) - DAY


def headache(onset: datetime, hours: float = 5.0) -> Attack:
    return Attack(onset, onset + timedelta(hours=hours))


def made(b: int, c: int, both: int = 0, neither: int = 0, shift_p: float = 0.01) -> Association:
    """What is found when the pairs are these."""
    pairs = Pairs(b, c, both, neither)
    estimate = Estimate(odds_of(pairs), shift_p, 999, Rate(14, 50.0), Rate(6, 50.0)) if pairs.n >= 24 else None
    return Association(pairs.n, 0, 0, 0, pairs, Pairs(0, 0, 0, 0), 12.0, 11.0, estimate)


def text(association: Association) -> str:
    return "\n".join(lines(association))


def test_odds_of_pairs_are_those_of_the_books() -> None:
    odds = odds_of(Pairs(14, 6, 3, 9))
    assert odds.ratio == pytest.approx(2.333, abs=5e-4)
    assert odds.low == pytest.approx(0.897, abs=5e-4)
    assert odds.high == pytest.approx(6.072, abs=5e-4)
    assert odds.exact_p == pytest.approx(0.1153, abs=5e-5)


def test_what_chance_does_as_easily_is_not_called_a_link() -> None:
    assert "not distinguishable from chance" in text(made(14, 6, 3, 9))
    assert "not distinguishable from chance" in text(made(20, 5, 3, 9, shift_p=0.06))
    assert "occurred together" not in text(made(14, 6, 3, 9))


def test_a_link_is_said_in_words_that_claim_no_cause() -> None:
    caveat = "in your records; this cannot show cause, and tension can be an early symptom of an attack"
    assert f"occurred together more often than comparison days {caveat}" in text(made(20, 5))
    assert f"occurred together less often than comparison days {caveat}" in text(made(5, 20))
    assert "more often" in text(made(12, 0, 6, 6))
    assert "less often" in text(made(0, 12, 6, 6))


@given(st.integers(1, 300))
def test_as_many_one_way_as_the_other_is_no_difference(n: int) -> None:
    odds = odds_of(Pairs(n, n, 0, 0))
    assert (odds.ratio, odds.exact_p) == (1.0, 1.0)
    assert odds.low * (odds.high or 0) == pytest.approx(1.0)


def test_with_an_empty_cell_there_is_an_exact_interval_and_no_ratio() -> None:
    up, down, none = odds_of(Pairs(10, 0, 5, 9)), odds_of(Pairs(0, 10, 5, 9)), odds_of(Pairs(0, 0, 5, 9))
    assert (up.ratio, up.high) == (None, None)
    share = up.low / (1 + up.low)
    assert share**10 == pytest.approx(0.025), "Clopper and Pearson's limit: ten of ten happen in 2.5 %"
    assert (down.ratio, down.low) == (None, 0.0)
    assert (down.high or 0) * up.low == pytest.approx(1.0)
    assert up.exact_p == down.exact_p == pytest.approx(2 / 2**10)
    assert (none.ratio, none.low, none.high, none.exact_p) == (None, 0.0, None, 1.0)
    said = text(made(24, 0))
    assert "interval (exact)" in said
    assert "no upper limit" in said
    assert "Wald" not in said


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_two_directions_mirror_each_other(b: int, c: int) -> None:
    one, other = odds_of(Pairs(b, c, 0, 0)), odds_of(Pairs(c, b, 0, 0))
    assert one.exact_p == other.exact_p
    assert 0 < one.exact_p <= 1
    assert (one.ratio is None) == (other.ratio is None) == (b * c == 0)
    assert one.low * (other.high or math.inf) == pytest.approx(1.0) or one.low == 0


def test_below_24_usable_attacks_nothing_is_estimated() -> None:
    assert made(23, 0).estimate is None
    said = text(made(23, 0))
    assert "An estimate needs 24 usable attacks; there are 23." in said
    assert not any(word in said for word in ("Odds", "p ", "chance", "occurred together", "in 100"))
    attacks = [headache(WEDNESDAY_16 + 4 * WEEK * k + WEEK) for k in range(24)]
    hours = worn(96, [day_before(attack.onset) for attack in attacks])
    assert associate(attacks[:23], hours).estimate is None
    found = associate(attacks, hours)
    assert found.pairs == Pairs(24, 0, 0, 0)
    assert found.estimate
    assert found.estimate.distinguishable


def test_counts_come_before_any_estimate() -> None:
    said = lines(made(20, 5, 3, 9))
    counts, odds, verdict = (next(k for k, line in enumerate(said) if word in line) for word in (
        "comparison high", "Odds ratio", "occurred together"))  # fmt: skip
    assert counts < odds < verdict
    assert said[counts + 1].split()[-2:] == ["3", "20"]
    assert said[counts + 2].split()[-2:] == ["5", "9"]


def test_a_pair_is_an_attack_and_the_same_hour_of_another_week() -> None:
    onset = WEDNESDAY_16 + WEEK
    found = associate([headache(onset)], worn(5, [day_before(onset)]))
    assert (found.attacks, found.pairs, found.early) == (1, Pairs(1, 0, 0, 0), Pairs(0, 0, 0, 1))
    assert (found.worn_before_h, found.worn_compared_h) == (46.0, 46.0)
    others = [day_before(onset + k * WEEK) for k in (-1, 1, 2)]
    assert associate([headache(onset)], worn(8, others)).pairs == Pairs(0, 1, 0, 0)
    assert associate([headache(onset)], worn(8, [day_before(onset), *others])).pairs == Pairs(0, 0, 1, 0)


@pytest.mark.parametrize(
    ("before_h", "main", "early"),
    [(-1, 0, 0), (0, 0, 0), (1, 0, 1), (2, 0, 1), (3, 1, 0), (48, 1, 0), (49, 0, 0)],
)
def test_the_last_two_hours_are_counted_apart_and_the_windows_end_where_they_say(
    before_h: int, main: int, early: int
) -> None:
    onset = WEDNESDAY_16 + WEEK
    tense = onset.replace(minute=0) - before_h * HOUR
    found = associate([headache(onset)], worn(5, [tense]))
    assert (found.pairs.b, found.early.b) == (main, early)


def test_what_counts_is_the_share_of_the_time_worn() -> None:
    onset = WEDNESDAY_16 + WEEK
    hours = [replace(hour, worn_s=1800.0, tense_s=180.0) for hour in worn(5)]
    near = [
        replace(hour, worn_s=3600.0, tense_s=360.0) if onset - 3 * DAY < hour.start < onset else hour for hour in hours
    ]
    assert associate([headache(onset)], near).pairs == Pairs(0, 0, 0, 1), "twice the minutes in twice the time"


def test_an_attack_soon_after_another_is_not_used_and_said() -> None:
    onset = WEDNESDAY_16 + WEEK
    first = headache(onset, hours=10)
    soon, later = headache(onset + timedelta(hours=57.9)), headache(onset + timedelta(hours=58))
    assert associate([first, soon], worn(5)).washout == 1
    assert associate([first, later], worn(5)).washout == 0
    assert "1 within 48 h after another" in text(associate([first, soon], worn(5)))


def test_an_attack_without_an_end_counts_as_long_as_one_may_last() -> None:
    onset = WEDNESDAY_16
    unended = Attack(onset, None)
    assert associate([unended, headache(onset + timedelta(hours=119.9))], worn(5)).washout == 1
    assert associate([unended, headache(onset + timedelta(hours=120))], worn(5)).washout == 0
    second, third = headache(onset + DAY, hours=1), headache(onset + 4 * DAY)
    assert associate([unended, second, third], worn(5)).washout == 1, "over when the next one began"


def test_comparison_times_keep_away_from_attacks() -> None:
    onset, others = WEDNESDAY_16, (WEEK, 2 * WEEK, 3 * WEEK)
    for lasts_h, unmatched in ((4.1, 1), (4.0, 0)):
        after = [headache(onset + week - timedelta(hours=52), lasts_h) for week in others]
        assert associate([headache(onset), *after], worn(5)).unmatched == unmatched
    before = [headache(onset + week + timedelta(hours=47.9)) for week in others]
    assert associate([headache(onset), *before], worn(5)).unmatched == 4
    before[2] = headache(onset + 3 * WEEK + timedelta(hours=48))
    assert associate([headache(onset), *before], worn(5)).unmatched == 3, "the first has one to be compared with"


def test_windows_hardly_worn_fall_out_and_are_counted() -> None:
    onset = WEDNESDAY_16 + WEEK
    window = (onset.replace(minute=0) - 48 * HOUR, onset.replace(minute=0) - 2 * HOUR)
    inside = [hour for hour in worn(5) if window[0] <= hour.start < window[1]]
    outside = [hour for hour in worn(5) if hour not in inside]
    assert associate([headache(onset)], outside + inside[:3]).uncovered == 1
    assert associate([headache(onset)], outside + inside[:4]).pairs.n == 1
    alone = associate([headache(onset)], worn(5)[:1] + inside)
    assert (alone.uncovered, alone.unmatched, alone.pairs.n) == (0, 1, 0)


def test_an_attack_long_after_the_last_wear_is_not_covered() -> None:
    found = associate([headache(MONDAY + 52 * WEEK)], worn(5))
    assert (found.attacks, found.uncovered) == (1, 1)


def test_every_attack_is_counted_once() -> None:
    for seed in range(5):
        found = result(Life(), seed)
        assert found.attacks == found.washout + found.uncovered + found.unmatched + found.pairs.n


def test_nothing_gives_counts_of_zero() -> None:
    for found in (associate([], []), associate([], worn(5))):
        assert (found.attacks, found.pairs, found.early, found.estimate) == (0, Pairs(0, 0, 0, 0), found.pairs, None)
        assert "Attacks in the diary: 0; usable: 0." in lines(found)[0]
    assert associate([headache(WEDNESDAY_16)], []).uncovered == 1


def test_the_order_of_the_records_does_not_matter() -> None:
    attacks, hours = live(Life(), 3)
    assert associate(attacks[::-1], hours[::-1]) == associate(attacks, hours)


def test_neither_the_calendar_nor_the_scale_of_tension_matters() -> None:
    attacks, hours = live(Life(), 4)
    month = 4 * WEEK
    later = [Attack(a.onset + month, a.end and a.end + month) for a in attacks]
    half = [replace(hour, start=hour.start + month, tense_s=hour.tense_s / 2) for hour in hours]
    assert associate(later, half) == associate(attacks, hours)


def test_absolute_risks_are_attacks_by_days_on_which_one_could_begin() -> None:
    attacks = [headache(WEDNESDAY_16 + 4 * WEEK * k + WEEK) for k in range(24)]
    found = associate(attacks, worn(96, [day_before(attack.onset) for attack in attacks]))
    assert found.estimate
    high, calm = found.estimate.exposed, found.estimate.unexposed
    assert (high.attacks, calm.attacks) == (24, 0)
    assert high.days == 24 * 22 / 24, "the hours from 3 to 24 h after the tense one; after the attack none counts"
    lost_days = 24 * (5 + 48) / 24
    assert high.days + calm.days == pytest.approx(96 * 7 - lost_days, abs=3)
    assert found.estimate.risk_ratio is None
    assert Rate(3, 60.0).per_100_days == 5.0


@pytest.mark.parametrize(
    ("attacks", "said"),
    [
        ([headache(WEDNESDAY_16, -1)], "attack of 2026-01-07 16:40: ends at 2026-01-07 15:40; expected no earlier end"),
        ([headache(MONDAY, 5), headache(MONDAY + 4 * HOUR)], "attack of 2026-01-05 04:00: overlaps that of 2026-01-05"),
        ([Attack(MONDAY, None), Attack(MONDAY, None)], "overlaps"),
        ([headache(MONDAY - DAY)], "attack of 2026-01-04 00:00: began before anything was worn"),
        ([Attack(WEDNESDAY_16.replace(tzinfo=UTC), None)], "has a time zone"),
        ([Attack(WEDNESDAY_16, WEDNESDAY_16.replace(tzinfo=UTC))], "has a time zone"),
    ],
)
def test_a_diary_that_cannot_be_is_refused_in_a_sentence(attacks: list[Attack], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        associate(attacks, worn(5))


@pytest.mark.parametrize(
    ("hour", "said"),
    [
        (Hour(MONDAY + timedelta(minutes=1), 60, 0), "expected a full hour"),
        (Hour(MONDAY.replace(tzinfo=UTC), 60, 0), "expected a full hour of naive local time"),
        (Hour(MONDAY - DAY, -1, 0), "hour of 2026-01-04 00:00: worn for -1 s; expected 0 to 7200 s"),
        (Hour(MONDAY - DAY, math.nan, 0), "worn for nan s"),
        (Hour(MONDAY - DAY, 7201, 0), "worn for 7201 s"),
        (Hour(MONDAY - DAY, 60, 61), "tense for 61 s; expected 0 to the 60 s worn"),
        (Hour(MONDAY, 60, 0), "comes twice"),
    ],
)
def test_hours_that_cannot_be_are_refused_in_a_sentence(hour: Hour, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        associate([], [*worn(1), hour])


def test_too_few_shifts_are_refused_and_more_are_made() -> None:
    attacks, hours = live(Life(days=728), 1)
    with pytest.raises(ValueError, match="permutations: expected at least 999, got 998"):
        associate(attacks, hours, permutations=998)
    default, more = (associate(attacks, hours, permutations=n).estimate for n in (999, 3000))
    assert default
    assert more
    assert (default.shifts, more.shifts) == (999, 3000)
    assert default.shift_p == pytest.approx(more.shift_p, abs=0.05)


def test_an_independent_diary_is_seldom_called_a_link() -> None:
    results = [result(Life(), seed) for seed in range(500)]
    assert sum(r.estimate is not None for r in results) > 450
    assert false_share(results) <= 7.0


def test_late_afternoons_and_mondays_are_not_taken_for_a_link() -> None:
    attacks, hours = live(AFTERNOONS, 1)
    late = {attack.onset.replace(minute=0) - k * HOUR for attack in attacks for k in (1, 2)}
    near, all_day = ([h.tense_s / h.worn_s for h in hours if h.start in late], [h.tense_s / h.worn_s for h in hours])
    assert np.mean(near) > 1.3 * np.mean(all_day), "without matching, tension would seem to go before attacks"
    results = [result(AFTERNOONS, seed) for seed in range(100)]
    assert sum(r.estimate is not None for r in results) > 80
    assert false_share(results) <= 7.0
    b, c = (sum(getattr(r.early, cell) for r in results) for cell in "bc")
    assert b == pytest.approx(c, rel=0.2)


def test_tension_that_an_attack_itself_brings_is_no_link_and_shows_in_the_last_two_hours() -> None:
    results = [result(EARLY, seed) for seed in range(100)]
    assert sum(r.estimate is not None for r in results) > 90
    assert false_share(results) <= 7.0
    assert sum(r.early.b for r in results) > 5 * sum(r.early.c for r in results)


def test_a_link_that_is_there_is_found_with_enough_attacks() -> None:
    results = [result(Life(days=1456, effect=math.log(3)), seed) for seed in range(20)]
    estimates = [r.estimate for r in results if r.estimate]
    assert np.mean([r.pairs.n for r in results]) > 80
    assert sum(e.distinguishable for e in estimates) >= 18
    assert all((e.odds.ratio or 0) > 1 for e in estimates)
    assert sum("occurred together more often" in text(r) for r in results) >= 18
