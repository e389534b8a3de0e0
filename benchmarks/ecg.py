"""What heartbeats do to rest, and what removing them costs: high-passes, leaving beats out, taking a template off.

`python -m benchmarks.ecg` prints Markdown. All is made from fixed seeds; recordings are measured too where UNSHRUG_DATA
names a folder that has them. `--tune` prints the half that the settings were chosen on, else it is the other half.
"""

import csv
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, find_peaks, resample_poly, sosfiltfilt

from dsp.filters import BandPass, FilterSettings, band_of
from dsp.heartbeat import Heartbeat, HeartbeatSettings
from dsp.level import RmsFrames
from dsp.reference import pooled

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

FRAME_S = 0.125
SETTLED_S = 10.0  # what comes before is not counted: a heartbeat must first be believed
REST, TENSE, WORK = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Case:
    """EMG alone and with a heartbeat in µV, of shape (samples,), and what the muscle does; -1 is not counted."""

    kind: str
    rate_hz: float
    emg: Array
    both: Array
    doing: NDArray[np.int64]


# --- signals


def emg(rng: np.random.Generator, samples: int, rate_hz: float) -> Array:
    """Gaussian noise of RMS 1 with the spectrum of surface EMG after Shwedyk et al. 1977."""
    hz = np.fft.rfftfreq(samples, 1 / rate_hz)
    power = 120.0**4 * hz**2 / ((hz**2 + 60.0**2) * (hz**2 + 120.0**2) ** 2)
    shaped = np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) * np.sqrt(power), samples)
    return np.asarray(shaped / shaped.std())


def beat_times(rng: np.random.Generator, seconds: float, bpm: float) -> list[tuple[float, bool]]:
    """Times in s of beats and whether each is early: breathing and chance vary the interval, 2 % of beats drop out."""
    at, beats = 0.4, []
    while at < seconds:
        interval = 60 / bpm * (1 + 0.05 * np.sin(2 * np.pi * 0.25 * at) + 0.03 * rng.standard_normal())
        early = bool(rng.random() < 0.03)
        if early:
            beats.append((at - 0.3 * interval, True))
        elif rng.random() > 0.02:
            beats.append((at, False))
        at += interval
    return beats


def heart(rng: np.random.Generator, samples: int, rate_hz: float, *, uv: float, width_s: float, bpm: float) -> Array:
    """P-QRS-T beats whose size follows the breath; early ones are wide and upside down."""
    t = np.arange(samples) / rate_hz
    out = np.zeros(samples)
    waves = ((-0.16, 0.12, 0.025), (-2.2, -0.15, 0.8), (0.0, 1.0, 1.0), (2.2, -0.25, 0.8), (0.25, 0.25, 0.045))
    for at, early in beat_times(rng, samples / rate_hz, bpm):
        size = uv * (1 + 0.12 * np.sin(2 * np.pi * 0.25 * at) + 0.04 * rng.standard_normal()) * (-1.2 if early else 1)
        width = width_s * (2 if early else 1) * (1 + 0.03 * rng.standard_normal())
        near = slice(*np.searchsorted(t, [at - 0.4, at + 0.5]))
        for shift, height, sd in waves:
            qrs = sd > 0.1
            since = t[near] - at - (shift * width if qrs else shift)
            out[near] += size * height * np.exp(-0.5 * (since / (sd * width if qrs else sd)) ** 2)
    return out


def day(rng: np.random.Generator, rate_hz: float, rest_uv: float) -> tuple[Array, NDArray[np.int64]]:
    """A level in µV and what the muscle does: rest, low-level tension, contractions of 3 s, typing, rest."""
    parts = [(40.0, rest_uv, REST), (15.0, rng.uniform(5, 15), TENSE)]
    for _ in range(4):
        parts += [(3.0, rng.uniform(20, 100), WORK), (2.0, rest_uv, REST)]
    for _ in range(12):
        parts += [(0.35, 14.0, -1), (0.35, rest_uv, -1)]
    parts += [(15.0, rng.uniform(5, 15), TENSE), (10.0, rng.uniform(20, 100), WORK), (25.0, rest_uv, REST)]
    level = np.concatenate([np.full(round(s * rate_hz), uv) for s, uv, _ in parts])
    doing = np.concatenate([np.full(round(s * rate_hz), what) for s, _, what in parts])
    return level, doing


def made(seed: int) -> Iterator[Case]:
    """Made cases: four rates, QRS of 0 to 400 µV."""
    for k, rate_hz in enumerate((250.0, 500.0, 1000.0, 2000.0)):
        for uv in (0.0, 30.0, 100.0, 200.0, 400.0):
            rng = np.random.default_rng([seed, k, int(uv)])
            level, doing = day(rng, rate_hz, rng.uniform(1, 5) if uv != 100 else 2.0)
            muscle = level * emg(rng, len(level), rate_hz)
            qrs_uv = uv * rng.choice([-1, 1])
            beats = heart(
                rng, len(level), rate_hz, uv=qrs_uv, width_s=rng.uniform(0.008, 0.015), bpm=rng.uniform(50, 100)
            )
            drift = 30 * np.sin(2 * np.pi * 0.25 * np.arange(len(level)) / rate_hz)
            kind = f"made, QRS {uv:.0f} µV" if uv else "made, no ECG"
            yield Case(kind, rate_hz, muscle + drift, muscle + drift + beats, doing)


def column(path: Path, name: str) -> Array:
    with path.open(encoding="utf-8", newline="") as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


def intervals(folder: Path, name: str) -> list[tuple[float, float]]:
    with (folder / "annotations.csv").open(encoding="utf-8", newline="") as file:
        return [(float(r["start_s"]), float(r["end_s"])) for r in csv.DictReader(file) if r["file"] == name]


def rest_and_work(samples: int, rate_hz: float, active: list[tuple[float, float]]) -> NDArray[np.int64]:
    """Rest keeps 0.7 s clear of what was annotated; work is its inner part."""
    t = np.arange(samples) / rate_hz
    doing = np.zeros(samples, dtype=np.int64)
    for start, end in active:
        doing[(t > start - 0.7) & (t < end + 0.7)] = -1
    for start, end in active:
        doing[(t > start + 0.2) & (t < end - 0.2)] = WORK
    return doing


def strong_heart(data: Path) -> tuple[Array, float, NDArray[np.int64], NDArray[np.int64]]:
    """Real EMG with a strong heartbeat: values, rate, what the muscle does, and the beats found with hindsight."""
    folder = data / "emggo_ecg_drift"
    x, rate_hz = column(folder / "emggo_ta.csv", "emg"), 250.0
    doing = rest_and_work(len(x), rate_hz, intervals(folder, "emggo_ta.csv"))
    swing = np.abs(sosfiltfilt(butter(2, (8, 30), "bandpass", fs=rate_hz, output="sos"), x))
    beats, _ = find_peaks(swing, height=0.4 * np.percentile(swing[doing == REST], 98), distance=100)
    return x, rate_hz, doing, beats


def real_beats(data: Path, half: int) -> Array:
    """Beats cut from rest, of shape (beats, 0.6 s at 1 kHz), the peak 0.2 s from the start.

    Of each the mean and what varies most are kept, and more than 70 ms from the peak only what is below 15 Hz, so
    that little of that muscle's EMG comes along.
    """
    x, rate_hz, doing, found = strong_heart(data)
    smooth = sosfiltfilt(butter(2, 0.7, "highpass", fs=rate_hz, output="sos"), x)
    beats = [b for b in found.tolist() if 60 < b < len(x) - 100 and (doing[b - 60 : b + 100] == REST).all()]
    beats = beats[len(beats) // 2 :] if half else beats[: len(beats) // 2]
    cut = np.stack([smooth[b - 50 : b + 100] for b in beats])
    mean = cut.mean(axis=0)
    u, s, v = np.linalg.svd(cut - mean, full_matrices=False)
    fine = resample_poly(mean + (u[:, :3] * s[:3]) @ v[:3], 4, 1, axis=1, padtype="line")
    slow = sosfiltfilt(butter(2, 15, fs=1000.0, output="sos"), fine, axis=1)
    t = np.arange(fine.shape[1]) - 200
    near = np.interp(np.abs(t), [40, 70], [1, 0])
    fine = near * fine + (1 - near) * slow
    ends = np.interp(t, [-200, -120, 300, 399], [0, 1, 1, 0])
    return np.asarray(fine * np.sin(ends * np.pi / 2) ** 2)


# Of each file: its name, its channel, and the bits of its ADC.
RECORDINGS = (
    (("biceps_bursts_16bit.csv", "emg", 16), ("adductor_pollicis_8_and_16bit.csv", "emg_16bit", 16)),
    (("adductor_pollicis_16bit.csv", "emg", 16), ("biceps_fatigue_12bit.csv", "emg", 12)),
)


def recorded(data: Path, half: int) -> Iterator[Case]:
    """Real EMG without a heartbeat, to which one was added: made beats and real ones."""
    folder, rate_hz = data / "plux_biosignalsnotebooks", 1000.0
    beats = real_beats(data, half)
    for k, (name, channel, bits) in enumerate(RECORDINGS[half]):
        rng = np.random.default_rng([half, k])
        counts = column(folder / name, channel)
        x = (counts - np.median(counts)) * 3e6 / 2**bits / 1000
        doing = rest_and_work(len(x), rate_hz, intervals(folder, name))
        yield Case(f"{name[:-4]}, no ECG", rate_hz, x, x, doing)
        for uv in (30.0, 100.0, 200.0, 400.0):
            made_ones = heart(rng, len(x), rate_hz, uv=uv, width_s=0.010, bpm=72)
            yield Case(f"{name[:-4]}, made beats", rate_hz, x, x + made_ones, doing)
            added = np.zeros(len(x) + 1000)
            for j, (at, _) in enumerate(beat_times(rng, len(x) / rate_hz - 0.5, 75)):
                start = max(0, round(at * rate_hz) - 200)
                beat = beats[j % len(beats)]
                added[start : start + len(beat)] += uv * beat / np.abs(beats.mean(axis=0)).max()
            yield Case(f"{name[:-4]}, real beats", rate_hz, x, x + added[: len(x)], doing)


# --- methods: raw values of one channel and the rate in; RMS per frame out, NaN where not known


def band(x: Array, rate_hz: float, high_pass_hz: float) -> Array:
    return BandPass(band_of(FilterSettings(high_pass_hz=high_pass_hz), rate_hz), rate_hz, 1).filter(x[None])


def levels(y: Array, rate_hz: float, missing: float = 0.1) -> Array:
    return np.asarray(RmsFrames(round(FRAME_S * rate_hz), 1, 1, missing).push(y)[0])


def beat_mask(x: Array, rate_hz: float, settings: HeartbeatSettings) -> Mask:
    finder = Heartbeat(settings, rate_hz, 1)
    return np.concatenate([finder.push(x[None]).mask, finder.finish().mask], axis=1)


def high_pass(hz: float) -> Callable[[Array, float], Array]:
    def method(x: Array, rate_hz: float) -> Array:
        return levels(band(x, rate_hz, hz), rate_hz)

    return method


def leave_out(hz: float, settings: HeartbeatSettings) -> Callable[[Array, float], Array]:
    """Gating: what is around a beat does not count."""

    def method(x: Array, rate_hz: float) -> Array:
        y = band(x, rate_hz, hz)
        known = np.isfinite(levels(y, rate_hz))
        y[beat_mask(x, rate_hz, settings)] = np.nan
        return np.where(known, levels(y, rate_hz, 1 - settings.least_left_pct / 100), np.nan)

    return method


def take_off(hz: float, settings: HeartbeatSettings, memory: float = 12.0) -> Callable[[Array, float], Array]:
    """Filtered template subtraction (Marker & Maluf 2014), causal: the running mean of aligned beats, scaled to fit."""

    def method(x: Array, rate_hz: float) -> Array:
        y = band(x, rate_hz, hz)[0]
        edges = np.diff(np.concatenate([[False], beat_mask(x, rate_hz, settings)[0], [False]]).astype(int))
        slack = round(0.012 * rate_hz)
        width = round(settings.before_s * rate_hz) + round(settings.after_s * rate_hz)
        template, seen = np.zeros(0), 0.0
        for start, end in zip(np.flatnonzero(edges > 0), np.flatnonzero(edges < 0), strict=True):
            if end - start != width or start < slack or start + width + slack > len(y):
                continue
            if not np.isfinite(y[start - slack : start + width + slack]).all():
                continue
            near = np.lib.stride_tricks.sliding_window_view(y[start - slack : start + width + slack], width)
            shift = int(np.argmax(near @ template)) if seen else slack
            beat = near[shift].copy()
            if seen >= 4:
                gain = float(np.clip(beat @ template / (template @ template), 0, 2))
                y[start - slack + shift : start - slack + shift + width] -= gain * template
            seen = min(seen + 1, memory)
            template = beat if seen == 1 else template + (beat - template) / seen
        return levels(y[None], rate_hz)

    return method


def methods(settings: HeartbeatSettings) -> dict[str, Callable[[Array, float], Array]]:
    return {
        "HP 30": high_pass(30),
        "HP 40": high_pass(40),
        "HP 50": high_pass(50),
        "HP 30, beats left out": leave_out(30, settings),
        "HP 40, beats left out": leave_out(40, settings),
        "HP 30, template off": take_off(30, settings),
    }


# --- figures


def frames_of(case: Case, what: int, frames: int) -> Mask:
    n = round(FRAME_S * case.rate_hz)
    whole = (case.doing[: frames * n].reshape(frames, n) == what).all(axis=1)
    whole[: round(SETTLED_S / FRAME_S)] = False
    # The frame after a change still rings.
    return np.asarray(whole & np.concatenate([[False], whole[:-1]]))


COLUMNS = (
    "rest RMS vs truth, %",
    "worst case, %",
    "kept, %",
    "inflated, %",
    "frames > 5 µV more than truth, points",
    "worst case, points",
    "low-level error, %",
    "contraction error, %",
    "worst case, %",
    "rest frames lost, %",
)

WORST = (1, 5, 8)  # the columns of the worst case


def figures(case: Case, method: Callable[[Array, float], Array]) -> list[float]:
    """The columns' values for one case, by the EMG without a heartbeat after HP 30."""
    truth, got = high_pass(30)(case.emg, case.rate_hz), method(case.both, case.rate_hz)
    clean = method(case.emg, case.rate_hz)
    rest, tense, work = (frames_of(case, what, len(truth)) for what in (REST, TENSE, WORK))

    def over(rms: Array) -> float:
        return 100 * float((rms[rest] > 5).sum() / max(1, np.isfinite(rms[rest]).sum()))

    def error(a: Array, b: Array, where: Mask) -> float:
        return 100 * (pooled(a[where]) / pooled(b[where]) - 1) if where.any() else float("nan")

    vs_truth, more = error(got, truth, rest), over(got) - over(truth)
    return [
        abs(vs_truth),
        abs(vs_truth),
        100 + error(clean, truth, rest),
        error(got, clean, rest),
        more,
        more,
        error(got, truth, tense),
        error(got, truth, work),
        abs(error(got, truth, work)),
        100 * float(np.isnan(got[rest]).mean()),
    ]


def table(title: str, cases: list[Case], chosen: dict[str, Callable[[Array, float], Array]]) -> str:
    lines = [f"\n### {title} ({len(cases)} cases)\n", "| method | " + " | ".join(COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for name, method in chosen.items():
        rows = np.array([figures(case, method) for case in cases])
        columns = [column[np.isfinite(column)] for column in rows.T]
        known = [
            np.nan if not len(column) else column.max() if k in WORST else column.mean()
            for k, column in enumerate(columns)
        ]
        lines.append(f"| {name} | " + " | ".join("" if np.isnan(v) else f"{v:.1f}" for v in known) + " |")
    return "\n".join(lines)


def strong_table(data: Path, half: int, chosen: dict[str, Callable[[Array, float], Array]]) -> str:
    """Rest of a recording that has a strong heartbeat, against the RMS between its beats."""
    x, rate_hz, doing, beats = strong_heart(data)
    middle = len(x) // 2
    part = slice(middle, len(x)) if half else slice(0, middle)
    x, doing, beats = x[part], doing[part], beats[(beats >= part.start) & (beats < part.stop)] - part.start
    y = band(x, rate_hz, 30)[0]
    quiet = np.zeros(len(x), dtype=bool)
    for a, b in pairwise(beats.tolist()):
        if 0.5 * rate_hz < b - a < 1.3 * rate_hz:
            quiet[a + int(0.45 * (b - a)) : a + int(0.75 * (b - a))] = True
    case = Case("", rate_hz, x, x, doing)
    truth = float(np.sqrt(np.nanmean(y[quiet & (doing == REST)] ** 2)))
    lines = [
        f"\n### Real EMG with its own strong heartbeat, 250 Hz; RMS between beats {truth:.2f}\n",
        "| method | rest RMS | vs between beats, % | median frame | frames > twice, % | contraction RMS | lost, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, method in chosen.items():
        got = method(x, rate_hz)
        rest, work = got[frames_of(case, REST, len(got))], got[frames_of(case, WORK, len(got))]
        rms = pooled(rest)
        above = 100 * (rest > 2 * truth).sum() / np.isfinite(rest).sum()
        lines.append(
            f"| {name} | {rms:.2f} | {100 * (rms / truth - 1):+.1f} | {np.nanmedian(rest):.2f} | {above:.1f} | "
            f"{pooled(work):.1f} | {100 * np.isnan(rest).mean():.1f} |"
        )
    return "\n".join(lines)


def cost(settings: HeartbeatSettings, uv: float) -> float:
    """µs per channel and second at 1 kHz, 25 s at a time: the best of many, since others use the machine too."""
    rng = np.random.default_rng(1)
    x = 2 * emg(rng, 25_000, 1000.0) + (heart(rng, 25_000, 1000.0, uv=uv, width_s=0.010, bpm=70) if uv else 0)
    finder = Heartbeat(settings, 1000.0, 2)
    pair, best = np.stack([x, x]), np.inf
    for _ in range(200):
        began = time.perf_counter()
        finder.push(pair)
        best = min(best, time.perf_counter() - began)
    return best / 50 * 1e6


ABOUT = """
Written by `python -m benchmarks.ecg`. HP is the chain's causal high-pass. *Beats left out*: the samples around each QRS
complex do not count in the exposure frames; this is what the chain does. *Template off*: the running mean of the beats
is subtracted (filtered template subtraction, Marker & Maluf 2014). The truth is the same EMG without a heartbeat, after
HP 30; real EMG has made or real beats added. Rest is 1-5 µV, low level 5-15 µV, contractions 20-100 µV or as recorded;
the first 10 s do not count. Settings come from the tune half (other seeds and recordings; `--tune`).
"""


def main(half: int, settings: HeartbeatSettings | None = None) -> None:
    settings = settings or HeartbeatSettings()
    chosen = methods(settings)
    out = [
        f"# Heartbeat at rest, {'test' if half else 'tune'} half",
        ABOUT,
    ]
    cases = [case for seed in ((11, 12) if half else (1, 2)) for case in made(seed)]
    data = Path(os.environ["UNSHRUG_DATA"]) / "data" if os.environ.get("UNSHRUG_DATA") else None
    if data:
        cases += recorded(data, half)
    alone = [case for case in cases if case.kind.endswith("no ECG")]
    beating = [case for case in cases if not case.kind.endswith("no ECG")]
    out += [table("All without a heartbeat", alone, chosen), table("All with a heartbeat", beating, chosen)]
    kinds = dict.fromkeys(case.kind for case in cases)
    out += [table(kind, [case for case in cases if case.kind == kind], chosen) for kind in kinds]
    if data:
        out.append(strong_table(data, half, chosen))
    out.append(
        f"\nFinding beats costs {cost(settings, 100):.1f} µs per channel and second at 1 kHz with a heartbeat, "
        f"{cost(settings, 0):.1f} µs without."
    )
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main(0 if "--tune" in sys.argv else 1)
