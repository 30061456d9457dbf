"""The blocks of systems: one per way to get in. Each holds an address and its secrets, and nothing about records."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, HttpUrl, SecretStr, field_validator

from blocks.system import DOCUMENTATION, SYSTEM_LOGO, Filled, SystemBlock, Url
from tideover.connectors.http.access import (
    ApiKey,
    Auth,
    Basic,
    Bearer,
    ClientStyle,
    NoAuth,
    OAuth2ClientCredentials,
    OAuth2Refresh,
)


class OpenSystem(SystemBlock):
    """A system that asks for no credentials, such as one behind a private network.

    Example:
        Load a saved block:
        ```python
        from blocks import OpenSystem

        system = OpenSystem.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "tideover: system without credentials"
    _block_type_slug: ClassVar[str | None] = "tideover-open"
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _logo_url: ClassVar[HttpUrl | None] = SYSTEM_LOGO

    def auth(self) -> Auth:
        """No credentials."""
        return NoAuth()


class ApiKeySystem(SystemBlock):
    """A system that takes a key in a header of its own, such as `X-API-Key`.

    Example:
        Load a saved block:
        ```python
        from blocks import ApiKeySystem

        system = ApiKeySystem.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "tideover: system with an API key"
    _block_type_slug: ClassVar[str | None] = "tideover-api-key"
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _logo_url: ClassVar[HttpUrl | None] = SYSTEM_LOGO

    header: str = Field(
        default="X-API-Key",
        pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        description="The name of the header that carries the key.",
    )
    value: Filled = Field(description="The key.")

    def auth(self) -> Auth:
        """The credentials as the connector takes them."""
        return ApiKey(header=self.header, value=self.value)


class BasicSystem(SystemBlock):
    """A system that takes a user name and a password (RFC 7617).

    Example:
        Load a saved block:
        ```python
        from blocks import BasicSystem

        system = BasicSystem.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "tideover: system with a password"
    _block_type_slug: ClassVar[str | None] = "tideover-basic"
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _logo_url: ClassVar[HttpUrl | None] = SYSTEM_LOGO

    username: str = Field(min_length=1, description="The user name.")
    password: Filled = Field(description="The password, or the token that the system wants in its place.")

    @field_validator("username")
    @classmethod
    def _no_colon(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("holds a colon, which RFC 7617 gives no place in a user name")
        return value

    def auth(self) -> Auth:
        """The credentials as the connector takes them."""
        return Basic(username=self.username, password=self.password)


class BearerSystem(SystemBlock):
    """A system that takes a long-lived token (RFC 6750).

    Example:
        Load a saved block:
        ```python
        from blocks import BearerSystem

        system = BearerSystem.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "tideover: system with a token"
    _block_type_slug: ClassVar[str | None] = "tideover-bearer"
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _logo_url: ClassVar[HttpUrl | None] = SYSTEM_LOGO

    token: Filled = Field(description="The token.")

    def auth(self) -> Auth:
        """The credentials as the connector takes them."""
        return Bearer(token=self.token)


class OAuth2ClientSystem(SystemBlock):
    """A system that gives short-lived tokens for a client's id and secret (RFC 6749 4.4).

    Example:
        Load a saved block:
        ```python
        from blocks import OAuth2ClientSystem

        system = OAuth2ClientSystem.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "tideover: system with OAuth 2 client credentials"
    _block_type_slug: ClassVar[str | None] = "tideover-oauth2-client"
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _logo_url: ClassVar[HttpUrl | None] = SYSTEM_LOGO

    token_url: Url = Field(description="Where tokens are given.")
    client_id: str = Field(min_length=1, description="The client's id.")
    client_secret: Filled = Field(description="The client's secret.")
    scope: str = Field(default="", description="The scopes to ask for, divided by spaces; empty for the usual ones.")
    style: ClientStyle = Field(
        default="basic", description="How the client's id and secret travel: in a basic header, or in the body."
    )

    def auth(self) -> Auth:
        """The credentials as the connector takes them."""
        return OAuth2ClientCredentials(
            token_url=self.token_url,
            client_id=self.client_id,
            client_secret=self.client_secret,
            scope=self.scope,
            style=self.style,
        )


class OAuth2RefreshSystem(SystemBlock):
    """A system that gives short-lived tokens for a refresh token (RFC 6749 6), which it may exchange for a new one.

    The hub writes an exchanged refresh token back to this block, as the old one is worthless from then on.

    Example:
        Load a saved block:
        ```python
        from blocks import OAuth2RefreshSystem

        system = OAuth2RefreshSystem.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str | None] = "tideover: system with an OAuth 2 refresh token"
    _block_type_slug: ClassVar[str | None] = "tideover-oauth2-refresh"
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _logo_url: ClassVar[HttpUrl | None] = SYSTEM_LOGO

    token_url: Url = Field(description="Where tokens are given.")
    client_id: str = Field(min_length=1, description="The client's id.")
    client_secret: Filled = Field(description="The client's secret.")
    refresh_token: Filled = Field(description="The refresh token; the hub keeps it up to date.")
    style: ClientStyle = Field(
        default="basic", description="How the client's id and secret travel: in a basic header, or in the body."
    )
    granted: SecretStr = Field(
        default=SecretStr(""),
        description="The refresh token that `tideover blocks apply` last set; it tells a new grant from an old one.",
    )

    def auth(self) -> Auth:
        """The credentials as the connector takes them."""
        return OAuth2Refresh(
            token_url=self.token_url,
            client_id=self.client_id,
            client_secret=self.client_secret,
            refresh_token=self.refresh_token,
            style=self.style,
        )
