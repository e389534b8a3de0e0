"""Real EMG: from a package that is installed with the tests, and from a folder named by UNSHRUG_DATA."""

import importlib.util
import os
from pathlib import Path

import h5py
import numpy as np
import pytest


@pytest.fixture(scope="session")
def plux_samples() -> Path:
    """The sample recordings inside the biosignalsnotebooks package, which is not imported."""
    spec = importlib.util.find_spec("biosignalsnotebooks")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "notebook_files" / "osf_files" / "signal_samples"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of annotated recordings."""
    folder = os.environ.get("UNSHRUG_DATA")
    if not folder:
        pytest.skip("UNSHRUG_DATA does not name a folder of recordings")
    return Path(folder) / "data"


def write_csv(source: Path, target: Path, channel: str = "channel_1") -> Path:
    """Write one channel of an OpenSignals HDF5 file as CSV, since that is what people have."""
    with h5py.File(source) as file:
        device = file[next(iter(file))]
        counts = np.asarray(device["raw"][channel]).ravel()
    target.write_text("emg\n" + "\n".join(map(str, counts.tolist())) + "\n")
    return target
