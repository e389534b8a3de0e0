"""The connection to the broker: the one place that knows paho. It holds nothing back and resends nothing by itself."""

import contextlib
import logging
import queue
import random
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from services.credentials import password
from services.settings import MqttSettings, SettingsError, is_local

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 20
_CONNECT_S = 2.0
_GOODBYE_S = 1.0
_VISIT_S = 5.0
_BACK_OFF_S = 1.0, 60.0
_LONGEST_PACKET = 65536  # longer ones the broker keeps to itself
_LOGIN_REFUSED = ("Not authorized", "Bad user name or password")
_HANGS_UP = "it hangs up; expected mqtt.port and mqtt.tls to fit each other"
_LOGIN = "; expected mqtt.username and mqtt.password_file as the broker knows them"


@dataclass(frozen=True, slots=True)
class Up:
    """The broker is there."""


@dataclass(frozen=True, slots=True)
class Down:
    """The broker is gone: what it has not confirmed may be lost."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker has taken the publication of this number, or says why it does not."""

    number: int
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Received:
    """A message of somebody else's."""

    topic: str
    payload: bytes
    retained: bool
    reply_topic: str | None
    correlation: bytes | None


News = Up | Down | Confirmed | Received


class Link:
    """A connection that comes back by itself, with growing pauses, and says so once each time.

    Every connection is a new one: what was under way when one broke is the caller's to send again. `will` is the topic
    on which others read that it is gone, None for nobody. `tell` hears the news, from other threads, and must return at
    once. Raises SettingsError for a password or certificate that cannot be used.
    """

    def __init__(
        self,
        settings: MqttSettings,
        host: str,
        port: int,
        *,
        client_id: str,
        will: str | None,
        topics: tuple[str, ...],
        tell: Callable[[News], None],
    ) -> None:
        self.where = f"{host}:{port}"
        self._settings, self._host, self._port = settings, host, port
        self._client_id, self._will, self._topics, self._tell = client_id, will, topics, tell
        self._version = MQTTProtocolVersion.MQTTv5
        self._closing = threading.Event()
        self._said_absent = False
        self._up = False
        self._live: paho.MQTTMessageInfo | None = None
        self._client = self._make_client()
        self._thread = threading.Thread(target=self._run, name="mqtt connection", daemon=True)
        self._thread.start()

    def publish(
        self,
        topic: str,
        payload: str,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
        correlation: bytes | None = None,
    ) -> int:
        """Hand a publication over; return the number with which it will be confirmed."""
        properties = None
        if self._version is MQTTProtocolVersion.MQTTv5 and (expiry_s is not None or correlation is not None):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if expiry_s is not None:
                properties.MessageExpiryInterval = expiry_s
            if correlation is not None:
                properties.CorrelationData = correlation
        info = self._client.publish(topic, payload, qos, retain, properties)
        if qos == 0:
            self._live = info
        return info.mid

    @property
    def expires(self) -> bool:
        """Whether the broker throws away what it could not deliver in time."""
        return self._version is MQTTProtocolVersion.MQTTv5

    @property
    def is_stuck(self) -> bool:
        """Whether the last publication without confirmation is not even on its way."""
        live = self._live
        return live is not None and live.rc == paho.MQTT_ERR_SUCCESS and not live.is_published()

    def close(self) -> None:
        """Say goodbye and disconnect; takes a second at most."""
        self._closing.set()
        if self._up and self._will is not None:
            with contextlib.suppress(RuntimeError, ValueError):
                self._client.publish(self._will, "offline", 1, retain=True).wait_for_publish(_GOODBYE_S)
        self._client.disconnect()
        self._thread.join(_GOODBYE_S)

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            failures += 1
            try:
                self._client = self._make_client()
                if self._connect_and_stay():
                    failures = 0
            except SettingsError as error:  # a password that was there before
                self._say_absent(str(error))
            except (OSError, RuntimeError) as error:  # this machine has no file or no thread left
                self._say_absent(f"no connection to {self.where} ({error}); cues go on, and it is tried again")
            self._closing.wait(pause_s(failures))

    def _connect_and_stay(self) -> bool:
        """Connect and wait for the end of that; return whether there was a connection."""
        try:
            if self._version is MQTTProtocolVersion.MQTTv5:
                limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                limits.MaximumPacketSize = _LONGEST_PACKET
                self._client.connect(self._host, self._port, KEEP_ALIVE_S, clean_start=True, properties=limits)
            else:
                self._client.connect(self._host, self._port, KEEP_ALIVE_S)
        except (OSError, ValueError) as error:
            why = "" if isinstance(error, ConnectionRefusedError) else f" ({error})"
            self._say_absent(f"no broker at {self.where}{why}; cues go on, and it is tried again")
            return False
        self._client.loop_start()
        if self._closing.is_set():  # meanwhile
            self._client.disconnect()
        # Whatever ends its thread ends the connection; so a thread that dies is noticed too.
        for thread in threading.enumerate():
            if thread.name == f"paho-mqtt-client-{self._client_id}":
                thread.join()
        if not self._up:
            self._say_absent(f"what is at {self.where} does not answer as a broker; cues go on, and it is tried again")
        was_up, self._up, self._live = self._up, False, None
        if was_up:
            self._tell(Down())
            if not self._closing.is_set():
                self._say_absent(f"the broker at {self.where} is gone; cues go on, and it is tried again")
        return was_up

    def _make_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=self._version,
            reconnect_on_failure=False,
        )
        client.suppress_exceptions = True
        client.connect_timeout = _CONNECT_S
        if self._will is not None:
            client.will_set(self._will, "offline", qos=1, retain=True)
        client.on_socket_open = lambda _, __, connection: send_at_once(connection)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        _secure(client, self._settings, self._host)
        return client

    def _on_connect(self, client: paho.Client, _: Any, __: Any, reason: ReasonCode, ___: Any) -> None:
        if reason.is_failure:
            if reason.getName() == "Unsupported protocol version" and self._version is MQTTProtocolVersion.MQTTv5:
                self._version = MQTTProtocolVersion.MQTTv311
                log.info("the broker at %s does not speak MQTT 5; going on with 3.1.1", self.where)
            else:
                self._say_absent(f"the broker at {self.where} refuses: {reason}")
            return
        if not self._topics:
            self._online()
        elif self._version is MQTTProtocolVersion.MQTTv5:
            client.subscribe([(topic, SubscribeOptions(qos=1, retainAsPublished=True)) for topic in self._topics])
        else:
            client.subscribe([(topic, 1) for topic in self._topics])

    def _on_subscribe(self, _: paho.Client, __: Any, ___: int, reasons: list[ReasonCode], ____: Any) -> None:
        for topic, reason in zip(self._topics, reasons, strict=False):
            if reason.is_failure:
                log.warning("the broker at %s lets nobody hear %s: %s", self.where, topic, reason)
        self._online()

    def _online(self) -> None:
        """Say so only now, when requests are heard."""
        log.info("connected to the broker at %s", self.where)
        self._said_absent = False
        self._up = True
        self._tell(Up())

    def _on_publish(self, _: paho.Client, __: Any, number: int, reason: ReasonCode, ___: Any) -> None:
        if self._live is not None and number == self._live.mid:
            return  # on its way, which is all that is known without confirmation
        self._tell(Confirmed(number, str(reason) if reason.is_failure else None))

    def _on_message(self, _: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
        properties = message.properties
        self._tell(
            Received(
                message.topic,
                bytes(message.payload),
                message.retain,
                getattr(properties, "ResponseTopic", None),
                getattr(properties, "CorrelationData", None),
            )
        )

    def _say_absent(self, text: str) -> None:
        if not self._said_absent:
            self._said_absent = True
            log.warning("%s", text)


def _secure(client: paho.Client, settings: MqttSettings, host: str) -> None:
    """Encrypt as the settings say, with the broker's certificate and name verified, and give user name and password."""
    if settings.tls == "on" or (settings.tls == "auto" and not is_local(host)):
        try:
            client.tls_set(ca_certs=settings.ca_file or None)
        except OSError as error:  # ssl.SSLError is one too
            raise SettingsError(f"mqtt.ca_file: {settings.ca_file}: {error.strerror or error}") from None
    if settings.username:
        client.username_pw_set(settings.username, password(settings))


def visit(settings: MqttSettings, host: str, port: int, empty: Sequence[str] = ()) -> str | None:
    """Connect once as the settings say, and remove what is retained on some topics; return what went wrong, else None.

    Raises SettingsError for a password or certificate that cannot be used.
    """
    answer: queue.Queue[ReasonCode | None] = queue.Queue()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False)
    client.connect_timeout = _CONNECT_S
    client.on_connect = lambda _, __, ___, reason, ____: answer.put(reason)
    client.on_publish = lambda _, __, ___, reason, ____: answer.put(reason)
    client.on_disconnect = lambda *_: answer.put(None)
    _secure(client, settings, host)
    try:
        client.connect(host, port)
    except ssl.SSLError as error:
        return _what_is_wrong(error)
    except ConnectionResetError:
        return _HANGS_UP
    except (OSError, ValueError) as error:
        return str(error)
    client.loop_start()
    try:
        if (reason := answer.get(timeout=_VISIT_S)) is None:
            return _HANGS_UP
        if reason.is_failure:
            return f"it refuses: {reason}{_LOGIN if str(reason) in _LOGIN_REFUSED else ''}"
        for topic in empty:
            client.publish(topic, b"", 1, retain=True)
        for topic in empty:
            if (reason := answer.get(timeout=_VISIT_S)) is None or reason.is_failure:
                return f"{topic}: {reason or _HANGS_UP}"
    except queue.Empty:
        return f"no answer within {_VISIT_S:g} s"
    finally:
        client.disconnect()
        client.loop_stop()
    return None


def _what_is_wrong(error: ssl.SSLError) -> str:
    """Say for people why there is no encrypted connection."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"no TLS ({error.reason or error}); expected mqtt.port and mqtt.tls to fit each other"
    said = f"its certificate is refused: {error.verify_message.rstrip('.')}"
    match error.verify_code:
        case 9 | 10:  # X509_V_ERR_CERT_NOT_YET_VALID, CERT_HAS_EXPIRED
            return f"{said}; expected a valid one, and the right date on both machines"
        case 62 | 64:  # X509_V_ERR_HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
            return f"{said}; expected mqtt.broker to be a name that is in it"
        case _:
            return f"{said}; expected mqtt.ca_file to be the authority that signed it"


def send_at_once(connection: Any) -> None:
    """Send each message as it comes: one right after another would wait 40 ms for the other side to acknowledge."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def pause_s(failures: int) -> float:
    """Return how long to wait before the next attempt: 1 s, doubled with each failure up to 60 s, and 0.5 to 1 of that.

    So a thousand wearers do not all come back at once.
    """
    least, most = _BACK_OFF_S
    return min(most, least * 2.0 ** min(failures, 10)) * float(random.uniform(0.5, 1.0))
