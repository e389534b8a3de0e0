"""Recordings in EDF, EDF+, BDF and BDF+: 16 or 24 bits, with or without interruptions, cut off or whole."""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.recordings.bdf import END
from firmware_bridge.recordings.recording import (
    PLAIN,
    UNITS,
    Pieces,
    ReadOptions,
    Recording,
    RecordingError,
    choose,
    recording_of,
)

log = logging.getLogger(__name__)

_EDF, _BDF = b"0       ", b"\xffBIOSEMI"
_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
_FACTS = {"lost", "uV/count", "ADC", "offset", "quantum"}
_MOST_PAUSE_S = 86_400.0
_LEAST_RECORD_S = 1e-6
_BYTES = 1 << 18  # read at once, at least a record
_MOST_BYTES = 1 << 26  # in a record, else a small machine could not hold it
_WIDTHS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)


@dataclass(frozen=True, slots=True)
class _Own:
    """What Unshrug wrote beside a signal of its own: exactly what the header's eight characters only say nearly."""

    lost: int
    uv_per_count: float | None
    quantum_uv: float | None
    offset: float
    codes: tuple[float, float] | None
    rate_hz: float | None


@dataclass(frozen=True, slots=True)
class _Signal:
    """One signal, as the header describes it; `at` is where its bytes begin within a record."""

    label: str
    unit: str
    physical: tuple[float, float]
    digital: tuple[int, int]
    samples: int
    at: int
    own: _Own | None

    @property
    def name(self) -> str:
        """The channel's name."""
        return self.label.removeprefix("EMG ") if self.own else self.label


@dataclass(frozen=True, slots=True)
class _File:
    """Where the samples stand. `interrupted` says that records need not follow each other."""

    path: Path
    wide: int  # bytes of a number
    size: int
    records: int
    duration_s: Fraction
    interrupted: bool
    signals: tuple[_Signal, ...]
    annotations: _Signal | None
    start_utc: str | None

    @property
    def record_bytes(self) -> int:
        """Length of a record."""
        all_of_them = self.signals + ((self.annotations,) if self.annotations else ())
        return self.wide * sum(s.samples for s in all_of_them)


def knows(head: bytes) -> bool:
    """Say whether this is EDF or BDF."""
    return head.startswith((_BDF, _EDF)) and head[184:192].strip().isdigit()


def read(path: Path, options: ReadOptions) -> Recording:
    """Open an EDF or BDF file: its EMG signals, else all that are voltages, unless the caller chooses.

    Raises RecordingError for a damaged header, signals of different rates, and units that are no voltage.
    """
    try:
        with path.open("rb") as file:
            opened = _open(path, file)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise RecordingError(f"{path}: the EDF header is damaged ({error})") from None
    names = [s.name for s in opened.signals]
    volts = [k for k, s in enumerate(opened.signals) if _unit(s, options) and s.label != "Status"]
    # Of a file of others, an electroencephalogram's chin EMG say, what is called EMG; of one of our own, everything.
    emg = [k for k in volts if opened.signals[k].own or "emg" in opened.signals[k].label.lower()]
    chosen = [opened.signals[k] for k in choose(path, options.channels, names, emg or volts, "signal")]
    rates = {s.samples for s in chosen}
    if len(rates) > 1:
        each = ", ".join(f"{s.name} {float(s.samples / opened.duration_s):g} Hz" for s in chosen)
        raise RecordingError(f"{path}: signals of different rates ({each}); choose with --channels A,B")
    rate_hz = options.rate_hz or _rate(chosen[0], opened)
    scales = [_scale(s, path, options) for s in chosen]
    board = replace(PLAIN, rate_hz=rate_hz)
    first = scales[0]
    if all(scale == first for scale in scales) and first.uv_per_count:
        board = replace(board, uv_per_count=first.uv_per_count, codes=first.codes)
    else:  # no one step is that of all of them: values in µV
        scales = [
            replace(s, gain=s.gain * (s.uv_per_count or 1.0), offset=s.offset * (s.uv_per_count or 1.0)) for s in scales
        ]
    if options.adc_bits:
        board = replace(board, adc_bits=options.adc_bits, codes=None)
    samples = _length(opened, chosen[0], rate_hz)

    def codes() -> Pieces:
        for start, digital in _pieces(opened, chosen, rate_hz):
            values = np.empty(digital.shape)
            for c, scale in enumerate(scales):
                values[:, c] = digital[:, c] * scale.gain + scale.offset
                if scale.lost is not None:
                    values[digital[:, c] == scale.lost, c] = np.nan
            yield start, values[: max(0, samples - start)]

    return recording_of(path, board, tuple(s.name for s in chosen), codes, opened.start_utc)


@dataclass(frozen=True, slots=True)
class _Scale:
    """codes = digital * gain + offset, µV = codes * uv_per_count; `codes` are the lowest and the highest."""

    uv_per_count: float | None
    gain: float
    offset: float
    codes: tuple[float, float] | None
    lost: int | None


def _scale(signal: _Signal, path: Path, options: ReadOptions) -> _Scale:
    """Return what the numbers mean: exactly as Unshrug wrote them, or as the header's ranges say."""
    own_step = options.step_uv
    if own_step or options.units == "counts":
        if not own_step:
            raise RecordingError(f"{path}: counts of an unknown size; expected --uv-per-count X or a --board")
        return _Scale(own_step, 1.0, 0.0, signal.digital, signal.own.lost if signal.own else None)
    (low, high), (low_uv, high_uv) = signal.digital, signal.physical
    unit = _unit(signal, options)
    if unit is None:
        raise RecordingError(f"{path}: signal {signal.name} is in {signal.unit!r}; expected --units uV|mV|V")
    if high <= low or high_uv == low_uv:
        raise RecordingError(f"{path}: signal {signal.name} has no range; expected --uv-per-count X")
    own = signal.own
    if own is None:
        step = unit * (high_uv - low_uv) / (high - low)
        offset = low_uv * unit / step - low
        # A signal that is upside down has its lowest value at the digital maximum.
        if step < 0:
            return _Scale(-step, -1.0, -offset, (-high - offset, -low - offset), None)
        return _Scale(step, 1.0, offset, (low + offset, high + offset), None)
    gain = own.quantum_uv / (own.uv_per_count or 1.0) if own.quantum_uv else 1.0
    return _Scale(own.uv_per_count, gain, own.offset, own.codes, own.lost)


def _unit(signal: _Signal, options: ReadOptions) -> float | None:
    if options.units in UNITS:
        return UNITS[options.units]
    if options.units == "counts" or options.uv_per_count or options.board:
        return 1.0
    return {unit.lower(): uv for unit, uv in UNITS.items()}.get(signal.unit.replace("µ", "u").lower())


def _rate(signal: _Signal, opened: _File) -> float:
    return (signal.own and signal.own.rate_hz) or float(signal.samples / opened.duration_s)


def _own(transducer: str, prefilter: str, lowest: int) -> _Own | None:
    """Read what Unshrug wrote beside a signal, and nothing else; None for files of others. Raises ValueError."""
    facts = dict(fact.split("=", 1) for fact in transducer.split() if "=" in fact)
    if len(facts) != len(transducer.split()) or not facts.keys() <= _FACTS or facts.get("lost") != str(lowest):
        return None
    rate = re.search(r"rate=(\S+)", prefilter)
    low, dots, high = facts.get("ADC", "").partition("..")
    return _Own(
        lost=lowest,
        uv_per_count=_above_0(facts["uV/count"]) if "uV/count" in facts else None,
        quantum_uv=_above_0(facts["quantum"]) if "quantum" in facts else None,
        offset=float(facts.get("offset", 0)),
        codes=(float(low), float(high)) if dots else None,
        rate_hz=_above_0(rate[1]) if rate else None,
    )


def _above_0(text: str) -> float:
    value = float(text)
    if not 0 < value < np.inf:
        raise ValueError(f"{text} where a number above 0 was expected")
    return value


def _open(path: Path, file: BinaryIO) -> _File:
    """Read the header. Raises ValueError for one that is damaged."""
    head = file.read(256).decode("latin-1")
    n = int(head[252:256])
    size = int(head[184:192])
    if n < 1 or size != 256 * (n + 1):
        raise ValueError(f"{n} signals in a header of {size} bytes")
    rest = file.read(256 * n).decode("latin-1")
    cells, at = [], 0
    for width in _WIDTHS:
        cells.append([rest[at + k * width : at + (k + 1) * width].strip() for k in range(n)])
        at += n * width
    wide = 3 if head.startswith("\xff") else 2
    signals, begin = [], 0
    for label, transducer, unit, low_uv, high_uv, low, high, prefilter, samples, _ in zip(*cells, strict=True):
        is_text = label in _ANNOTATIONS
        physical = (0.0, 0.0) if is_text else (float(low_uv), float(high_uv))
        digital = (0, 0) if is_text else (int(low), int(high))
        if int(samples) < 1 or not np.isfinite(physical).all():
            raise ValueError(f"signal {label!r}: {samples} samples from {low_uv} to {high_uv}")
        own = None if is_text else _own(transducer, prefilter, digital[0])
        signals.append(_Signal(label, unit, physical, digital, int(samples), begin, own))
        begin += wide * int(samples)
    if begin > _MOST_BYTES:
        raise ValueError(f"records of {begin} bytes; expected {_MOST_BYTES} or fewer")
    texts = [s for s in signals if s.label in _ANNOTATIONS]
    said_s = head[244:252].strip()
    if not _LEAST_RECORD_S <= float(said_s) <= _MOST_PAUSE_S:  # else an exponent could ask for a fraction without end
        raise ValueError(f"records of {said_s} s")
    duration_s = Fraction(said_s)
    numbers = tuple(s for s in signals if s.label not in _ANNOTATIONS)
    if not numbers:
        raise RecordingError(f"{path}: no signals, only annotations")
    there = (os.fstat(file.fileno()).st_size - size) // begin
    said = int(head[236:244])
    if said > there:
        log.warning("%s: the file is cut off after %d of %d records; reading those", path, there, said)
    elif said < 0:
        log.warning("%s: the file was not finished; reading the %d records that are there", path, there)
    records = there if said < 0 else min(said, there)
    if records < 1:
        raise RecordingError(f"{path}: no samples after the header")
    exact = re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*Z", head[88:168])
    return _File(
        path, wide, size, records, duration_s, head[192:197] in ("EDF+D", "BDF+D"), numbers,
        texts[0] if texts else None, exact[0] if exact else None,
    )  # fmt: skip


def _records(opened: _File, first: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield records as rows of bytes, as many as make a piece at once."""
    at_once = max(1, _BYTES // opened.record_bytes)
    with opened.path.open("rb") as file:
        file.seek(opened.size + first * opened.record_bytes)
        while count:
            part = min(count, at_once)
            data = np.fromfile(file, np.uint8, part * opened.record_bytes)
            whole = len(data) // opened.record_bytes
            if whole < part:
                raise RecordingError(f"{opened.path}: the file became shorter while it was read")
            yield data.reshape(part, opened.record_bytes)
            count -= part


def _pieces(opened: _File, chosen: list[_Signal], rate_hz: float) -> Iterator[tuple[int, NDArray[np.int64]]]:
    start, origin_s, number = 0, None, 0
    for records in _records(opened, 0, opened.records):
        digital = np.stack([_numbers(records, s, opened.wide) for s in chosen], axis=-1)
        if not opened.interrupted:
            yield start, digital.reshape(-1, len(chosen))
            start += digital.shape[0] * digital.shape[1]
            continue
        for record, values in zip(records, digital, strict=True):
            onset_s = _onset(record, opened, number)
            origin_s = onset_s if origin_s is None else origin_s
            ahead = round(float((onset_s - origin_s) * Fraction(rate_hz))) - start
            if ahead < -1 or ahead > _MOST_PAUSE_S * rate_hz:
                raise RecordingError(
                    f"{opened.path}: record {number} begins at {float(onset_s):g} s; "
                    f"expected {float(origin_s) + start / rate_hz:g} s or up to a day later"
                )
            start += ahead if ahead > 1 else 0  # less is how the times are rounded
            yield start, values
            start += len(values)
            number += 1


def _numbers(records: NDArray[np.uint8], signal: _Signal, wide: int) -> NDArray[np.int64]:
    """Return the digital values of one signal, of shape (records, samples)."""
    part = np.ascontiguousarray(records[:, signal.at : signal.at + wide * signal.samples])
    if wide == 2:
        return part.view("<i2").astype(np.int64)
    low, middle, high = (part[:, k::3].astype(np.int64) for k in range(3))
    return low | middle << 8 | (high ^ 0x80) - 0x80 << 16


def _onset(record: NDArray[np.uint8], opened: _File, number: int) -> Fraction:
    text = re.match(rb"[+-]\d{1,12}(\.\d{0,12})?(?=[\x14\x15])", _text_of(record, opened))
    if text is None:
        raise RecordingError(f"{opened.path}: record {number} does not say when it begins")
    return Fraction(text[0].decode("ascii"))


def _text_of(record: NDArray[np.uint8], opened: _File) -> bytes:
    if opened.annotations is None:
        return b""
    at = opened.annotations.at
    return record[at : at + opened.wide * opened.annotations.samples].tobytes()


def _length(opened: _File, signal: _Signal, rate_hz: float) -> int:
    """Return after how many samples the recording ends: Unshrug fills the last record up, and says so in it."""
    everything = 2**62
    if not signal.own:
        return everything
    (last,) = next(_records(opened, opened.records - 1, 1))
    found = re.search(rb"\+(\d{1,12}(?:\.\d{1,12})?)\x14" + END.encode() + rb"\x14", _text_of(last, opened))
    return round(float(found[1]) * rate_hz) if found else everything
