"""The part of SQLAlchemy's connection that the store's statements use, straight on SQLite: the same SQL on the same
database, four times as fast. A test holds both to the same history."""

from __future__ import annotations

import functools
import pkgutil
import sqlite3
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import sqlalchemy
from sqlalchemy import TextClause

import tideover.staging


@functools.cache
def _row_type(names: tuple[str, ...]) -> Any:
    return namedtuple("Row", names, rename=True)


class Result:
    """The rows of a statement, as far as they were asked for."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self.rowcount = cursor.rowcount
        self._rows: list[Any] = []
        if cursor.description is not None:
            make = _row_type(tuple(column[0] for column in cursor.description))._make
            self._rows = [make(row) for row in cursor]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> list[Any]:
        return self._rows

    def one_or_none(self) -> Any:
        assert len(self._rows) <= 1
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        (row,) = self._rows
        return row

    def scalar(self) -> Any:
        return self._rows[0][0] if self._rows else None

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalars(self) -> Scalars:
        return Scalars([row[0] for row in self._rows])


class Scalars(list[Any]):
    """The first column."""

    def all(self) -> list[Any]:
        return self


class Driver:
    """Runs statements in a transaction that somebody else began."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: TextClause, bound: Mapping[str, Any] | None = None) -> Result:
        return Result(self._connection.execute(statement.text, bound or {}))

    def exec_driver_sql(self, statement: str, rows: Sequence[Sequence[Any]]) -> Result:
        return Result(self._connection.executemany(statement, rows))


_remembered = functools.lru_cache(maxsize=4096)(sqlalchemy.text)


@contextmanager
def statements_remembered() -> Iterator[None]:
    """A statement is parsed once, and not each time that it is run."""
    with ExitStack() as patches:
        for module in pkgutil.iter_modules(tideover.staging.__path__, "tideover.staging."):
            loaded = __import__(module.name, fromlist=["text"])
            if getattr(loaded, "text", None) is sqlalchemy.text:
                patches.enter_context(mock.patch.object(loaded, "text", _remembered))
        yield
