"""One system's private way to the network: an exchange is an answer, or why there is none.

aiohttp itself, not httpx's API over it: measured side by side, httpx's requests and headers cost more than the whole of
aiohttp's call (ADR on dependencies), and httpx-aiohttp turns a reset after sending into a connect timeout. What
matters here is certainty about *sent*:

* The phase of each call is told by aiohttp's tracing. From the moment the request's headers are about to be written,
  the request counts as sent; before it, it certainly is not.
* aiohttp repeats PUT and GET once after a disconnect. Here that is refused: one call is one try, and a refused second
  connection would hide that the first request had been sent.
* An idle connection that the other side closes makes the next request fail as reset, hence unknown. Connections idle
  for `KEEPALIVE_S` are given up, so that this stays rare.
"""

from __future__ import annotations

import asyncio
import errno
import math
import ssl
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.payload import BytesPayload
from multidict import CIMultiDict
from yarl import URL

from tideover.config.rest import Limits, Timeouts
from tideover.connectors.http.answer import Answer, Garbled, Inflater, Oversize, Trouble
from tideover.model import HUNG, Unknown, Unsent

KEEPALIVE_S = 15.0
SPARE_CONNECTIONS = 4  # beside `limits.concurrency`: tokens, probes and look-ups are not held up by deliveries

# What aiohttp and the socket raise for what the other side does, or for a request that can't be written.
FOREIGN = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be written: its address is encoded already."""

    method: str
    url: URL
    headers: CIMultiDict[str]
    content: bytes | None = None


class Phase:
    """How far one call has come. `sent` is never taken back: a second try raises. Nor is it reached past the call's
    deadline, which a process that was frozen meanwhile learns of only here."""

    __slots__ = ("at", "until")

    def __init__(self, until: float = math.inf) -> None:
        self.at: Literal["pool", "connect", "sent"] = "pool"
        self.until = until

    def enter(self, at: Literal["connect", "sent"]) -> None:
        if self.at == "sent":
            raise _Repeated
        if time.monotonic() >= self.until:  # the loop's clock
            raise _TooLate
        self.at = at


class _Repeated(aiohttp.ClientConnectionError):
    """aiohttp was about to send a request a second time."""


class _TooLate(aiohttp.ClientConnectionError):
    """The call's deadline was over before anything was written."""


class _Timely(BytesPayload):
    """A body that is not written past the call's deadline. The client announces a request, and writes it a turn of the
    loop later: a process that was frozen between the two learns of it only here."""

    def __init__(self, content: bytes, phase: Phase) -> None:
        super().__init__(content)
        self._phase = phase

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        if time.monotonic() >= self._phase.until:
            raise _TooLate
        await super().write_with_length(writer, content_length)


class Wire:
    """A connection pool of one system's own, opened at the first exchange. No cookies, proxies, redirects, retries."""

    def __init__(self, timeouts: Timeouts, limits: Limits) -> None:
        self._total_s, self._cap = timeouts.total, limits.response
        self._connections = limits.concurrency + SPARE_CONNECTIONS
        self._context: ssl.SSLContext | None = None
        self._session: aiohttp.ClientSession | None = None
        # Waiting for a free connection is bounded by the total deadline only: it is no failure to connect.
        self._parts = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, sock_read=timeouts.read)

    def trust(self, certificates: str) -> None:
        """Trust these certificates (PEM) too, from the next connection on. Raises `ValueError` if they are none."""
        if self._context is None:
            self._context = ssl.create_default_context()
        try:
            self._context.load_verify_locations(cadata=certificates)
        except ssl.SSLError as error:
            raise ValueError(f"holds no certificates in PEM ({error.reason})") from None

    async def exchange(self, request: Request, deadline: float | None = None) -> Answer | Unsent | Unknown:
        """One request, sent at most once. Ends by `deadline` (the loop's clock; default: `timeouts.total` from now).

        An answer whose body ends badly is still an answer, with its `trouble`: the status is known.
        """
        until = asyncio.get_running_loop().time() + self._total_s if deadline is None else deadline
        phase = Phase(until)
        response: aiohttp.ClientResponse | None = None
        pieces: list[bytes] = []
        try:
            async with asyncio.timeout_at(until):
                response = await self._begin(request, phase)
                await self._inflate(response, pieces)
            return Answer(response.status, response.headers, b"".join(pieces))
        except (Oversize, Garbled, *FOREIGN) as error:
            if response is None:
                return unanswered(error, phase)
            return Answer(response.status, response.headers, b"".join(pieces), _trouble(error))
        finally:
            if response is not None:
                response.close()  # what was read to its end has given its connection back already

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _begin(self, request: Request, phase: Phase) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = self._open()
        return await self._session.request(
            request.method,
            request.url,
            headers=request.headers,
            data=request.content and _Timely(request.content, phase),
            allow_redirects=False,
            auto_decompress=False,
            timeout=self._parts,
            trace_request_ctx=phase,
        )

    async def _inflate(self, response: aiohttp.ClientResponse, pieces: list[bytes]) -> None:
        """Fills `pieces`; neither the raw nor the decoded body grows past the cap."""
        raw = 0
        inflater = Inflater(response.headers.get("content-encoding", ""), self._cap)
        while piece := await response.content.readany():
            raw += len(piece)
            if raw > self._cap:
                raise Oversize
            pieces.append(inflater.feed(piece))
        inflater.finish()

    def _open(self) -> aiohttp.ClientSession:
        # The client's own context is made once for all: making one takes 30 ms, at the first call to a backup.
        context = self._context or True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=KEEPALIVE_S, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            skip_auto_headers=("Content-Type",),  # a POST without a body has no type; aiohttp makes one up
            trace_configs=[_tracing()],
        )


def unanswered(error: Exception, phase: Phase) -> Unsent | Unknown:
    """What is known of a call that ended without a status."""
    is_late = isinstance(error, TimeoutError)
    if phase.at == "sent":
        if is_late:
            return Unknown(HUNG, "no answer in time")
        is_unreadable = isinstance(error, aiohttp.ClientResponseError | HttpProcessingError)
        return Unknown("unreadable" if is_unreadable else "reset", type(error).__name__)
    if is_late and phase.at == "pool":
        return Unsent("pool", "no free connection in time")
    if is_late:
        return Unsent("connect_timeout", "no connection in time")
    return Unsent(_unsent_code(error), _name(error))


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, Oversize):
        return "oversize"
    return "timeout" if isinstance(error, TimeoutError) else "unreadable"


def _unsent_code(error: Exception) -> str:
    match error:
        case _TooLate():
            return "late"
        case aiohttp.ClientConnectorDNSError():
            return "dns"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
            return "tls"
        case ValueError():
            return "invalid_request"
        case _:
            return "refused"


def _name(error: Exception) -> str:
    """The error's class and symbol, such as `ClientConnectorError ECONNREFUSED`; its text may hold an address."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    number = inner.errno if isinstance(inner, OSError) else None
    return f"{type(error).__name__} {errno.errorcode.get(number or 0, '')}".strip()


def _tracing() -> aiohttp.TraceConfig:
    async def connecting(_session: aiohttp.ClientSession, context: SimpleNamespace, _: object) -> None:
        context.trace_request_ctx.enter("connect")

    async def sending(_session: aiohttp.ClientSession, context: SimpleNamespace, _: object) -> None:
        context.trace_request_ctx.enter("sent")

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(connecting)
    trace.on_request_headers_sent.append(sending)
    return trace
