"""The motor: short patterns from a thread of its own, and off on any failure."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

from services.gpio import open_motor
from services.messages import PATTERNS, Cue, CueTest, Guided, Message, Pattern
from services.settings import MotorSettings

log = logging.getLogger(__name__)

_ALIVE_S = 0.15  # the motor stops when nobody has vouched for the data for this long
_STEP_S = 0.02


class Haptics:
    """Play a cue's pattern on the motor.

    While it plays, `alive` must be called again and again: it says that fresh samples keep coming and that the loop
    runs. 150 ms without it, or `off`, and the motor stands still. Without GPIO, or with `simulated`, gpiozero's mock
    pins stand in for it. `on_change` hears the drive, 0 to 1, each time it changes. Raises SettingsError for GPIO
    that is there and cannot drive the motor.
    """

    def __init__(
        self,
        settings: MotorSettings,
        *,
        simulated: bool = False,
        on_change: Callable[[float], None] = lambda drive: None,
    ) -> None:
        self._on_change = on_change
        self.drive(settings)
        self._device, self.name, self.simulated = open_motor(settings, simulated=simulated)
        self._lock = threading.Lock()
        self._wanted: Pattern | None = None
        self._wake = threading.Event()
        self._cancel = threading.Event()
        self._closed = False
        self._alive_until = 0.0
        self._told: queue.Queue[float | None] = queue.Queue(100)
        self._teller = threading.Thread(target=self._tell, name="motor watcher", daemon=True)
        self._teller.start()
        self._thread = threading.Thread(target=self._run, name="haptics", daemon=True)
        self._thread.start()

    def drive(self, settings: MotorSettings) -> None:
        """Drive the motor as strongly as these say, from the next pulse on."""
        self._dims = settings.kind == "vibration"
        self._drive = settings.drive_pct / 100 if self._dims else 1.0

    def accept(self, message: Message) -> None:
        """Play what a message asks the motor for; most do not."""
        match message:
            case CueTest() | Guided() | Cue(outcome="given"):
                if message.pattern is not None:
                    self.alive()
                    self._cancel.clear()
                    self._wanted = message.pattern
                    self._wake.set()

    def alive(self) -> None:
        """Vouch for the data: the motor may run on for a moment."""
        self._alive_until = time.monotonic() + _ALIVE_S

    def off(self) -> None:
        """Stop at once."""
        self._wanted = None
        self._cancel.set()
        self._surely_off()

    def close(self) -> None:
        """Stop and give the pin back."""
        self._closed = True
        try:
            self.off()
        finally:
            self._wake.set()
            self._thread.join(1)
            with self._lock:
                self._device.close()
        with contextlib.suppress(queue.Full):
            self._told.put_nowait(None)
        self._teller.join(0.2)  # the last line, unless whoever watches is stuck

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            pattern, self._wanted = self._wanted, None
            if pattern is None:
                continue
            try:
                self._play(pattern)
            except Exception:
                log.exception("the motor failed")

    def _play(self, pattern: Pattern) -> None:
        try:
            for pulse in PATTERNS[pattern]:
                self._set(self._drive * (pulse.strength if self._dims else 1.0))
                goes_on = self._wait(pulse.on_s)
                self._set(0.0)
                if not goes_on or not self._wait(pulse.off_s):
                    break
        finally:  # before anybody writes about it: a log can be stuck
            self._surely_off()

    def _surely_off(self) -> None:
        """Switch off, if need be again; a pin that cannot be written is given back, which ends its drive too."""
        for _ in range(3):
            with contextlib.suppress(Exception):
                self._set(0.0)
                return
            time.sleep(_STEP_S)
        with self._lock:
            self._device.close()
        log.error("the motor could not be switched off; its pin was given back")

    def _wait(self, seconds: float) -> bool:
        """Wait; return False as soon as the pattern must not go on."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            if now > self._alive_until or self._cancel.wait(min(_STEP_S, until - now)):
                return False
        return not self._cancel.is_set()

    def _set(self, drive: float) -> None:
        with self._lock:
            if drive and self._cancel.is_set():
                return
            if self._device.closed or self._device.value == drive:
                return
            self._device.value = drive
        with contextlib.suppress(queue.Full):
            self._told.put_nowait(drive)

    def _tell(self) -> None:
        """Tell whoever watches, from a thread of its own: a terminal that is stuck must not keep the motor on."""
        while (drive := self._told.get()) is not None:
            try:
                self._on_change(drive)
            except BaseException:  # rich ends the thread that finds its pipe broken
                log.exception("nobody could be told that the motor is at %g", drive)
