"""Unshrug's own protocol, as the reference firmware speaks it; all numbers little endian.

    wire  COBS( payload | crc16 ) 00
    data  01 | channels<<4 + samples | u16 seq | u32 t_us | i16 x channels x samples
    info  02 | version | channels | samples | u16 rate_hz | adc_bits | u16 vref_mv | u32 gain x 1000
             | kind | u16 firmware | u16 boot | u16 overruns | u16 dropped

`seq` counts the packets that were sampled, sent or not; `t_us` is the board's clock at the first sample.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.framing import cobs_decode, cobs_encode, crc16
from firmware_bridge.packets import BadFrame, Info, Packet, Samples

_DATA, _INFO = 1, 2
_VERSION = 1
_DATA_HEAD = struct.Struct("<BBHI")
_INFO_BODY = struct.Struct("<BBBBHBHIBHHHH")
_KINDS = ("raw", "rectified", "envelope")
# The longest frame: 15 samples of 15 channels, its stuffing and its end.
_LONGEST = 8 + 2 * 15 * 15 + 2 + 3


class FramedDecoder:
    """Bytes in, packets out; a byte 00 is always a boundary, so damage costs at most the frames that it touches."""

    def __init__(self) -> None:
        self._rest = b""
        self._joined = False

    def feed(self, data: bytes) -> list[Packet]:
        """Take any number of bytes; return the packets that they complete."""
        *frames, rest = (self._rest + data).split(b"\0")
        out: list[Packet] = []
        if frames and not self._joined:
            # A stream is joined in the middle of a frame, which is not damage; a whole one is taken all the same.
            first = _decode(frames.pop(0))
            out += [] if isinstance(first, BadFrame) else [first]
            self._joined = True
        out += [_decode(frame) for frame in frames if frame]
        self._rest = rest[: _LONGEST + 1]  # enough to see that it is too long, however long it gets
        return out

    def end(self) -> list[Packet]:
        """Take note that nothing more will come; a frame without its end is none."""
        return []


def _decode(frame: bytes) -> Packet:
    if len(frame) > _LONGEST:
        return BadFrame("too long for a frame")
    payload = cobs_decode(frame)
    if payload is None or len(payload) < 4:
        return BadFrame("cut or damaged frame")
    body = payload[:-2]
    if crc16(body) != payload[-2] | payload[-1] << 8:
        return BadFrame("checksum")
    if body[0] == _DATA and len(body) >= _DATA_HEAD.size:
        _, shape, seq, t_us = _DATA_HEAD.unpack_from(body)
        channels, samples = shape >> 4, shape & 15
        if channels and samples and len(body) == _DATA_HEAD.size + 2 * channels * samples:
            codes = np.frombuffer(body, "<i2", offset=_DATA_HEAD.size).reshape(samples, channels)
            return Samples(codes.astype(np.float64), seq, t_us)
    if body[0] == _INFO and len(body) == _INFO_BODY.size:
        _, version, channels, _, rate, bits, vref, gain, kind, _, boot, overruns, dropped = _INFO_BODY.unpack(body)
        if version == _VERSION and channels and rate and bits in range(8, 17) and vref and gain and kind < len(_KINDS):
            return Info(channels, float(rate), bits, vref, gain / 1000, _KINDS[kind], boot, overruns, dropped)
        return BadFrame(f"info frame of version {version} with values out of range")
    return BadFrame(f"unknown frame type {body[0]:02x}")


def encode_data(codes: NDArray[np.int16], seq: int, t_us: int) -> bytes:
    """Encode codes of shape (samples, channels), up to 15 of each, as one frame."""
    samples, channels = codes.shape
    head = _DATA_HEAD.pack(_DATA, channels << 4 | samples, seq % 2**16, t_us % 2**32)
    return _frame(head + codes.astype("<i2").tobytes())


def encode_info(info: Info, samples: int) -> bytes:
    """Encode what a board says of itself as one frame."""
    return _frame(
        _INFO_BODY.pack(
            _INFO, _VERSION, info.channels, samples, round(info.rate_hz), info.adc_bits, info.vref_mv,
            round(info.gain * 1000), _KINDS.index(info.kind), 0, info.boot_id, info.overruns, info.dropped,
        )
    )  # fmt: skip


def _frame(body: bytes) -> bytes:
    return cobs_encode(body + crc16(body).to_bytes(2, "little")) + b"\0"
