"""What the service costs: CPU, memory and start-up of `unshrug run` on a board that another process plays."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from firmware_bridge.simulator import PtyBoard, Wearer, framed_stream

_SECONDS = 30
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU time of a process and its threads, in s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mb(pid: int) -> float:
    """Resident memory in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(rate_hz: float, channels: int) -> None:
    """Run the service on a simulated board and print what it took."""
    with tempfile.TemporaryDirectory() as folder, PtyBoard(framed_stream(Wearer(rate_hz, channels))) as board:
        settings = Path(folder, "settings.toml")
        settings.write_text(f'[wearer]\nid = "bench"\n[board]\nport = "{board.path}"\n[calibration]\nrest_uv = [3.0]\n')
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
        time.sleep(5)
        cpu, wall, memory = cpu_s(process.pid), time.monotonic(), resident_mb(process.pid)
        time.sleep(_SECONDS)
        share = 100 * (cpu_s(process.pid) - cpu) / (time.monotonic() - wall)
        grown = resident_mb(process.pid) - memory
        process.terminate()
        process.communicate()
    sys.stdout.write(
        f"run at {rate_hz / 1000:g} kHz x {channels}, MQTT 4 Hz: {share:.1f} % of one core, {memory:.0f} MB resident "
        f"({grown:+.1f} MB in {_SECONDS} s), board heard {ready:.2f} s after the start\n"
    )


def main() -> None:
    measure(1000, 2)
    measure(4000, 4)


if __name__ == "__main__":
    main()
