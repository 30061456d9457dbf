"""The few places where SQLite and PostgreSQL differ: the clock, row locks, and many rows in one statement."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import orjson
from sqlalchemy import Connection, Table, text
from sqlalchemy.types import Boolean, LargeBinary, SmallInteger, Text

from tideover.staging.wakeups import CHANNEL

Row = tuple[Any, ...]  # column values, in the order of the named columns


class Dialect(Protocol):
    name: str
    skip_locked: str  # after a select that takes lanes nobody else holds
    for_update: str  # after a select that waits for its rows
    in_table_order: str  # after the name of a table of which most rows are read: an index would lead to each one

    def now_us(self, conn: Connection) -> int:
        """Microseconds since the epoch on the database's clock."""
        ...

    def in_list(self, name: str) -> str:
        """SQL that is true of values in the array bound as `name`."""
        ...

    def array(self, values: Sequence[Any]) -> Any:
        """The bound form of an array."""
        ...

    def numbers(self, alias: str, columns: Sequence[str]) -> str:
        """A table expression over bound rows of whole numbers: see `bound_numbers`."""
        ...

    def bound_numbers(self, columns: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
        """The bound form of those rows."""
        ...

    def notify(self, conn: Connection, route: str) -> None:
        """Tell the processes that listen, once this is committed, that records of a route are due."""
        ...

    def insert(
        self, conn: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row], tail: str = ""
    ) -> None:
        """Insert many rows in one go. `tail` is an `on conflict` clause."""
        ...

    def update(self, conn: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Update many rows in one go, each by its primary key, which is the first of `columns`."""
        ...


def _sql_type(table: Table, column: str) -> str:
    kind = table.c[column].type
    for base, name in ((Text, "text"), (LargeBinary, "bytea"), (Boolean, "boolean"), (SmallInteger, "smallint")):
        if isinstance(kind, base):
            return name
    return "bigint"


class PostgreSQL:
    """Arrays by `unnest`, locks by row."""

    name = "postgresql"
    skip_locked = "for update skip locked"
    for_update = "for update"
    in_table_order = ""

    def now_us(self, conn: Connection) -> int:
        return int(conn.execute(_PG_NOW).scalar_one())

    def in_list(self, name: str) -> str:
        return f"= any(cast(:{name} as bigint[]))"

    def array(self, values: Sequence[Any]) -> Any:
        return list(values)

    def numbers(self, alias: str, columns: Sequence[str]) -> str:
        return self.columns(alias, **dict.fromkeys(columns, "bigint"))

    def bound_numbers(self, columns: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
        return {name: [row[at] for row in rows] for at, name in enumerate(columns)}

    def notify(self, conn: Connection, route: str) -> None:
        conn.execute(_PG_NOTIFY, {"channel": CHANNEL, "route": route})

    def columns(self, alias: str, **types: str) -> str:
        """A table expression over bound arrays of equal length, one per column: `name="bigint"`."""
        arrays = ", ".join(f"cast(:{name} as {kind}[])" for name, kind in types.items())
        return f"unnest({arrays}) as {alias}({', '.join(types)})"

    def insert(
        self, conn: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row], tail: str = ""
    ) -> None:
        if rows:
            source, values, bound = self._source(table, columns, rows)
            chosen = ", ".join(values[c] for c in columns)
            statement = f"insert into {table.name} ({', '.join(columns)}) select {chosen} from {source} {tail}"
            conn.execute(text(statement), bound)

    def update(self, conn: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
        if rows:
            source, values, bound = self._source(table, columns, rows)
            key, *rest = columns
            sets = ", ".join(f"{c} = {values[c]}" for c in rest)
            statement = f"update {table.name} set {sets} from {source} where {table.name}.{key} = {values[key]}"
            conn.execute(text(statement), bound)

    def _source(
        self, table: Table, columns: Sequence[str], rows: Sequence[Row]
    ) -> tuple[str, dict[str, str], dict[str, Any]]:
        """A table expression over the rows, the SQL of each column's value, and what they bind. A column that has one
        value in all rows is bound once: the driver looks at each element of an array."""
        arrays: dict[str, str] = {}
        values: dict[str, str] = {}
        bound: dict[str, Any] = {}
        for name, column in zip(columns, map(list, zip(*rows, strict=True)), strict=True):
            kind = _sql_type(table, name)
            if arrays and column[0] == column[-1] and column.count(column[0]) == len(column):
                values[name], bound[name] = f"cast(:{name} as {kind})", column[0]
            else:
                arrays[name], values[name], bound[name] = kind, f"v.{name}", column
        return self.columns("v", **arrays), values, bound


class SQLite:
    """Arrays as JSON or by many executions of one prepared statement; one writer, so no row locks."""

    name = "sqlite"
    skip_locked = ""
    for_update = ""
    in_table_order = "not indexed"

    def now_us(self, conn: Connection) -> int:
        return time.time_ns() // 1000  # the file is on this host, so its clock is the database's

    def in_list(self, name: str) -> str:
        return f"in (select value from json_each(:{name}))"

    def array(self, values: Sequence[Any]) -> Any:
        return orjson.dumps(list(values)).decode()

    def numbers(self, alias: str, columns: Sequence[str]) -> str:
        # One array of rows: several arrays could only be joined by their keys, which `json_each` has no index on.
        values = ", ".join(f"json_extract(value, '$[{at}]') as {name}" for at, name in enumerate(columns))
        return f"(select {values} from json_each(:number_rows)) as {alias}"

    def notify(self, conn: Connection, route: str) -> None:
        pass

    def bound_numbers(self, columns: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
        return {"number_rows": orjson.dumps(list(rows)).decode()}

    def insert(
        self, conn: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row], tail: str = ""
    ) -> None:
        if rows:
            marks = ", ".join("?" * len(columns))
            statement = f"insert into {table.name} ({', '.join(columns)}) values ({marks}) {tail}"
            conn.exec_driver_sql(statement, list(rows))

    def update(self, conn: Connection, table: Table, columns: Sequence[str], rows: Sequence[Row]) -> None:
        if rows:
            key, *rest = columns
            sets = ", ".join(f"{c} = ?" for c in rest)
            statement = f"update {table.name} set {sets} where {key} = ?"
            conn.exec_driver_sql(statement, [(*row[1:], row[0]) for row in rows])


_PG_NOW = text("select cast(extract(epoch from clock_timestamp()) * 1000000 as bigint)")
_PG_NOTIFY = text("select pg_notify(:channel, :route)")
POSTGRESQL: Dialect = PostgreSQL()
SQLITE: Dialect = SQLite()
