"""`crm`: a source after HubSpot. Bearer token, keyset pages, quota headers on every answer."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from tideover.twins.answer import Answer, Refusal, json_answer
from tideover.twins.faults import Fault
from tideover.twins.ledger import canonical, iso
from tideover.twins.refusal import TwinRefused
from tideover.twins.samples import SAMPLES
from tideover.twins.vendor import FAULT, Flaw, JsonObject, Vendor

LARGEST_PAGE = 200
_QUOTA = 190
_QUOTA_WINDOW_MS = 10_000


class Place(NamedTuple):
    """The place of a record in a listing: when it changed, and its id."""

    updated_us: int
    id: str


class Crm(Vendor):
    """Lists what changed, oldest first, by (updatedAt, id)."""

    name = "crm"
    objects = tuple(SAMPLES)
    probe_path = "/health"

    def routes(self) -> list[BaseRoute]:
        return [Route("/crm/v3/objects/{object}", self._list, methods=["GET"])]

    def error(self, status: int, code: str, message: str) -> Answer:
        return json_answer(status, {"status": "error", "category": code, "message": message})

    def check(self, object_name: str, record: JsonObject) -> Flaw | None:
        return None  # nobody writes to it but the control server

    def quota_headers(self, used: int, resets_s: int) -> dict[str, str]:
        most = self.settings.rate_limit or _QUOTA
        window_ms = _QUOTA_WINDOW_MS if self.settings.rate_limit is None else round(self.settings.rate_window_s * 1000)
        return {
            "x-hubspot-ratelimit-max": str(most),
            "x-hubspot-ratelimit-remaining": str(max(0, most - used)),
            "x-hubspot-ratelimit-interval-milliseconds": str(window_ms),
        }

    # --- for the control server -----------------------------------------------------------------------------

    def upsert(self, object_name: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Create or replace records by `id`, at one instant; how many. Raises `TwinRefused` (404, 422).

        A record may bring its own `updatedAt`, as one that was committed late; else it is now, and later than
        everything before.
        """
        self._known(object_name)
        rows = [self._row(record) for record in records]
        with self.store.transaction() as db:
            newest = "SELECT coalesce(max(updated_us), 0) FROM source WHERE object = ?"
            now_us = max(self.now_us, db.execute(newest, (object_name,)).fetchone()[0] + 1)
            db.executemany(
                "INSERT OR REPLACE INTO source (object, id, updated_us, payload) VALUES (?, ?, ?, ?)",
                [(object_name, record_id, now_us if at is None else at, payload) for record_id, at, payload in rows],
            )
        return len(rows)

    def seed(self, object_name: str, numbers: range) -> int:
        """Create or replace the sample records with these numbers; how many."""
        self._known(object_name)
        return self.upsert(object_name, map(SAMPLES[object_name], numbers))

    def held(self) -> dict[str, int]:
        """How many records of each object the source holds."""
        rows = self.store.db.execute("SELECT object, count(*) AS n FROM source GROUP BY object")
        return dict.fromkeys(self.objects, 0) | {row["object"]: row["n"] for row in rows}

    def _known(self, object_name: str) -> None:
        if object_name not in SAMPLES:
            raise TwinRefused(404, f"crm has no {object_name!r}", SAMPLES)

    def _row(self, record: Mapping[str, Any]) -> tuple[str, int | None, bytes]:
        fields = {name: value for name, value in record.items() if name != "updatedAt"}
        record_id, at = fields.get("id"), record.get("updatedAt")
        if not isinstance(record_id, str) or not record_id:
            raise TwinRefused(422, "every record needs an `id` that is a text")
        at_us = None if at is None else _parse_instant(at)
        if at is not None and at_us is None:
            raise TwinRefused(422, f"updatedAt of {record_id} is no instant with an offset, as in 2026-01-31T12:00:00Z")
        return record_id, at_us, canonical(fields)

    # --- for callers ----------------------------------------------------------------------------------------

    async def _list(self, request: Request) -> Answer:
        object_name = request.path_params["object"]
        if object_name not in SAMPLES:
            return self.not_found()
        limit, start, since_us = self._query(request)
        fault: Fault | None = request.scope[FAULT]
        found = self._page(object_name, start, since_us, limit + 1)
        page, more = found[:limit], len(found) > limit
        results: list[object] = [{**orjson.loads(text), "updatedAt": iso(place.updated_us)} for place, text in page]
        if fault is not None and fault.kind == "broken_record" and results:
            results[0] = "#REF!" if fault.shape == "scalar" else {}
        content: JsonObject = {"results": results}
        token = page[-1][0] if more else None
        if fault is not None and fault.kind in {"repeat_cursor", "loop_pages"}:
            token = self._looping(fault.kind, token, start, self._page(object_name, None, since_us, limit))
        if token is not None:
            content["paging"] = {"next": {"after": _to_token(token)}}
        return json_answer(200, content)

    def _page(self, object_name: str, start: Place | None, since_us: int, limit: int) -> list[tuple[Place, bytes]]:
        place = start or Place(since_us, "\U0010ffff")  # nothing of that very instant: updated_after is exclusive
        rows = self.store.db.execute(
            "SELECT id, updated_us, payload FROM source WHERE object = ? AND (updated_us, id) > (?, ?)"
            " ORDER BY updated_us, id LIMIT ?",
            (object_name, place.updated_us, place.id, limit),
        )
        return [(Place(row["updated_us"], row["id"]), row["payload"]) for row in rows]

    def _looping(
        self, kind: str, token: Place | None, start: Place | None, first_page: list[tuple[Place, bytes]]
    ) -> Place | None:
        """The token of a source that never ends: its own, or that of the first page after every other one."""
        if start is None:
            return token
        if kind == "repeat_cursor":
            return start
        first = first_page[-1][0]
        return (token or first) if start == first else first

    def _query(self, request: Request) -> tuple[int, Place | None, int]:
        query = request.query_params
        limit = query.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= LARGEST_PAGE):
            raise Refusal(self.error(400, "VALIDATION_ERROR", f"limit must be 1 to {LARGEST_PAGE}."))
        since_us = _parse_instant(query["updated_after"]) if "updated_after" in query else 0
        if since_us is None:
            raise Refusal(self.error(400, "VALIDATION_ERROR", "updated_after must be an ISO 8601 instant."))
        start = _from_token(query["after"]) if query.get("after") else None
        if query.get("after") and start is None:
            raise Refusal(self.error(400, "VALIDATION_ERROR", "after is not a token of this listing."))
        return int(limit), start, since_us


def _to_token(place: Place) -> str:
    return urlsafe_b64encode(orjson.dumps(list(place))).decode().rstrip("=")


def _from_token(token: str) -> Place | None:
    try:
        match orjson.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4))):
            case [int(updated_us), str(record_id)]:
                return Place(updated_us, record_id)
    except ValueError:
        pass
    return None


def _parse_instant(value: object) -> int | None:
    """Microseconds since the epoch, exactly; `None` where it is no instant with an offset."""
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        return None
    if instant.tzinfo is None:
        return None
    since = instant - datetime.fromtimestamp(0, tz=instant.tzinfo)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
