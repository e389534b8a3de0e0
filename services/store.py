"""What must not be lost, in SQLite: episodes, cues, diary and days, until the broker has them and after."""

import contextlib
import json
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from services.contract import Key, Publication, shifted

log = logging.getLogger(__name__)

_MIB = 2**20
_FOLDED = 200  # rows that go at a time where there is no room
_BUSY_S = 2.0

# Each step leads from the version before it to its own; none is ever changed.
_MIGRATIONS = (
    """
    CREATE TABLE message (
      n INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which they were told
      topic TEXT NOT NULL, id TEXT NOT NULL, seq INTEGER NOT NULL, -- which together name one message
      event TEXT NOT NULL, -- started, updated, ended; empty where a topic has no such thing
      wall_s REAL NOT NULL, -- when it was told
      run TEXT, ahead_s REAL NOT NULL, -- by which run of the program, and its wall clock ahead of its monotonic one
      payload TEXT NOT NULL,
      retain INTEGER NOT NULL, waiting INTEGER NOT NULL, -- until the broker has confirmed it
      UNIQUE (topic, id, seq)
    );
    CREATE INDEX message_waiting ON message (n) WHERE waiting;
    CREATE INDEX message_wall ON message (wall_s);
    CREATE TABLE kept (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE INDEX message_topic ON message (topic, n); -- the diary and its like are read as a whole
    """,
)

# What matters least goes first: of an episode its end says everything, and the wearer's own words come last. Only what
# was said last of an open episode stays longer: its end is made of it should the program be killed.
_LEAST = """
    SELECT n FROM message ORDER BY
      CASE WHEN event IN ('started', 'updated') AND NOT EXISTS (SELECT 1 FROM message AS later
             WHERE later.topic = message.topic AND later.id = message.id AND later.seq > message.seq) THEN 7
           WHEN event = 'updated' THEN waiting
           WHEN topic IN ('diary', 'checkin', 'calibration', 'exercise') THEN 6
           WHEN NOT waiting THEN 2
           WHEN event = 'started' THEN 3
           WHEN topic = 'cue' THEN 4
           ELSE 5 END, n
    LIMIT ?
"""


class StoreError(Exception):
    """What should be kept cannot be, for now; the message says why."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message that has been kept; `n` is its place in the order in which they were told."""

    n: int
    publication: Publication


class Store:
    """Messages and a few values in one file. It has no thread of its own; any may use it, one at a time.

    What `put` has returned from is on the disk. A file that is damaged is set aside, and a new one begun. The file
    grows to `most_mib` at most: beyond, what matters least goes. Raises StoreError where the file cannot be used.
    """

    def __init__(self, path: Path, most_mib: int = 64, run: str = "") -> None:
        self.path = path
        self._most_bytes = most_mib * _MIB
        self._run = run
        self._said_full = False
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(f"{path}: {error}") from None
            self._set_aside(error)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from None

    def _open(self) -> sqlite3.Connection:
        path = self.path
        unclean = Path(f"{path}-wal").exists()  # it was not closed: the power may have gone
        db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA journal_size_limit = {4 * _MIB}")
            if unclean and (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
            self._migrate(db)
        except BaseException:
            db.close()
            raise
        path.chmod(0o600)
        return db

    def _migrate(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise StoreError(
                f"{self.path}: written by a newer Unshrug (version {version}; expected {len(_MIGRATIONS)} at most)"
            )
        for step, script in enumerate(_MIGRATIONS[version:], version + 1):
            db.executescript(f"BEGIN; {script} PRAGMA user_version = {step}; COMMIT")

    def _set_aside(self, error: Exception) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        try:
            self.path.rename(aside)
            for end in ("-wal", "-shm"):  # what was written last may only be there
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{end}").rename(f"{aside}{end}")
            self._db = self._open()
        except (OSError, sqlite3.Error) as again:
            raise StoreError(f"{self.path}: {again}") from None
        log.error("%s is damaged (%s); it was set aside as %s, and a new one begun", self.path, error, aside.name)

    def put(self, publications: Sequence[Publication], values: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Keep durable publications, and values that belong to them, all or none; see `keep`. Raises StoreError.

        A publication that is kept already stays as it is.
        """
        with self._writing():
            for p in publications:
                if p.retain:  # only the newest counts
                    self._db.execute("DELETE FROM message WHERE topic = ? AND id = ?", (p.topic, p.id))
                self._db.execute(
                    "INSERT INTO message (topic, id, seq, event, wall_s, run, ahead_s, payload, retain, waiting)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT DO NOTHING",
                    self._row(p),
                )
            for key, value in values.items():
                self._keep(key, value)
            self._make_room()

    def _row(self, p: Publication) -> tuple[Any, ...]:
        body = json.loads(p.payload)
        event = body.get("event", "")
        if p.stamp is None or math.isnan(p.stamp.mono_s):  # of another run, or of none: its clock is not ours
            wall_s = datetime.fromisoformat(body["t"]).timestamp()
            return *p.key, event, wall_s, None, 0.0, p.payload, p.retain
        return *p.key, event, p.stamp.wall_s, self._run, p.stamp.wall_s - p.stamp.mono_s, p.payload, p.retain

    def _make_room(self) -> None:
        while self._used() > self._most_bytes:
            if not self._said_full:
                log.warning("%s is full: what matters least is left out", self.path)
                self._said_full = True
            least = self._db.execute(_LEAST, (_FOLDED,)).fetchall()
            if not least:
                return
            self._db.executemany("DELETE FROM message WHERE n = ?", least)

    def _used(self) -> int:
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def waiting(self, after: int, most: int) -> list[Stored]:
        """Return what the broker has not confirmed, in order, after a place in it. Raises StoreError."""
        return self._read("WHERE waiting AND n > ? ORDER BY n LIMIT ?", after, most)

    def waits(self, key: Key) -> bool:
        """Return whether this is kept, and the broker has not confirmed it. Raises StoreError."""
        return bool(self._read("WHERE waiting AND topic = ? AND id = ? AND seq = ?", *key))

    def newest(self, topic: str, message_id: str | None = None) -> Stored | None:
        """Return what was said last on a topic, of one thing or of any."""
        of = "" if message_id is None else "AND id = ?"
        found = self._read(
            f"WHERE topic = ? {of} ORDER BY n DESC LIMIT 1", topic, *([] if message_id is None else [message_id])
        )
        return found[0] if found else None

    def version(self) -> int:
        """Return a number that changes when another program has written here. Raises StoreError."""
        with self._trying():
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def latest(self, topic: str) -> list[dict[str, Any]]:
        """Return the last word on each thing of a topic, as published, in the order of the first. Raises StoreError."""
        found: dict[str, tuple[int, dict[str, Any]]] = {}
        for stored in self._read("WHERE topic = ? ORDER BY n", topic):
            p = stored.publication
            if p.id not in found or p.seq >= found[p.id][0]:
                found[p.id] = p.seq, json.loads(p.payload)
        return [body for _, body in found.values()]

    def topics(self) -> list[str]:
        """Return the topics of which anything is kept. Raises StoreError."""
        with self._trying():
            rows = self._db.execute("SELECT DISTINCT topic FROM message ORDER BY topic").fetchall()
        return [topic for (topic,) in rows]

    def payloads(self, topic: str) -> Iterator[str]:
        """Yield all that is kept of a topic, oldest first. Raises StoreError."""
        yield from (stored.publication.payload for stored in self._read("WHERE topic = ? ORDER BY n", topic))

    def values(self) -> dict[str, Any]:
        """Return the values that are kept, by key. Raises StoreError."""
        with self._trying():
            rows = self._db.execute("SELECT key, value FROM kept ORDER BY key").fetchall()
        return {key: json.loads(value) for key, value in rows}

    def open_episodes(self) -> list[Stored]:
        """Return the last word on each episode that has no end."""
        return self._read(
            "WHERE n IN (SELECT max(n) FROM message WHERE topic = 'episode' GROUP BY id"
            " HAVING sum(event = 'ended') = 0) ORDER BY n"
        )

    def confirm(self, keys: Iterable[Key]) -> None:
        """Note what the broker has confirmed. A power cut may undo it: then it is sent again."""
        with self._writing(surely=False):
            self._db.executemany("UPDATE message SET waiting = 0 WHERE topic = ? AND id = ? AND seq = ?", list(keys))

    def resend(self, since_s: float) -> int:
        """Let everything told since then wait for delivery again; return how much that is."""
        with self._writing():
            return self._db.execute("UPDATE message SET waiting = 1 WHERE wall_s >= ?", (since_s,)).rowcount

    def correct(self, ahead_s: float, *, known: bool) -> None:
        """Put the wall times of this run right, where the clock was not known to be: it was set meanwhile."""
        with self._writing():
            unknown = '%"clock":"unknown"%'
            rows = self._db.execute(
                "SELECT n, wall_s, ahead_s, payload FROM message WHERE run = ? AND payload LIKE ?", (self._run, unknown)
            ).fetchall()
            self._db.executemany(
                "UPDATE message SET wall_s = ?, ahead_s = ?, payload = ? WHERE n = ?",
                [
                    (wall_s + ahead_s - was_s, ahead_s, shifted(payload, ahead_s - was_s, known=known), n)
                    for n, wall_s, was_s, payload in rows
                ],
            )

    def keep(self, key: str, value: Any) -> None:
        """Keep a value that JSON can hold; None forgets it."""
        with self._writing():
            self._keep(key, value)

    def _keep(self, key: str, value: Any) -> None:
        if value is None:
            self._db.execute("DELETE FROM kept WHERE key = ?", (key,))
        else:
            self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (key, json.dumps(value)))

    def forget(self, since: str, before: str) -> None:
        """Forget the values whose keys lie in this range."""
        with self._writing(surely=False):
            self._db.execute("DELETE FROM kept WHERE key >= ? AND key < ?", (since, before))

    def kept(self, key: str) -> Any:
        """Return a value that was kept, else None."""
        with self._trying():
            row = self._db.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def _read(self, where: str, *values: Any) -> list[Stored]:
        with self._trying():
            rows = self._db.execute(f"SELECT n, topic, id, seq, payload, retain FROM message {where}", values)
            return [
                Stored(n, Publication(topic, payload, retain=bool(retain), id=name, seq=seq))
                for n, topic, name, seq, payload, retain in rows.fetchall()
            ]

    @contextlib.contextmanager
    def _writing(self, *, surely: bool = True) -> Iterator[None]:
        """One transaction; `surely` waits until it is on the disk."""
        with self._trying():
            self._db.execute(f"PRAGMA synchronous = {'FULL' if surely else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite itself has ended it where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _trying(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from None


def uuid7(wall_s: float) -> str:
    """Return a UUID of version 7 (RFC 9562): milliseconds since 1970, then random bits, so that ids sort by time."""
    value = round(wall_s * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
