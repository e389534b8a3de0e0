"""What a request does, and what it is answered."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory

from services.haptics import Haptics
from services.messages import (
    About,
    AskStore,
    Cue,
    CueTest,
    Episode,
    Message,
    Reply,
    Request,
    Tension,
    WearerState,
)
from services.pipeline import Pipeline
from services.settings import Settings, SettingsError, changed
from services.steering import Steering, with_live
from tests.services.conftest import CALIBRATED, REST, SHRUG, blocks, samples

WORKDAY = samples(replace(REST, seconds=4), replace(SHRUG, seconds=25), replace(REST, seconds=5))


class Desk:
    """A wearer at work, whom somebody asks things at certain seconds."""

    def __init__(self, live: dict[str, Any] | None = None) -> None:
        self.answers: list[Reply | AskStore] = []
        self.kept: list[tuple[str, Any]] = []
        self.messages: list[Message] = []
        self.pipeline = Pipeline(with_live(CALIBRATED, live or {}))
        self.haptics = Haptics(CALIBRATED.motor)
        self.steering = Steering(
            CALIBRATED,
            live or {},
            (),
            self.pipeline,
            self.haptics,
            self.answers.append,
            lambda key, value: self.kept.append((key, value)),
            lambda: 1e9,
        )
        self.messages += self.pipeline.board(None)

    def ask(self, verb: str, at_s: float = 0.0, **body: Any) -> Reply | AskStore:
        self.messages += self.steering.obey(Request(verb, body), at_s)
        return self.answers[-1]

    def work(self, asks: dict[int, Callable[[], object]]) -> None:
        """Let the day pass; `asks` are done before these seconds."""
        for k, block in enumerate(blocks(WORKDAY, 1000)):
            if k in asks:
                asks[k]()
            self.messages += self.pipeline.process(block)
        self.messages += self.pipeline.finish()

    def of(self, kind: type[Any]) -> list[Any]:
        return [m for m in self.messages if isinstance(m, kind)]


@pytest.fixture
def desk(pins: MockFactory) -> Desk:
    return Desk()


def error(answer: Reply | AskStore) -> str | None:
    assert isinstance(answer, Reply)
    return answer.error


def test_while_snoozed_there_is_no_cue_and_everybody_can_see_until_when(desk: Desk) -> None:
    desk.work({2: lambda: desk.ask("snooze", 2.0, minutes=1)})
    assert error(desk.answers[0]) is None
    assert {(cue.outcome, cue.reason) for cue in desk.of(Cue)} == {("suppressed", "snoozed")}
    states = [state for state in desk.of(WearerState) if state.at_s > 2.5]
    assert all(state.snoozed_until_s == 62.0 and not state.cues_enabled for state in states)
    assert not any(level.cues_enabled for level in desk.of(Tension) if level.at_s > 2.5)


def test_a_snooze_that_is_over_is_over(desk: Desk) -> None:
    desk.work({2: lambda: desk.ask("snooze", -50.0, minutes=1)})
    assert [cue.outcome for cue in desk.of(Cue)] == ["given"]
    assert all(state.snoozed_until_s is None for state in desk.of(WearerState) if state.at_s > 10.5)


def test_resume_ends_a_snooze(desk: Desk) -> None:
    desk.work({2: lambda: desk.ask("snooze", 2.0, minutes=60), 5: lambda: desk.ask("resume", 5.0)})
    assert [cue.outcome for cue in desk.of(Cue)] == ["given"]
    assert desk.of(WearerState)[-1].snoozed_until_s is None


def test_a_snooze_stops_the_motor_at_once(desk: Desk, pins: MockFactory) -> None:
    desk.haptics.accept(CueTest(0.0))
    pin = pins.pin(CALIBRATED.motor.pin)
    until = time.monotonic() + 5
    while not pin.state and time.monotonic() < until:
        desk.haptics.alive()
    assert pin.state
    desk.ask("snooze", 0.0, minutes=1)
    assert pin.state == 0


def test_a_cue_can_be_felt_but_not_over_and_over(desk: Desk) -> None:
    assert error(desk.ask("cue-test", 5.0)) is None
    assert error(desk.ask("cue-test", 9.0)) == "one test in 10 s is enough"
    assert error(desk.ask("cue-test", 15.0)) is None
    assert [test.at_s for test in desk.of(CueTest)] == [5.0, 15.0]


def test_without_a_board_no_cue_is_tested(desk: Desk) -> None:
    desk.messages += desk.pipeline.board("/dev/ttyACM0: unplugged")
    assert error(desk.ask("cue-test", 5.0)) == "/dev/ttyACM0: unplugged"
    assert desk.of(CueTest) == []


def test_the_motor_of_a_test_is_not_measured(desk: Desk) -> None:
    desk.work({6: lambda: desk.ask("cue-test", 6.0)})
    unknown = [level.at_s for level in desk.of(Tension) if level.channels[0].rms_uv is None and 1 < level.at_s < 10]
    assert 6.0 < min(unknown) < 6.5
    assert max(unknown) < 8.0


def test_cues_can_be_switched_off_and_on(desk: Desk) -> None:
    assert error(desk.ask("set", key="cue.enabled", value=False)) is None
    desk.work({})
    assert {(cue.outcome, cue.reason) for cue in desk.of(Cue)} == {("suppressed", "cues are off")}
    assert desk.of(About)[-1].live["cue.enabled"] is False
    assert desk.kept == [("live", {"cue.enabled": False})]
    desk.ask("set", key="cue.enabled", value=True)
    desk.ask("set", key="cue.enabled", value=None)
    assert desk.kept[-1] == ("live", {})


def test_a_grace_that_is_set_counts_from_then_on(desk: Desk) -> None:
    desk.ask("set", key="cue.grace_s", value=8)
    desk.work({})
    (cue,) = desk.of(Cue)
    assert cue.at_s == pytest.approx(4.0 + 5.0 + 8.0, abs=0.3)


def test_another_threshold_ends_what_is_on_and_is_gone_by_at_once(desk: Desk) -> None:
    desk.work({10: lambda: desk.ask("set", key="shrug.on_rve", value=80.0)})
    ended = next(e for e in desk.of(Episode) if e.event == "ended")
    assert (ended.end_reason, ended.end_s) == ("cut_off", pytest.approx(10.0, abs=0.1))
    assert [e.event for e in desk.of(Episode)].count("started") == 1, "60 µV are 75 %RVE"
    before, after = desk.of(About)[0], desk.of(About)[-1]
    assert after.on_uv[0] > 2 * before.on_uv[0]
    assert after.rest_uv == before.rest_uv
    assert (before.settings == after.settings, before.calibration_id == after.calibration_id) == (False, True)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("motor.pin", 4, "motor.pin: cannot be changed while the program runs"),
        ("cue.grace", 4, "did you mean cue.grace_s?"),
        ("wearer.id", "x", "cannot be changed"),
        ("__class__.x", 1, "cannot be changed"),
        ("cue.grace_s", 61, "cue.grace_s: expected 0 to 60 s, got 61"),
        ("cue.grace_s", "5", "cue.grace_s: expected a number of seconds"),
        ("cue.grace_s", True, "cue.grace_s: expected a number"),
        ("cue.per_hour", 2.5, "cue.per_hour: expected a whole number"),
        ("cue.enabled", 1, "cue.enabled: expected true or false"),
        ("motor.pin", None, "cannot be changed"),
        ("shrug.on_rest_ratio_alone", 1.5, "shrug.off_rest_ratio: expected less than"),
    ],
)
def test_what_must_not_be_set_is_refused_without_effect(desk: Desk, key: str, value: object, said: str) -> None:
    assert said in (error(desk.ask("set", key=key, value=value)) or "")
    assert desk.kept == []
    desk.work({})
    assert desk.of(About)[-1].live == CALIBRATED.live()


def test_a_whole_number_may_come_as_one_with_a_point() -> None:
    assert changed(Settings(), "cue.per_hour", 4.0).cue.per_hour == 4
    with pytest.raises(SettingsError):
        changed(Settings(), "cue.per_hour", float("inf"))


def test_what_was_set_in_an_earlier_run_can_be_unset(pins: MockFactory) -> None:
    desk = Desk({"cue.enabled": False, "cue.grace_s": 9.0})
    answer = desk.ask("set", key="cue.enabled", value=None)
    assert isinstance(answer, Reply)
    assert answer.result == {"key": "cue.enabled", "value": True}
    assert desk.kept == [("live", {"cue.grace_s": 9.0})]


def test_the_open_episode_can_be_labelled_and_keeps_its_label(desk: Desk) -> None:
    desk.work({10: lambda: desk.ask("feedback", label="deadline")})
    episodes = desk.of(Episode)
    labelled = [e.label for e in episodes]
    assert labelled[0] is None
    assert set(labelled[1:]) == {"deadline"}
    assert [e.seq for e in episodes] == list(range(len(episodes)))
    (answer,) = desk.answers
    assert isinstance(answer, Reply)
    assert answer.result == {"episode_id": episodes[0].id}


def test_an_episode_that_is_not_open_is_looked_up_where_it_is_kept(desk: Desk) -> None:
    other = "019b76da-0000-7000-8000-000000000000"
    desk.work(
        {2: lambda: desk.ask("feedback", label="a"), 10: lambda: desk.ask("feedback", episode_id=other, label="b")}
    )
    assert [type(answer) for answer in desk.answers] == [AskStore, AskStore]
    assert {e.label for e in desk.of(Episode)} == {None}


@pytest.mark.parametrize("verb", ["diary", "checkin"])
def test_what_is_written_down_goes_to_whoever_keeps_it(desk: Desk, verb: str) -> None:
    assert isinstance(desk.ask(verb, kind="headache", start="2026-01-01T08:00:00Z"), AskStore)


def test_what_was_told_is_sent_again_by_whoever_keeps_it(desk: Desk) -> None:
    assert isinstance(desk.ask("resend", since="2026-01-01T00:00:00Z"), AskStore)
