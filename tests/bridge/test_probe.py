"""Which board is on a port."""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from firmware_bridge.port import PortError
from firmware_bridge.probe import Answer, Ears, choose, identify
from tests.bridge.helpers import Cable, bytes_of, cable
from tests.bridge.streams import KINDS, Kind

STREAMING = [kind for kind in KINDS if kind.board not in ("bitalino", "scientisst", "scientisst-v2")]


def heard(data: list[bytes]) -> Answer | None:
    ears = Ears()
    return next((answer for piece in data if (answer := ears.feed(piece))), None)


@pytest.mark.parametrize("kind", STREAMING, ids=str)
@pytest.mark.parametrize("cut", [None, 1])
def test_board_that_sends_is_known_by_what_it_sends(kind: Kind, cut: int | None) -> None:
    data = b"".join(kind.stream(1000))[5:] if kind.preamble == b"" else b"".join(kind.stream(1000))
    answer = heard([data] if cut is None else bytes_of(data[:20_000]))
    assert answer is not None
    assert answer.board == kind.board
    assert f"{kind.channels} channel(s)" in answer.seen or "says" in answer.seen


@pytest.mark.parametrize(
    ("said", "board"),
    [
        (b"BITalino_v5.2\n", "bitalino"),
        (b"ScientISST\x00\x01\x02_v1.2\n", "scientisst"),
        (b"UNO-R3\r\n", "chords"),
        (b"MEGA-2560-CLONE\r\n", "chords"),
        (b"UNO-R4\r\n", "chords-r4"),
        (b"NPG-LITE\r\n", "npg-lite"),
        (b"OpenBCI V3 8-16 channel\r\nOn Board ADS1299 Device ID: 0x3E\r\n$$$", "cyton"),
    ],
)
def test_board_is_known_by_what_it_says_of_itself(said: bytes, board: str) -> None:
    for pieces in ([b"?\xff" + said + b"?"], bytes_of(b"?\xff" + said + b"?")):
        answer = heard(pieces)
        assert answer is not None
        assert answer.board == board


def test_noise_and_chatter_are_no_board() -> None:
    assert heard([np.random.default_rng(1).bytes(50_000)]) is None
    assert heard([b"hello, this is a thermometer that says nothing\r\n" * 500]) is None
    assert heard([b"\0" * 50_000]) is None


@contextlib.contextmanager
def board_that(does: Callable[[Cable], None]) -> Iterator[Cable]:
    """A board that does the same again and again, about twenty times a second."""
    with cable() as board:
        gone = threading.Event()
        os.set_blocking(board.master, False)

        def live() -> None:
            while not gone.wait(0.05):
                with contextlib.suppress(BlockingIOError):  # nobody reads it, or nobody speaks to it
                    does(board)

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        try:
            yield board
        finally:
            gone.set()
            thread.join()


def sends(kind: Kind) -> Callable[[Cable], None]:
    data = b"".join(kind.stream(300))[:2000]
    return lambda board: board.send(data)


def says_its_name(board: Cable) -> None:
    if b"WHORU" in board.received(256):
        board.send(b"UNO-R3\r\n\r\n")


def test_silent_board_is_asked_for_its_name() -> None:
    with board_that(says_its_name) as board:
        assert identify(board.path) == Answer("chords", "says UNO-R3")


def test_port_that_cannot_be_opened_says_why(tmp_path_factory: pytest.TempPathFactory) -> None:
    answer = identify(str(tmp_path_factory.mktemp("ports") / "ttyNONE"))
    assert answer.board is None
    assert "not there" in answer.seen


def test_the_one_board_of_a_kind_is_chosen_among_several_ports() -> None:
    own, lines = KINDS[0], KINDS[1]
    with board_that(sends(own)) as one, board_that(sends(lines)) as other:
        ports = [one.path, other.path]
        assert choose("unshrug", ports) == one.path
        assert choose("myoware2-5v", ports) == other.path
        with pytest.raises(PortError) as error:
            choose("cyton", ports)
    assert str(error.value) == (
        f"0 boards of kind cyton found; expected one, or its port with --port ({one.path}: unshrug, sends 2 channel(s) "
        f"at 1000 Hz, 0.0504 µV a count; {other.path}: ascii, sends 2 channel(s))"
    )


def test_two_boards_of_a_kind_are_both_named() -> None:
    with board_that(sends(KINDS[1])) as one, board_that(sends(KINDS[1])) as other, pytest.raises(PortError) as error:
        choose("ascii", [one.path, other.path])
    assert re.match(f"2 boards of kind ascii found.*{one.path}.*{other.path}", str(error.value))


def test_board_that_waits_for_its_start_is_known_by_what_it_says_of_itself() -> None:
    answer = heard([KINDS[0].preamble])
    assert answer is not None
    assert answer.board == "unshrug"


def test_nobody_is_asked_any_more_once_it_is_to_stop() -> None:
    stop = threading.Event()
    stop.set()
    with cable() as board:
        assert identify(board.path, stop) == Answer(None, "silent")
