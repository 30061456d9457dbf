"""What every vendor's twin has: its paths, its manner of refusing, its rules for a record, its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from tideover.twins.access import CREDENTIALS, is_shown
from tideover.twins.answer import Answer, Refusal, json_answer
from tideover.twins.faults import Fault, describe
from tideover.twins.ledger import Ledger
from tideover.twins.refusal import TwinRefused
from tideover.twins.store import Store

FAULT = "tideover.twin.fault"  # the key of an ASGI scope that holds the call's fault, or None
_REMEMBERED = "settings"

JsonObject = dict[str, Any]


class Settings(BaseModel):
    """What can be set of a twin; remembered over restarts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rate_limit: int | None = Field(default=None, ge=1)
    """How many business calls a window takes; null: any number."""
    rate_window_s: float = Field(default=60.0, gt=0)
    concurrency_limit: int | None = Field(default=None, ge=1)
    """How many business calls may be at work at once; null: any number."""


class Flaw(NamedTuple):
    """Why a record is rejected."""

    code: str
    message: str


class Vendor(ABC):
    """One vendor's manners. Handlers never await while they write, so that each is one step."""

    name: ClassVar[str]
    objects: ClassVar[tuple[str, ...]]  # what the ledger counts; the first is the main one
    probe_path: ClassVar[str]
    token_path: ClassVar[str | None] = None
    idempotency_header: ClassVar[str | None] = None
    settings_model: ClassVar[type[Settings]] = Settings

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self.store, self.clock = store, clock
        self.ledger = Ledger(store)
        self.settings = self.settings_model.model_validate_json(store.setting(_REMEMBERED) or "{}")

    @abstractmethod
    def routes(self) -> list[BaseRoute]:
        """The vendor's paths."""

    @abstractmethod
    def error(self, status: int, code: str, message: str) -> Answer:
        """An error in the vendor's shape."""

    @abstractmethod
    def check(self, object_name: str, record: JsonObject) -> Flaw | None:
        """What the vendor finds wrong with a record."""

    def throttled(self, retry_after_s: int | None) -> Answer:
        """How the vendor says that calls come too fast: 429 unless it has a manner of its own."""
        headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
        return self.error(429, "RATE_LIMITED", "Too many requests.").with_headers(headers)

    def unauthorized(self) -> Answer:
        """How the vendor refuses a credential."""
        return self.error(401, "UNAUTHORIZED", "Authentication credentials are missing or not valid.")

    def in_flight(self) -> Answer:
        """How the vendor refuses an idempotency key that is at work."""
        return self.error(409, "IDEMPOTENCY_KEY_IN_USE", "A request with this idempotency key is in progress.")

    def is_authorized(self, headers: Mapping[str, str]) -> bool:
        """Whether a call shows the twin's credential."""
        return is_shown(CREDENTIALS[self.name], headers)

    def quota_headers(self, used: int, resets_s: int) -> dict[str, str]:
        """What every answer says about quota after `used` calls in this window, which ends in `resets_s` seconds."""
        return {}

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change settings and remember them. Raises `TwinRefused` (422)."""
        try:
            settings = self.settings_model.model_validate(self.settings.model_dump() | dict(changes))
        except ValidationError as error:
            raise TwinRefused(422, describe(error), self.settings_model.model_fields) from None
        self.store.set_setting(_REMEMBERED, settings.model_dump_json())
        self.settings = settings

    @property
    def now_us(self) -> int:
        """The wall clock, in microseconds since the epoch."""
        return round(self.clock() * 1_000_000)

    def probe_route(self) -> Route:
        """The route of the probe."""
        return Route(self.probe_path, self._well, methods=["GET"])

    async def _well(self, request: Request) -> Answer:
        return json_answer(200, {"status": "ok"})

    def not_found(self) -> Answer:
        """The answer for a path that the vendor does not have."""
        return self.error(404, "NOT_FOUND", "There is nothing at this address.")

    async def read_object(self, request: Request) -> JsonObject:
        """The JSON object of a request's body; refuses anything else."""
        try:
            content = orjson.loads(await request.body())
        except orjson.JSONDecodeError:
            raise Refusal(self.error(400, "INVALID_JSON", "The body is not JSON.")) from None
        if not isinstance(content, dict):
            raise Refusal(self.error(400, "INVALID_JSON", "The body is not a JSON object."))
        return content

    async def read_list(self, request: Request, name: str, most: int) -> list[object]:
        """The list that a bulk request's body holds under `name`; refuses an empty or too long one."""
        items = (await self.read_object(request)).get(name)
        if not isinstance(items, list) or not 1 <= len(items) <= most:
            raise Refusal(self.error(400, "INVALID_BATCH", f"{name} must be a list of 1 to {most} items."))
        return items

    def flaw(self, request: Request, object_name: str, record: object, index: int | None = None) -> Flaw | None:
        """Why a record is rejected, by an active fault or by the vendor's rules. `index`: its place in a bulk."""
        fault: Fault | None = request.scope[FAULT]
        if fault is not None and fault.kind == "contract":
            return Flaw(fault.code or "CONTRACT_CHANGED", "The field 'channel' is required since version 2.")
        if fault is not None and fault.kind == "partial" and index is not None and (index + 1) % fault.every == 0:
            return Flaw(fault.code or "LOCKED", "The record is locked by another process; try again.")
        if not isinstance(record, dict):
            return Flaw("INVALID_VALUE", "The record is not a JSON object.")
        return self.check(object_name, record)


def text_flaw(record: JsonObject, names: Iterable[str], code: str) -> Flaw | None:
    """The flaw of a record in which one of these fields is not a text with something in it."""
    for name in names:
        value = record.get(name)
        if not isinstance(value, str) or not value.strip():
            return Flaw(code, f"{name} must be a text that is not blank.")
    return None


def number_flaw(record: JsonObject, name: str, code: str, *, above: float | None = None) -> Flaw | None:
    """The flaw of a record in which a field, if it is there, is no number of at least 0, or above `above`."""
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Flaw(code, f"{name} must be a number.")
    if value < 0 or (above is not None and value <= above):
        return Flaw(code, f"{name} must be {'at least 0' if above is None else f'above {above:g}'}.")
    return None
