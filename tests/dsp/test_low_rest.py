"""Minutes without rest are found, from when to when, and nothing is made of lost data."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.low_rest import LowRest, LowRestDetector, LowRestSettings
from tests.dsp.signals import Array, steps

FRAME_S = 0.125
PER_S = 8
REST, ACTIVE = 4.0, 2.4  # 5 and 3 %RVE of 80 µV


def detector(start_s: float = 0.0, limits: LowRestSettings | None = None) -> LowRestDetector:
    return LowRestDetector(0, REST, ACTIVE, limits or LowRestSettings(), FRAME_S, start_s=start_s)


def find(frames: Array, ends: list[int] | None = None, one: LowRestDetector | None = None) -> list[LowRest]:
    one = one or detector()
    edges = sorted({0, len(frames), *(e for e in ends or [] if e < len(frames))})
    out = [m for a, b in pairwise(edges) for m in one.push(frames[a:b])]
    return out + one.finish()


def minutes(*parts: tuple[float, float]) -> Array:
    """Frames from (seconds, µV) pieces."""
    return steps(*parts, per_second=PER_S)


def test_activity_without_rest_is_found_from_its_start_to_its_end() -> None:
    started, ended = find(minutes((100, 2), (200, 8), (100, 2)))
    assert (started.phase, started.start_s, started.end_s) == ("started", 100.0, None)
    # Rest falls below 20 % 48 s after the start, and stays there for 60 s more.
    assert started.at_s == pytest.approx(100 + 48 + 60, abs=2.1)
    assert (ended.phase, ended.start_s, ended.end_s) == ("ended", 100.0, 300.0)
    # 18 s of rest are 30 % of a minute.
    assert ended.at_s == pytest.approx(318, abs=1.1)
    assert (ended.mean_uv, ended.peak_uv, ended.valid_fraction) == pytest.approx((8.0, 8.0, 1.0), rel=0.1)
    assert not ended.truncated


def test_activity_from_the_first_frame_on_begins_there() -> None:
    started = find(minutes((150, 8), (60, 2)))[0]
    assert (started.start_s, started.at_s) == (0.0, 120.0)


def test_a_minute_and_a_half_is_none() -> None:
    assert find(minutes((100, 2), (94, 8), (100, 2))) == []


def test_rest_in_small_pieces_is_rest() -> None:
    work = np.tile(np.repeat([8.0, 2.0], [6 * PER_S, 2 * PER_S]), 40)  # 25 % rest
    assert find(work) == []
    tense = np.tile(np.repeat([8.0, 2.0], [7 * PER_S, PER_S]), 40)  # 12.5 %
    assert [m.phase for m in find(tense)] == ["started", "ended"]


def test_a_little_rest_does_not_end_it() -> None:
    frames = minutes((60, 2), (180, 8), (15, 2), (100, 8), (60, 2))
    assert [(m.start_s, m.end_s) for m in find(frames) if m.phase == "ended"] == [(60.0, 355.0)]


def test_uninterrupted_low_activity_of_four_minutes_is_found_though_it_is_below_the_rest_level() -> None:
    frames = minutes((30, 1), (300, 3), (60, 1))
    started, ended = find(frames)
    assert (started.start_s, started.at_s) == (30.0, 270.0)
    assert (ended.start_s, ended.end_s, ended.at_s) == (30.0, 330.0, 331.0)
    assert find(minutes((30, 1), (239, 3), (60, 1))) == []
    assert find(minutes((30, 1), (200, 3), (1, 1), (200, 3), (60, 1))) == []


def test_lost_data_end_it_and_are_no_activity() -> None:
    frames = minutes((30, 2), (200, 8), (60, np.nan), (60, 2))
    _, ended = find(frames)
    assert ended.truncated
    assert ended.end_s == 230.0
    assert ended.at_s == pytest.approx(254, abs=1.1)
    assert find(np.where(np.arange(4800) % 2 == 0, np.nan, 8.0)) == []
    assert find(np.full(4800, np.nan)) == []


def test_a_few_lost_frames_change_nothing() -> None:
    frames = minutes((100, 2), (200, 8), (100, 2))
    frames[::20] = np.nan
    _, ended = find(frames)
    assert (ended.start_s, ended.end_s) == pytest.approx((100, 300), abs=0.3)
    assert ended.valid_fraction == pytest.approx(1.0)
    assert not ended.truncated


def test_what_is_on_at_the_end_is_cut_off_there() -> None:
    _, ended = find(minutes((10, 2), (200, 8)))
    assert (ended.truncated, ended.end_s, ended.at_s) == (True, 210.0, 210.0)


def test_times_count_from_where_the_frames_begin() -> None:
    frames = minutes((100, 2), (200, 8), (100, 2))
    assert [m.start_s for m in find(frames, one=detector(3600.0))] == [3700.0, 3700.0]


def test_what_may_still_come_is_known() -> None:
    one = detector()
    one.push(minutes((100, 2), (20, 30)))
    assert one.pending_since_s == 100.0
    one.push(minutes((14, 2)))
    # 14 s of rest are more than a low window may hold, so nothing reaches back over them.
    assert one.pending_since_s == 134.0
    one.push(minutes((200, 8)))
    assert one.pending_since_s == 134.0


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    parts=st.lists(
        st.tuples(st.integers(1, 150), st.sampled_from([1.0, 3.0, 8.0, float("nan")])), min_size=1, max_size=8
    ),
    ends=st.lists(st.integers(1, 9599), max_size=30),
)
def test_cut_anywhere_same_answer_and_never_before_it_was_pending(
    parts: list[tuple[int, float]], ends: list[int]
) -> None:
    frames = minutes(*((float(s), uv) for s, uv in parts))
    whole = find(frames)
    assert find(frames, ends) == whole
    one = detector()
    pending = 0.0
    for k in range(0, len(frames), PER_S):
        for message in one.push(frames[k : k + PER_S]):
            assert message.phase == "ended" or message.start_s >= pending - 1e-9
        pending = one.pending_since_s
    for message in whole:
        assert message.start_s < message.at_s
        assert message.end_s is None or message.start_s < message.end_s <= message.at_s


def test_memory_is_bounded() -> None:
    one = detector()
    sizes = []
    for _ in range(20):
        one.push(minutes((100, 2), (400, 8), (100, 1)))
        sizes.append(len(pickle.dumps(one)))
    assert max(sizes) - min(sizes[1:]) < 100
    assert max(sizes) < 30_000


@pytest.mark.parametrize("rate_hz", [200.0, 250.0, 333.0])
def test_frames_of_odd_lengths_give_the_same_times(rate_hz: float) -> None:
    frame_s = round(0.125 * rate_hz) / rate_hz
    one = LowRestDetector(0, REST, ACTIVE, LowRestSettings(), frame_s)
    out = one.push(steps((100, 2), (200, 8), (100, 2), per_second=1 / frame_s)) + one.finish()
    assert [(m.start_s, m.end_s) for m in out if m.phase == "ended"] == [pytest.approx((100, 300), abs=0.3)]
