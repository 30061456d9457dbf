"""The block that says where the staging database is."""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from blocks.system import DOCUMENTATION, KEY_LOGO, SEALED


class StagingDatabase(Block):
    """Where the hub keeps its records: a PostgreSQL database, or an SQLite file on one machine.

    It must be the hub's own: never Prefect's database, and no table of anyone else.

    Example:
        Load a saved block:
        ```python
        from blocks import StagingDatabase

        database = StagingDatabase.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "tideover: staging database"
    _block_type_slug: ClassVar[str | None] = "tideover-staging-database"
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _logo_url: ClassVar[HttpUrl | None] = KEY_LOGO
    model_config: ClassVar[ConfigDict] = SEALED

    url: SecretStr = Field(
        description="The database's URL, as in postgresql://user:password@host/tideover or sqlite:////var/tideover.db."
    )

    @field_validator("url")
    @classmethod
    def _is_ours(cls, value: SecretStr) -> SecretStr:
        try:
            url = make_url(value.get_secret_value().strip())
        except (ArgumentError, ValueError):  # ValueError: of a port that is no number; its text quotes the URL
            raise ValueError("is no database URL; write it as in postgresql://user:password@host/tideover") from None
        backend = url.get_backend_name()
        if backend not in ("sqlite", "postgresql"):
            raise ValueError("must begin with postgresql:// or sqlite://; the hub speaks to no other database")
        if backend == "postgresql" and not url.database:
            raise ValueError("names no database; end it with the database's name, as in .../tideover")
        if backend == "sqlite" and url.database in (None, "", ":memory:"):
            raise ValueError("names no file; a database in memory would lose what the hub acknowledged")
        return SecretStr(value.get_secret_value().strip())
