"""How a parameter states its unit, its allowed range and its meaning, once, beside its default."""

from dataclasses import field
from typing import Any


def parameter(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    live: bool = False,
) -> Any:
    """Declare a dataclass field that settings files and documentation can describe.

    `live` ones may be changed while the program runs.
    """
    return field(
        default=default,
        metadata={"meaning": meaning, "unit": unit, "low": low, "high": high, "choices": choices, "live": live},
    )
