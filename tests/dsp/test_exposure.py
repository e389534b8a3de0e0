import numpy as np
import pytest

from dsp.chain import Chain, ChainSettings, Levels
from dsp.exposure import ExposureSettings, RecentRest, rest_pct
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
