"""What is promised is kept: through a full disk, a damaged file, a kill, and in its order."""

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.contract import Publication, Stamp, interrupted, labelled, shifted, text_of
from services.outbox import Outbox
from services.store import Store, StoreError

WALL_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z
NOW = Stamp(WALL_S, 100.0)


def told(topic: str, name: str, seq: int = 0, event: str = "", more: str = "", at_s: float = 0.0) -> Publication:
    stamp = Stamp(WALL_S + at_s, 100.0 + at_s)
    body = {"t": "2026-01-01T00:00:00.000Z", "clock": "unknown", "id": name, "seq": seq, "more": more}
    return Publication(topic, text_of(body | ({"event": event} if event else {})), id=name, seq=seq, stamp=stamp)


def episode(name: str, *events: str, more: str = "") -> list[Publication]:
    return [told("episode", name, seq, event, more) for seq, event in enumerate(events)]


def keys(publications: list[Publication]) -> list[tuple[str, int]]:
    return [(p.id, p.seq) for p in publications]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "deep" / "w.sqlite3", run="this")
    yield made
    made.close()


def everything(store: Store) -> list[Publication]:
    return [stored.publication for stored in store.waiting(0, 10**6)]


def test_what_was_put_is_there_after_another_start_in_its_order(store: Store) -> None:
    put = [*episode("a", "started", "updated"), told("cue", "c"), *episode("b", "started", "ended")]
    store.put(put[:2])
    store.put(put[2:])
    again = Store(store.path)
    assert [replace(p, stamp=None) for p in put] == everything(again)
    again.close()


def test_a_repeat_of_what_is_kept_changes_nothing(store: Store) -> None:
    first = told("cue", "c", more="first")
    store.put([first])
    store.confirm([first.key])
    store.put([told("cue", "c", more="second")])
    assert everything(store) == []
    newest = store.newest("cue")
    assert newest is not None
    assert newest.publication.payload == first.payload


def test_only_the_newest_of_what_is_retained_waits(store: Store) -> None:
    days = [replace(told("summary/day", "2026-01-01", seq), retain=True) for seq in range(3)]
    store.put(days[:1])
    store.put(days[1:])
    assert keys(everything(store)) == [("2026-01-01", 2)]
    assert everything(store)[0].retain


def test_an_episode_without_an_end_is_found_and_ended_once(store: Store) -> None:
    store.put([*episode("a", "started", "ended"), *episode("b", "started", "updated"), *episode("c", "started")])
    ended = store.open_episodes()
    assert keys([stored.publication for stored in ended]) == [("b", 1), ("c", 0)]


def test_the_end_of_an_interrupted_episode_is_its_last_word() -> None:
    body = {
        "t": "2026-01-01T00:00:20.000Z", "clock": "unknown", "event": "updated", "id": "b", "seq": 4,
        "start": "2026-01-01T00:00:05.000Z", "end": None, "duration_s": None, "truncated": False, "end_reason": None,
    }  # fmt: skip
    ended = interrupted(text_of(body))
    assert (ended.topic, ended.id, ended.seq) == ("episode", "b", 5)
    assert json.loads(ended.payload) == body | {
        "event": "ended", "seq": 5, "end": body["t"], "duration_s": 15.0, "truncated": True,
        "end_reason": "interrupted",
    }  # fmt: skip
    again = labelled(ended.payload, "deadline")
    assert (again.seq, json.loads(again.payload)["label"], json.loads(again.payload)["event"]) == (
        6,
        "deadline",
        "ended",
    )


def test_times_that_a_wrong_clock_gave_are_put_right_and_others_stay(store: Store) -> None:
    ours, known = told("cue", "ours"), told("cue", "known")
    known = replace(known, payload=known.payload.replace('"unknown"', '"synchronised"'))
    earlier = replace(told("cue", "earlier"), stamp=None)  # of another run
    store.put([ours, known, earlier])
    store.correct(WALL_S - 100.0 + 3600, known=True)
    got = {p.id: json.loads(p.payload) for p in everything(store)}
    assert (got["ours"]["t"], got["ours"]["clock"]) == ("2026-01-01T01:00:00.000Z", "synchronised")
    assert got["known"]["t"] == "2026-01-01T00:00:00.000Z"
    assert (got["earlier"]["t"], got["earlier"]["clock"]) == ("2026-01-01T00:00:00.000Z", "unknown")
    store.correct(WALL_S - 100.0 + 7200, known=True)
    assert {p.id: json.loads(p.payload)["t"] for p in everything(store)}["ours"] == "2026-01-01T01:00:00.000Z", "once"


def test_a_shift_moves_every_time_and_nothing_else() -> None:
    body = {
        "t": "2026-01-01T00:00:00.500Z",
        "start": "2025-12-31T23:59:59.000Z",
        "end": None,
        "clock": "unknown",
        "n": 1,
    }
    assert json.loads(shifted(text_of(body), 1.25, known=False)) == body | {
        "t": "2026-01-01T00:00:01.750Z", "start": "2026-01-01T00:00:00.250Z",
    }  # fmt: skip


def test_what_was_told_since_then_is_sent_again(store: Store) -> None:
    all_of_them = [told("cue", f"c{k}", at_s=60.0 * k) for k in range(5)]
    store.put(all_of_them)
    store.confirm(p.key for p in all_of_them)
    assert store.resend(WALL_S + 120) == 3
    assert keys(everything(store)) == [("c2", 0), ("c3", 0), ("c4", 0)]


def test_values_are_kept_and_forgotten(store: Store) -> None:
    for day in range(1, 5):
        store.keep(f"day/2026-01-0{day}", {"seq": day})
    store.keep("live", {"cue.enabled": False})
    store.forget("day/", "day/2026-01-03")
    assert [store.kept(f"day/2026-01-0{day}") for day in range(1, 5)] == [None, None, {"seq": 3}, {"seq": 4}]
    assert store.kept("live") == {"cue.enabled": False}
    store.keep("live", None)
    assert store.kept("live") is None


def test_a_full_store_gives_up_updates_first_and_ends_last(tmp_path: Path) -> None:
    store = Store(tmp_path / "w.sqlite3", most_mib=1)
    padding = "x" * 1000
    for k in range(300):
        store.put(episode(f"e{k:04}", "started", *["updated"] * 8, "ended", more=padding))
    got = [(p.id, json.loads(p.payload)["event"]) for p in everything(store)]
    ends = [name for name, event in got if event == "ended"]
    assert ends == [f"e{k:04}" for k in range(300)]
    assert len([1 for _, event in got if event == "updated"]) < 300 * 8
    assert (tmp_path / "w.sqlite3").stat().st_size < 1.3 * 2**20
    for k in range(300, 2000):
        store.put(episode(f"e{k:04}", "started", "ended", more=padding))
    left = [p.id for p in everything(store) if json.loads(p.payload)["event"] == "ended"]
    assert left == [f"e{k:04}" for k in range(2000 - len(left), 2000)], "the oldest went"
    assert len(left) > 500
    assert (tmp_path / "w.sqlite3").stat().st_size < 1.3 * 2**20
    store.close()


def test_a_full_store_still_knows_the_last_word_on_an_open_episode(tmp_path: Path) -> None:
    store = Store(tmp_path / "w.sqlite3", most_mib=1)
    store.put(episode("open", "started", *["updated"] * 5))
    store.confirm(("episode", "open", seq) for seq in range(6))
    for k in range(1000):
        store.put(episode(f"e{k:04}", "started", "ended", more="x" * 1000))
    assert keys([stored.publication for stored in store.open_episodes()]) == [("open", 5)], "so its end has a new seq"
    store.close()


def test_the_wearers_own_words_outlast_everything(tmp_path: Path) -> None:
    store = Store(tmp_path / "w.sqlite3", most_mib=1)
    store.put([told("diary", "mine")])
    for k in range(3000):
        store.put([told("cue", f"c{k}", more="x" * 1000)])
    assert store.newest("diary") is not None
    store.close()


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, b""])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.sqlite3"
    path.write_bytes(damage)
    store = Store(path)
    store.put([told("cue", "c")])
    assert keys(everything(store)) == [("c", 0)]
    store.close()
    aside = list(tmp_path.glob("w.sqlite3.damaged-*"))
    assert [p.read_bytes() for p in aside] == ([damage] if damage else [])
    assert ("set aside" in caplog.text) == bool(damage)


def test_pages_that_the_card_has_lost_are_noticed_after_a_power_cut(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite3"
    store = Store(path)
    store.put([told("cue", f"c{k}", more="x" * 500) for k in range(200)])
    store.close()
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096 * 10))
    Path(f"{path}-wal").write_bytes(b"")  # it was not closed
    again = Store(path)
    again.put([told("cue", "new")])
    assert keys(everything(again)) == [("new", 0)]
    again.close()
    assert list(tmp_path.glob("w.sqlite3.damaged-*"))


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite3"
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="written by a newer Unshrug"):
        Store(path)
    assert path.read_bytes()[:16] == before[:16]
    assert not list(tmp_path.glob("*.damaged*"))


def test_the_file_is_for_the_wearer_alone(store: Store) -> None:
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.path.parent.stat().st_mode & 0o777 == 0o700


# The outbox


class Full(Store):
    """A store whose disk is full at times."""

    full = False

    def put(self, *what: Any) -> None:
        if self.full:
            raise StoreError("no space")
        super().put(*what)


class Hours:
    """A clock that the test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_while_the_disk_is_full_everything_waits_in_memory_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, clock = Full(tmp_path / "w.sqlite3"), Hours()
    outbox = Outbox(store, clock)
    outbox.put(episode("a", "started"))
    store.full = True
    outbox.put(episode("a", "started", "updated")[1:])
    outbox.put([told("cue", "c")])
    again_s = outbox.retry_s
    assert again_s == 5.0
    assert keys(outbox.next(10)) == [("a", 0), ("a", 1), ("c", 0)]
    assert outbox.next(10) == []
    outbox.confirm([("episode", "a", 1)])
    store.full = False
    clock.now_s = 6.0
    outbox.put([])
    assert outbox.retry_s is None
    outbox.rewind()
    assert keys(outbox.next(10)) == [("a", 0), ("c", 0)]
    assert [("held in memory" in text, "again" in text) for text in caplog.messages] == [(True, False)]
    store.close()


def test_without_a_store_nothing_is_lost_as_long_as_the_program_runs(caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(None)
    outbox.put(told("cue", f"c{k}") for k in range(10_050))
    assert keys(outbox.next(1)) == [("c50", 0)]
    assert outbox.retry_s is None
    assert [text for text in caplog.messages if "are lost" in text] == [
        "more than 10000 messages wait in memory: the oldest are lost"
    ]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["put", "next", "confirm", "down", "full", "room", "kill"]), max_size=40))
def test_whatever_happens_all_arrive_and_each_topic_in_its_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    path = tmp_path_factory.mktemp("outbox") / "w.sqlite3"
    store, clock = Full(path), Hours()
    outbox = Outbox(store, clock)
    promised: list[str] = []
    arrived: list[str] = []
    under_way: list[Publication] = []
    for k, step in enumerate([*steps, "room", "put", "down", *["next", "confirm"] * 60]):
        clock.now_s += 10
        match step:
            case "put":
                outbox.put([told("cue", f"c{k:03}")])
                promised.append(f"c{k:03}")
            case "next":
                under_way += outbox.next(2)
            case "confirm":
                arrived += [p.id for p in under_way]
                outbox.confirm([p.key for p in under_way])
                under_way.clear()
            case "down":
                under_way.clear()
                outbox.rewind()
            case "full" | "room":
                store.full = step == "full"
            case "kill":
                under_way.clear()
                held = outbox.retry_s is not None
                store.close()
                if held:  # what only memory knew dies with it
                    kept = Store(path)
                    known = {stored.publication.id for stored in kept.waiting(0, 10**6)}
                    kept.close()
                    promised = [name for name in promised if name in known or name in arrived]
                store = Full(path)
                outbox = Outbox(store, clock)
    store.close()
    first = list(dict.fromkeys(arrived))
    assert first == promised
