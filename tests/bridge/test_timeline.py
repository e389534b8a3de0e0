import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.packets import Samples
from firmware_bridge.timeline import Timeline
from tests.bridge.helpers import Array, arrivals, steady

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


# Counters of other lengths, of packets and of samples


def counted(first: int, n: int, turn: int) -> Samples:
    """Return a packet of a board that counts samples, from `first` on; the codes are the true numbers."""
    return Samples(np.arange(first, first + n, dtype=float)[:, None], first % turn, steps=n)


@pytest.mark.parametrize("turn", [16, 256, 4096, 2**16])
@pytest.mark.parametrize("lost", [1, 5, 12])
def test_counter_of_samples_says_exactly_what_was_lost(turn: int, lost: int) -> None:
    timeline = Timeline(RATE_HZ, turn)
    first, starts = turn - 7, []
    for n in (3, 10, 4, 30, 5):
        starts.append((timeline.place(counted(first, n, turn), (first + n) / RATE_HZ), first - turn + 7))
        first += n + lost
    assert [start for start, _ in starts] == [true for _, true in starts]
    assert (timeline.lost, timeline.repeated) == (4 * lost, 0)


@pytest.mark.parametrize("turn", [16, 256, 4096, 2**16])
@pytest.mark.parametrize(("back", "n", "new"), [(3, 10, 7), (3, 3, 0), (6, 4, 0), (1, 1, 0)])
def test_what_came_before_is_counted_and_not_placed_again(turn: int, back: int, n: int, new: int) -> None:
    timeline = Timeline(RATE_HZ, turn)
    for first in range(0, 1000, 20):
        timeline.place(counted(first, 20, turn), (first + 20) / RATE_HZ)
    start = timeline.place(counted(1000 - back, n, turn), 1.002)
    assert start == (1000 if new else None)
    assert (timeline.next, timeline.repeated, timeline.lost) == (1000 + new, n - new, 0)
    assert timeline.place(counted(1000 + new, 5, turn), 1.02) == 1000 + new


@pytest.mark.parametrize(("turn", "lost"), [(16, 14), (256, 250)])
def test_almost_a_turn_is_lost_when_its_time_has_passed(turn: int, lost: int) -> None:
    timeline = Timeline(RATE_HZ, turn)
    for first in range(0, 1000, 2):
        timeline.place(counted(first, 2, turn), (first + 2) / RATE_HZ)
    assert timeline.place(counted(1000 + lost, 2, turn), (1002 + lost) / RATE_HZ) == 1000 + lost
    assert (timeline.lost, timeline.repeated) == (lost, 0)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("turn", [2**32, 2**36])
@pytest.mark.parametrize("off", [-0.004, 0.0, 0.004])
def test_clock_alone_says_what_was_lost(turn: int, off: float, each: bool) -> None:
    rng = np.random.default_rng(3)
    timeline, true, wrong = Timeline(RATE_HZ, clock_us=turn), 0, 0
    for k in range(3000):
        n, at_s = int(rng.integers(1, 40)), true / RATE_HZ
        if rng.random() < 0.02 and k > 1000:
            true += int(rng.integers(1, 200))
            at_s = true / RATE_HZ
        # The board's clock runs off its rate, and is read up to 0.2 ms late.
        times_s = at_s + np.arange(n) / RATE_HZ
        clock_us = turn - 10_000_000 + times_s * 1e6 * (1 + off) + rng.uniform(0, 200, n)
        times_us = clock_us.astype(np.int64) % turn
        made = Samples(np.zeros((n, 1)), device_us=int(times_us[0]), times_us=times_us if each else None)
        start = timeline.place(made, at_s + (n + 1) / RATE_HZ)
        assert start is not None
        wrong = max(wrong, abs(start - true))
        true += n
    assert wrong == 0
    assert timeline.lost > 1000


# Losses that neither counter nor clock tells


def placed(timeline: Timeline, n: int, turn: int | None, arrived_s: Array, losses: dict[int, int]) -> list[float]:
    """Place packets of `n` samples, leaving out some: so many from a packet on; return when losses were counted."""
    found, k = [], 0
    while k < len(arrived_s):
        k += losses.get(k, 0)
        made = counted(k * n, n, turn) if turn else packet(None, n=n)
        before = timeline.lost
        timeline.place(made, float(arrived_s[k]))
        found += [float(arrived_s[k])] if timeline.lost > before else []
        k += 1
    return found


@pytest.mark.parametrize("stalls", [(0.01, 0.1), (0.1, 0.5)])
@pytest.mark.parametrize("poll_s", [0.0, 0.016])
@pytest.mark.parametrize("drift", [40e-6, -0.01, 0.01])
@pytest.mark.parametrize(("n", "turn"), [(32, None), (8, None), (32, 16), (8, 256)])
def test_delay_and_drift_are_never_taken_for_a_loss(
    n: int, turn: int | None, drift: float, poll_s: float, stalls: tuple[float, float]
) -> None:
    minutes = 10 if n == 8 else 30  # eight hours in all
    timeline = Timeline(RATE_HZ, turn or 2**16)
    arrived_s = arrivals(minutes * 60, n / RATE_HZ, drift, poll_s, stalls)
    assert placed(timeline, n, turn, arrived_s, {}) == []
    assert (timeline.next, timeline.restarts, timeline.repeated) == (len(arrived_s) * n, 0, 0)
    assert timeline.measured_hz == pytest.approx(RATE_HZ / (1 + drift), rel=1e-4)


@pytest.mark.parametrize("poll_s", [0.0, 0.016])
@pytest.mark.parametrize("drift", [3000e-6, -0.01])
@pytest.mark.parametrize(
    ("n", "turn", "lost"), [(10, None, 50), (10, None, 1200), (4, 16, 16), (4, 16, 160), (8, 256, 256), (8, 256, 1280)]
)
def test_hidden_loss_is_found_within_seconds_and_to_some_samples(
    n: int, turn: int | None, lost: int, drift: float, poll_s: float
) -> None:
    timeline = Timeline(RATE_HZ, turn or 2**16)
    arrived_s = arrivals(300, n / RATE_HZ, drift, poll_s)
    at = [round(second * RATE_HZ / n) for second in (20.0, 47.3, 100.5, 200.9)]
    found = placed(timeline, n, turn, arrived_s, dict.fromkeys(at, lost // n))
    assert len(found) == len(at)
    assert all(0 < found_s - arrived_s[k] < 5 + lost / RATE_HZ for found_s, k in zip(found, at, strict=True))
    assert timeline.lost == (pytest.approx(4 * lost, abs=0 if turn else 8))


def test_a_slower_board_is_no_loss() -> None:
    timeline, at_s = Timeline(RATE_HZ), 0.0
    for k in range(40_000):
        at_s += PACKET_S * (1.0 if k < 10_000 else 1.03 if k < 20_000 else 0.97)
        timeline.place(packet(None), at_s)
    assert timeline.lost == 0


def test_a_small_counter_that_starts_anew_is_right_again_within_seconds() -> None:
    timeline, at_s = Timeline(RATE_HZ, 256), 0.0
    for k in range(5000):
        at_s += PACKET_S + (2.5 if k == 2500 else 0)  # the board was reset and took its time
        timeline.place(counted(k * N if k < 2500 else k * N + 77, N, 256), at_s)
    assert timeline.next / RATE_HZ == pytest.approx(at_s, abs=0.01)


def test_recording_that_is_read_by_fits_and_starts_has_no_losses() -> None:
    timeline, at_s = Timeline(RATE_HZ, live=False), 0.0
    for k in range(20_000):
        at_s += 0.0001 + (0.5 if k % 1000 == 0 else 0)
        timeline.place(packet(None), at_s)
    assert (timeline.lost, timeline.measured_hz) == (0, None)


@given(
    turn=st.sampled_from([16, 256, 4096, 2**16]),
    came=st.lists(st.tuples(st.integers(-20, 40), st.integers(1, 30), st.floats(0, 0.2)), min_size=1, max_size=60),
)
@steady
def test_no_sample_has_two_places_and_time_never_goes_back(turn: int, came: list[tuple[int, int, float]]) -> None:
    timeline, first, now_s, last = Timeline(RATE_HZ, turn), 100, 0.0, 0
    for jump, n, later_s in came:
        first, now_s = max(0, first + jump), now_s + later_s
        before = timeline.next, timeline.repeated
        start = timeline.place(counted(first, n, turn), now_s)
        new = 0 if start is None else timeline.next - start
        assert (start is None) == (timeline.next == before[0])
        assert 0 <= new <= n
        assert timeline.repeated - before[1] == n - new
        assert start is None or start >= last
        last, first = timeline.next, first + n


def test_first_verdict_on_the_rate_takes_three_seconds_and_gets_better() -> None:
    timeline, known = Timeline(500.0), {}
    for k, at_s in enumerate(arrivals(60, PACKET_S, 2e-4, 0.016)):
        timeline.place(packet(k), float(at_s))
        known[int(at_s)] = timeline.measured_hz
    assert known[2] is None
    assert known[4] == pytest.approx(1000, rel=0.02)
    assert known[59] == pytest.approx(1000 / 1.0002, rel=3e-4)
