"""How often tension is said to go with attacks, where a made diary says whether it does.

`python -m benchmarks.association --write` puts its tables into docs/association.md.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from services.association import Association, Attack, Hour, associate

Array = NDArray[np.float64]

_PAGE = Path(__file__).parents[1] / "docs" / "association.md"
_MONDAY = datetime(2026, 1, 5)
_DAY_H = 24


@dataclass(frozen=True, slots=True)
class Life:
    """A made wearer: how long, how many attacks a month about, and what attacks and tension have to do with each other.

    `effect` is the log odds of an attack for one standard deviation more of the mean tension from 48 to 2 h before;
    `early` raises tension, in log odds, in the last 2 h before an attack and in no other. `afternoon` is the swing of
    tension over the day, and `attack_spread_h` the standard deviation of the time of day of attacks around 17:00.
    """

    days: int = 364
    monthly: float = 5.0
    effect: float = 0.0
    early: float = 0.0
    afternoon: float = 0.7
    attack_spread_h: float = 3.0
    mondays: float = 0.7


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
        + 0.6 * _carried(life.days, 0.7, rng)[day]
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
        at_h = _DAY_H * day + float(np.clip(rng.normal(17, life.attack_spread_h), 0, _DAY_H - 0.01))
        odds = life.effect * before[int(at_h)] + life.mondays * (day % 7 == 0) + bad[day]
        lasts_h = float(np.clip(rng.lognormal(np.log(10), 0.6), 1, 72))
        if rng.random() < life.monthly / 30 * np.exp(odds) and at_h > over_h:
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
