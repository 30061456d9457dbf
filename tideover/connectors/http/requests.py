"""Requests as values: addresses, headers and bodies. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import orjson

from tideover.config.asking import VoidCall
from tideover.config.rest import Bulk, Operation, Rest
from tideover.connectors.http.answer import ACCEPT_ENCODING, Undecodable, decode
from tideover.model import Outgoing

Fields = Sequence[tuple[str, str]]

MAX_PATH = 8000  # characters; no server takes a longer request line

_REFERENCE = "{reference}"
_PLACE = re.compile(r"\{(?:key|id|reference)\}")
_CLOSING = re.compile(rb"\}[ \t\r\n]*\Z")
_EMPTY = re.compile(rb"[ \t\r\n]*\{[ \t\r\n]*\}[ \t\r\n]*")


class Unusable(ValueError):
    """The record can't be put into this request: its own fault. `code` and `detail` as of a rejection."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Call:
    """One request before it is signed. `path` follows the system's address, or its origin (`is_absolute`).

    `is_fixed`: every call of this kind has the same address.
    """

    method: str
    path: str
    params: Mapping[str, str] | None = None
    headers: Fields = ()
    content: bytes | None = None
    is_absolute: bool = False
    is_fixed: bool = False


def single(operation: Operation, record: Outgoing) -> Call:
    """The call that sends one record, under its idempotency key. Raises `Unusable`."""
    payload = record.payload
    if operation.idempotency_field is not None:
        payload = with_field(payload, operation.idempotency_field, record.id)
    if operation.wrap is not None:
        payload = _wrapped(operation.wrap, payload)
    header = operation.idempotency_header
    is_fixed = _PLACE.search(operation.path) is None
    path = operation.path if is_fixed else fill_path(operation.path, record)
    headers = ((header.lower(), record.id),) if header is not None else ()
    return Call(operation.method, path, None, headers, payload, is_fixed=is_fixed)


def several(operation: Operation, bulk: Bulk, batch: Sequence[Outgoing]) -> Call:
    """The call that sends many records at once: payloads are joined, not read. Raises `Unusable`."""
    field = operation.idempotency_field
    payloads = [record.payload if field is None else with_field(record.payload, field, record.id) for record in batch]
    body = b"[" + b",".join(payloads) + b"]"
    if bulk.wrap is not None:
        body = _wrapped(bulk.wrap, body)
    return Call(bulk.method, bulk.path, None, (), body, is_fixed=True)


def undoing(void: VoidCall, record: Outgoing, reference: str | None) -> Call:
    """The call that undoes what became of one record. Raises `Unusable`, as `no_reference` if it lacks one."""
    texts = (void.path, *(void.body or {}).values())
    if not reference and any(_REFERENCE in text for text in texts):
        raise Unusable("no_reference", "the provider's own id of it is not known, and the void needs it")
    path = fill_path(void.path, record, reference)
    body = None if void.body is None else _filled_body(void.body, record, reference)
    return Call(void.method, path, None, (), body, is_fixed=path == void.path)


def fill_path(path: str, record: Outgoing, reference: str | None = None) -> str:
    """The path with the record's key and id and the provider's reference in it, percent-encoded as single segments.

    Raises `Unusable` for one that makes a segment empty, `.` or `..`: HTTP libraries resolve those even when they are
    encoded (RFC 3986 6.2.2.2), and the request would reach another resource.
    """
    places = _places(record, reference)

    def fill(match: re.Match[str]) -> str:
        value = places.get(match[0], match[0])
        try:
            return quote(value, safe="")
        except UnicodeEncodeError:
            raise _unusable(match[0], "is no valid Unicode text") from None

    filled = []
    for segment in re.split(r"([/?])", path):
        made = _PLACE.sub(fill, segment)
        if made != segment and made in ("", ".", ".."):
            raise _unusable(segment, "is empty or dots only, which a path can't hold")
        filled.append(made)
    if sum(map(len, filled)) > MAX_PATH:
        raise _unusable(path, "is too long for a path")
    return "".join(filled)


def fill_params(params: Mapping[str, str], record: Outgoing) -> dict[str, str]:
    """Query parameters with the record's key and id in them, not yet encoded."""
    return _filled(params, _places(record))


def address(base_url: str, path: str, params: Mapping[str, str] | None = None) -> str:
    """The whole address. `path` may hold a query already; `params` are encoded and follow it."""
    url = base_url.rstrip("/") + path
    if not params:
        return url
    query = urlencode(params, quote_via=quote, safe="", errors="replace")
    return f"{url}{'&' if '?' in path else '?'}{query}"


def origin_of(base_url: str) -> str:
    """Scheme, host and port of an address."""
    scheme, _, rest = base_url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def usual_headers(rest: Rest, *, has_body: bool) -> dict[str, str]:
    """The headers of every call, their names in lower case; the description's own go before ours."""
    usual = {"accept": "application/json", "user-agent": "tideover", "accept-encoding": ACCEPT_ENCODING}
    if has_body:
        usual["content-type"] = "application/json"
    named = {name.lower(): value for name, value in rest.headers.items()}
    return {**usual, **named, "accept-encoding": ACCEPT_ENCODING}


def _places(record: Outgoing, reference: str | None = None) -> dict[str, str]:
    """What each placeholder stands for. One that stands for nothing is left as it is."""
    places = {"{key}": record.key, "{id}": record.id}
    return places if reference is None else {**places, _REFERENCE: reference}


def _filled(texts: Mapping[str, str], places: Mapping[str, str]) -> dict[str, str]:
    return {name: _PLACE.sub(lambda match: places.get(match[0], match[0]), text) for name, text in texts.items()}


def _filled_body(fields: Mapping[str, str], record: Outgoing, reference: str | None) -> bytes:
    try:
        return orjson.dumps(_filled(fields, _places(record, reference)))
    except TypeError:  # orjson's word for a lone surrogate
        raise _unusable("".join(fields.values()), "is no valid Unicode text") from None


def _unusable(text: str, why: str) -> Unusable:
    """The fault of what the placeholders of `text` stand for."""
    what = "reference" if _REFERENCE in text else "key"
    return Unusable(f"unusable_{what}", f"the {what} {why}")


def _wrapped(name: str, body: bytes) -> bytes:
    """The JSON object that holds `body` under `name`."""
    return b"{" + orjson.dumps(name) + b":" + body + b"}"


def with_field(payload: bytes, name: str, value: str) -> bytes:
    """The JSON object `payload` with the member `name` set, everything else untouched.

    The payload is read again only if the name may be in it already: two members of one name mean what the reader likes.
    Raises `Unusable` if the payload is no JSON object.
    """
    member = orjson.dumps(name) + b":" + orjson.dumps(value)
    if not payload.lstrip(b" \t\r\n").startswith(b"{"):
        raise Unusable("not_an_object", "the record is no JSON object, so the idempotency key has no place in it")
    if orjson.dumps(name) in payload or b"\\" in payload:
        try:
            decoded = decode(payload)
        except Undecodable:
            raise Unusable("not_an_object", "the record is no JSON text") from None
        if isinstance(decoded, dict) and name in decoded:
            return json.dumps({**decoded, name: value}, ensure_ascii=False, separators=(",", ":")).encode()
    if _EMPTY.fullmatch(payload):
        return b"{" + member + b"}"
    return _CLOSING.sub(lambda _: b"," + member + b"}", payload, count=1)
