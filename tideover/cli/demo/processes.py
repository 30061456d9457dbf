"""The programs that a demonstration is made of, each in a session of its own, each ended by its own id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tideover.errors import HubUnavailable

STOP_S = 10.0


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def heed_signals() -> None:
    """Let SIGINT and SIGTERM raise `KeyboardInterrupt`, so that everything that was started is ended.

    A shell's background has SIGINT ignored, and what we start would inherit that: a worker could not be told to stop.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@dataclass
class Processes:
    """Programs started for the demonstration. Their output goes to files in `logs`."""

    logs: Path
    project: Path
    environment: Mapping[str, str]
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *arguments: str) -> None:
        """Start `python <arguments>` beside us."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - our own interpreter, our own arguments
                [sys.executable, *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.project,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def run(self, name: str, *arguments: str) -> None:
        """Run `python <arguments>` to its end. Raises `HubUnavailable` with the end of its output when it fails."""
        self.start(name, *arguments)
        code = self._running.pop(name).wait()
        if code:
            raise HubUnavailable(f"{' '.join(arguments)} ended with {code}:\n{self.tail(name)}")

    def wait_for(self, name: str, url: str, seconds: float) -> None:
        """Wait until a program answers. Raises `HubUnavailable` when it ends or stays silent."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            with suppress(httpx.HTTPError):
                if httpx.get(url, timeout=2, trust_env=False).is_success:
                    return
            if self._running[name].poll() is not None:
                raise HubUnavailable(f"{name} ended at once:\n{self.tail(name)}")
            time.sleep(0.2)
        raise HubUnavailable(f"{name} did not answer within {seconds:.0f} s:\n{self.tail(name)}")

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines of a program's output."""
        text = (self.logs / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """End every program, the last started first; those that don't go are killed."""
        for name, process in reversed(self._running.items()):
            _end(process, gently=name != "server")
        self._running.clear()


def _end(process: subprocess.Popen[bytes], *, gently: bool) -> None:
    """End a program and what it started: they share its session."""
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL) if gently else (signal.SIGINT, signal.SIGKILL)
    for number in signals:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
            break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a flow run that outlived its worker
