"""Any listing of a source, and any trouble on the way: what is read is staged or parked, a later pass gets the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.databases import sql
from tests.fuzz.budget import budget, emptied
from tests.hubs import hub_config, running
from tideover.config.rest import Limits, Timeouts
from tideover.connectors.http import Access, Bearer, HttpConnector
from tideover.errors import TideoverError
from tideover.hub.intake import extract, stage
from tideover.hub.runtime import Runtime
from tideover.twins.adversary import Adversary, Behaviour, acts
from tideover.twins.adversary.server import Talk

PASSES = 60
STREAM = {"path": "/orders", "records": "items", "pagination": {"type": "cursor", "next": "next"}}
PATIENT = Timeouts.model_validate({"connect": "20s", "read": "20s", "total": "20s"})

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
GOOD = st.fixed_dictionaries({"id": st.sampled_from(["k0", "k1", "k2", "Ä/ 3"]), "v": VALUES})
BAD = st.sampled_from([7, None, "text", [1], {"v": 1}, {"id": None}, {"id": ""}, {"id": {"a": 1}}, {"id": []}])
LISTINGS = st.lists(GOOD | GOOD | BAD, max_size=10)

GARBAGE: dict[str, Callable[[bytes], Behaviour]] = {
    "no JSON": lambda _: acts.reply(200, b"<html>"),
    "another shape": lambda _: acts.reply(200, {"items": 5, "next": None}),
    "a bare list": lambda _: acts.reply(200, [1, 2]),
    "no list at all": lambda _: acts.reply(200, {"next": None}),
    "cut short": lambda body: acts.cut_length(200, body[: len(body) // 2]),
    "an error": lambda _: acts.reply(500, {"error": "x"}),
    "an error under 200": lambda _: acts.reply(200, {"error": "x"}),
    "reset": lambda _: acts.reset(),
    "not found": lambda _: acts.reply(404, {}),
    "a token that is no token": lambda body: acts.reply(200, {**json.loads(body), "next": {"a": 1}}),
}
TROUBLES = st.lists(st.none() | st.sampled_from(sorted(GARBAGE)), max_size=6)


@dataclass
class Source:
    """Serves a listing in pages; the first requests meet what is drawn."""

    listing: list[Any]
    size: int
    troubles: list[str | None]

    async def serve(self, talk: Talk) -> None:
        query = parse_qs(urlsplit(talk.request.target).query)
        at = int(query.get("cursor", ["0"])[0])
        following = at + self.size
        is_last = following >= len(self.listing)
        found = {"items": self.listing[at:following], "next": None if is_last else str(following)}
        trouble = self.troubles.pop(0) if self.troubles else None
        answer = acts.reply(200, found) if trouble is None else GARBAGE[trouble](json.dumps(found).encode())
        await answer(talk)


@budget(12)
@given(listing=LISTINGS, size=st.integers(1, 4), troubles=TROUBLES)
def test_listing_is_staged_or_parked_whatever_came_between(
    database_url: str, listing: list[Any], size: int, troubles: list[str | None]
) -> None:
    pages = [json.dumps(listing[at : at + size]) for at in range(0, len(listing), size)]
    assume(len(set(pages)) == len(pages))  # two that are alike are taken for a listing that goes round in circles
    newest, parked = asyncio.run(_read(database_url, Source(listing, size, list(troubles))))
    good = [it for it in listing if isinstance(it, dict) and isinstance(it.get("id"), str) and it["id"]]
    assert newest == {it["id"]: it for it in good}
    assert parked >= (len(good) < len(listing))


async def _read(url: str, source: Source) -> tuple[dict[str, Any], int]:
    """Read until the listing was read through once without trouble: each key's newest version, and how many records
    are parked."""
    operations = {"take": {"path": "/things"}}
    config = hub_config(systems={"crm": {"rest": {"streams": {"orders": STREAM}, "operations": operations}}})
    async with Adversary() as server:
        server.on("/orders", source.serve)
        access = Access(server.url, Bearer(SecretStr("s3cret")))
        crm = HttpConnector("crm", config.systems["crm"].rest, access, PATIENT, Limits())
        async with running(config, url, {"crm": crm}) as rt:
            await emptied(url)
            is_through = False
            for _ in range(PASSES):
                is_through = await _pass(rt)
                if is_through and not source.troubles:
                    break
            assert is_through, "a listing without any trouble left is not read to its end"
            [audit] = await rt.store.audit(["orders"])
            assert not audit.faults
            assert not audit.difference
            rows = await sql(url, "select key, payload from record order by seq")
            return {key: json.loads(payload) for key, payload in rows}, audit.parked


async def _pass(rt: Runtime) -> bool:
    """Read to the end of the listing. False: something was in the way, and said so."""
    try:
        for _ in range(PASSES):
            read = await extract(rt, "orders", limit=3)
            await stage(rt, read)
            if read.is_last:
                return True
    except TideoverError:
        return False
    raise AssertionError("a listing of ten records has no end")
