"""What several of these tests need: a broker and another client, a wearer's samples, a place that keeps messages."""

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import fastjsonschema
import gpiozero
import numpy as np
import paho.mqtt.client as paho
import pytest
from gpiozero.pins.mock import MockFactory, MockPWMPin
from numpy.typing import NDArray
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from dsp.detect import Phase, Shrug
from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.simulator import REFERENCE_UV, REST_UV, Activity, Wearer
from services.broker import Broker, find_broker, free_port
from services.contract import SCHEMAS
from services.daemon import Service
from services.messages import Message
from services.requests import schema
from services.settings import CalibrationSettings, MqttSettings, Settings

Array = NDArray[np.float64]

LOOPBACK = "127.0.0.1"
SIGNAL = Signal(1000.0, ("left", "right"), 0.05)
REST = Activity("rest", 6, REST_UV)
SHRUG = Activity("sustained shrug", 15, 60)
CALIBRATED = replace(Settings(), calibration=CalibrationSettings(rest_uv=(REST_UV,), reference_uv=(REFERENCE_UV,)))

# Like the ones that `replace` makes, but for the pins and the broker of this machine.
SIMULATED_GPIO = {"GPIOZERO_PIN_FACTORY": "mock", "GPIOZERO_MOCK_PIN_CLASS": "mockpwmpin"}
UNSHRUG = str(Path(sys.executable).with_name("unshrug"))


@pytest.fixture(autouse=True, scope="session")
def _data_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests keep is not among the data of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


def eventually(true: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until something is true; fail when it does not become so."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A Mosquitto of our own."""
    found = find_broker(MqttSettings(port=free_port()))
    assert found.is_child
    yield found
    found.close()


@cache
def _checked(kind: str) -> Callable[[Any], Any]:
    check: Callable[[Any], Any] = fastjsonschema.compile(schema(kind))
    return check


def validate(topic: str, payload: str) -> None:
    """Hold what a service publishes to the schema of its topic; what is taken away, and other topics, pass.

    Raises ValueError.
    """
    of = topic.split("/")
    if of[0] != "unshrug" or not payload:
        return
    kind = "_".join(of[2:]).removesuffix("_slow")
    if kind == "status" and payload not in ("online", "offline"):
        raise ValueError(f"{payload} is neither online nor offline")
    if kind in SCHEMAS:
        _checked(kind)(json.loads(payload))


@dataclass(frozen=True)
class Heard:
    """A message as it reached another client; `topic` is below the root."""

    topic: str
    payload: str
    qos: int
    retain: bool
    expiry_s: int | None
    correlation: bytes | None = None

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.payload)
        return body


class Listener:
    """Another MQTT client, such as a dashboard: it hears everything below a root, and minds what breaks its schema."""

    def __init__(self, port: int, root: str) -> None:
        self.heard: list[Heard] = []
        self.wrong: list[str] = []
        self._root = root
        self._new: queue.Queue[Heard] = queue.Queue()
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect = self._subscribe
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._hear
        self._client.connect(LOOPBACK, port)
        self._client.loop_start()
        assert self._ready.wait(5)

    def _subscribe(self, client: paho.Client, *_: Any) -> None:
        client.subscribe(f"{self._root}/#", options=SubscribeOptions(qos=1, retainAsPublished=True))

    def _hear(self, _: paho.Client, __: Any, m: paho.MQTTMessage) -> None:
        try:
            validate(m.topic, m.payload.decode())
        except ValueError as error:
            self.wrong.append(f"{m.topic}: {error} in {m.payload!r:.500}")
        expiry = getattr(m.properties, "MessageExpiryInterval", None)
        topic, correlation = m.topic.removeprefix(f"{self._root}/"), getattr(m.properties, "CorrelationData", None)
        self._new.put(Heard(topic, m.payload.decode(), m.qos, m.retain, expiry, correlation))

    def publish(
        self,
        topic: str,
        payload: str,
        *,
        retain: bool = False,
        reply_topic: str | None = None,
        correlation: bytes | None = None,
    ) -> None:
        """Publish as a dashboard does."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if reply_topic is not None:
            properties.ResponseTopic = reply_topic
        if correlation is not None:
            properties.CorrelationData = correlation
        self._client.publish(topic, payload, 1, retain, properties).wait_for_publish(5)

    def wait_for(
        self, topic: str, want: Callable[[Heard], object] = lambda heard: True, seconds: float = 10.0
    ) -> Heard:
        """Return the next message on a topic that is wanted; those before it stay in `heard`."""
        until = time.monotonic() + seconds
        while True:
            try:
                heard = self._new.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"nothing wanted on {topic}; heard {[(h.topic, h.payload[:200]) for h in self.heard[-9:]]}")
            self.heard.append(heard)
            self.check()
            if heard.topic == topic and want(heard):
                return heard

    def drain(self) -> list[Heard]:
        """Return everything heard until now."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.heard.append(self._new.get_nowait())
        return self.heard

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self.check()

    def check(self) -> None:
        """Fail when something that was heard breaks its schema."""
        if self.wrong:
            pytest.fail("\n".join(self.wrong))


@contextlib.contextmanager
def listening(port: int, root: str) -> Iterator[Listener]:
    listener = Listener(port, root)
    try:
        yield listener
    finally:
        listener.close()


class Collector:
    """A sink that keeps every message and lets a test wait for one."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._changed = threading.Condition()

    def accept(self, message: Message) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def wait_for(self, want: Callable[[Message], object], seconds: float = 15.0, after: int = 0) -> int:
        """Return the index of the first wanted message from `after` on."""
        at = after

        def found() -> bool:
            nonlocal at
            while at < len(self.messages):
                if want(self.messages[at]):
                    return True
                at += 1
            return False

        with self._changed:
            assert self._changed.wait_for(found, seconds), f"not within {seconds} s; last {self.messages[-3:]}"
        return at


@pytest.fixture
def pins() -> Iterator[MockFactory]:
    """The GPIO pins of this machine, played by gpiozero's own fake."""
    before = gpiozero.Device.pin_factory
    factory = gpiozero.Device.pin_factory = MockFactory(pin_class=MockPWMPin)
    yield factory
    factory.close()
    gpiozero.Device.pin_factory = before


def samples(*day: Activity, seed: int = 1) -> Array:
    """Return what the electrodes of such a day give, of shape (samples, 2), µV, without heartbeat and hum."""
    wearer = Wearer(day=day, seed=seed, ecg_uv=0, mains_uv=0)
    return wearer.samples(round(sum(a.seconds for a in day) * wearer.rate_hz))


def blocks(values: Array, size: int = 500, signal: Signal = SIGNAL, start: int = 0) -> Iterator[SampleBlock]:
    """Cut samples into blocks."""
    for at in range(0, len(values), size):
        yield SampleBlock(signal, start + at, values[at : at + size])


def shrug(
    phase: Phase,
    at_s: float,
    start_s: float,
    end_s: float | None = None,
    *,
    channel: int = 0,
    mean_uv: float = 60.0,
    peak_uv: float = 90.0,
    truncated: bool = False,
) -> Shrug:
    """Return a step in the life of a shrug."""
    return Shrug(phase, channel, at_s, start_s, end_s, mean_uv, peak_uv, 1.0, truncated)


def unshrug(
    *arguments: object, seconds: float = 30.0, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command and return how it ended."""
    return subprocess.run(
        [UNSHRUG, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


class Running:
    """The command, running: its output line by line, with the time at which each came."""

    def __init__(self, *arguments: object, environment: dict[str, str]) -> None:
        self.lines: list[tuple[float, str]] = []
        self._new: queue.Queue[tuple[float, str] | None] = queue.Queue()
        self.process = subprocess.Popen(
            [UNSHRUG, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._new.put((time.monotonic(), line.rstrip()))
        self._new.put(None)

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def wait_for(self, part: str, seconds: float = 20.0) -> None:
        """Read on until a line has this part."""
        until = time.monotonic() + seconds
        while True:
            try:
                line = self._new.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                pytest.fail(f"no {part!r} in:\n{self.text}")
            self.lines.append(line)
            if part in line[1]:
                return

    def end(self, seconds: float = 5.0) -> int:
        """Wait for the end; return the exit code."""
        code = self.process.wait(seconds)
        self._reader.join()
        while (line := self._new.get()) is not None:
            self.lines.append(line)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def running(service: Service) -> Iterator[None]:
    """Let a service go round in a thread of its own."""
    stop = threading.Event()
    thread = threading.Thread(target=service.run, args=(lambda _: stop.is_set(),))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)
        assert not thread.is_alive()
