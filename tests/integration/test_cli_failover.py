"""`tideover failover`, and what `tideover status` says of groups: real carriers over HTTP, both databases."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.clihubs import CliHub, Ran, make_hub
from tests.twinhubs import (
    HASTY,
    SHIPMENTS,
    SHIPPING,
    TwinSecrets,
    deliver,
    deliver_until,
    is_closed,
    read,
    twin_hub,
)
from tideover.hub.delivery import Delivery
from tideover.hub.overview import group_view, overview
from tideover.hub.runtime import Runtime
from tideover.twins import TwinHost

SLOW = {**SHIPPING, "failback": {"dwell": "1h", "canary": 2, "ramp": "1h"}, "live_share": "2%"}


class Hub:
    """A hub over two carriers, and the commands an operator gives it."""

    def __init__(self, rt: Runtime, twins: TwinHost) -> None:
        self.rt, self.twins, self.cli = rt, twins, CliHub(rt.folder / "hub.yaml")
        self.seeded = 0

    async def run(self, *arguments: object) -> Ran:
        return await asyncio.to_thread(self.cli.run, *arguments)

    async def json(self, *arguments: object) -> Any:
        return await asyncio.to_thread(self.cli.json, *arguments)

    async def orders(self, count: int) -> None:
        """That many new orders, staged."""
        await self.twins.seed("orders", count, start=self.seeded + 1)
        self.seeded += count
        await read(self.rt)

    async def fail_over(self, fault: str = "down") -> None:
        """carrier-a fails, and carrier-b takes what comes."""
        await self.twins.fault("carrier-a", fault)
        await self.orders(20)
        await deliver(self.rt, "shipping")


@pytest.fixture
async def hub(request: pytest.FixtureRequest, tmp_path: Path, database_url: str) -> AsyncIterator[Hub]:
    """Its parameter says how patient it is with carrier-a."""
    systems = {"carrier-a": getattr(request, "param", {})}
    async with TwinHost(tmp_path / "twins") as twins:
        routes = {"orders": {**SHIPMENTS, "rto": "15m"}}
        secrets, groups = TwinSecrets(twins.urls), {"shipping": SLOW}
        async with twin_hub(tmp_path, database_url, secrets, routes, systems, groups) as rt:
            yield Hub(rt, twins)


# --- status -----------------------------------------------------------------------------------------------------


async def test_failover_status_of_well_providers_shows_the_preferred_and_the_live_share(hub: Hub) -> None:
    ran = await hub.run("failover", "status", "shipping")
    assert ran.code == 0, ran.err
    assert "shipping: new records go to carrier-a (the preferred provider)" in ran.out
    (group,) = (await hub.json("failover"))["groups"]
    assert [(p["system"], p["share"], p["is_live"]) for p in group["providers"]] == [
        ("carrier-a", 0.98, False),
        ("carrier-b", 0.02, True),
    ]
    assert (group["serving"], group["pin"], group["turns"]) == ("carrier-a", None, [])


async def test_failover_status_after_a_failover_shows_why_and_measured_times(hub: Hub) -> None:
    await hub.fail_over()
    ran = await hub.run("failover", "status", "shipping")
    assert "new records go to carrier-b (carrier-a out: unreachable, since" in ran.out
    assert "unreachable: it refuses connections" in ran.out
    (group,) = (await hub.json("failover", "status", "shipping"))["groups"]
    first, second = group["providers"]
    assert (first["phase"], first["share"]) == ("out", 0.0)
    assert first["breaker"] in ("open", "half_open")  # it may be time to look whether it is back
    assert (second["phase"], second["share"]) == ("serving", 1.0)
    (turn,) = group["turns"]
    assert (turn["kind"], turn["before"], turn["after"]) == ("failover", "carrier-a", "carrier-b")
    assert 0 <= turn["turned_s"] <= turn["served_s"] < 30


async def test_failover_status_of_a_provider_that_is_back_says_when_its_canary_is(hub: Hub) -> None:
    await hub.fail_over()
    await hub.twins.clear("carrier-a")
    await deliver_until(hub.rt, is_closed(hub.rt, "carrier-a"), "shipping")
    ran = await hub.run("failover", "status")
    assert re.search("canary in (1h|60m|59m)", ran.out), ran.out
    assert "new records go to carrier-b (carrier-a on its way back" in ran.out


@pytest.mark.parametrize("hub", [HASTY], indirect=True)
async def test_failover_status_when_a_carrier_hangs_counts_what_only_it_can_tell(hub: Hub) -> None:
    await hub.fail_over("commit_then_hang")
    (group,) = (await hub.json("failover", "status"))["groups"]
    in_doubt = {p["system"]: p["in_doubt"] for p in group["providers"]}
    assert in_doubt["carrier-a"] > 0
    assert in_doubt["carrier-b"] == 0
    ran = await hub.run("status")
    assert "shipping: carrier-b (carrier-a out: hung, since " in ran.out
    assert f"{in_doubt['carrier-a']} in doubt at carrier-a" in ran.out
    assert [g["serving"] for g in (await hub.json("status"))["groups"]] == ["carrier-b"]


async def test_failover_status_of_an_unknown_group_names_those_there_are(hub: Hub) -> None:
    ran = await hub.run("failover", "status", "parcels")
    assert ran.code == 6
    assert "there is no failover group 'parcels'; the hub has shipping" in ran.err


def test_failover_status_of_a_hub_without_groups_says_so(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    hub.json("migrate")
    assert "no failover groups" in hub.run("failover").out
    assert hub.json("failover", "status") == {"groups": []}


# --- pin and unpin ----------------------------------------------------------------------------------------------


async def test_pin_sends_everything_there_and_is_shown_with_who_and_why(hub: Hub) -> None:
    ran = await hub.run("failover", "pin", "shipping", "carrier-b", "--why", "contract", "--author", "anna")
    assert (ran.code, ran.out) == (0, "shipping is pinned: everything goes to carrier-b\n")
    assert "warning" not in ran.err
    await hub.orders(10)
    progress = await deliver(hub.rt, "shipping")
    assert progress.by_system == {"carrier-b": 10}
    shown = (await hub.run("failover", "status")).out
    assert "pinned to carrier-b by anna since" in shown
    assert "UTC: contract" in shown
    assert "tideover failover unpin shipping --why TEXT" in shown
    assert "shipping is pinned to carrier-b" in (await hub.run("status")).out


async def test_pin_on_a_provider_that_is_out_warns_and_does_it(hub: Hub) -> None:
    await hub.fail_over()
    await hub.orders(5)
    ran = await hub.run("failover", "pin", "shipping", "carrier-a", "--why", "they promised", "--json")
    assert ran.code == 0
    assert "warning: carrier-a is out (unreachable: it refuses connections): nothing goes elsewhere" in ran.err
    assert "5 records wait" in ran.err
    assert (ran.json["pin"]["system"], ran.json["is_well"], ran.json["waiting"]) == ("carrier-a", False, 5)
    progress = await deliver(hub.rt, "shipping")
    assert progress.delivered == 0
    assert "everything waits for it" in (await hub.run("failover")).out


async def test_unpin_lets_what_waited_go_at_once(hub: Hub) -> None:
    await hub.fail_over()
    await hub.run("failover", "pin", "shipping", "carrier-a", "--why", "they promised")
    await hub.orders(5)
    await deliver(hub.rt, "shipping")
    ran = await hub.run("failover", "unpin", "shipping", "--why", "they lied", "--author", "anna")
    assert ran.code == 0, ran.err
    assert "decides by itself again: new records go to carrier-b (carrier-a out: unreachable)" in ran.out
    progress = await asyncio.wait_for(Delivery(hub.rt, "shipping").run(), 30)
    assert progress.by_system == {"carrier-b": 5}
    (group,) = (await hub.json("failover"))["groups"]
    assert [(t["kind"], t["author"], t["why"]) for t in group["turns"][:2]] == [
        ("unpin", "anna", "they lied"),
        ("pin", group["turns"][1]["author"], "they promised"),
    ]
    assert group["turns"][1]["author"]


async def test_unpin_without_a_pin_is_refused(hub: Hub) -> None:
    ran = await hub.run("failover", "unpin", "shipping", "--why", "tidying")
    assert ran.code == 6
    assert "shipping is not pinned" in ran.err


@pytest.mark.parametrize("arguments", [["pin", "shipping", "carrier-b"], ["unpin", "shipping"]])
async def test_pin_and_unpin_without_a_reason_are_refused(hub: Hub, arguments: list[str]) -> None:
    missing = await hub.run("failover", *arguments)
    assert missing.code == 2
    assert "--why" in missing.err
    empty = await hub.run("failover", *arguments, "--why", " ")
    assert empty.code == 6
    assert "--why needs a reason" in empty.err


async def test_pin_on_a_system_that_is_no_provider_names_those_there_are(hub: Hub) -> None:
    ran = await hub.run("failover", "pin", "shipping", "crm", "--why", "x")
    assert ran.code == 6
    assert "crm is not a provider of shipping; it has carrier-a, carrier-b" in ran.err


# --- recovery against the objective -------------------------------------------------------------------------------


async def test_recovery_of_a_route_to_a_group_ends_when_the_backup_accepts(hub: Hub) -> None:
    await hub.fail_over()
    await asyncio.sleep(0.3)
    view = await overview(hub.rt)
    (route,) = view.routes
    (turn,) = [t for t in (await group_view(hub.rt, "shipping")).turns if t.turn.kind == "failover"]
    assert route.rto_s == turn.served_s
    (outage,) = view.outages
    assert outage.recovery_s > 0.3  # the carrier is still out; the flow is not


async def test_recovery_of_a_route_while_all_providers_are_out_goes_on(hub: Hub) -> None:
    await hub.twins.fault("carrier-b", "down")
    await hub.fail_over()
    before = (await overview(hub.rt)).routes[0].rto_s
    await asyncio.sleep(0.05)
    after = (await overview(hub.rt)).routes[0].rto_s
    assert before is not None
    assert after is not None
    assert after > before
    ran = await hub.run("failover")
    assert "no provider can have new records; they wait" in ran.out
    assert "shipping: nobody (" in (await hub.run("status")).out
