"""The certainty about *sent*, where it is hardest to have: no free connection, no handshake, TLS, a second try."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from multidict import CIMultiDict
from yarl import URL

from tests.adversary import Adversary, acts
from tests.adversary.server import Talk
from tests.contract.test_http_deliver import RECORD, connected
from tideover.config.rest import Limits, Timeouts
from tideover.connectors.http import Access
from tideover.connectors.http.answer import Answer
from tideover.connectors.http.wire import SPARE_CONNECTIONS, Phase, Request, Wire
from tideover.model import Accepted, Unknown, Unsent


@asynccontextmanager
async def wired(connect: str = "5s") -> AsyncIterator[Wire]:
    timeouts = Timeouts.model_validate({"connect": connect, "read": "20s", "total": "20s"})
    wire = Wire(timeouts, Limits.model_validate({"concurrency": 1, "response": "1MB"}))
    try:
        yield wire
    finally:
        await wire.close()


def request(url: str, method: str = "POST") -> Request:
    return Request(method, URL(url), CIMultiDict(), b"{}")


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_exchange_when_the_deadline_ends_the_wait_for_a_connection_is_unsent_pool() -> None:
    async with Adversary() as server, wired() as wire:
        server.on("/", acts.hang())
        count = 1 + SPARE_CONNECTIONS
        busy = [asyncio.create_task(wire.exchange(request(server.url))) for _ in range(count)]
        await server.until(count)
        assert await wire.exchange(request(server.url), soon(0.1)) == Unsent("pool", "no free connection in time")
        assert len(server.received) == count
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


@pytest.mark.parametrize(("connect", "deadline"), [("100ms", 10.0), ("5s", 0.1)])
async def test_exchange_when_nobody_takes_the_connection_is_unsent_connect_timeout(
    connect: str, deadline: float
) -> None:
    """A listener whose queue is full lets further connections wait for ever."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        async with wired(connect) as wire:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            assert await wire.exchange(request(url), loop.time() + deadline) == Unsent(
                "connect_timeout", "no connection in time"
            )


async def test_exchange_when_the_deadline_ends_after_sending_is_unknown() -> None:
    async with Adversary() as server, wired() as wire:
        server.on("/", acts.hang())
        assert isinstance(await wire.exchange(request(server.url), soon(0.2)), Unknown)


async def test_exchange_when_the_port_closes_after_a_reset_is_unknown_and_not_refused() -> None:
    """aiohttp tries a PUT again by itself; the refused second connection says nothing about the first request."""
    async with Adversary() as server, wired() as wire:
        server.on("/", acts.reply(200, {}))
        assert isinstance(await wire.exchange(request(server.url, "PUT")), Answer)

        async def last(talk: Talk) -> None:
            await talk.read_body()
            server.stop_listening()
            talk.reset()

        server.on("/", last)
        assert isinstance(await wire.exchange(request(server.url, "PUT")), Unknown)
        assert len(server.received) == 2


async def test_exchange_that_is_cancelled_gives_its_connection_back() -> None:
    async with Adversary() as server, wired() as wire:
        server.on("/", acts.hang())
        for _ in range(2 * (1 + SPARE_CONNECTIONS)):
            before = len(server.received)
            task = asyncio.create_task(wire.exchange(request(server.url)))
            await server.until(before + 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        server.on("/", acts.reply(200, {}))
        assert isinstance(await wire.exchange(request(server.url)), Answer)


def self_signed(folder: Path) -> tuple[ssl.SSLContext, str]:
    """A server's TLS context for localhost, and its certificate as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both = folder / "server.pem"
    both.write_bytes(private + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context, pem.decode()


async def test_send_to_an_untrusted_certificate_is_unsent_tls_until_it_is_trusted(tmp_path: Path) -> None:
    context, pem = self_signed(tmp_path)
    async with Adversary(context) as server:
        server.on("/orders", acts.reply(201, {"id": 1}))
        async with connected(server.url) as connector:
            [outcome] = await connector.send("put", [RECORD])
        assert isinstance(outcome, Unsent)
        assert outcome.code == "tls"
        assert server.received == []
        async with connected(server.url, access=Access(server.url, ca=pem)) as connector:
            assert await connector.send("put", [RECORD]) == [Accepted("1")]


async def test_a_ca_that_is_no_certificate_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="PEM"):
        async with connected("https://localhost", access=Access("https://localhost", ca="nonsense")):
            pass


async def test_exchange_when_the_process_froze_between_announcing_and_writing_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter = Phase.enter

    def announced_and_then_frozen(self: Phase, at: Literal["connect", "sent"]) -> None:
        enter(self, at)
        if at == "sent":
            self.until = 0.0  # the deadline is over by the time that the loop comes to the writing

    async with Adversary() as server, wired() as wire:
        server.on("/", acts.reply(200, b"{}"))
        assert isinstance(await wire.exchange(request(server.url)), Answer)
        monkeypatch.setattr(Phase, "enter", announced_and_then_frozen)
        assert isinstance(await wire.exchange(request(server.url)), Unknown)
        assert len(server.received) == 1
