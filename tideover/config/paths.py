"""Paths and texts of calls that something of the record stands in: `{key}` and `{id}`, and in a void `{reference}`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

OF_RECORD = ("{key}", "{id}")
OF_VOID = (*OF_RECORD, "{reference}")

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


def check_path(value: str) -> str:
    """The path itself. Raises `ValueError`, as `what; how to mend it`."""
    return _checked_path(value, OF_RECORD)


def check_void_path(value: str) -> str:
    """The path itself, which may name the provider's reference. Raises `ValueError`, as `what; how to mend it`."""
    return _checked_path(value, OF_VOID)


def check_void_text(value: str) -> str:
    """A field's text itself. Raises `ValueError`, as `what; how to mend it`, for a placeholder that there is not."""
    return _checked_places(value, OF_VOID, "a void's field")


def _checked_path(value: str, places: tuple[str, ...]) -> str:
    if not value.startswith("/") or value.startswith("//") or "\\" in value:
        raise ValueError(
            "is no path; begin it with one slash, as in /v3/orders: the host belongs in the system's block"
        )
    return _checked_places(value, places, "a path" if places is OF_RECORD else "a void's path")


def _checked_places(value: str, places: tuple[str, ...], holder: str) -> str:
    unknown = sorted(set(_PLACEHOLDER.findall(value)) - set(places))
    if unknown:
        allowed = f"{', '.join(places[:-1])} and {places[-1]}"
        raise ValueError(f"has {', '.join(unknown)}, which nothing fills in; {holder} may hold {allowed}")
    return value


UrlPath = Annotated[str, AfterValidator(check_path), Field(min_length=1)]
VoidPath = Annotated[str, AfterValidator(check_void_path), Field(min_length=1)]
VoidText = Annotated[str, AfterValidator(check_void_text)]
