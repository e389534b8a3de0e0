"""Lines of numbers, as any sketch prints them with Serial.println(analogRead(A0)).

    512            one channel           512,498        several: comma, semicolon, tab or blank
    raw:512,env:30 Serial Plotter labels  # text         skipped, as is any line without a number

`nan` and `inf` stand for a value that the board did not have. A column labelled as a time is not a channel.
A cut number is still a number, so only whole lines count and the first one is never used.
"""

import re
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.packets import BadFrame, Packet, Samples

# Nothing is tried twice (+ after a count): a line that does not fit must fail at once, not after every way to read
# the lines before it. What is most frequent, a whole number, comes first.
_ANY_NUMBER = rb"[-+]?+(?:\d{1,24}+(?:\.\d{0,24}+)?+|\.\d{1,24}+)(?:[eE][-+]?\d{1,3}+)?+"
_NUMBER = rb"(?:\d{1,9}+(?![.eE\d])|" + _ANY_NUMBER + rb")"
_VALUE = rb"(?:" + _NUMBER + rb"|[-+]?(?:nan|NAN|NaN|inf|INF|Inf|ovf))"
_BLANKS = rb"[ \t]{0,8}+"
_SEPARATOR = rb"(?:[,;]" + _BLANKS + rb"|[ \t]{1,8}+(?:[,;]" + _BLANKS + rb")?+)"
_ANY_SEPARATOR, _STRICT_SEPARATOR = re.compile(_SEPARATOR), re.compile(rb"[,;\t]")
_LABELLED = re.compile(rb"^(?:([^,;\t:\d][^,;\t:]*):[ \t]*)?(" + _VALUE + rb")$")
_HAS_NUMBER = re.compile(rb"\d|nan|inf|ovf", re.IGNORECASE)
_TIMES = frozenset({"t", "time", "ms", "us", "millis", "micros", "timestamp"})
_MOST_COLUMNS = 16
_LONGEST = 2048  # longer than any line of so many columns
_RELEARN = 5  # equal lines of another shape before that shape is believed


class AsciiDecoder:
    """Bytes in, packets out; the shape of a line is learned, and a line of another shape is damage."""

    def __init__(self) -> None:
        self._rest = b""
        self._joined = False
        self._shape: tuple[str, ...] | None = None
        self._other: tuple[str, ...] | None = None
        self._other_count = 0
        self._bulk: re.Pattern[bytes] | None = None

    def feed(self, data: bytes) -> list[Packet]:
        """Take any number of bytes; return the packets that they complete."""
        whole, end, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest[: _LONGEST + 1]  # enough to see that it is too long, however long it gets
        if not end:
            return []
        if not self._joined:
            _, _, whole = whole.partition(b"\n")
            self._joined = True
        return self._take(whole) if whole else []

    def end(self) -> list[Packet]:
        """Take note that nothing more will come; a line without its end may be cut."""
        return []

    def _take(self, lines: bytes) -> list[Packet]:
        if self._bulk and self._shape and self._bulk.fullmatch(lines):
            self._other = None
            values = np.fromstring(lines.translate(_TO_BLANKS), sep=" ")
            return [Samples(_known(values.reshape(-1, len(self._shape))), labels=self._shape)]
        found = [packet for line in lines.split(b"\n") if (packet := self._line(line)) is not None]
        out: list[Packet] = []
        for labels, packets in groupby(found, lambda packet: packet.labels if isinstance(packet, Samples) else None):
            run = list(packets)
            if labels is None:
                out += run
            else:
                out.append(Samples(np.concatenate([p.codes for p in run if isinstance(p, Samples)]), labels=labels))
        return out

    def _line(self, line: bytes) -> Packet | None:
        if len(line) > _LONGEST:
            return BadFrame("too long for a line", samples=1 if self._shape else 0)
        line = line.strip()
        if not line or line.startswith(b"#") or not _HAS_NUMBER.search(line):
            return None
        # Labels may hold blanks, so a blank separates only where nothing better does.
        separator = _STRICT_SEPARATOR if b":" in line and _STRICT_SEPARATOR.search(line) else _ANY_SEPARATOR
        columns = [_LABELLED.match(part.strip()) for part in separator.split(line)]
        found = [column for column in columns if column]
        if len(found) < len(columns):
            # Before the first reading it is a banner such as "MyoWare v2", after it a broken reading.
            return BadFrame("not a line of numbers", samples=1 if self._shape else 0)
        names = tuple((column[1] or b"").decode("ascii", "replace").strip() for column in found)
        if names == self._shape:
            self._other = None
        elif len(names) > _MOST_COLUMNS or not self._learn(names):
            return BadFrame("a line of another shape", samples=1)
        keep = [k for k, name in enumerate(names) if name.lower() not in _TIMES]
        if not keep:
            return None
        codes = np.array([[float(found[k][2].replace(b"ovf", b"inf")) for k in keep]])
        return Samples(_known(codes), labels=tuple(names[k] for k in keep))

    def _learn(self, names: tuple[str, ...]) -> bool:
        """Believe the first shape at once, another one only after some equal lines."""
        self._other_count = self._other_count + 1 if names == self._other else 1
        self._other = names
        if self._shape is not None and self._other_count < _RELEARN:
            return False
        self._shape, self._other = names, None
        line = _BLANKS + _SEPARATOR.join([_NUMBER] * len(names)) + _BLANKS + rb"\r?+"
        self._bulk = None if any(names) else re.compile(rb"(?:" + line + rb"\n)*+" + line)
        return True


_TO_BLANKS = bytes.maketrans(b",;", b"  ")


def _known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def encode_line(values: NDArray[np.float64]) -> bytes:
    """Print one sample of all channels so that it reads back to the same bits."""
    return b",".join(repr(v).encode().removesuffix(b".0") for v in values.tolist()) + b"\r\n"
