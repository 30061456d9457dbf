"""`failback/<group>`: records go to the preferred provider again, because it is well, or because a person says so."""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import groupby, pairwise

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.board import card, publish
from flows.episodes import Live, accompanied
from flows.outcome import Counts, counts_of, said_of
from flows.visible import logger, show, started_by
from tasks import drain, hub, hurry, unpin
from tideover.errors import HubUnavailable
from tideover.hub.overview import group_view
from tideover.hub.routing import group_rule
from tideover.hub.standing import ProviderView
from tideover.model import SECOND_US
from tideover.policy.failover import FailbackRule, Phase, Trust, share

STARTED = "started in Prefect"


@flow(name="failback", flow_run_name="failback-{group}", persist_result=False)
async def failback(group: str, why: str = STARTED) -> State[Counts]:
    """Let a failover group decide by itself again, and bring its preferred provider back now if it is well.

    Removes the pin that `failover` made, if there is one, ends the time for which the preferred provider must have been
    well, and delivers what waits: first a few single records (the canary), then a growing share (the ramp), then all.
    Ends `FailedBack` when the provider has everything again, `FailingBack` when it is on its way there, `Relapsed` when
    it failed on the way, and `Queued` when it is still down; then it comes back by itself once it is well.

    When a `deliver` run brings a provider back by itself, this flow is in its graph as a subflow, changes nothing, and
    tells of it.

    Args:
        group: A failover group of the hub.
        why: The reason, for the record of what happened to the group.
    """
    live = accompanied()
    if live is not None:
        return await _accompany(live)
    async with hub() as rt:
        preferred = rt.group(group).systems[0]
        rt.routes_to(group)
        before = await group_view(rt, group)
        if before.pin is not None:
            logger().info("%s: no longer pinned to %s", group, before.pin.system)
        await unpin(group, why.strip() or STARTED, started_by())
        await hurry(group, preferred)
        progress = await drain(group)
        await hurry(group, preferred)  # it may have come back meanwhile
        await rt.announce_events()
        await publish(rt)
        after = await group_view(rt, group)
    provider = after.providers[0]
    counts = counts_of(progress) | {"after": preferred, "phase": provider.trust.phase.value, "waiting": after.waiting}
    relapsed = provider.trust.relapses > before.providers[0].trust.relapses
    name, standing = _standing(provider, relapsed=relapsed)
    message = f"{preferred} {standing}; {said_of(counts)}"
    logger().info("%s: %s", group, message)
    return Completed(name=name, message=message, data=counts)


def _standing(provider: ProviderView, *, relapsed: bool) -> tuple[str, str]:
    """The run's state, and how the provider stands, in words."""
    gate, trust = provider.gate, provider.trust
    if relapsed:
        return "Relapsed", f"failed on its way back: {gate.reason or 'its canary failed'}"
    if not gate.lets_through:
        return "Queued", f"is still down: {'asked for a pause' if gate.is_paused else gate.reason or 'not asked yet'}"
    match trust.phase:
        case Phase.SERVING:
            return "FailedBack", "has everything again"
        case Phase.CANARY:
            return "FailingBack", f"is well; its canary is next, {trust.canaries} of {provider.canaries} done"
        case Phase.RAMP:
            return "FailingBack", f"is well and gets {provider.share:.0%} of the records"
    return "FailingBack", "is well, and comes back once it has been for its dwell"


# --- as a subflow of `deliver` ------------------------------------------------------------------------------


async def _accompany(live: Live) -> State[Counts]:
    """Tell of a provider's way back, until it is over or the delivery is."""
    episode, group = live.episode, live.group
    logger().info("%s: %s gets records again: %s", group, episode.after, episode.why)
    await live.until(lambda: episode.is_over)
    trust = live.trust
    with suppress(HubUnavailable):
        view = await group_view(live.rt, group)
        trust = next((p.trust for p in view.providers if p.system == episode.after), trust)
    way = _Way(live, trust, group_rule(live.rt.config, group).failback)
    rows = {
        "provider": episode.after,
        "instead of": episode.before,
        "phases": " → ".join(way.phases),
        "share reached": f"{way.share:.0%}",
        "relapses": trust.relapses,
        f"records accepted by {episode.after}": episode.delivered,
        "ended": way.ended,
    }
    written = acreate_markdown_artifact(
        key=f"failback-{group}", markdown=card(rows), description=f"{episode.after} on its way back"
    )
    await show(written)
    message = f"{episode.after}: {' → '.join(way.phases)}, share {way.share:.0%}, {episode.delivered} accepted"
    logger().info("%s: %s: %s", group, way.ended, message)
    counts = {"after": episode.after, "delivered": episode.delivered, "phases": way.phases, "share": way.share}
    return Completed(name=way.ended, message=message, data=counts)


class _Way:
    """A provider's way back: the phases that it was seen in, and the largest share that it got."""

    def __init__(self, live: Live, end: Trust, rule: FailbackRule) -> None:
        now = time.monotonic()
        seen = [*live.seen, (end, now)]
        self.phases = [phase.value for phase, _ in groupby(trust.phase for trust, _ in seen)]
        lasted = [
            (trust.phase, int((until - at) * SECOND_US)) for (trust, at), (_, until) in pairwise([*seen, seen[-1]])
        ]
        self.share = max(share(Trust(phase), rule, us) for phase, us in lasted)
        self._end, self._relapses = end, end.relapses - seen[0][0].relapses

    @property
    def ended(self) -> str:
        """The name of the run's state."""
        if self._end.phase is Phase.SERVING:
            return "FailedBack"
        has_failed = self._relapses > 0 or self._end.phase in (Phase.OUT, Phase.DWELL)
        return "Relapsed" if has_failed else "FailingBack"
