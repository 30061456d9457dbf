"""JMESPath, compiled once and evaluated without surprises."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import jmespath
from jmespath.parser import ParsedResult


class Fault:
    """What an expression gives that can't be evaluated over this value, such as `length(@)` over null."""


FAULT: Final = Fault()
_FAULTS = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError)


@lru_cache(maxsize=1024)
def compiled(expression: str) -> ParsedResult:
    """The parsed expression; the configuration has checked that it is one."""
    return jmespath.compile(expression)


def find(expression: str, value: object) -> object:
    """What the expression finds in a decoded JSON value, or `FAULT`. Never raises for what the value holds."""
    try:
        return compiled(expression).search(value)
    except _FAULTS:
        return FAULT


def is_true(value: object) -> bool:
    """JMESPath's truth: false, null, and an empty string, list or object are false; 0 is true."""
    return not (value is None or value is False or value is FAULT or value in ("", [], {}))


def text(expression: str | None, value: object) -> str | None:
    """What the expression finds, if it is a string that is not empty, or a number; else `None`."""
    found = find(expression, value) if expression is not None else None
    if isinstance(found, str):
        return found or None
    if isinstance(found, int | float) and not isinstance(found, bool):
        return str(found)
    return None
