"""A BDF+ file that grows: whatever is written is a complete file, which other programs open.

    header | record: samples of channel 1 | samples of channel 2 | ... | annotations | record | ...

Values have 24 bits. Where a board sends whole codes they are kept as they are; else values are rounded to
`QUANTUM_UV`. The digital minimum of a channel says that the value was lost; "bad: lost" annotations say it in words.
The transducer field of each channel tells what eight digits cannot, as `key=value`: the exact size of a count in
µV, the ADC's lowest and highest code, the code of a lost value, and the offset of codes that need it. The last record
is filled up with lost values; the annotation "end of recording" says where they begin.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.recordings.recording import Array, RecordingError, is_whole

QUANTUM_UV = 0.05
END = "end of recording"

_MIN, _MAX = -(2**23), 2**23 - 1
_MOST_UV = 9_999_999.0  # what fits into the eight characters of a physical minimum
_LEAST_UV_PER_COUNT = 1e-9
_FINE_MAX = 8_000_000  # of quanta: 0.4 V
_RECORD_S = 0.5  # of which a kill may take one
_SYNC_S = 1.0
_ROOM = 240  # bytes for the annotations of a record
_MOST_TEXT = 120
_MOST_WAITING = 4096
_MERGE_S = 1.0  # losses closer than this are one annotation, so that any number of them fits
_BATCH = 64  # records that are written at once where a long gap is filled
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


class BdfWriter:
    """Write blocks of one signal to a new file, with annotations.

    `first` is the index of the sample with which the file begins, `start_s` when that was, in seconds since 1970.
    Annotations have the board's time, which counts from sample 0. The file says UTC, and `source` who was recorded
    with what. Raises RecordingError where the file exists, cannot be written or cannot hold the signal.
    """

    def __init__(self, path: Path, signal: Signal, first: int, start_s: float, source: str = "X") -> None:
        self.path = path
        self.signal = signal
        self.values = self.lost = 0  # how many were taken, and how many of them were lost
        self.odd = 0  # values that the file cannot hold as they were
        self._first = self._next = first
        self._start_s = start_s
        self._source = source
        self._per_record, self._duration = _record_of(signal.rate_hz)
        self._scale: _Scale | None = None
        self._pending: list[Array] = []
        self._waiting = 0
        self._written = 0
        self._records = 0
        self._size = 0
        self._synced_s = time.monotonic()
        self._texts: deque[bytes] = deque(maxlen=_MOST_WAITING)
        self._gap: tuple[int, int, int] | None = None  # first and last lost sample, and how many are lost
        step = signal.uv_per_count
        if step is not None and not _LEAST_UV_PER_COUNT <= step <= _MOST_UV:
            raise RecordingError(f"{path}: a count of {step:g} µV; expected 1e-9 to 1e7 µV")
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            raise RecordingError(f"{path}: the file exists; expected a new name") from None
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror}") from None

    @property
    def start_s(self) -> float:
        """When the recording began, in seconds since 1970."""
        return self._start_s

    @property
    def end_s(self) -> float:
        """The second on the board's clock that the recording has reached."""
        return self._next / self.signal.rate_hz

    @property
    def seconds(self) -> float:
        """How long the recording is."""
        return (self._next - self._first) / self.signal.rate_hz

    def block(self, block: SampleBlock) -> None:
        """Take the next block; samples between the last one's end and its start are lost ones.

        Raises RecordingError where the disk does not take it; what was written before stays a complete file.
        """
        lost = block.start - self._next
        while lost > 0:
            part = min(lost, _BATCH * self._per_record)
            self._take(np.full((part, len(self.signal.channels)), np.nan))
            lost -= part
        self._take(block.values)

    def annotate(self, at_s: float, text: str, duration_s: float | None = None) -> None:
        """Note what was at this second on the board's clock, or from there on; it is written with the next record."""
        self._texts.append(_tal(at_s - self._first / self.signal.rate_hz, text, duration_s))

    def start_at(self, start_s: float) -> None:
        """Correct when the recording began, in seconds since 1970."""
        self._start_s = start_s
        if self._records:
            self._try(lambda: os.pwrite(self._fd, self._when(), 88))

    def close(self) -> None:
        """Write what is left. A file without a sample is taken away."""
        try:
            if self._waiting or self._records:
                self._end_gap()
                self.annotate(self._next / self.signal.rate_hz, END)
            while self._waiting or (self._texts and self._records):
                padding = -self._waiting % self._per_record or (0 if self._waiting else self._per_record)
                self._pending.append(np.full((padding, len(self.signal.channels)), np.nan))
                self._waiting += padding
                self._write(self._waiting)
            if self._records:
                self._try(lambda: os.fsync(self._fd))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave the file as it is: whole, but for what was not written yet. One without a sample is taken away."""
        os.close(self._fd)
        if not self._records:
            self.path.unlink(missing_ok=True)

    def _take(self, values: Array) -> None:
        missing = np.isnan(values)
        self.values += values.size
        self.lost += int(missing.sum())
        self._note_lost(np.flatnonzero(missing.any(axis=1)) + self._next)
        self._next += len(values)
        if self._gap is not None and self._next - self._gap[1] > _MERGE_S * self.signal.rate_hz:
            self._end_gap()
        self._pending.append(values)
        self._waiting += len(values)
        if self._waiting >= self._per_record:
            self._write(self._waiting // self._per_record * self._per_record)

    def _note_lost(self, rows: NDArray[np.int64]) -> None:
        if not len(rows):
            return
        merge = _MERGE_S * self.signal.rate_hz
        for group in np.split(rows, np.flatnonzero(np.diff(rows) > merge) + 1):
            first, last = int(group[0]), int(group[-1])
            if self._gap is not None and first - self._gap[1] <= merge:
                self._gap = self._gap[0], last, self._gap[2] + len(group)
            else:
                self._end_gap()
                self._gap = first, last, len(group)

    def _end_gap(self) -> None:
        if self._gap is not None:
            first, last, count = self._gap
            rate_hz = self.signal.rate_hz
            self.annotate(first / rate_hz, f"bad: lost {count} samples", (last + 1 - first) / rate_hz)
            self._gap = None

    def _write(self, samples: int) -> None:
        """Append whole records, then say in the header how many there are."""
        values = np.concatenate(self._pending)
        self._pending, values = [values[samples:]], values[:samples]
        self._waiting -= samples
        if self._scale is None:
            self._scale = _Scale(self.signal, values)
        digital, odd = self._scale.digital(values)
        self.odd += odd
        n = samples // self._per_record
        codes = np.ascontiguousarray(
            digital.reshape(n, self._per_record, -1).transpose(0, 2, 1).reshape(n, -1).astype("<i4")
        )
        records = codes.view(np.uint8).reshape(n, -1, 4)[:, :, :3].reshape(n, -1)
        data = b"".join(record.tobytes() + self._annotations(k) for k, record in enumerate(records, self._records))
        if not self._records:
            data = self._header(n) + data
        self._try(lambda: self._append(data, n))

    def _append(self, data: bytes, records: int) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._size += len(data)
        self._records += records
        os.pwrite(self._fd, _field(self._records, 8), 236)
        if time.monotonic() - self._synced_s >= _SYNC_S:
            os.fsync(self._fd)
            self._synced_s = time.monotonic()

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
                os.lseek(self._fd, self._size, os.SEEK_SET)
            raise RecordingError(f"{self.path}: {error.strerror}") from None

    def _annotations(self, record: int) -> bytes:
        """Return as many of the waiting annotations as fit, behind the record's own time."""
        out = _tal(record * self._per_record / self.signal.rate_hz, "", None)
        while self._texts and len(out) + len(self._texts[0]) <= _ROOM:
            out += self._texts.popleft()
        return out.ljust(_ROOM, b"\0")

    def _header(self, records: int) -> bytes:
        assert self._scale is not None
        names = _labels(self.signal.channels)
        n = len(names)
        scale = self._scale
        rows: list[tuple[int, list[object], object]] = [  # width, of the channels, of the annotations
            (16, list(names), "BDF Annotations"),
            (80, [scale.facts] * n, ""),
            (8, ["uV"] * n, ""),
            (8, [_eight(scale.low_uv)] * n, "-1"),
            (8, [_eight(scale.high_uv)] * n, "1"),
            (8, [scale.low] * n, _MIN),
            (8, [scale.high] * n, _MAX),
            (80, [f"unfiltered rate={self.signal.rate_hz!r}"] * n, ""),
            (8, [self._per_record] * n, _ROOM // 3),
            (32, [""] * n, ""),
        ]
        head = b"\xffBIOSEMI" + _field("X X X X", 80) + self._when() + _field(256 * (n + 2), 8) + _field("BDF+C", 44)
        head += _field(records, 8) + _field(self._duration, 8) + _field(n + 1, 4)
        return head + b"".join(_field(cell, width) for width, cells, last in rows for cell in (*cells, last))

    def _when(self) -> bytes:
        """Return the header's fields from the recording's description to its time, all in UTC."""
        when = datetime.fromtimestamp(self._start_s, UTC)
        date = f"{when.day:02}-{_MONTHS[when.month - 1]}-{when.year}"
        exact = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        about = f"Startdate {date} X X {self._source} {exact}"
        return _field(about, 80) + _field(f"{when:%d.%m.%y}", 8) + _field(f"{when:%H.%M.%S}", 8)


class _Scale:
    """How values become 24-bit numbers: judged once, by the first record."""

    def __init__(self, signal: Signal, first: Array) -> None:
        step = signal.uv_per_count
        codes = first[~np.isnan(first)] / step if step else np.array([0.5])
        self._is_whole = bool(is_whole(codes).all())
        rails = None
        if step and signal.rails_uv:
            rails = round(signal.rails_uv[0] / step), round(signal.rails_uv[1] / step)
        facts = [f"uV/count={step!r}"] if step else []
        facts += [f"ADC={rails[0]}..{rails[1]}"] if rails else []
        self.offset = 0
        if step and self._is_whole:
            self._uv = step
            low, high = rails or (-_MAX, _MAX)
            if high > _MAX:
                self.offset = 2**23
                facts.append(f"offset={self.offset}")
            most = int(_MOST_UV / step)
            self.lost = max(low - self.offset - 1, _MIN, -most - self.offset)
            self.high = min(high - self.offset, _MAX, most - self.offset)
        else:
            self._uv = QUANTUM_UV
            self.lost, self.high = -_FINE_MAX, _FINE_MAX
            facts.append(f"quantum={QUANTUM_UV}")
        self.low = self.lost
        self.facts = " ".join([f"lost={self.lost}", *facts])
        self.low_uv, self.high_uv = ((code + self.offset) * self._uv for code in (self.low, self.high))

    def digital(self, values: Array) -> tuple[NDArray[np.int64], int]:
        """Return values as 24-bit numbers, and how many the file cannot hold to within half a step."""
        missing = np.isnan(values)
        codes = np.where(missing, 0.0, values) / self._uv - self.offset
        whole = np.clip(np.round(codes), _MIN, _MAX)
        whole[whole == self.lost] += 1  # no code that came may read as a lost one
        fits = is_whole(codes, whole) if self._is_whole else np.abs(codes - whole) < 0.500001
        return np.where(missing, self.lost, whole).astype(np.int64), int((~fits & ~missing).sum())


def _record_of(rate_hz: float) -> tuple[int, str]:
    """Return how many samples a record holds and how long it is: no rate is whole, but one length fits it best."""
    most = max(1, int(rate_hz * _RECORD_S))
    counts = np.arange(max(1, most // 2), most + 1)[::-1]
    lengths = counts / rate_hz
    best = int(np.argmin(np.round(np.abs(np.round(lengths, 6) / lengths - 1), 12)))
    return int(counts[best]), f"{lengths[best]:.6f}"[:8].rstrip("0").rstrip(".")


def _labels(names: tuple[str, ...]) -> list[str]:
    """Return labels of 16 characters as EDF+ has them; where two would be the same, numbered ones."""
    plain = [name.encode("ascii", "replace").decode() for name in names]
    labels = [f"EMG {name}" if len(name) <= 12 else name[:16] for name in plain]
    return labels if len(set(labels)) == len(labels) else [f"EMG ch{k + 1}" for k in range(len(labels))]


def _tal(onset_s: float, text: str, duration_s: float | None) -> bytes:
    """Return a time-stamped annotation list of one annotation, or of none."""
    onset = f"{onset_s:+.6f}".rstrip("0").rstrip(".")
    duration = "" if duration_s is None else "\x15" + (f"{duration_s:.6f}".rstrip("0").rstrip(".") or "0")
    clean = "".join(" " if c < " " else c for c in text).encode()[:_MOST_TEXT].decode(errors="ignore")
    return f"{onset}{duration}\x14{clean}\x14\0".encode()


def _field(value: object, width: int) -> bytes:
    return str(value).encode("ascii", "replace")[:width].ljust(width)


def _eight(value: float) -> str:
    """Return a number in eight characters, as exactly as they allow."""
    return next((text for p in range(7, -1, -1) if len(text := f"{value:.{p}f}") <= 8), f"{value:.0f}"[:8])
