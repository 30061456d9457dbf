"""The one place where things are put together: configuration, database, keys, connectors."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from tideover.config.loader import load_hub, staging_path
from tideover.config.models import Hub, System
from tideover.connectors.http.access import Access
from tideover.connectors.http.rest import HttpConnector
from tideover.connectors.port import Connector
from tideover.errors import HubUnavailable, NoDatabase, Refused
from tideover.hub.runtime import Connect, Runtime
from tideover.staging.database import open_database
from tideover.staging.events import Recorded
from tideover.staging.sealing import Plain, Sealed, Sealer
from tideover.staging.store import Store

HUB_VARIABLE = "TIDEOVER_HUB"
DEFAULT_HUB_FILE = "hub.yaml"
# Python looks for cycles among its youngest objects once there are 700 more of them; a batch of records is thousands,
# all in use and none in a cycle, and was looked through again and again: a fifth of a delivery's time.
YOUNG_OBJECTS = 50_000


class Secrets(Protocol):
    """Where credentials come from; in production, Prefect blocks (`blocks.secrets`)."""

    async def access(self, system: str, block: str) -> Access:
        """A system's address and credentials. Raises `AccessError` when there are none."""
        ...

    async def keep_refresh_token(self, system: str, block: str, token: SecretStr) -> None:
        """Store a refresh token that the provider has rotated."""
        ...

    async def staging_url(self, block: str) -> str:
        """The staging database's URL."""
        ...

    async def encryption_keys(self, block: str) -> tuple[str, dict[str, bytes]]:
        """The current key's id, and every key by its id."""
        ...


def collect_less_often() -> None:
    """Set Python's garbage collector, in the whole process, to what a process that moves batches needs. A setting of
    somebody else's that collects even less often stays."""
    young, middle, old = gc.get_threshold()
    if 0 < young < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, middle, old)


def hub_file(given: str | Path | None = None) -> Path:
    """The hub's file: as given, else as `TIDEOVER_HUB` says, else `hub.yaml` here."""
    return Path(given or os.environ.get(HUB_VARIABLE) or DEFAULT_HUB_FILE).absolute()


def project_secrets(project: Path | None = None) -> Secrets:
    """The secrets of the Prefect project around us: its `blocks` package, found beside the hub's file or here.

    The engine imports no Prefect; it asks for this by name, as Prefect itself asks for a flow.
    """
    for folder in (str(project) if project else None, str(Path.cwd())):
        if folder and folder not in sys.path:
            sys.path.append(folder)
    try:
        module = importlib.import_module("blocks.secrets")
    except ModuleNotFoundError as error:
        if error.name not in ("blocks", "blocks.secrets"):
            raise
        raise Refused(
            "the Prefect project is not here: run this where its folders `flows`, `tasks` and `blocks` are, "
            "or make one with `tideover init`"
        ) from None
    secrets: Secrets = module.BlockSecrets()
    return secrets


async def open_store(hub: Hub, file: Path, secrets: Secrets, *, create: bool = True) -> Store:
    """The hub's store, on whichever database its file names. Nothing is connected yet.

    Raises `NoDatabase` where it is a SQLite file that is not there, unless `create`.
    """
    staging = hub.staging
    if staging.sqlite is not None:
        named, url = f"`staging.sqlite` of {file.name}", f"sqlite:///{staging_path(hub, file)}"
    elif staging.env is not None:
        named, url = f"the environment variable {staging.env}", os.environ.get(staging.env, "")
        if not url:
            raise HubUnavailable(f"the environment variable {staging.env} must hold the staging database's URL")
    else:
        named, url = f"the block {staging.block}", await secrets.staging_url(staging.block or "")
    try:
        database = open_database(url, create=create)
    except NoDatabase:
        raise
    except HubUnavailable as error:
        raise HubUnavailable(f"{error}; see {named}") from error
    return Store(database, await _sealer(hub, secrets))


async def _sealer(hub: Hub, secrets: Secrets) -> Sealer:
    if hub.encryption is None:
        return Plain()
    current, keys = await secrets.encryption_keys(hub.encryption)
    return Sealed(current, keys)


class LazySecrets:
    """Secrets that are looked for only when something needs one."""

    def __init__(self, find: Callable[[], Secrets]) -> None:
        self._find = find
        self._found: Secrets | None = None

    def _secrets(self) -> Secrets:
        self._found = self._found or self._find()
        return self._found

    async def access(self, system: str, block: str) -> Access:
        return await self._secrets().access(system, block)

    async def keep_refresh_token(self, system: str, block: str, token: SecretStr) -> None:
        await self._secrets().keep_refresh_token(system, block, token)

    async def staging_url(self, block: str) -> str:
        return await self._secrets().staging_url(block)

    async def encryption_keys(self, block: str) -> tuple[str, dict[str, bytes]]:
        return await self._secrets().encryption_keys(block)


@asynccontextmanager
async def open_hub(
    file: str | Path | None = None,
    *,
    secrets: Secrets | None = None,
    announce: Callable[[Recorded], None] = lambda _: None,
    migrate: bool | None = None,
    create: bool = True,
) -> AsyncIterator[Runtime]:
    """A hub, ready for its use-cases; closed when the block ends.

    `migrate`: bring the schema up to date first; by default only for a SQLite file, which belongs to this machine. A
    PostgreSQL database is migrated by `tideover migrate`, once, before its workers are upgraded.

    `create`: where there is no SQLite file, make one. Who only looks says no, and gets `NoDatabase`: a new and empty
    database would tell that all is well.
    """
    collect_less_often()
    path = hub_file(file)
    config = load_hub(path)
    found = secrets or LazySecrets(lambda: project_secrets(path.parent))
    store = await open_store(config, path, found, create=create)
    try:
        if migrate or (migrate is None and config.staging.sqlite is not None):
            if not create:
                await store.check_any_schema()
            await store.migrate()
        else:
            await store.check_schema()
    except BaseException:
        await store.close()
        raise
    rt = Runtime(config, store, _connect_through(found), path.parent, announce)
    try:
        yield rt
    finally:
        await rt.close()


def _connect_through(secrets: Secrets) -> Connect:
    async def connect(name: str, system: System) -> Connector:
        async def reload() -> Access:
            return await secrets.access(name, system.block)

        async def keep(token: SecretStr) -> None:
            await secrets.keep_refresh_token(name, system.block, token)

        return HttpConnector(
            name, system.rest, await reload(), system.timeouts, system.limits, reload=reload, keep=keep
        )

    return connect
