"""Recordings as one more source of samples: CSV with a header row, and OpenSignals text."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.boards import BOARDS, Board
from firmware_bridge.bridge import scaled, signal_of

Array = NDArray[np.float64]

_OPENSIGNALS = "# OpenSignals Text File Format"
_LINES = 50_000
_UNITS = {"uV": 1.0, "mV": 1e3, "V": 1e6}
# A column of time stamps: t, time, time_ms, Time (s), millis ...; without a unit it is seconds.
_TIME_COLUMN = re.compile(
    r"(?:t|time|timestamp|elapsed)?[ _(\[]*(s|sec|seconds|ms|millis|us|micros)?[)\]]?", re.IGNORECASE
)
_TICKS_S = {"ms": 1e-3, "millis": 1e-3, "us": 1e-6, "micros": 1e-6}
_COARSE = 0.02  # where mean and median step differ by more, neither is the rate
_MOST_LOST_S = 3600.0  # a longer jump of a time column is a mistake, not a gap


class RecordingError(Exception):
    """A recording that cannot be read as asked; the message says where, what and what was expected."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the caller says of a recording that does not say it itself."""

    rate_hz: float | None = None
    units: str | None = None
    board: str | None = None
    uv_per_count: float | None = None
    adc_bits: int | None = None
    channels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording: what its signal is, and its samples as often as they are asked for.

    `board` carries rate, scale and range, so that playing the codes through a port gives the same values.
    `codes` yields (index of the first sample, codes of shape (samples, channels)) piece by piece.
    """

    path: Path
    signal: Signal
    board: Board
    codes: Callable[[], Iterator[tuple[int, Array]]]

    def blocks(self) -> Iterator[SampleBlock]:
        """Read the file from the start, piece by piece."""
        for start, codes in self.codes():
            yield SampleBlock(self.signal, start, scaled(codes, self.board.uv_per_count))

    def sha256(self) -> str:
        """Return the checksum of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def open_recording(path: Path, options: ReadOptions) -> Recording:
    """Open a recording of any known format; its head is read at once, its samples when asked for.

    Raises RecordingError for a file that is missing, empty, of an unknown format or not described well enough.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe can be read only once
        raise RecordingError(f"{path}: not a regular file")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from None
    if not head.strip():
        raise RecordingError(f"{path}: the file is empty; expected a header row and samples")
    if b"\0" in head:
        raise RecordingError(f"{path}: not a text file; expected CSV or OpenSignals text")
    reader = _opensignals if head.startswith(_OPENSIGNALS.encode()) else _csv
    return reader(path, options)


@dataclass(frozen=True, slots=True)
class _Table:
    """Where the numbers stand in a text file."""

    path: Path
    skip: int
    delimiter: str
    columns: tuple[int, ...]
    names: tuple[str, ...]
    width: int
    scale: float = 1.0  # to µV, for columns in mV or V


def _csv(path: Path, options: ReadOptions) -> Recording:
    with _text(path) as file:
        first = file.readline().rstrip("\r\n")
    delimiter = next((d for d in (";", "\t", ",") if d in first), ",")
    header = [cell.strip().strip('"') for cell in first.split(delimiter)]
    has_header = not all(_is_number(cell) for cell in header)
    if not has_header:
        header = [f"ch{k + 1}" for k in range(len(header))]
    times = [k for k, name in enumerate(header) if name and _TIME_COLUMN.fullmatch(name)]
    chosen = _choose(path, options.channels, header, [k for k in range(len(header)) if k not in times])
    table = _Table(path, int(has_header), delimiter, tuple(chosen), tuple(header[k] for k in chosen), len(header))
    clock = replace(table, columns=(times[0],), names=(header[times[0]],)) if times and not options.rate_hz else None
    unit = _TIME_COLUMN.fullmatch(clock.names[0]) if clock else None
    tick_s = _TICKS_S.get((unit[1] or "s").lower(), 1.0) if unit else 1.0
    rate_hz = options.rate_hz or (_rate_of(clock, tick_s) if clock else None)
    if rate_hz is None:
        raise RecordingError(f"{path}: no sampling rate; expected --rate HZ or a time column")
    scale, board = _describe(path, options, rate_hz, table.names)
    return _recording(replace(table, scale=scale), board, clock, tick_s)


def _describe(path: Path, options: ReadOptions, rate_hz: float, names: tuple[str, ...]) -> tuple[float, Board]:
    """Return the factor to µV, and rate, ADC step and range, as the caller or all the columns' names give them."""
    units = options.units
    if units is None:
        suffixes = {unit for unit in _UNITS if all(name.lower().endswith(f"_{unit.lower()}") for name in names)}
        units = next(iter(suffixes), None)
    if units is None and (options.board or options.uv_per_count):
        units = "counts"
    if units is None:
        raise RecordingError(f"{path}: no units; expected --units uV|mV|V|counts")
    if units in _UNITS:
        return _UNITS[units], replace(BOARDS["ascii"], rate_hz=rate_hz)
    board = BOARDS[options.board] if options.board else BOARDS["ascii"]
    scale_of_counts = options.uv_per_count or board.uv_per_count
    if scale_of_counts is None:
        raise RecordingError(
            f"{path}: counts of an unknown size; expected --uv-per-count X or a --board that has a known one"
        )
    bits = options.adc_bits or board.adc_bits
    return 1.0, replace(BOARDS["ascii"], rate_hz=rate_hz, uv_per_count=scale_of_counts, adc_bits=bits)


def _opensignals(path: Path, options: ReadOptions) -> Recording:
    skip, head = 0, None
    with _text(path) as file:
        for line in islice(file, 100):
            skip += 1
            if line.startswith("# {"):
                head = line[2:]
            if line.startswith("# EndOfHeader"):
                break
        else:
            raise RecordingError(f"{path}: no line '# EndOfHeader' within the first {skip} lines")
    try:
        devices: dict[str, Any] = json.loads(head or "")
        device = next(iter(devices.values()))
        header = [str(name) for name in device["column"]]
        rate_hz = float(device["sampling rate"])
        sensors = [str(sensor) for sensor in device["sensor"]]
        bits = [int(bits) for bits in device["resolution"]]
        labels = [str(label) for label in device.get("label", ())]
        kind = str(device.get("device", ""))
    except (ValueError, KeyError, StopIteration, AttributeError, TypeError) as error:
        raise RecordingError(f"{path}: the OpenSignals header is damaged ({error!r})") from None
    if len(devices) > 1:
        raise RecordingError(f"{path}: {len(devices)} devices in one file; expected one")
    analog = [k for k, name in enumerate(header) if name in labels or re.fullmatch(r"(CH|A)\d+", name)]
    emg = [k for k, sensor in zip(analog, sensors, strict=False) if "EMG" in sensor.upper()]
    chosen = _choose(path, options.channels, header, emg or analog)
    # The header gives a resolution for every column or for the analogue ones only.
    of_column = dict(zip(range(len(header)) if len(bits) == len(header) else analog, bits, strict=False))
    resolutions = {of_column.get(k, bits[-1]) for k in chosen}
    if len(resolutions) > 1:
        raise RecordingError(f"{path}: columns of different resolution; choose with --channels A,B")
    own_bits = resolutions.pop()
    # 3 V over the range and a gain of 1000 for biosignalsplux, 3.3 V and 1009 for BITalino: their data sheets.
    vref_uv, gain = (3.3e6, 1009) if "bitalino" in kind.lower() else (3e6, 1000)
    board = replace(
        BOARDS["ascii"],
        rate_hz=options.rate_hz or rate_hz,
        uv_per_count=options.uv_per_count or vref_uv / 2**own_bits / gain,
        adc_bits=options.adc_bits or own_bits,
    )
    names = tuple(header[k] for k in chosen)
    return _recording(_Table(path, skip, "\t", tuple(chosen), names, len(header)), board, None, 1.0)


def _choose(path: Path, wanted: tuple[str, ...], header: list[str], usual: list[int]) -> list[int]:
    for name in wanted:
        if name not in header:
            raise RecordingError(f"{path}: no column {name!r}; expected one of {', '.join(header)}")
    chosen = [header.index(name) for name in wanted] or usual
    if not chosen:
        raise RecordingError(f"{path}: no column with samples; found only {', '.join(header)}")
    return chosen


def _recording(table: _Table, board: Board, clock: _Table | None, tick_s: float) -> Recording:
    if board.rate_hz is None or not board.rate_hz > 0:
        raise RecordingError(f"{table.path}: sampling rate {board.rate_hz}; expected more than 0 Hz")
    signal = signal_of(board, table.names)

    def codes() -> Iterator[tuple[int, Array]]:
        if clock is None:
            start = 0
            for _, values in _read(table):
                yield start, values * table.scale
                start += len(values)
            if start == 0:
                raise RecordingError(f"{table.path}: no samples after the header")
        else:
            yield from _by_clock(table, clock, signal.rate_hz, tick_s)

    return Recording(table.path, signal, board, codes)


def _by_clock(table: _Table, clock: _Table, rate_hz: float, tick_s: float) -> Iterator[tuple[int, Array]]:
    """Place samples by their time stamps: a jump of more than a sample and a half is a gap."""
    name = clock.names[0]
    both = replace(table, columns=(*table.columns, *clock.columns), names=(*table.names, name))
    start, last = 0, None
    for numbers, values in _read(both):
        stamps = values[:, -1] * (tick_s * rate_hz)
        steps = np.diff(stamps, prepend=stamps[0] - 1 if last is None else last)
        wrong = np.flatnonzero(~(steps > 0))
        if len(wrong):
            raise RecordingError(
                f"{table.path}: line {numbers[wrong[0]]}, column {name}: time does not advance (or give --rate HZ)"
            )
        last = stamps[-1]
        jumps = np.flatnonzero(steps > 1.5)
        far = jumps[steps[jumps] > _MOST_LOST_S * rate_hz]
        if len(far):
            raise RecordingError(f"{table.path}: line {numbers[far[0]]}, column {name}: jumps by more than an hour")
        for begin, end in pairwise([0, *jumps[jumps > 0], len(values)]):
            if begin in jumps:
                start += round(steps[begin]) - 1
            yield start, values[begin:end, :-1] * table.scale
            start += end - begin


def _rate_of(clock: _Table, tick_s: float) -> float:
    """Return the rate that the time stamps keep; a nearly whole number is meant to be whole."""
    _, first = next(_read(clock), ([], np.empty((0, 1))))
    if not len(first):
        raise RecordingError(f"{clock.path}: no samples after the header")
    steps = np.diff(first[:, 0]) * tick_s
    step = float(np.nanmedian(steps)) if np.isfinite(steps).any() else 0.0
    if not step > 0:
        raise RecordingError(f"{clock.path}: column {clock.names[0]} does not advance; expected --rate HZ")
    near = steps[steps < 2.5 * step]
    if (steps > 0).all() and abs(
        float(near.mean()) / step - 1
    ) > _COARSE:  # such as 600 Hz in whole milliseconds: 2, 2, 1, 2, 2, 1
        raise RecordingError(f"{clock.path}: column {clock.names[0]} is too coarse or uneven; expected --rate HZ")
    rate = 1 / step
    return float(round(rate)) if abs(rate - round(rate)) < 0.002 * rate else rate


def _text(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def _read(table: _Table) -> Iterator[tuple[list[int], Array]]:
    """Yield line numbers and the chosen columns, some lines at a time."""
    decimal_comma = table.delimiter != ","
    with _text(table.path) as file:
        row = sum(1 for _ in islice(file, table.skip))
        blank: list[str] = []  # lines that are empty cells if more come after them, else only the file's end
        while new := list(islice(file, _LINES)):
            lines = blank + new
            end = next((k for k in range(len(lines), 0, -1) if lines[k - 1].strip(" \r\n")), 0)
            lines, blank = lines[:end], lines[end:]
            if not lines:
                continue
            if decimal_comma:
                lines = [line.replace(",", ".") for line in lines]
            numbers, values = _fast(table, lines, row) or _careful(table, lines, row)
            row += len(lines)
            if numbers:
                yield numbers, np.where(np.isfinite(values), values, np.nan)


def _fast(table: _Table, lines: list[str], row: int) -> tuple[list[int], Array] | None:
    """Read lines that are all numbers and all of the header's width, as almost all are; else return None."""
    trailing = lines[0].rstrip("\r\n").endswith(table.delimiter)
    if {line.count(table.delimiter) for line in lines} != {table.width - 1 + trailing} or "\n" in lines:
        return None
    try:
        values = np.loadtxt(lines, delimiter=table.delimiter, usecols=table.columns, ndmin=2, comments=None)
    except ValueError:
        return None
    return (list(range(row + 1, row + len(lines) + 1)), values) if len(values) == len(lines) else None


def _careful(table: _Table, lines: list[str], row: int) -> tuple[list[int], Array]:
    """Read line by line: an empty cell is a missing value, an empty line is none, anything else is said."""
    # In a file of one column an empty line is an empty cell.
    rows = {
        row + k + 1: _row(table, line, row + k + 1)
        for k, line in enumerate(lines)
        if table.width == 1 or line.strip(" \r\n")
    }
    return list(rows), np.array(list(rows.values()), dtype=float).reshape(-1, len(table.columns))


def _row(table: _Table, line: str, number: int) -> list[float]:
    cells = [cell.strip().strip('"') for cell in line.rstrip("\r\n").split(table.delimiter)]
    if len(cells) == table.width + 1 and not cells[-1]:
        cells.pop()
    if len(cells) != table.width:
        lacks = [name for column, name in zip(table.columns, table.names, strict=True) if column >= len(cells)]
        hint = f" (column {lacks[0]} is missing)" if lacks else ""
        raise RecordingError(f"{table.path}: line {number}: {len(cells)} columns; expected {table.width}{hint}")
    values = []
    for column, name in zip(table.columns, table.names, strict=True):
        cell = cells[column]
        if cell and not _is_number(cell):
            raise RecordingError(f"{table.path}: line {number}, column {name}: {cell[:40]!r}; expected a number")
        values.append(float(cell) if cell else float("nan"))
    return values


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return True
