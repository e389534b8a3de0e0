import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.packets import Samples
from firmware_bridge.timeline import Timeline
from tests.bridge.helpers import steady

RATE_HZ = 1000.0
N = 8
PACKET_S = N / RATE_HZ


def packet(seq: int | None, device_us: int | None = None, n: int = N) -> Samples:
    """Return a packet as it comes off the wire: counter and clock wrapped."""
    return Samples(
        np.zeros((n, 1)),
        None if seq is None else seq % 2**16,
        None if device_us is None else device_us % 2**32,
    )


def clocked(seq: int, device_us: int | None = None) -> Samples:
    """Return a packet whose clock goes with its counter."""
    return packet(seq, seq * 8000 if device_us is None else device_us)


def test_packets_in_order_follow_each_other() -> None:
    timeline = Timeline(RATE_HZ)
    assert [timeline.place(clocked(k), k * PACKET_S) for k in range(5)] == [0, 8, 16, 24, 32]
    assert (timeline.next, timeline.lost, timeline.repeated) == (40, 0, 0)


@pytest.mark.parametrize("with_clock", [True, False])
def test_counter_says_exactly_what_was_lost(with_clock: bool) -> None:
    timeline = Timeline(RATE_HZ)
    made = clocked if with_clock else packet
    starts = [timeline.place(made(k), k * PACKET_S) for k in (10, 11, 14, 15, 40)]
    assert starts == [0, 8, 32, 40, 240]
    assert timeline.lost == (2 + 24) * N


@pytest.mark.parametrize("with_clock", [True, False])
@pytest.mark.parametrize("lost", [0, 3, 40_000])
def test_counter_may_wrap(lost: int, with_clock: bool) -> None:
    timeline = Timeline(RATE_HZ)
    made = clocked if with_clock else packet
    first = 2**16 - 2
    starts = [timeline.place(made(k), k * PACKET_S) for k in (first, first + 1 + lost, first + 2 + lost)]
    assert starts == [0, (1 + lost) * N, (2 + lost) * N]
    assert timeline.lost == lost * N


@pytest.mark.parametrize("lost", [0, 5])
def test_device_clock_may_wrap(lost: int) -> None:
    timeline = Timeline(RATE_HZ)
    first_us = 2**32 - 12_000
    places = (0, 1, 2 + lost, 3 + lost)
    # All come at once, so that the host's clock is of no help.
    starts = [timeline.place(packet(k, first_us + k * 8000), 0.0) for k in places]
    assert starts == [k * N for k in places]
    assert timeline.lost == lost * N


@pytest.mark.parametrize("lost", [2**16 - 1, 2**16, 2**16 + 7, 3 * 2**16 + 1])
def test_device_clock_tells_how_often_the_counter_wrapped(lost: int) -> None:
    timeline = Timeline(RATE_HZ)
    timeline.place(clocked(0), 0.0)
    assert timeline.place(clocked(1 + lost), (1 + lost) * PACKET_S) == (1 + lost) * N
    assert timeline.lost == lost * N


def test_packet_that_comes_again_is_counted_and_has_no_place() -> None:
    timeline = Timeline(RATE_HZ)
    timeline.place(clocked(5), 0.0)
    assert timeline.place(clocked(5), 0.001) is None
    assert timeline.place(clocked(6), PACKET_S) == N
    assert (timeline.next, timeline.lost, timeline.repeated) == (2 * N, 0, N)


@pytest.mark.parametrize(("before", "after"), [(5, 0), (40_000, 0), (65_530, 2), (40_000, 7)])
def test_board_that_starts_anew_is_placed_by_the_host_clock(before: int, after: int) -> None:
    timeline = Timeline(RATE_HZ)
    timeline.place(clocked(before), 100.0)
    start = timeline.place(clocked(after), 103.0)
    assert start == 3000
    assert timeline.lost == 3000 - N
    assert timeline.place(clocked(after + 1), 103.0 + PACKET_S) == 3000 + N


@pytest.mark.parametrize("hours", [1, 8, 24, 100])
def test_board_that_starts_anew_after_many_hours_is_placed_by_the_host_clock(hours: int) -> None:
    timeline = Timeline(RATE_HZ)
    last = hours * 3600 * 125
    for k in range(0, last + 1, 12_500):
        timeline.place(clocked(k), k * PACKET_S)
    assert timeline.place(clocked(0), last * PACKET_S + 1.0) == last * N + 1000


def test_board_that_starts_anew_at_once_loses_nothing() -> None:
    timeline = Timeline(RATE_HZ)
    timeline.place(clocked(500), 10.0)
    assert timeline.place(clocked(0), 10.0 + PACKET_S) == N
    assert timeline.lost == 0


@pytest.mark.parametrize("with_counter", [True, False])
def test_time_without_a_connection_is_lost_by_the_host_clock(with_counter: bool) -> None:
    timeline = Timeline(RATE_HZ)
    timeline.place(packet(100 if with_counter else None), 50.0)
    timeline.restart()
    # The counter goes on as if nothing had been lost, but says nothing about another connection.
    assert timeline.place(packet(101 if with_counter else None), 55.0) == 5000
    assert timeline.lost == 5000 - N


def test_stream_begins_with_nothing_lost() -> None:
    timeline = Timeline(RATE_HZ)
    timeline.restart()
    assert timeline.place(clocked(700), 1e6) == 0
    assert timeline.lost == 0


def test_without_a_counter_packets_follow_each_other_and_losses_are_told() -> None:
    timeline = Timeline(RATE_HZ)
    assert timeline.place(packet(None, n=3), 0.0) == 0
    timeline.lose(1)
    assert timeline.place(packet(None, n=5), 2.0) == 4
    assert timeline.place(packet(None, n=5), 2.0) == 9
    assert timeline.lost == 1


@given(
    came=st.lists(
        st.tuples(
            st.integers(0, 2**16 - 1) | st.integers(0, 50),
            st.integers(0, 2**32 - 1) | st.integers(0, 400_000) | st.none(),
            st.integers(1, 15),
            st.floats(0, 5) | st.just(0.0),
            st.booleans(),
        ),
        max_size=30,
    )
)
@steady
def test_no_counter_and_no_clock_lose_samples_faster_than_time_passes(
    came: list[tuple[int, int | None, int, float, bool]],
) -> None:
    timeline = Timeline(RATE_HZ)
    now_s = 0.0
    for k, (seq, device_us, n, later_s, restart) in enumerate(came):
        if restart:
            timeline.restart()
        now_s += later_s
        end, lost = timeline.next, timeline.lost
        start = timeline.place(packet(seq, device_us, n), now_s)
        if start is None:
            assert timeline.next == end
            continue
        assert start >= end
        assert timeline.next == start + n
        assert timeline.lost - lost == start - end
        # Two seconds of grace: what a stalled reader finds in its buffer was lost at another time.
        assert timeline.lost <= now_s * RATE_HZ + 2 * RATE_HZ * (k + 1)


@pytest.mark.parametrize("with_clock", [True, False])
def test_gap_behind_a_stalled_reader_keeps_its_length(with_clock: bool) -> None:
    # The buffer holds what came first; the rest of a minute found no room, and then the board goes on.
    timeline = Timeline(RATE_HZ)
    made = clocked if with_clock else packet
    timeline.place(made(0), 0.0)
    for k in range(1, 400):
        timeline.place(made(k), 60.0)
    assert timeline.place(made(7500), 60.0) == 60_000
    assert timeline.lost == 60_000 - 400 * N


def test_counter_that_outruns_time_is_not_believed() -> None:
    timeline = Timeline(RATE_HZ)
    for k in range(100):
        timeline.place(clocked(k), k * PACKET_S)
    assert timeline.place(clocked(1100), 100 * PACKET_S) == 100 * N
    assert timeline.lost == 0


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.3])
@pytest.mark.parametrize("with_counter", [True, False])
def test_rate_is_measured_against_the_host_clock(factor: float, with_counter: bool) -> None:
    timeline = Timeline(RATE_HZ)
    for k in range(2000):
        now_s = k * PACKET_S / factor
        timeline.place(packet(k if with_counter else None), now_s)
        if not 3 <= now_s < 3.1:
            assert (timeline.measured_hz is None) == (now_s < 3)
        if now_s > 11:
            break
    assert timeline.measured_hz == pytest.approx(factor * RATE_HZ, rel=0.01)


def test_lost_samples_do_not_make_the_rate_look_slow() -> None:
    timeline = Timeline(RATE_HZ)
    for k in range(0, 1400, 2):
        timeline.place(clocked(k), k * PACKET_S)
    assert timeline.measured_hz == pytest.approx(RATE_HZ, rel=0.01)


def test_rate_is_measured_anew_after_a_restart() -> None:
    timeline = Timeline(RATE_HZ)
    for k in range(1400):
        timeline.place(clocked(k), k * PACKET_S)
    timeline.restart()
    assert timeline.measured_hz is None
    for k in range(1400):
        timeline.place(clocked(k), 100 + k * PACKET_S * 2)
    assert timeline.measured_hz == pytest.approx(RATE_HZ / 2, rel=0.01)


def test_another_rate_keeps_the_time_reached() -> None:
    timeline = Timeline(RATE_HZ)
    for k in range(250):
        timeline.place(clocked(k), k * PACKET_S)
    timeline.change_rate(500.0)
    assert timeline.next == 1000
    assert timeline.place(packet(0, 0), 249 * PACKET_S + 2 * PACKET_S) == 1000
