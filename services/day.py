"""A day of wearing, added up as it happens."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any

import numpy as np

from dsp.chain import Levels
from dsp.detect import Event, Shrug
from dsp.exposure import ExposureSettings, LevelHistogram, RestTally
from dsp.low_rest import LowRest
from dsp.reference import Calibration
from services.messages import ChannelDay, Cue, CueResult, DaySummary, Episode, Message, Outcome, Period

Recall = Callable[[Period, str], dict[str, Any] | None]

AFTER_S = 300.0  # what a cue does is looked for in this time after it

_EVERY_S = 300.0


@dataclass(slots=True)
class _Rest:
    """Frames of which is known whether they are rest, and those that are; `now` has those since the calibration."""

    known: int = 0
    rested: int = 0
    now: RestTally = field(default_factory=RestTally)

    def frames(self, run: int) -> tuple[int, int]:
        return self.known + self.now.known, self.rested + self.now.rest(run)

    def settle(self, run: int) -> None:
        """Count what was added up with a calibration that is over."""
        self.known, self.rested = self.frames(run)
        self.now = RestTally()


@dataclass(slots=True)
class _Channel:
    """What is added up of a channel."""

    valid_s: float = 0.0
    rest: _Rest = field(default_factory=_Rest)
    free: _Rest = field(default_factory=_Rest)  # but for the minutes after a cue
    uv: LevelHistogram = field(default_factory=LevelHistogram)
    rve: LevelHistogram = field(default_factory=LevelHistogram)


class Day:
    """Follow what the pipeline says and sum it up per local day, now and then and whenever an episode or a cue is over.

    `tally` is what an earlier run of the program knew of the same day. A night is summed up in the same way, apart.
    """

    def __init__(
        self,
        date: str,
        settings: ExposureSettings,
        tally: dict[str, Any] | None = None,
        period: Period = "day",
    ) -> None:
        self._settings = settings
        self.period: Period = period
        self.hour = 0  # of the local day
        self._names: tuple[str, ...] = ()
        self._calibration: Calibration | None = None
        self._limits: Sequence[float | None] = []
        self._run = 1
        self._frame_s = 0.0
        self._hop_s = 0.0
        self._begin(date, tally or {})

    def _begin(self, date: str, tally: dict[str, Any]) -> None:
        self.date = date
        self.wear_s: float = tally.get("wear_s", 0.0)
        self._seq: int = tally.get("seq", 0)
        self._valid_s: float = tally.get("valid_s", 0.0)
        self._episodes: int = tally.get("episodes", 0)
        self._tense_s: float = tally.get("tense_s", 0.0)
        self._cues: Counter[Outcome] = Counter(tally.get("cues", {}))
        self._relaxed_s: list[float] = list(tally.get("relaxed_s", []))
        self._channels = {name: _load(saved) for name, saved in tally.get("channels", {}).items()}
        self._hours: list[list[float]] = tally.get("hours") or [[0.0, 0.0] for _ in range(24)]
        self._tense: set[tuple[str, int]] = set()  # what is on
        self._free_from_s = -math.inf  # when the last cue is so long ago that it does not matter any more
        self._said_s: float | None = None
        self._measure()

    def close(self, at_s: float) -> Iterator[DaySummary]:
        """Say what the day was, because it is over."""
        yield self._summary(at_s, final=True)
        self._said_s = None

    def begin(self, date: str, tally: dict[str, Any] | None) -> None:
        """Go on with another day, of which `tally` is known; what was added up until now stays with the last one."""
        self._begin(date, tally or {})

    def measures(
        self,
        names: tuple[str, ...],
        frame_s: float,
        hop_s: float,
        calibration: Calibration | None = None,
        limits: Sequence[float | None] = (),
    ) -> None:
        """Note what comes from here on, and what it means once that is known; `limits` are levels of rest in µV."""
        for channel in self._channels.values():
            channel.rest.settle(self._run)
            channel.free.settle(self._run)
        self._tense.clear()
        self._names, self._calibration, self._limits = names, calibration, limits or [None] * len(names)
        self._frame_s, self._hop_s, self._run = frame_s, hop_s, self._settings.rest_run(frame_s)
        self._measure()

    def _measure(self) -> None:
        for name in self._names:
            self._channels.setdefault(name, _Channel())

    def see(self, message: Message) -> Iterator[DaySummary]:
        """Take what the pipeline says next; yield the day so far when it is due."""
        due = False
        self.watch(message)
        match message:
            case Levels():
                self._add(message)
                due = self._said_s is None or message.at_s - self._said_s >= _EVERY_S
            case Cue():
                self._cues[message.outcome] += 1
                if message.outcome == "given":
                    self._free_from_s = message.at_s + AFTER_S
                due = True
            case CueResult(cue=Cue(outcome="given"), relaxed_after_s=float(relaxed_s)):
                self._relaxed_s.append(round(relaxed_s, 2))
            case Episode(event="started"):
                self._episodes += 1
                due = True
            case Episode(event="ended"):
                self._tense_s += (message.end_s or message.start_s) - message.start_s
                due = True
        if due:
            yield self._summary(message.at_s)

    def watch(self, message: Message) -> None:
        """Note how long it is worn and tense in this hour."""
        match message:
            case Shrug() | LowRest():
                self._note(message)
            case Levels():
                worn_s = self._worn_s(message)
                hour = self._hours[self.hour]
                hour[0] += worn_s
                hour[1] += worn_s if self._tense else 0.0

    def _worn_s(self, levels: Levels) -> float:
        return self._hop_s * int(np.isfinite(levels.control_uv).any(axis=0).sum())

    def finish(self, at_s: float) -> Iterator[DaySummary]:
        """Say what the day was until now, because nothing may come any more."""
        if self._said_s is not None and at_s > self._said_s:
            yield self._summary(at_s)

    def _note(self, event: Event) -> None:
        """Note whether a stretch of tension is on."""
        if event.phase in ("relaxed", "ended"):
            self._tense.discard((event.kind, event.channel))
        else:
            self._tense.add((event.kind, event.channel))

    def _add(self, levels: Levels) -> None:
        self.wear_s += self._worn_s(levels)
        self._valid_s += self._hop_s * int(np.isfinite(levels.control_uv).all(axis=0).sum())
        if not levels.frames_uv.shape[1]:
            return
        for c, name in enumerate(self._names):
            channel, frames, limit = self._channels[name], levels.frames_uv[c], self._limits[c]
            channel.valid_s += self._frame_s * int(np.isfinite(frames).sum())
            channel.uv.push(frames)
            if self._calibration is not None and self._calibration.rve(1.0, c) is not None:
                channel.rve.push(self._calibration.rve_of(frames, c))
            if limit is not None:
                channel.rest.now.push(frames, limit, self._run)
                if levels.frames_at_s >= self._free_from_s:
                    channel.free.now.push(frames, limit, self._run)

    def _summary(self, at_s: float, *, final: bool = False) -> DaySummary:
        self._seq += 1
        self._said_s = at_s
        return DaySummary(
            at_s,
            self.period,
            self.date,
            self._seq - 1,
            final,
            self.wear_s,
            self._valid_s,
            self._episodes,
            self._tense_s,
            tuple(
                ChannelDay(name, channel.valid_s, self._pct(channel.rest), channel.uv.apdf(), channel.rve.apdf())
                for name, channel in self._channels.items()
            ),
            dict(self._cues),
            tuple(self._relaxed_s),
            self._pct(*(channel.free for channel in self._channels.values())),
            tuple((worn_s, tense_s) for worn_s, tense_s in self._hours),
            self._tally(),
        )

    def _pct(self, *rests: _Rest) -> float | None:
        """Return the share of rest over some channels."""
        frames = [rest.frames(self._run) for rest in rests]
        known = sum(n for n, _ in frames)
        return 100 * sum(rested for _, rested in frames) / known if known else None

    def _tally(self) -> dict[str, Any]:
        """Return all that must be known to go on with this day, as JSON can hold it."""
        return {
            "seq": self._seq,
            "wear_s": self.wear_s,
            "valid_s": self._valid_s,
            "episodes": self._episodes,
            "tense_s": self._tense_s,
            "cues": dict(self._cues),
            "relaxed_s": self._relaxed_s,
            "hours": self._hours,
            "channels": {name: _save(channel, self._run) for name, channel in self._channels.items()},
        }


class Days:
    """The day and the night, in one of which everything is summed up that happens now.

    Before it is known what time it is, that is a day without a date. `recall` returns what an earlier run of the
    program knew of a day or a night.
    """

    def __init__(self, settings: ExposureSettings, recall: Recall = lambda period, date: None) -> None:
        self._recall = recall
        self._day = Day("today", settings)
        self._night = Day("", settings, period="night")
        self.period: Period = "day"

    @property
    def wear_s(self) -> float:
        """How long it was worn today, but for the nights."""
        return self._day.wear_s

    def at(
        self, local: datetime, quiet: tuple[time, time] | None, at_s: float, *, jumped: bool = False
    ) -> Iterator[DaySummary]:
        """Note the local time; yield what a day or a night was that is over, but not because the clock was set.

        What was added up until a jump stays with the day that it seemed to be. A night has the date of its end.
        """
        night = quiet is not None and _is_within(local.time(), quiet)
        if night and quiet is not None:
            ends = local.date() + timedelta(days=quiet[0] > quiet[1] and local.time() >= quiet[0])
            self._go_to(self._night, ends)
        if self.period == "night" and not night and not jumped:
            yield from self._night.close(at_s)
        self.period = "night" if night else "day"
        if self._day.date != local.date().isoformat():
            if not jumped and self._day.date != "today":
                yield from self._day.close(at_s)
            self._go_to(self._day, local.date())
        self._day.hour = self._night.hour = local.hour

    def _go_to(self, day: Day, to: date) -> None:
        if day.date != to.isoformat():
            day.begin(to.isoformat(), self._recall(day.period, to.isoformat()))

    def measures(self, *how: Any) -> None:
        """Note what comes from here on, as `Day.measures` does."""
        self._day.measures(*how)
        self._night.measures(*how)

    def see(self, message: Message) -> Iterator[DaySummary]:
        """Take what the pipeline says next; yield the day or the night so far when it is due."""
        if self.period == "night":
            self._day.watch(message)  # its hours are those of the whole day
        yield from self._current.see(message)

    def finish(self, at_s: float) -> Iterator[DaySummary]:
        """Say what they were until now, because nothing may come any more."""
        yield from self._day.finish(at_s)
        yield from self._night.finish(at_s)

    @property
    def _current(self) -> Day:
        return self._night if self.period == "night" else self._day


def _is_within(now: time, quiet: tuple[time, time]) -> bool:
    start, end = quiet
    return start <= now < end if start < end else now >= start or now < end


def _save(channel: _Channel, run: int) -> dict[str, Any]:
    return {
        "valid_s": channel.valid_s,
        "rest": channel.rest.frames(run),
        "free": channel.free.frames(run),
        "uv": sorted(channel.uv.counts.items()),
        "rve": sorted(channel.rve.counts.items()),
    }


def _load(saved: dict[str, Any]) -> _Channel:
    return _Channel(
        saved["valid_s"],
        _Rest(*saved["rest"]),
        _Rest(*saved["free"]),
        LevelHistogram(dict(saved["uv"])),
        LevelHistogram(dict(saved["rve"])),
    )
