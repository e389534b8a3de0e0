"""The plan at the terminal: where the wearer is in it, why, and what cues have done."""

import argparse
import json
import os
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path

from services.commands.shared import existing_store, load
from services.plan import (
    Difference,
    Effect,
    Plan,
    PlanError,
    Standing,
    days_of,
    default_plan,
    effect,
    load_plan,
    outcomes_of,
    pains_of,
    standing,
)


def plan(options: argparse.Namespace) -> int:
    """Do what `unshrug plan WHAT` asks for."""
    if options.what == "new":
        return _new(options)
    if options.what == "check":
        load_plan(options.file)
        print(f"{options.file}: fine")
        return 0
    return _show(options)


def _new(options: argparse.Namespace) -> int:
    path: Path = options.file
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(number, "w", encoding="utf-8") as out:
            out.write(default_plan(options.start or date.today()))
    except FileExistsError:
        raise PlanError(f"{path}: it is there already; expected a new name") from None
    print(f'{path} is written. To go by it, name it in the settings file:\n\n[plan]\nfile = "{path.absolute()}"')
    return 0


def _show(options: argparse.Namespace) -> int:
    settings = load(options)
    if not settings.plan.file:
        raise PlanError("plan.file: there is no plan; `unshrug plan new FILE` writes one, and says how to go by it")
    of = load_plan(Path(settings.plan.file))
    store = existing_store(settings)
    days, diary, cues = ((store.latest(topic) if store else []) for topic in ("summary/day", "diary", "cue"))
    if store is not None:
        store.close()
    now = standing(of, datetime.now().date(), days_of(days), pains_of(diary))
    done = effect(outcomes_of(cues))
    if options.format == "json":
        print(json.dumps({"standing": asdict(now), "effect": asdict(done)}, default=str, indent=1, ensure_ascii=False))
    else:
        print("\n".join(_lines(of, now, done)))
    return 0


def _lines(of: Plan, now: Standing, done: Effect) -> list[str]:
    phase = "no phase" if now.phase is None else f"{now.phase.kind}, day {now.day} of {now.phase.days}"
    dose = of.dose
    return [
        f"Phase   {phase}: {now.why}",
        f"Rest    the target is {now.rest_target_pct:g} % of the time (it may rise to {of.rest.ceiling_pct:g} %)",
        *(f"        {r.date}  {r.before_pct:g} -> {r.after_pct:g} %  {r.why}" for r in now.reviews),
        f"Worn    {now.worn_hours:.1f} h on {now.worn_days} of the last 7 days",
        f"        planned: {dose.hours_per_day:g} h on {dose.days_per_week} days, {dose.most_hours:g} h a day at most",
        f"Cues    {_difference('rest in the 5 min after', done.rest)}",
        f"        {_difference('relaxed within 30 s', done.relaxed)}",
        "        That is about relaxing after a cue; it says nothing about headaches.",
    ]


def _difference(what: str, found: Difference) -> str:
    counts = f"{found.given} given, {found.withheld} withheld by lot"
    if found.points is None:
        return f"{what}: cannot be said yet ({found.why})"
    sure = " (not distinguishable from chance)" if found.low is not None and found.high is not None and (
        found.low <= 0 <= found.high
    ) else ""  # fmt: skip
    return f"{what}: {found.points:+.1f} points, 95 % interval {found.low:+.1f} to {found.high:+.1f} ({counts}){sure}"
