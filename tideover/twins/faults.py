"""The fault switches: what can be broken, with which options, for how long and for how many calls.

A twin has at most one active fault. A new one takes the place of the old; it ends when it is cleared, replaced or
past `for_s`. A fault with a `count` that is used up harms no further call, but the calls that it already holds
stay held until it ends. Faults are not remembered over a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tideover.twins.refusal import TwinRefused

_LIMITS = frozenset({"for_s", "count", "probability", "only"})


class Role(StrEnum):
    """What a call is for."""

    BUSINESS = "business"
    PROBE = "probe"
    TOKEN = "token"  # noqa: S105 - the name of a role


class Fault(BaseModel):
    """What is broken, and how. Every option but `kind` may be left out; each kind takes only its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: str
    for_s: float | None = Field(default=None, gt=0)
    """The fault ends by itself after this; without it, when it is cleared."""
    count: int | None = Field(default=None, ge=1)
    """How many business calls it harms. Probes and token calls are then spared, so that the number is exact."""
    probability: float | None = Field(default=None, gt=0, le=1)
    """The share of calls that it harms, drawn from the host's seed."""
    only: Literal["reads", "writes"] | None = None
    """Harm only business calls that read (GET), or only those that write; probes are then spared."""
    delay_s: float = Field(default=1.0, ge=0)
    """`slow`: how long each call takes; the work is done at the end of it, even if the caller has left."""
    retry_after_s: int | None = Field(default=2, ge=0)
    """What `Retry-After` says; null leaves the header out."""
    vendor: bool = False
    """`throttle_429`: in the vendor's own manner instead."""
    commit: bool | None = None
    """Whether the work is done before the answer is spoilt. Default: as the kind says."""
    late: bool = False
    """`hang`: when the fault ends, the held calls are worked off like those of a process that was frozen, even
    if their callers have left; else they are dropped."""
    every: int = Field(default=2, ge=1)
    """`partial`: every n-th item of a bulk call fails, whatever it is."""
    code: str | None = None
    """`contract`, `partial`, `error_body_200`: the code of the rejection."""
    shape: Literal["scalar", "empty"] = "scalar"
    """`broken_record`: the first record of a page becomes a string, or an object without fields."""
    size_mb: int = Field(default=50, ge=1, le=100_000)
    """`huge`, `gzip_bomb`: the size of the body, decompressed."""
    interval_s: float = Field(default=1.0, gt=0)
    """`drip`: the time between two bytes."""
    manner: Literal["no_http", "cut_head", "broken_chunks", "cut_chunks", "stall", "endless"] = "broken_chunks"
    """`broken_http`: which of the things that no HTTP server sends."""
    location: str | None = None
    """`redirect`: where to; default: a trap on the control server, which is another origin."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault. `commits`: whether the work is done, unless `commit` says otherwise.

    `is_outage`: it harms probes and token calls too, as a real outage would. `twins`: where it makes sense.
    """

    what: str
    options: frozenset[str] = frozenset()
    commits: bool = False
    is_outage: bool = True
    limits: frozenset[str] = _LIMITS
    twins: frozenset[str] | None = None


def _own(*options: str) -> frozenset[str]:
    return frozenset(options)


_SOURCE = frozenset({"crm"})
_TARGETS = frozenset({"erp", "marketing", "support", "carrier-a", "carrier-b"})
_BULK = frozenset({"marketing", "support"})

KINDS: dict[str, Kind] = {
    "down": Kind("the port is closed; connects are refused, open connections are reset", limits=_own("for_s")),
    "hang": Kind("calls are accepted and never answered", _own("late")),
    "slow": Kind("every call takes delay_s longer", _own("delay_s"), commits=True),
    "drop": Kind("the connection is reset before any work is done"),
    "error_500": Kind("500 with the vendor's error body", _own("commit")),
    "unavailable_503": Kind("503 with Retry-After", _own("retry_after_s")),
    "throttle_429": Kind("429 with Retry-After, or the vendor's own manner", _own("retry_after_s", "vendor")),
    "commit_then_hang": Kind("the work is done, the answer never comes", commits=True),
    "commit_then_drop": Kind("the work is done, then the connection is reset", commits=True),
    "truncated": Kind("half of the promised body, then the end", _own("commit"), commits=True),
    "malformed": Kind("200 with a body that is not JSON", _own("commit")),
    "broken_http": Kind("bytes that are no HTTP answer, in a manner", _own("manner", "commit"), commits=True),
    "unauthorized_401": Kind("the credential is refused"),
    "contract": Kind("every record is rejected with the same error", _own("code"), is_outage=False, twins=_TARGETS),
    "partial": Kind("every n-th item of a bulk fails", _own("every", "code"), is_outage=False, twins=_BULK),
    "huge": Kind("a body of size_mb, streamed", _own("size_mb", "commit"), commits=True),
    "drip": Kind("one byte of the answer every interval_s", _own("interval_s", "commit"), commits=True),
    "gzip_bomb": Kind("a small body that decompresses to size_mb", _own("size_mb", "commit"), commits=True),
    "redirect": Kind("307 to another origin", _own("location")),
    "error_body_200": Kind("200 with the vendor's error body", _own("commit", "code")),
    "broken_record": Kind("one record of a page is broken", _own("shape"), is_outage=False, twins=_SOURCE),
    "repeat_cursor": Kind("a page names its own token as the next", is_outage=False, twins=_SOURCE),
    "loop_pages": Kind("page tokens go round in a circle", is_outage=False, twins=_SOURCE),
}


def kinds_of(twin: str) -> dict[str, Kind]:
    """The kinds of fault that a twin knows."""
    return {name: kind for name, kind in KINDS.items() if kind.twins is None or twin in kind.twins}


def parse_fault(twin: str, content: Mapping[str, Any]) -> Fault:
    """The fault that a request asks for. Raises `TwinRefused` (422) with what would have been valid."""
    kinds = kinds_of(twin)
    name = content.get("kind")
    if not isinstance(name, str) or name not in kinds:
        raise TwinRefused(422, f"{twin} knows no fault of kind {name!r}", kinds)
    options = kinds[name].options | kinds[name].limits
    if foreign := set(content) - options - {"kind"}:
        raise TwinRefused(422, f"{name} takes no {', '.join(sorted(foreign))}", options)
    try:
        return Fault.model_validate(content)
    except ValidationError as error:
        raise TwinRefused(422, describe(error), options) from None


def describe(error: ValidationError) -> str:
    """What is wrong with a request's fields, in one line."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors())


@dataclass(slots=True)
class ActiveFault:
    """A fault while it lasts. `ended` is set when it is cleared, replaced or past its time."""

    fault: Fault
    left: int | None
    harmed: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None

    @property
    def is_used_up(self) -> bool:
        """Whether its `count` of calls was harmed."""
        return self.left == 0

    @property
    def commits(self) -> bool:
        """Whether the work of a harmed call is done."""
        return KINDS[self.fault.kind].commits if self.fault.commit is None else self.fault.commit

    def as_json(self) -> dict[str, Any]:
        """The options that were set, and what it did so far."""
        return self.fault.model_dump(exclude_unset=True) | {"harmed": self.harmed, "used_up": self.is_used_up}


class FaultSwitch:
    """The one fault of one twin. `on_end` is called after a fault ended by its own time."""

    def __init__(self, random: Random, on_end: Callable[[Fault], None]) -> None:
        self._random, self._on_end = random, on_end
        self.active: ActiveFault | None = None

    def put(self, fault: Fault) -> None:
        """Break the twin this way from now on, in place of any other."""
        self.clear()
        active = ActiveFault(fault, fault.count)
        if fault.for_s is not None:
            active.timer = asyncio.get_running_loop().call_later(fault.for_s, self._end_by_time, active)
        self.active = active

    def clear(self) -> None:
        """End the active fault, if there is one."""
        active, self.active = self.active, None
        if active is not None:
            active.ended.set()
            if active.timer is not None:
                active.timer.cancel()

    def choose(self, role: Role, is_read: bool) -> ActiveFault | None:
        """The fault that this call meets, counted as harmed; `None`: it goes well."""
        active = self.active
        if active is None or active.is_used_up or not _concerns(active.fault, role, is_read):
            return None
        if active.fault.probability is not None and self._random.random() >= active.fault.probability:
            return None
        active.harmed += 1
        if active.left is not None:
            active.left -= 1
        return active

    def _end_by_time(self, active: ActiveFault) -> None:
        if self.active is active:
            self.clear()
            self._on_end(active.fault)


def _concerns(fault: Fault, role: Role, is_read: bool) -> bool:
    if role is not Role.BUSINESS:
        return KINDS[fault.kind].is_outage and fault.count is None and fault.only is None
    return fault.only is None or (fault.only == "reads") == is_read
