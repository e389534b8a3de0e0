"""How shrugs become episodes."""

import itertools

import pytest

from dsp.reference import Calibration
from services.episodes import Episodes
from services.messages import Episode
from services.settings import EpisodeSettings
from tests.services.conftest import shrug

REFERENCE = Calibration((2.0, 2.0), (0.0, 0.0), (80.0, 40.0))
NO_REFERENCE = Calibration((2.0, 2.0), (0.0, 0.0))
PATIENCE_S = 5.0


def episodes(calibration: Calibration = REFERENCE) -> Episodes:
    numbers = itertools.count()
    return Episodes(EpisodeSettings(), ("left", "right"), calibration, lambda _: f"id{next(numbers)}", PATIENCE_S)


def lived(
    *shrugs: tuple[float, float], until_s: float, mean_uv: float = 60.0, into: Episodes | None = None
) -> list[Episode]:
    """Let shrugs (start, end) on the first channel happen, each known after 3 s, second by second."""
    into = into or episodes()
    out: list[Episode] = []
    for now_s in range(round(until_s) + 1):
        for start_s, end_s in shrugs:
            if now_s == start_s + 3:
                out += into.event(shrug("started", now_s, start_s, mean_uv=mean_uv))
            if now_s == end_s:
                out += into.event(shrug("ended", now_s, start_s, end_s, mean_uv=mean_uv))
        out += into.advance(now_s)
    return out


def said(messages: list[Episode]) -> list[tuple[str, str]]:
    return [(m.event, m.id) for m in messages if m.event != "updated"]


def test_shrugs_up_to_a_minute_apart_are_one_episode() -> None:
    messages = lived((10, 20), (80, 90), until_s=200)
    assert said(messages) == [("started", "id0"), ("ended", "id0")]
    assert (messages[-1].start_s, messages[-1].end_s) == (10.0, 90.0)


def test_shrugs_more_than_a_minute_apart_are_two_episodes() -> None:
    messages = lived((10, 20), (81, 90), until_s=200)
    assert said(messages) == [("started", "id0"), ("ended", "id0"), ("started", "id1"), ("ended", "id1")]
    ends = [(m.start_s, m.end_s) for m in messages if m.event == "ended"]
    assert ends == [(10.0, 20.0), (81.0, 90.0)]


def test_a_long_shrug_is_no_pause_however_late_its_end_is_known() -> None:
    assert said(lived((10, 300), (355, 365), until_s=500)) == [("started", "id0"), ("ended", "id0")]


def test_an_episode_waits_for_a_shrug_that_may_have_begun_but_is_not_known_yet() -> None:
    messages = lived((10, 20), until_s=200)
    assert messages[-1].event == "ended"
    assert messages[-1].at_s == pytest.approx(20 + 60 + PATIENCE_S, abs=1.01)
    assert messages[-1].end_s == 20.0


def test_an_open_episode_is_published_every_ten_seconds_with_rising_numbers() -> None:
    messages = lived((10, 120), until_s=300)
    assert [m.event for m in messages] == ["started", *["updated"] * (len(messages) - 2), "ended"]
    assert len({m.id for m in messages}) == 1
    assert [m.seq for m in messages] == list(range(len(messages)))
    times = [m.at_s for m in messages[:-1]]
    assert {b - a for a, b in itertools.pairwise(times)} == {10.0}
    assert all(m.end_s is None for m in messages[:-1])


def test_the_next_episode_counts_from_nought_again() -> None:
    messages = lived((10, 20), (200, 210), until_s=300)
    assert [m.seq for m in messages if m.event == "started"] == [0, 0]
    assert len({m.id for m in messages}) == 2


def test_levels_are_weighted_by_time_and_peaks_are_the_highest() -> None:
    into = episodes()
    into.event(shrug("started", 3.0, 0.0, mean_uv=20.0, peak_uv=30.0))
    into.event(shrug("ended", 30.0, 0.0, 30.0, mean_uv=20.0, peak_uv=50.0))
    into.event(shrug("started", 43.0, 40.0, mean_uv=80.0, peak_uv=100.0))
    into.event(shrug("ended", 50.0, 40.0, 50.0, mean_uv=80.0, peak_uv=120.0))
    (end,) = into.finish(51.0)
    assert end.mean_uv == pytest.approx((30 * 20 + 10 * 80) / 40)
    assert end.mean_rve == pytest.approx((30 * 25 + 10 * 100) / 40)
    assert end.peak_uv == 120.0
    assert end.peak_rve == pytest.approx(150.0)


def test_a_shrug_under_way_counts_with_what_is_known_of_it() -> None:
    into = episodes()
    (start,) = into.event(shrug("started", 3.0, 0.0, mean_uv=20.0, peak_uv=30.0))
    assert (start.mean_uv, start.peak_uv, start.end_s) == (20.0, 30.0, None)
    into.event(shrug("held", 5.0, 0.0, mean_uv=40.0, peak_uv=70.0))
    (update,) = into.advance(13.0)
    assert (update.mean_uv, update.peak_uv) == (40.0, 70.0)


def test_both_sides_make_one_episode_each_against_its_own_reference() -> None:
    into = episodes()
    (start,) = into.event(shrug("started", 3.0, 0.0, channel=1, mean_uv=20.0, peak_uv=20.0))
    assert start.channels == ("right",)
    assert start.mean_rve == pytest.approx(50.0)
    assert into.event(shrug("started", 5.0, 2.0, channel=0, mean_uv=20.0, peak_uv=20.0)) == []
    into.event(shrug("ended", 10.0, 0.0, 10.0, channel=1, mean_uv=20.0, peak_uv=20.0))
    into.event(shrug("ended", 32.0, 2.0, 32.0, channel=0, mean_uv=20.0, peak_uv=20.0))
    (end,) = into.finish(40.0)
    assert end.channels == ("left", "right")
    assert (end.start_s, end.end_s) == (0.0, 32.0)
    assert end.mean_rve == pytest.approx((10 * 50 + 30 * 25) / 40)


def test_one_side_still_up_keeps_the_episode_open() -> None:
    into = episodes()
    into.event(shrug("started", 3.0, 0.0))
    into.event(shrug("started", 3.0, 0.0, channel=1))
    into.event(shrug("ended", 10.0, 0.0, 10.0))
    assert [m.event for t in range(11, 200) for m in into.advance(t)] == ["updated"] * 19
    assert into.current == "id0"


def test_without_a_reference_there_is_no_figure_relative_to_it() -> None:
    messages = lived((10, 30), until_s=200, into=episodes(NO_REFERENCE))
    assert len(messages) > 2
    assert {(m.mean_rve, m.peak_rve) for m in messages} == {(None, None)}
    assert messages[-1].mean_uv == 60.0


def test_an_episode_says_whether_it_was_cued_and_cut_off() -> None:
    into = episodes()
    into.cued()  # none is open: nothing to note
    (start,) = into.event(shrug("started", 3.0, 0.0))
    assert not start.cued
    into.cued()
    into.event(shrug("ended", 12.0, 0.0, 12.0, truncated=True))
    (end,) = into.finish(20.0)
    assert (end.cued, end.truncated) == (True, True)
    (start,) = into.event(shrug("started", 103.0, 100.0))
    assert (start.cued, start.truncated) == (False, False)


def test_the_end_of_everything_ends_an_open_episode_once() -> None:
    into = episodes()
    into.event(shrug("started", 3.0, 0.0))
    assert [m.event for m in into.finish(4.0)] == ["ended"]
    assert into.finish(5.0) == []
    assert into.current is None
    assert into.advance(500.0) == []
