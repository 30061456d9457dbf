"""An HTTP answer as a value, so that a fault can lose, cut or replace it after the work was done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson
from starlette.types import Message, Receive, Scope, Send

RawHeaders = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (lower-case names) and the whole body. Also an ASGI application that gives itself."""

    status: int
    body: bytes
    headers: RawHeaders = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": self.body})

    def with_headers(self, headers: Mapping[str, str]) -> Answer:
        """The same answer with more headers."""
        return replace(self, headers=(*self.headers, *raw_headers(headers)))


class Refusal(Exception):
    """Ends the handling of a call with a vendor's error answer."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__(answer.status)


class Capture:
    """An ASGI `send` that keeps the answer."""

    def __init__(self) -> None:
        self._status = 500
        self._headers: RawHeaders = ()
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = tuple((bytes(name), bytes(value)) for name, value in message["headers"])
        else:
            self._body += message.get("body", b"")

    def answer(self) -> Answer:
        """What was sent so far."""
        return Answer(self._status, bytes(self._body), self._headers)


def raw_headers(headers: Mapping[str, str]) -> RawHeaders:
    """Headers as ASGI wants them."""
    return tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items())


def json_answer(status: int, content: object, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer whose body is JSON, with its length."""
    return body_answer(status, orjson.dumps(content), "application/json", headers)


def body_answer(status: int, body: bytes, media: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with a body of some media type, with its length."""
    own = {"content-type": media, "content-length": str(len(body))}
    return Answer(status, body, raw_headers(own | dict(headers or {})))
