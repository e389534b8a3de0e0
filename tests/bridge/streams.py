"""A stream of every kind of board, with the samples that are in it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.boards import BOARDS, Decoder
from firmware_bridge.decoders import bitalino, chords, knight, openbci, openeeg, scientisst, spikershield
from firmware_bridge.decoders.ascii_lines import encode_line
from firmware_bridge.decoders.framed import encode_data, encode_info
from firmware_bridge.packets import Info

Codes = NDArray[np.int64]

OWN = Info(2, 1000.0, 16, 3300, 1000.0, "raw", boot_id=7, overruns=0, dropped=0)


@dataclass(frozen=True)
class Kind:
    """A kind of board with so many channels; `encode` makes bytes of codes (samples, channels) from a counter on."""

    board: str
    channels: int
    codes: tuple[int, int]
    encode: Callable[[Codes, int], bytes]
    preamble: bytes = b""
    per_frame: int = 1

    def __str__(self) -> str:
        return f"{self.board} {self.channels}"

    def decoder(self) -> Decoder:
        return BOARDS[self.board].decoder(self.channels)

    def random(self, frames: int, seed: int = 0) -> Codes:
        """Return codes for so many frames, with the smallest and largest among them."""
        rng = np.random.default_rng(seed)
        low, high = self.codes
        codes = rng.integers(low, high + 1, (frames * self.per_frame, self.channels))
        extreme = rng.random(codes.shape)
        return np.where(extreme < 0.1, low, np.where(extreme > 0.9, high, codes))

    def stream(self, frames: int, *, first: int = 0, seed: int = 0) -> list[bytes]:
        """Return random frames, one by one; before them what the board says when it starts."""
        codes = self.random(frames, seed).reshape(frames, self.per_frame, self.channels)
        return [self.preamble, *(self.encode(c, first + k) for k, c in enumerate(codes))]


def _framed(codes: Codes, counter: int) -> bytes:
    return encode_data(codes.astype(np.int16), counter, counter * 8000)


def _lines(codes: Codes, _: int) -> bytes:
    return b"".join(map(encode_line, codes.astype(float)))


def _v2(codes: Codes, counter: int) -> bytes:
    return scientisst.encode_frames(codes, (5_000_000_000 + 1000 * counter) % 2**36, v2=True)


def _spikes(codes: Codes, _: int) -> bytes:
    return spikershield.encode_frames(codes)


KINDS = [
    Kind("unshrug", 2, (-(2**15), 2**15 - 1), _framed, encode_info(OWN, 8), per_frame=8),
    Kind("ascii", 2, (0, 1023), _lines, b"MyoWare Example\r\n"),
    *(Kind("chords", n, (0, 2**16 - 1), chords.encode_frames, b"UNO-R3\r\nSTOPPED\r\n") for n in (1, 3, 6, 16)),
    *(Kind("bitalino", n, (0, 1023), bitalino.encode_frames, b"ATBITalino_v5.2\n") for n in (1, 2, 3, 4)),
    *(Kind("scientisst", n, (0, 4095), lambda codes, c: scientisst.encode_frames(codes, c % 2**12)) for n in (1, 2, 6)),
    *(Kind("scientisst-v2", n, (0, 4095), _v2) for n in (1, 2)),
    *(Kind("spikershield", n, (0, 1023), _spikes, b"StartUp!\r\n") for n in (1, 2)),
    Kind("olimex", 6, (0, 1023), openeeg.encode_frames),
    Kind("cyton", 8, (-(2**23), 2**23 - 1), openbci.encode_frames, b"OpenBCI V3 8-16 channel\r\n$$$"),
    Kind("knight", 8, (-(2**15), 2**15 - 1), knight.encode_frames),
]
