"""`carrier-a` after ShipStation and `carrier-b` after EasyPost: no idempotency keys, so every POST books a parcel.

Whoever is in doubt must ask first (`GET ...?external_shipment_id=`, `?reference=`), and can void what was too much.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from tideover.twins.answer import Answer, Refusal, json_answer
from tideover.twins.ledger import Effect
from tideover.twins.vendor import Flaw, JsonObject, Vendor, number_flaw, text_flaw

_SHIPMENTS = "shipments"


class Carrier(Vendor):
    """Parcels, by the caller's own reference; two with the same reference are a duplicate."""

    objects = (_SHIPMENTS,)
    version: ClassVar[str]
    reference_field: ClassVar[str]
    id_prefix: ClassVar[str]
    invalid_code: ClassVar[str]
    invalid_status: ClassVar[int]
    void_method: ClassVar[str]
    void_word: ClassVar[str]

    @abstractmethod
    def shown(self, effect: Effect) -> JsonObject:
        """A parcel in the carrier's words."""

    def routes(self) -> list[BaseRoute]:
        base = f"/{self.version}/shipments"
        return [
            Route(base, self._book, methods=["POST"]),
            Route(base, self._find, methods=["GET"]),
            Route(f"{base}/{{id}}", self._get, methods=["GET"]),
            Route(f"{base}/{{id}}/{self.void_word}", self._void, methods=[self.void_method]),
        ]

    def check(self, object_name: str, record: JsonObject) -> Flaw | None:
        code = self.invalid_code
        return text_flaw(record, [self.reference_field], code) or number_flaw(record, "weight_kg", code, above=0)

    async def _book(self, request: Request) -> Answer:
        record = await self.read_object(request)
        if flaw := self.flaw(request, _SHIPMENTS, record):
            return self.error(self.invalid_status, flaw.code, flaw.message)
        key: str = record[self.reference_field]
        with self.store.transaction():
            idempotency_key = request.headers.get("idempotency-key")  # not honoured, but worth knowing
            effect = self.ledger.add(
                _SHIPMENTS, key, record, self.now_us, identity=key, idempotency_key=idempotency_key
            )
        return json_answer(201, self.shown(effect))

    async def _find(self, request: Request) -> Answer:
        reference = request.query_params.get(self.reference_field)
        if reference is None:
            return self.error(400, self.invalid_code, f"Ask by {self.reference_field}.")
        found = [self.shown(effect) for effect in self.ledger.find(_SHIPMENTS, key=reference)]
        return json_answer(200, {"shipments": found, "total": len(found)})

    async def _get(self, request: Request) -> Answer:
        return json_answer(200, self.shown(self._parcel(request)))

    async def _void(self, request: Request) -> Answer:
        parcel = self._parcel(request)
        with self.store.transaction():
            self.ledger.void(parcel, self.now_us)
        return json_answer(200, self.voided(self._parcel(request)))

    def voided(self, effect: Effect) -> JsonObject:
        """What the carrier says to a void; a second one is told the same."""
        return self.shown(effect)

    def _parcel(self, request: Request) -> Effect:
        number = request.path_params["id"].removeprefix(self.id_prefix)
        parcel = self.ledger.at(_SHIPMENTS, int(number)) if number.isascii() and number.isdigit() else None
        if parcel is None:
            raise Refusal(self.not_found())
        return parcel


class CarrierA(Carrier):
    """After ShipStation."""

    name = "carrier-a"
    probe_path = "/v1/health"
    version = "v1"
    reference_field = "external_shipment_id"
    id_prefix = "se-"
    invalid_code = "invalid_field_value"
    invalid_status = 400
    void_method = "PUT"
    void_word = "void"

    def error(self, status: int, code: str, message: str) -> Answer:
        source = "carrier" if status >= 500 else "shipengine"
        fault = {"error_source": source, "error_type": "validation", "error_code": code, "message": message}
        return json_answer(status, {"errors": [fault]})

    def shown(self, effect: Effect) -> JsonObject:
        return {
            "shipment_id": f"{self.id_prefix}{effect.seq}",
            "external_shipment_id": effect.key,
            "tracking_number": f"A{effect.seq:010d}",
            "status": "voided" if effect.is_voided else "label_created",
        }

    def voided(self, effect: Effect) -> JsonObject:
        return {"approved": True, "message": "The label was voided.", **self.shown(effect)}


class CarrierB(Carrier):
    """After EasyPost."""

    name = "carrier-b"
    probe_path = "/v2/health"
    version = "v2"
    reference_field = "reference"
    id_prefix = "shp_"
    invalid_code = "SHIPMENT.INVALID_PARAMS"
    invalid_status = 422
    void_method = "POST"
    void_word = "refund"

    def error(self, status: int, code: str, message: str) -> Answer:
        return json_answer(status, {"error": {"code": code, "message": message, "errors": []}})

    def shown(self, effect: Effect) -> JsonObject:
        return {
            "id": f"{self.id_prefix}{effect.seq}",
            "reference": effect.key,
            "tracking_code": f"B{effect.seq:010d}",
            "refund_status": "refunded" if effect.is_voided else None,
        }
