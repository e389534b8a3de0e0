"""When there is a cue, and above all when there is none."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.detect import Phase
from dsp.low_rest import LowRest
from dsp.quality import Quality, State
from services.coach import PROMPTS, Coach, Terms
from services.messages import Cue
from services.plan import is_withheld
from services.settings import CueSettings
from tests.services.conftest import shrug

HELD_S = 5.0
DEFAULT = CueSettings()


@dataclass(frozen=True)
class Held:
    """A shrug as the wearer makes it; in each pause the shoulders are down, and the shrug goes on after it."""

    start_s: float
    end_s: float
    channel: int = 0
    pauses: tuple[tuple[float, float], ...] = ()

    def is_on(self, at_s: float) -> bool:
        return self.start_s <= at_s < self.end_s and not any(a <= at_s < b for a, b in self.pauses)

    def steps(self) -> Iterable[tuple[float, Phase]]:
        yield self.start_s, "started"
        if self.start_s + HELD_S < self.end_s:
            yield self.start_s + HELD_S, "held"
        for start_s, end_s in self.pauses:
            yield start_s, "relaxed"
            yield end_s, "resumed"
        yield self.end_s, "ended"


@dataclass(frozen=True)
class Low:
    """Low rest from its start on, known two minutes later; at times the muscle does rest, though not enough."""

    start_s: float
    end_s: float
    channel: int = 0
    rests: tuple[tuple[float, float], ...] = ()

    @property
    def known_s(self) -> float:
        return self.start_s + 120


@dataclass(frozen=True)
class Life:
    """What happens to the coach: tension, and per stretch bad signal on a channel, no board, or what forbids cues."""

    shrugs: Sequence[Held]
    bad: Sequence[tuple[int, float, float]] = ()
    no_board: Sequence[tuple[float, float]] = ()
    settings: CueSettings = field(default_factory=CueSettings)
    low: Sequence[Low] = ()
    forbidden: Sequence[tuple[float, float]] = ()
    terms: Terms = field(default_factory=Terms)

    def cues(self, step_s: float = 0.5, *, late: bool = False) -> list[Cue]:
        """Let the coach live through it in steps; `late`, it hears at the end of a step what began with the next."""
        coach = Coach(self.settings, HELD_S)
        coach.follow(self.terms)
        todo = deque(self._events(coach))
        steps = round((todo[-1][0] if todo else 0.0) / step_s) + 100
        on = [False, False]
        cues: list[Cue] = []
        for now_s in (k * step_s for k in range(1, steps)):
            if late:
                cues += coach.advance(now_s, (on[0], on[1]), partial(self._rests, now_s))
            while todo and todo[0][0] <= now_s + 1e-9:
                cues += todo.popleft()[1](on)
            if not late:
                cues += coach.advance(now_s, (on[0], on[1]), partial(self._rests, now_s))
        return cues

    def _rests(self, at_s: float, channel: int) -> bool:
        return any(low.channel == channel and a <= at_s < b for low in self.low for a, b in low.rests)

    def _events(self, coach: Coach) -> list[tuple[float, Callable[[list[bool]], list[Cue]]]]:
        def step(s: Held, at_s: float, phase: Phase, on: list[bool]) -> list[Cue]:
            on[s.channel] = phase in ("started", "held", "resumed")
            end_s = at_s if phase in ("relaxed", "ended") else None
            return coach.shrug(shrug(phase, at_s, s.start_s, end_s, channel=s.channel))

        def judge(channel: int, at_s: float, state: State, _: list[bool]) -> list[Cue]:
            coach.quality(Quality(channel, at_s, state, ("saturation",) if state == "bad" else ()))
            return []

        def wear_out(low: Low, phase: Phase, _: list[bool]) -> list[Cue]:
            at_s, end_s = (low.known_s, None) if phase == "started" else (low.end_s, low.end_s)
            return coach.low_rest(LowRest(phase, low.channel, at_s, low.start_s, end_s, 8.0, 20.0, 1.0))

        def forbid(reason: str | None, _: list[bool]) -> list[Cue]:
            coach.forbidden = reason
            return []

        def plug(ok: bool, _: list[bool]) -> list[Cue]:
            coach.board(ok=ok)
            return []

        events: list[tuple[float, Callable[[list[bool]], list[Cue]]]] = []
        for channel, start_s, end_s in self.bad:
            events += (start_s, partial(judge, channel, start_s, "bad")), (end_s, partial(judge, channel, end_s, "ok"))
        for start_s, end_s in self.no_board:
            events += (start_s, partial(plug, False)), (end_s, partial(plug, True))
        for start_s, end_s in self.forbidden:
            events += (start_s, partial(forbid, "quiet hours")), (end_s, partial(forbid, None))
        for low in self.low:
            events += (low.known_s, partial(wear_out, low, "started")), (low.end_s, partial(wear_out, low, "ended"))
        events += ((at_s, partial(step, s, at_s, phase)) for s in self.shrugs for at_s, phase in s.steps())
        return sorted(events, key=lambda event: event[0])


def given_cues(cues: Iterable[Cue]) -> list[tuple[float, str | None]]:
    return [(cue.at_s, cue.pattern) for cue in cues if cue.outcome == "given"]


def outcomes(cues: Iterable[Cue]) -> list[tuple[str, str | None]]:
    return [(cue.outcome, cue.reason) for cue in cues]


def test_ten_shrugs_in_a_row_are_cued_once_a_minute() -> None:
    cues = Life([Held(t, t + 12) for t in range(0, 200, 20)]).cues(0.05)
    assert given_cues(cues) == [(10.0, "cue"), (70.0, "cue"), (130.0, "cue"), (190.0, "cue")]
    assert [c.reason for c in cues if c.outcome == "suppressed"] == ["refractory"] * 6


def test_who_relaxes_within_the_grace_is_not_cued() -> None:
    cues = Life([Held(0, 9)]).cues()
    assert cues == [Cue(9.0, "self_corrected", 0, 0.0)]


def test_a_shrug_that_is_not_held_is_no_business_of_the_coach() -> None:
    assert Life([Held(0, 4.5)]).cues() == []


def test_a_cue_comes_exactly_when_hold_and_grace_are_over() -> None:
    assert given_cues(Life([Held(0.25, 12)]).cues(0.05)) == [(10.25, "cue")]
    assert given_cues(Life([Held(0, 10.001)]).cues(1.0)) == [(10.0, "cue")]
    assert given_cues(Life([Held(0, 10)]).cues(0.05)) == []


def test_a_shrug_held_on_is_cued_twice_and_then_left_alone() -> None:
    assert given_cues(Life([Held(0, 118)]).cues()) == [(10.0, "cue"), (30.0, "escalation")]


def test_who_relaxes_after_the_cue_hears_no_more() -> None:
    assert given_cues(Life([Held(0, 29.5)]).cues()) == [(10.0, "cue")]
    assert given_cues(Life([Held(0, 60, pauses=((15, 50),))]).cues()) == [(10.0, "cue")]
    assert given_cues(Life([Held(0, 60, pauses=((15, 18),))]).cues()) == [(10.0, "cue")]


def test_there_is_no_escalation_for_a_level_that_is_down_when_it_falls_due() -> None:
    coach = Coach(DEFAULT, HELD_S)
    coach.shrug(shrug("held", 5.0, 0.0))
    assert given_cues(coach.advance(10.0, (True,))) == [(10.0, "cue")]
    assert coach.advance(30.0, (False,)) == []


def test_a_hold_that_the_cap_cuts_in_two_is_still_one_hold() -> None:
    coach = Coach(CueSettings(), 5.0)
    cues: list[Cue] = []
    for k in range(6):
        start_s, end_s = 120.0 * k, 120.0 * (k + 1)
        cues += coach.shrug(shrug("held", start_s + 5.2, start_s))
        for at_s in range(int(start_s) + 6, int(end_s) + 1):
            cues += coach.advance(float(at_s), (True,))
        cues += coach.shrug(replace(shrug("ended", end_s + 0.2, start_s, end_s), long=True))
    assert given_cues(cues) == [(10.0, "cue"), (30.0, "escalation")]


def test_both_shoulders_at_once_are_one_cue_and_one_escalation() -> None:
    cues = Life([Held(0, 60), Held(1, 60, channel=1)]).cues()
    assert given_cues(cues) == [(10.0, "cue"), (30.0, "escalation")]
    assert [c.outcome for c in cues] == ["given", "given"]


def test_the_other_shoulder_keeps_the_escalation_up() -> None:
    cues = Life([Held(0, 12), Held(1, 60, channel=1)]).cues()
    assert [(c.at_s, c.channel, c.pattern) for c in cues] == [(10.0, 0, "cue"), (30.0, 1, "escalation")]


def test_a_shrug_that_had_its_escalation_gets_none_for_the_other_shoulder() -> None:
    cues = Life([Held(0, 118), Held(80, 95, channel=1)]).cues()
    assert [(c.at_s, c.channel, c.pattern) for c in cues if c.outcome == "given"] == [
        (10.0, 0, "cue"),
        (30.0, 0, "escalation"),
        (90.0, 1, "cue"),
    ]


def test_a_shrug_that_comes_too_soon_is_cued_when_the_time_is_over() -> None:
    assert given_cues(Life([Held(0, 12), Held(20, 118)]).cues()) == [(10.0, "cue"), (70.0, "cue"), (90.0, "escalation")]


def test_an_escalation_counts_as_the_last_cue() -> None:
    times = given_cues(Life([Held(0, 31), Held(60, 118)]).cues())
    assert times == [(10.0, "cue"), (30.0, "escalation"), (90.0, "cue"), (110.0, "escalation")]


def test_a_short_pause_starts_the_grace_again() -> None:
    cues = Life([Held(0, 30, pauses=((8, 9),))]).cues()
    assert given_cues(cues) == [(14.0, "cue")]


def cue_after_a_dip(down_until: int) -> tuple[list[Cue], list[Cue]]:
    """Return the cues while a held shrug is down for some hops of 50 ms from 9.8 s on, and with the hop after them."""
    coach = Coach(DEFAULT, HELD_S)
    coach.shrug(shrug("held", 5.0, 0.0))
    down = [cue for k in range(196, down_until) for cue in coach.advance(k * 0.05, (False,))]
    return down, coach.advance(down_until * 0.05, (True,))


def test_there_is_no_cue_while_the_level_is_down_though_the_shrug_is_not_over() -> None:
    down, up = cue_after_a_dip(206)
    assert down == []
    assert given_cues(up) != []


def test_a_cue_that_waited_for_the_level_says_when_it_was_given() -> None:
    _, up = cue_after_a_dip(206)
    assert up[0].at_s == pytest.approx(206 * 0.05)


@pytest.mark.parametrize(
    ("life", "reason"),
    [
        (Life([Held(0, 20)], settings=replace(DEFAULT, enabled=False)), "cues are off"),
        (Life([Held(0, 20)], settings=replace(DEFAULT, per_hour=0)), "0 cues in 1 h"),
        (Life([Held(0, 20)], settings=replace(DEFAULT, per_day=0)), "0 cues in 24 h"),
    ],
)
def test_a_cue_that_may_not_be_is_suppressed_with_its_reason(life: Life, reason: str) -> None:
    assert life.cues() == [Cue(10.0, "suppressed", 0, 0.0, reason=reason)]


def test_a_moment_of_bad_signal_only_puts_the_cue_off() -> None:
    cues = Life([Held(0, 20)], bad=[(0, 9.9, 10.6)]).cues(0.05)
    assert [(c.at_s, c.outcome) for c in cues] == [(11.0, "given")]


def test_a_hold_whose_signal_stays_bad_is_suppressed_once_for_that_reason() -> None:
    cues = Life([Held(0, 20)], bad=[(0, 8, 30)]).cues()
    assert outcomes(cues) == [("given", "bad signal: saturation"), ("suppressed", "bad signal: saturation")]
    assert given_cues(cues) == [(18.0, "sensor")]


def test_there_is_no_cue_on_late_data() -> None:
    coach = Coach(DEFAULT, HELD_S)
    coach.shrug(shrug("held", 5.0, 0.0))
    coach.fresh(yes=False)
    assert coach.advance(10.0, (True,)) == coach.advance(11.0, (True,)) == []
    coach.fresh(yes=True)
    assert given_cues(coach.advance(12.0, (True,))) == [(12.0, "cue")]
    coach.fresh(yes=False)
    assert coach.advance(32.0, (True,)) == []


def test_a_hold_that_the_cap_cuts_was_not_self_corrected() -> None:
    coach = Coach(replace(DEFAULT, grace_s=60.0), HELD_S)
    coach.shrug(shrug("held", 5.0, 0.0))
    assert coach.shrug(replace(shrug("ended", 30.2, 0.0, 30.0), long=True)) == []


def test_a_shrug_that_ends_while_it_waits_is_suppressed_for_that_reason() -> None:
    cues = Life([Held(0, 12), Held(20, 40)]).cues()
    assert outcomes(cues) == [("given", None), ("suppressed", "refractory")]
    assert cues[1].at_s == 40.0
    assert cues[1].start_s == 20.0


def test_bad_signal_on_one_side_leaves_the_other_its_cues() -> None:
    assert given_cues(Life([Held(0, 20, channel=1)], bad=[(0, 0, 30)]).cues()) == [(10.0, "cue")]


def test_a_warning_is_no_bad_signal() -> None:
    coach = Coach(DEFAULT, HELD_S)
    coach.quality(Quality(0, 1.0, "warn", ("lost",)))
    coach.shrug(shrug("held", 5.0, 0.0))
    assert [c.outcome for c in coach.advance(10.0, (True, False))] == ["given"]


def test_no_escalation_on_a_signal_gone_bad() -> None:
    assert given_cues(Life([Held(0, 60)], bad=[(0, 25, 35)]).cues()) == [(10.0, "cue")]


@pytest.mark.parametrize(("start_s", "end_s"), [(3, 200), (8, 9.5), (9, 40)])
def test_there_is_never_a_cue_for_a_shrug_that_lost_its_board(start_s: float, end_s: float) -> None:
    cues = Life([Held(0, 118)], no_board=[(start_s, end_s)]).cues()
    assert given_cues(cues) == ([(10.0, "cue"), (30.0, "escalation")] if start_s < HELD_S and end_s < HELD_S else [])


def test_there_is_no_cue_without_a_board() -> None:
    coach = Coach(DEFAULT, HELD_S)
    coach.board(ok=False)
    coach.shrug(shrug("held", 5.0, 0.0))
    assert outcomes(coach.advance(10.0, (True, False))) == [("suppressed", "no board")]


def test_losing_the_board_cancels_the_escalation() -> None:
    assert given_cues(Life([Held(0, 118)], no_board=[(20, 25)]).cues()) == [(10.0, "cue")]


def test_a_shrug_cut_off_by_lost_data_was_not_self_corrected() -> None:
    coach = Coach(DEFAULT, HELD_S)
    coach.shrug(shrug("held", 5.0, 0.0))
    assert coach.shrug(shrug("ended", 9.0, 0.0, 7.0, truncated=True)) == []


def test_no_more_than_six_cues_in_an_hour() -> None:
    cues = Life([Held(t, t + 12) for t in range(0, 7200, 120)]).cues()
    times = [at for at, _ in given_cues(cues)]
    assert times == [10, 130, 250, 370, 490, 610, *(3600 + t for t in (10, 130, 250, 370, 490, 610))]
    assert {c.reason for c in cues if c.outcome == "suppressed"} == {"6 cues in 1 h"}


def test_an_escalation_counts_against_the_hour_too() -> None:
    cues = Life([Held(t, t + 50) for t in range(0, 1200, 120)]).cues()
    assert [pattern for _, pattern in given_cues(cues)] == ["cue", "escalation"] * 3


def test_no_more_than_thirty_cues_in_a_day() -> None:
    cues = Life([Held(t, t + 12) for t in range(0, 30 * 3600, 300)]).cues(1.0)
    times = [at for at, _ in given_cues(cues)]
    assert len([t for t in times if t < 86400]) == 30
    assert all(sum(t <= u < t + 86400 for u in times) <= 30 for t in times)
    assert max(times) > 86400
    assert "30 cues in 24 h" in {c.reason for c in cues}


def test_low_rest_is_cued_after_its_grace_and_again_while_it_lasts() -> None:
    cues = Life([], low=[Low(0, 3000)]).cues()
    assert [(c.at_s, c.outcome, c.trigger, c.start_s) for c in cues] == [
        (125.0, "given", "low_rest", 0.0),
        (1325.0, "given", "low_rest", 0.0),
        (2525.0, "given", "low_rest", 0.0),
    ]


@pytest.mark.parametrize("low", [Low(0, 123), Low(0, 600, rests=((122, 130),))])
def test_who_rests_within_the_grace_is_not_cued_for_low_rest(low: Low) -> None:
    cues = Life([], low=[low]).cues()
    assert [(c.outcome, c.trigger) for c in cues] == [("self_corrected", "low_rest")]
    assert cues[0].at_s in (122.0, 123.0)


def test_one_cue_serves_low_rest_on_both_sides() -> None:
    assert given_cues(Life([], low=[Low(0, 1000), Low(0, 1000, channel=1)]).cues()) == [(125.0, "cue")]


def test_low_rest_that_falls_due_too_soon_after_a_cue_waits_and_says_so_when_it_is_over() -> None:
    life = Life([Held(100, 112)], low=[Low(0, 400)])
    assert given_cues(life.cues()) == [(110.0, "cue"), (170.0, "cue")]
    cues = replace(life, low=[Low(0, 150)]).cues()
    assert outcomes(cues) == [("given", None), ("suppressed", "refractory")]


def test_low_rest_has_no_stronger_cue() -> None:
    assert {p for _, p in given_cues(Life([], low=[Low(0, 3000)]).cues())} == {"cue"}


def ignored(n: int) -> list[Held]:
    """Return shrugs, five minutes apart, each held on for 50 s after its cue; the escalation counts as a cue."""
    return [Held(300.0 * k, 300.0 * k + 60) for k in range(n)]


def test_three_cues_in_a_row_without_an_answer_double_the_time_to_the_next() -> None:
    plenty = replace(DEFAULT, per_hour=30, per_day=200, refractory_s=100.0)
    for before, wait_s in ((2, 100.0), (3, 200.0)):
        last_s = 300.0 * (before - 1) + 30  # the escalation of the last one
        shrugs = [*ignored(before), Held(last_s + 40, last_s + 500)]
        times = [at for at, _ in given_cues(Life(shrugs, settings=plenty).cues())]
        assert times[2 * before] == last_s + wait_s


def test_an_answer_ends_the_back_off() -> None:
    plenty = replace(DEFAULT, per_hour=30, per_day=200, refractory_s=100.0)
    shrugs = [*ignored(3), Held(900, 912), Held(950, 1200)]
    assert (1010.0, "cue") in given_cues(Life(shrugs, settings=plenty).cues())


def test_the_back_off_ends_at_a_quarter_of_an_hour() -> None:
    plenty = replace(DEFAULT, per_hour=30, per_day=200)
    long = [Held(2000.0 * k, 2000.0 * k + 100) for k in range(30)]
    again = Held(2000.0 * 29 + 200, 2000.0 * 29 + 3000)
    times = [at for at, _ in given_cues(Life([*long, again], settings=plenty).cues(1.0))]
    assert times[60] == 2000.0 * 29 + 30 + 900


def test_a_signal_that_stays_bad_is_told_once_and_not_twice_in_ten_minutes() -> None:
    bad = [(0, 100, 105), (0, 200, 260), (0, 300, 340), (0, 900, 2000), (1, 210, 2000)]
    cues = Life([], bad=bad, settings=DEFAULT).cues()
    assert [(c.at_s, c.channel, c.pattern, c.trigger, c.reason) for c in cues] == [
        (210.0, 0, "sensor", "sensor", "bad signal: saturation"),
        (910.0, 0, "sensor", "sensor", "bad signal: saturation"),
    ]


@pytest.mark.parametrize(
    "life",
    [
        Life([], bad=[(0, 100, 160)], forbidden=[(50, 200)]),
        Life([], bad=[(0, 100, 160)], settings=replace(DEFAULT, enabled=False)),
        Life([], bad=[(0, 100, 160)], no_board=[(105, 170)]),
        Life([], bad=[(0, 100, 160)], settings=replace(DEFAULT, per_hour=0)),
    ],
)
def test_a_bad_signal_is_not_told_where_the_motor_must_be_still(life: Life) -> None:
    assert life.cues() == []


def test_in_quiet_hours_there_is_no_cue_and_it_says_so() -> None:
    cues = Life([Held(0, 30)], low=[Low(0, 400)], forbidden=[(5, 300)]).cues()
    assert outcomes(cues) == [("suppressed", "quiet hours"), ("suppressed", "quiet hours")]


def test_a_silent_phase_of_the_plan_has_no_cue_but_tells_a_bad_signal() -> None:
    life = Life([Held(0, 30)], bad=[(1, 100, 160)], terms=Terms(share=0.0, silent="the plan's baseline is silent"))
    assert outcomes(life.cues()) == [
        ("suppressed", "the plan's baseline is silent"),
        ("given", "bad signal: saturation"),
    ]


DAY = date(2026, 1, 31)


def test_a_lot_withholds_its_share_and_nothing_follows_from_such_a_cue() -> None:
    plenty = replace(DEFAULT, per_hour=30, per_day=200)
    shrugs = [Held(200.0 * k, 200.0 * k + 12) for k in range(90)]
    cues = Life(shrugs, settings=plenty, terms=Terms(DAY, share=0.67, seed=7)).cues()
    drawn = [c for c in cues if c.share is not None]
    assert [c.outcome == "withheld" for c in drawn] == [is_withheld(7, DAY, k, 0.67) for k in range(90)]
    assert {c.share for c in drawn} == {0.67}
    withheld = {c.start_s for c in drawn if c.outcome == "withheld"}
    assert 20 <= len(withheld) <= 40
    assert not withheld & {c.start_s for c in cues if c.outcome == "given"}


def test_the_lot_goes_on_after_a_restart_and_begins_anew_with_the_day() -> None:
    def drawn(coach: Coach, n: int) -> list[str]:
        out: list[str] = []
        for k in range(n):
            coach.shrug(shrug("held", 200.0 * k + 5, 200.0 * k))
            out += [c.outcome for c in coach.advance(200.0 * k + 10, (True,)) if c.share is not None]
            coach.shrug(shrug("ended", 200.0 * k + 15, 200.0 * k, 200.0 * k + 14))
        return out

    terms = Terms(DAY, share=0.5, seed=1)
    plenty = replace(DEFAULT, per_hour=30, per_day=200)
    one = Coach(plenty, HELD_S)
    one.follow(terms)
    whole = drawn(one, 10)
    again = Coach(plenty, HELD_S)
    again.remember([], DAY, 4)
    again.follow(terms)
    assert drawn(again, 6) == whole[4:]
    one.follow(replace(terms, date=date(2026, 2, 1)))
    one.new_signal()
    later = [is_withheld(1, date(2026, 2, 1), k, 0.5) for k in range(3)]
    assert [o == "withheld" for o in drawn_from(one, 4000.0, 3)] == later


def drawn_from(coach: Coach, at_s: float, n: int) -> list[str]:
    out: list[str] = []
    for k in range(n):
        start_s = at_s + 200.0 * k
        coach.shrug(shrug("held", start_s + 5, start_s))
        out += [c.outcome for c in coach.advance(start_s + 10, (True,)) if c.share is not None]
        coach.shrug(shrug("ended", start_s + 15, start_s, start_s + 14))
    return out


def test_cues_of_an_earlier_run_count() -> None:
    coach = Coach(DEFAULT, HELD_S)
    coach.remember([-3000.0, -2000.0, -1000.0, -500.0, -200.0, -20.0], DAY, 0)
    coach.shrug(shrug("held", 5.0, 0.0))
    assert coach.advance(10.0, (True,)) == []  # the last one is too recent
    assert outcomes(coach.advance(40.0, (True,))) == [("suppressed", "6 cues in 1 h")]


def test_what_the_wearer_has_withdrawn_is_not_proposed_and_there_is_no_escalation_against_their_will() -> None:
    life = Life([Held(0, 60)], low=[Low(100, 5000)])
    proposed = {c.prompt for c in life.cues() if c.outcome == "given" and c.trigger == "low_rest"}
    assert proposed == {PROMPTS["walk"], PROMPTS["stretch"], PROMPTS["drop"]}
    cues = replace(life, terms=Terms(withdrawn=frozenset({"stretch", "drop", "escalation"}))).cues()
    assert {c.prompt for c in cues if c.outcome == "given"} == {None, PROMPTS["walk"]}
    assert {c.pattern for c in cues if c.outcome == "given"} == {"cue"}


@st.composite
def shrugs_of(draw: st.DrawFn, channel: int) -> list[Held]:
    out, at_s = [], 0.0
    for _ in range(draw(st.integers(0, 25))):
        start_s = at_s + draw(st.integers(2, 200)) / 2
        at_s = start_s + draw(st.integers(8, 240)) / 2
        pauses = []
        if at_s - start_s > 10 and draw(st.booleans()):
            first = draw(st.integers(12, int(2 * (at_s - start_s)) - 2)) / 2
            pauses.append((start_s + first, min(start_s + first + draw(st.integers(1, 3)) / 2, at_s - 0.5)))
        out.append(Held(start_s, at_s, channel, tuple(pauses)))
    return out


stretches = st.tuples(st.integers(0, 1500), st.integers(1, 300)).map(lambda s: (float(s[0]), float(s[0] + s[1])))


lows = st.tuples(st.integers(0, 1), st.integers(0, 900).map(float), st.integers(1, 900).map(float))


@st.composite
def lives(draw: st.DrawFn) -> Life:
    gaps = sorted(draw(st.lists(stretches, max_size=3)))
    apart = [s for k, s in enumerate(gaps) if k == 0 or s[0] > max(e for _, e in gaps[:k])]
    low = [Low(start_s, start_s + 120 + long_s, c) for c, start_s, long_s in draw(st.lists(lows, max_size=2))]
    return Life(
        draw(shrugs_of(0)) + draw(shrugs_of(1)),
        [(channel, *stretch) for channel in (0, 1) for stretch in draw(st.lists(stretches, max_size=1))],
        apart,
        replace(DEFAULT, per_hour=draw(st.integers(1, 8)), per_day=draw(st.integers(1, 12))),
        low if len({one.channel for one in low}) == len(low) else low[:1],
        draw(st.lists(stretches, max_size=1)),
        Terms(DAY, draw(st.sampled_from([1.0, 0.5, 0.0])), draw(st.integers(0, 99))),
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(life=lives())
def test_whatever_happens_the_promises_of_cueing_hold(life: Life) -> None:
    cues = [cue for cue in life.cues() if cue.outcome == "given"]
    times = [cue.at_s for cue in cues]
    for most, seconds in ((life.settings.per_hour, 3600), (life.settings.per_day, 86400)):
        assert all(sum(t <= u < t + seconds for u in times) <= most for t in times)
    for before, cue in itertools.pairwise([None, *cues]):
        if cue is None:
            continue
        if cue.pattern == "escalation":
            assert before is not None
            assert before.pattern == "cue"
            assert cue.at_s == before.at_s + life.settings.escalate_s
        elif before is not None:
            assert cue.at_s >= before.at_s + life.settings.refractory_s
        assert not any(a <= cue.at_s < b for a, b in [*life.no_board, *life.forbidden])
        is_bad = any(c == cue.channel and a <= cue.at_s < b for c, a, b in life.bad)
        assert is_bad == (cue.trigger == "sensor")
        if cue.trigger == "shrug":
            (own,) = (s for s in life.shrugs if (s.channel, s.start_s) == (cue.channel, cue.start_s))
            assert own.is_on(cue.at_s)
            assert cue.at_s >= own.start_s + HELD_S + life.settings.grace_s
        elif cue.trigger == "low_rest":
            (low,) = (one for one in life.low if (one.channel, one.start_s) == (cue.channel, cue.start_s))
            assert low.known_s + life.settings.grace_s <= cue.at_s <= low.end_s
    shrugs_cued = [(c.channel, c.start_s, c.pattern) for c in cues if c.trigger == "shrug"]
    assert len(set(shrugs_cued)) == len(shrugs_cued)


@st.composite
def long_shrugs(draw: st.DrawFn) -> Life:
    """Shrugs on whole seconds, so that no step is longer than what stays the same."""
    out = []
    for channel in (0, 1):
        at_s = 0
        for _ in range(draw(st.integers(0, 4))):
            start_s = at_s + draw(st.integers(1, 60))
            at_s = start_s + draw(st.integers(4, 90))
            out.append(Held(float(start_s), float(at_s), channel))
    # Not a whole second, so that cues fall due between the steps.
    return Life(out, settings=replace(DEFAULT, grace_s=draw(st.integers(0, 120)) / 16))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(life=long_shrugs())
def test_the_length_of_a_step_does_not_move_a_cue(life: Life) -> None:
    assert given_cues(life.cues(1.0, late=True)) == given_cues(life.cues(1 / 16, late=True))
