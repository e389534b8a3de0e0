"""The headache diary and the check-ins: what may be written, and what follows from it.

An entry is a message with an id; another one with the same id and a higher `seq` takes its place. Nothing is altered.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, date, datetime, timedelta
from typing import Any, Literal

from services.contract import Contract, Publication
from services.safety import STOPS, SYMPTOMS, advice
from services.store import Store

_SOON = timedelta(minutes=5)  # clocks differ
_LONGEST = timedelta(days=14)
_YEARS = range(1970, MAXYEAR)  # a slip else; and the first and last of all have times that no clock shows
_CHECKS_H = (24, 48)
_CHECK_FOR = timedelta(days=7)
_STRONG_PAIN = 7
_HOLDS_FOR = timedelta(days=30)
_MOST_ATTACKS = 3
_WORN_S = 600.0

Entry = dict[str, Any]


class DiaryError(Exception):
    """What cannot be written down; one sentence says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """A check-in that is due: `about` a calibration or a session of therapy, so many hours after it."""

    about: str
    kind: Literal["calibration", "therapy"]
    after_h: int
    since: datetime

    @property
    def text(self) -> str:
        """The question in words."""
        what = "the calibration" if self.kind == "calibration" else "the therapy session"
        return f"How are head and neck, {self.after_h} h after {what} of {self.since:%d %b %H:%M}?"


@dataclass(frozen=True, slots=True)
class Hold:
    """Why there are no cues until the wearer wants them again, which cannot be while it is `open`."""

    reason: str
    since: datetime
    open: bool = False


def entries(store: Store) -> list[Entry]:
    """Return what the diary has, by time. Raises StoreError."""
    kept = [entry for entry in store.latest("diary") if not entry.get("deleted")]
    return sorted(kept, key=began)


def began(entry: Entry) -> datetime:
    """Return when an entry began; a day without a headache does at its local midnight."""
    return datetime.fromisoformat(entry.get("start") or entry["date"]).astimezone()


def write(
    contract: Contract, new_id: str, body: Entry, before: Sequence[Entry], now: datetime
) -> tuple[list[Publication], Entry]:
    """Return what is to be kept for an entry, an edit (`id`) or a removal (`delete`), and what to answer.

    `body` fits the schema of the request; `before` is what the diary has; `now` has an offset from UTC. What is to be
    kept of the entry itself comes first; days that were said to be without a headache and no longer are come after it.
    Raises DiaryError.
    """
    name = body.get("id")
    old = next((entry for entry in before if entry["id"] == name), None)
    if name is not None and old is None:
        raise DiaryError(f"id: there is no entry {name}")
    if body.get("delete"):
        assert old is not None
        gone = {"kind": old["kind"], "deleted": True}
        return [contract.record("diary", old["id"], old["seq"] + 1, gone)], {"diary_id": old["id"]}
    entry = {key: value for key, value in body.items() if key not in ("request_id", "id", "delete")}
    others = [other for other in before if other is not old]
    if entry["kind"] == "no_headache":
        _check_day(entry, others, now)
        superseded = []
    else:
        superseded = _check_stretch(entry, others, now)
    entry_id, seq = (new_id, 0) if old is None else (old["id"], old["seq"] + 1)
    out = [contract.record("diary", entry_id, seq, entry)]
    out += [
        contract.record("diary", one["id"], one["seq"] + 1, {"kind": one["kind"], "deleted": True})
        for one in superseded
    ]
    said = advice(entry, others, now)
    return out, {"diary_id": entry_id} | ({"advice": said} if said else {})


def _check_day(entry: Entry, others: Iterable[Entry], now: datetime) -> None:
    day = date.fromisoformat(entry["date"])
    _check_year("date", day)
    if day > now.date():
        raise DiaryError(f"date: {day} is in the future; expected {now.date()} or before")
    for other in others:
        if other["kind"] == "no_headache" and other.get("date") == entry["date"]:
            raise DiaryError(f"date: the diary says already that there was none on {day}")
        if other["kind"] == "headache" and _touches(other, day, now):
            raise DiaryError(f"date: the diary has a headache on {day}, of {_when(other, now)}")


def _check_stretch(entry: Entry, others: Sequence[Entry], now: datetime) -> list[Entry]:
    """Check a headache or a session; return the entries that say that there was none on these days."""
    if "start" not in entry:
        raise DiaryError("start: expected when it began")
    start, end = _time(entry, "start"), _time(entry, "end")
    assert start is not None
    for key, at in (("start", start), ("end", end)):
        if at is None:
            continue
        _check_year(key, at)
        if at > now + _SOON:
            raise DiaryError(f"{key}: {at.astimezone(now.tzinfo):%Y-%m-%d %H:%M} is in the future")
    if end is not None and end < start:
        raise DiaryError("end: it is before start")
    if end is not None and end - start > _LONGEST:
        raise DiaryError(f"end: more than {_LONGEST.days} days after start; expected one entry for each headache")
    if entry["kind"] != "headache":
        return []
    if end is None and now - start > _LONGEST:
        raise DiaryError(f"end: expected when it was over, for it began more than {_LONGEST.days} days ago")
    for other in others:
        if other["kind"] == "headache" and _overlap((start, end), _stretch(other), now):
            is_open = "end" not in other
            hint = "; it is open: end it first" if is_open else ""
            raise DiaryError(f"start: it overlaps the headache of {_when(other, now)}{hint}")
    return [o for o in others if o["kind"] == "no_headache" and _touches(entry, date.fromisoformat(o["date"]), now)]


def _check_year(key: str, when: date) -> None:
    if when.year not in _YEARS:
        raise DiaryError(f"{key}: it is of the year {when.year}; expected {_YEARS[0]} or later, and no time to come")


def _overlap(one: tuple[datetime, datetime | None], other: tuple[datetime, datetime | None], now: datetime) -> bool:
    """Whether two stretches share any time; what is not over goes on."""
    ends = [end or max(now, start) + _SOON for start, end in (one, other)]
    return one[0] <= ends[1] and other[0] <= ends[0]


def _stretch(entry: Entry) -> tuple[datetime, datetime | None]:
    start = _time(entry, "start")
    assert start is not None
    return start, _time(entry, "end")


def _touches(entry: Entry, day: date, now: datetime) -> bool:
    """Whether a headache was there on a local day."""
    start, end = _stretch(entry)
    return start.astimezone(now.tzinfo).date() <= day <= (end or now).astimezone(now.tzinfo).date()


def _time(entry: Entry, key: str) -> datetime | None:
    return datetime.fromisoformat(entry[key]) if entry.get(key) else None


def _when(entry: Entry, now: datetime) -> str:
    return f"{_stretch(entry)[0].astimezone(now.tzinfo):%Y-%m-%d %H:%M}"


def open_headache(kept: Iterable[Entry]) -> Entry | None:
    """Return the headache that has no end, None without one."""
    return next((entry for entry in kept if entry["kind"] == "headache" and not entry.get("end")), None)


def check_in(contract: Contract, new_id: str, body: Entry, due: Sequence[Question]) -> tuple[list[Publication], Entry]:
    """Return what is to be kept of an answer to a check-in that is due, and what to answer. Raises DiaryError."""
    about, after_h = body["about"], body["after_h"]
    if not any((one.about, one.after_h) == (about, after_h) for one in due):
        known = ", ".join(f"{one.about} after {one.after_h} h" for one in due) or "none at all"
        raise DiaryError(f"about: no such check-in is due; due is {known}")
    kind = next(one.kind for one in due if one.about == about)
    entry = {key: value for key, value in body.items() if key != "request_id"} | {"kind": kind}
    said = ["Calibration is left out until you allow it again."] if body.get("worse") and kind == "calibration" else []
    if body.get("worse") and kind == "therapy":
        said = ["Tell your therapist before the next session."]
    said += advice(entry, (), datetime.now().astimezone())
    return [contract.record("checkin", new_id, 0, entry)], {"checkin_id": new_id} | ({"advice": said} if said else {})


def due_checkins(
    calibrations: Iterable[Entry], therapies: Iterable[Entry], checkins: Iterable[Entry], now: datetime
) -> list[Question]:
    """Return the check-ins that are due: 24 h and 48 h after arms were held up, or after a session, for a week."""
    held = [("calibration", c["id"], c["t"]) for c in calibrations if c.get("repeat") or c.get("outcome") == "accepted"]
    seen = [("therapy", t["id"], t.get("end") or t["start"]) for t in therapies]
    answered = {(checkin.get("about"), checkin.get("after_h")) for checkin in checkins}
    out = []
    for kind, about, when in (*held, *seen):
        since = datetime.fromisoformat(when).astimezone(now.tzinfo)
        for after_h in _CHECKS_H:
            due = since + timedelta(hours=after_h)
            if due <= now < due + _CHECK_FOR and (about, after_h) not in answered:
                out.append(Question(about, "calibration" if kind == "calibration" else "therapy", after_h, since))
    return out


def due_now(store: Store, now: datetime) -> list[Question]:
    """Return the check-ins that are due, by what is kept. Raises StoreError."""
    therapies = [entry for entry in entries(store) if entry["kind"] == "therapy"]
    return due_checkins(store.latest("calibration"), therapies, store.latest("checkin"), now)


def holds(kept: Sequence[Entry], checkins: Iterable[Entry], days: Iterable[Entry], now: datetime) -> Hold | None:
    """Return why cues are to pause, from the records alone: the newest reason, or one that lasts."""
    open_one = open_headache(kept)
    if open_one is not None:
        return Hold(f"a headache is open in the diary, since {_when(open_one, now)}", _stretch(open_one)[0], open=True)
    found = _after_wearing(kept, days, now)
    found += [
        Hold("there was a headache; cues wait until you want them again", end)
        for start, end in map(_stretch, (entry for entry in kept if entry["kind"] == "headache"))
        if end is not None
    ]
    for one in (*kept, *checkins):
        stops = [SYMPTOMS[name][0] for name in one.get("symptoms", ()) if name in STOPS]
        pain = max(one.get("peak") or 0, one.get("pain") or 0)
        told = datetime.fromisoformat(one["t"])
        if stops:
            found.append(Hold(f"you named {stops[0]}; cues wait until you want them again", told))
        elif pain >= _STRONG_PAIN:
            found.append(Hold(f"pain was {pain} of 10; cues wait until you want them again", told))
    recent = [hold for hold in found if now - hold.since < _HOLDS_FOR]
    return max(recent, key=lambda hold: hold.since, default=None)


def _after_wearing(kept: Iterable[Entry], days: Iterable[Entry], now: datetime) -> list[Hold]:
    """Whether headaches began within a day of wearing it, too often for chance to be taken for granted."""
    worn = {date.fromisoformat(day["date"]) for day in days if day.get("wear_time_s", 0) >= _WORN_S}
    aches = sorted((_stretch(entry) for entry in kept if entry["kind"] == "headache"), key=lambda stretch: stretch[0])
    after = [
        end or start
        for start, end in ((s.astimezone(now.tzinfo), e) for s, e in aches)
        if now - start < _HOLDS_FOR and {start.date(), start.date() - timedelta(days=1)} & worn
    ]
    if len(after) <= _MOST_ATTACKS:
        return []
    reason = f"{len(after)} headaches in 30 days began within a day of wearing it: pause, and ask your therapist"
    return [Hold(reason, after[-1])]
