"""The diary at the terminal: it writes to the wearer's store, whether a service runs or not."""

import argparse
import csv
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from services.clock import Clock, rfc3339
from services.commands.shared import existing_store, load, store_path, tell_first_use
from services.contract import Contract, Publication, Stamp
from services.diary import DiaryError, Entry, Question, began, check_in, due_now, entries, open_headache, write
from services.requests import what_is_wrong
from services.settings import Settings
from services.store import Store, uuid7

FIELDS = (
    "start", "end", "peak", "side", "quality", "neck_pain", "nausea", "light", "sound", "aura", "effort", "sudden",
    "symptoms", "medicine", "relief", "trigger", "note",
)  # fmt: skip
_COLUMNS = ("id", "kind", "date", *FIELDS, "t")
_AGO = re.compile(r"(\d+(?:\.\d+)?) ?(min|m|h|d) ago")
_UNIT = {"min": "minutes", "m": "minutes", "h": "hours", "d": "days"}


def diary(options: argparse.Namespace) -> int:
    """Do what `unshrug diary WHAT` asks for."""
    settings = load(options)
    what: dict[str, Callable[[argparse.Namespace, Settings], int]] = {
        "add": _add, "end": _end, "edit": _edit, "remove": _remove, "list": _list, "export": _export,
        "therapy": _therapy, "checkin": _checkin, "triggers": _triggers, "resume": _resume,
    }  # fmt: skip
    return what[options.what](options, settings)


def _now() -> datetime:
    return datetime.now().astimezone()


def local_time(text: str, now: datetime) -> datetime:
    """Return the time that a person means: now, 2h ago, 16:00, yesterday 16:00, 2026-01-31 16:00, or with an offset.

    Where the clock was set back an hour comes twice, and the first is taken; where it was set forward one never was.
    Raises DiaryError.
    """
    try:
        return _read_time(text.strip().lower(), now)
    except (ValueError, OverflowError):
        expected = "now, 2h ago, 16:00, yesterday 16:00 or 2026-01-31 16:00"
        raise DiaryError(f"{text}: expected a time such as {expected}") from None


def _read_time(text: str, now: datetime) -> datetime:
    if text == "now":
        return now
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{_UNIT[ago[2]]: float(ago[1])})
    clock, day = text, now.date()
    if text.startswith("yesterday "):
        clock, day = text.removeprefix("yesterday "), day - timedelta(days=1)
    if re.fullmatch(r"\d?\d:\d\d", clock):
        at = datetime.fromisoformat(f"{day} {clock.zfill(5)}")
        if clock == text and at > now.replace(tzinfo=None) + timedelta(minutes=5):
            raise DiaryError(f"{text}: that is still to come today; expected a time before now, or yesterday {text}")
    else:
        at = datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
    if at.tzinfo is not None:
        return at
    first, second = at.replace(fold=0).astimezone(), at.replace(fold=1).astimezone()
    if first.replace(tzinfo=None) != at:
        raise DiaryError(f"{at:%Y-%m-%d %H:%M}: there was no such time, for the clocks were set forward")
    if first.utcoffset() != second.utcoffset():
        print(f"unshrug: {at:%H:%M} was there twice on that day; the first is taken", file=sys.stderr)
    return first


def _contract(settings: Settings) -> Contract:
    stamp = Stamp(time.time(), math.nan, Clock().synchronised())
    return Contract(settings.wearer.id, lambda _: stamp, lambda: stamp)


def _keep(settings: Settings, do: Callable[[Store, Contract, datetime], tuple[list[Publication], Entry]]) -> Entry:
    """Write down what `do` makes of the store; it is on the disk when this returns. Raises DiaryError, StoreError."""
    store = Store(store_path(settings), settings.store.most_mib)
    try:
        publications, said = do(store, _contract(settings), _now())
        store.put(publications)
    finally:
        store.close()
    for line in said.get("advice", ()):
        print(f"! {line}")
    return said


def _enter(settings: Settings, body: Entry, old: Callable[[Sequence[Entry]], Entry] | None = None) -> Entry:
    """Check an entry and keep it; with `old` it changes that one. Return it as it is kept."""
    kept: list[Entry] = []
    gone: list[Entry] = []

    def do(store: Store, contract: Contract, now: datetime) -> tuple[list[Publication], Entry]:
        before = entries(store)
        whole = body
        if old is not None:
            was = old(before)
            whole = {k: v for k, v in was.items() if k in FIELDS or k in ("kind", "date")} | body | {"id": was["id"]}
        wrong = what_is_wrong("diary", whole)
        if wrong is not None:
            raise DiaryError(wrong)
        publications, said = write(contract, uuid7(now.timestamp()), whole, before, now)
        kept.append(json.loads(publications[0].payload))
        no_longer = {publication.id for publication in publications[1:]}
        gone.extend(entry for entry in before if entry["id"] in no_longer)
        return publications, said

    _keep(settings, do)
    for entry in gone:
        print(f"removed: {_line(entry)}")
    return kept[0]


def _given(options: argparse.Namespace, now: datetime) -> Entry:
    """Return the fields that the options give."""
    body: Entry = {}
    for field in FIELDS:
        value = getattr(options, field, None)
        if value is None:
            continue
        body[field] = rfc3339(local_time(value, now).timestamp()) if field in ("start", "end") else value
    return body


def _add(options: argparse.Namespace, settings: Settings) -> int:
    tell_first_use(settings)
    now = _now()
    if options.none is not None:
        days = {"today": now.date(), "yesterday": now.date() - timedelta(days=1)}
        body = {"kind": "no_headache", "date": str(days.get(options.none, options.none))} | _given(options, now)
        print(f"kept: {_line(_enter(settings, body))}")
        return 0
    body = {"kind": "headache", "start": rfc3339(now.timestamp())} | _given(options, now)
    print(f"kept: {_line(_enter(settings, body))}")
    return 0


def _therapy(options: argparse.Namespace, settings: Settings) -> int:
    now = _now()
    body = {"kind": "therapy", "start": rfc3339(now.timestamp())} | _given(options, now)
    print(f"kept: {_line(_enter(settings, body))}")
    return 0


def _end(options: argparse.Namespace, settings: Settings) -> int:
    def open_one(kept: Sequence[Entry]) -> Entry:
        found = open_headache(kept)
        if found is None:
            raise DiaryError("there is no open headache")
        return found

    body = {"end": rfc3339(local_time(options.at, _now()).timestamp())}
    print(f"kept: {_line(_enter(settings, body, open_one))}")
    print("Cues wait until you want them again: `unshrug diary resume`, or `cmd/resume` over MQTT.")
    return 0


def _resume(options: argparse.Namespace, settings: Settings) -> int:
    store = existing_store(settings)
    if store is None:
        raise DiaryError("nothing is kept yet, and nothing holds cues")
    try:
        open_one = open_headache(entries(store))
        if open_one is not None:
            raise DiaryError("a headache is open; `unshrug diary end` ends it")
        store.keep("resumed", time.time())
    finally:
        store.close()
    print("cues may come again")
    return 0


def _named(options: argparse.Namespace) -> Callable[[Sequence[Entry]], Entry]:
    """Return what finds the entry whose id ends in what was given."""

    def find(kept: Sequence[Entry]) -> Entry:
        found = [entry for entry in kept if options.id and entry["id"].endswith(options.id.lower())]
        if len(found) != 1:
            what = "no entry" if not found else f"{len(found)} entries"
            raise DiaryError(f"{options.id}: {what} with such an id; `unshrug diary list` shows them")
        return found[0]

    return find


def _edit(options: argparse.Namespace, settings: Settings) -> int:
    body = _given(options, _now())
    if not body:
        raise DiaryError("expected something to change, such as --end 18:00")
    print(f"kept: {_line(_enter(settings, body, _named(options)))}")
    return 0


def _remove(options: argparse.Namespace, settings: Settings) -> int:
    gone: list[Entry] = []

    def do(store: Store, contract: Contract, now: datetime) -> tuple[list[Publication], Entry]:
        before = entries(store)
        gone.append(_named(options)(before))
        return write(contract, "", {"id": gone[0]["id"], "delete": True}, before, now)

    _keep(settings, do)
    print(f"removed: {_line(gone[0])}")
    return 0


def _kept(settings: Settings) -> tuple[list[Entry], list[Question]]:
    store = existing_store(settings)
    if store is None:
        return [], []
    try:
        return entries(store), due_now(store, _now())
    finally:
        store.close()


def _list(options: argparse.Namespace, settings: Settings) -> int:
    kept, due = _kept(settings)
    if options.days is not None:
        since = _now().date() - timedelta(days=options.days)
        kept = [entry for entry in kept if began(entry).date() >= since]
    if options.format == "json":
        print(json.dumps(kept, indent=1, ensure_ascii=False))
        return 0
    for entry in kept:
        print(_line(entry))
    if not kept:
        print("nothing yet; `unshrug diary add` writes down a headache, `unshrug diary add --none` that there was none")
    for question in due:
        print(f"? {question.text} (unshrug diary checkin)")
    return 0


def _line(entry: Entry) -> str:
    """Return an entry in a line, in local time."""
    if entry["kind"] == "no_headache":
        note = f", {entry['note']}" if entry.get("note") else ""
        return f"{entry['id'][-6:]}  {entry['date']}  no headache{note}"
    start = datetime.fromisoformat(entry["start"]).astimezone()
    end = datetime.fromisoformat(entry["end"]).astimezone() if entry.get("end") else None
    until = "" if end is None else f" to {end:%H:%M}" if end.date() == start.date() else f" to {end:%Y-%m-%d %H:%M}"
    words = [entry["kind"]]
    if entry["kind"] == "headache" and end is None:
        words.append("open")
    if entry.get("peak") is not None:
        words.append(f"peak {entry['peak']}")
    words += [str(entry[field]) for field in ("side", "quality", "medicine", "trigger", "note") if entry.get(field)]
    words += [field.replace("_", " ") for field in FIELDS if entry.get(field) is True]
    words += [name.replace("_", " ") for name in entry.get("symptoms", ())]
    return f"{entry['id'][-6:]}  {start:%Y-%m-%d %H:%M}{until}  {', '.join(words)}"


def _export(options: argparse.Namespace, settings: Settings) -> int:
    kept, _ = _kept(settings)
    path: Path = options.out
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".json"):
        raise DiaryError(f"{path}: expected a name that ends in .csv or .json")
    try:
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", newline=""
        ) as out:
            if suffix == ".json":
                json.dump(kept, out, indent=1, ensure_ascii=False)
            else:
                write_csv(out, kept, _COLUMNS)
    except FileExistsError:
        raise DiaryError(f"{path}: it is there already; expected a new name") from None
    print(f"{len(kept)} entries in {path}")
    return 0


def _triggers(options: argparse.Namespace, settings: Settings) -> int:
    from services.association import associate, attacks_of, hours_of, lines

    store = existing_store(settings)
    days, kept = (store.latest("summary/day"), entries(store)) if store else ([], [])
    if store is not None:
        store.close()
    hours, attacks = hours_of(days), attacks_of(kept)
    first = min((hour.start for hour in hours), default=datetime.max)
    before = sum(attack.onset < first for attack in attacks)
    if before:
        print(f"{before} headaches are from before anything was worn, and not looked at.")
    try:
        found = associate([attack for attack in attacks if attack.onset >= first], hours)
    except ValueError as error:
        raise DiaryError(f"the diary cannot be compared with tension: {error}") from None
    print("\n".join(lines(found)))
    return 0


def write_csv(out: Any, rows: Sequence[Entry], columns: Sequence[str]) -> None:
    """Write rows as a table (RFC 4180); what a spreadsheet would take for a formula gets an apostrophe before it."""
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow(columns)
    for row in rows:
        table.writerow([_cell(row.get(column)) for column in columns])


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | dict):
        plain = all(isinstance(item, str | int | float) for item in value) and isinstance(value, list)
        return " ".join(map(str, value)) if plain else json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _checkin(options: argparse.Namespace, settings: Settings) -> int:
    _, due = _kept(settings)
    if options.number is None:
        for k, question in enumerate(due, 1):
            print(f"{k}  {question.text}")
        print("answer with: unshrug diary checkin 1 --pain 2 --headache no --worse no" if due else "none is due")
        return 0
    if not 1 <= options.number <= len(due):
        raise DiaryError(f"{options.number}: expected the number of a check-in that is due, of {len(due)}")
    question = due[options.number - 1]
    body: Entry = {"about": question.about, "after_h": question.after_h}
    for field in ("pain", "headache", "worse", "symptoms", "note"):
        if getattr(options, field) is not None:
            body[field] = getattr(options, field)
    wrong = what_is_wrong("checkin", body)
    if wrong is not None:
        raise DiaryError(wrong)
    _keep(settings, lambda store, contract, now: check_in(contract, uuid7(now.timestamp()), body, due_now(store, now)))
    print("kept, thank you")
    return 0
