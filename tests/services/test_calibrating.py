"""A calibration, guided from the first word to the last, and all that can come between."""

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dsp.reference import Calibration
from services.calibrating import calibration_of
from services.contract import Contract
from services.messages import About, Cue, DaySummary, Episode, Guided, Tension
from services.pipeline import Pipeline
from tests.services.conftest import CALIBRATED, REST, SIGNAL, Array, blocks, samples
from tests.services.sitter import HOLD_UV, QUICKLY, Sitter
from tests.services.test_mqtt import stamp


def details(message: Guided) -> dict[str, Any]:
    return message.details


def test_rest_and_three_gentle_holds_are_a_calibration() -> None:
    sitter = Sitter(CALIBRATED)
    sitter.sit(5)
    ended = sitter.calibrate()
    assert (ended.event, details(ended)["outcome"], details(ended)["reason"]) == ("ended", "accepted", None)
    assert details(ended)["repeat"] == 3
    assert details(ended)["reference_uv"] == pytest.approx([HOLD_UV * 0.94, HOLD_UV * 0.94], rel=0.06)
    assert details(ended)["rest_uv"] == pytest.approx([2.5 * 0.94, 2.5 * 0.94], rel=0.06)
    assert max(details(ended)["cv_pct"]) < 5
    assert [v["sees_rest"] for v in details(ended)["verdicts"]] == [True, True]
    assert min(details(ended)["snr_db"]) > 25
    steps = [step for step, _ in itertools.groupby(m.step for m in sitter.guided)]
    assert steps == ["rest", "ready", *["raise", "hold", "pause", "ready"] * 2, "raise", "hold", "ended"]
    seconds = ended.at_s - sitter.guided[0].at_s
    assert seconds == pytest.approx(60 + 3 * 18 + 2 * 60, abs=12)


def test_what_is_said_counts_up_and_down_and_is_told_once_a_second() -> None:
    sitter = Sitter()
    sitter.sit(3)
    sitter.calibrate()
    said = sitter.guided
    assert [m.seq for m in said] == list(range(len(said)))
    assert len({m.id for m in said}) == 1
    assert [m.event for m in said] == ["started", *["progress"] * (len(said) - 2), "ended"]
    assert all(m.say and m.say[0].isupper() and m.say.endswith((".", "?")) for m in said)
    for before, after in itertools.pairwise(said):
        assert after.at_s - before.at_s <= 1.05
        if before.step == after.step != "ready" and before.left_s and after.left_s:
            assert after.left_s <= before.left_s or "Once more" in after.say


def test_during_a_calibration_there_is_no_cue_no_episode_and_no_day() -> None:
    sitter = Sitter()
    sitter.sit(5)
    before = len(sitter.messages)
    sitter.calibrate()
    during = sitter.messages[before:]
    assert not [m for m in during if isinstance(m, Cue | Episode)]
    assert not [m for m in during if isinstance(m, DaySummary) and m.wear_time_s > 6]
    tension = [m for m in during if isinstance(m, Tension)]
    assert not any(m.cues_enabled for m in tension)
    assert max(m.channels[0].rve or 0 for m in tension) > 80, "and the level is shown"


def test_what_was_measured_counts_from_then_on_and_can_be_read_again_from_what_was_kept() -> None:
    sitter = Sitter()
    sitter.hold_uv = 60.0
    sitter.sit(3)
    ended = sitter.calibrate()
    sitter.sit(5)
    about = [m for m in sitter.messages if isinstance(m, About)][-1]
    assert about.reference_uv == pytest.approx((57.0, 57.0), rel=0.07)
    assert about.calibration_source is not None
    assert about.calibration_source.startswith("calibrated")
    (kept,) = Contract("w", stamp, lambda: stamp(0.0)).publications(ended)
    assert kept.durable
    again = calibration_of(json.loads(kept.payload))
    assert again is not None
    assert again.reference_uv == pytest.approx(about.reference_uv, abs=0.001)
    assert again.band == about.band


@pytest.mark.parametrize(
    "payload", [{}, {"outcome": "refused"}, {"outcome": "accepted"}, {"outcome": "accepted", "rest_uv": 7}]
)
def test_what_is_no_accepted_calibration_is_none(payload: dict[str, Any]) -> None:
    assert calibration_of(payload) is None


def test_it_can_be_stopped_at_any_moment_and_changes_nothing() -> None:
    for seconds in (0, 1, 10, 22, 30, 45):
        sitter = Sitter()
        sitter.sit(3)
        assert sitter.error("calibrate", action="start") is None
        sitter.sit(1)
        for _ in range(seconds):
            sitter.sit(1)
            if sitter.step == "ready":
                sitter.ask("calibrate", action="next")
        assert sitter.error("calibrate", action="stop") is None
        assert (details(sitter.guided[-1])["outcome"], sitter.guided[-1].event) == ("stopped", "ended")
        assert sitter.error("calibrate", action="stop") == "no calibration is under way"
        sitter.sit(3)
        about = [m for m in sitter.messages if isinstance(m, About)][-1]
        assert about.reference_uv == (80.0, 80.0)
        assert sitter.guided[-1].event == "ended"


def test_pain_refuses_it_and_a_rise_of_pain_stops_it() -> None:
    sitter = Sitter()
    sitter.sit(3)
    ended = sitter.calibrate(pain=4)
    assert details(ended)["outcome"] == "refused"
    assert "pain of 4 of 10" in str(details(ended)["reason"])
    sitter.sit(1)
    assert sitter.error("calibrate", action="start", pain=2) is None
    sitter.until("ready")
    sitter.ask("calibrate", action="next", pain=3)
    assert sitter.step == "raise"
    sitter.until("pause")
    sitter.ask("calibrate", action="next", pain=4)
    assert (sitter.step, details(sitter.guided[-1])["reason"]) == ("ended", "pain rose to 4 of 10")


def test_a_hold_that_begins_too_early_is_refused_with_the_seconds_left() -> None:
    sitter = Sitter()
    sitter.sit(3)
    sitter.ask("calibrate", action="start")
    sitter.sit(5)
    assert sitter.error("calibrate", action="next") in (
        "the step rest takes another 16 s",
        "the step rest takes another 15 s",
    )
    assert sitter.error("calibrate", action="start") is not None


def test_holds_that_differ_are_repeated_once_and_then_refused() -> None:
    for last_uv, outcome in ((80.0, "refused"), (79.0, "refused"), (60.0, "refused")):
        sitter = Sitter()
        sitter.sit(3)
        assert sitter.error("calibrate", action="start") is None
        for uv in (40.0, 80.0, 40.0, last_uv):
            sitter.until("ready")
            sitter.hold_uv = uv
            assert sitter.error("calibrate", action="next") is None
            sitter.sit(4)
            while sitter.step == "hold":
                sitter.sit(1)
        ended = sitter.guided[-1]
        assert (details(ended)["outcome"], details(ended)["repeat"]) == (outcome, 4)
        assert "the holds differ by" in str(details(ended)["reason"])


def test_one_hold_that_is_off_is_made_up_for_by_a_fourth() -> None:
    sitter = Sitter()
    sitter.sit(3)
    assert sitter.error("calibrate", action="start") is None
    for uv in (80.0, 80.0, 60.0, 80.0):
        sitter.until("ready")
        sitter.hold_uv = uv
        sitter.ask("calibrate", action="next")
        sitter.sit(4)
        while sitter.step == "hold":
            sitter.sit(1)
    assert details(sitter.guided[-1])["outcome"] == "accepted"
    assert details(sitter.guided[-1])["repeat"] == 4


def test_arms_that_stay_down_are_no_hold_and_the_channel_is_named() -> None:
    def left_only(sitter: Sitter, values: Array) -> Array:
        if sitter.step in ("raise", "hold"):
            values = values.copy()
            values[:, 1] /= HOLD_UV / 2.5
        return values

    sitter = Sitter(spoil=left_only)
    sitter.sit(3)
    ended = sitter.calibrate()
    assert details(ended)["outcome"] == "failed"
    assert "right did not rise above rest" in str(details(ended)["reason"])
    assert sum("That one does not count" in m.say for m in sitter.guided if m.step == "pause") > 0


def test_without_contrast_it_is_refused() -> None:
    sitter = Sitter()
    sitter.hold_uv = 8.0
    sitter.sit(3)
    ended = sitter.calibrate()
    assert details(ended)["outcome"] == "refused"
    assert "above rest" in str(details(ended)["reason"])


def test_hum_is_named() -> None:
    def hum(sitter: Sitter, values: Array) -> Array:
        t = (np.arange(1000) + 1000 * sitter.seconds) / 1000
        return np.asarray(
            values + 300 * np.sin(2 * np.pi * 50 * t)[:, None] + 200 * np.sin(2 * np.pi * 62 * t)[:, None]
        )

    sitter = Sitter(spoil=hum)
    sitter.sit(3)
    ended = sitter.calibrate()
    assert details(ended)["outcome"] in ("failed", "refused")
    assert "mains" in str(details(ended)["reason"]) or "above rest" in str(details(ended)["reason"])


def test_hum_that_is_filtered_out_on_the_way_begins_it_again() -> None:
    def hum(sitter: Sitter, values: Array) -> Array:
        t = (np.arange(1000) + 1000 * sitter.seconds) / 1000
        strength = 6.0 if sitter.seconds > 30 else 0.0
        return np.asarray(values + strength * np.sin(2 * np.pi * 50 * t)[:, None])

    sitter = Sitter(spoil=hum)
    sitter.sit(3)
    ended = sitter.calibrate()
    assert any("Mains hum" in m.say for m in sitter.guided)
    assert details(ended)["outcome"] == "accepted"
    assert details(ended)["band"]["notches_hz"] == [50.0]
    assert details(ended)["repeat"] == 3


def test_a_cable_that_is_out_ends_it() -> None:
    sitter = Sitter()
    sitter.sit(3)
    sitter.ask("calibrate", action="start")
    sitter.sit(5)
    sitter.messages += sitter.pipeline.board("unplugged", 8.0)
    sitter.messages += sitter.pipeline.away(30.0)
    assert sitter.guided[-1].event == "progress"
    sitter.messages += sitter.pipeline.away(40.0)
    assert (details(sitter.guided[-1])["outcome"], details(sitter.guided[-1])["reason"]) == ("stopped", "unplugged")
    assert "no signal" in str(sitter.error("calibrate", action="start"))


def test_a_guide_that_lost_its_board_before_the_first_word_does_not_begin_later() -> None:
    sitter = Sitter()
    sitter.sit(3)
    assert sitter.error("calibrate", action="start") is None
    sitter.messages += sitter.pipeline.board("unplugged", 3.0)
    sitter.messages += sitter.pipeline.board(None, 90.0)
    sitter.sit(3)
    assert sitter.guided == []
    assert sitter.error("calibrate", action="start") is None


def test_electrodes_that_come_off_end_it_with_the_reason() -> None:
    sitter = Sitter(spoil=lambda s, values: np.zeros_like(values) if s.seconds > 8 else values)
    sitter.sit(3)
    ended = sitter.calibrate()
    assert details(ended)["outcome"] == "failed"
    assert "no usable signal" in str(details(ended)["reason"])
    assert "flat" in str(details(ended)["reason"])


def test_who_does_not_go_on_is_not_waited_for_for_ever() -> None:
    sitter = Sitter()
    sitter.sit(3)
    sitter.ask("calibrate", action="start")
    sitter.until("ready")
    sitter.sit(62)
    assert (sitter.step, details(sitter.guided[-1])["reason"]) == ("ended", "nobody went on")


@pytest.mark.parametrize(("hold_uv", "outcome"), [(82.0, "accepted"), (60.0, "refused"), (115.0, "refused")])
def test_a_quick_check_accepts_what_comes_close_to_what_is_kept(hold_uv: float, outcome: str) -> None:
    sitter = Sitter()
    sitter.hold_uv = hold_uv
    sitter.sit(3)
    ended = sitter.calibrate(quick=True)
    assert details(ended)["outcome"] == outcome
    assert details(ended)["quick"]
    sitter.sit(3)
    about = [m for m in sitter.messages if isinstance(m, About)][-1]
    assert about.reference_uv == (80.0, 80.0), "either way the one that was kept is in force"


def test_a_quick_check_needs_something_to_compare_with() -> None:
    sitter = Sitter(replace(QUICKLY, calibration=replace(QUICKLY.calibration, rest_uv=(), reference_uv=())))
    sitter.sit(3)
    ended = sitter.calibrate(quick=True)
    assert "calibrate in full" in str(details(ended)["reason"])


def test_a_calibration_is_kept_for_its_signal() -> None:
    known = Calibration((3.0, 3.0), (0.1, 0.1), (90.0, 90.0), "calibrated before")
    pipeline = Pipeline(CALIBRATED, known=lambda signal: known if signal == SIGNAL else None)
    told = [m for block in blocks(samples(replace(REST, seconds=1))) for m in pipeline.process(block)]
    assert [m.reference_uv for m in told if isinstance(m, About)] == [(90.0, 90.0)]
