"""Recordings in text: CSV, and OpenSignals text."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from firmware_bridge.recordings import columns
from firmware_bridge.recordings.recording import (
    PIECE,
    PLAIN,
    Array,
    ReadOptions,
    Recording,
    RecordingError,
    choose,
    new_file,
    regular,
)

_OPENSIGNALS = b"# OpenSignals Text File Format"
_MOST_BITS = 32


@dataclass(frozen=True, slots=True)
class _Lines:
    """Where the numbers stand in a text file: after `skip` lines."""

    path: Path
    skip: int
    delimiter: str
    header: tuple[str, ...]
    row: str = "line"

    def read(self, columns: Sequence[int]) -> Iterator[tuple[Sequence[int], Array]]:
        """Yield line numbers and the values of these columns, some lines at a time."""
        return _read(self, columns)


def knows_csv(head: bytes) -> bool:
    """Say whether this may be text."""
    return b"\0" not in head


def read_csv(path: Path, options: ReadOptions) -> Recording:
    """Open a CSV file, with or without a header row; comma, semicolon or tab. Raises RecordingError."""
    with _text(path) as file:
        first = file.readline().rstrip("\r\n")
    delimiter = next((d for d in (";", "\t", ",") if d in first), ",")
    header = [cell.strip().strip('"') for cell in first.split(delimiter)]
    has_header = not all(_is_number(cell) for cell in header)
    if not has_header:
        header = [f"ch{k + 1}" for k in range(len(header))]
    return columns.read(_Lines(path, int(has_header), delimiter, tuple(header)), options)


def write_csv(recording: Recording, path: Path) -> None:
    """Write a recording as a new CSV file: a time column and one per channel in µV, nan where lost.

    Raises RecordingError where the file exists or cannot be written.
    """
    signal = recording.signal
    formats = ["%.9f", *["%.10g"] * len(signal.channels)]
    with new_file(path) as file:
        file.write((",".join(["time_s", *(f"{name}_uV" for name in signal.channels)]) + "\n").encode())
        for start, values in regular(recording):
            time_s = np.arange(start, start + len(values)) / signal.rate_hz
            np.savetxt(file, np.column_stack([time_s, values]), fmt=formats, delimiter=",")


def knows_opensignals(head: bytes) -> bool:
    """Say whether this is OpenSignals text."""
    return head.startswith(_OPENSIGNALS) and b"\0" not in head


def read_opensignals(path: Path, options: ReadOptions) -> Recording:
    """Open OpenSignals text, which says rate, resolution and sensors itself. Raises RecordingError."""
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
    except (ValueError, KeyError, StopIteration, AttributeError, TypeError, OverflowError) as error:
        raise RecordingError(f"{path}: the OpenSignals header is damaged ({error!r})") from None
    if len(devices) > 1:
        raise RecordingError(f"{path}: {len(devices)} devices in one file; expected one")
    analog = [k for k, name in enumerate(header) if name in labels or re.fullmatch(r"(CH|A)\d+", name)]
    emg = [k for k, sensor in zip(analog, sensors, strict=False) if "EMG" in sensor.upper()]
    chosen = choose(path, options.channels, header, emg or analog)
    # The header gives a resolution for every column or for the analogue ones only.
    of_column = dict(zip(range(len(header)) if len(bits) == len(header) else analog, bits, strict=False))
    resolutions = {of_column.get(k, bits[-1] if bits else 0) for k in chosen}
    if len(resolutions) > 1:
        raise RecordingError(f"{path}: columns of different resolution; choose with --channels A,B")
    own_bits = resolutions.pop()
    if not 1 <= own_bits <= _MOST_BITS:
        raise RecordingError(f"{path}: the OpenSignals header is damaged (a resolution of {own_bits} bits)")
    # 3 V over the range and a gain of 1000 for biosignalsplux, 3.3 V and 1009 for BITalino: their data sheets.
    vref_uv, gain = (3.3e6, 1009) if "bitalino" in kind.lower() else (3e6, 1000)
    board = replace(
        PLAIN,
        rate_hz=options.rate_hz or rate_hz,
        uv_per_count=options.uv_per_count or vref_uv / 2**own_bits / gain,
        adc_bits=options.adc_bits or own_bits,
    )
    return columns.columns_of(_Lines(path, skip, "\t", tuple(header)), chosen, board)


def _text(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def _read(table: _Lines, columns: Sequence[int]) -> Iterator[tuple[Sequence[int], Array]]:
    """Yield line numbers and the chosen columns, some lines at a time."""
    decimal_comma = table.delimiter != ","
    with _text(table.path) as file:
        row = sum(1 for _ in islice(file, table.skip))
        blank: list[str] = []  # lines that are empty cells if more come after them, else only the file's end
        while new := list(islice(file, PIECE)):
            lines = blank + new
            end = next((k for k in range(len(lines), 0, -1) if lines[k - 1].strip(" \r\n")), 0)
            lines, blank = lines[:end], lines[end:]
            if not lines:
                continue
            if decimal_comma:
                lines = [line.replace(",", ".") for line in lines]
            numbers, values = _fast(table, columns, lines, row) or _careful(table, columns, lines, row)
            row += len(lines)
            if numbers:
                yield numbers, np.where(np.isfinite(values), values, np.nan)


def _fast(table: _Lines, columns: Sequence[int], lines: list[str], row: int) -> tuple[Sequence[int], Array] | None:
    """Read lines that are all numbers and all of the header's width, as almost all are; else return None."""
    trailing = lines[0].rstrip("\r\n").endswith(table.delimiter)
    if {line.count(table.delimiter) for line in lines} != {len(table.header) - 1 + trailing} or "\n" in lines:
        return None
    try:
        values = np.loadtxt(lines, delimiter=table.delimiter, usecols=columns, ndmin=2, comments=None)
    except ValueError:
        return None
    return (range(row + 1, row + len(lines) + 1), values) if len(values) == len(lines) else None


def _careful(table: _Lines, columns: Sequence[int], lines: list[str], row: int) -> tuple[Sequence[int], Array]:
    """Read line by line: an empty cell is a missing value, an empty line is none, anything else is said."""
    # In a file of one column an empty line is an empty cell.
    rows = {
        row + k + 1: _row(table, columns, line, row + k + 1)
        for k, line in enumerate(lines)
        if len(table.header) == 1 or line.strip(" \r\n")
    }
    return list(rows), np.array(list(rows.values()), dtype=float).reshape(-1, len(columns))


def _row(table: _Lines, columns: Sequence[int], line: str, number: int) -> list[float]:
    cells = [cell.strip().strip('"') for cell in line.rstrip("\r\n").split(table.delimiter)]
    if len(cells) == len(table.header) + 1 and not cells[-1]:
        cells.pop()
    if len(cells) != len(table.header):
        lacks = [table.header[column] for column in columns if column >= len(cells)]
        hint = f" (column {lacks[0]} is missing)" if lacks else ""
        raise RecordingError(f"{table.path}: line {number}: {len(cells)} columns; expected {len(table.header)}{hint}")
    values = []
    for column in columns:
        cell, name = cells[column], table.header[column]
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
