"""The nouns of the hub, as immutable values. No I/O, no clock, no framework.

Instants on the way to and from the staging database are whole microseconds since the Unix epoch, in names ending
in `_us`: one integer that both databases compare and index alike. People see aware UTC datetimes (`instant`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

JsonObject = dict[str, Any]  # a decoded JSON object: its values are whatever JSON holds

SECOND_US = 1_000_000


def instant(us: int) -> datetime:
    """The aware UTC datetime of `us` microseconds since the epoch."""
    return datetime.fromtimestamp(us / SECOND_US, tz=UTC)


def lane_id(route: str, key: str) -> int:
    """The lane of one route and business key: 63 bits of a BLAKE2b hash, never 0.

    Of a million lanes, two share one with a probability of about 5e-8.
    """
    digest = blake2b(f"{route}\x00{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 1) or 1


def content_hash(payload: bytes) -> bytes:
    """16 bytes that tell whether a payload changed."""
    return blake2b(payload, digest_size=16).digest()


def record_id(lane: int, born_us: int, seq: int, content: bytes) -> str:
    """32 hex digits, the record's id and the idempotency key of all its attempts.

    A function of the record's place and content: a stage that is repeated after a crash gives the same id, while
    the second A of A, B, A gets its own.
    """
    return blake2b(b"%d|%d|%d|%b" % (lane, born_us, seq, content), digest_size=16).hexdigest()


class Order(enum.StrEnum):
    """What a parked record means for the rest of its lane."""

    BLOCK = "block"  # it holds the lane until a person replays or releases it
    SKIP = "skip"  # it is stepped over
    LATEST = "latest"  # as skip, and an undelivered older version gives way to a newer one
    NONE = "none"  # order does not matter: each record has a lane of its own


class Resolve(enum.StrEnum):
    """How a system lets us find out what became of an unknown attempt."""

    NATURAL = "natural"  # the call is an upsert: send it again
    KEY = "key"  # the provider honours idempotency keys for `key_horizon`: send again with the same key
    LOOKUP = "lookup"  # ask by our reference, then send if it is not there
    NONE = "none"  # there is no way: a person decides, or the route accepts duplicates


# --- outcomes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider confirmed it. `reference` is the provider's own id of it, where it gives one."""

    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The record's own fault, by the provider's word. `code` groups alike rejections; `detail` is for people."""

    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Throttled:
    """The provider asks for a pause of `delay_s` seconds. Not processed; nobody's fault. With `is_asked` false it did
    not say for how long: a guess, which grows as it comes again and again."""

    delay_s: float
    detail: str = ""
    is_asked: bool = True


@dataclass(frozen=True, slots=True)
class Unsent:
    """Certainly not processed. `code`: refused, dns, tls, connect_timeout, pool, late, redirect or credentials.

    `is_answer`: the system itself said so of this record, so that it may be the only one that it says it of; without,
    no record had a part in it."""

    code: str
    detail: str = ""
    is_answer: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """May have been processed. `code`: timeout, reset, server_error, unreadable, oversize or lease_expired."""

    code: str
    detail: str = ""


Outcome = Accepted | Rejected | Throttled | Unsent | Unknown


@dataclass(frozen=True, slots=True)
class Found:
    """A look-up's answer: the provider has it, under this reference."""

    reference: str | None


@dataclass(frozen=True, slots=True)
class Missing:
    """A look-up's answer: the provider does not have it."""


LookUp = Found | Missing | Throttled | Unsent | Unknown

CREDENTIALS = "credentials"  # the Unsent code of a 401 or 403
REDIRECTED = "redirect"  # the code of a call that was answered with another address
HUNG = "timeout"  # the Unknown code of a call that was never answered
BATCH_REJECTED = "batch_rejected"  # the Unsent code of a record whose batch was refused, maybe because of another one
REFUSED = "lookup_rejected"  # the Unknown code of a look-up that the system answers, but will not have
INTERRUPTED = "interrupted"  # the Unknown code of a call that we broke off ourselves: nobody's fault


NORMAL = 3  # the priority of what has none of its own
PRIORITIES = (1, 2, 3, 4, 5)

# --- records -------------------------------------------------------------------------------------------------
# A delivery makes many of the last three: a named tuple is made four times as fast as a frozen dataclass.


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A mapped record on its way into the staging table. `payload` is its JSON text; `priority` from 1 (first) to 5."""

    key: str
    payload: bytes
    priority: int = NORMAL


@dataclass(frozen=True, slots=True)
class Broken:
    """A source record that could not be staged: parked at intake with its reason. `payload` is its JSON text."""

    key: str
    payload: bytes
    code: str
    detail: str


class Outgoing(NamedTuple):
    """What a connector sends: one record under its idempotency key."""

    id: str
    key: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Staged:
    """What one stage call did."""

    staged: int = 0
    unchanged: int = 0
    parked: int = 0


class LeasedRecord(NamedTuple):
    """One record under a lease, in lane order. `in_doubt`: an earlier attempt's outcome is unknown.

    `fault` says why it can't be sent at all, as `fault_code` in words; such a record is parked, never sent.
    """

    id: str
    seq: int
    key: str
    payload: bytes
    staged_us: int
    in_doubt: bool
    fault: str = ""
    fault_code: str = "corrupt"


class Lease(NamedTuple):
    """The fenced right to send the head records of one lane to one system, for the time that its claim asked for.

    `is_backup`: a provider that is preferred for its head could not have it; `is_canary`: the only record that a
    provider on its way back gets for now.
    """

    lane: int
    token: int
    route: str
    system: str
    attempts: int
    doubted_us: int  # when the oldest unknown attempt began; 0 when none is in doubt
    doubt_age_s: float  # how long ago that was when the lease was given
    records: Sequence[LeasedRecord]
    is_backup: bool = False
    is_canary: bool = False
    counted: int = 0  # how many records its claim took from the system's limits
    miss_age_s: float | None = None  # how long ago a look-up first missed its head, since that came into doubt
    given_us: int = 0  # when, on the database's clock
    is_corrected: bool = False  # its head is a correction: what is in doubt behind it may have been sent before it


# --- sources ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """Some records of a stream, and the cursor that stands for having read them.

    `cursor` is opaque to everyone but the connector that made it; it is stored in the transaction that stages the
    records. `is_last` says that the listing is complete for now.
    """

    records: Sequence[JsonObject]
    cursor: str
    is_last: bool
    broken: Sequence[Broken] = ()


# --- events -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HubEvent:
    """Something that people or automations want to know. `name` as in `tideover.system.down`.

    `subject` is the system, route or record that it is about; `detail` holds names, ids, codes and counts only.
    """

    name: str
    subject: str
    detail: Mapping[str, Any] = field(default_factory=dict)
