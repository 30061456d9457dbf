"""Look-ups over real sockets: only proof that a record is missing counts as missing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.test_http_deliver import HASTY, RECORD, connected, described
from tideover.config.rest import Rest
from tideover.model import CREDENTIALS, HUNG, Found, LookUp, Missing, Outgoing, Throttled, Unknown, Unsent
from tideover.twins.adversary import Adversary, Behaviour, acts


def with_lookup(errors: list[dict[str, Any]] | None = None, **lookup: Any) -> Rest:
    call = {"path": "/find", "params": {"ref": "{id}"}, "found": "hits", "reference": "hits[0].id", **lookup}
    operation = {"path": "/orders", "lookup": call}
    return Rest.model_validate({"operations": {"put": operation}, "errors": errors or []})


CASES: list[tuple[Behaviour, LookUp]] = [
    (acts.reply(200, {"hits": [{"id": 5}]}), Found("5")),
    (acts.reply(200, {"hits": [{}]}), Found(None)),
    (acts.reply(200, {"hits": []}), Missing()),
    (acts.reply(404), Missing()),
    (acts.reply(204), Unknown("unreadable", "http 204, not JSON")),
    (acts.reply(200, b"<html>"), Unknown("unreadable", "http 200, not JSON")),
    (acts.cut_length(200, b'{"hits": []}'), Unknown("unreadable", "http 200, 12 bytes, not whole")),
    (acts.reply(400), Unknown("lookup_rejected", "http 400")),
    (acts.reply(410), Unknown("lookup_rejected", "http 410")),
    (acts.reply(500), Unknown("server_error", "http 500")),
    (acts.reply(401), Unsent(CREDENTIALS, "http 401")),
    (acts.reply(302), Unsent("redirect", "http 302")),
    (acts.reply(429, b"", [("retry-after", "2")]), Throttled(2, "http 429")),
    (acts.hang(), Unknown(HUNG, "no answer in time")),
]


@pytest.mark.parametrize(("behaviour", "expected"), CASES)
async def test_look_up_answers_what_is_proven(behaviour: Behaviour, expected: LookUp) -> None:
    async with Adversary() as server:
        server.on("/find", behaviour)
        settings: dict[str, Any] = HASTY if expected == Unknown(HUNG, "no answer in time") else {}
        async with connected(server.url, with_lookup(), **settings) as connector:
            assert await connector.look_up("put", RECORD) == expected


async def test_look_up_when_a_rule_fits_a_404_follows_the_rule() -> None:
    rest = with_lookup([{"status": 404, "json_body": False, "outcome": "unsent", "code": "gateway"}])
    async with Adversary() as server:
        server.on("/find", acts.reply(404, b"<html>"), acts.reply(404, {}))
        async with connected(server.url, rest) as connector:
            assert await connector.look_up("put", RECORD) == Unsent("gateway", "http 404")
            assert await connector.look_up("put", RECORD) == Missing()


async def test_look_up_when_a_rule_accepts_an_error_proves_nothing() -> None:
    async with Adversary() as server:
        server.on("/find", acts.reply(409, {"hits": [1]}))
        async with connected(server.url, with_lookup([{"status": 409, "outcome": "accepted"}])) as connector:
            assert isinstance(await connector.look_up("put", RECORD), Unknown)


async def test_look_up_asks_by_key_and_id_encoded() -> None:
    async with Adversary() as server:
        server.on("*", acts.reply(404))
        rest = with_lookup(path="/find/{key}", params={"q": "ref:{id} {key}"})
        async with connected(server.url, rest) as connector:
            await connector.look_up("put", Outgoing("i&d", "a/../b", b"{}"))
            assert isinstance(await connector.look_up("put", Outgoing("i", "..", b"{}")), Unknown)
        assert [r.target for r in server.received] == ["/find/a%2F..%2Fb?q=ref:i%26d%20a/../b"]


async def test_look_up_without_a_description_is_unknown() -> None:
    async with connected("http://localhost:1", described()) as connector:
        assert isinstance(await connector.look_up("put", RECORD), Unknown)
