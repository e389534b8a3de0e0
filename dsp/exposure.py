"""How much the muscle works and rests over a recording: the measures of occupational EMG, from exposure frames.

A frame that is not valid is neither rest nor activity: every share is of the valid time, and a run ends at it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dsp.parameters import parameter
from dsp.reference import Calibration, Verdict

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Østensvik 2009: ten classes of uninterrupted activity, the first from 1.6 s, the last open.
SULMA_EDGES_S = (5.0, 10.0, 20.0, 60.0, 120.0, 240.0, 480.0, 600.0, 1200.0)
SULMA_LONG_S = 240.0
_ROUNDING = 1e-6
_CLASS = float(np.log(1.01))
_HISTOGRAM_RANGE = 0.01, 1e5


@dataclass(frozen=True, slots=True)
class ExposureSettings:
    """What counts as rest and as activity, and how much valid data a figure needs."""

    rest_rve: float = parameter(5.0, "Below this level the muscle rests.", unit="%RVE", low=3, high=10)
    rest_run_s: float = parameter(0.125, "Shorter rests do not count.", unit="s", low=0.0, high=2)
    window_s: float = parameter(60.0, "Time that the live rest figure looks back.", unit="s", low=10, high=600)
    short_window_s: float = parameter(10.0, "Time that the quick rest figure looks back.", unit="s", low=2, high=60)
    least_valid_pct: float = parameter(
        60.0, "Share of a window that must be valid for a rest figure.", unit="%", low=10, high=100
    )
    least_report_s: float = parameter(
        600.0, "Valid time that the figures of a recording need.", unit="s", low=60, high=36000
    )
    gap_rve: float = parameter(3.0, "Below this level there is an EMG gap.", unit="%RVE", low=1, high=10)
    gap_noise_ratio: float = parameter(
        1.5, "The level of a gap is at least this many times the noise.", unit="x noise", low=1, high=5
    )
    gap_least_s: float = parameter(0.2, "A shorter gap does not count.", unit="s", low=0.1, high=1)
    gap_long_s: float = parameter(2.0, "A longer gap is counted apart.", unit="s", low=0.5, high=10)
    sulma_rve: float = parameter(3.0, "From this level on the muscle is active (SULMA).", unit="%RVE", low=1, high=10)
    sulma_pool_s: float = parameter(1.0, "Length of the levels that are compared to it.", unit="s", low=0.1, high=3)
    sulma_least_s: float = parameter(1.6, "Shorter activity does not count.", unit="s", low=0.5, high=5)
    eva_levels_rve: tuple[float, ...] = parameter(
        (0.0, 5.0, 15.0, 30.0, 60.0),
        "Lower ends of the level classes of the EVA matrix.",
        unit="%RVE",
        low=0,
        high=1000,
    )
    eva_durations_s: tuple[float, ...] = parameter(
        (0.0, 1.0, 3.0, 7.0, 15.0), "Lower ends of its duration classes.", unit="s", low=0, high=3600
    )

    def rest_run(self, frame_s: float) -> int:
        """Return the least frames in a row that are a rest."""
        return max(1, int(np.ceil(self.rest_run_s / frame_s - _ROUNDING)))


def runs(flags: Flags) -> tuple[Counts, Counts]:
    """Return where each run of true values begins, and the index after its end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return edges[::2], edges[1::2]


def rest_pct(frames: Array, limit: float, least_valid: float, run: int = 1) -> float | None:
    """Return RRT, the % of valid frames strictly below `limit` (Hermens & Hutten 2002), in runs of `run` or more.

    `frames` has the shape (frames,), NaN where invalid. None where less than the fraction `least_valid` is valid.
    """
    known = int(np.isfinite(frames).sum())
    if known == 0 or known < least_valid * len(frames) - _ROUNDING:
        return None
    below = frames < limit
    if run <= 1:
        return 100.0 * int(below.sum()) / known
    starts, ends = runs(below)
    lengths = ends - starts
    return 100.0 * int(lengths[lengths >= run].sum()) / known


@dataclass(frozen=True, slots=True)
class Gaps:
    """EMG gaps: how many in a minute of valid time, their share of it, and the longest; long ones apart."""

    per_min: float
    long_per_min: float
    time_pct: float
    longest_s: float


def gaps(frames: Array, limit: float, frame_s: float, least_s: float = 0.2, long_s: float = 2.0) -> Gaps | None:
    """Find runs of frames below `limit` that last `least_s` or more (Veiersted, Westgaard & Andersen 1990).

    A run that touches an end of the recording, or lost data, counts for time, not for frequency: it may be part of a
    longer one.
    None where no frame is valid.
    """
    known = int(np.isfinite(frames).sum())
    if not known:
        return None
    starts, ends = runs(frames < limit)
    lengths = ends - starts
    enough = lengths >= np.ceil(least_s / frame_s - _ROUNDING)
    around = np.concatenate([[np.nan], frames, [np.nan]])
    inside = enough & np.isfinite(around[starts]) & np.isfinite(around[ends + 1])
    long = lengths * frame_s > long_s + _ROUNDING
    minutes = known * frame_s / 60
    return Gaps(
        per_min=int((inside & ~long).sum()) / minutes,
        long_per_min=int((inside & long).sum()) / minutes,
        time_pct=100.0 * int(lengths[enough].sum()) / known,
        longest_s=float(lengths[enough].max(initial=0) * frame_s),
    )


def apdf(levels: Array) -> tuple[float, float, float] | None:
    """Return the static, median and peak level: percentiles 10, 50 and 90 (Jonsson 1982); None without a valid one."""
    valid = levels[np.isfinite(levels)]
    if not len(valid):
        return None
    p10, p50, p90 = np.percentile(valid, (10, 50, 90))
    return float(p10), float(p50), float(p90)


def eva(levels: Array, frame_s: float, level_edges: tuple[float, ...], duration_edges: tuple[float, ...]) -> Array:
    """Return the exposure variation matrix (Mathiassen & Winkel 1991), of shape (level classes, duration classes).

    Each element is the % of valid time in uninterrupted stretches of that level class and that duration. The edges
    are the classes' lower ends, the last class is open. All zeros where nothing is valid.
    """
    table = np.zeros((len(level_edges), len(duration_edges)))
    known = int(np.isfinite(levels).sum())
    if not known:
        return table
    level_class = np.where(np.isfinite(levels), np.searchsorted(level_edges, levels, side="right") - 1, -1)
    level_class = np.where(np.isfinite(levels), np.maximum(level_class, 0), -1)
    edges = np.flatnonzero(np.diff(level_class, prepend=-2, append=-2))
    lengths = np.diff(edges)
    of = level_class[edges[:-1]]
    duration_class = np.searchsorted(duration_edges, lengths * frame_s + _ROUNDING, side="right") - 1
    np.add.at(table, (of[of >= 0], duration_class[of >= 0]), 100.0 * lengths[of >= 0] / known)
    return table


@dataclass(frozen=True, slots=True)
class Sulma:
    """Sustained low-level muscle activity: how many periods of each duration class, and their share of valid time."""

    counts: tuple[int, ...]
    time_pct: tuple[float, ...]
    gt4min_pct: float


def sulma(levels: Array, step_s: float, limit: float, least_s: float = 1.6) -> Sulma | None:
    """Count periods of uninterrupted levels of `limit` or more, in ten duration classes (Østensvik 2009).

    `levels` are `step_s` apart, NaN where invalid. `gt4min_pct` is the share in periods of 4 min or more, which
    Hanvold 2013 followed. None where nothing is valid.
    """
    known = int(np.isfinite(levels).sum())
    if not known:
        return None
    starts, ends = runs(levels >= limit)
    seconds = (ends - starts) * step_s
    kept = seconds[seconds >= least_s - _ROUNDING]
    of = np.searchsorted(SULMA_EDGES_S, kept + _ROUNDING, side="right")
    counts = np.bincount(of, minlength=len(SULMA_EDGES_S) + 1)
    share = 100.0 * np.bincount(of, weights=kept, minlength=len(counts)) / (known * step_s)
    long_pct = 100.0 * float(kept[kept >= SULMA_LONG_S - _ROUNDING].sum()) / (known * step_s)
    return Sulma(tuple(counts.tolist()), tuple(share.tolist()), long_pct)


def pooled_levels(frames: Array, n: int) -> Array:
    """Return the RMS of each `n` frames in a row; NaN where less than 60 % of them are valid."""
    whole = frames[: len(frames) // n * n].reshape(-1, n)
    valid = np.isfinite(whole)
    power = np.where(valid, whole, 0.0) ** 2
    count = valid.sum(axis=1)
    enough = count >= 0.6 * n - _ROUNDING
    return np.where(enough, np.sqrt(power.sum(axis=1) / np.maximum(count, 1)), np.nan)


class LevelHistogram:
    """Percentiles of any number of levels in bounded memory, to within 1 %: counts of classes 1 % wide.

    Levels below 0.01 and above 10^5 count as these. `counts` is what it knows, by class.
    """

    def __init__(self, counts: dict[int, int] | None = None) -> None:
        self.counts = dict(counts or {})

    def push(self, levels: Array) -> None:
        """Take levels of any shape; NaN ones do not count."""
        valid = levels[np.isfinite(levels)]
        classes = np.round(np.log(np.clip(valid, *_HISTOGRAM_RANGE)) / _CLASS).astype(int)
        for k, n in zip(*np.unique(classes, return_counts=True), strict=True):
            self.counts[int(k)] = self.counts.get(int(k), 0) + int(n)

    def apdf(self) -> tuple[float, float, float] | None:
        """Return the static, median and peak level, as `apdf` does; None without a valid one."""
        if not self.counts:
            return None
        classes = np.array(sorted(self.counts))
        upto = np.cumsum([self.counts[k] for k in classes])
        p10, p50, p90 = np.exp(classes[np.searchsorted(upto, np.array([0.1, 0.5, 0.9]) * upto[-1])] * _CLASS)
        return float(p10), float(p50), float(p90)


class RecentRest:
    """RRT while it happens, per channel: over two windows and over the whole session, equal to `rest_pct` of them."""

    def __init__(self, rest_uv: list[float | None], frame_s: float, settings: ExposureSettings) -> None:
        self._rest_uv = rest_uv
        self._least = settings.least_valid_pct / 100
        self._n = round(settings.window_s / frame_s)
        self._n_short = round(settings.short_window_s / frame_s)
        self._run = settings.rest_run(frame_s)
        self._recent = np.empty((len(rest_uv), 0))
        self._session = [RestTally() for _ in rest_uv]

    def push(self, frames_uv: Array) -> None:
        """Take exposure frames of shape (channels, frames), µV."""
        if frames_uv.shape[1]:
            self._recent = np.concatenate([self._recent, frames_uv], axis=1)[:, -self._n :]
            for limit, row, session in zip(self._rest_uv, frames_uv, self._session, strict=True):
                if limit is not None:
                    session.push(row, limit, self._run)

    def pct(self, channel: int) -> float | None:
        """Return the rest time of the channel in the long window, in %; None until that is full."""
        return self._window(channel, self._n)

    def short_pct(self, channel: int) -> float | None:
        """Return the rest time of the channel in the short window, in %; None until that is full."""
        return self._window(channel, self._n_short)

    def session_pct(self, channel: int) -> float | None:
        """Return the rest time of the channel since the start, in %; None until a long window's time is valid."""
        session = self._session[channel]
        if self._rest_uv[channel] is None or session.known < max(self._n, self._least * session.frames - _ROUNDING):
            return None
        return 100.0 * session.rest(self._run) / session.known

    def _window(self, channel: int, n: int) -> float | None:
        limit = self._rest_uv[channel]
        if limit is None or self._recent.shape[1] < n:
            return None
        return rest_pct(self._recent[channel, -n:], limit, self._least, self._run)


@dataclass(slots=True)
class RestTally:
    """Frames, valid ones, those in runs of rest that are over, and the length of the run that is not."""

    frames: int = 0
    known: int = 0
    rested: int = 0
    run: int = 0

    def push(self, frames: Array, limit: float, least: int) -> None:
        """Take frames; `least` in a row below `limit` are a rest."""
        self.frames += len(frames)
        self.known += int(np.isfinite(frames).sum())
        starts, ends = runs(frames < limit)
        lengths = ends - starts
        if len(starts) and starts[0] == 0:
            lengths[0] += self.run
        elif self.run >= least:
            self.rested += self.run
        goes_on = len(ends) > 0 and int(ends[-1]) == len(frames)
        over = lengths[:-1] if goes_on else lengths
        self.rested += int(over[over >= least].sum())
        self.run = int(lengths[-1]) if goes_on else 0

    def rest(self, least: int) -> int:
        """Return how many frames were rest until now."""
        return self.rested + (self.run if self.run >= least else 0)


@dataclass(frozen=True, slots=True)
class Exposure:
    """The measures of one channel in %RVE; what the data cannot carry is None, and `why` says why by its name."""

    rrt_pct: float | None = None
    gaps: Gaps | None = None
    apdf_rve: tuple[float, float, float] | None = None
    eva: Array | None = None
    sulma: Sulma | None = None
    why: dict[str, str] = field(default_factory=dict)


def exposure(
    frames_uv: Array,
    channel: int,
    frame_s: float,
    calibration: Calibration,
    verdict: Verdict,
    settings: ExposureSettings,
) -> Exposure:
    """Measure one channel from its exposure frames of shape (frames,), in µV."""
    names = ("rrt_pct", "gaps", "apdf_rve", "eva", "sulma")
    missing = _missing(frames_uv, channel, frame_s, calibration, settings)
    if missing:
        return Exposure(why=dict.fromkeys(names, missing))
    levels = calibration.rve_of(frames_uv, channel)
    n = max(1, round(settings.sulma_pool_s / frame_s))
    pooled = calibration.rve_of(pooled_levels(frames_uv, n), channel)
    spread = apdf(levels)
    table = eva(levels, frame_s, settings.eva_levels_rve, settings.eva_durations_s)
    if verdict.sees_rest is False:
        blind = dict.fromkeys(("rrt_pct", "gaps", "sulma", "eva"), "; ".join(verdict.reasons))
        return Exposure(apdf_rve=spread, why=blind)
    rest_rve = calibration.rve(calibration.rest_uv[channel], channel) or 0.0
    hidden = f"the rest level is {rest_rve:.1f} %RVE, not below the threshold"
    noise_rve = 100 * calibration.noise_uv[channel] / calibration.reference(channel)
    run = settings.rest_run(frame_s)
    gap_rve = max(settings.gap_rve, settings.gap_noise_ratio * noise_rve)
    why = {n: hidden for n, limit in (("gaps", gap_rve), ("sulma", settings.sulma_rve)) if rest_rve >= limit}
    return Exposure(
        rrt_pct=rest_pct(levels, settings.rest_rve, settings.least_valid_pct / 100, run),
        gaps=None if "gaps" in why else gaps(levels, gap_rve, frame_s, settings.gap_least_s, settings.gap_long_s),
        apdf_rve=spread,
        eva=table,
        sulma=None if "sulma" in why else sulma(pooled, n * frame_s, settings.sulma_rve, settings.sulma_least_s),
        why=why,
    )


def _missing(
    frames_uv: Array, channel: int, frame_s: float, calibration: Calibration, settings: ExposureSettings
) -> str | None:
    """Say what keeps all the figures from being measured."""
    valid = int(np.isfinite(frames_uv).sum())
    if np.isnan(calibration.rest_uv[channel]):
        return "no usable data"
    if calibration.reference_uv is None:
        return "no reference contraction"
    if valid * frame_s < settings.least_report_s - _ROUNDING:
        return f"less than {settings.least_report_s / 60:g} min of valid data"
    if valid < settings.least_valid_pct / 100 * len(frames_uv) - _ROUNDING:
        return f"less than {settings.least_valid_pct:g} % of the data is valid"
    return None


@dataclass(frozen=True, slots=True)
class Asymmetry:
    """Left against right, over the time in which both are valid: above 0 the left side works more, or rests more.

    `level_pct` is 100 (L - R) / (L + R) of the median levels, in %RVE where there is a reference, else in µV;
    `rest_points` is RRT left less RRT right in percentage points.
    """

    level_pct: float | None
    rest_points: float | None
    unit: str


def sides(names: tuple[str, ...]) -> tuple[int, int] | None:
    """Return which channels are the left and the right side by their names, None where that is not clear."""
    words = [set(name.lower().replace("-", "_").replace(" ", "_").split("_")) for name in names]
    left = [k for k, word in enumerate(words) if word & {"left", "l"}]
    right = [k for k, word in enumerate(words) if word & {"right", "r"}]
    return (left[0], right[0]) if len(left) == len(right) == 1 and left != right else None


def asymmetry(
    frames_uv: Array, names: tuple[str, ...], calibration: Calibration, settings: ExposureSettings
) -> Asymmetry | None:
    """Compare two sides from frames of shape (channels, frames); None where the names do not tell two sides."""
    pair = sides(names)
    if pair is None:
        return None
    both = np.isfinite(frames_uv[list(pair)]).all(axis=0)
    if not both.any() or any(np.isnan(calibration.rest_uv[c]) for c in pair):
        return None
    known = [frames_uv[c, both] for c in pair]
    has_reference = calibration.reference_uv is not None
    if has_reference:
        known = [calibration.rve_of(levels, c) for levels, c in zip(known, pair, strict=True)]
    left, right = (float(np.median(levels)) for levels in known)
    rest = [rest_pct(levels, settings.rest_rve, 0.0) if has_reference else None for levels in known]
    return Asymmetry(
        100 * (left - right) / (left + right) if left + right > 0 else None,
        None if rest[0] is None or rest[1] is None else rest[0] - rest[1],
        "%RVE" if has_reference else "µV",
    )
