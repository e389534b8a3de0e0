"""The board's program, as fast as the emulator goes: every sample that it sends, and what it says of itself."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.boards import BOARDS
from firmware_bridge.bridge import Bridge
from firmware_bridge.packets import Info, Samples
from tests.bridge.helpers import joined, pieces_of
from tests.firmware.conftest import Build, Emulator, assert_right, laid_out, make, noise

SECONDS = 12


@pytest.mark.parametrize(
    "options",
    [
        {"CHANNELS": 1},
        {},
        {"CHANNELS": 4},
        {"CHANNELS": 1, "RATE_HZ": 2000, "BLOCK": 4},
        {"CHANNELS": 4, "RATE_HZ": 2000, "BAUD": 500000},
        {"CHANNELS": 3, "RATE_HZ": 500, "BLOCK": 15, "BAUD": 57600},
        {"CHANNELS": 1, "RATE_HZ": 4000, "BLOCK": 1, "BAUD": 1000000},
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()) or "as delivered",
)
def test_every_sample_is_right_and_none_is_lost(build: Build, emulator: Emulator, options: dict[str, int]) -> None:
    channels, rate, block = options.get("CHANNELS", 2), options.get("RATE_HZ", 1000), options.get("BLOCK", 8)
    volts = noise(SECONDS * rate + 100, channels)
    ran = emulator.run(build(**options), volts, SECONDS, rate_hz=rate)
    assert ran.damaged == 0
    assert {p.codes.shape for p in ran.samples} == {(block, channels)}
    assert [p.seq for p in ran.samples] == list(range(len(ran.samples)))
    assert [p.device_us for p in ran.samples] == [k * block * 1_000_000 // rate for k in range(len(ran.samples))]
    n = len(ran.samples) * block
    assert SECONDS * rate - n < 100  # the board's start, and what was still on its way at the end
    assert_right(laid_out(ran.samples, n), volts)
    # One conversion more for each sample lets the ADC settle; others, as at each sleep, nobody asked for.
    assert 0 <= ran.report["conversions"] - n * (channels + 1) <= 100 * (channels + 1)


def test_it_says_what_it_is_first_and_then_each_second(build: Build, emulator: Emulator) -> None:
    ran = emulator.run(build(CHANNELS=4, VREF_MV=4870, GAIN=2420), noise(6000, 4), 5.5)
    assert ran.infos[0] == Info(4, 1000.0, 10, 4870, 2420.0, "raw", ran.infos[0].boot_id, overruns=0, dropped=0)
    assert set(ran.infos) == {ran.infos[0]}
    places = [k for k, packet in enumerate(ran.packets) if isinstance(packet, Info)]
    assert places == [0, 125, 251, 377, 503, 629]


def test_as_delivered_it_is_for_two_muscle_sensors_of_gain_200(build: Build, emulator: Emulator) -> None:
    (info,) = emulator.run(build(), noise(1000, 2), 0.5).infos
    assert info == Info(2, 1000.0, 10, 5000, 200.0, "raw", info.boot_id, overruns=0, dropped=0)
    assert info.uv_per_count == pytest.approx(24.4, abs=0.02)


def test_what_does_not_fit_the_line_is_lost_in_whole_blocks_and_in_plain_sight(
    build: Build, emulator: Emulator
) -> None:
    volts = noise(SECONDS * 2000 + 100, 4)
    firmware = build(CHANNELS=4, RATE_HZ=2000, ALLOW_LOSS=1)
    ran = emulator.run(firmware, volts, SECONDS, rate_hz=2000)
    assert ran.damaged == 0
    seqs = [p.seq or 0 for p in ran.samples]
    assert all(b > a for a, b in itertools.pairwise(seqs))
    assert [p.device_us for p in ran.samples] == [4000 * seq for seq in seqs]
    assert 0.3 < 1 - len(seqs) / (seqs[-1] + 1) < 0.45  # 19 kB/s on a line for 11.5
    assert seqs[-1] * 8 > SECONDS * 2000 - 200
    assert_right(laid_out(ran.samples, (seqs[-1] + 1) * 8), volts)
    last = max(k for k, packet in enumerate(ran.packets) if isinstance(packet, Info))
    before = [p.seq or 0 for p in ran.packets[:last] if isinstance(p, Samples)]
    # The frames that wait for the line have been counted by the time that the info frame is written.
    assert ran.infos[-1].dropped == pytest.approx(before[-1] + 1 - len(before), abs=3)
    assert ran.infos[-1].overruns == 0


def test_a_pause_is_a_gap_of_known_length(build: Build, emulator: Emulator) -> None:
    volts = noise(8000, 2)
    ran = emulator.run(build(), volts, 7, "-k", "2:ss", "-k", "4.5:bb")
    assert ran.damaged == 0
    (at,) = [k for k, (a, b) in enumerate(itertools.pairwise(ran.samples)) if (b.seq or 0) - (a.seq or 0) != 1]
    before, after = ran.samples[at], ran.samples[at + 1]
    assert (before.seq or 0) * 0.008 == pytest.approx(2, abs=0.05)
    assert (after.seq or 0) * 0.008 == pytest.approx(4.5, abs=0.05)
    assert [p.device_us for p in ran.samples] == [8000 * (p.seq or 0) for p in ran.samples]
    assert_right(laid_out(ran.samples, 7000), volts)
    assert len(ran.infos) == 7  # also while it pauses
    assert {info.dropped for info in ran.infos} == {0}


def test_it_answers_when_asked_and_to_nothing_else(build: Build, emulator: Emulator) -> None:
    silent = emulator.run(build(), noise(1000, 2), 0.9)
    asked = emulator.run(build(), noise(1000, 2), 0.9, "-k", "0.1:v", "-k", "0.5:v")
    other = emulator.run(build(), noise(1000, 2), 0.9, "-k", "0.1:BSVx?\r\n 0\x7f\xff", "-k", "0.5:bbbb")
    assert [len(ran.infos) for ran in (silent, asked, other)] == [1, 3, 1]
    assert [[p.seq for p in ran.samples] for ran in (silent, asked, other)] == [[p.seq for p in silent.samples]] * 3


def test_each_start_has_its_own_number(build: Build, emulator: Emulator) -> None:
    ran = emulator.run(build(), noise(9000, 2), 6, "-R", "2.0013", "-R", "4.0021")
    again = emulator.run(build(), noise(9000, 2), 1)
    boots = [boot for boot, _ in itertools.groupby(info.boot_id for info in [*ran.infos, *again.infos])]
    assert boots == [boots[0], boots[0] + 1, boots[0] + 2, boots[0] + 3]
    # A reset may cut one frame; the next thing is whole and says that the board has started anew.
    assert ran.damaged <= 2
    whole = [p for p in ran.packets if isinstance(p, Samples | Info)]
    starts = [k for k, p in enumerate(whole) if isinstance(p, Samples) and p.seq == 0]
    assert len(starts) == 3
    assert all(isinstance(whole[k - 1], Info) for k in starts)


def test_a_reset_leaves_a_gap_in_what_the_bridge_makes_of_it(build: Build, emulator: Emulator) -> None:
    ran = emulator.run(build(), noise(9000, 2), 6, "-R", "3")
    bridge = Bridge(BOARDS["unshrug"], check_rate=False)
    blocks = []
    for k, piece in enumerate(pieces_of(ran.data, range(0, len(ran.data), 500))):
        blocks += bridge.feed(piece, k * 6.0 * 500 / len(ran.data))
    values = joined(blocks)
    assert len(values) == pytest.approx(6000, abs=200)
    assert bridge.counts.samples == sum(len(packet.codes) for packet in ran.samples)
    assert bridge.counts.repeated == 0


def test_counter_and_clock_go_on_over_their_ends(build: Build, emulator: Emulator) -> None:
    first_seq, first_us = 2**16 - 200, 2**32 - 4_000_500
    volts = noise(9000, 2)
    ran = emulator.run(build(FIRST_SEQ=first_seq, FIRST_US=first_us), volts, 8)
    n = len(ran.samples)
    assert n > 980
    assert [p.seq for p in ran.samples] == [(first_seq + k) % 2**16 for k in range(n)]
    assert [p.device_us for p in ran.samples] == [(first_us + 8000 * k) % 2**32 for k in range(n)]
    assert_right(laid_out(ran.samples, 8 * n, first_seq), volts)
    bridge = Bridge(BOARDS["unshrug"], check_rate=False)
    values = joined(bridge.feed(ran.data, 8.0))
    assert values.shape == (8 * n, 2)
    assert np.all(np.isfinite(values))
    assert bridge.counts.lost == bridge.counts.damaged == 0


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"CHANNELS": 5}, "CHANNELS: 1 to 4"),
        ({"BLOCK": 16}, "BLOCK: 1 to 15"),
        ({"RATE_HZ": 300}, "RATE_HZ: 250 to 4000"),
        ({"VREF_MV": 5}, "VREF_MV: 1000 to 5500"),
        ({"GAIN": 0}, "GAIN: 1 to"),
        ({"BAUD": 230400}, "cannot be divided to it"),
        ({"CHANNELS": 4, "RATE_HZ": 2000}, "BAUD is too low"),
        ({"CHANNELS": 2, "BLOCK": 1}, "BAUD is too low"),
        ({"CHANNELS": 4, "RATE_HZ": 4000, "BAUD": 1000000}, "the ADC cannot read so many CHANNELS"),
    ],
)
def test_options_that_cannot_work_are_refused_with_the_reason(
    tmp_path: Path, options: dict[str, int], why: str
) -> None:
    done = make(tmp_path, **options)
    assert done.returncode != 0
    assert why in done.stderr
    assert list(tmp_path.glob("*.hex")) == []
