"""Publish over MQTT. The cue never waits for it: one thread publishes, the loop only hands over."""

import contextlib
import enum
import logging
import os
import queue
import stat
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from services.broker import Broker
from services.contract import Contract, Publication
from services.messages import Message
from services.settings import MqttSettings, SettingsError

log = logging.getLogger(__name__)

_KEEP_ALIVE_S = 20
_LIVE_EXPIRY_S = 5
_MOST_WAITING = 1000
_GOODBYE_S = 1.0
_CONNECT_S = 2.0
_LOCAL = ("localhost", "127.0.0.1", "::1")


class _Sign(enum.Enum):
    """What the publishing thread is told besides publications."""

    CONNECTED = enum.auto()
    CLOSE = enum.auto()


class MqttSink:
    """Publish messages as the contract says, reconnect by itself, and say so once each time.

    What is live is dropped while there is no connection; what is not waits, up to 1,000 of them. Retained topics are
    published again on every connect, because a broker may have lost them. Raises SettingsError for a password file
    that others may read.
    """

    def __init__(self, settings: MqttSettings, contract: Contract, broker: Broker) -> None:
        self._contract = contract
        self._queue: queue.Queue[Publication | _Sign] = queue.Queue(_MOST_WAITING)
        self._retained: dict[str, Publication] = {}  # the newest of each topic
        self._told: dict[str, Message] = {}  # and what it tells
        self._sent: dict[str, paho.MQTTMessageInfo] = {}  # the last of each retained topic
        self._lock = threading.Lock()
        self.where = f"{broker.host}:{broker.port}"
        self.connected = threading.Event()
        self._said_absent = False
        self._said_full = False
        self._client = self._make_client(settings, broker)
        self._client.connect_async(broker.host, broker.port, keepalive=_KEEP_ALIVE_S, clean_start=True)
        self._client.loop_start()
        self._thread = threading.Thread(target=self._run, name="mqtt publisher", daemon=True)
        self._thread.start()

    def _make_client(self, settings: MqttSettings, broker: Broker) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"{self._contract.root.replace('/', '-')}-service",
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        client.suppress_exceptions = True
        client.connect_timeout = _CONNECT_S  # closing waits for an attempt to connect
        client.max_queued_messages_set(_MOST_WAITING)
        client.reconnect_delay_set(1, 60)
        client.will_set(f"{self._contract.root}/status", "offline", qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        if settings.tls == "on" or (settings.tls == "auto" and broker.host not in _LOCAL):
            try:
                client.tls_set(ca_certs=settings.ca_file or None)
            except OSError as error:  # ssl.SSLError is one too
                raise SettingsError(f"mqtt.ca_file: {settings.ca_file}: {error.strerror or error}") from None
        if settings.username:
            client.username_pw_set(settings.username, _password(settings.password_file))
        return client

    def accept(self, message: Message) -> None:
        """Hand a message over; returns at once."""
        publication = self._contract.publication(message)
        if publication is None:
            return
        if publication.retain:
            self._told[publication.topic] = message
            with self._lock:
                self._retained[publication.topic] = publication
        if (publication.live or publication.retain) and not self.connected.is_set():
            return
        try:
            self._queue.put_nowait(publication)
        except queue.Full:
            self._say_full("MQTT is too slow: messages are dropped, the first to %s", publication.topic)

    def restate(self) -> None:
        """Publish what is retained again, with the wall time that it has now; in the thread that calls `accept`."""
        for message in list(self._told.values()):
            self.accept(message)

    def close(self) -> None:
        """Publish what waits, say goodbye and disconnect; takes two seconds or so at most."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(_Sign.CLOSE)
        self._thread.join(_GOODBYE_S)
        if self.connected.is_set():
            goodbye = self._client.publish(f"{self._contract.root}/status", "offline", qos=1, retain=True)
            with contextlib.suppress(RuntimeError, ValueError):
                goodbye.wait_for_publish(_GOODBYE_S)
        self._client.on_disconnect = None
        self._client.disconnect()
        self._client.loop_stop()

    def _run(self) -> None:
        while (item := self._queue.get()) is not _Sign.CLOSE:
            if item is _Sign.CONNECTED:
                self._repeat_retained()
            elif not item.live or self.connected.is_set():
                try:
                    self._publish(item)
                except Exception:  # one message that cannot be sent must not end all the others
                    log.exception("a message to %s could not be published", item.topic)

    def _repeat_retained(self) -> None:
        """Publish the newest of each retained topic, after what paho sends again of before the outage."""
        for sent in self._sent.values():
            with contextlib.suppress(RuntimeError, ValueError):
                sent.wait_for_publish(_GOODBYE_S)
        with self._lock:
            newest = list(self._retained.values())
        for publication in newest:
            self._publish(publication)

    def _publish(self, publication: Publication) -> None:
        properties = None
        if publication.live:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = _LIVE_EXPIRY_S
        topic = f"{self._contract.root}/{publication.topic}"
        # A port's name may hold bytes that are no UTF-8.
        payload = publication.payload.encode(errors="replace")
        info = self._client.publish(topic, payload, publication.qos, publication.retain, properties)
        if info.rc == paho.MQTT_ERR_QUEUE_SIZE:
            self._say_full("more than %d messages wait for the broker: further ones are lost", _MOST_WAITING)
        if publication.retain:
            self._sent[publication.topic] = info

    def _on_connect(self, client: paho.Client, _: Any, __: Any, reason: ReasonCode, ___: Any) -> None:
        if reason.is_failure:
            self._say_absent(f"the broker at {self.where} refuses: {reason}")
            return
        log.info("connected to the broker at %s", self.where)
        self._said_absent = self._said_full = False
        client.publish(f"{self._contract.root}/status", "online", qos=1, retain=True)
        self.connected.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(_Sign.CONNECTED)

    def _on_disconnect(self, *args: Any) -> None:
        self.connected.clear()
        self._say_absent(f"the broker at {self.where} is gone; cues go on, and it is tried again")

    def _on_connect_fail(self, *args: Any) -> None:
        self._say_absent(f"no broker at {self.where}; cues go on, and it is tried again")

    def _say_full(self, text: str, what: object) -> None:
        if not self._said_full:
            self._said_full = True
            log.warning(text, what)

    def _say_absent(self, text: str) -> None:
        if not self._said_absent:
            self._said_absent = True
            log.warning("%s", text)


def _password(path: str) -> str | None:
    """Read the password; refuse a file that others may read."""
    if not path:
        return None
    try:
        mode = os.stat(path).st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SettingsError(f"{path}: others may read this password; expected: chmod 600 {path}")
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"mqtt.password_file: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"mqtt.password_file: {path}: not UTF-8 text") from None
