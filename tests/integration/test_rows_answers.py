"""Rows of the failure catalogue about what a provider answers: 16 to 20, 22, 50 and 66, over real HTTP, from the
staged record to the delivered one. What each answer means by itself is in `tests/contract/test_http_*.py`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.databases import sql
from tests.twinhubs import (
    HASTY,
    ORDERS,
    TwinSecrets,
    all_delivered,
    audited,
    deliver,
    deliver_until,
    is_closed,
    twin_hub,
)
from tideover.errors import SourceError
from tideover.hub import intake, overview
from tideover.hub.runtime import Runtime
from tideover.model import HUNG
from tideover.staging.parking import Selection
from tideover.twins.adversary import Adversary, Behaviour, acts
from tideover.twins.adversary.server import Talk

PATH = "/erp/v1/orders"
GOOD = acts.reply(201, {"id": "E-1", "external_id": "a"})
CANARY = "canary-77c1"


@pytest.fixture
async def erp() -> AsyncIterator[Adversary]:
    """A provider as the worst would be, after the twin ERP: it is asked for a token, and is well when probed."""
    async with Adversary() as server:
        server.on("/oauth2/token", acts.reply(200, {"access_token": "t", "token_type": "bearer", "expires_in": 3600}))
        server.on("/erp/v1/health", acts.reply(200, {}))
        yield server


@asynccontextmanager
async def hub(folder: Path, url: str, server: Adversary, **systems: dict[str, Any]) -> AsyncIterator[Runtime]:
    secrets = TwinSecrets({"crm": server.url, "erp": server.url})
    async with twin_hub(folder, url, secrets, {"orders": ORDERS}, systems) as rt:
        yield rt


async def stage(rt: Runtime, *keys: str) -> None:
    await intake.stage_records(rt, "orders", [{"id": key, "customerId": "c", "total": 5} for key in keys])


async def codes(rt: Runtime, key: str) -> list[str]:
    [traced] = await overview.trace(rt, key)
    return [attempt.code for attempt in traced.attempts]


UNKNOWN: dict[str, tuple[Behaviour, str]] = {
    "f17 body cut short": (acts.cut_length(201, b'{"id":'), "unreadable"),
    "f17 chunks cut short": (acts.cut_chunks(201, b'{"id": 1}'), "unreadable"),
    "f17 no JSON": (acts.reply(200, b"<html>maintenance</html>"), "unreadable"),
    "f18 slow drip": (acts.drip(), HUNG),
    "f18 stalled in the middle": (acts.stall(200, b'{"id":'), HUNG),
    "f19 endless": (acts.endless(), "oversize"),
    "f19 gzip bomb": (acts.bomb(size=200_000_000), "oversize"),
}


@pytest.mark.parametrize("case", UNKNOWN)
async def test_f17_f18_f19_answer_that_proves_nothing_is_recorded_as_unknown_and_asked_again_under_the_same_key(
    tmp_path: Path, database_url: str, erp: Adversary, case: str
) -> None:
    behaviour, code = UNKNOWN[case]
    erp.on(PATH, behaviour, GOOD)
    async with hub(tmp_path, database_url, erp, erp=HASTY if code == HUNG else {}) as rt:
        await stage(rt, "a")
        await deliver_until(rt, all_delivered(rt, 1))
        assert (await codes(rt, "a")) == [code, ""]
        assert (await audited(rt)).parked == 0
    keys = [request.headers["idempotency-key"] for request in erp.at(PATH)]
    assert len(keys) == 2
    assert len(set(keys)) == 1


async def test_f20_throttle_that_asks_for_a_year_is_capped_and_opens_no_breaker(
    tmp_path: Path, database_url: str, erp: Adversary
) -> None:
    erp.on(PATH, acts.reply(429, b"", [("retry-after", "31536000")]))
    async with hub(tmp_path, database_url, erp) as rt:
        await stage(rt, "a", "b")
        await deliver(rt)
        gate = await rt.store.gate("erp")
        assert gate.is_paused
        assert 0 < gate.wait_s <= 3600
        assert await is_closed(rt, "erp")()
        audit = await audited(rt)
        assert (audit.parked, audit.waiting) == (0, 2)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_f22_redirect_is_not_followed_and_takes_neither_key_nor_record_elsewhere(
    tmp_path: Path, database_url: str, erp: Adversary, status: int
) -> None:
    async with Adversary() as elsewhere:
        elsewhere.on("*", GOOD)
        erp.on(PATH, acts.reply(status, b"", [("location", f"{elsewhere.url}{PATH}")]), GOOD)
        async with hub(tmp_path, database_url, erp) as rt:
            await stage(rt, "a")
            await deliver_until(rt, all_delivered(rt, 1))
            assert (await codes(rt, "a"))[0] == "redirect"
        assert elsewhere.connections == 0


async def test_f22_system_that_redirects_every_record_is_stopped_parks_nothing_and_is_taken_up_when_it_is_mended(
    tmp_path: Path, database_url: str, erp: Adversary
) -> None:
    """Its probe is well all the time; what it redirects may have been done, so that no record may count as unsent."""
    erp.on(PATH, acts.reply(302, b"", [("location", "/login")]))
    async with hub(tmp_path, database_url, erp) as rt:
        await stage(rt, *(f"k{n}" for n in range(20)))

        async def is_stopped_again() -> bool:
            gate = await rt.store.gate("erp")
            return len(erp.at(PATH)) >= 12 and gate.reason == "contract"

        await deliver_until(rt, is_stopped_again)
        gate = await rt.store.gate("erp")
        assert gate.detail.startswith("redirect: http 302: it redirects, which is never followed; mend `base_url`")
        audit = await audited(rt)
        assert (audit.parked, audit.waiting) == (0, 20)
        assert len(erp.at(PATH)) <= 40, "each time that it is tried, one record is enough"
        erp.on(PATH, GOOD)
        await deliver_until(rt, all_delivered(rt, 20))
        assert (await audited(rt)).parked == 0
    assert len({request.headers["idempotency-key"] for request in erp.at(PATH)}) == 20


NO_WORD: dict[str, Behaviour] = {
    "a gateway's page": acts.reply(404, b"<html>no route</html>", [("content-type", "text/html")]),
    "a gateway's JSON": acts.reply(404, {"message": "no Route matched"}, [("content-type", "application/json")]),
    "cut short": acts.cut_length(404, b'{"title": "Not Found'),
    "an error under 200": acts.reply(200, {"title": "try later"}),
    "an empty object": acts.reply(200, {}),
}


@pytest.mark.parametrize("case", NO_WORD)
async def test_f14_look_up_that_the_system_itself_did_not_answer_books_nothing_twice(
    tmp_path: Path, database_url: str, erp: Adversary, case: str
) -> None:
    """The booking was made, and its answer lost; then something else answers for a while, longer than a call lasts."""
    booked: list[bytes] = []
    asked = 0

    async def serve(talk: Talk) -> None:
        nonlocal asked
        await talk.read_body()
        if talk.request.method == "POST":
            booked.append(talk.request.body)
            talk.end()
            return
        asked += 1
        await (NO_WORD[case] if asked <= 4 else acts.reply(200, {"items": [{"id": "E-1"}]}))(talk)

    erp.on(PATH, serve)
    quick = {"timeouts": {"connect": "500ms", "read": "500ms", "total": "500ms"}, "breaker": {"failures": 100}}
    async with hub(tmp_path, database_url, erp, erp={"resolve": "lookup", **quick}) as rt:
        await stage(rt, "a")
        await deliver_until(rt, all_delivered(rt, 1))
        assert (await audited(rt)).parked == 0
    assert len(booked) == 1
    assert asked == 5


async def test_f50_payload_that_a_provider_repeats_gets_into_no_log_error_or_attempt(
    tmp_path: Path, database_url: str, erp: Adversary, caplog: pytest.LogCaptureFixture
) -> None:
    """A provider's message is kept to tell people what is wrong; what it repeats of the record or a secret is not."""
    caplog.set_level(logging.DEBUG)
    secret = "twin-erp-secret"
    detail = {"o:errorDetails": [{"o:errorCode": "BAD", "detail": f"no customer {CANARY}, {secret}"}]}
    erp.on(PATH, acts.reply(422, detail))
    erp.on("/crm/v3/objects/orders", acts.reply(500, {"message": "no: twin-crm-token"}))
    async with hub(tmp_path, database_url, erp) as rt:
        await intake.stage_records(rt, "orders", [{"id": "a", "customerId": CANARY, "total": 5}])
        assert (await deliver(rt)).parked == 1
        with pytest.raises(SourceError) as caught:
            await intake.extract(rt, "orders")
    kept: list[Any] = [*await sql(database_url, "select code, detail from attempt")]
    kept += await sql(database_url, "select code, detail from parked")
    text = f"{kept} {caught.value!r} {caught.value} {caplog.text}"
    assert "BAD" in text, "the search must be able to find something"
    for hidden in (CANARY, secret, "twin-crm-token"):
        assert hidden not in text


async def test_f16_error_under_200_parks_the_record_with_the_providers_reason(
    tmp_path: Path, database_url: str, erp: Adversary
) -> None:
    """What makes an answer a success is in the system's description, not in the status."""
    erp.on(PATH, acts.reply(200, {"o:errorDetails": [{"o:errorCode": "NO_SUCH_ITEM", "detail": "it is gone"}]}))
    async with hub(tmp_path, database_url, erp) as rt:
        await stage(rt, "a")
        assert (await deliver(rt)).parked == 1
        [parked] = await rt.store.parked(Selection())
        assert (parked.key, parked.code) == ("a", "NO_SUCH_ITEM")
        assert (await audited(rt)).delivered == 0


async def test_f66_more_callers_than_connections_wait_their_turn_and_the_delivery_goes_on(
    tmp_path: Path, database_url: str, erp: Adversary
) -> None:
    erp.on(PATH, GOOD)
    async with hub(tmp_path, database_url, erp) as rt:
        await stage(rt, *(f"k{n}" for n in range(20)))
        crowd = [stage(rt, f"c{n}") for n in range(100)] + [rt.store.gate("erp") for _ in range(100)]
        _, delivered = await asyncio.gather(asyncio.gather(*crowd), deliver_until(rt, all_delivered(rt, 120)))
        assert delivered.parked == 0
        assert (await audited(rt)).waiting == 0
