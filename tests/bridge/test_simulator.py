import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge import simulator
from firmware_bridge.blocks import SampleBlock
from firmware_bridge.boards import BOARDS, sends
from firmware_bridge.bridge import Bridge
from firmware_bridge.decoders.ascii_lines import AsciiDecoder
from firmware_bridge.decoders.framed import FramedDecoder
from firmware_bridge.packets import BadFrame, Info
from firmware_bridge.port import Port
from firmware_bridge.recordings import ReadOptions, RecordingError, open_recording
from firmware_bridge.simulator import Activity, PtyBoard, Timed, Wearer, ascii_stream, board_info, framed_stream
from tests.bridge.helpers import Array, joined, read_until, samples_in, steady

NAN = float("nan")


def quiet(*day: Activity, rate_hz: float = 1000.0, seed: int = 1) -> Wearer:
    """Return a wearer of whom nothing but EMG reaches the electrodes."""
    return Wearer(rate_hz, 2, seed, day, ecg_uv=0.0, mains_uv=0.0)


def rms(values: Array) -> list[float]:
    return [float(v) for v in np.sqrt(np.mean(values**2, axis=0))]


# The wearer


@given(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=8))
@steady
def test_same_seed_gives_the_same_samples_however_they_are_asked_for(sizes: list[int]) -> None:
    whole = Wearer(seed=7).samples(sum(sizes))
    wearer = Wearer(seed=7)
    pieces = [wearer.samples(n) for n in sizes]
    assert [len(piece) for piece in pieces] == sizes
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


def test_another_seed_gives_other_samples() -> None:
    assert not np.array_equal(Wearer(seed=1).samples(1000), Wearer(seed=2).samples(1000))


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("rate_hz", [500.0, 1000.0, 2000.0])
def test_samples_have_a_column_for_each_channel(channels: int, rate_hz: float) -> None:
    values = Wearer(rate_hz, channels).samples(321)
    assert values.shape == (321, channels)
    assert np.all(np.isfinite(values))


@pytest.mark.parametrize("rate_hz", [500.0, 1000.0, 2000.0])
def test_rest_has_the_level_of_rest_on_both_sides(rate_hz: float) -> None:
    values = quiet(simulator.REST, rate_hz=rate_hz).samples(round(60 * rate_hz))
    assert rms(values) == pytest.approx([2.5, 2.5], rel=0.05)


@pytest.mark.parametrize("rate_hz", [500.0, 1000.0, 2000.0])
def test_shrug_has_its_level_and_the_other_side_is_calmer(rate_hz: float) -> None:
    shrug = replace(simulator.SHRUG, seconds=60)
    values = quiet(shrug, rate_hz=rate_hz).samples(round(60 * rate_hz))
    held = values[round(rate_hz) : round(59 * rate_hz)]
    assert rms(held) == pytest.approx([60, 2.5 + 0.55 * 57.5], rel=0.05)


def test_activities_follow_each_other_and_the_day_repeats() -> None:
    wearer = quiet(Activity("rest", 4, 2.5), Activity("shrug", 6, 60))
    values = wearer.samples(25_000)[:, 0]
    for begin, level_uv, name in [(0, 2.5, "rest"), (4, 60, "shrug"), (10, 2.5, "rest"), (14, 60, "shrug")]:
        inside = values[(begin + 1) * 1000 : (begin + 3) * 1000]
        assert rms(inside[:, None]) == pytest.approx([level_uv], rel=0.2)
        assert wearer.activity(begin).name == wearer.activity(begin + 3.9).name == name


def test_bursts_come_and_go() -> None:
    values = quiet(Activity("taps", 60, 50, pulse_s=1.0)).samples(60_000)[:, 0].reshape(30, 2, 1000)[:, :, 300:700]
    on, off = (values[:, k].reshape(-1, 1) for k in (0, 1))
    assert rms(on) == pytest.approx([50], rel=0.1)
    assert rms(off) == pytest.approx([2.5], rel=0.1)


def test_emg_lies_where_muscles_are_heard() -> None:
    values = quiet(simulator.REST).samples(60_000)[:, 0]
    power = np.abs(np.fft.rfft(values.reshape(-1, 1000), axis=1)) ** 2
    share = np.cumsum(power.mean(axis=0)) / power.mean(axis=0).sum()
    assert 60 < int(np.searchsorted(share, 0.5)) < 120
    assert share[20] < 0.1
    assert share[400] > 0.95


@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
def test_mains_hum_has_its_frequency_and_size(mains_hz: float) -> None:
    values = Wearer(day=(simulator.REST,), ecg_uv=0.0, mains_uv=20.0, mains_hz=mains_hz).samples(10_000)
    spectrum = np.abs(np.fft.rfft(values[:, 0])) / 5000
    assert int(np.argmax(spectrum)) == round(10 * mains_hz)
    assert spectrum[round(10 * mains_hz)] == pytest.approx(20, rel=0.1)


def test_heart_beats_at_its_rate_on_both_sides() -> None:
    values = Wearer(day=(simulator.REST,), ecg_uv=200.0, heart_bpm=60.0, mains_uv=0.0).samples(10_000)
    for side in values.T:
        assert [int(np.argmax(side[k * 1000 - 500 : k * 1000 + 500])) for k in range(1, 10)] == pytest.approx(
            [500] * 9, abs=10
        )


def test_electrode_pop_and_movement_reach_the_electrodes() -> None:
    assert quiet(simulator.POP).samples(3000).max() == pytest.approx(3000, rel=0.02)
    assert quiet(simulator.MOVEMENT).samples(4000).max() == pytest.approx(600, rel=0.1)


# Streams


def taken(stream: Iterator[Timed], seconds: float) -> bytes:
    return b"".join(data for _, data in itertools.takewhile(lambda timed: timed[0] <= seconds, stream))


def test_framed_stream_describes_itself_every_second_and_keeps_time() -> None:
    stream = list(itertools.islice(framed_stream(quiet(simulator.REST)), 375))
    assert [at_s for at_s, _ in stream] == pytest.approx([0.008 * (k + 1) for k in range(375)])
    packets = FramedDecoder().feed(b"".join(data for _, data in stream))
    assert [k for k, packet in enumerate(packets) if isinstance(packet, Info)] == [0, 126, 252]
    assert packets[0] == board_info(quiet(simulator.REST))
    samples = samples_in(packets)
    assert [packet.seq for packet in samples] == list(range(375))
    assert [packet.device_us for packet in samples] == [8000 * k for k in range(375)]


def test_framed_stream_clips_like_an_adc() -> None:
    wearer = quiet(simulator.POP)
    codes = [packet.codes for packet in samples_in(FramedDecoder().feed(taken(framed_stream(wearer), 2.0)))]
    assert np.concatenate(codes).max() == 32767


def test_ascii_stream_prints_a_banner_and_a_line_for_every_sample() -> None:
    pieces = iter([(2, np.array([[1.0, 2.5], [NAN, -0.25]])), (5, np.array([[1e-7, 3e22]]))])
    stream = list(ascii_stream(pieces, 500.0, lines=2))
    assert b"".join(data for _, data in stream) == (
        b"Unshrug recording\r\nnan,nan\r\nnan,nan\r\n1,2.5\r\nnan,-0.25\r\nnan,nan\r\n1e-07,3e+22\r\n"
    )
    assert [at_s for at_s, _ in stream] == pytest.approx([0, 2 / 500, 4 / 500, 5 / 500, 6 / 500])


@given(
    pieces=st.lists(
        st.tuples(
            st.integers(0, 50), st.lists(st.tuples(*[st.floats(allow_infinity=False)] * 2), min_size=1, max_size=40)
        ),
        min_size=1,
        max_size=5,
    )
)
@steady
def test_ascii_stream_reads_back_to_the_same_bits(pieces: list[tuple[int, list[tuple[float, float]]]]) -> None:
    placed, at = [], 0
    for gap, values in pieces:
        placed.append((at + gap, np.array(values)))
        at += gap + len(values)
    expected = np.full((at, 2), np.nan)
    for start, codes in placed:
        expected[start : start + len(codes)] = np.where(np.isnan(codes), np.nan, codes)
    data = b"".join(data for _, data in ascii_stream(iter(placed), 500.0))
    got = np.concatenate([packet.codes for packet in samples_in(AsciiDecoder().feed(data))])
    assert got.tobytes() == expected.tobytes()


# The board


def listen(board: PtyBoard, bridge: Bridge, enough: Callable[[list[SampleBlock]], bool]) -> list[SampleBlock]:
    """Read the board through a port as the service does, until there is enough."""
    port = Port(board.path, bridge.board.baud)
    blocks: list[SampleBlock] = []
    now_s = itertools.count(0.0, 0.001)  # the stream is faster than time; the host's clock plays no part

    def more(data: bytes) -> None:
        now = next(now_s)
        port.write(bridge.command(now))
        blocks.extend(bridge.feed(data, now))

    try:
        bridge.connected(-1.0)  # it has listened long enough to see that the board waits for a command
        read_until(port, lambda _: port.connections == 1)
        more(b"")
        while not enough(blocks):
            more(read_until(port, bool))
    finally:
        port.close()
    return blocks


def until(end: int) -> Callable[[list[SampleBlock]], bool]:
    return lambda blocks: bool(blocks) and blocks[-1].end >= end


def test_board_sends_exactly_what_the_wearer_makes() -> None:
    wearer = Wearer(seed=3)
    with PtyBoard(framed_stream(Wearer(seed=3)), speed=100, patient=True) as board:
        values = joined(listen(board, Bridge(BOARDS["unshrug"], check_rate=False), until(20_000)))[:20_000]
    info = board_info(wearer)
    low, high = (code * info.uv_per_count for code in info.codes)
    made = np.clip(wearer.samples(20_000), low, high)
    assert np.max(np.abs(values - made)) <= info.uv_per_count / 2 * (1 + 1e-9)


def test_board_that_nobody_reads_drops_whole_frames_and_goes_on_counting() -> None:
    full, drained = threading.Event(), threading.Event()

    def stream() -> Iterator[Timed]:
        frames = framed_stream(quiet(simulator.REST))
        yield from itertools.islice(frames, 10_000)
        full.set()
        drained.wait(10)
        yield from itertools.islice(frames, 100)

    with PtyBoard(stream(), speed=1000) as board:
        port = Port(board.path, 115200)
        read_until(port, lambda _: port.connections == 1)
        port.write(b"b")
        assert full.wait(10)  # several times as much as fits has been sent by now, and nobody has read any of it
        data = b""
        while came := port.read():
            data += came
        drained.set()
        data += read_until(port, lambda came: len(came) > 50 * 44)
        port.close()
    packets = FramedDecoder().feed(data)
    samples = samples_in(packets)
    seqs = [packet.seq or 0 for packet in samples]
    assert not [packet for packet in packets if isinstance(packet, BadFrame)]
    assert seqs[0] == 0
    assert seqs == sorted(seqs)
    assert len(seqs) < 5000
    assert seqs[-1] > 10_000
    made = np.round(quiet(simulator.REST).samples(80_800) / board_info(quiet(simulator.REST)).uv_per_count)
    for packet, seq in zip(samples, seqs, strict=True):
        assert np.array_equal(packet.codes, made[seq * 8 : seq * 8 + 8])


def test_board_waits_for_the_start_command() -> None:
    begun = threading.Event()

    def stream() -> Iterator[Timed]:
        begun.set()
        yield 0.0, b"512\r\n"

    with PtyBoard(stream(), start=b"b") as board:
        port = Port(board.path, 115200)
        read_until(port, lambda _: port.connections == 1)
        port.write(b"vs")
        assert [port.read(), port.read()] == [b"", b""]
        assert not begun.is_set()
        port.write(b"b")
        assert read_until(port, lambda data: len(data) >= 5) == b"512\r\n"
        port.close()


def test_unplugged_board_is_noticed_at_once() -> None:
    with PtyBoard(framed_stream(quiet(simulator.REST))) as board:
        port = Port(board.path, 115200)
        read_until(port, lambda _: port.connections == 1)
        port.write(b"b")
        read_until(port, lambda data: len(data) > 100)
        board.unplug()
        read_until(port, lambda _: port.problem is not None)
        port.close()


@pytest.mark.parametrize("patient", [True, False])
def test_board_may_be_unplugged_while_it_sends_and_nobody_reads(patient: bool) -> None:
    flood: Iterator[Timed] = iter([(0.0, b"5" * 1_000_000)])
    board = PtyBoard(flood, patient=patient)
    port = Port(board.path, 115200)
    read_until(port, lambda _: port.connections == 1)
    port.write(b"b")
    board.unplug()
    board.unplug()
    port.close()
    assert board.error is None


def test_recording_that_turns_out_damaged_is_told_and_what_came_before_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "recording.csv"
    path.write_text("emg_uV\n" + "1.5\n" * 30 + "oops\n")
    recording = open_recording(path, ReadOptions(rate_hz=1000.0))
    reached: list[float] = []
    with PtyBoard(ascii_stream(recording.codes(), 1000.0), speed=1000, patient=True, on_sent=reached.append) as board:
        port = Port(board.path, 115200)
        read_until(port, lambda _: port.connections == 1)
        port.write(b"b")
        read_until(port, lambda _: board.finished)
        port.close()
    assert isinstance(board.error, RecordingError)
    assert "line 32, column emg_uV: 'oops'" in str(board.error)
    assert reached == sorted(reached)


def test_finished_board_has_told_how_far_it_came() -> None:
    reached: list[float] = []
    stream: list[Timed] = [(0.001 * k, b"512\r\n") for k in range(20)]
    with PtyBoard(iter(stream), patient=True, on_sent=reached.append) as board:
        port = Port(board.path, 115200)
        read_until(port, lambda _: port.connections == 1)
        assert not board.finished
        port.write(b"b")
        assert read_until(port, lambda data: len(data) >= 100) == b"512\r\n" * 20
        read_until(port, lambda _: board.finished)
        port.close()
    assert reached == [at_s for at_s, _ in stream]
    assert board.error is None


def test_speed_makes_the_stream_as_much_faster() -> None:
    reached: list[float] = []
    done = threading.Event()

    def note(at_s: float) -> None:
        reached.append(at_s)
        if at_s >= 60:
            done.set()

    with PtyBoard(((k * 0.1, b"x") for k in range(601)), start=b"b", speed=200, on_sent=note) as board:
        port = Port(board.path, 115200)
        read_until(port, lambda _: port.connections == 1)
        port.write(b"b")
        assert done.wait(10)  # a minute in a third of a second
        port.close()
    assert len(reached) == 601


# A recording through a port


@pytest.mark.parametrize("with_time", [True, False])
def test_recording_through_a_port_gives_the_same_bits(tmp_path: Path, with_time: bool) -> None:
    rng = np.random.default_rng(5)
    codes = rng.normal(512, 90, (6000, 2))
    codes[::2] = np.round(codes[::2])
    codes[rng.random(codes.shape) < 0.01] = np.nan
    codes[1000:1003] = np.nan
    places = np.arange(6000) + np.where(np.arange(6000) >= 2500, 321, 0) * with_time
    rows = [
        (f"{place / 1000:.3f}," if with_time else "") + f"{a!r},{b!r}".replace("nan", "")
        for place, (a, b) in zip(places.tolist(), codes.tolist(), strict=True)
    ]
    path = tmp_path / "recording.csv"
    path.write_text(("time_s," if with_time else "") + "left,right\n" + "\n".join(rows) + "\n")
    options = ReadOptions(None if with_time else 1000.0, board="myoware2-5v")
    recording = open_recording(path, options)
    direct = joined(list(recording.blocks()))
    assert len(direct) == places[-1] + 1
    assert np.count_nonzero(np.isnan(direct[:, 0])) > 321 * with_time

    played = replace(
        BOARDS["ascii"],
        rate_hz=recording.board.rate_hz,
        uv_per_count=recording.board.uv_per_count,
        adc_bits=recording.board.adc_bits,
        start=sends(b"b"),
    )
    bridge = Bridge(played, recording.signal.channels, check_rate=False)
    with PtyBoard(ascii_stream(recording.codes(), 1000.0), patient=True, speed=1000) as board:
        blocks = listen(board, bridge, until(len(direct)))
    assert joined(blocks).tobytes() == direct.tobytes()
    assert blocks[0].signal == recording.signal
    assert (bridge.counts.damaged, bridge.counts.lost) == (0, 0)
