"""Retrying Prefect tasks over the hub. An engineer's own flow is made of these.

    from prefect import flow
    from tasks import drain, extract, hub, stage

See `docs/own-flow.md`.
"""

from tasks.session import hub
from tasks.work import (
    ask,
    drain,
    extract,
    hurry,
    keep_house,
    pin,
    replay_parked,
    stage,
    stage_records,
    unpin,
)

__all__ = [
    "ask",
    "drain",
    "extract",
    "hub",
    "hurry",
    "keep_house",
    "pin",
    "replay_parked",
    "stage",
    "stage_records",
    "unpin",
]
