"""The board's own program, built as it is flashed and run in an emulator."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from firmware_bridge.decoders.framed import FramedDecoder
from firmware_bridge.packets import BadFrame, Info, Packet, Samples

FIRMWARE = Path(__file__).parents[2] / "firmware_bridge" / "firmware"
HOST = Path(__file__).with_name("avrhost.c")

Millivolts = NDArray[np.int16]
Build = Callable[..., Path]


def missing() -> str | None:
    """Say what is not installed, None when everything is."""
    for program in ("avr-gcc", "avr-objcopy", "avr-size", "make", "gcc"):
        if shutil.which(program) is None:
            return program
    try_it = ["gcc", "-E", "-include", "simavr/sim_avr.h", "-include", "libelf.h", "-x", "c", "/dev/null"]
    return (
        "libsimavr-dev or libelf-dev" if subprocess.run(try_it, capture_output=True, check=False).returncode else None
    )


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The emulator."""
    lacking = missing()
    if lacking:
        pytest.skip(f"{lacking} is not installed; `make test-firmware` does it")
    program = tmp_path_factory.mktemp("host") / "avrhost"
    strict = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *strict, "-o", program, HOST, "-lsimavr", "-lelf", "-lutil", "-lm"], check=True)
    return program


def make(folder: Path, **options: int) -> "subprocess.CompletedProcess[str]":
    """Build the firmware into a folder."""
    chosen = [f"{name}={value}" for name, value in options.items()]
    command = ["make", "--no-print-directory", "-C", str(FIRMWARE), f"BUILD={folder}", *chosen]
    # Not the options of the make that runs these tests, nor of the shell.
    plain = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=plain)


@pytest.fixture(scope="session")
def build(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build the firmware with options, once for each choice of them, and return the file that would be flashed."""
    built: dict[str, Path] = {}

    def build_it(**options: int) -> Path:
        key = str(sorted(options.items()))
        if key not in built:
            folder = tmp_path_factory.mktemp("firmware")
            done = make(folder, **options)
            assert done.returncode == 0, done.stderr
            built[key] = folder / "unshrug.hex"
        return built[key]

    return build_it


@dataclass(frozen=True)
class Ran:
    """What a board sent in a run that was as fast as the emulator goes."""

    data: bytes
    packets: list[Packet]
    report: dict[str, Any]

    @property
    def samples(self) -> list[Samples]:
        return [p for p in self.packets if isinstance(p, Samples)]

    @property
    def infos(self) -> list[Info]:
        return [p for p in self.packets if isinstance(p, Info)]

    @property
    def damaged(self) -> int:
        return sum(isinstance(p, BadFrame) for p in self.packets)


@dataclass(frozen=True)
class Emulator:
    """The emulator and a place for its files."""

    program: Path
    folder: Path

    def volts(self, millivolts: Millivolts, rate_hz: int) -> list[str]:
        path = self.folder / "volts.s16"
        path.write_bytes(np.ascontiguousarray(millivolts, dtype="<i2").tobytes())
        return ["-a", str(path), "-c", str(millivolts.shape[1]), "-r", str(rate_hz)]

    def run(self, firmware: Path, millivolts: Millivolts, seconds: float, *events: str, rate_hz: int = 1000) -> Ran:
        """Let the board run; events are `-k S:TEXT` and `-R S`. Its EEPROM lasts from run to run."""
        out = self.folder / "sent.bin"
        files = ["-e", str(self.folder / "eeprom.bin"), "-o", str(out)]
        volts = self.volts(millivolts, rate_hz)
        command = [str(self.program), *volts, *files, "-t", str(seconds), *events, str(firmware)]
        report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        data = out.read_bytes()
        return Ran(data, FramedDecoder().feed(data), report)

    @contextlib.contextmanager
    def plugged_in(self, firmware: Path, millivolts: Millivolts, speed: float = 0) -> Iterator[str]:
        """Connect a board to the port whose path is given; unplug it at the end."""
        link = self.folder / "port"
        files = ["-e", str(self.folder / "eeprom.bin"), "-p", str(link), "-x", str(speed)]
        command = [str(self.program), *self.volts(millivolts, 1000), *files, str(firmware)]
        board = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            until = time.monotonic() + 20
            while not link.exists():
                assert board.poll() is None
                assert time.monotonic() < until
                time.sleep(0.01)
            yield str(link)
        finally:
            board.terminate()
            out, _ = board.communicate(timeout=20)
        print(out)  # pytest shows how fast it was when a test fails, or with -rP
        assert board.returncode == 0


@pytest.fixture
def emulator(host: Path, tmp_path: Path) -> Emulator:
    """The emulator, with an EEPROM as new."""
    return Emulator(host, tmp_path)


def noise(rows: int, channels: int) -> Millivolts:
    """Return random voltages over all that the ADC can read, its ends and a little more among them."""
    rng = np.random.default_rng(rows)
    return rng.integers(-50, 5051, (rows, channels)).astype(np.int16)


def code_of(millivolts: Millivolts) -> NDArray[np.int64]:
    """Return what the chip's ADC makes of these voltages, with 5 V as its reference."""
    return np.asarray(np.clip(millivolts.astype(np.int64) * 1024 // 5000, 0, 1023))


def laid_out(samples: Sequence[Samples], rows: int, seq: int = 0) -> NDArray[np.float64]:
    """Put samples where their counter says, NaN where none came; `seq` is the first number."""
    block, channels = samples[0].codes.shape
    out = np.full((rows, channels), np.nan)
    for packet in samples:
        assert packet.seq is not None
        at = (packet.seq - seq) % 2**16 * block
        out[at : at + block] = packet.codes
    return out


def assert_right(got: NDArray[np.float64], millivolts: Millivolts) -> None:
    """Check that every sample that came is the voltage of its moment.

    The board needs a moment to start, and reads its pins one after the other: each has its own first row.
    """
    for channel in range(got.shape[1]):
        came = np.flatnonzero(np.isfinite(got[:, channel]))
        codes = code_of(millivolts[:, channel])
        wrong = [int(np.sum(got[came, channel] != codes[came + first])) for first in range(40)]
        assert min(wrong) == 0, f"channel {channel}: {min(wrong)} of {len(came)} samples are wrong"
