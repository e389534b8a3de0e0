"""The service from one start to the next: what was set, counted and left open goes on."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware_bridge.simulator import REFERENCE_UV, REST_UV, Activity, PtyBoard, Wearer, framed_stream
from services.broker import Broker, find_broker, free_port
from services.serving import state_folder
from services.settings import MqttSettings, StoreSettings
from services.store import Store
from tests.services.conftest import SIMULATED_GPIO, Listener, Running, listening

HELD = (Activity("rest", 4, REST_UV), Activity("sustained shrug", 600, 60))


@pytest.fixture
def own_broker() -> Iterator[Broker]:
    made = find_broker(MqttSettings(port=free_port()))
    yield made
    made.close()


@contextlib.contextmanager
def service(folder: Path, broker: Broker, day: tuple[Activity, ...] = HELD) -> Iterator[Running]:
    """`unshrug run` for a wearer whose board is played here."""
    with PtyBoard(framed_stream(Wearer(day=day))) as board:
        config = folder / "unshrug.toml"
        config.write_text(
            f'[wearer]\nid = "again"\n[board]\nport = "{board.path}"\nchannels = ["left", "right"]\n'
            f"[calibration]\nrest_uv = {REST_UV}\nreference_uv = {REFERENCE_UV}\n"
            f'[mqtt]\nport = {broker.port}\n[store]\nfolder = "{folder}"\n[cue]\ngrace_s = 4\n'
        )
        running = Running("run", "--config", config, environment=os.environ | SIMULATED_GPIO)
        try:
            running.wait_for("board: ok")
            yield running
        finally:
            running.close()


def command(listener: Listener, verb: str, body: dict[str, object]) -> dict[str, object]:
    listener.publish(f"unshrug/again/cmd/{verb}", json.dumps(body))
    return listener.wait_for("reply", lambda heard: heard.body["verb"] == verb).body


def test_after_a_kill_an_episode_has_its_end_and_what_was_set_still_holds(tmp_path: Path, own_broker: Broker) -> None:
    with listening(own_broker.port, "unshrug/again") as listener:
        with service(tmp_path, own_broker) as first:
            assert command(listener, "set", {"key": "cue.enabled", "value": False})["result"] == "ok"
            started = listener.wait_for("episode", lambda heard: heard.body["event"] == "started", 20).body
            day = listener.wait_for("summary/day", lambda heard: heard.body["episodes"] == 1).body
            time.sleep(0.5)  # the confirmation is on its way
            first.process.kill()
        listener.wait_for("status", lambda heard: heard.payload == "offline", 40)
        with service(tmp_path, own_broker) as again:
            end = listener.wait_for("episode", lambda heard: heard.body["id"] == started["id"], 20).body
            assert (end["event"], end["end_reason"], end["seq"]) == ("ended", "interrupted", started["seq"] + 1)
            info = listener.wait_for("info").body
            assert (info["live"]["cue.enabled"], info["live"]["cue.grace_s"]) == (False, 4.0)
            after = listener.wait_for("summary/day", lambda heard: heard.body["wear_time_s"] > day["wear_time_s"]).body
            assert after["episodes"] >= 1
            assert after["seq"] > day["seq"]
            assert command(listener, "set", {"key": "cue.enabled", "value": None})["value"] is True
            again.process.terminate()
            assert again.end() == 0
        listener.wait_for("status", lambda heard: heard.payload == "offline")
    assert "cue.enabled is False, as it was set while the service ran; the settings file says True" in again.text
    store = Store(tmp_path / "again.sqlite3")
    assert store.kept("live") == {}
    assert store.open_episodes() == []
    assert store.waiting(0, 10) == []
    store.close()


def test_without_a_place_to_keep_things_cues_go_on(tmp_path: Path, own_broker: Broker) -> None:
    (tmp_path / "again.sqlite3").mkdir()
    with listening(own_broker.port, "unshrug/again") as listener, service(tmp_path, own_broker) as running:
        given = listener.wait_for("cue", lambda heard: heard.body["outcome"] == "given", 30).body
        assert given["episode_id"]
        running.process.terminate()
        assert running.end() == 0
    assert "cues go on, and what happens is held in memory" in running.text


def test_the_folder_is_the_one_that_is_set_else_the_services_else_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert state_folder(StoreSettings(folder="~/tension")) == Path("/home/anna/tension")
    assert state_folder(StoreSettings()) == Path("/home/anna/.local/share/unshrug")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert state_folder(StoreSettings()) == Path("/data/unshrug")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/unshrug:/var/lib/other")
    assert state_folder(StoreSettings()) == Path("/var/lib/unshrug")
