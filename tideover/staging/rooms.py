"""How much each system can get in one claim: lanes, as its worker has room for them, and records, as its limits let
through. Both in two classes, where there is a backlog: what became due since an instant is live traffic and goes first,
but for the backlog's share.
"""

from __future__ import annotations

from collections.abc import Mapping

from tideover.model import SECOND_US
from tideover.policy.quota import LIVE_S, backlog_part
from tideover.staging.database import Transaction
from tideover.staging.quotas import Quotas, UsedUp
from tideover.staging.systems import SystemRow


class Rooms:
    """`lanes`: for how many lanes each system has room. What is given away is no longer there for the next lane.

    `live_since_us`: lanes that became due after it are live traffic; None while there is no backlog to be told from it.
    """

    def __init__(self, tx: Transaction, lanes: Mapping[str, int], quotas: Quotas, live_since_us: int | None) -> None:
        self._now_us, self._lanes, self._quotas = tx.now_us, dict(lanes), quotas
        self._is_limited = {name: quotas.limits(name) for name in lanes}
        self.live_since_us = live_since_us
        self._aside: dict[str, int] = {}

    def lanes(self, system: str, *, is_live: bool = True) -> int:
        """How many more lanes a system can get."""
        room = self._lanes.get(system, 0)
        if self._aside:
            room -= self._aside.get(system, 0)
        if self._is_limited.get(system):
            room = self._quotas.left(system, room, is_live=is_live)
        return max(room, 0)

    def records(self, system: str, wanted: int, *, is_live: bool = True) -> int:
        """How many of so many records of a lane a system can get."""
        return self._quotas.left(system, wanted, is_live=is_live) if self._is_limited.get(system) else wanted

    @property
    def total(self) -> int:
        """How many more lanes all systems can get together."""
        return sum(self.lanes(name) for name in self._lanes)

    @property
    def has_room_for_backlog(self) -> bool:
        """Whether some system can get a lane that is no live traffic."""
        return any(self.lanes(name, is_live=False) for name in self._lanes)

    @property
    def open(self) -> list[str]:
        """The systems that have room, whatever their limits say: what is in doubt may go there."""
        return [name for name, room in self._lanes.items() if room > 0]

    def is_live(self, due_us: int) -> bool:
        """Whether a lane is no backlog."""
        return self.live_since_us is None or due_us > self.live_since_us

    def set_aside(self, is_on: bool) -> None:
        """Keep the backlog's share back while live traffic is looked for."""
        self._quotas.set_aside(is_on)
        self._aside = {name: backlog_part(self._now_us, room) for name, room in self._lanes.items()} if is_on else {}

    def take(self, system: str, records: int) -> None:
        """Give a lane away, with so many of its records."""
        self._lanes[system] -= 1
        self._quotas.spend(system, records)

    @property
    def wait_s(self) -> float:
        """How long until a system whose limits let nothing more through now gets more; 0 where there is none, or where
        another one has room."""
        is_live = self.live_since_us is None
        if any(self.lanes(name, is_live=is_live) for name in self._lanes):
            return 0.0
        return self._quotas.wait_s(is_live=is_live)

    @property
    def used_up(self) -> Mapping[str, UsedUp]:
        """The systems whose budget is used up."""
        return self._quotas.used_up

    def close(self, tx: Transaction) -> None:
        """Write what was used of the limits."""
        self._quotas.write(tx)


def live_since_us(
    tx: Transaction, rows: Mapping[str, SystemRow], lanes: Mapping[str, int], quotas: Quotas
) -> int | None:
    """Since when lanes are live traffic: since the restoration of a system that is still being drained; else, while a
    limit lets less through than there is room for, since a moment ago. None where nothing is short."""
    drained = [rows[name].draining_us for name in lanes if name in rows and rows[name].draining_us]
    if drained:
        return max(drained)
    is_short = any(quotas.left(name, room, is_live=False) < room for name, room in lanes.items())
    return tx.now_us - int(LIVE_S * SECOND_US) if is_short else None
