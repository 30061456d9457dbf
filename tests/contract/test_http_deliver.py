"""What becomes of a delivery, over real sockets, for everything that a provider can do to it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from tideover.config.rest import Limits, Rest, Timeouts
from tideover.connectors.http import Access, Bearer, HttpConnector
from tideover.errors import Refused
from tideover.model import CREDENTIALS, HUNG, Accepted, Outcome, Outgoing, Rejected, Throttled, Unknown, Unsent
from tideover.twins.adversary import Adversary, Behaviour, acts, refused_port

RECORD = Outgoing("a" * 32, "order-1", b'{"name":"Ada Lovelace","total":12345.5}')
OK = {"id": "P-7"}
HASTY: dict[str, Any] = {"connect": "3s", "read": "1s", "total": "3s"}  # where the provider does not answer


def described(**operation: Any) -> Rest:
    return Rest.model_validate({"operations": {"put": {"path": "/orders", "reference": "id", **operation}}})


@asynccontextmanager
async def connected(
    url: str,
    rest: Rest | None = None,
    *,
    connect: str = "20s",
    read: str = "20s",
    total: str = "60s",
    response: str = "100kB",
    **more: Any,
) -> AsyncIterator[HttpConnector]:
    access = more.pop("access", None) or Access(url, Bearer(SecretStr("s3cret-token")))
    timeouts = Timeouts.model_validate({"connect": connect, "read": read, "total": total})
    limits = Limits.model_validate({"response": response, "concurrency": more.pop("concurrency", 4)})
    connector = HttpConnector("erp", rest or described(), access, timeouts, limits, **more)
    try:
        yield connector
    finally:
        await connector.close()


async def sent(behaviour: Behaviour, rest: Rest | None = None, **settings: Any) -> Outcome:
    async with Adversary() as server:
        server.on("/orders", behaviour)
        async with connected(server.url, rest, **settings) as connector:
            [outcome] = await connector.send("put", [RECORD])
        assert len(server.received) == 1, "one send is one request"
        return outcome


DEEP = b"[" * 100_000
UNKNOWN = {
    "hang": (acts.hang(), HUNG),
    "deaf": (acts.deaf(), HUNG),
    "reset after some bytes": (acts.reset(5), "reset"),
    "reset after reading all": (acts.reset(), "reset"),
    "closed without an answer": (acts.end(), "reset"),
    "dripped answer": (acts.drip(), HUNG),
    "stalled body": (acts.stall(200, b'{"id":'), HUNG),
    "body cut short": (acts.cut_length(200, b'{"id":'), "unreadable"),
    "chunks cut short": (acts.cut_chunks(200, b'{"id": 1}'), "unreadable"),
    "broken chunks": (acts.broken_chunks(200), "unreadable"),
    "empty body where one is needed": (acts.reply(200), "unreadable"),
    "no JSON": (acts.reply(200, b"<html>maintenance</html>"), "unreadable"),
    "invalid UTF-8": (acts.reply(200, b'{"id":"\xff\xfe"}'), "unreadable"),
    "deep nesting": (acts.reply(200, DEEP), "unreadable"),
    "gzip bomb": (acts.bomb(size=20_000_000), "oversize"),
    "endless chunks": (acts.endless(), "oversize"),
    "broken gzip": (acts.reply(200, b"no gzip", [("content-encoding", "gzip")]), "unreadable"),
    "cut gzip": (acts.reply(200, b"\x1f\x8b\x08\x00\x00", [("content-encoding", "gzip")]), "unreadable"),
    "unknown coding": (acts.reply(200, b"xx", [("content-encoding", "br")]), "unreadable"),
    "huge header": (acts.reply(200, OK, [("x-big", "x" * 100_000)]), "unreadable"),
    "no HTTP": (acts.raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", then_end=True), "unreadable"),
    "303": (acts.reply(303, b"", [("location", "/done")]), "redirect"),
    "300": (acts.reply(300), "redirect"),
    "301": (acts.reply(301, b"", [("location", "/orders/7")]), "redirect"),
    "302": (acts.reply(302, b"", [("location", "http://evil.example/")]), "redirect"),
    "304": (acts.reply(304), "redirect"),
    "307": (acts.reply(307, b"", [("location", "/other")]), "redirect"),
    "308": (acts.reply(308, b"", [("location", "/other")]), "redirect"),
    "500": (acts.reply(500, {"error": "boom"}), "server_error"),
    "502 with HTML": (acts.reply(502, b"<html>"), "server_error"),
    "500 cut short": (acts.cut_length(500, b"{"), "server_error"),
    "503 without Retry-After": (acts.reply(503), "server_error"),
    "408": (acts.reply(408), "server_error"),
    "425": (acts.reply(425), "server_error"),
}


@pytest.mark.parametrize("case", UNKNOWN)
async def test_send_when_it_may_have_been_processed_is_unknown(case: str) -> None:
    behaviour, code = UNKNOWN[case]
    outcome = await sent(behaviour, **(HASTY if code == HUNG else {}))
    assert isinstance(outcome, Unknown)
    assert outcome.code == code
    assert "Ada" not in outcome.detail


OTHERS: dict[str, tuple[Behaviour, Outcome]] = {
    "201": (acts.reply(201, OK), Accepted("P-7")),
    "204": (acts.reply(204), Accepted(None)),
    "gzip": (acts.coded(200, OK, "gzip"), Accepted("P-7")),
    "deflate": (acts.coded(200, OK, "deflate"), Accepted("P-7")),
    "bare deflate": (acts.coded(200, OK, "raw-deflate"), Accepted("P-7")),
    "interim answers first": (
        acts.informed(acts.head(200, [("content-length", "12")]) + b'{"id": "P7"}'),
        Accepted("P7"),
    ),
    "duplicate headers": (acts.reply(200, OK, [("x-a", "1"), ("x-a", "2"), ("date", "x")]), Accepted("P-7")),
    "number beyond 64 bits": (acts.reply(200, b'{"id": 123456789012345678901234567890}'), Accepted("1234567890" * 3)),
    "401": (acts.reply(401, {"message": "who?"}), Unsent(CREDENTIALS, "http 401: who?")),
    "403": (acts.reply(403), Unsent(CREDENTIALS, "http 403")),
    "429 with seconds": (acts.reply(429, b"", [("retry-after", "7")]), Throttled(7, "http 429")),
    "429 with a date": (
        acts.reply(429, b"", [("retry-after", "Sun, 06 Nov 2044 08:49:57 GMT")]),
        Throttled(20, "http 429"),
    ),
    "429 with RateLimit": (acts.reply(429, b"", [("ratelimit", '"d";r=0;t=9')]), Throttled(9, "http 429")),
    "429 with a policy": (acts.reply(429, b"", [("ratelimit-policy", '"b";q=1;w=60')]), Throttled(60, "http 429")),
    "429 with a year": (acts.reply(429, b"", [("retry-after", "31536000")]), Throttled(3600, "http 429")),
    "429 with nonsense": (acts.reply(429, b"", [("retry-after", "soon")]), Throttled(30, "http 429", is_asked=False)),
    "429 repeated header": (
        acts.reply(429, b"", [("retry-after", "2"), ("retry-after", "5")]),
        Throttled(5, "http 429"),
    ),
    "429 cut short": (acts.cut_length(429, b"{"), Throttled(30, "http 429", is_asked=False)),
    "503 with Retry-After": (acts.reply(503, b"", [("retry-after", "3")]), Throttled(3, "http 503")),
    "422": (
        acts.reply(422, {"error": {"code": "bad_total", "message": "total is odd"}}),
        Rejected("bad_total", "http 422: total is odd"),
    ),
    "400 with HTML": (acts.reply(400, b"<html>"), Rejected("http_400", "http 400")),
    "400 as a bomb": (acts.bomb(400, 20_000_000), Rejected("http_400", "http 400")),
    "422 echoing": (
        acts.reply(422, {"code": "dup", "message": "Ada Lovelace\nwith s3cret-token\r\nhas 12345.5, order-1"}),
        Rejected("dup", "http 422: *** with *** has ***, ***"),
    ),
    "422 echoing in the code": (acts.reply(422, {"error": "no Ada Lovelace"}), Rejected("http_422", "http 422")),
}


@pytest.mark.parametrize("case", OTHERS)
async def test_send_by_answer_has_the_outcome_of_the_table(case: str) -> None:
    behaviour, expected = OTHERS[case]
    assert await sent(behaviour) == expected


async def test_send_whose_answer_repeats_a_long_token_or_an_encoded_key_has_neither_in_its_outcome() -> None:
    token = "".join(f"{n:05x}" for n in range(7, 90_000, 311))
    body = {"code": "bad", "message": f"Bearer {token} {token[300:]} for /orders/a%20b%2Fcanary"}
    async with Adversary() as server:
        server.on("/orders", acts.reply(422, body))
        access = Access(server.url, Bearer(SecretStr(token)))
        async with connected(server.url, access=access) as connector:
            [outcome] = await connector.send("put", [Outgoing("a" * 32, "a b/canary", b"{}")])
    assert outcome == Rejected("bad", "http 422: Bearer *** *** for /orders/***")


async def test_send_when_ok_is_false_in_a_200_is_rejected() -> None:
    rest = described(ok="success")
    body = {"success": False, "errors": [{"code": "REQUIRED", "message": "x"}]}
    assert await sent(acts.reply(200, body), rest) == Rejected("REQUIRED", "http 200: x")
    assert await sent(acts.reply(200, {"success": True, "id": 9}), rest) == Accepted("9")


async def test_send_when_nothing_listens_is_unsent_refused() -> None:
    with refused_port() as port:
        async with connected(f"http://127.0.0.1:{port}") as connector:
            [outcome] = await connector.send("put", [RECORD])
    assert isinstance(outcome, Unsent)
    assert outcome.code == "refused"


async def test_send_when_the_name_does_not_resolve_is_unsent_dns() -> None:
    async with connected("http://nobody.invalid", total="20s") as connector:
        [outcome] = await connector.send("put", [RECORD])
    assert isinstance(outcome, Unsent)
    assert outcome.code in ("dns", "connect_timeout")


async def test_send_when_the_other_side_speaks_no_tls_is_unsent() -> None:
    async with Adversary() as server:
        async with connected(server.url.replace("http:", "https:"), connect="1s") as connector:
            [outcome] = await connector.send("put", [RECORD])
        assert isinstance(outcome, Unsent)
        assert outcome.code in ("tls", "connect_timeout", "refused")
        assert server.received == []


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_send_when_an_idle_connection_was_closed_is_never_sent_twice(method: str) -> None:
    """Many a client repeats a PUT after a disconnect; that would be two requests in one attempt."""
    async with Adversary() as server:
        server.on("/orders", acts.reply(201, OK), acts.end())
        async with connected(server.url, described(method=method)) as connector:
            assert await connector.send("put", [RECORD]) == [Accepted("P-7")]
            [outcome] = await connector.send("put", [RECORD])
        assert isinstance(outcome, Unknown)
        assert len(server.received) == 2


async def test_send_after_answers_in_full_keeps_one_connection() -> None:
    async with Adversary() as server:
        server.on("/orders", acts.reply(201, OK))
        async with connected(server.url) as connector:
            for _ in range(3):
                await connector.send("put", [RECORD])
        assert server.connections == 1


async def test_send_passes_the_payload_untouched_under_its_key() -> None:
    payload = b'{ "n": 123456789012345678901234567890, "f": 1.10, "u": "\\u00e9" }'
    rest = described(path="/o/{key}", method="PUT", idempotency_header="Idempotency-Key")
    async with Adversary() as server:
        server.on("*", acts.reply(201, OK))
        async with connected(server.url, rest) as connector:
            await connector.send("put", [Outgoing("f" * 32, "a/b ?#%é", payload)])
        [request] = server.received
    assert request.body == payload
    assert request.target == "/o/a%2Fb%20%3F%23%25%C3%A9"
    assert request.headers["idempotency-key"] == "f" * 32
    assert request.headers["authorization"] == "Bearer s3cret-token"
    assert request.headers["accept-encoding"] == "gzip, deflate"
    assert request.headers["content-type"] == "application/json"
    assert len(request.names) == len(set(request.names))
    assert "cookie" not in request.names


@pytest.mark.parametrize("key", ["..", ".", "", "\ud800", "x" * 9000])
async def test_send_with_a_key_that_no_path_can_hold_is_rejected_and_never_sent(key: str) -> None:
    async with Adversary() as server:
        async with connected(server.url, described(path="/orders/{key}", method="PUT")) as connector:
            [outcome] = await connector.send("put", [Outgoing("f" * 32, key, b"{}")])
        assert isinstance(outcome, Rejected)
        assert outcome.code == "unusable_key"
        assert server.received == []


async def test_send_never_sends_back_a_cookie() -> None:
    async with Adversary() as server:
        server.on("/orders", acts.reply(201, OK, [("set-cookie", "a=b; Path=/")]))
        async with connected(server.url) as connector:
            await connector.send("put", [RECORD])
            await connector.send("put", [RECORD])
        assert "cookie" not in server.received[1].names


async def test_send_ignores_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_port() as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        assert await sent(acts.reply(201, OK)) == Accepted("P-7")


async def test_send_to_an_operation_that_is_not_there_is_refused() -> None:
    async with connected("http://localhost:1") as connector:
        with pytest.raises(Refused):
            await connector.send("nothing", [RECORD])
        with pytest.raises(Refused):
            await connector.send("put", [RECORD, RECORD])
        assert await connector.send("put", []) == []


async def test_send_when_a_rule_says_otherwise_follows_the_rule() -> None:
    rest = Rest.model_validate(
        {
            "operations": {"put": {"path": "/orders"}},
            "reset_headers": ["x-reset"],
            "errors": [
                {"status": 403, "contains": "REQUEST_LIMIT", "outcome": "throttled", "delay": "5s"},
                {"status": 403, "json_body": False, "outcome": "throttled"},
                {"status": 409, "outcome": "accepted"},
                {"status": 200, "header": "x-login", "outcome": "credentials"},
            ],
        }
    )
    assert await sent(acts.reply(403, {"code": "REQUEST_LIMIT"}), rest) == Throttled(5, "http 403", is_asked=False)
    assert await sent(acts.reply(403, b"no", [("x-reset", "2362034989")]), rest) == Throttled(12, "http 403")
    assert await sent(acts.reply(403, {"code": "x"}), rest) == Unsent(CREDENTIALS, "http 403")
    assert await sent(acts.reply(409), rest) == Accepted()
    assert await sent(acts.reply(200, b"<html>", [("x-login", "1")]), rest) == Unsent(CREDENTIALS, "http 200")
    assert await sent(acts.cut_length(400, b"{"), rest) == Rejected("http_400", "http 400")


async def test_probe_tells_what_a_delivery_would_meet() -> None:
    rest = Rest.model_validate({"probe": {"path": "/health"}})
    async with Adversary() as server:
        server.on("/health", acts.reply(200, b"OK"), acts.reply(503), acts.hang())
        async with connected(server.url, rest, **HASTY) as connector:
            assert connector.has_probe
            assert await connector.probe() == Accepted()
            assert await connector.probe() == Unknown("server_error", "http 503")
            assert await connector.probe() == Unknown(HUNG, "no answer in time")


async def test_probe_without_a_description_is_unsent() -> None:
    async with connected("http://localhost:1") as connector:
        assert not connector.has_probe
        assert isinstance(await connector.probe(), Unsent)


def test_json_of_the_echo_case_holds_what_is_hidden() -> None:
    assert set(json.loads(RECORD.payload).values()) == {"Ada Lovelace", 12345.5}


async def test_f11_send_after_its_deadline_puts_nothing_on_the_wire() -> None:
    async with Adversary() as server:
        server.on("/orders", acts.reply(200, OK))
        async with connected(server.url) as connector:
            [outcome] = await connector.send("put", [RECORD], deadline=time.monotonic() - 1)
            assert isinstance(outcome, Unsent)
        assert server.received == []
