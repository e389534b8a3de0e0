"""Synthetic recordings whose truth is known: holds at any strength, hours without a hold, and makers' hard cases.

EMG is Gaussian noise with the spectrum of Shwedyk et al. 1977; a muscle takes 0.1-0.2 s to come up or let go. A hold
begins where its level begins to rise and ends where it begins to fall. The same name, seed and rate give the same
scene. The first 10 s are always the wearer's rest.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.boards import BOARDS
from firmware_bridge.bridge import signal_of
from firmware_bridge.recordings import ReadOptions, Recording

Array = NDArray[np.float64]
Span = tuple[float, float]

REST_S: Span = (0.0, 10.0)
NAMES = ("left", "right")
SNR_DB = (6, 8, 10, 12, 15, 20, 30, 40)
QUIET = ("rest", "heartbeat", "speech", "typing", "reaching")
REST_UV = 2.0
REFERENCE_UV = 80.0  # of the hours without a hold: a reference contraction as strong as the simulated wearer's

_BITS, _STEP_UV = 10, 3.2  # a 10-bit ADC over ±1.64 mV at the electrodes ...
_FINE_BITS, _FINE_STEP_UV = 16, 0.05  # ... and a 16-bit one over the same range
_MIDDLE_UV = 1638.4


@dataclass(frozen=True, slots=True)
class Scene:
    """A recording and its truth.

    `values` has the shape (samples, channels): µV, or ADC codes where `uv_per_count` is given. `holds` has a tuple of
    (start, end) in s for each channel, `rest` is the stretch to calibrate on, `reference_uv` the level of a reference
    contraction. `hopeless` says for each channel what must be said of its quality, "" for a good one; `dies_s` from
    when on.
    """

    name: str
    rate_hz: float
    values: Array
    holds: tuple[tuple[Span, ...], ...]
    rest: Span = REST_S
    uv_per_count: float | None = None
    adc_bits: int | None = None
    reference_uv: float = REFERENCE_UV
    hopeless: tuple[str, ...] = ("", "")
    dies_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.values) / self.rate_hz

    @property
    def uv(self) -> Array:
        """Values in µV, of shape (samples, channels)."""
        return self.values * (self.uv_per_count or 1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the channels."""
        return NAMES[: self.values.shape[1]]


@dataclass(frozen=True, slots=True)
class ArrayRecording(Recording):
    """A recording that was never a file."""

    checksum: str = ""

    def sha256(self) -> str:
        """Return what stands for the checksum of the file."""
        return self.checksum


def recording(scene: Scene) -> Recording:
    """Return the scene as the analysis takes it."""
    board = replace(BOARDS["ascii"], rate_hz=scene.rate_hz, uv_per_count=scene.uv_per_count, adc_bits=scene.adc_bits)

    def codes() -> Iterator[tuple[int, Array]]:
        for start in range(0, len(scene.values), 50_000):
            yield start, scene.values[start : start + 50_000]

    return ArrayRecording(Path(scene.name), signal_of(board, scene.names), board, codes, scene.name)


def write_csv(scene: Scene, path: Path) -> ReadOptions:
    """Write the scene as CSV, as a logger would; return what a reader must be told."""
    whole = scene.uv_per_count is not None
    np.savetxt(
        path, scene.values, fmt="%d" if whole else "%.3f", delimiter=",", header=",".join(scene.names), comments=""
    )
    return ReadOptions(
        rate_hz=scene.rate_hz,
        units="counts" if whole else "uV",
        uv_per_count=scene.uv_per_count,
        adc_bits=scene.adc_bits,
    )


# What reaches the electrodes


def emg(rng: np.random.Generator, n: int, rate_hz: float) -> Array:
    """Surface EMG of RMS 1, of shape (n,)."""
    size = 1 << max(n - 1, 1).bit_length()
    hz = np.fft.rfftfreq(size, 1 / rate_hz)
    shape = np.sqrt(120.0**4 * hz**2 / ((hz**2 + 60.0**2) * (hz**2 + 120.0**2) ** 2))
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * shape, size)[:n]
    return np.asarray(noise / noise.std())


def heartbeat(rng: np.random.Generator, t: Array, uv: float, bpm: float) -> Array:
    """R-waves of Gaussian shape; intervals vary by 5 % at random and by 4 % with the breath."""
    wave = np.zeros(len(t))
    rate_hz, sd = 1 / (t[1] - t[0]), rng.uniform(0.008, 0.012)
    at_s = rng.uniform(0, 1)
    while at_s < t[-1]:
        lo, hi = max(0, round((at_s - 5 * sd) * rate_hz)), round((at_s + 5 * sd) * rate_hz)
        wave[lo:hi] += uv * rng.normal(1, 0.05) * np.exp(-0.5 * ((t[lo:hi] - at_s) / sd) ** 2)
        at_s += 60 / bpm * (1 + 0.05 * np.clip(rng.standard_normal(), -3, 3) + 0.04 * np.sin(2 * np.pi * 0.25 * at_s))
    return wave


def mains(rng: np.random.Generator, t: Array, rms_uv: float, hz: float, slow: float = 0.15) -> Array:
    """Hum with harmonics of random phase, its amplitude changing by a fraction `slow` over half a minute."""
    rate_hz = 1 / (t[1] - t[0])
    parts = [(1, 1.0), (2, 0.15), (3, 0.35), (5, 0.2)]
    wave = np.zeros(len(t))
    for k, size in parts:
        if k * hz < 0.45 * rate_hz:
            wave += size * np.sin(2 * np.pi * k * hz * t + rng.uniform(0, 2 * np.pi))
    change = 1 + slow * np.sin(2 * np.pi * t / rng.uniform(20, 40) + rng.uniform(0, 2 * np.pi))
    return np.asarray(rms_uv * change * wave / wave.std())


def drift(rng: np.random.Generator, t: Array, uv: float) -> Array:
    """A baseline that wanders slowly, at most `uv` from its middle."""
    wave = sum(np.sin(2 * np.pi * hz * t + rng.uniform(0, 2 * np.pi)) / hz for hz in (0.03, 0.07, 0.19))
    return np.asarray(uv * wave / np.abs(wave).max())


@dataclass(frozen=True, slots=True)
class _Raise:
    """A stretch at a level, with its edges: it rises from `start` on and falls from `end` on."""

    start: float
    end: float
    uv: float
    rise_s: float = 0.15
    fall_s: float = 0.15
    fall: str = "smooth"  # or "linear", or "exponential", which is down to 5 % after `fall_s`


def _levels(t: Array, rest_uv: float, raises: list[_Raise]) -> Array:
    rate_hz = 1 / (t[1] - t[0])
    level = np.full(len(t), rest_uv)
    for r in raises:
        lo, hi = round(r.start * rate_hz), min(len(t), round((r.end + 3 * r.fall_s) * rate_hz))
        up = np.sin(np.clip((t[lo:hi] - r.start) / r.rise_s, 0, 1) * np.pi / 2) ** 2
        since = np.clip((t[lo:hi] - r.end) / r.fall_s, 0, None)
        if r.fall == "exponential":
            down = np.exp(-3 * since)
        elif r.fall == "linear":
            down = np.clip(1 - since, 0, 1)
        else:
            down = np.cos(np.clip(since, 0, 1) * np.pi / 2) ** 2
        level[lo:hi] = np.maximum(level[lo:hi], rest_uv + (r.uv - rest_uv) * np.minimum(up, down))
    return level


# Putting a scene together

Extra = Callable[[np.random.Generator, Array], Array]


@dataclass(slots=True)
class _Draft:
    """A scene in the making: what happens one after the other, then what else is on the wires."""

    rng: np.random.Generator
    rest_uv: float
    hold_uv: float = 0.0
    at: float = 12.0
    raises: list[_Raise] = field(default_factory=list)
    holds: list[Span] = field(default_factory=list)
    extras: list[Extra] = field(default_factory=list)  # each gives µV of shape (samples,) or (channels, samples)

    def edges(self) -> tuple[float, float]:
        return self.rng.uniform(0.1, 0.2), self.rng.uniform(0.1, 0.2)

    def pause(self, low: float = 4.0, high: float = 7.0) -> None:
        self.at += self.rng.uniform(low, high)

    def raised(self, seconds: float, uv: float) -> None:
        self.raises.append(_Raise(self.at, self.at + seconds, uv, *self.edges()))
        self.at += seconds

    def hold(self, low: float = 3.5, high: float = 9.0) -> Span:
        start = self.at
        self.raised(self.rng.uniform(low, high), self.hold_uv)
        self.holds.append((start, self.at))
        return start, self.at

    def slow_hold(self) -> None:
        """A hold that is let go slowly."""
        self.hold()
        fall_s, fall = self.rng.uniform(0.5, 1.5), str(self.rng.choice(["linear", "exponential"]))
        self.raises[-1] = replace(self.raises[-1], fall_s=fall_s, fall=fall)
        self.at += fall_s

    def brief_set(self) -> None:
        """Brief shrugs with tone between them, and a real hold right after."""
        start, tone = self.at, self.hold_uv * self.rng.uniform(0.2, 0.45)
        for _ in range(int(self.rng.integers(4, 9))):
            self.raised(self.rng.uniform(1.3, 1.6), self.hold_uv)
            self.at += self.rng.uniform(0.5, 0.9)
        self.raises.append(_Raise(start, self.at, tone, *self.edges()))
        self.hold(5, 9)

    def dc_steps(self) -> None:
        """The baseline jumps in rest, and back within a hold."""
        size = self.rng.uniform(500, 2000) * self.rng.choice([-1, 1])
        self.pause()
        first = self.at
        self.pause()
        start, end = self.hold(5, 9)
        second = self.rng.uniform(start + 1, end - 1)
        self.extras.append(lambda _, t: np.where((t >= first) & (t < second), size / 2, -size / 2))

    def hum_burst(self) -> None:
        """Hum as loud as a shrug while the muscle is at rest."""
        self.pause()
        start, end, hz = self.at, self.at + self.rng.uniform(4, 8), self.rng.choice([50.0, 60.0])
        burst = _Raise(start, end, self.hold_uv, 0.05, 0.05)
        self.extras.append(lambda rng, t: mains(rng, t, 1.0, hz) * _levels(t, 0.0, [burst]))
        self.at = end

    def hum(self) -> None:
        """60-80 % of the power in rest is hum, of a frequency that is not always the nominal one."""
        share = self.rng.uniform(0.6, 0.8)
        rms, hz = self.rest_uv * np.sqrt(share / (1 - share)), self.rng.choice([50.0, 60.0, 49.9, 60.05])
        self.extras.append(lambda rng, t: mains(rng, t, rms, hz))

    def heart(self) -> None:
        """A heartbeat in the left channel."""
        uv, bpm = self.rng.uniform(100, 300), self.rng.uniform(60, 100)
        self.extras.append(lambda rng, t: np.stack([heartbeat(rng, t, uv, bpm), np.zeros(len(t))]))

    def microvolts(self, rate_hz: float, channels: int) -> Array:
        """What reaches the amplifier, of shape (channels, samples)."""
        t = np.arange(round((self.at + 5) * rate_hz)) / rate_hz
        level = _levels(t, self.rest_uv, self.raises)
        x = np.stack([emg(self.rng, len(t), rate_hz) * level for _ in range(channels)])
        for extra in self.extras:
            x += extra(self.rng, t)
        return x


def _rng(name: str, seed: int) -> np.random.Generator:
    """Even and odd seeds draw everything anew, so what is tuned on one half says nothing by itself of the other."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


# Holds at a given strength


def holds(snr_db: float, seed: int, rate_hz: float = 1000.0, count: int = 16) -> Scene:
    """Holds of 3.5-20 s whose RMS is `snr_db` over that of the rest; the reference is as strong as they are."""
    name = f"holds at {snr_db:g} dB"
    level = REST_UV * 10 ** (snr_db / 20)
    draft = _Draft(_rng(name, seed), REST_UV, level)
    for _ in range(count):
        draft.hold(3.5, 20)
        draft.pause(3, 9)
    x = draft.microvolts(rate_hz, 1)
    return Scene(name, rate_hz, x.T.copy(), (tuple(draft.holds),), reference_uv=level, hopeless=("",))


# Hours without a hold


def _speaking(draft: _Draft, end: float) -> None:
    """A phrase with each breath, 12-20 times a minute."""
    while draft.at < end:
        breath_s = draft.rng.uniform(3, 5)  # of this stretch of talk
        for _ in range(10):
            period, phrase = breath_s * draft.rng.uniform(0.85, 1.15), draft.rng.uniform(1.0, 2.5)
            draft.raised(phrase, draft.rng.uniform(5, 20))
            draft.at += min(max(period, 3.0), 5.0) - phrase


def _typing(draft: _Draft, end: float) -> None:
    """Keystrokes on a tone of 3-6 µV, in bouts."""
    while draft.at < end:
        start, stop = draft.at, min(end, draft.at + draft.rng.uniform(20, 90))
        while draft.at < stop:
            draft.raised(draft.rng.uniform(0.1, 0.5), draft.rng.uniform(5, 30))
            draft.at += draft.rng.uniform(0.1, 0.8)
        draft.raises.append(_Raise(start, draft.at, draft.rng.uniform(3, 6), *draft.edges()))
        draft.pause(5, 20)


def _reaching(draft: _Draft, end: float) -> None:
    """Raises of 0.5-2 s as in reaching and walking, with the electrodes' sway below 15 Hz."""
    sways: list[_Raise] = []
    while draft.at < end:
        start = draft.at
        draft.raised(draft.rng.uniform(0.5, 2), draft.rng.uniform(20, 100))
        sways.append(_Raise(start, draft.at, draft.rng.uniform(50, 300)))
        draft.pause(0.8, 4)
    draft.extras.append(lambda _, t: _levels(t, 0.0, sways) * np.sin(2 * np.pi * 1.7 * t + np.sin(2 * np.pi * 0.3 * t)))


def quiet(kind: str, seed: int, rate_hz: float = 1000.0, seconds: float = 900.0) -> Scene:
    """A quarter of an hour in which nothing is held; `kind` is one of QUIET."""
    draft = _Draft(_rng(kind, seed), REST_UV)
    match kind:
        case "heartbeat":
            draft.heart()
        case "speech":
            _speaking(draft, seconds - 60)
        case "typing":
            _typing(draft, seconds - 10)
        case "reaching":
            _reaching(draft, seconds - 10)
    draft.at = max(draft.at, seconds - 5)
    channels = 2 if kind == "heartbeat" else 1
    x = draft.microvolts(rate_hz, channels)[:1]
    return Scene(kind, rate_hz, x.T.copy(), ((),), hopeless=("",))


# The hard cases, as makers' boards deliver them


def _constant(_: np.random.Generator, t: Array) -> Array:
    return np.zeros(len(t))


def _one_count(rng: np.random.Generator, t: Array) -> Array:
    """The last bit of the converter toggles."""
    return np.asarray(rng.integers(0, 2, len(t)) * _STEP_UV)


def _rail(rng: np.random.Generator, t: Array) -> Array:
    return np.full(len(t), 1e4 * rng.choice([-1, 1]))


def _clipped(rng: np.random.Generator, t: Array) -> Array:
    """Far too much gain: the converter's ends cut most of the wave off."""
    return 3000 * emg(rng, len(t), 1 / (t[1] - t[0]))


def _hum_only(rng: np.random.Generator, t: Array) -> Array:
    """98 % of the power is hum."""
    rms = rng.uniform(100, 300)
    return emg(rng, len(t), 1 / (t[1] - t[0])) * rms / 7 + mains(rng, t, rms, rng.choice([50.0, 60.0]))


def _off_skin(rng: np.random.Generator, t: Array) -> Array:
    """The wires hang in the air: a baseline that wanders by 1.5 mV, and hum."""
    return drift(rng, t, 1500) + mains(rng, t, rng.uniform(20, 60), rng.choice([50.0, 60.0])) + rng.normal(0, 3, len(t))


_DEAD: dict[str, tuple[Extra, str]] = {
    "constant": (_constant, "flat"),
    "at its rail": (_rail, "saturation"),
    "clipped": (_clipped, "saturation"),
    "98 % hum": (_hum_only, "mains"),
    "off the skin": (_off_skin, "lead_off"),
}
_DYING: dict[str, tuple[Extra, str]] = {"constant": (_constant, "flat"), "1-count noise": (_one_count, "flat")}


def _plain(draft: _Draft) -> None:
    for _ in range(3):
        draft.hold()
        draft.pause()


def _with(happens: Callable[[_Draft], None]) -> Callable[[_Draft], None]:
    def script(draft: _Draft) -> None:
        draft.hold()
        draft.pause()
        happens(draft)
        draft.pause()
        draft.hold()

    return script


def _everything(draft: _Draft) -> None:
    draft.hum()
    draft.heart()
    for happens in (draft.slow_hold, draft.brief_set, draft.dc_steps, draft.hum_burst, draft.hold):
        happens()
        draft.pause()


_SCRIPTS: dict[str, Callable[[_Draft], None]] = {
    "10 bits": _plain,
    "hum in rest": _with(_Draft.hum),
    "heartbeat": _with(_Draft.heart),
    "slow release": _with(_Draft.slow_hold),
    "brief shrugs": _with(_Draft.brief_set),
    "DC steps": _with(_Draft.dc_steps),
    "hum burst": _with(_Draft.hum_burst),
    "all together": _everything,
}
HARD = (
    *_SCRIPTS,
    *(f"one channel {how}" for how in _DEAD),
    *(f"one channel dies: {how}" for how in _DYING),
    *(f"all together, one channel {how}" for how in _DEAD),
)


def hard(name: str, seed: int, rate_hz: float = 1000.0) -> Scene:
    """Return a hard case, one of HARD, on two channels: in 16 bits where neither the ADC nor a channel is the case."""
    rng = _rng(name, seed)
    draft = _Draft(rng, rng.uniform(3, 5), rng.uniform(60, 110))
    before, _, how = name.partition("one channel ")
    dies = how.startswith("dies: ")
    dead = _DYING[how.removeprefix("dies: ")] if dies else _DEAD.get(how)
    _SCRIPTS[(before or name).removesuffix(", ") if before else "10 bits"](draft)
    x = draft.microvolts(rate_hz, 2)
    side, dies_s = int(rng.integers(2)), 0.0
    truth = [tuple(draft.holds), tuple(draft.holds)]
    if dead:
        dies_s = draft.holds[1][0] - 2 if dies else 0.0
        t = np.arange(x.shape[1]) / rate_hz
        x[side, t >= dies_s] = dead[0](rng, t)[t >= dies_s]
        truth[side] = tuple(h for h in draft.holds if h[1] < dies_s)
    coarse = dead is not None or name in ("10 bits", "all together")
    bits, step = (_BITS, _STEP_UV) if coarse else (_FINE_BITS, _FINE_STEP_UV)
    codes = np.clip(np.round((x.T + _MIDDLE_UV) / step), 0, 2**bits - 1)
    hopeless = tuple(dead[1] if dead and c == side else "" for c in range(2))
    return Scene(name, rate_hz, codes, tuple(truth), REST_S, step, bits, 1.25 * draft.hold_uv, hopeless, dies_s)
