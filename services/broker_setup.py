"""A Mosquitto for real use: users, rights and encryption for as many wearers as there are, written as files.

Whatever is there stays: who runs it again adds wearers, and keeps the authority, the passwords and the certificate.
"""

import grp
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.broker import BrokerError, mosquitto
from services.homeassistant import BIRTH, topic_of
from services.settings import is_wearer

_PLAIN_PORT, _TLS_PORT = 1883, 8883
_CA_DAYS, _SERVER_DAYS = 3650, 825
_WEBSOCKETS_BIND = (2, 0, 12)  # before, Mosquitto ignores the address of a WebSocket listener and takes all of them
_SHARED = ("dashboard", "homeassistant")  # users that are no wearers


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the broker is to be like: names that it is reached by, where it listens, and who wears."""

    wearers: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    bind: str | None = None
    websocket: int | None = None
    renew: bool = False


def set_up(folder: Path, wanted: Wanted) -> list[str]:
    """Write everything that Mosquitto needs into a folder; return the lines that say what is to be done next.

    Raises BrokerError for programs that are missing and for what cannot be set up safely.
    """
    for name in wanted.wearers:
        if not is_wearer(name) or name in _SHARED:
            raise BrokerError(f"--wearer {name}: expected 1 to 32 of a-z, 0-9, _ and -, and not {' or '.join(_SHARED)}")
    version = _version()
    if wanted.websocket and wanted.bind and version < _WEBSOCKETS_BIND:
        raise BrokerError(
            f"--websocket: Mosquitto {'.'.join(map(str, version))} would listen everywhere, whatever --bind says; "
            f"expected 2.0.12 or newer, or no --bind"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(mode=0o700, exist_ok=True)
        hosts = _hosts(wanted.hosts)
        _certificates(folder, hosts, renew=wanted.renew)
        everyone = sorted({*wanted.wearers, *_wearers_of(folder)})
        made = _passwords(folder, [*everyone, *_SHARED])
        (folder / "acl").write_text("\n".join(_rights(everyone)) + "\n")
        (folder / "mosquitto.conf").write_text(_configuration(folder, wanted))
        for name in everyone:
            (folder / "users" / name / "unshrug.toml").write_text(_snippet(folder, name, hosts[0]))
        _give_to_mosquitto(folder)
    except OSError as error:
        raise BrokerError(
            f"{error.filename or folder}: {error.strerror}; expected a folder that can be written"
        ) from None
    return list(_next_steps(folder, everyone, made, hosts[0], wanted))


def _version() -> tuple[int, ...]:
    program = mosquitto()
    missing = "mosquitto" if program is None else "mosquitto_passwd" if not shutil.which("mosquitto_passwd") else None
    if missing:
        raise BrokerError(f"{missing} is not on this machine; install it with: sudo apt install mosquitto")
    if not shutil.which("openssl"):
        raise BrokerError("openssl is not on this machine; install it with: sudo apt install openssl")
    assert program is not None
    said = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", said)
    if found is None:
        raise BrokerError(f"{program} does not say its version; expected Mosquitto 2.0 or newer")
    return tuple(map(int, found.groups()))


def _hosts(given: Sequence[str]) -> list[str]:
    own = socket.gethostname()
    return list(dict.fromkeys([*given, own, f"{own}.local", "localhost", "127.0.0.1", "::1"]))


def _certificates(folder: Path, hosts: list[str], *, renew: bool) -> None:
    """Make an authority of our own, once, and the broker's certificate, which is for its names."""
    ca, ca_key, server, server_key = (folder / name for name in ("ca.crt", "ca.key", "server.crt", "server.key"))
    if not (ca.exists() and ca_key.exists()):
        if ca.exists() or ca_key.exists():
            raise BrokerError(f"{folder}: expected both ca.crt and ca.key, or neither; one of them is missing")
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", _CA_DAYS,
            "-keyout", ca_key, "-out", ca, "-extensions", "authority",
            names=f"Unshrug broker {socket.gethostname()}", sections=_AUTHORITY,
        )  # fmt: skip
        renew = True
    if server.exists() and server_key.exists() and not renew:
        return
    with tempfile.TemporaryDirectory(dir=folder) as work:
        request = Path(work, "server.csr")
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", server_key, "-out", request, names=hosts[0],
        )  # fmt: skip
        kinds = [f"{'IP' if _is_address(host) else 'DNS'}:{host}" for host in hosts]
        extensions = Path(work, "extensions")
        extensions.write_text(
            f"subjectAltName={','.join(kinds)}\nbasicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
        )
        _openssl(
            "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-set_serial", f"0x{secrets.token_hex(16)}",
            "-days", _SERVER_DAYS, "-extfile", extensions, "-out", server,
        )  # fmt: skip


_AUTHORITY = "[authority]\nbasicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def _openssl(*arguments: object, names: str = "", sections: str = "") -> None:
    """Run openssl with a configuration of ours alone; nobody else may read what it writes."""
    command = ["openssl", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as work:
        if names:
            config = Path(work, "openssl.cnf")
            config.write_text(
                f"[req]\nprompt=no\ndistinguished_name=names\n[names]\nCN={names[:64]}\n{sections}", encoding="utf-8"
            )
            command += ["-config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, umask=0o077)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise BrokerError(f"openssl {arguments[0]}: {lines[-1] if lines else f'exit code {done.returncode}'}")


def _wearers_of(folder: Path) -> list[str]:
    """Return the wearers that are there from before."""
    return [name for name in _known(folder) if name not in _SHARED and is_wearer(name)]


def _known(folder: Path) -> list[str]:
    path = folder / "passwords"
    return [line.partition(":")[0] for line in path.read_text().splitlines() if line] if path.exists() else []


def _passwords(folder: Path, names: Iterable[str]) -> list[str]:
    """Give a password to everybody who has none; return who got one."""
    new = [name for name in names if name not in _known(folder)]
    clear = {name: secrets.token_urlsafe(24) for name in new}
    for name in names:
        (folder / "users" / name).mkdir(parents=True, exist_ok=True)
    for name, word in clear.items():
        _write_secret(folder / "users" / name / "password", f"{word}\n")
    if new:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            hashed = Path(work, "new")
            _write_secret(hashed, "".join(f"{name}:{word}\n" for name, word in clear.items()))
            # It turns a file of plain passwords into one of hashes, so that none is ever on a command line.
            done = subprocess.run(["mosquitto_passwd", "-U", hashed], capture_output=True, text=True, check=False)
            if done.returncode:
                raise BrokerError(f"mosquitto_passwd: {done.stderr.strip() or done.stdout.strip()}")
            path = folder / "passwords"
            before = path.read_text() if path.exists() else ""
            _write_secret(path, before + hashed.read_text())
    return new


def _write_secret(path: Path, text: str) -> None:
    """Write what only the owner may read, and all of it or nothing."""
    work = path.with_name(f".{path.name}.new")
    work.unlink(missing_ok=True)
    with open(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    work.replace(path)


def _rights(wearers: Iterable[str]) -> Iterable[str]:
    """Say who may read and write what; what is not named is forbidden."""
    yield "# Written by `unshrug mqtt setup`: it is written anew each time."
    for name in wearers:
        yield f"\nuser {name}"
        yield f"topic readwrite unshrug/{name}/#"
        yield f"topic write {topic_of(name)}"
        yield f"topic read {BIRTH}"
    for name in _SHARED:
        yield f"\nuser {name}"
        yield "topic read unshrug/#"
        yield "topic write unshrug/+/cmd/+"
    yield "topic readwrite homeassistant/#"  # of the last one


def _configuration(folder: Path, wanted: Wanted) -> str:
    tls = f"certfile {folder / 'server.crt'}\nkeyfile {folder / 'server.key'}\ntls_version tlsv1.2\n"
    where = f" {wanted.bind}" if wanted.bind else ""
    websocket = f"\nlistener {wanted.websocket}{where}\nprotocol websockets\n{tls}" if wanted.websocket else ""
    return f"""\
# Written by `unshrug mqtt setup`: it is written anew each time.
# Nobody gets in without a password, and from the network only encrypted.
allow_anonymous false
password_file {folder / "passwords"}
acl_file {folder / "acl"}

persistence true
persistence_location {folder / "data"}/
autosave_on_changes true
autosave_interval 1
set_tcp_nodelay true
log_type error
log_type warning
log_type notice

listener {_PLAIN_PORT} 127.0.0.1

listener {_TLS_PORT}{where}
{tls}{websocket}"""


def _snippet(folder: Path, name: str, host: str) -> str:
    return f"""\
# For the settings of {name}; take ca.crt and the password along where the broker is on another machine.
[wearer]
id = "{name}"

[mqtt]
broker = "{host}"
port = {_TLS_PORT}
tls = "on"
ca_file = "{folder / "ca.crt"}"
username = "{name}"
password_file = "{folder / "users" / name / "password"}"
"""


def _give_to_mosquitto(folder: Path) -> None:
    """Let Mosquitto read what it must: it gives up being root. Others get nothing."""
    for name in ("ca.crt", "server.crt", "mosquitto.conf"):
        (folder / name).chmod(0o644)
    if os.geteuid() != 0:
        return
    try:
        group = grp.getgrnam("mosquitto").gr_gid
    except KeyError:
        return
    for name in ("server.key", "passwords", "acl"):
        os.chown(folder / name, 0, group)
        (folder / name).chmod(0o640)
    shutil.chown(folder / "data", "mosquitto", "mosquitto")


def _next_steps(folder: Path, wearers: list[str], made: list[str], host: str, wanted: Wanted) -> Iterable[str]:
    yield f"{folder}: rights for {', '.join(wearers)}; passwords made for {', '.join(made) if made else 'nobody new'}"
    yield "Let Mosquitto run by it:"
    if os.geteuid() == 0:
        yield f"  ln -sf {folder / 'mosquitto.conf'} /etc/mosquitto/mosquitto.conf && systemctl restart mosquitto"
    else:  # the system's own Mosquitto may not read what is ours
        yield f"  mosquitto -c {folder / 'mosquitto.conf'}"
    for name in wearers:
        yield f"Into the settings of {name}: {folder / 'users' / name / 'unshrug.toml'}"
    yield "A dashboard connects with:"
    yield (
        f"  mosquitto_sub -h {host} -p {_TLS_PORT} --cafile {folder / 'ca.crt'} -u dashboard "
        f"-P \"$(cat {folder / 'users' / 'dashboard' / 'password'})\" -v -t 'unshrug/#'"
    )
    if wanted.websocket:
        yield f"  wss://{host}:{wanted.websocket} for a page in the browser, with the same user"
