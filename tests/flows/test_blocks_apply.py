"""`apply_blocks`: a file becomes blocks, wholly or not at all, and shows no secret."""

from __future__ import annotations

import traceback
from pathlib import Path

import httpx
import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from pydantic import SecretStr

from blocks import BearerSystem, OAuth2RefreshSystem, OpenSystem, StagingDatabase
from blocks.access import keep_refresh_token
from blocks.apply import AppliedBlock, apply_blocks, read_blocks, register_types
from blocks.declared import missing
from tideover.config.models import Hub
from tideover.errors import ConfigError, Refused

CANARY = "canary-7f3a91"


def a_file(folder: Path, text: str) -> Path:
    path = folder / "blocks.yaml"
    path.write_text(text)
    return path


def a_hub(folder: Path, name: str) -> Path:
    return a_file(
        folder,
        f"""
blocks:
  tideover-bearer/{name}:
    base_url: "http://127.0.0.1:7501"
    token: {{env: CRM_TOKEN}}
    headers: {{X-Tenant: {{env: TENANT}}}}
  tideover-staging-database/{name}: {{url: {{file: url.txt}}}}
  tideover-signing-secret/{name}: {{secrets: [{{literal: whsec_{"QUFB" * 11}}}]}}
  tideover-encryption-keys/{name}: {{current: k1, keys: {{k1: {{literal: {"QUFB" * 10 + "QUE="}}}}}}}
""",
    )


ENVIRON = {"CRM_TOKEN": CANARY, "TENANT": "acme"}


def problems(path: Path, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_blocks(path, environ or {})
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return [f"{p.key}: {p.what}" for p in caught.value.problems]


@pytest.mark.prefect
async def test_apply_when_repeated_changes_nothing(prefect_api: str, tmp_path: Path) -> None:
    (tmp_path / "url.txt").write_text("postgresql://hub:secret@db/tideover\n")
    path = a_hub(tmp_path, "again")
    first = await apply_blocks(path, environ=ENVIRON)
    assert {applied.what for applied in first} == {"created"}
    assert first[0].block == "tideover-bearer/again"
    assert {applied.what for applied in await apply_blocks(path, environ=ENVIRON)} == {"unchanged"}
    assert (await BearerSystem.aload("again")).token.get_secret_value() == CANARY
    assert (await StagingDatabase.aload("again")).url.get_secret_value().endswith("/tideover")


@pytest.mark.prefect
async def test_apply_when_a_secret_changed_updates_that_block_only(prefect_api: str, tmp_path: Path) -> None:
    (tmp_path / "url.txt").write_text("sqlite:////var/lib/tideover.db")
    path = a_hub(tmp_path, "changed")
    await apply_blocks(path, environ=ENVIRON)
    second = await apply_blocks(path, environ={**ENVIRON, "CRM_TOKEN": "newer"})
    assert [a for a in second if a.what != "unchanged"] == [AppliedBlock("tideover-bearer/changed", "updated")]


@pytest.mark.prefect
async def test_apply_when_dry_writes_nothing(prefect_api: str, tmp_path: Path) -> None:
    path = a_file(tmp_path, "blocks: {tideover-open/dry: {base_url: 'http://127.0.0.1:7501'}}")
    assert await apply_blocks(path, environ={}, dry_run=True) == [AppliedBlock("tideover-open/dry", "created")]
    assert await apply_blocks(path, environ={}) == [AppliedBlock("tideover-open/dry", "created")]


@pytest.mark.prefect
async def test_apply_when_one_block_is_wrong_writes_none(prefect_api: str, tmp_path: Path) -> None:
    path = a_file(
        tmp_path,
        "blocks:\n  tideover-open/half: {base_url: 'http://127.0.0.1:1'}\n"
        "  tideover-bearer/half: {base_url: 'http://127.0.0.1:1', token: {env: GONE}}\n",
    )
    with pytest.raises(ConfigError):
        await apply_blocks(path, environ={})
    with pytest.raises(ValueError, match="Unable to find"):
        await Block.aload("tideover-open/half")


@pytest.mark.prefect
async def test_apply_when_the_refresh_token_was_exchanged_keeps_the_newer(prefect_api: str, tmp_path: Path) -> None:
    name = "tideover-oauth2-refresh/rotated"
    path = a_file(
        tmp_path,
        f"blocks: {{{name}: {{base_url: 'http://h', token_url: 'http://h/t', client_id: c, "
        "client_secret: {env: S}, refresh_token: {env: R}}}",
    )
    await apply_blocks(path, environ={"S": "s", "R": "granted"})
    await keep_refresh_token(name, SecretStr("exchanged"))
    assert [a.what for a in await apply_blocks(path, environ={"S": "s", "R": "granted"})] == ["unchanged"]
    assert (await OAuth2RefreshSystem.aload("rotated")).refresh_token.get_secret_value() == "exchanged"
    assert [a.what for a in await apply_blocks(path, environ={"S": "s", "R": "granted anew"})] == ["updated"]
    assert (await OAuth2RefreshSystem.aload("rotated")).refresh_token.get_secret_value() == "granted anew"


@pytest.mark.prefect
async def test_apply_when_a_document_has_a_secret_of_an_older_release_takes_it_away(
    prefect_raw: httpx.AsyncClient, tmp_path: Path
) -> None:
    path = a_file(tmp_path, "blocks: {tideover-bearer/aged: {base_url: 'http://h', token: {literal: t}}}")
    await apply_blocks(path, environ={})
    url = "/block_types/slug/tideover-bearer/block_documents/name/aged"
    document = (await prefect_raw.get(url)).json()["id"]
    change = {"data": {"base_url": "http://h", "token": "t", "old_token": CANARY}}
    (await prefect_raw.patch(f"/block_documents/{document}", json=change)).raise_for_status()
    assert CANARY in (await prefect_raw.get(url)).text
    assert [a.what for a in await apply_blocks(path, environ={})] == ["updated"]
    assert CANARY not in (await prefect_raw.get(url)).text
    assert [a.what for a in await apply_blocks(path, environ={})] == ["unchanged"]


@pytest.mark.prefect
async def test_apply_when_prefect_is_away_says_so(prefect_api: str, dead_api: str, tmp_path: Path) -> None:
    path = a_file(tmp_path, "blocks: {tideover-open/away: {base_url: 'http://127.0.0.1:7501'}}")
    with pytest.raises(Refused, match="can't be reached"):
        await apply_blocks(path, environ={})


def test_read_when_several_variables_are_missing_names_them_all(tmp_path: Path) -> None:
    (tmp_path / "url.txt").write_text("sqlite:////var/lib/tideover.db")
    found = problems(a_hub(tmp_path, "none"))
    assert len(found) == 2
    assert "CRM_TOKEN is not set" in found[0]
    assert "TENANT is not set" in found[1]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("blocks: {tideover-bearer/crm: {base_url: 'http://h', token: canary-7f3a91}}", "is a secret"),
        ("blocks: {tideover-bearer/crm: {base_url: 'http://h', tokn: {literal: canary-7f3a91}}}", "is no field"),
        ("blocks: {tideover-bearer/crm: {base_url: 'http://h', token: {file: gone}}}", "can't be read"),
        ("blocks: {tideover-bearer/crm: {base_url: 'ftp://h', token: {literal: canary-7f3a91}}}", "base_url: "),
        ("blocks: {tideover-bearer/crm: {base_url: 'http://h', token: {env: [a]}}}", "needs a name"),
        ("blocks: {tideover-bearer/crm: [canary-7f3a91]}", "must be a mapping"),
        ("blocks: {tideover-barer/crm: {}}", "there is no block type tideover-barer"),
        ("blocks: {tideover-open/Crm: {base_url: 'http://h'}}", "is no name"),
        ("blocks: []", "must hold blocks"),
        ("block: {}", "is not known here"),
    ],
)
def test_read_when_something_is_wrong_says_what(tmp_path: Path, text: str, what: str) -> None:
    assert any(what in problem for problem in problems(a_file(tmp_path, text)))


def test_read_when_fields_are_wrong_shows_each_at_its_line_in_plain_words(tmp_path: Path) -> None:
    text = """blocks:
  tideover-bearer/crm:
    token: {literal: ""}
  tideover-open/erp:
    base_url: 7
  tideover-oauth2-client/erp:
    base_url: "ftp://h"
    token_url: "http://h"
    client_id: ""
    client_secret: {literal: canary-7f3a91}
    style: loud
  tideover-staging-database/hub: {url: {literal: "postgresql://u:p@h:canary-7f3a91/x"}}
"""
    with pytest.raises(ConfigError) as caught:
        read_blocks(a_file(tmp_path, text), {})
    found = [(p.line, p.key.rpartition(".")[2], p.what) for p in caught.value.problems]
    assert found == [
        (2, "base_url", "is missing"),
        (3, "token", "is empty"),
        (5, "base_url", "must be a text"),
        (7, "base_url", "must begin with http:// or https:// and name a host, as in https://api.example.com"),
        (9, "client_id", "is empty"),
        (11, "style", "must be 'basic' or 'body'"),
        (12, "url", "is no database URL"),
    ]
    assert all(p.mend or ", as in" in p.what for p in caught.value.problems)
    assert CANARY not in str(caught.value)


async def test_missing_blocks_of_a_hub_are_found(prefect: PrefectClient) -> None:
    await register_types(prefect)
    await OpenSystem(base_url="http://127.0.0.1:1").asave("declared-here", overwrite=True, client=prefect)
    route = {"source": {"system": "crm", "stream": "orders"}, "target": {"system": "erp", "operation": "create"}}
    tree = {
        "name": "shop",
        "systems": {"crm": {"block": "tideover-open/declared-here"}, "erp": {"block": "tideover-bearer/nowhere"}},
        "routes": {"orders": {**route, "key": "id"}},
        "encryption": "tideover-encryption-keys/nowhere",
    }
    assert await missing(Hub.model_validate(tree)) == ["tideover-bearer/nowhere", "tideover-encryption-keys/nowhere"]


async def test_missing_blocks_where_prefect_does_not_answer_are_refused(dead_api: str) -> None:
    route = {"source": {"system": "crm", "stream": "orders"}, "target": {"system": "crm", "operation": "create"}}
    tree = {"name": "shop", "systems": {"crm": {"block": "tideover-open/crm"}}, "routes": {"a": {**route, "key": "id"}}}
    with pytest.raises(Refused, match="can't be reached"):
        await missing(Hub.model_validate(tree))
