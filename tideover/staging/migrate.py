"""Bringing a database to this release's schema, by Alembic, in one transaction and under one lock.

Expand, then contract: a revision only adds what workers of the previous release can live with; what they no longer
use goes a release later. A migration that was killed has done nothing and is run again.
"""

from __future__ import annotations

from importlib.resources import files

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from tideover.errors import SchemaMismatch

HEAD = "0001"
VERSION_TABLE = "tideover_schema"
_LOCK = 7_405_231_904  # any number, the same in every release


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(files("tideover.staging") / "migrations"))
    return ScriptDirectory.from_config(config)


def revision(conn: Connection) -> str | None:
    """The revision that the database is at, or None before the first."""
    if not inspect(conn).has_table(VERSION_TABLE):
        return None
    return MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE}).get_current_revision()


def upgrade(conn: Connection) -> None:
    """Upgrade to `HEAD` inside the connection's transaction.

    Raises `SchemaMismatch`, and changes nothing, when a newer release has been here.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    scripts = _scripts()
    found = revision(conn)
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise SchemaMismatch(
            f"the staging database has revision {found}, newer than this release's {HEAD}: "
            "install the release that made it, or one after it"
        )

    def steps(current: object, _: object) -> list[object]:
        return scripts._upgrade_revs(HEAD, current)  # type: ignore[arg-type,return-value]

    with EnvironmentContext(Config(), scripts, fn=steps, destination_rev=HEAD) as environment:
        environment.configure(connection=conn, version_table=VERSION_TABLE, transactional_ddl=True)
        environment.run_migrations()
