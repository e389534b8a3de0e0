"""A Mosquitto for real use: users, rights and encryption for as many wearers as there are, written as files.

Whatever is there stays: who runs it again adds wearers, and keeps the authority, the passwords and the certificate.
"""

import grp
import ipaddress
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from services.broker import BrokerError, mosquitto
from services.homeassistant import BIRTH, topic_of
from services.settings import is_wearer

_PLAIN_PORT, _TLS_PORT = 1883, 8883
_CA_DAYS, _SERVER_DAYS = 3650, 825
_WEBSOCKETS_BIND = (2, 0, 12)  # before, Mosquitto ignores the address of a WebSocket listener and takes all of them
_SHARED = ("dashboard", "homeassistant")  # users that are no wearers
_ALL = "all"  # addresses of this machine
_OURS = "# Written by `unshrug mqtt setup`, anew each time."
_CHOICES = "# Choices that stay: "


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the broker is to be like: names that it is reached by, where it listens, and who wears.

    What is left out stays as it was; at first the broker listens on all addresses, without WebSockets (port 0).
    """

    wearers: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    bind: str | None = None
    websocket: int | None = None
    renew: bool = False


def set_up(folder: Path, wanted: Wanted) -> list[str]:
    """Write everything that Mosquitto needs into a folder; return the lines that say what is to be done next.

    Raises BrokerError for programs that are missing, for what cannot be set up safely, and for files that are not ours
    or damaged; these stay as they are.
    """
    _refuse_what_is_no_name(folder, wanted)
    version = _version()
    try:
        before = _before(folder)
        wanted = _completed(wanted, before)
        if wanted.websocket and wanted.bind != _ALL and version < _WEBSOCKETS_BIND:
            raise BrokerError(
                f"--websocket: Mosquitto {'.'.join(map(str, version))} would listen everywhere, whatever --bind says; "
                f"expected 2.0.12 or newer, or --bind {_ALL}"
            )
        known = _known(folder)
        _make_folders(folder)
        renewed = _certificates(folder, wanted.hosts, renew=wanted.renew or set(wanted.hosts) != set(before.hosts))
        everyone = sorted({*wanted.wearers, *_wearers_of(folder, known)})
        made = _passwords(folder, [*everyone, *_SHARED], known)
        _write(folder / "acl", "\n".join(_rights(everyone)) + "\n")
        _write(folder / "mosquitto.conf", _configuration(folder, wanted))
        for name in everyone:
            _write(folder / "users" / name / "unshrug.toml", _snippet(folder, name, wanted.hosts[0]))
        _give_to_mosquitto(folder)
    except OSError as error:
        raise BrokerError(
            f"{error.filename or folder}: {error.strerror}; expected a folder that can be written"
        ) from None
    return list(_next_steps(folder, everyone, made, wanted, renewed=renewed))


def _refuse_what_is_no_name(folder: Path, wanted: Wanted) -> None:
    """Nothing but names, addresses and ports gets into a file: a line more in one could open the broker to anybody."""
    for name in wanted.wearers:
        if not is_wearer(name) or name in _SHARED:
            raise BrokerError(
                f"--wearer {name!r}: expected 1 to 32 of a-z, 0-9, _ and -, and not {' or '.join(_SHARED)}"
            )
    for host in wanted.hosts:
        if not _is_host(host):
            raise BrokerError(f"--host {host!r}: expected a host name or an address")
    if wanted.bind is not None and wanted.bind != _ALL and not _is_address(wanted.bind):
        raise BrokerError(f"--bind {wanted.bind!r}: expected an IP address of this machine, or {_ALL}")
    if wanted.websocket in (_PLAIN_PORT, _TLS_PORT):
        raise BrokerError(f"--websocket {wanted.websocket}: expected another port; that one is taken by MQTT")
    if not str(folder).isprintable():
        raise BrokerError(f"--dir {str(folder)!r}: expected a name that can be printed")


def _before(folder: Path) -> Wanted:
    """Return what was chosen before, if anything was. Raises BrokerError for files of somebody else's."""
    for path in (folder / "acl", folder / "mosquitto.conf"):
        if path.exists() and not _text(path).startswith(_OURS):
            raise BrokerError(f"{path}: not written by `unshrug mqtt setup`, so it stays; expected another --dir")
    path = folder / "mosquitto.conf"
    if not path.exists():
        return Wanted(())
    try:
        line = next(line for line in _text(path).splitlines() if line.startswith(_CHOICES))
        hosts, bind, websocket = json.loads(line.removeprefix(_CHOICES))
        chosen = Wanted((), tuple(map(str, hosts)), str(bind), int(websocket))
    except (StopIteration, ValueError, TypeError):
        raise BrokerError(f'{path}: its line "{_CHOICES.strip()}" is damaged; expected it as it was written') from None
    _refuse_what_is_no_name(folder, chosen)
    return chosen


def _completed(wanted: Wanted, before: Wanted) -> Wanted:
    """Fill in what was left out: as before, else all addresses and no WebSockets. The first host is its name."""
    own = socket.gethostname().removesuffix(".local")
    here = [own, f"{own}.local"] if _is_host(own) else []
    hosts = dict.fromkeys([*wanted.hosts, *before.hosts, *here, "localhost", "127.0.0.1", "::1"])
    websocket = before.websocket if wanted.websocket is None else wanted.websocket
    return replace(wanted, hosts=tuple(hosts), bind=wanted.bind or before.bind or _ALL, websocket=websocket or 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BrokerError(f"{path}: damaged; expected text") from None


def _make_folders(folder: Path) -> None:
    """Make the folder so that Mosquitto, which gives up being root, can go in, whatever our umask."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        path.chmod(0o755)
    (folder / "data").mkdir(mode=0o700, exist_ok=True)
    (folder / "conf.d").mkdir(exist_ok=True)
    (folder / "conf.d").chmod(0o755)


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


def _certificates(folder: Path, hosts: tuple[str, ...], *, renew: bool) -> bool:
    """Make an authority of our own, once, and the broker's certificate, which is for its names.

    Return whether there is a new certificate. What is there is replaced only by what is complete.
    """
    ca, ca_key, server, server_key = (folder / name for name in ("ca.crt", "ca.key", "server.crt", "server.key"))
    if ca.exists() != ca_key.exists():
        raise BrokerError(f"{folder}: expected both ca.crt and ca.key, or neither; one of them is missing")
    if not ca.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _make_authority(Path(work))
            _move(Path(work), ca_key, ca)
    _refuse_strangers(ca, ca_key, "expected them as they were written")
    if server.exists() and server_key.exists() and not renew:
        _refuse_strangers(server, server_key, "--renew makes both anew")
        _openssl("verify", "-CAfile", ca, server, hint="; --renew makes another")
        return False
    with tempfile.TemporaryDirectory(dir=folder) as work:
        _make_certificate(Path(work), ca, ca_key, hosts)
        _openssl("verify", "-CAfile", ca, Path(work, "server.crt"))
        _move(Path(work), server_key, server)
    return True


def _refuse_strangers(certificate: Path, key: Path, hint: str) -> None:
    """Refuse a certificate and a key that are damaged or do not belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError:
        raise BrokerError(f"{certificate}: damaged, or {key.name} is not its key; {hint}") from None


def _move(work: Path, *paths: Path) -> None:
    for path in paths:
        (work / path.name).replace(path)


def _make_authority(work: Path) -> None:
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", _CA_DAYS,
        "-keyout", work / "ca.key", "-out", work / "ca.crt", "-extensions", "authority",
        names=f"Unshrug broker {socket.gethostname()}", sections=_AUTHORITY,
    )  # fmt: skip


def _make_certificate(work: Path, ca: Path, ca_key: Path, hosts: tuple[str, ...]) -> None:
    _openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", work / "server.key", "-out", work / "server.csr", names=hosts[0],
    )  # fmt: skip
    kinds = [f"{'IP' if _is_address(host) else 'DNS'}:{host}" for host in hosts]
    (work / "extensions").write_text(
        f"subjectAltName={','.join(kinds)}\nbasicConstraints=critical,CA:FALSE\n"
        "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
    )
    _openssl(
        "x509", "-req", "-in", work / "server.csr", "-CA", ca, "-CAkey", ca_key,
        "-set_serial", f"0x{secrets.token_hex(16)}", "-days", _SERVER_DAYS, "-extfile", work / "extensions",
        "-out", work / "server.crt",
    )  # fmt: skip


_AUTHORITY = "[authority]\nbasicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"


def _is_host(name: str) -> bool:
    return _is_address(name) or bool(re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", name))


def _is_address(host: str) -> bool:
    try:
        return "%" not in str(ipaddress.ip_address(host))
    except ValueError:
        return False


def _openssl(*arguments: object, names: str = "", sections: str = "", hint: str = "") -> None:
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
        # The first line that is not about where in its own text an error was found.
        said = next((line for line in lines if line.startswith("error ")), lines[-1] if lines else "it said nothing")
        raise BrokerError(f"openssl {arguments[0]} {arguments[-1]}: {said}{hint}")


def _wearers_of(folder: Path, known: Iterable[str]) -> list[str]:
    """Return the wearers that are there from before: others may have users of their own in the file."""
    return [name for name in known if name not in _SHARED and is_wearer(name) and (folder / "users" / name).is_dir()]


def _known(folder: Path) -> list[str]:
    """Return who has a password. Raises BrokerError for a file that is damaged."""
    path = folder / "passwords"
    lines = _text(path).splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        if not re.fullmatch(r"[^:]+:\$\d\$\S+", line):
            raise BrokerError(f"{path}, line {number}: damaged; expected NAME:HASH as mosquitto_passwd writes it")
    return [line.partition(":")[0] for line in lines]


def _passwords(folder: Path, names: Iterable[str], known: list[str]) -> list[str]:
    """Give a password to everybody who has none; return who got one."""
    new = [name for name in names if name not in known]
    clear = {name: secrets.token_urlsafe(24) for name in new}
    for name in names:
        (folder / "users" / name).mkdir(parents=True, exist_ok=True)
    for name, word in clear.items():
        _write(folder / "users" / name / "password", f"{word}\n", 0o600)
    if new:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            hashed = Path(work, "new")
            _write(hashed, "".join(f"{name}:{word}\n" for name, word in clear.items()), 0o600)
            # It turns a file of plain passwords into one of hashes, so that none is ever on a command line.
            done = subprocess.run(["mosquitto_passwd", "-U", hashed], capture_output=True, text=True, check=False)
            if done.returncode:
                raise BrokerError(f"mosquitto_passwd: {done.stderr.strip() or done.stdout.strip()}")
            path = folder / "passwords"
            before = path.read_text().rstrip("\n") + "\n" if path.exists() else ""
            _write(path, before.lstrip("\n") + hashed.read_text(), 0o600)
    return new


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write all of it or nothing; a secret, of mode 0o600, nobody else may ever read."""
    work = path.with_name(f".{path.name}.new")
    work.unlink(missing_ok=True)
    with open(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    work.replace(path)


def _rights(wearers: Iterable[str]) -> Iterable[str]:
    """Say who may read and write what; what is not named is forbidden."""
    yield _OURS
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
    where = "" if wanted.bind == _ALL else f" {wanted.bind}"
    choices = json.dumps([wanted.hosts, wanted.bind, wanted.websocket])
    websocket = f"\nlistener {wanted.websocket}{where}\nprotocol websockets\n{tls}" if wanted.websocket else ""
    return f"""\
{_OURS}
{_CHOICES}{choices}
# Nobody gets in without a password, and from the network only encrypted.
allow_anonymous false
password_file {folder / "passwords"}
acl_file {folder / "acl"}

persistence true
persistence_location {folder / "data"}/
autosave_on_changes true
autosave_interval 1
# With hundreds of wearers saving takes its time; at the usual 1000 waiting messages it would drop some meanwhile.
max_queued_messages 20000
set_tcp_nodelay true
log_type error
log_type warning
log_type notice

listener {_PLAIN_PORT} 127.0.0.1

listener {_TLS_PORT}{where}
{tls}{websocket}
# What you add yourself, such as a bridge, stays in files of this folder.
include_dir {folder / "conf.d"}
"""


def _snippet(folder: Path, name: str, host: str) -> str:
    return f"""\
# For the settings of {name}; take ca.crt and the password along where the broker is on another machine.
[wearer]
id = "{name}"

[mqtt]
broker = "{host}"
port = {_TLS_PORT}
tls = "on"
ca_file = {_toml(folder / "ca.crt")}
username = "{name}"
password_file = {_toml(folder / "users" / name / "password")}
"""


def _toml(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)  # TOML takes JSON's escapes


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


def _closed_to_mosquitto(folder: Path) -> Path | None:
    """Return a folder on the way that only its owner may enter."""
    return next((path for path in (folder, *folder.parents) if not path.stat().st_mode & stat.S_IXOTH), None)


def _next_steps(folder: Path, wearers: list[str], made: list[str], wanted: Wanted, *, renewed: bool) -> Iterable[str]:
    host, config = wanted.hosts[0], shlex.quote(str(folder / "mosquitto.conf"))
    yield f"{folder}: rights for {', '.join(wearers)}; passwords made for {', '.join(made) if made else 'nobody new'}"
    if renewed:
        yield f"A new certificate for the broker, good for {', '.join(wanted.hosts)}"
    yield "Let Mosquitto run by it:"
    if os.geteuid() == 0:
        if closed := _closed_to_mosquitto(folder):
            yield f"  but not from here: it gives up being root, and {closed} is closed to others; choose another --dir"
        # The configuration that is there is kept beside it.
        yield f"  ln -sf --backup=numbered {config} /etc/mosquitto/mosquitto.conf && systemctl restart mosquitto"
    else:  # the system's own Mosquitto may not read what is ours
        yield f"  {mosquitto()} -c {config}"
    for name in wearers:
        yield f"Into the settings of {name}: {folder / 'users' / name / 'unshrug.toml'}"
    ca, word = (shlex.quote(str(folder / name)) for name in ("ca.crt", "users/dashboard/password"))
    yield "A dashboard connects with:"
    yield f"  mosquitto_sub -h {host} -p {_TLS_PORT} --cafile {ca} -u dashboard -P \"$(cat {word})\" -v -t 'unshrug/#'"
    if wanted.websocket:
        yield f"  wss://{host}:{wanted.websocket} for a page in the browser, with the same user"
