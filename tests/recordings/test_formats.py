"""Real muscles in every format: the same events."""

from pathlib import Path

from firmware_bridge.recordings import WRITERS, ReadOptions, open_recording
from firmware_bridge.recordings.bdf import BdfWriter
from services.analysis import Given, analyze, calibrate
from services.settings import Settings
from tests.recordings.conftest import write_csv
from tests.recordings.test_real_emg import FATIGUE_REST, MYO, PLUX_12, labels


def the_same_in_every_format(text: Path, options: ReadOptions, given: Given, folder: Path) -> int:
    """Hold that nothing changes on the way through BDF and Parquet; return how many events there are."""
    source = open_recording(text, options)
    writer = BdfWriter(folder / "x.bdf", source.signal, 0, 1_700_000_000.0)
    for block in source.blocks():
        writer.block(block)
    writer.close()
    kept = open_recording(folder / "x.bdf", ReadOptions())
    WRITERS[".parquet"](kept, folder / "x.parquet")
    settings = Settings()
    wanted, *others = (
        analyze(recording, settings, calibrate(recording, settings, given))
        for recording in (source, kept, open_recording(folder / "x.parquet", ReadOptions()))
    )
    for found in others:
        assert found["channels"] == wanted["channels"]
        assert found["calibration"] == wanted["calibration"]
    return len(wanted["channels"][0]["events"])


def test_a_biceps_in_12_bits(plux_samples: Path, tmp_path: Path) -> None:
    path = write_csv(plux_samples / "emg_fatigue.h5", tmp_path / "fatigue.csv", "channel_2")
    assert the_same_in_every_format(path, PLUX_12, FATIGUE_REST, tmp_path) > 0


def test_a_forearm_in_8_bits_with_two_of_its_channels(data: Path, tmp_path: Path) -> None:
    channel, _ = labels(data, "S1_gesture2")
    options = ReadOptions(MYO.rate_hz, MYO.units, uv_per_count=MYO.uv_per_count, channels=(channel, "ch1"))
    path = data / "myo_5s_rest_5s_hold_labelled" / "S1_gesture2.csv"
    assert the_same_in_every_format(path, options, Given(), tmp_path) == 6
