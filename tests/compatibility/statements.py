"""What a release says to its database: every statement, each with the parameters of its first use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Engine, event

from tests.compatibility.portable import pack, unpack


class Statement(NamedTuple):
    """In the driver's own form: marks are `?` on SQLite and `$1` on PostgreSQL."""

    text: str
    parameters: list[Any]


# Begins a transaction, asks the catalogue on SQLAlchemy's behalf, or can't be said inside a transaction.
_NOT_THE_HUBS = ("begin", "pragma", "vacuum")


@contextmanager
def recorded() -> Iterator[dict[str, Statement]]:
    """Every statement of the hub's that any engine of this process runs inside the block, by its text."""
    found: dict[str, Statement] = {}

    def note(_conn: Any, _cursor: Any, said: str, parameters: Any, _context: Any, is_many: bool) -> None:
        of_hub = not said.lower().startswith(_NOT_THE_HUBS) and "pg_catalog." not in said
        if of_hub and "sqlite_master" not in said:
            first = parameters[0] if is_many or (parameters and isinstance(parameters, list)) else parameters
            found.setdefault(said, Statement(said, list(first or ())))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def write_statements(found: dict[str, Statement]) -> str:
    """As JSON, one statement a line, in the order of their texts."""
    told = [{"statement": s.text, "parameters": pack(s.parameters)} for _, s in sorted(found.items())]
    return "[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in told) + "\n]\n"


def read_statements(stored: str) -> list[Statement]:
    return [Statement(one["statement"], unpack(one["parameters"])) for one in json.loads(stored)]
