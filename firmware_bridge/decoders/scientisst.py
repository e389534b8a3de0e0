"""ScientISST Sense: 12 bits a channel, packed, the highest channel first.

    AI[n] ... AI1, u12 little endian, two in three bytes | I1 I2 O1 O2 as the upper half-byte of the byte that is begun
    | u16 little endian: counter u12 | crc u4                                       API mode 2
    | crc u4 and time[3:0] | u32 little endian: time[35:4], µs since the start      API mode 14 ("V2")

The checksum covers every half-byte but its own. It lets one wrong place in sixteen pass, so three frames must agree.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.decoders.fixed import Counts, FixedDecoder, Frames, Layout, Mask
from firmware_bridge.framing import crc4_of_each

MOST_CHANNELS = 6
RATE_HZ = 1000
_TAIL, _TAIL_V2 = 2, 5


def _half_bytes(channels: int) -> int:
    """Half-bytes before the tail: three a channel and one of pins, in whole bytes."""
    return (3 * channels + 2) // 2 * 2


def _checked(channels: int, tail: int) -> tuple[int, ...]:
    body = _half_bytes(channels)
    return tuple(k for k in range(body + 2 * tail) if k != body + 1)


@cache
def _layout(channels: int, *, v2: bool) -> Layout:
    tail = _TAIL_V2 if v2 else _TAIL
    body = _half_bytes(channels) // 2
    checksum = crc4_of_each(_checked(channels, tail))

    def valid(frames: Frames) -> Mask:
        return np.asarray(checksum(frames) == frames[:, body] & 15)

    def count(frames: Frames) -> Counts:
        low = frames[:, body].astype(np.int64) >> 4
        for k in range(1, tail):
            low |= frames[:, body + k].astype(np.int64) << (8 * k - 4)
        return low

    def codes(frames: Frames) -> NDArray[np.int64]:
        nibbles = np.stack((frames & 15, frames >> 4), axis=2).reshape(len(frames), -1)[:, : 3 * channels]
        packed = nibbles.reshape(len(frames), channels, 3).astype(np.int64)
        return (packed[..., 0] | packed[..., 1] << 4 | packed[..., 2] << 8)[:, ::-1]

    return Layout(
        body + tail, valid, count, codes, turn=2 ** (36 if v2 else 12), tick_us=1e6 / RATE_HZ if v2 else None,
        look_ahead=2, bridge=0, ends_with_count=True,
    )  # fmt: skip


def decoder(channels: int) -> FixedDecoder:
    """Return a decoder of API mode 2 for so many channels, from AI1 on: the format does not tell."""
    return FixedDecoder(_layout(channels, v2=False))


def decoder_v2(channels: int) -> FixedDecoder:
    """Return a decoder of API mode 14 for so many channels, from AI1 on, at 1000 Hz: the format does not tell."""
    return FixedDecoder(_layout(channels, v2=True))


def start(channels: int, mode: int = 2) -> tuple[bytes, ...]:
    """Return the commands that stop a stream, set mode and rate and start one of so many channels, from AI1 on."""
    commands = 0, mode << 4 | 3, RATE_HZ << 8 | 0x43, (2**channels - 1) << 8 | 1
    return tuple(command.to_bytes(4, "little") for command in commands)


def start_v2(channels: int) -> tuple[bytes, ...]:
    """Return the commands of `start` for API mode 14."""
    return start(channels, 14)


def encode_frames(codes: Counts, count: int, *, v2: bool = False) -> bytes:
    """Encode codes of shape (samples, channels), one frame each; `count` is the first counter, or time in µs."""
    samples, channels = codes.shape
    tail, body = (_TAIL_V2 if v2 else _TAIL), _half_bytes(channels) // 2
    nibbles = np.zeros((samples, 2 * body), np.uint8)
    packed = codes[:, ::-1, None] >> np.array([0, 4, 8]) & 15
    nibbles[:, : 3 * channels] = packed.reshape(samples, -1)
    counts = count + np.arange(samples) * (1_000_000 // RATE_HZ if v2 else 1)
    frames = np.zeros((samples, body + tail), np.uint8)
    frames[:, :body] = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
    frames[:, body:] = (counts[:, None] << 4 >> np.arange(0, 8 * tail, 8)) & 255
    frames[:, body] |= crc4_of_each(_checked(channels, tail))(frames)
    return frames.tobytes()
