"""From the name of a block to what the engine needs. Prefect's errors become the hub's here, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx
from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr, ValidationError

import blocks
from blocks.keys import EncryptionKeys, SigningSecret
from blocks.staging import StagingDatabase
from blocks.system import SystemBlock, faults
from blocks.systems import OAuth2RefreshSystem
from tideover.connectors.http.access import Access
from tideover.errors import AccessError, HubUnavailable

CREATE = "create it with `tideover blocks apply`, or in Prefect's UI under Blocks"
TYPES: dict[str, type[Block]] = {
    kind.get_block_type_slug(): kind for kind in (getattr(blocks, name) for name in blocks.__all__)
}

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
B = TypeVar("B", bound=Block)


class BlockError(Exception):
    """A block can't be used; the text says why and what to do. Becomes the caller's own kind of error."""


@contextmanager
def translated(block: str) -> Iterator[None]:
    """Prefect's errors about a block, as `BlockError`. What they quote of the block's content is left out."""
    try:
        yield
    except ValidationError as error:
        raise BlockError(f"block {block} does not fit this release: {faults(error)}; save it again") from None
    except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__
        if isinstance(cause, ObjectNotFound):
            raise BlockError(f"there is no block {block}; {CREATE}") from error
        if isinstance(cause, ValidationError):
            raise BlockError(f"block {block} does not fit this release: {faults(cause)}; save it again") from None
        raise BlockError(explain(error)) from error


def explain(error: Exception) -> str:
    """Why Prefect's API did not do what it was asked, and what to do."""
    reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    if isinstance(reason, httpx.HTTPStatusError):
        status = reason.response.status_code
        if status == 401:
            return "Prefect's API refuses us (401); set PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
        if status >= 500:
            return f"Prefect's API answered {status}; try again"
        return f"Prefect's API answered {status}: {reason.response.text[:300]}"
    if isinstance(reason, (httpx.HTTPError, OSError)):
        return (
            f"Prefect's API can't be reached ({type(reason).__name__}); see that PREFECT_API_URL is right and it runs"
        )
    return f"Prefect's client gave up: {error}"


def block_type(block: str) -> tuple[type[Block], str]:
    """The class and the document's name of a block, from `type/name`. Raises `BlockError` for an unknown type."""
    slug, _, name = block.partition("/")
    if not name or slug not in TYPES:
        raise BlockError(f"there is no block type {slug}; the types are {', '.join(sorted(TYPES))}")
    if not _NAME.fullmatch(name):
        raise BlockError(f"{name} is no name of a block: write lower-case letters, digits and single hyphens")
    return TYPES[slug], name


async def load(block: str, wanted: type[B]) -> B:
    """The saved block, fresh from Prefect. Raises `BlockError`, also when it is of another type than wanted."""
    kind, name = block_type(block)
    if not issubclass(kind, wanted):
        fitting = ", ".join(sorted(slug for slug, other in TYPES.items() if issubclass(other, wanted)))
        raise BlockError(f"block {block} is of the wrong type; write one of {fitting}")
    with translated(block):
        return await kind.aload(name)


async def load_access(block: str, *, system: str = "") -> Access:
    """How to call the system behind a block, such as `tideover-bearer/crm`.

    `system` names it in errors; without it, the block does. Where the access holds an OAuth 2 refresh token, whoever
    exchanges it for a new one must call `keep_refresh_token`.

    Raises `AccessError`: the block is missing, does not fit, or Prefect can't be asked.
    """
    try:
        found = await load(block, SystemBlock)  # type: ignore[type-abstract]  # asked for, never made
    except BlockError as error:
        raise AccessError(system or block, str(error)) from error
    try:
        return found.access()
    except ValueError as error:
        raise AccessError(system or block, f"block {block}: {error}; save it again") from error


async def keep_refresh_token(block: str, token: SecretStr, *, system: str = "") -> None:
    """Write a new refresh token into a block, beside whatever else a person changed there meanwhile.

    Raises `AccessError`, and then the block still holds the old token, which the system no longer takes.
    """
    try:
        fresh = await load(block, OAuth2RefreshSystem)
        with translated(block):
            fresh.refresh_token = token
            await fresh.asave(overwrite=True)
    except BlockError as error:
        raise AccessError(system or block, f"the new refresh token could not be kept: {error}") from error


async def load_staging_url(block: str) -> SecretStr:
    """The staging database's URL. Raises `HubUnavailable`."""
    try:
        return (await load(block, StagingDatabase)).url
    except BlockError as error:
        raise HubUnavailable(f"staging database: {error}") from error


async def load_encryption_keys(block: str) -> EncryptionKeys:
    """The keys that seal payloads. Raises `HubUnavailable`: without them, nothing can be read or acknowledged."""
    try:
        return await load(block, EncryptionKeys)
    except BlockError as error:
        raise HubUnavailable(f"encryption keys: {error}") from error


async def load_signing_secrets(block: str) -> list[bytes]:
    """A webhook's signing secrets, newest first. Raises `AccessError`."""
    try:
        return (await load(block, SigningSecret)).material()
    except BlockError as error:
        raise AccessError(block, str(error)) from error
