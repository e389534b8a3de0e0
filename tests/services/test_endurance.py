"""What the wearer gets while a board comes and goes, never speaks, or speaks otherwise than it should."""

import gc
import itertools
import os
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gpiozero.pins.mock import MockFactory

from dsp.chain import Levels
from firmware_bridge.boards import BOARDS, Board
from firmware_bridge.bridge import Bridge
from firmware_bridge.decoders.ascii_lines import encode_line
from firmware_bridge.decoders.framed import encode_data, encode_info
from firmware_bridge.port import Port
from firmware_bridge.simulator import Activity, Wearer, board_info
from services.clock import Clock
from services.daemon import Service
from services.haptics import Haptics
from services.messages import About, Cue, Episode, Message, WearerState
from services.pipeline import Pipeline
from tests.bridge.helpers import Cable, cable
from tests.bridge.test_port import Hours, plug
from tests.services.conftest import CALIBRATED, REST, SHRUG, eventually, running

OWN = BOARDS["unshrug"]
SIGNED_LINES = replace(BOARDS["ascii"], rate_hz=1000.0, uv_per_count=0.05, codes=(-(2**15), 2**15 - 1))


class States:
    """A sink that counts, so that its own memory does not grow."""

    def __init__(self) -> None:
        self.up = self.down = self.cues = 0
        self.last_problem: str | None = None

    def accept(self, message: Message) -> None:
        match message:
            case WearerState(board_up=True):
                self.up += 1
            case WearerState():
                self.down += 1
                self.last_problem = message.board_problem
                assert message.board_problem
                assert not message.cues_enabled
            case Cue():
                self.cues += 1


class Rig:
    """A service on a port that is tried again at once."""

    def __init__(self, path: object, pin: int = CALIBRATED.motor.pin) -> None:
        self.states = States()
        self.drives: list[float] = []
        self.problem: str | None = "not connected yet"
        self.said: list[str | None] = []
        self.service = Service(
            Port(str(path), 115200, list, Hours()),
            Bridge(OWN, ("left", "right")),
            Pipeline(CALIBRATED),
            Haptics(replace(CALIBRATED.motor, pin=pin), on_change=self.drives.append),
            clock=Clock(),
            on_board=self._hear,
        )
        self.service.sinks.append(self.states)

    def _hear(self, problem: str | None) -> None:
        self.problem = problem
        self.said = [*self.said[-9:], problem]


def rest_frames(n: int = 4000) -> list[bytes]:
    """Return frames of a wearer at rest, each with what the board says of itself."""
    wearer = Wearer(day=(replace(REST, seconds=600),))
    info = encode_info(board_info(wearer), 8)
    codes = np.clip(np.round(wearer.samples(8 * n) / 0.05), -(2**15), 2**15 - 1).astype(np.int16)
    return [info + encode_data(c, k, k * 8000) for k, c in enumerate(codes.reshape(n, 8, 2))]


def test_hundred_unplugs_are_each_said_and_leave_the_motor_off_and_nothing_behind(
    pins: MockFactory, tmp_path: Path
) -> None:
    link = tmp_path / "by-id"
    frames = iter(rest_frames())
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    rig = Rig(link)

    def spoken(board: Cable) -> bool:
        board.send(next(frames))
        return rig.problem is None

    def cycles(n: int) -> int:
        for _ in range(n):
            with cable() as board:
                plug(link, board)
                eventually(lambda board=board: spoken(board))  # type: ignore[misc]
            eventually(lambda: rig.problem is not None)
            assert (rig.problem or "").startswith(f"{link}: ")
            link.unlink()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        with running(rig.service):
            before = cycles(20)
            grown = cycles(80) - before
    finally:
        tracemalloc.stop()
    assert rig.states.up >= 100
    assert rig.states.down >= 100
    assert rig.states.cues == 0
    assert not any(rig.drives)
    assert pins.pin(CALIBRATED.motor.pin).state == 0
    assert grown < 100_000
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # fewer where an earlier test left some behind
    assert threading.active_count() <= threads


def test_board_that_never_speaks_and_one_of_another_kind_are_told_apart_and_get_no_cue(pins: MockFactory) -> None:
    lines = b"".join(encode_line(np.array([512.0, 498.0])) for _ in range(20))
    with cable() as mute, cable() as other:
        silent, strange = Rig(mute.path), Rig(other.path, pin=19)

        def spoken() -> bool:
            other.send(lines)
            return bool(silent.said and strange.said)

        with running(silent.service), running(strange.service):
            eventually(spoken, 20)
    assert silent.said == ["the board is silent"]
    assert strange.said == ["what comes is not from a board of kind 'unshrug', or not at 115200 baud"]
    for rig in (silent, strange):
        assert (rig.states.up, rig.states.last_problem) == (0, rig.said[0])
        assert not any(rig.drives)


# At the test's own time


class Followed:
    """A bridge and a pipeline, one after the other as in the service, at the time of the stream."""

    def __init__(self, board: Board, channels: tuple[str, ...] = ("left", "right")) -> None:
        self.bridge = Bridge(board, channels)
        self.pipeline = Pipeline(CALIBRATED)
        self.messages: list[Message] = []
        self.said: list[str | None] = ["not connected yet"]
        self.now_s = 0.0
        self.bridge.connected(0.0)

    def take(self, data: bytes, seconds: float) -> None:
        self.now_s += seconds
        blocks = self.bridge.feed(data, self.now_s)
        problem = self.bridge.problem(self.now_s)
        if problem != self.said[-1]:
            self.said.append(problem)
            self.messages += self.pipeline.board(problem, self.now_s)
        for block in blocks:
            self.messages += self.pipeline.process(block)

    def lines(self, day: tuple[Activity, ...], rate_hz: float) -> None:
        """Measure such a day at a rate, and print it as lines."""
        seconds = round(sum(activity.seconds for activity in day))
        codes = np.round(Wearer(rate_hz, day=day).samples(round(seconds * rate_hz)) / 0.05)
        for part in np.array_split(codes, seconds * 10):
            self.take(b"".join(map(encode_line, part)), len(part) / rate_hz)

    def frames(self, day: tuple[Activity, ...], rate_hz: float, channels: int) -> None:
        """Measure such a day at a rate, and send it as our own board does; its counter goes on."""
        wearer = Wearer(rate_hz, channels, day=day)
        self.take(encode_info(board_info(wearer), 8), 0.0)
        for _ in range(round(sum(activity.seconds for activity in day) * rate_hz) // 8):
            codes = np.clip(np.round(wearer.samples(8) / 0.05), -(2**15), 2**15 - 1).astype(np.int16)
            seq = self.bridge.counts.samples // 8
            self.take(encode_data(codes, seq, round(self.now_s * 1e6)), 8 / rate_hz)

    def given(self) -> list[Cue]:
        return [message for message in self.messages if isinstance(message, Cue) and message.outcome == "given"]


@pytest.mark.parametrize(("rate_hz", "cues"), [(1000.0, 1), (700.0, 0), (1500.0, 0)])
def test_line_board_that_changes_its_rate_is_said_and_gives_no_cue(rate_hz: float, cues: int) -> None:
    seen = Followed(SIGNED_LINES)
    seen.take(b"\n", 0.0)
    seen.lines((replace(REST, seconds=15),), 1000.0)
    assert seen.said[-1] is None
    seen.lines((replace(REST, seconds=22), replace(SHRUG, seconds=14), replace(REST, seconds=2)), rate_hz)
    assert len(seen.given()) == cues
    if not cues:
        about, wanted = (seen.said[-1] or "").removeprefix("the board sends about ").split(" ", 1)
        assert wanted == "samples/s; expected 1000 (board.rate_hz)"
        assert 0 < (float(about) - 1000) / (rate_hz - 1000) <= 1, "between the old rate and the new one"
        last = [message for message in seen.messages if isinstance(message, WearerState)][-1]
        assert (last.board_up, last.board_problem, last.cues_enabled) == (False, seen.said[-1], False)
    assert (seen.said[-1] is None) == bool(cues)


@pytest.mark.parametrize(("rate_hz", "channels"), [(500.0, 2), (1000.0, 1), (2000.0, 4)])
def test_own_board_with_another_rate_or_number_of_channels_ends_what_was_on_and_goes_on(
    rate_hz: float, channels: int
) -> None:
    seen = Followed(OWN, ())
    seen.frames((replace(REST, seconds=2), replace(SHRUG, seconds=6)), 1000.0, 2)
    assert [m.event for m in seen.messages if isinstance(m, Episode)][-1] != "ended"
    before = len(seen.messages)
    seen.frames((replace(REST, seconds=2), replace(SHRUG, seconds=6), replace(REST, seconds=12)), rate_hz, channels)
    after = seen.messages[before:]
    about = next(message for message in after if isinstance(message, About))
    assert (about.rate_hz, len(about.channels)) == (rate_hz, channels)
    first, *others = [message for message in after if isinstance(message, Episode)]
    assert (first.event, first.truncated) == ("ended", True)
    assert "started" in {message.event for message in others}
    assert seen.given() == []  # neither of the two was held for long enough
    times = [message.at_s for message in seen.messages if isinstance(message, Levels)]
    assert all(b >= a for a, b in itertools.pairwise(times)), "time went back"
    assert seen.said[-1] is None
