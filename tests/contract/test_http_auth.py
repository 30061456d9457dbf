"""Credentials over real sockets: applied, fetched once, renewed once, rotated without a loss, never shown."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import SecretStr

import tideover.connectors.http.auth as credentials_of
from tests.contract.test_http_deliver import HASTY, RECORD, connected, described
from tideover.connectors.http import (
    Access,
    ApiKey,
    Basic,
    Bearer,
    NoAuth,
    OAuth2ClientCredentials,
    OAuth2Refresh,
)
from tideover.errors import AccessError, TideoverError
from tideover.model import CREDENTIALS, Accepted, Throttled, Unsent
from tideover.twins.adversary import Adversary, Behaviour, acts
from tideover.twins.adversary.server import Talk

OK = acts.reply(201, {"id": "1"})
CANARY = "c4n4ry-secret"


def token(value: str, **more: object) -> Behaviour:
    return acts.reply(200, {"access_token": value, "token_type": "Bearer", "expires_in": 3600, **more})


def client(server: Adversary, **more: str) -> OAuth2ClientCredentials:
    return OAuth2ClientCredentials(f"{server.url}/token", "me", SecretStr(CANARY), **more)  # type: ignore[arg-type]


def refresh(server: Adversary) -> OAuth2Refresh:
    return OAuth2Refresh(f"{server.url}/token", "me", SecretStr(CANARY), SecretStr("refresh-1"))


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        (ApiKey("X-Api-Key", SecretStr(CANARY)), "x-api-key", CANARY),
        (Bearer(SecretStr(CANARY)), "authorization", f"Bearer {CANARY}"),
        (Basic("ü", SecretStr(":")), "authorization", f"Basic {base64.b64encode('ü::'.encode()).decode()}"),
        (NoAuth(), "x-tenant", "t-1"),
    ],
)
async def test_send_carries_the_credential(auth: ApiKey | Bearer | Basic | NoAuth, header: str, value: str) -> None:
    async with Adversary() as server:
        server.on("/orders", OK)
        access = Access(server.url, auth, {"X-Tenant": SecretStr("t-1")})
        async with connected(server.url, access=access) as connector:
            assert await connector.send("put", [RECORD]) == [Accepted("1")]
        assert server.received[0].headers[header] == value


async def test_send_by_many_fetches_one_token() -> None:
    async with Adversary() as server:
        server.on("/token", token("t-1"))
        server.on("/orders", OK)
        async with connected(server.url, access=Access(server.url, client(server, scope="a b"))) as connector:
            await asyncio.gather(*(connector.send("put", [RECORD]) for _ in range(20)))
            await connector.send("put", [RECORD])
        [request] = server.at("/token")
        assert parse_qs(request.body.decode()) == {"grant_type": ["client_credentials"], "scope": ["a b"]}
        assert request.headers["authorization"] == f"Basic {base64.b64encode(f'me:{CANARY}'.encode()).decode()}"
        assert {r.headers["authorization"] for r in server.at("/orders")} == {"Bearer t-1"}


async def test_send_with_style_body_puts_the_secret_into_the_form() -> None:
    async with Adversary() as server:
        server.on("/token", token("t-1"))
        server.on("/orders", OK)
        async with connected(server.url, access=Access(server.url, client(server, style="body"))) as connector:
            await connector.send("put", [RECORD])
        form = parse_qs(server.at("/token")[0].body.decode())
        assert (form["client_id"], form["client_secret"]) == (["me"], [CANARY])


async def test_send_when_a_token_is_refused_fetches_one_more_and_sends_again() -> None:
    async with Adversary() as server:
        server.on("/token", token("t-1"), token("t-2"))
        server.on("/orders", acts.reply(401), OK)
        async with connected(server.url, access=Access(server.url, client(server))) as connector:
            assert await connector.send("put", [RECORD]) == [Accepted("1")]
        assert [r.headers["authorization"] for r in server.at("/orders")] == ["Bearer t-1", "Bearer t-2"]


async def test_send_when_every_token_is_refused_ends_as_credentials_and_does_not_loop() -> None:
    async with Adversary() as server:
        server.on("/token", token("t"))
        server.on("/orders", acts.reply(401))
        async with connected(server.url, access=Access(server.url, client(server))) as connector:
            outcomes = await asyncio.gather(*(connector.send("put", [RECORD]) for _ in range(10)))
            assert {outcome for [outcome] in outcomes} == {Unsent(CREDENTIALS, "http 401")}
        assert len(server.at("/token")) == 2
        assert len(server.at("/orders")) <= 20


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (acts.reply(400, {"error": "invalid_client"}), Unsent(CREDENTIALS, "token endpoint: http 400 invalid_client")),
        (acts.reply(400, {"error": f"bad {CANARY}!"}), Unsent(CREDENTIALS, "token endpoint: http 400")),
        (acts.reply(400, {"error": CANARY}), Unsent(CREDENTIALS, "token endpoint: http 400")),
        (acts.reply(500), Unsent("token", "token endpoint: http 500 without a bearer token")),
        (acts.reply(200, b"<html>"), Unsent("token", "token endpoint: http 200 without a bearer token")),
        (acts.reply(200, {"access_token": "a\nb"}), Unsent("token", "token endpoint: http 200 without a bearer token")),
        (acts.reply(302), Unsent("token", "token endpoint: http 302 without a bearer token")),
        (acts.hang(), Unsent("token", "token endpoint: timeout")),
        (acts.reply(429, b"", [("retry-after", "9")]), Throttled(9, "token endpoint: http 429")),
    ],
)
async def test_send_without_a_token_reaches_nobody(behaviour: Behaviour, expected: Unsent | Throttled) -> None:
    async with Adversary() as server:
        server.on("/token", behaviour)
        settings: dict[str, Any] = HASTY if expected.detail.endswith("timeout") else {}
        async with connected(server.url, access=Access(server.url, client(server)), **settings) as connector:
            assert await connector.send("put", [RECORD]) == [expected]
        assert server.at("/orders") == []


async def test_send_when_the_credential_was_rotated_loads_it_once_and_loses_nothing() -> None:
    async with Adversary() as server:
        old, new = (Access(server.url, Bearer(SecretStr(value))) for value in ("old", "new"))
        loads = []

        async def reload() -> Access:
            loads.append(1)
            return new

        async def door(talk: Talk) -> None:
            is_open = talk.request.headers["authorization"] == "Bearer new"
            await (OK if is_open else acts.reply(401))(talk)

        server.on("/orders", door)
        async with connected(server.url, access=old, reload=reload) as connector:
            outcomes = await asyncio.gather(*(connector.send("put", [RECORD]) for _ in range(12)))
        assert [outcome for [outcome] in outcomes] == [Accepted("1")] * 12
        assert len(loads) == 1


async def test_send_when_the_block_holds_the_same_credential_does_not_try_again() -> None:
    async with Adversary() as server:
        access = Access(server.url, Bearer(SecretStr("old")))

        async def reload() -> Access:
            return replace(access)

        server.on("/orders", acts.reply(403))
        async with connected(server.url, access=access, reload=reload) as connector:
            assert await connector.send("put", [RECORD]) == [Unsent(CREDENTIALS, "http 403")]
        assert len(server.received) == 1


async def test_send_when_the_block_can_not_be_read_still_has_an_outcome() -> None:
    async def reload() -> Access:
        raise AccessError("erp", "block is gone")

    async with Adversary() as server:
        server.on("/orders", acts.reply(401))
        async with connected(server.url, reload=reload) as connector:
            expected = Unsent(CREDENTIALS, "http 401, and system erp: block is gone")
            assert await connector.send("put", [RECORD]) == [expected]


@pytest.mark.parametrize(
    "ca", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\u00fc"]
)
async def test_send_when_the_block_has_got_certificates_that_are_none_says_so_and_mends_itself(
    monkeypatch: pytest.MonkeyPatch, ca: str
) -> None:
    """With a credential that is refused meanwhile, as both are often replaced together."""
    monkeypatch.setattr(credentials_of, "PAUSE_S", 0.0)
    async with Adversary() as server:
        bad, good = (Access(server.url, Bearer(SecretStr("new")), ca=each) for each in (ca, None))
        blocks = [bad, good]

        async def reload() -> Access:
            return blocks.pop(0)

        async def door(talk: Talk) -> None:
            is_open = talk.request.headers["authorization"] == "Bearer new"
            await (OK if is_open else acts.reply(401))(talk)

        server.on("/orders", door)
        async with connected(server.url, reload=reload) as connector:
            [outcome] = await connector.send("put", [RECORD])
            assert isinstance(outcome, Unsent)
            assert outcome.code == CREDENTIALS
            assert "the `ca` of its block holds no certificates in PEM" in outcome.detail
            assert await connector.send("put", [RECORD]) == [Accepted("1")]


async def test_send_when_the_block_raises_about_a_value_does_not_repeat_it() -> None:
    async def reload() -> Access:
        raise ValueError(f"{CANARY} is no token")

    async with Adversary() as server:
        server.on("/orders", acts.reply(401))
        async with connected(server.url, reload=reload) as connector:
            [outcome] = await connector.send("put", [RECORD])
        assert isinstance(outcome, Unsent)
        assert outcome.code == CREDENTIALS
        assert CANARY not in outcome.detail


async def test_a_connector_with_certificates_that_are_none_is_an_access_error() -> None:
    for ca in ("", "no PEM", "\u00fc"):
        with pytest.raises(AccessError, match="the `ca` of its block holds no certificates"):
            async with connected("https://a.example", access=Access("https://a.example", ca=ca)):
                pass


async def test_a_rotated_refresh_token_is_kept_before_it_is_needed_and_used_next() -> None:
    kept: list[str] = []

    async def keep(newest: SecretStr) -> None:
        kept.append(newest.get_secret_value())

    async with Adversary() as server:
        server.on("/token", token("t-1", refresh_token="refresh-2"), token("t-2"))
        server.on("/orders", acts.reply(401), OK)
        async with connected(server.url, access=Access(server.url, refresh(server)), keep=keep) as connector:
            assert await connector.send("put", [RECORD]) == [Accepted("1")]
        used = [parse_qs(r.body.decode())["refresh_token"] for r in server.at("/token")]
    assert kept == ["refresh-2"]
    assert used == [["refresh-1"], ["refresh-2"]]


async def test_a_rotated_refresh_token_that_could_not_be_kept_is_not_given_up_for_the_old_one() -> None:
    async def keep(_newest: SecretStr) -> None:
        raise TideoverError("no database")

    async with Adversary() as server:
        old = Access(server.url, refresh(server))

        async def reload() -> Access:
            return old

        server.on("/token", token("t-1", refresh_token="refresh-2"), token("t-2"))
        server.on("/orders", acts.reply(401), OK)
        async with connected(server.url, access=old, keep=keep, reload=reload) as connector:
            assert await connector.send("put", [RECORD]) == [Accepted("1")]
        used = [parse_qs(r.body.decode())["refresh_token"] for r in server.at("/token")]
    assert used == [["refresh-1"], ["refresh-2"]]


async def test_a_caller_that_gives_up_does_not_cancel_the_token_request() -> None:
    kept: list[str] = []
    go = asyncio.Event()

    async def keep(newest: SecretStr) -> None:
        kept.append(newest.get_secret_value())

    async def late(talk: Talk) -> None:
        await go.wait()
        await token("t-1", refresh_token="refresh-2")(talk)

    async with Adversary() as server:
        server.on("/token", late)
        server.on("/orders", OK)
        async with connected(
            server.url, described(), access=Access(server.url, refresh(server)), keep=keep
        ) as connector:
            caller = asyncio.create_task(connector.send("put", [RECORD]))
            await server.until(1)
            caller.cancel()
            await asyncio.gather(caller, return_exceptions=True)
            go.set()
            assert await connector.send("put", [RECORD]) == [Accepted("1")]
        assert len(server.at("/token")) == 1
    assert kept == ["refresh-2"]


def test_no_secret_is_in_any_text_of_an_access() -> None:
    for auth in (
        Bearer(SecretStr(CANARY)),
        ApiKey("x", SecretStr(CANARY)),
        Basic("u", SecretStr(CANARY)),
        OAuth2Refresh("https://t.example", "id", SecretStr(CANARY), SecretStr(CANARY)),
    ):
        access = Access("https://a.example", auth, {"x": SecretStr(CANARY)})
        assert CANARY not in f"{access!r} {access}"
        assert CANARY in set(access.secrets())


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": f"https://u:{CANARY}@a.example"},
        {"base_url": "ftp://a.example"},
        {"base_url": "https://a.example/?x=1"},
        {"base_url": "https://a.example/#x"},
        {"base_url": "https://a.example", "auth": Bearer(SecretStr(f"{CANARY}\n"))},
        {"base_url": "https://a.example", "auth": ApiKey("a b", SecretStr(CANARY))},
        {"base_url": "https://a.example", "headers": {"x": SecretStr(f"{CANARY}\r\nHost: evil")}},
    ],
)
def test_an_access_that_no_request_can_carry_is_refused_without_its_secret(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError) as caught:
        Access(**wrong)  # type: ignore[arg-type]
    assert CANARY not in str(caught.value)
