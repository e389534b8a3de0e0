"""The diary: what may be written, what follows from it, and that nothing is ever lost."""

import contextlib
import csv
import io
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.broker import Broker
from services.cli import main
from services.commands.diary import local_time, write_csv
from services.contract import Contract, Publication, Stamp
from services.delivery import Delivery
from services.diary import (
    DiaryError,
    Entry,
    check_in,
    due_checkins,
    entries,
    holds,
    open_headache,
    write,
)
from services.messages import AskStore, Reply, Request
from services.safety import FIRST_USE, advice
from services.serving import link_of
from services.settings import MqttSettings
from services.store import Store, uuid7
from tests.services.conftest import listening, validate
from tests.services.test_mqtt import contract_of

ROOT = Path(__file__).parents[2]
ZONE = timezone(timedelta(hours=1))
NOW = datetime(2026, 2, 10, 18, 0, tzinfo=ZONE)


def at(hours_ago: float) -> str:
    return (NOW - timedelta(hours=hours_ago)).isoformat()


def contract(now: datetime = NOW) -> Contract:
    stamp = Stamp(now.timestamp(), float("nan"))
    return Contract("w", lambda _: stamp, lambda: stamp)


class Book:
    """A diary without a disk."""

    def __init__(self) -> None:
        self.told: list[Publication] = []

    @property
    def entries(self) -> list[Entry]:
        newest: dict[str, Entry] = {}
        for publication in self.told:
            newest[publication.id] = json.loads(publication.payload)
        return [entry for entry in newest.values() if not entry.get("deleted")]

    def write(self, **body: Any) -> Entry:
        new_id = uuid7(NOW.timestamp() + len(self.told) / 1000)
        publications, said = write(contract(), new_id, body, self.entries, NOW)
        for publication in publications:
            validate(f"unshrug/w/{publication.topic}", publication.payload)
        self.told += publications
        return said

    def headache(self, start_h: float, end_h: float | None = None, **more: Any) -> Entry:
        end = {} if end_h is None else {"end": at(end_h)}
        return self.write(**{"kind": "headache", "start": at(start_h)} | end | more)


@pytest.fixture
def book() -> Book:
    return Book()


def test_an_entry_is_kept_as_it_was_written(book: Book) -> None:
    said = book.headache(5, 3, peak=6, side="left", note="after a call")
    (entry,) = book.entries
    assert entry["id"] == said["diary_id"]
    assert (entry["peak"], entry["side"], entry["note"], entry["seq"]) == (6, "left", "after a call", 0)
    assert entry["start"] == at(5)
    assert entry["mono_s"] is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "headache"}, "start: expected when it began"),
        ({"kind": "headache", "start": at(-1)}, "start: 2026-02-10 19:00 is in the future"),
        ({"kind": "headache", "start": at(5), "end": at(-1)}, "end: 2026-02-10 19:00 is in the future"),
        ({"kind": "headache", "start": at(5), "end": at(6)}, "end: it is before start"),
        ({"kind": "headache", "start": at(24 * 30), "end": at(1)}, "end: more than 14 days after start"),
        ({"kind": "headache", "start": at(9), "end": at(7)}, "it overlaps the headache of 2026-02-10 10:00"),
        ({"kind": "headache", "start": at(7), "end": at(6.5)}, "it overlaps the headache of 2026-02-10 10:00"),
        ({"kind": "headache", "start": at(10)}, "it overlaps the headache of 2026-02-10 10:00"),
        ({"kind": "no_headache", "date": "2026-02-11"}, "date: 2026-02-11 is in the future"),
        ({"kind": "no_headache", "date": "2026-02-10"}, "the diary has a headache on 2026-02-10, of 2026-02-10 10:00"),
        ({"kind": "no_headache", "date": "2026-02-01"}, "the diary says already that there was none on 2026-02-01"),
        ({"kind": "headache", "start": at(3), "id": "nobody"}, "id: there is no entry nobody"),
        ({"id": "nobody", "delete": True}, "id: there is no entry nobody"),
        ({"kind": "therapy", "start": at(-2)}, "start: 2026-02-10 20:00 is in the future"),
        ({"kind": "headache", "start": at(24 * 15)}, "end: expected when it was over, for it began more than 14 days"),
        ({"kind": "headache", "start": "0001-01-01T00:00:00+05:00"}, "start: it is of the year 1; expected 1970"),
        ({"kind": "headache", "start": "9999-12-31T23:59:59-05:00"}, "start: it is of the year 9999; expected 1970"),
        ({"kind": "no_headache", "date": "0001-01-01"}, "date: it is of the year 1; expected 1970"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(book: Book, body: Entry, said: str) -> None:
    book.headache(8, 6)
    book.write(kind="no_headache", date="2026-02-01")
    before = list(book.told)
    with pytest.raises(DiaryError) as error:
        book.write(**body)
    assert said in str(error.value)
    assert book.told == before


def test_a_second_headache_must_wait_for_the_end_of_the_open_one(book: Book) -> None:
    book.headache(5)
    with pytest.raises(DiaryError, match="it is open: end it first"):
        book.headache(1)
    one = open_headache(book.entries)
    assert one is not None
    book.write(id=one["id"], kind="headache", start=one["start"], end=at(2))
    assert open_headache(book.entries) is None
    book.headache(1)


def test_a_change_takes_the_place_of_what_was_there_which_stays_in_the_store(book: Book) -> None:
    name = book.headache(5, 3, peak=6)["diary_id"]
    book.write(id=name, kind="headache", start=at(5), end=at(2), peak=8)
    (entry,) = book.entries
    assert (entry["seq"], entry["peak"], entry["end"]) == (1, 8, at(2))
    book.write(id=name, delete=True)
    assert book.entries == []
    assert [json.loads(p.payload).get("peak") for p in book.told] == [6, 8, None]
    gone = json.loads(book.told[-1].payload)
    assert (gone["seq"], gone["deleted"], "start" in gone) == (2, True, False)


def test_a_headache_in_the_evening_takes_the_place_of_none_today(book: Book) -> None:
    book.write(kind="no_headache", date="2026-02-10")
    book.write(kind="no_headache", date="2026-02-09")
    book.headache(1)
    assert sorted(e["kind"] + e.get("date", "") for e in book.entries) == ["headache", "no_headache2026-02-09"]


def test_the_diary_is_in_the_order_in_which_things_happened_wherever_they_were_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "w.sqlite3")
    told = ("2026-02-01T23:30:00Z", "2026-02-02T08:00:00+09:00", "2026-02-01T20:00:00-05:00")
    store.put([contract().record("diary", uuid7(k), 0, {"kind": "therapy", "start": t}) for k, t in enumerate(told)])
    assert [entry["start"] for entry in entries(store)] == [told[1], told[0], told[2]]
    store.close()


def test_a_kill_takes_nothing_of_what_was_said_to_be_kept(tmp_path: Path) -> None:
    code = """
import json, math, sys
from datetime import datetime
from pathlib import Path
from services.contract import Contract, Stamp
from services.diary import entries, write
from services.store import Store, uuid7
now = datetime.fromisoformat(sys.argv[2])
stamp = Stamp(now.timestamp(), math.nan)
contract, store, seq = Contract("w", lambda _: stamp, lambda: stamp), Store(Path(sys.argv[1])), -1
body = {"kind": "headache", "start": sys.argv[2]}
while True:
    publications, said = write(contract, uuid7(now.timestamp()), body, entries(store), now)
    store.put(publications)
    seq += 1
    body |= {"id": said["diary_id"], "note": f"change {seq + 1}"}
    print(seq, flush=True)
"""
    path = tmp_path / "w.sqlite3"
    command = [sys.executable, "-c", code, str(path), NOW.isoformat()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 20:
            pass
        process.kill()
        kept = [20, *map(int, process.stdout.read().split())][-1]
    store = Store(path)
    (entry,) = entries(store)
    assert entry["seq"] in (kept, kept + 1)
    history = [json.loads(payload).get("note") for payload in store.payloads("diary")]
    assert history == [None, *(f"change {k}" for k in range(1, entry["seq"] + 1))]
    store.close()


def test_a_clock_that_is_minutes_off_is_no_future(book: Book) -> None:
    book.headache(-4 / 60)


hours = st.floats(-1, 24 * 20).map(lambda h: round(h, 2))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    wishes=st.lists(
        st.tuples(st.sampled_from(["add", "edit", "none", "delete"]), hours, st.none() | hours, st.integers(0, 9)),
        max_size=25,
    )
)
def test_no_two_headaches_ever_overlap_and_no_day_says_two_things(wishes: list[Any]) -> None:
    book = Book()
    for what, start_h, end_h, which in wishes:
        known = book.entries
        body: Entry = {"kind": "headache", "start": at(start_h)} | ({} if end_h is None else {"end": at(end_h)})
        if what == "none":
            body = {"kind": "no_headache", "date": (NOW - timedelta(hours=start_h)).date().isoformat()}
        if what in ("edit", "delete") and known:
            body = {"id": known[which % len(known)]["id"]} | (body if what == "edit" else {"delete": True})
        try:
            book.write(**body)
        except DiaryError:
            continue
    aches = sorted((datetime.fromisoformat(e["start"]), e) for e in book.entries if e["kind"] == "headache")
    for (_, one), (start, _) in itertools.pairwise(aches):
        assert "end" in one
        assert datetime.fromisoformat(one["end"]) < start
    free = [date.fromisoformat(e["date"]) for e in book.entries if e["kind"] == "no_headache"]
    assert len(set(free)) == len(free)
    for start, ache in aches:
        end = datetime.fromisoformat(ache["end"]) if "end" in ache else NOW
        assert not any(start.date() <= day <= end.date() for day in free)


# What follows from it


def test_a_headache_holds_cues_until_it_is_over_and_they_are_wanted_again(book: Book) -> None:
    assert holds([], [], [], NOW) is None
    book.headache(5)
    found = holds(book.entries, [], [], NOW)
    assert found is not None
    assert found.open
    assert "open in the diary" in found.reason
    book.write(id=book.entries[0]["id"], kind="headache", start=at(5), end=at(2))
    found = holds(book.entries, [], [], NOW)
    assert found is not None
    assert (found.open, found.since.isoformat()) == (False, at(2))


@pytest.mark.parametrize(
    ("more", "said"),
    [({"symptoms": ["numbness"]}, "you named numbness"), ({"peak": 7}, "pain was 7 of 10"), ({"peak": 6}, "there was")],
)
def test_a_stop_symptom_or_strong_pain_holds_cues(book: Book, more: Entry, said: str) -> None:
    book.headache(50, 49, **more)
    found = holds(book.entries, [], [], NOW)
    assert found is not None
    assert said in found.reason


def test_many_headaches_after_wearing_it_ask_for_a_pause(book: Book) -> None:
    for k in range(1, 5):
        book.headache(48 * k, 48 * k - 1)
    worn = [{"date": (NOW - timedelta(hours=48 * k)).date().isoformat(), "wear_time_s": 7200.0} for k in range(1, 5)]
    found = holds(book.entries, [], worn, NOW)
    assert found is not None
    assert found.reason.startswith("4 headaches in 30 days began within a day of wearing it")
    assert "there was" in str(holds(book.entries, [], worn[:3], NOW))


CALIBRATION: Entry = {"id": "c", "t": at(30), "repeat": 3, "outcome": "accepted"}


def test_check_ins_are_due_a_day_and_two_after_arms_were_held_up_and_for_a_week() -> None:
    def due(hours: float, checkins: list[Entry] | None = None) -> list[int]:
        now = datetime.fromisoformat(CALIBRATION["t"]) + timedelta(hours=hours)
        return [q.after_h for q in due_checkins([CALIBRATION], [], checkins or [], now)]

    assert due(23.9) == []
    assert due(24) == [24]
    assert due(48) == [24, 48]
    assert due(24 * 9 - 1) == [48]
    assert due(24 * 10) == []
    assert due(49, [{"about": "c", "after_h": 24}]) == [48]
    refused = CALIBRATION | {"repeat": 0, "outcome": "refused"}
    assert due_checkins([refused], [], [], NOW) == []
    (therapy,) = due_checkins([], [{"id": "t", "start": at(25)}], [], NOW)
    assert (therapy.kind, therapy.after_h) == ("therapy", 24)
    assert "24 h after the therapy session" in therapy.text


def test_an_answer_to_a_check_in_is_kept_and_worse_leaves_the_calibration_out() -> None:
    name = uuid7(NOW.timestamp())
    due = due_checkins([CALIBRATION | {"id": name}], [], [], NOW)
    body = {"about": name, "after_h": 24, "pain": 2, "headache": False, "worse": True, "request_id": "x"}
    (kept,), said = check_in(contract(), uuid7(NOW.timestamp() + 1), body, due)
    validate("unshrug/w/checkin", kept.payload)
    assert json.loads(kept.payload)["kind"] == "calibration"
    assert said["advice"] == ["Calibration is left out until you allow it again."]
    with pytest.raises(DiaryError, match="no such check-in is due; due is"):
        check_in(contract(), name, body | {"after_h": 48}, due)


def test_red_flags_are_said_when_an_entry_calls_for_them_and_not_else() -> None:
    plain = {"kind": "headache", "start": at(3), "peak": 9, "nausea": True}
    assert advice(plain, [], NOW) == []
    assert "seek medical care now" in advice(plain | {"sudden": True}, [], NOW)[0]
    assert "seek medical care now" in advice(plain | {"symptoms": ["speech", "vision"]}, [], NOW)[0]
    assert "see a doctor soon" in advice(plain | {"symptoms": ["fever"]}, [], NOW)[0]
    assert "seek medical care now" in advice(plain | {"symptoms": ["injury"]}, [], NOW)[0]
    assert "see a doctor soon" in advice(plain | {"symptoms": ["dizziness"]}, [], NOW)[0]
    (said,) = advice(plain | {"symptoms": ["dizziness"], "neck_pain": True}, [], NOW)
    assert said == "You named dizziness: stop, and seek medical care now."
    now, soon = advice(plain | {"symptoms": ["fever", "injury", "dizziness"], "neck_pain": True}, [], NOW)
    assert now == "You named an injury of head or neck and dizziness: stop, and seek medical care now."
    assert soon == "You named fever or feeling ill: see a doctor soon."
    assert "electrodes off" in advice(plain | {"symptoms": ["skin"]}, [], NOW)[0]
    taken = [{"kind": "headache", "start": at(24 * k), "medicine": "ibuprofen"} for k in range(1, 10)]
    assert advice(plain | {"medicine": "ibuprofen"}, taken[:8], NOW) == []
    assert "Medicine on 10 of the last 30 days" in advice(plain | {"medicine": "ibuprofen"}, taken, NOW)[0]
    words = " ".join([*FIRST_USE, *advice(plain | {"sudden": True, "symptoms": ["fever"]}, [], NOW)]).lower()
    assert not any(word in words for word in ("treat", "prevent", "patient", "score"))


# At the terminal


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield tmp_path
    monkeypatch.undo()
    time.tzset()


def unshrug(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_a_headache_at_three_in_the_morning(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unshrug("diary", "list") == 0
    assert not (home / "unshrug").exists(), "looking makes nothing"
    assert unshrug("diary", "add", "--peak", "6", "--side", "left", "--start", "2h ago", "--neck-pain") == 0
    assert FIRST_USE[0] in capsys.readouterr().out
    assert unshrug("diary", "add") == 1
    assert "it is open: end it first" in capsys.readouterr().err
    assert unshrug("diary", "end") == 0
    assert FIRST_USE[0] not in capsys.readouterr().out
    assert unshrug("diary", "list", "--format", "json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["peak"], entry["side"], entry["neck_pain"]) == (6, "left", True)
    store = Store(home / "unshrug" / "wearer1.sqlite3")
    assert [s.publication.seq for s in store.waiting(0, 9)] == [0, 1], "both are published when a service runs"
    assert entries(store)[0]["end"] == entry["end"]
    store.close()
    assert unshrug("diary", "edit", entry["id"][-6:], "--note", "woke me", "--no-neck-pain") == 0
    assert unshrug("diary", "list") == 0
    assert "peak 6, left, woke me" in capsys.readouterr().out.splitlines()[-1]
    assert unshrug("diary", "remove", "zzzzzz") == 1
    assert unshrug("diary", "remove", entry["id"][-6:]) == 0
    assert unshrug("diary", "list") == 0
    assert "nothing yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "--peak", "11"), "peak must be smaller than or equal to 10, got 11"),
        (("add", "--start", "soon"), "soon: expected a time such as now, 2h ago"),
        (("add", "--start", "2h ago", "--end", "3h ago"), "end: it is before start"),
        (("add", "--none", "2999-01-01"), "is in the future"),
        (("add", "--none", "someday"), "date must be date"),
        (("add", "--none", "--peak", "3"), "peak must not be there"),
        (("add", "--start", "99999999999d ago"), "99999999999d ago: expected a time such as now, 2h ago"),
        (("add", "--start", "9999-12-31 23:59"), "9999-12-31 23:59: expected a time such as now, 2h ago"),
        (("add", "--start", "20 d ago"), "end: expected when it was over"),
        (("add", "--symptoms", "hunger"), "symptoms[0] must be one of"),
        (("end",), "there is no open headache"),
        (("resume",), "nothing is kept yet"),
        (("edit", "abc", "--peak", "1"), "abc: no entry with such an id"),
        (("edit", "abc"), "expected something to change"),
        (("checkin", "1"), "1: expected the number of a check-in that is due, of 0"),
        (("export", "x.txt"), "expected a name that ends in .csv or .json"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert unshrug("diary", *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("unshrug: ")
    assert said in error
    assert len(error.splitlines()) == 1


def test_the_clock_of_the_wall_is_read_as_people_mean_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime(2026, 3, 29, 12, 0, tzinfo=UTC).astimezone()
    for text, utc in (
        ("now", "2026-03-29T12:00"),
        ("2h ago", "2026-03-29T10:00"),
        ("90 min ago", "2026-03-29T10:30"),
        ("9:30", "2026-03-29T07:30"),
        ("yesterday 22:00", "2026-03-28T21:00"),
        ("2026-01-31 16:00", "2026-01-31T15:00"),
        ("2026-01-31T16:00:00Z", "2026-01-31T16:00"),
        ("2026-10-25 02:30", "2026-10-25T00:30"),  # comes twice; the first is in summer time
    ):
        assert local_time(text, now).astimezone(UTC).isoformat()[:16] == utc, text
    assert "02:30 was there twice on that day; the first is taken" in capsys.readouterr().err
    with pytest.raises(DiaryError, match="there was no such time"):
        local_time("2026-03-29 02:30", now)
    with pytest.raises(DiaryError, match=r"23:00: that is still to come today; expected .* yesterday 23:00"):
        local_time("23:00", now)


def test_a_headache_says_which_days_are_no_longer_without_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    day = str(datetime.now().astimezone().date() - timedelta(days=1))
    assert unshrug("diary", "add", "--none", "yesterday", "--note", "slept well") == 0
    assert f"{day}  no headache, slept well" in capsys.readouterr().out
    assert unshrug("diary", "add", "--start", "yesterday 00:10", "--end", "yesterday 00:50") == 0
    removed, kept = capsys.readouterr().out.splitlines()
    assert (removed[:9], kept[:6]) == ("removed: ", "kept: ")
    assert f"{day}  no headache" in removed
    capsys.readouterr()
    assert unshrug("diary", "list", "--days", "1") == 0
    assert f"{day} 00:10 to 00:50" in capsys.readouterr().out, "by the local day, not by that of UTC"


def test_the_diary_goes_out_as_a_table_that_no_spreadsheet_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unshrug("diary", "add", "--start", "3h ago", "--end", "1h ago", "--note", '=HYPERLINK("x")', "--aura") == 0
    path = home / "d.csv"
    assert unshrug("diary", "export", str(path)) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(encoding="utf-8", newline="") as table:
        (row,) = csv.DictReader(table)
    assert (row["kind"], row["note"], row["aura"], row["peak"]) == ("headache", '\'=HYPERLINK("x")', "yes", "")
    assert unshrug("diary", "export", str(path)) == 1
    assert "it is there already" in capsys.readouterr().err


words = st.text(st.sampled_from("=+-@\t\r\n\"',; aé1"), max_size=6)


@given(rows=st.lists(st.dictionaries(st.sampled_from("ab"), words | st.integers() | st.booleans()), max_size=5))
def test_no_cell_of_a_table_begins_like_a_formula(rows: list[Entry]) -> None:
    out = io.StringIO(newline="")
    write_csv(out, rows, ["a", "b"])
    for row in csv.reader(io.StringIO(out.getvalue(), newline="")):
        assert not any(cell.startswith(("=", "+", "@")) for cell in row)


def test_therapy_asks_a_day_after(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unshrug("diary", "therapy", "--at", "25h ago", "--note", "massage") == 0
    assert unshrug("diary", "checkin") == 0
    assert "24 h after the therapy session" in capsys.readouterr().out
    assert unshrug("diary", "checkin", "1", "--pain", "3", "--worse", "yes", "--headache", "no") == 0
    assert "! Tell your therapist before the next session." in capsys.readouterr().out
    assert unshrug("diary", "checkin") == 0
    assert "none is due" in capsys.readouterr().out


def test_triggers_have_their_counts_first(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unshrug("diary", "add", "--start", "3h ago", "--end", "1h ago") == 0
    assert unshrug("diary", "triggers") == 0
    said = capsys.readouterr().out
    assert "1 headaches are from before anything was worn" in said
    assert "An estimate needs 24 usable attacks; there are 0." in said


# Over MQTT


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "w.sqlite3")
    yield store
    store.close()


@contextlib.contextmanager
def dashboard(broker: Broker, wearer: str, store: Store) -> Iterator[tuple[Delivery, Callable[..., Entry]]]:
    """A delivery that keeps a diary, and what asks something of it as a dashboard does."""
    made: list[Delivery] = []

    def ask(request: Request) -> bool:
        made[0].answer(AskStore(request))
        return True

    made.append(Delivery(contract_of(wearer), store, ask=ask))
    with listening(broker.port, f"unshrug/{wearer}") as listener:
        try:
            made[0].connect(partial(link_of, wearer, broker, MqttSettings()))
            assert made[0].connected.wait(5)

            def asked(verb: str, **body: object) -> Entry:
                listener.publish(f"unshrug/{wearer}/cmd/{verb}", json.dumps(body))
                return listener.wait_for("reply").body

            yield made[0], asked
        finally:
            made[0].close()


def test_a_dashboard_writes_changes_and_removes(broker: Broker, shelf: Store) -> None:
    with dashboard(broker, "diary-1", shelf) as (_, ask):
        ache = {"kind": "headache", "start": "2020-01-31T16:00:00+01:00"}
        said = ask("diary", **ache, end="2020-01-31T17:00:00+01:00", symptoms=["numbness"])
        assert said["advice"] == ["You named numbness: stop, and seek medical care now."]
        name = said["diary_id"]
        end = "2020-01-31T18:00:00+01:00"
        assert ask("diary", **ache, id=name, end=end)["diary_id"] == name
        assert [(entry["seq"], entry["end"]) for entry in entries(shelf)] == [(1, end)]
        assert ask("diary", kind="no_headache", date="2020-01-31")["error"].startswith("date: the diary has a headache")
        assert ask("diary", id=name, delete=True)["diary_id"] == name
        assert entries(shelf) == []
        since = (datetime.now().astimezone() - timedelta(hours=25)).isoformat()
        about = ask("diary", kind="therapy", start=since)["diary_id"]
        assert ask("checkin", about=about, after_h=24, symptoms=["fever"])["advice"] == [
            "You named fever or feeling ill: see a doctor soon."
        ]
        assert "no such check-in is due" in ask("checkin", about=about, after_h=24)["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "headache", "delete": True}, "missing dependency id for delete"),
        ({"kind": "headache", "start": "9999-12-31T23:59:59-05:00"}, "it is of the year 9999"),
        ({"kind": "headache", "start": "0001-01-01T00:00:00+05:00", "end": "0001-01-01T01:00:00Z"}, "of the year 1;"),
    ],
)
def test_whatever_is_asked_is_answered_and_the_diary_goes_on(
    broker: Broker, shelf: Store, body: Entry, said: str
) -> None:
    with dashboard(broker, "diary-2", shelf) as (_, ask):
        assert said in ask("diary", **body)["error"]
        assert ask("diary", kind="no_headache", date="2020-02-01")["result"] == "ok"


def test_what_cannot_be_done_takes_nothing_else_along(
    broker: Broker, shelf: Store, caplog: pytest.LogCaptureFixture
) -> None:
    impossible = AskStore(Request("diary", {}))  # which the schema lets nobody ask
    with listening(broker.port, "unshrug/diary-3") as other, dashboard(broker, "diary-3", shelf) as (sink, _):
        for k in range(10):
            sink.answer(impossible)
            sink.answer(Reply(Request("resume", {"request_id": str(k)})))
        for k in range(10):
            assert other.wait_for("reply").body["request_id"] == str(k)
    assert "could not be delivered" in caplog.text
