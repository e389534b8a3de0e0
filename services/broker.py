"""Find a broker, or start Mosquitto for ourselves."""

import contextlib
import fcntl
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from services.settings import MqttSettings

_LOOPBACK = "127.0.0.1"
_START_S = 5.0
_END_S = 2.0
_AGAIN_S = 2.0
_PREFIX = "unshrug-broker-"

log = logging.getLogger(__name__)


class BrokerError(Exception):
    """There is no broker; the message says what was tried and what would help."""


class Broker:
    """Where to connect. A Mosquitto that was started here ends with `close`, and with this process in any case."""

    def __init__(
        self,
        host: str,
        port: int,
        start: Callable[[], subprocess.Popen[bytes]] | None = None,
        folder: str = "",
        lock: IO[str] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.is_child = start is not None
        self._start = start
        self._child = start() if start else None
        self._started_s = time.monotonic()
        self._folder = folder
        self._lock = lock  # held as long as the folder is ours

    @property
    def pid(self) -> int | None:
        """The process id of a broker that is ours, None of another."""
        return None if self._child is None else self._child.pid

    def is_dead(self) -> bool:
        """Say whether the broker is ours and has ended."""
        return self._child is not None and self._child.poll() is not None

    def revive(self) -> None:
        """Start the broker again if it is ours and has died; from the main thread, every now and then."""
        if self._start and self.is_dead() and time.monotonic() - self._started_s > _AGAIN_S:
            log.warning("our MQTT broker ended; it is started again")
            self._started_s = time.monotonic()
            with contextlib.suppress(OSError):
                self._child = self._start()

    def close(self) -> None:
        """Stop the broker if it is ours."""
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            shutil.rmtree(self._folder, ignore_errors=True)
            if self._lock is not None:
                self._lock.close()
            self._child = None


def find_broker(settings: MqttSettings) -> Broker:
    """Return the broker of the settings; for auto one on this machine, else a Mosquitto of our own.

    Call it from the main thread: Linux ends the child when the thread that started it ends.
    Raises BrokerError where there is none to be had.
    """
    if settings.broker != "auto":
        return Broker(settings.broker, settings.port)
    found = answers(_LOOPBACK, settings.port)
    if found:
        return Broker(_LOOPBACK, settings.port)
    if found is False:
        raise BrokerError(f"what listens on {_LOOPBACK}:{settings.port} is no MQTT broker; choose another mqtt.port")
    program = mosquitto()
    if program is None:
        raise BrokerError("no MQTT broker on this machine; install one with: sudo apt install mosquitto")
    return _start(program, settings.port)


def free_port() -> int:
    """Return a port on loopback that nobody listens on."""
    with socket.create_server((_LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


def mosquitto() -> str | None:
    """Return the path of Mosquitto, which Debian puts where users do not look."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def answers(host: str, port: int) -> bool | None:
    """Whether an MQTT broker answers there; None where nobody listens. A refusal is an answer too."""
    connect = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x05\x00\x00"
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(connect)
                return connection.recv(1) == b"\x20"
            return False
    except OSError:
        return None


def _tidy() -> None:
    """Remove what brokers of ours have left whose program was killed.

    Where the lock can be had that program has ended; its Mosquitto may still run where nothing ends it too.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            if folder.lstat().st_uid != os.geteuid():
                continue
            with Path(folder, "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _runs(int(Path(folder, "pid").read_text()), folder):
                    shutil.rmtree(folder)


def _runs(pid: int, folder: Path) -> bool:
    try:
        return str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _start(program: str, port: int) -> Broker:
    _tidy()
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    lock = Path(folder, "lock").open("w")  # noqa: SIM115 - the broker holds it
    fcntl.flock(lock, fcntl.LOCK_EX)
    config = Path(folder, "mosquitto.conf")
    # As root, Mosquitto would become another user, which cancels its ending with its parent.
    user = "user root\n" if os.geteuid() == 0 else ""
    # Without nodelay a message that follows another waits 40 ms for the reader's TCP to acknowledge the first.
    # It keeps nothing: what is retained comes from us again, and a card should not be written to every second.
    common = "allow_anonymous true\npersistence false\nset_tcp_nodelay true\nlog_type error\n"
    config.write_text(f"listener {port} {_LOOPBACK}\n{common}{user}")
    command = [program, "-c", str(config)]
    if dies_with_parent := shutil.which("setpriv"):
        command = [dies_with_parent, "--pdeathsig", "TERM", *command]
    said = Path(folder, "stderr.txt")

    def start() -> subprocess.Popen[bytes]:
        with said.open("wb") as stderr:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for us; the broker has to carry our goodbye
            )
        Path(folder, "pid").write_text(str(child.pid))
        return child

    broker = Broker(_LOOPBACK, port, start, folder, lock)
    until = time.monotonic() + _START_S
    while not broker.is_dead() and time.monotonic() < until:
        if answers(_LOOPBACK, port):
            return broker
        time.sleep(0.02)
    lines = said.read_text(errors="replace").strip().splitlines()
    broker.close()
    raise BrokerError(f"Mosquitto did not start on port {port}: {lines[-1] if lines else 'it said nothing'}")
