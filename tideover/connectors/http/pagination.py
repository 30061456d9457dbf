"""Which page to ask for, and which one follows. Pure.

A token is what stands for one page: the system's own cursor, a page number, an offset, or the path and query of a link.
`None` as the next token: that was the last page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus, urljoin, urlsplit

from tideover.config.rest import (
    CursorPagination,
    LinkPagination,
    NoPagination,
    OffsetPagination,
    PagePagination,
    Pagination,
)
from tideover.connectors.http.expressions import find, written

Token = str | int

_KEPT = 2**63  # a larger number is kept as text
MAX_TOKEN = 8000  # characters; a longer one fits in no request line
# Nothing is tried twice (`+`), and a quote that is not closed goes to the end: any header is read in one pass.
_LINK = re.compile(r'<([^<>]*+)>((?:[^",<]|"(?:[^"\\]|\\.?)*+"?)*+)')
_PARAM = re.compile(r';\s*+([^\s=;"]*+)\s*+(?:=\s*+(?:"((?:[^"\\]|\\.?)*+)"?|([^;,\s"]*+)))?')
_PORTS = {"http": 80, "https": 443}


class Unfit(ValueError):
    """The answer's next token has another shape than its description says; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class Turned:
    """What a page says about the next one: its decoded body, `Link` headers, number of records, and its own address."""

    decoded: object
    links: tuple[str, ...]
    count: int
    address: str


def params(pagination: Pagination, token: Token | None) -> dict[str, str]:
    """The query parameters that ask for the page of `token`; `None` is the first page."""
    match pagination:
        case CursorPagination(param=param):
            return {} if token is None else {param: str(token)}
        case PagePagination(param=param, size_param=size_param, size=size, first=first):
            return {param: str(first if token is None else token), size_param: str(size)}
        case OffsetPagination(param=param, limit_param=limit_param, limit=limit):
            return {param: str(0 if token is None else token), limit_param: str(limit)}
        case NoPagination() | LinkPagination():
            return {}


def following(pagination: Pagination, token: Token | None, page: Turned) -> Token | None:
    """The token of the page after the one that `token` asked for. Raises `Unfit`."""
    match pagination:
        case CursorPagination(next=expression):
            return _cursor(find(expression, page.decoded), expression)
        case PagePagination(size=size, first=first):
            return _number(token, first) + 1 if page.count >= size else None
        case OffsetPagination(limit=limit):
            return _number(token, 0) + page.count if page.count >= limit else None
        case LinkPagination():
            return next_link(page.links, page.address)
        case NoPagination():
            return None


def next_link(links: tuple[str, ...], address: str) -> str | None:
    """The path and query of the `Link` with `rel="next"` (RFC 8288), resolved against the page's own address.

    Raises `Unfit` for a link to another origin, as it would carry the credential there, and for one that is none.
    """
    for target, attributes in (found for value in links for found in _LINK.findall(value)):
        if "next" not in _rel(attributes):
            continue
        try:
            url = urljoin(address, target.strip())
            is_same = origin(url) == origin(address)
        except ValueError:
            is_same = False
        if not is_same:
            raise Unfit('its link with rel="next" leads to another origin')
        parts = urlsplit(url)
        token = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if len(token) > MAX_TOKEN or not token.isprintable():
            raise Unfit('its link with rel="next" is too long, or holds a character that no address may have')
        return token
    return None


def _rel(attributes: str) -> list[str]:
    """The relations that a link's first `rel` names."""
    for name, quoted, bare in _PARAM.findall(attributes):
        if name.lower() == "rel":
            return str(quoted or bare).lower().split()
    return []


def origin(address: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port (RFC 6454 4). Raises `ValueError` for an address with a user or an impossible port."""
    parts = urlsplit(address)
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address with a user is nobody's origin")
    return parts.scheme.lower(), parts.hostname, parts.port or _PORTS.get(parts.scheme.lower())


def listing(path: str, usual: Mapping[str, str], paging: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The path and the parameters of one page.

    `paging` goes before what the path's own query says: a page that has another size than it was asked for is taken for
    the last one. Of the others, the path's own go before the usual ones.
    """
    base, _, query = path.partition("?")
    own = [(unquote_plus(part.partition("=")[0]), part) for part in query.split("&") if part]
    kept = [part for name, part in own if name not in paging]
    names = {*(name for name, _ in own), *paging}
    wanted = {name: value for name, value in usual.items() if name not in names}
    return base + ("?" + "&".join(kept) if kept else ""), {**wanted, **paging}


def is_fit(pagination: Pagination, token: Token) -> bool:
    """Whether a token can be one of this pagination."""
    match pagination:
        case CursorPagination():
            return True
        case PagePagination() | OffsetPagination():
            return isinstance(token, int)
        case LinkPagination():
            return isinstance(token, str) and token.startswith("/")
        case NoPagination():
            return False


def _cursor(found: object, expression: str) -> Token | None:
    if found is None or found is False or found == "":
        return None
    if isinstance(found, int) and not isinstance(found, bool):
        found = found if abs(found) < _KEPT else written(found)
    if isinstance(found, int) or (isinstance(found, str) and len(found) <= MAX_TOKEN):
        return found
    raise Unfit(f"`next` ({expression}) must find a string, a number or null")


def _number(token: Token | None, first: int) -> int:
    return first if token is None else int(token)
