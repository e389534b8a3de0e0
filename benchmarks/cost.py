"""What the service costs: CPU, memory and start-up of `unshrug run` on a board that another process plays."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.simulator import PtyBoard, Wearer, framed_stream
from services.fleet import cpu_s, resident_mb

_SECONDS = 30
_WARM_UP_S = 5


@dataclass(frozen=True)
class Cost:
    """CPU in % of one core, memory in MB, how long until the board was heard in s, and what was counted per second."""

    cpu_pct: float
    resident_mb: float
    grown_mb: float
    ready_s: float
    counted_hz: float


def measure(
    rate_hz: float, channels: int, seconds: float, mqtt: str = "", count: Callable[[], int] = lambda: 0
) -> Cost:
    """Run the service on a simulated board, with lines for the settings' [mqtt], and return what it took.

    `count` counts something from the start on.
    """
    with tempfile.TemporaryDirectory() as folder, PtyBoard(framed_stream(Wearer(rate_hz, channels))) as board:
        settings = Path(folder, "settings.toml")
        settings.write_text(
            f'[wearer]\nid = "bench"\n[board]\nport = "{board.path}"\n[calibration]\nrest_uv = [3.0]\n'
            f'[store]\nfolder = "{folder}"\n[mqtt]\n{mqtt}\n'
        )
        began = time.monotonic()
        unshrug = Path(sys.executable).with_name("unshrug")
        process = subprocess.Popen(
            [unshrug, "run", "--config", settings], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout
        for line in process.stdout:
            if "board: ok" in line:
                break
        ready = time.monotonic() - began
        time.sleep(_WARM_UP_S)
        cpu, wall, memory, counted = cpu_s(process.pid), time.monotonic(), resident_mb(process.pid), count()
        time.sleep(seconds)
        took = time.monotonic() - wall
        cost = Cost(
            100 * (cpu_s(process.pid) - cpu) / took,
            memory,
            resident_mb(process.pid) - memory,
            ready,
            (count() - counted) / took,
        )
        process.terminate()
        process.communicate()
    return cost


def main() -> None:
    for rate_hz, channels in ((1000, 2), (4000, 4)):
        cost = measure(rate_hz, channels, _SECONDS)
        sys.stdout.write(
            f"run at {rate_hz / 1000:g} kHz x {channels}, MQTT 4 Hz: {cost.cpu_pct:.1f} % of one core, "
            f"{cost.resident_mb:.0f} MB resident ({cost.grown_mb:+.1f} MB in {_SECONDS} s), "
            f"board heard {cost.ready_s:.2f} s after the start\n"
        )


if __name__ == "__main__":
    main()
