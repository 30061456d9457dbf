"""A request, and the bytes that it is on the wire (RFC 9112). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from yarl import URL

# What these say of a message follows from its body, and nothing here waits for a "100 Continue".
_FRAMING = frozenset({"content-length", "transfer-encoding", "trailer", "expect", "upgrade"})
_BODILESS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be written: its address is encoded already, the names of its headers are lower case."""

    method: str
    url: URL
    headers: Mapping[str, str]
    content: bytes | None = None


class Origin(NamedTuple):
    """What a connection leads to. `host` is an IP address or a name in ASCII (IDNA)."""

    host: str
    port: int
    is_tls: bool


def origin_of(url: URL) -> Origin:
    """Raises `ValueError`, without the address, unless it is an http or https one with a host."""
    host, port, scheme = url.raw_host, url.port, url.scheme
    if scheme not in ("http", "https") or not host or port is None:
        raise ValueError("no http or https address")
    return Origin(host, port, scheme == "https")


def written(request: Request) -> bytes:
    """Headers and body in one piece, with `Host` and `Content-Length`, never chunked.

    Raises `ValueError`, without any value, for what would be read as something else than it says: a line break in a
    header, or a header of its own about the message's length.
    """
    headers, url, content = request.headers, request.url, request.content or b""
    if not _FRAMING.isdisjoint(headers):
        raise ValueError("a header about the message's own length")
    lines = [f"{request.method} {url.raw_path_qs} HTTP/1.1"]
    if "host" not in headers:
        lines.append(f"host: {url.host_port_subcomponent}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if content or request.method not in _BODILESS:
        lines.append(f"content-length: {len(content)}")
    ends = len(lines) + 1
    head = "\r\n".join([*lines, "", ""])
    if head.count("\r") != ends or head.count("\n") != ends or "\0" in head:
        raise ValueError("a line break within a line")
    return head.encode() + content
