"""`marketing`: a target after Mailchimp. HTTP Basic, upserts by key, bulk with results by key, bare 403s."""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from tideover.twins.answer import Answer, body_answer, json_answer
from tideover.twins.vendor import Flaw, JsonObject, Vendor, text_flaw

_LARGEST_BULK = 100
_MEMBERS = "members"


class Marketing(Vendor):
    """Members of one list, by their `key`."""

    name = "marketing"
    objects = (_MEMBERS,)
    probe_path = "/3.0/ping"

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/3.0/lists/main/members/{key:path}", self._put, methods=["PUT"]),
            Route("/3.0/lists/main/members/{key:path}", self._get, methods=["GET"]),
            Route("/3.0/lists/main", self._put_many, methods=["POST"]),
        ]

    def error(self, status: int, code: str, message: str) -> Answer:
        content = {"type": "about:blank", "title": code, "status": status, "detail": message, "instance": ""}
        return body_answer(status, json_answer(status, content).body, "application/problem+json")

    def throttled(self, retry_after_s: int | None) -> Answer:
        return body_answer(403, b"<html><body><h1>403 Forbidden</h1></body></html>", "text/html")

    def check(self, object_name: str, record: JsonObject) -> Flaw | None:
        if flaw := text_flaw(record, ["key"], "INVALID_RESOURCE"):
            return flaw
        address = record.get("email_address")
        if not isinstance(address, str) or "@" not in address:
            return Flaw("INVALID_RESOURCE", "email_address must be an e-mail address.")
        return None

    async def _put(self, request: Request) -> Answer:
        key: str = request.path_params["key"]
        record = {"key": key, **await self.read_object(request)}
        flaw = self.flaw(request, _MEMBERS, record)
        if flaw is None and record["key"] != key:
            flaw = Flaw("INVALID_RESOURCE", "key differs from the address.")
        if flaw:
            return self.error(400, flaw.code, flaw.message)
        with self.store.transaction():
            self.ledger.upsert(_MEMBERS, key, record, self.now_us, request.headers.get("idempotency-key"))
        return json_answer(200, {"id": _member_id(key), "key": key})

    async def _get(self, request: Request) -> Answer:
        key: str = request.path_params["key"]
        effects = self.ledger.find(_MEMBERS, key=key)
        if not effects:
            return self.not_found()
        return json_answer(200, {"id": _member_id(key), **effects[-1].payload})

    async def _put_many(self, request: Request) -> Answer:
        members = await self.read_list(request, "members", _LARGEST_BULK)
        results: list[JsonObject] = []
        with self.store.transaction():
            for index, member in enumerate(members):
                results.append(self._put_one(request, index, member))
        failed = sum(not result["ok"] for result in results)
        return json_answer(200, {"results": results, "error_count": failed, "total": len(results)})

    def _put_one(self, request: Request, index: int, member: object) -> JsonObject:
        key = member.get("key") if isinstance(member, dict) else None
        if flaw := self.flaw(request, _MEMBERS, member, index):
            return {"key": key, "ok": False, "error": flaw._asdict()}
        self.ledger.upsert(_MEMBERS, str(key), member, self.now_us, None)
        return {"key": key, "ok": True, "id": _member_id(str(key))}


def _member_id(key: str) -> str:
    return f"member:{key}"
