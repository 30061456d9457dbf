"""What a system's block holds: its address and its secrets. Values only; nothing here is ever printed whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

ClientStyle = Literal["basic", "body"]  # where a client's id and secret stand in a token request, RFC 6749 2.3.1

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class NoAuth:
    """The system asks for no credential, or `headers` hold it."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    header: str
    value: SecretStr


@dataclass(frozen=True, slots=True)
class Basic:
    username: str
    password: SecretStr


@dataclass(frozen=True, slots=True)
class Bearer:
    token: SecretStr


@dataclass(frozen=True, slots=True)
class OAuth2ClientCredentials:
    """RFC 6749 4.4: the client's own credentials buy a token."""

    token_url: str
    client_id: str
    client_secret: SecretStr
    scope: str = ""
    style: ClientStyle = "basic"


@dataclass(frozen=True, slots=True)
class OAuth2Refresh:
    """RFC 6749 6: a refresh token buys a token, and may be replaced by a newer one each time."""

    token_url: str
    client_id: str
    client_secret: SecretStr
    refresh_token: SecretStr
    style: ClientStyle = "basic"


Auth = NoAuth | ApiKey | Basic | Bearer | OAuth2ClientCredentials | OAuth2Refresh


@dataclass(frozen=True, slots=True)
class Access:
    """Where a system is and what opens it. `ca`: certificates (PEM text) that are trusted beside the machine's own.

    Raises `ValueError`, without the value, for an address or a header that no request can carry.
    """

    base_url: str
    auth: Auth = NoAuth()
    headers: Mapping[str, SecretStr] = field(default_factory=dict)
    ca: str | None = None

    def __post_init__(self) -> None:
        check_url(self.base_url, "base_url")
        if urlsplit(self.base_url).query:
            raise ValueError("base_url has a query; put it in the description's params")
        for name, value in self.headers.items():
            check_header(name, value.get_secret_value())
        match self.auth:
            case ApiKey(header=header, value=value):
                check_header(header, value.get_secret_value())
            case Bearer(token=token):
                check_header("Authorization", token.get_secret_value())
            case OAuth2ClientCredentials(token_url=url) | OAuth2Refresh(token_url=url):
                check_url(url, "token_url")
            case _:
                pass

    def secrets(self) -> Iterator[str]:
        """Every secret in clear, for finding them in texts that must not hold them."""
        yield from (value.get_secret_value() for value in self.headers.values())
        match self.auth:
            case ApiKey(value=secret) | Basic(password=secret) | Bearer(token=secret):
                yield secret.get_secret_value()
            case OAuth2ClientCredentials(client_secret=secret):
                yield secret.get_secret_value()
            case OAuth2Refresh(client_secret=secret, refresh_token=refresh):
                yield secret.get_secret_value()
                yield refresh.get_secret_value()
            case _:
                pass


def check_url(url: str, what: str) -> None:
    """Raises `ValueError`, without the address, unless it is http(s) with a host and no user, password or fragment."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{what} is no http or https address")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{what} holds a user or password; they belong in the block's own fields")
    if parts.fragment or re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError(f"{what} has a fragment, a space or a control character")


def check_header(name: str, value: str) -> None:
    """Raises `ValueError`, without the value, unless it is a header that every server reads alike (RFC 9110 5.5)."""
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError("a header's name holds a character that no header may have")
    if not _HEADER_VALUE.fullmatch(value) or value != value.strip(" "):
        raise ValueError(
            f"the value of header {name} holds a line break, an outer space or another character "
            "that no header may have"
        )
