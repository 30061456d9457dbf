"""The block types: Prefect's own standard, validation, and secrets that show nowhere."""

from __future__ import annotations

import base64
import traceback

import httpx
import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from prefect.types import SecretDict
from pydantic import SecretStr, ValidationError

import blocks
from blocks import (
    ApiKeySystem,
    BasicSystem,
    BearerSystem,
    EncryptionKeys,
    OAuth2ClientSystem,
    OAuth2RefreshSystem,
    OpenSystem,
    SigningSecret,
    StagingDatabase,
)
from blocks.access import (
    keep_refresh_token,
    load_access,
    load_signing_secrets,
    load_staging_url,
)
from blocks.secrets import BlockSecrets
from tideover.bootstrap import Secrets
from tideover.connectors.http.access import ApiKey, Basic, Bearer, NoAuth, OAuth2ClientCredentials, OAuth2Refresh
from tideover.errors import AccessError, HubUnavailable

CANARY = "canary-7f3a91"
URL = "https://api.example.com"
ALL = [getattr(blocks, name) for name in blocks.__all__]


@pytest.mark.parametrize("block", ALL, ids=lambda b: b.__name__)
class TestPrefectsStandard(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        return request.param


def a_system(kind: type[Block]) -> Block:
    """A valid block of this kind, each of whose secrets holds the canary."""
    secret = SecretStr(CANARY)
    oauth = {"base_url": URL, "token_url": f"{URL}/token", "client_id": "hub", "client_secret": secret}
    key = base64.b64encode(CANARY.encode().ljust(32, b"."))
    fields = {
        OpenSystem: {"base_url": URL, "headers": SecretDict({"X-Tenant": CANARY})},
        ApiKeySystem: {"base_url": URL, "header": "X-Key", "value": secret},
        BasicSystem: {"base_url": URL, "username": "hub", "password": secret},
        BearerSystem: {"base_url": URL, "token": secret, "headers": SecretDict({"X-Tenant": CANARY})},
        OAuth2ClientSystem: {**oauth, "scope": "orders"},
        OAuth2RefreshSystem: {**oauth, "refresh_token": SecretStr(f"{CANARY}-r")},
        StagingDatabase: {"url": SecretStr(f"postgresql://hub:{CANARY}@db/tideover")},
        EncryptionKeys: {"current": "k1", "keys": SecretDict({"k1": key.decode()})},
        SigningSecret: {"secrets": [SecretStr("whsec_" + key.decode()), SecretStr("whsec_" + key.decode())]},
    }
    return kind(**fields[kind])


def canaries() -> tuple[str, ...]:
    """The canary in clear, and as its keys hold it."""
    return CANARY, base64.b64encode(CANARY.encode().ljust(32, b".")).decode()


async def save_raw(api: httpx.AsyncClient, name: str, content: dict[str, str]) -> None:
    """Write into a saved bearer block what the block's own class would not."""
    found = await api.get(f"/block_types/slug/tideover-bearer/block_documents/name/{name}")
    answer = await api.patch(f"/block_documents/{found.json()['id']}", json={"data": content})
    answer.raise_for_status()


SECRET_KINDS = [kind for kind in ALL if kind is not blocks.Applied]


@pytest.mark.parametrize("kind", SECRET_KINDS, ids=lambda k: k.__name__)
def test_block_when_shown_hides_its_secrets(kind: type[Block]) -> None:
    block = a_system(kind)
    for text in (repr(block), str(block), block.model_dump_json(), str(block.model_dump())):
        assert not any(canary in text for canary in canaries())


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (BearerSystem, {"base_url": "ftp://host", "token": CANARY}),
        (BearerSystem, {"base_url": f"https://hub:{CANARY}@host", "token": "t"}),
        (BearerSystem, {"base_url": f"https://host?key={CANARY}", "token": "t"}),
        (BearerSystem, {"base_url": "https://[", "token": CANARY}),
        (BearerSystem, {"base_url": URL, "token": f"{CANARY}\n"}),
        (BearerSystem, {"base_url": URL, "token": " "}),
        (BearerSystem, {"base_url": URL, "token": "t", "headers": {"X-Tenant": f"{CANARY}\r\nX: y"}}),
        (ApiKeySystem, {"base_url": URL, "header": "X Key", "value": CANARY}),
        (BasicSystem, {"base_url": URL, "username": "a:b", "password": CANARY}),
        (StagingDatabase, {"url": f"mysql://hub:{CANARY}@db/hub"}),
        (StagingDatabase, {"url": f"postgresql://hub:{CANARY}@db"}),
        (StagingDatabase, {"url": CANARY}),
        (StagingDatabase, {"url": "sqlite://"}),
        (EncryptionKeys, {"current": "k1", "keys": {"k1": CANARY}}),
        (EncryptionKeys, {"current": "k1", "keys": {"k1": base64.b64encode(CANARY.encode()).decode()}}),
        (SigningSecret, {"secrets": [CANARY]}),
        (SigningSecret, {"secrets": []}),
    ],
)
def test_block_when_wrong_is_refused_without_showing_it(kind: type[Block], fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        kind(**fields)
    text = "".join(traceback.format_exception(caught.value))
    assert not any(canary in text for canary in canaries())


def test_base_url_when_it_ends_in_a_slash_loses_it() -> None:
    assert BearerSystem(base_url=f"{URL}/v3/", token=SecretStr("t")).base_url == f"{URL}/v3"


@pytest.mark.parametrize(
    ("kind", "auth"),
    [
        (OpenSystem, NoAuth()),
        (ApiKeySystem, ApiKey("X-Key", SecretStr(CANARY))),
        (BasicSystem, Basic("hub", SecretStr(CANARY))),
        (BearerSystem, Bearer(SecretStr(CANARY))),
        (OAuth2ClientSystem, OAuth2ClientCredentials(f"{URL}/token", "hub", SecretStr(CANARY), "orders")),
        (
            OAuth2RefreshSystem,
            OAuth2Refresh(f"{URL}/token", "hub", SecretStr(CANARY), SecretStr(f"{CANARY}-r")),
        ),
    ],
)
def test_access_holds_what_the_block_does(kind: type[Block], auth: object) -> None:
    access = a_system(kind).access()  # type: ignore[attr-defined]
    assert (access.base_url, access.auth) == (URL, auth)


def test_keys_when_rotated_still_open_what_was_sealed() -> None:
    old = EncryptionKeys.generate("k1")
    new = old.rotated("k2")
    assert new.current == "k2"
    assert new.material()["k1"] == old.material()["k1"]
    assert {len(key) for key in new.material().values()} == {32}
    with pytest.raises(ValueError, match="k1 already"):
        new.rotated("k1")


def test_signing_secret_when_rotated_comes_first() -> None:
    old = SigningSecret.generate()
    assert old.rotated().material()[1:] == old.material()


@pytest.mark.prefect
@pytest.mark.parametrize("kind", SECRET_KINDS, ids=lambda k: k.__name__)
async def test_block_when_saved_comes_back_and_is_masked_in_the_api(
    kind: type[Block], prefect_raw: httpx.AsyncClient
) -> None:
    await a_system(kind).asave("round-trip", overwrite=True)
    back = await kind.aload("round-trip")
    for field in kind.model_fields:
        assert getattr(back, field) == getattr(a_system(kind), field)
    path = f"/block_types/slug/{kind.get_block_type_slug()}/block_documents/name/round-trip"
    answer = await prefect_raw.get(path)
    assert answer.is_success
    assert not any(canary in answer.text for canary in canaries())


@pytest.mark.prefect
async def test_load_when_the_document_has_a_field_of_an_older_release_leaves_it_out(
    prefect_raw: httpx.AsyncClient,
) -> None:
    block = a_system(BearerSystem)
    await block.asave("older", overwrite=True)
    await save_raw(prefect_raw, "older", {"base_url": URL, "token": CANARY, "old_token": CANARY})
    back = await BearerSystem.aload("older")
    assert back.model_extra is None
    assert CANARY not in str(back.model_dump())


@pytest.mark.prefect
async def test_load_access_gives_the_saved_access(prefect_api: str) -> None:
    await a_system(BearerSystem).asave("crm", overwrite=True)
    access = await load_access("tideover-bearer/crm")
    assert (access.base_url, access.auth) == (URL, Bearer(SecretStr(CANARY)))


@pytest.mark.prefect
async def test_load_when_there_is_no_block_says_how_to_make_it(prefect_api: str) -> None:
    with pytest.raises(AccessError, match=r"system crm: there is no block tideover-bearer/none; create it with"):
        await load_access("tideover-bearer/none", system="crm")
    with pytest.raises(HubUnavailable, match="create it with"):
        await load_staging_url("tideover-staging-database/none")


async def test_load_when_the_type_is_not_ours_names_those_that_are() -> None:
    with pytest.raises(AccessError, match="tideover-oauth2-refresh"):
        await load_access("slack-webhook/crm")


async def test_load_when_the_type_is_for_something_else_is_refused() -> None:
    with pytest.raises(AccessError, match="wrong type; write one of tideover-api-key"):
        await load_access("tideover-staging-database/hub")


@pytest.mark.prefect
async def test_load_when_the_document_does_not_fit_names_the_field_and_not_its_value(
    prefect_raw: httpx.AsyncClient,
) -> None:
    await a_system(BearerSystem).asave("misfit", overwrite=True)
    await save_raw(prefect_raw, "misfit", {"base_url": f"https://hub:{CANARY}@host"})
    with pytest.raises(AccessError, match="base_url: ") as caught:
        await load_access("tideover-bearer/misfit")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.prefect
async def test_load_when_prefect_is_away_says_so(prefect_api: str, dead_api: str) -> None:
    with pytest.raises(AccessError, match="can't be reached"):
        await load_access("tideover-bearer/crm")
    with pytest.raises(HubUnavailable, match="can't be reached"):
        await load_staging_url("tideover-staging-database/hub")


@pytest.mark.prefect
async def test_refresh_token_when_exchanged_is_kept_beside_other_changes(prefect_api: str) -> None:
    block = a_system(OAuth2RefreshSystem)
    await block.asave("rotating", overwrite=True)
    assert isinstance(block, OAuth2RefreshSystem)
    block.client_id = "changed-by-a-person"
    await block.asave("rotating", overwrite=True)
    await keep_refresh_token("tideover-oauth2-refresh/rotating", SecretStr("newer"))
    auth = (await load_access("tideover-oauth2-refresh/rotating")).auth
    assert isinstance(auth, OAuth2Refresh)
    assert (auth.refresh_token.get_secret_value(), auth.client_id) == ("newer", "changed-by-a-person")


@pytest.mark.prefect
async def test_load_signing_secrets_gives_their_bytes(prefect_api: str) -> None:
    secret = SigningSecret.generate()
    await secret.asave("shop", overwrite=True)
    assert await load_signing_secrets("tideover-signing-secret/shop") == secret.material()


@pytest.mark.prefect
async def test_block_secrets_give_the_engine_what_it_asks_for(prefect_api: str) -> None:
    secrets: Secrets = BlockSecrets()
    keys = EncryptionKeys.generate()
    await keys.asave("hub", overwrite=True)
    await StagingDatabase(url=SecretStr("sqlite:////var/hub.db")).asave("hub", overwrite=True)
    await a_system(OAuth2RefreshSystem).asave("engine", overwrite=True)
    block = "tideover-oauth2-refresh/engine"
    await secrets.keep_refresh_token("erp", block, SecretStr("newer"))
    auth = (await secrets.access("erp", block)).auth
    assert isinstance(auth, OAuth2Refresh)
    assert auth.refresh_token.get_secret_value() == "newer"
    assert await secrets.staging_url("tideover-staging-database/hub") == "sqlite:////var/hub.db"
    assert await secrets.encryption_keys("tideover-encryption-keys/hub") == ("k1", dict(keys.material()))
