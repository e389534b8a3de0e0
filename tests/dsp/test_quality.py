from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.quality import Quality, QualitySettings, QuickChecks, Verdicts, is_bad
from firmware_bridge.blocks import Signal
from tests.dsp.signals import HOP, HOP_S, RATE_HZ, Array, white

SIGNAL = Signal(RATE_HZ, ("left",), 0.05, (-1000.0, 1000.0))
PAIR = Signal(RATE_HZ, ("left", "right"), 0.05, (-1000.0, 1000.0))


def judge(
    x: Array, signal: Signal = SIGNAL, limits: QualitySettings | None = None, ends: list[int] | None = None
) -> tuple[list[Quality], Array]:
    """Changes of quality and unusable hops of a recording, fed in pieces that end at the given hops."""
    checks, verdicts = QuickChecks(signal, limits or QualitySettings(), HOP), Verdicts(len(x), 0, HOP_S)
    hops = x.shape[1] // HOP
    edges = [0, *sorted({e for e in ends or [] if 0 < e < hops}), hops]
    changes: list[Quality] = []
    unusable = []
    for a, b in pairwise(edges):
        codes = checks.push(x[:, a * HOP : b * HOP])
        changes += verdicts.push(codes)
        unusable.append(is_bad(codes, ("saturation", "flat")))
    return changes, np.concatenate(unusable, axis=1)


def worn(seconds: float = 5, seed: int = 1, channels: int = 1) -> Array:
    return 20 * white(seconds, seed, channels)


def with_value(value: float, count: int, start: int = 2000, every: int = 7) -> Array:
    """A good signal with single samples replaced, all within less than a second."""
    x = worn()
    x[0, start : start + count * every : every] = value
    return x


def test_a_good_signal_is_never_judged() -> None:
    changes, unusable = judge(worn(60))
    assert changes == []
    assert not unusable.any()


@pytest.mark.parametrize("rail", [-1000.0, 1000.0, 1200.0, 980.0, -980.0])
@pytest.mark.parametrize(("count", "state"), [(1, "warn"), (9, "warn"), (10, "bad")])
def test_saturation_is_graded_by_its_share_of_a_second(rail: float, count: int, state: str) -> None:
    changes, unusable = judge(with_value(rail, count))
    assert {c.reasons for c in changes[:-1]} == {("saturation",)}
    assert changes[0].at_s == 2.0
    assert max(("ok", "warn", "bad").index(c.state) for c in changes) == ("ok", "warn", "bad").index(state)
    assert unusable.any() == (state == "bad")


def test_values_clear_of_the_rails_do_not_count_as_saturated() -> None:
    assert judge(with_value(979.0, 50))[0] == []
    assert judge(with_value(-979.0, 50))[0] == []


def test_saturation_is_forgotten_after_a_second() -> None:
    x = worn()
    x[0, 2000:2020:2] = 1000.0
    changes, unusable = judge(x)
    assert changes == [Quality(0, 2.0, "bad", ("saturation",)), Quality(0, 3.0, "ok")]
    assert np.flatnonzero(unusable[0]).tolist() == list(range(40, 60))


def test_without_known_rails_nothing_saturates() -> None:
    assert judge(with_value(1e6, 100), Signal(RATE_HZ, ("left",)))[0] == []


@pytest.mark.parametrize(("share_pct", "state"), [(65.0, "bad"), (69.0, "warn")])
def test_a_sine_of_twice_the_range_is_clipped_two_thirds_of_the_time(share_pct: float, state: str) -> None:
    x = np.clip(2000 * np.sin(2 * np.pi * 37.3 * np.arange(5000) / RATE_HZ), -1000, 1000)[None]
    last = judge(x, limits=QualitySettings(saturated_bad_pct=share_pct))[0][-1]
    assert (last.state, last.reasons) == (state, ("saturation",))
    assert judge(x)[0][-1].state == "bad"


@pytest.mark.parametrize(("count", "states"), [(4, []), (5, ["warn"]), (49, ["warn"]), (50, ["warn", "bad"])])
def test_loss_is_graded_by_its_share_of_a_second(count: int, states: list[str]) -> None:
    x = worn()
    x[0, 2000 : 2000 + 17 * count : 17] = np.nan
    changes, unusable = judge(x)
    worst: list[str] = []
    for change in changes:
        if change.state != "ok" and change.state not in worst:
            worst.append(change.state)
    assert worst == states
    assert {c.reasons for c in changes if c.state != "ok"} <= {("lost",)}
    assert not unusable.any()


def test_infinite_values_count_as_lost() -> None:
    x = worn()
    x[0, 2000:2050] = np.inf
    signal = Signal(RATE_HZ, ("left",))
    holed = worn()
    holed[0, 2000:2049] = np.nan
    assert "lost" in judge(x, signal)[0][0].reasons
    assert judge(holed, signal)[0][0] == Quality(0, 2.0, "warn", ("lost",))


def test_losing_5_percent_of_the_packets_is_bad() -> None:
    x = worn(60)
    packets = np.random.default_rng(2).random(x.shape[1] // 10) < 0.08
    x[0, np.repeat(packets, 10)] = np.nan
    assert any(c.state == "bad" and c.reasons == ("lost",) for c in judge(x)[0])


@pytest.mark.parametrize("at", [2000, 2013, 2049])
@pytest.mark.parametrize("value", [0.0, 3.2, -990.0 + 20])
def test_a_flat_line_is_bad_at_once_and_good_again_at_once(at: int, value: float) -> None:
    x = worn()
    x[0, at : at + 500] = value
    changes, unusable = judge(x)
    first, last = (at + 49) // HOP, (at + 499) // HOP
    assert changes == [Quality(0, first * HOP_S, "bad", ("flat",)), Quality(0, (last + 1) * HOP_S, "ok")]
    assert np.flatnonzero(unusable[0]).tolist() == list(range(first, last + 1))


@pytest.mark.parametrize(("length", "flat"), [(49, False), (50, True)])
@pytest.mark.parametrize("at", [2000, 2030])
def test_only_a_run_of_50_ms_is_flat(length: int, flat: bool, at: int) -> None:
    x = worn()
    x[0, at : at + length] = 5.0
    assert bool(judge(x)[0]) == flat


def test_the_length_of_a_flat_line_follows_the_rate() -> None:
    slow = Signal(250.0, ("left",), 0.02, (-1000.0, 1000.0))
    for length, flat in ((12, False), (13, True)):
        checks = QuickChecks(slow, QualitySettings(flat_s=0.052), 12)
        x = 20 * white(4.8, seed=3, rate_hz=250.0)
        x[0, 500 : 500 + length] = 5.0
        assert is_bad(checks.push(x), ("flat",)).any() == flat


def test_a_signal_that_is_flat_from_the_first_sample_is_bad_in_the_first_hop() -> None:
    assert judge(np.zeros((1, 5000)))[0] == [Quality(0, 0.0, "bad", ("flat",))]


def test_lost_samples_are_not_a_flat_line() -> None:
    assert "flat" not in {r for c in judge(np.full((1, 5000), np.nan))[0] for r in c.reasons}


def test_all_reasons_are_named_and_the_worst_one_counts() -> None:
    x = worn()
    x[0, 2000:2020:2] = 1000.0
    x[0, 2500:2505] = np.nan
    changes, _ = judge(x)
    assert Quality(0, 2.5, "bad", ("saturation", "lost")) in changes
    assert changes[-1].state == "ok"


def test_every_channel_is_judged_as_if_it_were_alone() -> None:
    x = np.concatenate([with_value(1000.0, 12), worn(5, seed=4)])
    x[1, 3000:3300] = 0.0
    together = judge(x, PAIR)
    for c in (0, 1):
        alone, unusable = judge(x[c : c + 1])
        assert [q for q in together[0] if q.channel == c] == [Quality(c, q.at_s, q.state, q.reasons) for q in alone]
        assert np.array_equal(together[1][c], unusable[0])


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    ends=st.lists(st.integers(1, 99), max_size=20),
    spots=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 4900), st.integers(1, 400), st.sampled_from([np.nan, 0.0, 1000.0])),
        max_size=6,
    ),
)
def test_cut_anywhere_same_changes(ends: list[int], spots: list[tuple[int, int, int, float]]) -> None:
    x = worn(channels=2)
    for channel, start, length, value in spots:
        x[channel, start : start + length] = value
    whole, unusable = judge(x, PAIR)
    cut, unusable_cut = judge(x, PAIR, ends=ends)
    assert np.array_equal(unusable, unusable_cut)
    for c in (0, 1):
        changes = [q for q in whole if q.channel == c]
        assert [q for q in cut if q.channel == c] == changes
        assert [q.at_s for q in changes] == sorted({q.at_s for q in changes})


def test_only_what_changes_is_reported() -> None:
    x = worn()
    x[0, 2000:2040:2] = 1000.0
    x[0, 2200:2210] = np.nan  # worth a warning
    x[0, 2400:2460] = np.nan  # bad, as the saturation is already
    told = [(q.state, q.reasons) for q in judge(x)[0]]
    assert ("bad", ("saturation", "lost")) in told
    assert all(a != b for a, b in pairwise(told))


def test_reset_forgets_everything() -> None:
    checks = QuickChecks(SIGNAL, QualitySettings(), HOP)
    checks.push(np.full((1, 1000), 1000.0))
    checks.reset()
    assert not checks.push(worn()).any()
