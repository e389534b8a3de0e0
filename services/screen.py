"""What `demo`, `run` and `replay` show in the terminal: a live view, or plain lines where there is none."""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dsp.detect import Shrug
from services.guiding import Guiding
from services.messages import About, Cue, Episode, Guided, Message, Tension, WearerState

_BAR = 40
_QUIET = {"refractory": "too soon after the last cue"}


def words(message: Message, names: tuple[str, ...]) -> str | None:
    """Say what happened, None for what is not worth a line."""
    match message:
        case Shrug(phase="started"):
            text = f"{names[message.channel]}: sustained shrug since {message.start_s:.1f} s"
        case Shrug(phase="ended"):
            length = (message.end_s or message.at_s) - message.start_s
            text = f"{names[message.channel]}: shrug ended, {length:.1f} s, mean {message.mean_uv:.0f} µV"
        case Cue():
            text = f"{names[message.channel]}: {_cue(message)}"
        case Episode(event="started"):
            text = f"episode {message.id[-6:]} started"
        case Episode(event="ended"):
            length = (message.end_s or message.at_s) - message.start_s
            text = f"episode {message.id[-6:]} ended, {length:.0f} s"
        case Guided(event="started" | "ended"):
            text = f"{message.activity}: {message.say}"
        case About(rest_uv=None):
            text = "measuring the rest level: sit back, shoulders down"
        case About():
            rest = ", ".join(f"{n} {_or_dash(v, 1)}" for n, v in zip(names, message.rest_uv or (), strict=True))
            limits = ", ".join(_or_dash(v, 0) for v in message.on_uv)
            text = f"rest {rest} µV, shrug from {limits} µV ({message.calibration_source}){_notches(message)}"
        case _:
            return None
    return text


def _notches(about: About) -> str:
    notches = " and ".join(f"{hz:g}" for hz in about.band.notches_hz)
    return f", mains hum notched at {notches} Hz" if notches else ""


def _or_dash(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "--"


def _cue(cue: Cue) -> str:
    if cue.pattern == "sensor":
        return f"look at the sensor, the motor vibrates ({cue.reason})"
    if cue.outcome == "given":
        return f"CUE, the motor vibrates ({cue.pattern}){' for low rest' if cue.trigger == 'low_rest' else ''}"
    if cue.outcome == "withheld":
        return "a cue is withheld, by lot"
    if cue.outcome == "self_corrected":
        return "relaxed without a cue"
    return f"no cue, {_QUIET.get(cue.reason or '', cue.reason)}"


class PlainScreen:
    """Lines for a log or a pipe: every event and, unless `quiet`, the tension once a second."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._names: tuple[str, ...] = ()
        self._next_s = 0.0

    def note(self, text: str) -> None:
        """Show a line of the program's own."""
        self._console.print(text, markup=False)

    def motor(self, drive: float) -> None:
        """Show that the motor starts or stops."""
        self.note(f"           motor {'ON ' + format(drive, '.0%') if drive else 'off'}")

    def accept(self, message: Message) -> None:
        """Show what is worth a line."""
        if isinstance(message, About):
            self._names = message.channels
        if isinstance(message, Tension) and not self._quiet and message.at_s >= self._next_s:
            self._next_s = int(message.at_s + 1e-6) + 1 - 1e-6
            levels = "   ".join(f"{c.name} {_level(c.rms_uv, c.rve)}" for c in message.channels)
            self.note(f"{message.at_s:8.1f} s {levels}")
        text = words(message, self._names)
        if text:
            self.note(f"{message.at_s:8.1f} s {text}")

    def close(self) -> None:
        """Nothing is left to show."""


class LiveScreen:
    """A view that moves: tension per channel, thresholds, the motor, and what happened last."""

    def __init__(self, console: Console) -> None:
        self._names: tuple[str, ...] = ()
        self._about: About | None = None
        self._tension: Tension | None = None
        self._state: WearerState | None = None
        self._drive = 0.0
        self._buzzed_s = -10.0
        self._notes: list[str] = []
        self._lines: deque[str] = deque(maxlen=9)
        self._lock = threading.Lock()
        self._live = Live(self, console=console, refresh_per_second=8, transient=False)
        self._live.start()

    def note(self, text: str) -> None:
        """Show a line of the program's own."""
        with self._lock:
            self._notes = [*self._notes, text][-5:]

    def log(self, text: str) -> None:
        """Show what the program has to say among what happens."""
        with self._lock:
            self._lines.append(f"            {text}")

    def motor(self, drive: float) -> None:
        """Show that the motor starts or stops."""
        self._drive = drive
        if drive:
            self._buzzed_s = time.monotonic()

    def accept(self, message: Message) -> None:
        """Take what is to be shown; the view draws itself."""
        with self._lock:
            match message:
                case About():
                    if message.channels != self._names:  # another board: what the last one sent says nothing of it
                        self._tension = self._state = None
                    self._about, self._names = message, message.channels
                case Tension():
                    self._tension = message
                case WearerState():
                    self._state = message
            text = words(message, self._names)
            if text:
                self._lines.append(f"{message.at_s:8.1f} s  {text}")

    def close(self) -> None:
        """Leave the last view standing."""
        self._live.stop()

    def __rich__(self) -> Panel:
        with self._lock:
            parts: list[RenderableType] = [self._levels(), self._motor(), Text(), *map(Text, self._lines), Text()]
            notes = [Text(note, style="dim") for note in self._notes]
        return Panel(Group(*parts, *notes), title="Unshrug", border_style="cyan")

    def _levels(self) -> Table:
        table = Table.grid(padding=(0, 2))
        if self._tension is None:
            table.add_row(Text("waiting for the board ..."))
            return table
        for k, channel in enumerate(self._tension.channels):
            on = self._about.on_uv[k] if self._about and k < len(self._about.on_uv) else None
            state = self._state.channels[k] if self._state and k < len(self._state.channels) else None
            mood = "no signal" if channel.rms_uv is None else "SHRUG" if state and state.shrug else "ok"
            if state and state.quality != "ok":
                mood = f"{state.quality}: {', '.join(state.reasons)}"
            table.add_row(Text(channel.name), _bar(channel.rms_uv, on), _level(channel.rms_uv, channel.rve), Text(mood))
        return table

    def _motor(self) -> Text:
        recent = time.monotonic() - self._buzzed_s < 1
        if self._drive or recent:
            return Text("motor  ((( vibrating )))", style="bold black on yellow")
        return Text("motor  still", style="dim")


def _level(rms_uv: float | None, rve: float | None) -> str:
    if rms_uv is None:
        return "   -- µV"
    return f"{rms_uv:5.1f} µV" + (f" {rve:4.0f} %RVE" if rve is not None else "")


def _bar(rms_uv: float | None, on_uv: float | None) -> Text:
    """Draw a level on a scale that ends at three times the threshold, which is marked."""
    top = 3 * on_uv if on_uv else 100.0
    filled = 0 if rms_uv is None else min(_BAR, round(_BAR * rms_uv / top))
    mark = _BAR // 3 if on_uv else None
    cells = ["█" if k < filled else "│" if k == mark else "·" for k in range(_BAR)]
    tense = bool(on_uv and rms_uv and rms_uv >= on_uv)
    return Text("".join(cells), style="bold yellow" if tense else "blue")


class ScreenLog(logging.Handler):
    """Bring log lines into the live view, which a line written past it would tear."""

    def __init__(self, screen: LiveScreen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        self._screen.log(record.getMessage())


Screen = PlainScreen | LiveScreen


def make_screen(*, headless: bool, quiet: bool = False) -> Screen:
    """Return the live view where there is a terminal to show it, else plain lines, `quiet` ones for a journal."""
    console = Console(highlight=False, soft_wrap=True)
    return PlainScreen(console, quiet=quiet) if headless or not console.is_terminal else LiveScreen(console)


class _GuideView:
    """What someone sees who is guided: the sentence, the time left, the levels, the keys."""

    def __init__(self, guided: Guiding) -> None:
        self._guided = guided

    def __rich__(self) -> Panel:
        now, note, tension, longest_s = self._guided.view()
        parts: list[RenderableType] = [Text(now["say"] if now else note, style="bold"), Text()]
        if now is not None:
            if now.get("repeat") is not None:
                parts.append(Text(f"{now['step']}{'' if now['quick'] else ', ' + str(now['repeat']) + ' holds done'}"))
            if now["left_s"] is not None:
                parts.append(ProgressBar(total=longest_s or 1.0, completed=longest_s - now["left_s"], width=_BAR))
                parts.append(Text(f"{now['left_s']:.0f} s"))
            parts.append(Text())
        if tension is not None:
            parts += [_levels(tension["channels"]), Text()]
        if now is not None and note:
            parts.append(Text(note, style="yellow"))
        ready = "Enter: I am ready   " if now and now["step"] == "ready" else ""
        parts.append(Text(f"{ready}q: stop", style="dim"))
        return Panel(Group(*parts), title="Unshrug", border_style="cyan")


def _levels(channels: list[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for channel in channels:
        rms_uv, rve = channel["rms_uv"], channel["rve"]
        known = rve if rve is not None else rms_uv
        filled = 0 if known is None else min(_BAR, round(_BAR * known / 100))
        bar = Text("█" * filled + "·" * (_BAR - filled), style="blue")
        table.add_row(Text(channel["name"]), bar, _level(rms_uv, rve))
    return table


@contextlib.contextmanager
def guide_screen(guided: Guiding) -> Iterator[None]:
    """Show it as long as this lasts: a live view on a terminal, elsewhere a line for each new sentence."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        guided.tell = lambda text: console.print(text, markup=False)
        yield
        return
    with Live(_GuideView(guided), console=console, refresh_per_second=8, transient=True):
        yield


def no_screen() -> PlainScreen:
    """Return a screen that shows nothing."""
    return PlainScreen(Console(quiet=True), quiet=True)
