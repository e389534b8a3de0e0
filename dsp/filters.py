"""The causal EMG band-pass: one filter for live and stored data, with its state kept between calls."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, iirnotch, sosfilt, sosfilt_zi, sosfreqz, tf2sos

from dsp.parameters import parameter

Array = NDArray[np.float64]

# An input of exact zeros would let the filter state decay into denormal numbers, which cost some 100 times the
# arithmetic. This tone at a quarter of the rate passes every section and is too small to change a bit of any signal.
_TONE = 1e-30 * np.tile([1.0, 1.0, -1.0, -1.0], 8192)


class SignalError(ValueError):
    """The signal cannot be processed as asked; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """Band-pass and notches; the corner frequencies follow De Luca 2010 and Drake & Callaghan 2006."""

    high_pass_hz: float = parameter(
        30.0, "Lower corner of the EMG band; 30 Hz removes most of the heartbeat.", unit="Hz", low=20, high=60
    )
    heart_high_pass_hz: float = parameter(
        40.0,
        "Lower corner from when on the heartbeat shows in the rest all the same; never below high_pass_hz.",
        unit="Hz",
        low=20,
        high=60,
    )
    low_pass_hz: float = parameter(
        450.0, "Upper corner of the EMG band; lowered by itself for slow boards.", unit="Hz", low=60, high=500
    )
    mains: str = parameter(
        "auto",
        "Mains hum: auto notches it where it is strong, 50 and 60 always do; strong harmonics are notched with it.",
        choices=("auto", "off", "50", "60"),
    )
    notch_q: float = parameter(30.0, "Quality factor of a notch: its frequency over its width.", low=5, high=100)


@dataclass(frozen=True, slots=True)
class Band:
    """What is left of the signal: corner frequencies and notches in Hz, as used and not as asked for."""

    low_hz: float
    high_hz: float
    notches_hz: tuple[float, ...] = ()
    notch_q: float = 30.0

    def with_notches(self, frequencies_hz: Iterable[float]) -> "Band":
        """Return the band with more notches."""
        return replace(self, notches_hz=tuple(sorted({*self.notches_hz, *frequencies_hz})))

    def above(self, low_hz: float) -> "Band":
        """Return the band with a higher lower corner, as far as an octave remains."""
        return replace(self, low_hz=max(self.low_hz, min(low_hz, self.high_hz / 2)))


def band_of(settings: FilterSettings, rate_hz: float) -> Band:
    """Return the band to begin with, adapted to the sampling rate.

    Raises SignalError where the rate leaves no band of at least one octave.
    """
    if settings.low_pass_hz < 2 * settings.high_pass_hz:
        raise SignalError(
            f"EMG band {settings.high_pass_hz:g}-{settings.low_pass_hz:g} Hz; "
            "expected an upper corner of twice the lower or more"
        )
    share = 0.45 if rate_hz >= 1000 else 0.40
    low, high = settings.high_pass_hz, min(settings.low_pass_hz, share * rate_hz)
    if high < 2 * low:
        raise SignalError(
            f"sampling rate {rate_hz:g} Hz is too low for EMG above {low:g} Hz; "
            f"expected {2 * low / share:.0f} Hz or more"
        )
    band = Band(low, high, notch_q=settings.notch_q)
    hum_hz = float(settings.mains) if settings.mains in ("50", "60") else 0.0
    return band.with_notches([hum_hz]) if 0 < hum_hz < 0.45 * rate_hz else band


def design(band: Band, rate_hz: float) -> Array:
    """Return second-order sections: 4th-order Butterworth high-pass, then low-pass, then the notches."""
    sections = [
        butter(4, band.low_hz, "highpass", fs=rate_hz, output="sos"),
        butter(4, band.high_hz, "lowpass", fs=rate_hz, output="sos"),
    ]
    sections += [tf2sos(*iirnotch(hz, band.notch_q, fs=rate_hz)) for hz in band.notches_hz]
    return np.vstack(sections)


def response(band: Band, rate_hz: float, hz: Array) -> Array:
    """Return the power gain at frequencies `hz`, without the notches."""
    _, gain = sosfreqz(design(replace(band, notches_hz=()), rate_hz), hz, fs=rate_hz)
    return np.asarray(np.abs(gain) ** 2)


class BandPass:
    """Filter any number of channels; missing samples leave labelled holes, never zeros.

    A hole of up to 20 ms is bridged inside the filter by holding the last value, and only the hole and the 20 ms
    after it are unusable. After a longer one the filter starts anew on the first value, as if that had
    always been there, and 150 ms are unusable: a 1 mV step rings for 95 ms.
    """

    def __init__(self, band: Band, rate_hz: float, channels: int) -> None:
        self._sos = design(band, rate_hz)
        self._resting = sosfilt_zi(self._sos)
        self._bridge = round(0.020 * rate_hz)
        self._settle_short = round(0.020 * rate_hz)
        self._settle_long = round(0.150 * rate_hz)
        self._channels = channels
        self.reset()

    def reset(self) -> None:
        """Forget everything, as before the first sample."""
        self._state = np.zeros((len(self._sos), self._channels, 2))
        self._held = np.zeros(self._channels)
        self._missing = np.full(self._channels, self._bridge + 1)
        self._settling = np.zeros(self._channels, dtype=int)
        self._phase = 0

    def filter(self, x: Array) -> Array:
        """Filter raw values of shape (channels, samples); NaN in the result marks what is unusable."""
        finite = np.isfinite(x)
        samples = x.shape[1]
        tone = _TONE if samples + 4 <= len(_TONE) else np.tile(_TONE, samples // len(_TONE) + 2)
        x = x + tone[self._phase : self._phase + samples]
        self._phase = (self._phase + samples) % 4
        if finite.all() and not self._missing.any() and not self._settling.any():
            y, self._state = sosfilt(self._sos, x, zi=self._state)
            self._held = x[:, -1].copy()
            return np.asarray(y)
        return np.stack([self._filter_channel(c, x[c], finite[c]) for c in range(self._channels)])

    def _filter_channel(self, c: int, x: Array, finite: NDArray[np.bool_]) -> Array:
        y = np.full(len(x), np.nan)
        edges = np.flatnonzero(np.diff(finite)) + 1
        for start, end in zip([0, *edges], [*edges, len(x)], strict=True):
            if finite[start]:
                y[start:end] = self._filter_run(c, x[start:end])
            else:
                self._hold(c, end - start)
        return y

    def _filter_run(self, c: int, x: Array) -> Array:
        if self._missing[c] > self._bridge:
            self._state[:, c] = self._resting * x[0]
            self._settling[c] = self._settle_long
        elif self._missing[c]:
            self._settling[c] = max(self._settling[c], self._settle_short)
        self._missing[c] = 0
        y, self._state[:, c] = sosfilt(self._sos, x, zi=self._state[:, c])
        self._held[c] = x[-1]
        unusable = min(int(self._settling[c]), len(x))
        y[:unusable] = np.nan
        self._settling[c] -= unusable
        return np.asarray(y)

    def _hold(self, c: int, samples: int) -> None:
        bridged = min(samples, max(0, self._bridge - int(self._missing[c])))
        if bridged:
            held = np.full(bridged, self._held[c])
            _, self._state[:, c] = sosfilt(self._sos, held, zi=self._state[:, c])
        # Past the bridge only "too long" matters, so the count stays bounded over days of silence.
        self._missing[c] = min(int(self._missing[c]) + samples, self._bridge + 1)


class ChangingBandPass:
    """A band-pass that changes its band without a click.

    The new filter runs beside the old one until its notches have settled (a 50 Hz tone is down to 1 % after
    0.88 s), then the output fades from one to the other.
    """

    SETTLE_S = 1.0
    FADE_S = 0.1
    CHANGE_S = SETTLE_S + FADE_S

    def __init__(self, band: Band, rate_hz: float, channels: int) -> None:
        self.band = band
        self._rate_hz = rate_hz
        self._channels = channels
        self._settle = round(self.SETTLE_S * rate_hz)
        self._fade = max(1, round(self.FADE_S * rate_hz))
        self._now = BandPass(band, rate_hz, channels)
        self._next: BandPass | None = None
        self._age = 0

    def change(self, band: Band) -> None:
        """Go over to another band from the next sample on; not again before that is done."""
        self.band = band
        self._next = BandPass(band, self._rate_hz, self._channels)
        self._age = 0

    def filter(self, x: Array) -> Array:
        """Filter raw values of shape (channels, samples); NaN in the result marks what is unusable."""
        y = self._now.filter(x)
        if self._next is None:
            return y
        z = self._next.filter(x)
        share = np.clip((np.arange(self._age, self._age + x.shape[1]) - self._settle) / self._fade, 0.0, 1.0)
        self._age += x.shape[1]
        if self._age >= self._settle + self._fade:
            self._now, self._next = self._next, None
        mixed = np.where(share == 1.0, z, y + share * (z - y))
        return np.where(share == 0.0, y, mixed)
