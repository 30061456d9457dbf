"""From a source record to what the target takes: JMESPath fields or a Python function, and the business key."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from tideover.config.evaluation import evaluator
from tideover.config.functions import NoFunction, load_function, place_of
from tideover.config.models import Mapping, Route
from tideover.errors import MappingError, Refused
from tideover.model import NORMAL, PRIORITIES, Broken, JsonObject, NewRecord

MAX_KEY = 500  # characters: it is part of an index, of URLs and of what people read
Transform = Callable[[JsonObject], JsonObject | None]


class Mapper:
    """Maps the records of one route. Makes no call and keeps no state: the same record always gives the same result."""

    def __init__(self, route: Route, max_bytes: int, folder: Path) -> None:
        """`folder`: where mapping functions are imported from. Raises `Refused` when one can't be."""
        self._key = evaluator(route.key)
        self._may_spoil = route.mapping.function is not None  # user code may change the record that it is given
        self._transform = transform_of(route.mapping, folder)
        self._max_bytes = max_bytes
        self._priority = _priority_of(route.priority)

    def map(self, record: JsonObject) -> NewRecord | Broken | None:
        """The record to stage; `Broken` with the reason when it can't be; None when the mapping leaves it out."""
        source = source_of(record) if self._may_spoil else None
        key = ""
        try:
            key = _key_text(self._key(record))
            priority = self._priority(record)
            mapped = self._transform(record)
            if mapped is None:
                return None
            payload = _payload(mapped)
        except MappingError as error:
            return Broken(key, source or source_of(record), "mapping", str(error))
        except Exception as error:  # noqa: BLE001 - a mapping is the user's code: whatever it raises is that record's
            # Only the kind: the text of an exception may quote the record.
            return Broken(key, source or source_of(record), "mapping", f"the mapping raised {type(error).__name__}")
        if len(payload) > self._max_bytes:
            detail = f"it has {len(payload)} bytes, more than the limit of {self._max_bytes}"
            return Broken(key, source or source_of(record), "too_large", detail)
        return NewRecord(key, payload, priority)


def _priority_of(wanted: int | str) -> Callable[[JsonObject], int]:
    """What is no number, or can't be found out, is normal; a number beyond the ends is the nearest end. A record must
    not be parked because of its place in the queue."""
    if isinstance(wanted, int):
        return lambda _: wanted
    find = evaluator(wanted)

    def priority(record: JsonObject) -> int:
        try:
            found = find(record)
            if isinstance(found, bool) or not isinstance(found, int | float):
                return NORMAL
            return round(min(max(found, PRIORITIES[0]), PRIORITIES[-1]))
        except Exception:  # noqa: BLE001 - JMESPath passes on what Python says of a comparison
            return NORMAL

    return priority


def encode(record: Any) -> bytes:
    """JSON with sorted keys, so that the same content is always the same bytes. Raises `ValueError` where JSON has no
    word for a value."""
    try:
        return orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return json.dumps(
            record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str
        ).encode()


def _payload(mapped: JsonObject) -> bytes:
    try:
        return encode(mapped)
    except (ValueError, TypeError, RecursionError) as error:
        raise MappingError(f"it holds what JSON has no word for ({type(error).__name__})") from error


def source_of(record: Any) -> bytes:
    """A source record as JSON, whatever it holds: what JSON has no word for is there as Python shows it."""
    try:
        return encode(record)
    except (ValueError, TypeError):
        return orjson.dumps(_plain(record))
    except RecursionError:
        return b'{"unreadable":"it is nested too deeply"}'


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {_text(name): _plain(member) for name, member in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case bool() | None:
            return value
        case int() if -(2**63) <= value < 2**64:
            return value
        case float() if math.isfinite(value):
            return value
    return _text(value)


def _text(value: Any) -> str:
    """Half of a surrogate pair as `?`."""
    return str(value).encode(errors="replace").decode()


def _key_text(found: Any) -> str:
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise MappingError("its business key is missing, or is neither text nor a whole number")
    text = str(found)
    if len(text) > MAX_KEY:
        raise MappingError(f"its business key has {len(text)} characters, more than {MAX_KEY}")
    if "\x00" in text:
        raise MappingError("its business key holds a NUL character, which no database keeps")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise MappingError("its business key holds half of a surrogate pair, which is no text")
    return text


def transform_of(mapping: Mapping, folder: Path) -> Transform:
    """A mapping as a function, which raises `MappingError` for a record that it can't map. Raises `Refused` when its
    Python function can't be imported from `folder`."""
    if mapping.function is not None:
        try:
            return _guarded(load_function(mapping.function, folder))
        except NoFunction as error:
            raise Refused(f"mapping function {mapping.function}: {error.what}; {error.mend}") from error
    if mapping.fields is None:
        return lambda record: record
    fields = {name: evaluator(expression) for name, expression in mapping.fields.items()}
    required = tuple(mapping.required)

    def transform(record: JsonObject) -> JsonObject:
        mapped = {name: find(record) for name, find in fields.items()}
        missing = [name for name in required if mapped[name] is None]
        if missing:
            raise MappingError(f"required fields are missing: {', '.join(missing)}")
        return mapped

    return transform


def _guarded(function: Transform) -> Transform:
    """A user's function whose every mistake is a `MappingError` with its place and without the record's text."""

    def transform(record: JsonObject) -> JsonObject | None:
        try:
            mapped = function(record)
        except Exception as error:
            raise MappingError(f"the mapping raised {type(error).__name__}{place_of(error, caught=True)}") from error
        if mapped is not None and not isinstance(mapped, dict):
            raise MappingError(f"the mapping returned {type(mapped).__name__}, not a dict")
        return mapped

    return transform
