"""What is promised arrives, whatever breaks: broker, network, disk, and the service itself. For longer: `make chaos`.

What is chosen follows from a seed. Checked each time:

- all that was promised arrives, of a retained topic the newest, and nothing else does; no episode is without its end;
- what arrives twice is the same to the letter; first arrivals of a topic come in the order in which they were told;
- handing over never waits, at most 20 publications are under way, and no thread has died;
- the log has one line when the broker goes and one when it is back.
"""

import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from dsp.exposure import ExposureSettings
from firmware_bridge.simulator import PtyBoard
from services.broker import Broker, answers, free_port, mosquitto
from services.contract import Publication
from services.day import Day
from services.delivery import Delivery
from services.messages import AskStore, Cue, Message, Request
from services.mqtt import Link, News
from services.serving import link_of
from services.settings import MqttSettings
from services.store import Store
from tests.services.conftest import LOOPBACK, eventually, listening
from tests.services.test_mqtt import ENDED, EXERCISE, STARTED, STATE, TENSION, contract_of
from tests.services.test_service import config, program, stream

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "5"))
SEED = os.environ.get("CHAOS_SEED", "1")
ROOT = "unshrug/w"
DATE = "2026-01-01"
DURABLE = ("episode", "cue", "exercise", "summary/day")
PATIENCE_S = 30.0

Key = tuple[str, str, int]


def life(random: Random, run: str, tally: dict[str, Any] | None = None) -> Iterator[Message]:
    """Yield what a pipeline says, whose earlier runs knew this much of the day."""
    day, at_s = Day(DATE, ExposureSettings(), tally), 0.0
    for k in itertools.count():
        for message in one_episode(random, f"{run}-{k:05}", at_s):
            yield message
            yield from day.see(message)
        at_s += 60
        yield replace(STATE, at_s=at_s, wear_time_s=at_s)


def one_episode(random: Random, name: str, at_s: float, updates: int | None = None) -> Iterator[Message]:
    started = replace(STARTED, id=name, at_s=at_s, start_s=at_s)
    yield started
    seq = 0
    for seq in range(1, 1 + (random.randrange(6) if updates is None else updates)):
        yield replace(TENSION, at_s=at_s + seq)
        yield replace(started, event="updated", seq=seq, at_s=at_s + seq, peak_uv=random.uniform(50, 200))
    if random.random() < 0.4:
        yield Cue(at_s + 7, "given", 0, at_s, "cue", None, name, f"{name}-cue")
    if random.random() < 0.2:
        yield replace(EXERCISE, id=f"{name}-exercise", at_s=at_s + 8, details={"reason": "half \ud83d"})
    yield replace(ENDED, id=name, seq=seq + 1, at_s=at_s + 50, start_s=at_s, end_s=at_s + 40)


class Mosquitto:
    """A broker that remembers over its end; it can be killed, started again and stopped for a while."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} {LOOPBACK}\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\n"
            f"persistence true\npersistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1\n"
            f"log_type error\n{'user root' if os.geteuid() == 0 else ''}\n"
        )
        self._memory = folder / "mosquitto.db"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = mosquitto()
        assert program is not None
        with self._config.with_suffix(".log").open("ab") as said:
            self.process = subprocess.Popen([program, "-c", str(self._config)], stdout=said, stderr=said)
        eventually(lambda: answers(LOOPBACK, self.port))

    def remembers(self, client_id: str) -> bool:
        """Whether a client's session is on the disk."""
        return self._memory.exists() and client_id.encode() in self._memory.read_bytes()

    def tell(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Cable:
    """One connection through the proxy."""

    def __init__(self, service: socket.socket, broker: socket.socket) -> None:
        self.ends = {"service": service, "broker": broker}
        self.half_open = False  # the broker does not hear that the service's end is cut

    def cut(self, *, reset: bool = False) -> None:
        for name, end in self.ends.items():
            if name == "broker" and self.half_open:
                continue
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in self.ends.values():
            end.close()


class Proxy:
    """The network between service and broker: it can be cut, stand still in either direction, and break off midway."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._server = socket.create_server((LOOPBACK, 0))
        self.port = int(self._server.getsockname()[1])
        self.flows = {"service": threading.Event(), "broker": threading.Event()}  # by where it comes from
        self._tear: str | None = None
        self._cables: list[Cable] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.heal()
        self._threads[0].start()

    def heal(self) -> None:
        for flow in self.flows.values():
            flow.set()

    def cut(self, *, reset: bool) -> None:
        for cable in list(self._cables):
            cable.cut(reset=reset)

    def cut_half(self) -> None:
        """End the service's side; the broker goes on believing that it is there."""
        for cable in list(self._cables):
            cable.half_open = True
            cable.cut()

    def tear(self, source: str) -> None:
        """Let half of what comes next from there through, and then nothing: it ends in the middle of a packet."""
        self._tear = source

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._server.close()
        self.heal()
        for cable in self._cables:
            cable.half_open = False
            cable.cut()
        for thread in self._threads:
            thread.join(5)
        for cable in self._cables:
            cable.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                service, _ = self._server.accept()
                try:
                    broker = socket.create_connection((LOOPBACK, self._to_port), timeout=5)
                except OSError:
                    service.close()
                    continue
                broker.settimeout(None)
                for end in (service, broker):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                cable = Cable(service, broker)
                self._cables.append(cable)
                for source, sink in (("service", "broker"), ("broker", "service")):
                    pump = threading.Thread(target=self._pump, args=(cable, source, sink))
                    self._threads.append(pump)
                    pump.start()

    def _pump(self, cable: Cable, source: str, sink: str) -> None:
        with contextlib.suppress(OSError):
            while data := cable.ends[source].recv(4096):
                self.flows[source].wait()
                if self._tear == source:
                    self._tear = None
                    cable.ends[sink].sendall(data[: len(data) // 2])
                    break
                cable.ends[sink].sendall(data)
        cable.cut()


class Consumer:
    """A client whose session the broker keeps, so that it misses nothing; it keeps everything."""

    def __init__(self, port: int, name: str = "consumer-of-all") -> None:
        self.heard: list[tuple[float, str, str]] = []  # when, topic below the root, payload
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{ROOT}/#", 1)
        self._client.on_message = self._hear
        self._client.reconnect_delay_set(1, 1)
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 86400
        self._client.connect(LOOPBACK, port, clean_start=False, properties=session)
        self._client.loop_start()

    def _hear(self, _: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
        self.heard.append((time.monotonic(), message.topic.removeprefix(f"{ROOT}/"), message.payload.decode()))

    def durable(self) -> list[tuple[Key, str]]:
        """Return what must not be lost, in the order in which it came."""
        out = []
        for _, topic, payload in list(self.heard):
            if topic in DURABLE:
                body = json.loads(payload)
                out.append(((topic, body["id"], body["seq"]), payload))
        return out

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Rig:
    """A service's delivery, the network, a broker and a consumer; and what was told."""

    def __init__(self, folder: Path, seed: str, *, store_folder: Path | None = None, most_mib: int = 64) -> None:
        self.random = Random(f"{SEED}/{seed}")
        self.broker = Mosquitto(folder)
        self.proxy = Proxy(self.broker.port)
        self.broker.start()
        self.consumer = Consumer(self.broker.port)
        eventually(lambda: self.broker.remembers("consumer-of-all"))
        self.store = Store((store_folder or folder) / "w.sqlite3", most_mib=most_mib, run="run")
        self.delivery = Delivery(contract_of("w"), self.store)
        self.told: list[Publication] = []
        self.accept_s: list[float] = []
        self._life = life(self.random, "run")
        self._contract = contract_of("w")
        self._most_under_way = 0
        self.delivery.connect(self._link)

    def _link(self, hear: Callable[[News], None]) -> Link:
        self.link = link_of("w", Broker(LOOPBACK, self.proxy.port), MqttSettings(), hear)
        return self.link

    def tell(self, messages: Iterable[Message]) -> None:
        for message in messages:
            began_s = time.perf_counter()
            self.delivery.accept(message)
            self.accept_s.append(time.perf_counter() - began_s)
            self.told += [p for p in self._contract.publications(message) if p.durable]
            under_way = [key for _, _, key in list(self.delivery._under_way.values()) if key is not None]
            self._most_under_way = max(self._most_under_way, len(under_way))

    def live(self, count: int) -> None:
        """Go on with the wearer's life."""
        for message in itertools.islice(self._life, count):
            self.tell([message])
            time.sleep(self.random.uniform(0, 0.004))

    def finish_episode(self) -> None:
        """Go on to the end of what is open, so that all that was told has arrived when its last part has."""
        ended = False
        while not ended:
            self.live(1)
            last = next(p for p in reversed(self.told) if p.topic == "episode")
            ended = json.loads(last.payload)["event"] == "ended"

    def missing(self, *, but: Sequence[str] = ()) -> set[Key]:
        """Return what has not arrived, but for superseded days and such events."""
        newest = {p.topic: p.key for p in self.told if p.retain}
        wanted = {
            p.key
            for p in self.told
            if (not p.retain or newest[p.topic] == p.key) and json.loads(p.payload).get("event") not in but
        }
        return wanted - {key for key, _ in self.consumer.durable()}

    def check(self, asked_for: Collection[Key] = ()) -> None:
        """Hold what has arrived to what was told; what had to be asked for again has lost its place in the order."""
        self._check_end()
        got = first_arrivals(self.consumer.durable())
        told = {p.key: p.payload for p in self.told}
        assert {key: told.get(key) for key in got} == got, "what was not told, or not so"
        assert in_order([key for key in got if key not in asked_for], list(told))
        assert self._most_under_way <= 20
        assert self.delivery._thread.is_alive()
        assert self.link._thread.is_alive()
        assert sorted(self.accept_s)[int(len(self.accept_s) * 0.99)] < 0.01

    def _check_end(self) -> None:
        """Whoever comes late sees the newest, and the last day."""
        eventually(self.delivery.connected.is_set, PATIENCE_S)
        self.tell([replace(STATE, at_s=10**6)])
        eventually(
            lambda: any(topic == "state" and '"mono_s":1000000.5' in text for _, topic, text in self.consumer.heard)
        )
        day = next((p.payload for p in reversed(self.told) if p.topic == "summary/day"), None)
        eventually(lambda: not self.store.waiting(0, 1) and not self.delivery._under_way, PATIENCE_S)
        with listening(self.broker.port, ROOT) as late:
            eventually(
                lambda: {"state", "status"} | ({"summary/day"} if day else set()) <= {h.topic for h in late.drain()}
            )
            newest = {h.topic: h.payload for h in late.drain()}
        assert json.loads(newest["state"])["mono_s"] == 10**6 + 0.5
        assert newest["status"] == "online"
        assert newest.get("summary/day") == day

    def close(self) -> None:
        self.broker.tell(signal.SIGCONT)
        self.delivery.close()
        self.consumer.close()
        self.proxy.close()
        self.broker.kill()


def first_arrivals(arrived: list[tuple[Key, str]]) -> dict[Key, str]:
    """Return what came, each once, in its order; what came again must have been the same."""
    got: dict[Key, str] = {}
    for key, payload in arrived:
        assert got.setdefault(key, payload) == payload, "the same name for two messages"
    return got


def in_order(got: Iterable[Key], told: list[Key]) -> bool:
    """Whether each topic came in its order."""
    place = {key: n for n, key in enumerate(told)}
    places: dict[str, list[int]] = {}
    for key in got:
        places.setdefault(key[0], []).append(place[key])
    return all(each == sorted(each) for each in places.values())


@contextlib.contextmanager
def rigged(folder: Path, seed: str, **options: Any) -> Iterator[Rig]:
    rig = Rig(folder, seed, **options)
    try:
        yield rig
    finally:
        rig.close()


@pytest.fixture(autouse=True)
def _said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "services")


def one_line_each(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the broker's going and coming was said once each time, and nothing went wrong beside."""
    said = [r.getMessage() for r in caplog.records if r.name == "services.mqtt"]
    up = ["connected to the broker" in text for text in said]
    wrong = [r for r in caplog.records if r.exc_info or r.levelno >= logging.ERROR]
    return not wrong and all(a != b for a, b in itertools.pairwise(up))


def test_a_broker_that_is_killed_over_and_over_gets_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with rigged(tmp_path, "broker") as rig:
        for _ in range(ROUNDS):
            if rig.random.random() < 0.8:
                eventually(rig.delivery.connected.is_set, PATIENCE_S)
            rig.live(rig.random.randrange(200))
            rig.broker.kill()
            rig.live(rig.random.randrange(100))
            rig.broker.start()
        rig.finish_episode()
        eventually(rig.delivery.connected.is_set, PATIENCE_S)
        eventually(lambda: not rig.store.waiting(0, 1), PATIENCE_S)
        with contextlib.suppress(AssertionError):
            eventually(lambda: not rig.missing(), 3)
        before = first_arrivals(rig.consumer.durable())
        assert in_order(before, [p.key for p in rig.told])
        if lost := rig.missing():  # a broker may lose what it had confirmed a moment before: for this there is `resend`
            assert len(lost) <= 20 * ROUNDS
            print(f"the broker lost {len(lost)} of {len(rig.told)} that it had confirmed; they are asked for again")
            rig.delivery.answer(AskStore(Request("resend", {"since": "2000-01-01T00:00:00Z"})))
            eventually(lambda: not rig.missing(), PATIENCE_S)
        rig.check(asked_for=lost)
        assert one_line_each(caplog)


FAULTS = ("cut", "reset", "half", "torn request", "torn answer", "deaf", "mute", "still")


def break_network(rig: Rig, fault: str) -> None:
    """Let one thing go wrong between service and broker, while messages are told; then it is over."""
    proxy = rig.proxy
    match fault:
        case "cut" | "reset":
            proxy.cut(reset=fault == "reset")
        case "half":
            proxy.cut_half()
        case "torn request" | "torn answer":
            proxy.tear("service" if fault == "torn request" else "broker")
        case "deaf" | "mute" | "still":
            for source in {"deaf": ("broker",), "mute": ("service",), "still": ("broker", "service")}[fault]:
                proxy.flows[source].clear()
            rig.live(rig.random.randrange(300))
            if rig.random.random() < 0.5:
                proxy.cut(reset=True)
            proxy.heal()
    rig.live(rig.random.randrange(100))


def test_a_network_that_breaks_in_every_way_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with rigged(tmp_path, "network") as rig:
        faults = [*FAULTS, *rig.random.choices(FAULTS, k=2 * ROUNDS)]
        rig.random.shuffle(faults)
        for fault in faults[: 2 * ROUNDS]:
            if rig.random.random() < 0.8:
                eventually(rig.delivery.connected.is_set, PATIENCE_S)
            rig.live(rig.random.randrange(100))
            break_network(rig, fault)
        rig.finish_episode()
        eventually(lambda: not rig.missing(), PATIENCE_S)
        rig.check()
        assert one_line_each(caplog)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            eventually(rig.delivery.connected.is_set, PATIENCE_S)
            rig.proxy.cut(reset=True)
            eventually(lambda: not rig.delivery.connected.is_set())
        eventually(rig.delivery.connected.is_set, PATIENCE_S)
        ours = 2 * 3  # the proxy keeps its ends until it is closed
        assert len(os.listdir("/proc/self/fd")) <= before + ours


def a_day_offline(random: Random) -> Iterator[Message]:
    """Yield eight hours of work, over midnight: an episode of five minutes in every ten, with an update every 10 s."""
    day, next_day = Day(DATE, ExposureSettings()), "2026-01-02"
    for k in range(48):
        if k == 20:
            yield from day.close(600.0 * k)
            day.begin(next_day, None)
        for message in one_episode(random, f"offline-{k:05}", 600.0 * k, updates=60):
            yield message
            yield from day.see(message)


def test_a_day_without_a_broker_is_bounded_and_comes_in_order(tmp_path: Path) -> None:
    with rigged(tmp_path, "day", most_mib=1) as rig:
        eventually(rig.delivery.connected.is_set, PATIENCE_S)
        rig.broker.kill()
        eventually(lambda: not rig.delivery.connected.is_set())
        day = a_day_offline(rig.random)
        while some := list(itertools.islice(day, 100)):
            rig.tell(some)
            eventually(lambda: rig.store.waits(rig.told[-1].key), PATIENCE_S)
        files = {path.name: path.stat().st_size for path in tmp_path.glob("w.sqlite3*")}
        assert files["w.sqlite3"] < 1.5 * 2**20
        assert sum(files.values()) < 8 * 2**20, "with what SQLite has yet to write back"
        waiting = len(rig.store.waiting(0, 10**6))
        assert waiting < len(rig.told), "it was more than there is room for"
        rig.broker.start()
        eventually(rig.delivery.connected.is_set, PATIENCE_S)
        began_s = time.monotonic()
        eventually(lambda: not rig.missing(but=["updated"]), PATIENCE_S)
        print(f"{len(rig.told)} told, {waiting} kept in {files}, delivered in {time.monotonic() - began_s:.2f} s")
        rig.check()


def test_a_broker_that_stands_still_delays_nobody_and_gets_nothing_stale(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with rigged(tmp_path, "frozen") as rig:
        eventually(rig.delivery.connected.is_set, PATIENCE_S)
        born_s = time.monotonic()

        def show_levels(seconds: float) -> None:
            until_s = time.monotonic() + seconds
            while (now_s := time.monotonic()) < until_s:
                rig.tell([replace(TENSION, at_s=now_s - born_s)])
                time.sleep(0.05)

        show_levels(2)
        frozen_s = time.monotonic() - born_s
        rig.broker.tell(signal.SIGSTOP)
        show_levels(7)
        rig.live(300)
        thawed_s = time.monotonic() - born_s
        rig.broker.tell(signal.SIGCONT)
        rig.finish_episode()
        eventually(lambda: not rig.missing(), PATIENCE_S)
        show_levels(1)
        heard = [json.loads(text)["mono_s"] - 0.5 for _, topic, text in rig.consumer.heard if topic == "tension"]
        # What the network had taken before anybody could know that the broker stands still does come.
        late = [told_s - frozen_s for told_s in heard if frozen_s + 4 < told_s < thawed_s]
        assert late == []
        eventually(lambda: json.loads(rig.consumer.heard[-1][2])["mono_s"] > thawed_s)
        rig.check()
        assert one_line_each(caplog)


@contextlib.contextmanager
def small_card(folder: Path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """A file system of 16 MiB that can be filled up and made free again."""
    card, filler = folder / "card", folder / "card" / "filler"
    card.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", card], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a file system")

    def fill() -> None:
        with filler.open("ab", buffering=0) as file:
            for size in (65536, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    try:
        yield card, fill, filler.unlink
    finally:
        subprocess.run(["umount", "--lazy", card], check=True)


@contextlib.contextmanager
def limited_files(folder: Path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """A limit to what this process may write, which comes and goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield (
            folder,
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard)),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("disk", [small_card, limited_files])
def test_a_disk_that_is_full_for_a_while_loses_nothing(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    disk: Callable[[Path], contextlib.AbstractContextManager[tuple[Path, Callable[[], None], Callable[[], None]]]],
) -> None:
    with disk(tmp_path) as (folder, fill, free), rigged(tmp_path, "disk", store_folder=folder) as rig:
        eventually(rig.delivery.connected.is_set, PATIENCE_S)
        rig.live(50)
        fill()
        rig.live(100)
        eventually(lambda: not rig.missing(), PATIENCE_S)  # from memory
        rig.broker.kill()
        rig.live(100)
        free()
        rig.live(20)
        rig.finish_episode()
        eventually(lambda: rig.store.waits(rig.told[-1].key), PATIENCE_S)
        rig.broker.start()
        eventually(lambda: not rig.missing(), PATIENCE_S)
        rig.check()
        said = [r.getMessage() for r in caplog.records if "w.sqlite3" in r.getMessage()]
        assert [("held in memory" in text, "written again" in text) for text in said] == [(True, False), (False, True)]


def test_an_end_that_came_while_the_disk_was_full_is_kept_and_gets_no_second_one(tmp_path: Path) -> None:
    with limited_files(tmp_path) as (_, fill, free), rigged(tmp_path, "word") as rig:
        eventually(rig.delivery.connected.is_set, PATIENCE_S)
        started, ended = (replace(m, id="a") for m in (STARTED, ENDED))
        rig.tell([started])
        eventually(lambda: not rig.missing(), PATIENCE_S)
        fill()
        rig.tell([ended])
        eventually(lambda: not rig.missing(), PATIENCE_S)
        rig.delivery.answer(AskStore(Request("feedback", {"episode_id": "a", "label": "deadline"})))
        eventually(lambda: len(rig.consumer.durable()) == 3)
        bodies = [json.loads(payload) for _, payload in rig.consumer.durable()]
        assert [(body["event"], body["seq"], body["label"]) for body in bodies] == [
            ("started", 0, None), ("ended", 1, None), ("ended", 2, "deadline"),
        ]  # fmt: skip
        free()
        rig.tell([Cue(9.0, "given", 0, 1.0, "cue", None, "a", "a-cue")])
        eventually(lambda: rig.store.newest("cue"))
        assert rig.store.open_episodes() == [], "what came while the disk was full is kept in the end"


class Doomed(Store):
    """A store that notes what it is to keep and what it has kept, and whose process is killed at a given step.

    What is written to a file outlives a process that is killed, so there is no need to wait for the disk.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self._steps = steps
        self._notes = os.open(path.with_name("notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        super().__init__(path)

    def put(self, publications: Sequence[Publication], *values: Any) -> None:
        self._note("told", publications)
        self._step()
        super().put(publications, *values)
        self._note("promised", publications)
        self._step()

    def confirm(self, keys: Iterable[Key]) -> None:
        self._step()
        super().confirm(keys)
        self._step()

    def _note(self, what: str, publications: Sequence[Publication]) -> None:
        lines = [json.dumps([what, p.key, p.payload, p.retain]) + "\n" for p in publications]
        os.write(self._notes, "".join(lines).encode())

    def _step(self) -> None:
        self._steps -= 1
        if self._steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def live_and_die(folder: Path, port: int, run: str, steps: int) -> None:
    """Be a service until the step at which it is killed; with none before, deliver everything and end well."""
    random = Random(f"{SEED}/{run}")
    store = Doomed(folder / "w.sqlite3", steps)
    delivery = Delivery(contract_of("w"), store)
    delivery.connect(partial(link_of, "w", Broker(LOOPBACK, port), MqttSettings()))
    for k, message in enumerate(life(random, run, store.kept(f"day/{DATE}"))):
        delivery.accept(message)
        time.sleep(random.uniform(0, 0.005))
        if steps == 0 and k > 100:
            eventually(lambda: not store.waiting(0, 1), PATIENCE_S)
            break
    delivery.close()


def test_a_service_that_is_killed_at_any_step_keeps_its_promises(tmp_path: Path) -> None:
    random = Random(f"{SEED}/service")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    broker = Mosquitto(tmp_path)
    broker.start()
    consumer = Consumer(broker.port)
    try:
        for k, steps in enumerate([*(random.randrange(1, 60) for _ in range(3 * ROUNDS)), 0]):
            service = context.Process(target=live_and_die, args=(tmp_path, broker.port, f"run{k:04}", steps))
            service.start()
            if steps and random.random() < 0.2:
                service.join(random.uniform(0, 0.5))
                service.kill()
            service.join(PATIENCE_S)
            assert service.exitcode == (-signal.SIGKILL if steps else 0)
        told, promised = read_notes(tmp_path / "notes")
        eventually(lambda: not promised.keys() - first_arrivals(consumer.durable()).keys(), PATIENCE_S)
    finally:
        consumer.close()
        broker.kill()
    got = first_arrivals(consumer.durable())
    assert [key for key, payload in got.items() if payload not in told[key]] == []
    assert {key: got[key] for key in promised} == promised
    assert in_order(got, list(told))
    last = {name: json.loads(payload) for (topic, name, _), payload in got.items() if topic == "episode"}
    assert {body["event"] for name, body in last.items() if not name.startswith(f"run{3 * ROUNDS:04}")} == {"ended"}
    interrupted = [name for name, body in last.items() if body["end_reason"] == "interrupted"]
    print(f"{len(promised)} promised, {len(got)} came; {len(interrupted)} of {len(last)} episodes were interrupted")
    assert interrupted


def read_notes(path: Path) -> tuple[dict[Key, set[str]], dict[Key, str]]:
    """Return what was to be kept, in its order, and what was kept and not superseded since."""
    told: dict[Key, set[str]] = {}
    promised: dict[Key, str] = {}
    for line in path.read_text().splitlines():
        what, (topic, name, seq), payload, retain = json.loads(line)
        key = topic, name, seq
        if what == "told":
            told[key] = told.pop(key, set()) | {payload}  # where it was told and lost before, the last time counts
            if retain:
                promised = {k: v for k, v in promised.items() if k[:2] != key[:2]}
        else:
            assert promised.setdefault(key, payload) == payload, "the same name for two messages"
    return told, promised


def test_an_episode_in_which_the_program_is_killed_is_ended_by_the_next_start(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    broker.start()
    try:
        with PtyBoard(stream()) as board, listening(broker.port, "unshrug/midway") as listener:
            path = config(tmp_path, board, broker.port, "midway")
            with program("run", "--config", path) as service:
                started = listener.wait_for("episode", lambda heard: heard.body["event"] == "started", 30).body
                service.process.kill()
            with program("run", "--config", path) as service:
                ended = listener.wait_for("episode", lambda heard: heard.body["event"] == "ended", 30).body
                assert (ended["id"], ended["end_reason"]) == (started["id"], "interrupted")
                service.process.terminate()
                assert service.end() == 0
                assert "Traceback" not in service.text
    finally:
        broker.kill()
