"""BITalino (r)evolution: as few bytes as the channels need, bits packed from the last byte on.

    r0  counter u4 | crc u4              r4  A3[9:2]
    r1  I1 I2 O1 O2 | A1[9:6]            r5  A3[1:0] | A4[9:4]
    r2  A1[5:0] | A2[9:8]                r6  A4[3:0] | A5[5:2]
    r3  A2[7:0]                          r7  A5[1:0] | A6[5:0]

r0 is the last byte of a frame; 1 to 6 channels take 3, 4, 6, 7, 8, 8 bytes. A5 and A6 have the upper 6 of 10 bits.
The checksum covers every half-byte but its own. It lets one wrong place in sixteen pass, so three frames must agree.
"""

from functools import cache

import numpy as np

from firmware_bridge.decoders.fixed import Counts, FixedDecoder, Frames, Layout, Mask
from firmware_bridge.framing import crc4_of_each

_LENGTHS = (3, 4, 6, 7, 8, 8)
MOST_CHANNELS = len(_LENGTHS)


@cache
def _layout(channels: int) -> Layout:
    length = _LENGTHS[channels - 1]
    checksum = crc4_of_each(tuple(range(2 * length - 1)))

    def valid(frames: Frames) -> Mask:
        return np.asarray(checksum(frames) == frames[:, -1] & 15)

    def count(frames: Frames) -> Counts:
        return frames[:, -1].astype(np.int64) >> 4

    return Layout(
        length, valid, count, lambda frames: _codes(frames)[:, :channels], turn=16,
        look_ahead=2, bridge=0, ends_with_count=True,
    )  # fmt: skip


def _codes(frames: Frames) -> Counts:
    r = np.zeros((8, len(frames)), np.int64)
    r[: frames.shape[1]] = frames.T[::-1]
    return np.stack(
        (
            (r[1] & 15) << 6 | r[2] >> 2,
            (r[2] & 3) << 8 | r[3],
            r[4] << 2 | r[5] >> 6,
            (r[5] & 63) << 4 | r[6] >> 4,
            (r[6] & 15) << 2 | r[7] >> 6,
            r[7] & 63,
        ),
        axis=1,
    )


def decoder(channels: int) -> FixedDecoder:
    """Return a decoder for so many channels, from A1 on: the format does not tell."""
    return FixedDecoder(_layout(channels))


def start(channels: int) -> tuple[bytes, ...]:
    """Return the commands that stop a stream, set 1000 Hz and start one of so many channels, from A1 on."""
    return b"\x00", b"\xc3", bytes([(2**channels - 1) << 2 | 1])


def encode_frames(codes: Counts, counter: int) -> bytes:
    """Encode codes of shape (samples, channels), one frame each; the counter goes on from `counter`."""
    samples, channels = codes.shape
    a = np.zeros((6, samples), np.int64)
    a[:channels] = codes.T
    r = np.stack(
        (
            (counter + np.arange(samples)) % 16 << 4,
            a[0] >> 6,
            (a[0] & 63) << 2 | a[1] >> 8,
            a[1] & 255,
            a[2] >> 2,
            (a[2] & 3) << 6 | a[3] >> 4,
            (a[3] & 15) << 4 | a[4] >> 2,
            (a[4] & 3) << 6 | a[5],
        ),
        axis=1,
    ).astype(np.uint8)
    length = _LENGTHS[channels - 1]
    frames = np.ascontiguousarray(r[:, :length][:, ::-1])
    frames[:, -1] |= crc4_of_each(tuple(range(2 * length - 1)))(frames)
    return frames.tobytes()
