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
) -> Any:
    """Declare a dataclass field that settings files and documentation can describe."""
    return field(
        default=default,
        metadata={"meaning": meaning, "unit": unit, "low": low, "high": high, "choices": choices},
    )
