"""The command as a user types it."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpiozero.pins.mock import MockFactory

from firmware_bridge.simulator import REFERENCE_UV, Wearer
from services.broker import free_port
from services.cli import main
from tests.services.conftest import REST, SHRUG, SIMULATED_GPIO, UNSHRUG, Array, samples, unshrug

HEAVY = ("numpy", "scipy", "paho", "gpiozero", "rich", "serial", "pyarrow")


def write(path: Path, values: Array, names: Sequence[str] = ("left", "right")) -> Path:
    np.savetxt(path, values, fmt="%.3f", delimiter=",", header=",".join(names[: values.shape[1]]), comments="")
    return path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a minute with one held shrug in it, 8 to 18 s, and half a second of nothing."""
    day = [REST, SHRUG, REST]
    values = samples(*(a.__class__(a.name, seconds, a.level_uv) for a, seconds in zip(day, (8, 10, 12), strict=True)))
    values[24_000:24_500] = np.nan
    return write(tmp_path_factory.mktemp("cli") / "session.csv", values)


AS_UV = ("--rate", 1000, "--units", "uV")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command without a process of its own, which is quicker where that makes no difference."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as end:
            main(list(map(str, arguments)))
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(list(map(str, arguments)), end.value.code, said.out, said.err)

    return call


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_answer_at_once_and_import_nothing_heavy(option: str) -> None:
    code = f"from services.cli import main; main([{option!r}])"
    times = []
    for _ in range(3):
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=False
        )
        times.append(time.monotonic() - began_s)
    assert done.returncode == 0
    assert done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "services" in imported
    assert imported & set(HEAVY) == set()
    assert min(times) < 1.0


def test_help_names_every_command_and_version_is_the_packages() -> None:
    said = unshrug("--help")
    assert said.returncode == 0
    assert {"demo", "run", "record", "replay", "analyze", "export", "boards", "check"} <= set(said.stdout.split())
    assert "not a medical device" in " ".join(said.stdout.split())
    assert re.fullmatch(r"unshrug \d+\.\d+\.\d+\S*\n", unshrug("--version").stdout)


@pytest.mark.parametrize("command", ["demo", "run", "record", "replay", "analyze", "export", "boards", "check"])
def test_every_command_explains_itself(command: str, called: Run) -> None:
    said = called(command, "--help")
    assert said.returncode == 0
    assert said.stdout.startswith(f"usage: unshrug {command}")


def mistake(code: int, words: str, done: subprocess.CompletedProcess[str]) -> None:
    """Hold that a command ended with this code and one clear line, after the usage where that was wrong."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    if code == 1:
        assert len(lines) == 1, done.stderr
    else:
        assert lines[0].startswith("usage: unshrug")
    assert re.search(words, lines[-1]), lines[-1]
    assert lines[-1].startswith("unshrug")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "required: COMMAND"),
        (("shrug",), "invalid choice: 'shrug'"),
        (("analyze",), "required: RECORDING"),
        (("analyze", "x.csv", "--rate", "0"), "argument --rate: 0: expected a number above 0"),
        (("analyze", "x.csv", "--rate", "fast"), "argument --rate: .*fast.*expected a number"),
        (("analyze", "x.csv", "--rate", "nan"), "argument --rate: nan: expected a number above 0"),
        (("analyze", "x.csv", "--units", "kV"), "argument --units: invalid choice: 'kV'"),
        (("analyze", "x.csv", "--rest", "10"), "argument --rest: 10: expected START-END in seconds"),
        (("analyze", "x.csv", "--rest", "10-2"), "argument --rest: 10-2: expected START-END in seconds"),
        (("analyze", "x.csv", "--rest", "0-2", "--rest-uv", "2"), "not allowed with"),
        (("analyze", "x.csv", "--adc-bits", "99"), "argument --adc-bits"),
        (("demo", "--seconds", "-1"), "argument --seconds: -1: expected a number above 0"),
        (("run", "--speed", "2"), "unrecognized arguments: --speed 2"),
        (("demo", "--seed", "-1"), "argument --seed: -1: expected a whole number from 0 on"),
        (("analyze", "x.csv", "--rate", "1e300"), "argument --rate: 1e300: expected 1e-9 to 1e9"),
        (("analyze", "x.csv", "--reference-uv", "1e200"), "argument --reference-uv: 1e200: expected 1e-9 to 1e9"),
        (("export", "x.csv"), "required: --out"),
        (("record", "--seconds", "0"), "argument --seconds: 0: expected a number above 0"),
        (("replay", "x.csv", "--speed", "0.005"), "argument --speed: 0.005: expected 0.1 or more"),
    ],
)
def test_wrong_use_is_2_and_says_what_was_expected(arguments: tuple[str, ...], words: str, called: Run) -> None:
    mistake(2, words, called(*arguments))


def text(content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "rec.csv"
        path.write_text(content)
        return path

    return make


def opensignals(resolution: str) -> Callable[[Path], Path]:
    device = '"column": ["nSeq", "CH1"], "sampling rate": 1000, "sensor": ["EMG"], "label": ["CH1"]'
    facts = f'{{"00:07": {{{device}, "resolution": {resolution}}}}}'
    return text(f"# OpenSignals Text File Format\n# {facts}\n# EndOfHeader\n" + "0\t1\t\n" * 500)


NUMBERS = "left\n" + "1.5\n-1.5\n" * 500

BROKEN: dict[str, tuple[Callable[[Path], Path], tuple[object, ...], str]] = {
    "missing": (lambda folder: folder / "none.csv", AS_UV, r"none\.csv: No such file"),
    "folder": (lambda folder: folder, AS_UV, "Is a directory"),
    "empty": (text(""), AS_UV, r"rec\.csv: the file is empty; expected a header row"),
    "header only": (text("left,right\n"), AS_UV, r"rec\.csv: no samples after the header"),
    "too short": (text("left\n1\n2\n3\n"), AS_UV, r"rec\.csv: .*3 samples; expected 50 or more"),
    "text": (text(NUMBERS + "oops\n2\n"), AS_UV, r"rec\.csv: line 1002, column left: 'oops'; expected a number"),
    "ragged": (
        text("left,right\n" + "1,2\n" * 500 + "3\n"), AS_UV, r"rec\.csv: line 502: 1 columns; expected 2 .*right",
    ),
    "binary": (text("left\n\0\1\2"), AS_UV, r"rec\.csv: not a text file"),
    "no rate": (text(NUMBERS), ("--units", "uV"), r"rec\.csv: no sampling rate; expected --rate HZ or a time column"),
    "no units": (text(NUMBERS), ("--rate", 1000), r"rec\.csv: no units; expected --units uV\|mV\|V\|counts"),
    "counts of what": (text(NUMBERS), ("--rate", 1000, "--units", "counts"), "expected --uv-per-count X or a --board"),
    "unknown column": (text(NUMBERS), (*AS_UV, "--channels", "right"), r"no column 'right'; expected one of left"),
    "too slow": (text(NUMBERS), ("--rate", 50, "--units", "uV"), r"rec\.csv: .*50"),
    "too fast": (text(NUMBERS), ("--rate", 1e8, "--units", "uV"), r"rate 100000000\.0; expected .* than 1e\+06"),
    "no resolution": (opensignals("[]"), (), r"rec\.csv: the OpenSignals header is damaged \(a resolution of 0 bits\)"),
    "absurd resolution": (opensignals("[5000]"), (), r"rec\.csv: .* damaged \(a resolution of 5000 bits\)"),
    "endless resolution": (opensignals("[1e999]"), (), r"rec\.csv: the OpenSignals header is damaged \(OverflowError"),
    "time stands": (text("t,left\n" + "1,2\n" * 500), ("--units", "uV"), r"rec\.csv: column t does not advance"),
    "rest outside": (text(NUMBERS), (*AS_UV, "--rest", "0-50"), r"rec\.csv: rest 0-50 s; expected .* within 0-1"),
    "reference below rest": (
        text(NUMBERS), (*AS_UV, "--rest-uv", 50, "--reference-uv", 20), "reference level is 20 µV; expected more than",
    ),
    "unknown board": (text(NUMBERS), ("--rate", 1000, "--board", "muse"), "--board: unknown board 'muse'; expected"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_recording_that_cannot_be_analysed_is_1_and_one_line(what: str, tmp_path: Path, called: Run) -> None:
    make, options, words = BROKEN[what]
    done = called("analyze", make(tmp_path), *options)
    mistake(1, words, done)
    assert done.stdout == ""


def test_a_mistake_is_one_line_from_a_real_process_too(tmp_path: Path) -> None:
    damaged = text(NUMBERS + "oops\n2\n")(tmp_path)
    mistake(1, "line 1002, column left: 'oops'; expected a number", unshrug("analyze", damaged, *AS_UV))
    mistake(2, "required: RECORDING", unshrug("analyze"))


def test_damage_found_while_replaying_is_named_too(tmp_path: Path) -> None:
    path = text(NUMBERS + "oops\n2\n")(tmp_path)
    done = unshrug("replay", path, *AS_UV, "--rest-uv", 2, "--speed", 100)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "unshrug: " in done.stderr.splitlines()[-1]
    assert "line 1002, column left: 'oops'; expected a number" in done.stderr.splitlines()[-1]


def test_replay_shows_the_shrug_and_its_cue(session: Path) -> None:
    done = unshrug("replay", session, *AS_UV, "--rest", "1-7", "--speed", 20, seconds=20)
    assert done.returncode == 0, done.stderr
    assert "left: sustained shrug since 8." in done.stdout
    assert "motor: PWMOutputDevice on GPIO18, MockFactory (simulated)" in done.stdout
    assert "MQTT" not in done.stdout
    assert "Traceback" not in done.stderr


CONFIGS: dict[str, tuple[str, str]] = {
    "unknown key": ("[shrug]\nheld_ms = 3", r"mine\.toml: shrug\.held_ms: unknown key; did you mean held_s"),
    "unknown board": ('[board]\nkind = "muse"', r"board\.kind: expected .unshrug. or"),
    "no rate": ('[board]\nkind = "ascii"', r"board\.rate_hz: expected the rate"),
    "no scale": ('[board]\nkind = "ascii"\nrate_hz = 1000', r"board\.uv_per_count: expected the µV"),
    "not toml": ("[shrug", r"mine\.toml: not TOML"),
    "no broker": ('[mqtt]\nbroker = ""', r"mqtt\.broker: "),
    "no certificate": ('[mqtt]\ntls = "on"\nca_file = "/does/not/exist"', r"mqtt\.ca_file: /does/not/exist"),
    "no password": (
        '[mqtt]\nusername = "a"\npassword_file = "/does/not/exist"',
        r"mqtt\.password_file: /does/not/exist",
    ),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_settings_that_cannot_be_used_are_1_and_one_line(what: str, tmp_path: Path, called: Run) -> None:
    content, words = CONFIGS[what]
    path = tmp_path / "mine.toml"
    own_port = f"[mqtt]\nport = {free_port()}"
    path.write_text(content.replace("[mqtt]", own_port) if "[mqtt]" in content else f"{content}\n{own_port}")
    arguments = ("run", "--config", path, "--port", "/dev/does-not-exist")
    # What is wrong with MQTT comes out when motor and screen are there already.
    done = unshrug(*arguments, environment=os.environ | SIMULATED_GPIO) if "[mqtt]" in content else called(*arguments)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.match(f"unshrug: .*{words}", done.stderr.splitlines()[-1])


def test_settings_that_are_not_there_are_1_and_one_line(tmp_path: Path, session: Path, called: Run) -> None:
    mistake(1, r"none\.toml: No such file", called("run", "--config", tmp_path / "none.toml"))
    mistake(1, r"none\.toml: No such file", called("analyze", session, *AS_UV, "--settings", tmp_path / "none.toml"))


def analysis(run: Run, *arguments: object) -> Any:
    done = run("analyze", *arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def covers(quality: list[dict[str, Any]], duration_s: float) -> bool:
    """Say whether the intervals cover the recording one after another."""
    edges = [(q["start_s"], q["end_s"]) for q in quality]
    inside = all(start < end for start, end in edges)
    return inside and [s for s, _ in edges] == [0.0, *(e for _, e in edges[:-1])] and edges[-1][1] == duration_s


def test_json_has_every_field_and_quality_covers_the_recording(session: Path, called: Run) -> None:
    result = analysis(unshrug, session, *AS_UV, "--rest", "1-7", "--reference-uv", REFERENCE_UV)
    assert result["schema"] == "unshrug.analysis/1"
    assert result["recording"] == {
        "path": str(session), "rate_hz": 1000.0, "duration_s": 30.0, "channels": ["left", "right"],
        "sha256": result["recording"]["sha256"],
    }  # fmt: skip
    assert re.fullmatch("[0-9a-f]{64}", result["recording"]["sha256"])
    assert set(result["calibration"]) == {"rest_uv", "noise_uv", "reference_uv", "source", "verdicts"}
    assert result["calibration"]["rest_uv"] == pytest.approx([2.5, 2.5], rel=0.1)
    assert result["calibration"]["reference_uv"] == [REFERENCE_UV] * 2
    assert result["settings"]["shrug"]["held_s"] == 5.0
    assert [c["name"] for c in result["channels"]] == ["left", "right"]
    for channel in result["channels"]:
        assert set(channel) == {"name", "valid_s", "rms_uv", "events", "quality", "exposure", "spectrum"}
        assert set(channel["rms_uv"]) == {"p10", "p50", "p90", "mean"}
        assert channel["valid_s"] == pytest.approx(29.0, abs=0.6)
        assert covers(channel["quality"], 30.0)
        assert {"lost"} == {reason for q in channel["quality"] for reason in q["reasons"]}
        (event,) = channel["events"]
        fields = {"kind", "start_s", "end_s", "mean_uv", "peak_uv", "mean_rve", "peak_rve", "truncated"}
        assert fields <= set(event)
        assert (event["kind"], event["truncated"]) == ("shrug", False)
        assert event["start_s"] == pytest.approx(8.0, abs=0.3)
        assert event["end_s"] == pytest.approx(18.0, abs=0.3)
        assert event["mean_rve"] == pytest.approx(100 * event["mean_uv"] / REFERENCE_UV, rel=0.01)
        exposure = channel["exposure"]
        figures = {"rrt_pct", "gaps_per_min", "gap_time_pct", "apdf_rve", "eva", "sulma"}
        assert set(exposure) == figures | {"gaps_long_per_min", "gap_longest_s", "reasons_null"}
        assert {key: exposure[key] for key in figures} == dict.fromkeys(figures)
        assert set(exposure["reasons_null"]) == figures
        assert exposure["reasons_null"]["rrt_pct"] == "less than 10 min of valid data"
    (episode,) = result["episodes"]
    assert set(episode) == {"id", "start_s", "end_s", "kinds", "peak_rve", "mean_rve", "channels"}
    assert (episode["kinds"], episode["channels"]) == (["shrug"], ["left", "right"])
    assert result == analysis(called, session, *AS_UV, "--rest", "1-7", "--reference-uv", REFERENCE_UV)


def test_without_a_reference_what_is_relative_to_it_is_null(session: Path, called: Run) -> None:
    result = analysis(called, session, *AS_UV, "--rest-uv", 2.5, "--channels", "right")
    assert result["calibration"]["reference_uv"] is None
    assert result["recording"]["channels"] == ["right"]
    (channel,) = result["channels"]
    (event,) = channel["events"]
    assert (event["mean_rve"], event["peak_rve"]) == (None, None)
    assert channel["exposure"]["reasons_null"]["rrt_pct"] == "no reference contraction"
    assert [(e["mean_rve"], e["peak_rve"]) for e in result["episodes"]] == [(None, None)]


@pytest.mark.parametrize(("value", "reason"), [(float("nan"), "lost"), (512.0, "flat")])
def test_a_channel_of_nothing_has_no_events_and_says_why(
    tmp_path: Path, called: Run, value: float, reason: str
) -> None:
    path = write(tmp_path / "nothing.csv", np.full((20_000, 1), value))
    result = analysis(called, path, *AS_UV)
    (channel,) = result["channels"]
    assert channel["events"] == result["episodes"] == []
    assert channel["rms_uv"] == dict.fromkeys(("p10", "p50", "p90", "mean"))
    assert channel["valid_s"] < 0.5
    assert covers(channel["quality"], 20.0)
    assert (channel["quality"][-1]["state"], channel["quality"][-1]["reasons"]) == ("bad", [reason])
    assert channel["quality"][-1]["start_s"] < 0.2
    assert result["calibration"]["rest_uv"] == [None]
    done = called("analyze", path, *AS_UV)
    assert done.returncode == 0
    assert f"bad {20 - channel['quality'][-1]['start_s']:.1f} s ({reason}), 0 sustained shrugs" in done.stdout


def test_csv_has_a_row_for_every_event(session: Path, called: Run) -> None:
    done = called("analyze", session, *AS_UV, "--rest", "1-7", "--format", "csv")
    assert done.returncode == 0
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [(row["path"], row["channel"], row["kind"]) for row in rows] == [
        (str(session), "left", "shrug"),
        (str(session), "right", "shrug"),
    ]
    assert float(rows[0]["start_s"]) == pytest.approx(8.0, abs=0.3)
    assert (rows[0]["mean_rve"], rows[0]["truncated"]) == ("", "False")


def test_the_table_says_it_in_words(session: Path, called: Run) -> None:
    done = called("analyze", session, *AS_UV, "--rest", "1-7")
    assert done.returncode == 0
    head, left, event, *_ = done.stdout.splitlines()
    assert head.startswith(f"{session}: 30.0 s at 1000 Hz (rest 1-7 s); EMG of 30-450 Hz")
    assert left.startswith("  left: rest 2.")
    assert left.endswith("1 sustained shrugs, 0 times low rest")
    assert re.match(r" +8\.\d\d - +1[78]\.\d\d s +\d+\.\d\d s  mean \d\d\.\d µV, peak \d\d\.\d µV$", event)


def test_out_writes_to_a_file_and_nothing_to_the_terminal(session: Path, tmp_path: Path, called: Run) -> None:
    out = tmp_path / "result.json"
    done = called("analyze", session, *AS_UV, "--format", "json", "--out", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(out.read_text(encoding="utf-8"))["schema"] == "unshrug.analysis/1"


def test_out_never_overwrites_the_recording(session: Path, called: Run) -> None:
    before = session.read_bytes()
    mistake(1, r"--out would overwrite the recording", called("analyze", session, *AS_UV, "--out", session))
    assert session.read_bytes() == before


def test_an_out_file_that_cannot_be_written_is_1_and_one_line(session: Path, tmp_path: Path, called: Run) -> None:
    done = called("analyze", session, *AS_UV, "--out", tmp_path / "none" / "result.json")
    mistake(1, r"none/result\.json", done)


def test_one_broken_recording_does_not_keep_the_others_from_being_reported(session: Path, tmp_path: Path) -> None:
    broken, missing = text(NUMBERS + "oops\n")(tmp_path), tmp_path / "none.csv"
    other = write(tmp_path / "other.csv", Wearer(channels=1).samples(5000))
    done = unshrug("analyze", session, broken, missing, other, *AS_UV, "--format", "json")
    assert done.returncode == 1
    assert [r["recording"]["path"] for r in json.loads(done.stdout)] == [str(session), str(other)]
    one, two = done.stderr.splitlines()
    assert one.startswith(f"unshrug: {broken}: line 1002")
    assert two.startswith(f"unshrug: {missing}: No such file")


def test_a_reader_that_goes_away_is_no_error(session: Path) -> None:
    with subprocess.Popen(
        [UNSHRUG, "analyze", session, *map(str, AS_UV), "--format", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 0


def test_export_writes_a_table_that_is_analysed_the_same(session: Path, tmp_path: Path, called: Run) -> None:
    for name in ("x.parquet", "x.csv"):
        done = called("export", session, *AS_UV, "--out", tmp_path / name)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    expected = analysis(called, session, *AS_UV, "--rest", "1-7")
    for name in ("x.parquet", "x.csv"):
        found = analysis(called, tmp_path / name, "--rest", "1-7")
        for one, other in zip(found["channels"], expected["channels"], strict=True):
            assert one["events"] == other["events"]
            assert one["quality"] == other["quality"]
    mistake(1, "the file exists; expected a new name", called("export", session, *AS_UV, "--out", tmp_path / "x.csv"))
    mistake(
        1, r"expected a name that ends in \.parquet or \.csv", called("export", session, "--out", tmp_path / "x.h5")
    )


@pytest.mark.parametrize("arguments", [("--version",), ("boards",), ("analyze", "{session}", *AS_UV)])
def test_an_output_that_is_full_is_1_and_one_line(arguments: tuple[object, ...], session: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [UNSHRUG, *(str(a).replace("{session}", str(session)) for a in arguments)],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "unshrug: the output: No space left on device\n")


def test_settings_in_a_place_that_cannot_be_looked_into_are_1_and_one_line(session: Path) -> None:
    done = unshrug("analyze", session, *AS_UV, environment=os.environ | {"XDG_CONFIG_HOME": "/" + "x" * 300})
    mistake(1, "unshrug.toml: File name too long; expected readable settings, or --config FILE", done)


def test_boards_lists_what_is_known(called: Run) -> None:
    done = called("boards")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("unshrug", "ascii", "myoware2-5v", "myoware2-3v3", "Ports:"))


def test_check_names_what_is_wrong_and_ends_with_1(tmp_path: Path, called: Run, pins: MockFactory) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[mqtt]\nenabled = false\n[cue]\nper_huor = 3\n")
    done = called("check", "--config", path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert list(lines) == ["settings", "port", "broker", "motor", "clock"]
    assert lines["settings"].startswith("FAIL")
    assert "mine.toml: cue.per_huor: unknown key; did you mean per_hour" in lines["settings"]


def test_a_second_service_for_the_same_wearer_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[wearer]\nid = "only-one"\n[board]\nport = "/dev/not-there"\n[mqtt]\nenabled = false\n')
    first = subprocess.Popen([UNSHRUG, "run", "--config", config], stdout=subprocess.PIPE, text=True)
    assert first.stdout
    assert "motor" in first.stdout.readline()
    second = unshrug("run", "--config", config)
    checked = unshrug("check", "--config", config)
    first.terminate()
    first.communicate()
    assert (first.returncode, second.returncode) == (0, 1)
    assert second.stderr.splitlines()[-1].startswith("unshrug: wearer.id: another unshrug runs for 'only-one'")
    assert "motor" not in second.stdout, "the pin is the first service's"
    assert "in use by the running service" in checked.stdout
