"""A TCP port with an HTTP server behind it that can be shut as by a crash, and opened again at the same number.

uvicorn's own `serve` takes the process's signals and waits politely for every open call. A twin that goes down
waits for nobody, so its server is started and stopped here, piece by piece, in the host's event loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from tideover.twins.exchange import Connection, reset_transport
from tideover.twins.refusal import TwinRefused

_GRACE_S = 2.0
_BACKLOG = 2048


class Port:
    """`address` is an IP address; `number` 0 takes any free port and keeps it. `stopped` is set while shut."""

    def __init__(self, app: ASGIApp, address: str, number: int, stopped: asyncio.Event | None = None) -> None:
        self._config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=75,
        )
        self._config.load()
        self._server: uvicorn.Server | None = None
        self._stopped = stopped or asyncio.Event()
        self._address = address
        # Bound but not listening: connects are refused, and nobody else gets the port while it is shut.
        self._reserve: socket.socket | None = _bound(address, number)
        self.number: int = self._reserve.getsockname()[1]

    @property
    def url(self) -> str:
        """Where it is reached, without a slash at the end."""
        address = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{address}:{self.number}"

    @property
    def is_open(self) -> bool:
        """Whether connects are accepted."""
        return self._server is not None

    @property
    def connections(self) -> Collection[Connection]:
        """The open connections."""
        return () if self._server is None else cast("Collection[Connection]", self._server.server_state.connections)

    async def open(self) -> None:
        """Listen; nothing happens if it is open."""
        if self._server is not None or self._reserve is None:
            return
        sock, self._reserve = self._reserve, None
        self._stopped.clear()
        server = uvicorn.Server(self._config)
        server.lifespan = self._config.lifespan_class(self._config)
        self._server = server
        await server.startup(sockets=[sock])

    async def shut(self) -> None:
        """Stop listening and reset every connection; held calls end undone. Ends within seconds."""
        server, self._server = self._server, None
        if server is None:
            return
        for listener in server.servers:
            listener.close()
        self._reserve = _bound(self._address, self.number)
        self._stopped.set()
        await _end(server)

    async def close(self) -> None:
        """Shut, and give the port back."""
        await self.shut()
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None


async def _end(server: uvicorn.Server) -> None:
    """Reset all connections and wait for their tasks; a task that outlives the grace is cancelled."""
    state = server.server_state
    deadline = asyncio.get_running_loop().time() + _GRACE_S
    while state.connections or state.tasks:
        for connection in list(state.connections):
            reset_transport(connection.transport)
        if asyncio.get_running_loop().time() > deadline:
            for task in state.tasks:
                task.cancel()
            break
        # A connection that was just accepted shows up a turn of the loop later.
        await asyncio.wait(state.tasks, timeout=0.05) if state.tasks else await asyncio.sleep(0)


def _bound(address: str, number: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that name their protocol; without it, an answer whose headers and
    # body are written apart waits 40 ms for the caller's delayed acknowledgement.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, number))
    except OSError as error:
        sock.close()
        raise TwinRefused(409, f"port {number} of {address} can't be had: {error.strerror}") from error
    sock.setblocking(False)
    return sock
