"""Quantities as people write them: `90s`, `5m`, `2h`, `30d`; `64kB`, `10MB`. Parsed once, here."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")
_MAX_SECONDS = 100 * 365 * 86400.0  # in microseconds, this still fits a database's integer twenty times over
_MAX_BYTES = 1000**4
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(B|kB|KiB|MB|MiB|GB|GiB)")


def parse_duration(value: object) -> float:
    """Seconds, from `250ms`, `90s`, `5m`, `1h30m`, `30d`. A bare number is refused: its unit would be a guess."""
    if isinstance(value, str):
        text = value.strip()
        parts = _DURATION.findall(text)
        if parts and "".join(n + u for n, u in parts) == text:
            seconds = sum(float(n) * _SECONDS[u] for n, u in parts)
            if seconds > _MAX_SECONDS:
                raise ValueError("is longer than 100 years; write a shorter duration")
            return seconds
    raise ValueError("is not a duration; write a number with its unit: ms, s, m, h, d or w, as in 90s or 1h30m")


def parse_size(value: object) -> int:
    """Bytes, from `64kB`, `10MB`, `1GiB`."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        size_bytes = float(match[1]) * _BYTES[match[2]]
        if size_bytes > _MAX_BYTES:
            raise ValueError("is larger than 1000GB; write a smaller size")
        return int(size_bytes)
    raise ValueError("is not a size; write a number with its unit: B, kB, MB, GB, KiB, MiB or GiB, as in 10MB")


def format_size(size_bytes: int) -> str:
    """The shortest exact writing of a size that `parse_size` reads back: 10_000_000 -> `10MB`."""
    exact = (f"{size_bytes // factor}{unit}" for unit, factor in _BYTES.items() if size_bytes % factor == 0)
    return min(exact, key=len) if size_bytes else "0B"


def format_duration(seconds: float) -> str:
    """The shortest writing of a duration that `parse_duration` reads back: 5400.0 -> `1h30m`."""
    if 0 < seconds < 1 or seconds != int(seconds):
        return f"{round(seconds * 1000)}ms"
    rest, parts = int(seconds), []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(_SECONDS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(ge=0),
    WithJsonSchema(
        {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d|w))+$", "examples": ["90s", "5m", "1h30m"]}
    ),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(gt=0),
    WithJsonSchema(
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(B|kB|KiB|MB|MiB|GB|GiB)$", "examples": ["10MB"]}
    ),
]
