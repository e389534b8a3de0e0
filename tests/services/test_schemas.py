"""The contract as files, JSON Schemas and an AsyncAPI document: they say what the code does, no less and no more."""

import itertools
import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, FormatChecker
from paho.mqtt.client import topic_matches_sub

from dsp.detect import Shrug
from dsp.low_rest import LowRest
from dsp.quality import REASONS, STATES
from dsp.reference import Verdict
from firmware_bridge.bridge import Counts
from services.broker import Broker
from services.contract import LIVE_EXPIRY_S, SCHEMAS, Contract, Publication, Stamp, interrupted
from services.delivery import Delivery
from services.exercises import EXERCISES
from services.haptics import Haptics
from services.messages import (
    About,
    ChannelDay,
    ChannelState,
    ChannelTension,
    Cue,
    DaySummary,
    Episode,
    Message,
    Outcome,
    Pattern,
    Period,
    Reply,
    Request,
    Tension,
    WearerState,
)
from services.pipeline import Pipeline
from services.requests import VERBS, read_request, schema
from services.safety import SYMPTOMS
from services.screen import make_screen
from services.serving import _announcement, _connect, link_of
from services.settings import MqttSettings, Settings, WearerSettings
from services.steering import WITHDRAWABLE, Steering
from services.store import Store, uuid7
from tests.services.conftest import (
    CALIBRATED,
    LOOPBACK,
    REST,
    Heard,
    blocks,
    eventually,
    listening,
    samples,
    validate,
)
from tests.services.test_mqtt import (
    ABOUT,
    CALIBRATION,
    CUE,
    ENDED,
    EXERCISE,
    ID,
    NIGHT,
    RESULT,
    STARTED,
    STATE,
    SUMMARY,
    TENSION,
    contract_of,
    receive,
    stamp,
)

Json = dict[str, Any]
Place = tuple[str, str]

ROOT = Path(__file__).parents[2]
FILES = sorted(path.stem for path in (ROOT / "services" / "schemas").glob("*.json"))
DOCUMENT: Json = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text(encoding="utf-8"))
NAN = float("nan")
NAMES = {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null", list: "array"}

FORMATS = FormatChecker(["date"])


@FORMATS.checks("date-time")
def is_rfc3339(value: object) -> bool:
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
    return not isinstance(value, str) or re.fullmatch(form, value) is not None


def validator(of: Json) -> Draft7Validator:
    return Draft7Validator(of, format_checker=FORMATS)


def permitted(of: Json, path: str = "") -> Iterator[Place]:
    """Yield every place that a schema describes, with each type of what may be there, or each value of a closed set."""
    if "const" in of or "enum" in of:
        yield from ((path, repr(value)) for value in of.get("enum", [of.get("const")]))
        return
    types = of["type"] if isinstance(of["type"], list) else [of["type"]]
    yield from ((path, name.replace("integer", "number")) for name in types)
    for key, inner in of.get("properties", {}).items():
        yield from permitted(inner, f"{path}.{key}")
    if isinstance(of.get("additionalProperties"), dict):
        yield from permitted(of["additionalProperties"], f"{path}.*")
    if "items" in of:
        yield from permitted(of["items"], f"{path}[]")


def found(of: Json, value: Any, path: str = "") -> Iterator[Place]:
    """Yield every place in a payload, with the type of what is there, or the value where the schema closes the set."""
    if "const" in of or "enum" in of:
        yield path, repr(value)
        return
    yield path, NAMES.get(type(value), "object")
    if isinstance(value, dict):
        known, others = of.get("properties", {}), of.get("additionalProperties")
        for key, inner in value.items():
            if key in known or not isinstance(others, dict):
                yield from found(known.get(key, {}), inner, f"{path}.{key}")
            else:
                yield from found(others, inner, f"{path}.*")
    if isinstance(value, list):
        for inner in value:
            yield from found(of.get("items", {}), inner, f"{path}[]")


def demanded(of: Json, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yield every object that a schema describes, with what it says is always there."""
    if "properties" in of:
        yield path, set(of["required"])
    for key, inner in of.get("properties", {}).items():
        yield from demanded(inner, f"{path}.{key}")
    if "items" in of:
        yield from demanded(of["items"], f"{path}[]")


def objects(value: Any, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yield every object in a payload with what is there."""
    if isinstance(value, dict):
        yield path, set(value)
        for key, inner in value.items():
            yield from objects(inner, f"{path}.{key}")
    if isinstance(value, list):
        for inner in value:
            yield from objects(inner, f"{path}[]")


def messages() -> Iterator[Message]:
    """Yield messages that between them have everything a payload can have, and lack everything that it can lack."""
    nowhere = ChannelTension("left", *[NAN] * 5)
    yield from (replace(TENSION, quality=state, cues_enabled=state == "ok") for state in STATES)
    yield replace(TENSION, channels=(nowhere,))
    pipeline = Pipeline(CALIBRATED)
    list(pipeline.local_time(datetime(2026, 1, 1, 12), 0.0))
    told = [m for block in blocks(samples(replace(REST, seconds=1))) for m in pipeline.process(block)]
    told += [*pipeline.board(None), *pipeline.board("unplugged"), *pipeline.snooze(60.0, 1.0), *pipeline.finish()]
    yield from told
    for state in STATES:
        yield replace(STATE, channels=(ChannelState("left", True, state, REASONS),), counts=Counts(measured_hz=NAN))
    yield replace(STATE, channels=(), episode_id=None, snoozed_until_s=9.0)
    yield from (STARTED, replace(STARTED, event="updated", kinds=(Shrug.kind, LowRest.kind), label="deadline"), ENDED)
    yield replace(ENDED, end_reason="cut_off", peak_uv=NAN, mean_uv=NAN)
    patterns: tuple[Pattern | None, ...] = ("cue", "escalation", "sensor", None)
    for outcome, pattern in itertools.product(get_args(Outcome), patterns):
        yield replace(CUE, outcome=outcome, pattern=pattern, reason=None if pattern else "snoozed", episode_id=None)
    yield CUE
    levels = (1.0, 2.0, 3.0)
    yield replace(SUMMARY, final=True, relaxed_after_s=(), channels=(ChannelDay("left", 1.0, 0.0, levels, levels),))
    yield SUMMARY
    yield from (replace(CUE, share=0.67, prompt="p"), replace(CUE, trigger="sensor"), replace(CUE, trigger="low_rest"))
    yield from (RESULT, replace(RESULT, relaxed_after_s=None, rest_after_pct=None))
    yield from (NIGHT, replace(NIGHT, channels=(), free_rest_pct=None), replace(SUMMARY, free_rest_pct=None))
    yield replace(NIGHT, final=True, relaxed_after_s=(), channels=(ChannelDay("left", 1.0, 0.0, levels, levels),))
    yield replace(STATE, period="night", silent_because="quiet hours", questions=("how?",))
    yield from guided()
    nothing = replace(ABOUT, rest_uv=None, calibration_source=None, calibration_id=None, verdicts=(), on_uv=(NAN,))
    verdicts = tuple(Verdict(state, True, 9.0) for state in STATES)
    yield from (ABOUT, nothing, replace(ABOUT, reference_uv=(80.0, NAN), verdicts=verdicts))
    yield replace(ABOUT, live=Settings().live(), counts=Counts(measured_hz=999.9))


def guided() -> Iterator[Message]:
    """Yield what is said on the way through a calibration and an exercise, and at the end."""
    for kind, one in (("calibration", CALIBRATION), ("exercise", EXERCISE)):
        known = schema(kind)["properties"]
        for step in known["step"]["enum"]:
            yield from (replace(one, event="started", step=step, left_s=3.0), replace(one, event="progress", step=step))
        for outcome in known["outcome"]["enum"]:
            yield replace(one, details=one.details | {"outcome": outcome, "reason": "because" if outcome else None})
    unknown = ("pain", "rest_uv", "rest_p10_uv", "noise_uv", "reference_uv", "cv_pct", "snr_db")
    yield replace(CALIBRATION, details=CALIBRATION.details | dict.fromkeys(unknown))
    verdicts = [{"state": state, "sees_rest": None, "reasons": ["r"]} for state in STATES]
    yield replace(
        CALIBRATION,
        details=CALIBRATION.details
        | {"verdicts": verdicts, "levels_uv": [None], "band": CALIBRATION.details["band"] | {"notches_hz": [50.0]}},
    )
    nothing = {key: [None] for key in EXERCISE.details if key.endswith(("_uv", "_rve"))}
    yield replace(EXERCISE, details=EXERCISE.details | nothing | {"breaths": 3})
    for name in EXERCISES:
        yield replace(EXERCISE, details=EXERCISE.details | {"name": name})


def written() -> Iterator[Publication]:
    """Yield what is written down, which between them has all that a request can say."""
    for contract in (contract_of("w"), Contract("w", stamp, lambda: Stamp(stamp(0.0).wall_s, NAN, True))):
        known = schema("cmd_diary")["properties"]
        full = schema("cmd_diary")["examples"][0] | {
            "end": "2026-01-31T17:30:00Z", "nausea": True, "light": True, "sound": False, "medicine": "a",
            "trigger": "b", "aura": False, "effort": True, "sudden": False, "symptoms": list(SYMPTOMS), "relief": True,
        }  # fmt: skip
        for side, quality in itertools.product(known["side"]["enum"], known["quality"]["enum"]):
            yield contract.record("diary", ID, 0, full | {"side": side, "quality": quality})
        yield contract.record("diary", ID, 1, {"kind": "no_headache", "date": "2026-01-01"})
        yield contract.record("diary", ID, 2, {"kind": "therapy", "deleted": True})
        for kind, after_h in itertools.product(("calibration", "therapy"), (24, 48)):
            least = {"kind": kind, "about": ID, "after_h": after_h}
            yield contract.record("checkin", ID, 0, least)
            said = {"pain": 1, "headache": False, "worse": True, "symptoms": list(SYMPTOMS), "note": "n"}
            yield contract.record("checkin", ID, 0, least | said)


def payloads(broker_heard: list[Heard]) -> Iterator[Json]:
    """Yield payloads of every kind, in every variant."""
    contracts = contract_of("w"), Contract("w", lambda s: replace(stamp(s), known=True), lambda: stamp(0.0))
    for contract in contracts:
        for message in messages():
            for publication in contract.publications(message):
                yield json.loads(publication.payload)
                if isinstance(message, Episode):
                    yield json.loads(interrupted(publication.payload).payload)
    yield from (json.loads(publication.payload) for publication in written())
    yield from (heard.body for heard in broker_heard if heard.topic == "reply")


@pytest.fixture(scope="module")
def life(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> list[Heard]:
    """Everything that a service publishes from its start to its end, as another client gets it."""
    root = "unshrug/w"
    store = Store(tmp_path_factory.mktemp("store") / "w.sqlite3")
    pipeline, haptics = Pipeline(CALIBRATED), Haptics(CALIBRATED.motor, simulated=True)
    known = itertools.cycle([True, False])  # whether the clock is
    contract = Contract("w", stamp, lambda: Stamp(stamp(0.0).wall_s, 0.5, next(known)))

    def obey(request: Request) -> bool:
        for message in steering.obey(request, 0.0):
            delivery.accept(message)
        return True

    delivery = Delivery(contract, store, ask=obey, announce=partial(_announcement, root, "w"))
    steering = Steering(CALIBRATED, {}, (), pipeline, haptics, delivery.answer, delivery.keep, lambda: 1e9)
    with listening(broker.port, root) as other, listening(broker.port, "homeassistant") as home:
        try:
            delivery.connect(partial(link_of, "w", broker, MqttSettings()))
            assert delivery.connected.wait(5)
            list(pipeline.board(None))
            list(pipeline.local_time(datetime(2026, 1, 1, 12), 0.0))
            for message in (TENSION, STATE, STARTED, ENDED, CUE, EXERCISE, CALIBRATION, SUMMARY, NIGHT, ABOUT):
                delivery.accept(message)
            eventually(lambda: store.waiting(0, 9) == [])
            yesterday = Contract("w", lambda s: Stamp(time.time() - 30 * 3600, 0.5), lambda: stamp(0.0))
            about = schema("cmd_checkin")["examples"][0]["about"]
            store.put(list(yesterday.publications(replace(CALIBRATION, id=about))))
            sitting = blocks(samples(replace(REST, seconds=40)), 1000)
            for verb in VERBS:
                list(pipeline.process(next(sitting)))
                asked = {k: v for k, v in schema(f"cmd_{verb}")["examples"][0].items() if k != "episode_id"}
                for body in (asked, asked | {"action": "stop"}) if "action" in asked else (asked,):
                    other.publish(f"{root}/cmd/{verb}", json.dumps(body))
                    answer = other.wait_for("reply").body
                    assert (answer["result"], answer["error"]) == ("ok", None)
                    list(pipeline.process(next(sitting)))
            for value in (4, "22:00-07:00"):
                key = "cue.quiet_hours" if isinstance(value, str) else "cue.per_hour"
                other.publish(f"{root}/cmd/set", json.dumps({"key": key, "value": value}))
                assert other.wait_for("reply").body["value"] == value
            sore = {"kind": "headache", "start": "2020-01-01T08:00:00Z", "end": "2020-01-01T09:00:00Z", "sudden": True}
            other.publish(f"{root}/cmd/diary", json.dumps(sore))
            assert other.wait_for("reply").body["advice"]
            other.publish(f"{root}/cmd/snooze", '{"request_id": "mine"}')
            assert other.wait_for("reply").body["request_id"] == "mine"
        finally:
            delivery.close()
            haptics.close()
        other.wait_for("status", lambda heard: heard.payload == "offline")
        home.wait_for("device/unshrug_w/config")
        announced = [replace(heard, topic=f"homeassistant/{heard.topic}") for heard in home.drain()]
    return [*(heard for heard in other.drain() if not heard.topic.startswith("cmd/")), *announced]


@pytest.mark.parametrize("name", FILES)
def test_a_schema_is_valid_and_so_are_its_examples(name: str) -> None:
    known = schema(name)
    Draft7Validator.check_schema(known)
    assert known["$id"] == f"urn:unshrug:{name.replace('_', ':', name.startswith('cmd_'))}:1"
    assert known["description"]
    assert known["examples"]
    for example in known["examples"]:
        validator(known).validate(example)


def test_every_payload_and_every_command_has_a_schema_and_there_are_no_others() -> None:
    assert sorted([*SCHEMAS, *(f"cmd_{verb}" for verb in VERBS)]) == FILES


@pytest.mark.parametrize("name", FILES)
def test_every_property_is_described(name: str) -> None:
    known = schema(name)["properties"]
    assert [key for key, of in known.items() if not of.get("description")] == []


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_permits_what_the_code_says_and_nothing_that_it_never_says(kind: str, life: list[Heard]) -> None:
    known = schema(kind)
    said = [p for p in payloads(life) if p["schema"] == f"unshrug.{kind}/1"]
    for payload in said:
        validator(known).validate(payload)
    places = {place for payload in said for place in found(known, payload)}
    assert places == set(permitted(known))


@pytest.mark.parametrize("kind", SCHEMAS)
def test_what_is_required_is_what_is_always_said(kind: str, life: list[Heard]) -> None:
    always: dict[str, set[str]] = {}
    for payload in payloads(life):
        if payload["schema"] == f"unshrug.{kind}/1":
            for path, keys in objects(payload):
                always[path] = always.get(path, keys) & keys
    assert always.items() >= dict(demanded(schema(kind))).items()


def test_an_entry_in_the_diary_is_what_was_asked_for() -> None:
    asked, kept = schema("cmd_diary"), schema("diary")
    entry = {key: of for key, of in asked["properties"].items() if key != "request_id"}
    assert kept["properties"].items() >= {k: of for k, of in entry.items() if k not in ("id", "delete")}.items()
    assert kept["properties"]["symptoms"]["items"]["enum"] == list(SYMPTOMS)
    assert schema("cmd_withdraw")["properties"]["what"]["enum"] == list(WITHDRAWABLE)
    assert schema("cmd_allow")["properties"] == schema("cmd_withdraw")["properties"]
    assert schema("cmd_exercise")["properties"]["name"]["enum"] == list(EXERCISES)


SECONDS = st.floats(0, 1e6)
LEVEL = st.floats(0, 1e6) | st.sampled_from([NAN, float("inf")])
MAYBE = LEVEL | st.none()
PERCENT = st.floats(0, 100) | st.none()
TEXT = st.text(max_size=9)
COUNT = st.integers(0, 2**53)
COUNTS = st.builds(Counts, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT, MAYBE)
UUID = st.builds(uuid7, st.floats(0, 4e9))
SUM = st.text("0123456789abcdef", min_size=12, max_size=12)
SPREAD = st.none() | st.tuples(SECONDS, SECONDS, SECONDS)
LEVELS = st.lists(LEVEL, min_size=1, max_size=4).map(tuple)


def some(channel: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(channel, min_size=1, max_size=4).map(tuple)


ANYTHING: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Tension, SECONDS, some(st.builds(ChannelTension, TEXT, MAYBE, MAYBE, PERCENT, PERCENT, PERCENT))
    ),
    st.builds(
        WearerState,
        SECONDS,
        some(st.builds(ChannelState, TEXT, reasons=st.lists(st.sampled_from(REASONS), unique=True).map(tuple))),
        episode_id=UUID | st.none(),
        wear_time_s=SECONDS,
        counts=COUNTS,
        snoozed_until_s=SECONDS | st.none(),
    ),
    st.builds(
        Episode,
        id=UUID,
        seq=COUNT,
        at_s=SECONDS,
        start_s=SECONDS,
        end_s=st.floats(1e6, 2e6) | st.none(),
        kinds=st.sampled_from([("shrug",), ("low_rest",), ("shrug", "low_rest")]),
        channels=some(TEXT),
        peak_uv=LEVEL,
        mean_uv=LEVEL,
        peak_rve=MAYBE,
        mean_rve=MAYBE,
        valid_fraction=st.floats(0, 1),
        calibration_id=SUM,
        label=st.text(min_size=1, max_size=64) | st.none(),
    ),
    st.builds(Cue, SECONDS, channel=st.integers(0, 7), start_s=SECONDS, episode_id=UUID | st.none(), id=UUID),
    st.builds(
        DaySummary,
        SECONDS,
        st.sampled_from(get_args(Period)),
        st.dates().map(str),
        COUNT,
        wear_time_s=SECONDS,
        valid_time_s=SECONDS,
        episodes=COUNT,
        tense_time_s=SECONDS,
        channels=some(st.builds(ChannelDay, TEXT, SECONDS, PERCENT, SPREAD, SPREAD)),
        cues=st.dictionaries(st.sampled_from(get_args(Outcome)), COUNT),
        relaxed_after_s=st.lists(SECONDS).map(tuple),
        free_rest_pct=PERCENT,
        hours=st.lists(st.tuples(SECONDS, SECONDS), min_size=24, max_size=24).map(tuple),
        tally=st.just({}),
    ),
    st.builds(
        About,
        SECONDS,
        rate_hz=st.floats(1, 20000),
        channels=some(TEXT),
        band=st.just(ABOUT.band),
        rest_uv=LEVELS | st.none(),
        reference_uv=LEVELS | st.none(),
        on_uv=LEVELS,
        off_uv=LEVELS,
        verdicts=some(st.builds(Verdict)),
        counts=COUNTS,
        calibration_id=SUM | st.none(),
        settings=SUM,
        live=st.dictionaries(TEXT, st.booleans() | st.integers() | SECONDS),
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(message=ANYTHING, known=st.booleans())
def test_whatever_is_said_fits_its_schema(message: Message, known: bool) -> None:
    contract = Contract("w", lambda s: replace(stamp(s), known=known), lambda: stamp(0.0))
    publications = list(contract.publications(message))
    assert publications
    for publication in publications:
        payload = json.loads(publication.payload)
        of = schema(payload["schema"].removeprefix("unshrug.").removesuffix("/1"))
        validator(of).validate(payload)
        assert set(found(of, payload)) <= set(permitted(of))
        validate(f"unshrug/w/{publication.topic}", publication.payload)


@settings(deadline=None)
@given(verb=st.text(max_size=40), request_id=st.none() | st.text(max_size=64), error=st.none() | st.text(min_size=1))
def test_whatever_is_answered_fits_its_schema(verb: str, request_id: str | None, error: str | None) -> None:
    request = Request(verb, {} if request_id is None else {"request_id": request_id})
    validator(schema("reply")).validate(json.loads(contract_of("w").reply(Reply(request, error)).payload))


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("tension/slow", contract_of("w").publications(TENSION)),
        ("summary/day", contract_of("w").publications(SUMMARY)),
        ("reply", iter([contract_of("w").reply(Reply(Request("snooze", {})))])),
    ],
)
def test_a_listener_minds_a_payload_that_breaks_its_schema(topic: str, payload: Iterator[Any]) -> None:
    said = json.loads(next(payload).payload)
    validate(f"unshrug/w/{topic}", json.dumps(said))
    for broken in ({**said, "t": "yesterday"}, {**said, "schema": "unshrug.other/1"}, dict(list(said.items())[1:])):
        with pytest.raises(ValueError, match="data"):
            validate(f"unshrug/w/{topic}", json.dumps(broken))
    with pytest.raises(ValueError, match="on or off"):
        validate("unshrug/w/status", "on or off")


# The AsyncAPI document


def resolved(of: Any) -> Any:
    """Return a part of the document with what it refers to in its place; files stay as their paths."""
    if isinstance(of, list):
        return [resolved(inner) for inner in of]
    if not isinstance(of, dict):
        return of
    path = of.get("$ref", "")
    if not path.startswith("#/"):
        return {key: resolved(inner) for key, inner in of.items()}
    target: Any = DOCUMENT
    for key in path[2:].split("/"):
        target = target[key]
    return resolved(target)


def operations(action: str) -> dict[str, Json]:
    """Return the operations of the document by address, those of the wearer `w`."""
    some = [resolved(operation) for operation in DOCUMENT["operations"].values() if operation["action"] == action]
    return {operation["channel"]["address"].replace("{wearer}", "w"): operation for operation in some}


def payload_of(operation: Json) -> Json:
    """Return the schema of what an operation sends or receives."""
    (message,) = operation["channel"]["messages"].values()
    of: Json = message["payload"]
    return json.loads((ROOT / "docs" / of["$ref"]).read_text(encoding="utf-8")) if "$ref" in of else of


def test_what_is_sent_is_what_the_document_says_with_its_qos_and_retain(life: list[Heard]) -> None:
    def full(heard: Heard) -> str:
        return heard.topic if heard.topic.startswith("homeassistant/") else f"unshrug/w/{heard.topic}"

    sent = {(full(heard), heard.qos, heard.retain, heard.expiry_s is not None) for heard in life}
    how = {address: operation["bindings"]["mqtt"] for address, operation in operations("send").items()}
    assert sent == {(address, of["qos"], of["retain"], "messageExpiryInterval" in of) for address, of in how.items()}
    assert {of["messageExpiryInterval"] for of in how.values() if "messageExpiryInterval" in of} == {LIVE_EXPIRY_S}
    for heard in life:
        of = payload_of(operations("send")[full(heard)])
        validator(of).validate(heard.payload if of["type"] == "string" else heard.body)


def test_every_channel_is_used_and_says_which_wearer() -> None:
    used = [operation["channel"]["$ref"] for operation in DOCUMENT["operations"].values()]
    assert sorted(used) == sorted(f"#/channels/{name}" for name in DOCUMENT["channels"])
    for channel in DOCUMENT["channels"].values():
        assert list(channel.get("parameters", {})) == re.findall(r"\{(\w+)\}", channel["address"])


def test_every_verb_is_in_the_document_with_its_payload_and_its_reply() -> None:
    commands = {a: of for a, of in operations("receive").items() if a.startswith("unshrug/")}
    assert sorted(commands) == sorted(f"unshrug/w/cmd/{verb}" for verb in VERBS)
    for address, operation in commands.items():
        assert payload_of(operation) == schema(f"cmd_{address.rpartition('/')[2]}")
        assert operation["reply"]["channel"]["address"] == "unshrug/{wearer}/reply"


def test_the_manual_has_every_topic_and_verb_and_its_commands_are_obeyed() -> None:
    manual = (ROOT / "docs" / "mqtt.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+)` \| (\d) \| (yes|no) \|", manual, re.MULTILINE)
    sent = {a: of["bindings"]["mqtt"] for a, of in operations("send").items() if a.startswith("unshrug/")}
    assert {(f"unshrug/w/{topic}", int(qos), retained == "yes") for topic, qos, retained in rows} == {
        (address, of["qos"], of["retain"]) for address, of in sent.items()
    }
    assert sorted(re.findall(r"\(\.\./services/schemas/cmd_([\w-]+)\.json\)", manual)) == sorted(VERBS)
    commands = re.findall(r"^ +mosquitto_pub .*/cmd/([\w-]+) -m '(.*)'$", manual, re.MULTILINE)
    assert {verb for verb, _ in commands} == set(VERBS)
    assert [wrong for verb, text in commands if (wrong := read_request(verb, text.encode(), "unshrug/w")[1])] == []


def text_at(data: bytes, at: int) -> tuple[str, int]:
    """Return the text at a place in an MQTT packet, and where it ends."""
    end = at + 2 + int.from_bytes(data[at : at + 2], "big")
    return data[at + 2 : end].decode(), end


def test_the_service_connects_and_subscribes_as_the_document_says() -> None:
    delivery = Delivery(contract_of("w"), None)
    with socket.create_server((LOOPBACK, 0)) as server:
        server.settimeout(5)
        where = Broker(LOOPBACK, server.getsockname()[1])
        try:
            _connect(Settings(wearer=WearerSettings("w")), delivery, where, make_screen(headless=True))
            client, _ = server.accept()
            with client:
                client.settimeout(5)
                hello = receive(client, b"offline")
                client.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK, success, no properties
                wish = receive(client, b"homeassistant/status\x09")  # QoS 1, with retain as it was published
        finally:
            delivery.close()

    at = hello.index(b"MQTT") + 4
    version, flags, keep_alive_s, length = struct.unpack(">BBHB", hello[at : at + 5])
    properties = hello[at + 5 : at + 5 + length]
    client_id, after = text_at(hello, at + 5 + length)
    will, after = text_at(hello, after + 1)  # after the length of its properties, of which there are none
    last_word, _ = text_at(hello, after)
    for server_of in DOCUMENT["servers"].values():
        says = resolved(server_of)["bindings"]["mqtt"]
        assert server_of["protocolVersion"] == f"{version}.0"
        assert says["clientId"].replace("{wearer}", "w") == client_id
        assert says["cleanSession"] == bool(flags & 0x02)
        assert says["keepAlive"] == keep_alive_s
        assert properties == b"\x27" + says["maximumPacketSize"].to_bytes(4, "big"), "no session expiry, which is 0"
        assert says["sessionExpiryInterval"] == 0
        assert says["lastWill"] == {
            "topic": will.replace("/w/", "/{wearer}/"),
            "message": last_word,
            "qos": flags >> 3 & 3,
            "retain": bool(flags & 0x20),
        }

    subscribed: dict[str, int] = {}
    at = wish.index(b"unshrug/") - 2
    while at < len(wish):
        topic, at = text_at(wish, at)
        subscribed[topic], at = wish[at] & 3, at + 1
    heard_at = {a: of["bindings"]["mqtt"]["qos"] for a, of in operations("receive").items()}
    matches = [(t, a) for t in subscribed for a in heard_at if topic_matches_sub(t, a)]
    assert {address for _, address in matches} == set(heard_at)
    assert {topic for topic, _ in matches} == set(subscribed)
    assert all(subscribed[topic] == heard_at[address] for topic, address in matches)


def test_the_document_and_the_schemas_name_the_same_label_and_id() -> None:
    asked, told = schema("cmd_feedback")["properties"], schema("episode")["properties"]
    assert asked["episode_id"]["pattern"] == told["id"]["pattern"]
    assert re.match(told["id"]["pattern"], ID)
    assert (asked["label"]["minLength"], asked["label"]["maxLength"]) == (
        told["label"]["minLength"],
        told["label"]["maxLength"],
    )
