"""Packets to the systems vanish for a while, in the middle of calls; what was under way may still arrive late."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from yarl import URL

from tests.chaos.report import injected
from tests.chaos.scene import MARGIN_S, TARGETS, Scene

LONG_S = 2 * (1 + MARGIN_S)  # twice a lease


class Firewall:
    """Drops packets to ports of the loopback interface."""

    @contextmanager
    def dropping(self, ports: list[int]) -> Iterator[None]:
        injected("network dropped")
        try:
            for port in ports:
                self._rule("--insert", port)
            yield
        finally:
            for port in ports:
                with suppress(subprocess.CalledProcessError):
                    self._rule("--delete", port)

    @staticmethod
    def _rule(action: str, port: int) -> None:
        rule = ["INPUT", "-i", "lo", "-p", "tcp", "--dport", str(port), "-j", "DROP"]
        subprocess.run(["iptables", "--wait", action, *rule], check=True, capture_output=True, text=True)


@pytest.fixture
def firewall() -> Firewall:
    opened = Firewall()
    try:
        with opened.dropping([1]):
            return opened
    except FileNotFoundError:
        pytest.skip("packets can't be dropped here: there is no `iptables`")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"packets can't be dropped here: {error.stderr.strip()}")


async def test_f14_f15_calls_whose_packets_vanish_have_one_effect_each_however_late_they_arrive(
    scene: Scene, firewall: Firewall
) -> None:
    ports = [URL(scene.twins.urls[name]).port or 0 for name in TARGETS]
    for _ in range(2):
        await scene.start_worker()
    async with scene.feeding():
        for _ in range(2):
            await scene.after_effects(60)
            with firewall.dropping(ports):
                await asyncio.sleep(LONG_S)
            await scene.after_effects(20)
    await scene.prove()
