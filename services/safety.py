"""When to see a doctor: shown at first use, and when an entry in the diary calls for it. No score and no diagnosis."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

# What the wearer can name, and whether it calls for help at once.
SYMPTOMS: dict[str, tuple[str, bool]] = {
    "weakness": ("weakness of an arm, a leg or the face", True),
    "numbness": ("numbness", True),
    "speech": ("slurred speech", True),
    "vision": ("double or lost vision", True),
    "walking": ("unsteady walking, or trouble with bladder or bowel", True),
    "confusion": ("confusion or drowsiness", True),
    "dizziness": ("dizziness", False),
    "fever": ("fever or feeling ill", False),
    "injury": ("an injury of head or neck", True),
    "changed": ("a headache unlike those before", False),
    "skin": ("skin that burns or itches under the electrodes", False),
}
STOPS = frozenset(SYMPTOMS) - {"fever", "changed"}  # after which cues pause until the wearer wants them again

_NOW = "seek medical care now"
_SOON = "see a doctor soon"
_MONTH = timedelta(days=30)
_MEDICINE_DAYS = 10

FIRST_USE = (
    "Before you begin: this is research and education software, not a medical device. It makes no diagnosis.",
    f"A sudden, worst-ever headache; one with weakness, numbness, double vision, slurred speech: stop, and {_NOW}.",
    f"One after an injury of head or neck, or with dizziness and a neck that newly hurts: stop, and {_NOW}.",
    f"One that is new after the age of 50, in pregnancy, with fever, cancer or a weak immune system: {_SOON}.",
    f"One with a painful red eye, or that grows, changes, comes with coughing, effort or lying down: {_SOON}.",
    "The motor goes on wrist, arm or belt, never on the neck; electrodes on battery power only; not while driving.",
)


def advice(entry: dict[str, Any], entries: Sequence[dict[str, Any]], now: datetime) -> list[str]:
    """Return what an entry calls for, a sentence each: mostly nothing."""
    named = [name for name in entry.get("symptoms", ()) if name in SYMPTOMS]
    with_neck = {"dizziness"} if entry.get("neck_pain") else set()  # an artery of the neck may be torn
    at_once = [SYMPTOMS[name][0] for name in named if SYMPTOMS[name][1] or name in with_neck]
    others = [SYMPTOMS[name][0] for name in named if SYMPTOMS[name][0] not in at_once and name != "skin"]
    found = []
    if entry.get("sudden"):
        found.append(f"A headache that is there within a minute: stop, and {_NOW}.")
    if at_once:
        found.append(f"You named {' and '.join(at_once)}: stop, and {_NOW}.")
    if others:
        found.append(f"You named {' and '.join(others)}: {_SOON}.")
    if "skin" in named:
        found.append("Take the electrodes off, and leave them off until the skin has healed.")
    days = {
        datetime.fromisoformat(one["start"]).astimezone(now.tzinfo).date()
        for one in [*entries, entry]
        if one.get("medicine") and one.get("start") and now - datetime.fromisoformat(one["start"]) < _MONTH
    }
    if entry.get("medicine") and len(days) >= _MEDICINE_DAYS:
        found.append(
            f"Medicine on {len(days)} of the last 30 days: ask your doctor whether that is too often, for it can "
            "keep headaches going."
        )
    return found
