"""One recording in every format: the same events."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyedflib
import pytest

from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.recordings import WRITERS, ReadOptions, Recording, open_recording
from firmware_bridge.recordings.bdf import BdfWriter
from firmware_bridge.simulator import Wearer
from services.analysis import Given, analyze, calibrate
from services.settings import Settings
from tests.services.conftest import Array
from tests.services.test_three_ways import DAY, SAMPLES, as_events, ended, replay

STEP = 3e6 / 2**16 / 1000  # of a biosignalsplux
COUNTS = Signal(1000.0, ("left", "right"), STEP, (0.0, (2**16 - 1) * STEP))
PLAIN = Signal(1000.0, ("left", "right"))
GIVEN = Given(rest_s=(2, 10), reference_s=((14, 18),))
HOP_S = 0.05


def codes_of(*, whole: bool) -> Array:
    """Return codes of two channels; unless `whole`, with lost values here and there and in long stretches."""
    codes = np.clip(np.round(Wearer(day=DAY, seed=3).samples(SAMPLES) / STEP) + 2**15, 0, 2**16 - 1)
    if not whole:
        codes[np.random.default_rng(0).random(codes.shape) < 0.0005] = np.nan
        codes[20_000:20_600, 0] = codes[49_000:52_000, 1] = codes[40_000:40_500] = np.nan
    return np.asarray(codes)


def csv(folder: Path, codes: Array) -> Recording:
    rows = (",".join("" if np.isnan(c) else str(int(c)) for c in row) for row in codes.tolist())
    (folder / "x.csv").write_text("left,right\n" + "\n".join(rows) + "\n")
    return open_recording(folder / "x.csv", ReadOptions(1000.0, "counts", uv_per_count=STEP, adc_bits=16))


def opensignals(folder: Path, codes: Array) -> Recording:
    device = {
        "column": ["nSeq", "left", "right"], "label": ["left", "right"], "sensor": ["EMG", "EMG"],
        "sampling rate": 1000, "resolution": [16, 16], "device": "biosignalsplux",
    }  # fmt: skip
    head = f"# OpenSignals Text File Format\n# {json.dumps({'00:07': device})}\n# EndOfHeader\n"
    rows = ("\t".join("" if np.isnan(c) else str(int(c)) for c in row) for row in codes.tolist())
    (folder / "x.txt").write_text(head + "".join(f"{k}\t{row}\t\n" for k, row in enumerate(rows)))
    return open_recording(folder / "x.txt", ReadOptions())


def bdf(folder: Path, codes: Array) -> Recording:
    return recorded(folder / "x.bdf", COUNTS, codes * STEP)


def recorded(path: Path, signal: Signal, values: Array) -> Recording:
    writer = BdfWriter(path, signal, 0, 1_700_000_000.0)
    for at in range(0, len(values), 333):
        if not np.isnan(values[at : at + 333]).all():
            writer.block(SampleBlock(signal, at, values[at : at + 333]))
    writer.close()
    return open_recording(path, ReadOptions())


def parquet(folder: Path, codes: Array) -> Recording:
    WRITERS[".parquet"](csv(folder, codes), folder / "x.parquet")
    return open_recording(folder / "x.parquet", ReadOptions())


def edf(folder: Path, codes: Array) -> Recording:
    path = folder / "x.edf"
    with pyedflib.EdfWriter(str(path), 2, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
        for k, name in enumerate(("left", "right")):
            facts: dict[str, str | int | float | None] = {"label": name, "dimension": "uV", "sample_frequency": 1000}
            facts |= {"digital_min": -(2**15), "digital_max": 2**15 - 1, "physical_min": 0, "physical_max": 2999.954}
            file.setSignalHeader(k, facts)
        file.writeSamples([np.ascontiguousarray(c - 2**15).astype(np.int32) for c in codes.T], digital=True)
    return open_recording(path, ReadOptions())


def analysis(recording: Recording) -> dict[str, Any]:
    settings = Settings()
    result = analyze(recording, settings, calibrate(recording, settings, GIVEN))
    assert sum(len(c["events"]) for c in result["channels"]) >= 8
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module", params=[False, True], ids=["with holes", "whole"])
def expected(request: pytest.FixtureRequest, folder: Path) -> tuple[Array, dict[str, Any]]:
    codes = codes_of(whole=request.param)
    return codes, analysis(csv(folder, codes))


@pytest.mark.parametrize("make", [bdf, opensignals, parquet])
def test_codes_give_exactly_the_same_in_every_format(
    make: Callable[[Path, Array], Recording], expected: tuple[Array, dict[str, Any]], tmp_path: Path
) -> None:
    codes, wanted = expected
    found = analysis(make(tmp_path, codes))
    for part in ("channels", "calibration", "bands", "asymmetry"):
        assert found[part] == wanted[part]


def near(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Say whether the events are the same, within a hop and a percent."""
    for one, other in zip(found["channels"], wanted["channels"], strict=True):
        assert len(one["events"]) == len(other["events"])
        for a, b in zip(one["events"], other["events"], strict=True):
            assert (a["kind"], a["truncated"]) == (b["kind"], b["truncated"])
            assert abs(a["start_s"] - b["start_s"]) <= HOP_S
            assert abs(a["end_s"] - b["end_s"]) <= HOP_S
            assert a["mean_uv"] == pytest.approx(b["mean_uv"], rel=0.01)
    return True


def test_edf_of_another_program_gives_the_same_events(tmp_path: Path) -> None:
    codes = codes_of(whole=True)
    recording = edf(tmp_path, codes)
    found = np.concatenate([c for _, c in recording.codes()])[: len(codes)]
    assert found == pytest.approx(codes, abs=1e-3)
    assert near(analysis(recording), analysis(csv(tmp_path, codes)))


def test_values_in_microvolts_give_the_same_events_after_recording(tmp_path: Path) -> None:
    values = (codes_of(whole=False) - 2**15) * STEP * 1.01234567
    path = tmp_path / "x.csv"
    np.savetxt(path, values, fmt="%.4f", delimiter=",", header="left_uV,right_uV", comments="")
    text = open_recording(path, ReadOptions(1000.0))
    wanted = analysis(text)
    assert near(analysis(recorded(tmp_path / "x.bdf", PLAIN, values)), wanted)
    WRITERS[".parquet"](text, tmp_path / "x.parquet")
    found = analysis(open_recording(tmp_path / "x.parquet", ReadOptions()))
    assert [c["events"] for c in found["channels"]] == [c["events"] for c in wanted["channels"]]


@pytest.mark.parametrize("make", [bdf, edf])
def test_replay_of_a_recording_gives_the_events_of_its_analysis(
    make: Callable[[Path, Array], Recording], tmp_path: Path
) -> None:
    recording = make(tmp_path, codes_of(whole=make is edf))
    settings = Settings()
    calibration = calibrate(recording, settings, GIVEN)
    wanted = analyze(recording, settings, calibration)
    played = replay(recording, settings, calibration)
    for channel in (0, 1):
        events = as_events(ended(played, channel), calibration)
        assert events == wanted["channels"][channel]["events"]
        assert len(events) >= 4
