"""Stages batch after batch, and tells of each that was acknowledged, as lines of JSON.

    python -m tests.chaos.stager URL [--deny-sync-after N]

Ends with the first batch that is refused, and tells why; or ten batches after N.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json

from tests.chaos.denial import Denial
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.errors import HubUnavailable
from tideover.hub import intake
from tideover.model import JsonObject

PER_BATCH = 10


def batch(number: int) -> list[JsonObject]:
    """The records of a batch; their keys are their own."""
    return [{"id": f"{number}-{place}", "note": "x" * 500} for place in range(PER_BATCH)]


async def stage(url: str, deny_after: int | None) -> None:
    denial = None if deny_after is None else Denial()
    async with running(hub_config(), url, {"crm": FakeSystem(), "erp": FakeSystem()}) as rt:
        for number in itertools.count() if deny_after is None else range(deny_after + 10):
            if number == deny_after and denial is not None:
                denial.begin()
            try:
                await intake.stage_records(rt, "orders", batch(number))
            except HubUnavailable as error:
                print(json.dumps({"what": "refused", "batch": number, "error": str(error)}), flush=True)
                return
            print(json.dumps({"what": "staged", "batch": number}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.chaos.stager")
    parser.add_argument("url", help="the staging database")
    parser.add_argument("--deny-sync-after", type=int, metavar="N", help="after N batches no file can be synced")
    given = parser.parse_args()
    asyncio.run(stage(given.url, given.deny_sync_after))


if __name__ == "__main__":
    main()
