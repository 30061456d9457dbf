"""Voids over real sockets: undone only by a clear word, and nothing sent that could undo something else."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.contract.test_http_deliver import HASTY, RECORD, UNKNOWN, connected, described
from tests.contract.test_http_lookup import JSON, MOVED
from tideover.config.rest import Rest
from tideover.errors import Refused
from tideover.model import CREDENTIALS, HUNG, Accepted, Outcome, Outgoing, Rejected, Throttled, Unknown, Unsent
from tideover.twins.adversary import Adversary, Behaviour, acts, refused_port

PATH = "/orders/P-7/void"
NO_WORD = " without a word of the system's own is no proof that it is gone; say in `missing` what is"


def with_void(errors: list[dict[str, Any]] | None = None, **void: Any) -> Rest:
    operation = {
        "path": "/orders",
        "idempotency_header": "Idempotency-Key",
        "ok": "id",
        "reference": "id",
        "retry_codes": ["locked"],
        "void": {"path": "/orders/{reference}/void", **void},
    }
    return Rest.model_validate({"operations": {"put": operation}, "errors": errors or []})


async def voided(behaviour: Behaviour, rest: Rest | None = None, **settings: Any) -> Outcome:
    async with Adversary() as server:
        server.on(PATH, behaviour)
        async with connected(server.url, rest or with_void(), **settings) as connector:
            outcome = await connector.void("put", RECORD, "P-7")
        assert len(server.received) == 1, "one void is one request"
        return outcome


CASES: dict[str, tuple[Behaviour, Outcome]] = {
    "200": (acts.reply(200, {"state": "void"}), Accepted()),
    "202 without a body": (acts.reply(202), Accepted()),
    "204": (acts.reply(204), Accepted()),
    "404": (acts.reply(404, {"message": "no such order"}, JSON), Accepted()),
    "410": (acts.reply(410, {"message": "no such order"}, JSON), Accepted()),
    "404 of a gateway": (acts.reply(404, b"<html>"), Unknown("unreadable", f"http 404{NO_WORD}")),
    "410 without a word": (acts.reply(410), Unknown("unreadable", f"http 410{NO_WORD}")),
    "303": (acts.reply(303, b"", [("location", "/done")]), Unknown("redirect", f"http 303{MOVED}")),
    "404 cut short where codes have to be read": (
        acts.cut_length(404, b"{"),
        Unsent("unreadable", "http 404, not whole", is_answer=True),
    ),
    "409": (
        acts.reply(409, {"code": "SHIPPED", "message": "order-1 has left us"}),
        Rejected("SHIPPED", "http 409: *** has left us"),
    ),
    "409 by a retry code": (acts.reply(409, {"code": "locked"}), Unsent("retry", "http 409", is_answer=True)),
    "401": (acts.reply(401), Unsent(CREDENTIALS, "http 401")),
    "307": (acts.reply(307, b"", [("location", "/other")]), Unknown("redirect", f"http 307{MOVED}")),
    "429": (acts.reply(429, b"", [("retry-after", "2")]), Throttled(2, "http 429")),
}


@pytest.mark.parametrize("case", CASES)
async def test_void_by_answer_has_the_outcome_of_the_table(case: str) -> None:
    behaviour, expected = CASES[case]
    assert await voided(behaviour) == expected


@pytest.mark.parametrize("case", UNKNOWN.keys() - {"empty body where one is needed"})
async def test_void_when_it_may_have_been_done_is_unknown(case: str) -> None:
    behaviour, code = UNKNOWN[case]
    outcome = await voided(behaviour, **(HASTY if code == HUNG else {}))
    assert isinstance(outcome, Unknown)
    assert outcome.code == code


async def test_void_when_ok_is_false_in_a_200_is_rejected() -> None:
    rest = with_void(ok="approved")
    assert await voided(acts.reply(200, {"approved": True}), rest) == Accepted()
    refused = await voided(acts.reply(200, {"approved": False, "code": "USED"}), rest)
    assert refused == Rejected("USED", "http 200")
    assert isinstance(await voided(acts.reply(200), rest), Unknown)


async def test_void_when_404_is_not_gone_is_rejected() -> None:
    outcome = await voided(acts.reply(404, {"message": "never heard of it"}, JSON), with_void(gone=[]))
    assert outcome == Rejected("http_404", "http 404: never heard of it")


async def test_void_when_an_empty_404_is_not_gone_is_unknown() -> None:
    assert isinstance(await voided(acts.reply(404), with_void(gone=[])), Unknown)


async def test_void_whose_description_says_what_gone_is_takes_nothing_else_for_it() -> None:
    rest = with_void(missing="code == 'NONE'")
    assert await voided(acts.reply(404, {"code": "NONE"}), rest) == Accepted()
    assert isinstance(await voided(acts.reply(404, {"message": "no route"}, JSON), rest), Unknown)
    assert await voided(acts.reply(422, {"code": "NONE"}), rest) == Rejected("NONE", "http 422")


async def test_void_that_trusts_the_status_takes_an_empty_404_for_undone() -> None:
    assert await voided(acts.reply(404), with_void(trust_status=True)) == Accepted()


async def test_void_when_a_rule_fits_a_404_follows_the_rule() -> None:
    rest = with_void([{"status": 404, "json_body": False, "outcome": "unsent", "code": "gateway"}])
    assert await voided(acts.reply(404, b"<html>"), rest) == Unsent("gateway", "http 404", is_answer=True)
    assert await voided(acts.reply(404, {"a": 1}, JSON), rest) == Accepted()


async def test_void_names_its_thing_encoded_and_carries_no_idempotency_key() -> None:
    rest = with_void(path="/orders/{reference}/{key}", method="DELETE", body={"ref": "{reference}"})
    async with Adversary() as server:
        server.on("*", acts.reply(204))
        async with connected(server.url, rest) as connector:
            assert await connector.void("put", Outgoing("i", "a b", b"{}"), "../é") == Accepted()
        [request] = server.received
    assert (request.method, request.target) == ("DELETE", "/orders/..%2F%C3%A9/a%20b")
    assert request.body == '{"ref":"../é"}'.encode()
    assert request.headers["content-type"] == "application/json"
    assert "idempotency-key" not in request.headers  # under the key of the call it would get that call's answer


async def test_void_without_a_body_says_so() -> None:
    async with Adversary() as server:
        server.on("*", acts.reply(204))
        async with connected(server.url, with_void()) as connector:
            await connector.void("put", RECORD, "P-7")
        [request] = server.received
    assert (request.method, request.body, request.headers.get("content-length")) == ("POST", b"", "0")
    assert "content-type" not in request.headers


@pytest.mark.parametrize(
    ("reference", "code"),
    [(None, "no_reference"), ("", "no_reference"), ("..", "unusable_reference"), ("x" * 9000, "unusable_reference")],
)
async def test_void_without_a_usable_reference_is_rejected_and_never_sent(reference: str | None, code: str) -> None:
    async with Adversary() as server:
        async with connected(server.url, with_void()) as connector:
            outcome = await connector.void("put", RECORD, reference)
        assert isinstance(outcome, Rejected)
        assert outcome.code == code
        assert server.received == []


async def test_void_of_an_operation_without_one_is_rejected_and_said_before() -> None:
    async with connected("http://localhost:1", described()) as connector:
        assert not connector.can_void("put")
        outcome = await connector.void("put", RECORD, "P-7")
        assert isinstance(outcome, Rejected)
        assert outcome.code == "no_void"
    async with connected("http://localhost:1", with_void()) as connector:
        assert connector.can_void("put")
        with pytest.raises(Refused):
            connector.can_void("get")
        with pytest.raises(Refused):
            await connector.void("get", RECORD, "P-7")


async def test_void_when_nothing_listens_is_unsent_refused() -> None:
    with refused_port() as port:
        async with connected(f"http://127.0.0.1:{port}", with_void()) as connector:
            outcome = await connector.void("put", RECORD, "P-7")
    assert isinstance(outcome, Unsent)
    assert outcome.code == "refused"


async def test_void_after_its_deadline_puts_nothing_on_the_wire() -> None:
    async with Adversary() as server:
        server.on(PATH, acts.reply(204))
        async with connected(server.url, with_void()) as connector:
            assert isinstance(await connector.void("put", RECORD, "P-7", deadline=time.monotonic() - 1), Unsent)
        assert server.received == []


async def test_void_ends_by_its_deadline_though_the_total_is_longer() -> None:
    async with Adversary() as server:
        server.on(PATH, acts.hang())
        async with connected(server.url, with_void(), total="60s", read="60s") as connector:
            outcome = await connector.void("put", RECORD, "P-7", deadline=time.monotonic() + 2.0)
    assert outcome == Unknown(HUNG, "no answer in time")


async def test_single_send_wraps_the_record_and_waits_for_a_locked_one() -> None:
    rest = Rest.model_validate({"operations": {"put": {"path": "/orders", "wrap": "order", "retry_codes": ["locked"]}}})
    async with Adversary() as server:
        server.on("/orders", acts.reply(400, {"code": "locked", "message": "try later"}))
        async with connected(server.url, rest) as connector:
            assert await connector.send("put", [RECORD]) == [Unsent("retry", "http 400: try later", is_answer=True)]
        assert server.received[0].body == b'{"order":' + RECORD.payload + b"}"
