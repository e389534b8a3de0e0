"""The MQTT contract: which message goes to which topic, how, and as what JSON."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median
from typing import Any, assert_never, get_args

from dsp.chain import BandChange, Levels, Spectra
from dsp.detect import Shrug
from dsp.low_rest import LowRest
from dsp.quality import STATES, Quality
from firmware_bridge.bridge import Counts
from services import __version__
from services.clock import rfc3339
from services.messages import (
    About,
    ChannelTension,
    Cue,
    CueResult,
    CueTest,
    DaySummary,
    Episode,
    Guided,
    Message,
    Outcome,
    Reply,
    Tension,
    WearerState,
)
from services.requests import VERBS

SCHEMAS = (
    "tension",
    "state",
    "episode",
    "cue",
    "diary",
    "checkin",
    "calibration",
    "exercise",
    "summary_day",
    "summary_night",
    "info",
    "reply",
)
RETAINED = ("status", "info", "state", "summary/day", "summary/night")
LIVE_EXPIRY_S = 5
TIMES = ("t", "start", "end", "shrug_start")  # what a clock that was wrong has made wrong

Key = tuple[str, str, int]  # topic, id and seq, which together name one message


def root_of(wearer: str) -> str:
    """Return what all topics of a wearer begin with."""
    return f"unshrug/{wearer}"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where a second of the board's clock lies on the machine's: since 1970, and since the service started.

    The latter is NaN where no service runs.
    `known` says whether the machine's wall clock is known to be right.
    """

    wall_s: float
    mono_s: float
    known: bool = False


@dataclass(frozen=True, slots=True)
class Publication:
    """One message as MQTT carries it; `topic` is below the wearer's root unless it is `absolute`.

    `live` is worth nothing when it is late. What is `durable` has an `id` and a `seq`, and must arrive.
    """

    topic: str
    payload: str
    qos: int = 1
    retain: bool = False
    live: bool = False
    absolute: bool = False
    id: str = ""
    seq: int = 0
    correlation: bytes | None = None
    stamp: Stamp | None = None

    @property
    def durable(self) -> bool:
        """Whether it must arrive, whatever happens."""
        return bool(self.id)

    @property
    def key(self) -> Key:
        """What names it."""
        return self.topic, self.id, self.seq


class Contract:
    """Turn messages into publications. Wall time is attached here, and nowhere before.

    `stamp` maps a second on the board's clock to the machine's clocks; `now` is what they show, for any thread.
    """

    def __init__(self, wearer: str, stamp: Callable[[float], Stamp], now: Callable[[], Stamp]) -> None:
        self.root = root_of(wearer)
        self._stamp = stamp
        self._now = now
        self._slow = _Slow()

    def publications(self, message: Message) -> Iterator[Publication]:
        """Yield what to publish for a message: nothing for what stays inside."""
        match message:
            case Levels() | Spectra() | Shrug() | LowRest() | Quality() | BandChange() | CueTest():
                return
            case Tension():
                level = self._say("tension", message.at_s, self._tension(message), qos=0, live=True)
                yield level
                if self._slow.due(message):
                    yield replace(level, topic="tension/slow")
            case WearerState():
                yield self._say("state", message.at_s, self._state(message), retain=True)
            case Episode():
                yield self._say("episode", message.at_s, self._episode(message), durable=True)
            case Cue():
                yield self._say("cue", message.at_s, self._cue(message), durable=True)
            case CueResult():
                yield self._say("cue", message.cue.at_s, self._cue_result(message), durable=True)
            case Guided():
                # Only the end of it is a record; on the way it is of no use later.
                over = message.event == "ended"
                yield self._say(message.activity, message.at_s, self._guided(message), durable=over)
            case DaySummary():
                topic = f"summary/{message.period}"
                yield self._say(topic, message.at_s, self._summary(message), durable=True, retain=True)
            case About():
                yield self._say("info", message.at_s, self._info(message), retain=True)
            case _:
                assert_never(message)

    def record(self, topic: str, record_id: str, seq: int, entry: dict[str, Any]) -> Publication:
        """Return what the wearer wrote down, now; another `seq` of the same id takes its place."""
        return self._say(topic, None, {"id": record_id, "seq": seq} | entry, durable=True)

    def reply(self, message: Reply) -> Publication:
        """Return the answer to a request."""
        asked = message.request
        body = {
            "verb": asked.verb,
            "request_id": asked.request_id,
            "result": "error" if message.error else "ok",
            "error": message.error,
            **message.result,
        }
        answer = self._say("reply", None, body, correlation=asked.correlation)
        return replace(answer, topic=asked.reply_topic, absolute=True) if asked.reply_topic else answer

    def _say(
        self, topic: str, at_s: float | None, body: dict[str, Any], *, durable: bool = False, **how: Any
    ) -> Publication:
        stamp = self._now() if at_s is None else self._stamp(at_s)
        head = {
            "schema": f"unshrug.{topic.replace('/', '_')}/1",
            "t": rfc3339(stamp.wall_s),
            "mono_s": _r(stamp.mono_s, 3),
            "clock": "synchronised" if stamp.known else "unknown",
        }
        name = {"id": body["id"], "seq": body["seq"]} if durable else {}
        return Publication(topic, text_of(head | body), stamp=stamp, **name, **how)

    def _t(self, at_s: float | None) -> str | None:
        return None if at_s is None else rfc3339(self._stamp(at_s).wall_s)

    def _tension(self, m: Tension) -> dict[str, Any]:
        return {
            "channels": [
                {
                    "name": c.name,
                    "rms_uv": _r(c.rms_uv),
                    "rve": _r(c.rve),
                    "rest_10s_pct": _r(c.rest_10s_pct),
                    "rest_60s_pct": _r(c.rest_60s_pct),
                    "rest_session_pct": _r(c.rest_session_pct),
                }
                for c in m.channels
            ],
            "quality": m.quality,
            "cues_enabled": m.cues_enabled,
        }

    def _state(self, m: WearerState) -> dict[str, Any]:
        return {
            "channels": [
                {"name": c.name, "shrug": c.shrug, "quality": c.quality, "reasons": list(c.reasons)} for c in m.channels
            ],
            "quality": max((c.quality for c in m.channels), key=STATES.index, default="bad"),
            "board": {"up": m.board_up, "problem": m.board_problem, **_counts(m.counts)},
            "episode_id": m.episode_id,
            "cues_enabled": m.cues_enabled,
            "snoozed_until": self._t(m.snoozed_until_s),
            "wear_time_s": round(m.wear_time_s, 1),
            "period": m.period,
            "silent_because": m.silent_because,
            "ignored_cues": m.ignored_cues,
            "questions": list(m.questions),
        }

    def _episode(self, m: Episode) -> dict[str, Any]:
        return {
            "event": m.event,
            "id": m.id,
            "seq": m.seq,
            "kinds": list(m.kinds),
            "start": self._t(m.start_s),
            "end": self._t(m.end_s),
            "duration_s": None if m.end_s is None else round(m.end_s - m.start_s, 2),
            "channels": list(m.channels),
            "peak_uv": _r(m.peak_uv),
            "mean_uv": _r(m.mean_uv),
            "peak_rve": _r(m.peak_rve),
            "mean_rve": _r(m.mean_rve),
            "valid_pct": _r(100 * m.valid_fraction),
            "cued": m.cued,
            "truncated": m.truncated,
            "end_reason": m.end_reason,
            "calibration_id": m.calibration_id,
            "label": m.label,
        }

    def _cue(self, m: Cue) -> dict[str, Any]:
        return {
            "id": m.id,
            "seq": 0,
            "outcome": m.outcome,
            "trigger": m.trigger,
            "pattern": m.pattern,
            "prompt": m.prompt,
            "reason": m.reason,
            "share": _r(m.share, 3),
            "channel": m.channel,
            "shrug_start": self._t(m.start_s) if m.trigger == "shrug" else None,
            "start": self._t(m.start_s),
            "episode_id": m.episode_id,
            "relaxed_after_s": None,
            "rest_after_pct": None,
        }

    def _cue_result(self, m: CueResult) -> dict[str, Any]:
        return self._cue(m.cue) | {
            "seq": 1,
            "relaxed_after_s": _r(m.relaxed_after_s),
            "rest_after_pct": _r(m.rest_after_pct),
        }

    def _guided(self, m: Guided) -> dict[str, Any]:
        return {
            "event": m.event,
            "id": m.id,
            "seq": m.seq,
            "step": m.step,
            "say": m.say,
            "left_s": _r(m.left_s, 1),
            **m.details,
        }

    def _summary(self, m: DaySummary) -> dict[str, Any]:
        return {
            "id": m.date,
            "seq": m.seq,
            "date": m.date,
            "final": m.final,
            "free_rest_pct": _r(m.free_rest_pct),
            "hours": [{"wear_s": round(wear_s, 1), "tense_s": round(tense_s, 1)} for wear_s, tense_s in m.hours],
            "wear_time_s": round(m.wear_time_s, 1),
            "valid_time_s": round(m.valid_time_s, 1),
            "episodes": m.episodes,
            "tense_time_s": round(m.tense_time_s, 1),
            "channels": [
                {
                    "name": c.name,
                    "valid_s": round(c.valid_s, 1),
                    "rest_pct": _r(c.rest_pct),
                    "apdf_uv": _spread(c.apdf_uv),
                    "apdf_rve": _spread(c.apdf_rve),
                }
                for c in m.channels
            ],
            "cues": {outcome: m.cues.get(outcome, 0) for outcome in get_args(Outcome)},
            "time_to_relax_s": {
                "median": _r(median(m.relaxed_after_s)) if m.relaxed_after_s else None,
                "n": len(m.relaxed_after_s),
            },
        }

    def _info(self, m: About) -> dict[str, Any]:
        return {
            "version": __version__,
            "board": m.board,
            "rate_hz": m.rate_hz,
            "measured_hz": _r(m.counts.measured_hz),
            "channels": list(m.channels),
            "settings": m.settings,
            "live": m.live,
            "band": {"low_hz": m.band.low_hz, "high_hz": m.band.high_hz, "notches_hz": list(m.band.notches_hz)},
            "calibration": {
                "id": m.calibration_id,
                "rest_uv": None if m.rest_uv is None else [_r(v) for v in m.rest_uv],
                "reference_uv": None if m.reference_uv is None else [_r(v) for v in m.reference_uv],
                "source": m.calibration_source,
                "verdicts": [
                    {"state": v.state, "sees_rest": v.sees_rest, "reasons": list(v.reasons)} for v in m.verdicts
                ],
            },
            "thresholds": {"on_uv": [_r(v) for v in m.on_uv], "off_uv": [_r(v) for v in m.off_uv]},
            "schemas": [f"unshrug.{kind}/1" for kind in SCHEMAS],
            "verbs": list(VERBS),
        }


class _Slow:
    """The level for those who keep every value, as Home Assistant does: when it has changed, else every 5 s.

    A held shrug moves by more than that all the time, so there is one a second at most.
    """

    _POINTS = 2.0
    _SOONEST_S, _LATEST_S = 1.0, 5.0

    def __init__(self) -> None:
        self._said: Tension | None = None

    def due(self, m: Tension) -> bool:
        said = self._said
        since_s = math.inf if said is None else m.at_s - said.at_s
        due = since_s >= self._LATEST_S or (since_s >= self._SOONEST_S - 1e-6 and self._changed(m))
        if due:
            self._said = m
        return due

    def _changed(self, m: Tension) -> bool:
        said = self._said
        return (
            said is None
            or len(m.channels) != len(said.channels)
            or (m.quality, m.cues_enabled) != (said.quality, said.cues_enabled)
            or any(self._moved(a, b) for a, b in zip(m.channels, said.channels, strict=True))
        )

    def _moved(self, a: ChannelTension, b: ChannelTension) -> bool:
        now, then = (a.rms_uv, b.rms_uv) if a.rve is None else (a.rve, b.rve)
        if now is None or then is None:
            return now is not then
        return abs(now - then) >= self._POINTS


def text_of(body: dict[str, Any]) -> str:
    """Return a payload as it is published; half a character, as a text cut by its bytes may end in, becomes a `?`."""
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="replace").decode()


def shifted(payload: str, by_s: float, *, known: bool) -> str:
    """Return a payload whose wall times were wrong by so much, because the clock was not known to be right."""
    body = json.loads(payload)
    for key in TIMES:
        if body.get(key) is not None:
            body[key] = rfc3339(datetime.fromisoformat(body[key]).timestamp() + by_s)
    return text_of(body | {"clock": "synchronised" if known else "unknown"})


def interrupted(payload: str) -> Publication:
    """Return the end of an episode that the last run of the program could not end, from what it said last."""
    body = json.loads(payload)
    known_s, start_s = (datetime.fromisoformat(body[key]).timestamp() for key in ("t", "start"))
    body |= {
        "event": "ended",
        "seq": body["seq"] + 1,
        "end": body["t"],
        "duration_s": round(max(0.0, known_s - start_s), 2),
        "truncated": True,
        "end_reason": "interrupted",
    }
    return Publication("episode", text_of(body), id=body["id"], seq=body["seq"])


def labelled(payload: str, label: str) -> Publication:
    """Return an episode that is over, as it was said last, with the wearer's word for it."""
    body = json.loads(payload)
    body |= {"seq": body["seq"] + 1, "label": label}
    return Publication("episode", text_of(body), id=body["id"], seq=body["seq"])


def _spread(apdf: tuple[float, float, float] | None) -> dict[str, float | None] | None:
    return None if apdf is None else dict(zip(("p10", "p50", "p90"), map(_r, apdf), strict=True))


def _counts(counts: Counts) -> dict[str, Any]:
    return {
        "measured_hz": _r(counts.measured_hz),
        "samples": counts.samples,
        "lost": counts.lost,
        "lost_pct": _r(counts.lost_pct, 3),
        "repeated": counts.repeated,
        "damaged": counts.damaged,
        "restarts": counts.restarts,
        "overruns": counts.overruns,
        "dropped": counts.dropped,
    }


def _r(value: float | None, digits: int = 2) -> float | None:
    """Round for people; what is not a number is unknown."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
