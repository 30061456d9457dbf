"""The control server: break and mend twins, feed the source, read the ledgers. JSON over HTTP.

    GET    /health                       {"status": "ok"}
    GET    /kinds                        what can be broken: what it does, its options, which twins know it
    GET    /twins                        {"twins": [status...]}
    GET    /twins/{name}                 one status
    PATCH  /twins/{name}/settings        change settings; the new status
    POST   /twins/{name}/fault           break it; the new status
    DELETE /twins/{name}/fault           mend it; the new status
    GET    /twins/{name}/ledger          counts, and counts per object
    GET    /twins/{name}/ledger/keys     ?object=&after=&limit=        {"keys": [...], "next": key or null}
    GET    /twins/{name}/ledger/effects  ?object=&key=&after=&limit=   {"effects": [...], "next": seq or null}
    POST   /twins/crm/seed               {"object", "count", "start"}  {"records": n}
    POST   /twins/crm/upsert             {"object", "records": [...]}  {"records": n}
    GET    /trap                         who followed a redirect to /trap/...

A request that makes no sense gets 404 or 422 and `{"error": ..., "valid": [...]}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tideover.twins.answer import Answer, json_answer
from tideover.twins.faults import KINDS, describe
from tideover.twins.refusal import TwinRefused
from tideover.twins.trap import Trap

_ANY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


class Host(Protocol):
    """What the control server asks of the host; see `TwinHost`."""

    async def fault(self, name: str, kind: str, **options: Any) -> dict[str, Any]: ...
    async def clear(self, name: str) -> dict[str, Any]: ...
    def configure(self, name: str, **settings: Any) -> dict[str, Any]: ...
    async def seed(self, object_name: str, count: int, start: int = 1) -> int: ...
    def upsert(self, object_name: str, records: list[Mapping[str, Any]]) -> int: ...
    def ledger(self, name: str) -> dict[str, Any]: ...
    def keys(self, name: str, *, object_name: str | None, after: str, limit: int) -> list[dict[str, Any]]: ...
    def effects(
        self, name: str, *, object_name: str | None, key: str | None, after: int, limit: int
    ) -> list[dict[str, Any]]: ...
    def status(self, name: str) -> dict[str, Any]: ...
    def statuses(self) -> list[dict[str, Any]]: ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Wanted = TypeVar("Wanted", bound=_Body)


class _Seed(_Body):
    object: str
    count: int = Field(ge=0, le=10_000_000)
    start: int = Field(default=1, ge=0)


class _Upsert(_Body):
    object: str
    records: list[dict[str, Any]]


def control_app(host: Host, trap: Trap) -> ASGIApp:
    """The control server's ASGI application."""
    control = _Control(host)

    async def caught(request: Request) -> Answer:
        return json_answer(200, trap.counts())

    routes = [
        Route("/health", control.health, methods=["GET"]),
        Route("/kinds", control.kinds, methods=["GET"]),
        Route("/twins", control.twins, methods=["GET"]),
        Route("/twins/crm/seed", control.seed, methods=["POST"]),
        Route("/twins/crm/upsert", control.upsert, methods=["POST"]),
        Route("/twins/{name}", control.twin, methods=["GET"]),
        Route("/twins/{name}/settings", control.configure, methods=["PATCH"]),
        Route("/twins/{name}/fault", control.break_, methods=["POST"]),
        Route("/twins/{name}/fault", control.mend, methods=["DELETE"]),
        Route("/twins/{name}/ledger", control.ledger, methods=["GET"]),
        Route("/twins/{name}/ledger/keys", control.keys, methods=["GET"]),
        Route("/twins/{name}/ledger/effects", control.effects, methods=["GET"]),
        Route("/trap", caught, methods=["GET"]),
        Route("/trap/{rest:path}", trap.spring, methods=_ANY),
    ]
    router = Router(routes, redirect_slashes=False, default=_nothing_here)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await router(scope, receive, send)
        except TwinRefused as refused:
            content = {"error": refused.what, "valid": refused.valid}
            await json_answer(refused.status, content)(scope, receive, send)

    return app


class _Control:
    def __init__(self, host: Host) -> None:
        self._host = host

    async def health(self, request: Request) -> Answer:
        return json_answer(200, {"status": "ok"})

    async def kinds(self, request: Request) -> Answer:
        return json_answer(
            200,
            {
                name: {
                    "what": kind.what,
                    "options": sorted(kind.options | kind.limits),
                    "twins": None if kind.twins is None else sorted(kind.twins),
                }
                for name, kind in KINDS.items()
            },
        )

    async def twins(self, request: Request) -> Answer:
        return json_answer(200, {"twins": self._host.statuses()})

    async def twin(self, request: Request) -> Answer:
        return json_answer(200, self._host.status(request.path_params["name"]))

    async def configure(self, request: Request) -> Answer:
        return json_answer(200, self._host.configure(request.path_params["name"], **await _read(request)))

    async def break_(self, request: Request) -> Answer:
        name = request.path_params["name"]
        self._host.status(name)  # an unknown twin is told before an unknown kind
        content = await _read(request)
        kind = content.pop("kind", None)
        return json_answer(200, await self._host.fault(name, kind, **content))

    async def mend(self, request: Request) -> Answer:
        return json_answer(200, await self._host.clear(request.path_params["name"]))

    async def seed(self, request: Request) -> Answer:
        wanted = _parsed(_Seed, await _read(request))
        return json_answer(200, {"records": await self._host.seed(wanted.object, wanted.count, wanted.start)})

    async def upsert(self, request: Request) -> Answer:
        wanted = _parsed(_Upsert, await _read(request))
        records: list[Mapping[str, Any]] = list(wanted.records)
        return json_answer(200, {"records": self._host.upsert(wanted.object, records)})

    async def ledger(self, request: Request) -> Answer:
        return json_answer(200, self._host.ledger(request.path_params["name"]))

    async def keys(self, request: Request) -> Answer:
        query, limit = request.query_params, _number(request, "limit", 1000)
        found = self._host.keys(
            request.path_params["name"], object_name=query.get("object"), after=query.get("after", ""), limit=limit
        )
        return json_answer(200, {"keys": found, "next": found[-1]["key"] if found else None})

    async def effects(self, request: Request) -> Answer:
        query, limit = request.query_params, _number(request, "limit", 1000)
        found = self._host.effects(
            request.path_params["name"],
            object_name=query.get("object"),
            key=query.get("key"),
            after=_number(request, "after", 0),
            limit=limit,
        )
        return json_answer(200, {"effects": found, "next": found[-1]["seq"] if found else None})


async def _read(request: Request) -> dict[str, Any]:
    try:
        content = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise TwinRefused(422, "the body is not JSON") from None
    if not isinstance(content, dict) or any(name in {"self", "name"} for name in content):
        raise TwinRefused(422, "the body is not a JSON object with known fields")
    return content


def _parsed(model: type[Wanted], content: dict[str, Any]) -> Wanted:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise TwinRefused(422, describe(error), model.model_fields) from None


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit()):
        raise TwinRefused(422, f"{name} must be a number of at least 0")
    return int(text)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    raise TwinRefused(404, "there is nothing at this address", ["/kinds", "/twins", "/trap"])
