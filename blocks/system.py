"""What every system block has in common: an address, further headers, and no room for stale fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from prefect.blocks.abstract import CredentialsBlock
from prefect.types import SecretDict
from pydantic import AfterValidator, ConfigDict, Field, HttpUrl, SecretStr, ValidationError, field_validator

from tideover.connectors.http.access import Access, Auth, check_header

DOCUMENTATION = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")
# Prefect's API takes no `data:` URI here; these images are Prefect's own, pinned to one commit.
_LOGOS = (
    "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos"
)
KEY_LOGO = HttpUrl(f"{_LOGOS}/secret.png")
SYSTEM_LOGO = HttpUrl(f"{_LOGOS}/webhook.png")

# A field that a release renamed or dropped stays in saved documents. Prefect's own setting would load it as an extra,
# in plain text even where it was a secret; here it is left out. Validation errors don't repeat what they refuse.
SEALED = ConfigDict(extra="ignore", hide_input_in_errors=True)


def faults(error: ValidationError) -> str:
    """The fields that are wrong and why, without their values: a validation error's own text shows the input."""
    return "; ".join(f"{'.'.join(map(str, path)) or 'the block'}: {what}" for path, what in complaints(error))


def complaints(error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    """Each wrong field, by its path in the block, and what is wrong with it in plain words, without its value."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [(e["loc"], _PLAIN.get(e["type"]) or _plain(e["msg"])) for e in found]


_PLAIN = {
    "missing": "is missing",
    "string_type": "must be a text",
    "string_too_short": "is empty",
    "string_pattern_mismatch": "holds characters that it may not have, or is too long",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "bool_type": "must be true or false",
}


def _plain(told: str) -> str:
    """A validator's own words, without pydantic's before them."""
    return told.removeprefix("Value error, ").replace("Input should be", "must be")


def check_url(value: str) -> str:
    """An absolute http or https URL without a trailing slash. Raises `ValueError` that doesn't repeat the value."""
    try:
        parts = urlsplit(value.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is no URL; write it as in https://api.example.com") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("must begin with http:// or https:// and name a host, as in https://api.example.com")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user name or password; they belong in the block's own fields, where they are sealed")
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment; write only the part that all paths share")
    return value.strip().rstrip("/")


def check_filled(value: SecretStr) -> SecretStr:
    """A secret that holds something, without a line break at its end. Raises `ValueError` otherwise."""
    text = value.get_secret_value()
    if not text.strip():
        raise ValueError("is empty")
    if any(mark in text for mark in "\r\n\x00"):
        raise ValueError("holds a line break; was it read from a file with its last newline?")
    return value


Url = Annotated[str, AfterValidator(check_url)]
Filled = Annotated[SecretStr, AfterValidator(check_filled)]


class SystemBlock(CredentialsBlock, ABC):
    """The address of a system and how to get in. Abstract: one subclass per kind of credentials."""

    model_config: ClassVar[ConfigDict] = SEALED

    base_url: Url = Field(
        description="Where the system's API begins, as in https://api.example.com.",
        examples=["https://api.example.com"],
    )
    headers: SecretDict = Field(
        default=SecretDict({}),
        description="Further headers of every call, such as a tenant or a subscription key.",
    )

    ca: str | None = Field(
        default=None, description="Certificates in PEM that are trusted beside the machine's own, for a private CA."
    )

    @field_validator("headers")
    @classmethod
    def _headers_are_text(cls, value: SecretDict) -> SecretDict:
        for name, text in value.get_secret_value().items():
            if not isinstance(text, str):
                raise ValueError(f"the value of header {name} is no text")  # noqa: TRY004 - pydantic takes no other
            check_header(name, text)
        return value

    @abstractmethod
    def auth(self) -> Auth:
        """The credentials as the connector takes them."""

    def access(self) -> Access:
        """What a connector needs to call this system."""
        headers = {str(name): SecretStr(str(text)) for name, text in self.headers.get_secret_value().items()}
        return Access(self.base_url, self.auth(), headers, self.ca)

    def get_client(self, *args: Any, **kwargs: Any) -> Access:
        """The same as `access`: what Prefect asks of a block with credentials. Any: Prefect's own signature."""
        return self.access()

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [("name", self._block_document_name), ("base_url", self.base_url)]
