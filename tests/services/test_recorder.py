"""Recording: what is kept, with what beside it, and what a crash or a full disk leaves."""

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import edfio
import numpy as np
import pyedflib
import pytest

from dsp.low_rest import LowRest
from dsp.quality import Quality
from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.recordings import ReadOptions, RecordingError, open_recording
from firmware_bridge.simulator import PtyBoard, Timed, Wearer, framed_stream
from services.clock import Clock
from services.daemon import Threaded
from services.messages import Cue, Message, WearerState
from services.recorder import Recorder, default_name
from tests.services.conftest import UNSHRUG, Array, blocks, eventually, shrug, unshrug

SIGNAL = Signal(1000.0, ("left", "right"), 0.05, (-(2**15) * 0.05, (2**15 - 1) * 0.05))
CODES = np.random.default_rng(1).integers(-3000, 3000, (6000, 2)).astype(float)
VALUES = CODES * 0.05


class SetClock(Clock):
    """A machine whose clock can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0

    def wall(self) -> float:
        return super().wall() + self.ahead_s


def annotations(path: Path) -> list[tuple[float, float | None, str]]:
    return [(round(a.onset, 6), a.duration, a.text) for a in edfio.read_bdf(path).annotations]


def record(path: Path, messages: list[Message], values: Array = VALUES) -> Recorder:
    recorder = Recorder(path, Clock())
    for block in blocks(values, 500, SIGNAL):
        recorder.block(block)
        for message in messages:
            if block.start <= message.at_s * 1000 < block.end:
                recorder.accept(message)
    recorder.close()
    assert recorder.error is None
    return recorder


def test_what_was_found_becomes_annotations_where_it_was(tmp_path: Path) -> None:
    messages: list[Message] = [
        shrug("started", 3.2, 1.0),
        Quality(1, 2.0, "bad", ("mains", "lost")),
        Quality(1, 4.0, "ok"),
        Quality(0, 5.0, "bad", ("flat",)),
        Quality(0, 2.5, "bad", ("lost",)),
        Quality(0, 3.5, "ok"),
        Cue(4.1, "given", 0, 1.0, "cue"),
        Cue(4.2, "suppressed", 0, 1.0, reason="refractory"),
        shrug("ended", 4.5, 1.0, 4.25),
        LowRest("ended", 1, 5.5, 0.5, 5.25, 6.0, 9.0, 1.0, truncated=True),
        WearerState(5.0, (), False, "the board is silent", None, False, 0.0),
        WearerState(5.1, (), False, "the board is silent", None, False, 0.0),
    ]
    recorder = record(tmp_path / "x.bdf", messages)
    assert sorted(annotations(tmp_path / "x.bdf"), key=lambda a: (a[0], a[1] or 0.0)) == [
        (0.5, 4.75, "low rest right, mean 6.0 µV, cut off"),
        (1.0, 3.25, "shrug left, mean 60.0 µV"),
        (2.0, 2.0, "bad: mains right"),
        (4.1, None, "cue left"),
        (5.0, None, "board: the board is silent"),
        (5.0, 1.0, "bad: flat left"),
        (6.0, None, "end of recording"),
    ]
    assert recorder.events == 2
    said = recorder.summary()
    assert said == f"{tmp_path / 'x.bdf'}: 6.0 s of 2 channels at 1000 Hz, 0.0 % lost, 2 events"


def test_another_signal_gets_another_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "x.bdf", Clock())
    recorder.block(SampleBlock(SIGNAL, 0, VALUES))
    other = replace(SIGNAL, rate_hz=500.0)
    recorder.block(SampleBlock(other, 5000, VALUES))
    recorder.close()
    assert recorder.error is None
    for name, of in (("x.bdf", SIGNAL), ("x-2.bdf", other)):
        recording = open_recording(tmp_path / name, ReadOptions())
        assert recording.signal == of
        assert np.array_equal(np.concatenate([b.values for b in recording.blocks()]), VALUES)


def test_a_clock_that_is_set_on_the_way_corrects_the_start_and_is_noted(tmp_path: Path) -> None:
    clock = SetClock()
    clock.ahead_s = 1000.0 - clock.wall()  # 1970, as without a battery
    recorder = Recorder(tmp_path / "x.bdf", clock)
    recorder.block(SampleBlock(SIGNAL, 0, VALUES[:3000]))
    clock.ahead_s = 0.0
    recorder.block(SampleBlock(SIGNAL, 3000, VALUES[3000:]))
    recorder.close()
    start = np.datetime64((open_recording(tmp_path / "x.bdf", ReadOptions()).start_utc or "")[:-1])
    assert abs(start.astype("datetime64[s]").astype(int) - time.time()) < 60
    ((at_s, _, text), _) = annotations(tmp_path / "x.bdf")
    assert at_s == 3.0
    assert text.startswith("the clock was set by +")


@pytest.mark.parametrize("folder", ["none", "file"])
def test_a_place_that_cannot_be_written_is_said_at_once(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="expected a folder that can be written"):
        Recorder(tmp_path / folder / "x.bdf", Clock())
    with pytest.raises(RecordingError, match="the file exists; expected a new name"):
        Recorder(tmp_path / "file", Clock())


def test_an_error_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "x.bdf", Clock())
    (tmp_path / "x.bdf").write_text("somebody was quicker")
    recorder.block(SampleBlock(SIGNAL, 0, VALUES))
    recorder.accept(shrug("ended", 2.0, 1.0, 1.5))
    recorder.block(SampleBlock(SIGNAL, 6000, VALUES))
    recorder.close()
    assert recorder.error == f"{tmp_path / 'x.bdf'}: the file exists; expected a new name"
    assert (tmp_path / "x.bdf").read_text() == "somebody was quicker"


def test_a_disk_that_stands_still_delays_nobody_and_what_it_cannot_take_is_a_gap(tmp_path: Path) -> None:
    recorder, moves = Recorder(tmp_path / "x.bdf", Clock()), threading.Event()
    kept = Threaded(recorder, "recorder")
    kept.do(lambda: print(moves.wait(20)))
    began_s = time.monotonic()
    many = [SampleBlock(SIGNAL, k * 2, VALUES[k * 2 : k * 2 + 2]) for k in range(2900)]
    for block in many[:2500]:
        kept.do(lambda block=block: recorder.block(block))  # type: ignore[misc]
    assert time.monotonic() - began_s < 2
    moves.set()
    eventually(lambda: recorder._writer is not None and recorder._writer.end_s > 3.5)
    for block in many[2500:]:
        kept.do(lambda block=block: recorder.block(block))  # type: ignore[misc]
    kept.do(recorder.close)
    kept.close()
    found = np.concatenate([b.values for b in open_recording(tmp_path / "x.bdf", ReadOptions()).blocks()])
    lost = np.isnan(found).any(axis=1)
    assert len(found) == 5800
    assert 900 < lost.sum() < 1100
    assert np.array_equal(found[~lost], VALUES[:5800][~lost])


def test_the_name_says_who_and_when() -> None:
    assert default_name("ana", 1_700_000_000.9) == "unshrug-ana-20231114T221320Z.bdf"


# The command


class Feed:
    """A simulated board that tells how much of its stream has gone out."""

    def __init__(self, stop_at_s: float = 1e9) -> None:
        self.sent_s = 0.0
        self._stop_at_s = stop_at_s

    def stream(self) -> Iterator[Timed]:
        for at_s, data in framed_stream(Wearer(channels=2, seed=3)):
            if at_s > self._stop_at_s:
                return
            self.sent_s = at_s
            yield at_s, data


def expected(n: int) -> Array:
    uv = 3300 / 2**16
    return np.asarray(np.round(Wearer(channels=2, seed=3).samples(n) / uv) * uv)


def test_a_kill_loses_less_than_a_second(tmp_path: Path) -> None:
    feed, path = Feed(), tmp_path / "x.bdf"
    with PtyBoard(feed.stream()) as board:
        process = subprocess.Popen(
            [UNSHRUG, "record", "--port", board.path, "--out", path], stdout=subprocess.DEVNULL, cwd=tmp_path
        )
        eventually(lambda: feed.sent_s > 4.7, 30)
        process.send_signal(signal.SIGKILL)
        sent_s = feed.sent_s
        process.wait()
    theirs = edfio.read_bdf(path)
    found = np.stack([s.digital for s in theirs.signals], axis=1) * (3300 / 2**16)
    assert len(found) / 1000 > sent_s - 1
    assert np.array_equal(found, expected(len(found)))
    with pyedflib.EdfReader(str(path)) as file:
        assert file.getNSamples().tolist() == [len(found)] * 2
    ours = np.concatenate([b.values for b in open_recording(path, ReadOptions()).blocks()])
    assert np.array_equal(ours, found)


def test_a_signal_ends_the_recording_with_everything_in_it(tmp_path: Path) -> None:
    feed = Feed()
    with PtyBoard(feed.stream()) as board:
        process = subprocess.Popen(
            [UNSHRUG, "record", "--port", board.path], stdout=subprocess.PIPE, text=True, cwd=tmp_path
        )
        eventually(lambda: feed.sent_s > 2.2, 30)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=10)[0].splitlines()
    assert process.returncode == 0
    (path,) = tmp_path.glob("unshrug-*Z.bdf")
    found = np.concatenate([b.values for b in open_recording(path, ReadOptions()).blocks()])
    assert len(found) > 2000
    assert np.array_equal(found, expected(len(found)))
    assert annotations(path)[-1] == (len(found) / 1000, None, "end of recording")
    assert said[0] == f"recording to {path.name}; Ctrl-C ends it"
    assert said[-1] == f"{path.name}: {len(found) / 1000:.1f} s of 2 channels at 1000 Hz, 0.0 % lost, 0 events"


def test_it_ends_by_itself_and_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "x.bdf"
    with PtyBoard(Feed().stream()) as board:
        done = unshrug("record", "--port", board.path, "--out", path, "--seconds", 1.5)
    assert done.returncode == 0, done.stderr
    assert 1.3 < sum(len(b.values) for b in open_recording(path, ReadOptions()).blocks()) / 1000 < 2.5
    again = unshrug("record", "--port", "/dev/not-there", "--out", path)
    assert (again.returncode, again.stderr) == (1, f"unshrug: {path}: the file exists; expected a new name\n")
    nowhere = unshrug("record", "--port", "/dev/not-there", "--out", tmp_path / "none" / "x.bdf")
    assert (nowhere.returncode, "expected a folder that can be written" in nowhere.stderr) == (1, True)


def test_the_service_keeps_the_samples_too(tmp_path: Path) -> None:
    feed, folder = Feed(), tmp_path / "kept"
    folder.mkdir()
    config = tmp_path / "mine.toml"
    config.write_text('[wearer]\nid = "recorded"\n[mqtt]\nenabled = false\n')
    with PtyBoard(feed.stream()) as board:
        process = subprocess.Popen(
            [UNSHRUG, "run", "--config", config, "--port", board.path, "--record", folder],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        eventually(lambda: feed.sent_s > 2, 30)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    assert process.returncode == 0
    (path,) = folder.glob("unshrug-recorded-*Z.bdf")
    found = np.concatenate([b.values for b in open_recording(path, ReadOptions()).blocks()])
    assert np.array_equal(found, expected(len(found)))
