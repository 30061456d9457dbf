"""What a failover group's configuration means for its routes: who takes which record, in which form, and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import orjson

from tideover.config.evaluation import Evaluate, evaluator
from tideover.config.models import Group, Hub, Provider
from tideover.errors import CorruptPayload, MappingError
from tideover.hub.mapping import encode, transform_of
from tideover.model import Resolve
from tideover.policy.failover import FailbackRule, GroupRule
from tideover.staging.wishes import Eligible, GroupWish

Shape = Callable[[bytes], bytes]  # the staged record's JSON as one provider wants it; raises `MappingError`


def group_rule(hub: Hub, name: str) -> GroupRule:
    """A backup that resolves by nothing is left out of the live share: each lost answer of it needs a person."""
    group = hub.groups[name]
    backups = group.systems[1:]
    return GroupRule(
        providers=tuple(group.systems),
        live=tuple(s for s in backups if hub.systems[s].resolve is not Resolve.NONE),
        live_share=group.live_share,
        failback=FailbackRule(
            dwell_s=group.failback.dwell,
            max_dwell_s=group.failback.max_dwell,
            canaries=group.failback.canary,
            ramp_s=group.failback.ramp,
        ),
    )


def group_wish(hub: Hub, route_name: str) -> GroupWish | None:
    """What a claim of this route needs to know of its failover group; None where it has a single system."""
    route = hub.routes[route_name]
    name = route.target.group
    if name is None:
        return None
    group = hub.groups[name]
    return GroupWish(
        name=name,
        rule=group_rule(hub, name),
        eligible=eligibility(group),
        rto_s=route.rto,
        max_pause_s=group.max_pause,
        reroute_after_s=route.max_hold if route.on_unknown == "reroute" else None,
    )


def eligibility(group: Group) -> Eligible | None:
    """Which providers take a record; None where all of them take all. A condition that can't be evaluated for a record,
    such as a comparison of a text with a number, is not met by it; what is no JSON at all is corrupt."""
    conditions = [(p.system, evaluator(p.when) if p.when is not None else None) for p in group.providers]
    if all(condition is None for _, condition in conditions):
        return None

    def eligible(payload: bytes) -> Sequence[str]:
        try:
            record = orjson.loads(payload)
        except orjson.JSONDecodeError:
            # Without its text, which may quote the record.
            raise CorruptPayload("what is stored is no JSON: it was altered") from None
        return [system for system, condition in conditions if condition is None or _is_met(condition, record)]

    return eligible


def _is_met(condition: Evaluate, record: object) -> bool:
    try:
        return bool(condition(record))
    except Exception:  # noqa: BLE001 - JMESPath passes on what Python says of a comparison: one record must stop nothing
        return False


def shape_for(provider: Provider, folder: Path) -> Shape | None:
    """How a provider wants a record; None where it goes as it is staged.

    Raises `Refused` when its mapping function can't be imported from `folder`.
    """
    if provider.mapping.fields is None and provider.mapping.function is None:
        return None
    transform = transform_of(provider.mapping, folder)

    def shape(payload: bytes) -> bytes:
        try:
            mapped = transform(orjson.loads(payload))
            body = None if mapped is None else encode(mapped)
        except MappingError:
            raise
        except Exception as error:
            # Only the kind: the text of an exception may quote the record.
            raise MappingError(f"the mapping of provider {provider.system} raised {type(error).__name__}") from error
        if body is None:
            raise MappingError(f"the mapping of provider {provider.system} leaves it out")
        return body

    return shape


def shapes(hub: Hub, target: str, folder: Path) -> Mapping[str, Shape]:
    """The shapes that the target's systems want, of those that want one."""
    if target not in hub.groups:
        return {}
    found = {provider.system: shape_for(provider, folder) for provider in hub.groups[target].providers}
    return {system: shape for system, shape in found.items() if shape is not None}
