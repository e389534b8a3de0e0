"""Load: many simulated wearers on one broker, and a consumer that counts what arrives and how late.

Every wearer is a real MQTT 5 client with a last will. What they say is genuine: one simulated day goes through the
real decoder and pipeline once, and each wearer tells it as its own, from another moment on. A thread for each would be
too many, so a process drives a thousand of them or so from one selector.
"""

import contextlib
import heapq
import multiprocessing
import os
import resource
import selectors
import signal
import threading
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from services.broker import Broker
from services.contract import LIVE_EXPIRY_S, Contract, Publication, Stamp
from services.messages import About, Cue, CueResult, Episode, Message, Tension, WearerState
from services.mqtt import KEEP_ALIVE_S, pause_s, send_at_once
from services.settings import CalibrationSettings, MqttSettings, Settings

_A_PROCESS = 1000  # wearers that one process drives before there is another
_AT_ONCE = 50  # wearers that connect, or leave, at the same time; a broker's listen queue has 100 places
_MOST_WAITING = 50  # messages that a wearer keeps while the broker is slow or away
_TURN_S = 1.0  # a wearer is looked after at least this often
_CONNECT_S = 60.0
_SETTLE_S = 1.5  # from the connect storm to measuring: every day has begun by then
_LEAVE_S = 30.0
_ANSWER_S = 60.0
_QUIET_S = 2.0  # nothing new for this long: what has not arrived is lost
_SPARE_FILES = 100
_PROPERTY = "fleet"  # the user property with a message's number and the time of its publish call
_EDGES_NS = tuple(10_000 * 1.05**k for k in range(330))  # up to 93 s
_TICKS = os.sysconf("SC_CLK_TCK")


class FleetError(Exception):
    """A fleet that cannot run; the message says where, what was wrong and what was expected."""


@dataclass(frozen=True)
class Day:
    """What a simulated wearer's day has to tell, in order of time, over and over."""

    messages: tuple[Message, ...]
    seconds: float


class Delays:
    """A histogram of delays whose bins grow by 5 %, so that hours of them take no more memory than seconds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_EDGES_NS) + 1)

    def add(self, delay_ns: int) -> None:
        """Count one."""
        self._counts[bisect_left(_EDGES_NS, delay_ns)] += 1

    def ms(self, percent: float) -> float | None:
        """Return the delay that so many per cent do not exceed, to 5 %, in ms; None without any."""
        left = sum(self._counts) * percent / 100
        for k, count in enumerate(self._counts):
            left -= count
            if count and left <= 0:
                return _EDGES_NS[min(k, len(_EDGES_NS) - 1)] / 1e6
        return None


@dataclass
class Sent:
    """What a process of wearers published: `all` from the start, `steady` while it was measured; both by QoS."""

    all: list[int] = field(default_factory=lambda: [0, 0])
    steady: list[int] = field(default_factory=lambda: [0, 0])
    steady_s: float = 0.0
    held_back: int = 0  # not even published: the broker was away or too slow


@dataclass
class Heard:
    """What the consumer got, by QoS; repeats are not counted twice. Delays are of the time that was measured."""

    all: list[int] = field(default_factory=lambda: [0, 0])
    steady: list[int] = field(default_factory=lambda: [0, 0])
    steady_s: float = 0.0
    repeats: int = 0
    delays: tuple[Delays, Delays] = field(default_factory=lambda: (Delays(), Delays()))


@dataclass(frozen=True)
class Report:
    """What came of a fleet. Rates are per second, lists are by QoS, CPU is in % of one core; None where not ours."""

    wearers: int
    online: int
    storm_s: float
    published_hz: float
    delivered_hz: float
    sent: tuple[int, int]
    lost: tuple[int, int]
    held_back: int
    repeats: int
    delays: tuple[Delays, Delays]
    broker_cpu_pct: float | None
    broker_mb: float | None

    def lines(self) -> Iterator[str]:
        """Say it in a few lines."""
        yield f"{self.online} of {self.wearers} wearers online, the last after {self.storm_s:.2f} s"
        yield f"published {self.published_hz:.1f} messages/s, delivered {self.delivered_hz:.1f}/s to one consumer"
        for qos, delays in enumerate(self.delays):
            p50, p99 = delays.ms(50), delays.ms(99)
            late = "" if p50 is None or p99 is None else f"; delay p50 {p50:.1f} ms, p99 {p99:.1f} ms"
            yield f"QoS {qos}: {self.lost[qos]} of {self.sent[qos]} lost{late}"
        if self.held_back:
            yield f"{self.held_back} not published, because the broker or this machine was too slow"
        if self.broker_cpu_pct is not None and self.broker_mb is not None:
            yield f"broker: {self.broker_cpu_pct:.1f} % of a core, {self.broker_mb:.1f} MB"


def names(wearers: int) -> list[str]:
    """Return the wearers' names: fleet-0001 and so on."""
    return [f"fleet-{k:04}" for k in range(1, wearers + 1)]


def record_day(tension_hz: float) -> Day:
    """Let the simulated wearer's day go from a board's bytes through the real pipeline, faster than life."""
    from firmware_bridge.boards import BOARDS
    from firmware_bridge.bridge import Bridge
    from firmware_bridge.simulator import DAY, REFERENCE_UV, REST_UV, Wearer, framed_stream
    from services.pipeline import Pipeline

    calibration = CalibrationSettings(rest_uv=(REST_UV,), reference_uv=(REFERENCE_UV,))
    pipeline = Pipeline(Settings(calibration=calibration, mqtt=MqttSettings(tension_hz=tension_hz)))
    bridge = Bridge(BOARDS["unshrug"], ("left", "right"))
    messages: list[Message] = list(pipeline.board(None))
    seconds = sum(activity.seconds for activity in DAY)
    for at_s, data in framed_stream(Wearer()):
        if at_s > seconds:
            break
        for block in bridge.feed(data, at_s):
            pipeline.counted(bridge.counts)
            messages += pipeline.process(block)
    messages += pipeline.finish()
    told = [m for m in messages if isinstance(m, Tension | WearerState | Episode | Cue | About)]
    return Day(tuple(sorted(told, key=lambda m: m.at_s)), seconds)


def run_fleet(wearers: int, broker: Broker, tension_hz: float, seconds: float, stop: threading.Event) -> Report:
    """Let so many wearers tell their day for some seconds once all are online, or until `stop`; return what came of it.

    Nothing of theirs stays on the broker. Call it from the main thread. Raises FleetError.
    """
    everyone = names(wearers)
    processes = max(1, min(-(-wearers // _A_PROCESS), os.cpu_count() or 1))
    with contextlib.ExitStack() as stack:
        consumer = stack.enter_context(_Helper(_consume, broker, everyone))
        crews = [stack.enter_context(_Helper(_live, broker, everyone[k::processes])) for k in range(processes)]
        day = record_day(tension_hz)
        consumer.hear(_CONNECT_S)
        for crew in crews:
            crew.tell(day)
        until = time.monotonic() + _CONNECT_S
        while not all(crew.pipe.poll(0.02) for crew in crews) and not stop.is_set() and time.monotonic() < until:
            pass
        for crew in crews:
            crew.tell("begin")
        stop.wait(_SETTLE_S)
        for helper in (*crews, consumer):
            helper.tell("measure")
        cpu, began = _cpu_of(broker), time.monotonic()
        until = began + seconds
        while not stop.wait(min(0.5, max(0.0, until - time.monotonic()))) and time.monotonic() < until:
            for helper in (*crews, consumer):
                helper.check()
        measured_s = max(time.monotonic() - began, 1e-9)
        cpu_pct = None if cpu is None else 100 * ((_cpu_of(broker) or cpu) - cpu) / measured_s
        memory = None if broker.pid is None else resident_mb(broker.pid)
        consumer.tell("leave")
        consumer.hear(_ANSWER_S)
        for crew in crews:
            crew.tell("leave")
        reports = [crew.last(_ANSWER_S) for crew in crews]
        online, storm_s, why = sum(r[0] for r in reports), max(r[1] for r in reports), reports[0][2]
        sent = [report[3] for report in reports]
        in_all = sum(s.all[0] for s in sent), sum(s.all[1] for s in sent)
        consumer.tell(str(in_all[1]))
        heard: Heard = consumer.last(_ANSWER_S)
    if not online and not stop.is_set():
        raise FleetError(f"{broker.host}:{broker.port}: no wearer could connect: {why or 'no answer'}")
    return Report(
        wearers,
        online,
        storm_s,
        sum(sum(s.steady) / s.steady_s for s in sent if s.steady_s),
        sum(heard.steady) / heard.steady_s if heard.steady_s else 0.0,
        in_all,
        (in_all[0] - heard.all[0], in_all[1] - heard.all[1]),
        sum(s.held_back for s in sent),
        heard.repeats,
        heard.delays,
        cpu_pct,
        memory,
    )


def allow_files(wearers: int) -> None:
    """Let this process, and those that it starts, open a socket for each wearer. Raises FleetError."""
    needed = wearers + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise FleetError(
                f"{wearers} wearers need {needed} open files, and {hard} are allowed here; "
                f"expected fewer wearers or a higher limit (ulimit -Hn)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its threads, in s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cpu_of(broker: Broker) -> float | None:
    return None if broker.pid is None else cpu_s(broker.pid)


class _Helper:
    """A process of its own that is told words and answers with what it found."""

    def __init__(self, work: Callable[..., None], broker: Broker, *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._where = f"{broker.host}:{broker.port}"
        self._process = context.Process(target=work, args=(theirs, broker.host, broker.port, *arguments), daemon=True)
        # Ctrl-C reaches the whole group, and it is this process that ends a fleet in order: the others never see it,
        # not even while they start, for what is ignored is so in a new program too.
        keys = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP)
        before = {key: signal.signal(key, signal.SIG_IGN) for key in keys}
        try:
            self._process.start()
        finally:
            for key, handler in before.items():
                signal.signal(key, handler)
        theirs.close()

    def __enter__(self) -> "_Helper":
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()  # a helper without its parent ends by itself
        self._process.join(3 * _QUIET_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def tell(self, word: str | Day) -> None:
        """Send a word, or the day that wearers are to tell."""
        try:
            self.pipe.send(word)
        except OSError:
            raise self._gone() from None

    def hear(self, seconds: float) -> Any:
        """Return the next answer. Raises FleetError where there is none in time."""
        try:
            if self.pipe.poll(seconds):
                answer = self.pipe.recv()
                if isinstance(answer, FleetError):
                    raise answer
                return answer
        except (EOFError, OSError):
            raise self._gone() from None
        raise FleetError(f"{self._where}: no answer for {seconds:.0f} s; expected a broker that keeps up")

    def last(self, seconds: float) -> Any:
        """Return the answer to the last word; those before it do not matter."""
        while (answer := self.hear(seconds)) == "online":
            pass
        return answer

    def check(self) -> None:
        """Raise FleetError where the process has ended."""
        if not self._process.is_alive():
            raise self._gone()

    def _gone(self) -> FleetError:
        return FleetError(f"{self._where}: a process of the fleet ended with code {self._process.exitcode}")


def _live(control: Connection, host: str, port: int, everyone: list[str]) -> None:
    """Be a process of wearers, from when it is told their day."""
    with contextlib.suppress(EOFError, OSError):  # the parent is gone: so are we
        _Crew(control, everyone, control.recv(), host, port).run()


class _Crew:
    """Some wearers in one thread."""

    def __init__(self, control: Connection, everyone: list[str], day: Day, host: str, port: int) -> None:
        self.selector = selectors.DefaultSelector()
        self.selector.register(control, selectors.EVENT_READ)
        self.sent = Sent()
        self.to_connect: deque[_Client] = deque()
        self.connecting = 0
        self.online = self._most_online = 0
        self.began = self.measuring = False
        self.why = ""
        self._control = control
        self._measured_from_s = 0.0
        self._storm_s = 0.0
        golden = (5**0.5 - 1) / 2  # spreads any number of them evenly over the day, and within each second
        self._wearers = [
            _Client(self, name, day, k * golden % 1 * day.seconds, host, port) for k, name in enumerate(everyone)
        ]
        self._began_s = time.monotonic()
        self._turns = [(self._began_s, k) for k in range(len(everyone))]
        self._leaving: deque[_Client] | None = None

    def run(self) -> None:
        """Go round until told to leave and all have left."""
        while self._leaving is None:
            due_s = self._turns[0][0]
            self._look(max(0.0, due_s - time.monotonic()))
            now_s = time.monotonic()
            while self._turns[0][0] <= now_s:
                k = self._turns[0][1]
                heapq.heapreplace(self._turns, (self._wearers[k].turn(now_s), k))
            while self.to_connect and self.connecting < _AT_ONCE:
                self.to_connect.popleft().connect()
        self._leave(self._leaving)
        self._control.send((self._most_online, self._storm_s, self.why, self.sent))

    def connected(self) -> None:
        """Note one more; the last of them ends the storm."""
        self.online += 1
        self._most_online = max(self._most_online, self.online)
        if self.online == len(self._wearers) and not self._storm_s:
            self._storm_s = time.monotonic() - self._began_s
            self._control.send("online")

    def _look(self, seconds: float) -> None:
        """Read and write what can be, for so long at most."""
        for key, _ in self.selector.select(seconds):
            if key.data is None:
                self._obey(self._control.recv())
            else:
                key.data.look()

    def _obey(self, word: str) -> None:
        now_s = time.monotonic()
        self.began, self.measuring = True, word == "measure"
        if self.measuring:
            self._measured_from_s = now_s
        elif word == "leave":
            self.sent.steady_s = now_s - self._measured_from_s
            self._leaving = deque(w for w in self._wearers if w.online)

    def _leave(self, waiting: "deque[_Client]") -> None:
        """Let them go a few at a time, each once the broker has acknowledged everything."""
        going: list[_Client] = []
        until = time.monotonic() + _LEAVE_S
        while (waiting or going) and time.monotonic() < until:
            while waiting and len(going) < _AT_ONCE:
                going.append(waiting.popleft())
                going[-1].leave()
            self._look(0.01)
            for client in [c for c in going if c.is_done()]:
                client.disconnect()
                going.remove(client)


class _Client:
    """One wearer's connection, and how far it is in its day."""

    def __init__(self, crew: _Crew, name: str, day: Day, phase_s: float, host: str, port: int) -> None:
        self._crew = crew
        self._day = day
        self._phase_s = phase_s
        self._next = bisect_right(day.messages, phase_s, key=lambda m: m.at_s)
        self._lap_s = 0.0
        self._begun = False  # the day begins when it is told to, after the connect storm
        self._mono0, self._wall0 = time.monotonic(), time.time()
        self._name = name
        self._contract = Contract(name, self._stamp, self._now)
        self._ids: dict[str, str] = {}
        self._numbers = [0, 0]
        self._waiting: set[int] = set()  # QoS 1 without an acknowledgement
        self._retained: dict[str, Publication] = {}
        self._socket: Any = None
        self._writing = False
        self._connecting = False
        self._failures = 0
        self._connect_due_s = 0.0
        self.online = False
        for message in day.messages[: self._next]:  # what whoever connects late has to know
            if isinstance(message, About | WearerState):
                self._make(message)
        self._client = self._make_client(name, host, port)

    def _make_client(self, name: str, host: str, port: int) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"unshrug-{name}-service", protocol=MQTTProtocolVersion.MQTTv5
        )
        client.max_queued_messages_set(_MOST_WAITING)
        client.will_set(f"{self._contract.root}/status", "offline", qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = lambda _, __, mid, *___: self._waiting.discard(mid)
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.connect_async(host, port, keepalive=KEEP_ALIVE_S, clean_start=True)
        return client

    def turn(self, now_s: float) -> float:
        """Do what is due; return when there is something again."""
        soon_s = now_s + _TURN_S
        if self.online or self._connecting:
            self._client.loop_misc()
        elif now_s >= self._connect_due_s:
            self._connecting = True
            self._crew.to_connect.append(self)
        else:
            soon_s = min(soon_s, self._connect_due_s)
        if not self._begun:
            if not (self.online and self._crew.began):
                return soon_s
            self._begun, self._mono0, self._wall0 = True, now_s, time.time()
        while (due_s := self._due_s()) <= now_s:
            message = self._day.messages[self._next]
            self._step()
            if isinstance(message, Tension) and now_s - due_s > _TURN_S:
                self._crew.sent.held_back += 1  # this machine cannot keep up, and what is live is worth nothing late
            else:
                for publication in self._make(message):
                    self._publish(publication)
        return min(soon_s, due_s)

    def look(self) -> None:
        """Read and write what can be."""
        self._client.loop_read()
        if self._client.want_write():
            self._client.loop_write()
        self._watch()

    def leave(self) -> None:
        """Say goodbye and take back everything that the broker keeps."""
        status = Publication("status", "offline", 1, retain=True)
        self._publish(status)
        for publication in (*self._retained.values(), status):
            self._publish(replace(publication, payload=""))

    def is_done(self) -> bool:
        """Say whether the broker has acknowledged everything, or is gone."""
        return not self._waiting or not self.online

    def disconnect(self) -> None:
        """End the connection, so that the last will is not sent."""
        self._client.disconnect()
        if self._client.want_write():
            self._client.loop_write()

    def connect(self) -> None:
        """Ask the broker for a connection."""
        self._crew.connecting += 1
        try:
            self._client.reconnect()
        except OSError as error:
            self._away(error.strerror or str(error))

    def _away(self, why: str) -> None:
        """Try again later: 1 s to 60 s, with jitter, for all the others are away too."""
        self._crew.why = self._crew.why or why
        self._crew.connecting -= self._connecting
        self._crew.online -= self.online
        self._connecting = self.online = False
        self._failures += 1
        self._connect_due_s = time.monotonic() + pause_s(self._failures)

    def _due_s(self) -> float:
        return self._mono0 + self._day.messages[self._next].at_s + self._lap_s - self._phase_s

    def _step(self) -> None:
        self._next += 1
        if self._next == len(self._day.messages):
            self._next = 0
            self._lap_s += self._day.seconds
            self._ids.clear()
            self._contract = Contract(self._name, self._stamp, self._now)  # what it knows of the day so far is over

    def _stamp(self, board_s: float) -> Stamp:
        since_s = board_s + self._lap_s - self._phase_s
        return Stamp(self._wall0 + since_s, self._phase_s + since_s)

    def _now(self) -> Stamp:
        since_s = time.monotonic() - self._mono0
        return Stamp(self._wall0 + since_s, self._phase_s + since_s)

    def _make(self, message: Message) -> list[Publication]:
        """Return what the wearer publishes; its episodes and cues are its own, and others on another day."""
        publications = list(self._contract.publications(self._own(message)))
        self._retained |= {p.topic: p for p in publications if p.retain}
        return publications

    def _own(self, message: Message) -> Message:
        match message:
            case CueResult():
                return replace(message, cue=self._own_cue(message.cue))
            case Cue():
                return self._own_cue(message)
            case Episode():
                return replace(message, id=self._id(message.id))
            case WearerState():
                return replace(message, episode_id=message.episode_id and self._id(message.episode_id))
        return message

    def _own_cue(self, cue: Cue) -> Cue:
        return replace(cue, id=self._id(cue.id), episode_id=cue.episode_id and self._id(cue.episode_id))

    def _id(self, of_the_day: str) -> str:
        from services.store import uuid7

        return self._ids.setdefault(of_the_day, uuid7(self._wall0 + self._lap_s))

    def _publish(self, publication: Publication) -> None:
        """Publish, numbered, with the time; what would only queue up is left out, as is what is told on connecting."""
        qos, sent = publication.qos, self._crew.sent
        if not self.online and publication.retain:
            return
        if not qos and (not self.online or self._client.want_write()):
            sent.held_back += 1
            return
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if publication.live:
            properties.MessageExpiryInterval = LIVE_EXPIRY_S
        properties.UserProperty = (_PROPERTY, f"{self._numbers[qos] + 1} {time.monotonic_ns()}")
        topic = f"{self._contract.root}/{publication.topic}"
        info = self._client.publish(topic, publication.payload, qos, publication.retain, properties)
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE:
            sent.held_back += 1
            return
        if qos:
            self._waiting.add(info.mid)
        self._numbers[qos] += 1
        sent.all[qos] += 1
        sent.steady[qos] += self._crew.measuring
        self._watch()

    def _on_connect(self, _: paho.Client, __: Any, ___: Any, reason: ReasonCode, ____: Any) -> None:
        if reason.is_failure:
            self._crew.why = self._crew.why or str(reason)
            return
        self._crew.connecting -= self._connecting
        self._connecting, self.online, self._failures = False, True, 0
        self._publish(Publication("status", "online", 1, retain=True))
        for publication in list(self._retained.values()):
            self._publish(publication)
        self._crew.connected()

    def _on_disconnect(self, _: paho.Client, __: Any, ___: Any, reason: ReasonCode, ____: Any) -> None:
        self._away(str(reason))

    def _on_socket_open(self, _: paho.Client, __: Any, opened: Any) -> None:
        send_at_once(opened)
        self._socket, self._writing = opened, False
        self._crew.selector.register(opened, selectors.EVENT_READ, self)

    def _on_socket_close(self, _: paho.Client, __: Any, closed: Any) -> None:
        self._socket = None
        self._crew.selector.unregister(closed)

    def _watch(self) -> None:
        """Wait for room in the socket's buffer only while something is left to write."""
        writing = self._client.want_write()
        if self._socket is not None and writing != self._writing:
            self._writing = writing
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
            self._crew.selector.modify(self._socket, events, self)


def _consume(control: Connection, host: str, port: int, everyone: list[str]) -> None:
    """Be the process of the consumer."""
    with contextlib.suppress(EOFError, OSError):
        try:
            _Consumer(control, everyone, host, port).run()
        except FleetError as error:
            control.send(error)


class _Consumer:
    """One client that hears every wearer, counts, and removes what a wearer that died has left on the broker."""

    def __init__(self, control: Connection, everyone: Iterable[str], host: str, port: int) -> None:
        self._control = control
        self._heard = Heard()
        self._ledgers = {name: (_Ledger(), _Ledger()) for name in everyone}
        self._kept: set[str] = set()
        self._measuring = False
        self._measured_from_s = 0.0
        self._news_s = time.monotonic()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: control.send("ready")
        self._client.on_message = self._on_message
        try:
            self._client.connect(host, port, keepalive=KEEP_ALIVE_S)
        except OSError as error:
            raise FleetError(f"{host}:{port}: {error.strerror or error}; expected an MQTT broker there") from None
        self._where = f"{host}:{port}"

    def run(self) -> None:
        """Listen until the end of the fleet; a fleet that was killed is cleared away too."""
        try:
            while (word := self._next_word()) in ("measure", "leave"):
                self._measuring = word == "measure"
                if self._measuring:
                    self._measured_from_s = time.monotonic()
                else:
                    self._heard.steady_s = time.monotonic() - self._measured_from_s
                    self._control.send("measured")
            self._await(int(word))
        except (EOFError, ConnectionError):
            self._await(None)
        self._clear()
        self._control.send(self._heard)

    def _next_word(self) -> str:
        while not self._control.poll():
            self._listen()
        return str(self._control.recv())

    def _listen(self) -> None:
        if self._client.loop(0.05):
            raise FleetError(f"{self._where}: the broker ended the consumer's connection")

    def _await(self, expected: int | None) -> None:
        """Listen for what is under way, until so many QoS 1 messages have come or nothing does any more."""
        while self._heard.all[1] != expected and time.monotonic() < self._news_s + _QUIET_S:
            self._listen()

    def _clear(self) -> None:
        """Remove what is left on the broker: the last wills of those that died, and what they had published."""
        left = [self._client.publish(topic, b"", 1, retain=True) for topic in sorted(self._kept)]
        until = time.monotonic() + _QUIET_S
        while not all(info.is_published() for info in left) and time.monotonic() < until:
            self._listen()
        self._client.disconnect()

    def _on_connect(self, client: paho.Client, _: Any, __: Any, reason: ReasonCode, ___: Any) -> None:
        if reason.is_failure:
            raise FleetError(f"{self._where}: the broker refuses: {reason}")
        client.subscribe("unshrug/+/#", options=SubscribeOptions(qos=1, retainAsPublished=True))

    def _on_message(self, _: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
        arrived_ns = time.monotonic_ns()
        ledgers = self._ledgers.get(message.topic.split("/", 2)[1])
        if ledgers is None:
            return
        self._news_s = time.monotonic()
        if message.retain:
            (self._kept.add if message.payload else self._kept.discard)(message.topic)
        marks = dict(getattr(message.properties, "UserProperty", ()))
        if _PROPERTY not in marks:  # a last will
            return
        number, sent_ns = map(int, marks[_PROPERTY].split())
        if not ledgers[message.qos].is_new(number):
            self._heard.repeats += 1
            return
        self._heard.all[message.qos] += 1
        if self._measuring:
            self._heard.steady[message.qos] += 1
            self._heard.delays[message.qos].add(arrived_ns - sent_ns)


class _Ledger:
    """Which numbers of 1, 2, 3 ... have come, when they come in order but for a few."""

    def __init__(self) -> None:
        self._last = 0
        self._missing: set[int] = set()

    def is_new(self, number: int) -> bool:
        """Note a number; say whether it has not come before."""
        if number > self._last:
            self._missing.update(range(self._last + 1, number))
            self._last = number
            return True
        if number in self._missing:
            self._missing.remove(number)
            return True
        return False
