"""A captured byte stream as a table: every sample with the board's own counter, and what was lost."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from firmware_bridge.boards import Board, Decoder
from firmware_bridge.packets import BadFrame, Info, Packet, Samples

_SHORT = 128
_MOST_WAITING = 1_000_000  # samples that are kept for a board that has not described itself yet


class DecodingError(Exception):
    """A stream that cannot be decoded as asked; the message says what was wrong and what was expected."""


@dataclass(slots=True)
class Tally:
    """What a stream held: samples, and what is known to be missing or broken."""

    bytes: int = 0
    samples: int = 0
    channels: tuple[str, ...] = ()
    lost: int = 0
    damaged: int = 0
    restarts: int = 0

    def __str__(self) -> str:
        what = f"{len(self.channels)} channel{'s' if len(self.channels) != 1 else ''}"
        again = f", {self.restarts} times the counter went back" if self.restarts else ""
        return f"{self.samples} samples of {what}; {self.lost} lost, {self.damaged} damaged places{again}"


def decode_stream(
    chunks: Iterable[bytes],
    board: Board,
    write: Callable[[str], object],
    *,
    channels: int = 0,
    in_uv: bool = False,
) -> Tally:
    """Write every sample of a stream as CSV, with the board's counter and clock where it has them.

    `channels` is how many the format does not tell; with `in_uv` counts become µV by the board's scale.
    Raises DecodingError for a stream without samples, or of another number of channels, or without a scale.
    """
    table = _Table(board, write, channels, in_uv=in_uv)
    for packet in _packets(chunks, board.decoder(channels), table.tally):
        table.take(packet)
    table.finish()
    return table.tally


def _packets(chunks: Iterable[bytes], decoder: Decoder, tally: Tally) -> Iterator[Packet]:
    for chunk in chunks:
        tally.bytes += len(chunk)
        yield from decoder.feed(chunk)
    yield from decoder.end()


def plain(text: str) -> str:
    """Return what a terminal can show: a stream may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class _Table:
    def __init__(self, board: Board, write: Callable[[str], object], channels: int, *, in_uv: bool) -> None:
        self.tally = Tally()
        self._board = board
        self._write = write
        self._channels = channels
        self._in_uv = in_uv
        self._scale = board.uv_per_count if in_uv else 1.0
        self._asks = self._scale is None and board.describes_itself  # a scale that is given holds throughout
        if self._scale is None and not self._asks:
            raise DecodingError(f"the scale of {board.name} is not known; expected --uv-per-count X")
        self._waiting: list[Samples] = []
        self._waits = 0
        self._next: int | None = None  # the count that should come

    def take(self, packet: Packet) -> None:
        """Write what a packet holds."""
        match packet:
            case BadFrame():
                self.tally.damaged += 1
                self.tally.lost += packet.samples
            case Info():
                if self._asks and self._scale not in (None, packet.uv_per_count):
                    raise DecodingError("the board changes its scale on the way; expected --uv-per-count X or counts")
                self._scale = packet.uv_per_count if self._asks else self._scale
            case Samples():
                self._waiting.append(packet)
                self._waits += len(packet.codes)
        if self._scale is not None or self._waits > _MOST_WAITING:
            self._write_out()

    def finish(self) -> None:
        """Write what still waits, and see that there was anything."""
        self._write_out()
        if not self.tally.samples:
            raise DecodingError(
                f"no samples in {self.tally.bytes} bytes; expected what a board of kind {self._board.name} sends"
            )

    def _write_out(self) -> None:
        waiting, self._waiting, self._waits = self._waiting, [], 0
        for packet in waiting:
            if self._scale is None:
                raise DecodingError(f"the scale of {self._board.name} is not known; expected --uv-per-count X")
            self._count(packet)
            self._rows(packet, self._scale)

    def _count(self, packet: Samples) -> None:
        """Count what is missing before a packet; a long counter that goes back has started anew, or repeats itself.

        Of a short one nobody can say that without a clock: it counts as loss.
        """
        if packet.seq is not None:
            missing = 0 if self._next is None else (packet.seq - self._next) % self._board.counter
            self._next = (packet.seq + packet.steps) % self._board.counter
            back = missing > self._board.counter // 2 > _SHORT
            lost = missing * len(packet.codes) // packet.steps
        elif packet.times_us is not None and self._board.rate_hz:
            step_us = 1e6 / self._board.rate_hz
            passed = step_us if self._next is None else (int(packet.times_us[0]) - self._next) % self._board.clock_us
            self._next = int(packet.times_us[-1])
            back = passed > self._board.clock_us // 2
            lost = max(0, round(passed / step_us) - 1)
        else:
            return
        self.tally.lost += 0 if back else lost
        self.tally.restarts += back

    def _rows(self, packet: Samples, scale: float) -> None:
        n = packet.codes.shape[1]
        if self._channels and n != self._channels:
            raise DecodingError(f"the stream has {n} channels; expected {self._channels} (--channels)")
        labels = packet.labels or ("",) * n
        names = tuple(plain(label) or f"{self._board.label}{k + 1}" for k, label in enumerate(labels))
        beside = self._beside(packet)
        if names != self.tally.channels:
            self.tally.channels = names
            self._write(",".join((*beside, *(name.replace(",", " ") for name in names))) + "\n")
        steps = self._board.steps[:n] if self._in_uv else ()
        values = packet.codes * (np.array(steps or 1) * scale)
        self.tally.samples += len(values)
        line = "%s," * len(beside) + ("%.10g," * n)[:-1] + "\n"
        rows = zip(*beside.values(), *values.T.tolist(), strict=True)
        self._write("".join(map(line.__mod__, rows)))

    def _beside(self, packet: Samples) -> dict[str, list[object]]:
        """Return the columns of the board's counter and of its clock, where it has them."""
        n, columns = len(packet.codes), dict[str, list[object]]()
        if packet.seq is not None:
            each = packet.steps // n  # none where it counts packets
            columns["seq"] = [(packet.seq + each * k) % self._board.counter for k in range(n)]
        if packet.times_us is not None:
            columns["t_us"] = packet.times_us.tolist()
        elif packet.device_us is not None:
            columns["t_us"] = [packet.device_us, *[""] * (n - 1)]
        return columns
