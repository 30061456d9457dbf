"""Batches over real sockets: an outcome per record, and the culprit found in a batch that is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.test_http_deliver import HASTY, connected
from tideover.config.rest import Rest
from tideover.model import CREDENTIALS, HUNG, Accepted, Outcome, Outgoing, Rejected, Throttled, Unknown, Unsent
from tideover.twins.adversary import Adversary, Behaviour, acts
from tideover.twins.adversary.server import Talk


def records(count: int) -> list[Outgoing]:
    return [Outgoing(f"{n:032x}", f"k{n}", b'{"n":%d}' % n) for n in range(count)]


def described(id_field: str | None = None, **bulk: Any) -> Rest:
    usual = {"path": "/bulk", "size": 50, "results": "results", "reference": "id"}
    operation = {"path": "/one", "reference": "id", "idempotency_field": id_field, "bulk": {**usual, **bulk}}
    return Rest.model_validate({"operations": {"put": operation}})


async def sent(
    behaviour: Behaviour, count: int = 3, settings: dict[str, Any] | None = None, **bulk: Any
) -> list[Outcome]:
    async with Adversary() as server:
        server.on("/bulk", behaviour)
        async with connected(server.url, described(**bulk), **(settings or {})) as connector:
            return list(await connector.send("put", records(count)))


def judge(is_bad: Callable[[int], bool], status: int = 422) -> Behaviour:
    """Refuses every call, single or bulk, that holds a bad record."""

    async def act(talk: Talk) -> None:
        await talk.read_body()
        body = json.loads(talk.request.body)
        numbers = [item["n"] for item in (body if isinstance(body, list) else [body])]
        if any(map(is_bad, numbers)):
            await acts.reply(status, {"code": "bad"})(_read(talk))
        else:
            results = [{"id": n} for n in numbers]
            await acts.reply(200, {"results": results} if isinstance(body, list) else results[0])(_read(talk))

    return act


def _read(talk: Talk) -> Talk:
    """The talk, whose body was read already."""
    talk.request.headers["content-length"] = "0"
    return talk


async def test_send_of_a_batch_by_index_gives_each_record_its_own_outcome() -> None:
    results = [{"id": 1}, {"error": {"code": "dup", "message": "exists"}}, {"error": {"code": "busy"}}]
    assert await sent(acts.reply(207, {"results": results}), retry_codes=["busy"]) == [
        Accepted("1"),
        Rejected("dup", "exists"),
        Unsent("retry", "busy", is_answer=True),
    ]


async def test_send_of_a_batch_by_index_when_the_counts_differ_is_unknown_for_all() -> None:
    outcomes = await sent(acts.reply(200, {"results": [{"id": 1}, {"id": 2}]}))
    assert {type(outcome) for outcome in outcomes} == {Unknown}


async def test_send_of_a_batch_when_a_result_is_no_object_is_unknown_for_that_record() -> None:
    first, second, third = await sent(acts.reply(200, {"results": [{"id": 1}, None, "ok"]}))
    assert first == Accepted("1")
    assert isinstance(second, Unknown)
    assert isinstance(third, Unknown)


async def test_send_of_a_batch_by_key_leaves_the_missing_record_unknown() -> None:
    results = [{"key": "k2", "id": "c"}, {"key": "k0", "id": "a"}, {"key": "other", "id": "x"}]
    first, second, third = await sent(acts.reply(200, {"results": results}), match="key", result_key="key")
    assert (first, third) == (Accepted("a"), Accepted("c"))
    assert isinstance(second, Unknown)


async def test_send_of_a_batch_by_key_with_two_results_of_one_record_is_unknown() -> None:
    results = [{"key": "k0"}, {"key": "k0", "error": "x"}, {"key": "k1"}, {"key": "k2"}]
    outcomes = await sent(acts.reply(200, {"results": results}), match="key", result_key="key")
    assert [type(outcome) for outcome in outcomes] == [Unknown, Accepted, Accepted]


async def test_send_of_a_batch_whose_results_name_their_places() -> None:
    results = [{"index": 2, "error": "bad"}, {"index": 0, "id": "a"}]
    first, second, third = await sent(acts.reply(207, {"results": results}), result_key="index")
    assert (first, third) == (Accepted("a"), Rejected("bad"))
    assert isinstance(second, Unknown)


async def test_send_of_a_batch_whose_results_name_our_id() -> None:
    results = [{"ref": record.id, "id": record.key} for record in reversed(records(3))]
    async with Adversary() as server:
        server.on("/bulk", acts.reply(202, {"results": results}))
        async with connected(server.url, described("ref", match="id", result_key="ref")) as connector:
            outcomes = await connector.send("put", records(3))
    assert outcomes == [Accepted("k0"), Accepted("k1"), Accepted("k2")]


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ([], [Accepted, Accepted, Accepted]),
        ([{"index": 1, "error": "bad"}], [Accepted, Rejected, Accepted]),
        ([{"index": 1, "error": "bad"}, {"index": 1, "error": "worse"}], [Accepted, Unknown, Accepted]),
        ([{"index": 7, "error": "bad"}], [Unknown, Unknown, Unknown]),  # of which record, nobody knows
        ([{"error": "bad"}], [Unknown, Unknown, Unknown]),
        (None, [Unknown, Unknown, Unknown]),
    ],
)
async def test_send_of_a_batch_to_a_system_that_lists_only_failures(
    failures: list[dict[str, Any]] | None, expected: list[type[Outcome]]
) -> None:
    behaviour = acts.reply(200, {"errors": failures})
    outcomes = await sent(behaviour, results="errors", result_key="index", unlisted="accepted")
    assert [type(outcome) for outcome in outcomes] == expected


@pytest.mark.parametrize(
    ("bulk", "said"),
    [
        ({"match": "key"}, "needs `result_key`; write where a result names the business key"),
        ({"match": "id"}, "needs `result_key`; write where a result names the idempotency key"),
        ({"unlisted": "accepted"}, "write where a failure names its record"),
        ({"match": "id", "result_key": "ref"}, "needs `idempotency_field`"),
    ],
)
def test_bulk_whose_results_could_belong_to_nobody_is_refused(bulk: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        described(**bulk)


async def test_send_of_a_batch_that_fails_as_a_whole_gives_each_that_outcome() -> None:
    assert await sent(acts.reply(429, b"", [("retry-after", "4")])) == [Throttled(4, "http 429")] * 3
    assert await sent(acts.reply(401)) == [Unsent(CREDENTIALS, "http 401")] * 3
    assert await sent(acts.reply(500)) == [Unknown("server_error", "http 500")] * 3
    assert await sent(acts.hang(), settings=HASTY) == [Unknown(HUNG, "no answer in time")] * 3
    for unreadable in (acts.reply(200), acts.reply(200, {"results": None}), acts.cut_length(200, b"[")):
        assert {outcome.code for outcome in await sent(unreadable) if isinstance(outcome, Unknown)} == {"unreadable"}


async def test_send_of_a_batch_joins_the_payloads_without_reading_them() -> None:
    rest = described(wrap="members")
    payloads = [b'{ "a": 1.10 }', b'{"b":123456789012345678901234567890}']
    async with Adversary() as server:
        server.on("/bulk", acts.reply(200, {"results": [{}, {}]}))
        async with connected(server.url, rest) as connector:
            await connector.send("put", [Outgoing(str(n), str(n), payload) for n, payload in enumerate(payloads)])
        assert server.received[0].body == b'{"members":[' + b",".join(payloads) + b"]}"


async def test_send_puts_the_idempotency_field_into_every_body() -> None:
    rest = Rest.model_validate(
        {
            "operations": {
                "put": {
                    "path": "/one",
                    "idempotency_field": "ref",
                    "idempotency_header": "X-Id",
                    "bulk": {"path": "/bulk", "size": 9},
                }
            }
        }
    )
    batch = [Outgoing("id-a", "a", b'{"n":1.10} '), Outgoing("id-b", "b", b"{}"), Outgoing("id-c", "c", b'{"ref":7}')]
    async with Adversary() as server:
        server.on("/bulk", acts.reply(200, [{}, {}, {}]))
        server.on("/one", acts.reply(200, {}))
        async with connected(server.url, rest) as connector:
            await connector.send("put", batch)
            await connector.send("put", batch[:1])
            [refused] = await connector.send("put", [Outgoing("id-d", "d", b"[1]")])
        bulk, single = server.received
    assert bulk.body == b'[{"n":1.10,"ref":"id-a"},{"ref":"id-b"},{"ref":"id-c"}]'
    assert single.body == b'{"n":1.10,"ref":"id-a"}'
    assert single.headers["x-id"] == "id-a"
    assert isinstance(refused, Rejected)


async def test_send_of_a_refused_batch_finds_the_culprits_by_halves() -> None:
    async with Adversary() as server:
        for path in ("/bulk", "/one"):
            server.on(path, judge(lambda n: n in (3, 17)))
        async with connected(server.url, described()) as connector:
            outcomes = await connector.send("put", records(20))
            assert connector.batch_size("put") == 50
        calls = len(server.received)
    assert [n for n, outcome in enumerate(outcomes) if outcome == Rejected("bad", "http 422")] == [3, 17]
    assert [o.reference for o in outcomes if isinstance(o, Accepted)] == [str(n) for n in range(20) if n not in (3, 17)]
    assert calls < 20


async def test_send_of_a_refused_batch_when_the_system_fails_midway_leaves_the_rest_unsent() -> None:
    async with Adversary() as server:
        server.on("/bulk", acts.reply(400), acts.reply(500))
        async with connected(server.url, described()) as connector:
            outcomes = await connector.send("put", records(4))
        assert len(server.received) == 2
    assert outcomes[:2] == [Unknown("server_error", "http 500")] * 2
    assert outcomes[2:] == [Unsent("batch_rejected", "its batch was refused")] * 2


async def test_large_batch_whose_results_repeat_its_values_has_none_of_them_in_an_outcome() -> None:
    batch = [
        Outgoing(f"id-{n}", f"key-{n:04}", json.dumps({f"f{m}": f"canary-{n:04}-{m:02}" for m in range(20)}).encode())
        for n in range(400)
    ]
    results = [
        {"error": {"code": f"canary-{n:04}-19", "message": f"canary-{n:04}-19 and canary-{399 - n:04}-00 of {r.key}"}}
        for n, r in enumerate(batch)
    ]
    async with Adversary() as server:
        server.on("/bulk", acts.reply(200, results))
        rest = Rest.model_validate({"operations": {"put": {"path": "/o", "bulk": {"path": "/bulk", "size": 1000}}}})
        async with connected(server.url, rest, response="1MB") as connector:
            outcomes = await connector.send("put", batch)
    assert set(outcomes) == {Rejected("rejected", "*** and *** of ***")}


RULED = Rest.model_validate(
    {
        "operations": {"put": {"path": "/o", "bulk": {"path": "/bulk", "size": 10, "results": "rows"}}},
        "errors": [
            {"contains": "DUPLICATE", "outcome": "rejected"},
            {"contains": "LIMIT", "outcome": "throttled"},
        ],
    }
)


@pytest.mark.parametrize("code", ["DUPLICATE", "LIMIT"])
async def test_rule_that_sees_one_result_of_many_is_not_what_became_of_the_others(code: str) -> None:
    """Taken for the whole call, those that were done would be sent again."""
    rows = [{"ok": True}, {"error": {"code": code}}, {"ok": True}]
    async with Adversary() as server:
        server.on("/bulk", acts.reply(200, {"rows": rows}))
        async with connected(server.url, RULED) as connector:
            outcomes = await connector.send("put", [Outgoing(str(n), str(n), b"{}") for n in range(3)])
        assert len(server.received) == 1
    assert outcomes == [Accepted(), Rejected(code, ""), Accepted()]


@pytest.mark.parametrize("body", [{"message": "LIMIT"}, {"rows": [], "message": "LIMIT"}, b"LIMIT"])
async def test_rule_that_fits_an_answer_without_results_is_the_whole_calls(body: object) -> None:
    async with Adversary() as server:
        server.on("/bulk", acts.reply(200, body))
        async with connected(server.url, RULED) as connector:
            outcomes = await connector.send("put", [Outgoing(str(n), str(n), b"{}") for n in range(3)])
    assert {type(outcome) for outcome in outcomes} == {Throttled}


async def test_record_that_is_not_listed_beside_a_result_that_a_rule_sees_is_unknown() -> None:
    bulk = {"path": "/bulk", "size": 10, "results": "rows", "result_key": "at", "unlisted": "accepted"}
    errors = [{"contains": "LIMIT", "outcome": "throttled"}]
    rest = Rest.model_validate({"operations": {"put": {"path": "/o", "bulk": bulk}}, "errors": errors})
    async with Adversary() as server:
        server.on("/bulk", acts.reply(200, {"rows": [{"at": 1, "error": {"code": "LIMIT"}}]}))
        async with connected(server.url, rest) as connector:
            outcomes = await connector.send("put", [Outgoing(str(n), str(n), b"{}") for n in range(2)])
    assert outcomes == [Unknown("unreadable", "has no result of its own"), Rejected("LIMIT", "")]
