"""The boards that Unshrug can read: one line in a table each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from firmware_bridge.decoders import bitalino, knight, openbci, openeeg, scientisst
from firmware_bridge.decoders.ascii_lines import AsciiDecoder
from firmware_bridge.decoders.chords import ChordsDecoder
from firmware_bridge.decoders.framed import FramedDecoder
from firmware_bridge.decoders.spikershield import SpikerShieldDecoder
from firmware_bridge.packets import Packet


class Decoder(Protocol):
    """Bytes in, packets out."""

    def feed(self, data: bytes) -> list[Packet]:
        """Take any number of bytes; return the packets that they complete."""
        ...

    def end(self) -> list[Packet]:
        """Take note that nothing more will come; return what has waited for more."""
        ...


def _tells(make: Callable[[], Decoder]) -> Callable[[int], Decoder]:
    """Make a decoder of a format that tells its channels itself."""
    return lambda _: make()


def sends(*commands: bytes) -> Callable[[int], tuple[bytes, ...]]:
    """Start with the same commands however many channels there are."""
    return lambda _: commands


_NOTHING = sends()


@dataclass(frozen=True, slots=True)
class Board:
    """How a board talks and what its numbers mean; None where the wearer's settings must say it.

    `decoder` and `start` take the number of channels. The start commands are sent one after the other until samples
    come, and again if none do. A board with `describes_itself` sends its rate, channels and scale.

    `most_channels` is set where the format does not tell how many channels there are, `has_spare` where the board
    sends all its inputs, used or not. `codes` are the lowest and the highest, where they do not follow from
    `adc_bits`; `steps` says how many counts a step of each input is, where not one. With `shares_rate` the channels
    take turns. `counter` is how far its counter goes before it starts again at 0, and `clock_us` its clock. `label`
    is what the board calls its inputs, and `note` what it cannot give.
    """

    name: str
    title: str
    decoder: Callable[[int], Decoder]
    baud: int = 115200
    rate_hz: float | None = None
    uv_per_count: float | None = None
    adc_bits: int | None = None
    codes: tuple[float, float] | None = None
    start: Callable[[int], tuple[bytes, ...]] = _NOTHING
    stop: bytes = b""
    describes_itself: bool = False
    most_channels: int = 0
    has_spare: bool = False
    steps: tuple[int, ...] = ()
    shares_rate: bool = False
    counter: int = 2**16
    clock_us: int = 2**32
    label: str = "ch"
    note: str = ""


_LINES = _tells(AsciiDecoder)
_BIOAMP_GAIN = 2420  # Muscle BioAmp Candy and BisCute; other BioAmps have other gains
_CHORDS = Board(
    "chords", "Chords firmware on an Uno, Nano or Mega with a Muscle BioAmp", _tells(ChordsDecoder),
    rate_hz=250, uv_per_count=5e6 / 1024 / _BIOAMP_GAIN, adc_bits=10,
    start=sends(b"START\n"), stop=b"STOP\n", has_spare=True, counter=256,
    note="EMG up to 125 Hz only; firmware of 2024 talks at 230400 baud",
)  # fmt: skip
_MYOWARE_GAIN = 200  # RAW pin
_SCIENTISST = Board(
    "scientisst", "ScientISST Sense", scientisst.decoder, rate_hz=scientisst.RATE_HZ, adc_bits=12,
    start=scientisst.start, stop=bytes(4), most_channels=scientisst.MOST_CHANNELS, counter=2**12, label="AI",
    note="its scale depends on the sensor: uv_per_count is about 806 / gain",
)  # fmt: skip

BOARDS = {
    board.name: board
    for board in (
        Board(
            "unshrug", "Unshrug's own firmware (framed, checked, counted)", _tells(FramedDecoder),
            start=sends(b"vb"), stop=b"s", describes_itself=True,
        ),
        Board(
            "ascii", "any sketch that prints lines of numbers", _LINES,
            note="losses below 30 ms are not seen",
        ),
        Board(
            "myoware2-5v", "MyoWare 2.0, RAW pin on a 10-bit 5 V Arduino, printed as lines", _LINES,
            uv_per_count=5e6 / 1024 / _MYOWARE_GAIN, adc_bits=10, note="a step of 24 µV hides the rest level",
        ),
        Board(
            "myoware2-3v3", "MyoWare 2.0, RAW pin on a 12-bit 3.3 V board, printed as lines", _LINES,
            uv_per_count=3.3e6 / 4096 / _MYOWARE_GAIN, adc_bits=12, note="a step of 4 µV blurs the rest level",
        ),
        _CHORDS,
        replace(
            _CHORDS, name="chords-r4", title="Chords firmware on an Uno R4 with a Muscle BioAmp", baud=230400,
            rate_hz=500, uv_per_count=5e6 / 2**14 / _BIOAMP_GAIN, adc_bits=14, note="EMG up to 250 Hz only",
        ),
        replace(
            _CHORDS, name="chords-pico", title="Chords firmware on a Pico with a Muscle BioAmp", baud=230400,
            rate_hz=500, uv_per_count=3.3e6 / 2**12 / _BIOAMP_GAIN, adc_bits=12, note="EMG up to 250 Hz only",
        ),
        replace(
            _CHORDS, name="npg-lite", title="Upside Down Labs NPG Lite", baud=230400, rate_hz=500, uv_per_count=None,
            adc_bits=12, note="no scale is documented; EMG up to 250 Hz only",
        ),
        Board(
            "bitalino", "BITalino (r)evolution with its EMG sensor, over Bluetooth (rfcomm) or UART", bitalino.decoder,
            rate_hz=1000, uv_per_count=3.3e6 / 1024 / 1009, adc_bits=10, start=bitalino.start, stop=b"\x00",
            most_channels=bitalino.MOST_CHANNELS, steps=(1, 1, 1, 1, 16, 16), counter=16, label="A",
            note="A5 and A6 have 6 bits, too few for EMG",
        ),
        _SCIENTISST,
        replace(
            _SCIENTISST, name="scientisst-v2", title="ScientISST Sense with time stamps (API mode 14)",
            decoder=scientisst.decoder_v2, start=scientisst.start_v2, clock_us=2**36,
        ),
        Board(
            "spikershield", "Backyard Brains Muscle SpikerShield and its boxes", _tells(SpikerShieldDecoder),
            baud=222222, rate_hz=16e6 / 8 / 199, adc_bits=10, has_spare=True, shares_rate=True,
            note="no scale is documented; losses below 30 ms are not seen",
        ),
        Board(
            "olimex", "Olimex SHIELD-EKG-EMG, or any OpenEEG P2", _tells(openeeg.decoder), baud=57600,
            rate_hz=250, uv_per_count=5e6 / 1024 / 2848, adc_bits=10, has_spare=True, counter=256,
            note="the shield removes EMG above 40 Hz, which is most of it",
        ),
        Board(
            "cyton", "OpenBCI Cyton on its USB dongle", _tells(openbci.decoder), rate_hz=250,
            uv_per_count=4.5e6 / (2**23 - 1) / 24, adc_bits=24, codes=(-(2**23), 2**23 - 1),
            start=sends(b"s", b"d", b"b"), stop=b"s", has_spare=True, counter=256, note="EMG up to 125 Hz only",
        ),
        Board(
            "knight", "NeuroPawn Knight", _tells(knight.decoder), rate_hz=125,
            uv_per_count=4e6 / (2**15 - 1) / 12, adc_bits=16, codes=(-(2**15), 2**15 - 1), has_spare=True, counter=256,
            note="too slow for EMG: it can be decoded, not run; the vendor's software switches its channels on",
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
