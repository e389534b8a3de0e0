"""How well sustained shrugs are found, beside other detectors: `python -m benchmarks.accuracy` writes docs/accuracy.md.

`--tune` prints the tables of the tuning half instead, `--sweep` what the thresholds without a reference do there.
"""

import argparse
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.detectors import LEAST_S, LIMIT_S, MERGE_S, PEERS, Heard, Peer, detect
from benchmarks.real import Real, recordings
from benchmarks.scenes import HARD, QUIET, REST_UV, SNR_DB, Scene, Span, hard, holds, quiet, recording
from benchmarks.scoring import LEAST_OVERLAP, STRICT_S, Score, score, spread
from dsp.chain import ChainSettings
from firmware_bridge.recordings import RecordingError
from services.analysis import Given, analyze, calibrate
from services.settings import Settings

ALONE, REFERENCE = "Unshrug", "Unshrug, with a reference"
OURS = (ALONE, REFERENCE)
_PROCESSES = 2
_OUT = Path(__file__).parent.parent / "docs" / "accuracy.md"
_HOLD_FILES, _HARD_FILES = 3, 3
_QUIET_FILES, _QUIET_PEERS = 40, 4  # a quarter of an hour each

Scores = dict[str, Score]  # by detector
Tables = dict[tuple[str, str], Scores]  # by group and row


@dataclass(frozen=True, slots=True)
class Job:
    """One recording to run: which row of which table it belongs to, and which detectors run."""

    group: str  # holds, quiet, hard or real
    row: str
    seed: int
    peers: str = "all"  # or fast, or none

    def scene(self) -> Scene:
        """Make the recording."""
        match self.group:
            case "holds":
                return holds(float(self.row), self.seed)
            case "quiet":
                return quiet(self.row, self.seed)
            case _:
                return hard(self.row, self.seed)


def jobs(half: int) -> list[Job]:
    """Return the synthetic recordings of a half: even seeds (0) tune, odd seeds (1) test."""

    def seeds(n: int) -> range:
        return range(half, 2 * n, 2)

    out = [Job("holds", str(db), seed) for db in SNR_DB for seed in seeds(_HOLD_FILES)]
    for kind in QUIET:
        for k, seed in enumerate(seeds(_QUIET_FILES)):
            out.append(Job("quiet", kind, seed, "fast" if k < _QUIET_PEERS else "none"))
    for name in HARD:
        out += [Job("hard", name, 100 + seed, "fast" if k else "all") for k, seed in enumerate(seeds(_HARD_FILES))]
    return out


# Detectors


def found(scene: Scene, given: Given, settings: Settings) -> list[list[Span]]:
    """Return this project's sustained shrugs per channel, by the path of `unshrug analyze`; low rest is no hold."""
    made = recording(scene)
    result: dict[str, Any] = analyze(made, settings, calibrate(made, settings, given))
    return [
        [(e["start_s"], e["end_s"]) for e in channel["events"] if e["kind"] == "shrug"]
        for channel in result["channels"]
    ]


def _ours(scene: Scene, given: Given, settings: Settings, maybe: tuple[Span, ...] = ()) -> Score:
    try:
        events = found(scene, given, settings)
    except RecordingError as error:
        events, failed = [[] for _ in scene.holds], str(error)
    else:
        failed = ""
    total = Score(failed=failed)
    for one, truth in zip(events, scene.holds, strict=True):
        total.add(score(one, truth, scene.seconds, maybe))
    return total


def _theirs(peer: Peer, scene: Scene, maybe: tuple[Span, ...] = (), threshold: float | None = None) -> Score:
    """A peer that raises has found nothing in this channel."""
    total = Score()
    for channel, truth in zip(scene.uv.T, scene.holds, strict=True):
        try:
            events, failed = detect(peer, Heard(channel, scene.rate_hz, scene.rest), threshold), ""
        except Exception as error:  # whatever it is, the table says it
            events, failed = [], f"{type(error).__name__}: {error}"
        total.add(score(events, truth, scene.seconds, maybe))
        total.failed = total.failed or failed
    return total


def run(job: Job, names: tuple[str, ...]) -> Scores:
    """Run the detectors on one synthetic recording."""
    scene = job.scene()
    out = {
        ALONE: _ours(scene, Given(rest_s=scene.rest), Settings()),
        REFERENCE: _ours(scene, Given(rest_s=scene.rest, reference_uv=scene.reference_uv), Settings()),
    }
    for peer in PEERS:
        if peer.name in names and job.peers != "none" and not (peer.slow and job.peers == "fast"):
            out[peer.name] = _theirs(peer, scene)
    return out


def run_real(real: Real, names: tuple[str, ...]) -> Scores:
    """Run the detectors on one real recording."""
    out = {ALONE: _ours(real.scene, real.given, Settings(), real.maybe)}
    if real.reference is not None:
        out[REFERENCE] = _ours(real.scene, real.reference, Settings(), real.maybe)
    return out | {peer.name: _theirs(peer, real.scene, real.maybe) for peer in PEERS if peer.name in names}


def able() -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the peers that can take part, and why the others cannot: tried on five minutes of plain holds."""
    scene = holds(20, 1)
    heard = Heard(scene.uv[:, 0], scene.rate_hz, scene.rest)
    names, why = [], {}
    for peer in PEERS:
        try:
            detect(peer, heard)
        except TimeoutError:
            why[peer.name] = f"more than {LIMIT_S} s of CPU for {scene.seconds / 60:.1f} minutes of signal"
        except ImportError as error:
            why[peer.name] = f"not installed ({error})"
        except Exception:  # some fail on some recordings only
            names.append(peer.name)
        else:
            names.append(peer.name)
    return tuple(names), why


def measure(half: int, names: tuple[str, ...]) -> Tables:
    """Run everything of one half."""
    tables: Tables = defaultdict(lambda: defaultdict(Score))
    work = jobs(half)
    real = [r for r in recordings() if r.half == ("test" if half else "tune")]
    with ProcessPoolExecutor(_PROCESSES, get_context("fork")) as pool:
        rows = [("real", r.scene.name) for r in real] + [(job.group, job.row) for job in work]
        results = [pool.submit(run_real, r, names) for r in real] + [pool.submit(run, job, names) for job in work]
        for row, result in zip(rows, results, strict=True):
            for name, one in result.result().items():
                tables[row][name].add(one)
    return tables


# Tables


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _grid(
    tables: Tables,
    group: str,
    rows: Iterable[str],
    names: Iterable[str],
    *,
    cell: Callable[[Score], str],
    unit: str = "",
) -> str:
    """Return a table with a line for each detector and a column for each row of a group."""
    rows = list(rows)
    lines = [
        [name, *[cell(tables[group, r][name]) if name in tables[group, r] else "–" for r in rows]] for name in names
    ]
    return _table(["", *[f"{r}{unit}" for r in rows]], lines)


def _limit(false: int, hours: float) -> str:
    """Upper 95 % limit of a Poisson rate."""
    from scipy.stats import chi2

    return f"{chi2.ppf(0.95, 2 * (false + 1)) / 2 / hours:.2g}"


def _rate(one: Score) -> str:
    return f"{one.per_hour():.1f}" if one.false else f"0 (< {_limit(0, one.hours)})"


def _pooled(tables: Tables, group: str, rows: Iterable[str], name: str) -> Score:
    total = Score()
    for row in rows:
        total.add(tables[group, row][name])
    return total


def _delays(tables: Tables, names: Iterable[str]) -> str:
    at = ("10", "20", "30")
    head = ["", *[f"onset, {db} dB" for db in at], *[f"end, {db} dB" for db in at]]
    lines = []
    for name in names:
        scores = [tables["holds", db][name] for db in at]
        lines.append([name, *[spread(s.onset_s) for s in scores], *[spread(s.offset_s) for s in scores]])
    return _table(head, lines)


def _exact(one: Score) -> str:
    if one.failed:
        return f"refused: {one.failed.rpartition(': ')[2]}"
    return f"{one.exact} of {one.holds}" + (f", {one.false} false" if one.false else "")


def _hard(tables: Tables) -> str:
    head = ["", *OURS, "end, ms"]
    lines = [
        [name, *[_exact(tables["hard", name][ours]) for ours in OURS], spread(tables["hard", name][ALONE].offset_s)]
        for name in HARD
    ]
    return _table(head, lines)


def _hard_peers(tables: Tables, names: Iterable[str]) -> str:
    alone = [n for n in HARD if "one channel" not in n]
    beside = [n for n in HARD if "one channel" in n]
    lines = []
    for name in names:
        both = [_pooled(tables, "hard", rows, name) for rows in (alone, beside)]
        lines.append([name, *[t for s in both for t in (f"{s.f1:.2f}", f"{s.exact} of {s.holds}", str(s.false))]])
    part = ("F1", "in time", "false")
    return _table(["", *[f"{p}, sound channels" for p in part], *[f"{p}, one bad" for p in part]], lines)


def _real(tables: Tables, names: Iterable[str]) -> str:
    names = list(names)
    rows = [row for group, row in tables if group == "real"]

    def cell(one: Score | None) -> str:
        if one is None:
            return "–"
        if one.failed:
            return "fails"
        return (f"{one.found} of {one.holds}" if one.holds else "") + (f" +{one.false}" if one.false else "") or "0"

    lines = [[row, *[cell(tables["real", row].get(name)) for name in names]] for row in rows]
    totals = [Score() for _ in names]
    for row in rows:
        for total, name in zip(totals, names, strict=True):
            total.add(tables["real", row].get(name) or Score())
    everywhere = [all(name in tables["real", row] for row in rows) for name in names]
    lines.append(
        ["F1, all recordings", *[f"{t.f1:.2f}" if e else "–" for t, e in zip(totals, everywhere, strict=True)]]
    )
    return _table(["", *[n.replace("BioSPPy ", "B. ").replace("NeuroKit2 ", "NK. ") for n in names]], lines)


def _failures(tables: Tables, names: Iterable[str], why: dict[str, str]) -> str:
    lines = [f"- {name}: left out, {reason}." for name, reason in why.items()]
    for name in names:
        seen = {
            t[name].failed.splitlines()[0].rpartition(": ")[2] for t in tables.values() if name in t and t[name].failed
        }
        if seen:
            lines.append(f"- {name}: {'; '.join(sorted(seen))} (on some recordings; there it has found nothing).")
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _hours(tables: Tables, name: str) -> float:
    return max(tables["quiet", kind][name].hours for kind in QUIET if name in tables["quiet", kind])


def document(tables: Tables, names: tuple[str, ...], why: dict[str, str], half: str, command: str) -> str:
    """Return the whole document."""
    everyone = (*OURS, *names)
    first = names[0] if names else ALONE
    packages = ", ".join(f"{p} {_version(p)}" for p in ("biosppy", "neurokit2", "numpy", "scipy"))
    s = ChainSettings().shrug
    tuned = ", ".join(f"{p.name.removeprefix('BioSPPy ')} {p.threshold:g}" for p in PEERS if p.grid)
    return f"""# Accuracy

Written by `{command}`; nothing here is typed by hand. Figures of the **{half} half**.
Python {platform.python_version()}, {packages}.

Synthetic is synthetic: the noise is Gaussian, the rest is the rest that was calibrated on, and nobody has worn it.
The real recordings are few, and only one is of a trapezius.

## What was done

- **Synthetic recordings** (`benchmarks/scenes.py`), 1 kHz: Gaussian noise with the spectrum of Shwedyk et al. 1977. A
  hold begins where its level begins to rise and ends where it begins to fall; edges take 0.1-0.2 s. The first 10 s
  are rest and are what every detector is told about rest.
- **Halves.** Synthetic: even seeds tune, odd seeds test (the hard cases: from 101 on), all parameters drawn anew.
  Real: Myo S1 and S2 tune; Myo S3, PLUX, emgGO, pyomeca and BioSPPy's examples test.
- **Unshrug** is `unshrug analyze` with its default settings: an event is a level over
  {s.on_rest_ratio_alone:g} times rest, or with a reference contraction over {s.on_rve:g} % of it.
- **The others**: {packages.partition(", numpy")[0]}. Whatever each says is active is treated alike: gaps of up to
  {MERGE_S:g} s are joined, then what is shorter than {LEAST_S:g} s is dropped. BioSPPy's published detectors leave
  filter and parameters to the caller: they get Unshrug's band-pass, the windows of their papers, and the threshold that
  was best on the tuning half, synthetic and real ({tuned}; in the unit of each; londral, slow, has 15, untuned).
  The rest have their defaults; some of these take the threshold from the whole recording and expect long rests in it.
- **Found** means an event and a hold with an intersection over union of {LEAST_OVERLAP:g} or more, one to one, best
  first. F1 is 2 found / (holds + events). Onset and end are event minus truth, mean ± SD over what was found.
  **In time** means that both ends are within {STRICT_S:g} s of the truth. Events that match nothing are false.

## Holds of 3.5-20 s over {REST_UV:g} µV rest: F1

SNR is 20 log10(RMS of the hold / RMS of the rest); {tables["holds", "20"][ALONE].holds} holds each. The reference is as
strong as the holds. A raise of less than some 7 dB is left undetected on purpose.

{_grid(tables, "holds", map(str, SNR_DB), everyone, cell=lambda o: f"{o.f1:.2f}", unit=" dB")}
## How late, ms

{_delays(tables, everyone)}
## Hours in which nothing is held: false events per hour

{_hours(tables, ALONE):.1f} h of each for Unshrug, {_hours(tables, first):.1f} h for the others, none for slow ones.
Where there were no false events the upper 95 % limit of the rate is in brackets. Rest {REST_UV:g} µV; heartbeats of
100-300 µV at 60-100 a minute; phrases of 1-2.5 s at 5-20 µV, 12-20 a minute; keystrokes of 0.1-0.5 s at 5-30 µV on a
tone of 3-6 µV; raises of 0.5-2 s at 20-100 µV with sway. The reference is 80 µV.

{_grid(tables, "quiet", QUIET, everyone, cell=_rate)}
## The hard cases, as makers' boards deliver them

Two channels; every case {_HARD_FILES} times. In time, of how many holds; a bad channel has none. What is meant by each
stands in `benchmarks/scenes.py`. The end is that without a reference. Refused: the analysis takes no such recording.

{_hard(tables)}
{_hard_peers(tables, everyone)}
## Real recordings

Found of how many, + false ones; 0 where nothing is held and nothing was found.

{_real(tables, everyone)}
The truth is the published labels of each. Prompts (Myo) are followed 0.3-0.8 s late. PLUX, 3 s on and 1 s off: pauses
of up to {MERGE_S:g} s are joined in the truth too, and what then lasts 2.5-3.5 s counts neither way. Without the folder
named by UNSHRUG_DATA only PLUX is there.

## What did not work

{_failures(tables, everyone, why)}"""


# Tuning


def _variant(job: Job, many: tuple[Settings, ...]) -> list[Score]:
    scene = job.scene()
    return [_ours(scene, Given(rest_s=scene.rest), settings) for settings in many]


def sweep() -> str:
    """Vary the thresholds that hold without a reference contraction, on the tuning half."""
    default = Settings()
    ratios = [{"on_rest_ratio_alone": r} for r in (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0)]
    changes: list[dict[str, float]] = [*ratios, *({"off_ratio": r} for r in (0.4, 0.5, 0.6, 0.7, 0.8))]
    many = tuple(replace(default, shrug=replace(default.shrug, **change)) for change in changes)
    totals: dict[tuple[str, str, int], Score] = defaultdict(Score)
    clean = [0] * len(many)
    work = jobs(0)
    with ProcessPoolExecutor(_PROCESSES, get_context("fork")) as pool:
        for job, scores in zip(work, pool.map(_variant, work, [many] * len(work)), strict=True):
            for k, one in enumerate(scores):
                totals[job.group, job.row, k].add(one)
                clean[k] += job.group == "hard" and one.clean
    head = ["", *[f"F1, {db} dB" for db in SNR_DB], *[f"{kind}, false/h" for kind in QUIET], "hard cases all right"]
    lines = [
        [
            ", ".join(f"{key} {value:g}" for key, value in change.items()),
            *[f"{totals['holds', str(db), k].f1:.2f}" for db in SNR_DB],
            *[_rate(totals["quiet", kind, k]) for kind in QUIET],
            f"{clean[k]} of {len(HARD) * _HARD_FILES}",
        ]
        for k, change in enumerate(changes)
    ]
    return _table(head, lines)


def _grid_scores(scene: Scene, names: tuple[str, ...]) -> dict[tuple[str, float], Score]:
    return {(p.name, t): _theirs(p, scene, threshold=t) for p in PEERS if p.name in names for t in p.grid}


def _grid_job(job: Job, names: tuple[str, ...]) -> dict[tuple[str, float], Score]:
    return _grid_scores(job.scene(), names)


def thresholds(names: tuple[str, ...]) -> str:
    """Try the peers' thresholds on the tuning half: the mean of three F1s.

    They are that of the holds with a quarter of an hour of each kind without any, that of the hard cases, and that of
    the real recordings.
    """
    totals: dict[tuple[str, tuple[str, float]], Score] = defaultdict(Score)
    with ProcessPoolExecutor(_PROCESSES, get_context("fork")) as pool:
        real = [r.scene for r in recordings() if r.half == "tune"]
        work = [j for j in jobs(0) if j.seed == 0 or j.group == "holds"]
        groups = ["real"] * len(real) + [j.group for j in work]
        results = [pool.submit(_grid_scores, scene, names) for scene in real]
        results += [pool.submit(_grid_job, job, names) for job in work]
        for group, result in zip(groups, results, strict=True):
            for key, one in result.result().items():
                totals[group, key].add(one)
    keys = [(p.name, t) for p in PEERS if p.name in names for t in p.grid]
    lines = []
    for key in keys:
        pooled = Score()
        for group in ("holds", "quiet"):
            pooled.add(totals[group, key])
        parts = [pooled.f1, totals["hard", key].f1, totals["real", key].f1]
        lines.append([key[0], f"{key[1]:g}", *[f"{f1:.3f}" for f1 in parts], f"{sum(parts) / len(parts):.3f}"])
    return _table(["", "threshold", "F1, holds and quiet", "F1, hard", "F1, real", "mean"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="print the tuning half")
    parser.add_argument("--sweep", action="store_true", help="print the tuning half for other thresholds")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # two processes are enough, and threads of OpenMP do not survive a fork
    began = time.monotonic()
    if options.sweep:
        sys.stdout.write(sweep())
    else:
        names, why = able()
        tables = measure(0 if options.tune else 1, names)
        command = "python -m benchmarks.accuracy" + (" --tune" if options.tune else "")
        text = document(tables, names, why, "tuning" if options.tune else "test", command)
        if options.tune:
            sys.stdout.write(f"{text}\n## Thresholds of the others\n\n{thresholds(names)}")
        else:
            _OUT.write_text(text)
            sys.stdout.write(f"wrote {_OUT}\n")
    sys.stderr.write(f"{time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()
