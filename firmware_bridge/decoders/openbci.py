"""OpenBCI Cyton: eight channels of 24 bits at 250 Hz.

    A0 | counter u8 | i24 big endian x 8 | 6 bytes beside | C0 ... C6

The bytes beside hold acceleration, pins or time, as the last byte says; they are not used.
"""

import numpy as np

from firmware_bridge.decoders.fixed import Counts, FixedDecoder, Frames, Layout, Mask, big_endian, counter_at, encode

CHANNELS = 8
_START, _END = 0xA0, (0xC0, 0xC6)


def _valid(frames: Frames) -> Mask:
    return np.asarray((frames[:, 0] == _START) & (frames[:, -1] >= _END[0]) & (frames[:, -1] <= _END[1]))


_LAYOUT = Layout(33, _valid, counter_at(1), lambda frames: big_endian(frames, 2, CHANNELS, 3, signed=True), turn=256)


def decoder() -> FixedDecoder:
    """Return a decoder."""
    return FixedDecoder(_LAYOUT)


def encode_frames(codes: Counts, counter: int) -> bytes:
    """Encode codes of shape (samples, 8), one frame each; the counter goes on from `counter`."""
    numbers = codes.astype(">i4").reshape(-1, CHANNELS, 1).view(np.uint8)[..., 1:]
    return encode(bytes([_START]), numbers, bytes(6) + bytes([_END[0]]), counter)
