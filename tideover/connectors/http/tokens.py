"""OAuth 2.0 token requests (RFC 6749): built, sent once, read."""

from __future__ import annotations

import base64
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote_plus, urlencode

from pydantic import SecretStr

from tideover.connectors.http.access import OAuth2ClientCredentials, OAuth2Refresh, check_header
from tideover.connectors.http.answer import Answer, Undecodable
from tideover.connectors.http.scrub import Hidden, code_or
from tideover.connectors.http.throttle import DEFAULT_DELAY_S, delay_s, retry_after_s
from tideover.model import CREDENTIALS, Throttled, Unknown, Unsent

# (address, headers, body) -> what came back; a POST with its own deadline
Exchange = Callable[[str, list[tuple[str, str]], bytes], Awaitable[Answer | Unsent | Unknown]]

NO_TOKEN = "token"  # noqa: S105  the Unsent code when the token endpoint can't be used now
_MARGIN_S = 60.0  # a token is replaced this long before it ends, or after four fifths of its life


@dataclass(frozen=True, slots=True)
class Token:
    """`lasts_s`: how long to use it from now on; without a stated end, until it is refused."""

    access: SecretStr
    lasts_s: float
    refresh: SecretStr | None = None


async def fetch(auth: OAuth2ClientCredentials | OAuth2Refresh, exchange: Exchange) -> Token | Unsent | Throttled:
    """A new token. A refusal (400, 401, 403) is the credential's fault; all else says to try later.

    Whatever happens here, the record that waits for the token was not sent.
    """
    headers, body = token_request(auth)
    answer = await exchange(auth.token_url, headers, body)
    if not isinstance(answer, Answer):
        return Unsent(NO_TOKEN, f"token endpoint: {answer.code}")
    if answer.status in (400, 401, 403):
        error = _error(answer, Hidden(lambda: _secrets_of(auth)))
        return Unsent(CREDENTIALS, f"token endpoint: http {answer.status} {error}".rstrip())
    if answer.status == 429 or (answer.status == 503 and retry_after_s(answer.headers) is not None):
        said = delay_s(answer.headers)
        detail = f"token endpoint: http {answer.status}"
        return Throttled(DEFAULT_DELAY_S if said is None else said, detail, is_asked=said is not None)
    token = _token(answer) if answer.status in (200, 201) and answer.trouble is None else None
    return token or Unsent(NO_TOKEN, f"token endpoint: http {answer.status} without a bearer token")


def token_request(auth: OAuth2ClientCredentials | OAuth2Refresh) -> tuple[list[tuple[str, str]], bytes]:
    """The headers and form body of a token request."""
    form: dict[str, str] = {}
    match auth:
        case OAuth2ClientCredentials(scope=scope):
            form["grant_type"] = "client_credentials"
            if scope:
                form["scope"] = scope
        case OAuth2Refresh(refresh_token=token):
            form |= {"grant_type": "refresh_token", "refresh_token": token.get_secret_value()}
    headers = [("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")]
    secret = auth.client_secret.get_secret_value()
    if auth.style == "body":
        form |= {"client_id": auth.client_id, "client_secret": secret}
    else:
        pair = f"{quote_plus(auth.client_id)}:{quote_plus(secret)}".encode()
        headers.append(("authorization", f"Basic {base64.b64encode(pair).decode()}"))
    return headers, urlencode(form).encode()


def _token(answer: Answer) -> Token | None:
    members = _object(answer) or {}
    access, refresh = members.get("access_token"), members.get("refresh_token")
    if not isinstance(access, str) or not access or not _is_bearer(members) or not _is_sendable(access):
        return None
    kept = SecretStr(refresh) if isinstance(refresh, str) and refresh else None
    return Token(SecretStr(access), _lasts_s(members.get("expires_in")), kept)


def _is_bearer(members: dict[str, object]) -> bool:
    return str(members.get("token_type", "bearer")).lower() in ("bearer", "bearertoken")


def _is_sendable(access: str) -> bool:
    try:
        check_header("authorization", access)
    except ValueError:
        return False
    return True


def _lasts_s(expires_in: object) -> float:
    """Some systems write the seconds as a string. No end, or none that makes sense: until it is refused."""
    try:
        life = float(expires_in) if isinstance(expires_in, int | float | str) else math.inf
    except (ValueError, OverflowError):
        life = math.inf
    return max(life - _MARGIN_S, life * 0.8) if life > 0 else math.inf


def _error(answer: Answer, hidden: Hidden) -> str:
    """The error's registered name (RFC 6749 5.2), such as `invalid_grant`; never its description."""
    error = (_object(answer) or {}).get("error")
    return code_or(error if isinstance(error, str) else None, "", hidden)


def _secrets_of(auth: OAuth2ClientCredentials | OAuth2Refresh) -> Iterator[str]:
    yield auth.client_secret.get_secret_value()
    if isinstance(auth, OAuth2Refresh):
        yield auth.refresh_token.get_secret_value()


def _object(answer: Answer) -> dict[str, object] | None:
    try:
        value = answer.value()
    except Undecodable:
        return None
    return value if isinstance(value, dict) else None
