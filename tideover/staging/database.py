"""One staging database: SQLite or PostgreSQL, the same synchronous code inside each transaction.

A unit of work is a plain function of a `Transaction`, over SQLAlchemy Core. On PostgreSQL it runs on an asyncpg
connection of a pool; on SQLite on a thread of its own that owns the only writing connection, as SQLite has one
writer anyway and a thread is three times as fast here as an async driver. Reports read from a second connection that
never blocks the writer.

Durability: SQLite in WAL mode with `synchronous=FULL` and `BEGIN IMMEDIATE`; PostgreSQL as its server is configured.
Every unit of work may be run again after a failure of unknown effect: the store's contract says how each one
recognises that it was done.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from tideover.errors import HubUnavailable, NoDatabase
from tideover.staging.dialects import POSTGRESQL, SQLITE, Dialect
from tideover.staging.wakeups import Listening, Notifications, Wakeups

T = TypeVar("T")

BUSY_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 60.0
VACUUM_TIMEOUT_S = 6 * 3600.0  # which has much to go through, and holds nobody up
_LOG_PAGES = 8_000  # of 4 KiB: SQLite's 1,000 write the pages of the same busy lanes to the file again and again
_TRIES = 4
_WRITE = "write sqlite:///FILE or postgresql://USER@HOST/NAME"
# Serialization failure and deadlock: the transaction did nothing and may be run again as it is.
_TRANSIENT_SQLSTATES = frozenset({"40001", "40P01"})


class Transaction:
    """A transaction in progress. `now_us` is the database's clock when it began."""

    __slots__ = ("conn", "dialect", "now_us")

    def __init__(self, conn: Connection, dialect: Dialect, now_us: int) -> None:
        self.conn, self.dialect, self.now_us = conn, dialect, now_us


Work = Callable[[Transaction], T]
Clock = Callable[[int], int]


class Database(Protocol):
    """What the store needs of a database. Any failure of it is raised as `HubUnavailable`."""

    url: URL
    dialect: Dialect

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction and commit it; durable when this returns."""
        ...

    async def read(self, work: Work[T]) -> T:
        """Run `work` on a snapshot, without blocking any writer."""
        ...

    async def upgrade(self, work: Callable[[Connection], None]) -> None:
        """Run a schema change on a connection of its own, in one transaction."""
        ...

    async def vacuum(self, table: str) -> None:
        """Let the room of a table's removed and rewritten rows be used again; does nothing where that is so anyway."""
        ...

    @property
    def wakeups(self) -> Wakeups:
        """Who wants to hear that records were staged."""
        ...

    async def close(self) -> None:
        """Give every connection back."""
        ...


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to the write-ahead log, waiting for others that open the new file at the same moment.

    SQLite doesn't call its busy handler while it changes the journal's mode: it gives up at once. So the wait is here.
    """
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(random.uniform(0.001, 0.02))
        else:
            return


class SqliteDatabase:
    """A file."""

    dialect = SQLITE

    def __init__(self, url: URL, clock: Clock) -> None:
        if not url.database or url.database == ":memory:":
            raise HubUnavailable("the staging database must be a file: what lives in memory is lost with its process")
        self.url = url
        self._clock = clock
        self.wakeups = Wakeups()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="tideover-sqlite-writer")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="tideover-sqlite-reader")
        self._write_engine = self._engine("BEGIN IMMEDIATE", cache_kib=32_768)
        self._read_engine = self._engine("BEGIN", cache_kib=8_192)

    def _engine(self, begin: str, *, cache_kib: int) -> Engine:
        engine = create_engine(
            self.url,
            poolclass=StaticPool,
            hide_parameters=True,  # an error's text must not quote a payload
            connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        )

        @event.listens_for(engine, "connect")
        def _prepare(raw: Any, _: Any) -> None:
            connection: sqlite3.Connection = raw
            connection.isolation_level = None  # SQLAlchemy's BEGIN below is the only one
            _enter_wal(connection)
            connection.execute("pragma synchronous = full")
            connection.execute("pragma busy_timeout = 30000")
            connection.execute(f"pragma wal_autocheckpoint = {_LOG_PAGES}")
            connection.execute(f"pragma cache_size = -{cache_kib}")

        @event.listens_for(engine, "begin")
        def _begin(conn: Connection) -> None:
            conn.exec_driver_sql(begin)

        return engine

    async def write(self, work: Work[T]) -> T:
        return await _retrying(lambda: self._run(self._writer, self._write_engine, work))

    async def read(self, work: Work[T]) -> T:
        return await _retrying(lambda: self._run(self._reader, self._read_engine, work))

    async def _run(self, thread: ThreadPoolExecutor, engine: Engine, work: Work[T]) -> T:
        def run() -> T:
            with engine.begin() as conn:
                return work(Transaction(conn, self.dialect, self._clock(self.dialect.now_us(conn))))

        # Shielded: a cancelled caller must not leave a transaction half read; it ends, and its effect stands.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(thread, run))

    async def upgrade(self, work: Callable[[Connection], None]) -> None:
        def run() -> None:
            with self._write_engine.begin() as conn:
                work(conn)

        with _translated():
            await asyncio.get_running_loop().run_in_executor(self._writer, run)

    async def vacuum(self, table: str) -> None:
        pass

    async def close(self) -> None:
        await self.wakeups.close()
        for thread, engine in ((self._writer, self._write_engine), (self._reader, self._read_engine)):
            await asyncio.get_running_loop().run_in_executor(thread, engine.dispose)
            thread.shutdown(wait=False)


class PostgresDatabase:
    """A server. The planner is kept to the indexes that the hot statements were written for."""

    dialect = POSTGRESQL

    def __init__(self, url: URL, clock: Clock, pool_size: int = 9) -> None:
        """`pool_size`: connections at the same time, one of which may only listen."""
        self.url = url.set(drivername="postgresql+asyncpg")
        self._clock = clock
        self._engine = self._connecting(
            COMMAND_TIMEOUT_S, pool_size=pool_size, max_overflow=0, pool_timeout=BUSY_TIMEOUT_S
        )
        self._patient = self._connecting(VACUUM_TIMEOUT_S, poolclass=NullPool)
        self.wakeups: Wakeups = Notifications(self._listening)

    def _connecting(self, command_timeout_s: float, **pool: Any) -> AsyncEngine:
        return create_async_engine(
            self.url,
            hide_parameters=True,
            connect_args={
                "timeout": 10,
                "command_timeout": command_timeout_s,
                "server_settings": {
                    "application_name": "tideover",
                    "jit": "off",
                    "enable_seqscan": "off",
                    "idle_in_transaction_session_timeout": "60000",
                },
            },
            **pool,
        )

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[Listening]:
        connection = await self._engine.raw_connection()
        try:
            yield connection.driver_connection  # type: ignore[misc]
        finally:
            connection.invalidate()  # it has a listener: nobody else is to get it

    async def write(self, work: Work[T]) -> T:
        return await _retrying(lambda: self._run(self._engine, work))

    async def read(self, work: Work[T]) -> T:
        snapshot = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        return await _retrying(lambda: self._run(snapshot, work))

    async def _run(self, engine: AsyncEngine, work: Work[T]) -> T:
        def run(conn: Connection) -> T:
            return work(Transaction(conn, self.dialect, self._clock(self.dialect.now_us(conn))))

        async with engine.begin() as conn:
            return await conn.run_sync(run)

    async def upgrade(self, work: Callable[[Connection], None]) -> None:
        with _translated():
            async with self._engine.begin() as conn:
                await conn.run_sync(work)

    async def vacuum(self, table: str) -> None:
        # Without truncation, which would lock the table.
        with _translated():
            async with self._patient.connect() as conn:
                alone = await conn.execution_options(isolation_level="AUTOCOMMIT")
                await alone.exec_driver_sql(f"vacuum (analyze, truncate off) {table}")

    async def close(self) -> None:
        await self.wakeups.close()
        await self._engine.dispose()


def open_database(url: str, clock: Clock = lambda now_us: now_us, *, create: bool = True) -> Database:
    """The database behind a URL: `sqlite:///file.db` or `postgresql://user@host/name`.

    `clock` maps the database's time to the hub's, for simulations that move it. Nothing is connected yet. A SQLite
    file that is not there will be made, with its folder; without `create`, that raises `NoDatabase`.

    Raises `HubUnavailable` for any other URL; its text never holds the URL, which has a password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: of a port that is no number
        raise HubUnavailable(f"the staging database's URL can't be read; {_WRITE}") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            _find_place(Path(parsed.database).absolute(), create=create)
        return SqliteDatabase(parsed.set(drivername="sqlite"), clock)
    if backend in ("postgresql", "postgres"):
        if parsed.port is not None and not 0 < parsed.port < 65_536:
            raise HubUnavailable(f"the staging database's URL names port {parsed.port}; ports end at 65535")
        return PostgresDatabase(parsed, clock)
    raise HubUnavailable(f"the staging database can't be {backend}; {_WRITE}")


def _find_place(file: Path, *, create: bool) -> None:
    """Make the folder of a SQLite file, or see that the file is there and is not empty, which is as good as none."""
    try:
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
        elif file.is_dir():
            raise HubUnavailable(f"the staging database must be a file, and {file} is a folder")
        elif not file.exists() or not file.stat().st_size:
            raise NoDatabase(str(file))
    except (OSError, ValueError) as error:  # ValueError: of a NUL
        reason = getattr(error, "strerror", None) or error
        raise HubUnavailable(f"the staging database can't be at {file}: {reason}") from error


class _translated:  # noqa: N801 - reads as a statement
    """Whatever a driver raises becomes `HubUnavailable`, once, here."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SQLAlchemyError | OSError | TimeoutError | sqlite3.Error) or _is_driver_error(error):
            raise HubUnavailable(f"the staging database can't be used: {_describe(error)}") from error


def _is_driver_error(error: BaseException | None) -> bool:
    """asyncpg raises some errors that SQLAlchemy does not wrap, `InternalClientError` and `InterfaceError` too."""
    return error is not None and type(error).__module__.partition(".")[0] == "asyncpg"


def _describe(error: BaseException | None) -> str:
    """The driver's own first line: SQLAlchemy's text would add the statement and its values."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return f"{type(cause).__name__}: {lines[0][:200]}"


def _is_worth_another_try(error: BaseException) -> bool:
    if isinstance(error, PoolTimeoutError):
        return False  # it has waited for long already
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
        return error.connection_invalidated or state in _TRANSIENT_SQLSTATES
    return isinstance(error, ConnectionError) or _is_driver_error(error)


async def _retrying(run: Callable[[], Awaitable[T]]) -> T:
    """A dropped connection, a deadlock or a serialization failure is tried again, with full jitter, a few times."""
    with _translated():
        for attempt in range(1, _TRIES):
            try:
                return await run()
            except Exception as error:
                if not _is_worth_another_try(error):
                    raise
            await asyncio.sleep(random.random() * 0.1 * 2**attempt)
        return await run()
