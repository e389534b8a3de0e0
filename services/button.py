"""The one button: a press snoozes, a long one says that it was too much, a double one that a headache began."""

import logging
import time
from collections.abc import Callable
from typing import Literal

from services.messages import Request
from services.settings import ButtonSettings

log = logging.getLogger(__name__)

Gesture = Literal["press", "long", "double"]

_LOOK_EVERY_S = 0.02  # which no bounce of a contact outlasts


class Gestures:
    """Find gestures in whether a button is pressed, looked at again and again; times are seconds on any clock."""

    def __init__(self, settings: ButtonSettings) -> None:
        self._settings = settings
        self._down_s: float | None = None  # since when it has been pressed, unless that was a gesture already
        self._up_s: float | None = None  # when a press was over that may become a double one
        self._pressed = False

    def look(self, at_s: float, *, pressed: bool) -> Gesture | None:
        """Note whether it is pressed now; return the gesture that this completes."""
        changed, self._pressed = pressed != self._pressed, pressed
        if changed and pressed:
            if self._up_s is not None:
                self._up_s = None
                return "double"
            self._down_s = at_s
        elif changed and self._down_s is not None:
            self._down_s, self._up_s = None, at_s
        elif self._down_s is not None and at_s - self._down_s >= self._settings.long_s:
            self._down_s = None
            return "long"
        elif self._up_s is not None and at_s - self._up_s >= self._settings.double_s:
            self._up_s = None
            return "press"
        return None


class Button:
    """Look at the button now and then, and ask for what its gestures mean.

    `snoozed` says whether cues are snoozed: then a press makes it an hour. `now` is the time as RFC 3339.
    """

    def __init__(
        self,
        settings: ButtonSettings,
        is_pressed: Callable[[], bool],
        ask: Callable[[Request], object],
        snoozed: Callable[[], bool],
        now: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._gestures = Gestures(settings)
        self._is_pressed, self._ask, self._snoozed, self._now = is_pressed, ask, snoozed, now
        self._look_s = 0.0
        self._failing = False

    def poll(self) -> None:
        """Look, if it is time to."""
        at_s = time.monotonic()
        if at_s < self._look_s:
            return
        self._look_s = at_s + _LOOK_EVERY_S
        try:
            pressed = self._is_pressed()
        except Exception as error:  # a pin that is gone must not end the cues
            if not self._failing:
                log.error("the button cannot be read: %s", error)
            self._failing = True
            return
        gesture = self._gestures.look(at_s, pressed=pressed)
        if gesture is not None:
            log.info("button: %s", gesture)
            self._ask(self._meaning(gesture))

    def _meaning(self, gesture: Gesture) -> Request:
        match gesture:
            case "press":
                minutes = self._settings.again_min if self._snoozed() else self._settings.snooze_min
                return Request("snooze", {"minutes": minutes, "request_id": "button"})
            case "long":
                return Request("feedback", {"label": "too much", "request_id": "button"})
            case "double":
                return Request("diary", {"kind": "headache", "start": self._now(), "request_id": "button"})
