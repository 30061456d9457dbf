"""The blocks that hold key material: payload encryption at rest, and the signatures of webhooks.

Both hold several secrets, so that one can be replaced while the other is still in use. `SecretDict`, as Prefect's API
answers the values of a plain dict of `SecretStr` unmasked.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from typing import ClassVar, Self

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from blocks.system import DOCUMENTATION, KEY_LOGO, SEALED

KEY_BYTES = 32  # AES-256
_PREFIX = "whsec_"  # Standard Webhooks: a base64 secret of 24 to 64 bytes behind this prefix


def _decode(text: object, what: str) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"{what} is no text; write it in base64")  # noqa: TRY004 - pydantic reports ValueErrors only
    try:
        return base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        raise ValueError(f"{what} is not base64") from None


def new_key() -> str:
    """A random 32-byte key in base64."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


class EncryptionKeys(Block):
    """The keys that seal payloads at rest. New payloads use the current key; the others only open old ones.

    A key may be taken out when no record is left that was sealed with it, and not before.

    Example:
        Load a saved block:
        ```python
        from blocks import EncryptionKeys

        keys = EncryptionKeys.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "tideover: encryption keys"
    _block_type_slug: ClassVar[str | None] = "tideover-encryption-keys"
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _logo_url: ClassVar[HttpUrl | None] = KEY_LOGO
    model_config: ClassVar[ConfigDict] = SEALED

    current: str = Field(
        pattern=r"^[A-Za-z0-9_-]{1,40}$",
        description="The id of the key that seals new payloads. It is stored beside each of them.",
    )
    keys: SecretDict = Field(description="Every key by its id, as 32 random bytes in base64.")

    @model_validator(mode="after")
    def _keys_are_whole(self) -> Self:
        held = self.keys.get_secret_value()
        for name, text in held.items():
            if len(_decode(text, f"key {name}")) != KEY_BYTES:
                raise ValueError(f"key {name} is not {KEY_BYTES} bytes long")
        if self.current not in held:
            raise ValueError(f"`current` names {self.current}, which `keys` does not hold")
        return self

    @classmethod
    def generate(cls, name: str = "k1") -> Self:
        """A block with one new key; not saved yet."""
        return cls(current=name, keys=SecretDict({name: new_key()}))

    def rotated(self, name: str) -> Self:
        """A copy with a new current key, which still opens what the old ones sealed; not saved yet.

        Raises `ValueError` when the name is taken, as what was sealed with the old key of that name would be lost.
        """
        held = self.keys.get_secret_value()
        if name in held:
            raise ValueError(f"there is a key {name} already; choose a new name")
        return type(self)(current=name, keys=SecretDict({**held, name: new_key()}))

    def material(self) -> Mapping[str, bytes]:
        """Every key's 32 bytes by its id."""
        return {str(n): _decode(text, f"key {n}") for n, text in self.keys.get_secret_value().items()}


class SigningSecret(Block):
    """The secrets that a webhook's sender signs with, newest first (Standard Webhooks).

    Any of them opens the door, so that a sender can change to a new one without a gap.

    Example:
        Load a saved block:
        ```python
        from blocks import SigningSecret

        secret = SigningSecret.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "tideover: signing secret"
    _block_type_slug: ClassVar[str | None] = "tideover-signing-secret"
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _logo_url: ClassVar[HttpUrl | None] = KEY_LOGO
    model_config: ClassVar[ConfigDict] = SEALED

    secrets: list[SecretStr] = Field(
        min_length=1, description="The secrets, newest first: each is whsec_ and 24 to 64 bytes in base64."
    )

    @field_validator("secrets")
    @classmethod
    def _secrets_are_whole(cls, value: list[SecretStr]) -> list[SecretStr]:
        for place, secret in enumerate(value, start=1):
            text = secret.get_secret_value()
            if not text.startswith(_PREFIX):
                raise ValueError(f"secret {place} does not begin with {_PREFIX}")
            if not 24 <= len(_decode(text.removeprefix(_PREFIX), f"secret {place}")) <= 64:
                raise ValueError(f"secret {place} is not 24 to 64 bytes long")
        return value

    @classmethod
    def generate(cls) -> Self:
        """A block with one new secret; not saved yet."""
        return cls(secrets=[SecretStr(_PREFIX + new_key())])

    def rotated(self) -> Self:
        """A copy with a new secret before the others; not saved yet."""
        return type(self)(secrets=[SecretStr(_PREFIX + new_key()), *self.secrets])

    def material(self) -> list[bytes]:
        """The secrets' bytes, newest first."""
        return [_decode(s.get_secret_value().removeprefix(_PREFIX), "a secret") for s in self.secrets]
