"""Guide the wearer through a gentle exercise or paced breathing, and measure the tension before and after it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp.chain import Levels
from dsp.filters import Band
from dsp.quality import Quality
from dsp.reference import Calibration, pooled
from services.calibrating import ended_words
from services.messages import Guided, Pattern
from services.settings import GuideSettings
from services.windows import frames_within, newest_uv

Array = NDArray[np.float64]

_STILL = "Sit still for a moment, shoulders loose: this is the tension before."
_AGAIN = "Sit still once more: this is the tension after."
_INHALE_S, _EXHALE_S = 4.5, 5.5  # six breaths a minute, the breath out a little longer


class Step(NamedTuple):
    """What to do, for how long, and what the motor plays at its start."""

    name: str
    say: str
    seconds: float
    pattern: Pattern = "step"


@dataclass(frozen=True, slots=True)
class Exercise:
    """A gentle exercise; the steps are what is done between sitting still before and after."""

    name: str
    title: str
    steps: tuple[Step, ...]
    note: str = ""


def _both_sides(say: str, seconds: float) -> tuple[Step, ...]:
    return tuple(Step(side, say.format(side=side, other=other), seconds) for side, other in _SIDES)


_SIDES = (("right", "left"), ("left", "right"))
_GENTLY = "Mildly, and stop if it hurts."

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for exercise in (
        Exercise(
            "trap-stretch",
            "Seated trapezius stretch",
            _both_sides(f"Sit upright. Let your {{side}} ear sink towards your {{side}} shoulder. {_GENTLY}", 25.0),
        ),
        Exercise(
            "levator-stretch",
            "Seated levator stretch",
            _both_sides(
                f"Sit upright. Turn your head half to the {{side}} and look down at your armpit. {_GENTLY}", 25.0
            ),
        ),
        Exercise(
            "chin-tuck",
            "Supine chin tuck",
            tuple(
                step
                for _ in range(5)
                for step in (
                    Step("tuck", "Lying on your back, draw your chin in a little, as if nodding. No force.", 5.0),
                    Step("release", "Let go, and breathe.", 5.0),
                )
            ),
            "Only if your clinician agrees.",
        ),
        Exercise(
            "shoulder-drop",
            "Shoulder drop with a slow breath out",
            tuple(
                step
                for _ in range(6)
                for step in (
                    Step("inhale", "Breathe in, and lift your shoulders just a little.", 4.0, "inhale"),
                    Step("exhale", "Breathe out slowly, and let them drop.", 6.0, "exhale"),
                )
            ),
        ),
        Exercise("breathing", "Paced breathing, six breaths a minute", ()),
    )
}


def breathing(minutes: float) -> Exercise:
    """Return paced breathing that lasts so long."""
    breath = (
        Step("inhale", "Breathe in.", _INHALE_S, "inhale"),
        Step("exhale", "Breathe out slowly.", _EXHALE_S, "exhale"),
    )
    of = EXERCISES["breathing"]
    return Exercise(of.name, of.title, breath * max(1, round(60 * minutes / (_INHALE_S + _EXHALE_S))))


class ExerciseGuide:
    """Lead through the steps of an exercise; time is that of the board, so a signal that stops stops it.

    Tension before and after is the RMS over the seconds of sitting still, in µV and in % of the reference where there
    is one; None where less than 60 % of them is valid.
    """

    activity = "exercise"

    def __init__(
        self,
        guide_id: str,
        exercise: Exercise,
        channels: tuple[str, ...],
        frame_s: float,
        calibration: Calibration | None,
        settings: GuideSettings,
    ) -> None:
        self.over = False
        self.calibration: Calibration | None = None  # it measures none
        self.name = exercise.name
        self._id, self._exercise, self._channels, self._frame_s = guide_id, exercise, channels, frame_s
        self._levels_of, self._settings = calibration, settings
        before = Step("before", f"{exercise.note} {_STILL}".strip(), settings.still_s)
        self._steps = (before, *exercise.steps, Step("after", _AGAIN, settings.still_s))
        self._at = 0
        self._start_s = self._said_s = self._now_s = self._valid_s = 0.0
        self._seq = 0
        self._live: list[float | None] = [None] * len(channels)
        self._still: dict[str, Array] = {}
        self._windows: dict[str, tuple[float, float]] = {}

    def begin(self, at_s: float) -> list[Guided]:
        """Begin, at a time on the board's clock."""
        self._valid_s = at_s
        self._go_to(0, at_s)
        return [self._say("started", at_s)]

    def quality(self, quality: Quality) -> None:
        """Nothing depends on it: what is bad is no level."""

    def band(self, band: Band) -> list[Guided]:
        """Go on: the levels differ too little to matter."""
        return []

    def next(self, at_s: float, pain: int | None = None) -> tuple[str | None, list[Guided]]:
        """Skip the rest of this step; return what follows."""
        if pain is not None and pain >= self._settings.most_pain:
            return None, self.stop(at_s, f"pain of {pain} of 10")
        if self._steps[self._at].name in ("before", "after"):
            return "sit still for a moment; expected the step to end by itself", []
        self._go_to(self._at + 1, at_s)
        return None, [self._say("progress", at_s, self._steps[self._at].pattern)]

    def stop(self, at_s: float, reason: str = "stopped by the wearer") -> list[Guided]:
        """End it, whatever it is at."""
        return [] if self.over else [self._end(at_s, "stopped", reason)]

    def levels(self, levels: Levels) -> list[Guided]:
        """Take what was measured next."""
        if self.over:
            return []
        self._now_s = levels.at_s
        if levels.control_uv.shape[1]:
            self._live = newest_uv(levels)
            if any(v is not None for v in self._live):
                self._valid_s = levels.at_s
        self._gather(levels)
        out = list(self._advance(levels.at_s, levels.frames_at_s))
        if not self.over and not out and levels.at_s >= self._said_s + 1.0 - 1e-9:
            out = [self._say("progress", levels.at_s)]
        return out

    def _gather(self, levels: Levels) -> None:
        """Keep the frames in which the wearer sits still."""
        for name, window in self._windows.items():
            within = frames_within(levels, self._frame_s, *window)
            self._still[name] = np.concatenate([self._still[name], within], axis=1)

    def _advance(self, at_s: float, frames_at_s: float) -> Iterator[Guided]:
        if at_s - self._valid_s >= self._settings.silence_s and self._steps[self._at].name == "before":
            yield self._end(at_s, "failed", f"no usable signal for {self._settings.silence_s:g} s")
            return
        over_s = self._start_s + self._steps[self._at].seconds
        if at_s < over_s:
            return
        if self._at + 1 < len(self._steps):
            self._go_to(self._at + 1, over_s)
            yield self._say("progress", at_s, self._steps[self._at].pattern)
        elif frames_at_s >= over_s - self._frame_s:
            yield self._end(at_s, "completed", None)

    def _go_to(self, at: int, at_s: float) -> None:
        self._at, self._start_s = at, at_s
        name = self._steps[at].name
        if name in ("before", "after"):  # while the motor speaks, and as long after it, nothing is measured
            self._windows[name] = at_s, at_s + self._steps[at].seconds
            self._still[name] = np.empty((len(self._channels), 0))

    def _end(self, at_s: float, outcome: str, reason: str | None) -> Guided:
        self.over = True
        return self._say("ended", at_s, "step", outcome, reason)

    def _say(
        self, event: Any, at_s: float, pattern: Pattern | None = None, outcome: str | None = None,
        reason: str | None = None,
    ) -> Guided:  # fmt: skip
        self._said_s, seq = at_s, self._seq
        self._seq += 1
        step = self._steps[self._at]
        left_s: float | None = max(0.0, self._start_s + step.seconds - at_s)
        name, say = step.name, step.say
        if outcome is not None:
            name, say, left_s = "ended", ended_words(_ENDS[outcome], reason), None
        details = self._details(outcome, reason)
        return Guided(event, "exercise", self._id, seq, at_s, name, say, left_s, pattern, details)

    def _details(self, outcome: str | None, reason: str | None) -> dict[str, Any]:
        before, after = self._tension("before"), self._tension("after")
        done = sum(step.name == "exhale" for step in self._steps[: self._at])
        return {
            "name": self.name,
            "channels": list(self._channels),
            "levels_uv": _rounded(self._live),
            "levels_rve": self._rve(self._live),
            "before_uv": _rounded(before),
            "after_uv": _rounded(after),
            "before_rve": self._rve(before),
            "after_rve": self._rve(after),
            "breaths": done if self.name == "breathing" else None,
            "outcome": outcome,
            "reason": reason,
        }

    def _tension(self, name: str) -> list[float | None]:
        frames = self._still.get(name)
        needed = self._settings.least_valid_pct / 100 * self._settings.still_s / self._frame_s
        if frames is None:
            return [None] * len(self._channels)
        return [pooled(row) if np.isfinite(row).sum() >= needed - 1e-6 else None for row in frames]

    def _rve(self, levels: list[float | None]) -> list[float | None]:
        of = self._levels_of
        return _rounded([None if v is None or of is None else of.rve(v, c) for c, v in enumerate(levels)])


_ENDS = {"completed": "Done. Well done.", "stopped": "Stopped.", "failed": "This did not work."}


def _rounded(values: list[float | None]) -> list[float | None]:
    return [None if v is None or not math.isfinite(v) else round(v, 2) for v in values]
