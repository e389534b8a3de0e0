"""What several of these tests need: ways to cut a stream, to compare packets, and a cable to a board."""

import contextlib
import itertools
import os
import pickle
import time
import tty
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firmware_bridge.blocks import SampleBlock
from firmware_bridge.decoders.framed import encode_data, encode_info
from firmware_bridge.packets import Info, Packet, Samples
from firmware_bridge.port import Port
from firmware_bridge.recordings import ReadOptions, RecordingError, open_recording

Array = NDArray[np.float64]

INFO = Info(2, 1000.0, 16, 3300, 1000.0, "raw", boot_id=7, overruns=0, dropped=0)

# The same examples in every run: a checksum of 16 bits lets one damaged frame in 65536 pass.
steady = settings(derandomize=True, deadline=None, max_examples=150)

cuts = st.lists(st.integers(0, 2000), max_size=12)


class Decoder(Protocol):
    def feed(self, data: bytes) -> list[Packet]: ...


def pieces_of(data: bytes, at: Iterable[int]) -> list[bytes]:
    """Cut data at these places, wherever they fall; some pieces may be empty."""
    edges = [0, *sorted(min(a, len(data)) for a in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def bytes_of(data: bytes) -> list[bytes]:
    """Cut data into single bytes."""
    return [data[k : k + 1] for k in range(len(data))]


def fed(decoder: Decoder, pieces: Iterable[bytes]) -> list[Packet]:
    return [packet for piece in pieces for packet in decoder.feed(piece)]


def samples_in(packets: Iterable[Packet]) -> list[Samples]:
    return [packet for packet in packets if isinstance(packet, Samples)]


def in_full(packets: Iterable[Packet]) -> list[object]:
    """Say everything about packets in values that compare; NaN equals NaN, and -0 is not 0."""
    return [
        (p.seq, p.device_us, p.labels, p.codes.shape, p.codes.tobytes()) if isinstance(p, Samples) else p
        for p in packets
    ]


def line_by_line(packets: Iterable[Packet]) -> list[object]:
    """Say everything about packets, however many samples each of them holds."""
    return in_full(
        one
        for packet in packets
        for one in (
            [replace(packet, codes=packet.codes[k : k + 1]) for k in range(len(packet.codes))]
            if isinstance(packet, Samples)
            else [packet]
        )
    )


def singly(packet: Samples) -> list[Packet]:
    """Take a packet apart into one for each sample; a counter of samples goes on with them."""
    each = packet.steps // len(packet.codes)
    seqs = [None if packet.seq is None else packet.seq + each * k for k in range(len(packet.codes))]
    return [replace(packet, codes=packet.codes[k : k + 1], seq=seq) for k, seq in enumerate(seqs)]


def memory_of(decoder: object) -> int:
    """Return how many bytes of data a decoder, with the decoders inside it, remembers."""
    kept = vars(decoder).values()
    inside = [value for value in kept if hasattr(value, "feed")]
    own = [value for value in kept if not hasattr(value, "feed") and not hasattr(value, "valid")]
    return len(pickle.dumps(own)) + sum(map(memory_of, inside))


def codes_of(frames: int, samples: int = 8, channels: int = 2, seed: int = 0) -> list[NDArray[np.int16]]:
    """Return random codes, the smallest, the largest and zero among them."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-(2**15), 2**15, (frames, samples, channels), dtype=np.int16)
    codes[rng.random(codes.shape) < 0.2] = 0
    return list(codes)


def framed(frames: int, *, first_seq: int = 0, info: Info | None = INFO, seed: int = 0) -> list[bytes]:
    """Return what a board sends: its description if it has one, then frames of 8 samples of 2 channels at 1 kHz."""
    data = [
        encode_data(codes, first_seq + k, (first_seq + k) * 8000) for k, codes in enumerate(codes_of(frames, seed=seed))
    ]
    return [encode_info(info, 8), *data] if info else data


def joined(blocks: Sequence[SampleBlock]) -> Array:
    """Lay blocks out in time, NaN where there are none; blocks never overlap."""
    if not blocks:
        return np.empty((0, 0))
    out = np.full((blocks[-1].end, blocks[-1].values.shape[1]), np.nan)
    end = 0
    for block in blocks:
        assert block.start >= end
        out[block.start : block.end] = block.values
        end = block.end
    return out


def values_of(path: Path, **options: Any) -> Array:
    return joined(list(open_recording(path, ReadOptions(**options)).blocks()))


def error_of(path: Path, **options: Any) -> str:
    with pytest.raises(RecordingError) as error:
        values_of(path, **options)
    return str(error.value).removeprefix(f"{path}: ")


def read_until(port: Port, enough: Callable[[bytes], bool], seconds: float = 5.0) -> bytes:
    """Read until there is enough; fail when it does not come."""
    data = b""
    until = time.monotonic() + seconds
    while not enough(data):
        assert time.monotonic() < until, f"{port.problem=}, {len(data)} bytes came: {data[:80]!r}"
        data += port.read()
    return data


class Cable:
    """A pseudo-terminal whose other end the test holds; it takes 4000 bytes that nobody reads for sure."""

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)

    @property
    def master(self) -> int:
        """The board's end."""
        return self._master

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._master, data) :]

    def received(self, n: int) -> bytes:
        return os.read(self._master, n)

    def unplug(self) -> None:
        for fd in (self._master, self._slave):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._master = self._slave = -1


@contextlib.contextmanager
def cable() -> Iterator[Cable]:
    made = Cable()
    try:
        yield made
    finally:
        made.unplug()


def arrivals(
    seconds: float,
    packet_s: float,
    drift: float = 0.0,
    poll_s: float = 0.0,
    stalls: tuple[float, float] = (0.01, 0.1),
    seed: int = 0,
) -> Array:
    """Return when packets arrive: after 1 ms or so, at the adapter's next poll, and after stalls of the reader.

    A packet is complete at its number, from 1, times `packet_s` of a clock that is slow by `drift`. There are three
    stalls a minute, of any length between the two given ones, and what waited comes at their end.
    """
    rng = np.random.default_rng(seed)
    n = round(seconds / packet_s)
    at_s = np.arange(1, n + 1) * packet_s * (1 + drift) + rng.exponential(0.001, n)
    if poll_s:
        at_s = np.ceil(at_s / poll_s) * poll_s + rng.exponential(0.0001, n)
    begins = rng.uniform(0, seconds, rng.poisson(seconds / 20))
    for begin_s, length_s in zip(begins, rng.uniform(*stalls, len(begins)), strict=True):
        at_s[(at_s >= begin_s) & (at_s < begin_s + length_s)] = begin_s + length_s
    return np.asarray(np.maximum.accumulate(at_s))
