import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.chain import BandChange, Chain, ChainSettings, Levels, Message
from dsp.detect import Shrug
from dsp.filters import Band, SignalError
from dsp.low_rest import LowRest
from dsp.quality import Quality
from dsp.reference import Calibration
from firmware_bridge.blocks import SampleBlock, Signal
from tests.dsp.signals import HOP_S, RATE_HZ, WHITE_KEPT, Array, control, emg, filtered, same, steps, white

PAIR = Signal(RATE_HZ, ("left", "right"), 0.05, (-1650.0, 1650.0))
ONE = Signal(RATE_HZ, ("left",), 0.05, (-1650.0, 1650.0))
WEARER = Calibration((2.0, 2.0), (0.5, 0.5), (100.0, 60.0))
Pieces = list[tuple[int, Array]]


def wearer(seed: int = 1) -> Array:
    """28 s of two shoulders, (samples, 2): shrugs on both, a saturated and a flat stretch, an offset jump."""
    left = steps((4, 2), (7, 60), (0.8, 2), (4, 60), (6.2, 2), (4, 50), (2, 2))
    right = steps((6, 2), (6, 40), (10, 2), (6, 40))
    x = white(28, seed, channels=2) / WHITE_KEPT * np.stack([left, right])
    x[0, 17_000:17_030] = 1650.0
    x[1, 14_020:14_400] = 12.5
    x[0, 19_000:] += 500.0
    return np.ascontiguousarray(x.T)


def chain(signal: Signal = PAIR, first_sample: int = 0, calibration: Calibration | None = WEARER) -> Chain:
    one = Chain(signal, ChainSettings(), first_sample)
    if calibration is not None:
        n = len(signal.channels)
        reference = calibration.reference_uv
        one.calibrate(
            Calibration(calibration.rest_uv[:n], calibration.noise_uv[:n], None if reference is None else reference[:n])
        )
    return one


def feed(one: Chain, pieces: Pieces) -> list[Message]:
    out: list[Message] = []
    for start, values in pieces:
        out += one.process(SampleBlock(one.signal, start, values))
    return out + one.finish()


def cut(x: Array, ends: list[int], lost: list[tuple[int, int]]) -> Pieces:
    """The recording as blocks that end anywhere, without those that were lost: (start, length) in samples."""
    edges = {0, len(x), *(e for e in ends if e < len(x))}
    gone = np.zeros(len(x), dtype=bool)
    for start, length in lost:
        gone[start : start + length] = True
    edges |= set((np.flatnonzero(np.diff(gone)) + 1).tolist())
    return [(a, x[a:b]) for a, b in pairwise(sorted(edges)) if not gone[a]]


def control_uv(messages: list[Message]) -> Array:
    return np.concatenate([m.control_uv for m in messages if isinstance(m, Levels)], axis=1)


def frames_uv(messages: list[Message]) -> Array:
    return np.concatenate([m.frames_uv for m in messages if isinstance(m, Levels)], axis=1)


def shrugs(messages: list[Message]) -> list[Shrug]:
    return [m for m in messages if isinstance(m, Shrug)]


def qualities(messages: list[Message]) -> list[Quality]:
    return [m for m in messages if isinstance(m, Quality)]


def assert_same_answer(a: list[Message], b: list[Message]) -> None:
    assert same(control_uv(a), control_uv(b))
    assert same(frames_uv(a), frames_uv(b))
    assert shrugs(a) == shrugs(b)
    assert qualities(a) == qualities(b)


# Cut anywhere


def test_the_recording_has_something_to_get_wrong() -> None:
    messages = feed(chain(), [(0, wearer())])
    assert {s.phase for s in shrugs(messages)} == {"started", "held", "relaxed", "resumed", "ended"}
    assert {(s.channel, s.truncated) for s in shrugs(messages)} >= {(0, False), (1, False), (1, True)}
    assert {r for q in qualities(messages) for r in q.reasons} == {"saturation", "flat", "noise"}


@pytest.mark.parametrize("chunk", [1, 7, 20, 64, 1000, 25_001])
def test_blocks_of_any_size_give_the_same_answer(chunk: int) -> None:
    x = wearer()[: 12_000 if chunk == 1 else None]
    assert_same_answer(feed(chain(), cut(x, list(range(0, len(x), chunk)), [])), feed(chain(), [(0, x)]))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    ends=st.lists(st.integers(1, 27_999), max_size=40),
    lost=st.lists(st.tuples(st.integers(0, 27_000), st.integers(1, 900)), max_size=5),
    missing=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 27_000), st.integers(1, 300)), max_size=4),
)
def test_cut_anywhere_same_answer(
    ends: list[int], lost: list[tuple[int, int]], missing: list[tuple[int, int, int]]
) -> None:
    x = wearer()
    for channel, start, length in missing:
        x[start : start + length, channel] = np.nan
    holed = x.copy()
    for start, length in lost:
        holed[start : start + length] = np.nan
    whole = feed(chain(), [(0, holed)])
    assert_same_answer(feed(chain(), cut(x, ends, lost)), whole)
    assert_same_answer(feed(chain(), cut(holed, ends, [])), whole)


def test_what_becomes_known_at_the_same_time_comes_in_the_same_order_for_any_cut() -> None:
    x = wearer()
    started = next(s for s in shrugs(feed(chain(), [(0, x)])) if s.phase == "started")
    at = round(started.at_s * RATE_HZ)
    x[at : at + 10, 0] = np.nan  # a change of quality in the very next hop

    def events(ends: list[int]) -> list[Message]:
        return [m for m in feed(chain(), cut(x, ends, [])) if not isinstance(m, Levels)]

    whole = events([])
    assert {type(m) for m in whole if m.at_s == started.at_s} == {Shrug, Quality}
    assert events([at]) == whole


def test_blanking_gives_the_same_answer_for_any_cut() -> None:
    def run(ends: list[int]) -> list[Message]:
        one = chain()
        one.blank(9.013)
        return feed(one, cut(wearer(), ends, []))

    assert_same_answer(run([3, 9000, 9001, 9017, 9050]), run([]))


# Lost data


def test_gaps_are_unknown_and_never_zero() -> None:
    messages = feed(chain(), cut(wearer(), [], [(20_000, 3000)]))
    control_, frames = control_uv(messages), frames_uv(messages)
    assert control_.shape == (2, 560)
    assert np.isnan(control_[:, 401:463]).all()
    assert np.isnan(frames[:, 161:184]).all()
    assert np.isfinite(control_[:, 468:]).all()
    for levels in (control_, frames):
        assert np.nanmin(levels) > 0.5


def test_a_gap_of_days_is_taken_in_a_stride() -> None:
    one = chain()
    x = wearer()
    one.process(SampleBlock(PAIR, 0, x[:5000]))
    before = len(pickle.dumps(one))
    start = 3_600_000
    messages = one.process(SampleBlock(PAIR, start, x[5000:20_000]))
    assert np.isnan(control_uv(messages)[:, 2 : (start - 5000) // 50]).all()
    assert len(pickle.dumps(one)) < before + 50_000
    assert any(s.start_s > 3600 for s in shrugs(messages))


def test_a_short_loss_inside_a_hold_keeps_it_and_says_so() -> None:
    x = white(20, 2) / WHITE_KEPT * steps((5, 2), (10, 60), (5, 2))
    end = shrugs(feed(chain(ONE), cut(x.T, [], [(9000, 800)])))[-1]
    assert (end.phase, end.truncated) == ("ended", False)
    assert (end.start_s, end.end_s) == pytest.approx((5, 15), abs=0.15)
    assert 0.85 < end.valid_fraction < 0.95


def test_a_long_loss_inside_a_hold_cuts_it_off() -> None:
    x = white(30, 3) / WHITE_KEPT * steps((5, 2), (20, 60), (5, 2))
    first, second = (s for s in shrugs(feed(chain(ONE), cut(x.T, [], [(12_000, 4000)]))) if s.phase == "ended")
    assert first.truncated
    assert first.end_s == pytest.approx(12, abs=0.1)
    assert not second.truncated
    assert (second.start_s, second.end_s) == pytest.approx((16.3, 25), abs=0.25)


def test_a_block_that_goes_back_is_refused_and_harms_nothing() -> None:
    x = wearer()
    one = chain()
    messages = one.process(SampleBlock(PAIR, 0, x[:10_020]))
    for start in (0, 10_000, 10_019):
        with pytest.raises(ValueError, match=f"starts at sample {start}; expected 10020"):
            one.process(SampleBlock(PAIR, start, x[:1000]))
    messages += feed(one, [(10_020, x[10_020:])])
    assert_same_answer(messages, feed(chain(), [(0, x)]))


def test_an_empty_block_changes_nothing() -> None:
    x = wearer()
    messages = feed(chain(), [(0, x[:0]), (0, x[:7777]), (7777, x[:0]), (7777, x[7777:])])
    assert_same_answer(messages, feed(chain(), [(0, x)]))


# Channels


@pytest.mark.parametrize("dead", [np.nan, 0.0, 1650.0, -40.0])
def test_a_dead_channel_does_not_disturb_the_good_one(dead: float) -> None:
    x = wearer()
    x[:, 1] = dead
    messages, alone = feed(chain(), [(0, x)]), feed(chain(ONE), [(0, x[:, :1])])
    assert same(control_uv(messages)[:1], control_uv(alone))
    assert same(frames_uv(messages)[:1], frames_uv(alone))
    assert [s for s in shrugs(messages) if s.channel == 0] == shrugs(alone)
    assert [q for q in qualities(messages) if q.channel == 0] == qualities(alone)
    assert not [s for s in shrugs(messages) if s.channel == 1]
    assert np.isnan(control_uv(messages)[1]).all()
    assert [q for q in qualities(messages) if q.channel == 1][-1].state == "bad"


def test_a_channel_without_a_known_rest_has_levels_and_no_shrugs() -> None:
    x = wearer()
    half = Calibration((float("nan"), 2.0), (float("nan"), 0.5), (float("nan"), 60.0))
    messages, whole = feed(chain(calibration=half), [(0, x)]), feed(chain(), [(0, x)])
    assert same(control_uv(messages), control_uv(whole))
    assert shrugs(messages) == [s for s in shrugs(whole) if s.channel == 1]


@pytest.mark.parametrize("value", [0.0, 60.0, 1650.0, -1700.0])
def test_a_constant_is_never_a_shrug(value: float) -> None:
    x = wearer()[:, :1]
    x[10_000:] = value
    messages = feed(chain(ONE), [(0, x)])
    assert not [s for s in shrugs(messages) if s.start_s > 10.2]
    assert np.isnan(control_uv(messages)[:, 205:]).all()


def test_a_jump_of_the_baseline_is_never_a_shrug() -> None:
    x = 2 * white(30, 4) / WHITE_KEPT
    for k in range(1, 15):
        x[:, 2000 * k :] += 900.0 * (-1) ** k
    assert shrugs(feed(chain(ONE), [(0, x.T)])) == []


# Levels


def test_levels_are_those_of_the_filtered_signal() -> None:
    x = 30 * white(10, 5, channels=2)
    messages = feed(chain(), [(0, np.ascontiguousarray(x.T))])
    assert same(control_uv(messages), control(filtered(x)))
    assert frames_uv(messages).shape == (2, 80)
    assert np.nanmean(control_uv(messages)) == pytest.approx(30 * WHITE_KEPT, rel=0.02)


def test_levels_say_when_and_whether_a_raise_is_on() -> None:
    one = chain()
    x = wearer()
    on: list[tuple[float, tuple[bool, ...]]] = []
    for start in range(0, len(x), 50):
        (levels,) = (m for m in one.process(SampleBlock(PAIR, start, x[start : start + 50])) if isinstance(m, Levels))
        assert levels.control_uv.shape == (2, 1)
        on.append((levels.at_s, levels.on))
    assert [at for at, _ in on] == pytest.approx([(k + 1) * HOP_S for k in range(560)])
    assert [on[k][1] for k in (60, 140, 200, 270, 340)] == [
        (False, False),
        (True, True),
        (True, True),
        (True, False),
        (False, False),
    ]


def test_messages_of_one_call_are_in_order_of_time_and_levels_come_last() -> None:
    x = wearer()
    for pieces in ([(0, x)], cut(x, list(range(0, len(x), 3001)), [(9000, 500)])):
        one = chain()
        for start, values in pieces:
            messages = one.process(SampleBlock(PAIR, start, values))
            assert [s.at_s for s in shrugs(messages)] == sorted(s.at_s for s in shrugs(messages))
            assert [q.at_s for q in qualities(messages)] == sorted(q.at_s for q in qualities(messages))
            assert not messages or isinstance(messages[-1], Levels)


def test_finish_cuts_off_what_is_on() -> None:
    one = chain()
    one.process(SampleBlock(PAIR, 0, wearer()[:9020]))
    last = one.finish()
    assert [(s.phase, s.truncated) for s in shrugs(last)] == [("ended", True)]
    assert [s.end_s for s in shrugs(last)] == pytest.approx([9.0], abs=0.06)
    assert all(s.at_s == pytest.approx(9.0) for s in shrugs(last))


def test_without_a_calibration_nothing_is_a_shrug() -> None:
    messages = feed(chain(calibration=None), [(0, wearer())])
    assert shrugs(messages) == []
    assert {m.on for m in messages if isinstance(m, Levels)} == {(False, False)}
    assert same(control_uv(messages), control_uv(feed(chain(), [(0, wearer())])))


def test_a_calibration_holds_from_here_on() -> None:
    x = white(40, 6) / WHITE_KEPT * steps((5, 2), (6, 60), (9, 2), (6, 60), (14, 2))
    one = chain(ONE, calibration=None)
    first = one.process(SampleBlock(ONE, 0, x.T[:15_010]))
    one.calibrate(Calibration((2.0,), (0.5,), (100.0,)))
    second = feed(one, [(15_010, x.T[15_010:])])
    assert shrugs(first) == []
    assert [s.start_s for s in shrugs(second) if s.phase == "ended"] == pytest.approx([20], abs=0.1)


def test_a_stretch_in_which_the_motor_runs_is_unknown_and_no_shrug() -> None:
    x = 2 * white(30, 7) / WHITE_KEPT
    motor = 300 * np.sin(2 * np.pi * 170 * np.arange(6000) / RATE_HZ)
    x[0, 10_000:16_000] += motor
    assert shrugs(feed(chain(ONE), [(0, x.T)]))
    one = chain(ONE)
    messages = one.process(SampleBlock(ONE, 0, x.T[:10_000]))
    one.blank(16.5)
    messages += feed(one, [(10_000, x.T[10_000:])])
    assert shrugs(messages) == []
    assert np.isnan(control_uv(messages)[0, 202:328]).all()
    assert np.nanmax(control_uv(messages)[0, 10:]) < 4


def test_blanking_is_never_taken_back() -> None:
    one = chain(ONE)
    one.blank(5.0)
    one.blank(2.0)
    messages = feed(one, [(0, 20 * white(8, 8).T)])
    assert np.isnan(control_uv(messages)[0, :98]).all()
    assert np.isfinite(control_uv(messages)[0, 105:]).all()


# Where a recording begins


@pytest.mark.parametrize("first", [1, 23, 49, 50, 1023])
def test_hops_are_counted_from_sample_0_wherever_the_recording_begins(first: int) -> None:
    x = wearer()
    one = chain(first_sample=first)
    assert one.samples == first
    messages = feed(one, [(first, x[first:])])
    assert one.samples == len(x)
    assert control_uv(messages).shape[1] == 560 - first // 50
    levels = [m for m in messages if isinstance(m, Levels)]
    assert levels[-1].at_s == pytest.approx(28.0)
    aligned = first - first % 50
    padded = x[aligned:].copy()
    padded[: first - aligned] = np.nan
    assert same(control_uv(messages), control_uv(feed(chain(first_sample=aligned), [(aligned, padded)])))
    whole = feed(chain(), [(0, x)])
    assert [(s.phase, s.channel, s.start_s) for s in shrugs(messages)] == [
        (s.phase, s.channel, s.start_s) for s in shrugs(whole)
    ]


def test_times_are_those_of_the_board() -> None:
    x = wearer()
    early, late = feed(chain(), [(0, x)]), feed(chain(first_sample=3_600_000), [(3_600_000, x)])
    assert same(control_uv(early), control_uv(late))
    assert [s.at_s + 3600 for s in shrugs(early)] == pytest.approx([s.at_s for s in shrugs(late)])
    assert [s.start_s + 3600 for s in shrugs(early)] == pytest.approx([s.start_s for s in shrugs(late)])
    assert [q.at_s + 3600 for q in qualities(early)] == pytest.approx([q.at_s for q in qualities(late)])


def test_a_block_before_the_first_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 1023 or later"):
        chain(first_sample=1023).process(SampleBlock(PAIR, 1000, wearer()[:100]))


@pytest.mark.parametrize("rate_hz", [200.0, 250.0, 256.0, 500.0, 2000.0])
def test_slow_and_fast_boards_find_the_same_shrug(rate_hz: float) -> None:
    signal = Signal(rate_hz, ("left",), 0.05, (-1650.0, 1650.0))
    x = white(24, 9, rate_hz=rate_hz) * steps((6, 2), (8, 200), (10, 2), per_second=rate_hz)
    (end,) = (s for s in shrugs(feed(chain(signal), [(0, x.T)])) if s.phase == "ended")
    assert (end.start_s, end.end_s) == pytest.approx((6, 14), abs=0.15)


def test_a_board_that_is_too_slow_is_refused() -> None:
    with pytest.raises(SignalError, match="too low"):
        chain(Signal(100.0, ("left", "right")))


# Memory


def test_memory_is_bounded_over_a_long_stream_of_small_blocks() -> None:
    one = chain()
    x = wearer()
    sizes = []
    at = 0
    for _ in range(18):
        for start in range(0, len(x), 20):
            one.process(SampleBlock(PAIR, at + start, x[start : start + 20]))
        at += len(x)
        sizes.append(len(pickle.dumps(one)))
    assert max(sizes[14:]) - min(sizes[14:]) < 20_000
    assert max(sizes) < 120_000


# Bad seconds, mains, low rest: through the whole chain


def hum(seconds: float, uv_rms: float) -> Array:
    return np.asarray(np.sqrt(2) * uv_rms * np.sin(2 * np.pi * 50 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ))


def test_a_burst_of_hum_as_loud_as_a_shrug_is_no_shrug_and_leaves_the_measures() -> None:
    x = 2 * emg(40, 31)
    x[0, 20_000:26_000] += hum(6, 60)
    messages = feed(chain(ONE), [(0, x.T)])
    assert shrugs(messages) == []
    bad = [q for q in qualities(messages) if "mains" in q.reasons and q.state == "bad"]
    assert [q.at_s for q in bad] == [20.0]
    frames = frames_uv(messages)[0]
    assert np.isnan(frames[160:208]).all()
    assert np.isfinite(frames[2:160]).all()
    assert np.nanmax(np.delete(frames, 208)) < 4  # the frame in which the hum stops


def test_the_same_hum_as_a_shrug_is_found_when_it_is_emg() -> None:
    x = 2 * emg(40, 31) * steps((20, 1), (6, 30), (14, 1))
    ends = [s for s in shrugs(feed(chain(ONE), [(0, x.T)])) if s.phase == "ended"]
    assert [s.start_s for s in ends] == pytest.approx([20], abs=0.1)


def test_a_bad_second_between_good_ones_hides_nothing_that_comes_after() -> None:
    x = 2 * emg(40, 32) * steps((10, 1), (20, 30), (10, 1))
    x[0, 18_400:] += 1200.0  # the electrode jerks within the hold
    messages = feed(chain(ONE), [(0, x.T)])
    assert {q.state for q in qualities(messages) if "motion" in q.reasons} == {"bad"}
    (end,) = (s for s in shrugs(messages) if s.phase == "ended")
    assert (end.start_s, end.end_s) == pytest.approx((10, 30), abs=0.15)
    assert np.isfinite(control_uv(messages)[0, 385:]).all()


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(ends=st.lists(st.integers(1, 29_999), max_size=30), lost=st.integers(6_000, 20_000))
def test_a_notch_that_comes_by_rule_comes_at_the_same_sample_for_any_cut(ends: list[int], lost: int) -> None:
    x = 2.5 * emg(30, 33, channels=2) + hum(30, 4)
    x[1, 15_000:] *= 20
    pieces = cut(x.T, ends, [(lost, 400)])
    whole = feed(chain(), cut(x.T, [], [(lost, 400)]))
    assert_same_answer(feed(chain(), pieces), whole)
    (change,) = (m for m in whole if isinstance(m, BandChange))
    assert change.at_s == pytest.approx(6.1)
    assert change.band == Band(30.0, 450.0, (50.0,))
    frames = frames_uv(whole)
    assert np.nanmean(frames[:, 2:40]) == pytest.approx(np.hypot(2.5 * 0.968, 4), rel=0.1)
    assert np.nanmean(frames[0, 60:]) == pytest.approx(2.5 * 0.968, rel=0.1)


def test_a_band_that_is_known_holds_from_the_first_sample() -> None:
    x = 2.5 * emg(30, 34) + hum(30, 4)
    band = Band(30.0, 450.0, (50.0,))
    one = Chain(ONE, ChainSettings(), 0, band)
    messages = feed(one, [(0, x.T)])
    assert one.band == one.first_band == band
    assert not [m for m in messages if isinstance(m, BandChange)]
    assert np.nanmean(frames_uv(messages)[0, 10:]) == pytest.approx(2.5 * 0.968, rel=0.1)


def low_rests(messages: list[Message]) -> list[LowRest]:
    return [m for m in messages if isinstance(m, LowRest)]


def test_minutes_of_low_tension_are_low_rest_and_no_shrug() -> None:
    x = emg(400, 35) / 0.968 * steps((80, 2), (220, 12), (100, 2))
    messages = feed(chain(ONE), [(0, x.T)])
    assert shrugs(messages) == []
    started, ended = low_rests(messages)
    assert started.start_s == pytest.approx(80, abs=0.5)
    assert ended.start_s == started.start_s
    assert ended.end_s == pytest.approx(300, abs=0.5)
    assert ended.mean_uv == pytest.approx(12, rel=0.05)


def test_low_rest_needs_a_reference_and_an_adc_that_sees_rest() -> None:
    x = emg(300, 36) * steps((60, 2), (200, 12), (40, 2))
    alone = chain(ONE, calibration=None)
    alone.calibrate(Calibration((2.0,), (0.5,)))
    assert low_rests(feed(alone, [(0, x.T)])) == []
    coarse = Signal(RATE_HZ, ("left",), 3.2, (-1650.0, 1650.0))
    assert low_rests(feed(chain(coarse), [(0, x.T)])) == []
    assert chain(coarse).undecided_since_s is None


@pytest.mark.parametrize("chunk", [50, 777, 25_000])
def test_low_rest_is_the_same_for_blocks_of_any_size(chunk: int) -> None:
    x = emg(260, 37) * steps((20, 2), (200, 12), (40, 2))
    pieces = cut(x.T, list(range(0, 260_000, chunk)), [])
    whole = feed(chain(ONE), [(0, x.T)])
    found = feed(chain(ONE), pieces)
    assert low_rests(found) == low_rests(whole)
    assert len(low_rests(whole)) == 2


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300, -1e12])
def test_a_value_that_no_electrode_gives_is_a_lost_one(value: float) -> None:
    x, lost = 2 * emg(20, 38), 2 * emg(20, 38)
    x[0, 7_000:7_400:20], lost[0, 7_000:7_400:20] = value, np.nan
    x[0, 12_000:13_500], lost[0, 12_000:13_500] = value, np.nan
    assert_same_answer(feed(chain(ONE), [(0, x.T)]), feed(chain(ONE), [(0, lost.T)]))


def test_a_rest_level_at_the_activity_threshold_is_no_low_rest() -> None:
    x = emg(500, 39) / 0.968 * 3.1  # 3.1 % of the reference, for minutes
    one = chain(ONE, calibration=None)
    one.calibrate(Calibration((3.1,), (0.1,), (100.0,)))
    assert low_rests(feed(one, [(0, x.T)])) == []
