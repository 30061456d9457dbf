"""`tideover migrate`: the staging database, brought to this release's schema."""

from __future__ import annotations

from tideover.cli.frame import Cli
from tideover.cli.printing import busy, console, line


async def migrate(cli: Cli) -> None:
    """Bring the hub's database to this release's schema. Safe to run again, and while workers run.

    Run it once before workers are upgraded; a SQLite file is also brought up to date by whoever opens it.

    JSON: before (null: empty), after, is_changed.
    """
    from tideover.bootstrap import LazySecrets, open_store, project_secrets
    from tideover.config.loader import load_hub
    from tideover.staging.migrate import revision

    file = cli.hub_file
    store = await open_store(load_hub(file), file, LazySecrets(lambda: project_secrets(file.parent)))
    try:
        with busy("bringing the database up to date"):
            before = await store.database.read(lambda tx: revision(tx.conn))
            await store.migrate()
            after = await store.database.read(lambda tx: revision(tx.conn))
    finally:
        await store.close()
    if cli.as_json:
        cli.write_json({"before": before, "after": after, "is_changed": before != after})
    elif before == after:
        console().print(line(f"the database was up to date: revision {after}"))
    else:
        console().print(
            line((f"the database is at revision {after} now", "green"), f"; it had {before or 'no schema'}")
        )
