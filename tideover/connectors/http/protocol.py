"""One connection: one request at a time, one answer to it, and what is known if there is none.

The check of the deadline stands directly before the one write of headers and body. Before that line nothing was sent,
from it on the request counts as sent: a process that was frozen meanwhile learns of it there, and nowhere later.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from contextlib import suppress
from time import monotonic
from typing import Protocol

from tideover.connectors.http.answer import Answer
from tideover.connectors.http.message import Origin
from tideover.connectors.http.reading import AnswerReader
from tideover.model import HUNG, Unknown, Unsent

KEEPALIVE_S = 15.0

_NO_LINGER = struct.pack("ii", 1, 0)

LATE = Unsent("late", "its time was over before it was sent")


class Owner(Protocol):
    """Who decides what a connection does next."""

    def take_back(self, connection: Connection) -> None:
        """Its exchange is over, and it may have another."""

    def forget(self, connection: Connection) -> None:
        """It is closed."""


class Connection(asyncio.Protocol):
    """Made by a transport's factory. Between exchanges, anything that comes ends it.

    One timer serves the read timeout, the deadline and the end of idleness: it is moved when it fires, not when
    something comes.
    """

    def __init__(self, owner: Owner, origin: Origin, read_s: float, cap: int) -> None:
        self.origin = origin
        self.is_idle = False
        self.is_promised = True  # to an exchange that has not begun yet; its place in the pool is the exchange's
        self._owner, self._read_s = owner, read_s
        self._loop = asyncio.get_running_loop()
        self._reader = AnswerReader(cap)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer | Unknown] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = self._until = 0.0
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        return not self._is_closed and self._transport is not None and not self._transport.is_closing()

    async def exchange(self, message: bytes, until: float, *, is_head: bool) -> Answer | Unsent | Unknown:
        """Writes the message, once, and waits for its answer until `until` (the loop's clock)."""
        assert self._transport is not None
        self._reader.begin(is_head=is_head)
        waiter: asyncio.Future[Answer | Unknown] = self._loop.create_future()
        self._waiter = waiter
        self.is_promised = False
        self._until, self._heard_at = until, monotonic()
        self._watch(min(until, self._heard_at + self._read_s))
        write = self._transport.write
        if monotonic() >= until:
            self._release()
            return LATE
        write(message)
        try:
            return await waiter
        finally:
            if self._waiter is waiter:  # the caller is gone
                self.close()

    def close(self) -> None:
        """Ends it at once. What waits for an answer learns that there is none."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._waiter is not None:
            self._recall()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._reader.close()
        self._owner.forget(self)
        self._settle(Unknown("reset", "closed here"))

    # --- what the transport calls -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:
            self.close()  # nobody asked
            return
        self._heard_at = monotonic()
        reader = self._reader
        reader.feed(data)
        if reader.is_over:
            self._answered(reader.answer() or Unknown("unreadable", "not HTTP, or headers out of bounds"))

    def eof_received(self) -> None:
        if self._waiter is not None:
            self._reader.end()
            self._answered(self._reader.answer() or Unknown("reset", name_of(None)))
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None:
            self._answered(self._reader.answer("unreadable") or Unknown("reset", name_of(exc)))
        self.close()

    # ------------------------------------------------------------------------------------------------------------------

    def _answered(self, came: Answer | Unknown) -> None:
        assert self._transport is not None
        stays = self._reader.stays and not self._transport.get_write_buffer_size() and self.is_open
        waiter, self._waiter = self._waiter, None
        if stays:
            self._watch(self._heard_at + KEEPALIVE_S)
            self._owner.take_back(self)
        else:
            self.close()
        if waiter is not None and not waiter.done():
            waiter.set_result(came)

    def _release(self) -> None:
        """Unused: nothing was written."""
        self._waiter = None
        self._watch(self._heard_at + KEEPALIVE_S)
        self._owner.take_back(self)

    def _recall(self) -> None:
        """Takes back what the other side has not received yet: it was given up, and must not arrive later.

        Otherwise the kernel goes on sending it for minutes after the close, until the network is back.
        """
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is not None:
            with suppress(OSError):  # closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)

    def _settle(self, came: Unknown) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(came)

    def _watch(self, due: float) -> None:
        """Sees to it that the timer fires by `due`."""
        timer = self._timer
        if timer is None or timer.when() > due:
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = monotonic()
        if self._waiter is None:
            due = self._heard_at + KEEPALIVE_S
            if now >= due and self.is_idle:
                self.close()
                return
            due = max(due, now + 1.0)
        else:
            assert self._transport is not None
            if self._transport.get_write_buffer_size():
                self._heard_at = now  # what is still being written can't be answered yet
            due = min(self._until, self._heard_at + self._read_s)
            if now >= due:
                self._answered_too_late()
                return
        self._timer = self._loop.call_at(due, self._tick)

    def _answered_too_late(self) -> None:
        self._reader.stays = False
        self._recall()
        self._answered(self._reader.answer("timeout") or Unknown(HUNG, "no answer in time"))


def name_of(error: BaseException | None) -> str:
    """The error's class and symbol, such as `ConnectionRefusedError ECONNREFUSED`; its text may hold an address."""
    if error is None:
        return "closed without an answer"
    number = error.errno if isinstance(error, OSError) else None
    return f"{type(error).__name__} {errno.errorcode.get(number or 0, '')}".strip()
