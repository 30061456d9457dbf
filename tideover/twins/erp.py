"""`erp`: a target after NetSuite. OAuth2 client credentials, idempotency keys with a horizon, throttles by 400."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import parse_qs

from pydantic import Field
from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from tideover.twins.access import CREDENTIALS, is_token_good, issue_token, parse_basic
from tideover.twins.answer import Answer, Refusal, json_answer
from tideover.twins.ledger import Effect, payload_hash
from tideover.twins.vendor import Flaw, JsonObject, Settings, Vendor, number_flaw, text_flaw

_LONGEST_KEY = 255
_TITLES = {400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 409: "Conflict", 422: "Unprocessable Entity"}


class ErpSettings(Settings):
    """What can be set of the ERP's twin."""

    token_lifetime_s: float = Field(default=300.0, gt=0)
    """How long a new access token is good."""
    key_horizon_s: float = Field(default=86_400.0, gt=0)
    """How long an idempotency key and its answer are remembered."""


class Erp(Vendor):
    """Every POST with a new idempotency key makes a new version of a document.

    A remembered key replays its answer; with another body it is refused (422), and while it is at work, too (409).
    Only answers that did something are remembered: a rejected record may be mended under its key.
    """

    name = "erp"
    objects = ("orders", "customers", "invoices")
    probe_path = "/erp/v1/health"
    token_path = "/oauth2/token"  # noqa: S105 - a path
    idempotency_header = "idempotency-key"
    settings_model: ClassVar[type[Settings]] = ErpSettings

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/oauth2/token", self._token, methods=["POST"]),
            Route("/erp/v1/{object}", self._create, methods=["POST"]),
            Route("/erp/v1/{object}", self._find, methods=["GET"]),
            Route("/erp/v1/{object}/{id}", self._get, methods=["GET"]),
        ]

    def error(self, status: int, code: str, message: str) -> Answer:
        details = [{"detail": message, "o:errorCode": code}]
        title = _TITLES.get(status, "Internal Server Error")
        return json_answer(status, {"type": "about:blank", "title": title, "status": status, "o:errorDetails": details})

    def throttled(self, retry_after_s: int | None) -> Answer:
        return self.error(400, "SSS_REQUEST_LIMIT_EXCEEDED", "Request limit exceeded. Retry later.")

    def unauthorized(self) -> Answer:
        answer = self.error(401, "INVALID_LOGIN", "The access token is missing, malformed or expired.")
        return answer.with_headers({"www-authenticate": 'Bearer error="invalid_token"'})

    def is_authorized(self, headers: Mapping[str, str]) -> bool:
        return is_token_good(headers.get("authorization", ""), self.clock())

    def check(self, object_name: str, record: JsonObject) -> Flaw | None:
        return text_flaw(record, ["external_id"], "INVALID_VALUE") or number_flaw(record, "total", "INVALID_VALUE")

    async def _token(self, request: Request) -> Answer:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode("utf-8", "replace")).items()}
        if form.get("grant_type") != "client_credentials":
            return json_answer(400, {"error": "unsupported_grant_type"})
        shown = parse_basic(request.headers.get("authorization", ""))
        if shown is None:
            shown = form.get("client_id", ""), form.get("client_secret", "")
        expected = CREDENTIALS[self.name]
        if shown != (expected.user, expected.secret):
            return json_answer(401, {"error": "invalid_client"})
        lifetime_s = self._settings.token_lifetime_s
        token = issue_token(self.clock(), lifetime_s)
        return json_answer(
            200,
            {"access_token": token, "token_type": "Bearer", "expires_in": int(lifetime_s)},
            {"cache-control": "no-store"},
        )

    async def _create(self, request: Request) -> Answer:
        object_name = self._object(request)
        record = await self.read_object(request)
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= _LONGEST_KEY:
            return self.error(400, "INVALID_KEY", f"Idempotency-Key must have 1 to {_LONGEST_KEY} characters.")
        fingerprint = payload_hash([object_name, record])
        if key is not None and (answer := self._remembered(object_name, record, key, fingerprint)):
            return answer
        if flaw := self.flaw(request, object_name, record):
            return self.error(400, flaw.code, flaw.message)
        return self._commit(object_name, record, key, fingerprint)

    def _remembered(self, object_name: str, record: JsonObject, key: str, fingerprint: str) -> Answer | None:
        row = self.store.db.execute("SELECT * FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None or self.now_us - row["at_us"] >= self._settings.key_horizon_s * 1_000_000:
            return None
        if row["fingerprint"] != fingerprint:
            return self.error(422, "IDEMPOTENCY_KEY_REUSED", "This idempotency key was used with another body.")
        with self.store.transaction():
            self.ledger.repeat(object_name, record["external_id"])
        replayed = {"content-type": "application/json", "idempotency-replayed": "true"}
        return Answer(row["status"], row["body"]).with_headers({**replayed, "content-length": str(len(row["body"]))})

    def _commit(self, object_name: str, record: JsonObject, key: str | None, fingerprint: str) -> Answer:
        external_id = record["external_id"]
        # Without a key, the same content for the same document is what a resend looks like.
        identity = f"key {key}" if key is not None else f"content {external_id} {fingerprint}"
        with self.store.transaction() as db:
            now_us = self.now_us
            effect = self.ledger.add(object_name, external_id, record, now_us, identity=identity, idempotency_key=key)
            answer = json_answer(201, _document(effect))
            if key is not None:
                db.execute(
                    "INSERT OR REPLACE INTO answers (key, fingerprint, status, body, at_us) VALUES (?, ?, ?, ?, ?)",
                    (key, fingerprint, answer.status, answer.body, now_us),
                )
        return answer

    async def _find(self, request: Request) -> Answer:
        object_name, query = self._object(request), request.query_params
        if "key" in query:
            found = self.ledger.find(object_name, identity=f"key {query['key']}")
        elif "external_id" in query:
            found = self.ledger.find(object_name, key=query["external_id"])
        else:
            return self.error(400, "INVALID_PARAMETER", "Ask by external_id or by key.")
        return json_answer(200, {"items": [_document(effect) for effect in found], "count": len(found)})

    async def _get(self, request: Request) -> Answer:
        object_name, number = self._object(request), request.path_params["id"]
        effect = self.ledger.at(object_name, int(number)) if number.isascii() and number.isdigit() else None
        return self.not_found() if effect is None else json_answer(200, _document(effect))

    def _object(self, request: Request) -> str:
        object_name: str = request.path_params["object"]
        if object_name not in self.objects:
            raise Refusal(self.not_found())
        return object_name

    @property
    def _settings(self) -> ErpSettings:
        assert isinstance(self.settings, ErpSettings)
        return self.settings


def _document(effect: Effect) -> JsonObject:
    return {"id": str(effect.seq), "external_id": effect.key, "version": effect.version}
