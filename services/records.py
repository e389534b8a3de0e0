"""What the wearer's records and the plan say about cues today."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from dsp.reference import Calibration
from firmware_bridge.blocks import Signal
from services.calibrating import calibration_of
from services.coach import Terms
from services.diary import due_now, entries, holds
from services.plan import Plan, Standing, days_of, pains_of, standing
from services.store import Store, StoreError

log = logging.getLogger(__name__)

_AFTER_ATTACK = timedelta(hours=24)
_A_DAY_S = 86400.0


class Records:
    """Read the store again when something in it has changed, and say what follows for cues.

    `now` returns the time with its offset from UTC. It belongs to one thread, which may wait for the disk.
    """

    def __init__(self, store: Store, plan: Plan | None, now: Callable[[], datetime]) -> None:
        self._store, self._plan, self._now = store, plan, now
        self._seen: tuple[Any, ...] | None = None
        self._said: Terms | None = None
        self._standing: tuple[str, Standing] | None = None

    def terms(self, changed: int) -> Terms | None:
        """Return what follows, None where that is what it was the last time; `changed` counts changes of our own.

        Raises StoreError.
        """
        now = self._now()
        seen = changed, self._store.version(), now.replace(second=0, microsecond=0)
        if seen == self._seen:
            return None
        terms, before = self._read(now), self._said
        self._seen, self._said = seen, terms
        return terms if terms != before else None

    def _read(self, now: datetime) -> Terms:
        diary, checkins = entries(self._store), self._store.latest("checkin")
        hold = holds(diary, checkins, self._store.latest("summary/day"), now)
        if hold is not None and not hold.open and hold.since.timestamp() <= (self._store.kept("resumed") or 0.0):
            hold = None
        terms = Terms(
            date=now.date(),
            hold=hold.reason if hold else None,
            hold_lasts=hold is not None and hold.open,
            withdrawn=frozenset({"calibration"} if self._made_worse(checkins) else ()),
            no_calibration=no_calibration(diary, now),
            questions=tuple(question.text for question in due_now(self._store, now)),
        )
        return terms if self._plan is None else self._planned(self._plan, terms)

    def _made_worse(self, checkins: list[dict[str, Any]]) -> bool:
        """Whether the wearer has said so of a calibration, and not allowed it again since."""
        worse = [one["t"] for one in checkins if one["kind"] == "calibration" and one.get("worse")]
        allowed_s = self._store.kept("allowed_calibration") or 0.0
        return any(datetime.fromisoformat(t).timestamp() > allowed_s for t in worse)

    def _planned(self, plan: Plan, terms: Terms) -> Terms:
        today = self._stands(plan, terms)
        silent = None
        if today.phase is not None and today.cue_share == 0:
            silent = f"the plan's {today.phase.kind} is silent"
        return replace(
            terms,
            share=today.cue_share,
            seed=plan.seed,
            silent=silent,
            most_wear_s=3600 * plan.dose.most_hours,
            rest_target_pct=today.rest_target_pct,
        )

    def _stands(self, plan: Plan, terms: Terms) -> Standing:
        """Return where the wearer stands; once a day, so that nothing becomes tighter within it."""
        day = terms.date.isoformat()
        if self._standing is None or self._standing[0] != day:
            days, diary = days_of(self._store.latest("summary/day")), pains_of(self._store.latest("diary"))
            self._standing = day, standing(plan, terms.date, days, diary)
        return self._standing[1]


def no_calibration(diary: list[dict[str, Any]], now: datetime) -> str | None:
    """Say why nobody should raise their arms now: there is a headache, was one today, or one ended within a day."""
    for entry in diary:
        if entry["kind"] != "headache":
            continue
        start, end = (None if not entry.get(key) else datetime.fromisoformat(entry[key]) for key in ("start", "end"))
        if start is None or start > now:
            continue
        if end is None and now - start < timedelta(days=3):
            return "a headache is open in the diary; calibrate on a day without one"
        if start.astimezone(now.tzinfo).date() == now.date() or now - (end or start) < _AFTER_ATTACK:
            return "there was a headache within the last 24 h; calibrate on a day without one"
    return None


def cues_before(store: Store, now: datetime) -> tuple[list[float], int]:
    """Return how many seconds ago cues were given in the last 24 h, and how many of today's were drawn by lot."""
    given, drawn = [], 0
    for cue in store.latest("cue"):
        at = datetime.fromisoformat(cue["t"])
        age_s = (now - at).total_seconds()
        if cue["outcome"] == "given" and age_s < _A_DAY_S:
            given.append(max(0.0, age_s))
        drawn += cue.get("share") is not None and at.astimezone(now.tzinfo).date() == now.date()
    return given, drawn


def calibration_for(store: Store, signal: Signal) -> Calibration | None:
    """Return the newest accepted calibration of such a signal, None without one or where the store cannot be read."""
    try:
        kept = store.latest("calibration")
    except StoreError as error:
        log.error("calibrations cannot be read: %s", error)
        return None
    for payload in reversed(kept):
        if payload.get("channels") == list(signal.channels) and payload.get("rate_hz") == signal.rate_hz:
            found = calibration_of(payload)
            if found is not None:
                return found
    return None
