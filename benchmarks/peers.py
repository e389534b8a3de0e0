"""The same work done with other libraries, each as its documentation says. All are optional."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, filtfilt, iirnotch

from benchmarks.work import (
    ACTIVE_S,
    HOP,
    RATE,
    REFERENCE_UV,
    WINDOW,
    Ours,
    Result,
    Sosfilt,
    WholeChain,
    count_events,
    fused_whole,
    pooled_uv,
    tile,
    whole,
)

Array = NDArray[np.float64]
Run = Callable[[Array], Result]

_NOTCH_HZ = (50 - 50 / 60, 50 + 50 / 60)  # as wide as a notch of Q 30


@dataclass(frozen=True, slots=True)
class Implementation:
    """One way to do the work. `make` imports what it needs and returns what does it; the input stays as it was.

    `differs` says what it does otherwise. `most_s` bounds the recording that it gets; its time is scaled to the hour.
    """

    name: str
    make: Callable[[], Run]
    package: str = ""
    differs: str = ""
    most_s: float = 3600.0
    slow: bool = True

    def version(self) -> str | None:
        """The installed version, None without one, "" for what needs none."""
        try:
            return version(self.package) if self.package else ""
        except PackageNotFoundError:
            return None


def _of_uv(levels: Array) -> Result:
    return Result(levels, count_events(levels * (100 / REFERENCE_UV)))


def _moving_rms(y: Array) -> Array:
    """As tutorials do it: a value per sample, then every 25th."""
    ones = np.ones(WINDOW) / WINDOW
    return np.stack([np.sqrt(np.convolve(row**2, ones, "same"))[HOP - 1 :: HOP] for row in y])


def _hop_rms(y: Array) -> Array:
    """The quickest way in numpy: squares summed per hop, then over the last eight hops."""
    energy = (y.reshape(len(y), -1, HOP) ** 2).sum(axis=2)
    hops = WINDOW // HOP
    n = energy.shape[1] - hops + 1
    total = sum((energy[:, k : k + n] for k in range(1, hops)), start=energy[:, :n].copy())
    return np.pad(np.sqrt(total / WINDOW), ((0, 0), (hops - 1, 0)), constant_values=np.nan)


def _tutorial() -> Run:
    band = butter(4, [20, 450], "bandpass", fs=RATE)
    notch = iirnotch(50, 30, fs=RATE)
    return lambda x: _of_uv(_moving_rms(filtfilt(*notch, filtfilt(*band, x))))


def _brainflow() -> Run:
    from brainflow.data_filter import DataFilter, FilterTypes

    kind = FilterTypes.BUTTERWORTH.value

    def run(x: Array) -> Result:
        y = x.copy()  # the filters work in place
        for row in y:
            DataFilter.perform_bandpass(row, RATE, 20.0, 450.0, 4, kind, 0.0)
            DataFilter.perform_bandstop(row, RATE, *_NOTCH_HZ, 1, kind, 0.0)
        return _of_uv(_hop_rms(y))

    return run


def brainflow_second() -> Callable[[Array], float]:
    """Filter the last second anew, as BrainFlow's examples do, and give the RMS at its end."""
    run = _brainflow()

    def level(buffer: Array) -> float:
        return float(run(buffer).levels[0, -1])

    return level


def _mne() -> Run:
    import mne

    mne.set_log_level("ERROR")
    band = partial(mne.filter.filter_data, sfreq=RATE, method="iir", phase="forward")
    low, high = _NOTCH_HZ

    def run(x: Array) -> Result:
        y = band(x, l_freq=20.0, h_freq=450.0, iir_params={"order": 4, "ftype": "butter", "output": "sos"})
        # Lower above upper corner is how MNE asks for a band stop.
        y = band(y, l_freq=high, h_freq=low, iir_params={"order": 1, "ftype": "butter", "output": "sos"})
        return _of_uv(_hop_rms(y))

    return run


def _own_unit(envelope: Callable[[Array], Array]) -> Run:
    """Count events in % of a reference in the envelope's own unit, so scaled that it is right when active."""
    active = pooled_uv(envelope(tile()[0])[HOP - 1 :: HOP], ACTIVE_S)
    reference = active * REFERENCE_UV / pooled_uv(whole(Sosfilt)(tile()).levels[0], ACTIVE_S)

    def run(x: Array) -> Result:
        levels = np.stack([envelope(row)[HOP - 1 :: HOP] for row in x])
        return Result(levels * (REFERENCE_UV / reference), count_events(levels * (100 / reference)))

    return run


def _neurokit() -> Run:
    import neurokit2 as nk

    return _own_unit(lambda x: np.asarray(nk.emg_amplitude(nk.emg_clean(x, sampling_rate=RATE))))


def _neurokit_process() -> Run:
    import neurokit2 as nk

    def run(x: Array) -> Result:
        signals, _ = nk.emg_process(x[0], sampling_rate=RATE)
        return _of_uv(np.asarray(signals["EMG_Amplitude"])[None, HOP - 1 :: HOP])

    return run


def _pyemgpipeline() -> Run:
    from pyemgpipeline.processors import BandpassFilter, FullWaveRectifier, LinearEnvelope

    steps = (BandpassFilter(RATE, 4, 20, 450), FullWaveRectifier(), LinearEnvelope(RATE, 4, 6))

    def envelope(x: Array) -> Array:
        for step in steps:
            x = step.apply(x)
        return x

    return _own_unit(envelope)


def _biosppy() -> Run:
    from biosppy.signals import tools

    keep = {"ftype": "butter", "sampling_rate": float(RATE)}

    def level(x: Array) -> Array:
        y = tools.filter_signal(x, band="bandpass", order=2, frequency=[20, 450], **keep)["signal"]
        y = tools.filter_signal(y, band="bandstop", order=1, frequency=list(_NOTCH_HZ), **keep)["signal"]
        power = tools.smoother(y**2, kernel="boxcar", size=WINDOW, mirror=False)["signal"]
        return np.asarray(np.sqrt(np.maximum(power, 0))[HOP - 1 :: HOP])

    return lambda x: _of_uv(np.stack([level(row) for row in x]))


def _libemg() -> Run:
    from libemg.feature_extractor import FeatureExtractor
    from libemg.filtering import Filter
    from libemg.utils import get_windows

    band = Filter(RATE)
    band.install_filters({"name": "bandpass", "cutoff": [20, 450], "order": 4})
    band.install_filters({"name": "notch", "cutoff": 50, "bandwidth": 50 / 30})
    features = FeatureExtractor()

    def run(x: Array) -> Result:
        windows = get_windows(band.filter(np.ascontiguousarray(x.T)), WINDOW, HOP)
        levels = np.asarray(features.extract_features(["RMS"], windows)["RMS"]).T
        return _of_uv(np.pad(levels, ((0, 0), (WINDOW // HOP - 1, 0)), constant_values=np.nan))

    return run


def _emgflow() -> Run:
    import EMGFlow
    import pandas as pd

    def level(x: Array) -> Array:
        frame: Any = pd.DataFrame({"Time": np.arange(len(x)) / RATE, "EMG": x})
        frame = EMGFlow.apply_notch_filters(frame, "EMG", RATE, [(50, 30)])
        frame = EMGFlow.apply_bandpass_filter(frame, "EMG", RATE, (20, 450))
        frame = EMGFlow.apply_rms_smooth(frame, "EMG", RATE, 1000 * WINDOW / RATE)
        return np.asarray(frame["EMG"])[HOP - 1 :: HOP]

    return lambda x: _of_uv(np.stack([level(row) for row in x]))


_TWICE = "filters forwards and backwards"
_BY_NUMPY = "RMS and events by numpy"
FUSED = Implementation("fused C, one pass", lambda: fused_whole, slow=False)
SOSFILT = Implementation("scipy `sosfilt` in chunks", lambda: whole(Sosfilt), slow=False)
OURS = Implementation("Unshrug, these stages", lambda: whole(Ours), slow=False)
CHAIN = Implementation(
    "Unshrug, whole chain", lambda: whole(WholeChain), slow=False, differs="its own band, window and more measures"
)
BRAINFLOW = Implementation("BrainFlow DataFilter", _brainflow, "brainflow", _BY_NUMPY, slow=False)
MNE = Implementation("MNE iir", _mne, "mne", _BY_NUMPY, slow=False)
NEUROKIT = Implementation(
    "NeuroKit2 emg_clean + emg_amplitude",
    _neurokit,
    "neurokit2",
    "its own filters and scaled envelope; events by numpy",
)
NEUROKIT_PROCESS = Implementation(
    "NeuroKit2 emg_process", _neurokit_process, "neurokit2", "its own filters, envelope and onsets", most_s=300
)
LIBEMG = Implementation("LibEMG", _libemg, "libemg", f"{_TWICE}; events by numpy")
ALL = (
    SOSFILT,
    OURS,
    CHAIN,
    BRAINFLOW,
    MNE,
    Implementation(
        "pyemgpipeline", _pyemgpipeline, "pyemgpipeline", "no notch, scaled linear envelope for RMS; events by numpy"
    ),
    Implementation("scipy `filtfilt` as in tutorials", _tutorial, differs=_TWICE),
    NEUROKIT,
    Implementation("BioSPPy, matched steps", _biosppy, "biosppy", f"{_TWICE} at half the order; events by numpy"),
    LIBEMG,
    Implementation("EMGFlow", _emgflow, "EMGFlow", f"{_TWICE}; events by numpy"),
    NEUROKIT_PROCESS,
)
