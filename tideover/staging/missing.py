"""Records that were sealed with a key which the hub does not have: they wait for it, and hold up nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tideover.errors import MissingKey
from tideover.model import HubEvent
from tideover.staging.database import Transaction
from tideover.staging.decisions import Head
from tideover.staging.events import announce, is_known


def hold_back(
    tx: Transaction, route: str, heads: Sequence[Head], missing: Mapping[str, MissingKey]
) -> MissingKey | None:
    """Keep back what can't be read for want of a key: that is not its record's fault, so it waits, and what stands
    before it in its lane goes alone. A lane in doubt waits as a whole, as its doubt is settled as a whole.

    Each key is told of once. Returned is one that was told of now, where not a single lane can be read.
    """
    for head in heads:
        if head.missing_key is not None:
            head.records = [] if head.in_doubt else head.records
            head.run = len(head.records)
    told: dict[str, MissingKey] = {}
    for record, error in missing.items():
        event = HubEvent("tideover.record.unreadable", record, {"route": route, "encryption_key": error.key})
        if error.key not in told and not is_known(tx, event):
            announce(tx, event)
            told[error.key] = error
    is_all = not any(head.records for head in heads)
    return next(iter(told.values()), None) if is_all else None
