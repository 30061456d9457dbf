"""How a run's state tells its story. What a person must act on first gives the name, and the message says the rest too:

| state | what it means |
| --- | --- |
| `Failed` | the hub itself could not do its work |
| `Parked` | some records need a person |
| `FailedOver` | records went to a backup, because a preferred provider could not have them |
| `Queued` | the target is down, or records are to be tried later; what waits is kept |
| `Completed` | everything is delivered |

A run that failed over and still left records waiting is `FailedOver`: that a provider is out is the news, and the
message says that the rest is kept.
"""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from tideover.hub.progress import Ending, Progress

Counts = dict[str, Any]  # names to numbers and words: what a run's state carries


def counts_of(progress: Progress) -> Counts:
    """What a delivery did, for a state and an artifact. `failed_over`: records that went to a backup, because a
    preferred provider could not have them."""
    gate = progress.gate
    return {
        "target": progress.target,
        "system": progress.system,
        "delivered": progress.delivered,
        "by_system": dict(progress.by_system),
        "failed_over": progress.failed_over,
        "parked": progress.parked,
        "ending": progress.ending.value if progress.ending else "",
        "reason": gate.reason if gate and gate.reason else "",
    }


def state_of(counts: Counts, *, parked_at_intake: int = 0) -> State[Counts]:
    """The final state of a run that delivered, or tried to."""
    name = "Completed"
    if counts["parked"] + parked_at_intake:
        name = "Parked"
    elif counts["failed_over"]:
        name = "FailedOver"
    elif _why_it_waits(counts):
        name = "Queued"
    return Completed(name=name, message=said_of(counts, parked_at_intake=parked_at_intake), data=counts)


def said_of(counts: Counts, *, parked_at_intake: int = 0) -> str:
    """What a delivery did, in a sentence."""
    shares = [f"{system} {count}" for system, count in counts["by_system"].items()]
    by_whom = f" ({', '.join(shares)})" if shares and list(counts["by_system"]) != [counts["target"]] else ""
    said = [f"{counts['delivered']} delivered to {counts['target']}{by_whom}"]
    if counts["failed_over"]:
        said.append(f"{counts['failed_over']} of them in place of a preferred provider")
    if why := _why_it_waits(counts):
        said.append(why)
    if parked := counts["parked"] + parked_at_intake:
        said.append(f"{parked} parked, a person is needed")
    return "; ".join(said)


def _why_it_waits(counts: Counts) -> str:
    """Empty where nothing waits that this run should have delivered."""
    if counts["ending"] == Ending.DOWN:
        return f"{counts['system']} is {counts['reason'] or 'down'}, the rest is kept"
    if counts["ending"] in (Ending.PAUSED, Ending.WAITING):
        return "the rest is kept and tried again later"
    return ""
