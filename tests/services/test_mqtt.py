"""What another client of a real broker gets."""

import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsp.chain import Levels
from dsp.filters import Band
from dsp.quality import Quality
from dsp.reference import Verdict
from firmware_bridge.bridge import Counts
from services.broker import Broker, answers, find_broker, free_port, mosquitto
from services.contract import SCHEMAS, Contract, Publication, Stamp
from services.delivery import Delivery
from services.homeassistant import BIRTH
from services.messages import (
    About,
    AskStore,
    ChannelDay,
    ChannelState,
    ChannelTension,
    Cue,
    CueResult,
    DaySummary,
    Episode,
    Guided,
    Message,
    Reply,
    Request,
    Tension,
    WearerState,
)
from services.mqtt import Link, News, Up, pause_s
from services.requests import VERBS, schema
from services.serving import link_of
from services.settings import MqttSettings, SettingsError
from services.store import Store
from tests.services.conftest import LOOPBACK, Listener, eventually, listening, shrug
from tests.services.test_broker import brokers_of

WALL_S = 1_767_225_600.0  # 2026-01-01T00:00:00Z
ID = "019b76da-0000-7000-8000-000000000000"

TENSION = Tension(
    12.25,
    (ChannelTension("left", 42.123456, 50.5, 20.0, 30.0, 40.0), ChannelTension("right", *[None] * 5)),
    "warn",
    cues_enabled=True,
)


def schema_details(kind: str) -> dict[str, Any]:
    """Return what an activity's messages add to what all of them have, as its schema's example has it."""
    common = ("schema", "t", "mono_s", "clock", "event", "id", "seq", "step", "say", "left_s")
    return {key: value for key, value in schema(kind)["examples"][0].items() if key not in common}


STATE = WearerState(
    3.0,
    (ChannelState("left", True, "ok", ()), ChannelState("right", False, "bad", ("flat",))),
    board_up=True,
    board_problem=None,
    episode_id=ID,
    cues_enabled=True,
    wear_time_s=3600.04,
    counts=Counts(900, 100, 8, 3, 1, 2, 0, 1004.2113),
)
STARTED = Episode(
    "started",
    ID,
    0,
    7.0,
    4.0,
    None,
    ("shrug",),
    ("left",),
    91.0,
    61.5,
    113.1,
    75.25,
    0.98,
    cued=False,
    truncated=False,
    calibration_id="0123456789ab",
)
ENDED = replace(
    STARTED, event="ended", seq=1, at_s=80.0, end_s=19.5, peak_rve=None, mean_rve=None, cued=True, end_reason="relaxed"
)
CUE = Cue(14.0, "given", 0, 4.0, "cue", None, ID, "019b76da-1111-7000-8000-000000000000")
SUMMARY = DaySummary(
    60.0, "day", "2026-01-01", 3, False, 55.04, 50.0, 1, 15.5,
    (ChannelDay("left", 50.0, 20.0, (1.0, 2.0, 30.0), None), ChannelDay("right", 0.0, None, None, None)),
    {"given": 1}, (3.0, 5.0), 22.5, ((55.04, 15.5), *[(0.0, 0.0)] * 23), {"seq": 4},
)  # fmt: skip
NIGHT = replace(SUMMARY, period="night")
RESULT = CueResult(314.0, CUE, 4.5, 31.25)
CALIBRATION = Guided(
    "ended", "calibration", "019b76da-3333-7000-8000-000000000000", 9, 6.0, "ended", "This is your calibration now.",
    details=schema_details("calibration"),
)  # fmt: skip
EXERCISE = replace(CALIBRATION, activity="exercise", say="Done. Well done.", details=schema_details("exercise"))
ABOUT = About(
    0.0,
    "unshrug",
    1000.0,
    ("left", "right"),
    Band(30.0, 450.0, (50.0,)),
    (2.5, float("nan")),
    None,
    "rest at the start",
    (15.0, float("inf")),
    (9.0, float("inf")),
    (Verdict("ok", None, None, ("no reference contraction",)),),
    Counts(),
    "0123456789ab",
    "ba9876543210",
    {"cue.enabled": True},
)

wearers = (f"test-{k}" for k in itertools.count())


def stamp(board_s: float) -> Stamp:
    return Stamp(WALL_S + board_s, board_s + 0.5)


def contract_of(wearer: str) -> Contract:
    return Contract(wearer, stamp, lambda: stamp(0.0))


@contextlib.contextmanager
def publishing(
    broker: Broker, wearer: str, settings: MqttSettings | None = None, store: Store | None = None
) -> Iterator[Delivery]:
    sink = Delivery(contract_of(wearer), store)
    try:
        sink.connect(partial(link_of, wearer, broker, settings or MqttSettings()))
        yield sink
    finally:
        sink.close()


@pytest.fixture
def wearer() -> str:
    return next(wearers)


@pytest.fixture
def listener(broker: Broker, wearer: str) -> Iterator[Listener]:
    with listening(broker.port, f"unshrug/{wearer}") as made:
        yield made


@pytest.fixture
def sink(broker: Broker, wearer: str) -> Iterator[Delivery]:
    with publishing(broker, wearer) as made:
        assert made.connected.wait(5)
        yield made


HEAD = ["schema", "t", "mono_s", "clock"]


def test_tension_is_live_and_expires(sink: Delivery, listener: Listener) -> None:
    sink.accept(TENSION)
    heard = listener.wait_for("tension")
    assert (heard.qos, heard.retain) == (0, False)
    assert heard.expiry_s is not None
    assert 0 < heard.expiry_s <= 5
    assert heard.body == {
        "schema": "unshrug.tension/1",
        "t": "2026-01-01T00:00:12.250Z",
        "mono_s": 12.75,
        "clock": "unknown",
        "channels": [
            {
                "name": "left",
                "rms_uv": 42.12,
                "rve": 50.5,
                "rest_10s_pct": 20.0,
                "rest_60s_pct": 30.0,
                "rest_session_pct": 40.0,
            },
            {
                "name": "right",
                "rms_uv": None,
                "rve": None,
                "rest_10s_pct": None,
                "rest_60s_pct": None,
                "rest_session_pct": None,
            },
        ],
        "quality": "warn",
        "cues_enabled": True,
    }


def test_the_level_for_those_who_keep_every_value_comes_with_each_level_that_has_changed(
    sink: Delivery, listener: Listener
) -> None:
    for k in range(20):
        sink.accept(replace(TENSION, at_s=6.0 * k))
        sink.accept(replace(STATE, at_s=6.0 * k))
        listener.wait_for("state")
    levels, slow = ([h.body["mono_s"] for h in listener.heard if h.topic == t] for t in ("tension", "tension/slow"))
    assert slow == levels != []


def test_state_is_retained(sink: Delivery, listener: Listener) -> None:
    sink.accept(STATE)
    heard = listener.wait_for("state")
    assert (heard.qos, heard.retain, heard.expiry_s) == (1, True, None)
    assert heard.body == {
        "schema": "unshrug.state/1",
        "t": "2026-01-01T00:00:03.000Z",
        "mono_s": 3.5,
        "clock": "unknown",
        "channels": [
            {"name": "left", "shrug": True, "quality": "ok", "reasons": []},
            {"name": "right", "shrug": False, "quality": "bad", "reasons": ["flat"]},
        ],
        "quality": "bad",
        "board": {
            "up": True,
            "problem": None,
            "measured_hz": 1004.21,
            "samples": 900,
            "lost": 100,
            "lost_pct": 10.0,
            "repeated": 8,
            "damaged": 3,
            "restarts": 1,
            "overruns": 2,
            "dropped": 0,
        },
        "episode_id": ID,
        "cues_enabled": True,
        "snoozed_until": None,
        "wear_time_s": 3600.0,
        "period": "day",
        "silent_because": None,
        "ignored_cues": 0,
        "questions": [],
    }


def test_an_episode_has_id_and_seq_and_null_for_what_is_not_known(sink: Delivery, listener: Listener) -> None:
    sink.accept(STARTED)
    heard = listener.wait_for("episode")
    assert (heard.qos, heard.retain, heard.expiry_s) == (1, False, None)
    assert heard.body == {
        "schema": "unshrug.episode/1",
        "t": "2026-01-01T00:00:07.000Z",
        "mono_s": 7.5,
        "clock": "unknown",
        "event": "started",
        "id": ID,
        "seq": 0,
        "kinds": ["shrug"],
        "start": "2026-01-01T00:00:04.000Z",
        "end": None,
        "duration_s": None,
        "channels": ["left"],
        "peak_uv": 91.0,
        "mean_uv": 61.5,
        "peak_rve": 113.1,
        "mean_rve": 75.25,
        "valid_pct": 98.0,
        "cued": False,
        "truncated": False,
        "end_reason": None,
        "calibration_id": "0123456789ab",
        "label": None,
    }
    sink.accept(ENDED)
    end = listener.wait_for("episode").body
    assert (end["event"], end["seq"], end["id"], end["cued"]) == ("ended", 1, ID, True)
    assert (end["end"], end["duration_s"]) == ("2026-01-01T00:00:19.500Z", 15.5)
    assert (end["peak_rve"], end["mean_rve"]) == (None, None)


def test_a_cue_says_what_came_of_it_and_links_to_its_episode(sink: Delivery, listener: Listener) -> None:
    sink.accept(CUE)
    heard = listener.wait_for("cue")
    assert (heard.qos, heard.retain, heard.expiry_s) == (1, False, None)
    assert heard.body == {
        "schema": "unshrug.cue/1",
        "t": "2026-01-01T00:00:14.000Z",
        "mono_s": 14.5,
        "clock": "unknown",
        "id": CUE.id,
        "seq": 0,
        "outcome": "given",
        "trigger": "shrug",
        "pattern": "cue",
        "prompt": None,
        "reason": None,
        "share": None,
        "channel": 0,
        "shrug_start": "2026-01-01T00:00:04.000Z",
        "start": "2026-01-01T00:00:04.000Z",
        "episode_id": ID,
        "relaxed_after_s": None,
        "rest_after_pct": None,
    }
    sink.accept(RESULT)
    later = listener.wait_for("cue").body
    assert later == heard.body | {"seq": 1, "relaxed_after_s": 4.5, "rest_after_pct": 31.25}


def test_info_describes_what_runs(sink: Delivery, listener: Listener) -> None:
    sink.accept(ABOUT)
    heard = listener.wait_for("info")
    assert (heard.qos, heard.retain) == (1, True)
    body = heard.body
    assert list(body)[: len(HEAD)] == HEAD
    assert (body["board"], body["rate_hz"], body["channels"]) == ("unshrug", 1000.0, ["left", "right"])
    assert body["band"] == {"low_hz": 30.0, "high_hz": 450.0, "notches_hz": [50.0]}
    assert body["calibration"] == {
        "id": "0123456789ab",
        "rest_uv": [2.5, None],
        "reference_uv": None,
        "source": "rest at the start",
        "verdicts": [{"state": "ok", "sees_rest": None, "reasons": ["no reference contraction"]}],
    }
    assert body["thresholds"] == {"on_uv": [15.0, None], "off_uv": [9.0, None]}
    assert body["schemas"] == [f"unshrug.{kind}/1" for kind in SCHEMAS]
    assert body["version"]
    assert body["settings"] == "ba9876543210"
    assert body["live"] == {"cue.enabled": True}
    assert body["verbs"] == list(VERBS)


@pytest.mark.parametrize(
    "message",
    [Levels(1.0, np.zeros((1, 1)), np.zeros((1, 0)), 0.0, (False,)), shrug("started", 3.0, 0.0), Quality(0, 1.0, "ok")],
)
def test_what_is_only_between_the_rooms_is_not_published(message: Message) -> None:
    assert list(contract_of("w").publications(message)) == []


@pytest.mark.parametrize("message", [TENSION, STATE, STARTED, ENDED, CUE, ABOUT, SUMMARY, EXERCISE])
def test_every_publication_begins_with_schema_and_time(message: Message) -> None:
    publication, *_ = contract_of("w").publications(message)
    kind = publication.topic.replace("/", "_")
    assert kind in SCHEMAS
    assert publication.payload.startswith(f'{{"schema":"unshrug.{kind}/1","t":"2026-01-01T00:')
    assert "NaN" not in publication.payload
    assert "Infinity" not in publication.payload


def test_status_is_online_and_after_a_clean_end_offline(broker: Broker, wearer: str, listener: Listener) -> None:
    with publishing(broker, wearer):
        online = listener.wait_for("status")
        assert (online.payload, online.qos, online.retain) == ("online", 1, True)
    offline = listener.wait_for("status")
    assert (offline.payload, offline.qos, offline.retain) == ("offline", 1, True)


def test_what_was_said_last_is_published_before_the_goodbye(broker: Broker, wearer: str, listener: Listener) -> None:
    with publishing(broker, wearer) as sink:
        assert sink.connected.wait(5)
        for seq in range(200):
            sink.accept(replace(STARTED, seq=seq))
    listener.wait_for("status", lambda heard: heard.payload == "offline")
    assert [h.body["seq"] for h in listener.heard if h.topic == "episode"] == list(range(200))


def test_a_dashboard_that_comes_late_gets_state_info_and_status(
    broker: Broker, wearer: str, sink: Delivery, listener: Listener
) -> None:
    for message in (ABOUT, STATE, TENSION, STARTED, CUE):
        sink.accept(message)
    listener.wait_for("cue")
    with listening(broker.port, f"unshrug/{wearer}") as late:
        wanted = {"status", "info", "state"}
        eventually(lambda: wanted <= {h.topic for h in late.drain()})
        sink.accept(replace(CUE, at_s=99.0))
        late.wait_for("cue", lambda heard: heard.body["mono_s"] == 99.5)
        assert {h.topic: h.retain for h in late.heard[:-1]} == dict.fromkeys(wanted, True)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        r.getMessage()
        for r in caplog.records
        if r.name in ("services.mqtt", "services.delivery") and r.levelno >= logging.WARNING
    ]


def test_without_a_broker_nothing_is_lost_but_what_is_live(wearer: str, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with publishing(Broker(LOOPBACK, port), wearer) as sink:
        eventually(lambda: warnings_in(caplog))
        for message in (ABOUT, STATE, TENSION, STARTED, CUE):
            sink.accept(message)
        broker = find_broker(MqttSettings(port=port))
        try:
            with listening(port, f"unshrug/{wearer}") as listener:
                assert listener.wait_for("episode").body["id"] == ID
                assert sink.connected.wait(5)
                sink.accept(ENDED)
                listener.wait_for("episode", lambda heard: heard.body["event"] == "ended")
                assert {h.topic for h in listener.heard} == {"status", "info", "state", "episode", "cue"}
                assert sum(h.topic == "episode" for h in listener.heard) == 2
        finally:
            sink.close()
            broker.close()
    assert warnings_in(caplog) == [f"no broker at {LOOPBACK}:{port}; cues go on, and it is tried again"]


def test_a_broker_that_goes_and_comes_back_is_one_line_each_and_gets_state_again(
    wearer: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "services.mqtt")
    port = free_port()
    broker = find_broker(MqttSettings(port=port))
    with publishing(broker, wearer) as sink:
        assert sink.connected.wait(5)
        sink.accept(STATE)
        broker.close()
        eventually(lambda: not sink.connected.is_set())
        sink.accept(replace(STATE, at_s=4.0))
        sink.accept(TENSION)
        sink.accept(STARTED)
        broker = find_broker(MqttSettings(port=port))
        try:
            with listening(port, f"unshrug/{wearer}") as listener:
                heard = listener.drain
                eventually(lambda: 4.5 in [h.body["mono_s"] for h in heard() if h.topic == "state"])
                eventually(lambda: [h.body["id"] for h in heard() if h.topic == "episode"] == [ID])
                assert "tension" not in {h.topic for h in listener.heard}
            sink.close()
        finally:
            broker.close()
    said = [r.getMessage() for r in caplog.records if r.name == "services.mqtt"]
    at = f"the broker at {LOOPBACK}:{port}"
    assert said == [f"connected to {at}", f"{at} is gone; cues go on, and it is tried again", f"connected to {at}"]


def receive(client: socket.socket, until: bytes) -> bytes:
    data = b""
    while until not in data:
        more = client.recv(4096)
        assert more, f"{until!r} did not come: {data!r}"
        data += more
    return data


def test_a_state_from_before_an_outage_does_not_replace_the_one_after_it(wearer: str) -> None:
    port = free_port()
    # A broker that takes everything, confirms nothing and goes.
    with socket.create_server((LOOPBACK, port)) as server, publishing(Broker(LOOPBACK, port), wearer) as sink:
        server.settimeout(5)
        client, _ = server.accept()
        with client:
            client.settimeout(5)
            receive(client, b"MQTT")
            client.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK, success, no properties
            receive(client, b"cmd/+")
            client.sendall(b"\x90\x05\x00\x01\x00\x01\x01")  # SUBACK of both topics
            assert sink.connected.wait(5)
            sink.accept(STATE)
            receive(client, b'"mono_s":3.5')
        server.close()
        eventually(lambda: not sink.connected.is_set())
        sink.accept(replace(STATE, at_s=4.0))
        broker = find_broker(MqttSettings(port=port))
        try:
            with listening(port, f"unshrug/{wearer}") as listener:
                listener.wait_for("state", lambda heard: heard.body["mono_s"] == 4.5)
                sink.accept(CUE)
                listener.wait_for("cue")
                sink.close()
                listener.wait_for("status", lambda heard: heard.payload == "offline")
            with listening(port, f"unshrug/{wearer}") as late:
                assert late.wait_for("state").body["mono_s"] == 4.5
        finally:
            broker.close()


def test_handing_over_never_waits_for_a_broker_that_is_not_there(wearer: str) -> None:
    with publishing(Broker(LOOPBACK, free_port()), wearer) as sink:
        times_s = []
        for seq in range(2500):
            began_s = time.perf_counter()
            sink.accept(replace(STARTED, seq=seq))
            times_s.append(time.perf_counter() - began_s)
        assert sorted(times_s)[-20] < 0.01
        assert sum(times_s) < 2


def test_a_text_that_is_no_utf8_is_published_as_far_as_it_goes(sink: Delivery, listener: Listener) -> None:
    sink.accept(replace(STATE, board_problem="/dev/\udcff: not there"))
    assert listener.wait_for("state").body["board"]["problem"] == "/dev/?: not there"
    sink.accept(CUE)
    listener.wait_for("cue")


def test_closing_while_connecting_takes_no_more_than_a_moment(wearer: str) -> None:
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind((LOOPBACK, 0))
        full.listen(0)
        for _ in range(3):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        sink = Delivery(contract_of(wearer), None)
        sink.connect(partial(link_of, wearer, Broker(LOOPBACK, full.getsockname()[1]), MqttSettings()))
        time.sleep(0.2)
        began_s = time.monotonic()
        sink.close()
        assert time.monotonic() - began_s < 3


def test_closing_without_a_broker_takes_no_more_than_a_moment(wearer: str) -> None:
    sink = Delivery(contract_of(wearer), None)
    sink.connect(partial(link_of, wearer, Broker(LOOPBACK, free_port()), MqttSettings()))
    sink.accept(STARTED)
    began_s = time.monotonic()
    sink.close()
    assert time.monotonic() - began_s < 3


@contextlib.contextmanager
def guarded_broker(folder: Path, rights: str = "") -> Iterator[Broker]:
    """A Mosquitto that lets only `anna` in, whose password is `secret`, and allows what the rights say."""
    port, program = free_port(), mosquitto()
    assert program is not None
    passwords = folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "anna", "secret"], check=True, capture_output=True)
    config = folder / "mosquitto.conf"
    user = "user root\n" if passwords.owner() == "root" else ""
    acl = ""
    if rights:
        acl = f"acl_file {folder / 'acl'}\n"
        (folder / "acl").write_text(rights)
    config.write_text(f"listener {port} {LOOPBACK}\nallow_anonymous false\npassword_file {passwords}\n{acl}{user}")
    child = subprocess.Popen([program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: answers(LOOPBACK, port))
        yield Broker(LOOPBACK, port)
    finally:
        child.terminate()
        child.wait()


def password_file(folder: Path, text: str = "secret\n", mode: int = 0o600) -> Path:
    path = folder / "password"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_user_name_and_password_open_a_broker_that_asks_for_them(
    tmp_path: Path, wearer: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = MqttSettings(username="anna", password_file=str(password_file(tmp_path)))
    with guarded_broker(tmp_path) as broker:
        with publishing(broker, wearer, settings) as sink:
            assert sink.connected.wait(5)
        assert warnings_in(caplog) == []
        with publishing(broker, wearer) as sink:
            eventually(lambda: warnings_in(caplog))
            assert not sink.connected.is_set()
            sink.accept(STARTED)
    assert warnings_in(caplog) == [f"the broker at {LOOPBACK}:{broker.port} refuses: Not authorized"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_password_that_others_may_read_is_refused(broker: Broker, tmp_path: Path, wearer: str, mode: int) -> None:
    path = password_file(tmp_path, mode=mode)
    settings = MqttSettings(username="anna", password_file=str(path))
    with pytest.raises(SettingsError, match=f"others may read this password; expected: chmod 600 {path}"):
        link_of(wearer, broker, settings, lambda news: None)


MISTAKES: list[tuple[str, Callable[[Path], MqttSettings]]] = [
    ("password_file", lambda folder: MqttSettings(username="a", password_file=str(folder / "none"))),
    ("ca_file", lambda folder: MqttSettings(tls="on", ca_file=str(folder / "none.pem"))),
    ("ca_file", lambda folder: MqttSettings(tls="on", ca_file=str(password_file(folder)))),
]


@pytest.mark.parametrize(("key", "mistake"), MISTAKES)
def test_a_file_that_cannot_be_used_is_an_error_of_the_settings(
    broker: Broker, tmp_path: Path, wearer: str, key: str, mistake: Callable[[Path], MqttSettings]
) -> None:
    with pytest.raises(SettingsError, match=f"mqtt.{key}: .*{tmp_path}"):
        link_of(wearer, broker, mistake(tmp_path), lambda news: None)


def asking(listener: Listener, wearer: str, verb: str, payload: str, retain: bool = False, **how: Any) -> None:
    listener.publish(f"unshrug/{wearer}/cmd/{verb}", payload, retain=retain, **how)


@contextlib.contextmanager
def obeying(broker: Broker, wearer: str, store: Store | None = None) -> Iterator[tuple[Delivery, list[Request]]]:
    """A delivery that takes requests, up to three of them."""
    taken: list[Request] = []

    def ask(request: Request) -> bool:
        if len(taken) < 3:
            taken.append(request)
            return True
        return False

    sink = Delivery(contract_of(wearer), store, ask=ask)
    try:
        sink.connect(partial(link_of, wearer, broker, MqttSettings()))
        assert sink.connected.wait(5)
        yield sink, taken
    finally:
        sink.close()


def test_a_request_is_taken_and_its_answer_comes_where_it_is_wanted(
    broker: Broker, wearer: str, listener: Listener
) -> None:
    with obeying(broker, wearer) as (sink, taken), listening(broker.port, f"app/{wearer}") as app:
        asking(listener, wearer, "snooze", '{"minutes":15,"request_id":"a"}')
        eventually(lambda: taken)
        assert taken[0].body == {"minutes": 15, "request_id": "a"}
        sink.answer(Reply(taken[0]))
        reply = listener.wait_for("reply")
        assert (reply.qos, reply.retain) == (1, False)
        assert list(reply.body)[: len(HEAD)] == HEAD
        assert (reply.body["verb"], reply.body["request_id"]) == ("snooze", "a")
        assert (reply.body["result"], reply.body["error"]) == ("ok", None)
        asking(listener, wearer, "resume", "{}", reply_topic=f"app/{wearer}/17", correlation=b"\x00\xff")
        eventually(lambda: len(taken) == 2)
        sink.answer(Reply(taken[1], "no", {"more": 1}))
        answer = app.wait_for("17")
        assert (answer.body["result"], answer.body["error"], answer.body["more"]) == ("error", "no", 1)
        assert answer.correlation == b"\x00\xff"


@pytest.mark.parametrize(
    ("verb", "payload", "retain", "error"),
    [
        ("snooze", '{"minutes":15}', True, "retained command is refused"),
        ("snooze", " " * 9000, False, "9000 bytes; expected 8192 at most"),
        ("snooze", "{", False, "not a JSON object"),
        ("reboot", "{}", False, "unknown command"),
    ],
)
def test_a_request_that_is_wrong_gets_one_answer_and_has_no_effect(
    broker: Broker, wearer: str, listener: Listener, verb: str, payload: str, retain: bool, error: str
) -> None:
    with obeying(broker, wearer) as (_, taken):
        asking(listener, wearer, verb, payload, retain)
        assert error in listener.wait_for("reply").body["error"]
        asking(listener, wearer, "resume", "{}")
        eventually(lambda: taken)
        assert [request.verb for request in taken] == ["resume"]
        if retain:
            asking(listener, wearer, verb, "", retain)
    assert [h.topic for h in listener.drain()].count("reply") == 1


def test_a_command_that_was_retained_before_is_refused_at_the_start(
    broker: Broker, wearer: str, listener: Listener
) -> None:
    asking(listener, wearer, "snooze", '{"minutes":720}', retain=True)
    with obeying(broker, wearer) as (_, taken):
        assert "retained" in listener.wait_for("reply").body["error"]
        assert taken == []
    listener.publish(f"unshrug/{wearer}/cmd/snooze", "", retain=True)


def test_more_requests_than_can_be_taken_are_told_so(broker: Broker, wearer: str, listener: Listener) -> None:
    with obeying(broker, wearer) as (_, taken):
        for _ in range(4):
            asking(listener, wearer, "resume", "{}")
        assert listener.wait_for("reply").body["error"] == "too many requests at once"
        assert len(taken) == 3


def test_a_packet_of_a_megabyte_never_reaches_us(broker: Broker, wearer: str, listener: Listener) -> None:
    with obeying(broker, wearer) as (sink, taken):
        asking(listener, wearer, "snooze", "x" * 2**20)
        asking(listener, wearer, "resume", "{}")
        eventually(lambda: taken)
        assert sink.connected.is_set()
    assert "reply" not in {h.topic for h in listener.drain()}


def test_what_has_been_kept_can_be_asked_for_and_labelled(
    broker: Broker, wearer: str, listener: Listener, tmp_path: Path
) -> None:
    store = Store(tmp_path / "w.sqlite3")
    with obeying(broker, wearer, store) as (sink, _):
        for message in (STARTED, ENDED, CUE):
            sink.accept(message)
        listener.wait_for("cue")
        eventually(lambda: store.waiting(0, 10) == [])
        sink.answer(AskStore(Request("feedback", {"label": "deadline"})))
        said = listener.wait_for("episode", lambda heard: heard.body["label"])
        assert (said.body["id"], said.body["seq"], said.body["event"]) == (ID, 2, "ended")
        assert listener.wait_for("reply").body["episode_id"] == ID
        sink.answer(AskStore(Request("feedback", {"label": "x", "episode_id": CUE.id})))
        assert listener.wait_for("reply").body["error"] == "there is no such episode"
        sink.answer(AskStore(Request("resend", {"since": "2026-01-01T00:00:00Z"})))
        assert listener.wait_for("reply").body["count"] == 4
        eventually(lambda: [h.topic for h in listener.drain()].count("episode") == 6)
    times = [(h.topic, h.payload) for h in listener.heard if h.topic in ("episode", "cue")]
    assert len(set(times)) == 4, "what comes twice is the same"


def test_home_assistant_is_told_again_when_it_has_started(broker: Broker, wearer: str, listener: Listener) -> None:
    announced = Publication(f"ha/{wearer}/config", "{}", retain=True, absolute=True)
    sink = Delivery(contract_of(wearer), None, announce=lambda info: announced)
    with listening(broker.port, f"ha/{wearer}") as home:
        try:
            sink.connect(partial(link_of, wearer, broker, MqttSettings()))
            assert sink.connected.wait(5)
            sink.accept(ABOUT)
            assert home.wait_for("config").retain
            sink.accept(ABOUT)  # nothing that it shows has changed
            listener.wait_for("info")
            listener.wait_for("info")
            assert home.drain()[1:] == []
            listener.publish(BIRTH, "offline")
            listener.publish(BIRTH, "online")
            home.wait_for("config", seconds=10)
        finally:
            sink.close()


def test_an_episode_that_a_kill_left_open_is_ended_at_the_next_start(
    broker: Broker, wearer: str, listener: Listener, tmp_path: Path
) -> None:
    killed = Store(tmp_path / "w.sqlite3")
    killed.put(list(contract_of(wearer).publications(STARTED)))
    killed.close()
    with publishing(broker, wearer, store=Store(tmp_path / "w.sqlite3")):
        assert listener.wait_for("episode").body["event"] == "started"
        end = listener.wait_for("episode").body
    assert (end["event"], end["id"], end["seq"], end["end_reason"]) == ("ended", ID, 1, "interrupted")
    with publishing(broker, wearer, store=Store(tmp_path / "w.sqlite3")) as sink:
        assert sink.connected.wait(5)
        sink.accept(CUE)
        listener.wait_for("cue")
    assert [h.topic for h in listener.drain()].count("episode") == 2


def test_what_is_live_does_not_wait_for_a_broker_that_stands_still(wearer: str) -> None:
    broker = find_broker(MqttSettings(port=free_port()))
    (process,) = brokers_of(broker.port)
    with publishing(broker, wearer) as sink, listening(broker.port, f"unshrug/{wearer}") as listener:
        assert sink.connected.wait(5)
        sink.accept(TENSION)
        listener.wait_for("tension")
        os.kill(process, signal.SIGSTOP)
        try:
            sink.accept(STATE)
            until = time.monotonic() + 4
            longest_s = 0.0
            while time.monotonic() < until:
                began_s = time.perf_counter()
                sink.accept(replace(TENSION, at_s=until - time.monotonic()))
                longest_s = max(longest_s, time.perf_counter() - began_s)
                time.sleep(0.02)
        finally:
            os.kill(process, signal.SIGCONT)
        assert longest_s < 0.5
        eventually(lambda: not sink._under_way)
        sink.accept(replace(TENSION, at_s=99.0))
        listener.wait_for("tension", lambda heard: heard.body["mono_s"] == 99.5)
        told = [h.body["mono_s"] for h in listener.heard if h.topic == "tension"]
        assert [s for s in told if s < 2.4] == [], "of the last seconds of standing still nothing comes"
    broker.close()


def test_a_broker_of_the_old_version_is_spoken_to_in_its_own(wearer: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        server.settimeout(5)
        port = server.getsockname()[1]
        with publishing(Broker(LOOPBACK, port), wearer) as sink:
            client, _ = server.accept()
            with client:
                assert receive(client, b"MQTT\x05")
                client.sendall(b"\x20\x02\x00\x01")  # CONNACK of 3.1.1: unacceptable protocol version
            client, _ = server.accept()
            with client:
                assert receive(client, b"MQTT\x04")
                client.sendall(b"\x20\x02\x00\x00")
                receive(client, b"cmd/+")
                client.sendall(b"\x90\x04\x00\x01\x01\x01")
                assert sink.connected.wait(5)
                sink.accept(STARTED)
                receive(client, b'"event":"started"')


def test_pauses_grow_to_a_minute_and_are_never_the_same_for_all() -> None:
    for failures in range(20):
        pauses = {pause_s(failures) for _ in range(50)}
        most = min(60.0, 2.0**failures)
        assert all(most / 2 <= pause <= most for pause in pauses)
        assert len(pauses) > 10


def test_what_the_broker_refuses_is_said_once_and_stays_kept(
    tmp_path: Path, wearer: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = MqttSettings(username="anna", password_file=str(password_file(tmp_path)))
    store = Store(tmp_path / "w.sqlite3")
    rights = f"user anna\ntopic write unshrug/{wearer}/status\n"
    with guarded_broker(tmp_path, rights) as broker, publishing(broker, wearer, settings, store) as sink:
        assert sink.connected.wait(5)
        sink.accept(STARTED)
        sink.accept(ENDED)
        eventually(lambda: "refuses" in caplog.text)
        eventually(lambda: not sink._under_way)
        assert [stored.publication.seq for stored in store.waiting(0, 9)] == [0, 1]
    assert warnings_in(caplog) == [f"the broker refuses what is published to unshrug/{wearer}/episode: Not authorized"]


def test_who_wants_to_hear_nothing_is_online_too(broker: Broker, wearer: str) -> None:
    news: list[News] = []
    link = Link(
        MqttSettings(), broker.host, broker.port, client_id=wearer, will=f"{wearer}/status", topics=(), tell=news.append
    )
    eventually(lambda: news == [Up()])
    link.close()
