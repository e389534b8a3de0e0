"""What the service costs: CPU, memory and start-up of `unshrug demo` at 1 kHz, two channels, MQTT at 4 Hz."""

import os
import subprocess
import sys
import time
from pathlib import Path

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


def main() -> None:
    began = time.monotonic()
    unshrug = Path(sys.executable).with_name("unshrug")
    process = subprocess.Popen(
        [unshrug, "demo", "--headless", "--seconds", str(_SECONDS + 10)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if "µV" in line and " s " in line and "rest" not in line:
            break
    ready = time.monotonic() - began
    time.sleep(2)
    cpu, wall, memory = cpu_s(process.pid), time.monotonic(), resident_mb(process.pid)
    time.sleep(_SECONDS)
    share = 100 * (cpu_s(process.pid) - cpu) / (time.monotonic() - wall)
    grown = resident_mb(process.pid) - memory
    process.terminate()
    process.communicate()
    sys.stdout.write(
        f"demo at 1 kHz x 2, MQTT 4 Hz, simulator included: {share:.1f} % of one core, {memory:.0f} MB resident "
        f"({grown:+.1f} MB in {_SECONDS} s), first tension {ready:.2f} s after the start\n"
    )


if __name__ == "__main__":
    main()
