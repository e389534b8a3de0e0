"""The serial port: find it, open it, read it, and come back after an unplug."""

import contextlib
import errno
import grp
import os
import stat
import termios
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import serial
from serial.tools import list_ports

from firmware_bridge.boards import USB_IDS
from firmware_bridge.brainflow_stream import PREFIX, BrainflowError, BrainflowStream

_WAIT_S = 0.05  # longest time that one read blocks, so that nothing else waits long
_PACE_S = 0.005  # pause between reads: a fifth of the wake-ups, for 3 ms of delay
_URL_WAIT_S = 0.02  # a network port does not say how much waits: ask for plenty and take what comes in this time
_MOST = 65536
_BACK_OFF_S = (0.2, 5.0)


class UsbPort(Protocol):
    """What pyserial tells of a port."""

    device: str
    vid: int | None
    pid: int | None
    serial_number: str | None


@dataclass(frozen=True, slots=True)
class FoundPort:
    """A port on this machine: its stable name and what is plugged in."""

    path: str
    title: str
    known: bool


class PortError(Exception):
    """A port that cannot be used; the message says why and what to do."""


def _ports() -> Iterable[UsbPort]:
    return list_ports.comports()


def _stable_name(device: str) -> str:
    """Return the name under /dev/serial that stays the same when other ports come and go."""
    for folder in ("/dev/serial/by-id", "/dev/serial/by-path"):
        for link in sorted(Path(folder).glob("*")):
            if link.resolve() == Path(device).resolve():
                return str(link)
    return device


def found_ports(ports: Callable[[], Iterable[UsbPort]] = _ports) -> list[FoundPort]:
    """List the USB serial ports of this machine."""
    found = []
    for port in ports():
        if port.vid is not None and port.pid is not None:
            title = USB_IDS.get((port.vid, port.pid))
            name = f"{title or 'unknown USB device'} ({port.vid:04x}:{port.pid:04x})"
            found.append(FoundPort(_stable_name(port.device), name, title is not None))
    return sorted(found, key=lambda f: f.path)


def resolve(spec: str, ports: Callable[[], Iterable[UsbPort]] = _ports) -> str:
    """Return the device or URL that `spec` stands for: auto, usb:VID:PID[:SERIAL], a device or a pyserial URL.

    Raises PortError where it stands for none, or for more than one.
    """
    if spec == "auto":
        known = [f for f in found_ports(ports) if f.known]
        if len(known) == 1:
            return known[0].path
        if not known:
            raise PortError("no board found on USB; plug it in, or name its port with --port or board.port")
        seen = ", ".join(f"{f.path} {f.title}" for f in known)
        raise PortError(f"{len(known)} boards found; choose one with --port: {seen}")
    if spec.startswith("usb:"):
        wanted = spec.lower().split(":")[1:]
        matching = [_stable_name(port.device) for port in ports() if _identity(port)[: len(wanted)] == wanted]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise PortError(
                f"{len(matching)} USB devices are {spec[4:]}; expected the port of one: {', '.join(matching)}"
            )
        raise PortError(f"no USB device {spec[4:]}; expected usb:VID:PID or usb:VID:PID:SERIAL of a plugged-in board")
    return spec


def _identity(port: UsbPort) -> list[str]:
    return [f"{port.vid or 0:04x}", f"{port.pid or 0:04x}", (port.serial_number or "").lower()]


class Port:
    """Read bytes and never raise: what is wrong stands in `problem`, and the port is tried again by itself.

    `connections` counts how often it was opened, so that a reader sees that the stream started anew.
    """

    def __init__(
        self,
        spec: str,
        baud: int,
        ports: Callable[[], Iterable[UsbPort]] = _ports,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._baud = baud
        self._ports = ports
        self._clock = clock
        self._serial: Any = None
        self._next_try_s = 0.0
        self._back_off_s = _BACK_OFF_S[0]
        self._pause = False
        self._closed = False
        self.device: str | None = None
        self.problem: str | None = None
        self.connections = 0

    @property
    def _is_url(self) -> bool:
        return "://" in (self.device or "")

    def read(self) -> bytes:
        """Return what has come, b"" if nothing did for 50 ms or the port is not open."""
        if self._serial is None and not self._open():
            time.sleep(_WAIT_S)
            return b""
        port = self._serial
        try:
            if self._pause:
                time.sleep(_PACE_S)
            data: bytes = port.read(4096 if self._is_url else max(1, min(port.in_waiting, _MOST)))
        except (OSError, TypeError, termios.error) as error:
            self._lose(_why(error, self.device))
            return b""
        # A full buffer is read on at once: somebody sends faster than the pace.
        self._pause = 0 < len(data) < 4000
        return data

    def write(self, data: bytes) -> None:
        """Send bytes; a port that is gone will be found out by the next read."""
        if self._serial is not None and data:
            with contextlib.suppress(OSError):
                self._serial.write(data)

    def reopen(self, problem: str) -> None:
        """Close the port and try again, because of what is wrong with what comes from it."""
        if self._serial is not None:
            self._lose(problem)

    def close(self) -> None:
        """Close the port for good."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        if self._serial is not None:
            with contextlib.suppress(OSError, termios.error):
                self._serial.close()
            self._serial = None

    def _open(self) -> bool:
        if self._closed or self._clock() < self._next_try_s:
            return False
        try:
            self.device = resolve(self._spec, self._ports)
            self._serial = self._opened(self.device)
        except (PortError, BrainflowError) as error:
            self._lose(str(error))
        except (OSError, ValueError, termios.error) as error:
            self._lose(_why(error, self.device))
        else:
            self.problem = None
            self.connections += 1
            self._back_off_s = _BACK_OFF_S[0]
            self._pause = False
            return True
        return False

    def _opened(self, device: str) -> Any:
        if device.startswith(PREFIX):
            return BrainflowStream(device)
        return serial.serial_for_url(
            device,
            baudrate=self._baud,
            timeout=_URL_WAIT_S if self._is_url else _WAIT_S,
            write_timeout=0.2,
            exclusive=True,
        )

    def _lose(self, problem: str) -> None:
        self._drop()
        self.problem = problem
        self._next_try_s = self._clock() + self._back_off_s
        self._back_off_s = min(2 * self._back_off_s, _BACK_OFF_S[1])


def _why(error: Exception, device: str | None) -> str:
    """Say what an operating-system error means for somebody with a board in the hand."""
    code = error.errno if isinstance(error, OSError) else None
    if code is None and isinstance(error.__context__, termios.error):
        code = error.__context__.args[0]  # pyserial wraps it and drops its number
    if code in (errno.EACCES, errno.EPERM):
        return f"{device}: no permission; {_permission_advice(device)}"
    if code in (errno.EBUSY, errno.EAGAIN):
        return f"{device}: another program is using this port; close it (a serial monitor, a second unshrug?)"
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"{device}: not there; is the board plugged in?"
    if code in (errno.ENOTTY, errno.EINVAL):
        return f"{device}: not a serial port"
    if isinstance(error, ValueError):
        return f"{device}: {error}"
    return f"{device}: unplugged, or the connection broke off"


def _permission_advice(device: str | None) -> str:
    with contextlib.suppress(OSError, KeyError, TypeError):
        facts = os.stat(device or "")
        group = grp.getgrgid(facts.st_gid).gr_name
        if facts.st_mode & stat.S_IRGRP and group != "root":
            return f"add yourself to group {group} (sudo usermod -aG {group} $USER) and log in again"
    return "add yourself to group dialout (sudo usermod -aG dialout $USER) and log in again"
