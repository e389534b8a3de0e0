"""Exercises and paced breathing, from the first word to the last."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.chain import Levels
from dsp.reference import Calibration
from services.exercises import EXERCISES, ExerciseGuide, breathing
from services.messages import PATTERNS, Cue, Episode, Guided, seconds_of
from services.settings import GuideSettings
from tests.services.conftest import Array
from tests.services.sitter import Sitter

FRAME_S = 0.125
KNOWN = Calibration((2.5, 2.5), (0.1, 0.1), (80.0, 80.0))


def batches(values: Array, lag_frames: int = 8, hops: int = 10) -> list[Levels]:
    """Cut levels of shape (channels, frames) into what a chain gives, the exposure frames later than the others."""
    out: list[Levels] = []
    total, told = values.shape[1], 0
    for end in range(hops, total + hops, hops):
        at = min(end, total)
        ready = max(told, at - lag_frames)
        out.append(Levels(at * FRAME_S, values[:, at - 1 : at], values[:, told:ready], ready * FRAME_S, (False, False)))
        told = ready
    return out


def lead(name: str, level_after: float = 2.0, hops: int = 1, minutes: float = 1.0) -> list[Guided]:
    """Go through an exercise of which tension becomes less."""
    exercise = breathing(minutes) if name == "breathing" else EXERCISES[name]
    guide = ExerciseGuide("x", exercise, ("left", "right"), FRAME_S, KNOWN, GuideSettings())
    seconds = sum(step.seconds for step in exercise.steps) + 30
    values = np.full((2, round(seconds / FRAME_S)), 8.0)
    values[:, round(11 / FRAME_S) :] = level_after
    out = guide.begin(0.0)
    for levels in batches(values, hops=hops):
        out += guide.levels(levels)
    assert guide.over
    return out


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_leads_through_its_steps_and_tells_the_tension_before_and_after(name: str) -> None:
    said = lead(name)
    first, last = said[0], said[-1]
    assert (first.event, first.step, last.event, last.step) == ("started", "before", "ended", "ended")
    assert [m.seq for m in said] == list(range(len(said)))
    details = last.details
    assert (details["outcome"], details["reason"]) == ("completed", None)
    assert details["before_uv"] == [8.0, 8.0]
    assert details["after_uv"] == [2.0, 2.0]
    assert details["before_rve"] == pytest.approx([10.0, 10.0], abs=0.1)
    assert details["after_rve"] == pytest.approx([2.5, 2.5], abs=0.1)
    exercise = breathing(1.0) if name == "breathing" else EXERCISES[name]
    steps = [step for step, _ in itertools.groupby(m.step for m in said)]
    assert steps == ["before", *[s.name for s in exercise.steps], "after", "ended"]
    assert details["breaths"] == (6 if name == "breathing" else None)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_motor_paces_each_step_and_is_still_most_of_the_time(name: str) -> None:
    said = lead(name)
    exercise = breathing(1.0) if name == "breathing" else EXERCISES[name]
    patterns = [m.pattern for m in said if m.pattern is not None]
    assert patterns == [*[s.pattern for s in exercise.steps], "step", "step"]
    total_s = said[-1].at_s - said[0].at_s
    assert sum(seconds_of(p) for p in patterns) < 0.2 * total_s
    assert all(pulse.on_s <= 1.0 for p in patterns for pulse in PATTERNS[p])


def test_six_breaths_take_a_minute_and_three_minutes_are_eighteen() -> None:
    assert sum(step.seconds for step in breathing(1).steps) == pytest.approx(60)
    assert sum(step.name == "inhale" for step in breathing(3).steps) == 18


def test_nobody_is_asked_for_effort_and_each_stretch_is_mild_and_of_15_to_30_s() -> None:
    for name in ("trap-stretch", "levator-stretch"):
        steps = EXERCISES[name].steps
        assert [step.name for step in steps] == ["right", "left"]
        assert all(15 <= step.seconds <= 30 and "stop if it hurts" in step.say for step in steps)
    assert "clinician" in EXERCISES["chin-tuck"].note


@settings(deadline=None, max_examples=30, derandomize=True)
@given(cut=st.integers(1, 8))
def test_the_cut_of_the_data_changes_neither_steps_nor_tension(cut: int) -> None:
    def heart(said: list[Guided]) -> list[tuple[str, str, object]]:
        steps = [m for a, m in itertools.pairwise(said) if a.step != m.step]
        return [(m.event, m.step, json.dumps([m.details["before_uv"], m.details["after_uv"]])) for m in steps]

    one, other = heart(lead("shoulder-drop", hops=cut)), heart(lead("shoulder-drop", hops=1))
    assert [h[:2] for h in one] == [h[:2] for h in other]
    assert one[-1] == other[-1]


def test_what_cannot_be_measured_is_not_known() -> None:
    guide = ExerciseGuide("x", EXERCISES["trap-stretch"], ("left", "right"), FRAME_S, None, GuideSettings())
    values = np.full((2, round(85 / FRAME_S)), 5.0)
    values[1, : round(5 / FRAME_S)] = np.nan
    out = guide.begin(0.0)
    for levels in batches(values):
        out += guide.levels(levels)
    details = out[-1].details
    assert details["before_uv"] == [5.0, None]
    assert details["after_uv"] == [5.0, 5.0]
    assert details["before_rve"] == details["levels_rve"] == [None, None]


def test_an_exercise_with_the_service_has_no_cues_and_can_be_skipped_stopped_and_begun_again() -> None:
    sitter = Sitter()
    sitter.sit(3)
    assert sitter.error("exercise", action="next") == "no exercise is under way"
    before = len(sitter.messages)
    assert sitter.error("exercise", action="start", name="trap-stretch") is None
    sitter.hold_uv = 80.0
    sitter.until("right")
    assert sitter.error("calibrate", action="start") is not None
    assert sitter.error("exercise", action="next") is None
    assert sitter.step == "left"
    ended = sitter.until("ended")
    assert ended.details["outcome"] == "completed"
    assert not [m for m in sitter.messages[before:] if isinstance(m, Cue | Episode)]
    sitter.sit(2)
    assert sitter.error("exercise", action="start", name="breathing", minutes=1) is None
    sitter.until("exhale")
    assert sitter.error("exercise", action="stop") is None
    assert sitter.guided[-1].details["outcome"] == "stopped"


def test_what_makes_it_worse_ends_at_once_and_is_left_out_until_it_is_allowed_again() -> None:
    sitter = Sitter()
    sitter.sit(3)
    assert sitter.error("exercise", action="start", name="levator-stretch") is None
    sitter.until("right")
    assert sitter.error("withdraw", what="levator-stretch") is None
    assert sitter.guided[-1].details["reason"] == "withdrawn by the wearer"
    sitter.sit(2)
    assert "withdrawn" in str(sitter.error("exercise", action="start", name="levator-stretch"))
    assert sitter.kept["withdrawn"] == ["levator-stretch"]
    assert sitter.error("allow", what="levator-stretch") is None
    assert sitter.kept["withdrawn"] is None
    assert sitter.error("exercise", action="start", name="levator-stretch") is None


def test_pain_ends_an_exercise() -> None:
    sitter = Sitter()
    sitter.sit(3)
    sitter.ask("exercise", action="start", name="trap-stretch")
    sitter.until("right")
    sitter.ask("exercise", action="next", pain=5)
    assert sitter.guided[-1].details["reason"] == "pain of 5 of 10"
