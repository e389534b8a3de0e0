"""Keeping what a board sends, and what was found in it, in a file that is whole at any time."""

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from dsp.detect import Event, Shrug
from dsp.low_rest import LowRest
from dsp.quality import Quality
from firmware_bridge.blocks import SampleBlock
from firmware_bridge.recordings.bdf import BdfWriter
from firmware_bridge.recordings.recording import RecordingError
from services import __version__
from services.clock import Clock
from services.messages import Cue, Message, WearerState

log = logging.getLogger(__name__)

_STEP_S = 0.5  # the machine's clock was set where it jumps by more


def default_name(wearer: str, wall_s: float) -> str:
    """Return a name for a recording that begins now."""
    return f"unshrug-{wearer}-{datetime.fromtimestamp(wall_s, UTC):%Y%m%dT%H%M%SZ}.bdf"


class Recorder:
    """Write blocks to a BDF+ file, and what was found in them as its annotations.

    A board that comes back with another signal gets another file beside the first. The first error ends the
    recording, and is kept in `error`; nothing is raised from there on. Writing takes its time: use it behind a thread.
    Raises RecordingError for a file that is there already and a folder that cannot be written.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        if path.exists():
            raise RecordingError(f"{path}: the file exists; expected a new name")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
            raise RecordingError(f"{path.parent}: expected a folder that can be written")
        self.path = path
        self.error: str | None = None
        self.events = 0
        self._clock = clock
        self._files = 0
        self._writer: BdfWriter | None = None
        self._began_s: float | None = None
        self._ahead_s = 0.0  # of the wall clock before the monotonic one
        self._odd = 0
        self._problem: str | None = None
        self._bad: dict[int, Quality] = {}

    @property
    def running_s(self) -> float:
        """How long ago the first block came."""
        return 0.0 if self._began_s is None else self._clock.mono() - self._began_s

    def summary(self) -> str | None:
        """Say what has been recorded, None before there is anything."""
        writer = self._writer
        if writer is None:
            return None
        lost = 100 * writer.lost / max(writer.values, 1)
        n = len(writer.signal.channels)
        what = f"{n} channel{'s' if n > 1 else ''} at {writer.signal.rate_hz:g} Hz, {lost:.1f} % lost"
        return f"{writer.path}: {writer.seconds:.1f} s of {what}, {self.events} event{'' if self.events == 1 else 's'}"

    def block(self, block: SampleBlock) -> None:
        """Write the next block."""
        if self.error is not None:
            return
        try:
            writer = self._writer
            if writer is None or writer.signal != block.signal:
                writer = self._begin(block)
            self._watch_clock(writer, block.start / block.signal.rate_hz)
            writer.block(block)
            if writer.odd and not self._odd:
                log.warning("%s: values beyond the ADC's range, or not whole counts, were rounded", writer.path)
                writer.annotate(block.start / block.signal.rate_hz, "values were rounded from here on")
            self._odd = writer.odd
        except RecordingError as error:
            self._fail(error)

    def accept(self, message: Message) -> None:
        """Note what happened, where it is worth an annotation."""
        writer = self._writer
        if writer is None or self.error is not None:
            return
        match message:
            case Shrug(phase="ended") | LowRest(phase="ended"):
                self._note_event(writer, message)
            case Quality():
                before = self._bad.pop(message.channel, None)
                if before is not None:
                    self._note_bad(writer, before, message.at_s)
                if message.state == "bad":
                    self._bad[message.channel] = message
            case Cue(outcome="given"):
                writer.annotate(message.at_s, f"{message.pattern} {writer.signal.channels[message.channel]}")
            case WearerState() if message.board_problem != self._problem:
                self._problem = message.board_problem
                writer.annotate(message.at_s, f"board: {self._problem or 'ok'}")

    def close(self) -> None:
        """End the recording."""
        writer = self._writer
        if writer is None or self.error is not None:
            return
        end_s = writer.end_s
        for quality in self._bad.values():
            self._note_bad(writer, quality, max(end_s, quality.at_s))
        self._bad.clear()
        try:
            writer.close()
        except RecordingError as error:
            self.error = str(error)
            log.error("%s", error)

    def _begin(self, block: SampleBlock) -> BdfWriter:
        self.close()
        if self.error is not None:
            raise RecordingError(self.error)
        self._writer = None
        self._files += 1
        path = self.path if self._files == 1 else self.path.with_stem(f"{self.path.stem}-{self._files}")
        if self._files > 1:
            log.warning("the board sends something else now; recording it to %s", path)
        if self._began_s is None:
            self._began_s = self._clock.mono()
        self._ahead_s = self._clock.wall() - self._clock.mono()
        start_s = self._clock.wall() - len(block.values) / block.signal.rate_hz
        self._writer = BdfWriter(path, block.signal, block.start, start_s, f"Unshrug_{__version__}")
        self._odd = 0
        return self._writer

    def _watch_clock(self, writer: BdfWriter, at_s: float) -> None:
        """Follow a wall clock that is set on the way, as on a machine without a battery once it is on the net."""
        ahead_s = self._clock.wall() - self._clock.mono()
        step_s, self._ahead_s = ahead_s - self._ahead_s, ahead_s
        if abs(step_s) > _STEP_S:
            writer.start_at(writer.start_s + step_s)
            writer.annotate(at_s, f"the clock was set by {step_s:+.1f} s; the start of the file was corrected")

    def _note_event(self, writer: BdfWriter, event: Event) -> None:
        end_s = event.at_s if event.end_s is None else event.end_s
        name = writer.signal.channels[event.channel]
        cut = ", cut off" if event.truncated else ""
        what = event.kind.replace("_", " ")
        writer.annotate(event.start_s, f"{what} {name}, mean {event.mean_uv:.1f} µV{cut}", end_s - event.start_s)
        self.events += 1

    def _note_bad(self, writer: BdfWriter, quality: Quality, end_s: float) -> None:
        reasons = [reason for reason in quality.reasons if reason != "lost"]  # the file says that to the sample
        if reasons:
            name = writer.signal.channels[quality.channel]
            writer.annotate(quality.at_s, f"bad: {', '.join(reasons)} {name}", end_s - quality.at_s)

    def _fail(self, error: RecordingError) -> None:
        """End the recording as it is; what was written stays."""
        self.error = str(error)
        log.error("%s; the recording ends here", error)
        if self._writer is not None:
            self._writer.abandon()
