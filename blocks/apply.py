"""Blocks from a file: `tideover blocks apply`.

    blocks:
      tideover-bearer/crm:
        base_url: "https://crm.example.com"
        token: {env: CRM_TOKEN}
      tideover-staging-database/hub:
        url: {file: /run/secrets/staging_url}

A field that is no secret may be written as it is. A secret comes from the environment (`env`) or from a file (`file`,
relative to this one, its last line break left out); `{literal: ...}` writes it down, for demonstrations on one machine.
Everything is read and checked before anything is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr, ValidationError

from blocks.access import TYPES, BlockError, block_type, translated
from blocks.system import complaints
from blocks.systems import OAuth2RefreshSystem
from tideover.config.document import Path as Place
from tideover.config.strict_yaml import read_yaml
from tideover.errors import ConfigError, Problem, Refused

WAYS = ("env", "file", "literal")


@dataclass(frozen=True, slots=True)
class AppliedBlock:
    """What became of one block."""

    block: str
    what: Literal["created", "updated", "unchanged"]


async def apply_blocks(
    source: Path, *, environ: Mapping[str, str] | None = None, dry_run: bool = False
) -> list[AppliedBlock]:
    """Make Prefect's blocks equal to a file; one result per block, in the file's order.

    Blocks that the file does not name are left alone. Idempotent. With `dry_run`, nothing is written.

    Raises `ConfigError` with everything that is wrong or missing, before anything was written, and `Refused`
    where Prefect can't be asked; what was written until then stays, and the next call goes on from there.
    """
    wanted = read_blocks(source, os.environ if environ is None else environ)
    try:
        with translated(str(source)):
            async with get_client() as client:
                if not dry_run:
                    await register_types(client)
                saved = {name: await _saved(name, block, client) for name, block in wanted.items()}
                return [await _apply(name, block, saved[name], client, dry_run) for name, block in wanted.items()]
    except BlockError as error:
        raise Refused(str(error)) from error


async def register_types(client: PrefectClient) -> None:
    """Make Prefect know every block type of tideover, in its present form. Idempotent."""
    for kind in TYPES.values():
        await kind.aregister_type_and_schema(client=client)


def read_blocks(source: Path, environ: Mapping[str, str]) -> dict[str, Block]:
    """The blocks that a file describes, by `type/name`, not saved yet. Raises `ConfigError` with all mistakes."""
    reader = _Reader(source, environ)
    listed = reader.document.value.get("blocks")
    for key in reader.document.value:
        if key != "blocks":
            reader.note((key,), "is not known here", "the file has one key, `blocks`")
    if not isinstance(listed, dict) or not listed:
        reader.note(("blocks",), "must hold blocks by type and name", "as in tideover-bearer/crm")
        listed = {}
    found = {name: reader.block(name, fields) for name, fields in listed.items()}
    if reader.problems:
        raise ConfigError(reader.document.in_order(reader.problems))
    return {name: block for name, block in found.items() if block is not None}


class _Reader:
    """Turns the file's tree into blocks, and collects what is wrong on the way."""

    def __init__(self, source: Path, environ: Mapping[str, str]) -> None:
        self._folder, self._environ = source.parent, environ
        self.document = read_yaml(source)
        self.problems: list[Problem] = []

    def note(self, path: Place, what: str, mend: str = "") -> None:
        """Remember one mistake."""
        self.problems.append(self.document.problem(path, what, mend, at_key=True))

    def refuse(self, path: Place, what: str, mend: str = "") -> Any:
        """Remember one mistake, and stand for the value that is not there. Any: it is `None` in any place."""
        self.note(path, what, mend)
        return None

    def block(self, name: str, fields: object) -> Block | None:
        """One block, or `None` when something is wrong with it."""
        path, before = ("blocks", name), len(self.problems)
        try:
            kind, _ = block_type(name)
        except BlockError as error:
            self.note(path, str(error))
            return None
        if not isinstance(fields, dict):
            self.note(path, "must be a mapping of the block's fields")
            return None
        for unknown in fields.keys() - kind.model_fields.keys():
            self.note((*path, unknown), "is no field of this block", f"it has {', '.join(kind.model_fields)}")
        sealed = {field.split(".")[0] for field in kind.model_json_schema()["secret_fields"]}
        values = {field: self._value((*path, field), value, field in sealed) for field, value in fields.items()}
        if len(self.problems) > before:
            return None
        try:
            return kind(**values)
        except ValidationError as error:
            for inner, what in complaints(error):
                self.note((*path, *inner), *self._with_mend(kind, inner, what))
            return None

    @staticmethod
    def _with_mend(kind: type[Block], inner: Place, what: str) -> tuple[str, str]:
        """What is wrong, and how to mend it: as the validator says behind a semicolon, else by what the field means."""
        what, _, mend = what.partition("; ")
        field = kind.model_fields.get(str(inner[0])) if inner else None
        return what, mend or (field.description or "" if field is not None else "").rstrip(".")

    def _value(self, path: Place, value: object, is_secret: bool) -> Any:
        """The value, with what it refers to put in. Any: it goes to the block's own validation next."""
        if isinstance(value, dict) and len(value) == 1 and (way := next(iter(value))) in WAYS:
            return self._resolve(path, way, value[way])
        if isinstance(value, dict):
            return {name: self._value((*path, name), inner, is_secret) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._value((*path, place), inner, is_secret) for place, inner in enumerate(value)]
        if is_secret:
            self.note(path, "is a secret", "write {env: VARIABLE} or {file: PATH}; for a demonstration, {literal: ...}")
        return value

    def _resolve(self, path: Place, way: str, place: object) -> object:
        if way == "literal":
            return place
        if not isinstance(place, str) or not place:
            return self.refuse(path, f"`{way}` needs a name")
        if way == "env":
            if not self._environ.get(place):
                return self.refuse(path, f"the environment variable {place} is not set")
            return self._environ[place]
        try:
            return (self._folder / place).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            return self.refuse(path, f"the file {place} can't be read: {type(error).__name__}")


async def _saved(name: str, wanted: Block, client: PrefectClient) -> dict[str, Any] | None:
    """The content of the saved block: empty if this release can't read it, `None` if there is none."""
    slug, _, document = name.partition("/")
    try:
        found = await client.read_block_document_by_name(document, slug)
    except ObjectNotFound:
        return None
    try:
        return _content(type(wanted).model_validate(found.data)) | _stale(found.data, wanted)
    except ValidationError:
        return {}


def _stale(held: dict[str, Any], wanted: Block) -> dict[str, Any]:
    """What a document holds of an older release's fields: Prefect's API would answer it unmasked."""
    return {name: value for name, value in held.items() if name not in {*type(wanted).model_fields, "block_type_slug"}}


def _content(block: Block) -> dict[str, Any]:
    """The block's own fields with their secrets, to be compared and never shown. Any: whatever its fields hold."""
    held = block.model_dump(context={"include_secrets": True})
    return {name: held.get(name) for name in type(block).model_fields}


async def _apply(
    name: str, wanted: Block, saved: dict[str, Any] | None, client: PrefectClient, dry_run: bool
) -> AppliedBlock:
    if isinstance(wanted, OAuth2RefreshSystem):
        _keep_exchanged(wanted, saved or {})
    if _content(wanted) == saved:
        return AppliedBlock(name, "unchanged")
    if not dry_run:
        with translated(name):
            await _write(name, wanted, client)
    return AppliedBlock(name, "created" if saved is None else "updated")


async def _write(name: str, wanted: Block, client: PrefectClient) -> None:
    """Save the block, and take away what is left of older releases' fields: a save alone leaves it there."""
    slug, _, document = name.partition("/")
    await wanted.asave(document, overwrite=True, client=client)
    saved = await client.read_block_document_by_name(document, slug)
    if stale := _stale(saved.data, wanted):
        whole = {field: value for field, value in saved.data.items() if field not in stale}
        change = BlockDocumentUpdate(block_schema_id=saved.block_schema_id, data=whole, merge_existing_data=False)
        await client.update_block_document(saved.id, change)


def _keep_exchanged(wanted: OAuth2RefreshSystem, saved: dict[str, Any]) -> None:
    """Keep the saved refresh token if it descends from the one in the file: that one is worthless by now."""
    granted = wanted.refresh_token.get_secret_value()
    wanted.granted = SecretStr(granted)
    if saved.get("granted") == granted:
        wanted.refresh_token = SecretStr(saved["refresh_token"])
