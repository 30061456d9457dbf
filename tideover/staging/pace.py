"""How fast records come and go, and what the latest calls were like: what a forecast is made from. Read-only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import TextClause, bindparam, text

from tideover.model import SECOND_US
from tideover.policy.forecast import WINDOW_S, Calls, Sample
from tideover.staging.database import Transaction

_SAMPLE_S = 5
_HOUR_US = 3_600 * SECOND_US
_LATEST = 1_000  # attempts

# Parked records that go back to waiting are written as fewer parked ones: they come.
_GONE = "delivered + superseded + case when parked > 0 then parked else 0 end"
_COME = "staged - case when parked < 0 then parked else 0 end"


def samples(tx: Transaction, routes: Sequence[str]) -> list[Sample]:
    """The last minute of these routes together, a sample for each five seconds in which something moved."""
    rows = tx.conn.execute(
        _among(
            f"select min(at_us), sum({_GONE}), sum({_COME}) from ledger "
            "where route in :routes and at_us >= :since group by at_us / :length order by 1"
        ),
        {
            "routes": list(routes),
            "since": tx.now_us - int(WINDOW_S * SECOND_US),
            "length": _SAMPLE_S * SECOND_US,
        },
    )
    return [Sample(int(at_us), int(gone), int(come)) for at_us, gone, come in rows]


def come_in_an_hour(tx: Transaction, routes: Sequence[str]) -> int:
    """How many records came on these routes in the last hour."""
    found = tx.conn.execute(
        _among(f"select coalesce(sum({_COME}), 0) from ledger where route in :routes and at_us >= :since"),
        {"routes": list(routes), "since": tx.now_us - _HOUR_US},
    )
    return int(found.scalar_one())


def calls(tx: Transaction) -> Mapping[str, Calls]:
    """The latest calls to each system, of the last minute, by all workers; none of a system that got none.

    A bulk call has an attempt for each of its records, which all begin at one instant.
    """
    rows = tx.conn.execute(
        text(
            "select system, count(*), sum(took_us), min(began_us), max(began_us + took_us), sum(failed) from ("
            "select system, began_us, max(took_us) as took_us, "
            "max(case when outcome in ('throttled', 'unsent', 'unknown') then 1 else 0 end) as failed "
            "from (select system, kind, outcome, began_us, took_us from attempt order by id desc limit :n) as latest "
            "where kind = 'send' and began_us >= :since group by system, began_us) as called group by system"
        ),
        {"n": _LATEST, "since": tx.now_us - int(WINDOW_S * SECOND_US)},
    )
    found: dict[str, Calls] = {}
    for system, count, took_us, first_us, last_us, failed in rows:
        span_us = max(int(last_us) - int(first_us), 1)
        found[system] = Calls(int(took_us) / span_us, int(took_us) / int(count) / SECOND_US, int(failed) / int(count))
    return found


def _among(statement: str) -> TextClause:
    return text(statement).bindparams(bindparam("routes", expanding=True))
