"""The blocks that a hub's file names: whether each is of a type that fits its place, and whether Prefect has it."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from blocks.access import TYPES, BlockError, block_type, translated
from blocks.keys import EncryptionKeys
from blocks.staging import StagingDatabase
from blocks.system import SystemBlock
from tideover.config.document import Path as Place
from tideover.config.models import Hub
from tideover.config.strict_yaml import read_yaml
from tideover.errors import ConfigError, Problem, Refused


def check_types(hub: Hub, hub_file: Path) -> None:
    """Raise `ConfigError` with every block whose type is not known, or does not fit where the file names it."""
    document = read_yaml(hub_file)
    problems: list[Problem] = []
    for place, block, wanted in _named(hub):
        if found := _fault(block, wanted):
            problems.append(document.problem(place, *found))
    if problems:
        raise ConfigError(document.in_order(problems))


async def missing(hub: Hub) -> list[str]:
    """The blocks that the file names and Prefect does not have, in the file's order.

    Raises `Refused` where Prefect can't be asked.
    """
    found = []
    try:
        async with get_client() as client:
            for block in dict.fromkeys(block for _, block, _ in _named(hub)):
                slug, _, name = block.partition("/")
                with translated(block):
                    try:
                        await client.read_block_document_by_name(name, slug, include_secrets=False)
                    except ObjectNotFound:
                        found.append(block)
    except BlockError as error:
        raise Refused(str(error)) from error
    return found


def _named(hub: Hub) -> Iterator[tuple[Place, str, type[Block]]]:
    """Each place that names a block, the block, and what it must be."""
    for name, system in hub.systems.items():
        yield ("systems", name, "block"), system.block, SystemBlock
    if hub.staging.block is not None:
        yield ("staging", "block"), hub.staging.block, StagingDatabase
    if hub.encryption is not None:
        yield ("encryption",), hub.encryption, EncryptionKeys


def _fault(block: str, wanted: type[Block]) -> tuple[str, str] | None:
    """What is wrong with a block's type, and how to mend it."""
    slug, _, name = block.partition("/")
    fitting = sorted(other for other, kind in TYPES.items() if issubclass(kind, wanted))
    if slug in TYPES and issubclass(TYPES[slug], wanted):
        try:
            block_type(block)
        except BlockError as error:
            return str(error), ""
        return None
    near = get_close_matches(slug, fitting, 1, 0.6)
    mend = f"did you mean `{near[0]}/{name}`?" if near and slug not in TYPES else f"write one of {', '.join(fitting)}"
    if slug in TYPES:
        return f"a block of type `{slug}` does not fit here", mend
    return f"there is no block type `{slug}`", mend
