"""The heartbeat in the EMG: where it is, how fast it goes, and whether it disturbs rest; from raw samples only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsp.parameters import parameter

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.int64]

_HOP_S = 0.5
_FINE_HZ = 125.0  # the search runs on means of 8 ms: fine enough for a QRS complex, and cheap

# In these fine samples:
_LAG = 4  # the QRS filter is a second difference over 32 ms of 24 ms means, which passes 8-30 Hz
_APART = 31  # a beat is the largest swing within 0.25 s on either side: at most 240 in a minute
_NEAR = 10  # up to 80 ms from the peak is the beat itself
_FAR = 34  # from there up to 272 ms is what it is compared with
_SHAPE = 5  # up to 40 ms from the peak is the shape that beats share
_BRIDGE = 4  # the first 32 ms of a hole hold the last value, so that a few lost samples hide no beat
_REACH = _FAR + _LAG + 2  # what a decision on a beat must know on either side

_BESIDE = np.concatenate([np.arange(-_FAR, -_NEAR), np.arange(_NEAR + 1, _FAR + 1)])
_RAW = np.arange(-_FAR - 2, _FAR + 3)
_SAME = 0.7  # the correlation from which two shapes are the same
_MEMORY = 10  # beats looked back on
_LOOK_BACK_S = 10.0
_INTERVAL_S = (0.33, 1.6)  # 37 to 180 beats in a minute; a longer pause is one between two stretches of rest


@dataclass(frozen=True, slots=True)
class HeartbeatSettings:
    """What counts as a heartbeat, and how much around it is left out of rest."""

    contrast: float = parameter(
        5.0, "Peak of a beat over the mean amplitude beside it, in 8-30 Hz; muscle seldom passes 4.", low=3, high=20
    )
    least_beats: int = parameter(5, "Beats within 10 s from which a heartbeat is believed.", low=3, high=12)
    alike_pct: float = parameter(
        70.0, "Share of beats that must have the common shape to be a heartbeat.", unit="%", low=50, high=100
    )
    regular_pct: float = parameter(
        50.0,
        "Share of intervals that must lie within a fifth of their median to be a heartbeat.",
        unit="%",
        low=0,
        high=100,
    )
    disturbs: float = parameter(
        0.5, "Power above 30 Hz that a beat adds, over the power beside it, that disturbs rest.", low=0.1, high=100
    )
    hold_s: float = parameter(
        30.0,
        "Time for which a heartbeat that was believed stays so, whatever the muscle does.",
        unit="s",
        low=0,
        high=600,
    )
    before_s: float = parameter(0.05, "Left out of rest before the peak of a beat.", unit="s", low=0, high=0.07)
    after_s: float = parameter(0.09, "Left out of rest after the peak of a beat.", unit="s", low=0, high=0.25)
    least_left_pct: float = parameter(
        20.0, "Share of an exposure frame that must be left for its level to be known.", unit="%", low=5, high=90
    )


@dataclass(frozen=True, slots=True)
class Heartbeats:
    """What became known of the heart, in whole hops of about 0.5 s (`Heartbeat.hop` samples).

    `mask` has the shape (channels, samples), its first column being sample `first`: True where a beat is. The
    others have the shape (channels, hops), one value for each hop of the mask: whether there is a heartbeat, whether
    it disturbs the EMG at rest, and beats in a minute (NaN where there is none).
    """

    first: int
    mask: Mask
    present: Mask
    disturbs: Mask
    bpm: Array


@dataclass(frozen=True, slots=True)
class _Beats:
    """Beats by channel, then by time: fine sample of the peak, added power, shape (beats, 2 _SHAPE + 1)."""

    channel: Index
    at: Index
    added: Array
    shape: Array

    def where(self, chosen: Mask | Index) -> "_Beats":
        return _Beats(self.channel[chosen], self.at[chosen], self.added[chosen], self.shape[chosen])

    def joined(self, new: "_Beats") -> "_Beats":
        both = _Beats(
            np.concatenate([self.channel, new.channel]),
            np.concatenate([self.at, new.at]),
            np.concatenate([self.added, new.added]),
            np.concatenate([self.shape, new.shape]),
        )
        return both.where(np.argsort(both.channel, kind="stable"))


class Heartbeat:
    """Find heartbeats that stand out from the muscle, in each channel for itself.

    A beat is a QRS complex: the largest swing of 8-30 Hz within 0.25 s on either side, and `contrast` times the mean
    beside it. So few are found while the muscle works hard, when the heartbeat does not matter either (Marker &
    Maluf 2014). A heartbeat is believed when the beats of 10 s have one shape and a regular interval; missed, early
    and odd beats in between do not refute it. Each hop is decided on when the next one is complete, so every sample
    within a second. Filters without memory make it exact after lost samples and for any cut.
    """

    def __init__(self, settings: HeartbeatSettings, rate_hz: float, channels: int) -> None:
        self._settings = settings
        self._step = max(1, round(rate_hz / _FINE_HZ))
        self._fine_hz = rate_hz / self._step
        self._fine_hop = round(_HOP_S * self._fine_hz)
        self.hop = self._fine_hop * self._step
        self.hop_s = self.hop / rate_hz
        self._before = round(settings.before_s * rate_hz)
        self._after = round(settings.after_s * rate_hz)
        self._back = round(_LOOK_BACK_S * self._fine_hz)
        self._hold = round(settings.hold_s / self.hop_s)
        self._channels = channels
        self.reset()

    def reset(self) -> None:
        """Forget everything, as before the first sample."""
        self._pending = np.empty((self._channels, 0))
        self._line = np.full((self._channels, _BRIDGE + 2 * _REACH), np.nan)
        none = np.empty(0, np.int64)
        self._beats = _Beats(none, none, np.empty(0), np.empty((0, 2 * _SHAPE + 1)))
        self._believed = np.full((self._channels, 1), -self._hold - 1)  # the hop in which a heartbeat was believed last
        self._disturbs = np.zeros((self._channels, 1), dtype=np.bool_)
        self._bpm = np.full((self._channels, 1), np.nan)
        self._hops = 0

    def push(self, x: Array) -> Heartbeats:
        """Take raw values of shape (channels, samples), NaN where lost; return what became known."""
        if self._pending.shape[1]:
            x = np.concatenate([self._pending, x], axis=1)
        hops = x.shape[1] // self.hop
        self._pending = x[:, hops * self.hop :].copy()
        if not hops:
            none = np.zeros((self._channels, 0), dtype=np.bool_)
            return Heartbeats(max(0, self._hops - 1) * self.hop, none, none, none, np.zeros(none.shape))
        line = np.concatenate([self._line, self._fine(x[:, : hops * self.hop])], axis=1)
        self._line = line[:, hops * self._fine_hop :].copy()
        line = _bridged(line)[:, _BRIDGE:]
        new = self._find(line, _swing(line))
        if len(new.at):
            self._beats = self._beats.joined(new)
        present, disturbs, bpm = self._judge(hops)
        mask = self._mask(present)
        # The mask of a hop comes with the next one; before the first there is none.
        drop = int(self._hops == 0)
        first = self._hops - 1 + drop
        self._hops += hops
        self._beats = self._beats.where(self._beats.at >= self._hops * self._fine_hop - _REACH - self._back)
        return Heartbeats(
            first * self.hop, mask[:, drop * self.hop :], present[:, drop:], disturbs[:, drop:], bpm[:, drop:]
        )

    def finish(self) -> Heartbeats:
        """Return what is known of the last samples: the recording ends here."""
        end = self._hops * self.hop + self._pending.shape[1]
        hops = 1 + bool(self._pending.shape[1])
        rest = self.push(np.full((self._channels, (self._hops + hops) * self.hop - end), np.nan))
        return Heartbeats(rest.first, rest.mask[:, : end - rest.first], rest.present, rest.disturbs, rest.bpm)

    def _fine(self, x: Array) -> Array:
        """Return sums of `step` samples each: with slices, since numpy sums short rows slowly."""
        parts = x.reshape(self._channels, -1, self._step)
        total = parts[:, :, 0].copy()
        for k in range(1, self._step):
            total += parts[:, :, k]
        return total

    def _find(self, line: Array, swing: Array) -> _Beats:
        """Return the beats among the fine samples of which enough is known on either side."""
        channel, at = _peaks(swing)
        beside = swing[channel[:, None], at[:, None] + _BESIDE]
        level = beside.sum(axis=1) / np.maximum(np.count_nonzero(beside, axis=1), 1)
        clear = swing[channel, at] > self._settings.contrast * level
        channel, at = channel[clear], at[clear]
        raw = line[channel[:, None], at[:, None] + _RAW]
        whole = np.isfinite(raw[:, _FAR + 2 - _NEAR : _FAR + 3 + _NEAR]).all(axis=1)
        channel, at, raw = channel[whole], at[whole], raw[whole]
        shape = raw[:, _FAR + 2 - _SHAPE : _FAR + 3 + _SHAPE]
        shape = shape - shape.mean(axis=1, keepdims=True)
        shape /= np.sqrt((shape * shape).sum(axis=1, keepdims=True))
        start = self._hops * self._fine_hop - 2 * _REACH
        return _Beats(channel, at + start, _added(raw), shape)

    def _judge(self, hops: int) -> tuple[Mask, Mask, Array]:
        """Return for each new hop what its latest believed beat says of it, or what was said before."""
        known = (self._beats.at + _REACH) // self._fine_hop - self._hops
        new = np.flatnonzero(known >= 0)
        believed, disturbs, bpm = self._believe(new)
        new, disturbs, bpm = new[believed], disturbs[believed], bpm[believed]
        row = np.zeros((self._channels, hops), dtype=np.int64)
        row[self._beats.channel[new], known[new]] = np.arange(1, len(new) + 1)
        row = np.maximum.accumulate(row, axis=1)
        old = row == 0
        last = np.where(old, self._believed, np.concatenate([[0], known[new] + self._hops])[row])
        self._believed, hop = last[:, -1:], self._hops + np.arange(hops)
        present = hop - last <= self._hold
        disturbs = np.where(old, self._disturbs, np.concatenate([[False], disturbs])[row])
        bpm = np.where(old, self._bpm, np.concatenate([[np.nan], bpm])[row])
        self._disturbs, self._bpm = disturbs[:, -1:], bpm[:, -1:]
        return present, present & disturbs, np.where(present, bpm, np.nan)

    def _believe(self, new: Index) -> tuple[Mask, Mask, Array]:
        """Return whether the beats up to each new one are a heartbeat, whether it disturbs, and beats in a minute."""
        index = new[:, None] + np.arange(1 - _MEMORY, 1)
        used, index = index >= 0, np.maximum(index, 0)
        channel, at = self._beats.channel[index], self._beats.at[index]
        used = used & (channel == channel[:, -1:]) & (at >= at[:, -1:] - self._back)
        count = used.sum(axis=1)
        regular, bpm = self._rhythm(at, used)
        alike = _alike(self._beats.shape[index], used) >= self._settings.alike_pct / 100 * count
        disturbs = _median_where(self._beats.added[index], used) >= self._settings.disturbs
        return regular & alike & (count >= self._settings.least_beats), disturbs, bpm

    def _rhythm(self, at: Index, used: Mask) -> tuple[Mask, Array]:
        """Return whether the intervals are regular, and beats in a minute from those that are."""
        low, high = (s * self._fine_hz for s in _INTERVAL_S)
        interval = np.diff(at, axis=1)
        known = used[:, :-1] & used[:, 1:] & (interval >= low) & (interval <= high)
        usual = _median_where(interval.astype(np.float64), known)
        near = known & (np.abs(interval - usual[:, None]) <= 0.2 * usual[:, None])
        count, total = near.sum(axis=1), np.where(near, interval, 0).sum(axis=1)
        least = np.maximum(self._settings.regular_pct / 100 * known.sum(axis=1), self._settings.least_beats // 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            return count >= np.maximum(least, 1), 60 * self._fine_hz * count / total

    def _mask(self, present: Mask) -> Mask:
        """Return where beats are, of shape (channels, samples), from one hop before the new ones on."""
        hops = present.shape[1]
        mask = np.zeros((self._channels, hops * self.hop), dtype=np.bool_)
        if not present.any():
            return mask
        first = (self._hops - 1) * self.hop
        peaks = self._beats.at * self._step + self._step // 2 - first
        starts, ends = np.maximum(peaks - self._before, 0).tolist(), np.maximum(peaks + self._after, 0).tolist()
        for row, start, end in zip(self._beats.channel.tolist(), starts, ends, strict=True):
            mask[row, start:end] = True
        if not present.all():
            mask.reshape(-1, hops, self.hop)[~present] = False
        return mask


def _bridged(line: Array) -> Array:
    """Return the line with the first _BRIDGE samples of each hole filled, but for holes at its very start."""
    if not np.isnan(line).any():
        return line
    line = line.copy()
    for _ in range(_BRIDGE):
        np.copyto(line[:, 1:], line[:, :-1].copy(), where=np.isnan(line[:, 1:]))
    return line


def _swing(line: Array) -> Array:
    """Return the amplitude in the QRS band, of the same shape; 0 where samples were lost or are still to come."""
    out = np.zeros(line.shape)
    mean = line[:, :-2] + line[:, 1:-1]
    mean += line[:, 2:]
    swing = mean[:, _LAG:-_LAG] * 2
    swing -= mean[:, : -2 * _LAG]
    swing -= mean[:, 2 * _LAG :]
    np.abs(swing, out=swing)
    swing[np.isnan(swing)] = 0
    out[:, _LAG + 1 : -_LAG - 1] = swing
    return out


def _peaks(swing: Array) -> tuple[Index, Index]:
    """Return channels and places of what is the largest within _APART, where _REACH is known on either side."""
    largest, width = swing, 1
    while width < _APART:
        more = min(width, _APART - width)
        largest = np.maximum(largest[:, :-more], largest[:, more:])
        width += more
    n = swing.shape[1] - 2 * _REACH
    here = swing[:, _REACH : _REACH + n]
    before, after = largest[:, _REACH - _APART : _REACH - _APART + n], largest[:, _REACH + 1 : _REACH + 1 + n]
    channel, at = np.nonzero((here > before) & (here >= after))
    return channel, at + _REACH


def _added(raw: Array) -> Array:
    """Return the power that a fourth difference, about a 30 Hz high-pass, finds in a beat over that beside it, less 1.

    `raw` has the shape (beats, fine samples) with the peak in the middle.
    """
    power = np.diff(raw, 4, axis=1) ** 2
    beside = power[:, _FAR + _BESIDE]
    known = np.isfinite(beside)
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(known, beside, 0.0).sum(axis=1) / known.sum(axis=1)
        return np.asarray(power[:, _FAR - _NEAR : _FAR + _NEAR + 1].mean(axis=1) / level - 1)


def _median_where(x: Array, valid: Mask) -> Array:
    """Return the lower median of each row over its valid places; infinity where there is none."""
    middle = np.maximum(valid.sum(axis=1) - 1, 0) // 2
    return np.asarray(np.sort(np.where(valid, x, np.inf), axis=1)[np.arange(len(x)), middle])


def _alike(shape: Array, used: Mask) -> NDArray[np.intp]:
    """Return how many of the shapes (rows, beats, samples), each of power 1, correlate with their row's sum."""
    shape = shape * used[:, :, None]
    common = shape.sum(axis=1)
    along = (shape * common[:, None]).sum(axis=2)
    least = _SAME * np.sqrt((common * common).sum(axis=1))
    return np.asarray((along > least[:, None]).sum(axis=1))
