"""What comes of a cue: whether the wearer relaxed, and how much the muscle rested in the minutes after."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from dsp.chain import Levels
from dsp.detect import Shrug
from dsp.exposure import ExposureSettings, RestTally
from services.day import AFTER_S
from services.messages import Cue, CueResult
from services.windows import frames_within


@dataclass(slots=True)
class _Open:
    """A cue whose five minutes are not over."""

    cue: Cue
    relaxed_s: float | None = None
    rest: RestTally = field(default_factory=RestTally)


class Aftermath:
    """Follow each cue that was given, and each that a lot withheld, for five minutes; then say what came of it.

    `limits_uv` are the levels of rest per channel, None where rest cannot be seen.
    """

    def __init__(self, limits_uv: Sequence[float | None], frame_s: float, settings: ExposureSettings) -> None:
        self._limits_uv = limits_uv
        self._frame_s = frame_s
        self._run = settings.rest_run(frame_s)
        self._least = settings.least_valid_pct / 100 * AFTER_S / frame_s
        self._open: list[_Open] = []

    def begin(self, cue: Cue) -> None:
        """Follow a cue from now on."""
        if cue.outcome == "withheld" or (cue.outcome == "given" and cue.pattern == "cue"):
            self._open.append(_Open(cue))

    def shrug(self, shrug: Shrug) -> None:
        """Note that a shrug is over, if it is."""
        if shrug.phase in ("relaxed", "ended") and not shrug.truncated and not shrug.long and shrug.end_s is not None:
            self._relaxed("shrug", shrug.channel, shrug.end_s)

    def advance(self, at_s: float, rested: Callable[[int], bool]) -> None:
        """Let time pass; `rested` says of a channel whether it has rested just now."""
        for waiting in self._open:
            cue = waiting.cue
            if cue.trigger == "low_rest" and waiting.relaxed_s is None and rested(cue.channel):
                self._relaxed("low_rest", cue.channel, at_s)

    def _relaxed(self, trigger: str, channel: int, at_s: float) -> None:
        for waiting in self._open:
            cue = waiting.cue
            if waiting.relaxed_s is None and (cue.trigger, cue.channel) == (trigger, channel):
                waiting.relaxed_s = max(0.0, at_s - cue.at_s)

    def levels(self, levels: Levels) -> Iterator[CueResult]:
        """Take exposure frames; yield what is known of a cue whose time is over."""
        for waiting in list(self._open):
            at_s, limit = waiting.cue.at_s, self._limits_uv[waiting.cue.channel]
            if limit is not None:
                frames = frames_within(levels, self._frame_s, at_s, at_s + AFTER_S)
                waiting.rest.push(frames[waiting.cue.channel], limit, self._run)
            if levels.frames_at_s >= at_s + AFTER_S:
                self._open.remove(waiting)
                yield self._result(waiting, levels.at_s)

    def finish(self, at_s: float) -> Iterator[CueResult]:
        """Yield what is known of the others, because nothing more will come."""
        for waiting in self._open:
            yield self._result(waiting, at_s)
        self._open.clear()

    def _result(self, waiting: _Open, at_s: float) -> CueResult:
        known = waiting.rest.known
        rest_pct = 100 * waiting.rest.rest(self._run) / known if known and known >= self._least else None
        return CueResult(at_s, waiting.cue, waiting.relaxed_s, rest_pct)
