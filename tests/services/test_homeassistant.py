"""What Home Assistant is told, and what its templates make of what we publish."""

import json
import re
from dataclasses import fields, replace
from typing import Any

import pytest
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dsp.detect import ShrugSettings
from services.homeassistant import discovery, topic_of
from services.requests import VERBS
from services.settings import SettingsError
from tests.services.published import DAY, EPISODE, INFO, LEVELS, NOW, calibrated, is_accepted, named, payload
from tests.services.test_mqtt import STATE

ROOT = "unshrug/desk"
PUBLISHED = {"status", "info", "tension/slow", "state", "episode", "summary/day", "calibration"}
ODD = ("left", "Left", 'µ "V" {{ 1 }}', "µ", "a.b 'c'\\", "ch 1/2 #+")
NO_BOARD = payload(replace(STATE, channels=(), board_up=False, board_problem="no port"))

# Home Assistant renders in a sandbox like this, and logs a warning where something is undefined.
TEMPLATES = ImmutableSandboxedEnvironment(undefined=StrictUndefined)


def components(info: dict[str, Any] = INFO, wearer: str = "desk") -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = discovery(f"unshrug/{wearer}", wearer, info)[1]["components"]
    return found


def shown(info: dict[str, Any] = INFO, wearer: str = "desk") -> dict[str, dict[str, Any]]:
    """Return the components that become entities; one with its platform alone is removed."""
    return {key: entity for key, entity in components(info, wearer).items() if entity.keys() > {"platform"}}


def render(template: str, value: object) -> str:
    return TEMPLATES.from_string(template).render(value_json=value).strip()


def state_of(key: str, value: object, info: dict[str, Any] = INFO) -> str:
    return render(components(info)[key]["value_template"], value)


def test_the_device_is_announced_with_its_origin_and_its_availability() -> None:
    topic, told = discovery(ROOT, "desk", INFO)
    assert topic == topic_of("desk") == "homeassistant/device/unshrug_desk/config"
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["availability_topic"] == "unshrug/desk/status"
    assert told["device"]["identifiers"] == ["unshrug_desk"]
    assert told["device"]["sw_version"] == told["origin"]["sw_version"] == INFO["version"]


def test_what_info_holds_is_not_changed() -> None:
    before = json.dumps(INFO)
    discovery(ROOT, "desk", INFO)
    assert json.dumps(INFO) == before


def test_every_topic_is_one_of_the_contract() -> None:
    for key, entity in shown().items():
        topics = {name: value for name, value in entity.items() if name.endswith("topic")}
        assert topics, key
        for name, topic in topics.items():
            below = topic.removeprefix(f"{ROOT}/")
            if name == "command_topic":
                assert below.removeprefix("cmd/") in VERBS, key
            else:
                assert below in PUBLISHED, key


def test_every_entity_can_be_told_from_every_other_even_of_a_wearer_with_a_like_name() -> None:
    wearers = ("desk", "desk_rest", "desk_tension", "desk-rest", "desk_rest_today")
    ids = [
        e["unique_id"] for wearer in wearers for info in (INFO, calibrated(9, 9)) for e in shown(info, wearer).values()
    ]
    keys = {(w, key) for w in wearers for info in (INFO, calibrated(9, 9)) for key in shown(info, w)}
    assert len(set(ids)) == len(keys)


def test_entity_ids_are_well_formed_whatever_the_channels_are_called() -> None:
    for entity in shown(named(*ODD)).values():
        assert re.fullmatch(rf"{entity['platform']}\.[a-z0-9]+(_[a-z0-9]+)*", entity["default_entity_id"])
        assert "object_id" not in entity


def test_entity_ids_are_what_people_would_guess() -> None:
    entities = shown(calibrated(40, 40), "my-desk")
    assert entities["tension_0"]["default_entity_id"] == "sensor.unshrug_my_desk_tension_left"
    assert entities["cues"]["default_entity_id"] == "switch.unshrug_my_desk_cues"


def test_a_muscle_has_no_device_class() -> None:
    for info in (INFO, calibrated(40, 40)):
        levels = [entity for key, entity in shown(info).items() if re.match("(tension|level|rest)_", key)]
        assert len(levels) == 6
        assert not any("device_class" in entity for entity in levels)


@pytest.mark.parametrize("channel", range(len(ODD)))
def test_a_channel_gets_its_own_values_whatever_it_is_called(channel: int) -> None:
    info = named(*ODD)
    levels = LEVELS | {"channels": [{"name": n, "rms_uv": float(i), "rest_60s_pct": None} for i, n in enumerate(ODD)]}
    assert components(info)[f"level_{channel}"]["name"] == f"Level {ODD[channel]}"
    assert state_of(f"level_{channel}", levels, info) == str(float(channel))
    assert state_of(f"rest_{channel}", levels, info) == "None"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("level_0", LEVELS, "42.12"),
        ("level_1", LEVELS, "None"),
        ("rest_0", LEVELS, "30.0"),
        ("rest_1", LEVELS, "None"),
        ("shrug", NOW, "True"),
        ("shrug_0", NOW, "True"),
        ("shrug_1", NOW, "False"),
        ("shrug", NO_BOARD, "None"),
        ("shrug_1", NO_BOARD, "None"),
        ("quality", NOW, "bad"),
        ("board", NOW, "True"),
        ("board", NO_BOARD, "False"),
        ("lost", NOW, "10.0"),
        ("snoozed_until", NOW, "None"),
        ("snoozed_until", NOW | {"snoozed_until": "2026-01-01T12:15:00.000Z"}, "2026-01-01T12:15:00.000Z"),
        ("episodes_today", DAY, "3"),
        ("episodes_today", DAY | {"episodes": None}, "None"),
        ("cues_today", DAY, "2"),
        ("tense_today", DAY, "1.5"),
        ("tense_today", DAY | {"tense_time_s": None}, "None"),
        ("tense_today", DAY | {"tense_time_s": 0.0}, "0.0"),
        ("wear_today", DAY, "90.0"),
        ("rest_today_0", DAY, "61.4"),
        ("rest_today_1", DAY, "None"),
        ("rest_today_1", DAY | {"channels": []}, "None"),
        ("cues", INFO, "True"),
        ("cues", INFO | {"live": {"cue.enabled": False}}, "False"),
        ("on_rest_ratio", INFO, "8.0"),
        ("on_rest_ratio", INFO | {"live": {}}, "None"),
    ],
)
def test_an_entity_shows_what_is_published(key: str, value: dict[str, Any], expected: str) -> None:
    assert state_of(key, value) == expected


@pytest.mark.parametrize(
    ("shrugs", "expected"),
    [((True, None), "True"), ((False, None), "None"), ((False, False), "False"), ((None, None), "None")],
)
def test_nobody_is_said_to_be_relaxed_on_a_channel_that_is_not_known(
    shrugs: tuple[bool | None, ...], expected: str
) -> None:
    assert state_of("shrug", {"channels": [{"shrug": shrug} for shrug in shrugs]}) == expected


def test_words_of_truth_are_those_that_the_entity_waits_for() -> None:
    for key, entity in shown().items():
        if entity["platform"] == "binary_sensor":
            assert (entity["payload_on"], entity["payload_off"]) == (str(True), str(False)), key
    cues = shown()["cues"]
    assert (cues["state_on"], cues["state_off"]) == (str(True), str(False))


def test_bad_signal_says_why_with_the_channel() -> None:
    template = components()["quality"]["json_attributes_template"]
    odd = NOW | {"channels": [{"name": n, "reasons": ["flat"]} for n in ODD] + [{"name": "x", "reasons": []}]}
    assert json.loads(render(template, NOW)) == {"reasons": ["right: flat"]}
    assert json.loads(render(template, odd)) == {"reasons": [f"{name}: flat" for name in ODD]}
    assert json.loads(render(template, NO_BOARD)) == {"reasons": []}


def test_a_board_that_is_gone_says_why() -> None:
    template = components()["board"]["json_attributes_template"]
    assert json.loads(render(template, NO_BOARD)) == {"problem": "no port"}
    assert json.loads(render(template, NOW)) == {"problem": None}


@pytest.mark.parametrize("event", ["started", "ended"])
def test_an_episode_fires_when_it_starts_and_when_it_ends(event: str) -> None:
    fired = json.loads(state_of("episode", EPISODE[event]))
    assert fired == EPISODE[event] | {"event_type": event}
    assert event in components()["episode"]["event_types"]


def test_an_episode_that_is_only_updated_fires_nothing() -> None:
    assert state_of("episode", EPISODE["started"] | {"event": "updated"}) == ""


def test_tension_is_in_per_cent_of_a_reference_where_there_is_one() -> None:
    info = calibrated(40.0, None)
    entities = shown(info)
    assert {"tension_0", "level_1"} < entities.keys()
    assert not {"level_0", "tension_1"} & entities.keys()
    assert entities["tension_0"]["unit_of_measurement"] == "%"
    assert entities["level_1"]["unit_of_measurement"] == "µV"
    assert state_of("tension_0", LEVELS, info) == "50.5"
    assert {"on_rve", "on_rest_ratio"} < entities.keys()  # either has its channel


def test_what_a_calibration_replaces_is_named_for_removal() -> None:
    before, after = components(), components(calibrated(40, 40))
    assert before.keys() == after.keys()
    gone = {key: entity for key, entity in after.items() if key in shown() and key not in shown(calibrated(40, 40))}
    assert gone == {key: {"platform": components()[key]["platform"]} for key in ("level_0", "level_1", "on_rest_ratio")}


@pytest.mark.parametrize(
    ("verb", "keys"),
    [
        ("snooze", {"snooze_15", "snooze_60", "snoozed_until"}),
        ("resume", {"resume"}),
        ("cue-test", {"cue_test"}),
        ("set", {"cues", "on_rest_ratio"}),
        ("calibrate", {"calibrate", "calibrate_next", "calibrate_stop", "guide"}),
    ],
)
def test_what_the_service_has_no_verb_for_is_left_out(verb: str, keys: set[str]) -> None:
    without = INFO | {"verbs": [v for v in VERBS if v != verb]}
    assert shown().keys() - shown(without).keys() == keys


def test_every_button_and_switch_sends_a_command_that_is_accepted() -> None:
    sent = [
        (entity["command_topic"].removeprefix(f"{ROOT}/cmd/"), entity[name])
        for entity in shown().values()
        for name in ("payload_press", "payload_on", "payload_off")
        if "command_topic" in entity and name in entity
    ]
    assert len(sent) == 9
    for verb, text in sent:
        assert is_accepted(verb, text), (verb, text)


@pytest.mark.parametrize(("key", "reference"), [("on_rve", 40.0), ("on_rest_ratio", None)])
def test_a_threshold_goes_as_far_as_the_settings_allow_and_no_further(key: str, reference: float | None) -> None:
    number = shown(calibrated(reference, reference))[key]

    def accepted(value: float) -> bool:
        return is_accepted("set", TEMPLATES.from_string(number["command_template"]).render(value=value))

    assert accepted(number["min"] + number["step"])  # the least itself may contradict another setting
    assert accepted(number["max"])
    for beyond in (number["min"] - 0.1, number["max"] + 0.1):
        with pytest.raises(SettingsError):
            accepted(beyond)


def test_a_threshold_has_the_unit_of_its_setting() -> None:
    units = {field.name: field.metadata["unit"] for field in fields(ShrugSettings)}
    assert shown()["on_rest_ratio"]["unit_of_measurement"] == units["on_rest_ratio_alone"]
    assert shown(calibrated(40, 40))["on_rve"]["unit_of_measurement"] == units["on_rve"]
