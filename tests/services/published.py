"""What a service publishes and accepts, as dashboards see it."""

import json
from dataclasses import replace
from typing import Any

from services.messages import Message
from services.requests import read_request
from services.settings import Settings, changed
from tests.services.test_mqtt import ABOUT, ENDED, STARTED, STATE, SUMMARY, TENSION, contract_of


def payload(message: Message, **changes: Any) -> dict[str, Any]:
    """Return the payload of a message, with changes."""
    publication, *_ = contract_of("w").publications(message)
    made: dict[str, Any] = json.loads(publication.payload)
    return made | changes


INFO = payload(replace(ABOUT, live=Settings().live()))
LEVELS = payload(TENSION)
NOW = payload(STATE)
DAY = payload(
    replace(
        SUMMARY,
        episodes=3,
        tense_time_s=90.0,
        wear_time_s=5400.0,
        cues={"given": 2, "self_corrected": 1},
        channels=(replace(SUMMARY.channels[0], rest_pct=61.4), SUMMARY.channels[1]),
    )
)
EPISODE = {"started": payload(STARTED), "ended": payload(ENDED)}


def calibrated(*reference_uv: float | None) -> dict[str, Any]:
    """Return `info` with a reference contraction per channel, None where one has none."""
    return INFO | {"calibration": INFO["calibration"] | {"reference_uv": list(reference_uv)}}


def named(*channels: str) -> dict[str, Any]:
    """Return `info` of a board whose channels have these names."""
    return INFO | {"channels": list(channels)}


def is_accepted(verb: str, text: str) -> bool:
    """Whether a command is one that the service obeys."""
    request, wrong = read_request(verb, text.encode(), "unshrug/w")
    if verb == "set" and wrong is None:
        changed(Settings(), request.body["key"], request.body["value"])
    return wrong is None
