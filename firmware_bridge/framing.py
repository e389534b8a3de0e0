"""Checksums and byte stuffing: pure functions."""

from binascii import crc_hqx
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray


def crc16(data: bytes) -> int:
    """Return the CRC-16/IBM-3740 (polynomial 1021, start FFFF); b"123456789" gives 29B1."""
    return crc_hqx(data, 0xFFFF)


def cobs_encode(data: bytes) -> bytes:
    """Stuff bytes so that 00 does not occur (Cheshire & Baker 1999, consistent overhead byte stuffing)."""
    out = bytearray()
    for run in data.split(b"\0"):
        at = 0
        while len(run) - at >= 254:
            out += b"\xff" + run[at : at + 254]
            at += 254
        out.append(len(run) - at + 1)
        out += run[at:]
    return bytes(out)


def cobs_decode(data: bytes) -> bytes | None:
    """Undo `cobs_encode`; None where the bytes cannot have come from it."""
    if 0 in data:
        return None
    out = bytearray()
    at, end = 0, len(data)
    while at < end:
        code = data[at]
        after = at + code
        if after > end:
            return None
        out += data[at + 1 : after]
        at = after
        if code < 255 and at < end:
            out.append(0)
    return bytes(out)


_CRC4 = (0, 3, 6, 5, 12, 15, 10, 9, 11, 8, 13, 14, 7, 4, 1, 2)


def crc4(nibbles: Iterable[int]) -> int:
    """Return the CRC-4 (polynomial 13, start 0) of half-bytes in their order, as BITalino and ScientISST use it."""
    crc = 0
    for nibble in nibbles:
        crc = _CRC4[crc] ^ nibble
    return _CRC4[crc]


@cache
def crc4_of_each(positions: tuple[int, ...]) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return a function from frames (n, length) to the CRC-4 of each, over the half-bytes at `positions`.

    Half-byte 2k is the upper one of byte k. The CRC is linear, so that of a frame is the XOR of those of its bytes
    with all others zero: one look-up per byte for all frames at once.
    """
    tables: dict[int, NDArray[np.uint8]] = {}
    order = {position: place for place, position in enumerate(positions)}
    for byte in sorted({position // 2 for position in positions}):
        alone = np.zeros(256, np.uint8)
        for value in range(256):
            nibbles = [0] * len(positions)
            for position, nibble in ((2 * byte, value >> 4), (2 * byte + 1, value & 15)):
                if position in order:
                    nibbles[order[position]] = nibble
            alone[value] = crc4(nibbles)
        tables[byte] = alone

    def of_each(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        crc = np.zeros(len(frames), np.uint8)
        for byte, table in tables.items():
            crc ^= table[frames[:, byte]]
        return crc

    return of_each
