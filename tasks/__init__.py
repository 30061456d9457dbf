"""Retrying Prefect tasks over the hub. An engineer's own flow is made of these.

    from prefect import flow
    from tasks import drain, extract, hub, stage

See `docs/own-flow.md`.
"""

from tasks.session import hub
from tasks.work import ask, drain, extract, keep_house, replay_parked, stage, stage_records

__all__ = ["ask", "drain", "extract", "hub", "keep_house", "replay_parked", "stage", "stage_records"]
