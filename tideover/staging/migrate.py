"""Bringing a database to this release's schema, by Alembic, in one transaction and under one lock.

Expand, then contract: a revision says which of the two it is (`kind` in its script). One that expands only adds what
workers of the revision before it can live with; one that contracts takes away what those no longer use. So the database
can say whose workers may work on it, `served_revision` holds that, and a worker that is older than the schema knows
whether it is still served. See ADR 0010.

A migration that was killed has done nothing and is run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from tideover.errors import SchemaMismatch

HEAD = "0001"
VERSION_TABLE = "tideover_schema"
Kind = Literal["expand", "contract"]
LOCK_TIMEOUT_S = 5
# What a migration has a lock on, workers wait for: so none of its statements lasts as long as their leases' margin.
STATEMENT_TIMEOUT_S = 20
_LOCK = 7_405_231_904  # any number, the same in every release


def _scripts(later: Sequence[Path] = ()) -> ScriptDirectory:
    folder = Path(str(files("tideover.staging") / "migrations"))
    return ScriptDirectory(str(folder), version_locations=[str(folder / "versions"), *map(str, later)])


def revision(conn: Connection) -> str | None:
    """The revision that the database is at, or None before the first."""
    if not inspect(conn).has_table(VERSION_TABLE):
        return None
    return MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE}).get_current_revision()


def served(conn: Connection) -> frozenset[str]:
    """The revisions whose workers may work on the database as it is; none before the first.

    What is stored counts only beside the revision that it was written with.
    """
    found = revision(conn)
    if found is None:
        return frozenset()
    stored = frozenset(conn.execute(text("select revision from served_revision")).scalars())
    return stored if found in stored else frozenset({found})


def check(conn: Connection) -> None:
    """Raise `SchemaMismatch` unless workers of this release may work on the database."""
    if HEAD not in served(conn):
        found = revision(conn)
        has = f"revision {found}" if found else "no schema"
        raise SchemaMismatch(f"the staging database has {has}, this release needs {HEAD}: run `tideover migrate`")


def check_any(conn: Connection) -> None:
    """Raise `SchemaMismatch` where the database has no schema of tideover's: nothing has run on it."""
    if revision(conn) is None:
        raise SchemaMismatch(
            "what is in the staging database's place has no schema of tideover's: nothing has run yet, or the place is "
            "wrong; see `staging` in the hub's file. `tideover migrate` makes the schema"
        )


def upgrade(conn: Connection, to: str | None = None, later: Sequence[Path] = ()) -> None:
    """Upgrade to a revision, by default `HEAD`, inside the connection's transaction. `later`: folders with revisions
    after it, to rehearse the next release's.

    Changes nothing when a newer release has been here, and raises `SchemaMismatch` unless its schema still serves this
    one's workers. On PostgreSQL it fails where somebody holds a table for longer than `LOCK_TIMEOUT_S`, or a statement
    takes longer than `STATEMENT_TIMEOUT_S`.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        # Whoever needs a table queues behind a migration that waits for it, say for a backup: so it waits briefly.
        conn.execute(text(f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'"))
        conn.execute(text(f"set local statement_timeout = '{STATEMENT_TIMEOUT_S}s'"))
    scripts, aim = _scripts(later), to or HEAD
    found = revision(conn)
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        if HEAD in served(conn):
            return
        raise SchemaMismatch(
            f"the staging database has revision {found}, newer than this release's {HEAD}, and no longer serves its "
            "workers: install the release that made it, or one after it"
        )

    def steps(current: object, _: object) -> list[object]:
        return scripts._upgrade_revs(aim, current)  # type: ignore[arg-type,return-value]

    with EnvironmentContext(Config(), scripts, fn=steps, destination_rev=aim) as environment:
        environment.configure(connection=conn, version_table=VERSION_TABLE, transactional_ddl=True)
        environment.run_migrations()
    if revision(conn) == aim:  # and not further on already
        _serve(conn, serves(scripts, aim))


def serves(scripts: ScriptDirectory, of: str) -> frozenset[str]:
    """The revisions whose workers may work on the schema of a revision: its own; while it and those before it expand,
    the ones before; and of the first that contracts, the one before that, which no longer used what went."""
    found = set[str]()
    at: str | None = of
    while at is not None:
        found.add(at)
        script = scripts.get_revision(at)
        before = script.down_revision
        assert before is None or isinstance(before, str), f"revision {at} has more than one before it"
        kind: Kind = script.module.kind
        if kind == "contract":
            return frozenset(found | ({before} if before else set()))
        at = before
    return frozenset(found)


def _serve(conn: Connection, revisions: frozenset[str]) -> None:
    if frozenset(conn.execute(text("select revision from served_revision")).scalars()) == revisions:
        return  # a file is opened often, also when its disk is full
    conn.execute(text("delete from served_revision"))
    conn.execute(
        text("insert into served_revision (revision) values (:revision)"), [{"revision": r} for r in sorted(revisions)]
    )
