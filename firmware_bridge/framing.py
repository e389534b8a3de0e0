"""Checksums and byte stuffing: pure functions."""

from binascii import crc_hqx


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
