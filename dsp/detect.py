"""Sustained shrugs: when the level is held up, from when to when, and how high."""

from collections import deque
from dataclasses import dataclass, field
from math import isnan
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dsp.parameters import parameter
from dsp.reference import Calibration

Array = NDArray[np.float64]
Phase = Literal["started", "held", "relaxed", "resumed", "ended"]

# An RMS window crosses the on-threshold a fifth of its length after the muscle does, and the off-threshold all of it.
_ON_DELAY = 0.2
_OFF_DELAY = 1.0
_USUAL_S = 5.0  # what a hold's level was, before it sank to its end
_LET_GO_S = 0.16  # a muscle that lets go at once takes no longer
_FADED = 0.6  # of that: what comes after is the muscle letting go slowly
_STRIDE = 8  # hops from which on it pays to look at them all at once
_ROUNDING_S = 1e-6  # times are sums of floats; a limit is met although the last bit is missing


@dataclass(frozen=True, slots=True)
class ShrugSettings:
    """When a level counts as a sustained shrug."""

    on_rve: float = parameter(
        30.0, "On-threshold, relative to the reference contraction.", unit="%RVE", low=5, high=80, live=True
    )
    on_rest_ratio: float = parameter(
        2.3, "On-threshold is at least this many times the rest level.", unit="x rest", low=1.5, high=20
    )
    on_rest_ratio_alone: float = parameter(
        8.0, "On-threshold where there is no reference contraction.", unit="x rest", low=1.5, high=50, live=True
    )
    on_noise_ratio: float = parameter(
        3.0, "On-threshold is at least this many times the noise floor.", unit="x noise", low=1, high=20
    )
    off_ratio: float = parameter(0.6, "Off-threshold, relative to the on-threshold.", unit="x on", low=0.3, high=0.8)
    off_rest_ratio: float = parameter(
        1.5, "Off-threshold is at least this many times the rest level.", unit="x rest", low=1, high=5
    )
    debounce_on_s: float = parameter(
        0.25, "The level must stay up this long to count as raised.", unit="s", low=0.05, high=2
    )
    debounce_off_s: float = parameter(
        0.5, "The level must stay down this long to count as relaxed.", unit="s", low=0.05, high=2
    )
    drop_ratio: float = parameter(
        0.5,
        "A level below this share of its own last second is a release too.",
        unit="x recent",
        low=0.1,
        high=0.9,
    )
    drop_s: float = parameter(0.25, "Such a drop must last this long.", unit="s", low=0.05, high=2)
    brief_drop_ratio: float = parameter(
        0.55,
        "The same for a raise that is still brief, shorter than merge_piece_s ...",
        unit="x recent",
        low=0.1,
        high=0.9,
    )
    brief_drop_s: float = parameter(0.2, "... which must last this long.", unit="s", low=0.05, high=2)
    merge_s: float = parameter(1.0, "Two pieces with a pause of up to this are one shrug ...", unit="s", low=0, high=10)
    merge_piece_s: float = parameter(1.8, "... where each of them lasts at least this long.", unit="s", low=0, high=10)
    min_s: float = parameter(3.0, "A shorter raise is not a sustained shrug.", unit="s", low=0.5, high=30)
    held_s: float = parameter(5.0, "From here on a shrug may be cued.", unit="s", low=1, high=120)
    cap_s: float = parameter(
        120.0, "A longer shrug is closed, marked long, and a new one begins.", unit="s", low=10, high=3600
    )
    unseen_s: float = parameter(
        2.0,
        "A shrug is cut off where the level stays unknown for longer than this.",
        unit="s",
        low=0.5,
        high=10,
    )

    @property
    def patience_s(self) -> float:
        """Longest time from the start of a shrug, made of pieces perhaps, until it is known as one."""
        return self.min_s + self.merge_s + self.merge_piece_s + self.unseen_s + 1.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """On and off levels of one channel, in µV, and its rest."""

    on_uv: float
    off_uv: float
    rest_uv: float = 0.0


def thresholds(calibration: Calibration, channel: int, settings: ShrugSettings) -> Thresholds:
    """Return the levels that begin and end a shrug.

    A raise of less than some 7 dB over rest stays undetectable on purpose: an off-threshold near the rest level
    would latch. A channel whose rest is unknown has thresholds that nothing reaches.
    """
    rest, noise = calibration.rest_uv[channel], calibration.noise_uv[channel]
    if np.isnan(rest):
        return Thresholds(float("inf"), float("inf"))
    reference = calibration.level_at_rve(settings.on_rve, channel)
    tense = settings.on_rest_ratio_alone * rest if reference is None else reference
    on = max(tense, settings.on_rest_ratio * rest, settings.on_noise_ratio * noise)
    return Thresholds(on, max(settings.off_ratio * on, settings.off_rest_ratio * rest), rest)


@dataclass(frozen=True, slots=True)
class Event:
    """One step in the life of a stretch of tension on a channel.

    `start_s` names the event on its channel; `at_s` is when the step became known; `end_s` is known when it is over.
    A `truncated` event was cut off by lost data or the end of the recording.
    """

    kind: ClassVar[str]
    phase: Phase
    channel: int
    at_s: float
    start_s: float
    end_s: float | None
    mean_uv: float
    peak_uv: float
    valid_fraction: float
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Shrug(Event):
    """A step of a sustained shrug: started, held, relaxed, resumed, ended; the cap has cut a `long` one off."""

    kind: ClassVar[str] = "shrug"
    long: bool = False


@dataclass(slots=True)
class _Tally:
    """Levels seen: how many hops, how many of them known, their sum and their peak."""

    hops: int = 0
    known: int = 0
    total: float = 0.0
    peak: float = 0.0

    def see(self, level: float | None) -> None:
        self.hops += 1
        if level is not None:
            self.known += 1
            self.total += level
            self.peak = max(self.peak, level)

    def add(self, other: "_Tally") -> None:
        self.hops += other.hops
        self.known += other.known
        self.total += other.total
        self.peak = max(self.peak, other.peak)


@dataclass(slots=True)
class _Piece:
    """An uninterrupted raise. `stop` is the hop after the last raised one; `low` and `drop` are runs since then."""

    start: int
    stop: int
    recent: deque[float]
    usual: deque[float]
    after_drop: bool = False
    tally: _Tally = field(default_factory=_Tally)
    tail: _Tally = field(default_factory=_Tally)
    low: int = 0
    drop: int = 0
    first_low: int | None = None
    top: float = 0.0  # highest level, which no median can be above

    def keep(self, level: float, hop: int) -> None:
        """Take the hops since the last raised one as part of the piece after all."""
        self.tally.add(self.tail)
        self.tail = _Tally()
        self.recent.append(level)
        self.usual.append(level)
        self.top = max(self.top, level)
        self.stop, self.first_low = hop + 1, None

    def fading(self, ratio: float) -> int:
        """Count the last hops of which nearly all are below `ratio` of the median of the last seconds."""
        limit, below, fading = ratio * _median(self.usual), 0, 0
        for k, level in enumerate(reversed(self.usual), start=1):
            below += level < limit
            if level < limit and below >= 0.8 * k:
                fading = k
        return fading


def _median(levels: deque[float]) -> float:
    """Median, which one outlier cannot move."""
    return sorted(levels)[len(levels) // 2]


@dataclass(slots=True)
class _Event:
    """Pieces merged into one shrug. `last_piece_s` decides whether the next piece may join."""

    start_s: float
    stop: int
    crossed_s: float = 0.0  # when it came to the on-threshold
    last_piece_s: float = 0.0
    tally: _Tally = field(default_factory=_Tally)
    goes_on: bool = False  # the cap has cut it from the one before
    started: bool = False
    held: bool = False
    relaxed: bool = False


class ShrugDetector:
    """Find sustained shrugs on one channel, hop by hop.

    A raise begins where the level stays at or above the on-threshold and ends where it stays below the
    off-threshold, or clearly below its own recent level: people who do a set of short shrugs often do not come back
    to rest between them. After such a drop, tone that stays above the on-threshold for `merge_s` is the same shrug
    carried on lower; tone from which the level clearly rises again before that was a pause between two shrugs.
    """

    def __init__(
        self,
        channel: int,
        limits: Thresholds,
        settings: ShrugSettings,
        hop_s: float,
        first_hop: int = 0,
        *,
        window_s: float = 0.25,
    ) -> None:
        self._channel = channel
        self._limits = limits
        self._settings = settings
        self._hop_s = hop_s
        self._on_delay_s = _ON_DELAY * window_s
        self._off_delay_s = _OFF_DELAY * window_s
        self._n_on = max(1, round(settings.debounce_on_s / hop_s))
        self._n_off = max(1, round(settings.debounce_off_s / hop_s))
        self._n_drop = max(1, round(settings.drop_s / hop_s))
        self._n_brief_drop = max(1, round(settings.brief_drop_s / hop_s))
        self._n_recent = max(self._n_on, round(1.0 / hop_s))
        self._n_usual = max(self._n_recent, round(_USUAL_S / hop_s))
        self._n_quarter = round(window_s / hop_s / 4)
        self._n_min = round((settings.min_s + self._off_delay_s - self._on_delay_s) / hop_s)
        self._n_merge = settings.merge_s / hop_s + 1e-6
        self._n_unseen = settings.unseen_s / hop_s + 1e-6
        self._hop = first_hop
        self.reset()

    def reset(self) -> None:
        """Forget every raise; the count of hops goes on."""
        self._run: list[float] = []
        self._piece: _Piece | None = None
        self._joined = False
        self._event: _Event | None = None
        self._rise_uv: float | None = None  # after a release by a drop: the level that would make it a pause
        self._unseen = 0
        self._out: list[Shrug] = []

    @property
    def on(self) -> bool:
        """Whether the level is up now: a raise is on and its last level was not below the off-threshold."""
        return self._piece is not None and self._piece.low == 0

    def push(self, levels: Array) -> list[Shrug]:
        """Take control levels of shape (hops,), in µV, NaN where unknown; return what became known."""
        raised = levels >= self._limits.on_uv
        values = levels.tolist()
        i = 0
        while i < len(levels):
            if self._piece is None and self._event is None and not self._run:
                ahead = int(np.argmax(raised[i:]))
                if not raised[i + ahead]:
                    self._hop += len(levels) - i
                    break
                i += ahead
                self._hop += ahead
                self._unseen = 0
            elif len(levels) - i >= _STRIDE:
                i += self._carry_on(levels[i:])
            level = values[i]
            self._step(None if isnan(level) else level)
            self._hop += 1
            i += 1
        return self._take()

    def _carry_on(self, levels: Array) -> int:
        """Take hops in which a held raise just goes on, all at once; return how many, all but the last at most."""
        piece, event = self._piece, self._event
        if piece is None or event is None or not (event.held and self._joined) or event.relaxed or piece.tail.hops:
            return 0
        room = int((self._settings.cap_s - self._end_s(event) + event.start_s) / self._hop_s) - 1
        part = levels[: max(min(room, len(levels) - 1), 0)]
        top = max(piece.top, float(np.fmax.reduce(part, initial=0.0)))
        ratio = max(self._settings.drop_ratio, self._settings.brief_drop_ratio)
        steady = part >= max(self._limits.off_uv, ratio * top)
        hops = len(part) if steady.all() else int(np.argmin(steady))
        for level in part[:hops].tolist():
            piece.tally.see(level)
        if hops:
            piece.recent.extend(part[max(0, hops - self._n_recent) : hops].tolist())
            piece.usual.extend(part[max(0, hops - self._n_usual) : hops].tolist())
            piece.top = max(piece.top, float(part[:hops].max()))
            self._unseen = piece.low = piece.drop = 0
            self._hop += hops
            piece.stop = event.stop = self._hop
        return hops

    def finish(self) -> list[Shrug]:
        """End what is still on because the recording ends here."""
        self._hop -= 1  # what ends now is known at the last hop
        self._cut_off()
        self._hop += 1
        return self._take()

    def _take(self) -> list[Shrug]:
        out, self._out = self._out, []
        return out

    def _time(self, hop: int) -> float:
        """A hop's level is known at the hop's end."""
        return (hop + 1) * self._hop_s

    def _end_s(self, event: _Event) -> float:
        return self._time(event.stop) - self._off_delay_s

    def _length_s(self, piece: _Piece) -> float:
        return (piece.stop - piece.start) * self._hop_s - self._off_delay_s + self._on_delay_s

    def _step(self, level: float | None) -> None:
        if level is None:
            self._unknown()
        elif self._piece is None:
            self._unseen = 0
            self._wait(level)
        else:
            self._unseen = 0
            self._raised(self._piece, level)
        if self._piece is None:
            self._expire()
        else:
            self._advance(self._piece)

    def _unknown(self) -> None:
        self._run.clear()
        self._unseen += 1
        if self._piece is not None:
            self._piece.tail.see(None)
        if self._unseen > self._n_unseen:
            self._cut_off()

    def _wait(self, level: float) -> None:
        if level < self._limits.off_uv:
            self._rise_uv = None  # the drop went on to rest: an ordinary release
        if level < self._limits.on_uv:
            self._run.clear()
            return
        start = self._hop - len(self._run)
        if self._rises(level):
            self._run.clear()
            start, self._rise_uv = self._hop, None
        self._run.append(level)
        if len(self._run) >= self._n_on:
            self._begin(start, self._run, after_drop=self._rise_uv is not None)
            self._run = []

    def _rises(self, level: float) -> bool:
        """Whether the level is clearly above the tone that the last drop came to."""
        return self._rise_uv is not None and level >= self._rise_uv

    def _begin(self, start: int, levels: list[float], *, after_drop: bool) -> None:
        piece = _Piece(
            start,
            self._hop + 1,
            deque(levels, maxlen=self._n_recent),
            deque(levels, maxlen=self._n_usual),
            after_drop,
        )
        for level in levels:
            piece.tally.see(level)
        piece.top = max(levels)
        self._piece = piece
        if self._event is not None and not after_drop and not self._may_join(self._event, piece):
            self._close_event(self._event)
        self._joined = self._event is None
        if self._event is None:
            self._event = self._event_at(start, start)

    def _may_join(self, event: _Event, piece: _Piece) -> bool:
        long_enough = event.last_piece_s >= self._settings.merge_piece_s
        return long_enough and piece.start - event.stop <= self._n_merge

    def _raised(self, piece: _Piece, level: float) -> None:
        drop, n_drop = self._drop_rule(piece)
        if piece.after_drop and not self._joined and self._rises(level):
            self._rise_uv = None
            self._begin(self._hop, [level], after_drop=False)
            return
        is_low = level < self._limits.off_uv
        is_drop = level < drop * piece.top and level < drop * _median(piece.recent)
        piece.tail.see(level)
        piece.low = piece.low + 1 if is_low else 0
        piece.drop = piece.drop + 1 if is_drop else 0
        if is_low and piece.first_low is None:
            piece.first_low = self._hop
        if not (is_low or is_drop):
            piece.keep(level, self._hop)
        elif piece.low >= self._n_off or piece.drop >= n_drop:
            self._rise_uv = self._rise(piece, level, drop) if piece.first_low is None else None
            piece.stop = self._sank(piece, piece.stop if piece.first_low is None else piece.first_low)
            self._release(piece)

    @staticmethod
    def _rise(piece: _Piece, tone: float, drop: float) -> float:
        """Return the level that is clearly up again: far above the tone that is left, or near what was before it."""
        return min(tone / drop, (1 + drop) / 2 * _median(piece.recent))

    def _drop_rule(self, piece: _Piece) -> tuple[float, int]:
        """Return how far and for how many hops a level has to drop: less while it may be one of a set of short ones."""
        if self._length_s(piece) < self._settings.merge_piece_s:
            return self._settings.brief_drop_ratio, self._n_brief_drop
        return self._settings.drop_ratio, self._n_drop

    def _sank(self, piece: _Piece, low: int) -> int:
        """Return the hop at which the raise ended: at the off-threshold, or where it had faded to much less before."""
        fading = low - piece.stop + piece.fading(_FADED)
        # A window comes to that share of its level a quarter of it before it is empty.
        faded = max(low - fading + self._n_quarter, piece.start + self._n_min)
        return faded if (low - faded) * self._hop_s > _LET_GO_S else low

    def _release(self, piece: _Piece) -> None:
        """End the piece at its `stop`; what it belongs to waits for another piece to join."""
        self._piece = None
        event = self._event
        if event is None or not self._joined:
            if event is not None:
                self._close_event(event)
            event = self._event = self._event_at(piece.start, piece.stop)
        event.stop = piece.stop
        event.tally.add(piece.tally)
        event.last_piece_s = self._length_s(piece) + (event.last_piece_s if piece.after_drop else 0.0)
        if event.started:
            event.relaxed = True
            self._emit("relaxed", event, self._end_s(event))

    def _expire(self) -> None:
        """Close a waiting event when nothing can join it any more."""
        event = self._event
        if event is not None and self._hop + 1 - len(self._run) - event.stop > self._n_merge:
            self._close_event(event)

    def _advance(self, piece: _Piece) -> None:
        """See whether the piece joins the event before it, and how far the event has come."""
        event = self._event
        if event is None:
            return
        if not self._joined:
            if piece.after_drop:
                self._joined = self._hop + 1 - piece.start > self._n_merge
            else:
                self._joined = self._length_s(piece) >= self._settings.merge_piece_s
            if not self._joined:
                return
        event.stop = piece.stop
        lasted_s = self._end_s(event) - event.start_s + _ROUNDING_S
        if not event.started and lasted_s >= self._settings.min_s:
            event.started = True
            if not event.goes_on:
                event.start_s = self._onset(event, piece)
            self._emit("started", event)
        if event.relaxed:
            event.relaxed = False
            self._emit("resumed", event)
        if not event.held and lasted_s >= self._settings.held_s:
            event.held = True
            self._emit("held", event)
        if lasted_s >= self._settings.cap_s:
            self._cap(event, piece)

    def _event_at(self, start: int, stop: int) -> _Event:
        """Return an event from the hop at which it came to the on-threshold; how high it goes is not known yet."""
        crossed_s = self._time(start)
        return _Event(max(0.0, crossed_s - self._on_delay_s), stop, crossed_s)

    def _onset(self, event: _Event, piece: _Piece) -> float:
        """Return when the muscle came up, from how high it went.

        The power in a window of length W rises evenly from b² at rest to A², so it passes T² after
        W (T² - b²) / (A² - b²); half a hop more passes until a level is known.
        """
        tally = _Tally()
        tally.add(event.tally)
        tally.add(piece.tally)
        rest, level = self._limits.rest_uv**2, (tally.total / max(tally.known, 1)) ** 2
        share = (self._limits.on_uv**2 - rest) / max(level - rest, 1e-12)
        late_s = min(max(share, 0.0), 1.0) * self._off_delay_s + self._hop_s / 2
        return max(0.0, round((event.crossed_s - late_s) / self._hop_s) * self._hop_s)

    def _cap(self, event: _Event, piece: _Piece) -> None:
        end_s = self._end_s(event)
        self._emit("ended", event, end_s, long=True)
        piece.start, piece.tally = piece.stop, _Tally()
        self._event = _Event(end_s, piece.stop, goes_on=True)

    def _cut_off(self) -> None:
        """End everything here: the level is no longer known."""
        piece, event = self._piece, self._event
        if piece is not None and event is not None and self._joined:
            if event.started:
                event.stop = piece.stop
                self._emit("ended", event, piece.stop * self._hop_s, truncated=True)
        elif event is not None:
            self._close_event(event)
        out = self._out
        self.reset()
        self._out = out

    def _close_event(self, event: _Event) -> None:
        if event.started:
            self._emit("ended", event, self._end_s(event))
        self._event = self._rise_uv = None

    def _emit(
        self,
        phase: Phase,
        event: _Event,
        end_s: float | None = None,
        *,
        truncated: bool = False,
        long: bool = False,
    ) -> None:
        tally = _Tally()
        tally.add(event.tally)
        if self._piece is not None and self._joined:
            tally.add(self._piece.tally)
        self._out.append(
            Shrug(
                phase=phase,
                channel=self._channel,
                at_s=self._time(self._hop),
                start_s=event.start_s,
                end_s=end_s,
                mean_uv=tally.total / max(tally.known, 1),
                peak_uv=tally.peak,
                valid_fraction=tally.known / max(tally.hops, 1),
                truncated=truncated,
                long=long,
            )
        )
