"""Everything with a side effect: the loop, cues, MQTT, settings and the command line."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("unshrug")
except PackageNotFoundError:  # run from a copy that nobody installed
    __version__ = "0"
