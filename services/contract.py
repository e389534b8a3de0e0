"""The MQTT contract: which message goes to which topic, how, and as what JSON."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

from dsp.chain import BandChange, Levels, Spectra
from dsp.detect import Shrug
from dsp.low_rest import LowRest
from dsp.quality import Quality
from firmware_bridge.bridge import Counts
from services import __version__
from services.clock import rfc3339
from services.messages import About, Cue, Episode, Message, Tension, WearerState
from services.settings import Settings

SCHEMAS = ("tension", "state", "episode", "cue", "info")


@dataclass(frozen=True, slots=True)
class Publication:
    """One message as MQTT carries it; `topic` is below the wearer's root. `live` is worth nothing when it is late."""

    topic: str
    payload: str
    qos: int
    retain: bool
    live: bool = False


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where a second of the board's clock lies on the machine's: since 1970, and since the service started.

    `known` says whether the machine's wall clock is known to be right.
    """

    wall_s: float
    mono_s: float
    known: bool = False


class Contract:
    """Turn messages into publications. Wall time is attached here, and nowhere before.

    `stamp` maps a second on the board's clock to the machine's clocks.
    """

    def __init__(self, settings: Settings, stamp: Callable[[float], Stamp]) -> None:
        self.root = f"unshrug/{settings.wearer.id}"
        self._settings = settings
        self._stamp = stamp

    def publication(self, message: Message) -> Publication | None:
        """Return what to publish for a message, None for what stays inside."""
        match message:
            case Levels() | Spectra() | Shrug() | LowRest() | Quality() | BandChange():
                return None
            case Tension():
                return self._publish("tension", message.at_s, self._tension(message), 0, retain=False, live=True)
            case WearerState():
                return self._publish("state", message.at_s, self._state(message), 1, retain=True)
            case Episode():
                return self._publish("episode", message.at_s, self._episode(message), 1, retain=False)
            case Cue():
                return self._publish("cue", message.at_s, self._cue(message), 1, retain=False)
            case About():
                return self._publish("info", message.at_s, self._info(message), 1, retain=True)
            case _:
                assert_never(message)

    def _publish(
        self, kind: str, at_s: float, body: dict[str, Any], qos: int, *, retain: bool, live: bool = False
    ) -> Publication:
        stamp = self._stamp(at_s)
        head = {
            "schema": f"unshrug.{kind}/1",
            "t": rfc3339(stamp.wall_s),
            "mono_s": round(stamp.mono_s, 3),
            "clock": "synchronised" if stamp.known else "unknown",
        }
        text = json.dumps(head | body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return Publication(kind, text, qos, retain, live)

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
            "board": {"up": m.board_up, "problem": m.board_problem, **_counts(m.counts)},
            "episode_id": m.episode_id,
            "cues_enabled": m.cues_enabled,
            "snoozed_until": None,
            "wear_time_s": round(m.wear_time_s, 1),
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
            "label": None,
        }

    def _cue(self, m: Cue) -> dict[str, Any]:
        return {
            "outcome": m.outcome,
            "pattern": m.pattern,
            "reason": m.reason,
            "channel": m.channel,
            "shrug_start": self._t(m.shrug_start_s),
            "episode_id": m.episode_id,
        }

    def _info(self, m: About) -> dict[str, Any]:
        return {
            "version": __version__,
            "board": m.board,
            "rate_hz": m.rate_hz,
            "measured_hz": _r(m.counts.measured_hz),
            "channels": list(m.channels),
            "settings": self._settings.digest(),
            "band": {"low_hz": m.band.low_hz, "high_hz": m.band.high_hz, "notches_hz": list(m.band.notches_hz)},
            "calibration": {
                "rest_uv": None if m.rest_uv is None else [_r(v) for v in m.rest_uv],
                "reference_uv": None if m.reference_uv is None else [_r(v) for v in m.reference_uv],
                "source": m.calibration_source,
                "verdicts": [
                    {"state": v.state, "sees_rest": v.sees_rest, "reasons": list(v.reasons)} for v in m.verdicts
                ],
            },
            "thresholds": {"on_uv": [_r(v) for v in m.on_uv], "off_uv": [_r(v) for v in m.off_uv]},
            "schemas": [f"unshrug.{kind}/1" for kind in SCHEMAS],
        }


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
