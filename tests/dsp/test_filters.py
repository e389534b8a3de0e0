from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import sosfilt, sosfilt_zi, sosfreqz

from dsp.filters import BandPass, FilterSettings, SignalError, band_of, design
from tests.dsp.signals import RATE_HZ, Array, emg, filtered, heart, rms, same, steps, white

DEFAULT = FilterSettings()
BAND = band_of(DEFAULT, RATE_HZ)
NOTCHED = band_of(FilterSettings(mains="50"), RATE_HZ)
SETTLED = 300  # samples after which a new filter has settled, its first 150 ms of NaN included


def gain(sos: Array, hz: Array) -> Array:
    return np.asarray(np.abs(sosfreqz(sos, worN=hz, fs=RATE_HZ)[1]))


def notch_gain(hz: Array) -> Array:
    return gain(design(NOTCHED, RATE_HZ), hz) / gain(design(BAND, RATE_HZ), hz)


def in_pieces(band: BandPass, x: Array, ends: list[int]) -> Array:
    edges = [0, *sorted({e for e in ends if 0 < e < x.shape[1]}), x.shape[1]]
    return np.concatenate([band.filter(x[:, a:b]) for a, b in pairwise(edges)], axis=1)


def with_holes(x: Array, *holes: tuple[int, int]) -> Array:
    x = x.copy()
    for start, length in holes:
        x[:, start : start + length] = np.nan
    return x


@pytest.mark.parametrize(
    ("hz", "expected"),
    [
        (5, 0.00076),
        (10, 0.01222),
        (15, 0.06183),
        (20, 0.19256),
        (25, 0.4331),
        (30, 0.70711),
        (40, 0.95421),
        (50, 0.99205),
        (60, 0.99819),
        (100, 0.99997),
        (200, 1.0),
        (400, 0.99841),
        (450, 0.70711),
    ],
)
def test_gain_is_that_of_a_4th_order_butterworth_band(hz: float, expected: float) -> None:
    assert gain(design(BAND, RATE_HZ), np.array([hz])) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("hz", [10, 20, 50, 200, 450])
def test_a_sine_comes_out_with_the_designed_gain(hz: float) -> None:
    x = 100 * np.sin(2 * np.pi * hz * np.arange(4000) / RATE_HZ)[None]
    measured = rms(filtered(x)[:, 2000:]) / rms(x[:, 2000:])
    assert measured == pytest.approx(float(gain(design(BAND, RATE_HZ), np.array([hz]))[0]), rel=1e-3)


@pytest.mark.parametrize(
    ("hz", "expected_ms", "tolerance_ms"),
    [
        (30, 19.9, 0.06),
        (50, 6.39, 0.01),
        (60, 4.21, 0.01),
        (80, 2.35, 0.01),
        (100, 1.57, 0.01),
        (150, 0.87, 0.01),
        (200, 0.68, 0.01),
    ],
)
def test_emg_is_delayed_by_milliseconds_only(hz: float, expected_ms: float, tolerance_ms: float) -> None:
    around = np.array([hz - 0.01, hz + 0.01])
    phase = np.unwrap(np.angle(sosfreqz(design(BAND, RATE_HZ), worN=around, fs=RATE_HZ)[1]))
    delay_ms = -1000 * (phase[1] - phase[0]) / (2 * np.pi * 0.02)
    assert delay_ms == pytest.approx(expected_ms, abs=tolerance_ms)


@pytest.mark.parametrize(("rate_hz", "expected"), [(1000, 0.9144), (500, 0.8206), (250, 0.7431), (2000, 0.6484)])
def test_white_noise_keeps_the_share_of_its_rms_that_the_band_covers(rate_hz: float, expected: float) -> None:
    y = filtered(white(300, seed=1, rate_hz=rate_hz), rate_hz=rate_hz)
    assert rms(y[:, round(rate_hz) :]) == pytest.approx(expected, rel=0.01)


def test_white_noise_from_20_hz_keeps_a_little_more() -> None:
    y = filtered(white(300, seed=2), FilterSettings(high_pass_hz=20.0))
    assert rms(y[:, 1000:]) == pytest.approx(0.9255, rel=0.01)


def test_the_default_band_keeps_97_percent_of_the_rms_of_emg() -> None:
    assert rms(filtered(emg(300, seed=3))[:, 1000:]) == pytest.approx(0.968, rel=0.01)


@pytest.mark.parametrize(
    ("rate_hz", "expected"), [(4000, 450), (2000, 450), (1000, 450), (999, 399.6), (500, 200), (250, 100), (150, 60)]
)
def test_the_upper_corner_adapts_to_the_rate(rate_hz: float, expected: float) -> None:
    band = band_of(DEFAULT, rate_hz)
    assert (band.low_hz, band.high_hz) == pytest.approx((30.0, expected))


@pytest.mark.parametrize("rate_hz", [10, 100, 149])
def test_too_low_a_rate_is_refused_with_the_rate_that_would_do(rate_hz: float) -> None:
    with pytest.raises(SignalError, match=rf"{rate_hz} Hz is too low .* expected 150 Hz or more"):
        BandPass(band_of(DEFAULT, rate_hz), rate_hz, 1)


def test_corners_less_than_an_octave_apart_are_not_blamed_on_the_rate() -> None:
    with pytest.raises(SignalError) as refused:
        band_of(FilterSettings(high_pass_hz=60.0, low_pass_hz=100.0), 1000.0)
    assert "sampling rate 1000 Hz is too low" not in str(refused.value)


def test_an_offset_step_rings_for_less_than_95_ms() -> None:
    y = filtered(steps((1, 0), (1, 1000))[None])[0, 1000:]
    assert np.abs(y).max() == pytest.approx(687, abs=0.5)
    assert np.abs(y[96:]).max() < 1
    assert np.abs(y[90:]).max() > 1


def test_the_notch_has_its_depth_and_its_width() -> None:
    hz = np.array([50.0, 49.0, 51.0, 48.0])
    assert notch_gain(hz) == pytest.approx([0, 0.7713, 0.7652, 0.926], abs=5e-4)
    fine = np.arange(45, 55, 0.001)
    width_hz = 0.001 * np.count_nonzero(notch_gain(fine) < np.sqrt(0.5))
    assert width_hz == pytest.approx(50 / 30, rel=0.005)


def test_the_notch_costs_next_to_nothing() -> None:
    hz = np.linspace(0.01, 499.99, 200_001)
    assert float(np.mean(notch_gain(hz) ** 2)) == pytest.approx(0.99479, abs=2e-5)
    x = emg(300, seed=4)
    assert rms(filtered(x, FilterSettings(mains="50"))[:, 1000:]) / rms(filtered(x)[:, 1000:]) == pytest.approx(
        0.991, abs=0.001
    )


@pytest.mark.parametrize("mains", ["50", "60"])
def test_the_notch_removes_its_hum_within_a_second(mains: str) -> None:
    t = np.arange(3000) / RATE_HZ
    x = np.where(t >= 1, 100 * np.sin(2 * np.pi * float(mains) * t), 0.0)[None]
    y = filtered(x, FilterSettings(mains=mains))[0, 1000:]
    period = round(RATE_HZ / float(mains))
    assert rms(y[:period]) > 20
    assert rms(y[875 : 875 + period]) < 0.01 * rms(x[0, 1000:])


def test_the_notch_is_left_out_where_the_rate_leaves_no_room_for_it() -> None:
    settings_ = FilterSettings(high_pass_hz=20.0, mains="60")
    assert len(design(band_of(settings_, 120.0), 120.0)) == len(
        design(band_of(FilterSettings(high_pass_hz=20.0), 120.0), 120.0)
    )


@pytest.mark.parametrize(("corner_hz", "alone_uv", "with_emg_uv"), [(20.0, 3.99, 4.46), (30.0, 1.73, 2.65)])
def test_little_of_the_heartbeat_is_left(corner_hz: float, alone_uv: float, with_emg_uv: float) -> None:
    settings_ = FilterSettings(high_pass_hz=corner_hz)
    beats = filtered(heart(120, uv=100, bpm=60), settings_)[:, 1000:]
    noise = filtered(white(120, seed=5), settings_)[:, 1000:]
    assert rms(beats) == pytest.approx(alone_uv, abs=0.01)
    assert rms(beats + 2 * noise / rms(noise)) == pytest.approx(with_emg_uv, rel=0.01)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("mains", ["off", "50"])
def test_chunks_of_any_size_give_the_same_bits(chunk: int, mains: str) -> None:
    settings_ = FilterSettings(mains=mains)
    x = with_holes(100 * white(4, seed=6, channels=2), (900, 15), (1600, 130), (2800, 21))
    band = BandPass(band_of(settings_, RATE_HZ), RATE_HZ, 2)
    assert same(in_pieces(band, x, list(range(chunk, 4000, chunk))), filtered(x, settings_))


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_chunks_of_silence_give_the_same_bits(chunk: int) -> None:
    x = np.concatenate([white(1, seed=20, channels=2), np.zeros((2, 3000))], axis=1)
    x[1, 2000:2010] = np.nan
    assert same(in_pieces(BandPass(BAND, RATE_HZ, 2), x, list(range(chunk, 4000, chunk))), filtered(x))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    ends=st.lists(st.integers(1, 1499), max_size=30),
    holes=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1480), st.integers(1, 60)), max_size=8),
)
def test_cut_anywhere_same_answer(ends: list[int], holes: list[tuple[int, int, int]]) -> None:
    x = 50 * white(1.5, seed=7, channels=2) + 2000
    for channel, start, length in holes:
        x[channel, start : start + length] = np.nan
    assert same(in_pieces(BandPass(BAND, RATE_HZ, 2), x, ends), filtered(x))


def test_every_channel_is_filtered_as_if_it_were_alone() -> None:
    x = 30 * white(5, seed=8, channels=3)
    x[1, 1000:1015] = np.nan
    x[2, 2000:3000] = 1e5
    together = filtered(x)
    for c in range(3):
        assert same(together[c : c + 1], filtered(x[c : c + 1]))


def test_the_first_150_ms_are_unusable_and_the_next_are_not() -> None:
    y = filtered(10 * white(1, seed=9) + 1e5)
    assert np.isnan(y[:, :150]).all()
    assert np.isfinite(y[:, 150:]).all()


@pytest.mark.parametrize("length", [1, 5, 20])
def test_a_short_gap_is_bridged_by_the_last_value(length: int) -> None:
    x = 30 * white(2, seed=10)
    bridged = x.copy()
    bridged[:, 1000 : 1000 + length] = x[:, 999]
    y, whole = filtered(with_holes(x, (1000, length))), filtered(bridged)
    usable = np.isfinite(y[0])
    unusable_from_gap = np.flatnonzero(~usable[SETTLED:]) + SETTLED
    assert unusable_from_gap.tolist() == list(range(1000, 1000 + length + 20))
    assert same(y[:, usable], whole[:, usable])


@pytest.mark.parametrize("length", [21, 100, 700])
def test_a_longer_gap_starts_the_filter_anew(length: int) -> None:
    x = with_holes(30 * white(3, seed=11), (1000, length))
    y, end = filtered(x), 1000 + length
    assert np.isnan(y[:, 1000 : end + 150]).all()
    assert same(y[:, end:], filtered(x[:, end:]))


def test_two_short_gaps_are_two_gaps_and_one_over_a_cut_is_one() -> None:
    x = with_holes(30 * white(2, seed=12), (1000, 15), (1040, 15))
    assert np.isfinite(filtered(x)[0, 1075:]).all()
    long = with_holes(30 * white(2, seed=12), (1000, 30))
    y = in_pieces(BandPass(BAND, RATE_HZ, 1), long, [1015])
    assert np.isnan(y[0, 1000:1180]).all()
    assert np.isfinite(y[0, 1180:]).all()


def test_a_short_gap_while_settling_does_not_shorten_the_wait() -> None:
    y = filtered(with_holes(30 * white(1, seed=13), (40, 5)))
    assert np.isnan(y[0, :155]).all()
    assert np.isfinite(y[0, 155:]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_infinite_or_missing_enters_the_filter(value: float) -> None:
    x = 30 * white(4, seed=14)
    holed = with_holes(x, (500, 3), (2000, 200))
    x[:, 500:503] = x[:, 2000:2200] = value
    y = filtered(x)
    assert same(y, filtered(holed))
    assert np.isfinite(y[:, 2350:]).all()
    assert not np.isinf(y).any()


@pytest.mark.parametrize("offset_uv", [1e5, -1e5])
def test_an_offset_after_a_gap_leaves_no_transient(offset_uv: float) -> None:
    x = with_holes(steps((1, 0), (2, offset_uv))[None], (900, 200))
    assert np.abs(filtered(x)[:, 1250:]).max() < 1e-3


def test_one_long_hole_of_days_keeps_nothing_but_a_flag() -> None:
    band = BandPass(BAND, RATE_HZ, 1)
    for _ in range(100):
        assert np.isnan(band.filter(np.full((1, 10_000), np.nan))).all()
    x = 30 * white(1, seed=15)
    assert same(band.filter(x), filtered(x))


def test_reset_forgets_everything() -> None:
    band = BandPass(BAND, RATE_HZ, 1)
    band.filter(1e4 * white(1, seed=16))
    band.reset()
    x = white(1, seed=17)
    assert same(band.filter(x), filtered(x))


@pytest.mark.parametrize("rate_hz", [250.0, 500.0, 1000.0, 2000.0])
@pytest.mark.parametrize("mains", ["off", "50"])
def test_silence_never_decays_into_denormal_numbers(rate_hz: float, mains: str) -> None:
    band = BandPass(band_of(FilterSettings(mains=mains), rate_hz), rate_hz, 1)
    band.filter(100 * white(1, seed=18, rate_hz=rate_hz))
    for seconds in [1] * 60 + [200]:
        y = band.filter(np.zeros((1, round(seconds * rate_hz))))
        for numbers in (y, band._state):
            size = np.abs(numbers)
            assert not ((size > 0) & (size < np.finfo(float).tiny)).any()
    assert np.abs(y).max() < 1e-20


def test_what_prevents_denormal_numbers_does_not_change_a_bit_of_the_signal() -> None:
    quiet = 0.01 * white(5, seed=19)
    steady = filtered(quiet)
    sos = design(BAND, RATE_HZ)
    plain, _ = sosfilt(sos, quiet[0], zi=sosfilt_zi(sos) * quiet[0, 0])
    assert same(steady[0, 150:], plain[150:])
