"""Who may import whom: the arrows between the rooms, and the one file for each library with a side effect."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("firmware_bridge", "dsp", "services")


def imports_of(source: str, package: str) -> set[str]:
    """Return the full name of everything that a module of the package imports, wherever in the file it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def modules_of(room: str) -> Iterator[tuple[str, set[str]]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT)
        yield str(name), imports_of(path.read_text(encoding="utf-8"), ".".join(name.parent.parts))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def breaches(room: str, *forbidden: str, but: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return (file, import) for every forbidden import in a room."""
    return [
        (file, name)
        for file, names in modules_of(room)
        for name in sorted(names)
        if within(name, *forbidden) and not within(name, *but)
    ]


def users_of(library: str) -> set[str]:
    return {file for room in ROOMS for file, names in modules_of(room) if any(within(n, library) for n in names)}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import services.cli as c", "services.cli"),
        ("from services import cli", "services.cli"),
        ("def f():\n    if True:\n        from services.cli import main", "services.cli.main"),
        ("from . import chain", "dsp.chain"),
        ("from .chain import Chain", "dsp.chain.Chain"),
        ("from ..services import cli", "services.cli"),
    ],
)
def test_an_import_is_seen_however_it_is_written(source: str, name: str) -> None:
    assert imports_of(source, "dsp") == {name}


def test_every_room_has_modules_to_look_at() -> None:
    assert all(sum(1 for _ in modules_of(room)) > 5 for room in ROOMS)


def test_dsp_knows_nothing_of_services() -> None:
    assert breaches("dsp", "services", "tests", "benchmarks") == []


def test_dsp_knows_nothing_of_boards_but_their_blocks() -> None:
    assert breaches("dsp", "firmware_bridge", but=("firmware_bridge.blocks",)) == []


def test_dsp_has_no_clock_no_threads_and_no_input_or_output() -> None:
    outside = ("time", "datetime", "threading", "os", "socket", "random", "pathlib", "subprocess", "sys", "logging")
    assert breaches("dsp", *outside, "numpy.random") == []


def test_dsp_needs_numpy_and_scipy_only() -> None:
    ours = ("dsp", "firmware_bridge.blocks")
    plain = ("collections", "dataclasses", "typing", "math", "itertools", "functools", "enum")
    found = {name for _, names in modules_of("dsp") for name in names}
    assert {name for name in found if not within(name, "numpy", "scipy", *ours, *plain)} == set()


def test_firmware_bridge_knows_neither_dsp_nor_services() -> None:
    assert breaches("firmware_bridge", "dsp", "services", "tests", "benchmarks") == []


def test_services_do_not_depend_on_tests_or_benchmarks() -> None:
    assert breaches("services", "tests", "benchmarks") == []


@pytest.mark.parametrize(
    ("library", "file"),
    [
        ("serial", "firmware_bridge/port.py"),
        ("gpiozero", "services/gpio.py"),
        ("rich", "services/screen.py"),
        ("pyarrow", "firmware_bridge/recordings/parquet.py"),
    ],
)
def test_a_library_with_a_side_effect_is_imported_in_one_file(library: str, file: str) -> None:
    assert users_of(library) == {file}


def test_paho_is_for_the_service_and_for_the_load_on_a_broker() -> None:
    assert users_of("paho") == {"services/mqtt.py", "services/fleet.py"}


def test_config_holds_no_python() -> None:
    assert (ROOT / "config" / "unshrug.toml").exists()
    assert list((ROOT / "config").rglob("*.py*")) == []
