"""A broker for real use: who may come in, who may read and command whom, and that running it again loses nothing."""

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from services.broker import BrokerError, answers, free_port, mosquitto
from services.broker_setup import Wanted, set_up
from services.credentials import password
from services.mqtt import visit
from services.settings import MqttSettings, SettingsError, load_settings
from tests.services.conftest import LOOPBACK, eventually, unshrug

REFUSED = "it refuses: Not authorized; expected mqtt.username and mqtt.password_file as the broker knows them"


@dataclass
class Guarded:
    """A broker that was set up, with its ports."""

    folder: Path
    plain: int
    tls: int

    def settings(self, name: str, **more: Any) -> MqttSettings:
        """Return how somebody connects over TLS."""
        word = self.folder / "users" / name / "password"
        return replace(
            MqttSettings(
                broker=LOOPBACK, port=self.tls, tls="on", ca_file=str(self.folder / "ca.crt"), username=name,
                password_file=str(word),
            ),
            **more,
        )  # fmt: skip

    def client(self, name: str) -> "Client":
        return Client(self, name)


class Client:
    """Somebody with a password, who hears what may be heard."""

    def __init__(self, broker: Guarded, name: str) -> None:
        self.heard: list[tuple[str, str]] = []
        self.refused: list[str] = []
        settings = broker.settings(name)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.tls_set(settings.ca_file)
        self._client.username_pw_set(name, password(settings))
        self._client.on_message = lambda _, __, m: self.heard.append((m.topic, m.payload.decode()))
        self._client.on_publish = lambda _, __, ___, reason, ____: (
            self.refused.append(str(reason)) if reason.is_failure else None
        )
        self._client.connect(LOOPBACK, broker.tls)
        self._client.loop_start()
        eventually(self._client.is_connected)

    def subscribe(self, topic: str) -> None:
        done: list[object] = []
        self._client.on_subscribe = lambda *_: done.append(_)
        self._client.subscribe(topic, 1)
        eventually(lambda: done)

    def publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, 1, retain).wait_for_publish(5)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def running(
    folder: Path,
    *wearers: str,
    wanted: Wanted | None = None,
    then: Callable[[Path], None] = lambda _: None,
    as_root: bool = True,
) -> Iterator[Guarded]:
    """Set a broker up and run it, on ports that are free; `then` may change something before it starts."""
    set_up(folder, wanted or Wanted(wearers))
    then(folder)
    made = Guarded(folder, free_port(), free_port())
    program = mosquitto()
    assert program is not None
    text = (folder / "mosquitto.conf").read_text()
    text = text.replace("listener 1883", f"listener {made.plain}").replace("listener 8883", f"listener {made.tls}")
    config = folder / "test.conf"
    # pytest's folders are closed to others
    config.write_text(text + ("user root\n" if os.geteuid() == 0 and as_root else ""))
    child = subprocess.Popen([program, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: answers(LOOPBACK, made.plain))
        yield made
    finally:
        child.terminate()
        child.wait()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with running(tmp_path_factory.mktemp("broker"), "anna", "ben") as made:
        yield made


@pytest.fixture
def people(guarded: Guarded) -> Iterator[dict[str, Client]]:
    everybody = {name: guarded.client(name) for name in ("anna", "ben", "dashboard", "homeassistant")}
    yield everybody
    for client in everybody.values():
        client.close()


def test_a_wearer_can_neither_read_nor_command_another(people: dict[str, Client]) -> None:
    anna, ben, dashboard = people["anna"], people["ben"], people["dashboard"]
    for client in (anna, ben, dashboard):
        client.subscribe("unshrug/#")
    ben.subscribe("unshrug/anna/state")
    anna.publish("unshrug/anna/state", "hers")
    ben.publish("unshrug/anna/cmd/snooze", '{"minutes":720}')
    ben.publish("unshrug/anna/status", "offline", retain=True)
    ben.publish("homeassistant/device/unshrug_anna/config", "", retain=True)
    ben.publish("unshrug/ben/state", "his")
    dashboard.publish("unshrug/anna/cmd/resume", "{}")
    dashboard.publish("unshrug/anna/state", "forged")
    eventually(lambda: ("unshrug/anna/cmd/resume", "{}") in anna.heard and ("unshrug/ben/state", "his") in ben.heard)
    anna.publish("unshrug/anna/reply", "last")
    eventually(lambda: ("unshrug/anna/reply", "last") in dashboard.heard)
    assert anna.heard == [
        ("unshrug/anna/state", "hers"),
        ("unshrug/anna/cmd/resume", "{}"),
        ("unshrug/anna/reply", "last"),
    ]
    assert set(ben.heard) == {("unshrug/ben/state", "his")}
    assert {topic for topic, _ in dashboard.heard} == {
        "unshrug/anna/state", "unshrug/anna/cmd/resume", "unshrug/ben/state", "unshrug/anna/reply",
    }  # fmt: skip
    assert [payload for topic, payload in dashboard.heard if topic == "unshrug/anna/state"] == ["hers"]
    assert len(ben.refused) == 3
    assert len(dashboard.refused) == 1


def test_a_wearer_can_announce_itself_to_home_assistant_and_hear_it_start(people: dict[str, Client]) -> None:
    anna, home = people["anna"], people["homeassistant"]
    home.subscribe("homeassistant/#")
    anna.subscribe("homeassistant/status")
    anna.publish("homeassistant/device/unshrug_anna/config", "{}")
    home.publish("homeassistant/status", "online")
    eventually(lambda: ("homeassistant/device/unshrug_anna/config", "{}") in home.heard)
    eventually(lambda: ("homeassistant/status", "online") in anna.heard)


def test_nobody_comes_in_without_a_password_nor_with_a_wrong_one(guarded: Guarded, tmp_path: Path) -> None:
    nobody = MqttSettings(broker=LOOPBACK, tls="off")
    assert visit(nobody, LOOPBACK, guarded.plain) == REFUSED
    assert visit(guarded.settings("anna", username="", password_file=""), LOOPBACK, guarded.tls) is not None
    wrong = tmp_path / "wrong"
    wrong.write_text("guess")
    wrong.chmod(0o600)
    said = visit(guarded.settings("anna", password_file=str(wrong)), LOOPBACK, guarded.tls)
    assert said == REFUSED
    assert visit(guarded.settings("ben", username="anna"), LOOPBACK, guarded.tls) == REFUSED
    assert visit(guarded.settings("anna"), LOOPBACK, guarded.tls) is None


# paho leaves the socket of a handshake that failed to the garbage collection.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_another_authority_and_another_name_are_refused(guarded: Guarded, tmp_path: Path) -> None:
    set_up(tmp_path / "other", Wanted(("x",)))
    other = guarded.settings("anna", ca_file=str(tmp_path / "other" / "ca.crt"))
    said = visit(other, LOOPBACK, guarded.tls) or ""
    assert said.startswith("its certificate is refused: ")
    assert said.endswith("expected mqtt.ca_file to be the authority that signed it")
    said = visit(guarded.settings("anna"), "127.0.0.2", guarded.tls) or ""
    assert "not valid for '127.0.0.2'; expected mqtt.broker to be a name that is in it" in said
    assert visit(guarded.settings("anna", ca_file=""), LOOPBACK, guarded.tls), "nor is it one that everybody trusts"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_certificate_that_has_expired_is_refused_and_renewed(tmp_path: Path) -> None:
    set_up(tmp_path, Wanted(("anna",)))
    expire(tmp_path)
    with pytest.raises(BrokerError, match=r"server\.crt: .*certificate has expired; --renew makes another"):
        set_up(tmp_path, Wanted(("anna",)))
    with running(tmp_path, wanted=Wanted(("anna",), renew=True), then=expire) as broker:
        said = visit(broker.settings("anna"), LOOPBACK, broker.tls) or ""
        assert said.startswith("its certificate is refused: certificate has expired; expected a valid one")
    with running(tmp_path, wanted=Wanted(("anna",), renew=True)) as broker:
        assert visit(broker.settings("anna"), LOOPBACK, broker.tls) is None


def expire(folder: Path) -> None:
    """Sign the broker's certificate anew, for yesterday."""
    certificate, key, request = folder / "server.crt", folder / "server.key", folder / "again.csr"
    for arguments in (
        ["req", "-new", "-key", key, "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1", "-out", request],
        ["x509", "-req", "-in", request, "-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-set_serial", "7",
         "-days", "-1", "-copy_extensions", "copy", "-out", certificate],
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_is_not_encrypted_is_not_spoken_to(guarded: Guarded) -> None:
    assert answers(LOOPBACK, guarded.tls) in (False, None)
    said = visit(guarded.settings("anna"), LOOPBACK, guarded.plain) or ""
    assert said.endswith("expected mqtt.port and mqtt.tls to fit each other")
    said = visit(MqttSettings(broker=LOOPBACK, tls="off"), LOOPBACK, guarded.tls) or ""
    assert said.endswith("expected mqtt.port and mqtt.tls to fit each other")


def test_a_page_needs_a_password_and_encryption_too(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, wanted=Wanted(("anna",), websocket=port)) as broker:
        word = password(broker.settings("dashboard"))
        assert page(broker, port, "dashboard", word) == "Success"
        assert page(broker, port, "dashboard", "guess") == "Not authorized"
        assert page(broker, port, None, None) == "Not authorized"
        with socket.create_connection((LOOPBACK, port), timeout=5) as plain, contextlib.suppress(ConnectionResetError):
            plain.sendall(
                b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
                b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
            )
            assert b" 101 " not in plain.recv(1000)


def page(broker: Guarded, port: int, name: str | None, word: str | None) -> str:
    """Connect as a page does; return what the broker says."""
    said: list[str] = []
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        protocol=MQTTProtocolVersion.MQTTv5,
        transport="websockets",
        reconnect_on_failure=False,
    )
    client.connect_timeout = 2.0
    client.on_connect = lambda _, __, ___, reason, ____: said.append(str(reason))
    client.tls_set(str(broker.folder / "ca.crt"))
    if name:
        client.username_pw_set(name, word)
    client.connect(LOOPBACK, port)
    client.loop_start()
    eventually(lambda: said)
    client.disconnect()
    client.loop_stop()
    return said[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up being root")
def test_mosquitto_can_read_what_root_wrote_with_any_umask() -> None:
    # Not below pytest's folders, which are closed to others.
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        before = os.umask(0o077)
        try:
            with running(Path(outer, "etc", "broker"), "anna", as_root=False) as broker:
                assert visit(broker.settings("anna"), LOOPBACK, broker.tls) is None
                anna = broker.client("anna")
                anna.publish("unshrug/anna/state", "kept", retain=True)
                anna.close()
                saved = broker.folder / "data" / "mosquitto.db"
                eventually(saved.exists)
                assert saved.owner() == "mosquitto"
        finally:
            os.umask(before)


def test_retained_messages_are_there_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path, "anna") as broker:
        anna = broker.client("anna")
        anna.publish("unshrug/anna/state", "kept", retain=True)
        anna.close()
        eventually((tmp_path / "data" / "mosquitto.db").exists)
    with running(tmp_path, "anna") as broker:
        anna = broker.client("anna")
        anna.subscribe("unshrug/anna/state")
        eventually(lambda: anna.heard == [("unshrug/anna/state", "kept")])
        anna.close()


def test_running_it_again_adds_a_wearer_and_keeps_everything(tmp_path: Path) -> None:
    set_up(tmp_path, Wanted(("anna",)))
    kept = ("ca.crt", "ca.key", "server.crt", "server.key", "users/anna/password", "users/dashboard/password")
    before = {name: (tmp_path / name).read_bytes() for name in kept}
    line = next(line for line in (tmp_path / "passwords").read_text().splitlines() if line.startswith("anna:"))
    said = set_up(tmp_path, Wanted(("ben",)))
    assert "passwords made for ben" in said[0]
    assert not any("certificate" in line for line in said)
    assert {name: (tmp_path / name).read_bytes() for name in kept} == before
    assert line in (tmp_path / "passwords").read_text().splitlines()
    with running(tmp_path, "ben") as broker:
        for name in ("anna", "ben", "dashboard"):
            assert visit(broker.settings(name), LOOPBACK, broker.tls) is None
    set_up(tmp_path, Wanted(("ben",), hosts=("pi.example",), renew=True))
    assert (tmp_path / "ca.crt").read_bytes() == before["ca.crt"]
    assert (tmp_path / "server.crt").read_bytes() != before["server.crt"]


def test_a_password_that_was_taken_away_to_its_wearer_stays_valid(tmp_path: Path) -> None:
    set_up(tmp_path, Wanted(("anna",)))
    away = tmp_path / "away"
    (tmp_path / "users" / "anna" / "password").rename(away)
    assert "passwords made for nobody new" in set_up(tmp_path, Wanted(("anna",)))[0]
    with running(tmp_path, "anna") as broker:
        assert visit(broker.settings("anna", password_file=str(away)), LOOPBACK, broker.tls) is None


def test_only_who_must_can_read_the_secrets_and_none_is_said_aloud(tmp_path: Path) -> None:
    done = unshrug("mqtt", "setup", "--dir", tmp_path / "b", "--wearer", "anna")
    assert done.returncode == 0
    for path in (tmp_path / "b").rglob("*"):
        mode = path.stat().st_mode & 0o777
        if path.name in ("ca.key", "password"):
            assert mode == 0o600, path
        elif path.name in ("server.key", "passwords", "acl") and os.geteuid() == 0:
            assert mode == 0o640, path
        if path.name == "password":
            assert path.read_text().strip() not in done.stdout + done.stderr
            assert path.read_text().strip() not in (tmp_path / "b" / "passwords").read_text()
    settings = load_settings(tmp_path / "b" / "users" / "anna" / "unshrug.toml")
    assert (settings.wearer.id, settings.mqtt.username, settings.mqtt.tls) == ("anna", "anna", "on")
    assert password(settings.mqtt)
    assert (password(settings.mqtt) or "") not in repr(settings)


@pytest.mark.parametrize("name", ["Anna", "", "a" * 33, "a/b", "anna\ntopic readwrite #", "dashboard", "homeassistant"])
def test_a_wearer_that_is_no_plain_name_is_refused(tmp_path: Path, name: str) -> None:
    done = unshrug("mqtt", "setup", "--dir", tmp_path / "b", "--wearer", name)
    assert done.returncode == 1
    assert done.stderr.startswith("unshrug: --wearer")
    assert not (tmp_path / "b").exists()


def test_a_websocket_listener_never_listens_where_it_should_not(tmp_path: Path) -> None:
    set_up(tmp_path / "all", Wanted(("anna",), websocket=9001))
    text = (tmp_path / "all" / "mosquitto.conf").read_text()
    assert re.search(r"listener 9001\nprotocol websockets\ncertfile", text)
    program = mosquitto()
    assert program is not None
    said = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
    old = tuple(map(int, said.split("version ")[1].split()[0].split("."))) < (2, 0, 12)
    bound = Wanted(("anna",), bind=LOOPBACK, websocket=9001)
    if old:
        with pytest.raises(BrokerError, match="would listen everywhere, whatever --bind says"):
            set_up(tmp_path / "bound", bound)
    else:
        set_up(tmp_path / "bound", bound)
        assert f"listener 9001 {LOOPBACK}\n" in (tmp_path / "bound" / "mosquitto.conf").read_text()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--bind", "0.0.0.0\nallow_anonymous true"), ("--bind", "everywhere"),
        ("--host", "pi\nbasicConstraints=CA:TRUE"), ("--host", "pi,IP:10.0.0.1"), ("--host", ""),
        ("--websocket", "8883"),
    ],
)  # fmt: skip
def test_no_option_gets_a_line_of_its_own_into_a_file(tmp_path: Path, option: str, value: str) -> None:
    done = unshrug("mqtt", "setup", "--dir", tmp_path / "b", option, value)
    assert done.returncode == 1
    assert re.fullmatch(rf"unshrug: {option} .*: expected .*\n", done.stderr)
    assert not (tmp_path / "b").exists()


def test_what_was_chosen_before_stays_until_something_else_is_chosen(tmp_path: Path) -> None:
    def lines() -> list[str]:
        return [line for line in (tmp_path / "mosquitto.conf").read_text().splitlines() if line.startswith("listener")]

    set_up(tmp_path, Wanted(("anna",), hosts=("pi.example",), bind="127.0.0.9"))
    everything = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    set_up(tmp_path, Wanted(("anna",)))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == everything
    set_up(tmp_path, Wanted(("ben",)))
    assert lines() == ["listener 1883 127.0.0.1", "listener 8883 127.0.0.9"]
    assert load_settings(tmp_path / "users" / "ben" / "unshrug.toml").mqtt.broker == "pi.example"
    set_up(tmp_path, Wanted(("ben",), bind="all", websocket=9001))
    set_up(tmp_path, Wanted(("ben",)))
    assert lines() == ["listener 1883 127.0.0.1", "listener 8883", "listener 9001"]
    set_up(tmp_path, Wanted(("ben",), websocket=0))
    assert lines() == ["listener 1883 127.0.0.1", "listener 8883"]


def test_another_name_is_in_a_new_certificate_and_the_old_ones_too(tmp_path: Path) -> None:
    set_up(tmp_path, Wanted(("anna",), hosts=("pi.example",)))
    said = set_up(tmp_path, Wanted(("anna",), hosts=("10.1.2.3",)))
    assert any(line.startswith("A new certificate for the broker, good for 10.1.2.3, pi.example") for line in said)
    for check in (["-checkhost", "pi.example"], ["-checkip", "10.1.2.3"]):
        command = ["openssl", "x509", "-in", str(tmp_path / "server.crt"), "-noout", *check]
        assert "does match" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["mosquitto.conf", "acl"])
def test_a_file_of_somebody_else_stays_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("listener 1883\n")
    with pytest.raises(BrokerError, match=f"{name}: not written by `unshrug mqtt setup`, so it stays"):
        set_up(tmp_path, Wanted(("anna",)))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "listener 1883\n"


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("passwords", b"anna", "passwords, line 1: damaged; expected NAME:HASH"),
        ("passwords", b"\xff\xfe", "passwords: damaged; expected text"),
        ("mosquitto.conf", b"# Written by `unshrug mqtt setup`, anew each time.\n", "is damaged"),
        ("ca.crt", b"damaged", r"ca\.crt: damaged, or ca\.key is not its key"),
        ("server.key", b"damaged", r"server\.crt: damaged, or server\.key is not its key; --renew makes both anew"),
    ],
)
def test_a_damaged_file_is_a_clear_error_and_nothing_is_changed(
    tmp_path: Path, name: str, damage: bytes, said: str
) -> None:
    set_up(tmp_path, Wanted(("anna",)))
    (tmp_path / name).write_bytes(damage)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(BrokerError, match=said):
        set_up(tmp_path, Wanted(("ben",)))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    if name == "server.key":
        with running(tmp_path, wanted=Wanted(("anna",), renew=True)) as broker:
            assert visit(broker.settings("anna"), LOOPBACK, broker.tls) is None


def test_users_that_somebody_added_keep_their_password_and_become_no_wearers(tmp_path: Path) -> None:
    set_up(tmp_path, Wanted(("anna",)))
    subprocess.run(["mosquitto_passwd", "-b", tmp_path / "passwords", "guest", "word"], check=True, capture_output=True)
    line = (tmp_path / "passwords").read_text().splitlines()[-1]
    set_up(tmp_path, Wanted(("ben",)))
    assert line in (tmp_path / "passwords").read_text().splitlines()
    assert "guest" not in (tmp_path / "acl").read_text()


def test_what_somebody_adds_in_a_file_of_their_own_counts_and_stays(tmp_path: Path) -> None:
    set_up(tmp_path, Wanted(("anna",)))
    port = free_port()
    (tmp_path / "conf.d" / "more.conf").write_text(f"listener {port} {LOOPBACK}\n")
    with running(tmp_path, "ben"):
        eventually(lambda: answers(LOOPBACK, port))
        assert visit(MqttSettings(broker=LOOPBACK, tls="off"), LOOPBACK, port) == REFUSED, "no password, no entry"


def test_a_folder_may_be_called_as_one_likes(tmp_path: Path) -> None:
    folder = tmp_path / 'Anna\'s "broker" \\ 1'
    with running(folder, "anna") as broker:
        assert visit(broker.settings("anna"), LOOPBACK, broker.tls) is None
    assert load_settings(folder / "users" / "anna" / "unshrug.toml").mqtt.ca_file == str(folder / "ca.crt")
    with pytest.raises(BrokerError, match="expected a name that can be printed"):
        set_up(tmp_path / "a\nallow_anonymous true", Wanted(("anna",)))


def test_half_an_authority_is_not_made_into_another(tmp_path: Path) -> None:
    set_up(tmp_path, Wanted(("anna",)))
    (tmp_path / "ca.key").unlink()
    before = (tmp_path / "ca.crt").read_bytes()
    with pytest.raises(BrokerError, match=r"expected both ca\.crt and ca\.key"):
        set_up(tmp_path, Wanted(("anna",)))
    assert (tmp_path / "ca.crt").read_bytes() == before


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = unshrug("mqtt", "setup", "--dir", tmp_path / "file" / "b")
    assert done.returncode == 1
    assert "expected a folder that can be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Secrets


def secret(path: Path, text: str = "word\n", mode: int = 0o600) -> MqttSettings:
    path.write_text(text)
    path.chmod(mode)
    return MqttSettings(username="anna", password_file=str(path))


def test_the_password_is_all_but_the_end_of_the_line(tmp_path: Path) -> None:
    assert password(secret(tmp_path / "p", " two words \r\n")) == " two words "
    assert password(MqttSettings()) is None


def test_an_empty_password_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="empty; expected the password"):
        password(secret(tmp_path / "p", "\n"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_password_of_another_user_is_refused(tmp_path: Path) -> None:
    settings = secret(tmp_path / "p")
    os.chown(tmp_path / "p", 12345, -1)
    with pytest.raises(SettingsError, match="another user's"):
        password(settings)


def test_systemd_may_pass_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert password(MqttSettings(username="anna")) is None
    given = secret(tmp_path / "mqtt-password", mode=0o440)  # as it lies there
    assert password(MqttSettings(username="anna")) == "word"
    assert password(given) == "word"
    elsewhere = tmp_path / ".." / f"{tmp_path.name}-elsewhere"
    with pytest.raises(SettingsError, match="others may read"):
        password(secret(elsewhere.resolve(), mode=0o440))


@pytest.mark.parametrize("host", ["10.0.0.1", "broker.example", "127.0.0.1.example", "127.example"])
def test_a_password_in_clear_over_the_network_is_refused(tmp_path: Path, host: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'[mqtt]\nbroker = "{host}"\ntls = "off"\nusername = "anna"\n')
    with pytest.raises(SettingsError, match=r"mqtt\.tls: off would send the password"):
        load_settings(path)
    path.write_text('[mqtt]\nbroker = "127.0.0.1"\ntls = "off"\nusername = "anna"\n')
    assert load_settings(path).mqtt.username == "anna"


def test_an_empty_folder_of_credentials_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "")
    with pytest.raises(SettingsError, match="others may read"):
        password(secret(tmp_path / "p", mode=0o644))


# Looking, and forgetting


def config_of(broker: Guarded, folder: Path, name: str = "anna", **changes: object) -> Path:
    mqtt = {"broker": LOOPBACK, "port": broker.tls, "tls": "on", "ca_file": broker.folder / "ca.crt"}
    mqtt |= {"username": name, "password_file": broker.folder / "users" / name / "password", **changes}
    lines = [f"{key} = {_toml(value)}" for key, value in mqtt.items()]
    path = folder / "unshrug.toml"
    path.write_text("\n".join([f'[wearer]\nid = "{name}"', "[mqtt]", *lines]) + "\n")
    return path


def _toml(value: object) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'


def test_check_tries_the_real_thing(guarded: Guarded, tmp_path: Path) -> None:
    def broker_line(path: Path) -> str:
        done = unshrug("check", "--config", path, "--port", "loop://")
        return next(line for line in done.stdout.splitlines() if line.split()[1] == "broker")

    assert broker_line(config_of(guarded, tmp_path)).startswith("ok")
    wrong = broker_line(config_of(guarded, tmp_path, username="ben"))
    assert wrong.startswith("FAIL")
    assert "Not authorized" in wrong
    untrusted = broker_line(config_of(guarded, tmp_path, ca_file=""))
    assert untrusted.startswith("FAIL")
    assert "certificate" in untrusted


def test_forget_takes_the_wearer_off_the_broker_and_away_from_home_assistant(guarded: Guarded, tmp_path: Path) -> None:
    topics = [f"unshrug/ben/{topic}" for topic in ("status", "info", "state", "summary/day")]
    topics.append("homeassistant/device/unshrug_ben/config")
    ben, other = guarded.client("ben"), guarded.client("anna")
    for topic in topics:
        ben.publish(topic, "kept", retain=True)
    other.publish("unshrug/anna/state", "stays", retain=True)
    done = unshrug("mqtt", "forget", "--config", config_of(guarded, tmp_path, "ben"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "ben is removed" in done.stdout
    home = guarded.client("homeassistant")
    home.subscribe("unshrug/#")
    home.subscribe("homeassistant/#")
    eventually(lambda: ("unshrug/anna/state", "stays") in home.heard)
    time.sleep(0.1)
    assert not set(topics) & {topic for topic, _ in home.heard}
    for client in (ben, other, home):
        client.close()


def test_forget_without_a_broker_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "unshrug.toml"
    path.write_text(f'[wearer]\nid = "gone"\n[mqtt]\nport = {free_port()}\n')
    done = unshrug("mqtt", "forget", "--config", path)
    assert done.returncode == 1
    assert re.fullmatch(r"unshrug: 127\.0\.0\.1:\d+: .*refused.*\n", done.stderr)
