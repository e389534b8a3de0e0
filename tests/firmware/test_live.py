"""The board's program on a port: from voltages on its pins to held shrugs, through the same port and bridge as live."""

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import resample_poly

from dsp.detect import Shrug
from firmware_bridge.blocks import SampleBlock
from firmware_bridge.boards import BOARDS
from firmware_bridge.bridge import Bridge
from firmware_bridge.decoders.framed import FramedDecoder
from firmware_bridge.packets import Info, Samples
from firmware_bridge.port import Port
from firmware_bridge.simulator import REST_UV, Activity, Wearer
from services.messages import Message
from services.pipeline import Pipeline
from services.settings import Settings
from tests.bridge.helpers import Array, joined
from tests.firmware.conftest import Build, Emulator, Millivolts, assert_right
from tests.recordings.conftest import data  # noqa: F401  a fixture
from tests.recordings.test_real_emg import labels

LEARN_S = 4
SETTINGS = replace(Settings(), calibration=replace(Settings().calibration, rest_s=float(LEARN_S)))


@dataclass
class Reader:
    """What the service does with a board, and all that came of it."""

    port: Port
    bridge: Bridge = field(default_factory=lambda: Bridge(BOARDS["unshrug"], check_rate=False))
    pipeline: Pipeline = field(default_factory=lambda: Pipeline(SETTINGS))
    data: bytes = b""
    blocks: list[SampleBlock] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    connections: int = 0

    def read_until(self, enough: Callable[[], bool], seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not enough():
            assert time.monotonic() < until, f"{self.port.problem}, {len(self.data)} bytes, {self.bridge.counts}"
            piece, now_s = self.port.read(), time.monotonic()
            if self.port.connections != self.connections:
                self.connections = self.port.connections
                self.bridge.connected(now_s)
                self.messages += self.pipeline.board(None)
            self.port.write(self.bridge.command(now_s))
            self.data += piece
            for block in self.bridge.feed(piece, now_s):
                self.blocks.append(block)
                self.messages += self.pipeline.process(block)

    @property
    def end(self) -> int:
        return self.blocks[-1].end if self.blocks else 0

    def began_s(self) -> float:
        """Return the board's time at which the first block began: what comes before its description is not used."""
        packets = FramedDecoder().feed(self.data)
        first = next(k for k, p in enumerate(packets) if isinstance(p, Info))
        sample = next(p for p in packets[first:] if isinstance(p, Samples))
        return (sample.device_us or 0) / 1e6

    def holds(self, channel: int) -> list[tuple[float, float]]:
        """Return start and end of the sustained shrugs on the board's clock."""
        ended = [m for m in self.messages if isinstance(m, Shrug) and m.phase == "ended" and m.channel == channel]
        shift = self.began_s()
        return [(m.start_s + shift, (m.end_s or 0) + shift) for m in ended]


def at_the_pins(uv: Array, gain: float) -> Millivolts:
    """Return what a sensor of this gain makes of EMG: its output rests at half of 5 V."""
    return np.asarray(np.clip(np.round(2500 + uv * gain / 1000), 0, 5000), dtype=np.int16)


def test_held_shrugs_reach_the_pipeline_through_the_board(build: Build, emulator: Emulator) -> None:
    rest, shrug = Activity("rest", 10, REST_UV), Activity("sustained shrug", 6, 60)
    wearer = Wearer(day=(rest, shrug, rest, replace(shrug, seconds=9), rest), mains_uv=0)
    volts = at_the_pins(wearer.samples(45_000), 2420)
    with emulator.plugged_in(build(GAIN=2420), volts, speed=20) as path:
        reader = Reader(Port(path, 115200))
        reader.read_until(lambda: reader.end > 43_000)
        reader.port.close()
    reader.messages += reader.pipeline.finish()
    assert reader.bridge.counts.lost == reader.bridge.counts.damaged == 0
    values = joined(reader.blocks)
    assert np.all(np.isfinite(values))
    scale = reader.bridge.board.uv_per_count
    assert scale == pytest.approx(5e6 / 1024 / 2420)
    codes = np.round(values / (scale or 1))
    assert_right(codes, volts[round(reader.began_s() * 1000) :])
    for channel in (0, 1):
        found = reader.holds(channel)
        assert [start for start, _ in found] == pytest.approx([10, 26], abs=0.4)
        assert [end for _, end in found] == pytest.approx([16, 35], abs=0.4)


@pytest.mark.parametrize("name", ["S1_gesture2", "S1_gesture7", "S2_gesture2", "S3_gesture2"])
def test_labelled_holds_of_real_muscles_are_found_through_the_board(
    build: Build,
    emulator: Emulator,
    data: Path,  # noqa: F811
    name: str,
) -> None:
    channel, holds = labels(data, name)
    with (data / "myo_5s_rest_5s_hold_labelled" / f"{name}.csv").open() as file:
        counts = np.array([float(row[channel]) for row in csv.DictReader(file)])
    # 8 bits at 200 Hz; at 10 mV a count they fill half of what the board can read.
    uv = resample_poly(counts, 5, 1)
    volts = at_the_pins(np.concatenate([uv, uv[:3000]]), 10_000)[:, None]  # the last hold ends with the recording
    with emulator.plugged_in(build(CHANNELS=1, GAIN=10_000), volts) as path:
        reader = Reader(Port(path, 115200))
        reader.read_until(lambda: reader.end > len(uv) + 1500)
        reader.port.close()
    reader.messages += reader.pipeline.finish()
    found = reader.holds(0)
    assert len(found) == len(holds) == 6
    assert [start for start, _ in found] == pytest.approx([start for start, _ in holds], abs=0.7)
    assert [end for _, end in found] == pytest.approx([end for _, end in holds], abs=0.8)


def test_an_unplugged_board_leaves_a_gap_and_goes_on_when_it_is_back(build: Build, emulator: Emulator) -> None:
    volts = at_the_pins(Wearer().samples(20_000), 2420)
    firmware = build(GAIN=2420)
    with emulator.plugged_in(firmware, volts, speed=5) as path:
        reader = Reader(Port(path, 115200))
        reader.read_until(lambda: reader.end > 3000)
    reader.read_until(lambda: reader.port.problem is not None)
    before = len(reader.blocks)
    with emulator.plugged_in(firmware, volts, speed=5):
        reader.read_until(lambda: len(reader.blocks) > before + 300)
        reader.port.close()
    reader.messages += reader.pipeline.finish()
    assert reader.connections == 2
    assert reader.blocks[before].start > reader.blocks[before - 1].end
    values = joined(reader.blocks)
    # Lost is only what came while the cable was out; nothing of that is made up.
    lost = np.flatnonzero(np.isnan(values[:, 0]))
    assert list(lost) == list(range(reader.blocks[before - 1].end, reader.blocks[before].start))
    boots = {p.boot_id for p in FramedDecoder().feed(reader.data) if isinstance(p, Info)}
    assert len(boots) == 2
