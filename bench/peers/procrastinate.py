"""procrastinate: `batch_defer_async` of 1,000s, and an async worker that deletes what it has done."""

from __future__ import annotations

import asyncio
import time

from procrastinate import App, PsycopgConnector
from procrastinate.tasks import Task as Deferred

from bench.peers.calls import posting
from bench.peers.tables import settle_down
from bench.peers.task import CONCURRENCY, Task, answer, given, payloads, thousands


async def _run(task: Task) -> None:
    app = App(connector=PsycopgConnector(conninfo=task.dsn, min_size=4, max_size=20))
    done = 0
    async with app.open_async(), posting(task.sink) as post:

        @app.task(queue="nothing")
        async def nothing(payload: str) -> None:
            nonlocal done
            done += 1

        @app.task(queue="post")
        async def send(payload: str) -> None:
            nonlocal done
            await post(payload)
            done += 1

        await app.schema_manager.apply_schema_async()
        stage_s = await _stage(nothing, task.consume)
        await _stage(send, task.post)
        settle_down(task.dsn)
        consume_s = await _work(app, "nothing")
        post_s = await _work(app, "post")
        assert done == task.consume + task.post, done
    answer(stage=stage_s, consume=consume_s, post=post_s)


async def _stage(deferred: Deferred, count: int) -> float:
    batches = list(thousands([{"payload": payload} for payload in payloads(count)]))
    began = time.perf_counter()
    for batch in batches:
        await deferred.batch_defer_async(*batch)
    return time.perf_counter() - began


async def _work(app: App, queue: str) -> float:
    began = time.perf_counter()
    await app.run_worker_async(
        queues=[queue],
        wait=False,
        concurrency=CONCURRENCY,
        delete_jobs="successful",
        listen_notify=False,
        install_signal_handlers=False,
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    asyncio.run(_run(given()))
