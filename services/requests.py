"""What may be asked of the service from outside, and how a request is read: what is not right has no effect."""

import json
import re
from datetime import date, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from services.messages import Request

VERBS = (
    "snooze", "resume", "cue-test", "feedback", "withdraw", "allow", "calibrate", "exercise", "diary", "checkin",
    "set", "resend",
)  # fmt: skip
MOST_BYTES = 8192

_MOST_TOPIC = 200
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SHOWN = 40


def read_request(
    verb: str,
    payload: bytes,
    root: str,
    *,
    retained: bool = False,
    reply_topic: str | None = None,
    correlation: bytes | None = None,
) -> tuple[Request, str | None]:
    """Read a request that came on `<root>/cmd/<verb>`; return it with what is wrong about it, None if nothing is.

    What is wrong is a sentence for the sender. A reply topic that is not for replies is not used.
    """
    topic = reply_topic if reply_topic and _may_reply(reply_topic, root) else None
    nothing = Request(verb[:_SHOWN], {}, topic, correlation)
    if retained:
        return nothing, "a retained command is refused, for it would come again for ever; publish it without retain"
    if len(payload) > MOST_BYTES:
        return nothing, f"{len(payload)} bytes; expected {MOST_BYTES} at most"
    if verb not in VERBS:
        return nothing, f"unknown command; expected {', '.join(VERBS)}"
    try:
        body = json.loads(payload.decode(), parse_constant=_no_number)
        json.dumps(body, ensure_ascii=False).encode()  # half a character, which JSON can escape, cannot be kept
    except (ValueError, RecursionError) as error:
        return nothing, f"not a JSON object: {str(error)[:_SHOWN]}"
    if not isinstance(body, dict):
        return nothing, f"expected a JSON object, got {json.dumps(body)[:_SHOWN]}"
    wrong = what_is_wrong(verb, body)
    name = body.get("request_id")
    known = body if wrong is None else {"request_id": name} if isinstance(name, str) and len(name) <= 64 else {}
    return Request(verb, known, topic, correlation), wrong


def _may_reply(topic: str, root: str) -> bool:
    """Whether it is harmless to publish there: not what others publish, and nothing that is a command."""
    ours = topic == f"{root}/reply" or topic.startswith(f"{root}/reply/")
    kept = topic.startswith(("$", "unshrug/", "homeassistant/"))
    plain = len(topic) <= _MOST_TOPIC and topic.isprintable() and not set(topic) & set("+#")
    return plain and (ours or not kept)


def what_is_wrong(verb: str, body: dict[str, Any]) -> str | None:
    """Return in a sentence what the schema of a verb minds about a body, None if nothing."""
    import fastjsonschema

    try:
        _validator(verb)(body)
    except fastjsonschema.JsonSchemaValueException as error:
        got = "" if error.value is body else f", got {json.dumps(error.value)[:_SHOWN]}"
        return f"{error.message.removeprefix('data.').removeprefix('data ')[:200]}{got}"
    return None


@cache
def _validator(verb: str) -> Any:
    import fastjsonschema

    formats = {"date-time": _is_time, "date": _is_date}
    return fastjsonschema.compile(schema(f"cmd_{verb}"), formats=formats)


def _is_time(text: str) -> bool:
    """Whether it is a point in time as others read it too (RFC 3339), with an offset, and on a day that there was."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return _RFC3339.fullmatch(text) is not None


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a payload, such as `episode` or `cmd_snooze`."""
    text = (files("services") / "schemas" / f"{name}.json").read_text(encoding="utf-8")
    out: dict[str, Any] = json.loads(text)
    return out


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")
