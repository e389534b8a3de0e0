"""How often tension is said to go with attacks in made diaries, of which it is known whether it does.

`python -m benchmarks.association` writes the last part of docs/association.md.
"""

import textwrap
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from services.association import ALPHA, Association, Attack, Hour, associate

Array = NDArray[np.float64]

_PAGE = Path(__file__).parents[1] / "docs" / "association.md"
_MONDAY = datetime(2026, 1, 5)
_DAY_H = 24


@dataclass(frozen=True, slots=True)
class Life:
    """A made wearer: how long they wear it, and what tension and attacks depend on.

    `monthly` is the attacks a month without anything that raises them. `effect` is the logarithm of what one standard
    deviation more tension from 48 to 2 h before multiplies the chance of an attack by, `mondays` that of a Monday.
    `early` raises tension, in log odds, in the last 2 h before an attack and never else. `afternoon` is the swing of
    tension over the day, also in log odds, `carried` its correlation from day to day, and `spread_h` the standard
    deviation of the time of attacks around 17:00.
    """

    days: int = 546
    monthly: float = 4.0
    effect: float = 0.0
    early: float = 0.0
    afternoon: float = 0.7
    carried: float = 0.7
    spread_h: float = 3.0
    mondays: float = 0.7


AFTERNOONS = Life(days=728, afternoon=2.0, spread_h=1.0, mondays=1.5)
EARLY = Life(early=2.0)
_UNLINKED = {
    "as people live": Life(),
    "tension and attacks late in the afternoon, attacks on Mondays": AFTERNOONS,
    "tense weeks and calm weeks": Life(carried=0.95),
    "tension rises in the last 2 h before an attack": EARLY,
}
_TIMES = (1.5, 2.0, 3.0)
_DAYS = (364, 728, 1456)
_RUNS = 500
_PROCESSES = 2
_HEADING = "## Simulated diaries"
_ABOUT = textwrap.fill(
    f"Written by `python -m benchmarks.association`: {_RUNS} made diaries a row, of people who wear the device ten "
    "hours a day, most working days and every other day of a weekend. Tension follows the hour, the weekday, the "
    "season and its own past; attacks follow the hour, the weekday and bad weeks. Shares are of the diaries with an "
    "estimate.",
    120,
)
_UNLINKED_COLUMNS = (
    "| diary | usable attacks, median | with an estimate | exact p < 0.05, % | shift p < 0.05, % | called a link, % "
    "| last 2 h: b / c, mean |"
)


def live(life: Life, seed: int) -> tuple[list[Attack], list[Hour]]:
    """Make a diary, and the hours of wearing with their tension."""
    rng = np.random.default_rng(seed)
    level = _level(life, rng)
    worn_s = _worn_s(life.days, rng)
    attacks = list(_attacks(life, _before(_share(level)), rng))
    tense_s = worn_s * _share(level, life.early * _last_hours(attacks, len(level)))
    worn = np.flatnonzero(worn_s).tolist()
    hours = [Hour(_MONDAY + timedelta(hours=h), float(worn_s[h]), float(tense_s[h])) for h in worn]
    return [attack for attack in attacks if attack.onset >= hours[0].start], hours


def _share(level: Array, raised: Array | float = 0.0) -> Array:
    return np.asarray(1 / (1 + np.exp(-level - raised)))


def _level(life: Life, rng: np.random.Generator) -> Array:
    """Tension by hour, in log odds of being tense: day, week and season, and what carries over from day to day."""
    hour = np.arange(_DAY_H * life.days)
    day = hour // _DAY_H
    return np.asarray(
        -2
        + life.afternoon * np.cos(2 * np.pi * (hour % _DAY_H - 17) / _DAY_H)
        + 0.5 * (day % 7 < 5)
        + 0.3 * np.sin(2 * np.pi * hour / (_DAY_H * 364))
        + 0.6 * _carried(life.days, life.carried, rng)[day]
        + 0.6 * _carried(len(hour), 0.8, rng)
    )


def _carried(n: int, phi: float, rng: np.random.Generator) -> Array:
    """An autoregression of first order, of variance 1."""
    noise = rng.standard_normal(n) * np.sqrt(1 - phi**2)
    return np.asarray(lfilter([1.0], [1.0, -phi], noise, zi=[phi * rng.standard_normal()])[0])


def _worn_s(days: int, rng: np.random.Generator) -> Array:
    """Seconds of wearing by hour: most working days from eight or so for ten hours, every other day of a weekend."""
    worn = rng.random(days) < np.where(np.arange(days) % 7 < 5, 0.9, 0.5)
    starts = rng.normal(8, 1, days)
    ends = starts + rng.normal(10, 2, days)
    hour = np.arange(_DAY_H)
    on = worn[:, np.newaxis] & (hour >= starts[:, np.newaxis]) & (hour < ends[:, np.newaxis])
    return np.asarray(np.round(3600 * rng.uniform(0.6, 1.0, on.shape), 1) * on).ravel()


def _before(share: Array) -> Array:
    """The mean share from 48 h to 2 h before each hour, standardised."""
    total = np.concatenate([np.zeros(48), np.cumsum(share)])
    mean = total[46 : 46 + len(share)] - total[: len(share)]
    mean[:48] = mean[48:].mean()
    return np.asarray((mean - mean.mean()) / mean.std())


def _attacks(life: Life, before: Array, rng: np.random.Generator) -> Iterator[Attack]:
    """One chance a day, more on Mondays and in bad weeks; each attack lasts ten hours or so, and some have no end."""
    bad = 0.5 * _carried(life.days, 0.9, rng)
    over_h = 0.0
    for day in range(life.days):
        at_h = _DAY_H * day + min(max(rng.normal(17, life.spread_h), 0.0), _DAY_H - 0.01)
        raised = life.effect * before[int(at_h)] + life.mondays * (day % 7 == 0) + bad[day]
        lasts_h = min(max(rng.lognormal(np.log(10), 0.6), 1.0), 72.0)
        if rng.random() < life.monthly / 30 * np.exp(raised) and at_h > over_h:
            over_h = at_h + lasts_h
            end = None if rng.random() < 0.1 else _time(over_h)
            yield Attack(_time(at_h), end)


def _time(at_h: float) -> datetime:
    return _MONDAY + timedelta(minutes=round(60 * at_h))


def _last_hours(attacks: list[Attack], n: int) -> Array:
    """How much of each hour lies within the last two before an attack."""
    hour = np.arange(n)
    inside = np.zeros(n)
    for attack in attacks:
        at_h = (attack.onset - _MONDAY) / timedelta(hours=1)
        inside += np.clip(np.minimum(at_h, hour + 1) - np.maximum(at_h - 2, hour), 0, 1)
    return inside


def result(life: Life, seed: int) -> Association:
    """What is found in one made diary."""
    return associate(*live(life, seed))


def false_share(results: list[Association]) -> float:
    """The share of estimates, in %, that say tension and attacks go together or avoid each other."""
    return _pct([r.estimate.distinguishable for r in results if r.estimate])


def _pct(flags: list[bool]) -> float:
    return 100 * float(np.mean(flags)) if flags else np.nan


def _unlinked(name: str, results: list[Association]) -> str:
    estimates = [r.estimate for r in results if r.estimate]
    exact = _pct([e.odds.exact_p < ALPHA for e in estimates])
    shift = _pct([e.shift_p < ALPHA for e in estimates])
    b, c = (np.mean([(r.early.b, r.early.c) for r in results], axis=0)).tolist()
    return (
        f"| {name} | {np.median([r.pairs.n for r in results]):.0f} | {len(estimates)} | {exact:.1f} | {shift:.1f} "
        f"| {false_share(results):.1f} | {b:.1f} / {c:.1f} |"
    )


def _linked(times: float, days: int, results: list[Association]) -> str:
    estimates = [r.estimate for r in results if r.estimate]
    found = [e for e in estimates if e.distinguishable]
    wrong = sum((e.odds.ratio or e.odds.low) < 1 for e in found)
    return (
        f"| {times:g} | {days // 364} | {np.median([r.pairs.n for r in results]):.0f} | {len(estimates)} "
        f"| {_pct([e.distinguishable for e in estimates]):.0f} | {wrong} |"
    )


def tables() -> Iterator[str]:
    """Yield the lines of the page's last part."""
    with ProcessPoolExecutor(_PROCESSES) as pool:

        def run(life: Life) -> list[Association]:
            return list(pool.map(partial(result, life), range(_RUNS), chunksize=10))

        yield from (
            _HEADING,
            "",
            _ABOUT,
            "",
            "Nothing to find: tension from 48 h to 2 h before does nothing.",
            "",
            _UNLINKED_COLUMNS,
            "|---|---|---|---|---|---|---|",
        )
        for name, life in _UNLINKED.items():
            yield _unlinked(name, run(life))
        yield from (
            "",
            "A link: one standard deviation more tension multiplies the chance of an attack.",
            "",
            "| times | years | usable attacks, median | with an estimate | found, % | found the wrong way round |",
            "|---|---|---|---|---|---|",
        )
        for times in _TIMES:
            for days in _DAYS:
                yield _linked(times, days, run(Life(days=days, effect=float(np.log(times)))))


def main() -> None:
    """Write the tables into the page."""
    text = "\n".join(tables()) + "\n"
    print(text, end="")
    page = _PAGE.read_text(encoding="utf-8")
    _PAGE.write_text(page[: page.index(_HEADING)] + text, encoding="utf-8")


if __name__ == "__main__":
    main()
