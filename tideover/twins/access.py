"""Who may call a twin: one table of credentials, and how each kind is shown in a request.

The values are public on purpose: a twin guards nothing.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

_SIGNING_KEY = b"twin-erp-signs-its-tokens-with-this"


@dataclass(frozen=True, slots=True)
class Credential:
    """What one twin expects. `user` is the client id with OAuth2; `header` is where an API key travels."""

    kind: Literal["bearer", "oauth2", "basic", "api_key"]
    secret: str
    user: str = ""
    header: str = "authorization"

    def headers(self) -> dict[str, str]:
        """The headers of a call that this credential opens; none with OAuth2, where a token must be fetched."""
        match self.kind:
            case "bearer":
                return {self.header: f"Bearer {self.secret}"}
            case "basic":
                return {self.header: basic(self.user, self.secret)}
            case "api_key":
                return {self.header: self.secret}
            case "oauth2":
                return {}


CREDENTIALS: dict[str, Credential] = {
    "crm": Credential("bearer", "twin-crm-token"),
    "erp": Credential("oauth2", "twin-erp-secret", user="twin-erp-client"),
    "marketing": Credential("basic", "twin-marketing-key", user="twin-marketing"),
    "support": Credential("api_key", "twin-support-key", header="x-api-key"),
    "carrier-a": Credential("api_key", "twin-carrier-a-key", header="api-key"),
    "carrier-b": Credential("basic", "twin-carrier-b-secret", user="twin-carrier-b-key"),
}


def basic(user: str, secret: str) -> str:
    """The value of an `Authorization` header of HTTP Basic (RFC 7617)."""
    return f"Basic {b64encode(f'{user}:{secret}'.encode()).decode()}"


def parse_basic(value: str) -> tuple[str, str] | None:
    """User and secret from an `Authorization` header; `None` where it is no HTTP Basic."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, secret = b64decode(encoded, validate=True).decode().partition(":")
    except (Base64Error, UnicodeDecodeError):
        return None
    return user, secret


def is_shown(credential: Credential, headers: Mapping[str, str]) -> bool:
    """Whether a request shows a bearer, basic or API key credential. `headers` has lower-case names."""
    shown = headers.get(credential.header, "")
    if credential.kind == "basic":
        return parse_basic(shown) == (credential.user, credential.secret)
    expected = credential.headers().get(credential.header, "")
    return bool(expected) and hmac.compare_digest(shown.encode(), expected.encode())


def issue_token(now: float, lifetime_s: float) -> str:
    """An access token that holds its own end, so that it outlives a restart of the twin."""
    end_us = round((now + lifetime_s) * 1_000_000)
    return f"twin-erp.{end_us}.{_signature(end_us)}"


def is_token_good(value: str, now: float) -> bool:
    """Whether an `Authorization` header carries a token that was issued here and has not ended."""
    scheme, _, token = value.partition(" ")
    name, _, rest = token.partition(".")
    end_us, _, signature = rest.partition(".")
    if scheme.lower() != "bearer" or name != "twin-erp" or not (end_us.isascii() and end_us.isdigit()):
        return False
    return hmac.compare_digest(signature.encode(), _signature(int(end_us)).encode()) and now * 1_000_000 < int(end_us)


def _signature(end_us: int) -> str:
    return hmac.new(_SIGNING_KEY, b"%d" % end_us, sha256).hexdigest()[:32]
