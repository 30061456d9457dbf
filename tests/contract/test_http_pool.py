"""Connections: how many there are, who gets the next one, and which of them is never used again."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable

import pytest
from yarl import URL

from tests.contract.test_http_wire import request, soon, wired
from tideover.connectors.http import protocol
from tideover.connectors.http.answer import Answer
from tideover.connectors.http.dial import Dialer
from tideover.connectors.http.message import Request, origin_of
from tideover.connectors.http.pool import Pool
from tideover.connectors.http.protocol import Connection
from tideover.connectors.http.wire import SPARE_CONNECTIONS, Wire
from tideover.model import Unknown, Unsent
from tideover.twins.adversary import Adversary, Behaviour, acts
from tideover.twins.adversary.server import Talk

MOST = 1 + SPARE_CONNECTIONS


def gated(gate: asyncio.Event) -> Behaviour:
    """Answers when the gate opens."""

    async def act(talk: Talk) -> None:
        await talk.read_body()
        await gate.wait()
        await talk.write(acts.head(200, [("content-length", "0")]))

    return act


def then(first: Behaviour, later: bytes) -> Behaviour:
    """Does this, and then says more, unasked."""

    async def act(talk: Talk) -> None:
        await first(talk)
        await talk.write(later)

    return act


def numbered(server: Adversary, number: int) -> Request:
    return Request("POST", URL(f"{server.url}/{number}"), {}, b"{}")


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.005)


async def answered(call: Awaitable[Answer | Unsent | Unknown]) -> Answer:
    came = await call
    assert isinstance(came, Answer), came
    return came


async def busy(server: Adversary, wire: Wire) -> list[asyncio.Task[Answer]]:
    """As many exchanges under way as there are connections."""
    before = len(server.received)
    tasks = [asyncio.create_task(answered(wire.exchange(request(server.url)))) for _ in range(MOST)]
    await server.until(before + MOST)
    return tasks


async def test_exchanges_one_after_the_other_use_the_connection_that_was_used_last() -> None:
    gate = asyncio.Event()
    async with Adversary() as server, wired() as wire:
        server.on("/", gated(gate))
        tasks = await busy(server, wire)
        gate.set()
        await asyncio.gather(*tasks)
        for _ in range(5):
            await answered(wire.exchange(request(server.url)))
        assert len({one.connection for one in server.received[MOST:]}) == 1
        assert server.connections == MOST


async def test_exchanges_that_wait_get_their_connections_in_order() -> None:
    gate = asyncio.Event()
    async with Adversary() as server, wired() as wire:
        server.on("/", gated(gate))
        server.on("*", acts.reply(200))
        tasks = await busy(server, wire)
        for number in range(20):
            tasks.append(asyncio.create_task(answered(wire.exchange(numbered(server, number)))))
            await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks)
        firsts = [one.path for one in server.received[MOST : 2 * MOST]]
        assert set(firsts) == {f"/{number}" for number in range(MOST)}
        assert server.connections == MOST


async def test_exchanges_that_are_cancelled_or_late_while_they_wait_lose_no_connection() -> None:
    gate = asyncio.Event()
    async with Adversary() as server, wired() as wire:
        server.on("/", gated(gate))
        tasks = await busy(server, wire)
        cancelled = [asyncio.create_task(wire.exchange(request(server.url))) for _ in range(3)]
        late = [asyncio.create_task(wire.exchange(request(server.url), soon(0.05))) for _ in range(3)]
        assert [await one for one in late] == [Unsent("pool", "no free connection in time")] * 3
        for one in cancelled:
            one.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        gate.set()
        await asyncio.gather(*tasks)
        assert len(server.received) == MOST
        await asyncio.gather(*await busy(server, wire))
        assert server.connections == MOST


@pytest.mark.parametrize("is_dead", [False, True])
async def test_get_when_cancelled_in_the_turn_that_hands_it_a_connection_gives_it_on(is_dead: bool) -> None:
    async with Adversary() as server:
        origin = origin_of(URL(server.url))
        pool = Pool(Dialer(30.0, 30.0), most=1, read_s=30.0, cap=1000)
        first = await pool.get(origin, soon(30))
        assert isinstance(first, Connection)
        waiting = asyncio.create_task(pool.get(origin, soon(30)))
        await asyncio.sleep(0)
        first.is_promised = False  # as when its exchange is over
        pool.take_back(first)
        if is_dead:
            first.close()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        again = pool.take(origin) or await pool.get(origin, soon(30))
        assert (again is first) != is_dead
        assert isinstance(again, Connection)
        await pool.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such option")
async def test_connection_is_not_served_by_the_kernel_for_longer_than_a_call_may_take() -> None:
    """What a killed process wrote, and nobody acknowledged, would otherwise arrive minutes later."""
    async with Adversary() as server:
        pool = Pool(Dialer(30.0, 7.5), most=1, read_s=30.0, cap=1000)
        connection = await pool.get(origin_of(URL(server.url)), soon(30))
        assert isinstance(connection, Connection)
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500
        await pool.close()


async def test_exchange_when_all_connections_lead_elsewhere_gives_one_of_them_up() -> None:
    gate = asyncio.Event()
    async with Adversary() as server, Adversary() as other, wired() as wire:
        server.on("/", gated(gate))
        other.on("/", acts.reply(200))
        tasks = await busy(server, wire)
        waiting = asyncio.create_task(answered(wire.exchange(request(other.url))))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(waiting, *tasks)
        await asyncio.gather(*await busy(server, wire))
        await answered(wire.exchange(request(other.url)))
        assert len(other.received) == 2
        other.on("/", acts.hang())
        hung = [asyncio.create_task(wire.exchange(request(other.url))) for _ in range(MOST)]
        await other.until(2 + MOST)
        late = await wire.exchange(request(server.url), soon(0.05))
        assert late == Unsent("pool", "no free connection in time"), "its connections were closed for the others"
        for task in hung:
            task.cancel()
        await asyncio.gather(*hung, return_exceptions=True)


async def test_exchange_when_connections_are_reset_under_it_leaves_room_for_the_next() -> None:
    async with Adversary() as server, wired() as wire:
        server.on("/", acts.reset())
        for _ in range(3):
            came = await asyncio.gather(*(wire.exchange(request(server.url)) for _ in range(2 * MOST)))
            assert {type(one) for one in came} == {Unknown}
        assert len(server.received) == 6 * MOST


async def test_connection_that_the_other_side_closed_while_idle_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "KEEPALIVE_S", 600.0)
    async with Adversary() as server, wired() as wire:
        server.on("/", acts.idle_close(acts.reply(200)))
        for _ in range(3):
            await answered(wire.exchange(request(server.url)))
            await until(lambda: not wire._pool._idle)
        assert server.connections == 3


@pytest.mark.parametrize("said", [b"\r\n", acts.head(408, [("content-length", "0")])])
async def test_connection_on_which_something_comes_unasked_is_not_used_again(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late `408 Request Timeout` must not be read as the answer to the next request."""
    monkeypatch.setattr(protocol, "KEEPALIVE_S", 600.0)
    heard = asyncio.Event()

    async def act(talk: Talk) -> None:
        await acts.reply(200)(talk)
        await heard.wait()
        await talk.write(said)

    async with Adversary() as server, wired() as wire:
        server.on("/", act, acts.reply(201))
        assert (await answered(wire.exchange(request(server.url)))).status == 200
        heard.set()
        await until(lambda: not wire._pool._idle)
        assert (await answered(wire.exchange(request(server.url)))).status == 201
        assert server.connections == 2


async def test_connection_that_was_idle_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "KEEPALIVE_S", 0.05)
    async with Adversary() as server, wired() as wire:
        server.on("/", acts.reply(200))
        await answered(wire.exchange(request(server.url)))
        await until(lambda: not wire._pool._idle)
        await answered(wire.exchange(request(server.url)))
        assert server.connections == 2


async def test_connection_on_which_the_request_is_still_being_written_is_not_used_again() -> None:
    async def early(talk: Talk) -> None:
        await talk.write(acts.head(413, [("content-length", "0")]))
        await talk.closing.wait()

    async with Adversary() as server, wired() as wire:
        server.on("/", early, acts.reply(200))
        large = Request("POST", URL(server.url), {}, b" " * 50_000_000)
        assert (await answered(wire.exchange(large))).status == 413
        assert (await answered(wire.exchange(request(server.url)))).status == 200
        assert server.connections == 2


async def test_close_ends_what_is_under_way_and_what_waits() -> None:
    async with Adversary() as server, wired() as wire:
        server.on("/", acts.hang())
        tasks = [asyncio.create_task(wire.exchange(request(server.url))) for _ in range(MOST + 1)]
        await server.until(MOST)
        began = time.monotonic()
        await wire.close()
        *under_way, waited = await asyncio.gather(*tasks)
        assert under_way == [Unknown("reset", "closed here")] * MOST
        assert waited == Unsent("pool", "closed here")
        assert time.monotonic() - began < 15, "nobody waited for a timeout"


@pytest.mark.parametrize("seed", range(2))
async def test_exchanges_that_end_in_every_way_at_once_lose_no_place(seed: int) -> None:
    chance = random.Random(seed)
    good = acts.reply(200, b"x")
    ways = [
        *[good] * 3,
        *(acts.reset(), acts.end(), acts.hang(), acts.idle_close(good), acts.stall(200, b"x")),
        *(then(good, b"more"), acts.raw(acts.head(200) + b"x", then_end=True)),
    ]

    async def call(server: Adversary, wire: Wire) -> None:
        await asyncio.sleep(chance.random() / 2)
        task = asyncio.create_task(wire.exchange(request(server.url), soon(chance.choice([0.001, 0.1, 5]))))
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() / 20)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async with Adversary() as one, Adversary() as other, wired(read="200ms") as wire:
        for server in (one, other):
            server.on("/", *chance.choices(ways, k=200), good)
        await asyncio.gather(*(call(chance.choice([one, other]), wire) for _ in range(80)))
        gate = asyncio.Event()
        one.on("/", gated(gate))
        tasks = await busy(one, wire)
        late = await wire.exchange(request(one.url), soon(0.05))
        assert late == Unsent("pool", "no free connection in time"), "there are no more connections than there may be"
        gate.set()
        await asyncio.gather(*tasks)
