"""Spectra are in µV², their frequencies those of known signals, and trends say no more than they can."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.spectrum import block_power, frequencies, jasa
from tests.dsp.signals import RATE_HZ, Array, emg, filtered, same, white


def spectrum_of(x: Array) -> tuple[Array, Array]:
    """The mean spectrum of all seconds."""
    hz, power = block_power(x, 1000, RATE_HZ)
    return hz, power.mean(axis=1)


def test_the_power_of_all_bins_is_the_mean_square() -> None:
    x = 7 * white(60, seed=1, channels=2) + 500
    _, power = block_power(x, 1000, RATE_HZ)
    assert power.shape == (2, 60, 501)
    assert power.sum(axis=2).mean(axis=1) == pytest.approx([49, 49], rel=0.02)


@pytest.mark.parametrize("samples", [1000, 999, 340])
def test_a_sine_has_its_power_at_its_frequency(samples: int) -> None:
    t = np.arange(20 * samples) / RATE_HZ
    hz, power = block_power(10 * np.sin(2 * np.pi * 100 * t)[None], samples, RATE_HZ)
    assert power.sum(axis=2) == pytest.approx(50, rel=0.02)
    assert hz[int(np.argmax(power[0, 3]))] == pytest.approx(100, abs=hz[1])


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(samples=st.integers(50, 1100), blocks=st.integers(1, 12), seed=st.integers(0, 99))
def test_one_block_has_the_same_bits_alone_as_among_many(samples: int, blocks: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, samples * blocks))
    _, power = block_power(x, samples, RATE_HZ)
    k = seed % blocks
    _, alone = block_power(x[1:, k * samples : (k + 1) * samples], samples, RATE_HZ)
    assert same(alone[0, 0], power[1, k])


def test_a_lost_sample_makes_its_block_unknown_and_no_other() -> None:
    x = white(3, seed=2)
    x[0, 1500] = np.nan
    _, power = block_power(x, 1000, RATE_HZ)
    assert np.isnan(power[0, 1]).all()
    assert np.isfinite(power[0, [0, 2]]).all()


def test_the_frequencies_of_a_sine() -> None:
    x = np.sin(2 * np.pi * 100 * np.arange(10_000) / RATE_HZ)[None]
    mdf, mnf = frequencies(*spectrum_of(x))
    assert mdf == pytest.approx([100], abs=1)
    assert mnf == pytest.approx([100], abs=1)


def test_the_frequencies_of_white_noise_and_of_emg() -> None:
    mdf, _ = frequencies(*spectrum_of(filtered(white(120, seed=3))[:, 1000:]))
    assert mdf == pytest.approx([240], abs=4)
    mdf, _ = frequencies(*spectrum_of(emg(300, seed=4)))
    assert mdf == pytest.approx([95.6], rel=0.02)
    mdf, mnf = frequencies(*spectrum_of(filtered(emg(300, seed=4))[:, 1000:]))
    assert (mdf[0], mnf[0]) == pytest.approx((98.3, 118.6), rel=0.02)


def test_frequencies_do_not_depend_on_the_amplitude() -> None:
    hz, power = spectrum_of(emg(30, seed=5))
    assert frequencies(hz, 1e6 * power)[0] == pytest.approx(frequencies(hz, power)[0])
    assert np.isnan(frequencies(hz, 0 * power)).all()


def test_a_notched_line_does_not_pull_the_frequencies() -> None:
    x = emg(120, seed=6)
    hum = 2 * np.sin(2 * np.pi * 50 * np.arange(x.shape[1]) / RATE_HZ)
    clean = frequencies(*spectrum_of(x))[0]
    assert abs(frequencies(*spectrum_of(x + hum))[0] - clean) > 20
    assert frequencies(*spectrum_of(x + hum), (50.0,))[0] == pytest.approx(clean, abs=2)


def course(level_per_min: float, mdf_per_min: float, minutes: float = 10, seed: int = 7) -> tuple[Array, Array]:
    t = np.arange(round(60 * minutes)) / 60
    rng = np.random.default_rng(seed)
    level = 30 + level_per_min * t + 3 * rng.standard_normal(len(t))
    return level, 100 + mdf_per_min * t + 8 * rng.standard_normal(len(t))


@pytest.mark.parametrize(
    ("level_per_min", "mdf_per_min", "reads_as"),
    [(2, -3, "fatigue"), (2, 3, "force up"), (-2, 3, "recovery"), (-2, -3, "force down"), (0, -3, None), (2, 0, None)],
)
def test_level_and_frequency_are_read_together_or_not_at_all(
    level_per_min: float, mdf_per_min: float, reads_as: str | None
) -> None:
    view = jasa(*course(level_per_min, mdf_per_min), 1.0)
    assert view is not None
    assert view.reads_as == reads_as
    assert view.level.low < level_per_min < view.level.high
    assert view.mdf.low < mdf_per_min < view.mdf.high


def test_nothing_is_read_into_a_course_without_a_trend_more_than_rarely() -> None:
    views = [jasa(*course(0, 0, seed=seed), 1.0) for seed in range(200)]
    clear = sum(view is not None and bool(view.mdf.sign) for view in views)
    assert 2 <= clear <= 22  # 5 % of 200
    assert sum(view is not None and view.reads_as is not None for view in views) <= 4


def test_five_minutes_are_needed_and_gaps_do_not_count() -> None:
    level, mdf = course(2, -3, minutes=4.9)
    assert jasa(level, mdf, 1.0) is None
    level, mdf = course(2, -3, minutes=20)
    level[300:900] = np.nan
    view = jasa(level, mdf, 1.0)
    assert view is not None
    assert view.reads_as == "fatigue"
    level[np.arange(len(level)) % 4 != 0] = np.nan
    assert jasa(level[:600], mdf[:600], 1.0) is None
