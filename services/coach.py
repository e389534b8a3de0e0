"""When to cue: it follows from events and time alone. The README says what it promises the wearer."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date

from dsp.detect import Shrug
from dsp.low_rest import LowRest
from dsp.quality import Quality
from services.messages import Cue, Outcome, Pattern, Trigger
from services.plan import is_withheld
from services.settings import CueSettings

# What a cue may propose, by the name with which the wearer can withdraw it. All of it is gentle.
PROMPTS: dict[str, str] = {
    "drop": "Let your shoulders drop and breathe out slowly.",
    "walk": "Stand up and walk about for a minute or two.",
    "stretch": "Sit up and stretch the side of your neck mildly, 15 to 30 s on each side; stop if it hurts.",
}
_PROMPTS_FOR: dict[Trigger, tuple[str, ...]] = {"shrug": ("drop",), "low_rest": ("walk", "stretch", "drop")}

_MOST_A_DAY = 200  # that the settings allow
_AGAIN_S = 1.0  # a cue that bad or late data forbid is tried again after this
_ANSWER_S = 30.0  # who has not relaxed this long after a cue has not answered it
_PATIENCE = 3  # cues without an answer, and the next come half as often
_MOST_REFRACTORY_S = 900.0
_SENSOR_BAD_S = 10.0
_SENSOR_AGAIN_S = 600.0

_Key = tuple[Trigger, int]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the plan and the wearer's records say about cues on a day.

    `share` of the cues that would come is given, chosen by `seed`; `silent` says why there is none at all, which the
    signal does not change.
    """

    date: date = date.min
    share: float = 1.0
    seed: int = 0
    silent: str | None = None
    withdrawn: frozenset[str] = frozenset()
    hold: str | None = None  # why there is none until the wearer wants them again ...
    hold_lasts: bool = False  # ... which cannot be yet
    most_wear_s: float | None = None  # of a day; beyond it there is none
    rest_target_pct: float | None = None
    no_calibration: str | None = None  # why there can be none today
    questions: tuple[str, ...] = ()


@dataclass(slots=True)
class _Held:
    """Tension that lasts: when a cue is due, and whether it has had one."""

    start_s: float
    due_s: float
    on: bool = True
    cued: bool = False
    escalates: bool = False  # it was cued last, and a stronger cue may follow
    late: bool = False  # the level was down for a moment when the cue fell due
    waited_for: str | None = None


@dataclass(slots=True)
class _Asked:
    """A cue that was given: what it was for, and when the last of that had relaxed."""

    at_s: float
    keys: set[_Key]
    relaxed_s: float | None = None


class Coach:
    """Cue tension that lasts, after a grace in which relaxing by oneself cancels it.

    A shrug is cued when it has been held, low rest when it is known, and again while it lasts. One cue serves all that
    is on at the time. A shrug that is still on `escalate_s` after its cue gets one stronger one; then there is silence.
    Cues that stay without an answer become rarer. A signal that stays bad gets a cue of its own. Times are seconds on
    the board's clock, so a cue's time does not depend on how the data were cut.
    """

    def __init__(self, settings: CueSettings, held_s: float) -> None:
        self._settings = settings
        self._held_s = held_s
        self._held: dict[_Key, _Held] = {}
        self._capped: dict[_Key, float] = {}  # where a shrug that had its cue was cut by the cap
        self._bad: dict[int, tuple[str, ...]] = {}
        self._bad_since: dict[int, float] = {}  # as long as the wearer has not been told
        self._given: deque[float] = deque(maxlen=_MOST_A_DAY)
        self._decided_s: float | None = None  # when a cue was given or withheld last
        self._sensor_s: float | None = None
        self._escalate_s: float | None = None
        self._asked: _Asked | None = None
        self._ignored = 0
        self._proposed = 0
        self._drawn: Counter[date] = Counter()  # lots of a day
        self._terms = Terms()
        self._board_ok = True
        self._fresh = True
        self.forbidden: str | None = None  # what keeps the motor still, whatever the signal says
        self.snoozed_until_s: float | None = None  # no cue before this time

    @property
    def ignored(self) -> int:
        """How many cues in a row the wearer has not answered."""
        return self._ignored

    @property
    def silent(self) -> str | None:
        """Why the plan wants no cues now."""
        return self._terms.silent

    def apply(self, settings: CueSettings) -> None:
        """Go by other settings from here on; the cues given until now still count."""
        self._settings = settings

    def follow(self, terms: Terms) -> None:
        """Go by what the plan and the records say now."""
        self._terms = terms
        self._drawn = Counter({terms.date: self._drawn[terms.date]})

    def remember(self, given_s: Iterable[float], day: date, drawn: int) -> None:
        """Count cues that an earlier run of the program gave, and how many of a day were drawn by lot."""
        self._given.extendleft(sorted(given_s, reverse=True))
        self._decided_s = max(self._given, default=None)
        self._drawn[day] += drawn

    def new_signal(self) -> None:
        """Forget what is known of the channels; the caps and the last cue stay."""
        self._held.clear()
        self._capped.clear()
        self._bad.clear()
        self._bad_since.clear()
        self._escalate_s = None
        self._asked = None

    def board(self, *, ok: bool) -> None:
        """Note whether the board delivers; without it no tension is known to go on."""
        self._board_ok = ok
        if not ok:
            self._held.clear()
            self._bad_since.clear()
            self._escalate_s = None
            self._asked = None

    def fresh(self, *, yes: bool) -> None:
        """Note whether the data are of now: after a stall the wearer may long have relaxed."""
        self._fresh = yes

    def quality(self, quality: Quality) -> None:
        """Note what a channel's signal is worth."""
        channel = quality.channel
        if quality.state != "bad":
            self._bad.pop(channel, None)
            self._bad_since.pop(channel, None)
            return
        if channel not in self._bad:
            self._bad_since[channel] = quality.at_s
        self._bad[channel] = quality.reasons

    def shrug(self, shrug: Shrug) -> list[Cue]:
        """Take a step in the life of a shrug; return what follows from it at once."""
        key: _Key = "shrug", shrug.channel
        held = self._held.get(key)
        if shrug.phase == "held":
            due = max(shrug.at_s, shrug.start_s + self._held_s + self._settings.grace_s)
            # A shrug that the cap has cut in two is one hold, and gets one cue.
            self._held[key] = _Held(shrug.start_s, due, cued=self._capped.pop(key, None) == shrug.start_s)
        elif held is not None and shrug.phase == "resumed":
            held.on = True
            held.due_s = max(held.due_s, shrug.at_s + self._settings.grace_s)
        elif held is not None and shrug.phase in ("relaxed", "ended"):
            return self._let_go(key, held, shrug)
        return []

    def low_rest(self, event: LowRest) -> list[Cue]:
        """Take the start or the end of low rest; return what follows from it at once."""
        key: _Key = "low_rest", event.channel
        if event.phase == "started":
            self._held[key] = _Held(event.start_s, event.at_s + self._settings.grace_s)
            return []
        held = self._held.pop(key, None)
        if held is None or event.truncated:
            self._asked = None  # nobody knows whether it was answered
            return []
        self._relaxed(key, event.at_s)
        if held.waited_for:
            return [self._no_cue("suppressed", event.at_s, key, held, held.waited_for)]
        return [self._no_cue("self_corrected", event.at_s, key, held)] if self._in_grace(held, event.at_s) else []

    def advance(
        self, at_s: float, on: Sequence[bool], rested: Callable[[int], bool] = lambda channel: False
    ) -> list[Cue]:
        """Let time pass to `at_s`; `on` says whether a channel's level is up, `rested` whether it has just rested."""
        cues: list[Cue] = []
        for key, held in sorted(self._held.items(), key=lambda item: (item[0][0] != "shrug", item[0][1])):
            if key[0] == "low_rest":
                cues += self._advance_low_rest(key, held, at_s, rested=rested(key[1]))
            elif held.on and not held.cued and held.due_s <= at_s:
                if on[key[1]]:
                    cues += self._due(key, held, at_s if held.late else held.due_s)
                else:
                    held.late = True
        if self._escalate_s is not None and at_s >= self._escalate_s:
            cues += self._escalate(on)
        return cues + self._sensor(at_s)

    def _advance_low_rest(self, key: _Key, held: _Held, at_s: float, *, rested: bool) -> list[Cue]:
        if not rested:
            return self._due(key, held, held.due_s) if held.due_s <= at_s else []
        self._relaxed(key, at_s)
        waited_for = held.waited_for
        if waited_for is None and not self._in_grace(held, at_s):
            return []
        self._done(held, at_s)
        if waited_for is not None:
            return [self._no_cue("suppressed", at_s, key, held, waited_for)]
        return [self._no_cue("self_corrected", at_s, key, held)]

    def _in_grace(self, held: _Held, at_s: float) -> bool:
        return held.due_s - self._settings.grace_s <= at_s <= held.due_s

    def _let_go(self, key: _Key, held: _Held, shrug: Shrug) -> list[Cue]:
        was_on, held.on = held.on, False
        if shrug.phase == "ended":
            del self._held[key]
        if shrug.long and held.cued and shrug.end_s is not None:
            self._capped[key] = shrug.end_s
        if not any(h.on and h.escalates for h in self._held.values()):
            self._escalate_s = None
        if shrug.truncated:
            self._asked = None  # nobody knows whether it was answered
        elif not shrug.long:
            self._relaxed(key, shrug.at_s)
        if not was_on or held.cued or shrug.long:  # what the cap cuts goes on
            return []
        if held.waited_for:
            return [self._no_cue("suppressed", shrug.at_s, key, held, held.waited_for)]
        return [] if shrug.truncated else [self._no_cue("self_corrected", shrug.at_s, key, held)]

    def _relaxed(self, key: _Key, at_s: float) -> None:
        """Note that what was cued has relaxed."""
        asked = self._asked
        if asked is not None and key in asked.keys:
            asked.keys.remove(key)
            if not asked.keys:
                asked.relaxed_s = at_s

    def _settle(self, at_s: float) -> None:
        """Count the last cue as answered or not, as soon as that is known."""
        asked = self._asked
        if asked is None:
            return
        if asked.relaxed_s is not None and asked.relaxed_s <= asked.at_s + _ANSWER_S:
            self._ignored, self._asked = 0, None
        elif at_s >= asked.at_s + _ANSWER_S:
            self._ignored, self._asked = self._ignored + 1, None

    def _next_s(self) -> float:
        """Return when the next cue may come at the soonest."""
        if self._decided_s is None:
            return float("-inf")
        refractory_s = self._settings.refractory_s
        longer_s = min(_MOST_REFRACTORY_S, refractory_s * 2.0 ** (self._ignored // _PATIENCE))
        return self._decided_s + max(refractory_s, longer_s)

    def _due(self, key: _Key, held: _Held, at_s: float) -> list[Cue]:
        reason = self._passing(key[1])
        if reason:
            held.due_s, held.waited_for, held.late = at_s + _AGAIN_S, reason, False
            return []
        self._settle(at_s)
        next_s = self._next_s()
        if at_s < next_s:
            held.due_s, held.waited_for, held.late = next_s, "refractory", False
            return []
        reason = self._hindrance(at_s) or self._terms.silent
        if reason:
            self._done(held, at_s)
            return [self._no_cue("suppressed", at_s, key, held, reason)]
        return [self._decide(key, held, at_s)]

    def _done(self, held: _Held, at_s: float) -> None:
        """No more for this hold, but low rest is asked about again while it lasts."""
        held.cued, held.waited_for, held.due_s = True, None, at_s + self._settings.low_rest_again_s

    def _decide(self, key: _Key, held: _Held, at_s: float) -> Cue:
        """Give a cue, or withhold it by lot."""
        share = self._terms.share
        drawn = 0 < share < 1
        withheld = drawn and is_withheld(self._terms.seed, self._terms.date, self._drawn[self._terms.date], share)
        self._drawn[self._terms.date] += drawn
        self._decided_s = at_s
        served = [(k, h) for k, h in self._held.items() if h.on and (not h.cued or h is held)]
        for other in self._held.values():
            other.escalates = False
        for k, other in served:
            other.escalates = k[0] == "shrug" and not withheld
            self._done(other, at_s)
        cue = Cue(at_s, "withheld", key[1], held.start_s, trigger=key[0], share=share if drawn else None)
        if withheld:
            return cue
        self._asked = _Asked(at_s, {k for k, _ in served})
        if "escalation" not in self._terms.withdrawn:
            self._escalate_s = at_s + self._settings.escalate_s
        self._given.append(at_s)
        return replace(cue, outcome="given", pattern="cue", prompt=self._propose(key[0]))

    def _propose(self, trigger: Trigger) -> str | None:
        """Return what to propose; each in turn, but for what the wearer has withdrawn."""
        allowed = [name for name in _PROMPTS_FOR[trigger] if name not in self._terms.withdrawn]
        self._proposed += 1
        return PROMPTS[allowed[self._proposed % len(allowed)]] if allowed else None

    def _escalate(self, on: Sequence[bool]) -> list[Cue]:
        at_s, self._escalate_s = self._escalate_s, None
        still = [key for key, held in sorted(self._held.items()) if held.on and held.escalates and on[key[1]]]
        if at_s is None or not still or self._passing(still[0][1]) or self._hindrance(at_s):
            return []
        self._given.append(at_s)
        self._decided_s = at_s
        return [self._give(at_s, still[0], self._held[still[0]].start_s, "escalation")]

    def _sensor(self, at_s: float) -> list[Cue]:
        """Tell the wearer, once, of a signal that stays bad."""
        due = sorted((since_s + _SENSOR_BAD_S, channel) for channel, since_s in self._bad_since.items())
        again_s = float("-inf") if self._sensor_s is None else self._sensor_s + _SENSOR_AGAIN_S
        if not due or at_s < max(due[0][0], again_s, self._next_s()) or not self._fresh or self._hindrance(at_s):
            return []
        _, channel = due[0]
        since_s = self._bad_since[channel]
        self._bad_since.clear()  # one look at the sensor is for all channels
        self._sensor_s = self._decided_s = at_s
        self._given.append(at_s)
        cue = self._give(at_s, ("sensor", channel), since_s, "sensor")
        return [replace(cue, reason=f"bad signal: {', '.join(self._bad[channel])}")]

    def _no_cue(self, outcome: Outcome, at_s: float, key: _Key, held: _Held, reason: str | None = None) -> Cue:
        return Cue(at_s, outcome, key[1], held.start_s, trigger=key[0], reason=reason)

    def _give(self, at_s: float, key: _Key, start_s: float, pattern: Pattern) -> Cue:
        return Cue(at_s, "given", key[1], start_s, pattern=pattern, trigger=key[0])

    def _passing(self, channel: int) -> str | None:
        """Say what forbids a cue now and may be over in a moment, None if nothing does."""
        if channel in self._bad:
            return f"bad signal: {', '.join(self._bad[channel])}"
        return None if self._fresh else "late data"

    def _hindrance(self, at_s: float) -> str | None:
        """Say what forbids a cue for this hold, None if nothing does."""
        if not self._settings.enabled:
            return "cues are off"
        if not self._board_ok:
            return "no board"
        if self.forbidden is not None:
            return self.forbidden
        if self.snoozed_until_s is not None and at_s < self.snoozed_until_s:
            return "snoozed"
        for most, seconds in ((self._settings.per_hour, 3600), (self._settings.per_day, 86400)):
            if sum(at_s - given < seconds for given in self._given) >= most:
                return f"{most} cues in {seconds // 3600} h"
        return None
