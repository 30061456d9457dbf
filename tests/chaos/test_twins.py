"""The other end dies and comes back with what it had made durable."""

from __future__ import annotations

from random import Random

from tests.chaos.scene import KILLS, SEED, Scene


async def test_f14_killed_targets_come_back_and_hold_everything_once(scene: Scene) -> None:
    dice = Random(SEED)
    await scene.start_worker()
    async with scene.feeding():
        for _ in range(KILLS):
            await scene.after_effects(dice.randint(10, 80))
            scene.twins.kill()
            await scene.twins.start()
    await scene.prove()
