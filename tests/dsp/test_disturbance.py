"""What disturbs the EMG is named, bad seconds are told from good ones, and the notch comes by rule."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsp.disturbance import FilteredChecks, Findings, Survey
from dsp.filters import Band, BandPass, ChangingBandPass, FilterSettings, band_of
from dsp.quality import REASONS, Counts, QualitySettings, Reason
from firmware_bridge.blocks import Signal
from firmware_bridge.simulator import emg_taps
from tests.dsp.signals import RATE_HZ, Array, emg, filtered, heart, rms, same, steps, white

DEFAULT = FilterSettings()


def survey_of(rate_hz: float = RATE_HZ, mains: str = "auto", rails: tuple[float, float] | None = (-5e4, 5e4)) -> Survey:
    filters = FilterSettings(mains=mains)
    signal = Signal(rate_hz, ("left",), 0.05, rails)
    return Survey(signal, QualitySettings(), filters, band_of(filters, rate_hz), round(rate_hz))


def no_beats(x: Array, samples: int = 1000, before: int = 0) -> NDArray[np.bool_]:
    """For each block that these samples complete, that no heartbeat disturbs."""
    return np.zeros((len(x), (before + x.shape[1]) // samples - before // samples), dtype=np.bool_)


def surveyed(
    x: Array, rate_hz: float = RATE_HZ, mains: str = "auto", rails: tuple[float, float] | None = (-5e4, 5e4)
) -> Findings:
    return survey_of(rate_hz, mains, rails).push(x, no_beats(x, round(rate_hz)))


def grades(codes: Counts, reason: Reason) -> list[int]:
    """0 ok, 1 warn, 2 bad, of the first channel's blocks."""
    return [int(g) for g in codes[0] >> 2 * REASONS.index(reason) & 3]


def hum(seconds: float, uv_rms: float, hz: float = 50.0, rate_hz: float = RATE_HZ, third: float = 0.0) -> Array:
    t = 2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz
    return np.asarray(np.sqrt(2) * uv_rms * (np.sin(t) + third * np.sin(3 * t)))[None]


def slow_emg(seconds: float, rate_hz: float, seed: int) -> Array:
    noise = white(seconds + 2, seed, rate_hz=rate_hz)[0]
    return np.convolve(noise, emg_taps(rate_hz), mode="valid")[None, : round(seconds * rate_hz)]


# Mains


@pytest.mark.parametrize("hz", [50.0, 60.0, 49.9, 60.05])
@pytest.mark.parametrize(("ratio_db", "grade"), [(12.0, 0), (6.0, 1), (0.0, 1), (-6.0, 1), (-14.0, 2)])
def test_mains_is_graded_by_signal_over_hum(hz: float, ratio_db: float, grade: int) -> None:
    x = emg(60, seed=1) * 20 + hum(60, 20 * 10 ** (-ratio_db / 20), hz)
    found = grades(surveyed(x).codes, "mains")
    assert found.count(grade) >= 0.75 * len(found)


def test_signal_over_hum_is_measured_to_1_db() -> None:
    x = emg(120, seed=2) * 20 + hum(120, 20)
    for limit, few in ((-1.0, True), (1.0, False)):
        limits = QualitySettings(mains_warn_db=limit + 100, mains_bad_db=limit)
        signal = Signal(RATE_HZ, ("left",), 0.05)
        survey = Survey(signal, limits, DEFAULT, Band(1.0, 499.0), 1000)
        bad = grades(survey.push(x, no_beats(x)).codes, "mains").count(2)
        assert (bad < 40) == few


@pytest.mark.parametrize("rate_hz", [200.0, 250.0, 500.0, 1000.0, 2000.0])
def test_emg_alone_is_hardly_ever_taken_for_mains_and_never_gets_a_notch(rate_hz: float) -> None:
    found = surveyed(5 * slow_emg(900, rate_hz, seed=3), rate_hz)
    assert sum(map(bool, grades(found.codes, "mains"))) < 0.03 * 900
    assert found.changes == ()


@pytest.mark.parametrize("rate_hz", [200.0, 500.0, 1000.0])
@pytest.mark.parametrize("hz", [50.0, 60.0])
def test_the_notch_comes_on_after_five_seconds_of_strong_hum(rate_hz: float, hz: float) -> None:
    x = 2.5 * slow_emg(30, rate_hz, seed=4) + hum(30, 3.5, hz, rate_hz)
    changes = surveyed(x, rate_hz).changes
    assert [(blocks, band.notches_hz) for blocks, band in changes] == [(5, (hz,))]


def test_only_the_harmonics_that_are_strong_get_a_notch_and_a_late_one_gets_it_late() -> None:
    x = 2.5 * emg(60, seed=5) + hum(60, 3, third=0.5)
    x[:, 30_000:] += hum(30, 2, 250.0)
    changes = surveyed(x).changes
    assert [band.notches_hz for _, band in changes] == [(50.0, 150.0), (50.0, 150.0, 250.0)]
    assert changes[1][0] in (35, 40)


def test_hum_under_a_contraction_or_of_a_moment_gets_no_notch() -> None:
    level = steps((30, 60), (30, 2.5))
    x = emg(60, seed=6) * level
    x[:, :30_000] += hum(30, 6)
    x[:, 40_000:43_000] += hum(3, 6)
    assert surveyed(x).changes == ()


def test_mains_can_be_told_and_left_alone() -> None:
    x = 2.5 * emg(30, seed=7) + hum(30, 3.5, 60.0)
    assert surveyed(x, mains="off").changes == ()
    assert set(grades(surveyed(x, mains="off").codes, "mains")) == {1}
    assert surveyed(x, mains="50").changes == ()


# Drift, movement, a loose electrode


@pytest.mark.parametrize(("uv_rms", "grade"), [(50.0, 0), (200.0, 1), (800.0, 2)])
def test_drift_is_graded(uv_rms: float, grade: int) -> None:
    x = 20 * emg(10, seed=8) + hum(10, uv_rms, 2.0)
    assert set(grades(surveyed(x).codes, "motion")) == {grade}


def test_movement_that_comes_through_the_high_pass_is_bad_though_it_is_small() -> None:
    x = 2 * emg(10, seed=9) + hum(10, 60, 17.0)
    assert set(grades(surveyed(x).codes, "motion")) == {2}
    assert set(grades(surveyed(2 * emg(10, seed=9)).codes, "motion")) == {0}


def test_a_loose_electrode_is_bad_from_its_second_second_on() -> None:
    x = 3 * emg(10, seed=10)
    loose = hum(10, 1100) + hum(10, 900, 0.7)
    x[:, 4000:] += loose[:, 4000:]
    assert grades(surveyed(x).codes, "lead_off") == [0] * 5 + [2] * 5


def test_a_strong_contraction_is_no_loose_electrode() -> None:
    assert set(grades(surveyed(1500 * emg(10, seed=11)).codes, "lead_off")) == {0}


# Clipping without a known range


@pytest.mark.parametrize(("limit", "grade"), [(1000.0, 0), (150.0, 1), (50.0, 2)])
def test_clipping_is_seen_though_the_range_is_not_known(limit: float, grade: int) -> None:
    x = np.clip(100 * emg(20, seed=12), -limit, limit)
    found = grades(surveyed(x, rails=None).codes, "saturation")
    assert max(set(found), key=found.count) == grade


@pytest.mark.parametrize("step", [0.05, 3.2, 24.4])
def test_a_coarse_adc_and_a_slow_crest_are_no_clipping(step: float) -> None:
    x = np.round((5 * emg(20, seed=13) + hum(20, 60, 0.3) + hum(20, 5)) / step) * step
    assert set(grades(surveyed(x, rails=None).codes, "saturation")) == {0}


# Lost samples


def test_a_second_with_a_few_lost_samples_is_judged_and_one_with_many_is_not() -> None:
    x = emg(10, seed=14) * 2 + hum(10, 20)
    x[:, 2000:2050] = np.nan
    x[:, 6000:6300] = np.nan
    assert grades(surveyed(x).codes, "mains") == [2] * 6 + [0] + [2] * 3


def test_nothing_but_lost_samples_is_judged_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = np.full((1, 200_000), np.nan)
        assert not surveyed(x).codes.any()
        assert not FilteredChecks(1, RATE_HZ, QualitySettings(), 1000).push(x).any()


# The filtered signal


def checked(y: Array, rest_uv: float = 2.0) -> Counts:
    checks = FilteredChecks(len(y), RATE_HZ, QualitySettings(), 1000)
    checks.calibrate((rest_uv,) * len(y))
    return checks.push(y)


def test_spikes_are_counted_and_many_are_bad() -> None:
    y = 2 * emg(30, seed=15)
    y[0, 5500:5505] += 60
    y[0, 10_050:15_000:125] += 80
    found = grades(checked(y), "noise")
    assert found[5] == 1
    assert found[10:15] == [2] * 5
    assert found.count(0) >= 22


@pytest.mark.parametrize("pulse_s", [0.1, 0.35, 1.0])
def test_bursts_of_emg_are_no_spikes(pulse_s: float) -> None:
    level = steps(*[(pulse_s, 2), (pulse_s, 30)] * round(15 / pulse_s))
    y = filtered(emg(31, seed=16)[:, : len(level)] * level)
    assert 2 not in grades(checked(np.nan_to_num(y)), "noise")


def test_spikes_on_the_edge_of_a_second_are_seen() -> None:
    y = 2 * emg(10, seed=17)
    y[0, 4998:5002] += 60
    assert sum(grades(checked(y), "noise")) == 1


def test_a_level_far_below_rest_is_a_dead_channel() -> None:
    y = emg(20, seed=18) * steps((10, 2.0), (10, 0.2))
    assert grades(checked(y), "flat") == [0] * 10 + [2] * 10


def test_a_quietest_level_that_is_loud_is_noise_after_a_minute() -> None:
    found = grades(checked(8 * emg(200, seed=19), rest_uv=8.0), "noise")
    assert not any(found[:59])
    assert all(found[60:])
    assert not any(grades(checked(4 * emg(200, seed=19), rest_uv=4.0), "noise"))


def test_the_floor_is_that_of_the_last_ten_minutes() -> None:
    level = steps((40, 2), (890, 8), per_second=1)
    y = np.repeat(level, 1000)[None] * np.tile(np.array([1.0, -1.0]), 465_000)
    found = grades(checked(y, rest_uv=2.0), "noise")
    assert found.index(1) == 659


# A change of the band


def test_the_notch_comes_in_without_a_click() -> None:
    x = 20 * emg(10, seed=20) + hum(10, 20)
    plain, notched = band_of(DEFAULT, RATE_HZ), band_of(DEFAULT, RATE_HZ).with_notches([50.0])
    changing = ChangingBandPass(plain, RATE_HZ, 1)
    before = changing.filter(x[:, :5000])
    changing.change(notched)
    y = np.concatenate([before, changing.filter(x[:, 5000:])], axis=1)
    assert same(y[:, :6000], BandPass(plain, RATE_HZ, 1).filter(x)[:, :6000])
    after = BandPass(notched, RATE_HZ, 1).filter(x)
    assert np.abs(y[:, 6100:] - after[:, 6100:]).max() < 1.0
    jump = np.abs(np.diff(y[0, 200:]))
    assert jump[4700:6200].max() < 1.2 * max(jump[:4700].max(), jump[6200:].max())
    assert rms(y[:, 6200:]) == pytest.approx(0.968 * 20, rel=0.03)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(ends=st.lists(st.integers(1, 7999), max_size=20), gap=st.tuples(st.integers(4000, 7000), st.integers(0, 300)))
def test_a_change_of_band_gives_the_same_bits_for_any_cut(ends: list[int], gap: tuple[int, int]) -> None:
    x = 20 * emg(8, seed=21, channels=2)
    x[0, gap[0] : gap[0] + gap[1]] = np.nan

    def run(edges: list[int]) -> Array:
        changing = ChangingBandPass(band_of(DEFAULT, RATE_HZ), RATE_HZ, 2)
        parts = []
        for a, b in pairwise(sorted({0, 4000, 8000, *edges})):
            if a == 4000:
                changing.change(changing.band.with_notches([50.0, 150.0]).above(40.0))
            parts.append(changing.filter(x[:, a:b]))
        return np.concatenate(parts, axis=1)

    assert same(run(ends), run([]))


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(ends=st.lists(st.integers(1, 29_999), max_size=20), spots=st.lists(st.integers(0, 29_000), max_size=8))
def test_cut_anywhere_same_verdicts(ends: list[int], spots: list[int]) -> None:
    x = 2.5 * emg(30, seed=22) + hum(30, 3, third=0.6) + heart(30, 100, 70)
    for at in spots:
        x[0, at : at + 40] += 300
        x[0, at + 500 : at + 530] = np.nan
    whole, whole_filtered = surveyed(x, rails=None), checked(x)
    one, checks = survey_of(rails=None), FilteredChecks(1, RATE_HZ, QualitySettings(), 1000)
    checks.calibrate((2.0,))
    parts = [
        (one.push(x[:, a:b], no_beats(x[:, a:b], before=a)), checks.push(x[:, a:b]))
        for a, b in pairwise(sorted({0, 30_000, *ends}))
    ]
    assert np.array_equal(np.concatenate([f.codes for f, _ in parts], axis=1), whole.codes)
    assert [c for f, _ in parts for c in f.changes] == list(whole.changes)
    assert np.array_equal(np.concatenate([codes for _, codes in parts], axis=1), whole_filtered)
