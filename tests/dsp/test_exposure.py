from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.chain import Chain, ChainSettings, Levels
from dsp.exposure import (
    ExposureSettings,
    Gaps,
    RecentRest,
    apdf,
    asymmetry,
    eva,
    exposure,
    gaps,
    pooled_levels,
    rest_pct,
    sides,
    sulma,
)
from dsp.reference import Calibration, verdict
from firmware_bridge.blocks import SampleBlock, Signal
from tests.dsp.signals import RATE_HZ, WHITE_KEPT, Array, steps, white

FRAME_S = 0.125
SIGNAL = Signal(RATE_HZ, ("left",), 0.05, (-1650.0, 1650.0))


def through_chain(x: Array) -> Array:
    """Exposure frames of one channel as the whole chain gives them."""
    messages = Chain(SIGNAL, ChainSettings()).process(SampleBlock(SIGNAL, 0, x.T))
    return np.asarray(np.concatenate([m.frames_uv for m in messages if isinstance(m, Levels)], axis=1)[0])


def square(seconds: float) -> Array:
    """A muscle that works for 2 s in every 8, in %RVE."""
    return np.tile(steps((2, 100), (6, 0), per_second=1 / FRAME_S), round(seconds / 8))


def test_a_muscle_that_works_a_quarter_of_the_time_rests_75_percent() -> None:
    assert rest_pct(square(80), 5.0, 0.6) == 75.0


def test_a_level_at_the_limit_is_not_rest() -> None:
    assert rest_pct(np.full(100, 5.0), 5.0, 0.6) == 0.0
    assert rest_pct(np.full(100, np.nextafter(5.0, 0.0)), 5.0, 0.6) == 100.0


def test_the_same_record_twice_rests_the_same_share() -> None:
    frames = np.abs(white(60, seed=1, rate_hz=8)[0]) * 6
    assert rest_pct(np.tile(frames, 2), 5.0, 0.6) == rest_pct(frames, 5.0, 0.6)


def test_invalid_frames_are_neither_rest_nor_activity() -> None:
    frames = square(80)
    holed = np.insert(frames, np.arange(0, len(frames), 4), np.nan)
    assert rest_pct(holed, 5.0, 0.6) == 75.0


def test_no_figure_from_too_little_valid_data() -> None:
    frames = np.full(100, 1.0)
    frames[60:] = np.nan
    assert rest_pct(frames, 5.0, 0.6) == 100.0
    frames[59] = np.nan
    assert rest_pct(frames, 5.0, 0.6) is None
    assert rest_pct(np.full(100, np.nan), 5.0, 0.0) is None
    assert rest_pct(np.empty(0), 5.0, 0.6) is None


def test_losing_5_percent_of_the_frames_changes_the_figure_by_less_than_a_point() -> None:
    rng = np.random.default_rng(2)
    frames = rng.lognormal(np.log(5), 1, 4800)
    holed = np.where(rng.random(4800) < 0.05, np.nan, frames)
    whole, most = rest_pct(frames, 5.0, 0.6), rest_pct(holed, 5.0, 0.6)
    assert whole is not None
    assert most is not None
    assert abs(most - whole) < 1


def test_10_s_of_zeros_through_the_chain_are_not_rest() -> None:
    assert rest_pct(through_chain(np.zeros((1, 10_000))), 5.0, 0.6) is None


@pytest.mark.parametrize("at", [20_000, 20_013, 20_049])
def test_a_sensor_that_falls_silent_does_not_add_rest(at: int) -> None:
    x = 20 * white(60, seed=3) / WHITE_KEPT
    x[:, at : at + 10_000] = 0.0
    frames = through_chain(x)
    assert rest_pct(frames, 5.0, 0.6) == 0.0
    assert np.isnan(frames[at // 125 + 1 : (at + 10_000) // 125]).all()


def test_rest_and_work_are_told_apart_through_the_chain() -> None:
    x = white(80, seed=4) / WHITE_KEPT * np.tile(steps((2, 60), (6, 2)), 10)
    assert rest_pct(through_chain(x), 10.0, 0.6) == pytest.approx(75, abs=1.5)


def recent(window_s: float = 10.0) -> RecentRest:
    return RecentRest([5.0, None], FRAME_S, ExposureSettings(window_s=window_s))


def test_recent_rest_is_unknown_until_its_window_is_full() -> None:
    rest = recent()
    for _ in range(79):
        rest.push(np.ones((2, 1)))
        assert rest.pct(0) is None
    rest.push(np.ones((2, 1)))
    assert rest.pct(0) == 100.0


def test_recent_rest_looks_back_over_its_window_and_no_further() -> None:
    rest = recent()
    rest.push(np.full((2, 200), 20.0))
    assert rest.pct(0) == 0.0
    rest.push(np.ones((2, 40)))
    assert rest.pct(0) == 50.0
    rest.push(np.ones((2, 40)))
    assert rest.pct(0) == 100.0


def test_recent_rest_does_not_depend_on_how_the_frames_arrive() -> None:
    frames = np.abs(white(40, seed=5, channels=2, rate_hz=8)) * 6
    at_once, one_by_one = recent(), recent()
    at_once.push(frames)
    for k in range(frames.shape[1]):
        one_by_one.push(frames[:, k : k + 1])
        one_by_one.push(np.empty((2, 0)))
    assert at_once.pct(0) is not None
    assert at_once.pct(0) == one_by_one.pct(0)


def test_recent_rest_is_unknown_where_most_of_the_window_is_lost_or_no_limit_is_known() -> None:
    rest = recent()
    frames = np.ones((2, 80))
    frames[:, :40] = np.nan
    rest.push(frames)
    assert rest.pct(0) is None
    assert rest.pct(1) is None
    rest.push(np.ones((2, 8)))
    assert rest.pct(0) == 100.0
    assert rest.pct(1) is None


frames_of_any_kind = st.lists(st.sampled_from([1.0, 4.9, 5.0, 20.0, float("nan")]), max_size=300)


@pytest.mark.parametrize("run_s", [0.125, 0.5])
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(values=frames_of_any_kind, ends=st.lists(st.integers(1, 299), max_size=10))
def test_streamed_rest_equals_that_of_the_record(run_s: float, values: list[float], ends: list[int]) -> None:
    limits = ExposureSettings(window_s=10, short_window_s=2, rest_run_s=run_s)
    rest, frames = RecentRest([5.0], FRAME_S, limits), np.array(values)
    run = round(run_s / FRAME_S)
    for a, b in pairwise(sorted({0, len(frames), *(e for e in ends if e < len(frames))})):
        rest.push(frames[None, a:b])
        seen = frames[:b]
        assert rest.pct(0) == (rest_pct(seen[-80:], 5.0, 0.6, run) if b >= 80 else None)
        assert rest.short_pct(0) == (rest_pct(seen[-16:], 5.0, 0.6, run) if b >= 16 else None)
        enough = np.isfinite(seen).sum() >= 80
        assert rest.session_pct(0) == (rest_pct(seen, 5.0, 0.6, run) if enough else None)


# EMG gaps

GAP_TRACE = np.repeat([3, 0.2, 3, 0.2, 3, 0.1, 3], [16, 2, 10, 1, 8, 3, 4]).astype(float)


def test_gaps_are_counted_timed_and_told_from_rest() -> None:
    found = gaps(GAP_TRACE, 0.5, FRAME_S)
    assert found is not None
    assert found.per_min == pytest.approx(21.818, abs=1e-3)
    assert found.time_pct == pytest.approx(11.364, abs=1e-3)
    assert found.longest_s == 0.375
    assert rest_pct(GAP_TRACE, 0.5, 0.6) == pytest.approx(13.636, abs=1e-3)


def test_a_gap_at_the_end_of_the_recording_counts_for_time_only() -> None:
    found = gaps(GAP_TRACE[:-4], 0.5, FRAME_S)
    assert found is not None
    assert (found.per_min, found.time_pct, found.longest_s) == pytest.approx((12.0, 12.5, 0.375))


def test_all_rest_is_one_gap_without_a_frequency_and_all_work_is_none() -> None:
    assert gaps(np.zeros(480), 0.5, FRAME_S) == Gaps(0.0, 0.0, 100.0, 60.0)
    assert gaps(np.ones(480), 0.5, FRAME_S) == Gaps(0.0, 0.0, 0.0, 0.0)
    assert gaps(np.full(480, np.nan), 0.5, FRAME_S) is None


def test_long_gaps_are_counted_apart_and_lost_data_end_a_gap() -> None:
    frames = np.repeat([3, 0.1, 3, 0.1, np.nan, 0.1, 3], [8, 17, 8, 3, 2, 3, 8]).astype(float)
    found = gaps(frames, 0.5, FRAME_S)
    assert found is not None
    minutes = (len(frames) - 2) * FRAME_S / 60
    assert found.long_per_min * minutes == pytest.approx(1)
    # What touches the lost data may be one gap or two.
    assert found.per_min * minutes == pytest.approx(0)
    assert found.time_pct == pytest.approx(100 * (17 + 3 + 3) / (len(frames) - 2))


def test_gap_frequency_is_highest_where_noise_straddles_the_limit() -> None:
    rng = np.random.default_rng(6)
    noise = np.sqrt(rng.chisquare(35, 80_000) / 35)  # RMS of 0.125 s of EMG
    rates = [found.per_min for level in (0.8, 1.0, 1.2) if (found := gaps(level * noise, 1.0, FRAME_S))]
    assert rates[1] > 5 * rates[0]
    assert rates[1] > 5 * rates[2]


# APDF, EVA, SULMA


def test_the_amplitude_distribution_of_known_records() -> None:
    assert apdf(np.linspace(0, 100, 1001)) == pytest.approx((10, 50, 90))
    assert apdf(GAP_TRACE) == pytest.approx((0.2, 3, 3))
    rng = np.random.default_rng(7)
    assert apdf(rng.lognormal(np.log(3), 1, 400_000)) == pytest.approx((0.833, 3.0, 10.81), rel=0.01)
    assert apdf(np.abs(rng.standard_normal(400_000))) == pytest.approx((0.126, 0.674, 1.645), rel=0.02)
    assert apdf(np.full(5, np.nan)) is None


def test_the_variation_of_a_record_of_two_levels() -> None:
    levels = np.tile(np.repeat([1.0, 5.0], [16, 32]), 10)
    table = eva(levels, FRAME_S, (0, 0.5, 2, 8), (0, 1, 3, 7, 15))
    expected = np.zeros((4, 5))
    expected[1, 1], expected[2, 2 + 0] = 100 / 3, 200 / 3
    assert table == pytest.approx(expected)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(values=frames_of_any_kind)
def test_the_variation_adds_up_to_the_valid_time(values: list[float]) -> None:
    table = eva(np.array(values), FRAME_S, (0, 5, 15), (0, 1, 3))
    assert table.sum() == pytest.approx(100 if np.isfinite(values).any() else 0)


def test_lost_data_cut_a_stretch_of_variation_in_two() -> None:
    levels = np.full(33, 10.0)
    levels[16] = np.nan
    table = eva(levels, FRAME_S, (0, 5), (0, 1, 3))
    assert table[1].tolist() == [0, 100, 0]


def test_sustained_activity_is_counted_by_its_length() -> None:
    parts = [np.repeat([1.0, 0.0], [round(s / FRAME_S), 8]) for s in (2, 12, 300, 1.0)]
    found = sulma(np.concatenate(parts)[: round(320 / FRAME_S)], FRAME_S, 0.5)
    assert found is not None
    assert found.counts == (1, 0, 1, 0, 0, 0, 1, 0, 0, 0)
    assert found.gt4min_pct == pytest.approx(93.75, abs=1.3)


def test_sustained_activity_of_exactly_320_s_has_the_share_of_its_four_minutes() -> None:
    levels = np.repeat([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [16, 8, 96, 8, 2400, 8, 8, 16])
    found = sulma(levels, FRAME_S, 0.5)
    assert found is not None
    assert found.counts == (1, 0, 1, 0, 0, 0, 1, 0, 0, 0)
    assert found.gt4min_pct == 93.75
    assert sum(found.time_pct) == pytest.approx(100 * 314 / 320)


def test_pooled_levels_are_pooled_by_power_and_need_most_of_their_frames() -> None:
    frames = np.array(
        [3, 4, 3, 4, 3, 4, 3, 4, 5, 5, 5, 5, 5, np.nan, np.nan, np.nan, 1, 1, np.nan, np.nan, np.nan, np.nan, 1, 1]
    )
    assert pooled_levels(frames, 8) == pytest.approx([3.5355, 5.0, np.nan], abs=1e-4, nan_ok=True)


# The report of a channel

HOUR = 28_800
WORN = Calibration((2.0, 2.0), (0.1, 0.1), (80.0, 60.0))


def test_a_day_has_every_measure() -> None:
    frames = np.random.default_rng(8).lognormal(np.log(6), 1, 24 * HOUR)
    seen = verdict(WORN, 0, 5.0, 0.05)
    found = exposure(frames, 0, FRAME_S, WORN, seen, ExposureSettings())
    assert found.why == {}
    assert found.rrt_pct is not None
    assert found.gaps is not None
    assert found.sulma is not None
    assert found.eva is not None
    assert found.eva.sum() == pytest.approx(100)


def test_levels_are_corrected_for_noise_before_they_are_compared() -> None:
    noisy = Calibration((3.0,), (3.0,), (80.0,))
    level = np.hypot(0.049 * np.sqrt(80**2 - 9), 3.0)
    assert noisy.rve(level, 0) == pytest.approx(4.9)
    assert noisy.rve(2.0, 0) == 0.0
    assert noisy.rve_of(np.array([level, np.nan]), 0) == pytest.approx([4.9, np.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("calibration", "step_uv", "frames", "names", "word"),
    [
        (Calibration((2.0,), (0.1,)), 0.05, np.ones(HOUR), "all", "no reference"),
        (Calibration((float("nan"),), (0.1,), (80.0,)), 0.05, np.ones(HOUR), "all", "no usable data"),
        (WORN, 0.05, np.ones(4799), "all", "10 min"),
        (WORN, 0.05, np.where(np.arange(HOUR) % 2, np.nan, 1.0), "all", "60 %"),
        (WORN, 3.2, np.ones(HOUR), "rest", "ADC step of 3.2"),
        (Calibration((3.0,), (2.5,), (80.0,)), 0.05, np.ones(HOUR), "rest", "noise of 2.5"),
        (Calibration((6.0,), (0.1,), (80.0,)), 0.05, np.ones(HOUR), "rest", "rest level of 6"),
    ],
)
def test_what_the_data_cannot_carry_is_null_and_says_why(
    calibration: Calibration, step_uv: float, frames: Array, names: str, word: str
) -> None:
    seen = verdict(calibration, 0, 5.0, step_uv)
    found = exposure(frames, 0, FRAME_S, calibration, seen, ExposureSettings())
    assert (found.rrt_pct, found.gaps, found.sulma, found.eva) == (None,) * 4
    assert (found.apdf_rve is None) == (names == "all")
    assert set(found.why) == {"rrt_pct", "gaps", "sulma", "eva"} | ({"apdf_rve"} if names == "all" else set())
    assert all(word in why for why in found.why.values())


# Two sides


def test_sides_are_known_by_their_names() -> None:
    assert sides(("left", "right")) == (0, 1)
    assert sides(("R_trapezius", "L_trapezius")) == (1, 0)
    assert sides(("emg right", "ecg", "EMG Left")) == (2, 0)
    assert sides(("left", "left2")) is None
    assert sides(("ch1", "ch2")) is None
    assert sides(("left_upper", "left_lower", "right")) is None


def test_the_side_that_works_more_is_said_in_percent_of_both() -> None:
    frames = np.stack([np.tile([24.0, 2.0], 300), np.tile([6.0, 6.0], 300)])
    frames[0, :100] = np.nan
    alone = asymmetry(frames, ("left", "right"), Calibration((2.0, 2.0), (0.0, 0.0)), ExposureSettings())
    assert alone is not None
    assert (alone.unit, alone.rest_points) == ("µV", None)
    assert alone.level_pct == pytest.approx(100 * (13 - 6) / (13 + 6))
    both = asymmetry(frames, ("left", "right"), WORN, ExposureSettings())
    assert both is not None
    assert both.unit == "%RVE"
    assert both.rest_points == pytest.approx(50.0)
    mirrored = asymmetry(
        frames[::-1], ("right", "left"), Calibration((2.0,) * 2, (0.1,) * 2, (60.0, 80.0)), ExposureSettings()
    )
    assert mirrored == both
    assert asymmetry(frames, ("a", "b"), WORN, ExposureSettings()) is None


def test_gaps_and_sustained_activity_need_a_rest_below_their_threshold() -> None:
    tense = Calibration((3.0,), (0.1,), (80.0,))
    found = exposure(np.full(HOUR, 2.0), 0, FRAME_S, tense, verdict(tense, 0, 5.0, 0.05), ExposureSettings())
    assert found.rrt_pct == 100.0
    assert (found.gaps, found.sulma) == (None, None)
    assert set(found.why) == {"gaps", "sulma"}
    assert "3.7 %RVE" in found.why["gaps"]
