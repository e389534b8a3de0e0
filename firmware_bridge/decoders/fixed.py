"""Frames of one length, as most boards send them: how to lock on to them and how to stay locked.

What marks a frame (two bytes in front, one at the end, a checksum of four bits) occurs in data as well. So a frame
counts only where its neighbour agrees: its counter goes on from the frame before, or those that come after it go on
from its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from firmware_bridge.packets import BadFrame, Packet, Samples

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]

_AT_ONCE = 1024  # frames, or places, that are looked at in one go
_SAY_AFTER = 4096  # bytes without a frame that are damage in themselves


@dataclass(frozen=True, slots=True)
class Layout:
    """What a frame of `length` bytes holds; the functions take frames of shape (n, length).

    `valid` says which are whole, `count` gives the counter (or the clock, in µs, where `tick_us` is the time from
    one to the next), `codes` the samples of shape (n, channels). The counter starts again at 0 after `turn`.
    `look_ahead` frames must follow on before a frame without a predecessor is believed. Up to `bridge` damaged frames
    in between do not matter to one that stands where it should. With `ends_with_count` a frame that lost bytes has
    some of the next one's data for its counter, so one that counts right is believed whatever comes behind.
    """

    length: int
    valid: Callable[[Frames], Mask]
    count: Callable[[Frames], Counts]
    codes: Callable[[Frames], NDArray[Any]]
    turn: int
    tick_us: float | None = None
    look_ahead: int = 1
    bridge: int = 8
    ends_with_count: bool = False

    def follows(self, before: Counts | np.int64 | int, after: Counts, frames: int | Counts = 1) -> Mask:
        """Say where the counter `after` is `frames` frames later than `before`."""
        passed = (after - before) % self.turn
        if self.tick_us is None:
            return np.asarray(passed == frames % self.turn)
        return np.asarray(np.abs(passed - frames * self.tick_us) < self.tick_us / 2)


class FixedDecoder:
    """Bytes in, packets out; each packet is a run of frames whose counters follow each other.

    A frame is handed out when a good one follows, if its counter stands in front: one that lost bytes may then look
    whole, with the head of the next inside.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rest = b""
        self._last: int | None = None  # counter of the last good frame
        self._skipped = 0  # bytes since then

    def feed(self, data: bytes) -> list[Packet]:
        """Take any number of bytes; return the packets that they complete."""
        return self._all(self._rest + data, ended=False)

    def end(self) -> list[Packet]:
        """Take note that nothing more will come; return what has waited for more."""
        return self._all(self._rest, ended=True)

    def _all(self, data: bytes, *, ended: bool) -> list[Packet]:
        stream = np.frombuffer(data, np.uint8)
        out: list[Packet] = []
        at = 0
        while used := self._run(stream[at:], out) or self._search(stream[at:], out, ended=ended):
            at += used
        self._rest = data[at:]
        return out

    def _run(self, stream: Frames, out: list[Packet]) -> int:
        """Take the frames that go on from the last one, each with a good one behind; return how many bytes they are."""
        layout = self._layout
        n = min(len(stream) // layout.length, _AT_ONCE)
        behind = 0 if layout.ends_with_count else 1
        if self._last is None or n <= behind:
            return 0
        frames = stream[: n * layout.length].reshape(n, layout.length)
        valid = layout.valid(frames)
        if not valid[0]:
            return 0
        counts = layout.count(frames)
        n -= behind
        good = valid[:n] & valid[behind:]
        good[0] &= self._stands_well(counts[:1], np.zeros(1, np.int64))[0]
        good[1:] &= layout.follows(counts[: n - 1], counts[1:n])
        n = n if good.all() else int(np.argmin(good))
        if n:
            self._emit(frames[:n], counts[:n], out)
        return n * layout.length

    def _stands_well(self, counts: Counts, offset: Counts) -> Mask:
        """Say which frames, `offset` bytes further on, stand and count as the last one lets expect."""
        if self._last is None:
            return np.zeros(len(counts), np.bool_)
        away, odd = np.divmod(self._skipped + offset, self._layout.length)
        near = (odd == 0) & (away <= self._layout.bridge)
        return np.asarray(near & self._layout.follows(self._last, counts, away + 1))

    def _search(self, stream: Frames, out: list[Packet], *, ended: bool) -> int:
        """Go to the next place where a frame may be, and take it if it is one; return how many bytes that is."""
        layout = self._layout
        length, ahead = layout.length, layout.look_ahead
        places = min(len(stream) - length + 1, _AT_ONCE)
        if places <= 0:
            return 0
        windows = sliding_window_view(stream[: places + (ahead + 1) * length], length)
        valid, counts = layout.valid(windows), layout.count(windows)
        here = np.arange(places)
        stands = valid[:places] & self._stands_well(counts[:places], here)
        leads, known = valid[:places].copy(), np.ones(places, np.bool_)
        for k in range(1, ahead + 1):
            there = here + k * length
            known &= there < len(windows)
            inside = np.minimum(there, len(windows) - 1)
            leads &= ~known | (valid[inside] & layout.follows(counts[:places], counts[inside], k))
        found = np.flatnonzero(stands | (leads & (known | (not ended))))
        place = int(found[0]) if len(found) else places
        self._miss(place, out)
        if place == places:
            return place
        if not leads[place] or not known[place]:
            if not stands[place] or (place + length >= len(windows) and not ended):
                return place  # more must come before it is known
            if place + length < len(windows) and not valid[place + length]:
                self._miss(1, out)
                return place + 1
        self._emit(windows[place : place + 1], counts[place : place + 1], out)
        return place + length

    def _miss(self, n: int, out: list[Packet]) -> None:
        before, self._skipped = self._skipped, self._skipped + n
        if self._last is not None:
            news = self._skipped // _SAY_AFTER - before // _SAY_AFTER
            out += [BadFrame(f"{_SAY_AFTER} bytes without a frame")] * news

    def _emit(self, frames: Frames, counts: Counts, out: list[Packet]) -> None:
        if self._skipped % _SAY_AFTER and self._last is not None:
            out.append(BadFrame("bytes between frames"))
        self._skipped, self._last = 0, int(counts[-1])
        first = int(counts[0])
        codes = np.asarray(self._layout.codes(frames), np.float64)
        if self._layout.tick_us is None:
            out.append(Samples(codes, seq=first, steps=len(codes)))
        else:
            out.append(Samples(codes, device_us=first, times_us=counts))


def counter_at(place: int) -> Callable[[Frames], Counts]:
    """Return the function that reads a counter of one byte from frames."""
    return lambda frames: frames[:, place].astype(np.int64)


def encode(head: bytes, rows: NDArray[Any], tail: bytes, counter: int) -> bytes:
    """Return a frame for each of the rows: head, counter of one byte, the row's bytes, tail."""
    return b"".join(head + bytes([(counter + k) % 256]) + row.tobytes() + tail for k, row in enumerate(rows))


def big_endian(frames: Frames, first: int, n: int, size: int, *, signed: bool) -> NDArray[np.int64]:
    """Return `n` numbers of `size` bytes each, from byte `first` on, of shape (frames, n)."""
    cells = frames[:, first : first + n * size].reshape(len(frames), n, size)
    numbers = cells[..., 0].astype(np.int8 if signed else np.uint8).astype(np.int64)
    for k in range(1, size):
        numbers = numbers << 8 | cells[..., k]
    return numbers
