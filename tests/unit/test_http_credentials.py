"""Tokens over time, on an injected clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson
from pydantic import SecretStr

from tideover.connectors.http.access import Access, Bearer, OAuth2Refresh
from tideover.connectors.http.answer import Answer, Headers
from tideover.connectors.http.auth import PAUSE_S, Credentials, Signature, Signed
from tideover.errors import TideoverError
from tideover.model import CREDENTIALS, Unknown, Unsent

URL = "https://a.example"


def refreshed(token: str) -> Access:
    return Access(URL, OAuth2Refresh(f"{URL}/t", "id", SecretStr("secret"), SecretStr(token)))


@dataclass
class World:
    """A token endpoint, a block, and the time."""

    now: float = 0.0
    expires_in: object = 100
    status: int = 200
    fetched: int = 0
    loaded: int = 0
    kept: list[str] = field(default_factory=list)
    can_keep: bool = True
    block: Access = field(default_factory=lambda: refreshed("r0"))

    async def exchange(self, _url: str, _headers: list[tuple[str, str]], _body: bytes) -> Answer | Unsent | Unknown:
        self.fetched += 1
        members = {
            "access_token": f"t{self.fetched}",
            "expires_in": self.expires_in,
            "refresh_token": f"r{self.fetched}",
        }
        return Answer(self.status, Headers(), orjson.dumps(members))

    async def reload(self) -> Access:
        self.loaded += 1
        return self.block

    async def keep(self, newest: SecretStr) -> None:
        if not self.can_keep:
            raise TideoverError("not now")
        self.kept.append(newest.get_secret_value())

    def credentials(self) -> Credentials:
        return Credentials(self.block, self.exchange, reload=self.reload, keep=self.keep, clock=lambda: self.now)


def stamp(signature: Signature) -> int:
    assert isinstance(signature, Signed)
    return signature.stamp


async def test_a_token_is_used_for_most_of_its_life_and_then_fetched_anew() -> None:
    world = World()
    credentials = world.credentials()
    first = stamp(await credentials.sign())
    world.now = 79
    assert stamp(await credentials.sign()) == first
    world.now = 81
    assert stamp(await credentials.sign()) != first
    assert (world.fetched, world.kept) == (2, ["r1", "r2"])


async def test_a_token_without_an_end_that_makes_sense_is_used_until_it_is_refused() -> None:
    for expires_in in (None, "soon", 0, -5, "nan", [1]):
        world = World(expires_in=expires_in)
        credentials = world.credentials()
        await credentials.sign()
        world.now = 1e9
        await credentials.sign()
        assert world.fetched == 1


async def test_a_refusal_of_what_is_not_in_force_any_more_costs_nothing() -> None:
    world = World()
    credentials = world.credentials()
    first = stamp(await credentials.sign())
    world.now = 90
    await credentials.sign()
    assert await credentials.renew(first, 401)
    assert (world.fetched, world.loaded) == (2, 0)


async def test_a_refused_credential_is_mended_once_a_pause() -> None:
    world = World(block=Access(URL, Bearer(SecretStr("x"))))
    credentials = world.credentials()
    first = stamp(await credentials.sign())
    assert not await credentials.renew(first, 403)
    assert not await credentials.renew(first, 403)
    assert world.loaded == 1
    world.now = PAUSE_S
    world.block = Access(URL, Bearer(SecretStr("y")))
    assert await credentials.renew(first, 403)
    assert dict((await _signed(credentials)).headers) == {"authorization": "Bearer y"}


async def test_a_refresh_token_that_could_not_be_kept_is_kept_later() -> None:
    world = World(can_keep=False)
    credentials = world.credentials()
    await credentials.sign()
    assert world.kept == []
    world.now, world.can_keep = PAUSE_S, True
    assert credentials.current() is None
    await credentials.sign()
    assert (world.kept, world.fetched) == (["r1"], 1)
    assert credentials.current() is not None


async def test_a_refused_refresh_token_is_loaded_again_and_used_if_another_worker_replaced_it() -> None:
    world = World(status=400)
    credentials = world.credentials()
    signature = await credentials.sign()
    assert isinstance(signature, Unsent)
    assert signature.code == CREDENTIALS
    assert (world.fetched, world.loaded) == (1, 1)
    world.block = refreshed("r9")
    await credentials.sign()
    assert (world.fetched, world.loaded) == (3, 2)


async def test_every_secret_in_force_is_known() -> None:
    credentials = World().credentials()
    await credentials.sign()
    assert {"secret", "r1", "t1"} <= set(credentials.secrets())


async def _signed(credentials: Credentials) -> Signed:
    signature = await credentials.sign()
    assert isinstance(signature, Signed)
    return signature
