"""When to cue: it follows from events and time alone. The README says what it promises the wearer."""

from collections import deque
from dataclasses import dataclass

from dsp.detect import Shrug
from dsp.quality import Quality
from services.messages import Cue, Pattern
from services.settings import CueSettings

_MOST_A_DAY = 200  # that the settings allow
_AGAIN_S = 1.0  # a cue that bad or late data forbid is tried again after this


@dataclass(slots=True)
class _Held:
    """A shrug that is held: when a cue is due, and whether it has had one."""

    start_s: float
    due_s: float
    on: bool = True
    cued: bool = False
    escalates: bool = False  # it was cued last, and a stronger cue may follow
    late: bool = False  # the level was down for a moment when the cue fell due
    waited_for: str | None = None


class Coach:
    """Cue a held shrug after a grace in which relaxing by oneself cancels it.

    One cue serves all channels that are held at the time. A shrug that is still on `escalate_s` after its cue gets
    one stronger one; then there is silence. Times are seconds on the board's clock, so a cue's time does not depend
    on how the data were cut.
    """

    def __init__(self, settings: CueSettings, held_s: float) -> None:
        self._settings = settings
        self._held_s = held_s
        self._held: dict[int, _Held] = {}
        self._capped: dict[int, float] = {}  # where a shrug that had its cue was cut by the cap
        self._bad: dict[int, tuple[str, ...]] = {}
        self._given: deque[float] = deque(maxlen=_MOST_A_DAY)
        self._escalate_s: float | None = None
        self._board_ok = True
        self._fresh = True
        self.snoozed_until_s: float | None = None  # no cue before this time

    def apply(self, settings: CueSettings) -> None:
        """Go by other settings from here on; the cues given until now still count."""
        self._settings = settings

    def new_signal(self) -> None:
        """Forget what is known of the channels; the caps and the last cue stay."""
        self._held.clear()
        self._capped.clear()
        self._bad.clear()
        self._escalate_s = None

    def board(self, *, ok: bool) -> None:
        """Note whether the board delivers; without it no shrug is known to go on."""
        self._board_ok = ok
        if not ok:
            self._held.clear()
            self._escalate_s = None

    def fresh(self, *, yes: bool) -> None:
        """Note whether the data are of now: after a stall the wearer may long have relaxed."""
        self._fresh = yes

    def quality(self, quality: Quality) -> None:
        """Note what a channel's signal is worth."""
        if quality.state == "bad":
            self._bad[quality.channel] = quality.reasons
        else:
            self._bad.pop(quality.channel, None)

    def shrug(self, shrug: Shrug) -> list[Cue]:
        """Take a step in the life of a shrug; return what follows from it at once."""
        channel, held = shrug.channel, self._held.get(shrug.channel)
        if shrug.phase == "held":
            due = max(shrug.at_s, shrug.start_s + self._held_s + self._settings.grace_s)
            # A shrug that the cap has cut in two is one hold, and gets one cue.
            self._held[channel] = _Held(shrug.start_s, due, cued=self._capped.pop(channel, None) == shrug.start_s)
        elif held is not None and shrug.phase == "resumed":
            held.on = True
            held.due_s = max(held.due_s, shrug.at_s + self._settings.grace_s)
        elif held is not None and shrug.phase in ("relaxed", "ended"):
            return self._let_go(channel, held, shrug)
        return []

    def advance(self, at_s: float, on: tuple[bool, ...]) -> list[Cue]:
        """Let time pass to `at_s`; `on` says per channel whether its level is up now."""
        cues: list[Cue] = []
        for channel, held in sorted(self._held.items()):
            if not held.on or held.cued or held.due_s > at_s:
                continue
            if on[channel]:
                cues += self._due(channel, held, at_s if held.late else held.due_s)
            else:
                held.late = True
        if self._escalate_s is not None and at_s >= self._escalate_s:
            cues += self._escalate(on)
        return cues

    def _let_go(self, channel: int, held: _Held, shrug: Shrug) -> list[Cue]:
        was_on, held.on = held.on, False
        if shrug.phase == "ended":
            del self._held[channel]
        if shrug.long and held.cued and shrug.end_s is not None:
            self._capped[channel] = shrug.end_s
        if not any(h.on and h.escalates for h in self._held.values()):
            self._escalate_s = None
        if not was_on or held.cued or shrug.long:  # what the cap cuts goes on
            return []
        if held.waited_for:
            return [Cue(shrug.at_s, "suppressed", channel, held.start_s, reason=held.waited_for)]
        if shrug.truncated:
            return []
        return [Cue(shrug.at_s, "self_corrected", channel, held.start_s)]

    def _due(self, channel: int, held: _Held, at_s: float) -> list[Cue]:
        last = self._given[-1] if self._given else None
        if last is not None and at_s < last + self._settings.refractory_s:
            held.due_s, held.waited_for, held.late = last + self._settings.refractory_s, "refractory", False
            return []
        reason = self._passing(channel)
        if reason:
            held.due_s, held.waited_for, held.late = at_s + _AGAIN_S, reason, False
            return []
        reason = self._hindrance(at_s)
        if reason:
            held.cued = True
            return [Cue(at_s, "suppressed", channel, held.start_s, reason=reason)]
        for other in self._held.values():
            other.escalates = other.on and not other.cued
            other.cued = other.cued or other.on
        self._escalate_s = at_s + self._settings.escalate_s
        return [self._give(at_s, channel, held, "cue")]

    def _escalate(self, on: tuple[bool, ...]) -> list[Cue]:
        at_s, self._escalate_s = self._escalate_s, None
        still = [c for c, held in sorted(self._held.items()) if held.on and held.escalates and on[c]]
        if at_s is None or not still or self._passing(still[0]) or self._hindrance(at_s):
            return []
        return [self._give(at_s, still[0], self._held[still[0]], "escalation")]

    def _give(self, at_s: float, channel: int, held: _Held, pattern: Pattern) -> Cue:
        self._given.append(at_s)
        return Cue(at_s, "given", channel, held.start_s, pattern=pattern)

    def _passing(self, channel: int) -> str | None:
        """Say what forbids a cue now and may be over in a moment, None if nothing does."""
        if channel in self._bad:
            return f"bad signal: {', '.join(self._bad[channel])}"
        return None if self._fresh else "late data"

    def _hindrance(self, at_s: float) -> str | None:
        """Say what forbids a cue for this shrug, None if nothing does."""
        if not self._settings.enabled:
            return "cues are off"
        if not self._board_ok:
            return "no board"
        if self.snoozed_until_s is not None and at_s < self.snoozed_until_s:
            return "snoozed"
        for most, seconds in ((self._settings.per_hour, 3600), (self._settings.per_day, 86400)):
            if sum(at_s - given < seconds for given in self._given) >= most:
                return f"{most} cues in {seconds // 3600} h"
        return None
