"""Feed every decoder, and the bridge around it, with what no board should send: `make fuzz`.

Streams of every kind of board are damaged at random, and a stream that reaches new steps of the code is damaged
further. What must hold for each:

- nothing is raised, and memory and time stay in proportion;
- however the stream is cut, the samples and the damage are the same;
- every sample can be read from the stream, by a second, slow reader, at its place in order;
- the bridge hands on what its decoder found and nothing else, and its blocks never overlap or go back.

Everything follows from the seed: what fails once fails again with the same `--seed` and `--board`, and the shortest
stream that was found fails at once with `--input`.
"""

import argparse
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_bridge import bridge, framing, timeline
from firmware_bridge.blocks import SampleBlock
from firmware_bridge.boards import BOARDS, Decoder
from firmware_bridge.bridge import Bridge
from firmware_bridge.decoders import ascii_lines
from firmware_bridge.framing import cobs_decode, cobs_encode, crc4, crc16
from firmware_bridge.packets import BadFrame, Info, Packet, Samples
from tests.bridge.helpers import memory_of, pieces_of, singly
from tests.bridge.streams import KINDS, Kind

LONGEST = 1500  # bytes of a stream
MOST_KEPT = 8000  # bytes that a decoder may remember
LARGE = 8_000  # bytes of the smaller of two streams whose times are compared
_BITALINO = 3, 4, 6, 7, 8, 8
# What means something to some decoder.
_MARKS = (
    b"\0", b"\n", b"\r\n", b"\xff\xff\x01\x01\x80\xff", b"\xff\xff\x01\x01\x81\xff", b"\xc7\x7c", b"\xa5\x5a\x02",
    b"\xa0", b"\xc0\xa0", b"\x01", b",", b"-", b"nan", b"inf", b"ovf", b"1e999", b"9" * 30, b"time:7", b"a:", b"# ",
    b"\xff", b"\x80", b"1,2,3\n" * 6, b"1\n" * 6, b"raw:1,2\n" * 6,
)  # fmt: skip

Rng = np.random.Generator


class PromiseError(AssertionError):
    """Something that must hold did not."""


def must(holds: object, what: str) -> None:
    """Raise PromiseError where something does not hold."""
    if not holds:
        raise PromiseError(what)


# What must hold for a decoder


def account(packets: Sequence[Packet], turn: int) -> list[object]:
    """Return every sample, fact and damage in order, in values that compare; NaN equals NaN."""
    out: list[object] = []
    for packet in packets:
        if not isinstance(packet, Samples):
            out.append(packet)
            continue
        times = [None] * len(packet.codes) if packet.times_us is None else packet.times_us.tolist()
        for one, at_us in zip(singly(packet), times, strict=True):
            assert isinstance(one, Samples)
            seq = None if one.seq is None else one.seq % turn
            clock = at_us if at_us is not None else one.device_us
            out.append((seq, clock, one.labels, one.codes.tobytes()))
    return out


def check_decoder(kind: Kind, data: bytes) -> None:
    """Raise where the decoder of a kind of board does something wrong with these bytes."""
    rng = np.random.default_rng(zlib.crc32(data))
    turn = BOARDS[kind.board].counter
    decoder = kind.decoder()
    packets = [*decoder.feed(data), *decoder.end()]
    whole = account(packets, turn)
    ways = [pieces_of(data, rng.integers(0, len(data) + 1, rng.integers(1, 12)).tolist())]
    if len(data) < 400 and rng.random() < 0.3:
        ways.append([data[k : k + 1] for k in range(len(data))])
    for pieces in ways:
        other = kind.decoder()
        found: list[Packet] = []
        for piece in pieces:
            found += other.feed(piece)
        must(memory_of(other) < MOST_KEPT, "it remembers too much")
        found += other.end()
        must(account(found, turn) == whole, "cut elsewhere, it gives another answer")
    low, high = _range_of(kind)
    for packet in packets:
        match packet:
            case Samples(codes=codes):
                must(codes.ndim == 2 and codes.size, "samples without a value")
                must(codes.dtype == np.float64, "codes of another type")
                known = codes[np.isfinite(codes)] if kind.board == "ascii" else codes
                must(((known >= low) & (known <= high)).all(), "a code out of the format's range")
                must(not np.isinf(codes).any(), "an infinite value")
            case BadFrame(samples=samples):
                must(0 <= samples <= len(data), "more damage than bytes")
            case Info(channels=channels, rate_hz=rate_hz):
                must(channels > 0 and rate_hz > 0, "a description that means nothing")
    check_readable(kind, data, [packet for packet in packets if isinstance(packet, Samples)])


def _range_of(kind: Kind) -> tuple[float, float]:
    """Return the lowest and highest number that the format has room for."""
    if kind.board == "ascii":
        return -float("inf"), float("inf")
    low = kind.codes[0]
    return low, {"olimex": 2**16 - 1, "spikershield": 2**14 - 1}.get(kind.board, kind.codes[1])


# The second reader: one frame at a time, in the plainest way


def _read_bitalino(frame: bytes, channels: int) -> tuple[int, ...] | None:
    nibbles = [half for byte in frame for half in (byte >> 4, byte & 15)]
    if crc4(nibbles[:-1]) != nibbles[-1]:
        return None
    bits = f"{int.from_bytes(frame, 'little'):0{8 * len(frame)}b}"
    codes, at = [], 12
    for size in (10, 10, 10, 10, 6, 6)[:channels]:
        codes.append(int(bits[at : at + size], 2))
        at += size
    return int(bits[:4], 2), *codes


def _read_scientisst(frame: bytes, channels: int) -> tuple[int, ...] | None:
    body = (3 * channels + 2) // 2
    nibbles = [half for byte in frame for half in (byte >> 4, byte & 15)]
    if crc4(nibbles[: 2 * body + 1] + nibbles[2 * body + 2 :]) != frame[body] & 15:
        return None
    packed = int.from_bytes(frame[:body], "little")
    codes = [packed >> 12 * k & 0xFFF for k in range(channels)]
    return int.from_bytes(frame[body:], "little") >> 4, *reversed(codes)


def _numbers(frame: bytes, first: int, channels: int, size: int, *, signed: bool) -> tuple[int, ...]:
    return tuple(
        int.from_bytes(frame[first + k * size : first + (k + 1) * size], "big", signed=signed) for k in range(channels)
    )


def _read_chords(frame: bytes, channels: int) -> tuple[int, ...] | None:
    whole = frame[:2] == b"\xc7\x7c" and frame[-1] == 1
    return (frame[2], *_numbers(frame, 3, channels, 2, signed=False)) if whole else None


def _read_olimex(frame: bytes, channels: int) -> tuple[int, ...] | None:
    whole = frame[:3] == b"\xa5\x5a\x02"
    return (frame[3], *_numbers(frame, 4, channels, 2, signed=False)) if whole else None


def _read_cyton(frame: bytes, channels: int) -> tuple[int, ...] | None:
    whole = frame[0] == 0xA0 and 0xC0 <= frame[-1] <= 0xC6
    return (frame[1], *_numbers(frame, 2, channels, 3, signed=True)) if whole else None


def _read_knight(frame: bytes, channels: int) -> tuple[int, ...] | None:
    whole = frame[0] == 0xA0 and frame[-1] == 0xC0
    return (frame[1], *_numbers(frame, 2, channels, 2, signed=True)) if whole else None


Reader = Callable[[bytes, int], tuple[int, ...] | None]
# How to read a frame, and how long one with so many channels is.
_READERS: dict[str, tuple[Reader, Callable[[int], int]]] = {
    "bitalino": (_read_bitalino, lambda n: _BITALINO[n - 1]),
    "scientisst": (_read_scientisst, lambda n: (3 * n + 2) // 2 + 2),
    "scientisst-v2": (_read_scientisst, lambda n: (3 * n + 2) // 2 + 5),
    "chords": (_read_chords, lambda n: 2 * n + 4),
    "olimex": (_read_olimex, lambda _: 17),
    "cyton": (_read_cyton, lambda _: 33),
    "knight": (_read_knight, lambda _: 21),
}


def check_readable(kind: Kind, data: bytes, packets: list[Samples]) -> None:
    """Raise where a sample cannot be read from the bytes, each from its own and in their order."""
    if kind.board == "spikershield":
        # Any two bytes are a sample to it, and texts between them are left out: there is only an amount to compare.
        must(sum(packet.codes.size for packet in packets) * 2 <= len(data), "more samples than bytes")
    elif kind.board == "unshrug":
        _check_frames(data, packets)
    elif kind.board == "ascii":
        _check_lines(data, packets)
    else:
        reader, length_of = _READERS[kind.board]
        at = 0
        for row in _rows(packets, BOARDS[kind.board].counter):
            channels = len(row) - 1
            length = length_of(channels)
            while at + length <= len(data) and reader(data[at : at + length], channels) != row:
                at += 1
            must(at + length <= len(data), f"a sample that was not sent: {row}")
            at += length


def _rows(packets: list[Samples], turn: int) -> Iterator[tuple[int, ...]]:
    for packet in packets:
        for k, codes in enumerate(packet.codes.astype(int).tolist()):
            count = ((packet.seq or 0) + k) % turn if packet.times_us is None else int(packet.times_us[k])
            yield count, *codes


def _check_frames(data: bytes, packets: list[Samples]) -> None:
    sent = iter(data.split(b"\0"))
    for packet in packets:
        samples, channels = packet.codes.shape
        codes = packet.codes.astype("<i2").tobytes()
        for frame in sent:
            body = cobs_decode(frame) or b""
            head = bytes([1, channels << 4 | samples])
            head += (packet.seq or 0).to_bytes(2, "little") + (packet.device_us or 0).to_bytes(4, "little")
            if body[:-2] == head + codes and crc16(body[:-2]) == int.from_bytes(body[-2:], "little"):
                break
        else:
            raise PromiseError("a frame that was not sent")


def _check_lines(data: bytes, packets: list[Samples]) -> None:
    lines = iter(data.split(b"\n")[1:])
    for packet in packets:
        for row in packet.codes.tolist():
            for line in lines:
                words = line.replace(b",", b" ").replace(b";", b" ").replace(b":", b" ").split()
                if _has_in_order(words, row):
                    break
            else:
                raise PromiseError(f"a line that was not sent: {row}")


def _has_in_order(words: list[bytes], row: list[float]) -> bool:
    left = iter(words)
    return all(any(_is(word, value) for word in left) for value in row)


def _is(word: bytes, value: float) -> bool:
    try:
        number = float(word.replace(b"ovf", b"inf"))
    except ValueError:
        return False
    return number == value if np.isfinite(value) else not np.isfinite(number)


# What must hold for the bridge


def check_bridge(kind: Kind, data: bytes) -> None:
    """Raise where the bridge does something wrong with these bytes, at some pace and with some unplugging."""
    rng = np.random.default_rng(zlib.crc32(data))
    board = BOARDS[kind.board]
    if board.rate_hz is None and not board.describes_itself:
        board = replace(board, rate_hz=1000.0)
    names = tuple(rng.choice(np.array(["left", "-"]), kind.channels)) if rng.random() < 0.5 else ()
    if not board.describes_itself and board.most_channels:
        names = tuple(f"ch{k}" for k in range(kind.channels))
    under = Bridge(board, tuple(map(str, names)), check_rate=bool(rng.random() < 0.8))
    twin = kind.decoder()
    now_s, last = float(rng.choice([0.0, 1e6])), None
    under.connected(now_s)
    for piece in pieces_of(data, rng.integers(0, len(data) + 1, rng.integers(1, 15)).tolist()):
        now_s += float(rng.choice([0.0, 0.001, 0.05, 1.0, 5.0, 300.0], p=[0.2, 0.3, 0.3, 0.1, 0.06, 0.04]))
        if rng.random() < 0.04:
            under.connected(now_s)
            twin = kind.decoder()
        must(isinstance(under.command(now_s), bytes), "a command of another type")
        blocks = under.feed(piece, now_s)
        _check_values(under, blocks, twin.feed(piece) if piece else [])
        for block in blocks:
            must(last is None or _goes_on(last, block), "a block that overlaps the one before or goes back")
            last = block
        problem = under.problem(now_s)
        must(problem is None or 0 < len(problem) < 300, "a problem without words")
        must("nan" not in str(problem) and "inf " not in str(problem), f"a problem that says {problem}")
        counts = under.counts
        must(
            min(counts.samples, counts.restarts, counts.damaged, counts.lost, counts.repeated) >= 0, "a negative count"
        )


def _goes_on(last: SampleBlock, block: SampleBlock) -> bool:
    if last.signal.rate_hz == block.signal.rate_hz:
        return block.start >= last.end
    slack_s = 0.5 / last.signal.rate_hz + 0.5 / block.signal.rate_hz
    return block.start / block.signal.rate_hz >= last.end / last.signal.rate_hz - slack_s - 1e-9


def _check_values(under: Bridge, blocks: list[SampleBlock], packets: list[Packet]) -> None:
    """Every block must be what the decoder found, in its order."""
    left = iter([packet for packet in packets if isinstance(packet, Samples)])
    for block in blocks:
        scale = block.signal.uv_per_count or 1.0
        must(block.values.size or not block.signal.channels, "an empty block")
        must(len(block.signal.channels) == block.values.shape[1], "names that do not fit the values")
        must(block.signal.rate_hz > 0, "a signal without a rate")
        for packet in left:
            # What came twice is cut off in front.
            if len(packet.codes) >= len(block.values) and _among(
                block.values, packet.codes[-len(block.values) :] * scale
            ):
                break
        else:
            raise PromiseError("a block that its decoder did not find")
        if block.signal.rails_uv and under.board.describes_itself and under.board.adc_bits == 16:
            low, high = block.signal.rails_uv
            must(((block.values >= low) & (block.values <= high)).all(), "a value out of the range that is said")


def _among(values: NDArray[np.float64], codes: NDArray[np.float64]) -> bool:
    """Say whether the columns of values are columns of codes."""
    every = {column.tobytes() for column in (codes + 0.0).T}
    return all(column.tobytes() in every for column in (values + 0.0).T)


# Time


def check_time(kind: Kind, data: bytes) -> None:
    """Raise where eight times as many bytes cost much more than eight times the time, again and again."""
    small = (data * (LARGE // max(1, len(data)) + 1))[:LARGE]
    for _ in range(4):
        little, much = _cpu_s(kind.decoder(), small), _cpu_s(kind.decoder(), small * 8)
        if much < 24 * little + 0.05:
            return
    raise PromiseError(f"{LARGE} bytes cost {little:.3f} s, eight times as many {much:.3f} s")


def _cpu_s(decoder: Decoder, data: bytes) -> float:
    began_s = time.process_time()
    decoder.feed(data)
    decoder.end()
    return time.process_time() - began_s


# Damage


def _place(rng: Rng, data: bytes) -> int:
    return int(rng.integers(0, len(data) + 1))


def _span(rng: Rng, data: bytes, most: int = 80) -> tuple[int, int]:
    at = _place(rng, data)
    return at, min(len(data), at + int(rng.integers(1, most)))


def _flip(rng: Rng, data: bytes, _other: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def _drop(rng: Rng, data: bytes, _other: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _insert(rng: Rng, data: bytes, _other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.bytes(int(rng.integers(1, 60))) + data[at:]


def _run(rng: Rng, data: bytes, _other: bytes) -> bytes:
    at = _place(rng, data)
    byte = bytes([int(rng.choice([0, 1, 0x0A, 0x30, 0x7F, 0x80, 0xA0, 0xC0, 0xFF, int(rng.integers(256))]))])
    return data[:at] + byte * int(rng.choice([1, 2, 7, 64, 700])) + data[at:]


def _mark(rng: Rng, data: bytes, _other: bytes) -> bytes:
    start, end = _span(rng, data, 4)
    mark = _MARKS[int(rng.integers(len(_MARKS)))]
    return data[:start] + mark + data[end if rng.random() < 0.5 else start :]


def _double(rng: Rng, data: bytes, _other: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * int(rng.integers(1, 8)) + data[end:]


def _move(rng: Rng, data: bytes, _other: bytes) -> bytes:
    a, b, c = sorted(_place(rng, data) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _splice(rng: Rng, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _weave(rng: Rng, data: bytes, other: bytes) -> bytes:
    at = _place(rng, data)
    start, end = _span(rng, other, 200)
    return data[:at] + other[start:end] + data[at:]


def _reframe(rng: Rng, data: bytes, _other: bytes) -> bytes:
    """Change a frame of our own protocol and put the checksum right: what a board with a fault might send."""
    frames = data.split(b"\0")
    at = int(rng.integers(len(frames)))
    body = bytearray((cobs_decode(frames[at]) or b"")[:-2] or rng.bytes(12))
    for _ in range(int(rng.integers(1, 5))):
        body[int(rng.integers(len(body)))] = int(rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
    body = body[: int(rng.integers(1, len(body) + 1))] if rng.random() < 0.1 else body
    frames[at] = cobs_encode(bytes(body) + crc16(bytes(body)).to_bytes(2, "little"))
    return b"\0".join(frames)


Damage = Callable[[Rng, bytes, bytes], bytes]
_DAMAGES: tuple[Damage, ...] = (_flip, _drop, _insert, _run, _mark, _double, _move, _splice, _weave)


# New steps of the code


Step = tuple[str, int, int]


class Steps:
    """How often each step from line to line was taken in the files that are looked at."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = frozenset(files)
        self.taken: Counter[Step] = Counter()

    def __enter__(self) -> "Steps":
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, _event: str, _arg: object) -> Any:
        file = frame.f_code.co_filename
        if file not in self._files:
            return None
        before = frame.f_lineno

        def stepped(inner: FrameType, event: str, _arg: object) -> Any:
            nonlocal before
            if event == "line":
                self.taken[file, before, inner.f_lineno] += 1
                before = inner.f_lineno
            return stepped

        return stepped

    def roughly(self) -> set[tuple[Step, int]]:
        """Return every step with how often it was taken, to a factor of four."""
        return {(step, n.bit_length() // 2) for step, n in self.taken.items()}


def looked_at() -> list[str]:
    """Return the files whose lines are counted."""
    folder = Path(str(ascii_lines.__file__)).parent
    files = [str(path) for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    return [*files, *(str(module.__file__) for module in (framing, bridge, timeline))]


def lines_of(files: Sequence[str]) -> set[tuple[str, int]]:
    """Return every line inside a function of these files, without those that encode."""

    def inside(code: CodeType, file: str) -> Iterator[tuple[str, int]]:
        for part in code.co_consts:
            if isinstance(part, CodeType) and "encode" not in part.co_name:
                if part.co_flags & 2:  # a function, not a class
                    first = part.co_firstlineno
                    yield from ((file, line) for _, _, line in part.co_lines() if line and line > first)
                yield from inside(part, file)

    return {line for file in files for line in inside(compile(Path(file).read_text("utf-8"), file, "exec"), file)}


# The loop


@dataclass
class Target:
    """One kind of board: its streams so far, and what it does next, which follows from the seed alone."""

    kind: Kind
    seed: int
    tried: int = 0
    corpus: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.seed, zlib.crc32(str(self.kind).encode())])
        self.seen: set[tuple[Step, int]] = set()
        for frames in (3, 12, 30):
            self.corpus.append(b"".join(self.kind.stream(frames, first=250, seed=frames))[:LONGEST])

    def next_input(self) -> bytes:
        """Return a stream with some new damage."""
        rng = self.rng
        if self.tried < 3:
            return self.corpus[self.tried]
        # The latest are the most promising.
        newest = rng.random() < 0.5 and len(self.corpus) > 8
        data = self.corpus[int(rng.integers(len(self.corpus) - 8 if newest else 0, len(self.corpus)))]
        for _ in range(int(rng.choice([1, 1, 2, 3, 6]))):
            if rng.random() < 0.85:
                other = self.corpus[int(rng.integers(len(self.corpus)))]
            else:
                stranger = KINDS[int(rng.integers(len(KINDS)))]
                other = b"".join(stranger.stream(8, first=int(rng.integers(2**16)), seed=int(rng.integers(100))))
            damage = _DAMAGES[int(rng.integers(len(_DAMAGES)))]
            if self.kind.board == "unshrug" and rng.random() < 0.4:
                damage = _reframe
            data = damage(rng, data or b"\0", other or b"\0")[:LONGEST]
        return data

    def learn(self, data: bytes, steps: set[tuple[Step, int]]) -> None:
        """Keep a stream that took new steps, or the same much more often."""
        self.tried += 1
        if not steps <= self.seen:
            self.seen |= steps
            self.corpus.append(data)


CHECKS: dict[str, Callable[[Kind, bytes], None]] = {"decoder": check_decoder, "bridge": check_bridge}
TIME_EVERY = 100  # streams


@dataclass(frozen=True)
class Failure:
    """What did not hold, and the shortest stream found that shows it."""

    kind: Kind
    check: str
    seed: int
    tried: int
    why: str
    data: bytes

    def __str__(self) -> str:
        return (
            f"{self.kind}, {self.check}: {self.why}\n  stream {self.tried} of --seed {self.seed} --board"
            f" '{self.kind}'; the shortest has {len(self.data)} bytes:\n"
            f"  python -m tests.fuzz --board '{self.kind}' --input {self.data.hex() or repr('')}"
        )


def why_not(check: Callable[[Kind, bytes], None], kind: Kind, data: bytes) -> str | None:
    """Say what does not hold, None where all does."""
    try:
        check(kind, data)
    except PromiseError as broken:
        return str(broken)
    except Exception as error:  # whatever it is, a decoder must not raise it
        return f"{type(error).__name__}: {error}"
    return None


def shortened(check: Callable[[Kind, bytes], None], kind: Kind, data: bytes, seconds: float = 10.0) -> bytes:
    """Leave out parts, ever smaller ones, for as long as something still does not hold."""
    until = time.monotonic() + seconds
    size = len(data) // 2
    while size and time.monotonic() < until:
        at = 0
        while at < len(data) and time.monotonic() < until:
            shorter = data[:at] + data[at + size :]
            if why_not(check, kind, shorter) is None:
                at += size
            else:
                data = shorter
        size //= 2
    return data


@dataclass
class Fuzzer:
    """Go round the kinds of board, one stream each."""

    seed: int
    kinds: Sequence[Kind] = tuple(KINDS)
    shorten_s: float = 10.0

    def __post_init__(self) -> None:
        self.targets = [Target(kind, self.seed) for kind in self.kinds]
        self.files = looked_at()
        self.seen: set[Step] = set()
        self.failures: list[Failure] = []

    @property
    def tried(self) -> int:
        return sum(target.tried for target in self.targets)

    def round(self) -> None:
        """Try one stream more on every kind that has not failed."""
        failed = {failure.kind for failure in self.failures}
        for target in self.targets:
            if target.kind not in failed:
                self._try(target)

    def _try(self, target: Target) -> None:
        data = target.next_input()
        steps = Steps(self.files)
        for name, check in CHECKS.items():
            with steps:
                why = why_not(check, target.kind, data)
            if why is not None:
                self._fail(target, name, check, why, data)
        target.learn(data, steps.roughly())
        self.seen |= steps.taken.keys()
        if target.tried % TIME_EVERY == 0 and (why := why_not(check_time, target.kind, data)):
            self._fail(target, "time", check_time, why, data)

    def _fail(self, target: Target, name: str, check: Callable[[Kind, bytes], None], why: str, data: bytes) -> None:
        shorter = data if check is check_time else shortened(check, target.kind, data, self.shorten_s)
        why = why_not(check, target.kind, shorter) or why
        self.failures.append(Failure(target.kind, name, self.seed, target.tried, why, shorter))

    def unreached(self) -> set[tuple[str, int]]:
        """Return the lines that no stream has reached."""
        return lines_of(self.files) - {(file, line) for file, _, line in self.seen}

    def summary(self) -> str:
        """Say what was done."""
        all_lines = lines_of(self.files)
        reached = all_lines - self.unreached()
        kept = sum(len(target.corpus) for target in self.targets)
        return (
            f"{self.tried} streams of {len(self.targets)} kinds, {kept} kept, {len(reached)} of {len(all_lines)} lines"
            f" and {len(self.seen)} steps reached, {len(self.failures)} failures"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run for some seconds, say how it goes, and return how many kinds of board failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz every decoder and the bridge.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long; 60 unless told")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeat a run")
    parser.add_argument("--board", help=f"one kind only, such as {str(KINDS[0])!r}, or all of a board")
    parser.add_argument("--input", metavar="HEX", help="check this one stream")
    parser.add_argument("--unreached", action="store_true", help="list the lines that were never reached")
    options = parser.parse_args(arguments)
    kinds = [kind for kind in KINDS if options.board in (None, str(kind), kind.board)]
    if not kinds:
        parser.error(f"no kind of board is called {options.board!r}; there are: {', '.join(map(str, KINDS))}")
    if options.input is not None:
        data = bytes.fromhex(options.input)
        wrong = [f"{kind}, {name}: {why}" for kind in kinds for name, check in (*CHECKS.items(), ("time", check_time))
                 if (why := why_not(check, kind, data))]  # fmt: skip
        print("\n".join(wrong) or "all holds")
        return len(wrong)
    fuzzer = Fuzzer(options.seed, kinds)
    print(f"seed {options.seed}, {options.seconds:g} s, {len(kinds)} kinds of board", flush=True)
    began_s = said_s = time.monotonic()
    said = 0
    while (now_s := time.monotonic()) - began_s < options.seconds and len(fuzzer.failures) < len(kinds):
        fuzzer.round()
        for failure in fuzzer.failures[said:]:
            print(f"FAILED {failure}", flush=True)
        said = len(fuzzer.failures)
        if now_s - said_s > 5:
            said_s = now_s
            print(f"{now_s - began_s:4.0f} s: {fuzzer.summary()}", flush=True)
    print(f"done: {fuzzer.summary()}")
    if options.unreached:
        for file, line in sorted(fuzzer.unreached()):
            print(f"  {Path(file).name}:{line}")
    return len(fuzzer.failures)


if __name__ == "__main__":
    sys.exit(min(1, main()))
