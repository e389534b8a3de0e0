"""A day adds up, over sessions, restarts and midnight."""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from dsp.chain import Levels
from dsp.exposure import LevelHistogram, apdf, rest_pct
from services.messages import Cue, DaySummary, Episode, Message, WearerState
from services.pipeline import Pipeline
from services.settings import Settings
from tests.services.conftest import CALIBRATED, REST, SHRUG, SIGNAL, Array, blocks, samples

NOON = datetime(2026, 1, 1, 12)
WORKDAY = samples(
    replace(REST, seconds=4), replace(SHRUG, seconds=13), replace(REST, seconds=70), replace(SHRUG, seconds=8),
    replace(REST, seconds=5),
)  # fmt: skip


def worn(pipeline: Pipeline, values: Array = WORKDAY, start: int = 0) -> list[Message]:
    out = [m for block in blocks(values, 1000, start=start) for m in pipeline.process(block)]
    return out + list(pipeline.finish())


def last(messages: Iterable[Message]) -> DaySummary:
    return [m for m in messages if isinstance(m, DaySummary)][-1]


def frames(messages: Iterable[Message], channel: int) -> Array:
    return np.concatenate([m.frames_uv[channel] for m in messages if isinstance(m, Levels)])


def test_a_day_is_what_was_told_in_it() -> None:
    messages = worn(Pipeline(CALIBRATED))
    day = last(messages)
    ended = [m for m in messages if isinstance(m, Episode) and m.event == "ended"]
    assert day.episodes == len(ended) == 2
    assert day.tense_time_s == pytest.approx(sum((e.end_s or 0) - e.start_s for e in ended))
    cues = [m for m in messages if isinstance(m, Cue)]
    assert sum(day.cues.values()) == len(cues) == 3
    assert day.cues == {"given": 1, "self_corrected": 2}
    assert day.wear_time_s == pytest.approx(100 - 1.65, abs=0.3), "while the motor ran, nothing was measured"
    assert day.valid_time_s <= day.wear_time_s
    (after_s,) = day.relaxed_after_s
    assert day.free_rest_pct == pytest.approx(100 * 4 / 14, abs=3), "before the cue: rest, then a shrug"
    assert after_s == pytest.approx(17 - 14, abs=0.3), "cued at 14 s, relaxed at 17 s"
    for c, channel in enumerate(day.channels):
        assert channel.name == SIGNAL.channels[c]
        assert channel.apdf_uv == pytest.approx(apdf(frames(messages, c)), rel=0.02)
        limit = 80 * 0.05
        run = Settings().exposure.rest_run(0.125)
        assert channel.rest_pct == pytest.approx(rest_pct(frames(messages, c), limit, 0.0, run), abs=1.0)


def test_a_day_goes_on_after_a_restart_of_the_program() -> None:
    whole = last(worn(Pipeline(CALIBRATED)))
    first = last(worn(Pipeline(CALIBRATED), WORKDAY[:40_000]))
    tally = json.loads(json.dumps(first.tally))
    pipeline = Pipeline(CALIBRATED, recall=lambda period, date: tally)
    list(pipeline.local_time(NOON, 0.0))
    second = last(worn(pipeline, WORKDAY[40_000:]))
    assert second.seq > first.seq
    assert (second.episodes, second.cues, second.relaxed_after_s) == (
        whole.episodes,
        whole.cues,
        whole.relaxed_after_s,
    )
    assert second.tense_time_s == pytest.approx(whole.tense_time_s)
    assert second.wear_time_s == pytest.approx(whole.wear_time_s, abs=1.0)
    for a, b in zip(second.channels, whole.channels, strict=True):
        assert a.rest_pct == pytest.approx(b.rest_pct, abs=1.5)
        assert a.apdf_uv == pytest.approx(b.apdf_uv, rel=0.1)
        assert a.apdf_rve is not None


def test_numbers_of_one_day_rise_and_each_message_has_its_own() -> None:
    messages = worn(Pipeline(CALIBRATED))
    seqs = [m.seq for m in messages if isinstance(m, DaySummary)]
    assert seqs == list(range(len(seqs)))
    assert len(seqs) < 12, "it is not said all the time"


def test_midnight_ends_a_day_and_begins_another() -> None:
    pipeline = Pipeline(CALIBRATED)
    list(pipeline.local_time(NOON, 0.0))
    before = [m for block in blocks(WORKDAY[:40_000], 1000) for m in pipeline.process(block)]
    (final,) = pipeline.local_time(NOON + timedelta(days=1), 40.0)
    assert isinstance(final, DaySummary)
    assert (final.date, final.final, final.episodes) == ("2026-01-01", True, 1)
    assert final.seq == last(before).seq + 1
    after = last(worn(pipeline, WORKDAY[40_000:], 40_000))
    assert (after.date, after.final, after.episodes, after.cues) == ("2026-01-02", False, 1, {"self_corrected": 2})
    assert after.wear_time_s == pytest.approx(60, abs=0.5)


def test_a_clock_that_was_wrong_gives_a_day_back_what_was_known_of_it() -> None:
    known = last(worn(Pipeline(CALIBRATED), WORKDAY[:40_000]))
    pipeline = Pipeline(CALIBRATED, recall=lambda _, date: known.tally if date == "2026-01-02" else None)
    list(pipeline.local_time(datetime(1970, 1, 1), 0.0))
    for block in blocks(WORKDAY[:10_000], 1000):
        list(pipeline.process(block))
    assert list(pipeline.local_time(NOON + timedelta(days=1), 10.0, jumped=True)) == []
    day = last(worn(pipeline, WORKDAY[10_000:12_000], 10_000))
    assert day.date == "2026-01-02"
    assert day.wear_time_s == pytest.approx(known.wear_time_s + 2, abs=0.1)
    assert day.seq >= known.seq + 1


def test_without_a_reference_there_is_no_rest_and_no_rve() -> None:
    day = last(worn(Pipeline(Settings())))
    assert all(c.rest_pct is None and c.apdf_rve is None and c.apdf_uv is not None for c in day.channels)


def test_percentiles_of_any_number_of_levels_are_within_a_percent_and_take_no_more_room() -> None:
    levels = np.random.default_rng(1).lognormal(1.5, 1.0, 200_000)
    levels[::7] = np.nan
    histogram = LevelHistogram()
    for part in np.array_split(levels, 50):
        histogram.push(part)
    assert histogram.apdf() == pytest.approx(apdf(levels), rel=0.01)
    assert len(histogram.counts) < 1000
    again = LevelHistogram(histogram.counts)
    assert again.apdf() == histogram.apdf()
    again.push(np.array([0.0, 1e9]))
    assert len(again.counts) <= len(histogram.counts) + 2
    assert LevelHistogram().apdf() is None


QUIET = replace(CALIBRATED, cue=replace(CALIBRATED.cue, quiet_hours="22:00-07:00"))


def at(pipeline: Pipeline, local: datetime, at_s: float = 0.0, *, jumped: bool = False) -> list[DaySummary]:
    return [m for m in pipeline.local_time(local, at_s, jumped=jumped) if isinstance(m, DaySummary)]


def wear(pipeline: Pipeline, start: int, seconds: int, values: Array = WORKDAY) -> list[Message]:
    part = values[1000 * start : 1000 * (start + seconds)]
    return [m for block in blocks(part, 1000, start=1000 * start) for m in pipeline.process(block)]


def test_a_night_is_worn_without_cues_and_summed_up_apart_under_the_date_of_its_morning() -> None:
    pipeline = Pipeline(QUIET)
    list(pipeline.board(None))
    at(pipeline, datetime(2026, 1, 1, 21, 59))
    day = wear(pipeline, 0, 3)
    assert at(pipeline, datetime(2026, 1, 1, 22, 0), 3.0) == []
    night = wear(pipeline, 3, 30)
    (ended,) = at(pipeline, datetime(2026, 1, 2, 0, 0), 33.0)
    assert (ended.period, ended.date, ended.final) == ("day", "2026-01-01", True)
    assert ended.wear_time_s == pytest.approx(3, abs=0.4)
    night += wear(pipeline, 33, 17)
    (ended,) = at(pipeline, datetime(2026, 1, 2, 7, 0), 50.0)
    assert (ended.period, ended.date, ended.final) == ("night", "2026-01-02", True)
    assert ended.wear_time_s == pytest.approx(47, abs=0.3)
    assert ended.cues == {"suppressed": 2}, "of both shoulders"
    assert [c.reason for c in night if isinstance(c, Cue)] == ["quiet hours"] * 2
    morning = wear(pipeline, 50, 5)
    states = [m for m in day + night + morning if isinstance(m, WearerState)]
    assert {(s.period, s.cues_enabled, s.silent_because) for s in states} == {
        ("day", True, None),
        ("night", False, "quiet hours"),
    }
    day_after = next(m for m in pipeline.finish() if isinstance(m, DaySummary) and m.period == "day")
    assert (day_after.date, day_after.episodes) == ("2026-01-02", 0)
    assert day_after.wear_time_s == pytest.approx(5, abs=0.3)
    assert [k for k, (worn_s, _) in enumerate(day_after.hours) if worn_s] == [0, 7], "its night is in its hours"


def test_quiet_hours_in_the_middle_of_a_day_leave_it_as_it_was() -> None:
    siesta = replace(CALIBRATED, cue=replace(CALIBRATED.cue, quiet_hours="13:00-14:00"))
    pipeline = Pipeline(siesta)
    at(pipeline, datetime(2026, 1, 1, 12, 59))
    wear(pipeline, 0, 3)
    at(pipeline, datetime(2026, 1, 1, 13, 0))
    wear(pipeline, 3, 2)
    (rest,) = at(pipeline, datetime(2026, 1, 1, 14, 0))
    assert (rest.period, rest.date) == ("night", "2026-01-01")
    assert last(wear(pipeline, 5, 30) + list(pipeline.finish())).wear_time_s == pytest.approx(33, abs=2)


def test_hours_are_those_of_the_clock_on_the_wall() -> None:
    pipeline = Pipeline(CALIBRATED)
    at(pipeline, datetime(2026, 1, 1, 9, 59))
    wear(pipeline, 0, 10)
    at(pipeline, datetime(2026, 1, 1, 10, 0))
    day = last(wear(pipeline, 10, 90) + list(pipeline.finish()))
    assert [hour for hour, (worn_s, _) in enumerate(day.hours) if worn_s] == [9, 10]
    assert sum(worn_s for worn_s, _ in day.hours) == pytest.approx(day.wear_time_s)
    assert day.hours[9][1] == pytest.approx(10 - 4 - 3, abs=0.6), "from when a sustained shrug is known as one"


def test_a_time_zone_that_goes_back_over_midnight_loses_nothing() -> None:
    known: dict[tuple[str, str], dict[str, Any]] = {}

    def keep(messages: Iterable[Message]) -> list[DaySummary]:
        days = [m for m in messages if isinstance(m, DaySummary)]
        known.update(((d.period, d.date), json.loads(json.dumps(d.tally))) for d in days)
        return days

    pipeline = Pipeline(CALIBRATED, recall=lambda period, date: known.get((period, date)))
    at(pipeline, datetime(2026, 1, 1, 23, 50))
    keep(wear(pipeline, 0, 20))
    (first,) = keep(pipeline.local_time(datetime(2026, 1, 2, 0, 0), 20.0))
    keep(wear(pipeline, 20, 10))
    keep(pipeline.local_time(datetime(2026, 1, 1, 23, 10), 30.0))
    keep(wear(pipeline, 30, 10))
    (second,) = keep(pipeline.local_time(datetime(2026, 1, 2, 0, 0), 40.0))
    assert (first.date, second.date) == ("2026-01-01", "2026-01-01")
    assert second.seq > first.seq
    assert second.wear_time_s == pytest.approx(first.wear_time_s + 10, abs=0.3)
    after = last([*wear(pipeline, 40, 10), *pipeline.finish()])
    assert after.date == "2026-01-02"
    assert after.wear_time_s == pytest.approx(20, abs=0.5)
