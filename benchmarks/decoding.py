"""How fast every decoder is, beside the vendors' own packages where they can be fed: writes docs/decoders.md."""

import contextlib
import importlib
import importlib.util
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from firmware_bridge.boards import BOARDS
from firmware_bridge.packets import Samples
from tests.bridge.streams import KINDS, Kind

_SAMPLES = 200_000  # of all channels together
_PEER_FRAMES = 10_000  # these take long
_ROUNDS = 7
_GOALS = {"ascii": 3.0}  # million samples/s; others 1
_READ = 4096  # bytes at a time, as from a busy port
_LIVE = 64  # and as from one that is read every 5 ms


class Wire:
    """What the vendors' packages read from, in place of a serial port."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self._size = len(data)

    @property
    def in_waiting(self) -> int:
        return min(_READ, self._size - self._data.tell())

    inWaiting = property(lambda self: lambda: self.in_waiting)  # noqa: N815

    def read(self, n: int) -> bytes:
        return self._data.read(n)


def _file_of(package: str, name: str) -> Any:
    """Import one file of a package whose other files want a screen."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(package)
    spec = importlib.util.spec_from_file_location(name[:-3], Path(found.submodule_search_locations[0], name))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chordspy(frames: list[bytes], channels: int) -> Callable[[], None] | None:
    with contextlib.suppress(ImportError):
        library: Any = _file_of("chordspy", "chords_serial.py")
        data = b"".join(frames)

        def run() -> None:
            peer = library.Chords_USB.__new__(library.Chords_USB)
            peer.ser, peer.buffer = Wire(data), bytearray()
            peer.num_channels, peer.packet_length = channels, 2 * channels + 4
            peer.data = np.zeros((channels, 2000))
            while peer.ser.in_waiting:
                peer.read_data()

        return run
    return None


def bitalino(frames: list[bytes], channels: int) -> Callable[[], None] | None:
    with contextlib.suppress(ImportError):
        library: Any = importlib.import_module("bitalino")
        data = b"".join(frames)

        def run() -> None:
            peer = library.BITalino.__new__(library.BITalino)
            peer.started, peer.serial, peer.blocking, peer.isPython2 = True, True, True, False
            peer.analogChannels, peer.socket = list(range(channels)), Wire(data)
            peer.read(len(frames))

        return run
    return None


PEERS = {"chords": ("chordspy 0.2.2", chordspy), "bitalino": ("bitalino 1.2.6", bitalino)}


def stream(kind: Kind, frames: int) -> list[bytes]:
    """Return frames with what an ADC of a resting muscle gives."""
    rng = np.random.default_rng(1)
    low, high = kind.codes
    spread = min(40.0, (high - low) / 16)
    codes = np.clip(rng.normal((low + high) / 2, spread, (frames * kind.per_frame, kind.channels)), low, high)
    whole = codes.astype(np.int64).reshape(frames, kind.per_frame, kind.channels)
    return [kind.encode(c, k) for k, c in enumerate(whole)]


def decoded(kind: Kind, data: bytes, piece: int) -> int:
    decoder = kind.decoder()
    packets = [packet for at in range(0, len(data), piece) for packet in decoder.feed(data[at : at + piece])]
    return sum(packet.codes.size for packet in packets if isinstance(packet, Samples))


def rate(run: Callable[[], object], samples: int) -> float:
    """Million samples per second of CPU time."""
    began = time.process_time()
    run()
    return samples / (time.process_time() - began) / 1e6


def row(kind: Kind) -> str:
    """Time a decoder, and its peer right after it in each round."""
    frames = stream(kind, _SAMPLES // kind.channels // kind.per_frame)
    data = b"".join(frames)
    name, make = PEERS.get(kind.board, ("", None))
    few = frames[:_PEER_FRAMES]
    peer = make(few, kind.channels) if make else None
    part = data[: len(data) // 8]
    in_all, in_part = decoded(kind, data, _READ), decoded(kind, part, _LIVE)
    bulk, live, theirs = [], [], []
    for _ in range(_ROUNDS):
        bulk.append(rate(lambda: decoded(kind, data, _READ), in_all))
        live.append(rate(lambda: decoded(kind, part, _LIVE), in_part))
        if peer:
            theirs.append(rate(peer, len(few) * kind.channels))
    mine = max(bulk)
    goal = _GOALS.get(kind.board, 1.0)
    ratio = f"{np.median(np.divide(bulk, theirs)):.0f} x {name}" if theirs else "-"
    verdict = "met" if mine >= goal else "not met"
    return f"| {kind.board} | {kind.channels} | {mine:.2f} | {max(live):.2f} | {goal:.0f}: {verdict} | {ratio} |"


def main() -> None:
    kinds = {(kind.board, kind.channels): kind for kind in KINDS}
    chosen = [kinds[key] for key in kinds if key[0] in BOARDS]
    about = (
        "Million samples per second of CPU time, all channels counted; the best of "
        f"{_ROUNDS} rounds, and the median ratio to the vendor's own package right after ours, where one can be fed "
        f"(`make bench`). Bulk is read by {_READ} bytes, live by {_LIVE}, as a port is. A board of two channels "
        "at 1 kHz sends 0.002 million."
    )
    lines = [
        "# How fast the decoders are",
        "",
        about,
        "",
        "| board | channels | bulk | live | goal | as fast as |",
        "| --- | --- | --- | --- | --- | --- |",
        *map(row, chosen),
    ]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if "--write" in sys.argv:
        Path(__file__).parent.with_name("docs").joinpath("decoders.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
