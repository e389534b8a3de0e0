"""What a service publishes and accepts, as dashboards see it: the contract's own, and what it is to grow by."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.messages import About, Episode, Message, WearerState
from services.settings import Settings, load_settings
from tests.services.test_mqtt import ABOUT, ENDED, STARTED, STATE, TENSION, contract_of

VERBS = ("snooze", "resume", "cue-test", "feedback", "calibrate", "set")
LIVE = ("cue.enabled", "shrug.on_rve", "shrug.on_rest_ratio_alone", "mqtt.tension_hz")


def payload(message: Message, **changes: Any) -> dict[str, Any]:
    """Return the payload of a message, with the fields of the contract that are not made yet."""
    publication = contract_of("w").publication(message)
    assert publication is not None
    made: dict[str, Any] = json.loads(publication.payload)
    return _beside(message) | made | changes


def _beside(message: Message) -> dict[str, Any]:
    match message:
        case WearerState():
            return {"quality": "bad"}
        case About():
            settings = asdict(Settings())
            live = {key: settings[key.partition(".")[0]][key.partition(".")[2]] for key in LIVE}
            return {"live": live, "verbs": list(VERBS)}
        case Episode():
            return {"end_reason": None, "calibration_id": None}
        case _:
            return {}


INFO = payload(ABOUT)
LEVELS = payload(TENSION)
NOW = payload(STATE)
DAY: dict[str, Any] = {
    "schema": "unshrug.summary_day/1",
    "t": "2026-01-01T12:00:00.000Z",
    "mono_s": 40000.0,
    "clock": "synchronised",
    "id": "2026-01-01",
    "seq": 7,
    "date": "2026-01-01",
    "final": False,
    "wear_time_s": 5400.0,
    "valid_time_s": 5100.0,
    "episodes": 3,
    "tense_time_s": 90.0,
    "channels": [
        {"name": "left", "rest_pct": 61.4, "apdf_uv": {"p10": 2.0, "p50": 4.0, "p90": 9.0}, "apdf_rve": None},
        {"name": "right", "rest_pct": None, "apdf_uv": {"p10": 2.0, "p50": 4.0, "p90": 9.0}, "apdf_rve": None},
    ],
    "cues": {"given": 2, "self_corrected": 1, "suppressed": 0},
    "time_to_relax_s": {"median": None, "n": 0},
}
EPISODE = {"started": payload(STARTED), "ended": payload(ENDED)}


def calibrated(*reference_uv: float | None) -> dict[str, Any]:
    """Return `info` with a reference contraction per channel, None where one has none."""
    return INFO | {"calibration": INFO["calibration"] | {"reference_uv": list(reference_uv)}}


def named(*channels: str) -> dict[str, Any]:
    """Return `info` of a board whose channels have these names."""
    return INFO | {"channels": list(channels)}


def is_accepted(verb: str, text: str, folder: Path) -> bool:
    """Whether a command is one that the service obeys; `set` is held to what a settings file may say."""
    body = json.loads(text)
    match verb, body:
        case (("resume" | "cue-test"), {}) if not body:
            return True
        case "snooze", {"minutes": int(minutes)} if len(body) == 1:
            return minutes > 0
        case "calibrate", {"action": "start"} if len(body) == 1:
            return True
        case "set", {"key": str(key), "value": bool() | float() | int() as value} if len(body) == 2 and key in LIVE:
            section, _, name = key.partition(".")
            file = folder / "unshrug.toml"
            file.write_text(f"[{section}]\n{name} = {json.dumps(value)}\n")
            read: dict[str, Any] = asdict(load_settings(file))
            return math.isclose(read[section][name], value)
    return False
