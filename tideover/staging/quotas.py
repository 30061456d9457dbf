"""What each system's rate limit still lets through, as one column that all workers share."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import text

from tideover.model import SECOND_US
from tideover.policy.quota import RateRule, permits, spent, wait_us
from tideover.staging import systems
from tideover.staging.database import Transaction


class Quotas:
    """How many records each system may still get, in one claim's transaction. A system without a limit is not in it."""

    def __init__(self, tx: Transaction, rates: Mapping[str, RateRule]) -> None:
        self._now_us, self._rates = tx.now_us, rates
        self._unused_us = {name: _unused_us(tx, name) for name in sorted(rates)}
        self._left = {name: permits(rates[name], self._unused_us[name], tx.now_us) for name in rates}
        self._spent = dict.fromkeys(rates, 0)

    def left(self, system: str, wanted: int) -> int:
        return min(self._left.get(system, wanted), wanted)

    def spend(self, system: str, records: int) -> None:
        if system in self._left:
            self._left[system] -= records
            self._spent[system] += records

    @property
    def wait_s(self) -> float:
        """How long until a system whose quota is used up may get another record; 0 where none is."""
        empty = [name for name, left in self._left.items() if left <= 0]
        waits = [wait_us(self._rates[name], self._after(name), self._now_us) for name in empty]
        return min(waits, default=0) / SECOND_US

    def _after(self, name: str) -> int:
        return spent(self._rates[name], self._unused_us[name], self._now_us, self._spent[name])

    def write(self, tx: Transaction) -> None:
        for name, records in self._spent.items():
            if records:
                rate_us = self._after(name)
                tx.conn.execute(
                    text("update system set rate_us = :rate_us where name = :name"), {"rate_us": rate_us, "name": name}
                )


def _unused_us(tx: Transaction, name: str) -> int:
    """Locked: two workers must not spend the same quota. So the row has to be there."""
    systems.ensure(tx, name)
    found = tx.conn.execute(
        text(f"select rate_us from system where name = :name {tx.dialect.for_update}"), {"name": name}
    )
    return int(found.scalar() or 0)
