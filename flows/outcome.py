"""How a run's state tells its story: `Completed`, `Queued` (kept for a system that is away), `Parked`, `Failed`."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from tideover.hub.progress import Ending, Progress

Counts = dict[str, Any]  # names to numbers and words: what a run's state carries


def counts_of(progress: Progress) -> Counts:
    """What a delivery did, for a state and an artifact."""
    gate = progress.gate
    return {
        "target": progress.target,
        "system": progress.system,
        "delivered": progress.delivered,
        "parked": progress.parked,
        "ending": progress.ending.value if progress.ending else "",
        "reason": gate.reason if gate and gate.reason else "",
    }


def state_of(counts: Counts, *, parked_at_intake: int = 0) -> State[Counts]:
    """The final state of a run that delivered, or tried to."""
    parked = counts["parked"] + parked_at_intake
    done = f"{counts['delivered']} delivered to {counts['target']}"
    ending = counts["ending"]
    if ending == Ending.DOWN:
        why = counts["reason"] or "down"
        return Completed(name="Queued", message=f"{done}; {counts['system']} is {why}, the rest is kept", data=counts)
    if ending in (Ending.PAUSED, Ending.WAITING):
        return Completed(name="Queued", message=f"{done}; the rest is kept and tried again later", data=counts)
    if parked:
        return Completed(name="Parked", message=f"{done}; {parked} parked, a person is needed", data=counts)
    return Completed(message=done, data=counts)
