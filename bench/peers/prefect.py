"""A Prefect task per record: one flow that maps a task over all records, on a server of its own over PostgreSQL.

It has no staging of records to compare, and a task that does nothing costs what one that POSTs does, so both are timed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.calls import post
from bench.peers.task import CONCURRENCY, Task, answer, given, payloads

PATIENCE_S = 180.0


def _run(task: Task) -> None:
    with _server(task):
        from prefect import flow  # reads its settings when it is imported
        from prefect import task as prefect_task
        from prefect.task_runners import ThreadPoolTaskRunner

        @prefect_task
        def nothing(payload: str) -> None:
            """A record that goes nowhere."""

        @prefect_task
        def send(payload: str) -> None:
            post(task.sink, payload)

        @flow(task_runner=ThreadPoolTaskRunner(max_workers=CONCURRENCY))
        def deliver(count: int, *, does_post: bool) -> float:
            records = payloads(count)
            began = time.perf_counter()
            (send if does_post else nothing).map(records).result()
            return time.perf_counter() - began

        deliver(5, does_post=True)
        answer(consume=deliver(task.consume, does_post=False), post=deliver(task.post, does_post=True))


@contextmanager
def _server(task: Task) -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    os.environ |= {
        "PREFECT_HOME": task.folder,
        "PREFECT_API_DATABASE_CONNECTION_URL": task.dsn.replace("postgresql://", "postgresql+asyncpg://", 1),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        "PREFECT_API_URL": api,
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (Path(task.folder) / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await_health(f"{api}/health", process)
        yield
    finally:
        process.terminate()
        process.wait()


def _await_health(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the server does not answer")


if __name__ == "__main__":
    _run(given())
