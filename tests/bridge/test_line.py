import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.line import Line
from tests.bridge.helpers import Array, arrivals, steady

MS = 1e-3


def errors_ms(line: Line, packet_s: float, drift: float, arrived_s: Array, *, from_s: float) -> Array:
    """Return by how much the line puts each packet too late, in ms, from some second on."""
    true_s = np.arange(1, len(arrived_s) + 1) * packet_s * (1 + drift)
    found = np.empty(len(arrived_s))
    for k, at_s in enumerate(arrived_s):
        line.see((k + 1) * packet_s, float(at_s))
        found[k] = line.host((k + 1) * packet_s)
    return np.asarray((found - true_s)[round(from_s / packet_s) :] / MS)


# Ten minutes, with stalls of 10-100 ms; the goals leave room for other seeds.
@pytest.mark.parametrize("packet_s", [0.004, 0.008])
@pytest.mark.parametrize(
    ("drift", "poll_s", "sd_ms", "most_ms", "ppm"),
    [
        (40e-6, 0.0, 0.02, 0.1, 1),
        (3000e-6, 0.0, 0.02, 0.1, 1),
        (-10_000e-6, 0.0, 0.02, 0.1, 1),
        (3000e-6, 0.016, 0.5, 2.0, 20),
        (40e-6, 0.016, 4.0, 9.0, 100),  # packets of 8 ms beat with polls of 16 ms
    ],
)
def test_a_drifting_clock_is_followed_to_a_fraction_of_the_delays(
    packet_s: float, drift: float, poll_s: float, sd_ms: float, most_ms: float, ppm: float
) -> None:
    line = Line()
    wrong = errors_ms(line, packet_s, drift, arrivals(600, packet_s, drift, poll_s), from_s=60)
    assert wrong.std() < sd_ms
    assert abs(wrong).max() < most_ms
    assert (line.stretch - 1 - drift) * 1e6 == pytest.approx(0, abs=ppm)


@pytest.mark.parametrize("poll_s", [0.0, 0.016])
def test_a_resonator_that_is_half_a_percent_off_is_right_after_hours(poll_s: float) -> None:
    wrong = errors_ms(Line(), 0.064, 0.005, arrivals(2 * 3600, 0.064, 0.005, poll_s), from_s=60)
    assert abs(wrong).max() < 10


def test_nothing_is_known_before_the_first_arrival_and_its_delay_after_it() -> None:
    line = Line()
    assert (line.host(5.0), line.board(5.0), line.late(5.0, 9.0)) == (5.0, 5.0, 0.0)
    line.see(5.0, 105.25)
    assert (line.host(6.0), line.board(106.25), line.late(5.0, 105.5)) == (106.25, 6.0, 0.25)
    assert not line.fitted


def test_what_waited_is_late_and_does_not_move_the_line() -> None:
    line = Line()
    for k in range(1000):
        line.see(k / 100, 50 + k / 100)
    for k in range(1000, 1300):  # three seconds wait
        line.see(k / 100, 63.0)
    assert line.late(10.0, 63.0) == pytest.approx(3.0)
    assert line.host(13.0) == pytest.approx(63.0)


def test_another_connection_is_believed_at_once_and_as_steep_as_the_last() -> None:
    line = Line()
    for k in range(3000):
        line.see(k / 100, k / 100 * 1.005)
    line.restart()
    line.see(40.0, 90.0)
    assert line.host(41.0) == pytest.approx(91.005)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_another_rate_is_followed_within_seconds(factor: float) -> None:
    line, at_s = Line(), 0.0
    for k in range(20_000):
        at_s += 0.01 * (1.0 if k < 10_000 else factor)
        line.see(k / 100, at_s)
        if at_s > 100 + 20:
            break
    assert line.stretch == pytest.approx(factor, rel=0.02)


def test_a_recording_passes_as_fast_as_it_is_read() -> None:
    line = Line(follow=False)
    for k in range(1000):
        line.see(float(k), k / 50)
    assert line.stretch == 1
    assert line.host(999.0) == pytest.approx(999 / 50)


def test_memory_is_bounded() -> None:
    line = Line()
    sizes = []
    for k in range(20_000):
        line.see(k / 10, k / 10)
        sizes.append(len(pickle.dumps(line)) if k % 5000 == 4999 else 0)
    assert max(sizes) - sizes[4999] < 64


@given(came=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), min_size=1, max_size=90))
@steady
def test_there_and_back_is_where_one_was(came: list[tuple[float, float]]) -> None:
    line, board_s, host_s = Line(), 0.0, 1000.0
    for board_passed_s, host_passed_s in came:
        board_s, host_s = board_s + board_passed_s, host_s + host_passed_s
        line.see(board_s, host_s)
        assert line.stretch > 0
        assert line.board(line.host(board_s)) == pytest.approx(board_s, abs=1e-5)
