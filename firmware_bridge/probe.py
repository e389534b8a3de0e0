"""Find out which board is on a port: listen, then ask, politely and in an order that no board takes amiss."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event

from firmware_bridge.boards import BOARDS, Decoder
from firmware_bridge.packets import BadFrame, Info, Samples
from firmware_bridge.port import Port, PortError

_BOOT_S = 2.5  # opening a port resets many boards
_ANSWER_S = 1.4  # some take more than a second to answer
# The zeros stop a BITalino or ScientISST; a Cyton resets at "v", so it is asked last.
_ASK_ALL = ((b"", _BOOT_S), (b"\0\0\0\0\7\0\0\0", _ANSWER_S), (b"\nWHORU\n", _ANSWER_S), (b"v", 2.0))
_STEPS: tuple[tuple[int, tuple[tuple[bytes, float], ...]], ...] = (
    (115200, _ASK_ALL),
    (230400, ((b"", _BOOT_S), (b"\nWHORU\n", _ANSWER_S))),
    (222222, ((b"", _BOOT_S),)),
    (57600, ((b"", _BOOT_S),)),
    (9600, ((b"", _BOOT_S),)),
)
# What boards say of themselves.
_NAMES = {
    b"BITalino": "bitalino",
    b"ScientISST": "scientisst",
    b"OpenBCI V3": "cyton",
    b"UNO-R4": "chords-r4",
    b"RPI-PICO": "chords-pico",
    b"NPG-LITE": "npg-lite",
    b"UNO-": "chords",
    b"GENUINO-UNO": "chords",
    b"NANO-C": "chords",
    b"MEGA-2560": "chords",
}
# How many samples a stream must hold to be believed, strictest format first.
_BELIEVED = {"cyton": 8, "olimex": 8, "knight": 8, "chords": 8, "spikershield": 300, "ascii": 8}
_LONGEST_TEXT = 4096


@dataclass(frozen=True, slots=True)
class Answer:
    """What is on a port: the name of a board, None where it is none that is known, and what was seen."""

    board: str | None
    seen: str


class Ears:
    """Bytes in, an answer out as soon as there is one."""

    def __init__(self) -> None:
        self._decoders: dict[str, Decoder] = {name: BOARDS[name].decoder(1) for name in ("unshrug", *_BELIEVED)}
        self._samples = dict.fromkeys(self._decoders, 0)
        self._damaged = dict.fromkeys(self._decoders, 0)
        self._columns = dict.fromkeys(self._decoders, 0)
        self._info: Info | None = None
        self._text = b""
        self.bytes = 0

    def feed(self, data: bytes) -> Answer | None:
        """Take what came; return what it tells, None while that is not known."""
        self.bytes += len(data)
        self._text = (self._text + data)[-_LONGEST_TEXT:]
        for name, decoder in self._decoders.items():
            for packet in decoder.feed(data):
                match packet:
                    case Samples():
                        self._samples[name] += len(packet.codes)
                        self._columns[name] = packet.codes.shape[1]
                    case BadFrame():
                        self._damaged[name] += 1
                    case Info():
                        self._info = packet
        return self._stream() or self._name()

    def _stream(self) -> Answer | None:
        if self._info is not None:  # its checksum leaves no doubt, whether or not samples come
            return Answer("unshrug", _of(self._info))
        for name, least in _BELIEVED.items():
            if self._samples[name] >= least + 10 * self._damaged[name]:
                return Answer(name, f"sends {self._columns[name]} channel(s)")
        return None

    def _name(self) -> Answer | None:
        for said, name in _NAMES.items():
            at = self._text.find(said)
            line = self._text[at : at + 40].split(b"\n")[0]
            if at >= 0 and at + len(line) < len(self._text):  # the whole line is there
                said_of_itself = "".join(chr(byte) for byte in line if 32 <= byte < 127)
                return Answer(name, f"says {said_of_itself.strip()}")
        return None


def _of(info: Info) -> str:
    return f"sends {info.channels} channel(s) at {info.rate_hz:g} Hz, {info.uv_per_count:.3g} µV a count"


def identify(device: str, stop: Event | None = None) -> Answer:
    """Open a port and find out which board is on it; a port without one takes some twenty seconds, or until `stop`."""
    came, stop = 0, stop or Event()
    for baud, steps in _STEPS:
        ears = Ears()
        port = Port(device, baud)
        try:
            for answer in _heard(port, ears, steps, stop):
                return answer
            if port.problem:
                return Answer(None, port.problem)
        finally:
            port.close()
        came += ears.bytes
    return Answer(None, f"{came} bytes of no known board" if came else "silent")


def identify_all(devices: Sequence[str]) -> list[Answer]:
    """Find out what is on each port, on all at the same time."""
    stop = Event()
    with ThreadPoolExecutor(max_workers=max(1, len(devices))) as pool:
        try:
            return list(pool.map(partial(identify, stop=stop), devices))
        finally:
            stop.set()  # Ctrl-C does not wait for those that are still asked


def choose(kind: str, devices: Sequence[str]) -> str:
    """Return the one port that has a board of this kind, or of one that talks alike.

    Raises PortError, with what answered on each port, where there is none or more than one.
    """
    answers = dict(zip(devices, identify_all(devices), strict=True))
    fitting = [device for device, answer in answers.items() if answer.board and _talks_like(answer.board, kind)]
    if len(fitting) == 1:
        return fitting[0]
    seen = "; ".join(f"{device}: {answer.board or 'no board'}, {answer.seen}" for device, answer in answers.items())
    raise PortError(f"{len(fitting)} boards of kind {kind} found; expected one, or its port with --port ({seen})")


def _talks_like(name: str, kind: str) -> bool:
    return BOARDS[name].decoder is BOARDS[kind].decoder or kind.startswith(f"{name}-")


def _heard(port: Port, ears: Ears, steps: tuple[tuple[bytes, float], ...], stop: Event) -> Iterator[Answer]:
    for question, seconds in steps:
        until = time.monotonic() + seconds
        port.write(question)
        while time.monotonic() < until and not stop.is_set():
            data = port.read()
            if port.problem:
                return
            if answer := ears.feed(data):
                yield answer
                return
