"""How much is tried: a little in each run of the suite, the same each time; more, and new, for whoever asks for it."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.databases import sql

TIMES = int(os.environ.get("FUZZ", "1"))
TABLES = ("cursor", "record", "lane", "parked", "ledger", "attempt", "system", "outage", "event")


def budget(examples: int) -> settings:
    """Settings for a test of so many examples."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


async def emptied(url: str) -> None:
    """Leave nothing of the example before: what it parked could be restored in this one."""
    for table in TABLES:
        await sql(url, f"delete from {table}")
