"""What must arrive: kept until the broker confirms it, on the disk where that can be, else in memory."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from services.contract import Key, Publication
from services.store import Store, StoreError

log = logging.getLogger(__name__)

_MOST_HELD = 10_000
_AGAIN_S = 5.0


class Outbox:
    """Publications in the order in which they were told, each until it is confirmed.

    They are in the store; without one, or while it cannot be written, up to 10,000 are held in memory, and written
    as soon as they can be.
    """

    def __init__(self, store: Store | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._held: dict[Key, Publication] = {}
        self._values: dict[str, Any] = {}
        self._handed: set[Key] = set()  # of these, on this connection
        self._arrived: set[Key] = set()  # of these; they are held only to be written
        self._at = 0  # how far the store has been handed over on this connection
        self._again_s = 0.0
        self._failing = False
        self._said_lost = False

    @property
    def retry_s(self) -> float | None:
        """When `put` is to be called again although there is nothing new; None where all is written."""
        return self._again_s if (self._held or self._values) and self._store is not None else None

    def put(self, publications: Iterable[Publication], values: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Keep these, and what could not be written before; returns when they are on the disk, if they can be.

        Values are for the next start, and on the disk together with the publications, or not at all.
        """
        new = {p.key: p for p in publications}
        self._held |= new
        if self._store is not None:
            self._values |= values
            if new or values or (self.retry_s is not None and self._clock() >= self._again_s):
                self._write(self._store)
        while len(self._held) > _MOST_HELD:
            oldest = next(iter(self._held))
            del self._held[oldest]
            self._arrived.discard(oldest)
            if not self._said_lost:
                log.error("more than %d messages wait in memory: the oldest are lost", _MOST_HELD)
            self._said_lost = True

    def _write(self, store: Store) -> None:
        try:
            store.put(list(self._held.values()), self._values)
            self._held.clear()
            self._values.clear()
            self._handed.clear()
            store.confirm(self._arrived)
            self._arrived.clear()
            if self._failing:
                log.info("%s can be written again", store.path)
            self._failing = False
        except StoreError as error:
            self._again_s = self._clock() + _AGAIN_S
            if not self._failing:
                log.error("%s; what happens is held in memory until it can be written", error)
            self._failing = True

    def rewind(self) -> None:
        """Begin again with the oldest: this is another connection, or what has been confirmed is to be sent again."""
        self._at = 0
        self._handed.clear()

    def next(self, most: int) -> list[Publication]:
        """Return what comes next, to be published now."""
        out: list[Publication] = []
        if self._store is not None:
            try:
                stored = self._store.waiting(self._at, most)
            except StoreError:
                stored = []  # writing says so
            if stored:
                self._at = stored[-1].n
                out = [row.publication for row in stored]
        for key, publication in self._held.items():
            if len(out) >= most:
                break
            if key not in self._handed and key not in self._arrived:
                self._handed.add(key)
                out.append(publication)
        return out

    def newest(self, topic: str, name: str | None) -> Publication | None:
        """Return what was said last on a topic, of one thing or of any, written or not. Raises StoreError."""
        held = [p for p in self._held.values() if p.topic == topic and name in {None, p.id}]
        if held or self._store is None:
            return held[-1] if held else None
        stored = self._store.newest(topic, name)
        return stored.publication if stored else None

    def waits(self, publication: Publication) -> bool:
        """Whether it has yet to come, in its turn."""
        try:
            if (key := publication.key) in self._held:
                return key not in self._arrived
            return self._store is not None and self._store.waits(key)
        except StoreError:
            return False

    def confirm(self, keys: list[Key]) -> None:
        """Note that these have arrived."""
        for key in keys:
            self._handed.discard(key)
            if self._store is None:
                self._held.pop(key, None)
            elif key in self._held:
                self._arrived.add(key)
        if keys and self._store is not None:
            try:
                self._store.confirm(keys)
            except StoreError as error:  # they will be sent again, which does no harm
                log.debug("%s", error)
