"""The shape of `hub.yaml` as the models have it: which model stands at a place, and how it is called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from tideover.config.models import Hub

_NAMES = {
    "Hub": "a hub",
    "Every": "a schedule with `every`",
    "Cron": "a schedule with `cron`",
    "LookUpCall": "a `lookup`",
    "PrefectSettings": "`prefect`",
    "DeliverSettings": "`deliver`",
    "Limits": "`limits`",
    "Timeouts": "`timeouts`",
    "Failback": "`failback`",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step from the root. `key` is None for a step that stands only in pydantic's paths: a union's tag.

    `owner` is the model whose key this is, None for the keys of a plain mapping or list. `is_key`: what is wrong is the
    key itself.
    """

    key: str | int | None
    owner: type[BaseModel] | None
    is_key: bool = False


def name_of(model: type[BaseModel]) -> str:
    """What people call a model: `a route`, `an operation`."""
    if model.__name__ in _NAMES:
        return _NAMES[model.__name__]
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", model.__name__).lower()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def members(annotation: Any) -> list[Any]:  # a type's annotation is whatever `typing` makes of it
    """The types behind an annotation, without `None` and without metadata."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return members(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [found for part in get_args(annotation) for found in members(part)]
    return [] if annotation is type(None) else [annotation]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation mentions, at any depth of lists and mappings, in order."""
    found = []
    for member in members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            found.append(member)
        elif get_origin(member) in (dict, list):
            found += models_in(get_args(member)[-1])
    return found


def all_models() -> list[type[BaseModel]]:
    """Every model of the file, each before those inside it, in reading order."""
    return list(places())


@cache
def places() -> dict[type[BaseModel], list[str]]:
    """Every model of the file, in reading order, with each place where it stands, as `systems.<name>.rest`.

    A model that stands in several places comes where it is furthest out, and that place is its first.
    """
    found = list(_below(Hub, ()))
    ordered: dict[type[BaseModel], list[str]] = {}
    for model, steps in found:
        everywhere = sorted((other for same, other in found if same is model), key=len)
        if steps == everywhere[0]:
            ordered[model] = [".".join(place) for place in everywhere]
    return ordered


def _below(model: type[BaseModel], steps: tuple[str, ...]) -> Iterator[tuple[type[BaseModel], tuple[str, ...]]]:
    yield model, steps
    for key, field in model.model_fields.items():
        kinds = {get_origin(member) for member in members(field.annotation)}
        suffix = ("<name>",) if dict in kinds else ()
        for inner in models_in(field.annotation):
            yield from _below(inner, (*steps, f"{key}[]" if list in kinds else key, *suffix))


def steps_to(loc: tuple[str | int, ...], kind: str) -> list[Step]:
    """Pydantic's path of an error of this kind about `Hub`, with the model at each step."""
    steps: list[Step] = []
    here: list[Any] = [Hub]
    for n, item in enumerate(loc):
        is_last = n == len(loc) - 1
        models = [m for m in here if isinstance(m, type) and issubclass(m, BaseModel)]
        if item == "[key]" and is_last and kind != "extra_forbidden" and steps and steps[-1].owner is None:
            steps[-1] = Step(steps[-1].key, None, is_key=True)  # a plain mapping's key is itself wrong
        elif len(models) > 1:  # a union: this item is the tag of one of them
            here = [m for m in models if _is_tagged(m, item)]
            steps.append(Step(None, None))
        elif models:
            field = models[0].model_fields.get(str(item))
            steps.append(Step(item, models[0]))
            here = members(field.annotation) if field else []
        else:
            steps.append(Step(item, None))
            here = members(get_args(here[0])[-1]) if here and get_origin(here[0]) in (dict, list) else []
    return steps


def _is_tagged(model: type[BaseModel], tag: object) -> bool:
    field = model.model_fields.get("type")
    return tag in get_args(field.annotation) if field else model.__name__.lower() == tag
