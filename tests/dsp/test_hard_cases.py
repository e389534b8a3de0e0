"""What makers' boards deliver: the holds are found, in time, and nothing else; a hopeless channel says why."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scenes import HARD, Scene, Span, hard, write_csv
from firmware_bridge.recordings import Recording, open_recording
from services.analysis import Given, analyze, calibrate
from services.settings import Settings

SEEDS = (1, 3, 5)
RATES_HZ = (1000, 500)
NEAR_S = 0.7
BAD = [name for name in HARD if "one channel" in name]


@cache
def scene_of(name: str, seed: int, rate_hz: int) -> Scene:
    return hard(name, seed, rate_hz)


def opened(scene: Scene, path: Path) -> Recording:
    return open_recording(path, write_csv(scene, path))


def result_of(recording: Recording, given: Given) -> Any:
    settings = Settings()
    return analyze(recording, settings, calibrate(recording, settings, given))


def spans(channel: Any) -> list[Span]:
    return [(e["start_s"], e["end_s"]) for e in channel["events"]]


def assert_found(scene: Scene, result: Any) -> None:
    for channel, holds in zip(result["channels"], scene.holds, strict=True):
        found = spans(channel)
        near = [
            len(found) == len(holds),
            *(abs(a - b) <= NEAR_S for e, h in zip(found, holds, strict=False) for a, b in zip(e, h, strict=True)),
        ]
        assert all(near), f"{channel['name']}: expected {_text(holds)}, got {_text(found)}"


def _text(some: Any) -> str:
    return ", ".join(f"{start:.2f}-{end:.2f}" for start, end in some) or "nothing"


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", HARD)
def test_the_holds_are_found_and_nothing_else(name: str, seed: int, rate_hz: int, tmp_path: Path) -> None:
    scene = scene_of(name, seed, rate_hz)
    recording = opened(scene, tmp_path / "hard.csv")
    for reference_uv in (None, scene.reference_uv):
        assert_found(scene, result_of(recording, Given(rest_s=scene.rest, reference_uv=reference_uv)))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", HARD)
def test_the_holds_are_found_without_a_word_about_the_rest(name: str, seed: int, rate_hz: int, tmp_path: Path) -> None:
    scene = scene_of(name, seed, rate_hz)
    assert_found(scene, result_of(opened(scene, tmp_path / "hard.csv"), Given()))


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", BAD)
def test_a_hopeless_channel_says_so(name: str, seed: int, rate_hz: int, tmp_path: Path) -> None:
    scene = scene_of(name, seed, rate_hz)
    result = result_of(opened(scene, tmp_path / "hard.csv"), Given())
    for channel, reason in zip(result["channels"], scene.hopeless, strict=True):
        bad = [i for i in channel["quality"] if i["state"] == "bad"]
        bad_s = sum(i["end_s"] - i["start_s"] for i in bad)
        if not reason:
            # A jump of the baseline or a burst of hum may spoil seconds of a good channel, never most of it.
            assert bad_s < 0.25 * scene.seconds, f"{channel['name']} is good, but bad for {bad_s:.1f} s: {bad}"
            continue
        said = sum(i["end_s"] - i["start_s"] for i in bad if reason in i["reasons"])
        assert said > 0.9 * (scene.seconds - scene.dies_s), (
            f"{channel['name']}: {reason} for {said:.1f} s only: {bad[:5]}"
        )


def test_a_scene_is_the_same_every_time() -> None:
    one, other = hard("all together", 1), hard("all together", 1)
    assert (one.values == other.values).all()
    assert one.holds == other.holds
    assert hard("all together", 2).holds != one.holds
