"""The terminal of someone who is guided, without a terminal and without a service."""

from typing import Any

import pytest

from services.guiding import Guiding
from tests.services.published import payload
from tests.services.test_mqtt import CALIBRATION, EXERCISE, TENSION


class Sitting:
    """Who is guided, what was asked, what was told, and a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, verb: str = "calibrate") -> None:
        self.now_s = 100.0
        monkeypatch.setattr("services.guiding.time.monotonic", lambda: self.now_s)
        self.guiding = Guiding(verb, {"pain": 0} if verb == "calibrate" else {"name": "trap-stretch"})
        self.asked: list[tuple[str, Any]] = []
        self.told: list[str] = []
        self.guiding.ask = lambda verb, body: self.asked.append((verb, body["action"]))
        self.guiding.tell = self.told.append

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.now_s += 0.1
            self.guiding.tick()

    def hear(self, **changes: Any) -> None:
        now = {"event": "progress", "outcome": None, "reason": None, "left_s": 5.0} | changes
        self.guiding.hear("calibration", payload(CALIBRATION) | now)

    def answer(self, error: str | None = None, asked: str = "start") -> None:
        body = {"request_id": f"guide {asked}", "result": "error" if error else "ok", "error": error}
        self.guiding.hear("reply", body)


@pytest.fixture
def sitting(monkeypatch: pytest.MonkeyPatch) -> Sitting:
    return Sitting(monkeypatch)


def test_it_asks_until_it_begins_and_then_no_more(sitting: Sitting) -> None:
    sitting.wait(2.5)
    assert sitting.asked == [("calibrate", "start")] * 3
    sitting.answer("no signal: not connected yet")
    assert "waiting for the signal" in sitting.guiding.view().note
    sitting.wait(1)
    sitting.answer()
    sitting.wait(5)
    assert len(sitting.asked) == 4


def test_each_sentence_is_told_once(sitting: Sitting) -> None:
    for left_s in (3.0, 2.0, 1.0):
        sitting.hear(step="rest", say="Rest.", left_s=left_s)
    sitting.hear(step="ready", say="Ready?", left_s=None)
    assert sitting.told == ["Rest. (3 s)", "Ready?"]
    assert sitting.guiding.view().longest_s == 1.0


def test_keys_go_on_and_stop(sitting: Sitting) -> None:
    sitting.hear(step="ready", say="Ready?", left_s=None)
    for key in "\nx q":
        sitting.guiding.key(key)
    assert sitting.asked == [("calibrate", "next"), ("calibrate", "next"), ("calibrate", "stop")]
    sitting.hear(event="ended", outcome="stopped", step="ended", say="Stopped.")
    assert sitting.guiding.over.is_set()
    assert sitting.guiding.code == 1
    assert sitting.guiding.summary()[0] == "Stopped."


def test_a_second_stop_or_a_service_that_does_not_answer_ends_it(
    sitting: Sitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    sitting.hear()
    sitting.guiding.stop()
    sitting.wait(2.5)
    assert sitting.guiding.summary() == ["stopped; the service did not answer"]
    again = Sitting(monkeypatch)
    again.hear()
    again.guiding.stop()
    again.guiding.stop()
    assert again.guiding.over.is_set()


def test_what_refuses_to_begin_is_the_last_word(sitting: Sitting) -> None:
    sitting.wait(0.2)
    sitting.answer("a headache is open in the diary; calibrate on a day without one")
    assert sitting.guiding.summary() == ["a headache is open in the diary; calibrate on a day without one"]
    assert sitting.guiding.code == 1


def test_what_is_refused_on_the_way_is_shown_and_it_goes_on(sitting: Sitting) -> None:
    sitting.hear()
    sitting.answer("the step rest takes another 9 s", asked="next")
    assert sitting.guiding.view().note == "the step rest takes another 9 s"
    assert not sitting.guiding.over.is_set()


def test_silence_ends_it(sitting: Sitting) -> None:
    sitting.hear()
    sitting.wait(7)
    sitting.guiding.hear("tension", payload(TENSION))
    sitting.wait(7)
    assert not sitting.guiding.over.is_set()
    sitting.wait(2)
    assert sitting.guiding.summary() == ["nothing is heard of the service any more"]


def test_a_service_that_never_answers_is_said(sitting: Sitting) -> None:
    sitting.wait(70)
    assert sitting.guiding.over.is_set()
    assert "the service" in sitting.guiding.summary()[0]


def test_what_was_measured_is_said_for_people(sitting: Sitting, monkeypatch: pytest.MonkeyPatch) -> None:
    sitting.guiding.hear("calibration", payload(CALIBRATION))
    assert sitting.guiding.code == 0
    said = "\n".join(sitting.guiding.summary())
    assert "left: reference 80.1 µV, rest 2.4 µV, holds differ by 1 %, 30 dB above rest, rest can be seen" in said
    other = Sitting(monkeypatch, "exercise")
    other.guiding.hear("exercise", payload(EXERCISE))
    assert other.guiding.summary()[1] == "  left: tension 7.5 before, 3.6 after (%RVE)"
    assert other.guiding.code == 0
