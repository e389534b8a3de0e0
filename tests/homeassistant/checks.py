"""Our discovery message against Home Assistant itself: its schemas, and a real one beside a real broker.

`make test-homeassistant` runs it in an environment of its own; `make test` does not.
"""

import asyncio
import contextlib
import importlib
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from homeassistant.components.mqtt.schemas import DEVICE_DISCOVERY_SCHEMA
from homeassistant.core import HomeAssistant
from homeassistant.helpers import frame
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from services.broker import Broker, free_port
from services.homeassistant import discovery, topic_of
from tests.services.conftest import LOOPBACK, Listener, broker, eventually, listening
from tests.services.published import DAY, EPISODE, INFO, LEVELS, NOW, calibrated, is_accepted, named
from tests.services.test_homeassistant import NO_BOARD, ODD, shown

__all__ = ["broker"]  # the fixture

ROOT = "unshrug/desk"
CLIENT = "http://127.0.0.1/"
KINDS = {"uncalibrated": INFO, "calibrated": calibrated(40.0, 40.0), "odd": named(*ODD)}
PATIENCE_S = 30.0

# The automation that the documentation shows.
PAGE = Path(__file__).parents[2] / "docs" / "homeassistant.md"
EXAMPLE = re.findall(r"```yaml\n(- alias.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]

CONFIGURATION = """\
http: {{server_host: {host}, server_port: {port}}}
api:
config:
onboarding:
counter: {{told: }}
input_text: {{told: }}
automation: !include automations.yaml
"""
# Keeps what the person is told, because REST does not give notifications.
LISTENER = """
- alias: Listen
  triggers:
    - {trigger: persistent_notification, notification_id: episode, update_type: [added, updated]}
  actions:
    - action: input_text.set_value
      target: {entity_id: input_text.told}
      data: {value: "{{ trigger.notification.message }}"}
    - {action: counter.increment, target: {entity_id: counter.told}}
"""

# Newer ones read it; this one makes the same ids from the names.
NEWER = {"default_entity_id"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_message_is_valid_and_nothing_in_it_is_unknown(kind: str) -> None:
    _, told = discovery(ROOT, "desk", KINDS[kind])
    assert told.keys() <= DEVICE_DISCOVERY_SCHEMA(told).keys()  # it raises for what it does not know


@pytest.mark.parametrize("kind", KINDS)
def test_every_entity_is_valid_for_its_platform_and_nothing_in_it_is_unknown(kind: str, tmp_path: Path) -> None:
    unknown = asyncio.run(unknown_keys(shown(KINDS[kind]), tmp_path))
    assert unknown == dict.fromkeys(unknown, NEWER)
    assert len(unknown) > 20


async def unknown_keys(entities: dict[str, dict[str, Any]], folder: Path) -> dict[str, set[str]]:
    """Return the keys of each entity that its platform drops; raises for what is not valid."""
    home = HomeAssistant(str(folder))  # templates are only checked within one
    frame.async_setup(home)
    unknown: dict[str, set[str]] = {}
    for key, entity in entities.items():
        platform = importlib.import_module(f"homeassistant.components.mqtt.{entity['platform']}")
        plain = {name: value for name, value in entity.items() if name != "platform"}
        unknown[key] = plain.keys() - platform.DISCOVERY_SCHEMA(dict(plain)).keys()
    await home.async_stop(force=True)
    return unknown


class Home:
    """A Home Assistant that has just been set up, and its REST interface."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._log = folder / "home-assistant.log"
        self._token = ""
        (folder / "configuration.yaml").write_text(CONFIGURATION.format(host=LOOPBACK, port=self.port))
        (folder / "automations.yaml").write_text(EXAMPLE + LISTENER)
        hass = [sys.executable, "-m", "homeassistant", "-c", str(folder), "--skip-pip"]
        self._process = subprocess.Popen(
            hass, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )

    def wait_until_up(self) -> None:
        def answers() -> bool:
            assert self._process.poll() is None, self.log()
            with contextlib.suppress(OSError):
                self.ask("/api/onboarding")
                return True
            return False

        eventually(answers, 60.0)

    def ask(self, path: str, body: object = None, form: str = "") -> Any:
        """Ask by REST; a body makes it a POST."""
        data = form.encode() if form else None if body is None else json.dumps(body).encode()
        kind = "application/x-www-form-urlencoded" if form else "application/json"
        headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        request = urllib.request.Request(f"http://{LOOPBACK}:{self.port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def make_user(self) -> None:
        user = {"name": "a", "username": "a", "password": "long enough", "client_id": CLIENT, "language": "en"}
        code = self.ask("/api/onboarding/users", user)["auth_code"]
        token = self.ask("/auth/token", form=f"grant_type=authorization_code&code={code}&client_id={CLIENT}")
        self._token = token["access_token"]

    def connect_to(self, port: int) -> None:
        flow = self.ask("/api/config/config_entries/flow", {"handler": "mqtt"})
        end = self.ask(f"/api/config/config_entries/flow/{flow['flow_id']}", {"broker": LOOPBACK, "port": port})
        assert end["type"] == "create_entry", end

    def states(self) -> dict[str, dict[str, Any]]:
        """Return what every entity of ours shows, by the id after `unshrug_`."""
        ours = {state["entity_id"]: state for state in self.ask("/api/states") if "unshrug" in state["entity_id"]}
        return {entity_id.replace("unshrug_desk_", ""): state for entity_id, state in ours.items()}

    def shows(self, **expected: str) -> None:
        """Wait until entities show what is expected; `__` stands for the point."""
        wanted = {key.replace("__", "."): value for key, value in expected.items()}
        seen: dict[str, Any] = {}

        def as_expected() -> bool:
            states = self.states()
            seen.update({key: states.get(key, {}).get("state") for key in wanted})
            return seen == wanted

        with contextlib.suppress(AssertionError):
            eventually(as_expected, PATIENCE_S)
        assert seen == wanted, self.log()

    def press(self, service: str, entity_id: str, **data: object) -> None:
        domain, _, name = entity_id.partition(".")
        self.ask(f"/api/services/{domain}/{service}", {"entity_id": f"{domain}.unshrug_desk_{name}", **data})

    def told(self) -> tuple[str, ...]:
        """Return how many notes the person got, and the last."""
        return tuple(self.ask(f"/api/states/{kind}.told")["state"] for kind in ("counter", "input_text"))

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else "no log"

    def complaints(self) -> list[str]:
        """Return its warnings and errors that have to do with us."""
        records = [line for line in self.log().splitlines() if re.match(r"\d{4}-.* (WARNING|ERROR|CRITICAL) ", line)]
        ours = [line for line in records if re.search("mqtt|unshrug|template|sensor|event", line.lower())]
        # It clears the topic of a device that is removed, hears that, and finds nothing left.
        return [line for line in ours if "No device components to cleanup" not in line]

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Service:
    """The other side of the broker: publishes as the service does."""

    def __init__(self, port: int) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.connect(LOOPBACK, port)
        self._client.loop_start()

    def say(self, topic: str, body: object, *, retain: bool = True) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        self._client.publish(topic, text, qos=1, retain=retain).wait_for_publish(10)

    def tell(self, below: str, body: object, *, retain: bool = True) -> None:
        self.say(f"{ROOT}/{below}", body, retain=retain)

    def announce(self, info: dict[str, Any]) -> None:
        self.tell("info", info)
        topic, told = discovery(ROOT, "desk", info)
        self.say(topic, told)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture(scope="module")
def service(broker: Broker) -> Iterator[Service]:
    made = Service(broker.port)
    made.tell("status", "online")
    made.tell("state", NOW)
    made.tell("summary/day", DAY)
    made.announce(INFO)
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(broker: Broker, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("home"))
    try:
        made.wait_until_up()
        made.make_user()
        made.connect_to(broker.port)
        eventually(lambda: len(made.states()) >= len(shown()) - 1, PATIENCE_S)  # one is disabled
        yield made
    finally:
        made.close()


@pytest.fixture
def listener(broker: Broker, home: Home) -> Iterator[Listener]:
    with listening(broker.port, ROOT) as made:
        yield made


def test_what_is_retained_shows_as_soon_as_it_is_discovered(home: Home) -> None:
    home.shows(
        binary_sensor__shrug="on",
        binary_sensor__shrug_left="on",
        binary_sensor__shrug_right="off",
        binary_sensor__board="on",
        sensor__signal_quality="bad",
        sensor__episodes_today="3",
        sensor__cues_today="2",
        sensor__tense_time_today="1.5",
        sensor__wear_time_today="90.0",
        sensor__rest_today_left="61.4",
        sensor__rest_today_right="unknown",
        sensor__snoozed_until="unknown",
        sensor__level_left="unavailable",
        switch__cues="on",
        number__shrug_threshold_over_rest="8.0",
    )
    assert home.states()["sensor.signal_quality"]["attributes"]["reasons"] == ["right: flat"]
    assert "sensor.lost_samples" not in home.states()


def test_entity_ids_are_those_that_newer_ones_are_told(home: Home) -> None:
    told = {entity["default_entity_id"] for key, entity in shown().items() if key != "lost"}
    assert {state["entity_id"] for state in home.states().values()} == told


def test_levels_show_and_what_is_null_is_unknown(home: Home, service: Service) -> None:
    service.tell("tension/slow", LEVELS, retain=False)
    home.shows(
        sensor__level_left="42.12",
        sensor__level_right="unknown",
        sensor__rest_left="30.0",
        sensor__rest_right="unknown",
    )


def test_without_a_board_nothing_is_claimed(home: Home, service: Service) -> None:
    service.tell("state", NO_BOARD)
    home.shows(
        binary_sensor__shrug="unknown",
        binary_sensor__shrug_left="unknown",
        binary_sensor__board="off",
    )
    assert home.states()["binary_sensor.board"]["attributes"]["problem"] == "no port"
    service.tell("state", NOW | {"snoozed_until": "2026-01-01T12:15:00.000Z"})
    home.shows(binary_sensor__shrug="on", sensor__snoozed_until="2026-01-01T12:15:00+00:00")


def test_an_episode_fires_at_its_start_and_its_end_only(home: Home, service: Service) -> None:
    def event() -> tuple[str, object]:
        shown = home.states()["event.episode"]
        return shown["state"], shown["attributes"].get("event_type")

    assert event() == ("unknown", None)
    service.tell("episode", EPISODE["started"], retain=False)
    eventually(lambda: event()[1] == "started")
    started = event()
    service.tell("episode", EPISODE["started"] | {"event": "updated", "seq": 1}, retain=False)
    service.tell("state", NO_BOARD)  # comes after it on the same connection
    home.shows(binary_sensor__shrug="unknown")
    assert event() == started
    assert home.told() == ("0", "unknown")
    service.tell("episode", EPISODE["ended"], retain=False)
    eventually(lambda: event()[1] == "ended")
    assert home.states()["event.episode"]["attributes"]["duration_s"] == EPISODE["ended"]["duration_s"]
    service.tell("state", NOW)


def test_the_automation_of_the_documentation_tells_of_an_episode_once(home: Home, service: Service) -> None:
    note = "16 seconds of it. Let the shoulders down."
    eventually(lambda: home.told() == ("1", note))
    service.tell("status", "offline")
    home.shows(event__episode="unavailable")
    service.tell("status", "online")
    eventually(lambda: home.states()["event.episode"]["state"] != "unavailable")
    service.tell("episode", EPISODE["ended"] | {"duration_s": 700.0}, retain=False)
    eventually(lambda: home.told()[1].startswith("700"))
    assert home.told()[0] == "2"


@pytest.mark.parametrize(
    ("action", "entity_id", "data", "verb", "body"),
    [
        ("press", "button.snooze_15_min", {}, "snooze", {"minutes": 15}),
        ("press", "button.snooze_60_min", {}, "snooze", {"minutes": 60}),
        ("press", "button.resume_cues", {}, "resume", {}),
        ("press", "button.cue_test", {}, "cue-test", {}),
        ("press", "button.calibrate", {}, "calibrate", {"action": "start"}),
        ("press", "button.calibrate_i_am_ready", {}, "calibrate", {"action": "next"}),
        ("press", "button.calibrate_stop", {}, "calibrate", {"action": "stop"}),
        ("turn_off", "switch.cues", {}, "set", {"key": "cue.enabled", "value": False}),
        ("turn_on", "switch.cues", {}, "set", {"key": "cue.enabled", "value": True}),
        (
            "set_value",
            "number.shrug_threshold_over_rest",
            {"value": 9.5},
            "set",
            {"key": "shrug.on_rest_ratio_alone", "value": 9.5},
        ),
    ],
)
def test_what_is_pressed_arrives_as_a_command_that_is_accepted(
    home: Home,
    listener: Listener,
    action: str,
    entity_id: str,
    data: dict[str, object],
    verb: str,
    body: dict[str, object],
) -> None:
    home.press(action, entity_id, **data)
    heard = listener.wait_for(f"cmd/{verb}")
    assert (heard.qos, heard.retain, heard.body) == (1, False, body)
    assert is_accepted(verb, heard.payload)


def test_a_threshold_beyond_its_limits_is_refused_there_already(home: Home) -> None:
    with pytest.raises(urllib.error.HTTPError):
        home.press("set_value", "number.shrug_threshold_over_rest", value=51)


def test_the_switch_shows_what_the_service_says_and_not_what_was_pressed(home: Home, service: Service) -> None:
    home.press("turn_off", "switch.cues")
    assert home.states()["switch.cues"]["state"] == "on"
    service.tell("info", INFO | {"live": INFO["live"] | {"cue.enabled": False}})
    home.shows(switch__cues="off")


def test_a_reference_contraction_turns_level_into_tension_and_back(home: Home, service: Service) -> None:
    without = home.states().keys()
    expected = {
        entity["default_entity_id"].replace("unshrug_desk_", "")
        for key, entity in shown(KINDS["calibrated"]).items()
        if key != "lost"
    }
    service.announce(KINDS["calibrated"])
    eventually(lambda: home.states().keys() == expected, PATIENCE_S)
    service.tell("tension/slow", LEVELS, retain=False)
    home.shows(sensor__tension_left="50.5", number__shrug_threshold="30.0", switch__cues="on")
    assert home.states()["sensor.tension_left"]["attributes"]["unit_of_measurement"] == "%"
    service.announce(INFO)
    eventually(lambda: home.states().keys() == without, PATIENCE_S)


def test_everything_is_unavailable_while_the_service_is_away(home: Home, service: Service) -> None:
    service.tell("status", "offline")
    eventually(lambda: {state["state"] for state in home.states().values()} == {"unavailable"})
    service.tell("status", "online")
    home.shows(binary_sensor__shrug="on")


def test_an_empty_message_removes_the_device(home: Home, service: Service) -> None:
    service.say(topic_of("desk"), "")
    eventually(lambda: not home.states(), PATIENCE_S)


def test_channels_with_odd_names_are_entities_of_their_own(home: Home, service: Service) -> None:
    service.announce(KINDS["odd"])
    eventually(lambda: len(home.states()) == len(shown(KINDS["odd"])) - 1, PATIENCE_S)
    names = {state["attributes"]["friendly_name"] for state in home.states().values()}
    assert {f"Unshrug desk Level {name}" for name in ODD} < names


def test_nothing_of_this_made_it_complain_and_a_real_fault_does(home: Home, service: Service) -> None:
    assert home.complaints() == []
    service.tell("state", NOW | {"quality": "strange"})
    eventually(home.complaints)
