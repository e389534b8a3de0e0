"""The whole loop as its wearer lives it: the program runs, and what is written down changes what it does."""

import contextlib
import json
import os
import pty
import select
import subprocess
import termios
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware_bridge.simulator import REST_UV, Activity, PtyBoard, Wearer, framed_stream
from services.broker import Broker
from services.store import Store
from tests.services.conftest import SIMULATED_GPIO, UNSHRUG, Heard, Listener, listening
from tests.services.test_service import config, program

QUICK = "[guide]\nquick_rest_s = 10\nhold_s = 10\nstill_s = 5\n"


class Person(Wearer):
    """Someone who holds the arms up when told to."""

    arms_up = False

    def samples(self, n: int) -> Any:
        return np.asarray(super().samples(n)) * (80 / REST_UV if self.arms_up else 1.0)


@contextlib.contextmanager
def person() -> Iterator[tuple[Person, PtyBoard]]:
    wearer = Person(day=(Activity("rest", 60, REST_UV),), ecg_uv=0, mains_uv=0)
    with PtyBoard(framed_stream(wearer)) as board:
        yield wearer, board


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def do(*arguments: object, code: int = 0, stdin: str = "") -> str:
    done = subprocess.run(
        [UNSHRUG, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, input=stdin
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def ask(listener: Listener, wearer: str, verb: str, **body: object) -> dict[str, Any]:
    listener.publish(f"unshrug/{wearer}/cmd/{verb}", json.dumps(body | {"request_id": "test"}))
    return listener.wait_for("reply", lambda heard: heard.body["request_id"] == "test").body


def silent(why: str | None) -> Callable[[Heard], bool]:
    return lambda heard: heard.body["silent_because"] == why


def test_a_headache_written_down_elsewhere_holds_the_cues_of_the_service_that_runs(home: Path, broker: Broker) -> None:
    with (
        person() as (_, board),
        listening(broker.port, "unshrug/sore") as listener,
        program("run", "--config", (path := config(home, board, broker.port, "sore"))),
    ):
        listener.wait_for("state", lambda heard: heard.body["cues_enabled"])
        assert "kept: " in do("diary", "add", "--peak", "5", "--config", path)
        entry = listener.wait_for("diary").body
        assert (entry["kind"], entry["peak"], entry["mono_s"]) == ("headache", 5, None)
        state = listener.wait_for("state", lambda heard: not heard.body["cues_enabled"]).body
        assert state["silent_because"].startswith("a headache is open in the diary, since")
        assert "expected it to be over first" in ask(listener, "sore", "resume")["error"]
        assert "a headache is open" in ask(listener, "sore", "calibrate", action="start")["error"]
        do("diary", "end", "--config", path)
        listener.wait_for("state", silent("there was a headache; cues wait until you want them again"))
        assert "cues may come again" in do("diary", "resume", "--config", path)
        listener.wait_for("state", lambda heard: heard.body["cues_enabled"])
        assert ask(listener, "sore", "resume")["result"] == "ok"
        assert "within the last 24 h" in ask(listener, "sore", "calibrate", action="start")["error"]
    with person() as (_, board), listening(broker.port, "unshrug/sore") as listener:
        config(home, board, broker.port, "sore")
        with program("run", "--config", path):
            listener.wait_for("state", lambda heard: heard.body["cues_enabled"])  # they were wanted again before


def test_a_snooze_and_what_was_withdrawn_outlast_the_program(home: Path, broker: Broker) -> None:
    for first in (True, False):
        with (
            person() as (_, board),
            listening(broker.port, "unshrug/still") as listener,
            program("run", "--config", config(home, board, broker.port, "still")) as service,
        ):
            listener.wait_for("status", lambda heard: heard.payload == "online")
            if first:
                listener.wait_for("state", lambda heard: heard.body["cues_enabled"])
                listener.publish("unshrug/still/cmd/snooze", '{"minutes": 5}')
            state = listener.wait_for("state", silent("snoozed")).body
            if first:
                assert ask(listener, "still", "withdraw", what="chin-tuck")["withdrawn"] == ["chin-tuck"]
            until, now = (datetime.fromisoformat(state[key]) for key in ("snoozed_until", "t"))
            until_s = (until - now).total_seconds()
            assert 200 < until_s <= 301
            refused = ask(listener, "still", "exercise", action="start", name="chin-tuck")
            assert "withdrawn" in refused["error"]
            service.process.terminate()
            assert service.end() == 0


def test_a_plan_makes_the_service_silent_and_says_why(home: Path, broker: Broker) -> None:
    do("plan", "new", home / "plan.toml")
    with (
        person() as (_, board),
        listening(broker.port, "unshrug/planned") as listener,
        program("run", "--config", (path := config(home, board, broker.port, "planned", '[plan]\nfile = "plan.toml"'))),
    ):
        listener.wait_for("state", silent("the plan's baseline is silent"))
        said = do("plan", "--config", path)
        assert "baseline, day 1 of 7: no cues" in said
        assert "cannot be said yet (0 given and 0 withheld" in said
    (home / "plan.toml").write_text("start = 2026-01-01\n[rest]\nstep_pct = 10")
    assert "plan.toml: rest.step_pct: expected 0 to 2.5 %, got 10" in do("run", "--config", path, code=1)


def guided(wearer: Person, path: Path, *arguments: str, enter_at: str) -> str:
    """Run a guide at a pipe, as someone who does what it says; return what it said."""
    lines = []
    with subprocess.Popen(
        [UNSHRUG, *arguments, "--config", path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=dict(os.environ) | SIMULATED_GPIO,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if enter_at in line:
                process.stdin.write("\n")
                process.stdin.flush()
            wearer.arms_up = "Arms up" in line or ("Keep them" in line and wearer.arms_up)
    assert process.returncode == 0, "".join(lines)
    return "".join(lines)


@pytest.mark.parametrize("with_service", [True, False])
def test_a_quick_check_with_and_without_a_service(home: Path, broker: Broker, with_service: bool) -> None:
    name = f"quick{int(with_service)}"
    with person() as (wearer, board), contextlib.ExitStack() as stack:
        path = config(home, board, broker.port, name, QUICK)
        if with_service:
            listener = stack.enter_context(listening(broker.port, f"unshrug/{name}"))
            stack.enter_context(program("run", "--config", path))
            listener.wait_for("state", lambda heard: heard.body["board"]["up"])
        check = ("calibrate", "--quick", "--pain", "0", "--battery")
        text = guided(wearer, path, *check, enter_at="Hold both arms")
        assert "Done: this is your calibration now." in text
        assert "left: reference 80.0 µV" in text
    store = Store(home / "data" / "unshrug" / f"{name}.sqlite3")
    (kept,) = store.latest("calibration")
    store.close()
    assert (kept["outcome"], kept["quick"], kept["channels"]) == ("accepted", True, ["left", "right"])
    assert "quick check accepted; reference 80.0, 80.0 µV" in do("calibrate", "--history", "--config", path)


def test_an_exercise_at_the_terminal(home: Path, broker: Broker) -> None:
    with person() as (wearer, board):
        path = config(home, board, broker.port, "stretch", QUICK)
        text = guided(wearer, path, "exercise", "trap-stretch", enter_at="ear sink")
    assert "Let your left ear sink" in text
    assert "left: tension" in text
    assert "trap-stretch completed" in do("exercise", "--history", "--config", path)


def test_who_is_not_on_battery_or_stops_is_not_calibrated(home: Path, broker: Broker) -> None:
    with person() as (_, board):
        path = config(home, board, broker.port, "plugged")
        assert "put the body side on battery first" in do("calibrate", "--config", path, code=1, stdin="n\n")
        assert "Pain of 7 of 10" in do("calibrate", "--battery", "--pain", "7", "--config", path, code=1)
        began_s = time.monotonic()
        said = do("calibrate", "--battery", "--pain", "0", "--config", path, code=1, stdin="q\n")
        assert time.monotonic() - began_s < 20
        assert "topped" in said


def test_on_a_terminal_keys_stop_it_and_leave_the_terminal_as_it_was(home: Path, broker: Broker) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with person() as (_, board):
        path = config(home, board, broker.port, "keys", QUICK)
        process = subprocess.Popen(
            [UNSHRUG, "exercise", "trap-stretch", "--config", path],
            stdin=slave, stdout=slave, stderr=slave, env=dict(os.environ) | SIMULATED_GPIO | {"TERM": "xterm"},
        )  # fmt: skip
        shown = b""
        while b"Sit still for a moment" not in shown:
            assert select.select([master], [], [], 20)[0], shown
            shown += os.read(master, 65536)
        os.write(master, b"q")
        while process.poll() is None:
            if select.select([master], [], [], 0.2)[0]:
                shown += os.read(master, 65536)
    assert process.returncode == 1
    while select.select([master], [], [], 0.2)[0]:
        shown += os.read(master, 65536)
    assert b"q: stop" in shown
    assert shown.rstrip().endswith("(µV)".encode()), shown[-300:]
    assert b"Stopped." in shown
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_all_that_is_kept_is_exported_and_deleted(home: Path, broker: Broker) -> None:
    with person() as (_, board):
        path = config(home, board, broker.port, "mine")
        with listening(broker.port, "unshrug/mine") as listener, program("run", "--config", path):
            listener.wait_for("summary/day")
            assert "another unshrug runs" in do("forget-me", "--yes", "--config", path, code=1)
        do("diary", "add", "--none", "--config", path)
    archive = home / "all.zip"
    assert "all that is kept of mine" in do("export", "--out", archive, "--config", path)
    assert archive.stat().st_mode & 0o077 == 0
    assert "it is there already" in do("export", "--out", archive, "--config", path, code=1)
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        assert {"README.txt", "values.json", "settings.json", "diary.csv", "messages/diary.jsonl"} <= set(names)
        assert json.loads(opened.read("messages/diary.jsonl").splitlines()[0])["kind"] == "no_headache"
    assert "nothing was deleted" in do("forget-me", "--config", path, code=1, stdin="yes\n")
    folder = home / "data" / "unshrug"
    (folder / "mine.sqlite3.damaged-1").touch()
    assert "nothing is kept of mine any more" in do("forget-me", "--config", path, stdin="mine\n")
    assert list(folder.iterdir()) == []
    with listening(broker.port, "unshrug/mine") as listener:
        time.sleep(0.2)
        assert listener.drain() == []
    assert "nothing is kept of mine" in do("export", "--out", home / "b.zip", "--config", path, code=1)
