"""Credentials, applied. One token for all callers, fetched once; a refused credential is loaded again once.

A token request runs in a task of its own: the caller whose deadline ends does not cancel it, since a refresh token that
is replaced at the provider and lost here would close the door for good.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import SecretStr

from tideover.connectors.http.access import (
    Access,
    ApiKey,
    Auth,
    Basic,
    Bearer,
    OAuth2ClientCredentials,
    OAuth2Refresh,
)
from tideover.connectors.http.tokens import Exchange, Token, fetch
from tideover.errors import TideoverError
from tideover.model import CREDENTIALS, Throttled, Unsent

Reload = Callable[[], Awaitable[Access]]
Keep = Callable[[SecretStr], Awaitable[None]]
Clock = Callable[[], float]

PAUSE_S = 1.0  # between two attempts to mend a credential that stays refused


@dataclass(frozen=True, slots=True)
class Signed:
    """Where to send and what to send along. `stamp` tells one set of credentials from the next."""

    access: Access
    headers: tuple[tuple[str, str], ...]
    stamp: int


Signature = Signed | Unsent | Throttled


class Credentials:
    """The credentials of one system, kept good. `clock` is monotonic.

    `reload` reads the block again; `keep` stores a refresh token that replaced the old one. Both say that they failed
    by raising `TideoverError`: a token that could not be kept is kept at the next call that asks for a signature.
    """

    def __init__(
        self,
        access: Access,
        exchange: Exchange,
        *,
        reload: Reload | None = None,
        keep: Keep | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.access = access
        self.fault = ""  # why the block could not be read again, the last time
        self._exchange, self._reload, self._keep, self._clock = exchange, reload, keep, clock
        self._signed: Signed | None = None
        self._good_until = float("-inf")
        self._stamp = 0
        self._unkept: SecretStr | None = None
        self._pause_until = float("-inf")
        self._keep_at = float("-inf")
        self._flight: asyncio.Task[Signature] | None = None

    def current(self) -> Signed | None:
        """The signature in force, if nothing has to be done first."""
        now = self._clock()
        if self._signed is None or now >= self._good_until or (self._unkept is not None and now >= self._keep_at):
            return None
        return self._signed

    async def sign(self) -> Signature:
        """What a request needs, or why there is none now: nothing was sent to the system itself."""
        if self._unkept is not None and self._clock() >= self._keep_at:
            await self._join(self._keep_and_sign)
        return self.current() or await self._join(self._obtain)

    def secrets(self) -> Iterator[str]:
        """Every secret in clear, tokens included, for finding them in texts that must not hold them."""
        yield from self.access.secrets()
        if self._signed is not None:
            yield from (value.rpartition(" ")[2] for _, value in self._signed.headers)

    async def renew(self, stamp: int, status: int) -> bool:
        """Whether there are other credentials than those of `stamp`, which were refused with `status`.

        Reads the block again; if that brings nothing new, a token that got a 401 is fetched anew.
        """
        if self._signed is not None and self._signed.stamp == stamp:
            await self._join(lambda: self._mend(status))
        return self._signed is not None and self._signed.stamp != stamp

    async def close(self) -> None:
        """Waits for a token request under way, which is bounded by its own deadline."""
        if self._flight is not None:
            await asyncio.wait([self._flight])

    async def _join(self, work: Callable[[], Coroutine[Any, Any, Signature]]) -> Signature:
        if self._flight is None:
            self._flight = asyncio.create_task(work())
            self._flight.add_done_callback(self._landed)
        return await asyncio.shield(self._flight)

    def _landed(self, flight: asyncio.Task[Signature]) -> None:
        self._flight = None
        if not flight.cancelled():
            flight.exception()  # every caller may be gone; then nobody else would look

    async def _mend(self, status: int) -> Signature:
        assert self._signed is not None
        now = self._clock()
        if now < self._pause_until:
            return self._signed
        self._pause_until = now + PAUSE_S
        if await self._is_reloaded() or (status == 401 and isinstance(self.access.auth, _OAuth2)):
            self._good_until = float("-inf")
            return await self._obtain()
        return self._signed

    async def _obtain(self) -> Signature:
        signature = await self._sign_with(self.access)
        if not (isinstance(signature, Unsent) and signature.code == CREDENTIALS):
            return signature
        if await self._is_reloaded():
            return await self._sign_with(self.access)
        return replace(signature, detail=f"{signature.detail}, and {self.fault}") if self.fault else signature

    async def _sign_with(self, access: Access) -> Signature:
        auth = access.auth
        if not isinstance(auth, _OAuth2):
            return self._now(access, static_headers(auth), float("inf"))
        token = await fetch(auth, self._exchange)
        if not isinstance(token, Token):
            return token
        good_until = self._clock() + token.lasts_s
        if isinstance(auth, OAuth2Refresh) and token.refresh is not None and token.refresh != auth.refresh_token:
            access = replace(access, auth=replace(auth, refresh_token=token.refresh))
            self.access, self._unkept = access, token.refresh
        signed = self._now(access, [("authorization", f"Bearer {token.access.get_secret_value()}")], good_until)
        await self._keep_newest()
        return signed

    def _now(self, access: Access, headers: list[tuple[str, str]], good_until: float) -> Signed:
        self._stamp += 1
        extra = [(name.lower(), value.get_secret_value()) for name, value in access.headers.items()]
        lowered = [(name.lower(), value) for name, value in headers]
        self._signed, self._good_until = Signed(access, (*extra, *lowered), self._stamp), good_until
        return self._signed

    async def _is_reloaded(self) -> bool:
        """Whether the block holds something else now. Never gives up a newer refresh token for an older one."""
        await self._keep_newest()
        if self._reload is None or self._unkept is not None:
            return False
        try:
            access = await self._reload()
        except TideoverError as error:
            self.fault = str(error)
            return False
        self.fault = ""
        is_new = access != self.access
        self.access = access
        return is_new

    async def _keep_and_sign(self) -> Signature:
        await self._keep_newest()
        return self._signed if self._signed is not None else await self._obtain()

    async def _keep_newest(self) -> None:
        if self._unkept is None:
            return
        self._keep_at = self._clock() + PAUSE_S
        try:
            if self._keep is not None:
                await self._keep(self._unkept)
        except TideoverError:
            return
        self._unkept = None


_OAuth2 = OAuth2ClientCredentials | OAuth2Refresh


def static_headers(auth: Auth) -> list[tuple[str, str]]:
    """The headers of a credential that needs no token."""
    match auth:
        case ApiKey(header, value):
            return [(header.lower(), value.get_secret_value())]
        case Basic(username, password):
            pair = f"{username}:{password.get_secret_value()}".encode()
            return [("authorization", f"Basic {base64.b64encode(pair).decode()}")]
        case Bearer(token):
            return [("authorization", f"Bearer {token.get_secret_value()}")]
        case _:
            return []
