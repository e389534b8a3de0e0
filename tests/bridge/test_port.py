import contextlib
import errno
import grp
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import serial

from firmware_bridge.boards import BOARDS
from firmware_bridge.bridge import Bridge
from firmware_bridge.port import Port, PortError, found_ports, resolve
from tests.bridge.helpers import Cable, cable, framed, read_until

UNO, PICO = (0x2341, 0x0043), (0x2E8A, 0x00C0)


@dataclass
class Usb:
    """A port as pyserial tells of it."""

    device: str
    vid: int | None = UNO[0]
    pid: int | None = UNO[1]
    serial_number: str | None = None


class Hours:
    """A clock that is an hour later each time, so that nothing is too soon to be tried again."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += 3600
        return self._now_s


@dataclass
class Watch:
    """A clock that the test sets."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@contextlib.contextmanager
def opened(
    spec: str | Path, usb: Callable[[], list[Usb]] = list, clock: Callable[[], float] | None = None
) -> Iterator[Port]:
    port = Port(str(spec), 115200, usb, clock or Hours())
    try:
        yield port
    finally:
        port.close()


def state_of(port: Port) -> tuple[int, str | None]:
    return port.connections, port.problem


def plug(link: Path, to: Cable) -> Cable:
    """Let the stable name point to this board, as udev does."""
    link.unlink(missing_ok=True)
    link.symlink_to(to.path)
    return to


def problem_of(spec: str | Path, usb: Callable[[], list[Usb]] = list) -> str:
    """Return what a port says that cannot be opened."""
    with opened(spec, usb) as port:
        assert port.read() == b""
        assert port.connections == 0
        assert port.problem is not None
        return port.problem


# Finding


def test_the_only_known_board_is_found(tmp_path: Path) -> None:
    link = tmp_path / "usb-Arduino-if00"
    usb = [Usb(str(link)), Usb("/dev/ttyUSB7", 0x1234, 0x5678), Usb("/dev/ttyS0", None, None)]
    assert resolve("auto", lambda: usb) == str(link)


@pytest.mark.parametrize("usb", [[], [Usb("/dev/ttyUSB7", 0x1234, 0x5678), Usb("/dev/ttyS0", None, None)]])
def test_no_board_is_said_with_what_to_do(usb: list[Usb]) -> None:
    with pytest.raises(PortError, match=r"no board found on USB; plug it in, or name its port with --port"):
        resolve("auto", lambda: usb)


def test_several_boards_are_named_to_choose_from() -> None:
    usb = [Usb("/dev/ttyTEST2"), Usb("/dev/ttyTEST1", *PICO)]
    with pytest.raises(PortError) as error:
        resolve("auto", lambda: usb)
    assert str(error.value).startswith("2 boards found; choose one with --port: ")
    assert "/dev/ttyTEST1 Raspberry Pi Pico (2e8a:00c0)" in str(error.value)
    assert "/dev/ttyTEST2 Arduino Uno R3 (2341:0043)" in str(error.value)


@pytest.mark.parametrize("spec", ["usb:2341:0043", "usb:2341:0043:75830", "usb:2E8A:00c0"])
def test_board_is_found_by_its_usb_identity(spec: str) -> None:
    usb = [Usb("/dev/ttyTEST0", 0x1234, 0x5678), Usb("/dev/ttyTEST1", *PICO)]
    wanted = Usb("/dev/ttyTEST2", serial_number="75830")
    assert resolve(spec, lambda: [*usb, wanted]) == ("/dev/ttyTEST1" if "2E8A" in spec else "/dev/ttyTEST2")


def test_two_boards_of_a_kind_are_told_apart_by_their_serial_number() -> None:
    usb = [Usb("/dev/ttyTEST1", serial_number="75830A"), Usb("/dev/ttyTEST2", serial_number="75830B")]
    assert resolve("usb:2341:0043:75830b", lambda: usb) == "/dev/ttyTEST2"
    with pytest.raises(PortError, match="75830C"):
        resolve("usb:2341:0043:75830C", lambda: usb)


def test_usb_identity_that_two_boards_have_is_refused() -> None:
    usb = [Usb("/dev/ttyTEST1", serial_number="75830A"), Usb("/dev/ttyTEST2", serial_number="75830B")]
    with pytest.raises(PortError):
        resolve("usb:2341:0043", lambda: usb)


def test_unknown_usb_identity_is_said() -> None:
    with pytest.raises(PortError, match=r"no USB device 2341:0043; expected usb:VID:PID"):
        resolve("usb:2341:0043", list)


@pytest.mark.parametrize("spec", ["/dev/ttyACM0", "loop://", "socket://pi:4000"])
def test_device_or_address_stands_for_itself(spec: str) -> None:
    assert resolve(spec, list) == spec


def test_ports_are_listed_with_what_is_plugged_in() -> None:
    usb = [Usb("/dev/ttyTEST2", 0x1234, 0x5678), Usb("/dev/ttyTEST1", *PICO), Usb("/dev/ttyS0", None, None)]
    assert [(port.path, port.title, port.known) for port in found_ports(lambda: usb)] == [
        ("/dev/ttyTEST1", "Raspberry Pi Pico (2e8a:00c0)", True),
        ("/dev/ttyTEST2", "unknown USB device (1234:5678)", False),
    ]


# Reading


def test_port_gives_what_the_board_sends_and_sends_what_it_is_given(tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    with cable() as board, opened("auto", lambda: [Usb(str(link))]) as port:
        plug(link, board)
        port.read()
        assert (port.connections, port.problem, port.device) == (1, None, str(link))
        data = np.random.default_rng(1).bytes(3000)
        board.send(data)
        assert read_until(port, lambda came: len(came) >= len(data)) == data
        port.write(b"vb")
        assert board.received(10) == b"vb"


def test_silent_port_is_no_problem_and_blocks_nobody() -> None:
    with cable() as board, opened(board.path) as port:
        assert [port.read() for _ in range(5)] == [b""] * 5
        assert state_of(port) == (1, None)


def test_noise_comes_as_it_is_and_gives_no_samples() -> None:
    with cable() as board, opened(board.path) as port:
        port.read()
        bridge = Bridge(BOARDS["unshrug"])
        bridge.connected(0.0)
        noise = np.random.default_rng(2).bytes(3000)
        board.send(noise)
        came = read_until(port, lambda came: len(came) >= len(noise))
        assert came == noise
        assert bridge.feed(came, 1.0) == []
        assert "not from a board" in (bridge.problem(6.0) or "")


def test_more_than_fits_into_one_read_comes_whole() -> None:
    with cable() as board, opened(board.path) as port:
        port.read()
        data = np.random.default_rng(3).bytes(200_000)
        sender = threading.Thread(target=board.send, args=(data,), daemon=True)
        sender.start()
        assert read_until(port, lambda came: len(came) >= len(data)) == data
        sender.join()


# Coming back


def test_unplugged_board_is_said_and_found_again(tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    with cable() as board, cable() as again, opened("auto", lambda: [Usb(str(link))]) as port:
        plug(link, board)
        port.read()
        board.unplug()
        assert port.read() == b""
        assert port.problem is not None
        assert port.problem.startswith(f"{link}: ")
        port.write(b"b")  # nobody hears it, and nobody falls over it
        plug(link, again)
        read_until(port, lambda _: port.connections == 2)
        assert state_of(port) == (2, None)
        again.send(b"512\n")
        assert read_until(port, lambda came: len(came) >= 4) == b"512\n"


def test_board_that_comes_back_under_another_name_is_found() -> None:
    usb: list[Usb] = []
    with cable() as board, cable() as again, opened("auto", lambda: usb) as port:
        port.read()
        assert "no board found" in (port.problem or "")
        usb[:] = [Usb(board.path)]
        port.read()
        assert port.device == board.path
        board.unplug()
        usb[:] = [Usb(again.path)]
        read_until(port, lambda _: port.connections == 2)
        assert port.device == again.path


def once_more(port: Port, link: Path, data: bytes) -> None:
    """Plug in another board, read what it sends, and unplug it."""
    connections = port.connections + 1
    with cable() as board:
        plug(link, board)
        read_until(port, lambda _: port.connections == connections)
        board.send(data)
        assert read_until(port, lambda came: len(came) >= len(data)) == data
    assert port.read() == b""
    assert port.problem is not None


def test_twenty_unplugs_cost_nothing_but_the_time_unplugged(tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    descriptors = len(os.listdir("/proc/self/fd"))
    with opened("auto", lambda: [Usb(str(link))]) as port:
        for cycle in range(20):
            once_more(port, link, b"".join(framed(3, first_seq=cycle)))
        assert port.connections == 20
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_port_is_tried_again_ever_more_rarely_but_at_least_every_five_seconds() -> None:
    tried: list[float] = []
    watch = Watch()

    def none() -> list[Usb]:
        tried.append(watch.now_s)
        return []

    with opened("auto", none, watch) as port:
        for watch.now_s in [0, 0.1, 0.21, 0.5, 0.62, 1.4, 1.5, 3.0, 3.1, 6.2, 6.4, 11.3, 11.5, 16.4, 16.6, 21.5, 21.7]:
            port.read()
    assert tried == [0, 0.21, 0.62, 1.5, 3.1, 6.4, 11.5, 16.6, 21.7]


def test_port_that_works_again_is_tried_again_at_once_the_next_time(tmp_path: Path) -> None:
    link = tmp_path / "by-id"
    watch = Watch()
    with cable() as board, opened(link, clock=watch) as port:
        for watch.now_s in (0.0, 1.0, 5.0, 20.0):
            port.read()
        plug(link, board)
        watch.now_s = 40.0
        port.read()
        assert port.connections == 1
        board.unplug()
        port.read()
        with cable() as again:
            plug(link, again)
            watch.now_s = 40.21
            port.read()
            assert port.connections == 2


def test_reader_may_ask_for_a_new_connection() -> None:
    with cable() as board, opened(board.path) as port:
        port.read()
        port.reopen("the board is silent")
        assert port.problem == "the board is silent"
        read_until(port, lambda _: port.connections == 2)
        assert state_of(port) == (2, None)


def test_closed_port_stays_closed() -> None:
    with cable() as board, opened(board.path) as port:
        port.read()
        port.close()
        assert port.read() == b""
        assert port.connections == 1


# Why it cannot be opened


def test_device_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "gone") == f"{tmp_path}/gone: not there; is the board plugged in?"


@pytest.mark.parametrize("kind", ["file", "null"])
def test_device_that_is_no_serial_port_is_said(tmp_path: Path, kind: str) -> None:
    device = tmp_path / "file" if kind == "file" else Path("/dev/null")
    if kind == "file":
        device.write_bytes(b"512\r\n" * 10)
    assert problem_of(device) == f"{device}: not a serial port"


def test_port_of_another_program_is_said_and_taken_when_it_is_free() -> None:
    with cable() as board, opened(board.path) as port:
        with serial.Serial(board.path, exclusive=True):
            assert port.read() == b""
            assert port.problem is not None
            assert port.problem.startswith(f"{board.path}: another program is using this port; close it")
        port.read()
        assert state_of(port) == (1, None)


def test_port_keeps_other_programs_out() -> None:
    with cable() as board, opened(board.path) as port:
        port.read()
        with pytest.raises(serial.SerialException) as error:
            serial.Serial(board.path, exclusive=True)
        assert error.value.errno in (errno.EAGAIN, errno.EBUSY)


def test_missing_permission_is_said_with_the_group_to_join() -> None:
    with cable() as board:
        if os.geteuid() == 0:
            group = next(group for group in grp.getgrall() if group.gr_gid)
            os.chown(board.path, 0, group.gr_gid)
            os.chmod(board.path, 0o660)
            os.seteuid(65534)
            try:
                problem, name = problem_of(board.path), group.gr_name
            finally:
                os.seteuid(0)
        else:
            os.chmod(board.path, 0)
            problem, name = problem_of(board.path), "dialout"
    assert problem.startswith(f"{board.path}: no permission; add yourself to group {name} ")
    assert f"sudo usermod -aG {name} $USER" in problem


def test_port_closed_to_every_group_names_the_usual_one() -> None:
    with cable() as board:
        os.chmod(board.path, 0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            problem = problem_of(board.path)
        finally:
            if root:
                os.seteuid(0)
    assert problem.startswith(f"{board.path}: no permission; add yourself to group dialout ")


def test_address_of_an_unknown_kind_is_said() -> None:
    assert problem_of("nonsense://pi").startswith("nonsense://pi: ")


def test_refused_network_address_is_said() -> None:
    assert problem_of("socket://127.0.0.1:1").startswith("socket://127.0.0.1:1: ")


def test_error_names_the_port_that_was_asked_for_last() -> None:
    usb = [Usb("/dev/ttyTEST-gone")]
    assert problem_of("auto", lambda: usb) == "/dev/ttyTEST-gone: not there; is the board plugged in?"


def test_network_port_keeps_up_with_a_board() -> None:
    data = np.random.default_rng(4).bytes(200_000)
    server = socket.create_server(("127.0.0.1", 0))
    with server, opened(f"socket://127.0.0.1:{server.getsockname()[1]}") as port:
        read_until(port, lambda _: port.connections == 1)
        connection, _ = server.accept()
        with connection:
            sender = threading.Thread(target=connection.sendall, args=(data,), daemon=True)
            sender.start()
            assert read_until(port, lambda came: len(came) >= len(data), seconds=10) == data
            sender.join()
