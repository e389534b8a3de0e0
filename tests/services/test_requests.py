"""What is asked from outside: read strictly, without effect where it is wrong, whatever comes."""

import json
from typing import Any

import fastjsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.requests import MOST_BYTES, VERBS, read_request, schema

ROOT = "unshrug/w"
EPISODE = "019b76da-0000-7000-8000-000000000000"

RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("snooze", {"minutes": 15}),
    ("snooze", {"minutes": 1.5, "request_id": "mine"}),
    ("resume", {}),
    ("cue-test", {}),
    ("feedback", {"label": "deadline"}),
    ("feedback", {"episode_id": EPISODE, "label": "zu viel, échéance"}),
    ("set", {"key": "cue.enabled", "value": False}),
    ("set", {"key": "cue.enabled", "value": None}),
    ("resend", {"since": "2026-01-01T00:00:00Z"}),
    ("diary", {"kind": "no_headache", "date": "2026-01-31"}),
    ("diary", {"kind": "headache", "start": "2026-01-31T08:00:00+01:00", "peak": 7, "side": "left", "light": True}),
]

WRONG: list[tuple[str, bytes, str]] = [
    ("snooze", b"", "not a JSON object"),
    ("snooze", b"[]", "expected a JSON object, got []"),
    ("snooze", b"{}", "must contain ['minutes'] properties"),
    ("snooze", b'{"minutes": NaN}', "NaN is no number"),
    ("snooze", b'{"minutes": 1e999}', "minutes must be smaller than or equal to 720, got Infinity"),
    ("snooze", b'{"minutes": true}', "minutes must be number, got true"),
    ("snooze", b'{"minutes": 0}', "minutes must be bigger than or equal to 1, got 0"),
    ("snooze", b'{"minutes": 15, "hours": 1}', "must not contain {'hours'} properties"),
    ("snooze", b"\xff\xfe", "not a JSON object"),
    ("snooze", b"[" * 8000, "not a JSON object"),
    ("snooze", b"9" * 8000, "not a JSON object"),
    ("snooze", b" " * (MOST_BYTES + 1), f"{MOST_BYTES + 1} bytes; expected {MOST_BYTES} at most"),
    ("../status", b"{}", "unknown command; expected snooze, resume"),
    ("calibrate/now", b"{}", "unknown command"),
    ("feedback", b'{"label": "a\\u0000b"}', "label must match pattern"),
    ("feedback", b'{"label": ""}', "label must be longer"),
    ("feedback", b'{"label": "x", "episode_id": "1 OR 1=1"}', "episode_id must match pattern"),
    ("resend", b'{"since": "2026-19-39T00:00:00Z"}', "since must be date-time"),
    ("resend", b'{"since": "2026-01-01T00:00:00"}', "since must be date-time"),
    ("resend", b'{"since": "20260101T000000Z"}', "since must be date-time"),
    ("resend", b'{"since": "2026-01-01 00:00:00Z"}', "since must be date-time"),
    ("diary", b'{"kind": "no_headache", "date": "2026-02-03", "note": "\\ud800"}', "not a JSON object"),
    ("diary", b'{"kind": "no_headache", "date": "2026-02-30"}', "date must be date"),
    ("diary", b'{"kind": "no_headache", "date": "2026-02-03", "peak": 3}', "peak must not be there"),
    ("diary", b'{"kind": "headache", "start": "2026-01-31T08:00:00Z", "peak": 11}', "peak must be smaller"),
]


@pytest.mark.parametrize(("verb", "body"), RIGHT)
def test_what_is_right_is_read(verb: str, body: dict[str, Any]) -> None:
    request, wrong = read_request(verb, json.dumps(body).encode(), ROOT)
    assert wrong is None
    assert (request.verb, request.body, request.request_id) == (verb, body, body.get("request_id"))


@pytest.mark.parametrize(("verb", "payload", "said"), WRONG)
def test_what_is_wrong_is_said_in_a_sentence_and_has_no_body(verb: str, payload: bytes, said: str) -> None:
    request, wrong = read_request(verb, payload, ROOT)
    assert wrong is not None
    assert said in wrong
    assert len(wrong) < 300
    assert request.body == {}


def test_the_sender_is_told_which_of_its_requests_was_wrong() -> None:
    request, wrong = read_request("snooze", b'{"minutes": -1, "request_id": "mine"}', ROOT)
    assert wrong
    assert request.request_id == "mine"
    request, wrong = read_request("snooze", b'{"minutes": 1, "request_id": {"a": 1}}', ROOT)
    assert wrong
    assert request.request_id is None


def test_a_retained_command_is_refused_however_right_it_is() -> None:
    request, wrong = read_request("snooze", b'{"minutes": 15}', ROOT, retained=True)
    assert wrong is not None
    assert "retained command is refused" in wrong
    assert request.body == {}


@pytest.mark.parametrize(
    ("topic", "used"),
    [
        ("app/answers/17", True),
        (f"{ROOT}/reply", True),
        (f"{ROOT}/reply/app", True),
        (f"{ROOT}/status", False),
        (f"{ROOT}/cmd/snooze", False),
        ("unshrug/other/cmd/snooze", False),
        ("homeassistant/device/unshrug_w/config", False),
        ("$SYS/broker", False),
        ("app/+", False),
        ("app/#", False),
        ("a" * 300, False),
        ("a\nb", False),
    ],
)
def test_an_answer_goes_only_where_it_harms_nothing(topic: str, used: bool) -> None:
    request, _ = read_request("resume", b"{}", ROOT, reply_topic=topic, correlation=b"17")
    assert (request.reply_topic, request.correlation) == (topic if used else None, b"17")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.dictionaries(
    st.sampled_from(["minutes", "label", "key", "value", "since", "kind", "start", "date", "request_id"]) | st.text(),
    json_values,
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(
    verb=st.sampled_from(VERBS) | st.text(max_size=60),
    payload=st.binary(max_size=200) | fields.map(lambda body: json.dumps(body).encode()),
    retained=st.booleans(),
    topic=st.none() | st.text(max_size=30),
)
def test_whatever_comes_is_either_right_by_its_schema_or_refused(
    verb: str, payload: bytes, retained: bool, topic: str | None
) -> None:
    request, wrong = read_request(verb, payload, ROOT, retained=retained, reply_topic=topic)
    assert len(request.verb) <= 40
    if wrong is None:
        assert not retained
        fastjsonschema.validate(schema(f"cmd_{verb}"), request.body)
    else:
        assert set(request.body) <= {"request_id"}
