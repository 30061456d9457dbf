"""The machine of the database is lost in the middle of the work, and its synchronous standby is promoted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.pair import Pair
from tests.chaos.scene import open_scene


@pytest.fixture
def pair() -> Iterator[Pair]:
    opened = Pair()
    try:
        yield opened
    finally:
        opened.close()


async def test_lost_primary_loses_nothing_that_was_acknowledged_once_its_synchronous_standby_is_promoted(
    tmp_path: Path, pair: Pair
) -> None:
    async with open_scene(tmp_path, pair.url) as scene:
        workers = [await scene.start_worker() for _ in range(2)]
        async with scene.feeding():
            await scene.after_effects(60)
            await asyncio.to_thread(pair.lose_the_primary)
            await scene.after_effects(60)
        await scene.prove()
        assert any(worker.told("unavailable") for worker in workers) or await scene.expired() > 0
