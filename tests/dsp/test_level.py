from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import sosfreqz

from dsp.filters import FilterSettings, band_of, design
from dsp.level import RmsFrames
from dsp.reference import pooled
from tests.dsp.signals import RATE_HZ, Array, emg, emg_power, filtered, rms, same, white


def frames(x: Array, frame: int = 125, hops: int = 1, max_missing: float = 0.1) -> Array:
    return RmsFrames(frame, hops, len(x), max_missing).push(x)


def in_pieces(x: Array, ends: list[int], frame: int, hops: int) -> Array:
    meter = RmsFrames(frame, hops, len(x), 0.1)
    edges = [0, *sorted(e for e in ends if e <= x.shape[1]), x.shape[1]]
    return np.concatenate([meter.push(x[:, a:b]) for a, b in pairwise(edges)], axis=1)


def test_a_sine_has_its_rms() -> None:
    x = 3 * np.sin(2 * np.pi * 40 * np.arange(5000) / RATE_HZ)[None]
    assert frames(x) == pytest.approx(3 / np.sqrt(2), rel=1e-12)


def test_a_square_wave_has_its_amplitude() -> None:
    x = np.tile([7.0, -7.0], 2500)[None]
    assert frames(x) == pytest.approx(7, rel=1e-12)


def test_gaussian_noise_has_its_standard_deviation() -> None:
    assert pooled(frames(5 * white(300, seed=1))[0]) == pytest.approx(5, rel=0.005)


def test_frames_are_pooled_by_their_power() -> None:
    assert pooled(np.array([3.0, 4.0])) == pytest.approx(3.5355, abs=5e-5)
    x = np.concatenate([np.full(50, 3.0), np.full(50, 4.0)])[None]
    assert frames(x, 50, 2)[0, 1] == pytest.approx(3.5355, abs=5e-5)
    assert pooled(np.array([3.0, np.nan, 4.0])) == pytest.approx(3.5355, abs=5e-5)
    assert np.isnan(pooled(np.array([np.nan])))
    assert np.isnan(pooled(np.array([])))


def test_pooled_frames_equal_the_rms_of_the_whole() -> None:
    x = white(10, seed=2)
    assert pooled(frames(x)[0]) == pytest.approx(rms(x), rel=1e-12)


def bandwidth_hz(power: Array) -> float:
    """Statistical bandwidth of a power spectrum that covers 0 to 500 Hz after the default band-pass."""
    hz = np.linspace(0.01, 499.99, len(power))
    power = power * np.abs(sosfreqz(design(band_of(FilterSettings(), RATE_HZ), RATE_HZ), worN=hz, fs=RATE_HZ)[1]) ** 2
    return float(power.sum() ** 2 / (power**2).sum() * (hz[1] - hz[0]))


@pytest.mark.parametrize(
    ("seconds", "of_white"), [(0.1, 0.0764), (0.125, 0.068), (0.25, 0.048), (0.5, 0.034), (1.0, 0.024)]
)
def test_the_level_scatters_as_its_bandwidth_and_window_say(seconds: float, of_white: float) -> None:
    hz = np.linspace(0.01, 499.99, 100_001)
    for x, power in ((white(1200, seed=3), np.ones(len(hz))), (emg(1200, seed=4), emg_power(hz))):
        levels = frames(filtered(x)[:, 1000:], round(seconds * RATE_HZ))[0]
        expected = 1 / (2 * np.sqrt(bandwidth_hz(power) * seconds))
        assert levels.std() / levels.mean() == pytest.approx(expected, rel=0.06)
    assert 1 / (2 * np.sqrt(bandwidth_hz(np.ones(len(hz))) * seconds)) == pytest.approx(of_white, rel=0.02)


def test_a_level_looks_back_over_its_window_and_no_further() -> None:
    x = np.zeros((1, 1000))
    x[0, 500] = 10.0
    levels = frames(x, 50, 5)[0]
    assert np.flatnonzero(levels > 0).tolist() == [10, 11, 12, 13, 14]
    assert levels[10:15] == pytest.approx(10 / np.sqrt(250), rel=1e-12)


def test_levels_that_reach_back_before_the_first_sample_are_unknown() -> None:
    levels = frames(white(1, seed=5), 50, 5)[0]
    assert np.isnan(levels[:4]).all()
    assert np.isfinite(levels[4:]).all()


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    ends=st.lists(st.integers(0, 1800), max_size=30),
    holes=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1700), st.integers(1, 200)), max_size=5),
    shape=st.sampled_from([(125, 1), (50, 5), (1, 250), (12, 5), (7, 3)]),
)
def test_cut_anywhere_same_answer(ends: list[int], holes: list[tuple[int, int, int]], shape: tuple[int, int]) -> None:
    x = white(1.8, seed=6, channels=2)
    for channel, start, length in holes:
        x[channel, start : start + length] = np.nan
    assert same(in_pieces(x, ends, *shape), frames(x, *shape))


def test_every_channel_is_measured_as_if_it_were_alone() -> None:
    x = white(3, seed=7, channels=2)
    x[1, 700:1200] = np.nan
    assert same(frames(x, 50, 5)[:1], frames(x[:1], 50, 5))


def test_the_level_scales_with_the_signal() -> None:
    x = white(2, seed=8)
    assert frames(1000 * x, 50, 5)[0, 4:] == pytest.approx(1000 * frames(x, 50, 5)[0, 4:], rel=1e-12)


@pytest.mark.parametrize(("missing", "known"), [(1, True), (24, True), (25, True), (26, False), (250, False)])
def test_a_level_is_known_up_to_a_tenth_missing(missing: int, known: bool) -> None:
    x = np.full((1, 250), 4.0)
    x[0, :missing] = np.nan
    level = frames(x, 50, 5)[0, -1]
    assert level == pytest.approx(4, rel=1e-12) if known else np.isnan(level)


@pytest.mark.parametrize("window", [100, 250, 500])
def test_exactly_the_allowed_share_may_be_missing_whatever_it_is(window: int) -> None:
    wrong = []
    for pct in range(26):
        allowed = pct * window // 100
        if pct * window % 100:
            continue
        x = np.full((1, window), 4.0)
        x[0, :allowed] = np.nan
        known = bool(np.isfinite(frames(x, window, 1, pct / 100)[0, 0]))
        x[0, allowed] = np.nan
        too_much = bool(np.isfinite(frames(x, window, 1, pct / 100)[0, 0]))
        if not known or too_much:
            wrong.append(pct)
    assert wrong == []


def test_missing_samples_are_left_out_and_not_taken_as_zero() -> None:
    x = np.full((1, 1000), 4.0)
    x[0, 300:325] = x[0, 600:900] = np.nan
    levels = frames(x, 50, 5)[0]
    assert levels[np.isfinite(levels)] == pytest.approx(4, rel=1e-12)
    assert np.isfinite(levels[4:12]).all()
    assert np.isnan(levels[12:21]).all()


def test_an_artefact_is_forgotten_to_the_last_bit() -> None:
    x = white(2, seed=9)
    hit = x.copy()
    hit[0, 500] = 1e12
    assert same(frames(hit, 50, 5)[:, 15:], frames(x, 50, 5)[:, 15:])


def test_reset_forgets_everything() -> None:
    meter = RmsFrames(50, 5, 1, 0.1)
    meter.push(white(1.02, seed=10))
    meter.reset()
    x = white(1, seed=11)
    assert same(meter.push(x), frames(x, 50, 5))
