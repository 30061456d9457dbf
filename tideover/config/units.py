"""Quantities as people write them: `90s`, `5m`, `2h`, `30d`; `64kB`, `10MB`. Parsed once, here."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s?(B|kB|KiB|MB|MiB|GB|GiB)")


def parse_duration(value: object) -> float:
    """Seconds, from `250ms`, `90s`, `5m`, `1h30m`, `30d`. A bare number is refused: its unit would be a guess."""
    if isinstance(value, str):
        text = value.strip()
        parts = _DURATION.findall(text)
        if parts and "".join(n + u for n, u in parts) == text:
            return sum(float(n) * _SECONDS[u] for n, u in parts)
    raise ValueError("is not a duration; write a number with its unit: ms, s, m, h, d or w, as in 90s or 1h30m")


def parse_size(value: object) -> int:
    """Bytes, from `64kB`, `10MB`, `1GiB`."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(float(match[1]) * _BYTES[match[2]])
    raise ValueError("is not a size; write a number with its unit: B, kB, MB, GB, KiB, MiB or GiB, as in 10MB")


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
    WithJsonSchema({"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d|w))+$", "examples": ["90s", "5m", "1h30m"]}),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(gt=0),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s?(B|kB|KiB|MB|MiB|GB|GiB)$", "examples": ["10MB"]}),
]
