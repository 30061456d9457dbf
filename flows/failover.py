"""`failover/<group>`: records go to another provider, as the preferred one is down, or as a person says so."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.board import card, publish
from flows.episodes import LOOK_S, Live, accompanied
from flows.outcome import Counts, counts_of, said_of
from flows.visible import logger, show, started_by
from tasks import drain, hub, pin
from tideover.errors import HubUnavailable, Refused
from tideover.hub.overview import group_view
from tideover.hub.standing import GroupView, TurnView
from tideover.model import SECOND_US, instant
from tideover.policy.failover import TurnKind

STARTED = "started in Prefect"
FIRST_RECORD_S = 30.0
JUST_NOW_US = 60 * SECOND_US


@flow(name="failover", flow_run_name="failover-{group}", persist_result=False)
async def failover(group: str, to: str = "", why: str = STARTED, force: bool = False) -> State[Counts]:
    """Send everything of a failover group to one provider, until `failback` is run.

    A group fails over by itself when a provider goes down; this is for when a person knows better: before maintenance,
    or when a provider answers and yet does not do its work. What waits goes out at once, all of it to that provider;
    what it can't take waits. Records that may have reached another provider already stay with it until it can be asked.
    The run ends `FailedOver`. It is refused, and changes nothing, if the provider is not well and `force` is not set.

    When a `deliver` run fails over by itself, this flow is in its graph as a subflow, changes nothing, and tells of it.

    Args:
        group: A failover group of the hub.
        to: The provider that gets everything. If empty, the next in the group's order, after the one that gets most
            records now, that is well.
        why: The reason, for the record of what happened to the group.
        force: Also to a provider that is not well; what it can't take waits.
    """
    live = accompanied()
    if live is not None:
        return await _accompany(live)
    reason, author = why.strip() or STARTED, started_by()
    async with hub() as rt:
        before = await group_view(rt, group)
        rt.routes_to(group)
        system = _provider(before, to, is_forced=force)
        logger().info("%s: everything goes to %s from now on: %s (%s)", group, system, reason, author)
        await pin(group, system, reason, author)
        progress = await drain(group)
        await rt.announce_events()
        await publish(rt)
        after = await group_view(rt, group)
    counts = counts_of(progress)
    counts |= {"before": before.serving, "after": system, "waited": before.waiting, "waiting": after.waiting}
    waited = f"; {before.waiting} waited, {after.waiting} still do" if before.waiting else ""
    message = f"{group} goes to {system} until failback; {said_of(counts)}{waited}{_doubts(after)}"
    logger().info("%s", message)
    return Completed(name="FailedOver", message=message, data=counts)


def _provider(view: GroupView, to: str, *, is_forced: bool) -> str:
    """The provider that a person asked for, or the next one. Raises `Refused` if there is none, or it is not well."""
    names = [p.system for p in view.providers]
    if to and to not in names:
        raise Refused(f"{to} is not a provider of {view.name}; it has {', '.join(names)}")
    later = view.providers[names.index(view.serving) + 1 :] if view.serving else view.providers
    wanted = [p for p in view.providers if p.system == to] if to else later
    fit = [p for p in wanted if p.gate.lets_through or (to and is_forced)]
    if fit:
        return fit[0].system
    if to:
        [chosen] = wanted
        reason = "asked for a pause" if chosen.gate.is_paused else f"is {chosen.gate.reason or 'down'}"
        raise Refused(f"{to} {reason}: nothing was changed; set `force` to send everything there all the same")
    raise Refused(
        f"{view.name} goes to {view.serving or 'nobody'} now, and no provider after that is well; "
        f"name one in `to`: {', '.join(names)}"
    )


def _doubts(view: GroupView) -> str:
    return "".join(f"; {count} may be at {system} and wait for its word" for system, count in view.in_doubt.items())


# --- as a subflow of `deliver` ------------------------------------------------------------------------------


async def _accompany(live: Live) -> State[Counts]:
    """Tell of a failover that happens: from where to where, why, and how long it took."""
    episode, group = live.episode, live.group
    logger().warning("%s: %s instead of %s: %s", group, episode.after, episode.before, episode.why)
    await live.until(lambda: episode.has_served, FIRST_RECORD_S)
    turn, in_doubt = await _measured(live)
    why = turn.turn.why if turn else episode.why
    rows = {
        "from": episode.before,
        "to": episode.after,
        "why": why,
        "first failure": _when(turn.turn.failed_us if turn else 0),
        "turned": _when(turn.turn.at_us if turn else 0),
        "first record accepted there": _when(turn.turn.served_us if turn else 0),
        "from the failure to the turn": _took(turn.turned_s if turn else None),
        "from the failure to that record": _took(turn.served_s if turn else None),
        f"records in doubt at {episode.before}": in_doubt,
        f"records accepted by {episode.after} so far": episode.delivered,
    }
    table = card(rows)
    await show(acreate_markdown_artifact(key=f"failover-{group}", markdown=table, description=f"{group} failed over"))
    took = f" {turn.served_s:.1f} s after the first failure" if turn and turn.served_s is not None else ""
    if episode.delivered:
        message = f"{episode.after} instead of {episode.before} ({why}): accepted its first record{took}"
    else:
        message = f"{episode.after} instead of {episode.before} ({why}): has accepted no record yet"
    logger().info("%s: %s; %s records in doubt at %s", group, message, in_doubt, episode.before)
    counts = {"before": episode.before, "after": episode.after, "delivered": episode.delivered, "in_doubt": in_doubt}
    return Completed(name="FailedOver", message=message, data=counts)


async def _measured(live: Live) -> tuple[TurnView | None, int]:
    """The turn that this failover is, if it is one, and how many records are in doubt at the provider before."""
    turn, in_doubt = None, 0
    for _ in range(5):  # the first record is noted a moment after it was counted
        with suppress(HubUnavailable):
            view = await group_view(live.rt, live.group)
            turn, in_doubt = _turn_of(view, live), view.in_doubt.get(live.episode.before, 0)
        if turn is None or turn.turn.served_us or not live.episode.delivered:
            break
        await asyncio.sleep(LOOK_S)
    return turn, in_doubt


def _turn_of(view: GroupView, live: Live) -> TurnView | None:
    """None where single records went elsewhere and the group's first choice stayed: a pause, or a lost connection."""
    after = live.episode.after
    found = next((t for t in view.turns if t.turn.kind == TurnKind.FAILOVER and t.turn.after == after), None)
    is_this = found is not None and (view.serving == after or found.turn.at_us > live.began_us - JUST_NOW_US)
    return found if is_this else None


def _when(us: int) -> str:
    return f"{instant(us):%Y-%m-%d %H:%M:%S.%f} UTC" if us else "–"


def _took(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.1f} s"
