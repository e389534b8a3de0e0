"""What Home Assistant is told about a wearer: one discovery message that describes the device and its entities.

It is pure: a topic and a payload, made from what `info` says. Channels are addressed by their place, because their
names may hold anything. A template gives `None` where something is not known, which Home Assistant shows as unknown.
"""

import json
import re
from dataclasses import fields
from typing import Any

from dsp.detect import ShrugSettings

Component = dict[str, Any]

BIRTH = "homeassistant/status"  # says online when Home Assistant has started

_LEVEL_EXPIRES_S = 30  # six times the longest silence of `tension/slow`
_SNOOZES_MIN = (15, 60)
_TRUTH = {"payload_on": "True", "payload_off": "False"}  # as a template writes a JSON truth value
_DAILY = {"state_class": "total_increasing"}

_ANY_SHRUG = (
    "{% set on = value_json.channels | map(attribute='shrug') | list %}"
    "{{ True if True in on else None if None in on or not on else False }}"
)
# An update changes what is known of an episode, and is no event.
_EPISODE = (
    "{% if value_json.event in ('started', 'ended') %}{{ dict(value_json, event_type=value_json.event) | tojson }}"
    "{% endif %}"
)
_REASONS = (
    "{% set found = namespace(reasons=[]) %}{% for channel in value_json.channels %}{% for reason in channel.reasons %}"
    "{% set found.reasons = found.reasons + [channel.name ~ ': ' ~ reason] %}"
    "{% endfor %}{% endfor %}{{ {'reasons': found.reasons} | tojson }}"
)


def topic_of(wearer: str) -> str:
    """Return the topic of a wearer's discovery message; an empty retained message there removes the device."""
    return f"homeassistant/device/unshrug_{wearer}/config"


def discovery(root: str, wearer: str, info: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return topic and payload of the discovery message, to be retained.

    `root` is that of the wearer's topics and `info` the payload of `info` below it. What the service has no verb for is
    left out. A channel with a reference contraction has its tension in %, one without it its level in µV; what does not
    apply is named with its platform alone, by which Home Assistant removes it.
    """
    entities = _levels(root, info) | _shrugs(root, info) | _episodes(root) | _day(root, info) | _technical(root)
    entities |= _commands(root, info)
    return topic_of(wearer), {
        "device": {
            "identifiers": [f"unshrug_{wearer}"],
            "name": f"Unshrug {wearer}",
            "manufacturer": "Unshrug",
            "model": info["board"],
            "sw_version": info["version"],
        },
        "origin": {"name": "Unshrug", "sw_version": info["version"]},
        "availability_topic": f"{root}/status",
        "components": {key: _finish(wearer, key, entity) for key, entity in entities.items()},
    }


def _finish(wearer: str, key: str, entity: Component) -> Component:
    """Add what every entity has; one that is only to be removed has nothing but its platform.

    Home Assistant numbers ids that are alike, as of channels whose names differ in signs only.
    """
    if entity.keys() == {"platform"}:
        return entity
    readable = re.sub("[^a-z0-9]+", "_", f"unshrug {wearer} {entity['name']}".lower()).strip("_")
    return entity | {
        "unique_id": f"unshrug_{wearer}.{key}",
        "default_entity_id": f"{entity['platform']}.{readable}",
        "qos": 1,
    }


def _of(path: str) -> str:
    """Return a template for a value at a path of keys; what is missing is `None`, as what is null."""
    *parents, last = path.split("/")
    inner = "value_json" + "".join(f".{parent}" for parent in parents)
    return f"{{{{ {inner}.get('{last}') }}}}"


def _of_channel(index: int, key: str) -> str:
    """Return a template for a value of a channel; without a board there may be no channels."""
    return f"{{{{ (value_json.channels[{index}] | default({{}})).get('{key}') }}}}"


def _minutes(key: str) -> str:
    return f"{{% set s = value_json.get('{key}') %}}{{{{ None if s is none else (s / 60) | round(1) }}}}"


def _has_reference(info: dict[str, Any]) -> list[bool]:
    """Say of each channel whether its level is known in % of a reference contraction."""
    given = info["calibration"]["reference_uv"] or [None] * len(info["channels"])
    return [level is not None for level in given]


def _levels(root: str, info: dict[str, Any]) -> dict[str, Component]:
    """Tension and rest; no device class fits a muscle's tension, and a wrong one would drop the entity."""

    def live(name: str, unit: str, channel: int, key: str) -> Component:
        return {
            "platform": "sensor",
            "name": name,
            "icon": "mdi:sofa" if key.startswith("rest") else "mdi:arm-flex",
            "state_topic": f"{root}/tension/slow",
            "state_class": "measurement",
            "expire_after": _LEVEL_EXPIRES_S,
            "unit_of_measurement": unit,
            "suggested_display_precision": 0 if unit == "%" else 1,
            "value_template": _of_channel(channel, key),
        }

    found: dict[str, Component] = {}
    for c, (name, relative) in enumerate(zip(info["channels"], _has_reference(info), strict=True)):
        tension = live(f"Tension {name}", "%", c, "rve")
        level = live(f"Level {name}", "µV", c, "rms_uv")
        found[f"tension_{c}"] = tension if relative else {"platform": "sensor"}
        found[f"level_{c}"] = {"platform": "sensor"} if relative else level
        found[f"rest_{c}"] = live(f"Rest {name}", "%", c, "rest_60s_pct")
    return found


def _shrugs(root: str, info: dict[str, Any]) -> dict[str, Component]:
    common = {"platform": "binary_sensor", "state_topic": f"{root}/state", "icon": "mdi:human-handsup", **_TRUTH}
    each = {
        f"shrug_{c}": common | {"name": f"Shrug {name}", "value_template": _of_channel(c, "shrug")}
        for c, name in enumerate(info["channels"])
    }
    return {"shrug": common | {"name": "Shrug", "value_template": _ANY_SHRUG}} | each


def _episodes(root: str) -> dict[str, Component]:
    return {
        "episode": {
            "platform": "event",
            "name": "Episode",
            "icon": "mdi:timeline-clock-outline",
            "state_topic": f"{root}/episode",
            "event_types": ["started", "ended"],
            "value_template": _EPISODE,
        }
    }


def _day(root: str, info: dict[str, Any]) -> dict[str, Component]:
    common = {"platform": "sensor", "state_topic": f"{root}/summary/day"}
    minutes = _DAILY | {"device_class": "duration", "unit_of_measurement": "min", "suggested_display_precision": 0}
    found: dict[str, Component] = {
        "episodes_today": {
            "name": "Episodes today",
            "icon": "mdi:counter",
            "value_template": _of("episodes"),
            **_DAILY,
        },
        "cues_today": {
            "name": "Cues today",
            "icon": "mdi:vibrate",
            "value_template": _of("cues/given"),
            **_DAILY,
        },
        "tense_today": {"name": "Tense time today", "value_template": _minutes("tense_time_s"), **minutes},
        "wear_today": {"name": "Wear time today", "value_template": _minutes("wear_time_s"), **minutes},
    }
    for c, name in enumerate(info["channels"]):
        found[f"rest_today_{c}"] = {
            "name": f"Rest today {name}",
            "icon": "mdi:sofa",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "suggested_display_precision": 0,
            "value_template": _of_channel(c, "rest_pct"),
        }
    return {key: common | entity for key, entity in found.items()}


def _technical(root: str) -> dict[str, Component]:
    """Whether the rest can be believed."""
    common = {"state_topic": f"{root}/state", "entity_category": "diagnostic"}
    return {
        "quality": common
        | {
            "platform": "sensor",
            "name": "Signal quality",
            "icon": "mdi:signal",
            "device_class": "enum",
            "options": ["ok", "warn", "bad"],
            "value_template": _of("quality"),
            "json_attributes_topic": f"{root}/state",
            "json_attributes_template": _REASONS,
        },
        "board": common
        | {
            "platform": "binary_sensor",
            "name": "Board",
            "device_class": "connectivity",
            "value_template": _of("board/up"),
            "json_attributes_topic": f"{root}/state",
            "json_attributes_template": "{{ {'problem': value_json.board.get('problem')} | tojson }}",
            **_TRUTH,
        },
        "lost": common
        | {
            "platform": "sensor",
            "name": "Lost samples",
            "icon": "mdi:chart-line-variant",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "suggested_display_precision": 2,
            "enabled_by_default": False,
            "value_template": _of("board/lost_pct"),
        },
    }


def _commands(root: str, info: dict[str, Any]) -> dict[str, Component]:
    """What can be asked of the service, as far as it has the verb."""
    verbs = info["verbs"]
    found: dict[str, Component] = {}
    if "snooze" in verbs:
        for minutes in _SNOOZES_MIN:
            found[f"snooze_{minutes}"] = _button(root, "snooze", f"Snooze {minutes} min", "mdi:sleep", minutes=minutes)
        found["snoozed_until"] = {
            "platform": "sensor",
            "name": "Snoozed until",
            "icon": "mdi:sleep",
            "state_topic": f"{root}/state",
            "device_class": "timestamp",
            "value_template": _of("snoozed_until"),
        }
    if "resume" in verbs:
        found["resume"] = _button(root, "resume", "Resume cues", "mdi:play")
    if "cue-test" in verbs:
        found["cue_test"] = _button(root, "cue-test", "Cue test") | {
            "device_class": "identify",
            "entity_category": "config",
        }
    if "calibrate" in verbs:
        found["calibrate"] = _button(root, "calibrate", "Calibrate", "mdi:tune", action="start")
        found["calibrate_next"] = _button(root, "calibrate", "Calibrate: I am ready", "mdi:check", action="next")
        found["calibrate_stop"] = _button(root, "calibrate", "Calibrate: stop", "mdi:stop", action="stop")
        found["guide"] = {
            "platform": "sensor",
            "name": "Calibration step",
            "icon": "mdi:human-handsup",
            "state_topic": f"{root}/calibration",
            "value_template": _of("step"),
            "json_attributes_topic": f"{root}/calibration",
            "json_attributes_template": "{{ {'say': value_json.say, 'outcome': value_json.outcome} | tojson }}",
        }
    return found | (_settings(root, info) if "set" in verbs else {})


def _button(root: str, verb: str, name: str, icon: str | None = None, **arguments: object) -> Component:
    return {
        "platform": "button",
        "name": name,
        "command_topic": f"{root}/cmd/{verb}",
        "payload_press": json.dumps(arguments),
        **({"icon": icon} if icon else {}),
    }


def _settings(root: str, info: dict[str, Any]) -> dict[str, Component]:
    relative = _has_reference(info)
    common = {"state_topic": f"{root}/info", "command_topic": f"{root}/cmd/set"}
    cues = common | {
        "platform": "switch",
        "name": "Cues",
        "icon": "mdi:vibrate",
        "value_template": _live("cue.enabled"),
        "state_on": "True",
        "state_off": "False",
        "payload_on": json.dumps({"key": "cue.enabled", "value": True}),
        "payload_off": json.dumps({"key": "cue.enabled", "value": False}),
    }
    on_rve = common | _threshold("on_rve", "Shrug threshold")
    on_rest_ratio = common | _threshold("on_rest_ratio_alone", "Shrug threshold over rest")
    return {
        "cues": cues,
        "on_rve": on_rve if any(relative) else {"platform": "number"},
        "on_rest_ratio": {"platform": "number"} if all(relative) else on_rest_ratio,
    }


def _live(key: str) -> str:
    return f"{{{{ value_json.live.get('{key}') }}}}"


def _threshold(setting: str, name: str) -> Component:
    """A number for a setting of the detector, with the range and the unit that the setting states."""
    about = next(field.metadata for field in fields(ShrugSettings) if field.name == setting)
    return {
        "platform": "number",
        "name": name,
        "icon": "mdi:ray-vertex",
        "entity_category": "config",
        "mode": "box",
        "min": about["low"],
        "max": about["high"],
        "step": 0.5,
        "unit_of_measurement": about["unit"],
        "value_template": _live(f"shrug.{setting}"),
        "command_template": f'{{"key": "shrug.{setting}", "value": {{{{ value }}}}}}',
    }
