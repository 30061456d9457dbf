"""pgqueuer: a bulk `enqueue` of 1,000s, and a queue manager that drains; on uvloop, as its own command line runs it."""

from __future__ import annotations

import time

import asyncpg
import uvloop
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from bench.peers.calls import posting
from bench.peers.tables import settle_down
from bench.peers.task import Task, answer, given, payloads, thousands

# The best of 100, 200, 500 and 1,000 for each.
CONSUME_BATCH, POST_BATCH = 500, 200


async def _run(task: Task) -> None:
    connection = await asyncpg.connect(task.dsn)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    stage_s = await _stage(queries, "nothing", task.consume)
    await _stage(queries, "post", task.post)
    settle_down(task.dsn)
    consume_s = await _consume(connection, task)
    post_s = await _post(connection, task)
    answer(stage=stage_s, consume=consume_s, post=post_s)
    await connection.close()


async def _stage(queries: Queries, entrypoint: str, count: int) -> float:
    batches = list(thousands([payload.encode() for payload in payloads(count)]))
    began = time.perf_counter()
    for batch in batches:
        await queries.enqueue([entrypoint] * len(batch), batch, [0] * len(batch))
    return time.perf_counter() - began


async def _consume(connection: asyncpg.Connection, task: Task) -> float:
    manager, done = QueueManager(Queries(AsyncpgDriver(connection))), 0

    @manager.entrypoint("nothing")
    async def nothing(_: Job) -> None:
        nonlocal done
        done += 1

    began = time.perf_counter()
    await manager.run(batch_size=CONSUME_BATCH, mode=QueueExecutionMode.drain)
    assert done == task.consume, done
    return time.perf_counter() - began


async def _post(connection: asyncpg.Connection, task: Task) -> float:
    manager, done = QueueManager(Queries(AsyncpgDriver(connection))), 0
    async with posting(task.sink) as post:

        @manager.entrypoint("post")
        async def send(job: Job) -> None:
            nonlocal done
            assert job.payload is not None
            await post(job.payload.decode())
            done += 1

        began = time.perf_counter()
        await manager.run(batch_size=POST_BATCH, mode=QueueExecutionMode.drain)
        assert done == task.post, done
        return time.perf_counter() - began


if __name__ == "__main__":
    uvloop.run(_run(given()))
