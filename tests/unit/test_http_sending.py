"""A refused batch when time is short: nothing is lost, and every next send comes closer to the culprit."""

from __future__ import annotations

import asyncio
import json

from tideover.config.rest import Operation
from tideover.connectors.http.answer import Answer, Headers
from tideover.connectors.http.classify import Meaning
from tideover.connectors.http.requests import Call
from tideover.connectors.http.scrub import nothing
from tideover.connectors.http.sending import Sender
from tideover.model import BATCH_REJECTED, Accepted, Outgoing, Rejected, Unsent

TOTAL_S = 100.0


async def refuses_the_first(call: Call, _deadline: float, _meaning: Meaning) -> Answer:
    body = json.loads(call.content or b"")
    numbers = [item["n"] for item in (body if isinstance(body, list) else [body])]
    content = b'{"code":"bad"}' if 0 in numbers else json.dumps([{}] * len(numbers)).encode()
    return Answer(422 if 0 in numbers else 200, Headers(), content)


def sender() -> Sender:
    operation = Operation.model_validate({"path": "/one", "bulk": {"path": "/bulk", "size": 8}})
    return Sender(operation, Meaning(code="code"), TOTAL_S, refuses_the_first, lambda _: nothing)


def records(count: int) -> list[Outgoing]:
    return [Outgoing(str(n), str(n), b'{"n":%d}' % n) for n in range(count)]


async def test_send_when_half_of_the_time_is_gone_leaves_the_batch_unsent_and_shrinks_the_next() -> None:
    late = asyncio.get_running_loop().time() + TOTAL_S / 4
    tried = sender()
    for expected in (4, 2, 1):
        outcomes = await tried.send(records(tried.size), late)
        assert {outcome.code for outcome in outcomes if isinstance(outcome, Unsent)} == {BATCH_REJECTED}
        assert tried.size == expected
    assert await tried.send(records(1), late) == [Rejected("bad", "http 422")]
    assert await tried.send(records(9)[1:2], late) == [Accepted()]
    assert tried.size == 2


async def test_send_with_time_enough_settles_the_whole_batch() -> None:
    outcomes = await sender().send(records(8), asyncio.get_running_loop().time() + TOTAL_S)
    assert outcomes == [Rejected("bad", "http 422"), *[Accepted()] * 7]
