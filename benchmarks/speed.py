"""How fast the signal processing is, and how much memory it takes, beside the practical limit and other libraries.

python -m benchmarks.speed            some five minutes; --write puts it into docs/performance.md
python -m benchmarks.speed --full     more rounds, and an hour of zeros
python -m benchmarks.speed --day      also 24 hours through `unshrug analyze`, from a CSV file of 600 MB
"""

import argparse
import contextlib
import io
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import peers, work
from benchmarks.measure import (
    Ratio,
    denormal_cost,
    free_mb,
    in_child,
    peak_mb,
    per_block,
    process,
    ratio_of,
    seconds,
    side_by_side,
)
from benchmarks.peers import Implementation, Run
from benchmarks.work import RATE
from firmware_bridge.blocks import SampleBlock

Array = NDArray[np.float64]

_PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
_HOUR = 3600.0
_BLOCK = 20
_FAST = (peers.SOSFILT, peers.OURS, peers.CHAIN, peers.BRAINFLOW, peers.MNE)
_STREAMED: dict[str, Callable[[int], work.Stages]] = {
    peers.SOSFILT.name: work.Sosfilt,
    peers.OURS.name: work.Ours,
    peers.CHAIN.name: work.WholeChain,
}


@dataclass(slots=True)
class Figures:
    """Everything measured. Ratios are lists, one a round, in the order of the rounds."""

    full: bool
    runs: dict[str, Run] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, str] = field(default_factory=dict)
    batch: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    memory: dict[tuple[str, int], float] = field(default_factory=dict)
    channels: dict[tuple[str, int], Ratio] = field(default_factory=dict)
    inputs: dict[tuple[str, str], Ratio] = field(default_factory=dict)
    blocks: dict[str, list[float]] = field(default_factory=dict)
    growth: Ratio | None = None
    denormal: float = 1.0
    day: tuple[float, float] | None = None

    @property
    def limit(self) -> Run:
        """What the ratios are to."""
        return self.runs[(peers.FUSED if work.has_compiler() else peers.SOSFILT).name]


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal, what was measured, and whether it was met; None where it could not be measured."""

    what: str
    goal: str
    measured: str
    met: bool | None


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def find_runs(figures: Figures) -> None:
    """Make ready what is installed, and note what is not."""
    for item in ((peers.FUSED,) if work.has_compiler() else ()) + peers.ALL:
        if item.version() is None:
            figures.missing[item.name] = "not installed"
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                figures.runs[item.name] = item.make()
        except (ImportError, AttributeError) as error:
            figures.missing[item.name] = f"cannot be imported ({type(error).__name__})"


def agree(figures: Figures) -> None:
    """Compare levels in steady stretches, and the number of events, with the limit's."""
    x = work.tile()
    right = figures.limit(x)
    for item in (i for i in peers.ALL if i.name in figures.runs):
        if item.most_s < work.TILE_S:
            figures.agreement[item.name] = "not comparable"
            continue
        found = figures.runs[item.name](x)
        off = [
            100 * (work.pooled_uv(found.levels[0], s) / work.pooled_uv(right.levels[0], s) - 1)
            for s in (work.REST_S, work.ACTIVE_S)
        ]
        figures.agreement[item.name] = (
            f"{off[0]:+.1f} % at rest, {off[1]:+.1f} % active; {found.events} of {right.events} events"
        )


def _lengths(figures: Figures) -> Iterable[tuple[int, tuple[Implementation, ...], int]]:
    yield 1, _FAST, 15 if figures.full else 9
    yield 8, _FAST, 7 if figures.full else 5
    if free_mb() > 6000:
        yield 24, _FAST, 5 if figures.full else 3


def batch(figures: Figures) -> None:
    """Time whole recordings of 1, 8 and 24 h; the slow ones only the hour, or less and scaled."""
    for hours, items, rounds in _lengths(figures):
        _say(f"batch, {hours} h")
        x = work.recording(hours * _HOUR)
        _batch(figures, items, x, hours, rounds)
    slow = [item for item in peers.ALL if item.slow]
    for most_s in sorted({item.most_s for item in slow}):
        _say(f"batch, the slow ones, {most_s:g} s")
        items = tuple(item for item in slow if item.most_s == most_s)
        _batch(figures, items, work.recording(most_s), 1, 5 if figures.full else 3)


def _batch(figures: Figures, items: tuple[Implementation, ...], x: Array, hours: int, rounds: int) -> None:
    runs = {i.name: partial(figures.runs[i.name], x) for i in items if i.name in figures.runs}
    if not runs:
        return
    for name, ratios in side_by_side(partial(figures.limit, x), runs, rounds).items():
        figures.batch[name, hours] = ratios


def memory(figures: Figures) -> None:
    """Take the peak of a process of its own for each figure."""
    lengths = dict.fromkeys((*_STREAMED, peers.BRAINFLOW.name, peers.MNE.name), (1, 8, 24))
    for item in peers.ALL:
        if item.name not in figures.runs or item.most_s < _HOUR:
            continue
        for hours in lengths.get(item.name, (1,)):
            if hours * 30 * 8 < free_mb():
                _say(f"memory, {item.name}, {hours} h")
                figures.memory[item.name, hours] = in_child("--memory", item.name, "--hours", str(hours))


def child_memory(name: str, hours: int) -> float:
    """Peak memory above the interpreter, the imports and a run of ten seconds that completes these."""
    if name in _STREAMED:
        make = _STREAMED[name]
        make(1).push(work.tile()[:, : 10 * RATE])
        return peak_mb(lambda: _feed(make(1), hours * _HOUR))
    with contextlib.redirect_stdout(io.StringIO()):
        run = next(item for item in peers.ALL if item.name == name).make()
    run(work.tile()[:, : 10 * RATE].copy())
    return peak_mb(lambda: run(work.recording(hours * _HOUR)))


def _feed(stages: work.Stages, length_s: float) -> None:
    """Hand blocks over and let go of the levels, as a reader of a file does."""
    for x in work.blocks(length_s):
        stages.push(x)


def channels(figures: Figures) -> None:
    """Time ten minutes of 4 and 8 channels against one."""
    for item in ((peers.FUSED,) if work.has_compiler() else ()) + _FAST:
        if item.name not in figures.runs:
            continue
        run = figures.runs[item.name]
        many = {str(n): partial(run, work.tile(n)) for n in (4, 8)}
        for n, ratios in side_by_side(partial(run, work.tile()), many, 7).items():
            figures.channels[item.name, int(n)] = ratio_of(ratios)


def inputs(figures: Figures) -> None:
    """Time rest, zeros, denormal numbers and one endless shrug against the usual mixture."""
    figures.denormal = denormal_cost()
    length_s = _HOUR if figures.full else float(work.TILE_S)
    usual = work.recording(length_s)
    noise = np.tile(work.noise(), round(length_s / work.TILE_S))
    kinds = {
        "zeros": np.concatenate([usual[:, :RATE], np.zeros((1, usual.shape[1] - RATE))], axis=1),
        "1e-310": 1e-310 * noise,
        "rest only": 2.5 * noise,
        "60 µV throughout": 60.0 * noise,
    }
    for item in ((peers.FUSED,) if work.has_compiler() else ()) + _FAST:
        if item.name not in figures.runs:
            continue
        _say(f"inputs, {item.name}")
        run = figures.runs[item.name]
        runs = {kind: partial(run, x) for kind, x in kinds.items()}
        for kind, ratios in side_by_side(partial(run, usual), runs, 5).items():
            figures.inputs[item.name, kind] = ratio_of(ratios)


def _cut(x: Array) -> list[Array]:
    return [np.ascontiguousarray(x[:, k : k + _BLOCK]) for k in range(0, x.shape[1], _BLOCK)]


def _chain_pusher(pieces: list[Array], day_s: float = 0.0) -> Callable[[int], object]:
    """Return what takes the next block of 20 ms, after a day of data in larger ones if asked."""
    chain = work.calibrated_chain(2)
    for x in work.blocks(day_s, 2):
        chain.process(SampleBlock(chain.signal, chain.samples, x.T))
    at = count(chain.samples, _BLOCK)
    rows = [np.ascontiguousarray(x.T) for x in pieces]
    return lambda k: chain.process(SampleBlock(chain.signal, next(at), rows[k % len(rows)]))


def _pusher(stages: work.Stages, pieces: list[Array]) -> Callable[[int], object]:
    return lambda k: stages.push(pieces[k % len(pieces)])


def _brainflow_pusher(pieces: list[Array]) -> Callable[[int], object]:
    level, buffer = peers.brainflow_second(), np.zeros((2, RATE))

    def push(k: int) -> object:
        buffer[:, :-_BLOCK] = buffer[:, _BLOCK:]
        buffer[:, -_BLOCK:] = pieces[k % len(pieces)]
        return level(buffer)

    return push


def streaming(figures: Figures) -> None:
    """Time blocks of 20 ms of two channels, and the chain again after 24 h of data."""
    _say("streaming")
    pieces = _cut(work.tile(2)[:, : 60 * RATE])
    runs: dict[str, Callable[[int], object]] = {peers.CHAIN.name: _chain_pusher(pieces)}
    simple: dict[str, Callable[[int], work.Stages]] = {peers.SOSFILT.name: work.Sosfilt, peers.OURS.name: work.Ours}
    if work.has_compiler():
        simple[peers.FUSED.name] = work.Fused
    for name, make in simple.items():
        runs[name] = _pusher(make(2), pieces)
    if peers.BRAINFLOW.name in figures.runs:
        runs[peers.BRAINFLOW.name] = _brainflow_pusher(pieces)
    figures.blocks = per_block(runs, 30_000 if figures.full else 9_000)
    _say("streaming, after 24 h")
    aged = {"first": _chain_pusher(pieces), "last": _chain_pusher(pieces, 24 * _HOUR)}
    times = per_block(aged, 9_000)
    first, last = (np.median(np.reshape(_with_hop(times[k]), (9, -1)), axis=1) for k in ("first", "last"))
    figures.growth = ratio_of(last / first)


def _with_hop(times: list[float]) -> list[float]:
    """Keep the blocks that complete a hop of 50 ms."""
    hop = round(0.05 * RATE)
    return [t for k, t in enumerate(times) if (k + 1) * _BLOCK // hop > k * _BLOCK // hop]


def day(figures: Figures) -> None:
    """Analyze a recording of 24 h, from text, in a process of its own."""
    _say("24 h through `unshrug analyze`")
    text = "".join(f"{v:.2f}\n" for v in work.tile()[0])
    unshrug = Path(sys.executable).with_name("unshrug")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "day.csv"
        with path.open("w") as file:
            file.write("emg_uV\n")
            file.writelines(text for _ in range(24 * 3600 // work.TILE_S))
        levels = ["--rest-uv", "2.5", "--reference-uv", f"{work.REFERENCE_UV:g}"]
        out = ["--format", "json", "--out", str(Path(folder) / "day.json")]
        figures.day = process([str(unshrug), "analyze", str(path), "--rate", str(RATE), *levels, *out])


def goals(figures: Figures) -> list[Goal]:
    """Set the goals beside the figures."""
    limit = "fused C" if work.has_compiler() else "`sosfilt`"
    ours, chain = peers.OURS.name, peers.CHAIN.name
    found = [_at_most(f"batch, {h} h, to {limit}", 1.5, figures.batch.get((ours, h))) for h in (1, 8, 24)]
    found += [_at_most(f"whole chain, {h} h, to {limit}", 4.0, figures.batch.get((chain, h))) for h in (1, 8, 24)]
    for item, least in (
        (peers.BRAINFLOW, 2.3),
        (peers.MNE, 2.3),
        (peers.NEUROKIT, 10.0),
        (peers.LIBEMG, 30.0),
        (peers.NEUROKIT_PROCESS, 1000.0),
    ):
        found += [_faster(figures, item, least, h) for h in ((1, 8, 24) if item in _FAST else (1,))]
    found += [_little_memory(figures, name) for name in (ours, chain)]
    found += _stream_goals(figures)
    for name in (ours, chain):
        zeros = figures.inputs[name, "zeros"]
        found.append(_goal(f"zeros to usual input, {name}", "<= 1.3", str(zeros), zeros.median <= 1.3))
    return found


def _goal(what: str, goal: str, measured: str, met: bool | None) -> Goal:
    return Goal(what, goal, measured, bool(met) if met is not None else None)


def _at_most(what: str, most: float, ratios: list[float] | None) -> Goal:
    if not ratios:
        return _goal(what, f"<= {most:g}", "not measured", None)
    ratio = ratio_of(ratios)
    return _goal(what, f"<= {most:g}", str(ratio), ratio.median <= most)


def _faster(figures: Figures, item: Implementation, least: float, hours: int) -> Goal:
    what, goal = f"batch, {hours} h, {item.name} to Unshrug's stages", f">= {least:g}"
    theirs = figures.batch.get((item.name, hours))
    if not theirs:
        return _goal(what, goal, figures.missing.get(item.name, "not measured"), None)
    # Each ratio is to the limit timed right before; the medians meet in the limit.
    ours = ratio_of(figures.batch[peers.OURS.name, hours])
    ratio = ratio_of(r / ours.median for r in theirs)
    return _goal(what, goal, str(ratio), ratio.median >= least)


def _little_memory(figures: Figures, name: str) -> Goal:
    taken = [figures.memory[name, hours] for hours in (1, 8, 24) if (name, hours) in figures.memory]
    return _goal(f"memory, {name}, 1, 8, 24 h", "<= 60 MB", ", ".join(f"{mb:.0f} MB" for mb in taken), max(taken) <= 60)


def _stream_goals(figures: Figures) -> list[Goal]:
    p50, p99 = np.percentile(_with_hop(figures.blocks[peers.CHAIN.name]), [50, 99])
    growth = figures.growth
    assert growth is not None
    return [
        _goal(
            "a block of 20 ms that completes a hop, 2 channels, whole chain, p50",
            "<= 100 µs",
            f"{p50:.0f} µs",
            bool(p50 <= 100),
        ),
        _goal("the same, p99", "<= 250 µs", f"{p99:.0f} µs", bool(p99 <= 250)),
        _goal("the same after 24 h of data, to the first blocks", "<= 1.1", str(growth), growth.median <= 1.1),
    ]


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _batch_table(figures: Figures) -> list[str]:
    rows = []
    for item in peers.ALL:
        cells = []
        for hours in (1, 8, 24):
            ratios = figures.batch.get((item.name, hours))
            cells.append(str(ratio_of(ratios)) if ratios else figures.missing.get(item.name, "-"))
        taken = [figures.memory.get((item.name, hours)) for hours in (1, 8, 24)]
        mb = ", ".join(f"{t:,.0f}" if t is not None else "-" for t in taken)
        scaled = f"; {item.most_s:g} s, scaled" if item.most_s < _HOUR else ""
        rows.append([item.name, *cells, mb, figures.agreement.get(item.name, "-"), (item.differs or "-") + scaled])
    head = [
        "implementation",
        "1 h",
        "8 h",
        "24 h",
        "memory, MB at 1, 8, 24 h",
        "against the limit's result",
        "differs in",
    ]
    return _table(head, rows)


def _names(figures: Figures) -> list[str]:
    return [i.name for i in (peers.FUSED, *_FAST) if i.name in figures.runs]


def _inputs_table(figures: Figures) -> list[str]:
    kinds = list(dict.fromkeys(kind for _, kind in figures.inputs))
    rows = [
        [name, *(str(figures.channels[name, n]) for n in (4, 8)), *(str(figures.inputs[name, k]) for k in kinds)]
        for name in _names(figures)
    ]
    return _table(["implementation", "4 channels to 1", "8 channels to 1", *kinds], rows)


def _blocks_table(figures: Figures) -> list[str]:
    chain = peers.CHAIN.name
    rows = []
    for name, times in [
        (f"{chain}, blocks that complete a hop", _with_hop(figures.blocks[chain])),
        *figures.blocks.items(),
    ]:
        p50, p99 = np.percentile(times, [50, 99])
        rows.append([name, f"{p50:.1f}", f"{p99:.1f}", f"{np.mean(times):.1f}"])
    return _table(["implementation", "p50 µs", "p99 µs", "mean µs"], rows)


def _machine() -> str:
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    packages = ["numpy", "scipy", *dict.fromkeys(i.package for i in peers.ALL if i.package and i.version())]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{platform.machine()}, {os.cpu_count()} cores shared with other work, {memory_gb:.0f} GB; "
        f"Python {platform.python_version()}, {versions}."
    )


def report(figures: Figures) -> str:
    """Return the page."""
    limit = "fused C" if work.has_compiler() else "`sosfilt` (no C compiler was found, so there is no fused C)"
    words = {True: "met", False: "not met", None: "-"}
    absolute = work.TILE_S * RATE / min(seconds(partial(figures.limit, work.tile())) for _ in range(9)) / 1e6
    day_s = "an hour" if figures.full else f"{work.TILE_S // 60} min"
    lines = [
        "# Performance",
        "",
        "`make bench` measures this anew and writes this page.",
        "",
        _machine(),
        "",
        (
            "The work: 1 channel at 1 kHz, Butterworth band-pass 20-450 Hz (4 sections) and a 50 Hz notch, 200 ms RMS "
            "every 25 ms, % of a reference, hysteresis events of 3 s or more; the level is up 6 % of the time. "
            f"Times are ratios to {limit}, timed right before each: median and quartiles of the rounds. "
            f"The limit takes {absolute:.0f} million samples a second here."
        ),
        "",
        "## Goals",
        "",
        *_table(
            ["figure", "goal", "measured", ""], [[g.what, g.goal, g.measured, words[g.met]] for g in goals(figures)]
        ),
        "## Batch: time as a ratio to the limit",
        "",
        *_batch_table(figures),
        (
            "Memory is the peak above the interpreter and its imports. `sosfilt` and Unshrug are fed block by "
            "block and hand their levels on; the others need the recording whole (29, 230 and 691 MB), which counts."
        ),
        "",
        f"## Channels and inputs: time as a ratio to the same implementation's, 1 channel, usual input, {day_s}",
        "",
        *_inputs_table(figures),
        (
            f"Multiplying denormal numbers takes {figures.denormal:.2g} times as long as others on this processor. "
            "Where that is about 1, zeros cost nothing extra even without care, and their column proves nothing."
        ),
        "",
        f"## Streaming: CPU time of a block of 20 ms, 2 channels ({len(figures.blocks[peers.CHAIN.name]):,} each)",
        "",
        *_blocks_table(figures),
        (
            "The whole chain works once per hop of 50 ms, so two blocks of five bear the cost; `sosfilt` and BrainFlow "
            "(on a rolling second) work on every block. The day before the last blocks came in larger ones."
        ),
        "",
    ]
    if figures.day is not None:
        took, mb = figures.day
        lines += [
            "## 24 h through `unshrug analyze`, from CSV",
            "",
            f"{took:.0f} s and {mb:.0f} MB at the most, the whole process, reading text included.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed")
    parser.add_argument("--full", action="store_true", help="more rounds")
    parser.add_argument("--day", action="store_true", help="also 24 h through `unshrug analyze`")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--memory", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--hours", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.memory:
        sys.stdout.write(f"{child_memory(options.memory, options.hours):.1f}\n")
        return
    figures = Figures(options.full)
    find_runs(figures)
    for step in (agree, batch, channels, inputs, streaming, memory, *((day,) if options.day else ())):
        step(figures)
    page = report(figures)
    sys.stdout.write(page)
    if options.write:
        _PAGE.write_text(page)


if __name__ == "__main__":
    main()
