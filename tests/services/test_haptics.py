"""The motor on mock pins: what it plays, and that it stops."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from gpiozero import PWMOutputDevice
from gpiozero.pins.mock import MockFactory, MockPin

from services.haptics import Haptics
from services.messages import PATTERNS, Cue, CueResult, Outcome, Pattern
from services.settings import MotorSettings, SettingsError
from tests.services.conftest import eventually
from tests.services.test_mqtt import EXERCISE

VIBRATION = MotorSettings()
BUZZER = replace(VIBRATION, kind="buzzer", pin=23)
LATE_S = 0.1  # how late a busy machine may wake a thread


def cue(pattern: Pattern = "cue", outcome: Outcome = "given") -> Cue:
    return Cue(10.0, outcome, 0, 0.0, pattern if outcome == "given" else None)


class Felt:
    """What the motor did and when."""

    def __init__(self) -> None:
        self.changes: list[tuple[float, float]] = []
        self._started = threading.Event()

    def __call__(self, drive: float) -> None:
        self.changes.append((time.monotonic(), drive))
        if drive:
            self._started.set()

    def wait_until_on(self) -> None:
        """Wait for the motor to start from here on."""
        assert self.starts_within(2)

    def starts_within(self, seconds: float) -> bool:
        """Say whether the motor starts within this time."""
        started = self._started.wait(seconds)
        self._started.clear()
        return started

    @property
    def drives(self) -> list[float]:
        return [drive for _, drive in self.changes]

    @property
    def lengths_s(self) -> list[float]:
        return [b - a for (a, _), (b, _) in itertools.pairwise(self.changes)]


@contextlib.contextmanager
def motor(settings: MotorSettings, felt: Felt, *, simulated: bool = False) -> Iterator[Haptics]:
    haptics = Haptics(settings, simulated=simulated, on_change=felt)
    try:
        yield haptics
    finally:
        haptics.close()


@contextlib.contextmanager
def vouched_for(haptics: Haptics) -> Iterator[None]:
    """Say all the time that samples keep coming, as the loop does."""
    stop = threading.Event()

    def vouch() -> None:
        while not stop.wait(0.01):
            haptics.alive()

    thread = threading.Thread(target=vouch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def played(settings: MotorSettings, pattern: Pattern, pulses: int) -> Felt:
    felt = Felt()
    with motor(settings, felt) as haptics, vouched_for(haptics):
        haptics.accept(cue(pattern))
        eventually(lambda: len(felt.changes) >= 2 * pulses)
    return felt


@pytest.mark.parametrize(
    ("settings", "drive"), [(VIBRATION, 0.6), (BUZZER, 1.0), (replace(VIBRATION, drive_pct=5), 0.05)]
)
@pytest.mark.parametrize(
    ("pattern", "lengths_s"),
    [("cue", [0.150, 0.150, 0.150]), ("escalation", [0.200, 0.150, 0.200, 0.150, 0.200])],
)
def test_a_pattern_is_played_as_promised(
    pins: MockFactory, settings: MotorSettings, drive: float, pattern: Pattern, lengths_s: list[float]
) -> None:
    pulses = (len(lengths_s) + 1) // 2
    felt = played(settings, pattern, pulses)
    assert felt.drives == [drive, 0.0] * pulses
    for length_s, wanted_s in zip(felt.lengths_s, lengths_s, strict=True):
        assert wanted_s - 0.01 <= length_s <= wanted_s + LATE_S
    assert [state.state for state in pins.pin(settings.pin).states if state.state] == [drive] * pulses


def test_the_pin_is_driven_by_pwm_for_a_motor_and_just_switched_for_a_buzzer(pins: MockFactory) -> None:
    with motor(replace(VIBRATION, pwm_hz=250), Felt()), motor(BUZZER, Felt()):
        assert pins.pin(VIBRATION.pin).frequency == 250
        assert pins.pin(BUZZER.pin).frequency is None
        assert [pins.pin(m.pin).function for m in (VIBRATION, BUZZER)] == ["output", "output"]


@pytest.mark.parametrize("outcome", ["suppressed", "self_corrected"])
def test_a_cue_that_is_not_given_moves_nothing(pins: MockFactory, outcome: Outcome) -> None:
    felt = Felt()
    with motor(VIBRATION, felt) as haptics, vouched_for(haptics):
        haptics.accept(cue(outcome=outcome))
        haptics.accept(cue())
        felt.wait_until_on()
        eventually(lambda: len(felt.changes) == 4)
    assert len(felt.changes) == 4


def test_off_stops_the_motor_at_once_and_for_good(pins: MockFactory) -> None:
    felt = Felt()
    with motor(VIBRATION, felt) as haptics, vouched_for(haptics):
        haptics.accept(cue("escalation"))
        felt.wait_until_on()
        asked_s = time.monotonic()
        haptics.off()
        assert pins.pin(VIBRATION.pin).state == 0
        assert time.monotonic() - asked_s < 0.05
        assert not felt.starts_within(0.6), "the pattern's other pulses must not come"
    assert felt.drives == [0.6, 0.0]
    assert felt.changes[1][0] - asked_s < 0.05


def test_after_off_the_next_cue_is_played_in_full(pins: MockFactory) -> None:
    felt = Felt()
    with motor(VIBRATION, felt) as haptics, vouched_for(haptics):
        haptics.accept(cue())
        felt.wait_until_on()
        haptics.off()
        eventually(lambda: len(felt.changes) == 2)
        haptics.accept(cue())
        eventually(lambda: len(felt.changes) == 6)
    assert felt.drives == [0.6, 0.0] * 3
    assert all(0.14 <= length_s <= 0.15 + LATE_S for length_s in felt.lengths_s[2::2])


def test_the_motor_stops_by_itself_when_nobody_vouches_for_the_data(pins: MockFactory) -> None:
    felt = Felt()
    with motor(VIBRATION, felt) as haptics:
        with vouched_for(haptics):
            haptics.accept(cue("escalation"))
            felt.wait_until_on()
        silent_s = time.monotonic()
        eventually(lambda: len(felt.changes) == 2, 1.0)
        assert felt.changes[1][0] - silent_s < 0.2
        assert pins.pin(VIBRATION.pin).state == 0
        assert not felt.starts_within(0.6), "the pattern's other pulses must not come"


def test_a_cue_alone_vouches_for_no_more_than_its_first_moment(pins: MockFactory) -> None:
    felt = Felt()
    with motor(VIBRATION, felt) as haptics:
        haptics.accept(cue("escalation"))
        felt.wait_until_on()
        eventually(lambda: len(felt.changes) == 2, 1.0)
        assert felt.lengths_s[0] < 0.2


def test_close_leaves_the_pin_at_nought_and_gives_it_back(pins: MockFactory) -> None:
    felt = Felt()
    with motor(VIBRATION, felt) as haptics, vouched_for(haptics):
        haptics.accept(cue("escalation"))
        felt.wait_until_on()
        asked_s = time.monotonic()
        haptics.close()
        assert felt.changes[-1][1] == 0.0
        assert felt.changes[-1][0] - asked_s < 0.05
        assert pins.pin(VIBRATION.pin).state == 0
        assert pins.pin(VIBRATION.pin).function == "input"
        haptics.accept(cue())
        haptics.off()
        haptics.close()
    assert felt.drives == [0.6, 0.0]
    PWMOutputDevice(VIBRATION.pin).close()  # nobody holds the pin any more


def test_a_simulated_motor_says_so_and_leaves_the_pins_alone(pins: MockFactory) -> None:
    felt = Felt()
    with motor(VIBRATION, felt, simulated=True) as haptics, vouched_for(haptics):
        assert haptics.simulated
        assert haptics.name == "PWMOutputDevice on GPIO18, MockFactory"
        haptics.accept(cue())
        felt.wait_until_on()
        PWMOutputDevice(VIBRATION.pin).close()
    with motor(BUZZER, felt, simulated=True) as haptics:
        assert haptics.name == "Buzzer on GPIO23, MockFactory"


def test_a_watcher_that_fails_neither_stops_the_pattern_nor_leaves_the_motor_on(
    pins: MockFactory, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[float] = []
    done = threading.Event()

    def fail(drive: float) -> None:
        told.append(drive)
        if len(told) == 4:
            done.set()
        raise BrokenPipeError("nobody looks")

    haptics = Haptics(MotorSettings(), on_change=fail)
    with vouched_for(haptics):
        haptics.accept(cue())
        assert done.wait(2)
    assert told == [0.6, 0.0, 0.6, 0.0]
    haptics.close()
    assert pins.pin(MotorSettings().pin).state == 0
    assert "nobody could be told" in caplog.text


def test_a_watcher_that_is_stuck_neither_keeps_the_motor_on_nor_holds_the_end_up(pins: MockFactory) -> None:
    go_on = threading.Event()

    def wait(_: float) -> None:
        go_on.wait(20)

    haptics = Haptics(VIBRATION, on_change=wait)
    with vouched_for(haptics):
        haptics.accept(cue())
        eventually(lambda: pins.pin(VIBRATION.pin).state > 0)
        eventually(lambda: pins.pin(VIBRATION.pin).state == 0, 0.2 + LATE_S)
        began_s = time.monotonic()
        haptics.close()
        assert time.monotonic() - began_s < 1.5
    go_on.set()


@pytest.mark.parametrize("failures", [1, 2, 9])
def test_a_pin_that_cannot_be_written_for_a_moment_does_not_leave_the_motor_on(
    pins: MockFactory, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    haptics = Haptics(VIBRATION)
    pin = pins.pin(VIBRATION.pin)
    write, left = type(pin)._set_state, [failures]

    def fail(self: object, value: float) -> None:
        if value == 0 and left[0]:
            left[0] -= 1
            raise OSError(5, "as if")
        write(self, value)

    monkeypatch.setattr(type(pin), "_set_state", fail)
    with vouched_for(haptics):
        haptics.accept(cue())
        eventually(lambda: pin.state > 0)
        haptics.off()
        given_back = failures > 3
        assert pin.function == ("input" if given_back else "output")
        assert given_back or pin.state == 0
    haptics.close()
    assert pin.function == "input"


def test_gpio_that_cannot_drive_the_motor_is_said_in_a_sentence(pins: MockFactory) -> None:
    pins.pin_class = MockPin  # as without lgpio: it cannot do PWM
    with pytest.raises(SettingsError, match=r"motor: no library for PWM .*; pip install lgpio"):
        Haptics(VIBRATION)


def test_a_pin_that_is_taken_is_named(pins: MockFactory) -> None:
    with motor(VIBRATION, Felt()), pytest.raises(SettingsError, match=r"motor\.pin: GPIO18 cannot be had: .*in use"):
        Haptics(VIBRATION)


@pytest.mark.parametrize(
    ("pattern", "drives"),
    [
        ("inhale", [0.3, 0.45, 0.6]),
        ("exhale", [0.6, 0.45, 0.3]),
        ("step", [0.6]),
        ("sensor", [0.6]),
    ],
)
def test_what_paces_an_exercise_rises_and_falls(pins: MockFactory, pattern: Pattern, drives: list[float]) -> None:
    felt = Felt()
    with motor(VIBRATION, felt) as haptics, vouched_for(haptics):
        haptics.accept(replace(EXERCISE, pattern=pattern))
        eventually(lambda: len(felt.drives) == 2 * len(drives))
    assert felt.drives[::2] == pytest.approx(drives)
    assert set(felt.drives[1::2]) == {0.0}


def test_a_buzzer_that_is_only_on_or_off_paces_too(pins: MockFactory) -> None:
    felt = Felt()
    with motor(BUZZER, felt) as haptics, vouched_for(haptics):
        haptics.accept(replace(EXERCISE, pattern="inhale"))
        eventually(lambda: len(felt.drives) == 6)
    assert felt.drives == [1.0, 0.0] * 3


def test_what_is_only_said_moves_nothing(pins: MockFactory) -> None:
    felt = Felt()
    with motor(VIBRATION, felt) as haptics, vouched_for(haptics):
        haptics.accept(EXERCISE)
        haptics.accept(CueResult(310.0, cue(), 3.0, 20.0))
        haptics.accept(cue(outcome="withheld"))
        assert not felt.starts_within(0.3)


def test_nothing_vibrates_for_a_second_at_a_stretch() -> None:
    for pulses in PATTERNS.values():
        assert all(0 < pulse.on_s < 1 and 0 < pulse.strength <= 1 for pulse in pulses)
        assert all(pulse.off_s > 0.05 for pulse in pulses[:-1])
