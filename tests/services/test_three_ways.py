"""One recording, three ways to the same shrugs: analysis, replay through a port, and blocks by hand."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsp.detect import Shrug
from dsp.reference import Calibration
from firmware_bridge.boards import sends
from firmware_bridge.bridge import Bridge
from firmware_bridge.port import Port
from firmware_bridge.recordings import ReadOptions, Recording, open_recording
from firmware_bridge.simulator import BRIEF_SHRUGS, POP, TYPING, PtyBoard, Wearer, ascii_stream
from services.analysis import Given, analyze, calibrate
from services.clock import Clock
from services.daemon import Service
from services.haptics import Haptics
from services.messages import Cue, Episode
from services.pipeline import Pipeline
from services.settings import Settings
from tests.services.conftest import REST, SHRUG, Collector

DAY = tuple(
    replace(activity, seconds=seconds)
    for activity, seconds in (
        (REST, 12), (SHRUG, 16), (TYPING, 6), (BRIEF_SHRUGS, 8), (REST, 2),
        (SHRUG, 9), (POP, 3), (SHRUG, 5), (REST, 3), (SHRUG, 10),
    )
)  # fmt: skip
SAMPLES = 73_000  # the last shrug is still on


@dataclass(frozen=True)
class Three:
    """What each of the ways found."""

    analysis: dict[str, Any]
    replayed: Collector
    direct: Collector
    calibration: Calibration


def write_recording(path: Path) -> None:
    """Write two channels with single and whole stretches of missing values, and with rows that are not there."""
    values = Wearer(day=DAY, seed=3).samples(SAMPLES)
    rng = np.random.default_rng(0)
    values[rng.random(values.shape) < 0.0005] = np.nan
    values[20_000:20_600, 0] = np.nan  # in a shrug, bridged
    values[49_000:52_000, 1] = np.nan  # in a shrug, which it cuts off
    there = np.ones(len(values), dtype=bool)
    there[40_000:40_500] = there[56_001:56_010] = False
    table = np.column_stack([np.arange(len(values)) / 1000, values])[there]
    np.savetxt(path, table, fmt=["%.3f", "%.4f", "%.4f"], delimiter=",", header="time_s,left,right", comments="")


def replay(recording: Recording, settings: Settings, calibration: Calibration) -> Collector:
    """Play the recording as a board, as fast as it can be read."""
    collector = Collector()
    pieces = ascii_stream(recording.codes(), recording.signal.rate_hz)
    with PtyBoard(pieces, speed=1e6, patient=True) as player:
        service = Service(
            Port(player.path, 115200),
            Bridge(replace(recording.board, start=sends(b"b")), recording.signal.channels, check_rate=False),
            Pipeline(settings, calibration, feels_motor=False),
            Haptics(settings.motor, simulated=True),
            clock=Clock(1e3),
        )
        service.sinks.append(collector)
        service.run(lambda data: player.finished and not data)
        assert player.error is None
    return collector


def push(recording: Recording, settings: Settings, calibration: Calibration) -> Collector:
    collector = Collector()
    pipeline = Pipeline(settings, calibration, feels_motor=False)
    for _ in pipeline.board(None):
        pass
    for block in recording.blocks():
        for message in pipeline.process(block):
            collector.accept(message)
    for message in pipeline.finish():
        collector.accept(message)
    return collector


@pytest.fixture(scope="module", params=["uV", "counts"])
def three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Three:
    path = tmp_path_factory.mktemp("three") / "session.csv"
    write_recording(path)
    counts = ReadOptions(units="counts", uv_per_count=0.7)
    recording = open_recording(path, counts if request.param == "counts" else ReadOptions(units="uV"))
    settings = Settings()
    calibration = calibrate(recording, settings, Given(rest_s=(2, 10), reference_s=((14, 18),)))
    return Three(
        analyze(recording, settings, calibration),
        replay(recording, settings, calibration),
        push(recording, settings, calibration),
        calibration,
    )


def shrugs(collector: Collector) -> list[Shrug]:
    return [m for m in collector.messages if isinstance(m, Shrug)]


def ended(collector: Collector, channel: int) -> list[Shrug]:
    return [s for s in shrugs(collector) if s.phase == "ended" and s.channel == channel]


def test_the_recording_has_shrugs_of_every_kind(three: Three) -> None:
    left, right = (ended(three.direct, channel) for channel in (0, 1))
    assert len(left) >= 4
    assert len(right) >= 4
    assert not left[0].truncated
    assert left[0].valid_fraction < 1
    assert {True, False} == {s.truncated for s in right}
    assert left[-1].truncated, "the last one is on when the recording ends"


def test_replay_through_a_port_gives_every_step_of_every_shrug(three: Three) -> None:
    assert shrugs(three.replayed) == shrugs(three.direct)


def as_events(found: Iterable[Shrug], calibration: Calibration) -> list[dict[str, Any]]:
    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 3)

    return [
        {
            "kind": "shrug",
            "start_s": round(s.start_s, 6),
            "end_s": None if s.end_s is None else round(s.end_s, 6),
            "mean_uv": rounded(s.mean_uv),
            "peak_uv": rounded(s.peak_uv),
            "mean_rve": rounded(calibration.rve(s.mean_uv, s.channel)),
            "peak_rve": rounded(calibration.rve(s.peak_uv, s.channel)),
            "valid_pct": rounded(100 * s.valid_fraction),
            "truncated": s.truncated,
            "long": s.long,
        }
        for s in found
    ]


@pytest.mark.parametrize("channel", [0, 1])
def test_analysis_gives_the_same_events(three: Three, channel: int) -> None:
    events = three.analysis["channels"][channel]["events"]
    assert events == as_events(ended(three.direct, channel), three.calibration)
    assert events == as_events(ended(three.replayed, channel), three.calibration)


def test_replay_gives_the_same_cues_and_episodes_as_blocks(three: Three) -> None:
    def said(collector: Collector) -> list[object]:
        return [
            replace(m, id="") if isinstance(m, Episode) else replace(m, episode_id=None, id="")
            for m in collector.messages
            if isinstance(m, Cue | Episode)
        ]

    assert said(three.replayed) == said(three.direct)
    assert any(isinstance(m, Cue) and m.outcome == "given" for m in three.direct.messages)


def test_analysis_gives_the_same_episodes(three: Three) -> None:
    live = [m for m in three.direct.messages if isinstance(m, Episode) and m.event == "ended"]
    assert [
        (e["start_s"], e["end_s"], e["channels"], e["mean_rve"], e["peak_rve"]) for e in three.analysis["episodes"]
    ] == [
        (
            round(m.start_s, 6),
            round(m.end_s or 0, 6),
            list(m.channels),
            round(m.mean_rve or 0, 3),
            round(m.peak_rve or 0, 3),
        )
        for m in live
    ]
    assert live != []
