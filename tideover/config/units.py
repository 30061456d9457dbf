"""Quantities as people write them: `90s`, `5m`, `30d`; `64kB`, `10MB`; `2%`; `200/1m`; `06:30`. Parsed once, here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")
_MAX_SECONDS = 100 * 365 * 86400.0  # in microseconds, this still fits a database's integer twenty times over
_MAX_BYTES = 1000**4
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(B|kB|KiB|MB|MiB|GB|GiB)")
_SHARE_PATTERN = r"^(50(?:\.0{1,4})?|[1-4]?[0-9](?:\.[0-9]{1,4})?)%$"  # over half, a backup would be the preferred one
RATE_PATTERN = r"^([1-9][0-9]{0,8})/([1-9][0-9]{0,6})?(s|m|h|d)$"
_MAX_WINDOW_S = 31 * 86400.0
_MAX_RATES = 10
_TIME_PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"


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


def parse_share(value: object) -> float:
    """A fraction from 0.0 to 0.5, from `2%`, `0.5%`. A bare number is refused: 0.5 might be a half, or half of 1%."""
    if isinstance(value, str) and (match := re.fullmatch(_SHARE_PATTERN, value.strip())):
        return float(match[1]) / 100
    raise ValueError("is not a share; write a percentage from 0% to 50%, as in 2% or 0.5%")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls in each window. In the file a text, as `parse_rate` reads it."""

    calls: int
    window_s: float

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(parse_rate)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": RATE_PATTERN, "examples": ["200/1m", "5/s"]}


def parse_rate(value: object) -> Rate:
    """A rate, from `5/s`, `20/10s`, `200/1m`, `5000/1h`, `100000/1d`; a rate stays as it is."""
    if isinstance(value, Rate):
        return value
    if isinstance(value, str) and (match := re.fullmatch(RATE_PATTERN, value.strip())):
        window_s = int(match[2] or 1) * _SECONDS[match[3]]
        if window_s > _MAX_WINDOW_S:
            raise ValueError("has a window longer than 31 days; write the rate for a shorter one")
        return Rate(int(match[1]), window_s)
    raise ValueError("is not a rate; write calls and window, as in 5/s, 20/10s, 200/1m, 5000/1h or 100000/1d")


class Rates(tuple[Rate, ...]):
    """One rate or several, all of which must be kept. In the file a text, or a list of texts."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(parse_rates)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        one = {"type": "string", "pattern": RATE_PATTERN, "examples": ["200/1m", "5/s"]}
        several = {"type": "array", "items": one, "minItems": 1, "maxItems": _MAX_RATES}
        return {"anyOf": [one, several]}


def parse_rates(value: object) -> Rates:
    """Rates, from one or from a list: `200/1m`, `[10/s, 200/1m]`."""
    if isinstance(value, list | tuple) and not 1 <= len(value) <= _MAX_RATES:
        raise ValueError(f"holds {len(value)} rates; write one, or a list of up to {_MAX_RATES}")
    return Rates(parse_rate(rate) for rate in (value if isinstance(value, list | tuple) else [value]))


def parse_time(value: object) -> str:
    """A time of day as it is written: `00:00`, `06:30`, `23:59`."""
    if isinstance(value, str) and re.fullmatch(_TIME_PATTERN, value.strip()):
        return value.strip()
    raise ValueError("is not a time of day; write hours and minutes, as in 00:00 or 06:30")


def format_rate(rate: Rate) -> str:
    """The writing of a rate of whole seconds that `parse_rate` reads back: `Rate(200, 60.0)` -> `200/1m`."""
    seconds = int(rate.window_s)
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % int(_SECONDS[unit]) == 0)
    return f"{rate.calls}/{seconds // int(_SECONDS[unit])}{unit}"


def format_share(share: float) -> str:
    """The writing of a share that `parse_share` reads back: 0.005 -> `0.5%`."""
    return f"{round(share * 100, 4):g}%"


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
Share = Annotated[
    float,
    BeforeValidator(parse_share),
    WithJsonSchema({"type": "string", "pattern": _SHARE_PATTERN, "examples": ["2%", "0.5%"]}),
]
TimeOfDay = Annotated[
    str,
    BeforeValidator(parse_time),
    WithJsonSchema({"type": "string", "pattern": _TIME_PATTERN, "examples": ["00:00", "06:30"]}),
]
