"""A wearer who does what a guide says, before a pipeline that is steered by requests."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from firmware_bridge.blocks import SampleBlock
from firmware_bridge.simulator import Activity, Wearer
from services.haptics import Haptics
from services.messages import AskStore, Guided, Message, Reply, Request
from services.pipeline import Pipeline
from services.settings import Settings
from services.steering import Steering
from tests.services.conftest import CALIBRATED, REST, SIGNAL, Array

QUICKLY = replace(
    CALIBRATED, guide=replace(CALIBRATED.guide, rest_s=20.0, pause_s=20.0, silence_s=10.0, patience_s=60.0)
)
HOLD_UV = 80.0


def _always(level_uv: float, seed: int) -> Wearer:
    return Wearer(day=(Activity("so", 60, level_uv),), seed=seed, ecg_uv=0, mains_uv=0)


class Sitter:
    """Someone who rests and raises the arms as they are told; `spoil` may change what the electrodes give meanwhile."""

    def __init__(self, settings: Settings = QUICKLY, spoil: Callable[["Sitter", Array], Array] | None = None) -> None:
        self.messages: list[Message] = []
        self.answers: list[Reply | AskStore] = []
        self.kept: dict[str, Any] = {}
        self.pipeline = Pipeline(settings)
        self.haptics = Haptics(settings.motor, simulated=True)
        self.steering = Steering(
            settings, {}, (), self.pipeline, self.haptics, self.answers.append, self.kept.__setitem__, lambda: 1e9
        )
        self.hold_uv = HOLD_UV
        self.seconds = 0
        self._spoil = spoil or (lambda _, values: values)
        self._resting = _always(REST.level_uv, 1)
        self.messages += self.pipeline.board(None)

    def ask(self, verb: str, **body: Any) -> Reply | AskStore:
        self.messages += self.steering.obey(Request(verb, body), float(self.seconds))
        return self.answers[-1]

    def error(self, verb: str, **body: Any) -> str | None:
        answer = self.ask(verb, **body)
        assert isinstance(answer, Reply)
        return answer.error

    @property
    def guided(self) -> list[Guided]:
        return [m for m in self.messages if isinstance(m, Guided)]

    @property
    def step(self) -> str:
        return self.guided[-1].step if self.guided else ""

    def sit(self, seconds: int) -> None:
        """Let seconds pass."""
        for _ in range(seconds):
            values = self._resting.samples(1000)
            if self.step in ("raise", "hold"):
                values = values * (self.hold_uv / REST.level_uv)
            values = self._spoil(self, np.asarray(values))
            self.messages += self.pipeline.process(SampleBlock(SIGNAL, 1000 * self.seconds, values))
            self.seconds += 1

    def until(self, step: str, most: int = 200) -> Guided:
        """Let time pass until the guide has come to a step; return what it says then."""
        for _ in range(most):
            if self.step == step:
                return self.guided[-1]
            self.sit(1)
        raise AssertionError(f"not {step} but {self.step} after {most} s: {self.guided[-3:]}")

    def calibrate(self, most: int = 6, **how: Any) -> Guided:
        """Go through a calibration; return how it ended."""
        assert self.error("calibrate", action="start", **how) is None
        self.sit(1)
        for _ in range(most):
            while self.step not in ("ready", "ended"):
                self.sit(1)
            if self.step == "ended":
                break
            assert self.error("calibrate", action="next") is None
        return self.until("ended")
