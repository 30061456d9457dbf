"""The ASGI face of one twin: reads a call, lets the active fault have it, checks quota and credentials, works."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Collection

from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tideover.twins.acts import ACTS, Turn, work_well
from tideover.twins.answer import Answer, Capture, Refusal
from tideover.twins.exchange import Connection, Exchange, Stopped
from tideover.twins.faults import ActiveFault, FaultSwitch, Role
from tideover.twins.vendor import FAULT, Vendor


class Quota:
    """Business calls in the present window of fixed length, on the monotonic clock."""

    def __init__(self) -> None:
        self._began_s = -math.inf
        self.used = 0

    def take(self, limit: int | None, window_s: float) -> int | None:
        """Count a call; `None`, or in how many whole seconds there is room again."""
        now = time.monotonic()
        if now - self._began_s >= window_s:
            self._began_s, self.used = now, 0
        if limit is not None and self.used >= limit:
            return max(1, math.ceil(self._began_s + window_s - now))
        self.used += 1
        return None

    def resets_s(self, window_s: float) -> int:
        """In how many whole seconds the present window ends."""
        return max(0, math.ceil(self._began_s + window_s - time.monotonic()))


class Surface:
    """One twin's ASGI application. `stopped` and `connections` belong to the port that it listens on."""

    def __init__(self, vendor: Vendor, switch: FaultSwitch) -> None:
        self.stopped = asyncio.Event()
        self.connections: Collection[Connection] = ()
        self.trap = ""
        self.calls: Counter[str] = Counter()
        self._vendor, self._switch = vendor, switch
        self._app: ASGIApp = _Routes(vendor)
        self._quota = Quota()
        self._at_work = 0
        self._keys_at_work: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self.connections, self.stopped)
        if not await exchange.read():
            return
        role = self._role(scope["path"])
        self.calls[role.value] += 1
        active = self._switch.choose(role, is_read=scope["method"] in {"GET", "HEAD"})
        try:
            await self._take(exchange, role, active)
        except Stopped:
            await exchange.reset()

    async def _take(self, exchange: Exchange, role: Role, active: ActiveFault | None) -> None:
        async def work() -> Answer:
            return await self._work(exchange, role, active)

        if active is None:
            return await exchange.reply(await work())
        self.calls["harmed"] += 1
        act = ACTS.get(active.fault.kind, work_well)
        return await act(Turn(exchange, active, self._vendor, work, self.trap))

    def _role(self, path: str) -> Role:
        if path == self._vendor.probe_path:
            return Role.PROBE
        return Role.TOKEN if path == self._vendor.token_path else Role.BUSINESS

    async def _work(self, exchange: Exchange, role: Role, active: ActiveFault | None) -> Answer:
        delay_s = active.fault.delay_s if active is not None and active.fault.kind == "slow" else 0.0
        if role is not Role.TOKEN and not self._vendor.is_authorized(exchange.headers):
            return self._vendor.unauthorized()
        if role is not Role.BUSINESS:
            return await self._run(exchange, active, delay_s)
        if refused := self._refused(exchange):
            return refused
        key = self._key(exchange)
        self._at_work += 1
        self._keys_at_work |= key
        try:
            answer = await self._run(exchange, active, delay_s)
        finally:
            self._at_work -= 1
            self._keys_at_work -= key
        resets_s = self._quota.resets_s(self._vendor.settings.rate_window_s)
        return answer.with_headers(self._vendor.quota_headers(self._quota.used, resets_s))

    def _refused(self, exchange: Exchange) -> Answer | None:
        settings = self._vendor.settings
        if settings.concurrency_limit is not None and self._at_work >= settings.concurrency_limit:
            return self._vendor.throttled(1)
        if (room_in_s := self._quota.take(settings.rate_limit, settings.rate_window_s)) is not None:
            return self._vendor.throttled(room_in_s)
        return self._vendor.in_flight() if self._key(exchange) & self._keys_at_work else None

    def _key(self, exchange: Exchange) -> set[str]:
        """The call's idempotency key, where the vendor honours one and the call has it."""
        header = self._vendor.idempotency_header
        key = exchange.headers.get(header) if header is not None else None
        return set() if key is None else {key}

    async def _run(self, exchange: Exchange, active: ActiveFault | None, delay_s: float) -> Answer:
        if delay_s:
            await exchange.pause(delay_s)

        async def receive() -> Message:
            return {"type": "http.request", "body": exchange.body}

        capture = Capture()
        fault = None if active is None else active.fault
        try:
            await self._app({**exchange.scope, FAULT: fault}, receive, capture)
        except Refusal as refusal:
            return refusal.answer
        return capture.answer()


class _Routes:
    """A vendor's routes, with the vendor's own 404."""

    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor
        self._router = Router([vendor.probe_route(), *vendor.routes()], redirect_slashes=False, default=self._missing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)

    async def _missing(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._vendor.not_found()(scope, receive, send)
