"""`hub.yaml`, as pydantic models: systems, failover groups and routes. Relations are checked as a whole."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from tideover.config.rest import Expression, Limits, Rest, Strict, Timeouts
from tideover.config.units import Duration
from tideover.model import Order, Resolve

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value) or len(value) > 60:
        raise ValueError("is no name: lower-case letters, digits and single hyphens, at most 60, as in orders-to-erp")
    return value


def _check_block(value: str) -> str:
    slug, _, name = value.partition("/")
    if not (_NAME.fullmatch(slug) and _NAME.fullmatch(name)):
        raise ValueError("is no block: write its type and its name, as in tideover-bearer/crm")
    return value


def _check_dotted(value: str) -> str:
    module, _, function = value.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise ValueError("is no function: write module and function, as in mappings.orders:to_invoice")
    return value


Name = Annotated[str, AfterValidator(_check_name)]
BlockName = Annotated[str, AfterValidator(_check_block)]
DottedFunction = Annotated[str, AfterValidator(_check_dotted)]


class Breaker(Strict):
    """When the hub stops calling a system, and how it finds out that the system is back."""

    failures: int = Field(default=5, ge=1, le=1000)
    """Consecutive failures that open it. One hung call or one refused credential opens it at once."""
    rejections: int = Field(default=5, ge=2, le=1000)
    """Consecutive identical rejections of different records that open it as a changed contract."""
    open_for: Duration = 5.0
    """How long it stays open at first; each relapse doubles it, with jitter."""
    max_open: Duration | None = None
    """The longest it stays open between two probes. Default: 5s where the system has a probe, else 5m."""
    successes: int = Field(default=2, ge=1, le=100)
    """Good probes in a row that close it."""


class System(Strict):
    """An application that the hub talks to."""

    preset: Name | None = None
    """A vendor's description that ships with tideover; what `rest` says here goes before it."""
    block: BlockName
    """The Prefect block that holds its address and secrets: type and name, as in tideover-bearer/crm."""
    rest: Rest = Rest()
    """What the preset lacks, or all of it."""
    resolve: Resolve | None = None
    """How an unknown outcome is resolved: natural, key, lookup or none. Default: the preset's, else none."""
    key_horizon: Duration = 86_400.0
    """With `resolve: key`: how long the provider remembers idempotency keys."""
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    breaker: Breaker = Breaker()


class Group(Strict):
    """Providers of one capability, in order of preference. Parsed and checked; failover itself comes later."""

    providers: list[Name] = Field(min_length=2)


class Source(Strict):
    system: Name
    stream: str
    """One of the system's streams."""


class Mapping(Strict):
    """How a source record becomes what the target takes; without any, it goes as it is."""

    fields: dict[str, Expression] | None = None
    """Each field of the target record, as a JMESPath expression over the source record."""
    required: list[str] = Field(default_factory=list)
    """Fields that must not be null; a record that lacks one is parked at intake."""
    function: DottedFunction | None = None
    """A Python function `(record: dict) -> dict | None`; `None` leaves the record out."""

    @model_validator(mode="after")
    def _one_way(self) -> Mapping:
        if self.fields is not None and self.function is not None:
            raise ValueError("has both `fields` and `function`; keep one")
        unknown = sorted(set(self.required) - set(self.fields or {}))
        if self.fields is not None and unknown:
            raise ValueError(f"`required` names {', '.join(unknown)}, which `fields` does not have")
        return self


class Target(Strict):
    """Where a route delivers: one system, or a failover group of systems."""

    system: Name | None = None
    group: Name | None = None
    operation: str
    """One of the system's operations; in a group, one that every provider has."""

    @model_validator(mode="after")
    def _one_place(self) -> Target:
        if (self.system is None) == (self.group is None):
            raise ValueError("needs either `system` or `group`")
        return self

    @property
    def name(self) -> str:
        """The name of the system or group: what `deliver` is deployed as."""
        return self.system or self.group or ""


class Every(Strict):
    every: Duration = Field(ge=1)


class Cron(Strict):
    cron: str
    timezone: str = "UTC"


class Retry(Strict):
    """How a record is tried again whose attempts fail while its system is well."""

    max_attempts: int = Field(default=12, ge=1)
    """Attempts with an unknown outcome before the record is parked. Attempts that certainly reached nobody, and
    the time that a system is down, don't count."""
    base: Duration = 1.0
    """The first wait is random up to this; each next one may be twice as long."""
    cap: Duration = 300.0
    max_age: Duration | None = None
    """A record still undelivered at this age is parked instead of tried again: its business deadline. Default:
    none, as an outage must never lose a record's place."""


class Route(Strict):
    """From a source through a mapping to a target: the unit of governance, scheduling and run history."""

    source: Source
    mapping: Mapping = Mapping()
    target: Target
    key: Expression
    """The business key, as a JMESPath expression over the source record: a string or a number."""
    order: Order = Order.BLOCK
    """What a parked record means for later records of the same key: block, skip, latest or none."""
    schedule: Every | Cron | None = None
    """When `sync` runs by itself: `every: 5m`, or `cron:` with a `timezone`."""
    rto: Duration | None = None
    """Recovery time objective (ISO 22301): the flow must be whole again this long after an outage began."""
    rpo: Duration | None = None
    """Recovery point objective: how old the newest staged record may be."""
    retention: Duration = 2_592_000.0
    """How long delivered records and their attempts are kept."""
    retry: Retry = Retry()
    on_unknown: Literal["hold", "reroute"] = "hold"
    """For failover groups: what to do with an unknown outcome while its provider can't be asked."""
    max_hold: Duration = 3600.0
    accepts_duplicates: bool = False
    """True: an unknown outcome that can't be resolved is sent again instead of parked."""


class DeliverSettings(Strict):
    """How the deliver deployment of each target runs."""

    linger: Duration = 600.0
    """How long a scheduled run stays alive and delivers what is staged within a fraction of a second."""
    every: Duration = Field(default=600.0, ge=10)
    """The safety net: how often a run starts, whatever else starts one."""
    workers: int = Field(default=1, ge=1, le=64)
    """Runs of one target at the same time."""


class Staging(Strict):
    """Where the staging database is. Exactly one of the three."""

    sqlite: str | None = None
    """A file, relative to this one."""
    env: str | None = None
    """The environment variable that holds the database's URL."""
    block: BlockName | None = None
    """The Prefect block that holds it: tideover-staging-database/<name>."""

    @model_validator(mode="after")
    def _one_place(self) -> Staging:
        if sum(v is not None for v in (self.sqlite, self.env, self.block)) != 1:
            raise ValueError("needs exactly one of `sqlite`, `env` and `block`")
        return self


class PrefectSettings(Strict):
    work_pool: str = "tideover"
    """The work pool of every deployment; `tideover deploy` makes it, of type process, if it is not there."""


class Hub(Strict):
    """The whole of `hub.yaml`."""

    name: Name
    staging: Staging = Staging(sqlite="tideover.db")
    encryption: BlockName | None = None
    """The Prefect block with the keys that seal payloads at rest: tideover-encryption-keys/<name>."""
    prefect: PrefectSettings = PrefectSettings()
    deliver: DeliverSettings = DeliverSettings()
    systems: dict[Name, System] = Field(min_length=1)
    groups: dict[Name, Group] = Field(default_factory=dict)
    routes: dict[Name, Route] = Field(min_length=1)

    def systems_of(self, target: str) -> list[str]:
        """The systems behind a target, in order of preference."""
        return list(self.groups[target].providers) if target in self.groups else [target]

    @property
    def targets(self) -> list[str]:
        """Every target that some route delivers to, once, in the order of the routes."""
        return list(dict.fromkeys(route.target.name for route in self.routes.values()))

    def routes_to(self, target: str) -> dict[str, Route]:
        """The routes that deliver to a target."""
        return {name: route for name, route in self.routes.items() if route.target.name == target}
