"""The boards that Unshrug can read: one line in a table each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from firmware_bridge.decoders.ascii_lines import AsciiDecoder
from firmware_bridge.decoders.framed import FramedDecoder
from firmware_bridge.packets import Packet


class Decoder(Protocol):
    """Bytes in, packets out."""

    def feed(self, data: bytes) -> list[Packet]:
        """Take any number of bytes; return the packets that they complete."""
        ...


@dataclass(frozen=True, slots=True)
class Board:
    """How a board talks and what its numbers mean; None where the wearer's settings must say it.

    `start` is sent until samples come and must be safe to repeat. A board with `describes_itself` sends its rate,
    channels and scale. `counter` is how far its counter goes before it starts again at 0, and `clock_us` its clock.
    `codes` are the lowest and the highest, where they do not follow from `adc_bits`.
    """

    name: str
    title: str
    decoder: Callable[[], Decoder]
    baud: int = 115200
    rate_hz: float | None = None
    uv_per_count: float | None = None
    adc_bits: int | None = None
    codes: tuple[float, float] | None = None
    start: bytes = b""
    stop: bytes = b""
    describes_itself: bool = False
    counter: int = 2**16
    clock_us: int = 2**32


BOARDS = {
    board.name: board
    for board in (
        Board(
            "unshrug", "Unshrug's own firmware (framed, checked, counted)", FramedDecoder,
            start=b"vb", stop=b"s", describes_itself=True,
        ),
        Board("ascii", "any sketch that prints lines of numbers", AsciiDecoder),
        Board(
            "myoware2-5v", "MyoWare 2.0, RAW pin on a 10-bit 5 V Arduino, printed as lines", AsciiDecoder,
            uv_per_count=5e6 / 1024 / 200, adc_bits=10,
        ),
        Board(
            "myoware2-3v3", "MyoWare 2.0, RAW pin on a 12-bit 3.3 V board, printed as lines", AsciiDecoder,
            uv_per_count=3.3e6 / 4096 / 200, adc_bits=12,
        ),
    )
}  # fmt: skip

# USB vendor and product ids of the boards and serial adapters that such boards come with.
USB_IDS: dict[tuple[int, int], str] = {
    (0x2341, 0x0043): "Arduino Uno R3",
    (0x2A03, 0x0043): "Arduino Uno R3",
    (0x2341, 0x0042): "Arduino Mega 2560",
    (0x2341, 0x0069): "Arduino Uno R4 Minima",
    (0x2341, 0x1002): "Arduino Uno R4 WiFi",
    (0x2341, 0x0266): "Arduino GIGA R1",
    (0x2E8A, 0x00C0): "Raspberry Pi Pico",
    (0x1A86, 0x7523): "CH340 adapter",
    (0x0483, 0x5740): "STM32 board",
    (0x303A, 0x1001): "ESP32-S3 or -C6",
    (0x0403, 0x6001): "FTDI adapter",
    (0x0403, 0x6015): "FTDI adapter",
    (0x10C4, 0xEA60): "CP210x adapter",
}
