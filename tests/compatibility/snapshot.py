"""Writes down what the release in the tree is to its successors, under `releases/<version>/`.

    make snapshot          or:  python -m tests.compatibility.snapshot

| file | what |
| --- | --- |
| `schema.sqlite.sql`, `schema.postgresql.sql` | the schema, as each database states it |
| `rows.json` | a hub's database as the release left it: see `tour.leave_rows` |
| `hub.json` | that hub's configuration |
| `facts.json` | what the release itself said of that database: the audit, breakers, pins, cursors |
| `statements.sqlite.json`, `statements.postgresql.json` | its workers' statements, with example parameters |

A release that is out is never written again; `checksums.txt` holds each one to what it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.compatibility.hub import CONFIG
from tests.compatibility.portable import rows_of, schema_of, write_rows
from tests.compatibility.statements import recorded, write_statements
from tests.compatibility.tour import Guide, leave_rows, use_everything
from tideover.config.models import Hub
from tideover.policy.failover import GroupRule
from tideover.staging.migrate import HEAD
from tideover.staging.parking import Selection
from tideover.staging.reconciliation import Selection as Cases
from tideover.staging.store import Store

ROOT = Path(__file__).parents[2]
RELEASES = Path(__file__).parent / "releases"
CHECKSUMS = RELEASES / "checksums.txt"


def version() -> str:
    """The version that is being developed, or was released last."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def is_released(release: str) -> bool:
    """Whether the changelog has a section of its own for it."""
    return re.search(rf"^## \[{re.escape(release)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE) is not None


# --- what is written ------------------------------------------------------------------------------------------


async def facts_of(store: Store, hub: Hub) -> dict[str, Any]:
    """What a release says of a hub's database: nothing that another release may say differently."""
    counts = ("accepted", "delivered", "parked", "superseded", "waiting")
    audits = await store.audit(list(hub.routes))
    states = {name: await store.group(name, GroupRule(tuple(group.systems))) for name, group in hub.groups.items()}
    return {
        "routes": {a.route: {name: getattr(a, name) for name in counts} for a in audits},
        "faults": {a.route: list(a.faults) for a in audits if a.faults},
        "parked": sorted(row.record for row in await store.parked(Selection())),
        "breakers": {name: (await store.gate(name)).state.value for name in hub.systems},
        "pins": {name: [s.pin.system, s.pin.why, s.pin.author] for name, s in states.items() if s.pin},
        "cursors": {route: (await store.cursor(route)).text for route in hub.routes},
        "cases": {case.key: case.state.value for case in await store.cases(Cases())},
    }


async def contents(sqlite_url: str, postgresql_url: str) -> dict[str, str]:
    """The files of a snapshot, by name, made in two empty databases."""
    files = {"hub.json": json.dumps(CONFIG, indent=1) + "\n"}
    hub = Hub.model_validate_json(files["hub.json"])
    for kind, url in (("sqlite", sqlite_url), ("postgresql", postgresql_url)):
        guide = Guide(url)
        try:
            await guide.store.migrate()
            files[f"schema.{kind}.sql"] = await schema_of(url)
            with recorded() as statements:
                await leave_rows(guide)
            kept: list[dict[str, Any]] = []
            await guide.store.database.upgrade(lambda conn: kept.append(rows_of(conn)))  # noqa: B023 - run at once
            facts = {"revision": HEAD, "now_us": guide.clock.now_us, **await facts_of(guide.store, hub)}
            with recorded() as more:
                await use_everything(guide)
        finally:
            await guide.store.close()
        files[f"statements.{kind}.json"] = write_statements({**more, **statements})
        for name, content in (("rows.json", write_rows(kept[0])), ("facts.json", json.dumps(facts, indent=1) + "\n")):
            assert files.setdefault(name, content) == content, f"{name} differs between the databases"
    return files


def write(files: Mapping[str, str], release: str) -> None:
    """Write a release's snapshot and its checksum. Raises `SystemExit`, and writes nothing, when it is out."""
    if is_released(release):
        raise SystemExit(f"{release} is released and stays as it is: raise the version in pyproject.toml first")
    folder = RELEASES / release
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_text(content)
    known = {**checksums(), release: checksum(folder)}
    CHECKSUMS.write_text("".join(f"{sum_}  {name}\n" for name, sum_ in sorted(known.items())))


def checksums() -> dict[str, str]:
    """What each release's snapshot was when it was written last."""
    lines = CHECKSUMS.read_text().splitlines() if CHECKSUMS.exists() else []
    return {name: sum_ for sum_, name in (line.split() for line in lines)}


def checksum(folder: Path) -> str:
    """SHA-256 over the names and contents of a snapshot's files."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def main() -> None:
    from tests.chaos.processes import PostgresServer

    release = version()
    with tempfile.TemporaryDirectory(prefix="tideover-snapshot-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder) / "server")
        try:
            write(asyncio.run(contents(f"sqlite:///{folder}/hub.db", server.url)), release)
        finally:
            server.close()
    sys.stdout.write(f"{RELEASES / release}: {checksums()[release]}\n")


if __name__ == "__main__":
    main()
