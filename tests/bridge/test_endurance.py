"""What a board, its cable and its wearer's desk can do to the way from the port to blocks, for several kinds of board.

The bytes go through real pseudo-terminals; the time is the test's own, so that hours pass at once.
"""

import contextlib
import gc
import itertools
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from firmware_bridge.blocks import SampleBlock
from firmware_bridge.boards import BOARDS
from firmware_bridge.bridge import BOOT_S, SILENT_AFTER_S, WAITING, Bridge
from firmware_bridge.decoders import bitalino, chords, openbci, scientisst, spikershield
from firmware_bridge.decoders.ascii_lines import encode_line
from firmware_bridge.decoders.framed import encode_data, encode_info
from firmware_bridge.port import Port
from tests.bridge.helpers import Cable, cable, joined
from tests.bridge.streams import KINDS, OWN, Kind
from tests.bridge.test_port import Hours, plug

Array = NDArray[np.float64]
Damage = Callable[[list[bytes], np.random.Generator], list[bytes]]

BY_NAME = {str(kind): kind for kind in KINDS}


def kinds(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", [BY_NAME[name] for name in names], ids=str)


class Desk:
    """A port and a bridge, read as the service does, at a time that the test sets."""

    def __init__(self, kind: Kind, path: object, channels: tuple[str, ...] | None = None) -> None:
        board = BOARDS[kind.board]
        if board.rate_hz is None and not board.describes_itself:
            board = replace(board, rate_hz=1000.0)
        names = tuple(f"ch{k + 1}" for k in range(kind.channels)) if channels is None else channels
        self.port = Port(str(path), board.baud, list, Hours())
        self.bridge = Bridge(board, names)
        self.now_s = 0.0
        self.came = 0  # bytes
        self._connections = 0

    def read(self) -> list[SampleBlock]:
        data = self.port.read()
        self.came += len(data)
        if self.port.connections != self._connections:
            self._connections = self.port.connections
            self.bridge.connected(self.now_s)
        self.port.write(self.bridge.command(self.now_s))
        return self.bridge.feed(data, self.now_s)

    def connect(self) -> None:
        """Read until the port is open; what a board sends before that is thrown away by the opening."""
        wanted = self.port.connections + (self.port.problem is not None or not self.port.connections)
        until = time.monotonic() + 5
        while self.port.connections < wanted:
            assert time.monotonic() < until, self.port.problem
            self.read()

    def take(self, board: Cable, data: bytes, seconds: float = 0.0, most: int = 2000) -> list[SampleBlock]:
        """Send data in pieces that a pseudo-terminal takes, and read all of it, while so much time passes."""
        blocks = []
        for at in range(0, len(data), most):
            piece = data[at : at + most]
            self.now_s += seconds * len(piece) / len(data)
            blocks += self.waiting(board, piece)
        return blocks

    def waiting(self, board: Cable, piece: bytes) -> list[SampleBlock]:
        """Send a piece and read until all of it has come."""
        blocks = []
        wanted = self.came + len(piece)
        board.send(piece)
        until = time.monotonic() + 10
        while self.came < wanted:
            assert time.monotonic() < until, f"{self.port.problem=}"
            blocks += self.read()
        return blocks

    def problem(self) -> str | None:
        return self.port.problem or self.bridge.problem(self.now_s)


@contextlib.contextmanager
def desk(kind: Kind, path: object, channels: tuple[str, ...] | None = None) -> Iterator[Desk]:
    made = Desk(kind, path, channels)
    try:
        yield made
    finally:
        made.port.close()


def rate_of(kind: Kind) -> float:
    board = BOARDS[kind.board]
    return (board.rate_hz or 1000.0) / (kind.channels if board.shares_rate else 1)


def seconds_of(kind: Kind, frames: int) -> float:
    return frames * kind.per_frame / rate_of(kind)


def truth(kind: Kind, frames: int, seed: int) -> Array:
    """Return what the bridge should make of a stream, in µV where the board has a scale."""
    scale = OWN.uv_per_count if kind.board == "unshrug" else BOARDS[kind.board].uv_per_count
    return kind.random(frames, seed).astype(float) * (scale or 1.0)


def values_of(blocks: list[SampleBlock]) -> Array:
    return np.concatenate([block.values for block in blocks])


def kept_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


# Unplugged


class Unplugged:
    """A board that is plugged in, speaks for a moment and is unplugged in the middle of a frame, again and again."""

    away_s = 3.0

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.link = folder / f"{kind.board}-by-id"
        self.on = Desk(kind, self.link)
        self._kind = kind
        self._end = 0

    def once(self, cycle: int) -> None:
        on, kind = self.on, self._kind
        with cable() as board:
            plug(self.link, board)
            on.connect()
            *frames, torn = kind.stream(24, first=cycle * 7, seed=cycle)
            blocks = on.take(board, b"".join(frames) + torn[: len(torn) // 2], seconds_of(kind, 23))
            assert on.problem() is None
        assert on.read() == []
        assert (on.problem() or "").startswith(f"{self.link}: unplugged")
        on.now_s += self.away_s
        values, true = values_of(blocks), truth(kind, 24, cycle)
        assert values.tolist() == true[: len(values)].tolist(), "a sample that was not sent"
        assert len(values) >= 22 * kind.per_frame
        rate_hz = rate_of(kind)
        if cycle:
            assert blocks[0].start - self._end == pytest.approx(self.away_s * rate_hz, abs=0.2 * rate_hz)
        self._end = blocks[-1].end
        assert all(a.end <= b.start for a, b in itertools.pairwise(blocks))


def test_hundred_unplugs_of_every_board_cost_nothing_and_each_is_a_gap(tmp_path: Path) -> None:
    names = "unshrug 2", "ascii 2", "chords 3", "bitalino 2", "scientisst-v2 2", "spikershield 1", "cyton 8"
    boards = [Unplugged(BY_NAME[name], tmp_path) for name in names]
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()

    def all_cycles(first: int, end: int) -> None:
        """Unplug each of them so often, side by side, because opening a port mostly waits."""

        def those(board: Unplugged) -> None:
            for cycle in range(first, end):
                board.once(cycle)

        with ThreadPoolExecutor(len(boards)) as pool:
            for _ in pool.map(those, boards):
                pass

    tracemalloc.start()
    try:
        all_cycles(0, 20)
        before = kept_bytes()
        all_cycles(20, 100)
        grown = kept_bytes() - before
    finally:
        tracemalloc.stop()
        for board in boards:
            board.on.port.close()
    assert [board.on.port.connections for board in boards] == [100] * len(boards)
    assert grown < 40_000
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # fewer where an earlier test left some behind
    assert threading.active_count() <= threads


# Damaged


def placed(kind: Kind, frames: int, damage: Damage, path: Path) -> tuple[Desk, Array, Array]:
    """Send a damaged stream; return what came and what was sent, both laid out in time."""
    rng = np.random.default_rng(17)
    first, *rest = kind.stream(frames, first=5, seed=3)
    # The beginning is whole: where the stream begins is where the places are counted from.
    sent = [first, *rest[:10], *damage(rest[10:-4], rng), *rest[-4:]]
    with cable() as board, desk(kind, plug_in(path, board)) as on:
        on.connect()
        data = b"".join(sent)  # in so many pieces that the time of each tells how often a short counter went round
        blocks = on.take(board, data, seconds_of(kind, frames), len(data) // 60)
    return on, joined(blocks), truth(kind, frames, 3)


def plug_in(folder: Path, board: Cable) -> Path:
    link = folder / "by-id"
    plug(link, board)
    return link


def lose_a_fifth(frames: list[bytes], rng: np.random.Generator) -> list[bytes]:
    return [frame for frame in frames if rng.random() > 0.2]


def flip_bits(frames: list[bytes], rng: np.random.Generator) -> list[bytes]:
    """Flip a bit in one frame of sixteen."""
    out = []
    for frame in frames:
        flipped = bytearray(frame)
        flipped[int(rng.integers(len(frame)))] ^= (1 << int(rng.integers(8))) * (rng.random() < 1 / 16)
        out.append(bytes(flipped))
    return out


def halve(frames: list[bytes], rng: np.random.Generator) -> list[bytes]:
    """Cut one frame in sixteen, in front or behind."""
    out = []
    for frame in frames:
        at = int(rng.integers(1, len(frame)))
        half = frame[:at] if rng.random() < 0.5 else frame[at:]
        out.append(half if rng.random() < 1 / 16 else frame)
    return out


counted = kinds(
    "unshrug 2", "chords 3", "bitalino 2", "scientisst 2", "scientisst-v2 2", "olimex 6", "cyton 8", "knight 8"
)


@counted
@pytest.mark.parametrize("damage", [lose_a_fifth, flip_bits, halve])
def test_what_comes_of_a_damaged_stream_stands_at_its_place(kind: Kind, damage: Damage, tmp_path: Path) -> None:
    frames = 600
    on, came, sent = placed(kind, frames, damage, tmp_path)
    assert len(sent) - 4 * kind.per_frame <= len(came) <= len(sent)
    known = np.isfinite(came[:, 0])
    wrong = (came != sent[: len(came)]).any(axis=1) & known
    # A flipped bit inside a sample shows only where there is a checksum; one of four bits sees every single flip,
    # but a torn one next to another gets past it now and then.
    weak = kind.board in ("bitalino", "scientisst", "scientisst-v2")
    unchecked = kind.board != "unshrug" and not weak and damage is flip_bits
    assert wrong.sum() <= (frames / 10 if unchecked else 1 if weak else 0)
    assert known.mean() > (0.4 if weak and damage is lose_a_fifth else 0.75)
    assert on.bridge.counts.lost == np.count_nonzero(~known)
    assert on.bridge.problem(on.now_s) is None


@kinds("unshrug 2", "chords 3", "scientisst-v2 2", "olimex 6", "cyton 8", "knight 8")
def test_bursts_of_garbage_between_and_inside_frames_add_no_sample(kind: Kind, tmp_path: Path) -> None:
    rng = np.random.default_rng(23)
    first, *frames = kind.stream(320, seed=4)
    sent = [first]
    for k, frame in enumerate(frames):
        burst = rng.bytes(int(rng.integers(200, 2000)))
        at = len(frame) // 2 if k % 40 == 39 else 0
        sent.append(frame[:at] + burst + frame[at:] if k % 20 == 19 else frame)
    with cable() as board, desk(kind, plug_in(tmp_path, board)) as on:
        on.connect()
        blocks = on.take(board, b"".join(sent), seconds_of(kind, 320))
        assert on.problem() is None
    true = iter(truth(kind, 320, 4).tolist())
    came = values_of(blocks).tolist()
    assert all(any(row == wanted for wanted in true) for row in came), "a sample that was not sent, or out of order"
    assert len(came) > 0.75 * 320 * kind.per_frame
    assert joined(blocks).shape[1] == kind.channels  # no block overlaps another


@kinds("unshrug 2", "ascii 2", "bitalino 2")
def test_single_bytes_through_the_port_give_the_same_blocks(kind: Kind, tmp_path: Path) -> None:
    data = b"".join(kind.stream(4 if kind.board == "unshrug" else 14, seed=6))
    with cable() as board, desk(kind, plug_in(tmp_path, board)) as on:
        on.connect()
        single = [block for k in range(len(data)) for block in on.waiting(board, data[k : k + 1])]
    whole = Bridge(on.bridge.board, tuple(f"ch{k + 1}" for k in range(kind.channels)))
    whole.connected(0.0)
    assert joined(single).tobytes() == joined(whole.feed(data, 0.0)).tobytes()


# Not as expected


@kinds("unshrug 2", "chords 3", "bitalino 2", "spikershield 1")
def test_port_that_opens_but_never_speaks_is_said_and_asked_again(kind: Kind, tmp_path: Path) -> None:
    with cable() as board, desk(kind, plug_in(tmp_path, board)) as on:
        on.connect()
        said, asked = [], 0
        for _ in range(60):
            on.now_s += 0.2
            asked += bool(on.bridge.command(on.now_s))
            said.append(on.problem())
        assert [problem for problem, _ in itertools.groupby(said)] == [WAITING, "the board is silent"]
        assert said.index("the board is silent") == pytest.approx(BOOT_S / 0.2, abs=1)
        assert asked >= 6 or not BOARDS[kind.board].start(kind.channels)
        assert on.read() == []


@pytest.mark.parametrize("speaks", ["unshrug 2", "ascii 2", "chords 3", "cyton 8", "knight 8", "olimex 6"])
@kinds("unshrug 2", "ascii 2", "chords 3", "cyton 8", "bitalino 1", "scientisst 1")
def test_board_of_another_kind_gives_no_sample_and_is_said(kind: Kind, speaks: str, tmp_path: Path) -> None:
    if str(kind) == speaks:
        pytest.skip("the right board")
    with cable() as board, desk(kind, plug_in(tmp_path, board)) as on:
        on.connect()
        blocks = on.take(board, b"".join(BY_NAME[speaks].stream(300, seed=8)), BOOT_S + SILENT_AFTER_S)
        # Four bits of checksum and a counter that goes on twice: once in thousands of bytes that is chance.
        assert sum(len(block.values) for block in blocks) <= (3 if kind.board in ("bitalino", "scientisst") else 0)
        on.now_s += SILENT_AFTER_S
        assert on.problem() is not None
        assert on.problem() != WAITING


def test_line_board_that_changes_its_rate_is_said_within_two_measurements(tmp_path: Path) -> None:
    kind = BY_NAME["ascii 2"]
    said = []
    with cable() as board, desk(kind, plug_in(tmp_path, board)) as on:
        on.connect()
        for second in range(45):
            rate = 1000 if second < 15 else 700
            lines = kind.stream(rate, seed=second)[1:]
            on.take(board, b"\n" * (second == 0) + b"".join(lines), 1.0)
            said.append(on.problem())
    assert said[:15] == [None] * 15
    assert said[35] == "the board sends about 700 samples/s; expected 1000 (board.rate_hz)"
    assert set(said[35:]) == {said[35]}


def test_own_board_that_changes_rate_and_channels_goes_on_where_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    sent, blocks = [], []
    with cable() as board, desk(BY_NAME["unshrug 2"], plug_in(tmp_path, board), ()) as on:
        on.connect()
        for turn, (rate_hz, channels) in enumerate([(1000, 2), (500, 2), (500, 4), (2000, 1), (1000, 2)]):
            codes = rng.integers(-(2**15), 2**15, (50, 8, channels)).astype(np.int16)
            info = replace(OWN, rate_hz=float(rate_hz), channels=channels)
            seqs = [50 * turn + k for k in range(50)]
            frames = [encode_data(c, seq, seq * 8_000_000 // rate_hz) for c, seq in zip(codes, seqs, strict=True)]
            part = on.take(board, encode_info(info, 8) + b"".join(frames), 400 / rate_hz, 200)
            assert {(block.signal.rate_hz, len(block.signal.channels)) for block in part} == {(rate_hz, channels)}
            assert on.problem() is None
            sent.append(codes.reshape(-1, channels) * info.uv_per_count)
            blocks.append(part)
    assert [values_of(part).tolist() for part in blocks] == [values.tolist() for values in sent]
    for before, after in itertools.pairwise(blocks):
        left_s, next_s = before[-1].end / before[-1].signal.rate_hz, after[0].start / after[0].signal.rate_hz
        assert -0.001 <= next_s - left_s < 0.2


def test_lines_that_change_their_number_of_channels_are_said_and_well_again_afterwards(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    said, came = [], []
    with cable() as board, desk(BY_NAME["ascii 2"], plug_in(tmp_path, board), ("left", "right")) as on:
        on.connect()
        on.take(board, b"\n")
        for channels in (2, 3, 1, 2):
            lines = map(encode_line, rng.integers(0, 1024, (500, channels)).astype(float))
            came.append(sum(len(block.values) for block in on.take(board, b"".join(lines), 0.5)))
            said.append(on.problem())
    wanted = "expected 2: left, right"
    assert said == [None, f"the board sends 3 channels; {wanted}", f"the board sends 1 channels; {wanted}", None]
    assert (came[0], came[1], came[2]) == (500, 0, 0)
    assert came[3] >= 490


def test_spikershield_with_a_second_channel_is_said_and_its_shared_rate_is_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    one, two = (rng.integers(0, 1024, (400, channels)) for channels in (1, 2))
    with cable() as board, desk(BY_NAME["spikershield 1"], plug_in(tmp_path, board), ()) as on:
        on.connect()
        before = on.take(board, spikershield.encode_frames(one), 0.04)
        after = on.take(board, spikershield.encode_frames(two), 0.08)
    assert before[-1].signal.rate_hz == BOARDS["spikershield"].rate_hz
    assert after[-1].signal.rate_hz == before[-1].signal.rate_hz / 2
    assert after[-1].signal.channels == ("ch1", "ch2")
    assert values_of([b for b in after if b.values.shape[1] == 2])[-300:].tolist() == two[-300:].astype(float).tolist()


@pytest.mark.parametrize("more", [6, 1])
def test_board_with_other_frames_than_at_first_is_said_and_read_after_a_new_connection(
    more: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(13)
    with cable() as board, desk(BY_NAME["chords 3"], plug_in(tmp_path, board), ()) as on:
        on.connect()
        assert on.take(board, chords.encode_frames(rng.integers(0, 1024, (100, 3)), 0), 0.4)
        codes = rng.integers(0, 1024, (1000, more))
        assert on.take(board, chords.encode_frames(codes, 100), 4.0) == []
        assert on.problem() == "the board is silent"
        on.port.reopen("the board is silent")
        on.connect()
        blocks = on.take(board, chords.encode_frames(codes, 76), 4.0)
        assert on.problem() is None
    scale = BOARDS["chords"].uv_per_count or 0.0
    assert values_of(blocks).tolist() == (codes[: len(values_of(blocks))] * scale).tolist()
    assert len(values_of(blocks)) >= 999


@kinds("chords 3", "cyton 8", "scientisst 2", "bitalino 2")
def test_board_that_starts_anew_in_mid_stream_adds_nothing_and_never_goes_back(kind: Kind, tmp_path: Path) -> None:
    blocks: list[SampleBlock] = []
    true: list[list[float]] = []
    with cable() as board, desk(kind, plug_in(tmp_path, board)) as on:
        on.connect()
        for boot in range(12):
            # Each time it stops elsewhere, in the middle of a frame, and says what it says when it starts.
            *frames, torn = kind.stream(40 + 7 * boot, seed=boot)
            true += truth(kind, 40 + 7 * boot, boot).tolist()
            blocks += on.take(board, b"".join([*frames, torn[: boot % len(torn)]]), seconds_of(kind, len(frames)))
            on.now_s += 1.5
    sent = iter(true)
    came = values_of(blocks).tolist()
    assert all(any(row == wanted for wanted in sent) for row in came)
    assert len(came) > 0.9 * len(true)
    assert len(joined(blocks)) >= len(came)  # fails on an overlap


# Read late, or by two


@kinds("unshrug 2", "ascii 2", "spikershield 1")
def test_reader_that_stood_still_loses_nothing_that_waited(kind: Kind, tmp_path: Path) -> None:
    frames = 3000 // len(b"".join(kind.stream(10)[1:])) * 10
    first, *rest = kind.stream(2 * frames, seed=2)
    with cable() as board, desk(kind, plug_in(tmp_path, board)) as on:
        on.connect()
        blocks = on.take(board, first + b"".join(rest[:frames]), seconds_of(kind, frames))
        board.send(b"".join(rest[frames:]))
        on.now_s += 4.0
        # The board is not silent: what it sent waits, and is read first.
        wanted = on.came + len(b"".join(rest[frames:]))
        until = time.monotonic() + 10
        while on.came < wanted:
            assert time.monotonic() < until
            blocks += on.read()
        assert on.problem() is None
    true = truth(kind, 2 * frames, 2)
    came = joined(blocks)
    assert np.array_equal(came, true[: len(came)])
    assert len(came) >= len(true) - 2 * kind.per_frame
    assert on.bridge.counts.lost == 0


@kinds("unshrug 2", "chords 3")
def test_second_program_is_told_and_the_first_loses_nothing(kind: Kind, tmp_path: Path) -> None:
    with cable() as board, desk(kind, plug_in(tmp_path, board)) as on, desk(kind, board.path) as other:
        on.connect()
        blocks, said = [], set()
        frames = kind.stream(200, seed=5)
        for at in range(0, len(frames), 10):
            blocks += on.take(board, b"".join(frames[at : at + 10]), seconds_of(kind, 10))
            assert other.read() == []
            said.add(other.problem())
        assert said == {
            f"{board.path}: another program is using this port; close it (a serial monitor, a second unshrug?)"
        }
        assert on.problem() is None
    came = joined(blocks)
    assert np.array_equal(came, truth(kind, 200, 5)[: len(came)])
    assert len(came) >= 199 * kind.per_frame
    assert (on.bridge.counts.lost, on.bridge.counts.damaged, on.port.connections) == (0, 0, 1)


# For hours


def own_at_10_hz() -> Iterator[bytes]:
    """Our own board for ever, six seconds at a time."""
    codes = np.arange(15 * 2, dtype=np.int16).reshape(15, 2)
    for first in itertools.count(step=4):
        info = encode_info(replace(OWN, rate_hz=10.0), 15)
        yield info + b"".join(encode_data(codes, seq, seq * 1_500_000) for seq in range(first, first + 4))


def again(data: bytes) -> Iterator[bytes]:
    return itertools.repeat(data)


CODES = np.random.default_rng(1).integers(0, 1024, (1024, 8))
# How it sends, the seconds and the samples in each piece, and how many of them.
HOURS = {
    "unshrug 2": (own_at_10_hz, 6.0, 60, 1200),
    "ascii 2": (lambda: again(b"".join(map(encode_line, CODES[:200, :2].astype(float)))), 0.2, 200, 1200),
    "chords 3": (lambda: again(chords.encode_frames(CODES[:, :3], 0)), 1024 / 250, 1024, 1200),
    "bitalino 2": (lambda: again(bitalino.encode_frames(CODES[:, :2], 0)), 1.024, 1024, 600),
    "scientisst 2": (lambda: again(scientisst.encode_frames(np.tile(CODES[:, :2], (4, 1)), 0)), 4.096, 4096, 400),
    "spikershield 1": (lambda: again(spikershield.encode_frames(CODES[:, :1])), 1024 * 8 * 199 / 16e6, 1024, 1200),
    "cyton 8": (lambda: again(openbci.encode_frames(CODES, 0)), 1024 / 250, 1024, 1200),
}


@pytest.mark.parametrize("name", HOURS)
def test_long_stream_keeps_memory_flat_and_its_places_exact(name: str) -> None:
    pieces_of, seconds, samples, number = HOURS[name]
    kind = BY_NAME[name]
    on = Desk(kind, "/dev/null")
    on.bridge.connected(0.0)
    pieces, kept, place = pieces_of(), 0, 0
    on.bridge.feed(b"\n" if kind.board == "ascii" else b"", 0.0)
    tracemalloc.start()
    try:
        for k in range(number):
            on.now_s += seconds
            for block in on.bridge.feed(next(pieces), on.now_s):
                assert block.start == place
                place = block.end
            if k in (number // 2, number - 1):  # what is measured over minutes is full by then
                before, kept = kept, kept_bytes()
    finally:
        tracemalloc.stop()
    assert kept - before < 2000
    assert number * samples - 20 <= place <= number * samples
    assert on.bridge.counts.lost == on.bridge.counts.damaged == 0
    assert on.bridge.problem(on.now_s) is None
