"""What an adversary does with a request. Each function gives a `Behaviour`; most read the request first."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Sequence

from tideover.twins.adversary.server import Behaviour, Talk

DATE = "Sun, 06 Nov 2044 08:49:37 GMT"  # the Date of every reply that is not told otherwise: 2362034977

Headers = Sequence[tuple[str, str]]


def head(status: int, headers: Headers = ()) -> bytes:
    lines = [f"HTTP/1.1 {status} Because", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reply(status: int = 200, body: object = b"", headers: Headers = (), *, date: str | None = DATE) -> Behaviour:
    """A proper answer. `body`: bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    usual = [("content-length", str(len(content)))] if status not in (204, 304) else []
    dated = [("date", date)] if date is not None else []
    return raw(head(status, [*usual, *dated, *headers]) + content)


def raw(data: bytes, *, then_end: bool = False) -> Behaviour:
    """Exactly these bytes, and then, if told so, the end of the connection."""

    async def act(talk: Talk) -> None:
        await talk.read_body()
        await talk.write(data)
        if then_end:
            talk.end()

    return act


def hang() -> Behaviour:
    """Reads all of the request and never answers."""

    async def act(talk: Talk) -> None:
        await talk.read_body()
        await talk.closing.wait()

    return act


def deaf() -> Behaviour:
    """Reads nothing of the body and never answers."""

    async def act(talk: Talk) -> None:
        await talk.closing.wait()

    return act


def reset(after: int | None = None) -> Behaviour:
    """A TCP reset after so many bytes of the body, or after all of it."""

    async def act(talk: Talk) -> None:
        await talk.read_body(after)
        talk.reset()

    return act


def end() -> Behaviour:
    """Reads all of the request, and closes without a word."""

    async def act(talk: Talk) -> None:
        await talk.read_body()
        talk.end()

    return act


def idle_close(then: Behaviour) -> Behaviour:
    """Answers, and closes the connection that the client believes to be alive."""

    async def act(talk: Talk) -> None:
        await then(talk)
        talk.end()

    return act


def drip(status: int = 200, every_s: float = 0.02) -> Behaviour:
    """A body of a million bytes, one at a time: no read ever times out, and no end ever comes."""

    async def act(talk: Talk) -> None:
        await talk.read_body()
        await talk.write(head(status, [("content-length", "1000000")]))
        while not await _is_closing(talk, every_s):
            await talk.write(b" ")

    return act


def endless(status: int = 200, piece: bytes = b" " * 60_000) -> Behaviour:
    """Chunks without end."""

    async def act(talk: Talk) -> None:
        await talk.read_body()
        await talk.write(head(status, [("transfer-encoding", "chunked")]))
        while not talk.closing.is_set():
            await talk.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    return act


def stall(status: int, part: bytes) -> Behaviour:
    """The beginning of an answer, and then nothing."""

    async def act(talk: Talk) -> None:
        await talk.read_body()
        await talk.write(head(status, [("content-length", str(len(part) + 100))]) + part)
        await talk.closing.wait()

    return act


def cut_length(status: int, part: bytes) -> Behaviour:
    """A body that ends before its Content-Length."""
    return raw(head(status, [("content-length", str(len(part) + 100))]) + part, then_end=True)


def cut_chunks(status: int, part: bytes) -> Behaviour:
    """A chunked body without its last chunk."""
    return raw(head(status, [("transfer-encoding", "chunked")]) + b"%x\r\n%b\r\n" % (len(part), part), then_end=True)


def broken_chunks(status: int) -> Behaviour:
    """A chunked body whose chunk size is no number."""
    return raw(head(status, [("transfer-encoding", "chunked")]) + b"zz\r\nhello\r\n0\r\n\r\n", then_end=True)


def coded(status: int, body: object, coding: str) -> Behaviour:
    """A proper answer in `gzip`, `deflate` (zlib) or `raw-deflate` (bare, named deflate)."""
    content = json.dumps(body).encode()
    if coding == "gzip":
        made = gzip.compress(content)
    else:
        packer = zlib.compressobj(wbits=15 if coding == "deflate" else -15)
        made = packer.compress(content) + packer.flush()
    return reply(status, made, [("content-encoding", "gzip" if coding == "gzip" else "deflate")])


def bomb(status: int = 200, size: int = 200_000_000) -> Behaviour:
    """Gzip that is a thousandth of what it becomes."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = b"0" * 1_000_000
    made = b"".join(packer.compress(zeros) for _ in range(size // len(zeros))) + packer.flush()
    return reply(status, made, [("content-encoding", "gzip")])


def informed(then: bytes) -> Behaviour:
    """Two interim answers (102, 103) before the real one."""
    return raw(head(102) + head(103, [("link", "</style.css>; rel=preload")]) + then)


async def _is_closing(talk: Talk, within_s: float) -> bool:
    try:
        await asyncio.wait_for(talk.closing.wait(), within_s)
    except TimeoutError:
        return False
    return True
