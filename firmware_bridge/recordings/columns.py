"""Recordings that are columns of numbers, one for each channel and perhaps one of time stamps."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from firmware_bridge.boards import BOARDS, Board
from firmware_bridge.recordings.recording import (
    PLAIN,
    UNITS,
    Array,
    Pieces,
    ReadOptions,
    Recording,
    RecordingError,
    choose,
    recording_of,
)

# A column of time stamps: t, time, time_ms, Time (s), millis ...; without a unit it is seconds.
_TIME_COLUMN = re.compile(
    r"(?:t|time|timestamp|elapsed)?[ _(\[]*(s|sec|seconds|ms|millis|us|micros)?[)\]]?", re.IGNORECASE
)
_TICKS_S = {"ms": 1e-3, "millis": 1e-3, "us": 1e-6, "micros": 1e-6}
_COARSE = 0.02  # where mean and median step differ by more, neither is the rate
_MOST_LOST_S = 3600.0  # a longer jump of a time column is a mistake, not a gap


class Table(Protocol):
    """Where the numbers stand."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def header(self) -> tuple[str, ...]:
        """The names of all columns."""
        ...

    @property
    def row(self) -> str:
        """What the file calls a row: line or row."""
        ...

    def read(self, columns: Sequence[int]) -> Iterator[tuple[Sequence[int], Array]]:
        """Yield row numbers and the values of these columns, NaN where missing, some rows at a time."""
        ...


def read(table: Table, options: ReadOptions) -> Recording:
    """Read a table of which only its columns' names and the caller say what it is. Raises RecordingError."""
    path, header = table.path, list(table.header)
    times = [k for k, name in enumerate(header) if name and _TIME_COLUMN.fullmatch(name)]
    chosen = choose(path, options.channels, header, [k for k in range(len(header)) if k not in times])
    clock = times[0] if times and not options.rate_hz else None
    unit = _TIME_COLUMN.fullmatch(header[clock]) if clock is not None else None
    tick_s = _TICKS_S.get((unit[1] or "s").lower(), 1.0) if unit else 1.0
    rate_hz = options.rate_hz or (None if clock is None else _rate_of(table, clock, tick_s))
    if rate_hz is None:
        raise RecordingError(f"{path}: no sampling rate; expected --rate HZ or a time column")
    names = tuple(header[k] for k in chosen)
    scale, board = _describe(path, options, rate_hz, names)
    return columns_of(table, chosen, board, scale=scale, clock=clock, tick_s=tick_s)


def columns_of(
    table: Table,
    columns: list[int],
    board: Board,
    *,
    scale: float = 1.0,
    clock: int | None = None,
    tick_s: float = 1.0,
) -> Recording:
    """Return these columns as a recording; values times `scale` are codes of the board.

    The column `clock` says in ticks of `tick_s` when the samples are; without it they follow each other.
    """

    def codes() -> Pieces:
        if clock is None:
            start = 0
            for _, values in table.read(columns):
                yield start, values * scale
                start += len(values)
            if start == 0:
                raise RecordingError(f"{table.path}: no samples after the header")
        else:
            for start, values in _by_clock(
                table, columns, clock, tick_s * (board.rate_hz or 0.0), board.rate_hz or 0.0
            ):
                yield start, values * scale

    return recording_of(table.path, board, tuple(table.header[k] for k in columns), codes)


def _describe(path: Path, options: ReadOptions, rate_hz: float, names: tuple[str, ...]) -> tuple[float, Board]:
    """Return the factor to µV, and rate, ADC step and range, as the caller or all the columns' names give them."""
    units = options.units
    if units is None:
        suffixes = {unit for unit in UNITS if all(name.lower().endswith(f"_{unit.lower()}") for name in names)}
        units = next(iter(suffixes), None)
    if units is None and (options.board or options.uv_per_count):
        units = "counts"
    if units is None:
        raise RecordingError(f"{path}: no units; expected --units uV|mV|V|counts")
    if units in UNITS:
        return UNITS[units], replace(PLAIN, rate_hz=rate_hz)
    if options.step_uv is None:
        raise RecordingError(
            f"{path}: counts of an unknown size; expected --uv-per-count X or a --board that has a known one"
        )
    bits = options.adc_bits or (BOARDS[options.board].adc_bits if options.board else None)
    return 1.0, replace(PLAIN, rate_hz=rate_hz, uv_per_count=options.step_uv, adc_bits=bits)


def _by_clock(table: Table, columns: list[int], clock: int, per_tick: float, rate_hz: float) -> Pieces:
    """Place samples by their time stamps: a jump of more than a sample and a half is a gap."""
    name = table.header[clock]
    start, last = 0, None
    for numbers, values in table.read([*columns, clock]):
        stamps = values[:, -1] * per_tick
        steps = np.diff(stamps, prepend=stamps[0] - 1 if last is None else last)
        wrong = np.flatnonzero(~(steps > 0))
        if len(wrong):
            at = f"{table.row} {numbers[wrong[0]]}, column {name}"
            raise RecordingError(f"{table.path}: {at}: time does not advance (or give --rate HZ)")
        last = stamps[-1]
        jumps = np.flatnonzero(steps > 1.5)
        far = jumps[steps[jumps] > _MOST_LOST_S * rate_hz]
        if len(far):
            at = f"{table.row} {numbers[far[0]]}, column {name}"
            raise RecordingError(f"{table.path}: {at}: jumps by more than an hour")
        for begin, end in pairwise([0, *jumps[jumps > 0], len(values)]):
            if begin in jumps:
                start += round(steps[begin]) - 1
            yield start, values[begin:end, :-1]
            start += end - begin


def _rate_of(table: Table, clock: int, tick_s: float) -> float:
    """Return the rate that the time stamps keep; a nearly whole number is meant to be whole."""
    name = table.header[clock]
    _, first = next(table.read([clock]), ([], np.empty((0, 1))))
    if not len(first):
        raise RecordingError(f"{table.path}: no samples after the header")
    steps = np.diff(first[:, 0]) * tick_s
    step = float(np.nanmedian(steps)) if np.isfinite(steps).any() else 0.0
    if not step > 0:
        raise RecordingError(f"{table.path}: column {name} does not advance; expected --rate HZ")
    near = steps[steps < 2.5 * step]
    if (steps > 0).all() and abs(
        float(near.mean()) / step - 1
    ) > _COARSE:  # such as 600 Hz in whole milliseconds: 2, 2, 1, 2, 2, 1
        raise RecordingError(f"{table.path}: column {name} is too coarse or uneven; expected --rate HZ")
    rate = 1 / step
    return float(round(rate)) if abs(rate - round(rate)) < 0.002 * rate else rate
