"""All that is kept of a wearer is exported whole, and deleted whole; what could not be is said."""

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest

from services.broker import Broker, free_port
from services.cli import main
from services.serving import lock_path, only_one
from services.store import Store
from tests.services.conftest import LOOPBACK, listening

WEARER = "mine-alone"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(home: Path, mqtt: str = "enabled = false") -> str:
    path = home / "unshrug.toml"
    path.write_text(f'[wearer]\nid = "{WEARER}"\n[mqtt]\n{mqtt}\n')
    return str(path)


def unshrug(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def store_of(home: Path) -> Path:
    return home / "data" / "unshrug" / f"{WEARER}.sqlite3"


def test_what_is_exported_is_what_is_kept_with_its_history(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(home)
    assert unshrug("diary", "add", "--start", "3h ago", "--end", "1h ago", "--note", "=1+1", "--config", path) == 0
    name = capsys.readouterr().out.splitlines()[-1].split()[1]
    assert unshrug("diary", "edit", name, "--peak", "4", "--config", path) == 0
    assert unshrug("export", "--out", "all.zip", "--config", path) == 0
    store = Store(store_of(home))
    told = [json.loads(payload) for payload in store.payloads("diary")]
    store.close()
    with zipfile.ZipFile("all.zip") as archive:
        assert archive.testzip() is None
        read = {name: archive.read(name).decode() for name in archive.namelist()}
    assert [json.loads(line) for line in read["messages/diary.jsonl"].splitlines()] == told
    assert [entry["seq"] for entry in told] == [0, 1]
    (row,) = csv.DictReader(io.StringIO(read["diary.csv"], newline=""))
    assert (row["seq"], row["peak"], row["note"]) == ("1", "4", "'=1+1")
    assert json.loads(read["settings.json"])["wearer"]["id"] == WEARER
    assert json.loads(read["values.json"])["first_use"] is True
    assert WEARER in read["README.txt"]


def test_an_export_takes_no_other_files_place_and_leaves_nothing_half_done(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(home)
    assert unshrug("export", "--out", "all.zip", "--config", path) == 1
    assert f"nothing is kept of {WEARER}" in capsys.readouterr().err
    assert not (home / "data").exists(), "looking makes nothing"
    assert unshrug("diary", "add", "--none", "--config", path) == 0
    (home / "all.zip").write_text("mine")
    assert unshrug("export", "--out", "all.zip", "--config", path) == 1
    assert "it is there already" in capsys.readouterr().err
    assert (home / "all.zip").read_text() == "mine"
    assert unshrug("export", "--out", "away/all.zip", "--config", path) == 1
    assert "there is no folder away" in capsys.readouterr().err
    assert sorted(found.name for found in home.iterdir()) == ["all.zip", "data", "unshrug.toml"]
    assert unshrug("export", "--out", "b.zip", "--config", path) == 0
    assert (home / "b.zip").stat().st_mode & 0o777 == 0o600
    assert sorted(found.name for found in home.iterdir()) == ["all.zip", "b.zip", "data", "unshrug.toml"]


def test_nothing_is_deleted_while_a_service_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(home)
    assert unshrug("diary", "add", "--none", "--config", path) == 0
    with only_one(WEARER):
        assert unshrug("forget-me", "--yes", "--config", path) == 1
        assert lock_path(WEARER).exists()
    assert "another unshrug runs" in capsys.readouterr().err
    assert store_of(home).exists()
    assert unshrug("forget-me", "--yes", "--config", path) == 0
    assert list(store_of(home).parent.iterdir()) == []
    assert not lock_path(WEARER).exists()
    assert capsys.readouterr().out.splitlines()[-1] == f"nothing is kept of {WEARER} any more"


@pytest.mark.parametrize(("broker", "code"), [(LOOPBACK, 1), ("auto", 0)])
def test_a_broker_that_is_away_keeps_nothing_from_being_deleted_and_is_said(
    home: Path, capsys: pytest.CaptureFixture[str], broker: str, code: int
) -> None:
    path = config(home, f'broker = "{broker}"\nport = {free_port()}')
    assert unshrug("diary", "add", "--none", "--config", path) == 0
    assert unshrug("forget-me", "--yes", "--config", path) == code
    assert not store_of(home).exists()
    said = capsys.readouterr()
    assert "`unshrug mqtt forget` does that later" in said.err
    assert said.out.splitlines()[-1] == f"nothing is kept of {WEARER} in files here any more"


def test_what_is_retained_on_the_broker_goes_too(
    home: Path, broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(home, f'broker = "{LOOPBACK}"\nport = {broker.port}')
    assert unshrug("diary", "add", "--none", "--config", path) == 0
    root = f"unshrug/{WEARER}"
    with listening(broker.port, root) as other:
        other.publish(f"{root}/status", "offline", retain=True)
        assert other.wait_for("status").payload == "offline"
        assert unshrug("forget-me", "--yes", "--config", path) == 0
        other.wait_for("status", lambda heard: heard.payload == "")
    assert f"removed from {LOOPBACK}:{broker.port}" in capsys.readouterr().out
