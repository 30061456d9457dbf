"""The certainty about *sent*, where it is hardest to have: no free connection, no handshake, TLS, a second try."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yarl import URL

from tests.contract.test_http_deliver import RECORD, connected
from tideover.config.rest import Limits, Timeouts
from tideover.connectors.http import Access, dial, protocol
from tideover.connectors.http.answer import Answer
from tideover.connectors.http.protocol import LATE, Connection
from tideover.connectors.http.wire import SPARE_CONNECTIONS, Request, Wire
from tideover.errors import AccessError
from tideover.model import HUNG, Accepted, Unknown, Unsent
from tideover.twins.adversary import Adversary, acts, refused_port
from tideover.twins.adversary.server import Talk


@asynccontextmanager
async def wired(connect: str = "5s", read: str = "20s", total: str = "20s") -> AsyncIterator[Wire]:
    timeouts = Timeouts.model_validate({"connect": connect, "read": read, "total": total})
    wire = Wire(timeouts, Limits.model_validate({"concurrency": 1, "response": "1MB"}))
    try:
        yield wire
    finally:
        await wire.close()


def request(url: str, method: str = "POST") -> Request:
    return Request(method, URL(url), {}, b"{}")


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
        assert isinstance(await wire.exchange(request(server.url), soon(2.0)), Unknown)


async def test_exchange_when_nothing_comes_for_the_read_timeout_ends_before_its_deadline() -> None:
    async with Adversary() as server, wired(read="100ms") as wire:
        server.on("/", acts.hang(), acts.stall(200, b'{"id"'))
        assert await wire.exchange(request(server.url), soon(600)) == Unknown(HUNG, "no answer in time")
        came = await wire.exchange(request(server.url), soon(600))
        assert isinstance(came, Answer)
        assert (came.body, came.trouble) == (b'{"id"', "timeout")


async def test_exchange_whose_body_is_still_being_written_is_not_ended_by_the_read_timeout() -> None:
    async with Adversary() as server, wired(read="100ms") as wire:
        server.on("/", acts.deaf())
        until = soon(1.0)
        large = Request("POST", URL(server.url), {}, b" " * 50_000_000)
        assert await wire.exchange(large, until) == Unknown(HUNG, "no answer in time")
        assert asyncio.get_running_loop().time() >= until - 0.01


async def test_exchange_with_a_near_deadline_ends_by_it_on_a_connection_that_had_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "KEEPALIVE_S", 600.0)
    async with Adversary() as server, wired(read="600s", total="600s") as wire:
        server.on("/", acts.reply(200), acts.hang())
        assert isinstance(await wire.exchange(request(server.url)), Answer)
        async with asyncio.timeout(60):
            assert await wire.exchange(request(server.url), soon(1.0)) == Unknown(HUNG, "no answer in time")


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_exchange_that_is_given_up_leaves_nothing_for_the_kernel_to_deliver_later(is_cancelled: bool) -> None:
    """A reset instead of an orderly end is what shows of it here: nothing is sent again after it."""
    ends: list[str] = []

    async def act(talk: Talk) -> None:
        await talk.read_body()
        try:
            ends.append(repr(await talk.reader.read()))
        except ConnectionResetError:
            ends.append("reset")

    async with Adversary() as server, wired() as wire:
        server.on("/", act)
        task = asyncio.create_task(wire.exchange(request(server.url), soon(20.0 if is_cancelled else 0.1)))
        await server.until(1)
        if is_cancelled:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(30):
            while not ends:
                await asyncio.sleep(0.005)
    assert ends == ["reset"]


async def test_exchange_when_the_port_closes_after_a_reset_is_unknown_and_not_refused() -> None:
    """Many a client tries a PUT again; a refused second connection would say nothing about the first request."""
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


async def test_exchange_with_a_certificate_of_another_name_is_unsent_tls(tmp_path: Path) -> None:
    context, pem = self_signed(tmp_path)
    async with Adversary(context) as server, wired() as wire:
        wire.trust(pem)
        came = await wire.exchange(request(f"https://127.0.0.1:{server.port}/"))
        assert came == Unsent("tls", "SSLCertVerificationError CERTIFICATE_VERIFY_FAILED")
        assert server.received == []


async def test_a_ca_that_is_no_certificate_is_refused_at_once() -> None:
    with pytest.raises(AccessError, match="PEM"):
        async with connected("https://localhost", access=Access("https://localhost", ca="nonsense")):
            pass


class Clock:
    """The monotonic clock, which leaps an hour ahead when the process wakes after it was frozen."""

    def __init__(self) -> None:
        self.is_ahead = False

    def __call__(self) -> float:
        return time.monotonic() + 3600 * self.is_ahead


async def test_exchange_when_the_process_froze_just_before_the_write_writes_nothing_and_says_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, watch = Clock(), Connection._watch

    def watched_and_then_frozen(self: Connection, due: float) -> None:
        watch(self, due)
        clock.is_ahead = True

    monkeypatch.setattr(protocol, "monotonic", clock)
    async with Adversary() as server, wired() as wire:
        server.on("/", acts.reply(200, b"{}"))
        assert isinstance(await wire.exchange(request(server.url)), Answer)
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "_watch", watched_and_then_frozen)
            assert await wire.exchange(request(server.url)) == LATE
        clock.is_ahead = False
        assert len(server.received) == 1
        assert isinstance(await wire.exchange(request(server.url)), Answer)
        assert server.connections == 1, "nothing was written on it: it may be used again"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-key": "a\r\nx-evil: 1"},
        {"x-key": "a\nb"},
        {"x-key": "a\rb"},
        {"x-key": "a\0b"},
        {"x-key\r\nx-evil": "1"},
        {"x-key": "\ud800"},
        {"content-length": "5"},
        {"transfer-encoding": "chunked"},
        {"expect": "100-continue"},
    ],
)
async def test_exchange_with_a_header_that_would_make_it_another_message_is_never_sent(headers: dict[str, str]) -> None:
    async with Adversary() as server, wired() as wire:
        came = await wire.exchange(Request("POST", URL(server.url), headers, b"{}"))
        assert isinstance(came, Unsent)
        assert came.code == "invalid_request"
        assert server.connections == 0


@pytest.mark.parametrize("url", ["ftp://localhost/", "/orders", "localhost:80/"])
async def test_exchange_with_an_address_that_is_no_http_is_never_sent(url: str) -> None:
    async with wired() as wire:
        came = await wire.exchange(request(url))
    assert isinstance(came, Unsent)
    assert came.code == "invalid_request"


@pytest.mark.parametrize(
    ("method", "content", "length"),
    [("POST", b"{}", "2"), ("POST", None, "0"), ("DELETE", None, "0"), ("GET", None, None), ("HEAD", None, None)],
)
async def test_exchange_writes_one_whole_message_with_its_length(
    method: str, content: bytes | None, length: str | None
) -> None:
    async with Adversary() as server, wired() as wire:
        server.on("*", acts.reply(204))
        url = URL(f"{server.url}/a%2Fb%20c?q=%26x#fragment", encoded=True)
        assert isinstance(await wire.exchange(Request(method, url, {"x-a": "ä"}, content)), Answer)
        [received] = server.received
        assert received.headers["host"] == f"localhost:{server.port}"
    assert (received.method, received.target) == (method, "/a%2Fb%20c?q=%26x")
    assert received.headers.get("content-length") == length
    assert received.headers["x-a"].encode("latin-1").decode() == "ä"
    assert set(received.names) <= {"host", "x-a", "content-length"}


async def test_exchange_with_a_host_header_of_its_own_sends_that_and_no_other() -> None:
    async with Adversary() as server, wired() as wire:
        server.on("/", acts.reply(204))
        assert isinstance(await wire.exchange(Request("GET", URL(server.url), {"host": "erp.example"})), Answer)
        [received] = server.received
    assert (received.headers["host"], received.names) == ("erp.example", ["host"])


async def test_exchange_with_an_ip_address_asks_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Adversary() as server, wired() as wire:
        server.on("/", acts.reply(204))
        monkeypatch.delattr(dial.Dialer, "_look_up")
        assert isinstance(await wire.exchange(request(f"http://127.0.0.1:{server.port}/")), Answer)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
async def test_exchange_over_ipv6_names_the_host_in_brackets() -> None:
    async with Adversary(host="::1") as server, wired() as wire:
        server.on("/", acts.reply(204))
        assert isinstance(await wire.exchange(request(server.url)), Answer)
        [received] = server.received
        assert received.headers["host"] == f"[::1]:{server.port}"


async def test_exchange_when_one_address_of_a_name_refuses_tries_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = socket.getaddrinfo

    def two_addresses(host: str, port: int, **more: Any) -> list[Any]:
        found = asked("127.0.0.1", port, type=socket.SOCK_STREAM)
        return [*asked("127.0.0.2", refused, type=socket.SOCK_STREAM), *found] if host == "localhost" else [][0]

    async with Adversary() as server, wired() as wire:
        with refused_port() as refused:
            server.on("/", acts.reply(200))
            monkeypatch.setattr(dial, "_as_literal", lambda origin: None)
            monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
            assert isinstance(await wire.exchange(request(server.url)), Answer)


async def test_exchange_when_the_look_up_hangs_asks_once_for_all_and_ends_by_the_connect_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, go = 0, threading.Event()

    def hanging(*_: Any, **__: Any) -> list[Any]:
        nonlocal asked
        asked += 1
        go.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(dial, "_as_literal", lambda origin: None)
    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    try:
        async with wired(connect="300ms") as wire:
            calls = [wire.exchange(request("http://provider.example/")) for _ in range(1 + SPARE_CONNECTIONS)]
            assert await asyncio.gather(*calls) == [Unsent("connect_timeout", "no connection in time")] * len(calls)
        assert asked == 1
    finally:
        go.set()


async def test_exchange_when_a_name_is_not_known_is_unsent_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    async with wired() as wire:
        assert await wire.exchange(request("http://provider.example/")) == Unsent("dns", "gaierror")


async def test_exchange_over_tls_reads_a_body_that_ends_with_the_connection(tmp_path: Path) -> None:
    context, pem = self_signed(tmp_path)
    async with Adversary(context) as server, wired() as wire:
        wire.trust(pem)
        server.on("/", acts.reply(200, b"first"), acts.raw(acts.head(200) + b"until the end", then_end=True))
        first, second = [await wire.exchange(request(server.url)) for _ in range(2)]
        assert isinstance(first, Answer)
        assert isinstance(second, Answer)
        assert (first.body, second.body, second.trouble) == (b"first", b"until the end", None)
        assert server.connections == 1
