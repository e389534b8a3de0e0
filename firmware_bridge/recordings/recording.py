"""What a recording is, whatever its format."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.boards import BOARDS, Board
from firmware_bridge.bridge import scaled, signal_of

Array = NDArray[np.float64]
Pieces = Iterator[tuple[int, Array]]

UNITS = {"uV": 1.0, "mV": 1e3, "V": 1e6}
PIECE = 50_000  # samples that are read at once
_MOST_HZ = 1e6

# A recording of values that are µV already; others give it rate, scale and range.
PLAIN = BOARDS["ascii"]


class RecordingError(Exception):
    """A recording that cannot be read or written as asked; the message says where, what and what was expected."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the caller says of a recording that does not say it itself."""

    rate_hz: float | None = None
    units: str | None = None
    board: str | None = None
    uv_per_count: float | None = None
    adc_bits: int | None = None
    channels: tuple[str, ...] = ()

    @property
    def step_uv(self) -> float | None:
        """The size of a count: as given, else the board's."""
        return self.uv_per_count or (BOARDS[self.board].uv_per_count if self.board else None)


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording: what its signal is, and its samples as often as they are asked for.

    `board` carries rate, scale and range, so that playing the codes through a port gives the same values.
    `codes` yields (index of the first sample, codes of shape (samples, channels)) piece by piece; NaN is lost.
    `start_utc` is when it began, as far as the file says so: ISO 8601, ending in Z.
    """

    path: Path
    signal: Signal
    board: Board
    codes: Callable[[], Pieces]
    start_utc: str | None = None

    def blocks(self) -> Iterator[SampleBlock]:
        """Read the file from the start, piece by piece."""
        for start, codes in self.codes():
            yield SampleBlock(self.signal, start, scaled(codes, self.board.uv_per_count))

    def sha256(self) -> str:
        """Return the checksum of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def recording_of(
    path: Path, board: Board, names: tuple[str, ...], codes: Callable[[], Pieces], start_utc: str | None = None
) -> Recording:
    """Return the recording of such a board. Raises RecordingError for a rate that no board has."""
    rate_hz = board.rate_hz
    if rate_hz is None or not 0 < rate_hz <= _MOST_HZ:
        raise RecordingError(f"{path}: sampling rate {rate_hz}; expected more than 0 Hz and no more than {_MOST_HZ:g}")
    return Recording(path, signal_of(board, _apart(names)), board, codes, start_utc)


def _apart(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names that can head the columns of a table: printable, without commas, no two alike."""
    tidy = ["".join(c if c.isprintable() and c != "," else " " for c in name).strip() for name in names]
    tidy = [name or f"ch{k + 1}" for k, name in enumerate(tidy)]
    return tuple(f"{name} {tidy[:k].count(name) + 1}" if name in tidy[:k] else name for k, name in enumerate(tidy))


def choose(path: Path, wanted: tuple[str, ...], header: list[str], usual: list[int], what: str = "column") -> list[int]:
    """Return the places of the wanted names in the header, or the usual ones. Raises RecordingError."""
    for name in wanted:
        if name not in header:
            raise RecordingError(f"{path}: no {what} {name!r}; expected one of {', '.join(header)}")
    chosen = [header.index(name) for name in wanted] or usual
    if not chosen:
        raise RecordingError(f"{path}: no {what} with samples; found only {', '.join(header)}")
    return chosen


def is_whole(codes: Array, whole: Array | None = None) -> NDArray[np.bool_]:
    """Say which codes are these whole numbers, or any, but for how µV are rounded."""
    return np.asarray(np.abs(codes - (np.round(codes) if whole is None else whole)) < 1e-6 + 1e-9 * np.abs(codes))


def regular(recording: Recording) -> Pieces:
    """Yield (first sample, µV) without a hole, from sample 0 on: where samples are missing there are rows of NaN."""
    at = 0
    for block in recording.blocks():
        while at < block.start:
            part = min(block.start - at, PIECE)
            yield at, np.full((part, block.values.shape[1]), np.nan)
            at += part
        yield at, block.values
        at = block.end


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that is not there yet; take it away again if it does not get whole. Raises RecordingError."""
    try:
        file = path.open("xb")
    except FileExistsError:
        raise RecordingError(f"{path}: the file exists; expected a new name") from None
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from None
    try:
        with file:
            yield file
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise RecordingError(f"{path}: {error.strerror or error}") from None
        raise
