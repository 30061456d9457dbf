"""The declarative description of a REST API: what a preset holds, and what `systems.<name>.rest` may say itself.

Expressions are JMESPath over the decoded JSON of an answer. Paths may hold `{key}` and `{id}`: the record's
business key and idempotency key, percent-encoded. A void may hold `{reference}` too: the provider's own id of it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tideover.config.asking import LookUpCall, VoidCall
from tideover.config.expressions import Expression
from tideover.config.paths import UrlPath
from tideover.config.strict import Strict
from tideover.config.units import Duration, Rates, Share, Size, TimeOfDay

StatusCode = Annotated[int, Field(ge=100, le=599)]
Method = Literal["POST", "PUT", "PATCH"]


class NoPagination(Strict):
    type: Literal["none"] = "none"
    """One page holds everything."""


class CursorPagination(Strict):
    type: Literal["cursor"]
    """The answer names the token of the next page."""
    next: Expression
    """Where the token stands in the answer; null or an empty string: this was the last page."""
    param: str = "cursor"
    """The query parameter that carries the token."""


class PagePagination(Strict):
    type: Literal["page"]
    """Pages are numbered; a page shorter than `size` is the last."""
    param: str = "page"
    """The query parameter that carries the page's number."""
    size_param: str = "per_page"
    """The query parameter that carries `size`."""
    size: int = Field(default=100, ge=1)
    """Records of a full page. No more than the system gives at a time, or its first page is taken for the last."""
    first: int = 1
    """The number of the first page: 0 or 1."""


class OffsetPagination(Strict):
    type: Literal["offset"]
    """Pages begin at an offset; a page shorter than `limit` is the last."""
    param: str = "offset"
    """The query parameter that carries the offset."""
    limit_param: str = "limit"
    """The query parameter that carries `limit`."""
    limit: int = Field(default=100, ge=1)
    """Records of a full page. No more than the system gives at a time, or its first page is taken for the last."""


class LinkPagination(Strict):
    type: Literal["link"]
    """The `Link` header (RFC 8288) with `rel="next"` names the next page; only on the same origin."""


Pagination = Annotated[
    NoPagination | CursorPagination | PagePagination | OffsetPagination | LinkPagination, Field(discriminator="type")
]


class Incremental(Strict):
    """Read only what changed since the last complete listing."""

    param: str
    """The query parameter that takes the instant, such as `updated_after`."""
    field: Expression
    """Where a record says when it was modified. The largest value seen becomes the next cursor."""
    format: Literal["iso", "epoch_s", "epoch_ms"] = "iso"
    """How the system writes instants, in records and in the parameter."""
    overlap: Duration = 120.0
    """How far each listing reaches back before the cursor, for records that were committed late. What has not
    changed since is dropped by the hub's dedupe."""


class Stream(Strict):
    """Something a system can list."""

    path: UrlPath
    """Where the records are listed, from the system's base address."""
    params: dict[str, str] = Field(default_factory=dict)
    """Query parameters of every page."""
    records: Expression = "@"
    """Where the list of records stands in the answer."""
    pagination: Pagination = NoPagination()
    """How the next page is asked for."""
    incremental: Incremental | None = None
    """Without it, every run lists everything; the hub's dedupe drops what has not changed."""


class Bulk(Strict):
    """One call that carries many records."""

    path: UrlPath
    """Where the call goes, from the system's base address."""
    method: Method = "POST"
    """The HTTP method."""
    size: int = Field(ge=2, le=10_000)
    """How many records one call may carry."""
    wrap: str | None = None
    """The key under which the body holds the list; without it, the body is the list."""
    results: Expression = "@"
    """Where the answer lists what became of each record."""
    match: Literal["index", "key", "id"] = "index"
    """How a result belongs to a record: by its place, by the business key, or by the idempotency key that was sent in
    `idempotency_field`."""
    result_key: Expression | None = None
    """Where a result names the key or the id. With `match: index`: where it names its place, counted from 0; without
    it, the list has one result for each record, in their order."""
    unlisted: Literal["unknown", "accepted"] = "unknown"
    """What a record without a result of its own means: `accepted` only of a system that lists nothing but failures."""
    ok: Expression = "!(errors || error)"
    """True of a result that means accepted."""
    reference: Expression | None = None
    """Where a result names the provider's own id of the record."""
    code: Expression = "errors[0].code || error.code || error || 'rejected'"
    """Where a failed result names the reason, as a short code."""
    detail: Expression = "errors[0].message || error.message || message"
    """Where a failed result explains itself to people."""
    retry_codes: list[str] = Field(default_factory=list)
    """Codes of failed results that are the system's fault and not the record's: that record is sent again, up to
    `max_attempts` times while the system is well."""

    @model_validator(mode="after")
    def _key_has_its_place(self) -> Bulk:
        if self.match != "index" and self.result_key is None:
            what = "business key" if self.match == "key" else "idempotency key"
            raise ValueError(f"`match: {self.match}` needs `result_key`; write where a result names the {what}")
        if self.unlisted == "accepted" and self.result_key is None:
            raise ValueError("`unlisted: accepted` needs `result_key`; write where a failure names its record")
        return self


class Operation(Strict):
    """Something a system can be asked to do with one record."""

    path: UrlPath
    """Where the call goes, from the system's base address; it may hold `{key}` and `{id}`."""
    method: Method = "POST"
    """The HTTP method."""
    idempotency_header: str | None = None
    """The header that carries the idempotency key, such as `Idempotency-Key`."""
    idempotency_field: str | None = None
    """The field of the record that carries it, where the system wants it in the body."""
    wrap: str | None = None
    """The key under which the body of a single call holds the record; without it, the body is the record."""
    ok: Expression | None = None
    """True of a 2xx answer that really means accepted, where the status alone can't be trusted. A 2xx that is
    not JSON, or is cut short, is an unknown outcome either way."""
    reference: Expression | None = None
    """Where the answer names the provider's own id of the record."""
    code: Expression = "errors[0].code || error.code || code || error"
    """Where an error's answer names its reason, as a short code."""
    detail: Expression = "errors[0].message || error.message || message"
    """Where an error's answer explains itself to people."""
    retry_codes: list[str] = Field(default_factory=list)
    """Codes of rejections that are the system's fault and not the record's: it is sent again, up to `max_attempts`
    times while the system is well. They count for single calls, voids, and batches that are refused as a whole; `bulk`
    has its own for single results. A rule of `errors` that fits goes before."""
    bulk: Bulk | None = None
    """One call that carries many records, where the system has one. A single record goes the single way."""
    lookup: LookUpCall | None = None
    """How to ask whether the system has a record: what `resolve: lookup` needs."""
    void: VoidCall | None = None
    """How to undo an accepted call: cancel a label, refund a payment."""

    @model_validator(mode="after")
    def _id_is_sent(self) -> Operation:
        if self.bulk is not None and self.bulk.match == "id" and self.idempotency_field is None:
            raise ValueError(
                "`match: id` needs `idempotency_field`; write the field of each record that carries the id"
            )
        return self


class ErrorRule(Strict):
    """What one kind of answer means here, where it differs from the usual meaning of its status.

    The first rule that fits decides. Usual: 2xx accepted; 401 and 403 unsent (credentials); 429 throttled; 408,
    425 and 5xx unknown; other 4xx rejected; 3xx unknown, as a redirect is never followed, and unsent where the call
    changes nothing. Of a bulk call's 2xx that lists results, these decide and no rule.
    """

    status: StatusCode | None = None
    """The status that the rule is about; without it, any."""
    contains: str | None = None
    """A piece of the body that must be there, such as `REQUEST_LIMIT_EXCEEDED`."""
    header: str | None = None
    """A header that must be there."""
    json_body: bool | None = None
    """`false`: only a body that is not JSON; `true`: only one that is."""
    outcome: Literal["accepted", "rejected", "throttled", "unsent", "unknown", "credentials"]
    """What such an answer means for the record; `credentials` opens the breaker and parks nothing."""
    code: str | None = None
    """The reason that is recorded, where the answer holds none."""
    delay: Duration = 30.0
    """With `throttled`: how long to pause where the answer does not say."""


class Probe(Strict):
    """A cheap call that tells whether the system is well."""

    path: UrlPath = "/health"
    """Where the call goes, from the system's base address."""
    method: Literal["GET", "HEAD"] = "GET"
    """The HTTP method."""


class Rest(Strict):
    """A REST API as data."""

    headers: dict[str, str] = Field(default_factory=dict)
    """Headers of every call. Secrets belong in the system's block."""
    streams: dict[str, Stream] = Field(default_factory=dict)
    """What the system can list, by name."""
    operations: dict[str, Operation] = Field(default_factory=dict)
    """What the system can be asked to do with a record, by name."""
    probe: Probe | None = None
    """A cheap call that tells whether the system is well; without it, one real record is the probe."""
    errors: list[ErrorRule] = Field(default_factory=list)
    """What answers mean here, where their status does not tell. The file's rules go before the preset's."""
    reset_headers: list[str] = Field(default_factory=list)
    """Vendor headers that say, on a throttled answer, in how many seconds (or at which Unix second) quota is
    back. `Retry-After` (RFC 9110 10.2.3) and the IETF `RateLimit` header are always understood; `Retry-After`
    wins."""


class Timeouts(Strict):
    """How long one call may take, in parts and as a whole."""

    connect: Duration = 5.0
    """Until a connection stands, the look-up of the name and TLS included."""
    read: Duration = 30.0
    """Between two pieces of the answer."""
    total: Duration = 60.0
    """The whole call. A provider that drips its answer never breaks `read`; this is what ends it."""

    @model_validator(mode="after")
    def _total_covers_its_parts(self) -> Timeouts:
        if self.total < max(self.connect, self.read):
            raise ValueError("`total` is shorter than `connect` or `read`; write at least the longer of the two")
        return self


class Quota(Strict):
    """How many records may be sent to a system from one reset of its provider's counter to the next. Once it is used
    up, what is left waits for the reset, or goes to another provider of a failover group."""

    records: int = Field(ge=1)
    """How many, by all workers together."""
    per: Literal["day", "month"] = "day"
    """How often it begins anew; a month's reset is on its first day."""
    resets: TimeOfDay = "00:00"
    """At what time of that day, as in `06:30`."""
    timezone: str = "UTC"
    """The time zone that the reset is in, as in `Europe/Amsterdam`."""
    reserve: Share = 0.2
    """The share that is kept for live traffic while there is a backlog: all of it right after the reset, and less and
    less towards the next one."""


class Limits(Strict):
    """What may be asked of a system: by one worker at a time (`concurrency`), and by all workers together. All limits
    hold at once. `rate` and `quota` count records: one for a call with one record, each of those in a bulk call, and
    one for each look-up, probe and void."""

    concurrency: int = Field(default=16, ge=1, le=1000)
    """Calls under way at once, from one worker."""
    in_flight: int | None = Field(default=None, ge=1, le=10_000)
    """Calls of deliveries under way at once, from all workers together; they share it fairly. Without it, each worker
    has its `concurrency`."""
    rate: Rates | None = None
    """How many records may be sent to the system per window, by all workers together: `200/1m`, or several, as in
    `[10/s, 200/1m]`."""
    quota: Quota | None = None
    """How many records may be sent to the system per day or month, by all workers together."""
    response: Size = 10_000_000
    """The largest answer that is read, raw or decompressed. A longer one is cut off: unknown for a delivery, an
    error for a source."""
    record: Size = 1_000_000
    """The largest record that is staged for this system; a larger one is parked at intake."""
