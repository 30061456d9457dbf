"""The staging database of a simulation: the real store on a real SQLite database, in memory, run inline.

All processes of a simulated hub share it. A transaction takes its time on the way there and on the way back; in
between it happens at one instant. So a process can die before it, or after it without knowing, and a database that is
away can have committed all the same.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import sqlite3
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from tests.simulation.driver import Driver
from tideover.errors import HubUnavailable
from tideover.staging import schema
from tideover.staging.database import Transaction, Work
from tideover.staging.dialects import SQLITE
from tideover.staging.migrate import upgrade
from tideover.staging.wakeups import Wakeups

T = TypeVar("T")


class Disk:
    """One database in memory, wiped for each run: making its tables anew would take longer than most runs."""

    def __init__(self, *, is_direct: bool = True) -> None:
        """`is_direct`: without SQLAlchemy's layer."""
        self._is_direct = is_direct
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._engine = create_engine("sqlite://", creator=lambda: self.connection, poolclass=StaticPool)

        @event.listens_for(self._engine, "begin")
        def _begin(conn: Connection) -> None:
            conn.exec_driver_sql("begin immediate")

        with self._engine.begin() as conn:
            upgrade(conn)
        self._driver: Any = Driver(self.connection)

    def wipe(self) -> None:
        """Empty tables."""
        self.connection.execute("begin")
        for table in schema.metadata.sorted_tables:
            self.connection.execute(f"delete from {table.name}")
        self.connection.execute("commit")

    def transact(self, work: Work[T], now_us: int) -> T:
        """Run a unit of work and commit it; what it raises undoes it."""
        if not self._is_direct:
            with self._engine.begin() as conn:
                return work(Transaction(conn, SQLITE, now_us))
        self.connection.execute("begin immediate")
        try:
            result = work(Transaction(self._driver, SQLITE, now_us))
        except BaseException:
            self.connection.execute("rollback")
            raise
        self.connection.execute("commit")
        return result

    def rows(self, statement: str, *bound: Any) -> list[Any]:
        """Look from outside the engine."""
        return self.connection.execute(statement, bound).fetchall()


@functools.cache
def shared_disk() -> Disk:
    """This machine process's."""
    return Disk()


class Trouble(enum.StrEnum):
    """What a database does while it is away."""

    AWAY = "away"  # nothing happens
    LOST = "lost"  # it is committed, and nobody hears of it
    TWICE = "twice"  # the same, and the driver's layer runs it again, as it does after a broken connection


class Wire(Protocol):
    """What a process's database asks of the world around it."""

    def outside(self, delay_s: float, act: Callable[..., object], *args: Any) -> object: ...

    def travel_s(self) -> float:
        """How long a request or an answer of the database takes."""
        ...

    def trouble(self) -> Trouble | None: ...

    def now_us(self) -> int: ...

    def transacts(self, who: Any) -> None:
        """A unit of work has arrived, whatever becomes of it."""
        ...

    def committed(self, who: Any, name: str, result: object) -> None:
        """A unit of work is committed. `name`: the store's method."""
        ...

    def fail(self, rule: str, detail: str) -> None: ...


class Owner(Protocol):
    """The process that a database object belongs to."""

    is_dead: bool

    def meets(self, point: str) -> bool:
        """Whether the process dies here."""
        ...


class ProcessDatabase:
    """The `Database` of one simulated process. A severed one answers nobody."""

    dialect = SQLITE
    url = make_url("sqlite://")

    def __init__(self, disk: Disk, wire: Wire, owner: Owner) -> None:
        self._disk, self._wire, self._owner = disk, wire, owner
        self.wakeups = Wakeups()

    async def write(self, work: Work[T]) -> T:
        return await self._run(work, is_write=True)

    async def read(self, work: Work[T]) -> T:
        return await self._run(work, is_write=False)

    async def _run(self, work: Work[T], *, is_write: bool) -> T:
        if self._owner.is_dead:
            raise asyncio.CancelledError
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._wire.outside(self._wire.travel_s(), self._arrive, work, is_write, answer)
        return await asyncio.shield(answer)

    def _arrive(self, work: Work[T], is_write: bool, answer: asyncio.Future[T]) -> None:
        if self._owner.is_dead or (is_write and self._owner.meets("before commit")):
            return
        self._wire.transacts(self._owner)
        trouble = self._wire.trouble()
        if trouble is None or (is_write and trouble is not Trouble.AWAY):
            result, error = self._perform(work, is_write)
        if trouble is Trouble.TWICE and is_write:
            result, error = self._perform(work, is_write)
        elif trouble is not None:
            result, error = None, HubUnavailable("the staging database can't be used: simulated")
        if is_write and self._owner.meets("after commit"):
            return
        self._wire.outside(self._wire.travel_s(), self._deliver, answer, result, error)

    def _perform(self, work: Work[T], is_write: bool) -> tuple[T | None, BaseException | None]:
        name = _method(work)
        try:
            result = self._disk.transact(work, self._wire.now_us())
        except (SQLAlchemyError, sqlite3.Error, AssertionError, LookupError, TypeError, AttributeError) as error:
            self._wire.fail("a transaction broke", f"{name}: {type(error).__name__}: {error}")
            return None, HubUnavailable("the staging database can't be used: see the simulation's fault")
        except Exception as error:  # noqa: BLE001 - what the engine raises on purpose goes to whoever asked
            return None, error
        if is_write:
            self._wire.committed(self._owner, name, result)
        return result, None

    def _deliver(self, answer: asyncio.Future[T], result: T, error: BaseException | None) -> None:
        if self._owner.is_dead or answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)

    async def upgrade(self, work: Callable[[Connection], None]) -> None:
        """The tables are there."""

    async def vacuum(self, table: str) -> None:
        """SQLite needs none."""

    async def close(self) -> None:
        await self.wakeups.close()


def _method(work: Callable[..., object]) -> str:
    """The store's method that a unit of work comes from."""
    return getattr(work, "__qualname__", "").split(".<locals>")[0].rpartition(".")[2]
