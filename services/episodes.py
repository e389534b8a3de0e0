"""Tension episodes: shrugs and low rest close together, over all channels, as dashboards and reports count them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from dsp.detect import Event
from dsp.reference import Calibration
from services.messages import Episode
from services.settings import EpisodeSettings

EndReason = Literal["relaxed", "cut_off"]


def calibration_id(calibration: Calibration) -> str:
    """Return a short checksum, so that results can be told apart by the levels that they rest on."""
    levels = calibration.rest_uv, calibration.noise_uv, calibration.reference_uv
    return hashlib.sha256(repr(levels).encode()).hexdigest()[:12]


@dataclass(slots=True)
class _Sum:
    """Events added up: seconds, and seconds times mean, so that a mean is weighted by time."""

    seconds: float = 0.0
    uv_s: float = 0.0
    rve_s: float = 0.0
    valid_s: float = 0.0
    peak_uv: float = 0.0
    peak_rve: float = 0.0
    truncated: bool = False

    def add(self, event: Event, calibration: Calibration) -> None:
        end_s = event.at_s if event.end_s is None else event.end_s
        seconds = max(end_s - event.start_s, 1e-9)
        self.seconds += seconds
        self.uv_s += seconds * event.mean_uv
        self.rve_s += seconds * (calibration.rve(event.mean_uv, event.channel) or 0.0)
        self.valid_s += seconds * event.valid_fraction
        self.peak_uv = max(self.peak_uv, event.peak_uv)
        self.peak_rve = max(self.peak_rve, calibration.rve(event.peak_uv, event.channel) or 0.0)
        self.truncated = self.truncated or event.truncated


@dataclass(slots=True)
class _Open:
    """An episode under way; `running` has the latest word of each event that is not over."""

    id: str
    start_s: float
    last_end_s: float
    said_s: float
    seq: int = 0
    cued: bool = False
    running: dict[tuple[str, int], Event] = field(default_factory=dict)
    over: _Sum = field(default_factory=_Sum)
    channels: set[int] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    label: str | None = None


class Episodes:
    """Merge events into episodes; an episode ends when nothing has begun for `merge_s`.

    `new_id` makes an id from an episode's start in seconds; `names` are the channels' names; `patience_s` is the
    longest time from a shrug's start until it is known as one, for which an episode stays open.
    """

    def __init__(
        self,
        settings: EpisodeSettings,
        names: tuple[str, ...],
        calibration: Calibration,
        new_id: Callable[[float], str],
        patience_s: float,
    ) -> None:
        self._patience_s = patience_s
        self._settings = settings
        self._names = names
        self._calibration = calibration
        self._calibration_id = calibration_id(calibration)
        self._new_id = new_id
        self._open: _Open | None = None

    @property
    def current(self) -> str | None:
        """Id of the open episode."""
        return self._open.id if self._open else None

    def event(self, event: Event) -> list[Episode]:
        """Take a step in the life of a shrug or of low rest; return the messages that follow from it."""
        out: list[Episode] = []
        episode = self._open
        begins = event.phase == "started"
        if begins and episode and not episode.running and self._is_over(episode, event.start_s):
            out += self.finish(event.at_s, "relaxed")
        new = begins and self._open is None
        if new:
            self._open = _Open(self._new_id(event.start_s), event.start_s, event.start_s, event.at_s)
        episode = self._open
        if episode is None:
            return []
        episode.start_s = min(episode.start_s, event.start_s)  # low rest is known late
        episode.channels.add(event.channel)
        episode.kinds.add(event.kind)
        key = event.kind, event.channel
        if event.phase == "ended":
            episode.running.pop(key, None)
            episode.over.add(event, self._calibration)
            episode.last_end_s = max(episode.last_end_s, event.at_s if event.end_s is None else event.end_s)
        else:
            episode.running[key] = event
        return [*out, self._say(episode, "started", event.at_s)] if new else out

    def _is_over(self, episode: _Open, at_s: float) -> bool:
        return at_s - episode.last_end_s > self._settings.merge_s

    def cued(self) -> None:
        """Note that the open episode got a cue."""
        if self._open:
            self._open.cued = True

    def label(self, label: str, at_s: float) -> list[Episode]:
        """Note what the wearer calls the open episode, and say so."""
        if self._open is None:
            return []
        self._open.label = label
        return [self._say(self._open, "updated", at_s)]

    def advance(self, at_s: float, undecided_s: float | None = None) -> list[Episode]:
        """Let time pass to `at_s`; an event that is not known yet may have begun at `undecided_s`."""
        episode = self._open
        if episode is None:
            return []
        earliest_s = at_s - self._patience_s if undecided_s is None else min(at_s - self._patience_s, undecided_s)
        if not episode.running and self._is_over(episode, earliest_s):
            return self.finish(at_s, "relaxed")
        if at_s - episode.said_s >= self._settings.update_s:
            return [self._say(episode, "updated", at_s)]
        return []

    def finish(self, at_s: float, reason: EndReason = "cut_off") -> list[Episode]:
        """End the open episode, because nothing more will come to it."""
        episode, self._open = self._open, None
        return [self._say(episode, "ended", at_s, reason)] if episode else []

    def _say(
        self,
        episode: _Open,
        event: Literal["started", "updated", "ended"],
        at_s: float,
        end_reason: EndReason | None = None,
    ) -> Episode:
        total = replace(episode.over)
        for running in episode.running.values():
            total.add(running, self._calibration)
        has_reference = self._calibration.reference_uv is not None
        message = Episode(
            event=event,
            id=episode.id,
            seq=episode.seq,
            at_s=at_s,
            start_s=episode.start_s,
            end_s=episode.last_end_s if event == "ended" else None,
            kinds=tuple(sorted(episode.kinds, reverse=True)),
            channels=tuple(self._names[c] for c in sorted(episode.channels)),
            peak_uv=total.peak_uv,
            mean_uv=total.uv_s / total.seconds,
            peak_rve=total.peak_rve if has_reference else None,
            mean_rve=total.rve_s / total.seconds if has_reference else None,
            valid_fraction=total.valid_s / total.seconds,
            cued=episode.cued,
            truncated=total.truncated,
            calibration_id=self._calibration_id,
            end_reason=end_reason,
            label=episode.label,
        )
        episode.seq += 1
        episode.said_s = at_s
        return message
