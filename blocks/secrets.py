"""The engine's secrets (`tideover.bootstrap.Secrets`), from Prefect blocks. The engine finds this class by its name."""

from __future__ import annotations

from pydantic import SecretStr

from blocks.access import keep_refresh_token, load_access, load_encryption_keys, load_staging_url
from tideover.connectors.http.access import Access


class BlockSecrets:
    """Reads each block anew: what a person changed in the UI counts from the next reload on."""

    async def access(self, system: str, block: str) -> Access:
        """A system's address and credentials. Raises `AccessError`."""
        return await load_access(block, system=system)

    async def keep_refresh_token(self, system: str, block: str, token: SecretStr) -> None:
        """Store a refresh token that the provider exchanged. Raises `AccessError`: the block has the old one still."""
        await keep_refresh_token(block, token, system=system)

    async def staging_url(self, block: str) -> str:
        """The staging database's URL. Raises `HubUnavailable`."""
        return (await load_staging_url(block)).get_secret_value()

    async def encryption_keys(self, block: str) -> tuple[str, dict[str, bytes]]:
        """The current key's id, and every key by its id. Raises `HubUnavailable`."""
        keys = await load_encryption_keys(block)
        return keys.current, dict(keys.material())
