"""Any answer of a provider: status, headers, body, how it is framed, where it is cut, when it comes."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.databases import sql
from tests.fuzz.budget import budget, emptied
from tests.hubs import hub_config, running
from tideover.config.rest import Limits, Operation, Rest, Timeouts
from tideover.connectors.http import Access, Bearer, HttpConnector
from tideover.connectors.http.answer import Answer, Headers
from tideover.connectors.http.classify import classify, meaning_of
from tideover.hub.delivery import Delivery
from tideover.model import Accepted, NewRecord, Outcome, Outgoing, Unknown
from tideover.staging.parking import Selection
from tideover.staging.stage import Batch
from tideover.twins.adversary import Adversary, acts
from tideover.twins.adversary.server import Talk

RECORD = Outgoing("a" * 32, "order-1", b'{"total":7}')
LATE_S = 1.0
PATIENT = Timeouts.model_validate({"connect": "20s", "read": "20s", "total": "20s"})
HASTY = Timeouts.model_validate({"connect": "500ms", "read": "500ms", "total": "500ms"})

STATUSES = st.sampled_from(
    [200, 201, 202, 207, 303, 307, 400, 401, 403, 404, 408, 409, 410, 422, 425, 429, 500, 502, 503]
)
HEADERS = st.lists(
    st.sampled_from(
        [
            ("Retry-After", "5"),
            ("Retry-After", "never"),
            ("Retry-After", "-1"),
            ("RateLimit", '"d";r=0;t=30'),
            ("Content-Type", "application/json; charset=utf-16"),
            ("X", "y" * 500),
            ("X-RateLimit-Remaining", "9" * 5000),
            ("X-RateLimit-Remaining", "0"),
            ("RateLimit", '"' + '\\"' * 2000),
            ("Date", "Mon, 1 Jan 99999999999 1:1:1 GMT"),
        ]
    ),
    max_size=3,
    unique_by=lambda header: header[0],
)
BODIES = st.sampled_from(
    [
        b"",
        b'{"id": 7}',
        b'{"id": null}',
        b'{"id": "x\\u0000y"}',
        b"[]",
        b"[" * 2000,
        b"<html>",
        b"\xff\xfe",
        b'"\\ud800"',
        b"1e999",
    ]
)


@dataclass(frozen=True)
class Given:
    """What the server does. `cut`: after how many of the answer's bytes it ends the connection; None: it does not."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    framing: str
    cut: int | None
    is_late: bool
    is_reset: bool

    @property
    def head(self) -> bytes:
        framing = {"length": [("content-length", str(len(self.body)))], "chunks": [("transfer-encoding", "chunked")]}
        return acts.head(self.status, [*framing.get(self.framing, [("connection", "close")]), *self.headers])

    @property
    def answer(self) -> bytes:
        if self.framing != "chunks":
            return self.head + self.body
        pieces = [self.body[at : at + 3] for at in range(0, len(self.body), 3)]
        return self.head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    @property
    def sent(self) -> bytes:
        return self.answer if self.cut is None else self.answer[: self.cut]

    @property
    def breaks_off(self) -> bool:
        """Whether it ends before it is over. One that ends a connection after a whole answer, without a word, may
        take the next request with it: the pool's own tests see to that."""
        return self.cut is not None and self.cut < len(self.answer)

    @property
    def said_body(self) -> bytes:
        """What the caller reads as the body. One framed by the connection's end can't be seen to be cut."""
        return self.sent[len(self.head) :] if self.framing == "end" else self.body

    @property
    def is_whole(self) -> bool:
        return not self.is_late and len(self.sent) == len(self.answer) and not self.is_reset

    @property
    def has_head(self) -> bool:
        return not self.is_late and len(self.sent) >= len(self.head)

    async def say(self, talk: Talk) -> None:
        """Answer a request that is read."""
        if self.is_late:
            await asyncio.sleep(LATE_S)
        await talk.write(self.sent)
        if self.is_reset:
            talk.reset()
        elif self.cut is not None or self.framing == "end":
            talk.end()

    async def read_and_say(self, talk: Talk) -> None:
        await talk.read_body()
        await self.say(talk)


GIVEN = st.builds(
    Given,
    status=STATUSES,
    headers=HEADERS,
    body=BODIES,
    framing=st.sampled_from(["length", "length", "chunks", "end"]),
    cut=st.none() | st.integers(0, 200),
    is_late=st.just(False),
    is_reset=st.sampled_from([False] * 5 + [True]),
).filter(lambda answer: answer.breaks_off or not (answer.is_reset or answer.cut))


@budget(200)
@given(st.lists(GIVEN, min_size=1, max_size=3))
def test_outcome_is_what_a_whole_answer_says_and_unknown_without_one(answers: list[Given]) -> None:
    """Also of a call that gets a connection which an answer before it may have left in any state."""
    for answer, outcome in zip(answers, asyncio.run(_sent(answers, PATIENT)), strict=True):
        whole = Answer(answer.status, Headers(answer.headers), answer.said_body)
        said = classify(whole, meaning_of(Operation(path="/"), Rest()))
        if answer.is_whole:
            assert outcome == said, answer
        elif not answer.has_head:
            assert isinstance(outcome, Unknown), answer
        else:  # the status is there, its body is not: it proves no more than the whole answer would
            assert isinstance(outcome, Unknown | type(said)), answer
            assert not isinstance(outcome, Accepted) or answer.framing == "end", answer


@budget(8)
@given(GIVEN)
def test_answer_that_comes_too_late_says_nothing_whatever_it_says(answer: Given) -> None:
    [outcome] = asyncio.run(_sent([replace(answer, is_late=True)], HASTY))
    assert isinstance(outcome, Unknown), outcome


async def _sent(answers: list[Given], timeouts: Timeouts) -> list[Outcome]:
    rest = Rest.model_validate({"operations": {"put": {"path": "/orders"}}})
    async with Adversary() as server:
        server.on("/orders", *(answer.read_and_say for answer in answers))
        connector = _connector(server, rest, timeouts)
        try:
            found = [outcome for _ in answers for outcome in await connector.send("put", [RECORD])]
        finally:
            await connector.close()
        if timeouts is PATIENT:
            assert len(server.received) == len(answers), "one send is one request"
        return found if server.received else [Unknown("")]  # a machine too slow to get as far as the question


def _connector(server: Adversary, rest: Rest, timeouts: Timeouts) -> HttpConnector:
    access = Access(server.url, Bearer(SecretStr("s3cret")))
    return HttpConnector("erp", rest, access, timeouts, Limits.model_validate({"response": "10kB"}))


# --- through the whole hub ------------------------------------------------------------------------------------


@dataclass
class Provider:
    """Honours keys; before an answer that is drawn it has done what it was asked, or has not."""

    answers: list[tuple[Given, bool]]
    effects: Counter[str] = field(default_factory=Counter)
    known: set[str] = field(default_factory=set)

    async def serve(self, talk: Talk) -> None:
        await talk.read_body()
        answer, has_done = self.answers.pop(0) if self.answers else (WELL, True)
        if has_done:
            self._do(talk.request.headers["idempotency-key"], json.loads(talk.request.body)["id"])
        await answer.say(talk)

    def _do(self, idempotency_key: str, key: str) -> None:
        if idempotency_key not in self.known:
            self.known.add(idempotency_key)
            self.effects[key] += 1


QUICK = st.builds(
    Given,
    status=STATUSES.filter(lambda status: status != 429),  # a pause of a second each
    headers=st.just([]),
    body=BODIES,
    framing=st.sampled_from(["length", "chunks", "end"]),
    cut=st.none() | st.integers(0, 100),
    is_late=st.just(False),  # what hangs is seen to in the simulator
    is_reset=st.sampled_from([False] * 5 + [True]),
)
WELL = Given(201, [], b'{"id": "P-1"}', "length", None, is_late=False, is_reset=False)
ODD = replace(WELL, body=b'{"id": "x\\u0000y"}')  # a reference that PostgreSQL has no place for
HONEST = st.tuples(QUICK, st.booleans()).filter(lambda it: it[1] or not 200 <= it[0].status <= 299)
SAYS_NO = (400, 404, 409, 410, 422)
_rounds = itertools.count()


@budget(10)
@example(answers=[(ODD, True)])
@given(answers=st.lists(HONEST, min_size=3, max_size=12))
def test_record_is_done_once_or_parked_for_what_was_said_whatever_a_provider_answers_meanwhile(
    database_url: str, answers: list[tuple[Given, bool]]
) -> None:
    provider = Provider(list(answers))
    batch = next(_rounds)
    keys = [f"{batch}-{n}" for n in range(6)]
    parked = asyncio.run(_delivered(database_url, provider, keys))
    assert set(provider.effects.values()) <= {1}, "done twice"
    assert set(provider.effects) | parked == set(keys), "lost"
    if not any(given.status in SAYS_NO for given, _ in answers):
        assert parked == set(), "parked without a word of the provider"


async def _delivered(url: str, provider: Provider, keys: list[str]) -> set[str]:
    """Stage a record of each key and deliver until none waits; the keys that are parked then."""
    config = hub_config(routes={"orders": {"retry": {"base": "10ms", "cap": "50ms", "max_attempts": 1000}}})
    async with Adversary() as server:
        server.on("*", provider.serve)
        described = config.systems["erp"].rest.model_dump()
        described["operations"]["take"]["reference"] = "id"
        erp = _connector(server, Rest.model_validate(described), PATIENT)
        async with running(config, url, {"erp": erp}) as rt:
            await emptied(url)
            records = [NewRecord(key, json.dumps({"id": key}).encode()) for key in keys]
            await rt.store.stage(Batch("orders", "crm", records))
            async with asyncio.timeout(120):
                while (await rt.store.audit(["orders"]))[0].waiting:
                    await Delivery(rt, "erp").run()
                    await asyncio.sleep(0.02)
            [audit] = await rt.store.audit(["orders"])
            assert not audit.faults
            assert not audit.difference
            lapsed = await sql(url, "select count(*) from attempt where kind = 'expired'")
            assert lapsed == [(0,)], "no worker died, so each settlement could be written"
            return {row.key for row in await rt.store.parked(Selection())} & set(keys)
