"""The broker: one that is there, else one of our own that never outlives us."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from services.broker import Broker, BrokerError, answers, find_broker, free_port
from services.settings import MqttSettings
from tests.services.conftest import LOOPBACK, eventually, listening

HAVE_A_BROKER = """
import signal, sys
from services.broker import find_broker
from services.settings import MqttSettings
broker = find_broker(MqttSettings(port=int(sys.argv[1])))
print(broker.is_child, flush=True)
signal.pause()
"""


def brokers_of(port: int) -> list[int]:
    """Return the process ids of the brokers that serve this port with a configuration of their own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
            if "-c" in words and f"listener {port} " in Path(words[words.index("-c") + 1]).read_text():
                found.append(int(path.parent.name))
        except (OSError, UnicodeDecodeError):
            continue
    return found


def is_back(broker: Broker) -> bool | None:
    broker.revive()
    return answers(LOOPBACK, broker.port)


def test_a_broker_that_the_settings_name_is_taken_as_it_is() -> None:
    broker = find_broker(MqttSettings(broker="broker.example", port=8883))
    assert (broker.host, broker.port, broker.is_child) == ("broker.example", 8883, False)
    broker.close()


def test_without_a_broker_mosquitto_is_started_and_ended_with_us() -> None:
    port = free_port()
    broker = find_broker(MqttSettings(port=port))
    assert (broker.host, broker.port, broker.is_child) == (LOOPBACK, port, True)
    assert answers(LOOPBACK, port)
    assert len(brokers_of(port)) == 1
    broker.close()
    assert not answers(LOOPBACK, port)
    assert brokers_of(port) == []
    broker.close()


def test_a_broker_that_does_not_answer_any_more_is_ended_all_the_same() -> None:
    port = free_port()
    broker = find_broker(MqttSettings(port=port))
    (child,) = brokers_of(port)
    os.kill(child, signal.SIGSTOP)
    broker.close()
    assert brokers_of(port) == []


def test_our_broker_is_started_again_when_it_dies() -> None:
    port = free_port()
    broker = find_broker(MqttSettings(port=port))
    (child,) = brokers_of(port)
    os.kill(child, signal.SIGKILL)
    eventually(lambda: not answers(LOOPBACK, port))
    eventually(lambda: is_back(broker))
    broker.close()
    assert brokers_of(port) == []


def test_a_broker_that_is_about_to_be_started_again_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    broker = find_broker(MqttSettings(port=free_port()))
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGKILL)
    eventually(broker.is_dead)
    other = find_broker(MqttSettings(port=free_port()))
    eventually(lambda: is_back(broker))
    broker.close()
    other.close()


def test_a_broker_that_runs_is_used_and_left_running() -> None:
    port = free_port()
    first = find_broker(MqttSettings(port=port))
    second = find_broker(MqttSettings(port=port))
    assert (second.host, second.port, second.is_child) == (LOOPBACK, port, False)
    second.close()
    with listening(port, "unshrug/any"):
        pass
    first.close()


def test_our_broker_listens_to_this_machine_only() -> None:
    broker = find_broker(MqttSettings(port=free_port()))
    listeners = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{broker.port:04X}") and line.split()[3] == "0A"
    ]
    broker.close()
    assert listeners == [f"0100007F:{broker.port:04X}"]


def test_a_port_that_cannot_be_had_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"Mosquitto did not start on port {port}: .*[Aa]ddress"):
            find_broker(MqttSettings(port=port))


def test_our_broker_dies_with_us_even_when_we_are_killed(tmp_path: Path) -> None:
    port = free_port()
    parent = subprocess.Popen(
        [sys.executable, "-c", HAVE_A_BROKER, str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    with parent, parent.stdout as said:
        watchdog = threading.Timer(20, parent.kill)
        watchdog.start()
        assert said.readline() == "True\n"
        assert answers(LOOPBACK, port)
        os.kill(parent.pid, signal.SIGKILL)
        watchdog.cancel()
    eventually(lambda: not answers(LOOPBACK, port))
    eventually(lambda: brokers_of(port) == [])


def test_what_is_no_broker_is_not_taken_for_one() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]

        def be_a_web_server() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=be_a_web_server)
        thread.start()
        with pytest.raises(BrokerError, match=f"{LOOPBACK}:{port} is no MQTT broker"):
            find_broker(MqttSettings(port=port))
        thread.join()


def test_what_a_killed_program_leaves_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alive = find_broker(MqttSettings(port=free_port()))
    (left := tmp_path / "unshrug-broker-left").mkdir()
    (left / "lock").touch()
    (left / "pid").write_text(str(os.getpid()))  # given to another process meanwhile
    (other := tmp_path / "unshrug-broker-starting").mkdir()
    second = find_broker(MqttSettings(port=free_port()))
    assert not left.exists()
    assert other.exists()
    assert len(list(tmp_path.glob("unshrug-broker-*"))) == 3
    assert answers(LOOPBACK, alive.port)
    alive.close()
    second.close()
    assert list(tmp_path.iterdir()) == [other]
