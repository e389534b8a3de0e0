"""The causal EMG band-pass: one filter for live and stored data, with its state kept between calls."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, iirnotch, sosfilt, sosfilt_zi, tf2sos

from dsp.parameters import parameter

Array = NDArray[np.float64]

# An input of exact zeros would let the filter state decay into denormal numbers, which cost some 100 times the
# arithmetic. This tone at a quarter of the rate passes every section and is too small to change a bit of any signal.
_TONE = 1e-30 * np.tile([1.0, 1.0, -1.0, -1.0], 8192)


class SignalError(ValueError):
    """The signal cannot be processed as asked; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """Band-pass and notch; the corner frequencies follow De Luca 2010 and Drake & Callaghan 2006."""

    high_pass_hz: float = parameter(
        30.0, "Lower corner of the EMG band; 30 Hz removes most of the heartbeat.", unit="Hz", low=20, high=60
    )
    low_pass_hz: float = parameter(
        450.0, "Upper corner of the EMG band; lowered by itself for slow boards.", unit="Hz", low=60, high=500
    )
    notch_hz: float = parameter(
        0.0, "Mains frequency to remove; 0 leaves the signal as it is.", unit="Hz", choices=(0.0, 50.0, 60.0)
    )
    notch_q: float = parameter(30.0, "Quality factor of the notch: its frequency over its width.", low=5, high=100)


def passband(settings: FilterSettings, rate_hz: float) -> tuple[float, float]:
    """Return the corner frequencies in Hz as adapted to the sampling rate.

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
    return low, high


def design(settings: FilterSettings, rate_hz: float) -> Array:
    """Return second-order sections: 4th-order Butterworth high-pass, then low-pass, then the notch if any."""
    low, high = passband(settings, rate_hz)
    sections = [
        butter(4, low, "highpass", fs=rate_hz, output="sos"),
        butter(4, high, "lowpass", fs=rate_hz, output="sos"),
    ]
    if settings.notch_hz and settings.notch_hz < 0.45 * rate_hz:
        sections.append(tf2sos(*iirnotch(settings.notch_hz, settings.notch_q, fs=rate_hz)))
    return np.vstack(sections)


class BandPass:
    """Filter any number of channels; missing samples leave labelled holes, never zeros.

    A hole of up to 20 ms is bridged inside the filter by holding the last value, and only the hole and the 20 ms
    after it are unusable. After a longer one the filter starts anew on the first value, as if that had
    always been there, and 150 ms are unusable: a 1 mV step rings for 95 ms.
    """

    def __init__(self, settings: FilterSettings, rate_hz: float, channels: int) -> None:
        self._sos = design(settings, rate_hz)
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
