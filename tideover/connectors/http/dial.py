"""Opening connections: names, addresses, TLS. Whatever goes wrong here, nothing was sent."""

from __future__ import annotations

import asyncio
import functools
import math
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import aiohappyeyeballs

from tideover.connectors.http.message import Origin
from tideover.connectors.http.protocol import Connection, name_of
from tideover.model import Unsent

_STAGGER_S = 0.25  # RFC 8305 5: the next address is tried beside one that has not answered by then

_INT_MAX = 2**31 - 1

Addresses = Sequence[tuple[Any, ...]]  # as of `socket.getaddrinfo`


class Dialer:
    """Opens connections, each within `connect_s` from the look-up of its name to the end of its TLS handshake.

    A name is looked up once for all who wait for it: a resolver that hangs takes one of the process's few threads, and
    leaves the others to other systems.
    """

    def __init__(self, connect_s: float, total_s: float) -> None:
        """`total_s`: how long the kernel goes on sending what nobody acknowledges, even if this process is killed."""
        self._connect_s, self._total_s = connect_s, total_s
        self._context: ssl.SSLContext | None = None
        self._lookups: dict[tuple[str, int], asyncio.Future[Addresses]] = {}

    def trust(self, certificates: str) -> None:
        """Trust these certificates (PEM) too, from the next connection on. Raises `ValueError` if they are none."""
        if self._context is None:
            self._context = _new_context()
        try:
            self._context.load_verify_locations(cadata=certificates)
        except (ssl.SSLError, ValueError, TypeError) as error:  # the last two: nothing, or no ASCII
            reason = getattr(error, "reason", None) or type(error).__name__
            raise ValueError(f"holds no certificates in PEM ({reason})") from None

    async def dial(self, origin: Origin, make: Callable[[], Connection], until: float) -> Connection | Unsent:
        """A connection that stands by `until` (the loop's clock), or why there is none."""
        try:
            async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + self._connect_s)):
                return await self._open(origin, make)
        except TimeoutError:
            return Unsent("connect_timeout", "no connection in time")
        except (socket.gaierror, UnicodeError) as error:
            return Unsent("dns", type(error).__name__)
        except ssl.SSLError as error:
            return Unsent("tls", f"{type(error).__name__} {error.reason or ''}".strip())
        except OSError as error:
            return Unsent("refused", name_of(error))

    async def _open(self, origin: Origin, make: Callable[[], Connection]) -> Connection | Unsent:
        addresses = _as_literal(origin) or await self._look_up(origin)
        sock = await aiohappyeyeballs.start_connection(list(addresses), happy_eyeballs_delay=_STAGGER_S, interleave=1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere it is the kernel's own, some minutes
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(math.ceil(self._total_s * 1000), _INT_MAX))
        loop = asyncio.get_running_loop()
        if origin.is_tls:
            context = self._context or _usual_context()
            name = origin.host.rstrip(".")
            _, connection = await loop.create_connection(make, sock=sock, ssl=context, server_hostname=name)
        else:
            _, connection = await loop.create_connection(make, sock=sock)
        return connection if connection.is_open else Unsent("refused", "closed at once")

    async def _look_up(self, origin: Origin) -> Addresses:
        key = origin.host, origin.port
        lookup = self._lookups.get(key)
        if lookup is None:
            ask = functools.partial(socket.getaddrinfo, *key, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            lookup = self._lookups[key] = asyncio.get_running_loop().run_in_executor(None, ask)
            lookup.add_done_callback(functools.partial(self._looked_up, key))
        return await asyncio.shield(lookup)

    def _looked_up(self, key: tuple[str, int], lookup: asyncio.Future[Addresses]) -> None:
        del self._lookups[key]
        if not lookup.cancelled():
            lookup.exception()  # every caller may be gone; then nobody else would look


def _as_literal(origin: Origin) -> Addresses | None:
    """The address of a host that is one already, without asking anybody."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        return socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM, flags=flags)
    except (socket.gaierror, UnicodeError):
        return None


@functools.cache
def _usual_context() -> ssl.SSLContext:
    """Made once for all: making one takes 30 ms, at the first call to a backup."""
    return _new_context()


def _new_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
