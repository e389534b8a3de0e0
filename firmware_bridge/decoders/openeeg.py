"""OpenEEG's packet P2, which Olimex' SHIELD-EKG-EMG sends too: six channels of 10 bits.

    A5 5A | 02 | counter u8 | u16 big endian x 6 | switches

After a reset some firmware sends a second of packets whose counter stands still; they hold no samples.
"""

import numpy as np

from firmware_bridge.decoders.fixed import Counts, FixedDecoder, Frames, Layout, Mask, big_endian, counter_at, encode

CHANNELS = 6
_SYNC = b"\xa5\x5a\x02"


def _valid(frames: Frames) -> Mask:
    return np.asarray((frames[:, :3] == np.frombuffer(_SYNC, np.uint8)).all(axis=1))


_LAYOUT = Layout(17, _valid, counter_at(3), lambda frames: big_endian(frames, 4, CHANNELS, 2, signed=False), turn=256)


def decoder() -> FixedDecoder:
    """Return a decoder."""
    return FixedDecoder(_LAYOUT)


def encode_frames(codes: Counts, counter: int) -> bytes:
    """Encode codes of shape (samples, 6), one packet each; the counter goes on from `counter`."""
    return encode(_SYNC, codes.astype(">u2"), b"\x01", counter)
