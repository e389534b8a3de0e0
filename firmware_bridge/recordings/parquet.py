"""Recordings as data frames: Parquet, which pandas, polars and R read too. Needs pyarrow, an optional extra."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from firmware_bridge.recordings import columns
from firmware_bridge.recordings.recording import (
    PIECE,
    PLAIN,
    Array,
    Pieces,
    ReadOptions,
    Recording,
    RecordingError,
    choose,
    is_whole,
    new_file,
    recording_of,
    regular,
)

SCHEMA = "unshrug.recording/1"
_KEY = b"unshrug"
_NUMERIC = ("int", "uint", "float", "double", "halffloat", "decimal", "null", "dictionary")


@dataclass(frozen=True, slots=True)
class _Frame:
    """The columns of a Parquet file."""

    path: Path
    header: tuple[str, ...]
    row: str = "row"

    def read(self, columns: Sequence[int]) -> Iterator[tuple[Sequence[int], Array]]:
        """Yield row numbers, from 1 on, and the values of these columns, some rows at a time."""
        names = [self.header[k] for k in columns]
        first = 1
        with _open(self.path) as file:
            batches = file.iter_batches(PIECE, columns=names)
            while (batch := _next(self.path, batches)) is not None:
                arrays = [_numbers(self.path, name, batch.column(name)) for name in names]
                yield range(first, first + batch.num_rows), np.stack(arrays, axis=1)
                first += batch.num_rows


def knows(head: bytes) -> bool:
    """Say whether this is Parquet."""
    return head.startswith(b"PAR1")


def read(path: Path, options: ReadOptions) -> Recording:
    """Open a Parquet file: as Unshrug exported it, else as columns of which the caller says what they are.

    Raises RecordingError for a damaged file, and where pyarrow is missing.
    """
    with _open(path) as file:
        frame = _Frame(path, tuple(file.schema_arrow.names))
        twice = sorted({name for name in frame.header if frame.header.count(name) > 1})
        if twice:
            raise RecordingError(f"{path}: more than one column is called {', '.join(twice)}; expected different names")
        facts = (file.schema_arrow.metadata or {}).get(_KEY)
    given = options.rate_hz or options.units or options.uv_per_count or options.board
    if facts is None or given:
        return columns.read(frame, options)
    try:
        about: dict[str, Any] = json.loads(facts)
        rate_hz, step = float(about["rate_hz"]), about["uv_per_count"] and float(about["uv_per_count"])
        names = [str(name) for name in about["channels"]]
        codes = about["codes"] and (float(about["codes"][0]), float(about["codes"][1]))
        start = about["start"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise RecordingError(f"{path}: what Unshrug says of it is damaged ({error!r})") from None
    chosen = choose(path, options.channels, names, list(range(len(names))))
    places = choose(path, tuple(f"{names[k]}_uV" for k in chosen), list(frame.header), [])
    board = replace(PLAIN, rate_hz=rate_hz, uv_per_count=step, codes=codes, adc_bits=options.adc_bits)

    def pieces() -> Pieces:
        at = 0
        for _, values in frame.read(places):
            yield at, _codes(values, step)
            at += len(values)

    return recording_of(path, board, tuple(names[k] for k in chosen), pieces, start)


def write(recording: Recording, path: Path) -> None:
    """Write a recording as a new Parquet file, some rows at a time.

    Columns: `time_s`, then `<channel>_uV`, float64, null where lost; what is known besides is JSON in the metadata.
    Raises RecordingError where the file exists, cannot be written, or pyarrow is missing.
    """
    pa, pq = _pyarrow(path)
    signal, step = recording.signal, recording.signal.uv_per_count
    about = {
        "schema": SCHEMA,
        "rate_hz": signal.rate_hz,
        "uv_per_count": step,
        "codes": [rail / step for rail in signal.rails_uv] if signal.rails_uv and step else None,
        "channels": list(signal.channels),
        "start": recording.start_utc,
    }
    names = ["time_s", *(f"{name}_uV" for name in signal.channels)]
    schema = pa.schema([(name, pa.float64()) for name in names], metadata={_KEY: json.dumps(about).encode()})
    with new_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start, values in regular(recording):
            time_s = np.arange(start, start + len(values)) / signal.rate_hz
            table = [pa.array(time_s), *(pa.array(column, from_pandas=True) for column in values.T)]
            writer.write_table(pa.Table.from_arrays(table, schema=schema))


def _codes(values: Array, step: float | None) -> Array:
    """Return µV as codes, the very ones where they were whole."""
    if step is None:
        return values
    codes = values / step
    return np.where(is_whole(codes), np.round(codes), codes)


def _numbers(path: Path, name: str, column: Any) -> Array:
    try:
        if not str(column.type).startswith(_NUMERIC):  # dates are numbers too, to numpy
            raise TypeError
        values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    except (TypeError, ValueError):
        raise RecordingError(f"{path}: column {name} holds {column.type}; expected numbers") from None
    return np.asarray(np.where(np.isfinite(values), values, np.nan))


def _open(path: Path) -> Any:
    _, pq = _pyarrow(path)
    with _damage(path):
        return pq.ParquetFile(path, pre_buffer=False)  # else what was read stays in memory


def _next(path: Path, batches: Iterator[Any]) -> Any:
    with _damage(path):
        return next(batches, None)


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    pa, _ = _pyarrow(path)
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise RecordingError(f"{path}: damaged Parquet ({str(error).splitlines()[0]})") from None


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RecordingError(f"{path}: Parquet needs pyarrow; expected: pip install 'unshrug[parquet]'") from None
    return pyarrow, pyarrow.parquet
