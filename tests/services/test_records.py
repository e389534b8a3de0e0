"""What the records and the plan say about cues, read from a real store."""

import sqlite3
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from dsp.reference import Calibration
from firmware_bridge.blocks import Signal
from services.coach import Terms
from services.contract import Contract, Stamp
from services.plan import Phase, Plan
from services.records import Records, calibration_for, cues_before, no_calibration
from services.store import Store, StoreError, uuid7
from tests.services.test_mqtt import CALIBRATION

ZONE = timezone(timedelta(hours=1))
NOON = datetime(2026, 2, 10, 12, 0, tzinfo=ZONE)


class Shelf:
    """A store, and a clock that the test moves."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.now = NOON
        self.changes = 0

    def put(self, topic: str, entry: dict[str, Any], hours_ago: float = 0.0) -> str:
        at = self.now - timedelta(hours=hours_ago)
        stamp = Stamp(at.timestamp(), float("nan"))
        name = uuid7(at.timestamp())
        self.store.put([Contract("w", lambda _: stamp, lambda: stamp).record(topic, name, entry.pop("seq", 0), entry)])
        self.changes += 1
        return name

    def records(self, plan: Plan | None = None) -> Records:
        return Records(self.store, plan, lambda: self.now)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "w.sqlite3")
    yield shelf
    shelf.store.close()


def headache(start_h: float, end_h: float | None = None) -> dict[str, Any]:
    ends = {} if end_h is None else {"end": (NOON - timedelta(hours=end_h)).isoformat()}
    return {"kind": "headache", "start": (NOON - timedelta(hours=start_h)).isoformat()} | ends


def test_terms_are_told_when_they_change_and_only_then(shelf: Shelf) -> None:
    records = shelf.records()
    assert records.terms(0) == Terms(date=NOON.date())
    assert records.terms(0) is None
    assert records.terms(1) is None
    shelf.put("diary", headache(2))
    changed = records.terms(2)
    assert changed is not None
    assert changed.hold_lasts
    assert records.terms(2) is None


def test_what_another_program_writes_is_noticed(shelf: Shelf) -> None:
    records = shelf.records()
    assert records.terms(0) is not None
    other = Shelf(shelf.store.path)
    other.put("diary", headache(2))
    other.store.close()
    changed = records.terms(0)
    assert changed is not None
    assert "a headache is open" in str(changed.hold)


def test_who_wants_cues_again_has_them_until_the_next_reason(shelf: Shelf) -> None:
    shelf.put("diary", headache(5, 3))
    held = shelf.records().terms(0)
    assert held is not None
    assert (held.hold, held.hold_lasts) == ("there was a headache; cues wait until you want them again", False)
    shelf.store.keep("resumed", (NOON - timedelta(hours=1)).timestamp())
    free = shelf.records().terms(0)
    assert free is not None
    assert free.hold is None
    shelf.put("diary", headache(0.9, 0.1))
    again = shelf.records().terms(0)
    assert again is not None
    assert again.hold is not None


def test_a_calibration_that_made_it_worse_is_withdrawn_until_it_is_allowed_again(shelf: Shelf) -> None:
    about = shelf.put("calibration", {"repeat": 3, "outcome": "accepted"}, 30)
    asked = shelf.records().terms(0)
    assert asked is not None
    assert len(asked.questions) == 1
    shelf.put("checkin", {"kind": "calibration", "about": about, "after_h": 24, "worse": True})
    worse = shelf.records().terms(0)
    assert worse is not None
    assert (worse.withdrawn, worse.questions) == (frozenset({"calibration"}), ())
    shelf.store.keep("allowed_calibration", NOON.timestamp() + 1)
    allowed = shelf.records().terms(0)
    assert allowed is not None
    assert allowed.withdrawn == frozenset()


def test_a_plan_sets_share_target_and_the_longest_day_and_nothing_moves_within_a_day(shelf: Shelf) -> None:
    start = NOON.date() - timedelta(days=14)
    for k in range(14):
        day = (start + timedelta(days=k)).isoformat()
        shelf.put("summary/day", {"date": day, "wear_time_s": 7200.0, "free_rest_pct": 40.0, "seq": k})
    plan = Plan(start, phase=(Phase("active", 7), Phase("faded", 14, 67.0), Phase("washout", 7)))
    records = shelf.records(plan)
    terms = records.terms(0)
    assert terms is not None
    assert (terms.share, terms.seed, terms.silent, terms.most_wear_s) == (0.67, 1, None, 8 * 3600)
    assert terms.rest_target_pct == 25.0
    yesterday = (NOON.date() - timedelta(days=1)).isoformat()
    shelf.put("summary/day", {"date": yesterday, "wear_time_s": 7200.0, "free_rest_pct": 0.0, "seq": 99})
    assert records.terms(1) is None
    shelf.now = NOON + timedelta(days=7)
    silent = records.terms(1)
    assert silent is not None
    assert silent.silent == "the plan's washout is silent"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (headache(2), "a headache is open in the diary"),
        (headache(30, 23), "within the last 24 h"),
        (headache(3, 1), "within the last 24 h"),
        (headache(40, 25), None),
        (headache(-2), None),
        ({"kind": "no_headache", "date": "2026-02-10"}, None),
        ({"kind": "therapy", "start": NOON.isoformat()}, None),
    ],
)
def test_nobody_raises_their_arms_on_a_headache_day(entry: dict[str, Any], said: str | None) -> None:
    refused = no_calibration([entry], NOON)
    assert (refused is None) == (said is None)
    assert (said or "") in (refused or "")


def test_cues_and_lots_of_the_last_run_are_counted(shelf: Shelf) -> None:
    for hours_ago, outcome, share in ((30, "given", 0.5), (13, "given", 0.5), (2, "given", None), (1, "withheld", 0.5)):
        shelf.put("cue", {"outcome": outcome, "share": share}, hours_ago)
    ages, drawn = cues_before(shelf.store, NOON)
    assert ages == pytest.approx([13 * 3600, 2 * 3600])
    assert drawn == 1, "that of 23:00 was yesterday's"


def test_the_newest_accepted_calibration_of_the_same_signal_is_used(shelf: Shelf) -> None:
    signal = Signal(1000.0, ("left",), 0.05)
    assert calibration_for(shelf.store, signal) is None
    for reference, outcome in ((70.0, "accepted"), (80.1, "accepted"), (90.0, "refused")):
        shelf.put("calibration", CALIBRATION.details | {"reference_uv": [reference], "outcome": outcome})
    found = calibration_for(shelf.store, signal)
    assert isinstance(found, Calibration)
    assert found.reference_uv == (80.1,)
    assert calibration_for(shelf.store, Signal(500.0, ("left",), 0.05)) is None
    assert calibration_for(shelf.store, Signal(1000.0, ("right",), 0.05)) is None


def test_a_store_of_before_is_brought_up_to_date_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    shelf = Shelf(path)
    shelf.put("diary", headache(2))
    shelf.store.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP INDEX message_topic")
        db.execute("PRAGMA user_version = 1")
    db.close()
    again = Store(path)
    assert len(again.latest("diary")) == 1
    again.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        assert db.execute("SELECT name FROM sqlite_master WHERE name = 'message_topic'").fetchone()
        db.execute("PRAGMA user_version = 3")
    db.close()
    with pytest.raises(StoreError, match="newer Unshrug"):
        Store(path)


def test_a_date_is_that_of_the_wall(shelf: Shelf) -> None:
    shelf.now = datetime(2026, 2, 10, 0, 30, tzinfo=ZONE)
    terms = shelf.records().terms(0)
    assert terms is not None
    assert terms.date == date(2026, 2, 10)
