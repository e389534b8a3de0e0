"""The Pi's pins: the motor that the wearer feels and the button under their thumb. The only import of gpiozero."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import gpiozero
from gpiozero.pins.mock import MockFactory, MockPWMPin

from services.settings import ButtonSettings, MotorSettings, SettingsError

log = logging.getLogger(__name__)


def open_motor(settings: MotorSettings, *, simulated: bool) -> tuple[Any, str, bool]:
    """Return the motor's device, its name, and whether it is simulated, as it is where there is no GPIO.

    Raises SettingsError for GPIO that is there and cannot drive the motor.
    """
    if not simulated:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each library that is not there; the one in use is named below
            try:
                return _motor(settings, None)
            except gpiozero.BadPinFactory as error:
                log.warning("no GPIO on this machine, the motor is only simulated (%s)", error)
            except gpiozero.PinPWMUnsupported:
                raise SettingsError("motor: no library for PWM on this machine's GPIO; pip install lgpio") from None
            except Exception as error:  # each GPIO library has errors of its own, such as lgpio's "GPIO busy"
                raise SettingsError(f"motor.pin: GPIO{settings.pin} cannot be had: {error}") from None
    return _motor(settings, MockFactory(pin_class=MockPWMPin))


def _motor(settings: MotorSettings, factory: Any) -> tuple[Any, str, bool]:
    if settings.kind == "buzzer":
        device = gpiozero.Buzzer(settings.pin, pin_factory=factory)
    else:
        device = gpiozero.PWMOutputDevice(settings.pin, frequency=settings.pwm_hz, pin_factory=factory)
    name = f"{type(device).__name__} on GPIO{settings.pin}, {type(device.pin_factory).__name__}"
    return device, name, isinstance(device.pin_factory, MockFactory)


def open_button(settings: ButtonSettings) -> tuple[Callable[[], bool], Callable[[], None]]:
    """Return what says whether the button is pressed, and what gives its pin back.

    The button connects the pin to ground. Raises SettingsError where that pin cannot be had.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            button = gpiozero.Button(settings.pin)
        except Exception as error:
            raise SettingsError(f"button.pin: GPIO{settings.pin} cannot be had: {error}") from None
    return (lambda: bool(button.is_pressed)), button.close
