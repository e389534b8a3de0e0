"""Real muscles: what must be found on recordings, and what must not, with the default settings."""

import csv
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from firmware_bridge.recordings import ReadOptions, open_recording
from services.analysis import Given, analyze, calibrate
from services.settings import Settings
from tests.recordings.conftest import write_csv

PLUX_16 = ReadOptions(rate_hz=1000, units="counts", uv_per_count=3e6 / 2**16 / 1000, adc_bits=16)
PLUX_12 = ReadOptions(rate_hz=1000, units="counts", uv_per_count=3e6 / 2**12 / 1000, adc_bits=12)
FATIGUE_REST = Given(rest_s=(122, 126))


def result_of(path: Path, options: ReadOptions, given: Given | None = None, settings: Settings | None = None) -> Any:
    settings = settings or Settings()
    recording = open_recording(path, options)
    return analyze(recording, settings, calibrate(recording, settings, given or Given()))


def events(path: Path, options: ReadOptions, given: Given | None = None, settings: Settings | None = None) -> Any:
    return result_of(path, options, given, settings)["channels"][0]["events"]


def merging(merge_s: float) -> Settings:
    settings = Settings()
    return replace(settings, shrug=replace(settings.shrug, merge_s=merge_s))


def test_nine_biceps_bursts_of_a_second_are_no_sustained_shrug(plux_samples: Path, tmp_path: Path) -> None:
    path = write_csv(plux_samples / "emg_bursts.h5", tmp_path / "bursts.csv", "channel_3")
    assert events(path, PLUX_16) == []


def test_thumb_twitches_are_no_sustained_shrug(plux_samples: Path, tmp_path: Path) -> None:
    path = write_csv(plux_samples / "emg_1000_hz_16_bits_solo.h5", tmp_path / "thumb.csv", "channel_1")
    assert events(path, PLUX_16) == []


def test_three_second_contractions_stay_apart_without_merging(plux_samples: Path, tmp_path: Path) -> None:
    path = write_csv(plux_samples / "emg_fatigue.h5", tmp_path / "fatigue.csv", "channel_2")
    found = events(path, PLUX_12, FATIGUE_REST, merging(0))
    assert len(found) >= 10
    assert all(2.99 <= e["end_s"] - e["start_s"] <= 3.8 for e in found)


def test_three_second_contractions_with_short_pauses_become_one_when_merged(plux_samples: Path, tmp_path: Path) -> None:
    path = write_csv(plux_samples / "emg_fatigue.h5", tmp_path / "fatigue.csv", "channel_2")
    apart = events(path, PLUX_12, FATIGUE_REST, merging(0))
    merged = events(path, PLUX_12, FATIGUE_REST)
    assert len(merged) < len(apart)
    assert max(e["end_s"] - e["start_s"] for e in merged) > 20
    assert merged[-1]["end_s"] > 116


def test_a_clipped_recording_says_so_and_covers_all_its_time(plux_samples: Path, tmp_path: Path) -> None:
    path = write_csv(plux_samples / "emg_fatigue.h5", tmp_path / "fatigue.csv", "channel_2")
    result = result_of(path, PLUX_12, FATIGUE_REST)
    intervals = result["channels"][0]["quality"]
    assert any(i["state"] == "bad" and i["reasons"] == ["saturation"] for i in intervals)
    assert intervals[0]["start_s"] == 0
    assert intervals[-1]["end_s"] == result["recording"]["duration_s"]
    assert all(a["end_s"] == b["start_s"] for a, b in pairwise(intervals))


MYO = ReadOptions(rate_hz=200, units="counts", uv_per_count=1.0)
HOLDS = ("S1_gesture1", "S1_gesture2", "S1_gesture7", "S2_gesture2", "S2_gesture7", "S3_gesture2", "S3_gesture7")


def labels(data: Path, name: str) -> tuple[str, list[tuple[float, float]]]:
    """The channel and the prompted holds of a file."""
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (data / "myo_5s_rest_5s_hold_labelled" / "annotations.csv").open() as file:
        for row in csv.DictReader(file):
            found[row["file"]].append(row)
    rows = found[f"{name}.csv"]
    return rows[0]["channel"], [(float(r["start_s"]), float(r["end_s"])) for r in rows]


@pytest.mark.parametrize("name", HOLDS)
def test_six_labelled_holds_are_found(data: Path, name: str) -> None:
    channel, holds = labels(data, name)
    path = data / "myo_5s_rest_5s_hold_labelled" / f"{name}.csv"
    found = events(path, replace(MYO, channels=(channel,)))
    assert len(found) == len(holds) == 6
    for event, (start, end) in zip(found, holds, strict=True):
        assert -0.7 <= event["start_s"] - start <= 0.7
        assert -0.8 <= event["end_s"] - end <= 0.8


def test_five_or_six_weak_holds_are_found(data: Path) -> None:
    channel, holds = labels(data, "S2_gesture1")
    found = events(data / "myo_5s_rest_5s_hold_labelled" / "S2_gesture1.csv", replace(MYO, channels=(channel,)))
    assert len(found) in (5, 6)
    assert all(any(abs(e["start_s"] - start) <= 0.7 for start, _ in holds) for e in found)


@pytest.mark.parametrize(("name", "channel"), [("S1_gesture0", "ch4"), ("S2_gesture0", "ch4")])
def test_a_minute_without_a_prompt_has_no_hold(data: Path, name: str, channel: str) -> None:
    path = data / "myo_5s_rest_5s_hold_labelled" / f"{name}.csv"
    assert events(path, replace(MYO, channels=(channel,))) == []


def test_fifty_six_bursts_with_heartbeat_and_drift_are_no_sustained_shrug(data: Path) -> None:
    found = events(data / "emggo_ecg_drift" / "emggo_ta.csv", ReadOptions(rate_hz=250, units="uV"))
    assert found == []


def test_the_only_free_upper_trapezius_is_read_at_its_rate_and_units(data: Path) -> None:
    path = data / "pyomeca_trapezius_boxlift" / "boxlift_shoulder.csv"
    options = ReadOptions(rate_hz=2000, channels=("trap_upper_uV",))
    # The rest after the lift is not a quiet one; a relaxed trapezius has some 5 µV.
    found = events(path, options, Given(rest_uv=5.0, reference_uv=150.0))
    assert len(found) == 1
    assert found[0]["start_s"] == pytest.approx(0.9, abs=0.5)
    assert found[0]["end_s"] == pytest.approx(3.95, abs=0.5)
