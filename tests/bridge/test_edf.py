"""EDF and BDF of other programs."""

import contextlib
import tracemalloc
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.recordings import ReadOptions, RecordingError, open_recording
from tests.bridge.helpers import Array, error_of, steady, values_of

N = 4000
VALUES = np.random.default_rng(1).normal(0, 50, N)


def signal(
    data: Array = VALUES,
    rate_hz: float = 1000.0,
    label: str = "EMG left",
    unit: str = "uV",
    reach: float = 500.0,
    kind: Any = edfio.EdfSignal,
) -> Any:
    return kind(data, rate_hz, label=label, physical_dimension=unit, physical_range=(-reach, reach))


def write(path: Path, *signals: Any, annotations: Any = None, record_s: float = 1.0) -> Path:
    edfio.Edf(list(signals), annotations=annotations, data_record_duration=record_s).write(path)
    return path


@pytest.mark.parametrize(("unit", "uv"), [("uV", 1.0), ("mV", 1e3), ("V", 1e6)])
def test_units_and_scale_are_the_headers(unit: str, uv: float, tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", signal(VALUES / uv, unit=unit, reach=500 / uv))
    recording = open_recording(path, ReadOptions())
    assert (recording.signal.rate_hz, recording.signal.channels) == (1000.0, ("EMG left",))
    assert recording.signal.uv_per_count == pytest.approx(1000 / 65535)
    assert recording.signal.rails_uv == pytest.approx((-500, 500))
    assert values_of(path)[:, 0] == pytest.approx(VALUES, abs=1000 / 65535)


def test_bdf_of_another_program_is_read_with_its_24_bits(tmp_path: Path) -> None:
    edfio.Bdf([signal(kind=edfio.BdfSignal)]).write(tmp_path / "x.bdf")
    assert values_of(tmp_path / "x.bdf")[:, 0] == pytest.approx(VALUES, abs=1e-4)


def test_a_signal_that_is_upside_down_is_turned(tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", signal())
    data = bytearray(path.read_bytes())
    at = 256 + 16 + 80 + 8
    data[at : at + 16] = b"500     -500    "
    path.write_bytes(data)
    assert values_of(path)[:, 0] == pytest.approx(-VALUES, abs=0.02)
    rails = open_recording(path, ReadOptions()).signal.rails_uv
    assert rails == pytest.approx((-500, 500))


def test_emg_is_found_among_other_signals_and_others_can_be_chosen(tmp_path: Path) -> None:
    eeg = signal(VALUES[:2000], 500.0, "EEG Fpz")
    spo2 = edfio.EdfSignal(np.full(4, 97.0), 1, label="SaO2", physical_dimension="%", physical_range=(0, 100))
    path = write(tmp_path / "x.edf", eeg, signal(label="EMG chin"), spo2)
    assert open_recording(path, ReadOptions()).signal.channels == ("EMG chin",)
    assert open_recording(path, ReadOptions(channels=("EEG Fpz",))).signal.rate_hz == 500
    assert error_of(path, channels=("EEG Fpz", "EMG chin")) == (
        "signals of different rates (EEG Fpz 500 Hz, EMG chin 1000 Hz); choose with --channels A,B"
    )
    assert error_of(path, channels=("SaO2",)) == "signal SaO2 is in '%'; expected --units uV|mV|V"
    assert error_of(path, channels=("EMG",)).startswith("no signal 'EMG'; expected one of EEG Fpz, EMG chin")


def test_channels_of_different_ranges_are_both_right(tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", signal(label="a"), signal(VALUES / 1000, label="b", unit="mV", reach=2))
    recording = open_recording(path, ReadOptions())
    assert (recording.signal.uv_per_count, recording.signal.rails_uv) == (None, None)
    assert values_of(path)[:, 0] == pytest.approx(VALUES, abs=0.02)
    assert values_of(path)[:, 1] == pytest.approx(VALUES, abs=0.1)


def test_the_caller_may_say_what_the_numbers_are(tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", signal(unit="adu", reach=1000))
    digital = edfio.read_edf(path).signals[0].digital
    assert values_of(path, uv_per_count=0.5)[:, 0].tolist() == (digital * 0.5).tolist()
    assert open_recording(path, ReadOptions(units="mV", rate_hz=250.0)).signal.rate_hz == 250
    assert error_of(path) == "no signal with samples; found only EMG left"
    assert error_of(path, units="counts").startswith("counts of an unknown size")


@pytest.mark.parametrize(("record_s", "rate_hz"), [(0.25, 1000.0), (2.0, 1000.0), (0.3, 1000 / 3), (1.0, 512.0)])
def test_rate_is_that_of_the_records(record_s: float, rate_hz: float, tmp_path: Path) -> None:
    n = round(record_s * rate_hz) * 4
    path = write(tmp_path / "x.edf", signal(VALUES[:n], n / 4 / record_s), record_s=record_s)
    assert open_recording(path, ReadOptions()).signal.rate_hz == pytest.approx(n / 4 / record_s, rel=1e-12)


def interrupted(path: Path, onsets: list[str]) -> Path:
    """Write records of a second that begin at these times, of one character each."""
    write(path, signal(), annotations=[edfio.EdfAnnotation(0, None, "begin")])
    data = bytearray(path.read_bytes().replace(b"EDF+C", b"EDF+D"))
    places = [data.index(f"+{k}\x14\x14".encode()) + 1 for k in range(len(onsets))]
    for at, onset in zip(places, onsets, strict=True):
        data[at : at + 1] = onset.encode()
    path.write_bytes(data)
    return path


def test_interruptions_are_gaps(tmp_path: Path) -> None:
    path = interrupted(tmp_path / "x.edf", ["2", "3", "7", "9"])
    blocks = list(open_recording(path, ReadOptions()).blocks())
    assert [b.start for b in blocks] == [0, 1000, 5000, 7000]
    assert np.concatenate([b.values for b in blocks])[:, 0] == pytest.approx(VALUES, abs=0.02)


@pytest.mark.parametrize("onset", ["0", "x", " "])
def test_records_that_overlap_or_have_no_time_are_said(onset: str, tmp_path: Path) -> None:
    said = error_of(interrupted(tmp_path / "x.edf", ["0", "1", onset, "9"]))
    assert said.startswith("record 2 ")


@pytest.mark.parametrize("length", ["0", "-1", "nan", "inf", "1e999999", "1e-99999", "x", ""])
def test_a_record_of_no_length_or_of_an_endless_one_is_said(length: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", signal())
    data = bytearray(path.read_bytes())
    data[244:252] = length.ljust(8).encode()
    path.write_bytes(data)
    assert error_of(path).startswith("the EDF header is damaged (")


@pytest.mark.parametrize("count", [-1, 9])
def test_a_count_of_records_that_is_not_true_is_seen_through(
    count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "x.edf", signal())
    data = bytearray(path.read_bytes())
    data[236:244] = str(count).ljust(8).encode()
    path.write_bytes(data)
    assert len(values_of(path)) == N
    assert str(path) in caplog.text


@steady
@given(st.lists(st.tuples(st.integers(0, 767), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 9000))
def test_damage_is_an_error_of_ours_or_does_not_matter(
    tmp_path_factory: Any, changes: list[tuple[int, int]], length: int
) -> None:
    path = tmp_path_factory.mktemp("damage") / "x.edf"
    write(path, signal(VALUES[:2000]), annotations=[])
    data = bytearray(path.read_bytes())
    for at, byte in changes:
        data[at] = byte
    path.write_bytes(data[: max(300, length)])
    with contextlib.suppress(RecordingError):
        for _ in open_recording(path, ReadOptions()).blocks():
            pass


def test_a_long_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", signal(np.tile(VALUES, 600)))
    tracemalloc.start()
    total = sum(len(b.values) for b in open_recording(path, ReadOptions()).blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (total, peak < 8e6) == (N * 600, True)


@pytest.mark.parametrize("transducer", ["active electrode, lost=2 of them", "lost=2", "lost=x", "lost=-1 ADC=5"])
def test_what_others_say_of_their_electrodes_changes_nothing(transducer: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", signal())
    data = bytearray(path.read_bytes())
    data[272:352] = transducer.encode().ljust(80)
    path.write_bytes(data)
    assert values_of(path)[:, 0] == pytest.approx(VALUES, abs=0.02)


@pytest.mark.parametrize("fact", ["ADC=a..b", "offset=zz", "quantum=0", "uV/count=0", "uV/count=nan"])
def test_damage_to_what_unshrug_says_of_its_own_is_an_error_of_ours(fact: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", signal())
    data = bytearray(path.read_bytes())
    lowest = data[256 + 120 : 256 + 128].decode().strip()
    data[272:352] = f"lost={lowest} {fact}".encode().ljust(80)
    path.write_bytes(data)
    assert "the EDF header is damaged" in error_of(path)
