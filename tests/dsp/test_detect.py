import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsp.detect import Shrug, ShrugDetector, ShrugSettings, Thresholds, thresholds
from dsp.level import RmsFrames
from dsp.reference import Calibration
from tests.dsp.signals import EMG_KEPT, HOP_S, WHITE_KEPT, Array, control, emg, filtered, heart, steps, white

LIMITS = Thresholds(on_uv=10.0, off_uv=6.0)
DEFAULT = ShrugSettings()
UNKNOWN = float("nan")


def detector(limits: Thresholds = LIMITS, settings_: ShrugSettings = DEFAULT, first_hop: int = 0) -> ShrugDetector:
    return ShrugDetector(0, limits, settings_, HOP_S, first_hop)


def follow(levels: Array, limits: Thresholds = LIMITS, settings_: ShrugSettings = DEFAULT) -> list[Shrug]:
    """Everything that is found in control levels of shape (hops,), to the end of the recording."""
    one = detector(limits, settings_)
    return one.push(levels) + one.finish()


def ended(shrugs: list[Shrug]) -> list[Shrug]:
    return [s for s in shrugs if s.phase == "ended"]


def phases(shrugs: list[Shrug]) -> list[str]:
    return [s.phase for s in shrugs]


def hops(*parts: tuple[float, float]) -> Array:
    """Control levels from (seconds, µV) pieces."""
    return steps(*parts, per_second=1 / HOP_S)


def exact(*parts: tuple[float, float]) -> Array:
    """Control levels of a muscle whose power is exactly as in (seconds, µV)."""
    return np.asarray(control(steps(*parts)[None])[0])


def noisy(runs: int, seed: int, *parts: tuple[float, float]) -> Array:
    """Control levels of many runs of band-limited noise with this RMS after the band-pass: (runs, hops)."""
    seconds = sum(s for s, _ in parts)
    return control(filtered(white(seconds, seed, runs) * steps(*parts) / WHITE_KEPT))


# Onset and offset


def test_a_window_crosses_a_step_as_late_as_the_power_model_says() -> None:
    rate = 10_000
    x = steps((1, 2), (1, 30), (1, 2), per_second=rate)[None]
    level = RmsFrames(1, round(0.25 * rate), 1, 0.1).push(x)[0]
    onset = int(np.flatnonzero(level >= 10)[0]) + 1 - rate
    offset = int(np.flatnonzero(level[2 * rate :] < 6)[0]) + 1
    assert 1000 * onset / rate == pytest.approx(26.79, abs=0.1)
    assert 1000 * offset / rate == pytest.approx(241.07, abs=0.1)


def test_200_shrugs_of_8_s_are_200_events_of_8_s() -> None:
    found = [ended(follow(level)) for level in noisy(200, 1, (10, 2), (8, 30), (10, 2))]
    assert [len(f) for f in found] == [1] * 200
    onset = np.array([f[0].start_s - 10 for f in found])
    offset = np.array([(f[0].end_s or 0) - 18 for f in found])
    assert np.abs(onset).max() <= 0.1
    assert np.abs(offset).max() <= 0.1
    assert abs(np.mean(onset)) < 0.02
    assert abs(np.mean(offset)) < 0.02
    assert np.mean([f[0].mean_uv for f in found]) == pytest.approx(30, rel=0.05)
    assert all(f[0].valid_fraction == 1 and not f[0].truncated and not f[0].long for f in found)


def test_a_shrug_10_db_over_rest_is_found_and_let_go() -> None:
    rest, raised = 2.0, 2 * 10**0.5
    limits = thresholds(Calibration((rest,), (0.5,), (10.0,)), 0, DEFAULT)
    found = [ended(follow(level, limits)) for level in noisy(100, 2, (10, rest), (8, raised), (10, rest))]
    assert sum(len(f) == 1 for f in found) >= 98
    assert all(f[0].end_s is not None and f[0].end_s < 19 for f in found if f)


def test_a_shrug_6_db_over_rest_is_not_guessed() -> None:
    limits = thresholds(Calibration((2.0,), (0.5,), (6.0,)), 0, DEFAULT)
    found = [follow(level, limits) for level in noisy(50, 3, (10, 2), (8, 4), (10, 2))]
    assert not any(s.end_s is not None and s.end_s > 19 for f in found for s in f)


@pytest.mark.parametrize(("seconds", "events"), [(2.5, 0), (2.6, 0), (3.4, 1), (4.0, 1)])
def test_a_raise_counts_from_3_s_on(seconds: float, events: int) -> None:
    found = [ended(follow(level)) for level in noisy(100, 4, (5, 2), (seconds, 30), (5, 2))]
    assert [len(f) for f in found] == [events] * 100
    for f in found:
        for shrug in f:
            assert (shrug.end_s or 0) - shrug.start_s == pytest.approx(seconds, abs=0.15)


@pytest.mark.parametrize(("gap", "lasted"), [(0.3, 4.3), (0.8, 4.8), (1.0, 5.0), (1.4, None), (1.6, None), (2.0, None)])
def test_two_bursts_of_2_s_are_one_shrug_if_the_pause_is_short(gap: float, lasted: float | None) -> None:
    found = [ended(follow(level)) for level in noisy(100, 5, (5, 2), (2, 30), (gap, 2), (2, 30), (5, 2))]
    assert [len(f) for f in found] == [0 if lasted is None else 1] * 100
    for f in found:
        for shrug in f:
            assert (shrug.end_s or 0) - shrug.start_s == pytest.approx(lasted, abs=0.15)


def test_a_level_that_wavers_between_the_thresholds_is_one_shrug() -> None:
    wavering = [(0.5, 30.0), (0.5, 20.0)] * 10
    found = [ended(follow(level, Thresholds(25, 15))) for level in noisy(100, 6, (5, 2), *wavering, (5, 2))]
    assert [len(f) for f in found] == [1] * 100
    assert np.mean([(f[0].end_s or 0) - f[0].start_s for f in found]) == pytest.approx(9.8, abs=0.2)


def test_an_hour_of_rest_with_a_strong_heartbeat_is_no_shrug() -> None:
    x = 2 * emg(3600, seed=7) / EMG_KEPT + heart(3600, uv=100, bpm=70)
    limits = thresholds(Calibration((2.65,), (1.0,), (15.0,)), 0, DEFAULT)
    assert limits.on_uv < 6.2
    assert follow(control(filtered(x))[0], limits) == []


# The life of one shrug


def test_a_held_shrug_is_told_step_by_step() -> None:
    shrugs = follow(exact((10, 2), (8, 30), (10, 2)))
    assert phases(shrugs) == ["started", "held", "relaxed", "ended"]
    started, held, relaxed, end = shrugs
    assert {s.start_s for s in shrugs} == {started.start_s}
    assert started.at_s - started.start_s == pytest.approx(3.2, abs=0.06)
    assert held.at_s - held.start_s == pytest.approx(5.2, abs=0.06)
    assert 18.3 < relaxed.at_s < 18.8
    assert end.at_s == pytest.approx(19.25, abs=0.11)
    assert started.end_s is None
    assert held.end_s is None
    assert relaxed.end_s == end.end_s == pytest.approx(18, abs=0.06)
    assert end.peak_uv == pytest.approx(30)
    assert 29 < end.mean_uv <= 30


@pytest.mark.parametrize(("seconds", "held"), [(4.5, False), (5.5, True)])
def test_a_shrug_is_held_from_5_s_on(seconds: float, held: bool) -> None:
    assert ("held" in phases(follow(exact((5, 2), (seconds, 30), (5, 2))))) == held


def test_two_pieces_that_merge_are_relaxed_and_resumed() -> None:
    shrugs = follow(exact((5, 2), (6, 30), (0.9, 2), (4, 30), (5, 2)))
    assert phases(shrugs) == ["started", "held", "relaxed", "resumed", "relaxed", "ended"]
    assert len({s.start_s for s in shrugs}) == 1
    assert shrugs[2].end_s == pytest.approx(11, abs=0.06)
    assert shrugs[3].at_s == pytest.approx(11.9 + 1.8, abs=0.3)
    assert shrugs[-1].end_s == pytest.approx(15.9, abs=0.06)


def test_a_brief_raise_after_a_shrug_does_not_prolong_it() -> None:
    shrugs = follow(exact((5, 2), (6, 30), (0.9, 2), (1, 30), (5, 2)))
    assert phases(shrugs) == ["started", "held", "relaxed", "ended"]
    assert shrugs[-1].end_s == pytest.approx(11, abs=0.06)


def test_a_shrug_after_a_longer_pause_is_another_one() -> None:
    shrugs = ended(follow(exact((5, 2), (6, 30), (1.5, 2), (6, 30), (5, 2))))
    assert [s.start_s for s in shrugs] == pytest.approx([5, 12.5], abs=0.06)
    assert [s.end_s for s in shrugs] == pytest.approx([11, 18.5], abs=0.06)


def test_a_shrug_without_end_is_cut_into_long_ones() -> None:
    shrugs = follow(exact((5, 2), (130, 30), (5, 2)))
    assert phases(shrugs) == ["started", "held", "ended", "started", "held", "relaxed", "ended"]
    first, second = ended(shrugs)
    assert first.long
    assert not second.long
    assert (first.end_s or 0) - first.start_s == pytest.approx(120, abs=0.06)
    assert second.start_s == first.end_s
    assert second.end_s == pytest.approx(135, abs=0.06)
    assert first.mean_uv == pytest.approx(30, abs=0.1)
    assert second.mean_uv == pytest.approx(30, abs=0.2)


def test_the_mean_and_peak_are_of_this_shrug_only() -> None:
    first, second = ended(follow(hops((5, 2), (6, 60), (5, 2), (6, 20), (5, 2))))
    assert (first.mean_uv, first.peak_uv) == pytest.approx((60, 60))
    assert (second.mean_uv, second.peak_uv) == pytest.approx((20, 20))


def test_a_shrug_after_the_cap_has_its_own_mean_and_peak() -> None:
    first, second = ended(follow(hops((5, 2), (120.2, 60), (10, 35), (5, 2))))
    assert (first.mean_uv, first.peak_uv) == pytest.approx((60, 60))
    assert (second.mean_uv, second.peak_uv) == pytest.approx((35, 35), abs=1)


def test_one_outlier_does_not_end_a_hold() -> None:
    shrugs = follow(hops((5, 2), (4, 30), (0.05, 100), (4, 30), (5, 2)))
    assert phases(shrugs) == ["started", "held", "relaxed", "ended"]
    assert shrugs[-1].end_s == pytest.approx(13.05 - 0.2, abs=0.06)


def test_the_end_of_the_recording_truncates() -> None:
    one = detector()
    assert phases(one.push(hops((5, 2), (6, 30)))) == ["started", "held"]
    (end,) = one.finish()
    assert end.phase == "ended"
    assert end.truncated
    assert (end.at_s, end.end_s) == pytest.approx((11, 11))
    assert one.finish() == []


def test_a_relaxed_shrug_is_whole_when_the_recording_ends() -> None:
    one = detector()
    assert phases(one.push(exact((5, 2), (6, 30), (0.9, 2)))) == ["started", "held", "relaxed"]
    (end,) = one.finish()
    assert not end.truncated
    assert end.end_s == pytest.approx(11, abs=0.06)


def test_a_raise_that_is_not_yet_a_shrug_ends_without_a_word() -> None:
    assert follow(hops((5, 2), (2.5, 30))) == []


def test_on_says_whether_the_level_is_up_now() -> None:
    one = detector()
    on = []
    for seconds, uv in ((5, 2), (0.2, 30), (0.05, 30), (0.05, 2), (0.05, 30), (0.5, 2)):
        one.push(hops((seconds, uv)))
        on.append(one.on)
    assert on == [False, False, True, False, True, False]


def test_times_count_from_the_first_hop() -> None:
    late = detector(first_hop=72_000)
    shrugs = late.push(exact((5, 2), (6, 30), (5, 2)))
    early = follow(exact((5, 2), (6, 30), (5, 2)))
    assert [s.at_s - 3600 for s in shrugs] == pytest.approx([s.at_s for s in early])
    assert [s.start_s - 3600 for s in shrugs] == pytest.approx([s.start_s for s in early])


def test_a_shrug_from_the_very_start_does_not_start_before_it() -> None:
    for hop_s in (0.02, 0.05):
        one = ShrugDetector(0, LIMITS, DEFAULT, hop_s)
        shrugs = one.push(steps((6, 30), (5, 2), per_second=1 / hop_s))
        assert {s.start_s for s in shrugs} == {0.0}


# Unknown levels


@pytest.mark.parametrize("seconds", [0.05, 0.5, 1.9, 2.0])
def test_a_shrug_outlasts_2_s_of_unknown_level(seconds: float) -> None:
    shrugs = follow(hops((5, 2), (6, 30), (seconds, UNKNOWN), (6, 30), (5, 2)))
    assert phases(shrugs) == ["started", "held", "relaxed", "ended"]
    assert shrugs[-1].end_s == pytest.approx(17 + seconds - 0.2, abs=0.06)
    assert shrugs[-1].valid_fraction == pytest.approx(12 / (12 + seconds), abs=0.005)
    assert shrugs[-1].mean_uv == pytest.approx(30)
    assert not shrugs[-1].truncated


def test_longer_unknown_cuts_a_shrug_off_where_it_was_last_seen() -> None:
    shrugs = follow(hops((5, 2), (6, 30), (2.05, UNKNOWN), (6, 30), (5, 2)))
    first, second = ended(shrugs)
    assert first.truncated
    assert first.end_s == pytest.approx(11)
    assert first.at_s == pytest.approx(13.05)
    assert first.valid_fraction == 1
    assert not second.truncated
    assert second.start_s == pytest.approx(13.05, abs=0.06)


def test_a_shrug_that_ended_unseen_ends_where_it_was_last_seen_or_later() -> None:
    (end,) = ended(follow(hops((5, 2), (6, 30), (1.5, UNKNOWN), (5, 2))))
    assert 10.75 <= (end.end_s or 0) <= 12.5


def test_unknown_levels_alone_are_no_shrug() -> None:
    assert follow(np.full(100_000, UNKNOWN)) == []


def test_unknown_levels_do_not_count_towards_the_onset() -> None:
    assert follow(hops(*[(0.2, 30.0), (0.05, UNKNOWN)] * 40)) == []


# Brief shrugs in a set


def brief_set(seed: int, tone: float, then: float = 0.0) -> tuple[list[tuple[float, float]], float]:
    """A set of brief shrugs at 60 µV as people do them; return its pieces and when the hold after it begins."""
    rng = np.random.default_rng(seed)
    parts: list[tuple[float, float]] = [(5.0, 2.0)]
    for _ in range(rng.integers(4, 10)):
        parts += [(round(rng.uniform(1.3, 1.6), 3), 60.0), (round(rng.uniform(0.5, 0.9), 3), max(2.0, 60 * tone))]
    begins = sum(s for s, _ in parts)
    return [*parts, *([(then, 60.0)] if then else []), (5.0, 2.0)], begins


@pytest.mark.parametrize("tone", [0.0, 0.1, 0.15, 0.2, 0.3, 0.35, 0.4])
@pytest.mark.parametrize("limits", [LIMITS, Thresholds(20.0, 12.0)], ids=["on 10", "on 20"])
def test_a_set_of_brief_shrugs_is_no_sustained_one_whatever_the_tone_between(tone: float, limits: Thresholds) -> None:
    for seed in range(40):
        parts, _ = brief_set(seed, tone)
        assert follow(exact(*parts), limits) == []
        assert follow(noisy(1, seed, *parts)[0], limits) == []


@pytest.mark.parametrize("tone", [0.0, 0.1, 0.15, 0.2, 0.3, 0.4])
def test_a_hold_after_a_set_of_brief_shrugs_is_found(tone: float) -> None:
    for seed in range(40):
        parts, begins = brief_set(seed, tone, then=8)
        for level in (exact(*parts), noisy(1, seed, *parts)[0]):
            (hold,) = ended(follow(level))
            assert hold.start_s == pytest.approx(begins, abs=0.7)
            assert hold.end_s == pytest.approx(begins + 8, abs=0.2)


def test_a_set_whose_tone_wavers_around_the_on_threshold_is_no_sustained_shrug() -> None:
    pause = [(0.25, 21.0), (0.05, 19.0), (0.6, 21.0)]
    levels = hops((5, 2), *[(1.4, 60.0), *pause] * 6, (5, 2))
    assert follow(levels, Thresholds(20.0, 12.0)) == []


def test_an_overshoot_then_a_lower_hold_is_one_shrug_from_its_start() -> None:
    shrugs = follow(exact((5, 2), (1, 60), (7, 25), (5, 2)))
    (end,) = ended(shrugs)
    assert end.start_s == pytest.approx(5, abs=0.1)
    assert end.end_s == pytest.approx(13, abs=0.1)
    assert phases(shrugs)[:2] == ["started", "held"]


def test_an_overshoot_and_its_lower_hold_count_together_when_another_piece_joins() -> None:
    (end,) = ended(follow(hops((5, 2), (1, 60), (1.75, 25), (0.9, 2), (4, 30), (5, 2))))
    assert end.start_s == pytest.approx(5, abs=0.06)
    assert end.end_s == pytest.approx(12.65 - 0.2, abs=0.06)


def test_a_lower_hold_after_a_moment_of_rest_is_not_the_brief_shrug_carried_on() -> None:
    (end,) = ended(follow(hops((5, 2), (1.3, 20), (0.25, 9), (0.3, 2), (6, 12), (5, 2))))
    assert end.start_s == pytest.approx(6.85, abs=0.2)


def test_a_hold_that_follows_a_pause_in_a_set_starts_where_the_level_rises() -> None:
    for pause in (0.3, 0.4, 0.5, 0.8):
        (end,) = ended(follow(hops((5, 2), (1.4, 60), (pause, 25), (6, 60), (5, 2))))
        assert end.start_s == pytest.approx(6.4 + pause, abs=0.06)


def test_a_hold_that_sinks_slowly_is_one_shrug() -> None:
    sinking = [(0.5, 60.0 * 0.93**k) for k in range(20)]
    (end,) = ended(follow(exact((5, 2), *sinking, (5, 2))))
    assert end.start_s == pytest.approx(5, abs=0.1)
    assert end.end_s == pytest.approx(15, abs=0.2)


# For any levels

PIECES = st.lists(
    st.tuples(st.sampled_from([UNKNOWN, 2.0, 5.0, 7.0, 9.0, 12.0, 20.0, 30.0, 60.0]), st.integers(1, 90)),
    max_size=25,
)


def levels_of(pieces: list[tuple[float, int]], seed: int) -> Array:
    """Pieces of (µV, hops), with some scatter unless the seed is 0."""
    level = np.concatenate([np.empty(0), *[np.full(n, uv) for uv, n in pieces]])
    return np.asarray(level * np.random.default_rng(seed).normal(1, 0.08 if seed else 0, len(level)))


class Stepping(ShrugDetector):
    """Goes through every hop, skipping none."""

    def push(self, levels: Array) -> list[Shrug]:
        for level in levels:
            self._step(None if np.isnan(level) else float(level))
            self._hop += 1
        return self._take()


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(pieces=PIECES, seed=st.integers(0, 99), ends=st.lists(st.integers(0, 2250), max_size=20))
@example(pieces=[(2, 20), (20, 30), (7, 21), (2, 1), (12, 2), (60, 100), (2, 60)], seed=0, ends=[])
def test_cut_anywhere_and_skip_or_step_same_answer(pieces: list[tuple[float, int]], seed: int, ends: list[int]) -> None:
    levels = levels_of(pieces, seed)
    whole = follow(levels)
    stepping = Stepping(0, LIMITS, DEFAULT, HOP_S)
    assert stepping.push(levels) + stepping.finish() == whole
    pieced = detector()
    out: list[Shrug] = []
    for part in np.split(levels, sorted(e for e in ends if e < len(levels))):
        out += pieced.push(part)
    assert out + pieced.finish() == whole


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(pieces=PIECES, seed=st.integers(0, 99))
def test_every_story_is_complete_and_in_order(pieces: list[tuple[float, int]], seed: int) -> None:
    levels = levels_of(pieces, seed)
    shrugs = follow(levels)
    assert [s.at_s for s in shrugs] == sorted(s.at_s for s in shrugs)
    stories: dict[float, list[Shrug]] = {}
    for shrug in shrugs:
        stories.setdefault(shrug.start_s, []).append(shrug)
    for story in stories.values():
        told = phases(story)
        assert (told[0], told[-1]) == ("started", "ended")
        assert told.count("started") == told.count("ended") == 1
        assert told.count("held") <= 1
        assert [p for p in told if p in ("relaxed", "resumed")] == (["relaxed", "resumed"] * 9)[
            : told.count("relaxed") + told.count("resumed")
        ]
        last = story[-1]
        assert last.end_s is not None
        assert last.end_s - last.start_s >= 3 - 1e-9
        assert last.end_s <= last.at_s
        assert 0 < last.valid_fraction <= 1
        assert 0 < last.mean_uv <= last.peak_uv <= np.nanmax(levels)
    for before, after in pairwise(ended(shrugs)):
        assert after.start_s >= (before.end_s or 0) - 1e-9


def test_memory_is_bounded_over_a_million_hops() -> None:
    rng = np.random.default_rng(8)
    day = np.concatenate(
        [
            hops((60, 2), (130, 30), (0.9, 2), (8, 30), (20, 2)),
            *[hops((1.4, 60), (0.6, 20))] * 10,
            hops((6, 30), (1, UNKNOWN), (6, 30), (30, UNKNOWN), (60, 12)),
            hops(*[(0.2, 30.0), (0.05, UNKNOWN)] * 40),
        ]
    )
    levels = np.tile(day, 1_000_000 // len(day) + 1)[:1_000_000] * rng.normal(1, 0.05, 1_000_000)
    one = detector()
    sizes, found = [], 0
    for part in np.split(levels, 400):
        found += len(one.push(part))
        sizes.append(len(pickle.dumps(one)))
    assert found > 1000
    assert max(sizes) < 4000
    assert max(sizes[200:]) <= 1.2 * max(sizes[:200])
