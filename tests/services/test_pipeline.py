"""Blocks in, messages out."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.chain import Levels
from dsp.detect import Shrug
from dsp.filters import SignalError
from dsp.quality import Quality
from firmware_bridge.blocks import SampleBlock, Signal
from services.messages import About, Cue, CueResult, DaySummary, Episode, Message, Tension, WearerState
from services.pipeline import Pipeline
from services.settings import CalibrationSettings, Settings
from tests.services.conftest import CALIBRATED, REST, SHRUG, SIGNAL, Array, blocks, samples

T = TypeVar("T")
WORKDAY = samples(replace(REST, seconds=4), SHRUG, replace(REST, seconds=3))


def run(pipeline: Pipeline, parts: Iterable[SampleBlock], *, finish: bool = True) -> list[Message]:
    """Let the board come up and send these blocks."""
    out = list(pipeline.board(None))
    for block in parts:
        out += pipeline.process(block)
    return [*out, *pipeline.finish()] if finish else out


def of(kind: type[T], messages: Iterable[object]) -> list[T]:
    return [m for m in messages if isinstance(m, kind)]


def in_full(messages: Iterable[Message]) -> list[Any]:
    """Say everything about messages in values that compare; an episode's id becomes its number."""
    numbers: dict[str | None, str | None] = {None: None}
    out: list[Any] = []
    for m in messages:
        match m:
            case Levels():
                out.append((m.at_s, m.control_uv.tobytes(), m.frames_uv.tobytes(), m.on))
            case Episode():
                out.append(replace(m, id=numbers.setdefault(m.id, f"#{len(numbers)}") or ""))
            case Cue():
                name = numbers.setdefault(m.episode_id, f"#{len(numbers)}")
                out.append(replace(m, episode_id=name, id=numbers.setdefault(m.id, f"#{len(numbers)}") or ""))
            case CueResult():
                out.append(replace(m, cue=replace(m.cue, episode_id=None, id="")))
            case WearerState():
                out.append(replace(m, episode_id=numbers.setdefault(m.episode_id, f"#{len(numbers)}")))
            case _:
                out.append(m)
    return out


def cut(values: Array, at: Sequence[int], start: int = 0) -> list[SampleBlock]:
    edges = [0, *sorted(min(a, len(values)) for a in at), len(values)]
    return [SampleBlock(SIGNAL, start + a, values[a:b]) for a, b in itertools.pairwise(edges) if b > a]


def given_cues(messages: Iterable[object]) -> list[Cue]:
    return [cue for cue in of(Cue, messages) if cue.outcome == "given"]


def test_a_held_shrug_goes_all_the_way_to_cue_and_episode() -> None:
    messages = run(Pipeline(CALIBRATED), blocks(WORKDAY))
    (cue,) = given_cues(messages)
    first = next(s for s in of(Shrug, messages) if s.phase == "started" and s.channel == cue.channel)
    assert first.start_s == pytest.approx(4.0, abs=0.3)
    assert cue.at_s == pytest.approx(first.start_s + 10, abs=1e-6)
    episodes = of(Episode, messages)
    assert [e.event for e in episodes] == ["started", "updated", "ended"]
    assert [e.cued for e in episodes] == [False, True, True]
    assert {e.id for e in episodes} == {cue.episode_id}
    assert episodes[-1].channels == ("left", "right")
    assert episodes[-1].end_s == pytest.approx(19.0, abs=0.3)
    assert episodes[-1].mean_rve == pytest.approx(100 * 60 * (1 + 0.55) / 2 / 80, rel=0.1)
    assert messages[-2] == episodes[-1]
    summary = messages[-1]
    assert isinstance(summary, DaySummary)
    assert (summary.episodes, summary.cues) == (1, {"given": 1})
    assert summary.tense_time_s == pytest.approx(15, abs=0.5)


REFERENCE = in_full(run(Pipeline(CALIBRATED), [SampleBlock(SIGNAL, 0, WORKDAY)]))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(at=st.lists(st.integers(0, len(WORKDAY)), max_size=60))
def test_cut_anywhere_same_messages(at: list[int]) -> None:
    assert in_full(run(Pipeline(CALIBRATED), cut(WORKDAY, at))) == REFERENCE


@pytest.mark.parametrize("size", [7, 50, 64, 1000])
def test_blocks_of_any_size_same_messages(size: int) -> None:
    assert in_full(run(Pipeline(CALIBRATED), blocks(WORKDAY, size))) == REFERENCE


def test_messages_come_in_order_of_time() -> None:
    messages = [m for m in run(Pipeline(CALIBRATED), blocks(WORKDAY)) if not isinstance(m, Quality)]
    assert [m.at_s for m in messages] == sorted(m.at_s for m in messages)


def test_rest_is_learned_at_the_start_and_no_shrug_is_seen_before() -> None:
    values = samples(replace(SHRUG, seconds=0.5), replace(REST, seconds=11.5), replace(SHRUG, seconds=8))
    plain = replace(Settings(), calibration=CalibrationSettings(rest_s=5.0))
    messages = run(Pipeline(plain), blocks(values[500:]))
    before, after = of(About, messages)
    assert (before.rest_uv, before.on_uv, before.calibration_source) == (None, (), None)
    assert after.rest_uv == pytest.approx((2.5, 2.5), rel=0.1)
    assert after.reference_uv is None
    assert after.calibration_source == "rest at the start"
    assert after.on_uv == pytest.approx(tuple(8 * rest for rest in after.rest_uv or ()))
    assert after.at_s == pytest.approx(5.6, abs=0.6)
    assert [c.cues_enabled for c in of(Tension, messages) if c.at_s < 4.9] == [False] * 20
    assert all(c.cues_enabled for c in of(Tension, messages) if c.at_s > 6.2)
    assert {s.start_s for s in of(Shrug, messages)} != set()
    assert all(s.start_s == pytest.approx(11.5, abs=0.3) for s in of(Shrug, messages))


def test_a_notch_that_comes_while_rest_is_learned_starts_the_learning_again() -> None:
    values = samples(replace(REST, seconds=24), replace(SHRUG, seconds=8))
    hum = 5 * np.sin(2 * np.pi * 60 * np.arange(len(values)) / SIGNAL.rate_hz)
    messages = run(Pipeline(Settings()), blocks(values + hum[:, None]))
    before, changed, after = of(About, messages)
    assert (before.band.notches_hz, changed.band.notches_hz) == ((), (60.0,))
    # 5 s until the rule is met, 1.1 s for the change, 10 s of rest.
    assert after.at_s == pytest.approx(16.5, abs=0.6)
    assert after.rest_uv == pytest.approx((2.5, 2.5), rel=0.1)
    assert of(Shrug, messages)
    assert all(s.start_s == pytest.approx(24, abs=0.3) for s in of(Shrug, messages))


def test_low_tension_for_minutes_is_an_episode_of_its_kind_that_a_shrug_joins() -> None:
    low = replace(SHRUG, seconds=200, level_uv=12)
    values = samples(replace(REST, seconds=80), low, replace(SHRUG, seconds=6), replace(REST, seconds=150))
    messages = run(Pipeline(CALIBRATED), blocks(values, 1000))
    episodes = of(Episode, messages)
    ended = episodes[-1]
    assert {e.id for e in episodes} == {ended.id}
    assert (ended.event, ended.kinds) == ("ended", ("shrug", "low_rest"))
    assert (ended.start_s, ended.end_s) == pytest.approx((80, 286), abs=1)
    assert episodes[0].kinds == ("low_rest",)
    assert episodes[0].at_s == pytest.approx(80 + 108, abs=3)


def test_a_channel_without_a_signal_gets_no_rest_and_does_not_hold_the_other_up() -> None:
    plain = replace(Settings(), calibration=CalibrationSettings(rest_s=5.0))
    values = samples(replace(REST, seconds=17), replace(SHRUG, seconds=12))
    values[:, 1] = 100.0
    messages = run(Pipeline(plain), blocks(values))
    _, about = of(About, messages)
    assert about.at_s == pytest.approx(15.6, abs=0.6)
    assert about.rest_uv is not None
    assert about.rest_uv[0] == pytest.approx(2.5, rel=0.1)
    assert np.isnan(about.rest_uv[1])
    assert {s.channel for s in of(Shrug, messages)} == {0}
    assert len(given_cues(messages)) == 1


def test_levels_from_the_settings_are_used_at_once() -> None:
    (about,) = of(About, run(Pipeline(CALIBRATED), blocks(WORKDAY[:500])))
    assert (about.rest_uv, about.reference_uv) == ((2.5, 2.5), (80.0, 80.0))
    assert about.calibration_source == "settings"
    assert about.on_uv == pytest.approx((24.0, 24.0), rel=1e-3)
    assert about.off_uv == pytest.approx((14.4, 14.4), rel=1e-3)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (CalibrationSettings(rest_uv=(2.0, 2.0, 2.0)), r"calibration\.rest_uv: 3 levels for 2 channels"),
        (CalibrationSettings((2.0,), (80.0, 70.0, 60.0)), r"calibration\.reference_uv: 3 levels for 2 channels"),
        (CalibrationSettings((2.0,), (), (0.1, 0.1, 0.1)), r"calibration\.noise_uv: 3 levels for 2 channels"),
        (CalibrationSettings((2.0, 90.0), (80.0,)), "reference level is 80 µV; expected more than the rest level, 90"),
    ],
)
def test_levels_that_do_not_fit_the_signal_are_refused(levels: CalibrationSettings, words: str) -> None:
    with pytest.raises(SignalError, match=words):
        run(Pipeline(replace(Settings(), calibration=levels)), blocks(WORKDAY[:500]))


def known(messages: Iterable[object], start_s: float, end_s: float) -> list[bool]:
    """Say for every hop of a stretch whether its levels are known."""
    levels = [m for m in of(Levels, messages) if start_s < m.at_s <= end_s]
    return [bool(np.isfinite(m.control_uv).all()) for m in levels]


def test_what_the_motor_shakes_is_not_measured() -> None:
    messages = run(Pipeline(CALIBRATED), blocks(WORKDAY))
    (cue,) = given_cues(messages)
    pattern_s, blank_s = 0.45, CALIBRATED.cue.blank_s
    assert not any(known(messages, cue.at_s + 0.1, cue.at_s + pattern_s + blank_s))
    assert all(known(messages, cue.at_s + pattern_s + blank_s + 0.6, 22.0))
    assert all(known(messages, 1.0, cue.at_s))
    assert any(s.phase == "ended" and not s.truncated and s.end_s == pytest.approx(19, abs=0.3)
               for s in of(Shrug, messages))  # fmt: skip


def test_a_motor_that_the_electrodes_cannot_feel_blanks_nothing() -> None:
    messages = run(Pipeline(CALIBRATED, feels_motor=False), blocks(WORKDAY))
    assert len(given_cues(messages)) == 1
    assert all(known(messages, 1.0, 22.0))


def test_a_board_in_trouble_is_a_state_and_no_cue() -> None:
    pipeline = Pipeline(CALIBRATED)
    first = [state for state in pipeline.board(None) if isinstance(state, WearerState)]
    assert [(s.board_up, s.board_problem, s.channels) for s in first] == [(True, None, ())]
    messages = [m for block in blocks(WORKDAY[:12000]) for m in pipeline.process(block)]
    assert given_cues(messages) == []
    (down,) = of(WearerState, pipeline.board("the board is silent"))
    assert (down.board_up, down.board_problem, down.cues_enabled) == (False, "the board is silent", False)
    assert [c.name for c in down.channels] == ["left", "right"]
    assert list(pipeline.board("the board is silent")) == []
    (up,) = of(WearerState, pipeline.board(None))
    assert (up.board_up, up.board_problem, up.cues_enabled) == (True, None, True)
    after = [m for block in blocks(WORKDAY[12000:], start=12000) for m in pipeline.process(block)]
    assert given_cues(after) == []
    assert of(Tension, after) != []


def test_a_board_that_stays_away_ends_what_was_on_and_is_not_learned_again() -> None:
    pipeline = Pipeline(Settings())
    day = samples(replace(REST, seconds=12), replace(SHRUG, seconds=20))
    rest = day[:1000]
    run(pipeline, blocks(day[:21_000]), finish=False)
    (down,) = of(WearerState, pipeline.board("unplugged", 21.5))
    assert [(c.shrug, c.quality, c.reasons) for c in down.channels] == [(None, "bad", ("no board",))] * 2
    assert down.at_s == 21.5
    assert list(pipeline.away(80.0)) == []
    ended = list(pipeline.away(82.0))
    assert [(s.phase, s.truncated) for s in of(Shrug, ended)] == [("ended", True)] * 2
    assert [e.event for e in of(Episode, ended)] == ["ended"]
    back = [*pipeline.board(None, 100.0), *pipeline.process(SampleBlock(SIGNAL, 100_000, rest))]
    assert [about.calibration_source for about in of(About, back)] == ["rest at the start"]


def test_lost_data_in_a_shrug_cut_it_off_and_are_no_rest() -> None:
    gap = [*blocks(WORKDAY[:9000]), *blocks(WORKDAY[12000:], start=12000)]
    messages = run(Pipeline(CALIBRATED), gap)
    assert not any(known(messages, 9.1, 12.0))
    ended = [s for s in of(Shrug, messages) if s.phase == "ended" and s.channel == 0]
    assert [s.truncated for s in ended] == [True, False]
    assert given_cues(messages) == []
    assert "bad" in {q.state for q in of(Quality, messages)}


def test_flat_electrodes_give_no_cue() -> None:
    values = WORKDAY.copy()
    values[13_000:] = 100.0
    messages = run(Pipeline(CALIBRATED), blocks(values))
    assert given_cues(messages) == []
    assert {(q.state, q.reasons) for q in of(Quality, messages)} == {("bad", ("flat",))}
    last = of(WearerState, messages)[-1]
    assert [(c.quality, c.reasons) for c in last.channels] == [("bad", ("flat",))] * 2


def test_tension_comes_at_its_rate_and_state_on_change() -> None:
    messages = run(Pipeline(CALIBRATED), blocks(WORKDAY))
    seconds = len(WORKDAY) / SIGNAL.rate_hz
    assert len(of(Tension, messages)) == pytest.approx(4 * seconds, abs=2)
    states = of(WearerState, messages)[1:]
    assert [a.at_s + 1 <= b.at_s + 1e-9 for a, b in itertools.pairwise(states)] == [True] * (len(states) - 1)
    assert [c.shrug for c in states[0].channels] == [False, False]
    assert [True, True] in [[c.shrug for c in s.channels] for s in states]
    assert len(states) < seconds / 2
    assert states[-1].wear_time_s == pytest.approx(states[-1].at_s, abs=2)


OTHER = Signal(500.0, ("left",), 0.05)


def test_a_new_signal_keeps_time_going_and_ends_what_was_on() -> None:
    pipeline = Pipeline(CALIBRATED)
    old = run(pipeline, blocks(WORKDAY[:12_000]), finish=False)
    # 12 s at 1000 Hz are 6000 samples at 500 Hz.
    new = [m for block in blocks(WORKDAY[12_000::2, :1], 100, OTHER, 6_000) for m in pipeline.process(block)]
    assert [s.phase for s in of(Shrug, new) if s.truncated] == ["ended", "ended"]
    assert of(Episode, new)[0].event == "ended"
    assert [(a.rate_hz, a.channels) for a in of(About, [*old, *new])] == [
        (1000.0, ("left", "right")),
        (500.0, ("left",)),
    ]
    times = [m.at_s for m in of(Levels, [*old, *new]) if m.control_uv.size]
    steps = np.diff(times)
    assert steps == pytest.approx(0.05)
    assert times[-1] == pytest.approx(22.0)


def test_a_new_signal_is_not_blamed_for_what_was_wrong_with_the_old_one() -> None:
    pipeline = Pipeline(CALIBRATED)
    old = run(pipeline, blocks(np.full((2_000, 2), 100.0)), finish=False)
    assert of(Quality, old)[-1].state == "bad"
    values = samples(replace(REST, seconds=3), replace(SHRUG, seconds=12))
    new = [m for block in blocks(values[::2, :1], 100, OTHER, 1_000) for m in pipeline.process(block)]
    assert of(Quality, new) == []
    assert [(c.outcome, c.reason) for c in of(Cue, new)] == [("given", None)]


def test_a_new_signal_on_the_same_day_adds_to_the_time_worn() -> None:
    pipeline = Pipeline(CALIBRATED)
    old = run(pipeline, blocks(WORKDAY[:12_000]), finish=False)
    worn_s = of(WearerState, old)[-1].wear_time_s
    new = [m for block in blocks(WORKDAY[12_000::2, :1], 100, OTHER, 6_000) for m in pipeline.process(block)]
    assert all(state.wear_time_s >= worn_s for state in of(WearerState, new))


def test_midnight_starts_the_time_worn_anew() -> None:
    pipeline = Pipeline(CALIBRATED)
    list(pipeline.local_time(datetime(2026, 1, 1, 23, 59), 0.0))
    run(pipeline, blocks(WORKDAY[:10_000]), finish=False)
    (summary,) = pipeline.local_time(datetime(2026, 1, 2, 0, 0), 10.0)
    assert isinstance(summary, DaySummary)
    assert (summary.date, summary.final) == ("2026-01-01", True)
    assert summary.wear_time_s == pytest.approx(10, abs=1)
    after = [m for block in blocks(WORKDAY[10_000:], start=10_000) for m in pipeline.process(block)]
    assert of(WearerState, after)[0].wear_time_s < 10
    last = of(WearerState, after)[-1]
    assert last.wear_time_s == pytest.approx(last.at_s - 10, abs=2)


def test_an_episode_id_sorts_by_time() -> None:
    messages = run(Pipeline(CALIBRATED), blocks(WORKDAY))
    again = run(Pipeline(CALIBRATED), blocks(WORKDAY))
    one, other = (of(Episode, m)[0].id for m in (messages, again))
    assert one < other
    assert (one[14], other[14], len(one)) == ("7", "7", 36)


def test_a_shrug_while_rest_is_learned_is_not_taken_for_rest() -> None:
    day = (replace(REST, seconds=5), replace(SHRUG, seconds=8), replace(REST, seconds=14), replace(SHRUG, seconds=8))
    messages = run(Pipeline(Settings()), blocks(samples(*day, replace(REST, seconds=3))))
    _, after = of(About, messages)
    assert after.rest_uv == pytest.approx((2.5, 2.5), rel=0.1)
    assert after.at_s == pytest.approx(24, abs=1.0)
    assert of(Shrug, messages)
    assert all(s.start_s == pytest.approx(27, abs=0.3) for s in of(Shrug, messages))


def test_a_shrug_when_learning_starts_again_is_not_taken_for_rest() -> None:
    day = (replace(REST, seconds=4.5), replace(SHRUG, seconds=15), replace(REST, seconds=25))
    values = samples(*day)
    hum = 5 * np.sin(2 * np.pi * 60 * np.arange(len(values)) / SIGNAL.rate_hz)
    messages = run(Pipeline(Settings()), blocks(values + hum[:, None]))
    after = of(About, messages)[-1]
    assert after.band.notches_hz == (60.0,)
    assert after.rest_uv == pytest.approx((2.5, 2.5), rel=0.2)


def test_who_never_sits_still_gets_the_quietest_seconds_for_a_rest() -> None:
    restless = [replace(REST, seconds=6), replace(SHRUG, seconds=3)] * 5
    messages = run(Pipeline(Settings()), blocks(samples(*restless)))
    _, after = of(About, messages)
    assert after.at_s == pytest.approx(31, abs=1.5)
    assert after.rest_uv == pytest.approx((2.5, 2.5), rel=0.15)
