"""Recordings as one more source of samples, and as a place for them: a file for each format."""

from collections.abc import Callable
from pathlib import Path

from firmware_bridge.recordings import edf, parquet, text
from firmware_bridge.recordings.recording import ReadOptions, Recording, RecordingError

__all__ = ["WRITERS", "ReadOptions", "Recording", "RecordingError", "open_recording"]

# A new format is one more line: how to know it by its first 4096 bytes, and how to read it.
FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[Path, ReadOptions], Recording]], ...] = (
    (edf.knows, edf.read),
    (parquet.knows, parquet.read),
    (text.knows_opensignals, text.read_opensignals),
    (text.knows_csv, text.read_csv),
)

# What a recording can be exported to, by the end of the file's name.
WRITERS: dict[str, Callable[[Recording, Path], None]] = {".parquet": parquet.write, ".csv": text.write_csv}


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
    reader = next((read for knows, read in FORMATS if knows(head)), None)
    if reader is None:
        raise RecordingError(f"{path}: not a text file; expected CSV, EDF, BDF, OpenSignals text or Parquet")
    return reader(path, options)
