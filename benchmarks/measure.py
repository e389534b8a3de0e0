"""How it is timed: side by side in one run, because other work on the machine makes absolute times drift."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Timed = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A median of per-round ratios and their spread."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_figure(self.median)} ({_figure(self.low)}-{_figure(self.high)})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratio_of(ratios: Iterable[float]) -> Ratio:
    """Median and quartiles."""
    low, median, high = np.percentile(list(ratios), [25, 50, 75])
    return Ratio(float(median), float(low), float(high))


def seconds(run: Timed) -> float:
    """Time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _steady_s(run: Timed) -> float:
    """Time of a call; of a short one the median of five more."""
    took = seconds(run)
    return took if took > 0.1 else float(np.median([seconds(run) for _ in range(5)]))


def side_by_side(base: Timed, runs: Mapping[str, Timed], rounds: int) -> dict[str, list[float]]:
    """Time each run right after the base, in turn; return the ratios of each run, one a round.

    The first of each round is another one every time, so that none always follows the same one.
    """
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            least = _steady_s(base)
            ratios[name].append(seconds(runs[name]) / least)
    return ratios


def _status_mb(key: str, process_id: str = "self") -> float:
    line = next(line for line in Path(f"/proc/{process_id}/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6


def peak_mb(run: Timed) -> float:
    """How far the call takes this process's resident memory above what it has now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status_mb("VmRSS")
    run()
    return _status_mb("VmHWM") - before


def in_child(*arguments: str) -> float:
    """Run this benchmark anew for one figure, which it prints last."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.speed", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def process(command: list[str]) -> tuple[float, float]:
    """Run a command to its end; return its time in s and its peak memory in MB.

    The peak is read while it runs: the one that the system reports afterwards counts the parent's before the start.
    """
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0.0
    while child.poll() is None:
        with contextlib.suppress(StopIteration, OSError):  # it has just ended
            peak = _status_mb("VmHWM", str(child.pid))
        time.sleep(0.02)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return time.perf_counter() - began, peak


def per_block(runs: Mapping[str, Callable[[int], object]], blocks: int, turn: int = 250) -> dict[str, list[float]]:
    """Time single calls of each run with block numbers, in turns of some calls each; return µs of CPU time.

    Other work on the machine interrupts for milliseconds, which says nothing about the code.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for start in range(0, blocks, turn):
        for name, run in runs.items():
            mine = times[name]
            for k in range(start, min(start + turn, blocks)):
                began = time.thread_time_ns()
                run(k)
                mine.append((time.thread_time_ns() - began) / 1000)
    return times


def free_mb() -> float:
    """Memory that can be had."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024 / 1e6


def denormal_cost() -> float:
    """Time of multiplying denormal numbers, as a ratio to ordinary ones."""
    tiny, plain = np.full(20_000, 1e-310), np.ones(20_000)
    return float(np.median([seconds(lambda: tiny * 0.999) / seconds(lambda: plain * 0.999) for _ in range(99)]))
