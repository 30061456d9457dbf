"""The block in which `tideover deploy` remembers what it made of `hub.yaml` the last time."""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl

from blocks.system import DOCUMENTATION, SYSTEM_LOGO


class Applied(Block):
    """What tideover last wrote to Prefect for one hub. The hub's own notes: there is nothing to set here.

    From them, and from what Prefect holds now, `tideover deploy` tells what a person changed. Without them it takes
    every difference for a person's work, and leaves it alone.

    Example:
        Load a saved block:
        ```python
        from blocks import Applied

        applied = Applied.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "tideover: applied"
    _block_type_slug: ClassVar[str | None] = "tideover-applied"
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _logo_url: ClassVar[HttpUrl | None] = SYSTEM_LOGO
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    objects: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="By object and field, a digest of the value that was written.",
    )
