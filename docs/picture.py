"""Draw docs/demo.svg: the real live view of `unshrug demo` at the moment of its first cue."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from firmware_bridge.blocks import SampleBlock, Signal
from firmware_bridge.simulator import REFERENCE_UV, REST_UV, Wearer
from services.messages import Cue
from services.pipeline import Pipeline
from services.screen import LiveScreen
from services.settings import Settings


def main() -> None:
    """Run the demonstration's pipeline without waiting, and stop at the cue."""
    settings = Settings()
    calibration = replace(settings.calibration, rest_uv=(REST_UV,), reference_uv=(REFERENCE_UV,))
    pipeline = Pipeline(replace(settings, calibration=calibration))
    signal = Signal(1000.0, ("left", "right"))
    wearer = Wearer()
    console = Console(width=96, record=True, file=io.StringIO(), force_terminal=True)
    screen = LiveScreen(console)
    list(pipeline.board(None))
    for start in range(0, 60_000, 50):
        messages = list(pipeline.process(SampleBlock(signal, start, np.array(wearer.samples(50)))))
        for message in messages:
            screen.accept(message)
        if any(isinstance(m, Cue) and m.outcome == "given" for m in messages):
            break
    screen.motor(0.6)
    screen.close()
    console.clear()
    console.export_text(clear=True)
    console.print(screen)
    svg = console.export_svg(title="unshrug demo")
    # The picture must not fetch a font: the reader's own monospaced one does.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    Path(__file__).with_name("demo.svg").write_text(svg)


if __name__ == "__main__":
    main()
