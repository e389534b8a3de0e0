import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsp.detect import ShrugSettings, Thresholds, thresholds
from dsp.filters import SignalError
from dsp.reference import Calibration, Verdict, quietest, quietest_of, reference_of, steady_level, verdict
from tests.dsp.signals import Array


def wearer(rest: float = 2.5, noise: float = 1.0, reference: float | None = 80.0) -> Calibration:
    return Calibration((rest,), (noise,), None if reference is None else (reference,))


def test_the_reference_itself_is_100_percent() -> None:
    assert wearer().rve(80.0, 0) == pytest.approx(100)


def test_noise_is_taken_off_both_in_the_power_domain() -> None:
    calibration = wearer(rest=4.0, noise=3.0, reference=np.hypot(40.0, 3.0))
    assert calibration.rve(5.0, 0) == pytest.approx(10)
    assert calibration.rve(float(np.hypot(20.0, 3.0)), 0) == pytest.approx(50)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_level_that_is_all_noise_is_0_percent(level: float) -> None:
    assert wearer(noise=1.0).rve(level, 0) == 0


def test_percent_does_not_depend_on_the_unit_of_the_amplifier() -> None:
    small = Calibration((2.0,), (1.0,), (80.0,)).rve(30.0, 0)
    assert Calibration((200.0,), (100.0,), (8000.0,)).rve(3000.0, 0) == pytest.approx(small)


def test_every_channel_has_its_own_reference() -> None:
    calibration = Calibration((2.0, 2.0), (0.0, 0.0), (80.0, 40.0))
    assert [calibration.rve(20.0, c) for c in (0, 1)] == pytest.approx([25, 50])


def test_an_unknown_level_or_reference_gives_no_percentage() -> None:
    assert wearer().rve(float("nan"), 0) is None
    assert wearer(reference=None).rve(20.0, 0) is None
    assert wearer(reference=None).level_at_rve(20.0, 0) is None


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    rve=st.floats(0.5, 200),
    rest=st.floats(0.5, 10),
    noise_share=st.floats(0, 1),
    times_rest=st.floats(1.5, 100),
)
def test_level_at_rve_is_the_inverse_of_rve(rve: float, rest: float, noise_share: float, times_rest: float) -> None:
    calibration = wearer(rest, rest * noise_share, rest * times_rest)
    level = calibration.level_at_rve(rve, 0)
    assert level is not None
    assert calibration.rve(level, 0) == pytest.approx(rve, rel=1e-6)


@pytest.mark.parametrize("reference", [0.0, -80.0, 2.5, float("nan"), float("inf")])
def test_an_impossible_reference_is_an_error_not_an_infinite_percentage(reference: float) -> None:
    with pytest.raises(SignalError, match="reference level"):
        wearer(reference=reference)


@pytest.mark.parametrize("rest", [0.0, -1.0, float("inf"), float("-inf")])
def test_an_impossible_rest_level_is_an_error(rest: float) -> None:
    with pytest.raises(SignalError, match="rest level"):
        wearer(rest=rest, noise=0.0)


@pytest.mark.parametrize("noise", [-0.1, 2.6, float("nan")])
def test_an_impossible_noise_level_is_an_error(noise: float) -> None:
    with pytest.raises(SignalError, match="noise level"):
        wearer(noise=noise)


def test_one_bad_channel_of_two_is_an_error() -> None:
    with pytest.raises(SignalError):
        Calibration((2.0, 2.0), (1.0, 1.0), (80.0, 1.0))


def test_the_quietest_10_s_of_a_long_recording_are_found() -> None:
    frames = np.full(1600, 4.0)
    frames[200:280] = 2.0
    assert quietest(frames, 0.125) == pytest.approx((2.0, 25.0, 35.0))


def test_the_quietest_stretch_is_quiet_throughout() -> None:
    frames = np.full(1600, 3.0)
    frames[100:140] = 0.5  # 5 s of near silence beside a noisy 5 s
    frames[60:100] = frames[140:180] = 20.0
    level, start_s, end_s = quietest(frames, 0.125)
    assert level == pytest.approx(3.0)
    assert end_s <= 60 * 0.125 or start_s >= 180 * 0.125


def test_the_quietest_stretch_does_not_touch_lost_data() -> None:
    frames = np.full(1600, 4.0)
    frames[200:280] = 2.0
    frames[240] = np.nan
    level, start_s, end_s = quietest(frames, 0.125)
    assert np.isfinite(level)
    assert end_s <= 240 * 0.125 or start_s >= 241 * 0.125


def test_a_short_recording_has_a_short_quietest_stretch() -> None:
    frames = np.full(240, 4.0)  # 30 s
    frames[80:92] = 1.0
    level, start_s, end_s = quietest(frames, 0.125)
    assert level == pytest.approx(1.0)
    assert end_s - start_s == pytest.approx(1.5)
    assert start_s >= 10
    assert end_s <= 11.5


@pytest.mark.parametrize("frames", [np.full(0, 2.0), np.full(7, 2.0), np.full(480, np.nan)])
def test_the_rest_level_is_unknown_without_enough_valid_data(frames: Array) -> None:
    assert np.isnan(quietest(frames, 0.125)[0])


def test_a_channel_whose_rest_is_unknown_has_no_percentages_and_unreachable_thresholds() -> None:
    calibration = Calibration((float("nan"), 2.0), (float("nan"), 0.0), (float("nan"), 100.0))
    assert calibration.rve(50.0, 0) is None
    assert calibration.level_at_rve(50.0, 0) is None
    assert thresholds(calibration, 0, ShrugSettings()).on_uv > 1e9
    assert calibration.rve(50.0, 1) == pytest.approx(50)
    assert thresholds(calibration, 1, ShrugSettings()) == Thresholds(30.0, 18.0, 2.0)


@pytest.mark.parametrize(
    ("calibration", "on_uv", "off_uv"),
    [
        (wearer(rest=2.0, noise=0.0, reference=100.0), 30.0, 18.0),  # 30 %RVE, 0.6 of that
        (wearer(rest=4.0, noise=3.0, reference=np.hypot(40.0, 3.0)), np.hypot(12.0, 3.0), 0.6 * np.hypot(12.0, 3.0)),
        (wearer(rest=10.0, noise=0.0, reference=50.0), 23.0, 15.0),  # 2.3 and 1.5 x rest
        (wearer(rest=2.0, noise=2.0, reference=10.0), 6.0, 3.6),  # 3 x noise
        (wearer(rest=2.0, noise=1.0, reference=None), 16.0, 9.6),  # 8 x rest where there is no reference
    ],
)
def test_thresholds_are_the_highest_of_what_reference_rest_and_noise_ask(
    calibration: Calibration, on_uv: float, off_uv: float
) -> None:
    limits = thresholds(calibration, 0, ShrugSettings())
    assert (limits.on_uv, limits.off_uv) == pytest.approx((on_uv, off_uv))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(rest=st.floats(0.1, 50), noise_share=st.floats(0, 1), times_rest=st.floats(1.01, 100))
def test_the_off_threshold_never_comes_near_the_on_threshold_or_rest(
    rest: float, noise_share: float, times_rest: float
) -> None:
    limits = thresholds(wearer(rest, rest * noise_share, rest * times_rest), 0, ShrugSettings())
    assert limits.off_uv <= 0.66 * limits.on_uv
    assert limits.off_uv >= 1.5 * rest
    assert limits.on_uv >= 2.3 * rest


def test_thresholds_follow_the_settings() -> None:
    limits = thresholds(wearer(2.0, 0.0, 100.0), 0, ShrugSettings(on_rve=50.0, off_ratio=0.4))
    assert limits == Thresholds(50.0, 20.0, 2.0)


# Repeated reference contractions


def test_the_reference_is_the_median_of_repeats_that_agree() -> None:
    found = reference_of([80.0, 90.0, 84.0])
    assert (found.rve_uv, found.verdict) == (84.0, "accepted")
    assert found.cv_pct == pytest.approx(100 * np.std([80, 90, 84], ddof=1) / np.mean([80, 90, 84]))
    assert reference_of([80.0]).verdict == "accepted"


def test_repeats_that_disagree_call_for_one_more_and_then_for_none() -> None:
    assert reference_of([60.0, 90.0, 120.0]).verdict == "one more"
    assert reference_of([60.0, 90.0, 120.0, 95.0]).verdict == "refused"
    assert reference_of([88.0, 90.0, 92.0, 60.0]).verdict == "refused"
    assert reference_of([88.0, 90.0, 92.0, 75.0]).verdict == "accepted"


@pytest.mark.parametrize("repeats", [[], [80.0, 0.0], [80.0, float("nan")], [-3.0]])
def test_repeats_that_are_no_levels_are_refused(repeats: list[float]) -> None:
    with pytest.raises(SignalError, match="expected one or more levels above 0"):
        reference_of(repeats)


# What a channel can show


def seen(rest: float, reference: float | None, noise: float = 0.1, step: float | None = 0.05) -> Verdict:
    given = Calibration((rest,), (noise,), None if reference is None else (reference,))
    return verdict(given, 0, 5.0, step)


def test_a_good_channel_sees_rest() -> None:
    assert seen(2.0, 80.0) == Verdict("ok", True, pytest.approx(32.04, abs=0.01), ())  # type: ignore[arg-type]
    assert seen(2.0, 80.0, step=None).sees_rest


@pytest.mark.parametrize(("step", "sees"), [(2.0, True), (2.01, False), (24.4, False)])
def test_a_coarse_adc_cannot_see_rest(step: float, sees: bool) -> None:
    # 5 % of 80 µV are 4 µV.
    found = seen(2.5, 80.0, noise=0.0, step=step)
    assert found.sees_rest is sees
    assert sees or f"ADC step of {step:.2g} µV" in found.reasons[0]


def test_noise_and_a_loud_rest_hide_rest() -> None:
    assert seen(3.0, 80.0, noise=2.1).sees_rest is False
    assert seen(4.1, 80.0).sees_rest is False
    assert "is not below it" in seen(4.1, 80.0).reasons[0]


@pytest.mark.parametrize(("rest", "state"), [(8.0, "ok"), (8.2, "warn"), (20.0, "warn"), (20.3, "bad")])
def test_the_reference_over_rest_grades_the_channel(rest: float, state: str) -> None:
    given = Calibration((rest,), (0.1,), (80.0,))
    # A high rest threshold, so that only the ratio matters.
    assert verdict(given, 0, 50.0, 0.05).state == state


@pytest.mark.parametrize("reference", [15.0, 700.0])
def test_an_unusual_reference_is_said(reference: float) -> None:
    found = verdict(Calibration((0.5,), (0.1,), (reference,)), 0, 5.0, 0.05)
    assert found.state == "warn"
    assert "check electrodes and units" in found.reasons[-1]


def test_without_a_reference_only_a_rest_of_one_step_is_judged() -> None:
    assert seen(2.5, None) == Verdict("ok", None, None, ("no reference contraction",))
    found = seen(2.5, None, step=3.2)
    assert (found.state, found.sees_rest) == ("warn", False)
    assert "one ADC step" in found.reasons[0]
    assert seen(float("nan"), 80.0).state == "bad"


def test_steady_rest_is_the_level_of_its_last_valid_frames() -> None:
    rest = np.full(60, 3.0)
    rest[::7] = np.nan
    assert steady_level(rest, 40, 3.0) == pytest.approx(3.0)
    assert np.isnan(steady_level(rest, 60, 3.0))


@pytest.mark.parametrize("place", [0, 12, 37, 50, 55])
@pytest.mark.parametrize("length", [5, 10, 60])
def test_shrug_is_no_rest(place: int, length: int) -> None:
    frames = np.full(60, 3.0)
    frames[place : place + length] = 60.0
    assert np.isnan(steady_level(frames, 60, 3.0))


def test_quietest_frames_in_a_row_are_found() -> None:
    frames = np.full(60, 60.0)
    frames[20:40] = 3.0
    assert quietest_of(frames, 20) == pytest.approx(3.0)
