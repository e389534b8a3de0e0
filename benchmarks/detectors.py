"""Other detectors behind one door: BioSPPy's and NeuroKit2's, each used as its documentation says.

BioSPPy leaves the filter and every parameter of its published detectors to the caller. They get this project's
band-pass and the windows of the papers that they cite; the threshold, in the unit of each, is the best of GRID on the
tuning half. `emg` is BioSPPy's own pipeline with its defaults, 100 Hz high-pass included.
"""

import importlib
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import Span
from benchmarks.scoring import joined
from dsp.filters import BandPass, FilterSettings, band_of

Array = NDArray[np.float64]

MERGE_S, LEAST_S = 1.0, 3.0
LIMIT_S = 10
_SETTLED_S = 0.2  # the band-pass has nothing to say of the first moments


@dataclass(frozen=True, slots=True)
class Heard:
    """One channel: µV of shape (samples,), and where its rest is."""

    uv: Array
    rate_hz: float
    rest: Span

    def band(self) -> Array:
        """Return what this project's band-pass makes of it."""
        y = BandPass(band_of(FilterSettings(), self.rate_hz), self.rate_hz, 1).filter(self.uv[None])[0]
        return np.asarray(np.nan_to_num(y))

    def resting(self, y: Array) -> Array:
        """Return the part of `y` that is rest."""
        start, end = max(self.rest[0], _SETTLED_S), self.rest[1]
        return y[round(start * self.rate_hz) : round(end * self.rate_hz)]


@dataclass(frozen=True, slots=True)
class Peer:
    """A detector: `run` takes a channel and a threshold (0: its own) and returns activity in s.

    `grid` holds the thresholds to try where it has no default, `threshold` the one that was best on the tuning half.
    """

    name: str
    run: Callable[[Heard, float], list[Span]]
    threshold: float = 0.0
    grid: tuple[float, ...] = ()
    slow: bool = False


def detect(peer: Peer, heard: Heard, threshold: float | None = None) -> list[Span]:
    """Return a peer's events, with the same merging and least duration for all.

    Raises what the peer raises, and TimeoutError after LIMIT_S of CPU time.
    """
    with _time_limit(), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return joined(peer.run(heard, peer.threshold if threshold is None else threshold), MERGE_S, LEAST_S)


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {LIMIT_S} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)  # CPU time, so that a busy machine changes nothing
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _runs(active: NDArray[np.bool_], rate_hz: float, delay: float = 0.0) -> list[Span]:
    """Return where a mask is true, in s, `delay` samples later."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]])))
    return [((a + delay) / rate_hz, (b + delay) / rate_hz) for a, b in zip(edges[::2], edges[1::2], strict=True)]


# BioSPPy


def _biosppy(module: str) -> Any:
    return importlib.import_module(f"biosppy.signals.{module}")


def _toggles(indices: Any, heard: Heard) -> list[Span]:
    """Its state machines begin inactive and list onsets and offsets together, in order."""
    at = [float(i) / heard.rate_hz for i in indices]
    at += [len(heard.uv) / heard.rate_hz] * (len(at) % 2)
    return list(zip(at[::2], at[1::2], strict=True))


def _emg(heard: Heard, _: float) -> list[Span]:
    """Its `emg`: a high-pass, then `find_onsets`.

    That lists threshold crossings in both directions, two of which may be one index; the crossings are those of this
    mask, made by its own smoother and threshold.
    """
    tools = _biosppy("tools")
    filtered = tools.filter_signal(
        signal=heard.uv, ftype="butter", band="highpass", order=4, frequency=100, sampling_rate=heard.rate_hz
    )[0]
    smooth = tools.smoother(signal=np.abs(filtered), kernel="boxzen", size=int(0.05 * heard.rate_hz), mirror=True)[0]
    return _runs(smooth > 1.2 * smooth.mean() + 2.0 * smooth.std(ddof=1), heard.rate_hz)


def _published(name: str, size_s: float, **seconds: float) -> Callable[[Heard, float], list[Span]]:
    def run(heard: Heard, threshold: float) -> list[Span]:
        y = heard.band()
        arguments: dict[str, Any] = {key: max(1, round(s * heard.rate_hz)) for key, s in seconds.items()}
        if name in ("hodges_bui", "lidierth", "abbink"):
            arguments["rest"] = heard.resting(y)
        if size_s:
            arguments["size"] = round(size_s * heard.rate_hz)
        if name == "abbink":
            arguments["transition_threshold"] = threshold
        detector = getattr(_biosppy("emg"), f"{name}_onset_detector")
        found = detector(signal=y, sampling_rate=heard.rate_hz, threshold=threshold, **arguments)
        if name == "hodges_bui":
            return _runs(found["processed"] >= threshold, heard.rate_hz, arguments["size"] / 2)
        return _toggles(found["onsets"], heard)

    return run


def _bonato(heard: Heard, threshold: float) -> list[Span]:
    y = heard.band()
    found = _biosppy("emg").bonato_onset_detector(
        signal=y,
        rest=heard.resting(y),
        sampling_rate=heard.rate_hz,
        threshold=threshold,
        active_state_duration=max(2, round(0.015 * heard.rate_hz)),
        samples_above_fail=1,
        fail_size=5,
    )
    return _toggles(found["onsets"], heard)


def _solnik(heard: Heard, threshold: float) -> list[Span]:
    """Its test is an energy, so it is told the rest's energy: of the rest itself it would take amplitudes."""
    y = heard.band()
    rest = heard.resting(y)
    energy = np.abs(rest[1:-1] ** 2 - rest[:-2] * rest[2:])
    found = _biosppy("emg").solnik_onset_detector(
        signal=y,
        rest={"mean": float(energy.mean()), "std_dev": float(energy.std(ddof=1))},
        sampling_rate=heard.rate_hz,
        threshold=threshold,
        active_state_duration=max(2, round(0.025 * heard.rate_hz)),
    )
    return _toggles(found["onsets"], heard)


def _londral(heard: Heard, threshold: float) -> list[Span]:
    """Its test is a variance, so it is told the rest's variance: of the rest itself it would take amplitudes."""
    y, size = heard.band(), round(0.05 * heard.rate_hz)
    rest = heard.resting(y)
    variance = (
        np.convolve(rest**2, np.ones(size) / size, "valid") - np.convolve(rest, np.ones(size) / size, "valid") ** 2
    )
    found = _biosppy("emg").londral_onset_detector(
        signal=y,
        rest={"mean": float(variance.mean()), "std_dev": float(variance.std(ddof=1))},
        sampling_rate=heard.rate_hz,
        size=size,
        threshold=threshold,
        active_state_duration=max(2, round(0.025 * heard.rate_hz)),
    )
    return _toggles(found["onsets"], heard)


def _silva(heard: Heard, threshold: float) -> list[Span]:
    """Its threshold is in the signal's unit; here in units of the rest's standard deviation."""
    y = heard.band()
    return _published("silva", 0.05, threshold_size=0.1)(heard, threshold * float(heard.resting(y).std()))


# NeuroKit2. `emg_activation` finds activity, drops what lasts less than 50 ms, and then fills a table row by row, which
# takes hours for hours of signal. Its own functions for the first are used, and the second is done here.


def _neurokit(method: str) -> Callable[[Heard, float], list[Span]]:
    def run(heard: Heard, _: float) -> list[Span]:
        kit = importlib.import_module("neurokit2")
        inner = importlib.import_module("neurokit2.emg.emg_activation")
        clean = kit.emg_clean(heard.uv / 1000, sampling_rate=heard.rate_hz)  # in mV, as its threshold for silva is
        find = getattr(inner, f"_emg_activation_{method}")
        if method in ("threshold", "mixture"):
            active = find(kit.emg_amplitude(clean))
        elif method == "biosppy":
            active = find(clean, sampling_rate=heard.rate_hz)
        elif method == "pelt":
            active = find(clean, duration_min=int(0.05 * heard.rate_hz))
        else:
            active = find(clean)
        return _lasting(np.asarray(active) > 0.5, heard.rate_hz)

    return run


def _lasting(active: NDArray[np.bool_], rate_hz: float) -> list[Span]:
    """Keep activity of 50 ms or more after inactivity of 50 ms or more, as it does."""
    out, before = [], 0.0
    for start, end in _runs(active, rate_hz):
        if end - start >= 0.05 and start - before >= 0.05:
            out.append((start, end))
        before = end
    return out


PEERS = (
    Peer("BioSPPy emg (find_onsets)", _emg),
    Peer("BioSPPy hodges_bui", _published("hodges_bui", 0.05), 2, (1, 2, 3, 5, 8)),
    Peer("BioSPPy bonato", _bonato, 8, (8, 15, 30, 60, 120)),
    Peer(
        "BioSPPy lidierth",
        _published("lidierth", 0.05, active_state_duration=0.05, fail_size=0.02),
        2,
        (1, 2, 3, 5, 8),
    ),
    Peer("BioSPPy abbink", _published("abbink", 0.05, alarm_size=0.05), 3, slow=True),
    Peer("BioSPPy solnik", _solnik, 30, (3, 6, 15, 30, 60)),
    Peer("BioSPPy silva", _silva, 2, (1, 2, 3, 5, 8)),
    Peer("BioSPPy londral", _londral, 15, slow=True),
    Peer("NeuroKit2 threshold", _neurokit("threshold")),
    Peer("NeuroKit2 mixture", _neurokit("mixture")),
    Peer("NeuroKit2 biosppy", _neurokit("biosppy")),
    Peer("NeuroKit2 silva", _neurokit("silva")),
    Peer("NeuroKit2 pelt", _neurokit("pelt"), slow=True),
)
