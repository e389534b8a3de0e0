"""Recordings as data frames."""

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.recordings import WRITERS, ReadOptions, Recording, RecordingError, open_recording
from firmware_bridge.recordings.bdf import BdfWriter
from tests.bridge.helpers import Array, error_of, values_of

UV = 3300 / 2**16
SIGNAL = Signal(1000.0, ("left", "right"), UV, (-(2**15) * UV, (2**15 - 1) * UV))


def recorded(path: Path, values: Array, signal: Signal = SIGNAL) -> Recording:
    writer = BdfWriter(path, signal, 0, 1_700_000_000.25)
    for at in range(0, len(values), 5000):
        writer.block(SampleBlock(signal, at, values[at : at + 5000]))
    writer.close()
    return open_recording(path, ReadOptions())


def samples(n: int = 3000) -> Array:
    values = np.random.default_rng(1).integers(-(2**15), 2**15, (n, 2)) * UV
    values[100:120, 0] = values[2000:2600] = np.nan
    return np.asarray(values)


def foreign(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_an_export_reads_back_the_same_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    recording = recorded(tmp_path / "x.bdf", samples())
    WRITERS[".parquet"](recording, tmp_path / "x.parquet")
    back = open_recording(tmp_path / "x.parquet", ReadOptions())
    assert np.array_equal(values_of(tmp_path / "x.parquet"), samples(), equal_nan=True)
    assert (back.signal, back.start_utc) == (SIGNAL, "2023-11-14T22:13:20.250Z")
    assert open_recording(tmp_path / "x.parquet", ReadOptions(channels=("right",))).signal.channels == ("right",)


def test_a_data_frame_has_a_time_and_a_column_for_each_channel(tmp_path: Path) -> None:
    WRITERS[".parquet"](recorded(tmp_path / "x.bdf", samples()), tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["time_s", "left_uV", "right_uV"]
    assert table["time_s"].to_pylist()[:3] == [0.0, 0.001, 0.002]
    assert (table["left_uV"].null_count, table["right_uV"].null_count) == (620, 600)
    assert table["left_uV"].to_pylist()[:2] == samples()[:2, 0].tolist()


def test_csv_has_the_same_columns_and_reads_back(tmp_path: Path) -> None:
    WRITERS[".csv"](recorded(tmp_path / "x.bdf", samples()), tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text().startswith("time_s,left_uV,right_uV\n0.000000000,")
    found = values_of(tmp_path / "x.csv")
    assert np.allclose(found, samples(), rtol=1e-9, atol=0, equal_nan=True)
    assert open_recording(tmp_path / "x.csv", ReadOptions()).signal.rate_hz == 1000


@pytest.mark.parametrize("ending", WRITERS)
def test_an_export_never_overwrites_and_never_stays_behind_half_done(ending: str, tmp_path: Path) -> None:
    recording = recorded(tmp_path / "x.bdf", samples())
    target = tmp_path / f"x{ending}"
    target.write_text("mine")
    with pytest.raises(RecordingError, match="the file exists; expected a new name"):
        WRITERS[ending](recording, target)
    assert target.read_text() == "mine"
    target.unlink()
    damaged = tmp_path / "damaged.csv"
    damaged.write_text("a\n" + "1\n" * 60_000 + "x\n")
    with pytest.raises(RecordingError, match="expected a number"):
        WRITERS[ending](open_recording(damaged, ReadOptions(1000.0, "uV")), target)
    assert not target.exists()
    with pytest.raises(RecordingError, match="No such file or directory"):
        WRITERS[ending](recording, tmp_path / "none" / f"x{ending}")


def test_a_parquet_file_of_others_is_read_as_csv_is(tmp_path: Path) -> None:
    path = foreign(tmp_path / "x.parquet", t_ms=[0, 2, 4, 10], left=[1, 2, None, 4], note=["a", "b", "c", "d"])
    options = ReadOptions(units="mV", channels=("left",))
    recording = open_recording(path, options)
    assert (recording.signal.rate_hz, [b.start for b in recording.blocks()]) == (500.0, [0, 5])
    assert np.array_equal(
        values_of(path, units="mV", channels=("left",))[:, 0], [1e3, 2e3, *[np.nan] * 3, 4e3], equal_nan=True
    )
    assert values_of(path, units="counts", uv_per_count=0.5, channels=("left",), rate_hz=10.0)[0].tolist() == [0.5]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": [1.0]}, {"units": "uV"}, "no sampling rate; expected --rate HZ or a time column"),
        ({"a": [1.0]}, {"rate_hz": 10.0}, "no units; expected --units uV|mV|V|counts"),
        ({"a": ["x"]}, {"rate_hz": 10.0, "units": "uV"}, "column a holds string; expected numbers"),
        ({"t": [0.0, 1.0, 1.0], "a": [1, 2, 3]}, {"units": "uV"}, "row 3, column t: time does not advance"),
        ({"a": []}, {"rate_hz": 10.0, "units": "uV"}, "no samples after the header"),
    ],
)
def test_what_cannot_be_read_is_said(columns: Any, options: Any, message: str, tmp_path: Path) -> None:
    assert error_of(foreign(tmp_path / "x.parquet", **columns), **options).startswith(message)


@pytest.mark.parametrize("keep", [4, 100, 60_000])
def test_a_damaged_file_is_said(keep: int, tmp_path: Path) -> None:
    path = foreign(tmp_path / "x.parquet", t=np.arange(9000) / 1000, a_uV=np.random.default_rng(1).random(9000))
    path.write_bytes(path.read_bytes()[:keep])
    assert error_of(path).startswith("damaged Parquet (")


def test_damage_in_the_middle_is_said(tmp_path: Path) -> None:
    path = foreign(tmp_path / "x.parquet", t=np.arange(9000) / 1000, a_uV=np.random.default_rng(1).random(9000))
    data = bytearray(path.read_bytes())
    data[4:90] = bytes(86)
    path.write_bytes(data)
    assert error_of(path).startswith("damaged Parquet (")


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path) -> None:
    path = foreign(tmp_path / "x.parquet", a=[1.0])
    code = "import sys; sys.modules['pyarrow'] = None\nfrom services.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "analyze", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1, f"unshrug: {path}: Parquet needs pyarrow; expected: pip install 'unshrug[parquet]'\n",
    )  # fmt: skip


def test_a_long_recording_is_exported_in_bounded_memory(tmp_path: Path) -> None:
    peaks = []
    for n in (200_000, 800_000):
        recording = recorded(tmp_path / f"{n}.bdf", samples(n))
        tracemalloc.start()
        WRITERS[".parquet"](recording, tmp_path / f"{n}.parquet")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1e6
