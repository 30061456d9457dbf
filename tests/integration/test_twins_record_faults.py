"""Faults of single records and of the source's pages, as a client sees them over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tideover.twins import CREDENTIALS, TwinHost

PARCEL = {"external_shipment_id": "k", "weight_kg": 1}
PATIENCE_S = 20.0


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path) as host:
        yield host


@pytest.fixture
async def carrier(host: TwinHost) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(host, "carrier-a") as carrier:
        yield carrier


@pytest.fixture
async def crm(host: TwinHost) -> AsyncIterator[httpx.AsyncClient]:
    await host.seed("orders", 10)
    async with caller(host, "crm") as crm:
        yield crm


def caller(host: TwinHost, name: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=host.urls[name],
        headers=CREDENTIALS[name].headers(),
        timeout=PATIENCE_S,
        trust_env=False,
        verify=False,
    )


# --- records ------------------------------------------------------------------------------------------------


async def test_contract_rejects_every_record_alike_and_leaves_the_probe_well(
    host: TwinHost, carrier: httpx.AsyncClient
) -> None:
    await host.fault("carrier-a", "contract")
    answers = [await carrier.post("/v1/shipments", json=PARCEL) for _ in range(2)]
    assert {(a.status_code, a.json()["errors"][0]["error_code"]) for a in answers} == {(400, "CONTRACT_CHANGED")}
    assert (await carrier.get("/v1/health")).status_code == 200


async def test_contract_in_a_bulk_rejects_every_item(host: TwinHost) -> None:
    await host.fault("support", "contract", code="NEW_FIELD")
    async with caller(host, "support") as support:
        tickets = [{"external_id": f"k{n}", "subject": "s"} for n in range(3)]
        answer = await support.post("/api/v2/tickets/create_or_update_many", json={"tickets": tickets})
    assert [r["error"]["code"] for r in answer.json()["results"]] == ["NEW_FIELD"] * 3
    assert host.ledger("support")["received"] == 0


async def test_partial_fails_every_nth_item_of_a_bulk(host: TwinHost) -> None:
    await host.fault("marketing", "partial", every=3)
    members = [{"key": f"k{n}", "email_address": "customer@example.com"} for n in range(7)]
    async with caller(host, "marketing") as marketing:
        answer = await marketing.post("/3.0/lists/main", json={"members": members})
        single = await marketing.put("/3.0/lists/main/members/k9", json=members[0] | {"key": "k9"})
    failed = [r["key"] for r in answer.json()["results"] if not r["ok"]]
    assert failed == ["k2", "k5"]
    assert {r["error"]["code"] for r in answer.json()["results"] if not r["ok"]} == {"LOCKED"}
    assert single.status_code == 200
    assert host.ledger("marketing")["keys"] == 6


# --- the source ---------------------------------------------------------------------------------------------


async def page(crm: httpx.AsyncClient, after: str | None = None) -> dict[str, Any]:
    params = {"limit": "2"} | ({} if after is None else {"after": after})
    content: dict[str, Any] = (await crm.get("/crm/v3/objects/orders", params=params)).json()
    return content


@pytest.mark.parametrize(("shape", "broken"), [("scalar", "#REF!"), ("empty", {})])
async def test_broken_record_breaks_one_record_of_a_page(
    host: TwinHost, crm: httpx.AsyncClient, shape: str, broken: object
) -> None:
    await host.fault("crm", "broken_record", shape=shape)
    results = (await page(crm))["results"]
    assert results[0] == broken
    assert results[1]["id"] == "order-000002"


async def test_repeat_cursor_names_the_token_that_was_asked_with(host: TwinHost, crm: httpx.AsyncClient) -> None:
    await host.fault("crm", "repeat_cursor")
    token = (await page(crm))["paging"]["next"]["after"]
    for _ in range(2):
        again = await page(crm, token)
        assert again["paging"]["next"]["after"] == token
        assert again["results"][0]["id"] == "order-000003"


async def test_loop_pages_goes_round_in_a_circle(host: TwinHost, crm: httpx.AsyncClient) -> None:
    await host.fault("crm", "loop_pages")
    tokens = [(await page(crm))["paging"]["next"]["after"]]
    for _ in range(4):
        tokens.append((await page(crm, tokens[-1]))["paging"]["next"]["after"])
    assert tokens[0] == tokens[2] == tokens[4] != tokens[1] == tokens[3]
