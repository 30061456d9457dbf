"""A configuration file that was read: its JSON value, and where each key and value of it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tideover.errors import Problem
from tideover.model import JsonObject

Path = tuple[str | int, ...]
"""Keys and list indices, from the root."""
Place = tuple[int, int]
"""Line and column, from 1."""

_WORD = re.compile(r"[A-Za-z0-9_-]+")


def dotted(path: Path) -> str:
    """A path as people read it: `systems.crm.rest.errors[0].status`; a key with other characters is quoted."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            word = step if _WORD.fullmatch(step) else f'"{step}"'
            text += f".{word}" if text else word
    return text


@dataclass(frozen=True, slots=True)
class Spot:
    """Where one value stands. `path` is its path in `file`: a preset's differs from the one in the whole."""

    file: str
    path: Path
    key: Place
    value: Place


@dataclass(frozen=True, slots=True)
class Document:
    """`spots` holds every path of `value`; the root is the empty path."""

    file: str
    value: JsonObject
    spots: dict[Path, Spot]

    def problem(self, path: Path, what: str, mend: str = "", *, at_key: bool = False) -> Problem:
        """A problem at the value of `path`, or at its key; where there is none, at the nearest key above.

        What is wrong inside the long form of a value is wrong with its short form, where the file has that.
        """
        path = known = self._written(path)
        while known not in self.spots:
            known = known[:-1]
        spot = self.spots[known]
        line, column = spot.key if at_key or known != path else spot.value
        return Problem(spot.file, line, column, dotted(spot.path + path[len(known) :]), what, mend)

    def _written(self, path: Path) -> Path:
        """The path up to the first text: nothing stands inside a text."""
        value: object = self.value
        for n, step in enumerate(path):
            if isinstance(value, str):
                return path[:n]
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return path
        return path

    def in_order(self, problems: list[Problem]) -> list[Problem]:
        """Each problem once: this file's first, then the others', by line and column."""
        return sorted(set(problems), key=lambda p: (p.file != self.file, p.file, p.line, p.column, p.key, p.what))
