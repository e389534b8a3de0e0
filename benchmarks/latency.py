"""From the byte that completes a held shrug to the motor's pin, through a real pseudo-terminal, in real time.

The clock starts when the simulated board has written the frame that completes the 50 ms hop in which the cue falls
due, and stops when gpiozero's mock pin goes high. The hop itself and the board's frame are unavoidable on top.
"""

import sys
import threading
import time
from bisect import bisect_left
from dataclasses import replace

import numpy as np

from firmware_bridge.boards import BOARDS
from firmware_bridge.bridge import Bridge
from firmware_bridge.port import Port
from firmware_bridge.simulator import REFERENCE_UV, REST, REST_UV, SHRUG, PtyBoard, Wearer, framed_stream
from services.clock import Clock
from services.daemon import Service
from services.haptics import Haptics
from services.messages import Cue, Message
from services.pipeline import Pipeline
from services.settings import Settings


def fast_settings() -> Settings:
    """Cues after 2 s instead of 10 s, and no caps: many trials in a short time, the same code."""
    s = Settings()
    return replace(
        s,
        calibration=replace(s.calibration, rest_uv=(REST_UV,), reference_uv=(REFERENCE_UV,)),
        shrug=replace(s.shrug, min_s=0.5, held_s=1.0, merge_piece_s=0.5),
        cue=replace(s.cue, grace_s=0.93, refractory_s=0.5, per_hour=10**6, per_day=10**6),
    )


class Due:
    """A sink that notes when each cue fell due on the board's clock."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def accept(self, message: Message) -> None:
        if isinstance(message, Cue) and message.outcome == "given":
            self.times.append(message.at_s)


def main(trials: int = 40) -> None:
    settings = fast_settings()
    day = (replace(REST, seconds=1.5), replace(SHRUG, seconds=3.1))
    sent: list[tuple[float, float]] = []
    on: list[float] = []
    due = Due()
    enough = threading.Event()

    def moved(drive: float) -> None:
        if drive and (not on or time.monotonic() - on[-1] > 1):
            on.append(time.monotonic())
            if len(on) >= trials:
                enough.set()

    stream = framed_stream(Wearer(day=day))
    with PtyBoard(stream, on_sent=lambda at_s: sent.append((at_s, time.monotonic()))) as board:
        service = Service(
            Port(board.path, 115200),
            Bridge(BOARDS["unshrug"]),
            Pipeline(settings),
            Haptics(settings.motor, simulated=True, on_change=moved),
            clock=Clock(),
        )
        service.sinks.append(due)
        service.run(lambda _: enough.is_set())
    hop = settings.level.hop_s
    board_s = [at for at, _ in sent]
    latencies = []
    for at_s, pin in zip(due.times, on, strict=False):
        hop_end_s = np.ceil(at_s / hop - 1e-6) * hop
        latencies.append(1000 * (pin - sent[bisect_left(board_s, hop_end_s - 1e-6)][1]))
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    sys.stdout.write(
        f"last byte to motor pin, {len(latencies)} cues: p50 {p50:.1f} ms, p95 {p95:.1f} ms, "
        f"p99 {p99:.1f} ms, worst {max(latencies):.1f} ms\n"
    )


if __name__ == "__main__":
    main()
