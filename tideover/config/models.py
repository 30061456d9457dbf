"""`hub.yaml`, as pydantic models: systems, failover groups and routes. Relations are checked as a whole."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema

from tideover.config.expressions import Expression, Key, check_priority
from tideover.config.names import NAME_SCHEMA, BlockName, DottedFunction, FilePath, Name, VariableName
from tideover.config.rest import Limits, Rest, Timeouts
from tideover.config.strict import Strict
from tideover.config.units import Duration, Share
from tideover.model import JsonObject, Order, Resolve


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
    """The Prefect block that holds its address and secrets: type and name, as in `tideover-bearer/crm`."""
    rest: Rest = Rest()
    """What the preset lacks, or all of it."""
    resolve: Resolve = Resolve.NONE
    """How an unknown outcome is resolved: natural, key, lookup or none. Default: the preset's, else none."""
    key_horizon: Duration = 86_400.0
    """With `resolve: key`: how long the provider remembers idempotency keys."""
    timeouts: Timeouts = Timeouts()
    """How long one call may take."""
    limits: Limits = Limits()
    """What may be asked of the system, by one worker at a time and by all workers together."""
    breaker: Breaker = Breaker()
    """When the hub stops calling the system."""


class Mapping(Strict):
    """How a source record becomes what the target takes; without any, it goes as it is."""

    fields: dict[str, Expression] | None = None
    """Each field of the target record, as a JMESPath expression over the source record; for a provider, over the
    staged one."""
    required: list[str] = Field(default_factory=list)
    """Fields that must not be null; a record that lacks one is parked: at intake, or for a provider before it is sent
    there."""
    function: DottedFunction | None = None
    """A Python function `(record: dict) -> dict | None`; `None` leaves the record out."""

    @model_validator(mode="after")
    def _one_way(self) -> Mapping:
        if self.fields is not None and self.function is not None:
            raise ValueError("has both `fields` and `function`; keep one of them")
        unknown = sorted(set(self.required) - set(self.fields or {}))
        if self.fields is not None and unknown:
            raise ValueError(
                f"`required` names {', '.join(unknown)}, which `fields` does not have; add or correct them"
            )
        return self


class Provider(Strict):
    """One system of a failover group. Where it needs none of the other keys, its name alone is enough."""

    system: Name
    """One of `systems`."""
    when: Expression | None = None
    """Which records it takes, as a JMESPath expression over the staged record: what the route's mapping made.
    Without it, every record."""
    mapping: Mapping = Mapping()
    """How the staged record becomes what this provider takes; without any, it goes as it is."""


def long_form(value: object) -> object:
    """A provider that is written as a mere name, as a mapping. Raises `ValueError`, as `what; how to mend it`."""
    if isinstance(value, str):
        return {"system": value}
    if value is None or isinstance(value, dict | Provider):
        return value
    raise ValueError("is no provider; write the name of a system, or `system:` and the other keys on lines below it")


class _OrName:
    """Allows a name beside the mapping in the JSON Schema, as `long_form` does in the file."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonObject:
        return {"anyOf": [dict(NAME_SCHEMA), handler(schema)]}


class Failback(Strict):
    """How a provider that was down gets its records back: it must be well for a while, prove itself with a few
    records, and then gets more and more."""

    dwell: Duration = 60.0
    """How long a provider must be well again before it gets records back."""
    max_dwell: Duration = 3600.0
    """Each relapse doubles the dwell, up to this."""
    canary: int = Field(default=3, ge=1, le=100)
    """How many records it gets, and must accept, before the ramp begins."""
    ramp: Duration = 60.0
    """From a tenth of the records to all of them, over this time. `0s`: all at once."""


class Group(Strict):
    """Providers of one capability, in order of preference. A record goes to the first that takes it and is well; while
    none is, it waits.

    What certainly never reached a provider goes to the next one at once. Of what may have reached it, the provider is
    asked first; the route's `on_unknown` says what happens while it can't be."""

    providers: list[Annotated[Provider, BeforeValidator(long_form), _OrName()]] = Field(min_length=2)
    """Systems that can each do what the group is for; the first is preferred. `carrier-a` is short for
    `{system: carrier-a}`."""
    live_share: Share = 0.02
    """The share of records that goes to each backup all the time, as one that is never used fails when it is
    needed: `0%` to `50%`. A backup with `resolve: none` gets no such records."""
    failback: Failback = Failback()
    """How a provider that was down gets its records back."""
    max_pause: Duration = 60.0
    """How long a throttled provider is waited for before its records go to another, where the route has no `rto`."""

    @property
    def systems(self) -> list[str]:
        """The names of the providers, in order of preference."""
        return [provider.system for provider in self.providers]


class Source(Strict):
    """Where a route's records come from."""

    system: Name
    """One of `systems`."""
    stream: str
    """One of the system's streams."""


class Target(Strict):
    """Where a route delivers: one system, or a failover group of systems."""

    system: Name | None = None
    """One of `systems`."""
    group: Name | None = None
    """One of `groups`."""
    operation: str
    """One of the system's operations; in a group, one that every provider has."""

    @model_validator(mode="after")
    def _one_place(self) -> Target:
        if (self.system is None) == (self.group is None):
            raise ValueError("needs either `system` or `group`; write one of them")
        return self

    @property
    def name(self) -> str:
        """The name of the system or group: what `deliver` is deployed as."""
        return self.system or self.group or ""


class Every(Strict):
    """A schedule by interval."""

    every: Duration = Field(ge=1)
    """How often, from the last start on."""


class Cron(Strict):
    """A schedule by the calendar."""

    cron: str
    """Five fields: minute, hour, day of the month, month, day of the week, as in `0 6 * * mon-fri`."""
    timezone: str = "UTC"
    """The time zone of the fields, as in `Europe/Amsterdam`."""


def _kind_of_schedule(value: object) -> str | None:
    """Which of the two a schedule is; None where it has both keys or neither."""
    if isinstance(value, Every | Cron):
        return "every" if isinstance(value, Every) else "cron"
    kinds = [kind for kind in ("every", "cron") if isinstance(value, dict) and kind in value]
    return kinds[0] if len(kinds) == 1 else None


Schedule = Annotated[
    Annotated[Every, Tag("every")] | Annotated[Cron, Tag("cron")], Field(discriminator=Discriminator(_kind_of_schedule))
]


class Retry(Strict):
    """How a record is tried again whose attempts fail while its system is well."""

    max_attempts: int = Field(default=12, ge=1)
    """Attempts whose outcome is unknown, or that the system answered by putting the record off, before the record is
    parked. Attempts that certainly reached nobody, and the time that a system is down, don't count."""
    base: Duration = 1.0
    """The first wait is random up to this; each next one may be twice as long."""
    cap: Duration = 300.0
    """The longest wait between two attempts."""
    max_age: Duration | None = None
    """A record still undelivered at this age is parked instead of tried again: its business deadline. Default:
    none, as an outage must never lose a record's place."""


class Route(Strict):
    """From a source through a mapping to a target: the unit of governance, scheduling and run history."""

    source: Source
    """Where its records come from."""
    mapping: Mapping = Mapping()
    """How a source record becomes what the target takes."""
    target: Target
    """Where its records go."""
    key: Key
    """The business key, as a JMESPath expression over the source record: a string or a number."""
    order: Order = Order.BLOCK
    """What a parked record means for later records of the same key. `block`: they wait for it. `skip`: it is stepped
    over. `latest`: as skip, and an undelivered older version gives way to a newer one. `none`: order does not matter;
    a record waits for no other."""
    priority: Annotated[Annotated[int, Field(ge=1, le=5)] | Expression, BeforeValidator(check_priority)] = 3
    """Whose records go first where a target can't take all at once: from 1 (first) to 5 (last), for all of the route's
    records, or as a JMESPath expression over the source record that gives one of them."""
    schedule: Schedule | None = None
    """When `sync` runs by itself: `every: 5m`, or `cron:` with a `timezone`."""
    rto: Duration | None = None
    """Recovery time objective (ISO 22301): the flow must be whole again this long after an outage began."""
    rpo: Duration | None = None
    """Recovery point objective: how old the newest staged record may be."""
    retention: Duration = 2_592_000.0
    """How long delivered records and their attempts are kept. A source that lists everything each time has to do so
    more often than this: what was not listed for longer is new when it is listed again, and is sent."""
    retry: Retry = Retry()
    """How a record is tried again whose attempts fail while its system is well."""
    on_unknown: Literal["hold", "reroute"] = "hold"
    """For failover groups: what becomes of a record that may have reached a provider, while that provider can't be
    asked. `hold`: it waits until it can be asked. `reroute`: after `max_hold` it goes to another provider, and is
    written to the reconciliation; once the first one can be asked and has it too, the loser is voided, by a person
    where the system has no `void`."""
    max_hold: Duration = 3600.0
    """With `on_unknown: reroute`: how long a record whose outcome is unknown waits for its provider before it goes to
    another."""
    accepts_duplicates: bool = False
    """True: an unknown outcome that can't be resolved is sent again instead of parked."""


class DeliverSettings(Strict):
    """How the deliver deployment of each target runs."""

    linger: Duration = 570.0
    """How long a scheduled run stays alive and delivers what is staged within a fraction of a second. A little
    shorter than `every`, so that the next run finds its place free."""
    every: Duration = Field(default=600.0, ge=10)
    """The safety net: how often a run starts, whatever else starts one."""
    workers: int = Field(default=1, ge=1, le=64)
    """Runs of one target at the same time."""


class Staging(Strict):
    """Where the staging database is. Exactly one of the three."""

    sqlite: FilePath | None = None
    """A file, relative to this one."""
    env: VariableName | None = None
    """The environment variable that holds the database's URL."""
    block: BlockName | None = None
    """The Prefect block that holds it: `tideover-staging-database/<name>`."""

    @model_validator(mode="after")
    def _one_place(self) -> Staging:
        if sum(v is not None for v in (self.sqlite, self.env, self.block)) != 1:
            raise ValueError("needs exactly one of `sqlite`, `env` and `block`; keep one")
        return self


class PrefectSettings(Strict):
    """How the hub uses Prefect."""

    work_pool: str = "tideover"
    """The work pool of every deployment; `tideover deploy` makes it, of type process, if it is not there."""


class Hub(Strict):
    """The whole of `hub.yaml`."""

    name: Name
    """What this hub is called, in Prefect's tags and in events."""
    staging: Staging = Staging(sqlite="tideover.db")
    """Where the staging database is."""
    encryption: BlockName | None = None
    """The Prefect block with the keys that seal payloads at rest: `tideover-encryption-keys/<name>`."""
    prefect: PrefectSettings = PrefectSettings()
    """How the hub uses Prefect."""
    deliver: DeliverSettings = DeliverSettings()
    """How deliveries run."""
    systems: dict[Name, System] = Field(min_length=1)
    """The systems that the hub talks to, by name."""
    groups: dict[Name, Group] = Field(default_factory=dict)
    """Failover groups, by name."""
    routes: dict[Name, Route] = Field(min_length=1)
    """The routes, by name: what goes from where to where."""

    def systems_of(self, target: str) -> list[str]:
        """The systems behind a target, in order of preference."""
        return self.groups[target].systems if target in self.groups else [target]

    @property
    def targets(self) -> list[str]:
        """Every target that some route delivers to, once, in the order of the routes."""
        return list(dict.fromkeys(route.target.name for route in self.routes.values()))

    def routes_to(self, target: str) -> dict[str, Route]:
        """The routes that deliver to a target."""
        return {name: route for name, route in self.routes.items() if route.target.name == target}
