"""DBOS: a durable workflow a record, enqueued by threads (there is no bulk call) and run from a queue."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
from dbos import DBOS, DBOSConfig
from sqlalchemy import make_url

from bench.peers.calls import post
from bench.peers.tables import settle_down
from bench.peers.task import Task, answer, given, payloads

CONCURRENCY = 100  # its best of 8, 32 and 100
ENQUEUERS = 8
POLL_S = 0.05
_SINK = ""


@DBOS.workflow()
def nothing(payload: str) -> None:
    """A workflow without a step: its start and its end are written."""


@DBOS.step()
def call(payload: str) -> None:
    post(_SINK, payload)


@DBOS.workflow()
def send(payload: str) -> None:
    call(payload)


def _run(task: Task) -> None:
    global _SINK
    _SINK = task.sink
    url = make_url(task.dsn).set(drivername="postgresql").render_as_string(hide_password=False)
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "sys_db_pool_size": 20,
        "log_level": "ERROR",
        "max_executor_threads": CONCURRENCY,
    }
    DBOS(config=config)
    DBOS.launch()
    stage_s, consume_s = _through(task, nothing, task.consume)
    _, post_s = _through(task, send, task.post)
    answer(stage=stage_s, consume=consume_s, post=post_s)
    DBOS.destroy()


def _through(task: Task, workflow: object, count: int) -> tuple[float, float]:
    """Enqueue all on a queue that nobody serves yet, and then serve it."""
    name = workflow.__name__
    DBOS.register_queue(name, worker_concurrency=0, polling_interval_sec=POLL_S)
    began = time.perf_counter()
    with ThreadPoolExecutor(ENQUEUERS) as threads:
        list(threads.map(lambda payload: DBOS.enqueue_workflow(name, workflow, payload), payloads(count)))
    staged = time.perf_counter()
    settle_down(task.dsn)
    DBOS.register_queue(name, worker_concurrency=CONCURRENCY, polling_interval_sec=POLL_S)
    began_work = time.perf_counter()
    with psycopg.connect(task.dsn, autocommit=True) as connection:
        while _open(connection):
            time.sleep(POLL_S)
    return staged - began, time.perf_counter() - began_work


def _open(connection: psycopg.Connection[tuple[int]]) -> int:
    row = connection.execute("select count(*) from dbos.workflow_status where status <> 'SUCCESS'").fetchone()
    assert row is not None
    return row[0]


if __name__ == "__main__":
    _run(given())
