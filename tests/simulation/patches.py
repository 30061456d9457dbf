"""Patches of the engine's own source: which text of which function becomes which other.

A patch is applied to the function that everybody already imported, and taken back afterwards. One that no longer fits
the function's text is refused: write it anew.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any
from unittest import mock


class DoesNotFit(Exception):
    """The engine's text is not the one that a patch was written for."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In `function`, each first text, which is there exactly once, becomes the second. Indented as in a function at the
    left margin."""

    function: Any
    changes: tuple[tuple[str, str], ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Only the code is exchanged, so that whoever imported the function runs the other one too."""
        assert isinstance(self.function, FunctionType)
        before = self.function.__code__
        self.function.__code__ = _compiled(self)
        try:
            yield
        finally:
            self.function.__code__ = before


@functools.cache
def _compiled(edit: Edit) -> CodeType:
    source = "from __future__ import annotations\n" + textwrap.dedent(inspect.getsource(edit.function))
    for was, becomes in edit.changes:
        if source.count(was) != 1:
            raise DoesNotFit(f"{edit.function.__qualname__} has {source.count(was)} times: {was}")
        source = source.replace(was, becomes)
    found: dict[str, Any] = {}
    exec(compile(source, "<a planted bug>", "exec", dont_inherit=True), edit.function.__globals__, found)
    code: CodeType = found[edit.function.__name__].__code__
    return code


@dataclass(frozen=True, slots=True)
class Entry:
    """The same for a text in a table of the engine."""

    table: dict[Any, str]
    key: Any
    was: str
    becomes: str

    @contextmanager
    def applied(self) -> Iterator[None]:
        text = self.table[self.key]
        if text.count(self.was) != 1:
            raise DoesNotFit(f"{self.key} is: {text}")
        with mock.patch.dict(self.table, {self.key: text.replace(self.was, self.becomes)}):
            yield
