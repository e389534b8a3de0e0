"""Upside Down Labs' Chords firmware, for the BioAmp boards.

    C7 7C | counter u8 | u16 big endian x channels | 01

The channels differ from board to board, and between boards of one name: their number is learned from the distance
of three frames in a row. An answer to a command may stand in front.
"""

from functools import cache

import numpy as np

from firmware_bridge.decoders.fixed import Counts, FixedDecoder, Frames, Layout, Mask, big_endian, counter_at, encode
from firmware_bridge.packets import Packet

_SYNC = b"\xc7\x7c"
_END = 1
_MOST_CHANNELS = 16
_TO_LEARN = 3


@cache
def _layout(channels: int) -> Layout:
    length = 2 * channels + 4

    def valid(frames: Frames) -> Mask:
        return np.asarray((frames[:, 0] == _SYNC[0]) & (frames[:, 1] == _SYNC[1]) & (frames[:, -1] == _END))

    return Layout(
        length, valid, counter_at(2), lambda frames: big_endian(frames, 3, channels, 2, signed=False), turn=256
    )


class ChordsDecoder:
    """Bytes in, packets out."""

    def __init__(self) -> None:
        self._rest = b""
        self._frames: FixedDecoder | None = None

    def feed(self, data: bytes) -> list[Packet]:
        """Take any number of bytes; return the packets that they complete."""
        if self._frames is None:
            data, self._rest = self._learn(self._rest + data)
        return self._frames.feed(data) if self._frames else []

    def end(self) -> list[Packet]:
        """Take note that nothing more will come; return what has waited for more."""
        return self._frames.end() if self._frames else []

    def _learn(self, data: bytes) -> tuple[bytes, bytes]:
        """Find out the length of a frame; return the bytes from the first one on, and those to look at again."""
        at = data.find(_SYNC)
        while at >= 0:
            for channels in range(1, _MOST_CHANNELS + 1):
                fits = _fits(data, at, 2 * channels + 4)
                if fits:
                    self._frames = FixedDecoder(_layout(channels))
                if fits is not False:
                    return (data[at:], b"") if fits else (b"", data[at:])
            at = data.find(_SYNC, at + 1)
        return b"", data[-1:]


def _fits(data: bytes, at: int, length: int) -> bool | None:
    """Say whether frames of this length follow each other from `at` on; None where that is not known yet."""
    for k in range(_TO_LEARN):
        frame = data[at + k * length : at + (k + 1) * length]
        counter = (data[at + 2] + k) % 256 if at + 2 < len(data) else 0
        if frame[:3] != bytes((*_SYNC, counter))[: len(frame)]:
            return False
        if len(frame) < length:
            return None
        if frame[-1] != _END:
            return False
    return True


def encode_frames(codes: Counts, counter: int) -> bytes:
    """Encode codes of shape (samples, channels), one frame each; the counter goes on from `counter`."""
    return encode(_SYNC, codes.astype(">u2"), bytes([_END]), counter)
