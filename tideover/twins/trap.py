"""An address of another origin that counts who followed a redirect to it, and what they gave away."""

from __future__ import annotations

from starlette.requests import Request

from tideover.twins.access import CREDENTIALS
from tideover.twins.answer import Answer, json_answer

_SECRET_HEADERS = frozenset({"authorization"} | {c.header for c in CREDENTIALS.values()})


class Trap:
    """`hits` counts calls; the others how many of them carried a credential, and a body."""

    def __init__(self) -> None:
        self.hits = self.with_credentials = self.with_body = 0

    def counts(self) -> dict[str, int]:
        """The three counts by name."""
        return {"hits": self.hits, "with_credentials": self.with_credentials, "with_body": self.with_body}

    async def spring(self, request: Request) -> Answer:
        """Take a call and count it."""
        self.hits += 1
        self.with_credentials += any(name in request.headers for name in _SECRET_HEADERS)
        self.with_body += bool(await request.body())
        return json_answer(200, {"trapped": True})
