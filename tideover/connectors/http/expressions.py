"""JMESPath, evaluated without surprises."""

from __future__ import annotations

from typing import Final

from tideover.config.evaluation import evaluator, is_false


class Fault:
    """What an expression gives that can't be evaluated over this value, such as `length(@)` over null."""


FAULT: Final = Fault()
MAX_REFERENCE = 1000  # characters; a longer "id" is none
FAULTS = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError)


def find(expression: str, value: object) -> object:
    """What the expression finds in a decoded JSON value, or `FAULT`. Never raises for what the value holds."""
    try:
        return evaluator(expression)(value)
    except FAULTS:
        return FAULT


def is_true(value: object) -> bool:
    """JMESPath's truth, of which a fault is no part, and 0 neither: `success: 0` is a no."""
    return not (value is FAULT or is_false(value) or is_zero(value))


def is_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def reference(expression: str | None, value: object) -> str | None:
    """The provider's own id of a record. One that no database keeps and no URL carries is none."""
    found = text(expression, value)
    return found if found is not None and len(found) <= MAX_REFERENCE and "\x00" not in found else None


def text(expression: str | None, value: object) -> str | None:
    """What the expression finds, if it is a string that is not empty, or a number; else `None`."""
    found = find(expression, value) if expression is not None else None
    if isinstance(found, str):
        return found or None
    if isinstance(found, int | float) and not isinstance(found, bool):
        return written(found)
    return None


def written(number: float) -> str | None:
    """A number as text; `None` for one that is too long to be written."""
    try:
        return str(number)
    except ValueError:  # a sum with more digits than Python writes
        return None
