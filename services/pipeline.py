"""Blocks in, messages out: the signal chain, the coach and the episodes behind one door."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dsp.chain import BandChange, Chain, Levels
from dsp.chain import Message as ChainMessage
from dsp.detect import Shrug
from dsp.exposure import RecentRest
from dsp.filters import Band, SignalError
from dsp.low_rest import LowRest
from dsp.quality import STATES, Quality, State
from dsp.reference import Calibration, quietest_of, steady_level
from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.bridge import Counts
from services.aftermath import Aftermath
from services.coach import Coach, Terms
from services.day import Days, Recall
from services.episodes import Episodes, calibration_id
from services.messages import (
    MOTOR_LAG_S,
    About,
    ChannelState,
    ChannelTension,
    Cue,
    CueTest,
    Episode,
    Guided,
    Message,
    Pattern,
    Tension,
    WearerState,
    seconds_of,
)
from services.settings import CalibrationSettings, Settings, quiet_hours
from services.store import uuid7
from services.windows import frames_within

Array = NDArray[np.float64]

_STATE_EVERY_S = 1.0  # a state is published at most this often ...
_STATE_AFTER_S = 60.0  # ... and at least this often
_GUIDED_PATIENCE_S = 30.0  # a guide waits for the board this long
_PATIENCE = 3  # a channel without steady rest in this many times the time gets its quietest, or none


@dataclass(frozen=True, slots=True)
class Guidance:
    """What a guide must know of the signal; `calibration` is what was known of it until now."""

    signal: Signal
    frame_s: float
    band: Band
    calibration: Calibration | None


class Guide(Protocol):
    """Who guides the wearer through a calibration or an exercise, by what the signal says."""

    activity: str
    over: bool
    calibration: Calibration | None

    def begin(self, at_s: float) -> list[Guided]:
        """Begin, at a time on the board's clock."""
        ...

    def levels(self, levels: Levels) -> list[Guided]:
        """Take what was measured next."""
        ...

    def quality(self, quality: Quality) -> None:
        """Note what a channel's signal is worth."""
        ...

    def band(self, band: Band) -> list[Guided]:
        """Note that levels are those of another band from here on."""
        ...

    def next(self, at_s: float, pain: int | None = None) -> tuple[str | None, list[Guided]]:
        """Go on, because the wearer wants to; return why that cannot be, and what follows."""
        ...

    def stop(self, at_s: float, reason: str) -> list[Guided]:
        """End."""
        ...


class Pipeline:
    """Everything between a board and its sinks, without threads or clocks: time is the board's own.

    Without a calibration the rest level is taken from the first valid seconds, and there are no shrugs until then.
    `feels_motor` says whether the motor's vibration can reach the electrodes; it can't reach a recording. `recall`
    returns what is known of a day or a night, `known` the calibration that is kept for a signal.
    """

    def __init__(
        self,
        settings: Settings,
        calibration: Calibration | None = None,
        *,
        feels_motor: bool = True,
        recall: Recall = lambda period, date: None,
        known: Callable[[Signal], Calibration | None] = lambda signal: None,
    ) -> None:
        self._settings = settings
        self._days = Days(settings.exposure, recall)
        self._calibration = calibration
        self._known = known
        self._calibrated: dict[Signal, Calibration] = {}  # by a guide, so that nothing else counts
        self._terms = Terms()
        self._next: tuple[Guide, Signal, Band] | None = None  # who guides the session that comes next
        self._feels_motor = feels_motor
        self._coach = Coach(settings.cue, settings.shrug.held_s)
        self._session: _Session | None = None
        self._problem: str | None = "not connected yet"
        self._counts = Counts()
        self._new_id = Ids()
        self._learned: dict[Signal, Calibration] = {}  # a board that comes back need not be learned again

    def process(self, block: SampleBlock) -> Iterator[Message]:
        """Take the next block and yield what became known, in order of time.

        Raises SignalError for a signal that cannot be processed as the settings ask.
        """
        session = self._session
        if session is None or session.signal != block.signal:
            yield from self.finish()
            session = self._session = self._begin(block)
            yield from session.begin(self._problem)
        yield from self._summed(session.process(block))
        if session.guide is not None and session.guide.over:
            self._end_guide(session)

    def _begin(self, block: SampleBlock) -> "_Session":
        guide, signal, band = self._next or (None, None, None)
        self._next = None
        if signal != block.signal:  # another board came in between
            guide = band = None
        given = (
            self._calibration
            or self._calibrated.get(block.signal)
            or self._known(block.signal)
            or from_settings(self._settings.calibration, block.signal)
            or self._learned.get(block.signal)
        )
        self._coach.new_signal()
        session = _Session(self._settings, block, given, self._coach, self._days, self._new_id, guide, band)
        session.silence = self._silence
        session.questions = self._terms.questions
        session.feels_motor = self._feels_motor
        session.counts = self._counts
        return session

    def _end_guide(self, session: "_Session") -> None:
        """Go on as usual; the detectors begin anew, so that nothing that was guided is an event."""
        assert session.guide is not None
        if session.guide.calibration is not None:
            self._calibrated = {session.signal: session.guide.calibration}
        self._session = None

    def _silence(self) -> str | None:
        """Say what keeps the motor still, whatever the signal says."""
        if self._session is not None and self._session.guide is not None:
            return f"{self._session.guide.activity} under way"
        if self._days.period == "night":
            return "quiet hours"
        most_s = self._terms.most_wear_s
        if most_s is not None and self._days.wear_s >= most_s:
            return f"worn for {most_s / 3600:g} h today"
        return self._terms.hold

    def fresh(self, *, yes: bool) -> None:
        """Note whether the blocks that come next are of now; there are no cues on others."""
        self._coach.fresh(yes=yes)

    def counted(self, counts: Counts) -> None:
        """Note what came of the board's samples, for the next messages that tell it."""
        self._counts = counts
        if self._session is not None:
            self._session.counts = counts

    def introduce(self) -> Iterator[Message]:
        """Say again what runs here."""
        if self._session is not None:
            yield self._session.about()

    @property
    def problem(self) -> str | None:
        """What is wrong with the board; None while it delivers."""
        return self._problem

    def board(self, problem: str | None, at_s: float = 0.0) -> Iterator[Message]:
        """Note that the board works (None) or what is wrong with it, at a time on its clock."""
        if problem != self._problem:
            self._problem = problem
            self._coach.board(ok=problem is None)
            if problem is not None:  # whoever was about to be guided is asked again when there is a signal
                self._next = None
            if self._session is not None:
                yield self._session.board(problem, at_s)
            else:
                yield self._without_signal(at_s)

    def _without_signal(self, at_s: float) -> WearerState:
        return WearerState(
            at_s,
            (),
            self._problem is None,
            self._problem,
            None,
            cues_enabled=False,
            wear_time_s=self._days.wear_s,
            counts=self._counts,
            snoozed_until_s=self._coach.snoozed_until_s,
            period=self._days.period,
            silent_because="no board",
            questions=self._terms.questions,
        )

    def away(self, at_s: float) -> Iterator[Message]:
        """End what was on when the board went, once it cannot go on: `at_s` is now, on the board's clock."""
        session = self._session
        if session is not None:
            patience_s = self._settings.episode.merge_s if session.guide is None else _GUIDED_PATIENCE_S
            if at_s - session.now_s > patience_s:
                yield from self.finish()

    def local_time(self, local: datetime, at_s: float, *, jumped: bool = False) -> Iterator[Message]:
        """Note what time it is where the wearer is, at a time on the board's clock; it `jumped` if it was set."""
        quiet = quiet_hours(self._settings.cue.quiet_hours)
        before = self._days.period
        yield from self._days.at(local, quiet, at_s, jumped=jumped)
        if self._days.period != before:
            yield self._state(at_s)

    def follow(self, terms: Terms, at_s: float) -> Iterator[Message]:
        """Go by what the plan and the records say now."""
        self._terms = terms
        self._coach.follow(terms)
        if self._session is not None:
            self._session.questions = terms.questions
        yield self._state(at_s)

    def remember(self, ages_s: Sequence[float], day: date, drawn: int, at_s: float) -> None:
        """Count the cues that were given so long ago, by an earlier run of the program; `drawn` of a day's by lot."""
        self._coach.remember([at_s - age_s for age_s in ages_s], day, drawn)

    @property
    def snoozed(self) -> bool:
        """Whether the wearer wants no cues for a while."""
        until_s = self._coach.snoozed_until_s
        return until_s is not None and (self._session is None or until_s > self._session.now_s)

    def cannot_guide(self) -> str | None:
        """Say why nobody can be guided now, None if nothing is in the way."""
        session = self._session
        if self._problem is not None or session is None:
            return f"no signal: {self._problem or 'nothing came from the board yet'}"
        if session.guide is not None or self._next is not None:
            return "there is a calibration or an exercise under way; expected it to be stopped first"
        return None

    def guide(self, make: Callable[["Guidance"], Guide]) -> Iterator[Message]:
        """Guide the wearer through something, which `make` makes for the signal; nothing may be in the way of it."""
        session = self._session
        assert session is not None
        guide = make(Guidance(session.signal, session.frame_s, session.band, session.calibration))
        yield from self.finish()
        self._next = guide, session.signal, session.band

    def guided(self, activity: str) -> "Guide | None":
        """Return who guides the wearer through this now."""
        guide = self._session.guide if self._session is not None else None
        return guide if guide is not None and guide.activity == activity else None

    def tell_guided(self, messages: Iterable[Guided]) -> Iterator[Message]:
        """Pass on what a guide says because it was asked."""
        session = self._session
        if session is not None:
            yield from session.guided(messages)
            if session.guide is not None and session.guide.over:
                self._end_guide(session)

    def snooze(self, until_s: float | None, at_s: float) -> Iterator[Message]:
        """Give no cues until a time on the board's clock; None: they may come again. It is `at_s` now."""
        self._coach.snoozed_until_s = until_s
        yield self._state(at_s)

    def _state(self, at_s: float) -> WearerState:
        return self._without_signal(at_s) if self._session is None else self._session.state()

    def test_cue(self, at_s: float) -> Iterator[Message]:
        """Let the wearer feel the motor."""
        test = CueTest(at_s)
        if self._session is not None:
            self._session.blank(test.pattern)
        yield test

    def label(self, episode_id: str | None, label: str) -> Iterator[Episode]:
        """Note what the wearer calls the open episode, if that is the one that is meant."""
        if self._session is not None:
            yield from self._session.label(episode_id, label)

    def apply(self, settings: Settings) -> Iterator[Message]:
        """Go by other settings from here on; with other thresholds what is on ends, and is looked for anew."""
        before, self._settings = self._settings, settings
        if settings == before:
            return
        self._coach.apply(settings.cue)
        session = self._session
        if (settings.shrug, settings.low_rest) != (before.shrug, before.low_rest) and not (session and session.guide):
            yield from self.finish()
        elif self._session is not None:
            self._session.settings = settings
            yield self._session.about()
            yield self._session.state()

    def finish(self) -> Iterator[Message]:
        """End what is still on, because nothing more will come."""
        session = self._session
        if session is not None:
            yield from self._summed(session.finish())
            yield from self._days.finish(session.now_s)
            if session.calibration is not None:
                self._learned = {session.signal: session.calibration}
            self._session = None

    def _summed(self, messages: Iterator[Message]) -> Iterator[Message]:
        guided = self._session is not None and self._session.guide is not None
        for message in messages:
            yield message
            if not guided:  # what a guide asks for is no day's work
                yield from self._days.see(message)


class _Session:
    """The pipeline for as long as one signal lasts."""

    def __init__(
        self,
        settings: Settings,
        first: SampleBlock,
        given: Calibration | None,
        coach: Coach,
        days: Days,
        new_id: Callable[[float], str],
        guide: Guide | None,
        band: Band | None,
    ) -> None:
        self.signal = first.signal
        self.guide = guide
        self.counts = Counts()
        self.settings = settings
        self.feels_motor = True
        self.silence: Callable[[], str | None] = lambda: None
        self.questions: tuple[str, ...] = ()
        self._days = days
        self._new_id = new_id
        self._coach = coach
        self._chain = Chain(first.signal, settings.chain(), first.start, band or (given.band if given else None))
        if guide is None:
            days.measures(first.signal.channels, self._chain.frame_s, self._chain.hop_s)
        self.now_s = first.start / first.signal.rate_hz
        n = len(first.signal.channels)
        self._quality = [Quality(c, self.now_s, "ok") for c in range(n)]
        self._shrugging = [False] * n
        self._learned: list[Array] | None = None
        self._learn_from_s = 0.0
        self._quietest = np.full(n, np.nan)  # kept when learning starts again: a shrug may have begun meanwhile
        self.calibration = given
        self._aftermath: Aftermath | None = None
        self._episodes: Episodes | None = None
        self._rest = RecentRest([None] * n, self._chain.frame_s, settings.exposure)
        self._tension_due_s = self.now_s
        self._said: WearerState | None = None
        self._problem: str | None = None

    @property
    def frame_s(self) -> float:
        """Length of an exposure frame."""
        return self._chain.frame_s

    @property
    def band(self) -> Band:
        """What the levels are measured in."""
        return self._chain.band

    def begin(self, problem: str | None) -> Iterator[Message]:
        """Say what this is, and calibrate it if its levels are known; who is guided has no shrugs."""
        self._problem = problem
        if self.guide is not None:
            yield self.about()
            yield from self.guided(self.guide.begin(self.now_s))
        elif self.calibration is None:
            self._learned = []
            yield self.about()
        else:
            yield from self._calibrate(self.calibration)

    def guided(self, messages: Iterable[Guided]) -> Iterator[Guided]:
        """Pass on what the guide says, and leave the EMG out while the motor says it too."""
        for message in messages:
            if message.pattern is not None:
                self.blank(message.pattern)
            yield message

    def process(self, block: SampleBlock) -> Iterator[Message]:
        """Take the next block, one hop at a time, so that cues come at the same moment however the data are cut."""
        hop = self._chain.hop
        at = block.start
        while at < block.end:
            end = min(block.end, (at // hop + 1) * hop)
            part = replace(block, start=at, values=block.values[at - block.start : end - block.start])
            for message in self._chain.process(part):
                yield message
                yield from self._follow(message)
            at = end

    def board(self, problem: str | None, at_s: float) -> WearerState:
        """Return the state as it is with this problem, or without one."""
        self._problem = problem
        return self._say(replace(self._state(), at_s=max(at_s, self.now_s)))

    def state(self) -> WearerState:
        """Return the state as it is now."""
        return self._say(self._state())

    def label(self, episode_id: str | None, label: str) -> list[Episode]:
        """Label the open episode, if there is one and it is the one that is meant."""
        if self._episodes is None or episode_id not in (None, self._episodes.current):
            return []
        return self._episodes.label(label, self.now_s)

    def blank(self, pattern: Pattern) -> None:
        """Leave the EMG out while the motor runs, and for a moment longer."""
        if self.feels_motor:
            buzz_s = seconds_of(pattern) + MOTOR_LAG_S
            self._chain.blank(self.now_s + buzz_s + self.settings.cue.blank_s)

    def finish(self) -> Iterator[Message]:
        """End what is still on."""
        for message in self._chain.finish():
            yield message
            yield from self._follow(message)
        if self._aftermath is not None:
            yield from self._aftermath.finish(self.now_s)
        if self._episodes is not None:
            yield from self._episodes.finish(self.now_s)
        if self.guide is not None and not self.guide.over:
            yield from self.guide.stop(self.now_s, self._problem or "the signal ended")

    def _follow(self, message: ChainMessage) -> Iterator[Message]:
        match message:
            case Quality():
                self._quality[message.channel] = message
                self._coach.quality(message)
                if self.guide is not None:
                    self.guide.quality(message)
            case Shrug():
                self._shrugging[message.channel] = message.phase in ("started", "held", "resumed")
                if self._aftermath is not None:
                    self._aftermath.shrug(message)
                yield from self._cues(self._coach.shrug(message))
                if self._episodes is not None:
                    yield from self._episodes.event(message)
            case LowRest():
                yield from self._cues(self._coach.low_rest(message))
                if self._episodes is not None:
                    yield from self._episodes.event(message)
            case BandChange():
                if self._learned is not None:
                    self._learned.clear()  # levels can only be compared within one band
                    self._learn_from_s = message.at_s
                yield self.about()
                if self.guide is not None:
                    yield from self.guided(self.guide.band(message.band))
            case Levels():
                yield from self._advance(message)

    def _advance(self, levels: Levels) -> Iterator[Message]:
        self.now_s = levels.at_s
        self._rest.push(levels.frames_uv)
        if self._learned is not None:
            new = frames_within(levels, self._chain.frame_s, self._learn_from_s, math.inf)
            yield from self._learn(self._learned, new)
        if self.guide is not None and not self.guide.over:
            yield from self.guided(self.guide.levels(levels))
        if self._aftermath is not None:
            yield from self._aftermath.levels(levels)
            self._aftermath.advance(levels.at_s, self._has_rested)
        if not levels.control_uv.shape[1]:
            return
        self._coach.forbidden = self.silence()
        yield from self._cues(self._coach.advance(levels.at_s, levels.on, self._has_rested))
        if self._episodes is not None:
            yield from self._episodes.advance(levels.at_s, self._chain.undecided_since_s)
        if levels.at_s >= self._tension_due_s - 1e-9:
            self._tension_due_s = max(self._tension_due_s + 1 / self.settings.mqtt.tension_hz, levels.at_s)
            yield self._tension(levels)
        state = self._state()
        if self._said is None or self._is_due(self._said, state):
            yield self._say(state)

    def _has_rested(self, channel: int) -> bool:
        """Whether there was enough rest in the last seconds."""
        rest = self._rest.short_pct(channel)
        return rest is not None and rest >= self.settings.low_rest.low_pct

    def _learn(self, learned: list[Array], frames_uv: Array) -> Iterator[Message]:
        """Gather valid frames of rest until every channel has enough of them; a dead one is left out in time."""
        learned.append(frames_uv)
        frames = np.concatenate(learned, axis=1)
        needed = math.ceil(self.settings.calibration.rest_s / self._chain.frame_s)
        self._quietest = np.fmin(self._quietest, [quietest_of(row, max(1, needed // 10)) for row in frames])
        rest = tuple(steady_level(row, needed, least) for row, least in zip(frames, self._quietest, strict=True))
        if frames.shape[1] > _PATIENCE * needed:
            rest = tuple(
                quietest_of(row, needed // 2) if math.isnan(level) else level
                for row, level in zip(frames, rest, strict=True)
            )
            learned.clear()  # where nothing is usable it starts again rather than grow
            if np.isnan(rest).all():
                return
        if not learned or not np.isnan(rest).any():
            source = "rest at the start"
            yield from self._calibrate(Calibration(rest, noise_of(self.signal, rest), None, source, self._chain.band))

    def _calibrate(self, calibration: Calibration) -> Iterator[Message]:
        self._learned = None
        self.calibration = calibration
        self._chain.calibrate(calibration)
        rest_rve = self.settings.exposure.rest_rve
        names, frame_s, hop_s = self.signal.channels, self._chain.frame_s, self._chain.hop_s
        seen = [verdict.sees_rest for verdict in self._chain.verdicts]
        limits = [calibration.level_at_rve(rest_rve, c) if sees else None for c, sees in enumerate(seen)]
        self._rest = RecentRest(limits, frame_s, self.settings.exposure)
        self._aftermath = Aftermath(limits, frame_s, self.settings.exposure)
        self._days.measures(names, frame_s, hop_s, calibration, limits)
        self._episodes = Episodes(
            self.settings.episode,
            names,
            calibration,
            self._new_id,
            self.settings.shrug.patience_s,
        )
        yield self.about()

    def _cues(self, cues: list[Cue]) -> Iterator[Message]:
        for cue in cues:
            if cue.outcome == "given" and cue.pattern:
                self.blank(cue.pattern)
                if self._episodes is not None and cue.trigger != "sensor":
                    self._episodes.cued()
            episode = self._episodes.current if self._episodes else None
            named = replace(cue, episode_id=episode, id=self._new_id(cue.at_s))
            yield named
            if self._aftermath is not None:
                self._aftermath.begin(named)

    def _tension(self, levels: Levels) -> Tension:
        channels = []
        for c, name in enumerate(self.signal.channels):
            level = float(levels.control_uv[c, -1])
            known = bool(np.isfinite(level))
            rve = self.calibration.rve(level, c) if self.calibration and known else None
            rest = self._rest.short_pct(c), self._rest.pct(c), self._rest.session_pct(c)
            channels.append(ChannelTension(name, level if known else None, rve, *rest))
        return Tension(levels.at_s, tuple(channels), self._worst(), self._may_cue())

    def _worst(self) -> State:
        return STATES[max(STATES.index(q.state) for q in self._quality)]

    def _may_cue(self) -> bool:
        given = self.calibration is not None and self._problem is None
        return given and self._why_silent() is None

    def _why_silent(self) -> str | None:
        """Say what keeps the motor still, None if tension now would be cued."""
        if self._problem is not None:
            return "no board"
        if not self.settings.cue.enabled:
            return "cues are off"
        return self.silence() or ("snoozed" if self._snoozed() is not None else self._coach.silent)

    def _state(self) -> WearerState:
        return WearerState(
            at_s=self.now_s,
            channels=tuple(
                ChannelState(name, self._shrugging[c], self._quality[c].state, self._quality[c].reasons)
                if self._problem is None
                else ChannelState(name, None, "bad", ("no board",))
                for c, name in enumerate(self.signal.channels)
            ),
            board_up=self._problem is None,
            board_problem=self._problem,
            episode_id=self._episodes.current if self._episodes else None,
            cues_enabled=self._may_cue(),
            wear_time_s=self._days.wear_s,
            counts=self.counts,
            snoozed_until_s=self._snoozed(),
            period=self._days.period,
            silent_because=self._why_silent(),
            ignored_cues=self._coach.ignored,
            questions=self.questions,
        )

    def _snoozed(self) -> float | None:
        until_s = self._coach.snoozed_until_s
        return until_s if until_s is not None and until_s > self.now_s else None

    def _is_due(self, said: WearerState, state: WearerState) -> bool:
        since_s = state.at_s - said.at_s
        same = replace(state, at_s=said.at_s, wear_time_s=said.wear_time_s, counts=said.counts) == said
        return since_s >= (_STATE_AFTER_S if same else _STATE_EVERY_S)

    def _say(self, state: WearerState) -> WearerState:
        self._said = state
        return state

    def about(self) -> About:
        """Return what runs here."""
        calibration = self.calibration
        return About(
            at_s=self.now_s,
            board=self.settings.board.kind,
            rate_hz=self.signal.rate_hz,
            channels=self.signal.channels,
            band=self._chain.band,
            rest_uv=calibration.rest_uv if calibration else None,
            reference_uv=calibration.reference_uv if calibration else None,
            calibration_source=calibration.source if calibration else None,
            on_uv=tuple(limits.on_uv for limits in self._chain.thresholds),
            off_uv=tuple(limits.off_uv for limits in self._chain.thresholds),
            calibration_id=calibration_id(calibration) if calibration else None,
            settings=self.settings.digest(),
            live=self.settings.live(),
            verdicts=self._chain.verdicts,
            counts=self.counts,
        )


def from_settings(settings: CalibrationSettings, signal: Signal) -> Calibration | None:
    """Return the calibration that the settings give, None where the rest is to be measured.

    Raises SignalError where they give another number of levels than there are channels.
    """
    if not settings.rest_uv:
        return None
    n = len(signal.channels)

    def each(name: str, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(values) not in (1, n):
            raise SignalError(f"calibration.{name}: {len(values)} levels for {n} channels; expected 1 or {n}")
        return values * n if len(values) == 1 else values

    rest = each("rest_uv", settings.rest_uv)
    noise = each("noise_uv", settings.noise_uv) if settings.noise_uv else noise_of(signal, rest)
    reference = each("reference_uv", settings.reference_uv) if settings.reference_uv else None
    return Calibration(rest, noise, reference, "settings")


def noise_of(signal: Signal, rest_uv: tuple[float, ...]) -> tuple[float, ...]:
    """Return the least noise that the ADC's steps make: one step / sqrt(12), per channel, never above the rest."""
    step = (signal.uv_per_count or 0.0) / 12**0.5
    return tuple(step if np.isnan(rest) else min(step, rest) for rest in rest_uv)


class Ids:
    """Make ids that sort in the order in which they were made, even where the clock was set back meanwhile."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._last_s = 0.0

    def __call__(self, _: float) -> str:
        """Return another id."""
        self._last_s = max(self._wall(), self._last_s + 0.001)
        return uuid7(self._last_s)
