"""Wall time where the machine's clock is set while the service runs."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory

from firmware_bridge.boards import BOARDS
from firmware_bridge.bridge import Bridge
from firmware_bridge.decoders.ascii_lines import encode_line
from firmware_bridge.port import Port
from services.clock import Clock, Steps, rfc3339
from services.contract import Contract
from services.daemon import Service
from services.haptics import Haptics
from services.messages import Cue, DaySummary, Message
from services.pipeline import Ids, Pipeline
from services.serving import add_delivery
from services.settings import CalibrationSettings, Settings
from services.store import Store
from tests.services.conftest import CALIBRATED, REST, SHRUG, samples

RATE_HZ = 500.0
DAYS = 86_400.0
YEAR = 2024


class Machine(Clock):
    """The clocks of a machine that the test moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.mono_s = 0.0
        self.wrong_s = -600 * DAYS
        self.known = False

    def mono(self) -> float:
        return self.mono_s

    def wall(self) -> float:
        return datetime(YEAR, 5, 4, 23, 0, tzinfo=UTC).timestamp() + self.mono_s + self.wrong_s

    def local(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC).replace(tzinfo=None)

    def synchronised(self) -> bool:
        return self.known

    def set(self) -> None:
        self.wrong_s, self.known = 0.0, True

    def true(self, mono_s: float) -> str:
        return rfc3339(self.wall() - self.wrong_s - self.mono_s + mono_s)


class Wire(Port):
    """A port that gives what the test has put there."""

    def __init__(self) -> None:
        super().__init__("/dev/null", 115200)
        self.connections = 1
        self.problem = None
        self.waiting: list[bytes] = []

    def read(self) -> bytes:
        return self.waiting.pop(0) if self.waiting else b""

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass


class Told:
    """What is published, and what is retained."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.all: list[tuple[str, str]] = []
        self.cues: list[Cue] = []
        self.days: list[DaySummary] = []
        self._retained: dict[str, Message] = {}

    def accept(self, message: Message) -> None:
        if isinstance(message, Cue):
            self.cues.append(message)
        if isinstance(message, DaySummary):
            self.days.append(message)
        for publication in self._contract.publications(message):
            self.all.append((publication.topic, publication.payload))
            if publication.retain:
                self._retained[publication.topic] = message

    def restate(self) -> None:
        for message in list(self._retained.values()):
            self.accept(message)

    def of(self, topic: str, after: int = 0) -> list[dict[str, Any]]:
        return [json.loads(payload) for name, payload in self.all[after:] if name == topic]


@pytest.fixture
def rig(pins: MockFactory, monkeypatch: pytest.MonkeyPatch) -> "Rig":
    return Rig(monkeypatch)


class Rig:
    """A service whose every second the test makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: Settings = CALIBRATED) -> None:
        self.machine, self.wire = Machine(), Wire()
        monkeypatch.setattr(time, "monotonic", lambda: 1000 + self.machine.mono_s)
        self.pipeline = Pipeline(settings)
        self.service = Service(
            self.wire,
            Bridge(replace(BOARDS["ascii"], rate_hz=RATE_HZ)),
            self.pipeline,
            Haptics(settings.motor, simulated=True),
            clock=self.machine,
        )
        self.told = Told(Contract(settings.wearer.id, self.service.stamp, self.service.now))
        self.service.sinks.append(self.told)
        self.service.on_clock_set.append(self.told.restate)

    def wear(self, lines: list[bytes], drift: float = 0.0, each: Callable[[int], None] = lambda k: None) -> None:
        """Let the samples come in pieces of 20 ms."""
        pieces = [b"".join(lines[k : k + 10]) for k in range(0, len(lines), 10)]
        pieces[0] = b"\n" + pieces[0]  # what comes before the first end of a line is never used

        def go_on() -> None:
            if not pieces:
                return
            self.machine.mono_s += 10 / RATE_HZ * (1 + drift)
            self.wire.waiting.append(pieces.pop(0))
            each(len(pieces))

        self.service.chores[:] = [go_on]
        go_on()
        self.service.run(lambda _: not pieces and not self.wire.waiting)


def lines_of(values: Any) -> list[bytes]:
    return [encode_line(row) for row in values]


DAY = (replace(REST, seconds=6), replace(SHRUG, seconds=15), replace(REST, seconds=14))


@pytest.mark.parametrize("drift", [0.0, 0.005, -0.01])
def test_after_the_clock_was_set_every_time_is_right_and_retained_ones_come_again(rig: Rig, drift: float) -> None:
    step_at = 500  # pieces before the end: in the shrug
    at = [0]

    def each(left: int) -> None:
        if left == step_at:
            at[0] = len(rig.told.all)
            rig.machine.set()

    rig.wear(lines_of(samples(*DAY)[::2]), drift, each)
    told = rig.told
    before = [told.all[k][0] for k in range(at[0])]
    assert "episode" in before
    assert all(body["clock"] == "unknown" for body in told.of("state")[:1] + told.of("info")[:1])
    after = {topic: told.of(topic, at[0]) for topic in ("info", "state", "tension", "episode", "cue")}
    late = [body for bodies in after.values() for body in bodies]
    assert all(body["clock"] == "synchronised" and body["t"].startswith(str(YEAR)) for body in late)
    assert after["info"], "told again"
    started, ended = told.of("episode")[0], after["episode"][-1]
    assert started["t"] < ended["start"]
    # The shrug began at 6 s, whatever the clock said then; the detector dates it to a quarter of a second.
    true = datetime.fromisoformat(rig.machine.true(6.0 * (1 + drift)))
    assert abs(datetime.fromisoformat(ended["start"]) - true) < timedelta(seconds=0.25)
    assert [cue.outcome for cue in told.cues] == ["given"]
    assert not any(day.final for day in told.days), "a clock that is set is no midnight"
    assert started["id"] == ended["id"]


def test_midnight_begins_a_day(rig: Rig) -> None:
    rig.machine.set()
    rig.service.chores.clear()
    rig.wear(lines_of(samples(replace(REST, seconds=1))[::2]))
    assert not any(day.final for day in rig.told.days)
    rig.machine.mono_s = 3600 + 1  # of 23:00
    rig.wear(lines_of(samples(replace(REST, seconds=1))[::2]))
    assert [day.date for day in rig.told.days if day.final] == ["2024-05-04"]


def test_a_resonator_half_a_percent_off_stays_right(rig: Rig) -> None:
    true_s: list[float] = []
    rig.wear(lines_of(samples(replace(REST, seconds=120))[::2]), 0.005, lambda _: true_s.append(rig.machine.mono_s))
    told = rig.told.of("tension")[-1]
    # Levels are told four times a second.
    assert told["mono_s"] == pytest.approx(true_s[-1], abs=0.3)
    assert rig.service.stamp(119.0).mono_s == pytest.approx(119.0 * 1.005, abs=0.001)
    board = rig.told.of("state")[-1]["board"]
    assert board["measured_hz"] == pytest.approx(RATE_HZ / 1.005, rel=1e-4)
    assert (board["lost"], board["lost_pct"], board["restarts"]) == (0, 0.0, 0)


def test_a_rate_one_and_a_half_percent_off_is_told_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.wear(lines_of(samples(replace(REST, seconds=40))[::2]), -0.015)
    notes = [r.getMessage() for r in caplog.records if "samples/s" in r.getMessage()]
    assert notes == ["the board sends 507.6 samples/s, not 500: times follow what it sends"]
    assert rig.told.of("info")[-1]["measured_hz"] == pytest.approx(507.6, abs=0.1)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_no_cue_while_the_rate_is_not_known_to_be_right(rig: Rig, factor: float) -> None:
    settings = replace(
        CALIBRATED,
        shrug=replace(CALIBRATED.shrug, held_s=1.0),
        cue=replace(CALIBRATED.cue, grace_s=0.0),
        calibration=CalibrationSettings(rest_uv=(2.5,), reference_uv=(80.0,)),
    )
    rig.pipeline = rig.service._pipeline = Pipeline(settings)
    rig.wear(lines_of(samples(replace(REST, seconds=1), replace(SHRUG, seconds=30))[::2]), 1 / factor - 1)
    assert [cue for cue in rig.told.cues if cue.outcome == "given"] == []
    problems = [body["board"]["problem"] for body in rig.told.of("state")]
    assert any(problem and "samples/s; expected 500" in problem for problem in problems)


def test_steps_are_noticed_once_and_drift_is_none() -> None:
    machine = Machine()
    steps = Steps(machine)
    assert not steps.stepped()
    machine.mono_s += 3600
    assert not steps.stepped()
    machine.wrong_s += 0.05
    assert not steps.stepped()
    machine.wrong_s += 3
    assert [steps.stepped(), steps.stepped()] == [True, False]
    machine.known = True
    assert [steps.stepped(), steps.stepped()] == [True, False]


def test_ids_sort_in_their_order_though_the_clock_was_set_back() -> None:
    walls = iter([1.7e9, 1.7e9, 1.2e9, 1.2e9 + 1, 1.8e9])
    new_id = Ids(lambda: next(walls))
    ids = [new_id(0.0) for _ in range(5)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 5


def test_a_clock_knows_the_date_and_goes_on(tmp_path: Path) -> None:
    clock = Clock(1e3)
    assert abs(clock.local() - datetime.now()) < timedelta(seconds=5)
    assert isinstance(clock.synchronised(), bool)
    assert clock.mono() <= clock.mono()


def test_a_time_zone_that_is_changed_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setenv("TZ", "Etc/GMT+10")
    west = clock.local()
    monkeypatch.setenv("TZ", "Etc/GMT-10")
    assert clock.local() - west == pytest.approx(timedelta(hours=20), abs=timedelta(seconds=5))
    assert clock.now().utcoffset() == timedelta(hours=10)
    monkeypatch.undo()
    clock.local()


def test_what_was_kept_before_the_clock_was_set_is_put_right_before_it_is_sent(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite3"
    delivery = add_delivery(CALIBRATED, rig.service, Store(path, run="this"), announces=False)

    def each(left: int) -> None:
        if left == 300:  # the shrug is over, its episode is not
            rig.machine.set()

    rig.wear(lines_of(samples(*DAY)[::2]), 0.0, each)
    delivery.close()
    kept = Store(path)
    told = [json.loads(stored.publication.payload) for stored in kept.waiting(0, 1000)]
    kept.close()
    episodes = [body for body in told if body["schema"] == "unshrug.episode/1"]
    assert len(episodes) > 2
    assert {body["clock"] for body in told} == {"synchronised"}
    true = datetime.fromisoformat(rig.machine.true(6.0))
    for body in episodes:
        assert body["clock"] == "synchronised"
        assert abs(datetime.fromisoformat(body["start"]) - true) < timedelta(seconds=0.3)
    cue, result = [body for body in told if body["schema"] == "unshrug.cue/1"]
    assert (cue["id"], cue["seq"], cue["t"]) == (result["id"], result["seq"] - 1, result["t"])
    assert abs(datetime.fromisoformat(cue["shrug_start"]) - true) < timedelta(seconds=0.3)
    day = rig.told.days[-1]
    assert day.date == rig.machine.local().date().isoformat()
    assert day.wear_time_s < 20, "the time before belongs to the day that it seemed to be"
