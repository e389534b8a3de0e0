"""NeuroPawn Knight: eight channels of 16 bits at 125 Hz.

A0 | counter u8 | i16 big endian x 8 | loose electrodes + | loose electrodes - | C0
"""

import numpy as np

from firmware_bridge.decoders.fixed import Counts, FixedDecoder, Frames, Layout, Mask, big_endian, counter_at, encode

CHANNELS = 8
_START, _END = 0xA0, 0xC0


def _valid(frames: Frames) -> Mask:
    return np.asarray((frames[:, 0] == _START) & (frames[:, -1] == _END))


_LAYOUT = Layout(21, _valid, counter_at(1), lambda frames: big_endian(frames, 2, CHANNELS, 2, signed=True), turn=256)


def decoder() -> FixedDecoder:
    """Return a decoder."""
    return FixedDecoder(_LAYOUT)


def encode_frames(codes: Counts, counter: int) -> bytes:
    """Encode codes of shape (samples, 8), one frame each; the counter goes on from `counter`."""
    return encode(bytes([_START]), codes.astype(">i2"), bytes([0, 0, _END]), counter)
