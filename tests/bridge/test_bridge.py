from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.blocks import SampleBlock
from firmware_bridge.boards import BOARDS, Board
from firmware_bridge.bridge import BOOT_S, SILENT_AFTER_S, WAITING, Bridge
from firmware_bridge.decoders import chords
from firmware_bridge.decoders.framed import encode_data, encode_info
from tests.bridge.helpers import INFO, codes_of, cuts, framed, joined, pieces_of, steady

OWN = BOARDS["unshrug"]
LINES = replace(BOARDS["ascii"], rate_hz=500.0, uv_per_count=2.0, adc_bits=10)
NAN = float("nan")


def running(frames: Iterable[bytes], board: Board = OWN, *, from_s: float = 0.0) -> tuple[Bridge, list[SampleBlock]]:
    """Feed frames of 8 ms to a new bridge, each when it is due."""
    bridge = Bridge(board)
    bridge.connected(from_s)
    return bridge, [b for k, frame in enumerate(frames) for b in bridge.feed(frame, from_s + k * 0.008)]


# What the board says


def test_board_that_describes_itself_gives_rate_channels_scale_and_range() -> None:
    _, blocks = running(framed(3))
    signal = blocks[0].signal
    assert (signal.rate_hz, signal.channels) == (1000.0, ("ch1", "ch2"))
    assert signal.uv_per_count == pytest.approx(3.3e6 / 65536 / 1000)
    assert signal.rails_uv == pytest.approx((-32768 * 3300 / 65536, 32767 * 3300 / 65536))
    assert all(block.signal is signal for block in blocks)


def test_range_of_an_unsigned_adc_begins_at_zero() -> None:
    info = replace(INFO, adc_bits=10, vref_mv=5000, gain=200.0)
    _, blocks = running(framed(1, info=info))
    assert blocks[0].signal.uv_per_count == pytest.approx(24.4140625)
    assert blocks[0].signal.rails_uv == pytest.approx((0.0, 1023 * 24.4140625))


def test_values_are_codes_times_scale() -> None:
    _, blocks = running(framed(5))
    assert [block.start for block in blocks] == [0, 8, 16, 24, 32]
    assert np.array_equal(joined(blocks), np.concatenate(codes_of(5)) * INFO.uv_per_count)


def test_samples_before_the_description_are_dropped() -> None:
    early, late = framed(6, info=None), framed(4, first_seq=6)
    bridge, blocks = running([*early, *late])
    assert (len(blocks), blocks[0].start) == (4, 0)
    assert (bridge.counts.samples, bridge.counts.lost) == (32, 0)


@pytest.mark.parametrize(
    ("name", "uv_per_count", "highest"), [("myoware2-5v", 24.414, 1023), ("myoware2-3v3", 4.028, 4095)]
)
def test_known_boards_know_their_scale_and_range(name: str, uv_per_count: float, highest: int) -> None:
    bridge = Bridge(replace(BOARDS[name], rate_hz=1000.0))
    (block,) = bridge.feed(b"\n512\n", 0.0)
    assert block.signal.uv_per_count == pytest.approx(uv_per_count, rel=1e-3)
    assert block.signal.rails_uv == pytest.approx((0, highest * uv_per_count), rel=1e-3)
    assert block.values.tolist() == [[pytest.approx(512 * uv_per_count, rel=1e-3)]]


def test_channels_are_called_as_the_wearer_says_or_the_board_labels_them() -> None:
    def names(line: bytes, channels: tuple[str, ...] = ()) -> tuple[str, ...]:
        (block,) = Bridge(LINES, channels).feed(b"\n" + line + b"\n", 0.0)
        return block.signal.channels

    assert names(b"1,2") == ("ch1", "ch2")
    assert names(b"raw:1,env:2") == ("raw", "env")
    assert names(b"raw:1,2") == ("raw", "ch2")
    assert names(b"1,2", ("left", "right")) == ("left", "right")


def test_board_in_uv_has_no_scale_and_no_range() -> None:
    (block,) = Bridge(replace(BOARDS["ascii"], rate_hz=500.0)).feed(b"\n1.5\n", 0.0)
    assert (block.signal.uv_per_count, block.signal.rails_uv) == (None, None)
    assert block.values.tolist() == [[1.5]]


@given(at=cuts)
@steady
def test_cut_anywhere_same_answer(at: list[int]) -> None:
    frames = framed(30)
    data = b"".join([*frames[:9], *frames[14:20], frames[20][:-4], *frames[22:]])
    _, whole = running([data])
    _, pieces = running(pieces_of(data, at))
    assert joined(pieces).tobytes() == joined(whole).tobytes()


# Lost data


def test_lost_frames_are_a_gap_of_exactly_their_length() -> None:
    frames = framed(10)
    bridge, blocks = running(frames[:4] + frames[7:])
    values = joined(blocks)
    assert len(values) == 80
    assert np.flatnonzero(np.isnan(values[:, 0])).tolist() == list(range(24, 48))
    assert (bridge.counts.lost, bridge.counts.damaged) == (24, 0)


def test_damaged_frame_is_counted_and_is_a_gap() -> None:
    frames = framed(10)
    frames[4] = frames[4][:5] + b"\x55\x55" + frames[4][7:]
    bridge, blocks = running(frames)
    assert len(joined(blocks)) == 80
    assert (bridge.counts.damaged, bridge.counts.lost) == (1, 8)


def test_damaged_line_is_a_gap_of_one_sample() -> None:
    bridge = Bridge(LINES)
    blocks = bridge.feed(b"\n1,2\n3,x\n5,6\n", 0.0)
    assert np.array_equal(joined(blocks), np.array([[2, 4], [NAN, NAN], [10, 12]]), equal_nan=True)
    assert (bridge.counts.damaged, bridge.counts.lost) == (1, 1)


def test_damage_before_the_first_sample_is_no_gap() -> None:
    bridge = Bridge(LINES)
    blocks = bridge.feed(b"\nMyoWare v2\n1,2\n", 0.0)
    assert blocks[0].start == 0
    assert bridge.counts.lost == 0


def test_repeated_frame_is_counted_and_gives_no_block() -> None:
    frames = framed(3)
    bridge, blocks = running([*frames, frames[-1]])
    assert len(blocks) == 3
    assert (bridge.counts.repeated, bridge.counts.lost) == (8, 0)


def test_reset_of_the_board_is_a_gap_by_the_host_clock() -> None:
    bridge, before = running(framed(100))
    end_s = 100 * 0.008
    again = framed(3, first_seq=101, info=replace(INFO, boot_id=8))  # a counter that looks like one lost frame
    blocks = [b for k, frame in enumerate(again) for b in bridge.feed(frame, end_s + 4 + k * 0.008)]
    assert before[-1].end == 800
    assert blocks[0].start == pytest.approx(800 + 4000, abs=20)


def test_description_that_comes_again_changes_nothing() -> None:
    frames = framed(6)
    _, blocks = running([*frames[:4], frames[0], *frames[4:]])
    assert [block.start for block in blocks] == [0, 8, 16, 24, 32, 40]
    assert len({id(block.signal) for block in blocks}) == 1


def test_time_without_a_connection_is_a_gap_by_the_host_clock() -> None:
    bridge, before = running(framed(50))
    bridge.connected(10.0)
    after = [b for frame in framed(2, first_seq=0) for b in bridge.feed(frame, 10.0)]
    assert before[-1].end == 400
    assert after[0].start == pytest.approx(10_000, abs=20)


def test_half_a_frame_of_the_last_connection_is_forgotten() -> None:
    frames = framed(4)
    bridge, _ = running([*frames[:3], frames[3][:9]])
    bridge.connected(1.0)
    assert len(bridge.feed(b"".join(framed(2)), 1.1)) == 2
    assert bridge.counts.damaged == 0


def test_another_rate_keeps_the_time_reached() -> None:
    bridge, before = running(framed(125))
    info = replace(INFO, rate_hz=500.0)
    blocks = [b for frame in framed(2, info=info) for b in bridge.feed(frame, 1.0)]
    assert before[-1].end / before[-1].signal.rate_hz == 1.0
    assert blocks[0].signal.rate_hz == 500.0
    assert blocks[0].start / 500.0 == pytest.approx(1.0, abs=0.02)


# What is wrong with the stream


def test_good_stream_has_no_problem() -> None:
    bridge, _ = running(framed(2500))
    assert bridge.problem(2500 * 0.008) is None
    assert bridge.stale_s(2500 * 0.008) == pytest.approx(0.0, abs=0.02)


def test_board_that_says_nothing_is_silent() -> None:
    bridge = Bridge(OWN)
    bridge.connected(100.0)
    assert bridge.feed(b"", 104.9) == []
    assert bridge.problem(104.9) == WAITING
    assert bridge.problem(100.0 + BOOT_S) == "the board is silent"
    assert bridge.stale_s(107.0) == 7.0


def test_board_that_falls_silent_is_well_again_when_it_speaks() -> None:
    frames = framed(40)
    bridge, _ = running(frames[:20])
    last_s = 19 * 0.008
    assert bridge.problem(last_s + SILENT_AFTER_S - 0.01) is None
    assert bridge.problem(last_s + SILENT_AFTER_S) == "the board is silent"
    bridge.feed(frames[20], last_s + 3)
    assert bridge.problem(last_s + 3) is None


@pytest.mark.parametrize(
    ("board", "data"),
    [(OWN, b"512,498\r\n" * 200), (OWN, bytes(range(1, 256)) * 8), (LINES, b"".join(framed(50, info=None)))],
    ids=["lines for frames", "noise for frames", "frames for lines"],
)
def test_wrong_board_is_named(board: Board, data: bytes) -> None:
    bridge = Bridge(board)
    bridge.connected(0.0)
    assert bridge.feed(data, 1.0) == []
    problem = bridge.problem(BOOT_S)
    assert problem is not None
    assert f"not from a board of kind {board.name!r}" in problem


@pytest.mark.parametrize(("factor", "wrong"), [(0.5, True), (0.85, False), (1.0, False), (1.15, False), (2.0, True)])
def test_wrong_rate_is_named(factor: float, wrong: bool) -> None:
    bridge, free = Bridge(OWN), Bridge(OWN, check_rate=False)
    now_s = 0.0
    for k, frame in enumerate(framed(2800)):
        now_s = k * 0.008 / factor
        bridge.feed(frame, now_s)
        free.feed(frame, now_s)
    problem = bridge.problem(now_s)
    assert (problem is not None) == wrong
    if problem:
        assert problem.startswith("the board sends ")
        assert problem.endswith("samples/s; expected 1000 (board.rate_hz)")
        assert float(problem.split()[4]) == pytest.approx(1000 * factor, rel=0.05)
    assert free.problem(now_s) is None


def test_wrong_rate_that_wavers_is_one_problem() -> None:
    bridge, said, now_s = Bridge(OWN), set(), 0.0
    for k, frame in enumerate(framed(12_000)):
        now_s += 0.008 / (1.3 if k // 1500 % 2 else 1.4)
        bridge.feed(frame, now_s)
        said.add(bridge.problem(now_s))
    assert len(said - {None, WAITING}) == 1


def test_wrong_number_of_channels_is_named_and_gives_no_samples() -> None:
    bridge = Bridge(LINES, ("left", "right"))
    assert bridge.feed(b"\n1,2,3\n", 0.0) == []
    assert bridge.problem(0.1) == "the board sends 3 channels; expected 2: left, right"


def test_wrong_number_of_channels_is_forgotten_when_the_right_one_comes() -> None:
    # The first line that is read may be damaged, and the decoder has nothing to compare it with.
    bridge = Bridge(LINES, ("left", "right"))
    bridge.feed(b"\n512\n", 0.0)
    blocks = bridge.feed(b"1,2\n" * 20, 0.1)
    assert sum(len(block.values) for block in blocks) >= 10
    assert bridge.problem(0.1) is None


def test_time_of_lines_with_a_wrong_number_of_channels_is_a_gap() -> None:
    bridge = Bridge(LINES, ("left", "right"))
    blocks = bridge.feed(b"\n" + b"1,2\n" * 10 + b"3\n" * 20 + b"1,2\n" * 30, 0.0)
    assert len(joined(blocks)) == 60
    assert np.all(np.isnan(joined(blocks)[10:30]))


@pytest.mark.parametrize("kind", ["rectified", "envelope"])
def test_board_that_sends_no_raw_emg_is_refused(kind: str) -> None:
    bridge, _ = running(framed(10, info=replace(INFO, kind=kind)))
    assert bridge.problem(0.1) == f"the board sends {kind} EMG; expected raw EMG"


@pytest.mark.parametrize("kind", ["rectified", "envelope"])
def test_samples_that_are_no_raw_emg_are_not_handed_on(kind: str) -> None:
    _, blocks = running(framed(10, info=replace(INFO, kind=kind)))
    assert blocks == []


def test_board_that_is_switched_to_raw_emg_is_well() -> None:
    bridge, _ = running(framed(10, info=replace(INFO, kind="envelope")))
    for frame in framed(3, first_seq=10):
        bridge.feed(frame, 0.1)
    assert bridge.problem(0.1) is None


def test_samples_that_come_again_are_cut_off_their_block() -> None:
    codes = np.arange(400).reshape(-1, 1)
    bridge = Bridge(replace(BOARDS["chords"], uv_per_count=1.0))
    sent = chords.encode_frames(codes[:200], 0) + chords.encode_frames(codes[197:], 197)
    blocks = [b for k in range(0, len(sent), 60) for b in bridge.feed(sent[k : k + 60], k / 60 * 10 / 250)]
    values = joined(blocks)[:, 0]
    assert values.tolist() == list(range(len(values)))
    assert (bridge.counts.lost, bridge.counts.repeated) == (0, 3)
    assert bridge.counts.samples == len(values) >= 399


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_rate_is_unknown_for_three_seconds_and_its_problem_known_soon_after(factor: float) -> None:
    bridge, free, now_s = Bridge(OWN), Bridge(OWN, check_rate=False), 0.0
    for frame in framed(2000):
        now_s += 0.008 / factor
        bridge.feed(frame, now_s)
        free.feed(frame, now_s)
        assert free.rate_known
        if not bridge.rate_known:
            assert now_s < 3.2
        else:
            assert str(bridge.problem(now_s)).startswith("the board sends about")
    assert bridge.notes() == []


def test_what_the_board_says_of_itself_is_a_note() -> None:
    assert running(framed(2))[0].notes() == []
    bridge, _ = running(framed(2, info=replace(INFO, overruns=1, dropped=1)))
    assert [note.split(":")[0] for note in bridge.notes()] == [
        "the board is too slow for its rate", "the board could not send all its packets",
    ]  # fmt: skip


@pytest.mark.parametrize(("factor", "noted"), [(1.005, False), (1.012, True), (0.985, True)])
def test_a_rate_that_is_off_by_more_than_a_percent_is_a_note(factor: float, noted: bool) -> None:
    bridge, _ = running([])
    said: set[str] = set()
    for k, frame in enumerate(framed(3000)):
        bridge.feed(frame, k * 0.008 / factor)
        said.update(bridge.notes())
    assert len(said) == noted
    assert bridge.counts.measured_hz == pytest.approx(1000 * factor, rel=1e-4)
    assert bridge.problem(3000 * 0.008 / factor) is None


# Starting the board


def commands_of(bridge: Bridge, times_s: Iterable[float]) -> list[tuple[float, bytes]]:
    """Return what a bridge has to send at these times, where it has something."""
    return [(now_s, command) for now_s in times_s if (command := bridge.command(now_s))]


def test_start_command_is_repeated_until_samples_come() -> None:
    bridge = Bridge(OWN)
    bridge.connected(0.0)
    sent = commands_of(bridge, np.arange(0, 4, 0.125).tolist())
    assert sent == [(t, b"vb") for t in (0.375, 2.0, 3.625)]
    for frame in framed(1):
        bridge.feed(frame, 4.0)
    assert commands_of(bridge, (4.1, 5.0, 60.0)) == []
    bridge.connected(61.0)
    assert commands_of(bridge, (61.0, 61.5)) == [(61.5, b"vb")]


def test_board_that_sends_by_itself_is_not_disturbed() -> None:
    bridge = Bridge(BOARDS["chords"])
    bridge.connected(0.0)
    bridge.feed(chords.encode_frames(np.zeros((30, 3), np.int64), 0), 0.2)
    assert commands_of(bridge, (0.25, 0.3, 1.0, 10.0)) == []


def test_commands_of_a_board_go_out_one_by_one_and_again() -> None:
    bridge = Bridge(BOARDS["bitalino"], ("left", "right"))
    bridge.connected(0.0)
    assert [command for _, command in commands_of(bridge, np.arange(0, 4, 0.05).tolist())] == [
        b"\x00", b"\xc3", b"\x0d", b"\x00", b"\xc3", b"\x0d",
    ]  # fmt: skip


def test_board_without_a_start_command_is_sent_nothing() -> None:
    bridge = Bridge(LINES)
    bridge.connected(0.0)
    assert commands_of(bridge, (0.0, 1.0, 2.0, 10.0)) == []


def test_counts_say_what_came() -> None:
    frames = framed(10, info=replace(INFO, overruns=3, dropped=2))
    bridge, _ = running([*frames[:5], frames[6], frames[6], frames[8][:9] + b"x" + frames[8][10:], *frames[9:]])
    counts = bridge.counts
    assert (counts.samples, counts.lost, counts.repeated, counts.damaged) == (7 * 8, 3 * 8, 8, 1)
    assert counts.lost_pct == pytest.approx(30)
    assert (counts.overruns, counts.dropped, counts.restarts) == (3, 2, 0)


@given(boots=st.lists(st.integers(0, 3), min_size=1, max_size=6))
@steady
def test_blocks_never_overlap_however_often_the_board_starts_anew(boots: list[int]) -> None:
    bridge = Bridge(OWN)
    blocks, now_s = [], 0.0
    for boot in boots:
        info = encode_info(replace(INFO, boot_id=boot), 8)
        for frame in [info, *(encode_data(codes, k, k * 8000) for k, codes in enumerate(codes_of(5)))]:
            now_s += 0.008
            blocks += bridge.feed(frame, now_s)
    values = joined(blocks)  # fails on an overlap
    assert len(values) <= now_s * 1000 + 8 * len(boots)
    # Without another boot id, what comes again within a moment is taken for the same.
    assert 8 * len(blocks) + bridge.counts.repeated == 5 * 8 * len(boots)
