"""What must hold between the parts of a hub: every name means something, and every promise can be kept.

Each check looks at one part and yields what it finds; none of them stops another. A finding rests on parts of the
file: where such a part is itself wrong, the finding is not reported, as it may be a mere consequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tideover.config.asking import LookUpCall
from tideover.config.cron import check_cron, check_timezone
from tideover.config.document import Path
from tideover.config.messages import named, nearest
from tideover.config.models import Cron, Every, Hub, Route
from tideover.config.units import format_duration
from tideover.model import Order, Resolve

_SECRET_HEADERS = {
    "authorization", "proxy-authorization", "cookie", "api-key", "x-api-key", "x-auth-token", "x-access-token",
}  # fmt: skip
RUN_START_S = 5.0  # what a run needs to end, and the next to be given its place


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, or with `is_warning` something doubtful, at a path of the file."""

    path: Path
    what: str
    mend: str = ""
    at_key: bool = False
    rests_on: tuple[Path, ...] = ()
    is_warning: bool = False


def check_relations(hub: Hub) -> list[Finding]:
    """All that does not hold between the parts of a hub, in no particular order."""
    found: list[Finding] = []
    for name in hub.systems:
        found += _check_system(hub, name)
    for name in hub.groups:
        found += _check_group(hub, name)
    for name, route in hub.routes.items():
        found += _check_source(hub, name, route)
        found += _check_target(hub, name, route)
        found += _check_schedule(name, route)
        found += _check_promises(hub, name, route)
        found += _check_failover(hub, name, route)
    found += _check_deliver(hub)
    found += _check_resolving(hub)
    found += _check_probes(hub)
    found += _check_unused(hub)
    return found


def _check_deliver(hub: Hub) -> Iterator[Finding]:
    """A run that is still there when the next is due makes Prefect cancel that one: nobody delivers until a third."""
    settings = hub.deliver
    if settings.linger + RUN_START_S > settings.every:
        what = f"leaves less than {format_duration(RUN_START_S)} before the next run (`every`)"
        longest = format_duration(max(settings.every - RUN_START_S, 0.0))
        yield Finding(("deliver", "linger"), what, f"make it {longest} or less, or the next run finds no room")


def _check_system(hub: Hub, name: str) -> Iterator[Finding]:
    path, system = ("systems", name), hub.systems[name]
    breaker = system.breaker
    if breaker.max_open is not None and breaker.open_for > breaker.max_open:
        what = f"is shorter than `open_for` ({format_duration(breaker.open_for)})"
        yield Finding((*path, "breaker", "max_open"), what, "the longest wait can't be shorter than the first")
    if system.resolve is Resolve.KEY and system.key_horizon <= system.timeouts.total:
        what = f"is no longer than one call may take ({format_duration(system.timeouts.total)})"
        yield Finding((*path, "key_horizon"), what, "write for how long the provider really remembers keys")
    for stream, description in system.rest.streams.items():
        if "{" in description.path:
            what = "has a placeholder, but a listing is about no single record"
            yield Finding((*path, "rest", "streams", stream, "path"), what, "remove it, or use `params`")
    quota = system.limits.quota
    if quota is not None and (complaint := check_timezone(quota.timezone)):
        yield Finding((*path, "limits", "quota", "timezone"), *complaint)
    yield from _check_headers(hub, name)
    yield from _check_calls(hub, name)


def _check_headers(hub: Hub, name: str) -> Iterator[Finding]:
    for header, value in hub.systems[name].rest.headers.items():
        here = ("systems", name, "rest", "headers", header)
        if header.lower() in _SECRET_HEADERS:
            yield Finding(here, "carries a secret", "secrets belong in the system's block, never here", at_key=True)
        elif "{{" in value or "${" in value:
            mend = "a header is sent as it is written here"
            yield Finding(here, "looks like a template, but nothing fills it in", mend, is_warning=True)


def _check_calls(hub: Hub, name: str) -> Iterator[Finding]:
    system = hub.systems[name]
    for operation, call in system.rest.operations.items():
        here = ("systems", name, "rest", "operations", operation)
        if call.bulk and "{" in call.bulk.path:
            what = "has a placeholder, but one bulk call carries many records"
            yield Finding((*here, "bulk", "path"), what, "remove it")
        if call.bulk and system.resolve is Resolve.KEY and call.idempotency_field is None:
            what = "carries many records, and a header only one idempotency key"
            mend = "name an `idempotency_field`, or remove `bulk`: else a resend may do things twice"
            yield Finding((*here, "bulk"), what, mend, at_key=True, is_warning=True)
        if call.lookup:
            yield from _check_lookup((*here, "lookup"), call.lookup, system.resolve)


def _check_lookup(here: Path, lookup: LookUpCall, resolve: Resolve) -> Iterator[Finding]:
    """Whether a look-up can be told yes and no, and by nobody else than the system."""
    if lookup.found is None:
        what = "has no `found`, so that no answer says whether the system has the record"
        yield Finding(here, what, "name the field that tells it, as in `found: id` or `found: items`", at_key=True)
    if resolve is Resolve.LOOKUP and lookup.is_by_path and lookup.missing is None and not lookup.trust_status:
        what = "takes every 404 with a JSON object for the system's word that a record is missing, a gateway's too"
        mend = "say what its own word is, as in `missing: error.code == 'NOT_FOUND'`: else it may be sent twice"
        yield Finding(here, what, mend, at_key=True, is_warning=True)


def _check_group(hub: Hub, name: str) -> Iterator[Finding]:
    path = ("groups", name)
    if name in hub.systems:
        what = "is also the name of a system, so a target of this name would mean both"
        yield Finding(path, what, "give the group the name of what it does, such as shipping", at_key=True)
    providers = hub.groups[name].systems
    for n, provider in enumerate(providers):
        here = (*path, "providers", n, "system")
        if provider in providers[:n]:
            yield Finding(here, f'"{provider}" is there twice', "name each provider once")
        elif provider not in hub.systems and provider in hub.groups:
            yield Finding(here, f'"{provider}" is a group', "name its systems: groups don't nest")
        elif provider not in hub.systems:
            mend = nearest(provider, list(hub.systems), kind="systems")
            yield Finding(here, f'there is no system "{provider}"', mend, rests_on=(("systems", provider),))
    yield from _check_sharing(hub, name)


def _check_sharing(hub: Hub, name: str) -> Iterator[Finding]:
    """Which records a group's providers get, and when."""
    path, group = ("groups", name), hub.groups[name]
    failback = group.failback
    if failback.max_dwell < failback.dwell:
        key = "max_dwell" if "max_dwell" in failback.model_fields_set else "dwell"
        what = f"`max_dwell` ({format_duration(failback.max_dwell)}) is shorter than `dwell`"
        mend = f"write at least {format_duration(failback.dwell)}, or a shorter `dwell`"
        yield Finding((*path, "failback", key), what, mend)
    if all(provider.when is not None for provider in group.providers):
        what = "have a `when`, all of them: a record that fits none is parked"
        mend = "leave `when` out of the last one, if it takes every record"
        yield Finding((*path, "providers"), what, mend, at_key=True, is_warning=True)
    backups = [system for system in group.systems[1:] if system in hub.systems]
    unresolving = [system for system in backups if hub.systems[system].resolve is Resolve.NONE]
    sharing = len(backups) - len(unresolving)
    if group.live_share * sharing > 0.5:
        what = f"leaves {group.systems[0]} less than half of the records, though it is preferred"
        mend = f"each of {sharing} backups gets this share; make it smaller"
        yield Finding((*path, "live_share"), what, mend, rests_on=((*path, "providers"),), is_warning=True)
    if "live_share" in group.model_fields_set and group.live_share > 0 and unresolving:
        what = f"has no effect for {', '.join(unresolving)}: with `resolve: none`, each lost answer needs a person"
        mend = "give it another `resolve`, or write `live_share: 0%`"
        rests_on = tuple(("systems", system) for system in unresolving)
        yield Finding((*path, "live_share"), what, mend, rests_on=(*rests_on, (*path, "providers")), is_warning=True)


def _check_source(hub: Hub, name: str, route: Route) -> Iterator[Finding]:
    path, source = ("routes", name, "source"), route.source
    if source.system not in hub.systems:
        mend = nearest(source.system, list(hub.systems), kind="systems")
        what = f'there is no system "{source.system}"'
        yield Finding((*path, "system"), what, mend, rests_on=(("systems", source.system),))
        return
    streams = hub.systems[source.system].rest.streams
    if source.stream not in streams:
        mend = nearest(source.stream, list(streams), kind=f"streams of {source.system}")
        what = f"system {source.system} has no {named('stream', source.stream)}"
        rests_on = ("systems", source.system, "rest", "streams", source.stream)
        yield Finding((*path, "stream"), what, mend, rests_on=(rests_on,))


def _check_target(hub: Hub, name: str, route: Route) -> Iterator[Finding]:
    path, target = ("routes", name, "target"), route.target
    kind, others = ("system", "group") if target.system else ("group", "system")
    here, there = (hub.systems, hub.groups) if target.system else (hub.groups, hub.systems)
    if target.name not in here:
        is_other = target.name in there
        what = f'"{target.name}" is a {others}' if is_other else f'there is no {kind} "{target.name}"'
        mend = f"write `{others}: {target.name}`" if is_other else nearest(target.name, list(here), kind=f"{kind}s")
        yield Finding((*path, kind), what, mend, rests_on=((f"{kind}s", target.name),))
        return
    providers = [system for system in hub.systems_of(target.name) if system in hub.systems]
    without = [system for system in providers if target.operation not in hub.systems[system].rest.operations]
    if without:
        there_are = list(hub.systems[without[0]].rest.operations)
        mend = nearest(target.operation, there_are, kind=f"operations of {without[0]}")
        subject = f"system {without[0]} has" if len(without) == 1 else f"systems {', '.join(without)} have"
        grounds = tuple(("systems", system, "rest", "operations", target.operation) for system in without)
        what = f"{subject} no {named('operation', target.operation)}"
        yield Finding((*path, "operation"), what, mend, rests_on=grounds)


def _check_schedule(name: str, route: Route) -> Iterator[Finding]:
    path, schedule = ("routes", name, "schedule"), route.schedule
    if isinstance(schedule, Cron):
        for key, complaint in (("cron", check_cron(schedule.cron)), ("timezone", check_timezone(schedule.timezone))):
            if complaint:
                yield Finding((*path, key), *complaint)
    if isinstance(schedule, Every) and route.rpo is not None and route.rpo < schedule.every:
        what = f"can't be met: the route reads its source every {format_duration(schedule.every)}"
        yield Finding(("routes", name, "rpo"), what, "read more often, or allow more", rests_on=((*path, "every"),))


def _check_promises(hub: Hub, name: str, route: Route) -> Iterator[Finding]:
    """What a route asks for, against what its target and its other settings allow."""
    path, retry = ("routes", name), route.retry
    if retry.base > retry.cap:
        key = "base" if "base" in retry.model_fields_set else "cap"
        what = f"`base` ({format_duration(retry.base)}) is longer than `cap` ({format_duration(retry.cap)})"
        yield Finding((*path, "retry", key), what, "the first wait can't be longer than the longest")
    if "max_hold" in route.model_fields_set and route.on_unknown != "reroute":
        what, mend = "has no effect without `on_unknown: reroute`", "write that too, or remove this"
        yield Finding((*path, "max_hold"), what, mend, rests_on=((*path, "on_unknown"),), is_warning=True)
    system = hub.systems.get(route.target.system or "")
    if system is None:
        return
    opens_for = system.breaker.open_for
    if route.rto is not None and route.rto < opens_for:
        what = f"can't be met: the breaker of {route.target.name} waits {format_duration(opens_for)} before it probes"
        rests_on = ("systems", route.target.name, "breaker")
        yield Finding((*path, "rto"), what, "allow more, or shorten `open_for` of its breaker", rests_on=(rests_on,))
    if route.on_unknown == "reroute":
        what, mend = "has no effect: a single system has no other provider", "deliver to a `group`, or remove it"
        yield Finding((*path, "on_unknown"), what, mend, is_warning=True)
    if route.order is Order.NONE and system.resolve is Resolve.NATURAL:
        what = f"lets an older version of a record overwrite a newer one in {route.target.name}"
        yield Finding((*path, "order"), what, "`order: latest` is as fast for upserts", is_warning=True)


def _check_failover(hub: Hub, name: str, route: Route) -> Iterator[Finding]:
    """What a route to a group asks for, against what the group's providers allow."""
    group = hub.groups.get(route.target.group or "")
    if group is None:
        return
    path = ("routes", name)
    providers = {system: hub.systems[system] for system in group.systems if system in hub.systems}
    rests_on = (("groups", route.target.name), *(("systems", system) for system in providers))
    reads = [system.timeouts.read for system in providers.values()]
    if route.rto is not None and reads and route.rto < min(reads):
        what = f"is shorter than the read timeout of every provider, {format_duration(min(reads))} or more"
        mend = "allow more, or shorten their `timeouts.read`: until then, nobody knows that a provider hangs"
        yield Finding((*path, "rto"), what, mend, rests_on=rests_on, is_warning=True)
    if route.on_unknown == "reroute":
        yield from _check_rerouting(hub, name, route, group.systems)


def _check_rerouting(hub: Hub, name: str, route: Route, systems: list[str]) -> Iterator[Finding]:
    """What is left to people where a record may be at two providers: to find that out, and to undo one."""
    here, operation = ("routes", name, "on_unknown"), route.target.operation
    calls = {system: hub.systems[system].rest.operations.get(operation) for system in systems if system in hub.systems}
    known = {system: call for system, call in calls.items() if call is not None}
    if len(known) < len(systems):
        return
    rests_on = (("groups", route.target.name), *(("systems", system) for system in systems))
    if not any(call.lookup and hub.systems[system].resolve is not Resolve.NONE for system, call in known.items()):
        what = f"leaves every rerouted record to a person: no provider of {route.target.name} can be asked"
        mend = "describe the `lookup` of their operations, or write `on_unknown: hold`"
        yield Finding(here, what, mend, rests_on=rests_on, is_warning=True)
    lasting = [system for system, call in known.items() if call.void is None]
    if lasting:
        what = f"may book twice, and {named('operation', operation)} of {', '.join(lasting)} has no `void`"
        mend = "describe `void` there, or a person has to undo a double booking"
        yield Finding(here, what, mend, rests_on=rests_on, is_warning=True)


def _check_resolving(hub: Hub) -> Iterator[Finding]:
    """`resolve: lookup` and `resolve: key`, against every operation that some route uses."""
    used: dict[tuple[str, str], str] = {}
    for route_name, route in hub.routes.items():
        for provider in hub.systems_of(route.target.name):
            used.setdefault((provider, route.target.operation), route_name)
    for (name, operation), route_name in used.items():
        system = hub.systems.get(name)
        call = system.rest.operations.get(operation) if system else None
        if system is None or call is None:
            continue
        path = ("systems", name, "rest", "operations", operation)
        why = f"but system {name} has `resolve: {system.resolve}`, and route {route_name} uses it"
        rests_on = (path, ("systems", name, "resolve"))
        if system.resolve is Resolve.NONE and not hub.routes[route_name].accepts_duplicates:
            what = f"resolves nothing: a call of route {route_name} whose answer is lost is parked for a person"
            mend = "say `resolve: natural` for an upsert, or `key` or `lookup` where the system offers that"
            yield Finding(("systems", name), what, mend, at_key=True, rests_on=rests_on, is_warning=True)
        if system.resolve is Resolve.LOOKUP and call.lookup is None:
            mend = "describe the look-up, or choose another `resolve`"
            yield Finding(path, f"has no `lookup`, {why}", mend, at_key=True, rests_on=rests_on)
        if system.resolve is Resolve.KEY and not (call.idempotency_header or call.idempotency_field):
            mend = "say where the idempotency key goes, or choose another `resolve`"
            what = f"has neither `idempotency_header` nor `idempotency_field`, {why}"
            yield Finding(path, what, mend, at_key=True, rests_on=rests_on)


def _check_probes(hub: Hub) -> Iterator[Finding]:
    """Without a probe, only a real record every few minutes finds out that a system is back."""
    for target in hub.targets:
        for name in hub.systems_of(target):
            system = hub.systems.get(name)
            if system is not None and system.rest.probe is None:
                what = "has no `rest.probe`: after an outage, only a real record can tell that it is back"
                mend = "name a cheap call that answers while the system is well, such as `probe: {path: /health}`"
                yield Finding(("systems", name), what, mend, at_key=True, is_warning=True)


def _check_unused(hub: Hub) -> Iterator[Finding]:
    targets = set(hub.targets)
    used = targets | {route.source.system for route in hub.routes.values()}
    used |= {provider for group in hub.groups.values() for provider in group.systems}
    for name in hub.systems.keys() - used:
        mend = "remove it, or add a route"
        rests_on = (("routes",), ("groups",))
        yield Finding(("systems", name), "no route uses this system", mend, True, rests_on, is_warning=True)
    for name in hub.groups.keys() - targets:
        mend = "remove it, or name it as a target"
        yield Finding(("groups", name), "no route delivers to this group", mend, True, (("routes",),), is_warning=True)
