"""A simulated wearer behind a simulated board that sends real bytes through a pseudo-terminal."""

import os
import select
import threading
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.decoders.ascii_lines import encode_line
from firmware_bridge.decoders.framed import encode_data, encode_info
from firmware_bridge.packets import Info

Array = NDArray[np.float64]

REST_UV = 2.5
REFERENCE_UV = 80.0
_EDGE_S = 0.15  # a muscle takes about this long to come up or let go


@dataclass(frozen=True, slots=True)
class Activity:
    """A stretch of the wearer's day: EMG at `level_uv` RMS, and what else reaches the electrodes."""

    name: str
    seconds: float
    level_uv: float
    pulse_s: float = 0.0  # length of each burst and of each pause; 0 is a steady level
    movement_uv: float = 0.0
    pop_uv: float = 0.0


REST = Activity("rest", 4, REST_UV)
TYPING = Activity("typing", 4, 14, pulse_s=0.35)
BRIEF_SHRUGS = Activity("brief shrugs", 8, 60, pulse_s=1.2)
SHRUG = Activity("sustained shrug", 15, 60)
LOW_LEVEL = Activity("low-level tension", 12, 9)
MOVEMENT = Activity("movement", 4, 6, movement_uv=400)
POP = Activity("electrode pop", 3, REST_UV, pop_uv=3000)

# The first sustained shrug comes early enough for a demonstration, the next when its episode has ended.
_BETWEEN = (REST, TYPING, BRIEF_SHRUGS, REST, LOW_LEVEL, MOVEMENT, TYPING, POP, REST, TYPING, LOW_LEVEL, REST)
DAY = (REST, TYPING, SHRUG, *_BETWEEN, TYPING, REST)


class Wearer:
    """Raw surface EMG of a wearer in µV, the same for the same seed however it is asked for.

    EMG is Gaussian noise with the spectrum of Shwedyk et al. 1977 (60 and 120 Hz); on top come a heartbeat
    (R-waves of 10 ms), mains hum with harmonics, movement below 15 Hz, and electrode pops. The activities repeat.
    The second channel is the calmer side.
    """

    def __init__(
        self,
        rate_hz: float = 1000.0,
        channels: int = 2,
        seed: int = 1,
        day: tuple[Activity, ...] = DAY,
        *,
        ecg_uv: float = 40.0,
        heart_bpm: float = 70.0,
        mains_uv: float = 3.0,
        mains_hz: float = 50.0,
    ) -> None:
        self.rate_hz = rate_hz
        self.channels = channels
        self._rng = np.random.default_rng(seed)
        self._day = day
        self._ends = np.cumsum([round(a.seconds * rate_hz) for a in day])
        self._ecg_uv, self._beat_s = ecg_uv, 60 / heart_bpm
        self._mains_uv, self._mains_hz = mains_uv, mains_hz
        self._taps = emg_taps(rate_hz)
        self._noise = self._rng.standard_normal((channels, len(self._taps) - 1))
        self._at = 0
        self._ready = np.empty((0, channels))

    def activity(self, at_s: float) -> Activity:
        """Return what the wearer does at this time."""
        index = round(at_s * self.rate_hz) % int(self._ends[-1])
        return self._day[int(np.searchsorted(self._ends, index, side="right"))]

    def samples(self, n: int) -> Array:
        """Return the next samples in µV, of shape (n, channels)."""
        while len(self._ready) < n:
            # Whole seconds at a time, so that the random numbers do not depend on n.
            self._ready = np.concatenate([self._ready, self._second()])
        out, self._ready = self._ready[:n], self._ready[n:]
        return out

    def _second(self) -> Array:
        n = round(self.rate_hz)
        index = np.arange(self._at, self._at + n)
        self._at += n
        t = index / self.rate_hz
        noise = np.concatenate([self._noise, self._rng.standard_normal((self.channels, n))], axis=1)
        self._noise = noise[:, n:]
        emg = np.stack([np.convolve(row, self._taps, mode="valid") for row in noise], axis=1)
        side = np.array([1.0, *[0.55] * (self.channels - 1)])
        # The calmer side is calmer in activity, not in rest.
        level = REST_UV + (self._level(index)[:, None] - REST_UV) * side
        common = self._heart(t) + self._hum(t) + self._movement(index)
        return np.asarray(emg * level + common[:, None])

    def _where(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
        """Return for each sample its activity's number and the seconds since that began."""
        index = index % int(self._ends[-1])
        number = np.searchsorted(self._ends, index, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        return number, (index - starts[number]) / self.rate_hz

    def _level(self, index: NDArray[np.int64]) -> Array:
        number, since = self._where(index)
        seconds = np.array([a.seconds for a in self._day])[number]
        level = np.array([a.level_uv for a in self._day])[number]
        pulse = np.array([a.pulse_s for a in self._day])[number]
        phase = np.where(pulse > 0, since % np.maximum(2 * pulse, 1e-9), since)
        length = np.where(pulse > 0, pulse, seconds)
        up = np.clip(np.minimum(phase, length - phase) / _EDGE_S, 0, 1)
        return np.asarray(REST_UV + (level - REST_UV) * np.sin(up * np.pi / 2) ** 2)

    def _heart(self, t: Array) -> Array:
        since = (t + self._beat_s / 2) % self._beat_s - self._beat_s / 2
        return np.asarray(self._ecg_uv * np.exp(-0.5 * (since / 0.010) ** 2))

    def _hum(self, t: Array) -> Array:
        wave = 2 * np.pi * self._mains_hz * t
        return np.asarray(self._mains_uv * (np.sin(wave) + 0.3 * np.sin(3 * wave)))

    def _movement(self, index: NDArray[np.int64]) -> Array:
        number, since = self._where(index)
        sway = np.array([a.movement_uv for a in self._day])[number]
        pop = np.array([a.pop_uv for a in self._day])[number]
        slow = np.sin(2 * np.pi * 1.3 * since) + 0.5 * np.sin(2 * np.pi * 7.1 * since)
        return np.asarray(sway * slow + np.where(since >= 1, pop * np.exp(-(since - 1) / 0.3), 0.0))


def emg_taps(rate_hz: float, n: int = 256) -> Array:
    """Return filter taps that give white noise of variance 1 the EMG's spectrum at variance 1."""
    f = np.fft.rfftfreq(n, 1 / rate_hz)
    low, high = 60.0, 120.0
    power = high**4 * f**2 / ((f**2 + low**2) * (f**2 + high**2) ** 2)
    taps = np.fft.fftshift(np.fft.irfft(np.sqrt(power))) * np.hanning(n)
    return np.asarray(taps / np.sqrt(np.sum(taps**2)))


# A piece of a stream: seconds since the board started, and the bytes that it sends then.
Timed = tuple[float, bytes]


def framed_stream(wearer: Wearer, samples: int = 8) -> Iterator[Timed]:
    """Let a board with a 16-bit ADC measure the wearer and speak the framed protocol, for ever."""
    info = board_info(wearer)
    low, high = info.codes
    seq = 0
    while True:
        at_s = seq * samples / wearer.rate_hz
        codes = np.clip(np.round(wearer.samples(samples) / info.uv_per_count), low, high).astype(np.int16)
        frame = encode_data(codes, seq, round(at_s * 1e6))
        if seq * samples % round(wearer.rate_hz) < samples:
            frame = encode_info(info, samples) + frame
        seq += 1
        yield at_s + samples / wearer.rate_hz, frame


def board_info(wearer: Wearer, boot_id: int = 1) -> Info:
    """Return what the simulated board says of itself: 0.05 µV a count over ±1.65 mV."""
    return Info(wearer.channels, wearer.rate_hz, 16, 3300, 1000.0, "raw", boot_id, 0, 0)


def ascii_stream(pieces: Iterator[tuple[int, Array]], rate_hz: float, lines: int = 20) -> Iterator[Timed]:
    """Print pieces of (first sample, codes) as a sketch would: a banner, then a line per sample, nan where lost."""
    yield 0.0, b"Unshrug recording\r\n"
    at = 0
    for start, codes in pieces:
        while at < start:
            n = min(start - at, lines)
            yield (at + n) / rate_hz, (b",".join([b"nan"] * codes.shape[1]) + b"\r\n") * n
            at += n
        for k in range(0, len(codes), lines):
            part = codes[k : k + lines]
            at += len(part)
            yield at / rate_hz, b"".join(map(encode_line, part))


class PtyBoard:
    """A board on a pseudo-terminal: it sends its stream at its own pace once a reader has sent a start command.

    `path` is the port to open. With `patient` the board waits for a slow reader, as a recording does; else it drops
    what does not fit, as a real board does. `speed` is how many seconds of stream pass in one. Use it as
    a context manager, or call `unplug`.
    """

    def __init__(
        self,
        stream: Iterator[Timed],
        *,
        start: bytes = b"b",
        speed: float = 1.0,
        patient: bool = False,
        on_sent: Callable[[float], None] | None = None,
    ) -> None:
        self._stream = stream
        self._start = start
        self._speed = speed
        self._patient = patient
        self._on_sent = on_sent
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self._unsent = b""
        self.error: Exception | None = None
        self.finished = False  # the whole stream has been sent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulated board", daemon=True)
        self._thread.start()

    def __enter__(self) -> "PtyBoard":
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    def unplug(self) -> None:
        """Pull the cable: whoever reads gets an error at once."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        for fd in (self._master, self._slave):
            if fd >= 0:
                os.close(fd)
        self._master = self._slave = -1

    def _run(self) -> None:
        if not self._wait_for_start():
            return
        began = time.monotonic()
        try:
            for at_s, data in self._stream:
                if self._stop.wait(max(0.0, began + at_s / self._speed - time.monotonic())):
                    return
                self._send(data)
                if self._on_sent:
                    self._on_sent(at_s)
        except Exception as error:  # a recording may turn out to be damaged halfway; whoever plays it asks
            self.error = error
        self.finished = True

    def _wait_for_start(self) -> bool:
        heard = b""
        while not self._stop.is_set():
            if select.select([self._master], [], [], 0.02)[0]:
                heard = heard[-64:] + os.read(self._master, 256)
                if self._start in heard:
                    return True
        return False

    def _send(self, data: bytes) -> None:
        """Write a frame; when nobody reads, drop it whole: what has begun to go out goes out first."""
        self._flush()
        if self._unsent:
            return
        self._unsent = data
        self._flush()

    def _flush(self) -> None:
        while self._unsent and not self._stop.is_set():
            try:
                self._unsent = self._unsent[os.write(self._master, self._unsent) :]
            except BlockingIOError:
                if not self._patient:
                    return
                select.select([], [self._master], [], 0.05)
