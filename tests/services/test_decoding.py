"""A captured stream as a table."""

import csv
import io
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.boards import BOARDS
from firmware_bridge.decoders import bitalino, chords, scientisst
from firmware_bridge.decoders.framed import encode_data, encode_info
from firmware_bridge.packets import Info
from services.decoding import DecodingError, Tally, decode_stream
from tests.bridge.streams import KINDS, Kind
from tests.services.conftest import UNSHRUG

OWN = Info(2, 1000.0, 10, 5000, 200.0, "raw", boot_id=7, overruns=0, dropped=0)


def table(
    data: bytes, board: str, *, channels: int = 0, in_uv: bool = False, piece: int = 100
) -> tuple[list[list[str]], Tally]:
    out = io.StringIO()
    chunks = [data[at : at + piece] for at in range(0, len(data), piece)]
    tally = decode_stream(chunks, BOARDS[board], out.write, channels=channels, in_uv=in_uv)
    return list(csv.reader(io.StringIO(out.getvalue()))), tally


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_board_becomes_a_row_for_each_sample(kind: Kind) -> None:
    rows, tally = table(b"".join(kind.stream(50)), kind.board, channels=kind.channels)
    beside = len(rows[0]) - kind.channels
    assert [[int(cell) for cell in row[beside:]] for row in rows[1:]] == kind.random(50).tolist()
    assert (tally.samples, tally.lost, tally.damaged) == (50 * kind.per_frame, 0, 0)


def test_counter_goes_with_the_samples_and_tells_what_was_lost() -> None:
    frames = [chords.encode_frames(np.full((1, 2), k), k) for k in range(300)]
    rows, tally = table(b"".join(frames[:100] + frames[105:]), "chords")
    assert rows[0] == ["seq", "ch1", "ch2"]
    assert [int(row[0]) for row in rows[1:]] == [k % 256 for k in range(300) if not 100 <= k < 105]
    assert (tally.samples, tally.lost, tally.damaged) == (295, 5, 0)


def test_clock_of_a_board_tells_what_was_lost() -> None:
    data = scientisst.encode_frames(np.zeros((80, 1), np.int64), 5_000_000, v2=True)
    frames = [data[at : at + 7] for at in range(0, len(data), 7)]
    rows, tally = table(b"".join(frames[:20] + frames[23:]), "scientisst-v2", channels=1)
    assert rows[0] == ["t_us", "AI1"]
    assert [int(row[0]) for row in rows[1:]] == [5_000_000 + 1000 * k for k in range(80) if not 20 <= k < 23]
    assert (tally.samples, tally.lost) == (77, 3)


def test_own_frames_have_counter_and_clock_and_say_their_scale() -> None:
    codes = np.arange(16, dtype=np.int16).reshape(8, 2)
    data = [encode_data(codes, 65535, 2**32 - 8), encode_info(OWN, 8), encode_data(codes, 1, 2**32 - 8)]
    rows, tally = table(b"".join(data), "unshrug", in_uv=True)
    assert rows[0] == ["seq", "t_us", "ch1", "ch2"]
    assert rows[1] == ["65535", str(2**32 - 8), "0", f"{5e6 / 1024 / 200:.10g}"]
    assert rows[2][:2] == ["65535", ""]
    assert (tally.samples, tally.lost) == (16, 8)


def test_coarse_inputs_of_bitalino_have_their_own_scale() -> None:
    data = bitalino.encode_frames(np.full((20, 6), 3), 0)
    rows, _ = table(data, "bitalino", channels=6, in_uv=True)
    values = [float(cell) for cell in rows[1][1:]]
    assert values == pytest.approx([3 * 3.3e6 / 1024 / 1009] * 4 + [48 * 3.3e6 / 1024 / 1009] * 2)


def test_damage_is_counted() -> None:
    frames = [chords.encode_frames(np.full((1, 2), k), k) for k in range(60)]
    _, tally = table(b"".join([*frames[:20], b"rubbish", *frames[20:40], frames[40][:5], *frames[41:]]), "chords")
    assert (tally.lost, tally.damaged) == (60 - tally.samples, 2)
    assert 57 <= tally.samples <= 59


@pytest.mark.parametrize(
    ("data", "board", "channels", "in_uv", "words"),
    [
        (b"", "chords", 0, False, "no samples in 0 bytes; expected what a board of kind chords sends"),
        (b"512\r\n" * 50, "chords", 0, False, "no samples in 250 bytes"),
        (b"512\r\n" * 50, "ascii", 2, False, "the stream has 1 channels; expected 2"),
        (b"512\r\n" * 50, "ascii", 0, True, "the scale of ascii is not known; expected --uv-per-count X"),
        (encode_data(np.zeros((8, 2), np.int16), 0, 0), "unshrug", 0, True, "the scale of unshrug is not known"),
    ],
)
def test_stream_that_cannot_be_decoded_says_why(
    data: bytes, board: str, channels: int, in_uv: bool, words: str
) -> None:
    with pytest.raises(DecodingError, match=words):
        table(data, board, channels=channels, in_uv=in_uv)


def test_command_reads_a_file_and_standard_input_alike(tmp_path: Path) -> None:
    data = b"".join(KINDS[0].stream(500))
    raw = tmp_path / "raw.bin"
    raw.write_bytes(data)
    command = [UNSHRUG, "decode", "--board", "unshrug"]
    from_file = subprocess.run([*command, str(raw)], capture_output=True, check=True)
    from_pipe = subprocess.run([*command, "-"], input=data, capture_output=True, check=True)
    assert from_file.stdout == from_pipe.stdout
    assert len(from_file.stdout.splitlines()) == 4001
    assert from_file.stderr == b"unshrug: 4000 samples of 2 channels; 0 lost, 0 damaged places\n"


def test_scale_that_is_given_holds_in_spite_of_what_the_board_says() -> None:
    codes = np.full((8, 2), 100, np.int16)
    data = b"".join([encode_data(codes, 0, 0), encode_info(OWN, 8), encode_data(codes, 1, 8000)])
    out = io.StringIO()
    decode_stream([data], replace(BOARDS["unshrug"], uv_per_count=2.0), out.write, in_uv=True)
    assert {row.split(",")[2] for row in out.getvalue().splitlines()[1:]} == {"200"}


def test_board_that_changes_its_scale_is_not_given_two_in_one_table() -> None:
    codes = np.full((8, 2), 100, np.int16)
    data = [encode_info(OWN, 8), encode_data(codes, 0, 0), encode_info(replace(OWN, gain=400.0), 8)]
    with pytest.raises(DecodingError, match="changes its scale"):
        table(b"".join(data), "unshrug", in_uv=True)


def test_counter_that_starts_anew_is_no_loss() -> None:
    frames = KINDS[0].stream(100)
    _, tally = table(b"".join([*frames, *frames]), "unshrug")
    assert (tally.samples, tally.lost, tally.restarts) == (1600, 0, 1)


@pytest.mark.parametrize("lost", [3, 12])
def test_short_counter_that_jumps_is_a_loss(lost: int) -> None:
    frames = [bitalino.encode_frames(np.full((1, 2), k), k) for k in range(100)]
    _, tally = table(b"".join(frames[:40] + frames[40 + lost :]), "bitalino", channels=2)
    assert (tally.lost, tally.restarts) == (lost, 0)


def test_label_cannot_speak_to_the_terminal() -> None:
    rows, _ = table(b"x\r\n" + b"\x1b[2Jred:5\r\n" * 5, "ascii")
    assert rows[0] == ["?[2Jred"]
