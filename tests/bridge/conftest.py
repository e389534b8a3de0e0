"""Streams of real sketches, from a folder named by UNSHRUG_DATA."""

import importlib.util
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of streams (.bin) and of the samples in them (.json)."""
    folder = os.environ.get("UNSHRUG_DATA")
    if not folder:
        pytest.skip("UNSHRUG_DATA does not name a folder of recordings")
    return Path(folder) / "boards" / "golden"


@pytest.fixture(scope="session")
def opensignals() -> Path:
    """The OpenSignals text files inside the biosignalsnotebooks package, which is not imported."""
    spec = importlib.util.find_spec("biosignalsnotebooks")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("biosignalsnotebooks is not installed")
    return Path(spec.submodule_search_locations[0]) / "notebook_files" / "osf_files" / "signal_samples"
