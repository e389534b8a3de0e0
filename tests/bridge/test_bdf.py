"""What we record, as we and two independent readers read it back."""

import itertools
import resource
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pyedflib
import pytest
from hypothesis import given

from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.recordings import ReadOptions, Recording, RecordingError, open_recording
from firmware_bridge.recordings.bdf import END, QUANTUM_UV, BdfWriter
from tests.bridge.helpers import Array, cuts, joined, steady

NAN = float("nan")
UV = 3300 / 2**16
SIGNAL = Signal(1000.0, ("left", "right"), UV, (-(2**15) * UV, (2**15 - 1) * UV))
START_S = 1_700_000_000.25  # 2023-11-14T22:13:20.25Z


def codes_in(signal: Signal, n: int, seed: int = 1) -> Array:
    """Return codes of such a signal, both ends of its range among them."""
    step = signal.uv_per_count or 1.0
    low, high = (round(rail / step) for rail in signal.rails_uv or (-4000 * step, 4000 * step))
    codes = np.random.default_rng(seed).integers(low, high + 1, (n, len(signal.channels))).astype(float)
    codes[0], codes[-1] = low, high
    return codes


def write(path: Path, signal: Signal, values: Array, at: list[int] | None = None, first: int = 0) -> BdfWriter:
    """Write values cut at these places."""
    writer = BdfWriter(path, signal, first, START_S)
    edges = [0, *sorted(min(a, len(values)) for a in at or []), len(values)]
    for begin, end in itertools.pairwise(edges):
        writer.block(SampleBlock(signal, first + begin, values[begin:end]))
    writer.close()
    return writer


def read(path: Path) -> tuple[Recording, Array]:
    recording = open_recording(path, ReadOptions())
    return recording, joined(list(recording.blocks()))


def texts(path: Path) -> list[tuple[float, float | None, str]]:
    """Return the annotations as another library reads them."""
    return [(a.onset, a.duration, a.text) for a in edfio.read_bdf(path).annotations]


def pyedf(path: Path) -> dict[str, Any]:
    """Return what a third library, which is strict about the format, reads."""
    with pyedflib.EdfReader(str(path)) as file:
        return {
            "rates": file.getSampleFrequencies().tolist(),
            "labels": file.getSignalLabels(),
            "digital": np.stack([file.readSignal(k, digital=True) for k in range(file.signals_in_file)], axis=1),
            "values": np.stack([file.readSignal(k) for k in range(file.signals_in_file)], axis=1),
            "texts": file.readAnnotations()[2].tolist(),
            "unit": file.getPhysicalDimension(0),
            "start": file.getStartdatetime(),
        }


SIGNALS = {
    "framed, 16 bits": SIGNAL,
    "sketch, 10 bits": Signal(500.0, ("ch1",), 24.4140625, (0.0, 1023 * 24.4140625)),
    "sketch of unknown bits": Signal(1000.0, ("ch1",), 24.4),
    "signed 24 bits": replace(SIGNAL, uv_per_count=0.0223, rails_uv=((1 - 2**23) * 0.0223, (2**23 - 1) * 0.0223)),
    "unsigned 24 bits": replace(SIGNAL, uv_per_count=0.0223, rails_uv=(0.0223, (2**24 - 1) * 0.0223)),
    "8 channels": replace(SIGNAL, channels=tuple(f"ch{k}" for k in range(8))),
    "odd rate": replace(SIGNAL, rate_hz=333.33),
    "rate of a half": replace(SIGNAL, rate_hz=10050.25 / 2),
    "slow": replace(SIGNAL, rate_hz=10.0),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_every_code_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    signal = SIGNALS[name]
    values = codes_in(signal, 2345) * (signal.uv_per_count or 1.0)
    writer = write(tmp_path / "x.bdf", signal, values, [7, 700])
    recording, found = read(tmp_path / "x.bdf")
    assert np.array_equal(found, values)
    assert recording.signal == signal
    assert recording.start_utc == "2023-11-14T22:13:20.250Z"
    assert (writer.odd, writer.lost, writer.values) == (0, 0, values.size)


@pytest.mark.parametrize("name", SIGNALS)
def test_other_readers_open_it_and_agree(name: str, tmp_path: Path) -> None:
    signal = SIGNALS[name]
    values = codes_in(signal, 2345) * (signal.uv_per_count or 1.0)
    write(tmp_path / "x.bdf", signal, values)
    theirs, strict = edfio.read_bdf(tmp_path / "x.bdf"), pyedf(tmp_path / "x.bdf")
    near = 1e-6 * np.abs(values).max() + 0.01 * (signal.uv_per_count or 0.0)
    for k in range(len(signal.channels)):
        assert theirs.signals[k].label == f"EMG {signal.channels[k]}" == strict["labels"][k]
        assert theirs.signals[k].data[:2345] == pytest.approx(values[:, k], abs=near)
        assert strict["values"][:2345, k] == pytest.approx(values[:, k], abs=near)
        assert np.array_equal(theirs.signals[k].digital, strict["digital"][:, k])
        assert theirs.signals[k].sampling_frequency == pytest.approx(signal.rate_hz, rel=2e-7)
        assert strict["rates"][k] == pytest.approx(signal.rate_hz, rel=2e-7)
    assert strict["unit"] == theirs.signals[0].physical_dimension == "uV"
    assert str(strict["start"]) == "2023-11-14 22:13:20"
    assert theirs.local_patient_identification == "X X X X", "nobody is named"


@pytest.mark.parametrize("scale", [None, 24.4])
def test_values_that_are_no_whole_counts_are_kept_to_a_fortieth_of_a_microvolt(
    scale: float | None, tmp_path: Path
) -> None:
    signal = Signal(1000.0, ("left",), scale)
    values = np.random.default_rng(1).normal(0, 300, (2000, 1))
    values[5] = NAN
    writer = write(tmp_path / "x.bdf", signal, values)
    recording, found = read(tmp_path / "x.bdf")
    assert np.nanmax(np.abs(found - values)) <= QUANTUM_UV / 2 * 1.001
    assert np.array_equal(np.isnan(found), np.isnan(values))
    assert recording.signal == signal, "the size of a count is that of the board, not that of the file"
    assert writer.odd == 0


def test_values_that_do_not_fit_are_counted_and_never_read_as_lost(tmp_path: Path) -> None:
    signal = Signal(1000.0, ("left",), 0.05, (0.0, 1023 * 0.05))
    codes = np.array([[0.0], [1023.0], [-1.0], [2000.0], [-500.0], [1e9], [0.5]])
    writer = write(tmp_path / "x.bdf", signal, np.vstack([np.full((500, 1), 7.0), codes]) * 0.05)
    found = read(tmp_path / "x.bdf")[1][500:, 0] / 0.05
    assert found[:2] == pytest.approx([0, 1023])
    assert found[2:5] == pytest.approx([0, 2000, -500]), "one beside the lost value, others as they were"
    assert found[5] == pytest.approx(2**23 - 1)
    assert writer.odd == 3


# Lost samples


def holes(n: int = 4000) -> Array:
    """Return values with single losses in one channel, whole ones, and long ones."""
    values = codes_in(SIGNAL, n) * UV
    values[np.random.default_rng(2).random(values.shape) < 0.002] = NAN
    values[1500:2600, 1] = NAN
    return values


@steady
@given(cuts)
def test_every_lost_value_is_known_however_the_stream_is_cut(tmp_path_factory: Any, at: list[int]) -> None:
    folder = tmp_path_factory.mktemp("cuts")
    write(folder / "whole.bdf", SIGNAL, holes())
    write(folder / "cut.bdf", SIGNAL, holes(), at)
    assert np.array_equal(read(folder / "cut.bdf")[1], holes(), equal_nan=True)
    assert texts(folder / "cut.bdf") == texts(folder / "whole.bdf")


def test_samples_that_never_came_are_lost_ones_with_an_annotation(tmp_path: Path) -> None:
    values = codes_in(SIGNAL, 6000) * UV
    writer = BdfWriter(tmp_path / "x.bdf", SIGNAL, 500, START_S)
    writer.block(SampleBlock(SIGNAL, 500, values[500:2000]))
    writer.block(SampleBlock(SIGNAL, 4250, values[4250:]))
    writer.close()
    expected = values.copy()
    expected[2000:4250] = NAN
    assert np.array_equal(read(tmp_path / "x.bdf")[1], expected[500:], equal_nan=True)
    assert texts(tmp_path / "x.bdf")[0] == (1.5, 2.25, "bad: lost 2250 samples")


def test_an_hour_without_a_board_is_filled_in_bounded_memory(tmp_path: Path) -> None:
    writer = BdfWriter(tmp_path / "x.bdf", SIGNAL, 0, START_S)
    values = codes_in(SIGNAL, 1000) * UV
    writer.block(SampleBlock(SIGNAL, 0, values))
    tracemalloc.start()
    writer.block(SampleBlock(SIGNAL, 3_601_000, values))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    writer.close()
    assert peak < 20e6
    assert texts(tmp_path / "x.bdf")[0] == (1.0, 3600.0, "bad: lost 3600000 samples")
    assert writer.seconds == 3602


def test_a_storm_of_losses_does_not_crowd_out_what_else_happened(tmp_path: Path) -> None:
    values = codes_in(SIGNAL, 60_000) * UV
    values[::2] = NAN
    writer = BdfWriter(tmp_path / "x.bdf", SIGNAL, 0, START_S)
    for at in range(0, 60_000, 50):
        writer.block(SampleBlock(SIGNAL, at, values[at : at + 50]))
        if at % 1000 == 0:
            writer.annotate(at / 1000, f"second {at // 1000}")
    writer.close()
    found = texts(tmp_path / "x.bdf")
    assert [t for _, _, t in found if t.startswith("second")] == [f"second {k}" for k in range(60)]
    assert [t for _, _, t in found if t.startswith("bad")] == ["bad: lost 30000 samples"]


def test_lost_values_stay_lost_when_the_caller_corrects_the_scale(tmp_path: Path) -> None:
    write(tmp_path / "x.bdf", SIGNAL, holes())
    found = joined(list(open_recording(tmp_path / "x.bdf", ReadOptions(uv_per_count=2 * UV)).blocks()))
    assert np.array_equal(found[: len(holes())], holes() * 2, equal_nan=True)


# Annotations


def test_an_annotation_keeps_its_time_its_letters_and_its_length(tmp_path: Path) -> None:
    writer = BdfWriter(tmp_path / "x.bdf", SIGNAL, 2000, START_S)
    writer.block(SampleBlock(SIGNAL, 2000, codes_in(SIGNAL, 5000) * UV))
    writer.annotate(3.25, "shrug left, mean 61 µV", 1.5)
    writer.annotate(2.0, "two\x14in\x15one\0line")
    writer.annotate(4.0, "µ" * 200)
    writer.close()
    found = texts(tmp_path / "x.bdf")
    assert (1.25, 1.5, "shrug left, mean 61 µV") in found
    assert (0.0, None, "two in one line") in found
    assert (2.0, None, "µ" * 60) in found
    assert found[-1] == (5.0, None, END)
    assert "shrug left, mean 61 µV" in pyedf(tmp_path / "x.bdf")["texts"]


def test_more_annotations_than_the_last_records_hold_get_records_of_their_own(tmp_path: Path) -> None:
    writer = BdfWriter(tmp_path / "x.bdf", SIGNAL, 0, START_S)
    writer.block(SampleBlock(SIGNAL, 0, codes_in(SIGNAL, 700) * UV))
    for k in range(100):
        writer.annotate(k / 1000, f"note {k}")
    writer.close()
    assert [t for _, _, t in texts(tmp_path / "x.bdf")] == [*(f"note {k}" for k in range(100)), END]
    assert len(read(tmp_path / "x.bdf")[1]) == 700


def test_names_that_do_not_fit_a_label_stay_apart(tmp_path: Path) -> None:
    long = replace(SIGNAL, channels=("upper trapezius left", "upper trapezius right"))
    write(tmp_path / "x.bdf", long, codes_in(long, 700) * UV)
    assert read(tmp_path / "x.bdf")[0].signal.channels == ("ch1", "ch2")


def test_the_start_can_be_corrected(tmp_path: Path) -> None:
    writer = BdfWriter(tmp_path / "x.bdf", SIGNAL, 0, 1000.0)
    writer.block(SampleBlock(SIGNAL, 0, codes_in(SIGNAL, 1500) * UV))
    writer.start_at(START_S)
    writer.close()
    assert read(tmp_path / "x.bdf")[0].start_utc == "2023-11-14T22:13:20.250Z"
    assert str(pyedf(tmp_path / "x.bdf")["start"]) == "2023-11-14 22:13:20"


# What goes wrong


def test_the_file_is_whole_after_every_block(tmp_path: Path) -> None:
    values = codes_in(SIGNAL, 3000) * UV
    writer = BdfWriter(tmp_path / "x.bdf", SIGNAL, 0, START_S)
    for at in range(0, 3000, 130):
        writer.block(SampleBlock(SIGNAL, at, values[at : at + 130]))
        there = (min(3000, at + 130)) // 500 * 500
        if there:
            assert np.array_equal(read(tmp_path / "x.bdf")[1], values[:there])
            assert len(edfio.read_bdf(tmp_path / "x.bdf").signals[0].data) == there
            assert len(pyedf(tmp_path / "x.bdf")["digital"]) == there
    writer.close()


@pytest.mark.parametrize("left", [1, 2999, 3000, 3001, 7000])
def test_a_file_that_was_cut_off_reads_as_far_as_it_goes(
    left: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = codes_in(SIGNAL, 3000) * UV
    write(tmp_path / "x.bdf", SIGNAL, values)
    data = (tmp_path / "x.bdf").read_bytes()
    header, record = 256 * 4, 2 * 500 * 3 + 240
    (tmp_path / "x.bdf").write_bytes(data[: header + record + left])
    there = 500 * (1 + left // record)
    assert np.array_equal(read(tmp_path / "x.bdf")[1], values[:there])
    assert f"the file is cut off after {there // 500} of 7 records" in caplog.text


def test_a_file_of_nothing_but_its_header_is_said(tmp_path: Path) -> None:
    write(tmp_path / "x.bdf", SIGNAL, codes_in(SIGNAL, 700) * UV)
    (tmp_path / "x.bdf").write_bytes((tmp_path / "x.bdf").read_bytes()[:2000])
    with pytest.raises(RecordingError, match="no samples after the header"):
        open_recording(tmp_path / "x.bdf", ReadOptions())


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x.bdf").write_text("mine")
    with pytest.raises(RecordingError, match=r"x\.bdf: the file exists; expected a new name"):
        BdfWriter(tmp_path / "x.bdf", SIGNAL, 0, START_S)
    assert (tmp_path / "x.bdf").read_text() == "mine"


def test_a_recording_without_a_sample_leaves_no_file(tmp_path: Path) -> None:
    BdfWriter(tmp_path / "x.bdf", SIGNAL, 0, START_S).close()
    assert list(tmp_path.iterdir()) == []


FULL = """
import sys
from pathlib import Path
import numpy as np
from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.recordings.bdf import BdfWriter
signal = Signal(1000.0, ("left",), 1.0)
writer = BdfWriter(Path(sys.argv[1]), signal, 0, 0.0)
try:
    for at in range(0, 100_000, 500):
        writer.block(SampleBlock(signal, at, np.full((500, 1), 7.0)))
except Exception as error:
    print(type(error).__name__, error)
writer.abandon()
"""


def test_a_disk_that_is_full_is_one_sentence_and_the_file_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.bdf"
    done = subprocess.run(
        [sys.executable, "-c", FULL, path],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert done.stdout == f"RecordingError {path}: File too large\n"
    assert len(read(path)[1]) == 5 * 500
    assert len(pyedf(path)["digital"]) == 5 * 500


def test_writing_and_reading_take_no_more_memory_the_longer_it_lasts(tmp_path: Path) -> None:
    values = codes_in(SIGNAL, 5000) * UV
    values[::97] = NAN
    peaks = []
    for minutes in (3, 12):
        path = tmp_path / f"{minutes}.bdf"
        tracemalloc.start()
        writer = BdfWriter(path, SIGNAL, 0, START_S)
        for k in range(minutes * 12):
            writer.block(SampleBlock(SIGNAL, k * 5000, values))
        writer.close()
        for _ in open_recording(path, ReadOptions()).blocks():
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1e6
