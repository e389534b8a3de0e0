"""From the signal to what a cue did: low rest, lots and bad sensors, all through the pipeline."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from firmware_bridge.simulator import Activity
from services.coach import Terms
from services.messages import Cue, CueResult, Message, WearerState
from services.pipeline import Pipeline
from tests.services.conftest import CALIBRATED, REST, SHRUG, Array, blocks, samples

PLENTY = replace(CALIBRATED, cue=replace(CALIBRATED.cue, per_hour=30, per_day=200))


def live(values: Array, terms: Terms | None = None) -> list[Message]:
    pipeline = Pipeline(PLENTY)
    out = list(pipeline.board(None))
    if terms is not None:
        out += pipeline.follow(terms, 0.0)
    for block in blocks(values, 1000):
        out += pipeline.process(block)
    return out + list(pipeline.finish())


def cues(messages: list[Message]) -> list[Cue]:
    return [m for m in messages if isinstance(m, Cue)]


def results(messages: list[Message]) -> list[CueResult]:
    return [m for m in messages if isinstance(m, CueResult)]


def test_ten_shrugs_that_are_held_are_cued_once_a_minute_from_the_electrodes_on() -> None:
    day = [replace(REST, seconds=10), *[replace(SHRUG, seconds=12), replace(REST, seconds=8)] * 10]
    given = [c for c in cues(live(samples(*day))) if c.outcome == "given"]
    assert [round(c.at_s - 10) for c in given] == [10, 70, 130, 190]


def test_low_rest_is_cued_and_what_came_of_it_is_told() -> None:
    tense = Activity("low-level tension", 150, 9)
    messages = live(samples(replace(REST, seconds=70), tense, replace(REST, seconds=320)))
    (cue,) = [c for c in cues(messages) if c.outcome == "given"]
    assert (cue.trigger, cue.pattern) == ("low_rest", "cue")
    assert cue.prompt is not None
    assert 70 + 60 < cue.at_s < 70 + 145
    (result,) = results(messages)
    assert result.cue == cue
    left_s = 220 - cue.at_s  # of the tension, after the cue
    assert result.relaxed_after_s == pytest.approx(left_s + 2, abs=3), "two of the last ten seconds are rest then"
    assert result.rest_after_pct == pytest.approx(100 * (300 - left_s) / 300, abs=3)
    assert result.at_s == pytest.approx(cue.at_s + 300, abs=5)


def test_a_cue_that_a_lot_withholds_is_followed_like_one_that_is_given() -> None:
    day = [replace(REST, seconds=10), *[replace(SHRUG, seconds=15), replace(REST, seconds=65)] * 8]
    messages = live(samples(*day), Terms(date(2026, 1, 31), share=0.5, seed=4))
    drawn = [c for c in cues(messages) if c.share == 0.5]
    assert {c.outcome for c in drawn} == {"given", "withheld"}
    found = {r.cue.id: r for r in results(messages)}
    assert found.keys() == {c.id for c in drawn}
    for cue in drawn:
        known = found[cue.id]
        assert known.relaxed_after_s == pytest.approx(5, abs=0.6)
        over = cue.at_s + 300 > 650
        assert (known.rest_after_pct is None) == (cue.at_s + 180 > 650), (cue.at_s, known)
        if not over:
            assert known.rest_after_pct == pytest.approx(100 * 65 / 80, abs=6)


def test_a_shrug_that_goes_on_is_not_relaxed() -> None:
    (result,) = results(live(samples(replace(REST, seconds=5), replace(SHRUG, seconds=60))))
    assert (result.relaxed_after_s, result.rest_after_pct) == (None, None)


def test_a_dead_electrode_is_told_by_one_long_pulse() -> None:
    values = samples(replace(REST, seconds=60))
    values[10_000:, 1] = 0.0
    given = [c for c in cues(live(values)) if c.outcome == "given"]
    assert [(c.pattern, c.trigger, c.channel, c.reason) for c in given] == [("sensor", "sensor", 1, "bad signal: flat")]
    assert given[0].at_s == pytest.approx(20, abs=1.5)


def test_after_so_long_a_day_there_are_no_more_cues() -> None:
    day = [replace(REST, seconds=10), *[replace(SHRUG, seconds=15), replace(REST, seconds=60)] * 3]
    messages = live(samples(*day), Terms(most_wear_s=60.0))
    assert [round(c.at_s) for c in cues(messages) if c.outcome == "given"] == [20]
    assert cues(messages)[-1].reason == "worn for 0.0166667 h today"
    assert [m.silent_because for m in messages if isinstance(m, WearerState)][-1] == "worn for 0.0166667 h today"


def test_a_hold_from_the_records_is_in_force_at_once() -> None:
    messages = live(samples(replace(REST, seconds=5), SHRUG), Terms(hold="a headache is open"))
    assert {c.outcome for c in cues(messages)} == {"suppressed"}
    assert not any(m.cues_enabled for m in messages if isinstance(m, WearerState))
    assert np.isfinite([c.at_s for c in cues(messages)]).all()
