"""Reading a stream: from a place to the next page and its cursor. The connector makes the calls."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import orjson

from tideover.config.rest import Incremental, LinkPagination, Stream
from tideover.connectors.http.answer import Answer, Undecodable, decode
from tideover.connectors.http.classify import Meaning, classify
from tideover.connectors.http.expressions import find
from tideover.connectors.http.pagination import Turned, Unfit, following, is_fit, listing, params
from tideover.connectors.http.scrub import Hidden
from tideover.connectors.http.throttle import server_time
from tideover.connectors.http.watermark import Place, fingerprint, latest, load, parse, written_as
from tideover.errors import AccessError, SourceContract, SourceError, SourceLoop
from tideover.model import (
    CREDENTIALS,
    SECOND_US,
    Accepted,
    Broken,
    JsonObject,
    Page,
    Rejected,
    Throttled,
    Unknown,
    Unsent,
)

_UNREADABLE = (
    "its stored cursor can't be read; delete the row of its route in the table `cursor`, and it is read from the "
    "beginning: what was delivered longer ago than the route's `retention` is new then"
)
NOT_AN_OBJECT = "not_an_object"
_REFUSES_TOKEN = (400, 404, 410)


@dataclass(frozen=True, slots=True)
class Asked:
    """What came back for one page, and the address that was asked."""

    answer: Answer | Unsent | Throttled | Unknown
    address: str


# (path, parameters, whether the path is absolute on the system's origin) -> what came back
Ask = Callable[[str, Mapping[str, str], bool], Awaitable[Asked]]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one stream of one system."""

    system: str
    name: str
    stream: Stream
    meaning: Meaning
    ask: Ask
    hidden: Hidden

    async def pages(self, cursor: str | None) -> AsyncGenerator[Page, None]:
        """The pages from `cursor` to the end of the listing.

        A listing that was under way goes on with its next page. If the system no longer takes that token (400, 404,
        410), the listing begins again, once: what was staged already is dropped by dedupe.
        """
        place = self._load(cursor)
        may_restart = place.is_under_way
        while True:
            asked = await self._ask(place)
            if may_restart and self._is_token_refused(asked.answer):
                place, may_restart = place.restarted(), False
                continue
            may_restart = False
            page, place = self._turn(asked, place)
            yield page
            if page.is_last:
                return

    def _is_token_refused(self, came: Answer | Unsent | Throttled | Unknown) -> bool:
        if not isinstance(came, Answer) or came.status not in _REFUSES_TOKEN:
            return False
        return isinstance(classify(came, self.meaning), Rejected)

    async def _ask(self, place: Place) -> Asked:
        if isinstance(self.stream.pagination, LinkPagination) and place.next is not None:
            return await self.ask(str(place.next), {}, True)
        paging = params(self.stream.pagination, place.next)
        incremental = self.stream.incremental
        if incremental is not None and place.since_us is not None:
            paging[incremental.param] = written_as(place.since_us, incremental.overlap, incremental.format)
        path, wanted = listing(self.stream.path, self.stream.params, paging)
        return await self.ask(path, wanted, False)

    def _turn(self, asked: Asked, place: Place) -> tuple[Page, Place]:
        answer = self._whole(asked.answer)
        try:
            decoded = decode(answer.body)
        except Undecodable:
            raise self._contract(answer, "expected JSON") from None
        items = find(self.stream.records, decoded)
        if not isinstance(items, list):
            raise self._contract(answer, f"expected a list at `records` ({self.stream.records})")
        try:
            token = following(
                self.stream.pagination,
                place.next,
                Turned(decoded, tuple(answer.headers.all("link")), len(items), asked.address),
            )
        except Unfit as error:
            raise self._contract(answer, str(error)) from None
        high_us = self._high(answer, items)
        now = server_time(answer.headers)
        place = place.begun(None if now is None else round(now.timestamp() * SECOND_US))
        if token is None:
            after = place.completed(high_us)
        else:
            content = fingerprint(_canonical(items) or answer.body) if items else ""
            if place.is_seen(token, content):
                what = f"{self.stream.path} gives a page or its token again"
                raise SourceLoop(self.system, self.name, what, restart=place.restarted().dump())
            after = replace(place.turned(token, content, high_us), of=self._listing)
        return _page(items, after.dump(), is_last=token is None), after

    def _whole(self, answer: Answer | Unsent | Throttled | Unknown) -> Answer:
        """The answer if it is a whole success; else raises what it means."""
        outcome = classify(answer, self.meaning, self.hidden) if isinstance(answer, Answer) else answer
        if isinstance(answer, Answer) and isinstance(outcome, Accepted) and answer.trouble is None:
            return answer
        path = self.stream.path
        match outcome:
            case Throttled(delay_s=delay_s, detail=detail):
                raise SourceError(self.system, self.name, f"throttled ({detail})", retry_after_s=delay_s)
            case Unsent(code, detail) if code == CREDENTIALS:
                raise AccessError(self.system, f"its credential was refused ({detail})")
            case Unknown("oversize", detail):
                raise self._shape(f"{path}: a page is over `limits.response` ({detail}); ask for smaller pages")
            case Rejected(code, detail):
                raise self._shape(f"{path}: the request was rejected ({code}, {detail})")
            case Unsent(code, detail) | Unknown(code, detail):
                raise SourceError(self.system, self.name, f"{path}: {code} ({detail})")
            case Accepted():
                raise SourceError(self.system, self.name, f"{path}: the answer is not whole")

    def _high(self, answer: Answer, items: list[object]) -> int | None:
        """The largest instant that the page's records name. A page whose every instant can't be read is no page."""
        incremental = self.stream.incremental
        if incremental is None:
            return None
        found = [value for value in (find(incremental.field, item) for item in items) if value is not None]
        high_us = latest(parse(value, incremental.format) for value in found)
        if found and high_us is None:
            raise self._contract(answer, _expected_instant(incremental))
        return high_us

    def _contract(self, answer: Answer, expected: str) -> SourceContract:
        return self._shape(f"{self.stream.path} answered http {answer.status}: {expected}")

    def _shape(self, what: str) -> SourceContract:
        return SourceContract(self.system, self.name, what)

    def _load(self, cursor: str | None) -> Place:
        """The stored place. One within a listing that is described otherwise now is none in this one: its page 3 may
        begin elsewhere, or be no page at all. Then the listing begins again, and dedupe drops what was staged."""
        try:
            place = load(cursor)
        except ValueError:
            raise self._shape(_UNREADABLE) from None
        if place.next is None or (place.of == self._listing and is_fit(self.stream.pagination, place.next)):
            return place
        return place.restarted()

    @property
    def _listing(self) -> str:
        """What tells this listing from one that has other pages."""
        described = self.stream.model_dump(include={"path", "params", "records", "pagination"}, mode="json")
        return fingerprint(json.dumps(described, sort_keys=True).encode())


def _page(items: list[object], cursor: str, *, is_last: bool) -> Page:
    records: list[JsonObject] = []
    broken: list[Broken] = []
    for index, item in enumerate(items):
        if isinstance(item, dict):
            records.append(item)
        else:
            kind = "null" if item is None else type(item).__name__
            detail = f"item {index} of the page is {kind}, not an object"
            broken.append(Broken("", _canonical(item), NOT_AN_OBJECT, detail))
    return Page(records, cursor, is_last, broken)


def _canonical(value: object) -> bytes:
    """The JSON text of a decoded value; nothing of one that is nested deeper than it can be written. The standard
    library writes the integers that orjson does not."""
    try:
        return orjson.dumps(value)
    except TypeError:
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        except RecursionError:
            return b""


def _expected_instant(incremental: Incremental) -> str:
    return f"expected an instant ({incremental.format}) at `incremental.field` ({incremental.field})"
