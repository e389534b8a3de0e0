"""A day of wearing, added up as it happens."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dsp.chain import Levels
from dsp.detect import Shrug
from dsp.exposure import ExposureSettings, LevelHistogram, RestTally
from dsp.reference import Calibration
from services.messages import ChannelDay, Cue, DaySummary, Episode, Message, Outcome

_EVERY_S = 300.0


@dataclass(slots=True)
class _Channel:
    """What is added up of a channel."""

    valid_s: float = 0.0
    known: int = 0  # frames of which is known whether they are rest ...
    rested: int = 0  # ... and those that are
    uv: LevelHistogram = field(default_factory=LevelHistogram)
    rve: LevelHistogram = field(default_factory=LevelHistogram)
    rest: RestTally | None = None  # of the present calibration, which is not in the two above yet

    def frames(self, run: int) -> tuple[int, int]:
        """Return how many frames are known, and how many of them are rest."""
        if self.rest is None:
            return self.known, self.rested
        return self.known + self.rest.known, self.rested + self.rest.rest(run)

    def settle(self, run: int) -> None:
        """Count what was added up with a calibration that is over."""
        self.known, self.rested = self.frames(run)
        self.rest = None

    def rest_pct(self, run: int) -> float | None:
        known, rested = self.frames(run)
        return 100 * rested / known if known else None


class Day:
    """Follow what the pipeline says and sum it up per local day, now and then and whenever an episode or a cue is over.

    `tally` is what an earlier run of the program knew of the same day.
    """

    def __init__(self, date: str, settings: ExposureSettings, tally: dict[str, Any] | None = None) -> None:
        self._settings = settings
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
        self._cued: dict[int, float] = {}  # since when a channel has had its cue, and is not relaxed
        self._said_s: float | None = None
        self._measure()

    def turn(self, date: str, at_s: float) -> Iterator[DaySummary]:
        """Begin another day: it is midnight."""
        yield self._summary(at_s, final=True)
        self._begin(date, {})

    def redate(self, date: str, tally: dict[str, Any] | None) -> None:
        """It is another day than was believed: the clock was wrong, as a Raspberry Pi's is at first.

        The minutes until now stay with the day that it seemed to be; `tally` is what is known of the right one.
        """
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
            channel.settle(self._run)
        self._names, self._calibration, self._limits = names, calibration, limits or [None] * len(names)
        self._frame_s, self._hop_s, self._run = frame_s, hop_s, self._settings.rest_run(frame_s)
        self._measure()

    def _measure(self) -> None:
        for name, limit in zip(self._names, self._limits, strict=True):
            channel = self._channels.setdefault(name, _Channel())
            channel.rest = None if limit is None else RestTally()

    def see(self, message: Message) -> Iterator[DaySummary]:
        """Take what the pipeline says next; yield the day so far when it is due."""
        due = False
        match message:
            case Levels():
                self._add(message)
                due = self._said_s is None or message.at_s - self._said_s >= _EVERY_S
            case Shrug(phase="relaxed" | "ended"):
                cued_s = self._cued.pop(message.channel, None)
                if cued_s is not None and message.end_s is not None and not message.truncated:
                    self._relaxed_s.append(round(max(0.0, message.end_s - cued_s), 2))
            case Cue():
                self._cues[message.outcome] += 1
                if message.outcome == "given":
                    self._cued.setdefault(message.channel, message.at_s)
                due = True
            case Episode(event="started"):
                self._episodes += 1
                due = True
            case Episode(event="ended"):
                self._tense_s += (message.end_s or message.start_s) - message.start_s
                due = True
        if due:
            yield self._summary(message.at_s)

    def finish(self, at_s: float) -> Iterator[DaySummary]:
        """Say what the day was until now, because nothing may come any more."""
        if self._said_s is not None and at_s > self._said_s:
            yield self._summary(at_s)

    def _add(self, levels: Levels) -> None:
        valid = np.isfinite(levels.control_uv)
        self.wear_s += self._hop_s * int(valid.any(axis=0).sum())
        self._valid_s += self._hop_s * int(valid.all(axis=0).sum())
        if not levels.frames_uv.shape[1]:
            return
        for c, name in enumerate(self._names):
            channel, frames, limit = self._channels[name], levels.frames_uv[c], self._limits[c]
            channel.valid_s += self._frame_s * int(np.isfinite(frames).sum())
            channel.uv.push(frames)
            if self._calibration is not None and self._calibration.rve(1.0, c) is not None:
                channel.rve.push(self._calibration.rve_of(frames, c))
            if channel.rest is not None and limit is not None:
                channel.rest.push(frames, limit, self._run)

    def _summary(self, at_s: float, *, final: bool = False) -> DaySummary:
        self._seq += 1
        self._said_s = at_s
        return DaySummary(
            at_s,
            self.date,
            self._seq - 1,
            final,
            self.wear_s,
            self._valid_s,
            self._episodes,
            self._tense_s,
            tuple(
                ChannelDay(name, channel.valid_s, channel.rest_pct(self._run), channel.uv.apdf(), channel.rve.apdf())
                for name, channel in self._channels.items()
            ),
            dict(self._cues),
            tuple(self._relaxed_s),
            self._tally(),
        )

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
            "channels": {name: _save(channel, self._run) for name, channel in self._channels.items()},
        }


def _save(channel: _Channel, run: int) -> dict[str, Any]:
    known, rested = channel.frames(run)
    return {
        "valid_s": channel.valid_s,
        "known": known,
        "rested": rested,
        "uv": sorted(channel.uv.counts.items()),
        "rve": sorted(channel.rve.counts.items()),
    }


def _load(saved: dict[str, Any]) -> _Channel:
    return _Channel(
        saved["valid_s"],
        saved["known"],
        saved["rested"],
        LevelHistogram(dict(saved["uv"])),
        LevelHistogram(dict(saved["rve"])),
    )
