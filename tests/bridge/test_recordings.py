import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware_bridge.recordings import ReadOptions, Recording, RecordingError, open_recording, text
from tests.bridge.helpers import Array, joined

NAN = float("nan")
UV = ReadOptions(units="uV")
UV_1K = ReadOptions(units="uV", rate_hz=1000.0)

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "recording.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def values_of(recording: Recording) -> Array:
    return joined(list(recording.blocks()))


def same(values: Array, expected: list[list[float]]) -> bool:
    return np.array_equal(values, np.array(expected), equal_nan=True)


def error_of(path: Path, options: ReadOptions) -> str:
    """Return what is said of a recording that cannot be read, be it at once or on the way."""
    with pytest.raises(RecordingError) as error:
        values_of(open_recording(path, options))
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# Dialects of CSV


@pytest.mark.parametrize(
    "text",
    [
        "left_uV,right_uV\n1.5,-2\n3,4e1\n",
        "left_uV,right_uV\r\n1.5,-2\r\n3,4e1\r\n",
        "left_uV,right_uV\n1.5,-2\n3,4e1",
        "\ufeffleft_uV,right_uV\n1.5,-2\n3,4e1\n",
        "left_uV, right_uV\n1.5, -2\n3, 4e1\n",
        '"left_uV","right_uV"\n1.5,-2\n3,4e1\n',
        '"left_uV","right_uV"\n"1.5","-2"\n"3","4e1"\n',
        "left_uV;right_uV\n1.5;-2\n3;4e1\n",
        "left_uV;right_uV\n1,5;-2\n3;4e1\n",
        "left_uV\tright_uV\n1.5\t-2\n3\t4e1\n",
        "left_uV\tright_uV\n1,5\t-2\n3\t4e1\n",
        "\ufeffleft_uV;right_uV\r\n1,5;-2,0\r\n3,0;4e1\r\n",
        "left_uV,right_uV\n1.5,-2\n\n3,4e1\n\n",
        "note,left_uV,right_uV\n-,1.5,-2\nx,3,4e1\n",
    ],
    ids=[
        "comma",
        "CRLF",
        "no last end",
        "byte order mark",
        "blanks",
        "quoted header",
        "all quoted",
        "semicolon",
        "semicolon, decimal comma",
        "tab",
        "tab, decimal comma",
        "spreadsheet",
        "blank lines",
        "column of text",
    ],
)
def test_every_dialect_gives_the_same_samples(write: Write, text: str) -> None:
    options = ReadOptions(rate_hz=1000.0, channels=("left_uV", "right_uV"))
    recording = open_recording(write(text), options)
    assert recording.signal.channels == ("left_uV", "right_uV")
    assert recording.signal.rate_hz == 1000.0
    assert same(values_of(recording), [[1.5, -2], [3, 40]])


def test_recording_without_a_header_has_numbered_channels(write: Write) -> None:
    recording = open_recording(write("1,2\n3,4\n"), UV_1K)
    assert recording.signal.channels == ("ch1", "ch2")
    assert same(values_of(recording), [[1, 2], [3, 4]])


def test_single_column_needs_no_delimiter(write: Write) -> None:
    assert same(values_of(open_recording(write("emg\n1\n2\n3\n"), UV_1K)), [[1], [2], [3]])


def test_channels_are_chosen_by_name_and_in_that_order(write: Write) -> None:
    recording = open_recording(write("a,b,c\n1,2,3\n4,5,6\n"), ReadOptions(1000.0, "uV", channels=("c", "a")))
    assert recording.signal.channels == ("c", "a")
    assert same(values_of(recording), [[3, 1], [6, 4]])


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN", "inf", "-inf"])
def test_missing_value_is_nan_and_keeps_its_place(write: Write, cell: str) -> None:
    assert same(values_of(open_recording(write(f"a,b\n1,2\n{cell},4\n5,6\n"), UV_1K)), [[1, 2], [NAN, 4], [5, 6]])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_row_of_missing_values_keeps_its_place(write: Write, delimiter: str) -> None:
    text = "a,b\n1,2\n,\n5,6\n".replace(",", delimiter)
    assert same(values_of(open_recording(write(text), UV_1K)), [[1, 2], [NAN, NAN], [5, 6]])


# Units and scale


@pytest.mark.parametrize(("unit", "uv"), [("uV", 1.0), ("mV", 1e3), ("V", 1e6), ("UV", 1.0), ("mv", 1e3)])
def test_units_may_stand_in_the_names(write: Write, unit: str, uv: float) -> None:
    recording = open_recording(write(f"left_{unit},right_{unit}\n0.5,2\n"), ReadOptions(1000.0))
    assert same(values_of(recording), [[0.5 * uv, 2 * uv]])


@pytest.mark.parametrize(("unit", "uv"), [("uV", 1.0), ("mV", 1e3), ("V", 1e6)])
def test_units_may_be_given(write: Write, unit: str, uv: float) -> None:
    recording = open_recording(write("left,right\n0.5,2\n"), ReadOptions(1000.0, unit))
    assert same(values_of(recording), [[0.5 * uv, 2 * uv]])


@pytest.mark.parametrize("unit", ["uV", "mV", "V"])
def test_recording_in_volts_of_any_kind_has_no_adc_step_and_no_range(write: Write, unit: str) -> None:
    signal = open_recording(write("emg\n0.5\n"), ReadOptions(1000.0, unit)).signal
    assert (signal.uv_per_count, signal.rails_uv) == (None, None)


@pytest.mark.parametrize("units", [None, "counts"])
def test_counts_take_the_scale_of_a_board(write: Write, units: str | None) -> None:
    recording = open_recording(write("emg\n512\n"), ReadOptions(1000.0, units, board="myoware2-5v"))
    step_uv = 5e6 / 1024 / 200
    assert values_of(recording)[0, 0] == pytest.approx(512 * step_uv)
    assert recording.signal.uv_per_count == pytest.approx(step_uv)
    assert recording.signal.rails_uv == pytest.approx((0, 1023 * step_uv))


def test_counts_take_the_scale_that_is_given(write: Write) -> None:
    options = ReadOptions(1000.0, "counts", board="myoware2-5v", uv_per_count=0.5, adc_bits=12)
    recording = open_recording(write("emg\n512\n"), options)
    assert values_of(recording)[0, 0] == 256.0
    assert recording.signal.rails_uv == (0, 2047.5)


# Time


def table(stamps: list[float], name: str, digits: int = 6) -> str:
    return f"{name},emg_uV\n" + "".join(f"{t:.{digits}f},{k}\n" for k, t in enumerate(stamps))


@pytest.mark.parametrize(
    ("name", "tick_s"),
    [("time", 1.0), ("t", 1.0), ("Time_s", 1.0), ("timestamp", 1.0), ("ms", 1e-3), ("t_ms", 1e-3), ("micros", 1e-6)],
)
@pytest.mark.parametrize("first_s", [0.0, 1234.5])
def test_time_column_gives_the_rate_and_is_no_channel(write: Write, name: str, tick_s: float, first_s: float) -> None:
    recording = open_recording(write(table([(first_s + k / 500) / tick_s for k in range(50)], name)), ReadOptions())
    assert (recording.signal.rate_hz, recording.signal.channels) == (500.0, ("emg_uV",))
    assert same(values_of(recording), [[k] for k in range(50)])


@pytest.mark.parametrize(("name", "tick_s"), [("time_s", 1.0), ("time_ms", 1e-3), ("time_us", 1e-6)])
@pytest.mark.parametrize("lost", [1, 3, 30_000])
def test_jump_of_the_time_is_a_gap_of_its_length(write: Write, name: str, tick_s: float, lost: int) -> None:
    places = [*range(20), *range(20 + lost, 40 + lost), *range(47 + lost, 60 + lost)]
    recording = open_recording(write(table([k / 1000 / tick_s for k in places], name)), ReadOptions())
    blocks = list(recording.blocks())
    assert recording.signal.rate_hz == 1000.0
    assert [(block.start, len(block.values)) for block in blocks] == [(0, 20), (20 + lost, 20), (47 + lost, 13)]
    assert np.concatenate([block.values for block in blocks])[:, 0].tolist() == list(range(53))


def test_time_may_be_rounded_and_jitter(write: Write) -> None:
    rng = np.random.default_rng(1)
    stamps = (np.arange(2000) + rng.uniform(-0.2, 0.2, 2000)) / 1000
    recording = open_recording(write(table(stamps.tolist(), "time_s", digits=4)), ReadOptions())
    assert recording.signal.rate_hz == 1000.0
    assert same(values_of(recording), [[k] for k in range(2000)])


@pytest.mark.parametrize("rate_hz", [600.0, 800.0, 860.0])
def test_time_too_coarse_for_the_rate_is_said_and_not_misread(write: Write, rate_hz: float) -> None:
    path = write(table([int(1000 * k / rate_hz) for k in range(2000)], "time_ms"))
    assert error_of(path, ReadOptions()) == "column time_ms is too coarse or uneven; expected --rate HZ"
    assert len(values_of(open_recording(path, ReadOptions(rate_hz)))) == 2000


def test_rate_that_is_given_counts_more_than_the_time_column(write: Write) -> None:
    recording = open_recording(write("time_s,emg_uV\n0,1\n0,2\n9,3\n"), ReadOptions(250.0))
    assert (recording.signal.rate_hz, recording.signal.channels) == (250.0, ("emg_uV",))
    assert same(values_of(recording), [[1], [2], [3]])


@pytest.mark.parametrize("stamp", ["0.005", "0.004", "0.0", "-1", "", "nan"], ids=lambda stamp: stamp or "empty")
def test_time_that_does_not_advance_is_said_with_its_line(write: Write, stamp: str) -> None:
    rows = [f"{k / 1000},{k}" for k in range(20)]
    rows[6] = f"{stamp},6"
    message = error_of(write("\n".join(["time_s,emg_uV", *rows])), ReadOptions())
    assert message.startswith("line 8, column time_s: ")


def test_time_that_does_not_advance_is_said_with_its_line_in_spite_of_blank_lines(write: Write) -> None:
    rows = [f"{k / 1000},{k}" for k in range(20)]
    rows[6] = "0.002,6"
    message = error_of(write("\n".join(["time_s,emg_uV", *rows[:3], "", *rows[3:]])), ReadOptions())
    assert message == "line 9, column time_s: time does not advance (or give --rate HZ)"


@pytest.mark.parametrize(("name", "tick_s"), [("time_s", 1.0), ("time_ms", 1e-3)])
def test_jump_of_more_than_an_hour_is_a_mistake(write: Write, name: str, tick_s: float) -> None:
    stamps = [k / 1000 / tick_s for k in [*range(20), *range(3_700_000, 3_700_010)]]
    message = error_of(write(table(stamps, name)), ReadOptions())
    assert f"column {name}" in message
    assert "jumps by more than an hour" in message


# Long recordings


@pytest.mark.parametrize("lines", [3, 7, 50, 99, 1000])
@pytest.mark.parametrize("gap", [None, 49, 50, 51])
def test_reading_in_pieces_gives_the_same(
    write: Write, monkeypatch: pytest.MonkeyPatch, lines: int, gap: int | None
) -> None:
    places = [k + (5 if gap is not None and k >= gap else 0) for k in range(200)]
    values = [[k, NAN if k % 37 == 0 else k * 0.1] for k in range(200)]
    rows = [f"{place / 1000},{a},{b}".replace("nan", "") for place, (a, b) in zip(places, values, strict=True)]
    path = write("\n".join(["time_s,a_uV,b_uV", *rows[:130], "", "", *rows[130:]]) + "\n")
    expected = np.full((places[-1] + 1, 2), np.nan)
    expected[places] = values
    monkeypatch.setattr(text, "PIECE", lines)
    assert np.array_equal(values_of(open_recording(path, ReadOptions())), expected, equal_nan=True)
    untimed = open_recording(path, ReadOptions(1000.0))
    assert np.array_equal(values_of(untimed), expected[places], equal_nan=True)


@pytest.mark.parametrize("lines", [3, 10, 50_000])
@pytest.mark.parametrize("options", [ReadOptions(), ReadOptions(1000.0)], ids=["by time", "by rate"])
def test_error_in_a_later_piece_has_its_line(
    write: Write, monkeypatch: pytest.MonkeyPatch, lines: int, options: ReadOptions
) -> None:
    monkeypatch.setattr(text, "PIECE", lines)
    rows = [f"{k / 1000},{k}" for k in range(40)]
    rows[33] = "0.033,oops"
    message = error_of(write("\n".join(["time_s,emg_uV", *rows])), options)
    assert message == "line 35, column emg_uV: 'oops'; expected a number"


def test_recording_may_be_read_again(write: Write) -> None:
    path = write("emg\n1\n2\n")
    recording = open_recording(path, UV_1K)
    assert values_of(recording).tolist() == values_of(recording).tolist() == [[1], [2]]
    assert recording.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_codes_are_what_stands_in_the_file(write: Write) -> None:
    recording = open_recording(write("emg\n512\n513\n"), ReadOptions(1000.0, board="myoware2-5v"))
    ((start, codes),) = recording.codes()
    assert (start, codes.tolist()) == (0, [[512], [513]])
    assert (recording.board.rate_hz, recording.board.adc_bits) == (1000.0, 10)


# What cannot be read


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n3,x\n", UV_1K, "line 3, column b: 'x'; expected a number"),
        ("a,b\n1,2\n\n3,1O\n", UV_1K, "line 4, column b: '1O'; expected a number"),
        ("a,b\n1,2\n3\n", UV_1K, "line 3: 1 columns; expected 2"),
        ("a;b\n1;2\n3\n5;6\n", UV_1K, "line 3: 1 columns; expected 2"),
        ("a,b\n1,2\n", UV, "no sampling rate; expected --rate HZ or a time column"),
        ("a,b\n1,2\n", ReadOptions(1000.0), "no units; expected --units uV|mV|V|counts"),
        ("a_uV,b_mV\n1,2\n", ReadOptions(1000.0), "no units; expected --units uV|mV|V|counts"),
        (
            "a,b\n1,2\n",
            ReadOptions(1000.0, "counts"),
            "counts of an unknown size; expected --uv-per-count X or a --board that has a known one",
        ),
        ("a,b\n1,2\n", ReadOptions(1000.0, "uV", channels=("c",)), "no column 'c'; expected one of a, b"),
        ("time_s,t_ms\n0,0\n1,1000\n", UV, "no column with samples; found only time_s, t_ms"),
        ("a,b\n1,2\n", ReadOptions(-5.0, "uV"), "sampling rate -5.0; expected more than 0 Hz"),
        ("time_s,a_uV\n5,1\n5,2\n5,3\n", ReadOptions(), "column time_s does not advance; expected --rate HZ"),
        ("", UV_1K, "the file is empty; expected a header row and samples"),
        ("\n \r\n", UV_1K, "the file is empty; expected a header row and samples"),
        ("a,b\n", UV_1K, "no samples after the header"),
        ("a,b", UV_1K, "no samples after the header"),
        ("a,b\n\n\n", UV_1K, "no samples after the header"),
        ("emg\r\n\r\n \r\n\r\n", UV_1K, "no samples after the header"),
        ("time_s,a_uV\n", ReadOptions(), "no samples after the header"),
        ("time_s,a_uV\n\n", ReadOptions(), "no samples after the header"),
    ],
    ids=[
        "text",
        "letter O",
        "short row",
        "short row, semicolon",
        "no rate",
        "no units",
        "mixed units",
        "counts",
        "unknown column",
        "only times",
        "negative rate",
        "time stands still",
        "empty",
        "blank",
        "header only",
        "header only, no end",
        "header and blank lines",
        "header of one column and blank lines",
        "header only, with a time",
        "header with a time and a blank line",
    ],
)
def test_error_says_what_and_what_was_expected(write: Write, text: str, options: ReadOptions, message: str) -> None:
    assert error_of(write(text), options).startswith(message)


@pytest.mark.parametrize(
    "text",
    ["emg\n1\n1,5\n2\n", "a,b\n1,2\n3,4,5\n", "a,b\n1,2\n3,4,5\n6,x\n", "a,b\n1,5,2,5\n3,5,4,5\n"],
    ids=["decimal comma", "long row", "long row before text", "two decimal commas"],
)
def test_row_with_too_many_columns_is_refused_since_nobody_knows_which_is_which(write: Write, text: str) -> None:
    message = error_of(write(text), UV_1K)
    assert message.startswith("line ")
    assert "columns; expected " in message


def test_row_may_end_in_a_delimiter(write: Write) -> None:
    assert same(values_of(open_recording(write("a,b\n1,2,\n3,4,\n"), UV_1K)), [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    "content", [b"\x89HDF\r\n\x1a\n\0\0\0", "emg\n1\n2\n".encode("utf-16")], ids=["HDF5", "UTF-16"]
)
def test_binary_file_is_refused(write: Write, content: bytes) -> None:
    assert error_of(write(content), UV_1K) == "not a text file; expected CSV, EDF, BDF, OpenSignals text or Parquet"


def test_binary_data_without_a_zero_are_refused(write: Write) -> None:
    data = np.random.default_rng(1).integers(1, 256, 20_000).astype(np.uint8).tobytes()
    assert error_of(write(data), UV_1K)


def test_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert error_of(tmp_path / "pipe", UV_1K) == "not a regular file"


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert error_of(tmp_path / "gone.csv", UV_1K) == "No such file or directory"
    assert error_of(tmp_path, UV_1K) == "Is a directory"


# OpenSignals


def opensignals_text(rows: list[list[int]], **facts: Any) -> str:
    device = {
        "sensor": ["EMG"],
        "device name": "00:07:80:00:00:01",
        "column": ["nSeq", "DI", "CH1"],
        "channels": [1],
        "device": "biosignalsplux",
        "sampling rate": 1000,
        "label": ["CH1"],
        "resolution": [16],
    } | facts
    lines = ["# OpenSignals Text File Format", "# " + json.dumps({"00:07:80:00:00:01": device}), "# EndOfHeader"]
    return "\n".join(lines + ["\t".join(map(str, row)) + "\t" for row in rows]) + "\n"


def test_opensignals_text_says_rate_scale_and_channel(write: Write) -> None:
    recording = open_recording(write(opensignals_text([[0, 0, 32768], [1, 0, 32769], [2, 0, 0]])), ReadOptions())
    step_uv = 3e6 / 2**16 / 1000
    assert (recording.signal.rate_hz, recording.signal.channels) == (1000.0, ("CH1",))
    assert recording.signal.uv_per_count == pytest.approx(step_uv)
    assert recording.signal.rails_uv == pytest.approx((0, 65535 * step_uv))
    assert values_of(recording)[:, 0] == pytest.approx([32768 * step_uv, 32769 * step_uv, 0])


def test_opensignals_text_gives_the_emg_channels_where_there_are_any(write: Write) -> None:
    facts = {"sensor": ["ECG", "EMG", "EMGL"], "column": ["nSeq", "DI", "CH1", "CH2", "CH7"], "resolution": [16] * 3}
    path = write(opensignals_text([[0, 0, 1, 2, 3], [1, 0, 4, 5, 6]], **facts))
    assert open_recording(path, ReadOptions()).signal.channels == ("CH2", "CH7")
    assert open_recording(path, ReadOptions(channels=("CH1",))).signal.channels == ("CH1",)
    ((_, codes),) = open_recording(path, ReadOptions()).codes()
    assert codes.tolist() == [[2, 3], [5, 6]]


def test_bitalino_has_its_own_scale_and_a_resolution_for_every_column(write: Write) -> None:
    facts = {
        "device": "bitalino_rev",
        "column": ["nSeq", "I1", "I2", "O1", "O2", "A2"],
        "resolution": [4, 1, 1, 1, 1, 10],
    }
    recording = open_recording(write(opensignals_text([[0, 0, 0, 0, 0, 512]], **facts)), ReadOptions())
    assert recording.signal.uv_per_count == pytest.approx(3.3e6 / 2**10 / 1009)
    assert recording.signal.rails_uv == pytest.approx((0, 1023 * 3.3e6 / 2**10 / 1009))


def test_scale_follows_the_resolution_of_the_chosen_channel(write: Write) -> None:
    facts = {"sensor": ["EMG", "EMG"], "column": ["nSeq", "DI", "CH1", "CH2"], "resolution": [8, 16]}
    path = write(opensignals_text([[0, 0, 100, 30_000]], **facts))
    for name, bits in (("CH1", 8), ("CH2", 16)):
        recording = open_recording(path, ReadOptions(channels=(name,)))
        assert recording.signal.uv_per_count == pytest.approx(3e6 / 2**bits / 1000)


def test_channels_of_different_resolution_are_not_read_with_one_scale(write: Write) -> None:
    facts = {"sensor": ["EMG", "EMG"], "column": ["nSeq", "DI", "CH1", "CH2"], "resolution": [8, 16]}
    assert error_of(write(opensignals_text([[0, 0, 100, 30_000]], **facts)), ReadOptions())


def test_opensignals_text_may_be_corrected_by_the_caller(write: Write) -> None:
    options = ReadOptions(rate_hz=500.0, uv_per_count=0.25, adc_bits=12)
    recording = open_recording(write(opensignals_text([[0, 0, 8]])), options)
    assert (recording.signal.rate_hz, recording.signal.rails_uv) == (500.0, (0, 1023.75))
    assert values_of(recording).tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("# EndOfHeader\n", ""), "no line '# EndOfHeader' within the first "),
        (('"sampling rate"', '"rate"'), "the OpenSignals header is damaged ("),
        (('"sampling rate": 1000', '"sampling rate": 0'), "sampling rate 0.0; expected more than 0 Hz"),
        (("}}\n", "}\n"), "the OpenSignals header is damaged ("),
        (("# {", "{"), "the OpenSignals header is damaged ("),
        (("}}\n", '}, "00:07:80:00:00:02": {}}\n'), "2 devices in one file; expected one"),
        (("\t32769\t", "\tx\t"), "line 5, column CH1: 'x'; expected a number"),
        (("\t32769\t", ""), "line 5: 2 columns; expected 3"),
        (("0\t0\t32768\t\n1\t0\t32769\t\n", ""), "no samples after the header"),
    ],
    ids=["no end", "no rate", "rate 0", "cut", "no facts", "two devices", "text", "short row", "header only"],
)
def test_damaged_opensignals_text_is_said(write: Write, change: tuple[str, str], message: str) -> None:
    text = opensignals_text([[0, 0, 32768], [1, 0, 32769]])
    assert change[0] in text
    assert error_of(write(text.replace(*change)), ReadOptions()).startswith(message)


def test_real_opensignals_files_are_read_whole(opensignals: Path) -> None:
    read = 0
    for path in sorted(opensignals.glob("*.txt")):
        with path.open() as file:
            _, facts, _, *rows = file
        devices = list(json.loads(facts[2:]).values())
        if len(devices) > 1:
            assert error_of(path, ReadOptions()) == "2 devices in one file; expected one"
            continue
        (device,) = devices
        # The channels are the last columns; those that are called CH1 or A1 are found without being named.
        names = tuple(device["column"][-len(device["channels"]) :])
        usual = all(name.startswith(("CH", "A")) for name in names)
        recording = open_recording(path, ReadOptions() if usual else ReadOptions(channels=names))
        assert recording.signal.rate_hz == device["sampling rate"], path.name
        assert recording.signal.channels == names, path.name
        vref_uv, gain = (3.3e6, 1009) if device["device"] == "bitalino_rev" else (3e6, 1000)
        step_uv = vref_uv / 2 ** device["resolution"][-1] / gain
        assert recording.signal.uv_per_count == pytest.approx(step_uv), path.name
        codes = np.concatenate([codes for _, codes in recording.codes()])
        assert len(codes) == len(rows), path.name
        for row in (0, len(rows) // 2, -1):
            assert codes[row].tolist() == [float(cell) for cell in rows[row].split()[-len(names) :]], path.name
        read += 1
    assert read > 15


def test_empty_line_in_a_file_of_one_column_is_a_lost_sample(write: Write) -> None:
    recording = open_recording(write("emg\n1\n\n3\n\n\n"), UV_1K)
    assert same(values_of(recording), [[1], [NAN], [3]])


@pytest.mark.parametrize(("name", "tick_s"), [("Time (s)", 1.0), ("time[ms]", 1e-3), ("T_us", 1e-6), ("millis", 1e-3)])
def test_time_column_is_known_however_it_is_spelt(write: Write, name: str, tick_s: float) -> None:
    rows = "".join(f"{k * 0.002 / tick_s:g},{k}\n" for k in range(10))
    recording = open_recording(write(f"{name},left\n{rows}"), ReadOptions(units="uV"))
    assert recording.signal.rate_hz == 500
    assert recording.signal.channels == ("left",)
