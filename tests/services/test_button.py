"""The one button: what is done to it, and what that means."""

import itertools
from collections.abc import Iterable

import pytest
from gpiozero.pins.mock import MockFactory
from hypothesis import given, settings
from hypothesis import strategies as st

from services.button import Button, Gesture, Gestures
from services.gpio import open_button
from services.messages import Request
from services.requests import schema
from services.settings import ButtonSettings, SettingsError

SETTINGS = ButtonSettings(pin=17)
LOOK_S = 0.02
NOON = "2026-01-31T12:00:00+01:00"


def gestures(pressed: Iterable[tuple[float, float]], end_s: float = 10.0) -> list[Gesture]:
    """Look every 20 ms at a button that is pressed from when to when."""
    stretches = list(pressed)
    found = Gestures(SETTINGS)
    times = [k * LOOK_S for k in range(int(end_s / LOOK_S))]
    looked = [found.look(at_s, pressed=any(a <= at_s < b for a, b in stretches)) for at_s in times]
    return [gesture for gesture in looked if gesture]


@pytest.mark.parametrize(
    ("pressed", "meant"),
    [
        ([(1.0, 1.2)], ["press"]),
        ([(1.0, 1.04)], ["press"]),
        ([(1.0, 2.5)], ["long"]),
        ([(1.0, 9.0)], ["long"]),
        ([(1.0, 1.2), (1.4, 1.6)], ["double"]),
        ([(1.0, 1.2), (1.4, 4.0)], ["double"]),
        ([(1.0, 1.2), (2.0, 2.2)], ["press", "press"]),
        ([(1.0, 1.2), (1.4, 1.6), (1.8, 2.0)], ["double", "press"]),
        ([(1.0, 2.5), (3.0, 3.2)], ["long", "press"]),
        ([], []),
    ],
)
def test_each_gesture_is_told_from_the_others(pressed: list[tuple[float, float]], meant: list[Gesture]) -> None:
    assert gestures(pressed) == meant


@settings(max_examples=200, deadline=None)
@given(edges=st.lists(st.integers(1, 400), max_size=20))
def test_whatever_is_done_to_it_there_is_at_most_one_gesture_a_press(edges: list[int]) -> None:
    times = [t * LOOK_S for t in itertools.accumulate(edges)]
    pressed = list(zip(times[::2], times[1::2], strict=False))
    found = gestures(pressed, (times[-1] if times else 0) + 3)
    assert len(found) <= len(pressed)
    assert sum(2 if g == "double" else 1 for g in found) == len(pressed) or "double" in found


class Worn:
    """A button whose pin the test drives, and who is asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.is_snoozed = False
        self.pressed = False
        self.broken = False
        self.now_s = 0.0
        self.button = Button(SETTINGS, self.look, self.ask, lambda: self.is_snoozed, lambda: NOON)

    def look(self) -> bool:
        if self.broken:
            raise OSError("gone")
        return self.pressed

    def ask(self, request: Request) -> None:
        self.asked.append(request)

    def do(self, monkeypatch: pytest.MonkeyPatch, *steps: tuple[bool, float]) -> Request:
        monkeypatch.setattr("services.button.time.monotonic", lambda: self.now_s)
        for self.pressed, seconds in (*steps, (False, 1.0)):
            for _ in range(round(seconds / 0.005)):
                self.now_s += 0.005
                self.button.poll()
        return self.asked[-1]


def test_a_press_snoozes_and_another_one_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    worn = Worn()
    assert worn.do(monkeypatch, (True, 0.2)) == Request("snooze", {"minutes": 15, "request_id": "button"})
    worn.is_snoozed = True
    assert worn.do(monkeypatch, (True, 0.2)).body["minutes"] == 60


def test_a_long_press_labels_and_a_double_one_begins_a_headache(monkeypatch: pytest.MonkeyPatch) -> None:
    worn = Worn()
    assert worn.do(monkeypatch, (True, 1.5)).body["label"] == "too much"
    request = worn.do(monkeypatch, (True, 0.2), (False, 0.2), (True, 0.2))
    assert (request.verb, request.body["kind"], request.body["start"]) == (
        "diary",
        "headache",
        NOON,
    )
    assert len(worn.asked) == 2


@pytest.mark.parametrize("steps", [((True, 0.2),), ((True, 1.5),), ((True, 0.2), (False, 0.2), (True, 0.2))])
def test_what_it_asks_for_fits_the_schema_of_the_request(
    monkeypatch: pytest.MonkeyPatch, steps: tuple[tuple[bool, float], ...]
) -> None:
    import fastjsonschema

    request = Worn().do(monkeypatch, *steps)
    fastjsonschema.validate(schema(f"cmd_{request.verb}"), request.body)


def test_a_pin_that_cannot_be_read_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worn = Worn()
    worn.broken = True
    with pytest.raises(IndexError):
        worn.do(monkeypatch, (True, 0.2))
    assert [r.getMessage() for r in caplog.records] == ["the button cannot be read: gone"]


def test_the_button_pulls_its_pin_to_ground(pins: MockFactory) -> None:
    is_pressed, close = open_button(SETTINGS)
    assert not is_pressed()
    pins.pin(17).drive_low()
    assert is_pressed()
    close()


def test_a_pin_that_another_has_is_refused(pins: MockFactory) -> None:
    _, close = open_button(SETTINGS)
    with pytest.raises(SettingsError, match=r"button\.pin: GPIO17 cannot be had"):
        open_button(SETTINGS)
    close()
