"""Look-ups over real sockets: only proof that a record is missing counts as missing."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.contract.test_http_deliver import HASTY, RECORD, connected, described
from tideover.config.rest import Rest
from tideover.model import CREDENTIALS, HUNG, Found, LookUp, Missing, Outgoing, Throttled, Unknown, Unsent
from tideover.twins.adversary import Adversary, Behaviour, acts

JSON = [("content-type", "application/json; charset=utf-8")]
MOVED = ": it redirects, which is never followed; mend `base_url` in its block, or the `path` in its description"
SEARCH = "http 404 to a search is no proof that it is missing; say in `missing` what is"
NO_WORD = "http 404 without a word of the system's own is no proof that it is missing; say in `missing` what is"
NOT_FOUND = {"error": {"code": "NOT_FOUND"}}


def with_lookup(errors: list[dict[str, Any]] | None = None, **lookup: Any) -> Rest:
    call = {"path": "/find", "params": {"ref": "{id}"}, "found": "hits", "reference": "hits[0].id", **lookup}
    operation = {"path": "/orders", "lookup": call}
    return Rest.model_validate({"operations": {"put": operation}, "errors": errors or []})


CASES: list[tuple[Behaviour, LookUp]] = [
    (acts.reply(200, {"hits": [{"id": 5}]}), Found("5")),
    (acts.reply(200, {"hits": [{}]}), Found(None)),
    (acts.reply(200, {"hits": []}), Missing()),
    (acts.reply(200, {"hits": None}), Missing()),
    (acts.reply(200, {"hits": 0}), Missing()),
    (acts.reply(200, {}), Unknown("unreadable", "http 200, `found` can't be told")),
    (acts.reply(200, {"error": "x"}), Unknown("unreadable", "http 200, `found` can't be told")),
    (acts.reply(206, {"hits": []}), Unknown("unreadable", "http 206 says nothing about one record")),
    (acts.reply(404, {"message": "none"}, JSON), Unknown("unreadable", SEARCH)),
    (acts.reply(404, b"<html>"), Unknown("unreadable", SEARCH)),
    (acts.reply(204), Unknown("unreadable", "http 204, not JSON")),
    (acts.reply(200, b"<html>"), Unknown("unreadable", "http 200, not JSON")),
    (acts.cut_length(200, b'{"hits": []}'), Unknown("unreadable", "http 200, 12 bytes, not whole")),
    (acts.reply(400), Unknown("lookup_rejected", "http 400")),
    (acts.reply(410), Unknown("lookup_rejected", "http 410")),
    (acts.reply(500), Unknown("server_error", "http 500")),
    (acts.reply(401), Unsent(CREDENTIALS, "http 401")),
    (acts.reply(302), Unsent("redirect", f"http 302{MOVED}", is_answer=True)),
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


async def asked(behaviour: Behaviour, rest: Rest) -> LookUp:
    async with Adversary() as server:
        server.on("*", behaviour)
        async with connected(server.url, rest) as connector:
            return await connector.look_up("put", RECORD)


BY_PATH: dict[str, tuple[Behaviour, LookUp]] = {
    "its own word": (acts.reply(404, {"message": "no order"}, JSON), Missing()),
    "a problem (RFC 9457)": (
        acts.reply(404, {"title": "x"}, [("content-type", "application/problem+json")]),
        Missing(),
    ),
    "a page of a gateway": (
        acts.reply(404, b"<html>", [("content-type", "text/html")]),
        Unknown("unreadable", NO_WORD),
    ),
    "nothing": (acts.reply(404), Unknown("unreadable", NO_WORD)),
    "nothing, as JSON": (acts.reply(404, b"", JSON), Unknown("unreadable", NO_WORD)),
    "an empty object": (acts.reply(404, {}, JSON), Unknown("unreadable", NO_WORD)),
    "JSON that is not sent as such": (acts.reply(404, {"a": 1}), Unknown("unreadable", NO_WORD)),
    "cut short": (
        acts.raw(acts.head(404, [*JSON, ("content-length", "99")]) + b'{"a": 1}', then_end=True),
        Unknown("unreadable", NO_WORD),
    ),
    "too long": (acts.reply(404, {"a": "x" * 200_000}, JSON), Unknown("unreadable", NO_WORD)),
    "gone": (acts.reply(410, {"message": "x"}, JSON), Unknown("lookup_rejected", "http 410: x")),
}


@pytest.mark.parametrize("case", BY_PATH)
async def test_look_up_by_path_takes_a_404_for_missing_only_from_the_system_itself(case: str) -> None:
    behaviour, expected = BY_PATH[case]
    assert await asked(behaviour, with_lookup(path="/find/{id}", params={}, found="id")) == expected


MISSING: dict[str, tuple[Behaviour, LookUp]] = {
    "404": (acts.reply(404, NOT_FOUND), Missing()),
    "422": (acts.reply(422, NOT_FOUND), Missing()),
    "200": (acts.reply(200, {"hits": [], **NOT_FOUND}), Missing()),
    "200 without its field": (acts.reply(200, NOT_FOUND), Missing()),
    "200, and found": (
        acts.reply(200, {"hits": [1], **NOT_FOUND}),
        Unknown("unreadable", "http 200, both `found` and `missing`"),
    ),
    "200, neither": (
        acts.reply(200, {"hits": []}),
        Unknown("unreadable", "http 200, neither `found` nor `missing`"),
    ),
    "206": (acts.reply(206, NOT_FOUND), Unknown("unreadable", "http 206 says nothing about one record")),
    "403": (acts.reply(403, NOT_FOUND), Unsent(CREDENTIALS, "http 403")),
    "500": (acts.reply(500, NOT_FOUND), Unknown("server_error", "http 500")),
    "404 of a gateway": (
        acts.reply(404, {"message": "no route"}, JSON),
        Unknown("unreadable", "http 404, and `missing` is not true of it: no proof that it is missing"),
    ),
    "404 cut short": (
        acts.cut_length(404, b'{"error": {"code": "NOT_FOUND"}}'),
        Unknown("unreadable", "http 404, and `missing` is not true of it: no proof that it is missing"),
    ),
}


@pytest.mark.parametrize("path", ["/find", "/find/{id}"])
@pytest.mark.parametrize("case", MISSING)
async def test_look_up_whose_description_says_what_missing_is_takes_nothing_else_for_it(case: str, path: str) -> None:
    behaviour, expected = MISSING[case]
    assert await asked(behaviour, with_lookup(path=path, missing="error.code == 'NOT_FOUND'")) == expected


async def test_look_up_that_trusts_the_status_takes_an_empty_404_for_missing_if_it_is_whole() -> None:
    rest = with_lookup(path="/find/{id}", trust_status=True)
    assert await asked(acts.reply(404), rest) == Missing()
    assert isinstance(await asked(acts.cut_length(404, b""), rest), Unknown)
    assert isinstance(await asked(acts.reply(410), rest), Unknown)


async def test_look_up_without_found_proves_nothing() -> None:
    rest = with_lookup(path="/find/{id}", found=None)
    assert await asked(acts.reply(200, {"id": 1}), rest) == Unknown("unreadable", "http 200, `found` can't be told")


async def test_look_up_when_a_rule_fits_a_404_follows_the_rule() -> None:
    rest = with_lookup(
        [{"status": 404, "json_body": False, "outcome": "unsent", "code": "gateway"}], path="/find/{id}", params={}
    )
    assert await asked(acts.reply(404, b"<html>"), rest) == Unsent("gateway", "http 404", is_answer=True)
    assert await asked(acts.reply(404, {"a": 1}, JSON), rest) == Missing()


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


async def test_look_up_that_is_answered_with_millions_of_values_says_nothing_and_holds_nobody_up() -> None:
    body = b'{"hits":[' + b",".join([b"{}"] * 1_000_000) + b"]}"
    rest = with_lookup(found="length(hits[?state != 'void']) > `0`")
    async with Adversary() as server:
        server.on("*", acts.reply(200, body))
        async with connected(server.url, rest, response="10MB") as connector:
            began = time.process_time()
            assert await connector.look_up("put", RECORD) == Unknown("unreadable", "http 200, too many values")
            assert time.process_time() - began < 1, "evaluated, it took three"
