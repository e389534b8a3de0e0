"""What a level means for this wearer: rest, noise, the reference contraction and the thresholds from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dsp.filters import Band, SignalError

Array = NDArray[np.float64]

_REPEATS_CV_PCT = 15.0
_MOST_REPEATS = 4
_PLAUSIBLE_RVE_UV = 20.0, 500.0
_SOUND_SNR_DB = 20.0
_LEAST_SNR_DB = 12.0
_STEADY = 4.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Levels in µV, one per channel; `reference_uv` is the RVE, the level at the submaximal reference exertion.

    A rest of NaN is unknown: there was nothing usable to take it from, and the channel has no shrugs.
    `band` is what the levels were measured in, None where that is not known.
    Raises SignalError for a rest, noise or reference that no electrode could give.
    """

    rest_uv: tuple[float, ...]
    noise_uv: tuple[float, ...]
    reference_uv: tuple[float, ...] | None = None
    source: str = "given"
    band: Band | None = None

    def __post_init__(self) -> None:
        for rest, noise in zip(self.rest_uv, self.noise_uv, strict=True):
            if np.isnan(rest):
                continue
            if not 0 < rest < np.inf:
                raise SignalError(f"rest level is {rest:g} µV; expected more than 0 (is the sensor on the skin?)")
            if not 0 <= noise <= rest:
                raise SignalError(f"noise level is {noise:g} µV; expected 0 to the rest level, {rest:g} µV")
        if self.reference_uv is None:
            return
        for rest, reference in zip(self.rest_uv, self.reference_uv, strict=True):
            if not (np.isnan(rest) or rest < reference < np.inf):
                raise SignalError(
                    f"reference level is {reference:g} µV; expected more than the rest level, {rest:g} µV"
                )

    def rve(self, level_uv: float, channel: int) -> float | None:
        """Return the level as % of the reference, noise removed from both in the power domain; None without one."""
        if self.reference_uv is None or not np.isfinite(level_uv) or np.isnan(self.rest_uv[channel]):
            return None
        return float(self.rve_of(np.asarray(level_uv), channel))

    def reference(self, channel: int) -> float:
        """Return the RVE in µV without its noise, of a channel that has one."""
        assert self.reference_uv is not None
        return float(np.sqrt(self.reference_uv[channel] ** 2 - self.noise_uv[channel] ** 2))

    def rve_of(self, levels_uv: Array, channel: int) -> Array:
        """Return levels of any shape as % of the reference, noise removed from both; the channel must have one."""
        noise = self.noise_uv[channel] ** 2
        return np.asarray(100 * np.sqrt(np.maximum(levels_uv**2 - noise, 0)) / self.reference(channel))

    def level_at_rve(self, rve: float, channel: int) -> float | None:
        """Return the level in µV that is `rve` % of the reference; None without one."""
        if self.reference_uv is None or np.isnan(self.rest_uv[channel]):
            return None
        noise = self.noise_uv[channel] ** 2
        return float(np.sqrt((rve / 100) ** 2 * (self.reference_uv[channel] ** 2 - noise) + noise))


@dataclass(frozen=True, slots=True)
class Reference:
    """The level of repeated reference contractions, and whether they agree."""

    rve_uv: float
    cv_pct: float
    verdict: Literal["accepted", "one more", "refused"]


def reference_of(repeats_uv: Sequence[float]) -> Reference:
    """Return the RVE, the median of the repeats' levels, and whether their spread allows it.

    A coefficient of variation of up to 15 % is accepted, more calls for one more repeat; four are the most. Jackson
    2009 found little gain beyond three repeats. Raises SignalError without a repeat or with one that is no level.
    """
    levels = np.asarray(repeats_uv, dtype=np.float64)
    if not len(levels) or not (np.isfinite(levels) & (levels > 0)).all():
        raise SignalError(f"reference contractions at {list(repeats_uv)} µV; expected one or more levels above 0")
    cv = 100 * float(levels.std(ddof=1) / levels.mean()) if len(levels) > 1 else 0.0
    agree = cv <= _REPEATS_CV_PCT
    return Reference(
        float(np.median(levels)), cv, "accepted" if agree else "one more" if len(levels) < _MOST_REPEATS else "refused"
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a channel can show: whether it sees rest (None: not known without a reference), and why not."""

    state: Literal["ok", "warn", "bad"]
    sees_rest: bool | None
    snr_db: float | None
    reasons: tuple[str, ...] = ()


def verdict(calibration: Calibration, channel: int, rest_rve: float, step_uv: float | None) -> Verdict:
    """Judge a channel by its levels: `rest_rve` is the rest threshold in %RVE, `step_uv` the size of an ADC step.

    Rest is seen where step and noise are at most half the threshold and the rest level is below it. The signal is
    sound from 20 dB of RVE over rest, doubtful from 12 dB.
    """
    rest, noise = calibration.rest_uv[channel], calibration.noise_uv[channel]
    if np.isnan(rest):
        return Verdict("bad", False, None, ("no usable data at rest",))
    if calibration.reference_uv is None:
        if step_uv and rest <= step_uv:
            return Verdict("warn", False, None, (f"the rest level, {rest:.2g} µV, is one ADC step",))
        return Verdict("ok", None, None, ("no reference contraction",))
    limit = rest_rve / 100 * calibration.reference(channel)
    blind = [
        why
        for is_so, why in (
            (step_uv and step_uv > limit / 2, f"an ADC step of {step_uv or 0:.2g} µV is too coarse"),
            (noise > limit / 2, f"a noise of {noise:.2g} µV is too high"),
            ((calibration.rve(rest, channel) or 0.0) >= rest_rve, f"the rest level of {rest:.2g} µV is not below it"),
        )
        if is_so
    ]
    rve = calibration.reference_uv[channel]
    snr = 20 * float(np.log10(rve / rest))
    doubts = [f"the rest threshold is {limit:.2g} µV: {'; '.join(blind)}"] if blind else []
    if not (_PLAUSIBLE_RVE_UV[0] <= rve <= _PLAUSIBLE_RVE_UV[1]):
        doubts.append(f"a reference of {rve:.3g} µV is unusual: check electrodes and units")
    if snr < _SOUND_SNR_DB:
        doubts.append(f"the reference is only {snr:.0f} dB above rest: check electrodes")
    state: Literal["ok", "warn", "bad"] = "bad" if snr < _LEAST_SNR_DB else "warn" if doubts else "ok"
    return Verdict(state, not blind, snr, tuple(doubts))


def pooled(frames_uv: Array) -> float:
    """Return the RMS over equal frames: sqrt(mean(frames²)), not their mean. NaN frames do not count."""
    valid = frames_uv[np.isfinite(frames_uv)]
    return float(np.sqrt(np.mean(valid**2))) if len(valid) else float("nan")


def quietest(frames_uv: Array, frame_s: float) -> tuple[float, float, float]:
    """Find the quietest contiguous stretch of fully valid frames: 10 s, or a twentieth of a shorter recording.

    The stretch is short where the recording is, because the rests in it are. `frames_uv` has the shape (frames,).
    Returns (level in µV, start in s, end in s), the level NaN where nothing long enough is valid.
    """
    n = round(min(10.0, max(1.0, len(frames_uv) * frame_s / 20)) / frame_s)
    level, start = _quietest(frames_uv, n)
    return (level, 0.0, 0.0) if start is None else (level, start * frame_s, (start + n) * frame_s)


def quietest_of(frames_uv: Array, n: int) -> float:
    """Return the level in µV of the quietest `n` valid frames in a row, NaN where there are none."""
    return _quietest(frames_uv, n)[0]


def _quietest(frames_uv: Array, n: int) -> tuple[float, int | None]:
    if len(frames_uv) < n:
        return float("nan"), None
    power = np.convolve(frames_uv**2, np.ones(n), mode="valid") / n
    if not np.isfinite(power).any():
        return float("nan"), None
    start = int(np.nanargmin(power))
    return float(np.sqrt(power[start])), start


def steady_level(frames_uv: Array, n: int, quietest_uv: float) -> float:
    """Return the level in µV of the last `n` valid frames, of shape (frames,), NaN where these are no rest.

    They are none where there are fewer, or where a tenth of them is more than four times as strong as `quietest_uv`,
    the quietest such stretch that is known: who sits back for a rest level does not shrug meanwhile.
    """
    valid = frames_uv[np.isfinite(frames_uv)][-n:]
    if len(valid) < n:
        return float("nan")
    loudest = max(pooled(part) for part in np.array_split(valid, 10))
    return pooled(valid) if loudest <= _STEADY * quietest_uv else float("nan")
