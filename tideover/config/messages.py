"""Pydantic's errors in plain words: what was found, what is allowed, how to mend it.

The texts of our own validators are `what` or `what; how to mend it`. Values are shown only where they can be no
secret: short, and unlike a key or token.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

from tideover.config.document import Path, dotted
from tideover.config.outline import Step, all_models, name_of, steps_to
from tideover.config.units import format_duration, format_size, parse_duration, parse_size
from tideover.model import JsonObject

MAX_LISTED = 12

_SHOWABLE = re.compile(r"[ -~]{0,24}")
_SECRET_LIKE = re.compile(r".*(://|@)|(?=.*[0-9])(?=.*[A-Za-z])[!-~]{12,}")
_PRIVATE = {"headers", "params"}
_YES_NO = {"yes": "true", "y": "true", "on": "true", "true": "true"} | dict.fromkeys(
    ("no", "n", "off", "false"), "false"
)


@dataclass(frozen=True, slots=True)
class Complaint:
    """One mistake at a path. `cut` is what has to go for the rest to be valid."""

    path: Path
    what: str
    mend: str
    at_key: bool
    cut: Path


def explain(error: ErrorDetails, value: JsonObject) -> Complaint:
    """One of pydantic's errors about `Hub`, in plain words. `value` is what was validated."""
    steps = steps_to(error["loc"], error["type"])
    path = tuple(step.key for step in steps if step.key is not None)
    if error["type"] == "missing":
        key = str(path[-1])
        return Complaint(path, "is missing", _meaning(steps[-1], key), at_key=True, cut=path[:-1])
    if error["type"] == "extra_forbidden":
        what, mend = _unknown_key(steps, path)
        return Complaint(path, what, mend, at_key=True, cut=path)
    is_key = bool(steps) and steps[-1].is_key
    what, mend = _wrong(error, path, path[-1] if is_key else _at(value, path))
    return Complaint(path, what, mend, at_key=is_key, cut=path)


def nearest(word: str, words: list[str], *, kind: str) -> str:
    """How to mend a name that does not exist: the nearest one, or those there are."""
    near = get_close_matches(word, words, 1, 0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    if not words:
        return f"there are no {kind}"
    listed = ", ".join(f"`{w}`" for w in words[:MAX_LISTED])
    return f"the {kind} are {listed}{' and more' if len(words) > MAX_LISTED else ''}"


def shown(value: object, path: Path = ()) -> str:
    """A value as an error may show it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    kind = "the text" if isinstance(value, str) else "the number"
    text = str(value)
    is_private = any(step in _PRIVATE for step in path)
    if is_private or not _SHOWABLE.fullmatch(text) or _SECRET_LIKE.match(text):
        return "a text" if isinstance(value, str) else "a number"
    return f'{kind} "{text}"' if isinstance(value, str) else f"{kind} {text}"


def named(kind: str, name: object) -> str:
    """`stream "orders"`, or `such stream` where the name may not be shown."""
    text = shown(name)
    return f"{kind} {text.removeprefix('the text ')}" if text.startswith("the text ") else f"such {kind}"


def _at(value: object, path: Path) -> object:
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int):
            value = value[step]
    return value


def _meaning(step: Step, key: str) -> str:
    """The first sentence of a missing key's description."""
    text = step.owner.model_fields[key].description if step.owner and key in step.owner.model_fields else None
    return " ".join(text.split()).split(". ")[0].rstrip(".") if text else ""


def _unknown_key(steps: list[Step], path: Path) -> tuple[str, str]:
    owner, key = steps[-1].owner, str(path[-1])
    assert owner is not None  # only a model forbids keys
    what = f"is no key of {name_of(owner)}"
    keys = list(owner.model_fields)
    if not get_close_matches(key, keys, 1, 0.6):
        for depth in range(len(steps) - 2, -1, -1):
            above = steps[depth].owner
            if above and key in above.model_fields:
                place = dotted(tuple(s.key for s in steps[:depth] if s.key is not None)) or "the top"
                return what, f"it belongs further out, in {place}; check the indentation"
        elsewhere = [name_of(model) for model in all_models() if key in model.model_fields]
        if elsewhere:
            return what, f"it is a key of {', '.join(elsewhere)}"
    return what, nearest(key, keys, kind="keys here")


def _wrong(error: ErrorDetails, path: Path, found: object) -> tuple[str, str]:
    context = error.get("ctx", {})
    if error["type"] == "value_error":
        what, _, mend = str(context["error"]).partition("; ")
        is_about_value = what.startswith("is ") and isinstance(found, str | int | float)
        return (f"{shown(found, path)} {what}" if is_about_value else what), mend
    if found is None:
        return "is empty", "give it a value, or remove the key"
    if error["type"] == "too_short":
        return f"needs at least {context['min_length']} entries, but has {context['actual_length']}", ""
    if "expected" in context:
        return _no_choice(found, _quoted(context["expected"]))
    if error["type"].startswith("union_tag"):
        return _no_kind(context, found)
    if error["type"] in _BOUNDS:
        what, mend = _bound(error["type"], context, found)
    else:
        text = _ALLOWED[error["type"]](context) if error["type"] in _ALLOWED else error["msg"]
        what, _, mend = text.partition("; ")
    what = f"needs {what}, but has {shown(found, path)}"
    if error["type"] == "bool_type" and isinstance(found, str) and found.lower() in _YES_NO:
        mend = f"write `{_YES_NO[found.lower()]}`"
    elif isinstance(found, str) and error["type"] in ("int_type", "float_type") and re.fullmatch(r"-?[0-9.]+", found):
        mend = "remove the quotes, or the leading zero"
    return what, mend


def _bound(kind: str, context: dict[str, Any], found: object) -> tuple[str, str]:
    """What a quantity needs, as people write it: a bound without its unit is another quantity."""
    key, words, side = _BOUNDS[kind]
    bound = _written_as(found, context[key])
    return f"{words} {bound}", f"write {bound} or {side}" if side else f"write {words} {bound}"


def _written_as(found: object, quantity: float) -> str:
    """A quantity in the unit of what was found in its place."""
    with suppress(ValueError):
        parse_duration(found)
        return format_duration(quantity)
    with suppress(ValueError):
        parse_size(found)
        return format_size(int(quantity))
    return f"{quantity}"


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _no_choice(found: object, choices: list[str]) -> tuple[str, str]:
    what = f"{shown(found)} is not one of {', '.join(f'`{c}`' for c in choices)}"
    folded = found.lower() if isinstance(found, str) else ""
    near = get_close_matches(folded, [c.lower() for c in choices], 1, 0.5)
    return what, next((f"did you mean `{c}`?" for c in choices if near and c.lower() == near[0]), "write one of them")


def _no_kind(context: dict[str, object], found: object) -> tuple[str, str]:
    """A union whose alternative can't be told: by the value of a key, or by which key is there."""
    if "expected_tags" in context:
        choices = _quoted(str(context["expected_tags"]))
        return _no_choice(found.get("type") if isinstance(found, dict) else found, choices)
    if "type" in str(context.get("discriminator")):
        return "lacks `type`", "write `type: none`, `cursor`, `page`, `offset` or `link`"
    if not isinstance(found, dict):
        return f"needs a mapping, but has {shown(found)}", "write `every: 5m` or `cron: ...` on a line below it"
    if {"every", "cron"} <= found.keys():
        return "has both `every` and `cron`", "keep one of them"
    return "has neither `every` nor `cron`", "write `every: 5m`, or `cron: 0 6 * * mon-fri`"


_ALLOWED: dict[str, Callable[[dict[str, object]], str]] = {
    "string_type": lambda _: "text; put a number or `true` in quotes if it is meant as text",
    "bool_type": lambda _: "`true` or `false`; write one of them, without quotes",
    "int_type": lambda _: "a whole number; write it without quotes, as in `5`",
    "int_from_float": lambda _: "a whole number; write it without a fraction, as in `5`",
    "float_type": lambda _: "a number; write it without quotes, as in `5` or `0.5`",
    "dict_type": lambda _: "a mapping; write `key: value` on indented lines below it",
    "model_type": lambda _: "a mapping; write `key: value` on indented lines below it",
    "list_type": lambda _: "a list; write `- item` lines below it, or `[a, b]`",
    "string_too_short": lambda _: "some text; write it, or remove the key",
}
# the key of the bound in the error's context, its words, and what else fits where the bound itself does
_BOUNDS = {
    "greater_than_equal": ("ge", "at least", "more"),
    "greater_than": ("gt", "more than", ""),
    "less_than_equal": ("le", "at most", "less"),
    "less_than": ("lt", "less than", ""),
}
