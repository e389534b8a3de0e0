"""The loop: read the port, follow the signal, feed the sinks; and stop cleanly, motor first."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Protocol

from firmware_bridge.blocks import SampleBlock
from firmware_bridge.bridge import WAITING, Bridge
from firmware_bridge.line import Line
from firmware_bridge.port import Port
from services.clock import Clock, Steps
from services.contract import Stamp
from services.haptics import Haptics
from services.messages import Message, Request
from services.pipeline import Pipeline

log = logging.getLogger(__name__)

_REOPEN_AFTER_S = 10.0
_MOST_WAITING = 2000
_MOST_CALLS = 100
_GOODBYE_S = 2.0
_LOOK_EVERY_S = 0.1
_LATE_S = 0.5  # data that arrive this much later than others are not of now


Call = Callable[[float], Iterable[Message]]


class Sink(Protocol):
    """Where messages go."""

    def accept(self, message: Message) -> None:
        """Take a message and return soon: the loop waits for it."""
        ...


class Threaded:
    """Give a slow sink a thread, so that the loop never waits for it; what it cannot keep up with is dropped.

    `last` is done in that thread when all else has been, whatever was dropped.
    """

    def __init__(self, sink: Sink, name: str, last: Callable[[], None] = lambda: None) -> None:
        self._sink = sink
        self._last = last
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_WAITING)
        self._closing = threading.Event()
        self._kept_up = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def accept(self, message: Message) -> None:
        """Hand a message over."""
        self.do(partial(self._sink.accept, message))

    def do(self, call: Callable[[], None]) -> None:
        """Hand over something else that may take its time, to be done in its turn."""
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            if self._kept_up:
                log.warning("%s cannot keep up; some of it is left out", self._thread.name)
            self._kept_up = False

    def close(self) -> bool:
        """Wait until everything has been done, but not for a sink that is stuck; say whether it has."""
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)  # to wake it
        self._thread.join(_GOODBYE_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not (self._closing.is_set() and self._queue.empty()):
            self._do(self._queue.get())
        self._do(self._last)

    def _do(self, call: Callable[[], None] | None) -> None:
        try:
            if call is not None:
                call()
        except BaseException:  # rich turns a broken pipe into SystemExit
            log.exception("%s failed", self._thread.name)


class Service:
    """Board to motor and sinks, in one thread.

    The motor comes first: it hears of a cue before any other sink, is stopped as soon as the board is in trouble,
    and is closed however the loop ends.
    """

    def __init__(
        self,
        port: Port,
        bridge: Bridge,
        pipeline: Pipeline,
        haptics: Haptics,
        *,
        clock: Clock,
        on_board: Callable[[str | None], None] = lambda problem: None,
    ) -> None:
        self.sinks: list[Sink] = []
        self.taps: list[Callable[[SampleBlock], None]] = []  # who wants the samples themselves; they return soon
        self.chores: list[Callable[[], None]] = []  # what is to be looked after in each round, in the main thread
        self.on_clock_set: list[Callable[[], None]] = []  # what is to be done when wall time was set
        self.obey: Callable[[Request, float], Iterable[Message]] = lambda request, at_s: ()
        self._calls: queue.Queue[Call] = queue.Queue(_MOST_CALLS)
        self._port = port
        self._bridge = bridge
        self._pipeline = pipeline
        self._haptics = haptics
        self._clock = clock
        self._line = Line(follow=bridge.check_rate)  # the board's seconds on the clock's
        self._restarts = 0
        self._steps = Steps(clock)
        self._noted: set[str] = set()
        self._on_board = on_board
        self._connections = 0
        self._problem: str | None = "not connected yet"
        self._minute: datetime | None = None
        self._look_s = 0.0  # when to look at the wall clock again

    def stamp(self, board_s: float) -> Stamp:
        """Map a second on the board's clock to the machine's clocks."""
        mono_s = self._line.host(board_s)
        return Stamp(self._clock.wall() - self._clock.mono() + mono_s, mono_s, self._clock.synchronised())

    def now(self) -> Stamp:
        """Return what the machine's clocks show; for any thread."""
        return Stamp(self._clock.wall(), self._clock.mono(), self._clock.synchronised())

    def ask(self, request: Request) -> bool:
        """Take a request, from any thread, and say whether it is taken; it is obeyed in the loop, between two reads."""
        return self.do(lambda at_s: self.obey(request, at_s))

    def do(self, call: Call) -> bool:
        """Take something to be done in the loop at a time on the board's clock, from any thread; say if it is taken."""
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            return False
        return True

    def run(self, done: Callable[[bytes], bool]) -> None:
        """Go round until `done`, which sees the bytes of each read; b"" while the board is silent."""
        try:
            while True:
                data = self._port.read()
                self._round(data)
                self._obey()
                for chore in self.chores:
                    chore()
                if done(data):
                    break
            self._haptics.off()
            self._tell(self._pipeline.finish())
        finally:
            try:
                self._haptics.close()
            finally:
                self._port.write(self._bridge.board.stop)
                self._port.close()

    def _round(self, data: bytes) -> None:
        self._follow_clock()
        now_s = time.monotonic()
        if self._port.connections != self._connections:
            self._connections = self._port.connections
            self._bridge.connected(now_s)
        self._port.write(self._bridge.command(now_s))
        blocks = self._bridge.feed(data, now_s)
        self._pipeline.counted(self._bridge.counts)
        self._watch(now_s)
        for block in blocks:
            fresh = self._is_fresh(block)
            if fresh and self._problem is None:
                self._haptics.alive()
            self._pipeline.fresh(yes=fresh)
            self._tell(self._pipeline.process(block))
            for tap in self.taps:
                tap(block)
        self._note()

    def _obey(self) -> None:
        while not self._calls.empty():
            call = self._calls.get()
            try:
                self._tell(call(self._board_s()))
            except Exception:  # what somebody asks must not end the cues
                log.exception("a request failed")

    def _board_s(self) -> float:
        return self._line.board(self._clock.mono())

    def _is_fresh(self, block: SampleBlock) -> bool:
        """Say whether a block is of now: what waited while this process stood still is not; a recording always is.

        Nor is it known as long as the rate is not.
        """
        if self._bridge.restarts != self._restarts:
            self._restarts = self._bridge.restarts
            self._line.restart()
        at_s, now_s = block.end / block.signal.rate_hz, self._clock.mono()
        self._line.see(at_s, now_s)
        if not self._bridge.check_rate:
            return True
        return self._bridge.rate_known and self._line.late(at_s, now_s) <= _LATE_S

    def _note(self) -> None:
        """Tell what the wearer should know of the board, once; `info` then tells the true rate."""
        new = [note for note in self._bridge.notes() if note not in self._noted]
        for note in new:
            log.warning("%s", note)
        if new:
            self._noted.update(new)
            self._tell(self._pipeline.introduce())

    def _follow_clock(self) -> None:
        """Tell the local time, minute by minute and when it was set; then others have another time to tell, too."""
        if self._clock.mono() < self._look_s:
            return
        self._look_s = self._clock.mono() + _LOOK_EVERY_S
        local, stepped = self._clock.local(), self._steps.stepped()
        if stepped or local.replace(second=0, microsecond=0) != self._minute:
            self._minute = local.replace(second=0, microsecond=0)
            self._tell(self._pipeline.local_time(local, self._board_s(), jumped=stepped))
        if stepped:
            for follow in self.on_clock_set:
                follow()

    def _watch(self, now_s: float) -> None:
        """Follow the board's state; stop the motor and tell everybody when it changes."""
        problem = self._port.problem
        if problem is None and self._port.connections:
            problem = self._bridge.problem(now_s)
            if problem == WAITING:
                problem = self._problem or WAITING  # whatever was wrong is not over before samples come
            if problem and self._bridge.stale_s(now_s) > _REOPEN_AFTER_S:
                self._port.reopen(problem)
        if problem != self._problem:
            if problem is not None:
                self._haptics.off()
            self._problem = problem
            self._on_board(problem)
            self._tell(self._pipeline.board(problem, self._board_s()))
        if problem is not None:
            self._tell(self._pipeline.away(self._board_s()))

    def _tell(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._haptics.accept(message)
            for sink in self.sinks:
                sink.accept(message)
