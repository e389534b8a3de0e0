from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.heartbeat import Heartbeat, Heartbeats, HeartbeatSettings
from dsp.level import RmsFrames
from dsp.reference import pooled
from firmware_bridge.simulator import Wearer
from tests.dsp.signals import RATE_HZ, Array, emg, filtered, heart, same, white

DEFAULT = HeartbeatSettings()


def found(x: Array, rate_hz: float = RATE_HZ, ends: list[int] | None = None) -> Heartbeats:
    """All that is known of a recording, fed in pieces that end at the given samples."""
    finder = Heartbeat(DEFAULT, rate_hz, len(x))
    edges = [0, *sorted(e for e in ends or [] if e <= x.shape[1]), x.shape[1]]
    parts = [finder.push(x[:, a:b]) for a, b in pairwise(edges)] + [finder.finish()]
    at = 0
    for part in parts:
        assert part.first == at
        at += part.mask.shape[1]
    mask, present, disturbs, bpm = (
        np.concatenate([getattr(p, name) for p in parts], axis=1) for name in ("mask", "present", "disturbs", "bpm")
    )
    return Heartbeats(0, mask, present, disturbs, bpm)


def beats_at(times_s: Array, seconds: float, uv: float, rate_hz: float = RATE_HZ, sd_s: float = 0.010) -> Array:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    out = np.zeros((1, len(t)))
    for at in times_s.tolist():
        out[0] += uv * np.exp(-0.5 * ((t - at) / sd_s) ** 2)
    return out


def levels(y: Array, max_missing: float = 0.1) -> Array:
    return np.asarray(RmsFrames(125, 1, len(y), max_missing).push(y)[0])


def left_out(x: Array, settled_s: float = 10) -> float:
    """Rest RMS in µV without the beats."""
    y = filtered(x)
    y[found(x).mask] = np.nan
    return pooled(levels(y, 1 - DEFAULT.least_left_pct / 100)[round(settled_s / 0.125) :])


def test_rest_without_its_beats_is_the_rest_of_the_muscle() -> None:
    for uv in (30, 100, -200, 400):
        muscle = 2 * emg(60, seed=1)
        truth = pooled(levels(filtered(muscle))[80:])
        x = muscle + heart(60, uv, 70)
        assert left_out(x) == pytest.approx(truth, rel=0.02)
        if abs(uv) >= 100:
            assert pooled(levels(filtered(x))[80:]) > 1.2 * truth


@pytest.mark.parametrize("level_uv", [1, 5, 15, 60, 300])
def test_a_muscle_without_a_heartbeat_stays_whole(level_uv: float) -> None:
    result = found(level_uv * emg(120, seed=2))
    assert not result.mask.any()
    assert not result.present.any()
    assert not result.disturbs.any()
    assert np.isnan(result.bpm).all()


@pytest.mark.parametrize("rate_hz", [200.0, 250.0, 500.0, 1000.0, 2000.0])
def test_white_noise_has_no_heartbeat_at_any_rate(rate_hz: float) -> None:
    assert not found(3 * white(120, 3, rate_hz=rate_hz), rate_hz).present.any()


@pytest.mark.parametrize("bpm", [40, 60, 75, 100, 150, 175])
def test_the_rate_is_right_to_one_beat_in_a_minute(bpm: float) -> None:
    result = found(2 * emg(40, seed=4) + heart(40, 100, bpm))
    assert result.present[0, 24:].all()
    assert result.bpm[0, 30:-2] == pytest.approx(bpm, abs=1)


@pytest.mark.parametrize("rate_hz", [200.0, 250.0, 500.0, 1000.0, 2000.0, 1925.0])
def test_every_beat_is_covered_at_any_rate(rate_hz: float) -> None:
    at = np.arange(0.7, 39, 0.83)
    noise = white(40, 5, rate_hz=rate_hz)
    result = found(2 * noise + beats_at(at, 40, 150, rate_hz), rate_hz)
    for peak in at[at > 8]:
        start, end = round((peak - 0.030) * rate_hz), round((peak + 0.070) * rate_hz)
        assert result.mask[0, start:end].all()
    assert result.mask[0].mean() < 0.20


def test_a_heartbeat_is_believed_within_six_beats() -> None:
    result = found(2 * emg(30, seed=6) + heart(30, 100, 60))
    assert (np.flatnonzero(result.present[0])[0] + 1) * 0.496 <= 6.0


def test_missed_early_and_odd_beats_do_not_refute_it() -> None:
    rng = np.random.default_rng(7)
    at = np.cumsum(0.85 * (1 + 0.06 * rng.standard_normal(140)))
    at = at[at < 118]
    odd = np.arange(8, len(at), 11)
    gone = np.arange(5, len(at), 13)
    regular = np.delete(at, np.concatenate([odd, gone]))
    x = 2 * emg(120, seed=8) + beats_at(regular, 120, 120) + beats_at(at[odd] - 0.25, 120, -150, sd_s=0.02)
    result = found(x)
    assert result.present[0, 24:].all()
    late = at[odd][at[odd] > 10] - 0.25
    assert all(result.mask[0, round(peak * RATE_HZ)] for peak in late)


def test_a_strong_muscle_keeps_its_level_beside_a_heartbeat() -> None:
    level = np.concatenate([np.full(20_000, 2.0), np.full(20_000, 60.0), np.full(20_000, 2.0)])
    muscle = level * emg(60, seed=9)
    x = muscle + heart(60, 100, 70)
    y = filtered(x)
    y[found(x).mask] = np.nan
    work = slice(168, 312)
    truth = pooled(levels(filtered(muscle))[work])
    assert pooled(levels(y, 1 - DEFAULT.least_left_pct / 100)[work]) == pytest.approx(truth, rel=0.03)


def test_hidden_by_the_muscle_the_heartbeat_is_remembered_for_a_while() -> None:
    level = np.concatenate([np.full(20_000, 2.0), np.full(60_000, 200.0)])
    result = found(level * emg(80, seed=10) + heart(80, 60, 70))
    # It was believed last at 20 s.
    assert result.present[0, 30:98].all()
    assert not result.present[0, 106:].any()
    assert np.isnan(result.bpm[0, 106:]).all()


def test_it_disturbs_rest_when_it_is_large_beside_the_muscle() -> None:
    large = found(2 * emg(60, seed=11) + heart(60, 300, 70))
    assert large.disturbs[0, 24:].all()
    small = found(5 * emg(60, seed=11) + heart(60, 40, 70))
    assert small.disturbs.mean() < 0.05


def test_it_is_judged_by_what_it_is_beside_the_muscle_and_not_by_its_size() -> None:
    x = 2 * emg(30, seed=12) + heart(30, 100, 70)
    a, b = found(x), found(1024 * x)
    assert same(a.bpm, b.bpm)
    assert np.array_equal(a.mask, b.mask)
    assert np.array_equal(a.disturbs, b.disturbs)


def test_drift_and_an_offset_are_no_matter() -> None:
    x = 2 * emg(30, seed=13) + heart(30, 100, 70)
    drift = 1e5 + 300 * np.sin(2 * np.pi * 0.3 * np.arange(30_000) / RATE_HZ)
    agreed = found(x).mask == found(x + drift).mask
    assert agreed.mean() > 0.99


def test_lost_samples_make_no_beats_and_hide_few() -> None:
    rng = np.random.default_rng(14)
    quiet, loud = emg(60, seed=15), 2 * emg(60, seed=15) + heart(60, 100, 70)
    for start in rng.integers(0, 59_000, 120):
        quiet[0, start : start + 40] = np.nan
        loud[0, start : start + 5] = np.nan
    assert not found(quiet).present.any()
    assert found(loud).present[0, 30:].all()


def test_a_few_samples_lost_near_every_beat_hide_none() -> None:
    at = np.arange(0.7, 59, 0.83)
    for shift in (-0.07, -0.02, 0.0, 0.03, 0.08):
        x = 2 * emg(60, seed=25) + beats_at(at, 60, 150)
        for peak in at + shift:
            start = round(peak * RATE_HZ)
            x[0, start : start + 15] = np.nan
        mask = found(x).mask[0]
        assert all(mask[round(peak * RATE_HZ)] for peak in at[at > 10])


@pytest.mark.parametrize("value", [np.nan, 0.0, 1e6, -1e-3])
def test_nothing_is_found_in_nothing(value: float) -> None:
    result = found(np.full((2, 20_000), value))
    assert not result.mask.any()
    assert result.present.shape == (2, 41)


def test_a_wearer_without_a_heartbeat_is_left_whole() -> None:
    result = found(Wearer(channels=1, seed=3, ecg_uv=0).samples(300_000).T)
    assert result.mask.mean() < 0.002


def test_a_wearer_with_a_heartbeat_has_it_all_day() -> None:
    result = found(Wearer(channels=2, seed=3, ecg_uv=60, heart_bpm=70).samples(120_000).T)
    assert result.present[:, 20:].all()
    assert np.nanmedian(result.bpm) == pytest.approx(70, abs=0.5)


def test_samples_are_decided_on_within_a_second() -> None:
    x = 2 * emg(20, seed=16) + heart(20, 100, 70)
    finder = Heartbeat(DEFAULT, RATE_HZ, 1)
    fed = known = 0
    while fed < 20_000:
        part = finder.push(x[:, fed : fed + 20])
        fed += 20
        known += part.mask.shape[1]
        assert part.first + part.mask.shape[1] == known
        assert fed - known <= RATE_HZ


X = np.concatenate([2 * emg(14, seed=17, channels=2) + heart(14, 100, 110), 40 * emg(3, seed=18, channels=2)], axis=1)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    ends=st.lists(st.integers(0, 17_000), max_size=30),
    holes=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 16_500), st.integers(1, 400)), max_size=8),
    rate_hz=st.sampled_from([500.0, 1000.0, 1250.0]),
)
def test_cut_anywhere_same_answer(ends: list[int], holes: list[tuple[int, int, int]], rate_hz: float) -> None:
    x = X.copy()
    for channel, start, length in holes:
        x[channel, start : start + length] = np.nan
    a, b = found(x, rate_hz), found(x, rate_hz, ends)
    assert np.array_equal(a.mask, b.mask)
    assert np.array_equal(a.present, b.present)
    assert np.array_equal(a.disturbs, b.disturbs)
    assert same(a.bpm, b.bpm)


@pytest.mark.parametrize("rate_hz", [500.0, 1000.0, 1250.0])
def test_fed_sample_by_sample_the_same_beats_are_found(rate_hz: float) -> None:
    a, b = found(X[:, :16_500], rate_hz), found(X[:, :16_500], rate_hz, list(range(1, 16_500)))
    assert a.mask.any()
    assert np.array_equal(a.mask, b.mask)
    assert same(a.bpm, b.bpm)


@pytest.mark.parametrize("rate_hz", [188.0, 200.0, 250.0, 2000.0])
def test_the_widest_gate_is_known_in_time_at_any_rate(rate_hz: float) -> None:
    widest = HeartbeatSettings(before_s=0.07, after_s=0.25)
    x = 2 * white(40, 24, rate_hz=rate_hz) + beats_at(np.arange(0.5, 40, 0.71), 40, 200, rate_hz)
    whole = Heartbeat(widest, rate_hz, 1).push(x).mask
    finder = Heartbeat(widest, rate_hz, 1)
    pieces = [finder.push(x[:, at : at + 30]).mask for at in range(0, x.shape[1], 30)]
    assert whole.any()
    assert np.array_equal(whole, np.concatenate(pieces, axis=1))


def test_every_channel_is_judged_as_if_it_were_alone() -> None:
    x = np.concatenate(
        [2 * emg(30, seed=19) + heart(30, 100, 70), emg(30, seed=20), X[:1].repeat(2, axis=1)[:, :30_000]]
    )
    together = found(x)
    for c in range(len(x)):
        alone = found(x[c : c + 1])
        assert np.array_equal(together.mask[c : c + 1], alone.mask)
        assert np.array_equal(together.disturbs[c : c + 1], alone.disturbs)
        assert same(together.bpm[c : c + 1], alone.bpm)


def test_what_it_remembers_is_bounded() -> None:
    finder = Heartbeat(DEFAULT, 250.0, 1)
    x = 2 * white(60, 21, rate_hz=250.0) + beats_at(np.arange(0.5, 60, 0.5), 60, 200, 250.0)
    for _ in range(20):
        finder.push(x)
    assert len(finder._beats.at) <= 41
    assert finder._line.shape[1] < 125
    assert finder._pending.shape[1] < finder.hop


def test_reset_forgets_everything() -> None:
    x = 2 * emg(20, seed=22) + heart(20, 100, 70)
    finder = Heartbeat(DEFAULT, RATE_HZ, 1)
    finder.push(x)
    finder.reset()
    mask = finder.push(x).mask
    assert mask.any()
    assert np.array_equal(mask, Heartbeat(DEFAULT, RATE_HZ, 1).push(x).mask)


def test_an_artefact_is_forgotten_to_the_last_bit() -> None:
    x = 2 * emg(60, seed=23) + heart(60, 100, 70)
    hit = x.copy()
    hit[0, 20_000:20_010] = 1e12
    a, b = found(x), found(hit)
    assert np.array_equal(a.mask[:, 32_000:], b.mask[:, 32_000:])
    assert same(a.bpm[:, 64:], b.bpm[:, 64:])
