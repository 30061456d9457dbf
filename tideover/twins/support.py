"""`support`: a target after Zendesk. API key, upserts by `external_id`, bulk with results by index, honest 429s."""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from tideover.twins.answer import Answer, json_answer
from tideover.twins.vendor import Flaw, JsonObject, Vendor, text_flaw

_LARGEST_BULK = 100
_TICKETS = "tickets"


class Support(Vendor):
    """Tickets, by their `external_id`."""

    name = "support"
    objects = (_TICKETS,)
    probe_path = "/api/v2/health"

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/api/v2/tickets/create_or_update", self._put, methods=["POST"]),
            Route("/api/v2/tickets/create_or_update_many", self._put_many, methods=["POST"]),
            Route("/api/v2/tickets", self._find, methods=["GET"]),
        ]

    def error(self, status: int, code: str, message: str) -> Answer:
        return json_answer(status, {"error": code, "description": message})

    def throttled(self, retry_after_s: int | None) -> Answer:
        reset = {} if retry_after_s is None else {"ratelimit-reset": str(retry_after_s)}
        return super().throttled(retry_after_s).with_headers(reset)

    def quota_headers(self, used: int, resets_s: int) -> dict[str, str]:
        most = self.settings.rate_limit
        if most is None:
            return {}
        left = str(max(0, most - used))
        return {"ratelimit-limit": str(most), "ratelimit-remaining": left, "ratelimit-reset": str(resets_s)}

    def check(self, object_name: str, record: JsonObject) -> Flaw | None:
        return text_flaw(record, ["external_id", "subject"], "RecordInvalid")

    async def _put(self, request: Request) -> Answer:
        record = await self.read_object(request)
        if flaw := self.flaw(request, _TICKETS, record):
            return self.error(422, flaw.code, flaw.message)
        with self.store.transaction():
            self.ledger.upsert(
                _TICKETS, record["external_id"], record, self.now_us, request.headers.get("idempotency-key")
            )
        return json_answer(200, {"id": _ticket_id(record), "external_id": record["external_id"]})

    async def _put_many(self, request: Request) -> Answer:
        tickets = await self.read_list(request, "tickets", _LARGEST_BULK)
        results: list[JsonObject] = []
        with self.store.transaction():
            for index, ticket in enumerate(tickets):
                results.append(self._put_one(request, index, ticket))
        all_went_well = all(result["status"] == "ok" for result in results)
        return json_answer(200 if all_went_well else 207, {"results": results})

    def _put_one(self, request: Request, index: int, ticket: object) -> JsonObject:
        if flaw := self.flaw(request, _TICKETS, ticket, index):
            return {"index": index, "status": "failed", "error": flaw._asdict()}
        assert isinstance(ticket, dict)
        self.ledger.upsert(_TICKETS, ticket["external_id"], ticket, self.now_us, None)
        return {"index": index, "status": "ok", "id": _ticket_id(ticket)}

    async def _find(self, request: Request) -> Answer:
        effects = self.ledger.find(_TICKETS, key=request.query_params.get("external_id", ""))
        newest = [effects[-1].payload] if effects else []
        return json_answer(200, {"tickets": newest, "count": len(newest)})


def _ticket_id(record: JsonObject) -> str:
    return f"ticket:{record['external_id']}"
