"""Backyard Brains SpikerShields and boxes: two bytes a channel, upper seven bits first.

    1hhhhhhh 0lllllll | 0hhhhhhh 0lllllll | ...     one frame, all channels; bit 7 marks its first byte
    FF FF 01 01 80 FF text FF FF 01 01 81 FF        a message between frames; FF FF is in no frame

There is no counter and no checksum: only a broken frame is seen to be lost, not a missing one. How many channels
there are is learned from the distance of the marked bytes.
"""

import re

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.packets import BadFrame, Packet, Samples

_OPEN, _CLOSE = b"\xff\xff\x01\x01\x80\xff", b"\xff\xff\x01\x01\x81\xff"
_LONGEST_TEXT = 512
_MESSAGE = re.compile(re.escape(_OPEN) + rb"(?:(?!" + re.escape(_OPEN) + rb").){0,512}?" + re.escape(_CLOSE), re.DOTALL)
_MOST_CHANNELS = 6
_TO_LEARN = 16  # equal frames in a row before their length is believed: in noise, five in a row are soon found
_AT_ONCE = 1024  # frames that are looked at in one go
_KEPT = 200  # bytes that hold so many frames of any length


class SpikerShieldDecoder:
    """Bytes in, packets out."""

    def __init__(self) -> None:
        self._raw = b""  # may be the start of a message
        self._rest = b""  # the frame that has begun; before a length is known, all that may tell it
        self._length = 0
        self._at = 0  # place of the rest in the whole stream, and that of the last marked byte
        self._mark: int | None = None
        self._odd = 0  # bytes since the last good frame that are in none
        self._other = self._alike = 0  # another distance of marked bytes, and how often it came in a row

    def feed(self, data: bytes) -> list[Packet]:
        """Take any number of bytes; return the packets that they complete."""
        clean, self._raw = _without_messages(self._raw + data)
        stream = self._rest + clean
        out: list[Packet] = []
        used = 0 if self._length else self._learn(stream)
        self._at += used
        stream = stream[used:]
        used = self._frames(stream, out) if self._length else 0
        self._rest = stream[used:]
        self._at += used
        return out

    def end(self) -> list[Packet]:
        """Take note that nothing more will come; a frame that has begun is none."""
        return []

    def _learn(self, stream: bytes) -> int:
        """Find out the length of a frame; return how many bytes, before the first one, tell nothing more."""
        marks = _marked(stream)
        distances = np.diff(marks)
        for k in range(len(distances) - _TO_LEARN + 1):
            length = int(distances[k])
            if _is_length(length) and (distances[k : k + _TO_LEARN] == length).all():
                self._length = length
                return int(marks[k])  # what came before is neither sample nor damage, however it was cut
        return max(0, len(stream) - _KEPT)

    def _frames(self, stream: bytes, out: list[Packet]) -> int:
        """Take what is complete; return how many bytes that is."""
        marks = _marked(stream)
        sizes = np.diff(marks, append=len(stream))
        self._odd += int(marks[0]) if len(marks) else len(stream)
        k = 0
        while k < len(marks):
            self._distance(self._at + int(marks[k]), out)
            right = sizes[k : k + _AT_ONCE] == self._length
            n = len(right) if right.all() else int(np.argmin(right))
            size = int(sizes[k])
            if n == 0 and size < self._length and k == len(marks) - 1:
                return int(marks[k])  # the rest of it is still to come
            if n or size > self._length:
                n = max(n, 1)
                self._emit(stream, int(marks[k]), n, out)
                self._mark = self._at + int(marks[k + n - 1])
                self._alike = 0 if n > 1 else self._alike
            self._odd += max(0, size - self._length) if n else size
            k += max(n, 1)
        return len(stream)

    def _distance(self, mark: int, out: list[Packet]) -> None:
        """Note how far a marked byte is from the one before; believe another length after some equal ones."""
        distance = 0 if self._mark is None else mark - self._mark
        self._mark = mark
        if distance in (0, self._length):
            self._alike = self._alike if distance == 0 else 0
            return
        self._alike = self._alike + 1 if distance == self._other else 1
        self._other = distance
        if self._alike >= _TO_LEARN and _is_length(distance):
            self._settle(out)
            self._length = distance

    def _emit(self, stream: bytes, first: int, n: int, out: list[Packet]) -> None:
        self._settle(out)
        frames = np.frombuffer(stream, np.uint8, n * self._length, first).reshape(n, self._length)
        codes = (frames[:, 0::2].astype(np.int64) & 0x7F) << 7 | frames[:, 1::2]
        out.append(Samples(codes.astype(np.float64)))

    def _settle(self, out: list[Packet]) -> None:
        """Say what the odd bytes before a good frame were worth."""
        if self._odd:
            out.append(BadFrame("broken frame", samples=max(1, round(self._odd / self._length))))
        self._odd = 0


def _marked(stream: bytes) -> NDArray[np.int64]:
    return np.flatnonzero(np.frombuffer(stream, np.uint8) & 0x80)


def _is_length(n: int) -> bool:
    return n % 2 == 0 and 2 <= n <= 2 * _MOST_CHANNELS


def _without_messages(data: bytes) -> tuple[bytes, bytes]:
    """Return data without messages, and the rest that may be the start of one."""
    if 0xFF not in data:
        return data, b""
    data = _MESSAGE.sub(b"", data)
    at = data.rfind(_OPEN)
    if at >= 0 and len(data) - at <= len(_OPEN) + _LONGEST_TEXT + len(_CLOSE):
        return data[:at], data[at:]
    for n in range(min(len(_OPEN) - 1, len(data)), 0, -1):
        if data.endswith(_OPEN[:n]):
            return data[:-n], data[-n:]
    return data, b""


def encode_frames(codes: NDArray[np.int64]) -> bytes:
    """Encode codes of shape (samples, channels), one frame each."""
    frames = np.stack((codes >> 7 & 0x7F, codes & 0x7F), axis=2).reshape(len(codes), -1).astype(np.uint8)
    frames[:, 0] |= 0x80
    return frames.tobytes()
