"""What each command does: put the parts together, run them, report. A file for each kind of them."""

import argparse
from collections.abc import Callable

from dsp.filters import SignalError
from firmware_bridge.brainflow_stream import BrainflowError
from firmware_bridge.port import PortError
from firmware_bridge.recordings import RecordingError
from services.broker import BrokerError
from services.commands import diary, guide, mine, plan, running
from services.decoding import DecodingError
from services.diary import DiaryError
from services.settings import SettingsError
from services.store import StoreError

FAILURES = (
    SettingsError,
    StoreError,
    DiaryError,
    BrokerError,
    RecordingError,
    PortError,
    SignalError,
    DecodingError,
    BrainflowError,
)

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": running.demo,
    "run": running.run,
    "record": running.record,
    "export": running.export,
    "replay": running.replay,
    "analyze": running.analyze,
    "decode": running.decode,
    "simulate-fleet": running.simulate_fleet,
    "boards": running.boards,
    "mqtt": running.mqtt,
    "check": running.check,
    "diary": diary.diary,
    "plan": plan.plan,
    "forget-me": mine.forget_me,
    "calibrate": guide.calibrate,
    "exercise": guide.exercise,
}
