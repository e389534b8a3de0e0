"""Guide the wearer through a calibration: rest, then three gentle holds. Pure: levels and answers in, words out."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsp.chain import Levels
from dsp.exposure import ExposureSettings
from dsp.filters import Band, SignalError
from dsp.quality import Quality
from dsp.reference import Calibration, Verdict, pooled, quietest_of, reference_of, verdict
from firmware_bridge.blocks import Signal
from services.messages import Guided, Pattern
from services.settings import GuideSettings
from services.windows import frames_within, newest_uv

Array = NDArray[np.float64]

_REST = "Sit down, arms supported, shoulders loose, and breathe quietly."
_READY = (
    "Hold both arms out to the side at shoulder height, elbows straight, palms down, nothing in your hands, "
    "when you are ready. Gently: stop at once if it hurts."
)
_RAISE = "Arms up now, gently."
_HOLD = "Keep them there, and breathe on."
_PAUSE = "Arms down. Rest."
_PATIENCE = 3  # times that a step may fail


class CalibrationGuide:
    """Measure rest, then the level of three or four gentle holds; accept them where they agree and stand out from rest.

    Times are seconds on the board's clock. `quick`, it checks an earlier calibration instead: a short rest and one
    hold, which must come within ±25 % of the reference of `against`.
    """

    activity = "calibration"

    def __init__(
        self,
        guide_id: str,
        signal: Signal,
        frame_s: float,
        band: Band,
        settings: GuideSettings,
        exposure: ExposureSettings,
        *,
        pain: int | None = None,
        quick: bool = False,
        against: Calibration | None = None,
    ) -> None:
        self.over = False
        self.calibration: Calibration | None = None
        self._id, self._signal, self._frame_s, self._band = guide_id, signal, frame_s, band
        self._settings, self._exposure, self._pain = settings, exposure, pain
        self._quick, self._against = quick, against
        self._seq = 0
        self._n = len(signal.channels)
        self._live: list[float | None] = [None] * self._n
        self._why: dict[int, tuple[str, ...]] = {}  # of the channels that are bad, and those that were in this step
        self._heard: dict[int, set[str]] = {}
        self._valid_s = 0.0
        self._rest: tuple[float, ...] | None = None
        self._rest_p10: tuple[float, ...] | None = None
        self._repeats: list[tuple[float, ...]] = []
        self._cv: tuple[float, ...] | None = None
        self._reference: tuple[float, ...] | None = None
        self._verdicts: tuple[Verdict, ...] = ()
        self._failures = 0
        self._said_s = self._now_s = 0.0
        self._told_down = False
        self._window = math.inf, math.inf  # from when to when frames count
        self._frames: Array = np.empty((self._n, 0))
        self._go_to("rest", 0.0, self._rest_s, _REST)

    @property
    def _rest_s(self) -> float:
        return self._settings.quick_rest_s if self._quick else self._settings.rest_s

    def begin(self, at_s: float) -> list[Guided]:
        """Begin, unless it would hurt; at a time on the board's clock."""
        self._valid_s = at_s
        if self._pain is not None and self._pain >= self._settings.most_pain:
            self._say_next("started", at_s)
            return [self._end(at_s, "refused", f"pain of {self._pain} of 10: calibrate on a better day")]
        if self._quick and (self._against is None or self._against.reference_uv is None):
            self._say_next("started", at_s)
            return [self._end(at_s, "refused", "there is no reference to compare with; calibrate in full")]
        self._go_to("rest", at_s, self._rest_s, _REST)
        return [self._say_next("started", at_s)]

    def quality(self, quality: Quality) -> None:
        """Note what a channel's signal is worth."""
        if quality.state == "bad":
            self._why[quality.channel] = quality.reasons
        else:
            self._why.pop(quality.channel, None)

    def band(self, band: Band) -> list[Guided]:
        """Begin again: levels of two bands cannot be compared."""
        self._band = band
        if self.over:
            return []
        self._rest, self._repeats, at_s = None, [], self._now_s
        self._go_to(
            "rest", at_s, self._rest_s, f"Mains hum was found and is filtered out now, so we begin again. {_REST}"
        )
        return [self._say_next("progress", at_s)]

    def next(self, at_s: float, pain: int | None = None) -> tuple[str | None, list[Guided]]:
        """Go on, because the wearer is ready; return why that cannot be, and what follows."""
        if pain is not None and pain >= (self._pain or 0) + self._settings.pain_rise:
            return None, self.stop(at_s, f"pain rose to {pain} of 10")
        if self._step == "ready":
            self._go_to("raise", at_s, self._settings.raise_s, _RAISE)
            return None, [self._say_next("progress", at_s)]
        left_s = max(0.0, self._start_s + (self._long_s or 0.0) - at_s)
        return f"the step {self._step} takes another {math.ceil(left_s)} s", []

    def stop(self, at_s: float, reason: str = "stopped by the wearer") -> list[Guided]:
        """End it, whatever it is at."""
        return [] if self.over else [self._end(at_s, "stopped", reason)]

    def levels(self, levels: Levels) -> list[Guided]:
        """Take what was measured next; frames and time may come cut in any way."""
        if self.over:
            return []
        self._now_s = levels.at_s
        self._gather(levels)
        if levels.control_uv.shape[1]:
            self._live = newest_uv(levels)
            if any(v is not None for v in self._live):
                self._valid_s = levels.at_s
        out = list(self._advance(levels.at_s, levels.frames_at_s))
        if not self.over and not out and levels.at_s >= self._said_s + 1.0 - 1e-9:
            out = [self._say_next("progress", levels.at_s)]
        return out

    def _gather(self, levels: Levels) -> None:
        """Keep the frames of this step that count, and what was wrong meanwhile."""
        for channel, reasons in self._why.items():
            self._heard.setdefault(channel, set()).update(reasons)
        within = frames_within(levels, self._frame_s, *self._window)
        self._frames = np.concatenate([self._frames, within], axis=1)

    def _advance(self, at_s: float, frames_at_s: float) -> Iterator[Guided]:
        if at_s - self._valid_s >= self._settings.silence_s:
            yield self._end(at_s, "failed", f"no usable signal for {self._settings.silence_s:g} s{self._because()}")
            return
        over_s = math.inf if self._long_s is None else self._start_s + self._long_s
        if self._step == "ready" and at_s - self._start_s >= self._settings.patience_s:
            yield self._end(at_s, "stopped", "nobody went on")
        elif self._step == "raise" and at_s >= over_s:
            self._go_to("hold", over_s, self._settings.hold_s, _HOLD)
            yield self._say_next("progress", at_s, "step")
        elif self._step == "hold" and at_s >= over_s and not self._told_down:
            self._told_down = True
            self._words = _PAUSE
            yield self._say_next("progress", at_s, "step")
        elif self._step == "pause" and at_s >= over_s:
            self._ready(at_s)
            yield self._say_next("progress", at_s)
        if self._step in ("rest", "hold") and min(frames_at_s, at_s) >= self._window[1] - self._frame_s:
            yield self._judge_rest(at_s) if self._step == "rest" else self._judge_hold(at_s)

    def _judge_rest(self, at_s: float) -> Guided:
        n = round(min(10.0, self._rest_s / 2) / self._frame_s)
        rest = tuple(quietest_of(row, n) for row in self._frames)
        if np.isnan(rest).any():
            because = self._because(*_where(np.isnan(rest)))
            why = f"there were no {n * self._frame_s:g} s in a row without trouble{because}"
            return self._again(at_s, why, "rest", self._rest_s, _REST)
        self._rest = rest
        self._rest_p10 = tuple(float(np.nanpercentile(row, 10)) for row in self._frames)
        self._failures = 0
        self._ready(at_s)
        return self._say_next("progress", at_s, "step")

    def _judge_hold(self, at_s: float) -> Guided:
        assert self._rest is not None
        valid = np.isfinite(self._frames).sum(axis=1)
        needed = self._settings.least_valid_pct / 100 * (self._window[1] - self._window[0]) / self._frame_s
        if (poor := _where(valid < needed - 1e-6)) != ():
            return self._again(at_s, f"the signal was not good enough{self._because(*poor)}", "ready", None, _READY)
        levels = tuple(pooled(row) for row in self._frames)
        flat = [c for c in range(self._n) if levels[c] < self._settings.least_contrast * self._rest[c]]
        if flat:
            why = f"{self._names(flat)} did not rise above rest: were both arms up, and do the electrodes stick?"
            return self._again(at_s, why, "ready", None, _READY)
        self._repeats.append(levels)
        return self._conclude(at_s) if self._is_enough() else self._pause(at_s, _PAUSE)

    def _again(self, at_s: float, why: str, step: str, long_s: float | None, words: str) -> Guided:
        self._failures += 1
        if self._failures >= _PATIENCE:
            return self._end(at_s, "failed", why)
        if step == "ready":
            return self._pause(at_s, f"That one does not count, because {why}. {_PAUSE}")
        self._go_to(step, at_s, long_s, f"Once more, because {why}. {words}")
        return self._say_next("progress", at_s)

    def _pause(self, at_s: float, words: str) -> Guided:
        self._go_to("pause", self._start_s + (self._long_s or 0.0), self._settings.pause_s, words)
        return self._say_next("progress", at_s)

    def _ready(self, at_s: float) -> None:
        self._go_to("ready", at_s, None, _READY)

    def _is_enough(self) -> bool:
        """Judge the repeats; whether there need not be another."""
        if self._quick:
            return True
        judged = [reference_of([levels[c] for levels in self._repeats]) for c in range(self._n)]
        self._cv = tuple(one.cv_pct for one in judged)
        self._reference = tuple(one.rve_uv for one in judged)
        enough = len(self._repeats) >= self._settings.repeats
        return enough and all(one.verdict != "one more" for one in judged)

    def _conclude(self, at_s: float) -> Guided:
        if self._quick and self._against is not None:
            return self._compare(self._against, at_s)
        assert self._rest is not None
        assert self._reference is not None
        judged = [reference_of([levels[c] for levels in self._repeats]) for c in range(self._n)]
        if loose := [c for c in range(self._n) if judged[c].verdict == "refused"]:
            cv = ", ".join(f"{judged[c].cv_pct:.0f} %" for c in loose)
            return self._end(
                at_s, "refused", f"{self._names(loose)}: the holds differ by {cv}; at most 15 % is repeatable"
            )
        try:
            found = Calibration(self._rest, self._noise(), self._reference, "calibrated", self._band)
        except SignalError as error:
            return self._end(at_s, "refused", str(error))
        self._verdicts = tuple(
            verdict(found, c, self._exposure.rest_rve, self._signal.uv_per_count) for c in range(self._n)
        )
        if bad := [c for c in range(self._n) if self._verdicts[c].state == "bad"]:
            why = "; ".join(self._verdicts[bad[0]].reasons)
            return self._end(at_s, "refused", f"{self._names(bad)}: {why}")
        self.calibration = found
        return self._end(at_s, "accepted", None)

    def _compare(self, stored: Calibration, at_s: float) -> Guided:
        """Accept what is kept where the one hold comes close to it."""
        (levels,) = self._repeats
        assert stored.reference_uv is not None
        self._reference = stored.reference_uv
        off = [100 * (levels[c] / stored.reference_uv[c] - 1) for c in range(self._n)]
        if far := [c for c in range(self._n) if abs(off[c]) > self._settings.quick_band_pct]:
            by = ", ".join(f"{off[c]:+.0f} %" for c in far)
            return self._end(at_s, "refused", f"{self._names(far)} is off by {by}; calibrate in full")
        self._rest = stored.rest_uv
        self.calibration = stored
        self._verdicts = tuple(
            verdict(stored, c, self._exposure.rest_rve, self._signal.uv_per_count) for c in range(self._n)
        )
        return self._end(at_s, "accepted", None)

    def _noise(self) -> tuple[float, ...]:
        """Return the least noise that the ADC's steps make (see `pipeline.noise_of`)."""
        assert self._rest is not None
        step = (self._signal.uv_per_count or 0.0) / 12**0.5
        return tuple(min(step, rest) for rest in self._rest)

    def _go_to(self, step: str, at_s: float, long_s: float | None, words: str) -> None:
        self._step, self._start_s, self._long_s, self._words = step, at_s, long_s, words
        self._said_s = self._now_s = at_s
        self._told_down = False
        self._heard = {}
        self._frames = np.empty((self._n, 0))
        skip_s = self._settings.hold_skip_s if step == "hold" else 0.0
        counts = step in ("rest", "hold") and long_s is not None
        self._window = (at_s + skip_s, at_s + (long_s or 0.0)) if counts else (math.inf, math.inf)

    def _names(self, channels: list[int]) -> str:
        return " and ".join(self._signal.channels[c] for c in channels)

    def _because(self, *channels: int) -> str:
        """Say what was heard of channels, of all of them by default."""
        heard = [
            f"{self._signal.channels[c]}: {', '.join(sorted(self._heard[c]))}"
            for c in channels or range(self._n)
            if c in self._heard
        ]
        return f" ({'; '.join(heard)})" if heard else ""

    def _end(self, at_s: float, outcome: str, reason: str | None) -> Guided:
        self.over = True
        self._words = ended_words(_ENDS[outcome], reason)
        self._step, self._long_s = "ended", None
        return self._say_next("ended", at_s, "step", outcome=outcome, reason=reason)

    def _say_next(self, event: Any, at_s: float, pattern: Pattern | None = None, **more: str | None) -> Guided:
        self._said_s, seq = at_s, self._seq
        self._seq += 1
        left_s = None if self._long_s is None else max(0.0, self._start_s + self._long_s - at_s)
        return Guided(
            event, "calibration", self._id, seq, at_s, self._step, self._words, left_s, pattern, self._details(**more)
        )

    def _details(self, outcome: str | None = None, reason: str | None = None) -> dict[str, Any]:
        return {
            "quick": self._quick,
            "channels": list(self._signal.channels),
            "rate_hz": self._signal.rate_hz,
            "band": {
                "low_hz": self._band.low_hz,
                "high_hz": self._band.high_hz,
                "notches_hz": list(self._band.notches_hz),
            },
            "pain": self._pain,
            "repeat": len(self._repeats),
            "repeats_uv": [_rounded(levels) for levels in self._repeats],
            "levels_uv": [None if v is None else round(v, 2) for v in self._live],
            "rest_uv": _rounded(self._rest),
            "rest_p10_uv": _rounded(self._rest_p10),
            "noise_uv": None if self._rest is None else _rounded(self._noise()),
            "reference_uv": _rounded(self._reference),
            "cv_pct": _rounded(self._cv),
            "snr_db": [None if v.snr_db is None else round(v.snr_db, 1) for v in self._verdicts] or None,
            "verdicts": [
                {"state": v.state, "sees_rest": v.sees_rest, "reasons": list(v.reasons)} for v in self._verdicts
            ],
            "outcome": outcome,
            "reason": reason,
        }


_ENDS = {
    "accepted": "Done: this is your calibration now.",
    "refused": "This calibration is not used.",
    "stopped": "Stopped, nothing was changed.",
    "failed": "This did not work, nothing was changed.",
}


def ended_words(said: str, reason: str | None) -> str:
    """Return the last sentence of a guide, with its reason where that says more."""
    if reason is None or reason.startswith("stopped"):
        return said
    return f"{said} {reason[0].upper()}{reason[1:]}."


def calibration_of(payload: dict[str, Any]) -> Calibration | None:
    """Return the calibration that the last message of an accepted one holds, None of any other."""
    if payload.get("outcome") != "accepted" or payload.get("deleted"):
        return None
    try:
        band = payload["band"]
        return Calibration(
            tuple(payload["rest_uv"]),
            tuple(payload["noise_uv"]),
            tuple(payload["reference_uv"]),
            f"calibrated {payload['t']}",
            Band(band["low_hz"], band["high_hz"], tuple(band["notches_hz"])),
        )
    except (KeyError, TypeError, ValueError, SignalError):
        return None


def _where(flags: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(c) for c in np.flatnonzero(flags))


def _rounded(values: tuple[float, ...] | None) -> list[float] | None:
    return None if values is None else [round(value, 4) for value in values]
