"""From bytes to blocks: decoder, timeline and scale put together, and what state the board is in."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.boards import Board
from firmware_bridge.packets import BadFrame, Info, Samples
from firmware_bridge.timeline import Timeline

SILENT_AFTER_S = 2.0
BOOT_S = 5.0  # opening the port resets many boards, and some want more than one command
WAITING = "waiting for the board"
_LISTEN_S = 0.3  # a board that sends by itself is not disturbed
_STEP_S = 0.25  # between the commands that start a board
_AGAIN_S = 1.6  # after all of them: a board may need more than a second to answer
UNUSED = "-"
_RATE_TOLERANCE = 0.20
_RATE_NOTE = 0.01


@dataclass(frozen=True, slots=True)
class Counts:
    """What came since the start: samples that did, did not, or came twice, and pieces that were damaged.

    `restarts` counts how often the board or the link started anew. `overruns` (samples that the board was too slow for)
    and `dropped` (packets that it could not send) are the board's own count since it was switched on, 0 where it has
    none. `measured_hz` is the true rate, None until three seconds were seen.
    """

    samples: int = 0
    lost: int = 0
    repeated: int = 0
    damaged: int = 0
    restarts: int = 0
    overruns: int = 0
    dropped: int = 0
    measured_hz: float | None = None

    @property
    def lost_pct(self) -> float:
        """Lost samples in % of those that should have come."""
        return 100 * self.lost / max(1, self.samples + self.lost)


class Bridge:
    """Turn a board's bytes into blocks. Sans I/O: the time comes with the bytes.

    `channels` names the columns, "-" one that is not used; without it they are called ch1, ch2 ... or as the board
    labels them. Without `check_rate` the samples may come faster or slower than the host's clock says, as from
    a recording.
    """

    def __init__(self, board: Board, channels: tuple[str, ...] = (), *, check_rate: bool = True) -> None:
        self.check_rate = check_rate
        self.board = board
        self._samples = 0
        self._damaged = 0
        self.signal: Signal | None = None
        self._names = channels
        self._info: Info | None = None
        self._timeline = Timeline(board.rate_hz or 0.0, board.counter, board.clock_us, live=check_rate)
        self._kind_problem: str | None = None
        self._shape_problem: str | None = None
        self._rate_problem: str | None = None
        self._rate_note: str | None = None
        self._connect(0.0)

    def _connect(self, now_s: float) -> None:
        self._decoder = self.board.decoder(len(self._names) or 1)
        self._timeline.restart()
        self._since_s = now_s
        self._bytes_since = 0
        self._last_block_s: float | None = None
        self._to_send: list[bytes] = []
        self._send_at_s = now_s + _LISTEN_S

    def connected(self, now_s: float) -> None:
        """Note that the port was opened, again perhaps."""
        self._connect(now_s)

    def command(self, now_s: float) -> bytes:
        """Return what to send to the board now: its start commands in turn, again and again until samples come."""
        if self._last_block_s is not None or now_s < self._send_at_s:
            return b""
        self._to_send = self._to_send or list(self.board.start(len(self._names) or 1))
        if not self._to_send:
            return b""
        command = self._to_send.pop(0)
        self._send_at_s = now_s + (_STEP_S if self._to_send else _AGAIN_S)
        return command

    def feed(self, data: bytes, now_s: float) -> list[SampleBlock]:
        """Take the bytes that came until `now_s` (monotonic); return the blocks that they complete."""
        self._bytes_since += len(data)
        blocks: list[SampleBlock] = []
        for packet in self._decoder.feed(data) if data else []:
            match packet:
                case Samples():
                    blocks += self._place(packet, now_s)
                case Info():
                    self._learn(packet)
                case BadFrame():
                    self._damaged += 1
                    if self.signal is not None:
                        self._timeline.lose(packet.samples)
        return blocks

    @property
    def counts(self) -> Counts:
        """What came since the start."""
        told = (self._info.overruns, self._info.dropped) if self._info else (0, 0)
        line = self._timeline
        return Counts(
            self._samples, line.lost, line.repeated, self._damaged, line.restarts, *told, measured_hz=line.measured_hz
        )

    @property
    def restarts(self) -> int:
        """How often the board or the link started anew: what was known of its clock may not hold any more."""
        return self._timeline.restarts

    @property
    def rate_known(self) -> bool:
        """Whether the rate could be compared with the host's clock, which takes three seconds, or need not be."""
        return not self.check_rate or self._timeline.measured_hz is not None

    def notes(self) -> list[str]:
        """Say in a few words what the wearer should know though samples are good; in the same words each time."""
        measured, nominal = self._timeline.measured_hz, self._timeline.rate_hz
        off = abs(measured / nominal - 1) if measured and self._timeline.settled else 0.0
        if self._rate_note is None and _RATE_NOTE < off <= _RATE_TOLERANCE:
            self._rate_note = f"the board sends {measured:.4g} samples/s, not {nominal:g}: times follow what it sends"
        notes = [self._rate_note] if self._rate_note else []
        if self._info and self._info.overruns:
            notes.append("the board is too slow for its rate: it says that it missed samples")
        if self._info and self._info.dropped:
            notes.append("the board could not send all its packets: what is missing is a gap")
        return notes

    def problem(self, now_s: float) -> str | None:
        """Say in a few words what is wrong with the stream, None while it is well."""
        if self._last_block_s is None and now_s - self._since_s < BOOT_S:
            return WAITING
        if self.stale_s(now_s) >= SILENT_AFTER_S:
            if self._last_block_s is None and self._bytes_since:
                return f"what comes is not from a board of kind {self.board.name!r}, or not at {self.board.baud} baud"
            return "the board is silent"
        if self._kind_problem or self._shape_problem:
            return self._kind_problem or self._shape_problem
        if not self.check_rate:
            return None
        return self._rate()

    def _rate(self) -> str | None:
        """Say that the rate is wrong, in the same words for as long as it is: each change is a line in the log."""
        measured, nominal = self._timeline.measured_hz, self._timeline.rate_hz
        if measured is None or abs(measured / nominal - 1) <= _RATE_TOLERANCE:
            self._rate_problem = None
        elif self._rate_problem is None:
            about = float(f"{measured:.2g}")
            self._rate_problem = f"the board sends about {about:g} samples/s; expected {nominal:g} (board.rate_hz)"
        return self._rate_problem

    def stale_s(self, now_s: float) -> float:
        """Return for how long no sample has come."""
        return now_s - (self._since_s if self._last_block_s is None else self._last_block_s)

    def _learn(self, info: Info) -> None:
        self._kind_problem = None if info.kind == "raw" else f"the board sends {info.kind} EMG; expected raw EMG"
        if self._info is not None and info.boot_id != self._info.boot_id:
            self._timeline.restart()
        self._info = info
        if info.rate_hz != self._timeline.rate_hz:
            self._timeline.change_rate(info.rate_hz)
        board = replace(self.board, rate_hz=info.rate_hz, uv_per_count=info.uv_per_count, adc_bits=info.adc_bits)
        if board != self.board:
            self.board, self.signal = board, None

    def _place(self, packet: Samples, now_s: float) -> list[SampleBlock]:
        if self.board.rate_hz is None:
            return []  # a board that describes itself has not done so yet
        columns = packet.codes.shape[1]
        rate_hz = self.board.rate_hz / (columns if self.board.shares_rate else 1)
        if rate_hz != self._timeline.rate_hz:
            self._timeline.change_rate(rate_hz)
            self.signal = None
        self._last_block_s = now_s
        wanted = f"{len(self._names)}: {', '.join(self._names)}"
        spare = columns - len(self._names) if self._names else 0
        fits = spare == 0 or (spare > 0 and self.board.has_spare)
        self._shape_problem = None if fits else f"the board sends {columns} channels; expected {wanted}"
        if self._kind_problem or self._shape_problem:
            self._timeline.discard(packet, now_s)
            return []
        start = self._timeline.place(packet, now_s)
        if start is None:
            return []
        codes = packet.codes[len(packet.codes) - (self._timeline.next - start) :]  # the rest came before
        self._samples += len(codes)
        used = [k for k, name in enumerate(self._names or ("",) * columns) if name != UNUSED]
        signal = self._signal(packet, used)
        return [SampleBlock(signal, start, scaled(codes[:, used], self.board.uv_per_count))]

    def _signal(self, packet: Samples, used: list[int]) -> Signal:
        names = self._names or tuple(
            label or f"ch{k + 1}" for k, label in enumerate(packet.labels or ("",) * len(used))
        )
        names = tuple(names[k] for k in used)
        if self.signal is None or self.signal.channels != names:
            codes = self._info.codes if self._info else None
            self.signal = signal_of(replace(self.board, rate_hz=self._timeline.rate_hz), names, codes)
        return self.signal


def signal_of(board: Board, names: tuple[str, ...], codes: tuple[float, float] | None = None) -> Signal:
    """Describe what such a board sends; `codes` are its lowest and highest, else they follow from its ADC's bits."""
    scale = board.uv_per_count
    codes = codes or board.codes
    if codes is None and board.adc_bits is not None:
        codes = 0, 2**board.adc_bits - 1
    rails = (codes[0] * scale, codes[1] * scale) if codes and scale else None
    return Signal(board.rate_hz or 0.0, names, scale, rails)


def scaled(codes: NDArray[np.float64], uv_per_count: float | None) -> NDArray[np.float64]:
    """Return codes as µV; values that are µV already have no scale."""
    return codes if uv_per_count is None else codes * uv_per_count
