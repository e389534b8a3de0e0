"""The terminal of someone who is guided: what to do, how long still, the levels; and the keys that say yes and stop.

It knows the payloads that are published, so that it does not matter where the service is.
"""

import contextlib
import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

Payload = dict[str, Any]
Ask = Callable[[str, Payload], object]

_AGAIN_S = 1.0  # what cannot begin yet is asked for again after this ...
_BEGIN_S = 60.0  # ... for so long
_SILENT_S = 8.0
_STOP_S = 2.0
_START = "guide start"
_NEXT, _STOP = ("\n", "\r", " "), ("q", "Q", "\x1b", "\x03")


class View(NamedTuple):
    """What is said now, what else there is to say, the levels, and how long this step takes in all."""

    now: Payload | None
    note: str
    tension: Payload | None
    longest_s: float


class Guiding:
    """Follow one calibration (`calibrate`) or exercise from `start` on until it is over.

    `ask` sends a request; `hear` takes what is published, from any thread. `code` is the exit code, once it is over.
    """

    def __init__(self, verb: str, start: Payload) -> None:
        self._verb, self._start = verb, start
        self.tell: Callable[[str], None] = lambda text: None  # takes each new sentence
        self._topic = "calibration" if verb == "calibrate" else "exercise"
        self.ask: Ask = lambda verb, body: None
        self.over = threading.Event()
        self.code = 1
        self._now: Payload | None = None
        self._said = ""
        self._tension: Payload | None = None
        self._note = "waiting for the signal ..."
        self._heard_s = self._began_s = time.monotonic()
        self._asked_s = 0.0
        self._begins = False  # it was taken, and the first word comes soon
        self._stopping_s: float | None = None
        self._longest_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def hear(self, topic: str, body: Payload) -> None:
        """Take a payload that was published."""
        with self._lock:
            self._heard_s = time.monotonic()
            if topic == "tension":
                self._tension = body
            elif topic == "reply" and str(body.get("request_id", "")).startswith("guide"):
                self._answered(body)
            elif topic == self._topic:
                self._follow(body)

    def _answered(self, body: Payload) -> None:
        if body["result"] == "ok":
            self._begins = self._begins or body["request_id"] == _START
            return
        error = str(body["error"])
        if self._now is None and error.startswith("no signal") and time.monotonic() - self._began_s < _BEGIN_S:
            self._note = f"waiting for the signal ... ({error})"
        elif self._now is None:
            self._end(error, 1)
        else:
            self._note = error

    def _follow(self, body: Payload) -> None:
        if self._now is not None and body["id"] != self._now["id"]:
            return
        self._now, self._note = body, ""
        if body["left_s"] is not None:
            self._longest_s[body["step"]] = max(self._longest_s.get(body["step"], 0.0), body["left_s"])
        if body["say"] != self._said and body["event"] != "ended":
            self.tell(body["say"] + (f" ({body['left_s']:.0f} s)" if body["left_s"] else ""))
        self._said = body["say"]
        if body["event"] == "ended":
            self.code = 0 if body["outcome"] in ("accepted", "completed") else 1
            self.over.set()

    def _end(self, why: str, code: int) -> None:
        self._note, self.code = why, code
        self.over.set()

    def key(self, key: str) -> None:
        """Take a key: Enter goes on, q stops."""
        if key in _NEXT:
            self.ask(self._verb, {"action": "next", "request_id": "guide next"})
        elif key in _STOP:
            self.stop()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping_s is not None

    def stop(self) -> None:
        """Stop what is under way, or what has not begun."""
        with self._lock:
            begun, again = self._now is not None, self._stopping_s is not None
            self._stopping_s = self._stopping_s or time.monotonic()
            if not begun or again:
                self._end("stopped", 1)
                return
        self.ask(self._verb, {"action": "stop", "request_id": "guide stop"})

    def tick(self) -> None:
        """Do what is due; call it several times a second."""
        now = time.monotonic()
        if self._now is None and not self._begins and now - self._asked_s >= _AGAIN_S and not self.over.is_set():
            self._asked_s = now
            self.ask(self._verb, {"action": "start", "request_id": _START, **self._start})
        with self._lock:
            if self.over.is_set():
                return
            if self._stopping_s is not None and now - self._stopping_s > _STOP_S:
                self._end("stopped; the service did not answer", 1)
            elif self._now is None and now - self._began_s > _BEGIN_S + 2 * _AGAIN_S:
                self._end("the service does not answer; expected `unshrug run`, and its broker", 1)
            elif now - self._heard_s > (_SILENT_S if self._now is not None else _BEGIN_S):
                self._end("nothing is heard of the service any more", 1)

    def summary(self) -> list[str]:
        """Return what came of it, for people."""
        with self._lock:
            body = self._now
            if body is None or body["event"] != "ended":
                return [self._note]
            return [body["say"], *(_measured(body) if self._topic == "calibration" else _relaxed(body))]

    def view(self) -> View:
        """Return what is to be seen now."""
        with self._lock:
            now = self._now
            longest_s = self._longest_s.get(now["step"], 1.0) if now else 1.0
            return View(now, self._note, self._tension, longest_s)


def _measured(body: Payload) -> Iterator[str]:
    for c, name in enumerate(body["channels"]):
        if not body["reference_uv"]:
            continue
        line = f"  {name}: reference {body['reference_uv'][c]:.1f} µV, rest {body['rest_uv'][c]:.1f} µV"
        if body["cv_pct"]:
            line += f", holds differ by {body['cv_pct'][c]:.0f} %"
        if body["verdicts"]:
            verdict = body["verdicts"][c]
            line += (
                f", {body['snr_db'][c]:.0f} dB above rest, rest {'can' if verdict['sees_rest'] else 'cannot'} be seen"
            )
            line += f" ({'; '.join(verdict['reasons'])})" if verdict["reasons"] else ""
        yield line
    if body["outcome"] == "accepted":
        yield "  It holds as long as the electrodes stay where they are; `unshrug calibrate --quick` checks it."
        yield "  You will be asked how head and neck are in 24 and 48 h (`unshrug diary checkin`)."


def _relaxed(body: Payload) -> Iterator[str]:
    for c, name in enumerate(body["channels"]):
        before, after = (body["before_rve"][c], body["after_rve"][c])
        unit = "%RVE"
        if before is None or after is None:
            before, after, unit = body["before_uv"][c], body["after_uv"][c], "µV"
        shown = [("--" if v is None else f"{v:.1f}") for v in (before, after)]
        yield f"  {name}: tension {shown[0]} before, {shown[1]} after ({unit})"


@contextlib.contextmanager
def keys(take: Callable[[str], None], stdin: TextIO = sys.stdin) -> Iterator[None]:
    """Hand over each key, as it is pressed on a terminal, else each line; a terminal is put back as it was."""
    done = threading.Event()
    is_tty = stdin.isatty()
    number = stdin.fileno()
    before = termios.tcgetattr(number) if is_tty else None

    def read() -> None:
        while not done.is_set():
            if not select.select([number], [], [], 0.1)[0]:
                continue
            text = os.read(number, 64).decode(errors="replace")
            if not text:
                return  # nobody there; the program goes on
            for key in text if is_tty else text.replace("q\n", "q"):
                take(key)

    if is_tty:
        tty.setcbreak(number)
    thread = threading.Thread(target=read, name="keys", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(1)
        if before is not None:
            termios.tcsetattr(number, termios.TCSADRAIN, before)
