"""Everything that leaves for MQTT goes through here: kept first where it must not be lost, then published."""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.contract import LIVE_EXPIRY_S, Contract, Key, Publication, interrupted, labelled
from services.diary import DiaryError, check_in, due_now, entries, write
from services.homeassistant import BIRTH
from services.messages import AskStore, DaySummary, Message, Reply, Request
from services.mqtt import Confirmed, Down, Link, News, Received, Up
from services.outbox import Outbox
from services.requests import read_request
from services.store import Store, StoreError, uuid7

log = logging.getLogger(__name__)

_WINDOW = 20  # publications that the broker has not confirmed; Mosquitto takes no more at a time
_MOST_ASKED = 100
_ASK_S = 1.0  # so long after the last confirmation, what is live asks for one
_SLOW_S = 2.0  # a broker that takes longer to confirm is stuck, and gets nothing that is worth nothing later
_GOODBYE_S = 1.0
_TEND_EVERY_S = 1.0
_RECORDS = ("diary", "checkin", "calibration")
_SETTLE_S = 5.0  # not every device speaks at once when Home Assistant has started


@dataclass(slots=True)
class _Inbox:
    """What others have handed over."""

    durable: list[Publication] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    due: dict[str, Publication] = field(default_factory=dict)  # the newest of each topic
    answers: list[Publication] = field(default_factory=list)
    asked: list[AskStore] = field(default_factory=list)
    news: list[News] = field(default_factory=list)
    chores: list[Callable[[], None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any((self.durable, self.values, self.due, self.answers, self.asked, self.news, self.chores))


class Delivery:
    """A sink that keeps and publishes in a thread of its own; the loop hands over, and never waits.

    What is durable goes through the outbox. What is retained is published again on every connection. What is live
    goes out at once or never. `ask` gets the requests that are right, and says whether it takes them; `announce`
    makes of what `info` says what Home Assistant is told.
    """

    def __init__(
        self,
        contract: Contract,
        store: Store | None,
        *,
        ask: Callable[[Request], bool] = lambda request: False,
        announce: Callable[[str], Publication] | None = None,
    ) -> None:
        self._contract, self._store, self._ask, self._announce = contract, store, ask, announce
        self.tend: Callable[[int], None] = lambda changes: None
        self._changes = 0  # of the wearer's records, by us
        self._tend_s = 0.0
        self._outbox = Outbox(store)
        self._changed = threading.Condition()
        self._inbox = _Inbox()
        self._closing = False
        self._told: dict[str, Message] = {}  # what is retained and not kept tells; for whoever calls `accept`
        self._retained: dict[str, Publication] = {}
        self._under_way: dict[int, tuple[float, str, Key | None]] = {}  # by number: since when, topic, what
        self._link: Link | None = None
        self._up = False
        self._confirmed_s = 0.0
        self._announced = ""
        self._announce_s: float | None = None
        self._said_refused: set[str] = set()
        self.connected = threading.Event()
        self._recover()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._thread.start()

    def _recover(self) -> None:
        """End the episodes that an interrupted run of the program has left open."""
        if self._store is None:
            return
        try:
            self._outbox.put(interrupted(episode.publication.payload) for episode in self._store.open_episodes())
        except (StoreError, ValueError, KeyError) as error:
            log.error("episodes of the last run could not be ended: %s", error)

    def connect(self, make: Callable[[Callable[[News], None]], Link]) -> None:
        """Publish through this connection, which gets told where its news go."""
        with self._changed:
            self._link = make(self.hear)

    # For the loop and the connection: they return at once

    def accept(self, message: Message) -> None:
        """Take a message."""
        publications = list(self._contract.publications(message))
        if not publications:
            return
        with self._changed:
            inbox = self._inbox
            for publication in publications:
                if publication.durable:
                    inbox.durable.append(publication)
                    continue
                inbox.due[publication.topic] = publication
                if publication.retain:
                    self._told[publication.topic] = message
            if isinstance(message, DaySummary):  # kept together, so that no `seq` is used twice
                inbox.values[f"{message.period}/{message.date}"] = message.tally
            self._changed.notify()

    def answer(self, answer: Reply | AskStore) -> None:
        """Take the answer to a request, or the request where the answer is in the store."""
        with self._changed:
            if isinstance(answer, AskStore):
                self._inbox.asked.append(answer)
            else:
                self._inbox.answers.append(self._contract.reply(answer))
            self._changed.notify()

    def hear(self, news: News) -> None:
        """Take news of the connection."""
        with self._changed:
            if isinstance(news, Received) and sum(isinstance(n, Received) for n in self._inbox.news) >= _MOST_ASKED:
                return  # a flood
            self._inbox.news.append(news)
            self._changed.notify()

    def keep(self, key: str, value: Any) -> None:
        """Keep a value for the next start."""
        with self._changed:
            self._inbox.values[key] = value
            self._changed.notify()

    def restate(self, ahead_s: float, *, known: bool) -> None:
        """Say again what is retained, and put right what was kept: the clock was set, so far ahead of its start."""
        for message in list(self._told.values()):
            self.accept(message)
        store = self._store
        if store is not None:
            with self._changed:
                self._inbox.chores.append(lambda: store.correct(ahead_s, known=known))
                self._changed.notify()

    def close(self) -> None:
        """Keep what came last, publish what can be published in a second, and say goodbye."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(3 * _GOODBYE_S)
        if self._link is not None:
            self._link.close()
        if self._store is not None and not self._thread.is_alive():
            self._store.close()

    # The thread

    def _run(self) -> None:
        while not self._closing:
            self._round(None)
        until = time.monotonic() + _GOODBYE_S
        self._round(0.0)
        while self._up and self._under_way and time.monotonic() < until:
            self._round(until - time.monotonic())

    def _round(self, patience_s: float | None) -> None:
        with self._changed:
            wait_s = self._until_chore_s() if patience_s is None else patience_s
            self._changed.wait_for(lambda: self._inbox or (self._closing and patience_s is None), wait_s)
            inbox, self._inbox = self._inbox, _Inbox()
        self._hear(inbox.news)  # first: whatever else fails, what is known of the connection stays true
        with _going_on():
            self._take(inbox)
        if time.monotonic() >= self._tend_s:
            self._tend_s = time.monotonic() + _TEND_EVERY_S
            with _going_on():
                self.tend(self._changes)

    def _until_chore_s(self) -> float:
        due = [s for s in (self._outbox.retry_s, self._announce_s, self._tend_s) if s is not None]
        return max(0.0, min(due) - time.monotonic())

    def _take(self, inbox: _Inbox) -> None:
        self._outbox.put(inbox.durable, inbox.values)
        for chore in inbox.chores:
            try:
                chore()
            except StoreError as error:
                log.error("%s", error)
        for question in inbox.asked:
            with _going_on():
                self.answer(self._look_up(question))
        if inbox.asked or inbox.values or any(p.topic in _RECORDS for p in inbox.durable):
            self._changes += 1
            self._tend_s = 0.0
        for publication in [*inbox.due.values(), *inbox.durable]:
            if publication.retain:
                self._retained[publication.topic] = publication
        slow = self._is_slow()  # asked once: what is published here is not on its way before the next one is
        for publication in [*inbox.due.values(), *inbox.answers]:
            if not (slow and publication.live):
                self._publish(publication)
        if "info" in inbox.due:
            self._publish_announcement(again=False)
        if self._up:
            for publication in self._outbox.next(max(0, _WINDOW - len(self._under_way))):
                self._publish(publication)
        if self._announce_s is not None and time.monotonic() >= self._announce_s:
            self._announce_s = None
            self._publish_announcement()

    def _hear(self, news: list[News]) -> None:
        confirmed: list[Key] = []
        for item in news:
            with _going_on():
                match item:
                    case Up():
                        self._begin_connection()
                    case Down():
                        self._up = False
                        self._under_way.clear()
                        self.connected.clear()
                    case Confirmed():
                        confirmed += self._confirmed(item)
                    case Received():
                        self._received(item)
        self._outbox.confirm(confirmed)

    def _begin_connection(self) -> None:
        self._up = True
        self._confirmed_s = time.monotonic()
        self._under_way.clear()
        self._outbox.rewind()
        self._publish(Publication("status", "online", retain=True))
        self._publish_announcement()
        for publication in self._retained.values():
            if not self._outbox.waits(publication):  # else it comes in its turn: what is older must not come after it
                self._publish(publication)
        self.connected.set()

    def _publish_announcement(self, *, again: bool = True) -> None:
        """Tell Home Assistant what there is; before anything is known of the board that is nothing."""
        info = self._retained.get("info")
        if self._announce is None or info is None:
            return
        announcement = self._announce(info.payload)
        if again or announcement.payload != self._announced:
            self._announced = announcement.payload
            self._publish(announcement)

    def _confirmed(self, news: Confirmed) -> list[Key]:
        if news.number not in self._under_way:  # what asks for no confirmation is told as soon as it is on its way
            return []
        self._confirmed_s = time.monotonic()
        _, topic, key = self._under_way.pop(news.number)
        if news.refusal is not None and topic not in self._said_refused:
            self._said_refused.add(topic)
            log.warning("the broker refuses what is published to %s: %s", topic, news.refusal)
        return [key] if key is not None and news.refusal is None else []

    def _received(self, news: Received) -> None:
        root = self._contract.root
        if news.topic == BIRTH:
            if news.payload == b"online":
                self._announce_s = time.monotonic() + random.uniform(0, _SETTLE_S)
            return
        if news.retained and not news.payload:  # a retained command is taken away
            return
        request, wrong = read_request(
            news.topic.removeprefix(f"{root}/cmd/"),
            news.payload,
            root,
            retained=news.retained,
            reply_topic=news.reply_topic,
            correlation=news.correlation,
        )
        if wrong is None and not self._ask(request):
            wrong = "too many requests at once"
        if wrong is not None:
            self.answer(Reply(request, wrong))

    def _look_up(self, question: AskStore) -> Reply:
        """Do what is asked of the store."""
        request, store = question.request, self._store
        if store is None:
            return Reply(request, "nothing is kept in this run")
        try:
            if request.verb == "resend":
                count = store.resend(datetime.fromisoformat(request.body["since"]).timestamp())
                self._outbox.rewind()
                return Reply(request, None, {"count": count})
            if request.verb in ("diary", "checkin"):
                return self._write(store, request)
            found = self._outbox.newest("episode", request.body.get("episode_id"))
            if found is None:
                return Reply(request, "there is no such episode")
            self._outbox.put([labelled(found.payload, request.body["label"])])
            return Reply(request, None, {"episode_id": found.id})
        except (StoreError, DiaryError) as error:
            return Reply(request, str(error))

    def _write(self, store: Store, request: Request) -> Reply:
        """Write into the diary, or down what a check-in was answered."""
        now = datetime.now().astimezone()
        new_id = uuid7(now.timestamp())
        if request.verb == "diary":
            publications, said = write(self._contract, new_id, request.body, entries(store), now)
        else:
            publications, said = check_in(self._contract, new_id, request.body, due_now(store, now))
        self._outbox.put(publications)
        return Reply(request, None, said)

    def _publish(self, publication: Publication) -> None:
        link = self._link
        if link is None or not self._up:
            return
        if len(self._under_way) >= _MOST_ASKED and not (publication.retain or publication.durable):
            return  # answers that nobody confirms
        topic = publication.topic if publication.absolute else f"{self._contract.root}/{publication.topic}"
        qos = publication.qos
        quiet_s = time.monotonic() - self._confirmed_s
        if publication.live and link.expires and not self._under_way and quiet_s > _ASK_S:
            qos = 1  # or nothing would tell that the broker stands still
        number = link.publish(
            topic,
            publication.payload,
            qos=qos,
            retain=publication.retain,
            expiry_s=LIVE_EXPIRY_S if publication.live else None,
            correlation=publication.correlation,
        )
        if qos:
            key = publication.key if publication.durable else None
            where = topic if publication.retain or not publication.absolute else "where a request wants its answer"
            self._under_way[number] = time.monotonic(), where, key

    def _is_slow(self) -> bool:
        """Whether what is published now would arrive late."""
        stuck = self._link is not None and self._link.is_stuck
        oldest_s = next(iter(self._under_way.values()))[0] if self._under_way else time.monotonic()
        return stuck or time.monotonic() - oldest_s > _SLOW_S


@contextlib.contextmanager
def _going_on() -> Iterator[None]:
    """One thing that cannot be delivered must not end all the others."""
    try:
        yield
    except Exception:
        log.exception("something could not be delivered")
