"""The whole service on a pseudo-terminal: to the pin and the broker, through unplugging, silence and signals."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from gpiozero.pins.mock import MockFactory

from dsp.chain import Levels
from dsp.filters import SignalError
from firmware_bridge.boards import BOARDS
from firmware_bridge.bridge import Bridge
from firmware_bridge.port import Port
from firmware_bridge.simulator import Activity, PtyBoard, Timed, Wearer, framed_stream
from services.broker import Broker
from services.clock import Clock
from services.contract import Contract
from services.daemon import Service, Threaded
from services.delivery import Delivery
from services.haptics import Haptics
from services.messages import Cue, Episode, Message, Tension, WearerState
from services.pipeline import Pipeline
from services.serving import link_of
from services.settings import MqttSettings, Settings
from tests.services.conftest import (
    CALIBRATED,
    REST,
    SHRUG,
    SIMULATED_GPIO,
    Collector,
    Running,
    eventually,
    listening,
    running,
    shrug,
)

SPEED = 4.0
DAY = (replace(REST, seconds=1), replace(SHRUG, seconds=13), replace(REST, seconds=600))
PIN = CALIBRATED.motor.pin


def stream(*day: Activity) -> Iterator[Timed]:
    return framed_stream(Wearer(day=day or DAY))


class Motor:
    """What the motor did and when."""

    def __init__(self) -> None:
        self.changes: list[tuple[float, float]] = []
        self.started = threading.Event()

    def __call__(self, drive: float) -> None:
        self.changes.append((time.monotonic(), drive))
        if drive:
            self.started.set()

    @property
    def drives(self) -> list[float]:
        return [drive for _, drive in self.changes]


class Rig:
    """A service with a collecting sink and a motor on mock pins; `cable` is the port, whatever board it leads to."""

    def __init__(self, cable: Path, settings: Settings = CALIBRATED, speed: float = SPEED) -> None:
        self.motor = Motor()
        self.collector = Collector()
        self.problems: list[str | None] = []
        self.service = Service(
            Port(str(cable), 115200),
            Bridge(BOARDS["unshrug"], ("left", "right"), check_rate=speed == 1),
            Pipeline(settings),
            Haptics(settings.motor, on_change=self.motor),
            clock=Clock(speed),
            on_board=self.problems.append,
        )
        self.service.sinks.append(self.collector)


@pytest.fixture
def cable(tmp_path: Path) -> Callable[[PtyBoard], Path]:
    """Plug a board in: a name that stays the same whatever board it leads to."""
    path = tmp_path / "board"

    def plug(board: PtyBoard) -> Path:
        new = tmp_path / "new"
        new.symlink_to(board.path)
        new.rename(path)
        return path

    return plug


def is_down(message: Message) -> bool:
    return isinstance(message, WearerState) and not message.board_up


def test_a_held_shrug_reaches_the_pin_and_the_dashboard(
    pins: MockFactory, broker: Broker, cable: Callable[[PtyBoard], Path]
) -> None:
    settings = replace(CALIBRATED, wearer=replace(CALIBRATED.wearer, id="whole"))
    with PtyBoard(stream(), speed=SPEED) as board, listening(broker.port, "unshrug/whole") as listener:
        rig = Rig(cable(board), settings)
        sink = Delivery(Contract("whole", rig.service.stamp, rig.service.now), None)
        sink.connect(partial(link_of, "whole", broker, MqttSettings()))
        rig.service.sinks.append(sink)
        try:
            with running(rig.service):
                started = listener.wait_for("episode", lambda heard: heard.body["event"] == "started").body
                given = listener.wait_for("cue", lambda heard: heard.body["outcome"] == "given").body
                eventually(lambda: len(rig.motor.changes) == 4)
            ended = listener.wait_for("episode", lambda heard: heard.body["event"] == "ended").body
        finally:
            sink.close()
        listener.wait_for("status", lambda heard: heard.payload == "offline")
    assert rig.motor.drives == [0.6, 0.0, 0.6, 0.0]
    assert [state.state for state in pins.pin(PIN).states] == [False, 0.6, 0.0, 0.6, 0.0]
    assert given["episode_id"] == started["id"] == ended["id"]
    assert given["pattern"] == "cue"
    assert given["mono_s"] - started["mono_s"] == pytest.approx(7.0, abs=0.4), "known after 3 s, cued after 10 s"
    assert ended["cued"]
    tensions = [h.body for h in listener.heard if h.topic == "tension"]
    assert max(c["rms_uv"] for t in tensions for c in t["channels"] if c["rms_uv"]) > 50
    times = [t["mono_s"] for t in tensions]
    assert times == sorted(times)
    assert rig.problems[-1] is None
    assert [cue.outcome for cue in rig.collector.messages if isinstance(cue, Cue)] == ["given"]


def test_unplugging_stops_the_motor_and_plugging_in_goes_on(
    pins: MockFactory, cable: Callable[[PtyBoard], Path]
) -> None:
    board = PtyBoard(stream(), speed=SPEED)
    rig = Rig(cable(board))
    with running(rig.service):
        assert rig.motor.started.wait(20)
        before, pulled_s = len(rig.collector.messages), time.monotonic()
        board.unplug()
        at = rig.collector.wait_for(is_down, after=before)
        eventually(lambda: pins.pin(PIN).state == 0, 0.2)
        assert rig.motor.changes[-1][0] - pulled_s < 0.2
        assert "unplugged" in (rig.problems[-1] or "")
        down = rig.collector.messages[at]
        assert isinstance(down, WearerState)
        assert (down.board_problem, down.cues_enabled) == (rig.problems[-1], False)
        with PtyBoard(stream(replace(REST, seconds=600)), speed=SPEED) as other:
            cable(other)
            up = rig.collector.wait_for(lambda m: isinstance(m, WearerState) and m.board_up, after=at)
            on = rig.collector.wait_for(lambda m: isinstance(m, Tension) and m.channels[0].rms_uv, after=up)
            assert rig.collector.messages[on].at_s > down.at_s
            again = rig.collector.wait_for(
                lambda m: isinstance(m, Tension) and m.at_s > rig.collector.messages[on].at_s + 2, after=on
            )
            assert rig.problems[-1] is None
    levels = [m.channels[0].rms_uv for m in rig.collector.messages[on:again] if isinstance(m, Tension)]
    assert all(level is not None and level < 10 for level in levels)
    assert rig.motor.drives == [0.6, 0.0], "the pattern's other pulse must not come"


def test_a_board_that_falls_silent_stops_the_motor(pins: MockFactory, cable: Callable[[PtyBoard], Path]) -> None:
    silent = threading.Event()

    def until_silent() -> Iterator[Timed]:
        for piece in stream():
            if silent.is_set():
                return
            yield piece

    with PtyBoard(until_silent(), speed=SPEED) as board:
        rig = Rig(cable(board))
        with running(rig.service):
            assert rig.motor.started.wait(20)
            silent.set()
            before, quiet_s = len(rig.collector.messages), time.monotonic()
            eventually(lambda: rig.motor.drives == [0.6, 0.0], 0.25)
            assert rig.motor.changes[-1][0] - quiet_s < 0.2
            down = rig.collector.messages[rig.collector.wait_for(is_down, after=before)]
            assert isinstance(down, WearerState)
            assert down.board_problem == "the board is silent"
    assert rig.motor.drives == [0.6, 0.0], "the pattern's other pulse must not come"


@pytest.mark.parametrize(("stall_s", "outcome"), [(0.0, "given"), (1.5, "suppressed")])
def test_there_is_no_cue_on_what_waited_while_the_program_stood_still(
    pins: MockFactory, cable: Callable[[PtyBoard], Path], stall_s: float, outcome: str
) -> None:
    class Stall:
        def accept(self, message: Message) -> None:
            if isinstance(message, Levels) and message.at_s == pytest.approx(3.5):
                time.sleep(stall_s)

    # The cue falls due at 4 s; by the time that the program goes on, the wearer has relaxed.
    day = (replace(REST, seconds=1), replace(SHRUG, seconds=3.6), replace(REST, seconds=600))
    settings = replace(
        CALIBRATED, shrug=replace(CALIBRATED.shrug, held_s=3.0), cue=replace(CALIBRATED.cue, grace_s=0.0)
    )
    with PtyBoard(stream(*day), patient=True) as board:
        rig = Rig(cable(board), settings, speed=1.0)
        rig.service.sinks.append(Stall())
        with running(rig.service):
            at = rig.collector.wait_for(lambda m: isinstance(m, Cue))
            cue = rig.collector.messages[at]
            assert rig.motor.started.wait(5 if outcome == "given" else 0.3) == (outcome == "given")
    assert isinstance(cue, Cue)
    assert cue.outcome == outcome
    assert bool(rig.motor.drives) == (outcome == "given")


def test_the_motor_is_off_and_its_pin_free_when_the_loop_fails(
    pins: MockFactory, cable: Callable[[PtyBoard], Path]
) -> None:
    class Failing:
        def accept(self, message: Message) -> None:
            if isinstance(message, Episode):
                raise SignalError("as if")

    with PtyBoard(stream(), speed=SPEED) as board:
        rig = Rig(cable(board))
        rig.service.sinks.append(Failing())
        with pytest.raises(SignalError, match="as if"):
            rig.service.run(lambda _: False)
        assert pins.pin(PIN).function == "input"
        assert pins.pin(PIN).state == 0
        # The port is given back too: it was opened for one program only.
        again = Port(board.path, 115200)
        eventually(lambda: again.read() or again.connections)
        assert again.problem is None
        again.close()


def test_the_end_of_the_loop_ends_what_is_open(pins: MockFactory, cable: Callable[[PtyBoard], Path]) -> None:
    with PtyBoard(stream(), speed=SPEED) as board:
        rig = Rig(cable(board))
        with running(rig.service):
            rig.collector.wait_for(lambda m: isinstance(m, Episode))
    last = [m for m in rig.collector.messages if isinstance(m, Episode)][-1]
    assert (last.event, last.truncated) == ("ended", True)


def test_a_slow_sink_never_holds_the_loop_up() -> None:
    taken: list[Message] = []
    go_on = threading.Event()

    class Slow:
        def accept(self, message: Message) -> None:
            go_on.wait(10)
            taken.append(message)

    slow = Threaded(Slow(), "slow")
    sent = [shrug("started", float(k), 0.0) for k in range(5000)]
    began_s = time.monotonic()
    for message in sent:
        slow.accept(message)
    assert time.monotonic() - began_s < 1
    go_on.set()
    assert slow.close()
    assert 2000 <= len(taken) < len(sent)
    assert taken[:2000] == sent[:2000]


def test_a_sink_that_is_stuck_does_not_hold_the_end_up() -> None:
    go_on = threading.Event()

    class Stuck:
        def accept(self, message: Message) -> None:
            go_on.wait(20)

    stuck = Threaded(Stuck(), "stuck")
    for k in range(2500):
        stuck.accept(shrug("started", float(k), 0.0))
    began_s = time.monotonic()
    assert not stuck.close()
    assert time.monotonic() - began_s < 5
    go_on.set()


def test_the_last_thing_is_done_even_where_others_were_dropped() -> None:
    go_on, done = threading.Event(), threading.Event()

    class Slow:
        def accept(self, message: Message) -> None:
            go_on.wait(20)

    slow = Threaded(Slow(), "slow", last=done.set)
    for k in range(2500):
        slow.accept(shrug("started", float(k), 0.0))
    threading.Timer(0.2, go_on.set).start()
    assert slow.close()
    assert done.is_set()


@pytest.mark.parametrize("error", [RuntimeError("not now"), SystemExit(1)])
def test_a_sink_that_fails_once_gets_the_next_message(caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    taken: list[float] = []

    class Moody:
        def accept(self, message: Message) -> None:
            if message.at_s == 1.0:
                raise error
            taken.append(message.at_s)

    sink = Threaded(Moody(), "moody")
    for k in range(3):
        sink.accept(shrug("started", float(k), 0.0))
    sink.close()
    assert taken == [0.0, 2.0]
    assert [r.getMessage() for r in caplog.records] == ["moody failed"]


AT_ONCE = "[cue]\ngrace_s = 0\n"


def config(folder: Path, board: PtyBoard, port: int, wearer: str, more: str = "") -> Path:
    path = folder / "unshrug.toml"
    path.write_text(
        f'[wearer]\nid = "{wearer}"\n[board]\nport = "{board.path}"\nchannels = ["left", "right"]\n'
        f"[calibration]\nrest_uv = 2.5\nreference_uv = 80\n[mqtt]\nport = {port}\n{more}"
    )
    return path


@contextlib.contextmanager
def program(*arguments: object) -> Iterator[Running]:
    running = Running(*arguments, environment=dict(os.environ) | SIMULATED_GPIO)
    try:
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP])
def test_a_signal_in_the_middle_of_a_cue_ends_motor_and_program_and_says_goodbye(
    tmp_path: Path, broker: Broker, number: signal.Signals
) -> None:
    with (
        PtyBoard(stream()) as board,
        listening(broker.port, f"unshrug/terminated{number}") as listener,
        program("run", "--config", config(tmp_path, board, broker.port, f"terminated{number}", AT_ONCE)) as service,
    ):
        listener.wait_for("status", lambda heard: heard.payload == "online")
        service.wait_for("motor ON 60%")
        asked_s = time.monotonic()
        service.process.send_signal(number)
        service.wait_for("motor off")
        assert time.monotonic() - asked_s < 0.25
        assert service.end(3.0) == 0
        listener.wait_for("status", lambda heard: heard.payload == "offline")
    assert service.text.count("motor ON") == 1, "the pattern's other pulse must not come"
    assert service.text.count("motor off") == 1
    assert "Traceback" not in service.text


def test_a_killed_program_is_offline_by_its_last_will(tmp_path: Path, broker: Broker) -> None:
    with (
        PtyBoard(stream(replace(REST, seconds=60))) as board,
        listening(broker.port, "unshrug/killed") as listener,
        program("run", "--config", config(tmp_path, board, broker.port, "killed")) as service,
    ):
        assert listener.wait_for("status").payload == "online"
        listener.wait_for("tension", lambda heard: heard.body["channels"][0]["rms_uv"] is not None)
        service.process.kill()
        offline = listener.wait_for("status")
        assert (offline.payload, offline.retain) == ("offline", True)
        with listening(broker.port, "unshrug/killed") as late:
            assert late.wait_for("status").payload == "offline"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_program_without_a_board_names_the_problem_and_keeps_trying_until_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the tests run under nohup, which the program respects")
    path = tmp_path / "unshrug.toml"
    path.write_text("[mqtt]\nenabled = false\n")
    with program("run", "--config", path, "--port", "/dev/does-not-exist") as service:
        service.wait_for("/dev/does-not-exist: not there; is the board plugged in?")
        assert service.process.poll() is None
        service.process.send_signal(number)
        assert service.end(3.0) == 0
    assert "Traceback" not in service.text


def test_a_closed_terminal_does_not_end_what_was_started_to_outlive_it(tmp_path: Path) -> None:
    path = tmp_path / "unshrug.toml"
    path.write_text('[wearer]\nid = "nohup"\n[mqtt]\nenabled = false\n')
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; a child inherits it
    try:
        with program("run", "--config", path, "--port", "/dev/does-not-exist") as service:
            service.wait_for("not there; is the board plugged in?")
            service.process.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                service.process.wait(0.5)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_levels_that_do_not_fit_the_board_end_the_program_with_a_sentence(tmp_path: Path, broker: Broker) -> None:
    with PtyBoard(stream(replace(REST, seconds=60))) as board:
        path = config(tmp_path, board, broker.port, "misfit")
        unnamed = path.read_text().replace('channels = ["left", "right"]\n', "")
        path.write_text(unnamed.replace("rest_uv = 2.5", "rest_uv = [2.5, 2.5, 2.5]"))
        with program("run", "--config", path) as service:
            assert service.end(20.0) == 1
    assert "unshrug: calibration.rest_uv: 3 levels for 2 channels; expected 1 or 2" in service.text
    assert "Traceback" not in service.text
