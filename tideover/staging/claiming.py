"""The claims of one process: each a transaction in which the gates are seen, a desk is opened and leases are taken.

What one claim learns is kept for the next: where a route's waiting lanes begin, how far a prober's look has come, and
of which routes anything can be read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tideover.errors import MissingKey
from tideover.model import Lease
from tideover.policy.failover import GroupState
from tideover.staging import desks, groups, leases, quotas, systems
from tideover.staging.database import Database, Transaction
from tideover.staging.floors import Floor
from tideover.staging.sealing import Sealer
from tideover.staging.wishes import Claim, Mark


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim gave. `gates` of all the target's systems; `state` of its failover group, None without one.

    `mark`: where the looking stopped although somebody still had room; None when everything due was looked at.
    `quota_wait_s`: how long until a system whose limits are used up may get more; 0 where none is, or another one has
    room. `used_up`: the gates, as people should see them, of the systems whose quota for the day or month is used up.
    """

    gates: Mapping[str, systems.Gate]
    leases: Sequence[Lease]
    mark: Mark | None
    state: GroupState | None
    quota_wait_s: float = 0.0
    used_up: Mapping[str, systems.Gate] = field(default_factory=dict)


class Claiming:
    """Claims as `Store` says of its methods. Safe to use from many tasks at once."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._probe_marks: dict[tuple[str, str], Mark] = {}
        self._readable: set[str] = set()  # the routes of which something was leased
        self._floors: defaultdict[str, Floor] = defaultdict(Floor)

    async def claim(self, database: Database, wish: Claim) -> Claimed:
        """Leases on due lanes, where the gates are open."""
        missing: list[MissingKey] = []

        def work(tx: Transaction) -> Claimed:
            rows = systems.load_all(tx, wish.group.rule.providers if wish.group else wish.rooms)
            gates = {name: row.gate(tx.now_us) for name, row in rows.items()}
            desk = desks.open_desk(tx, wish, rows)
            found = leases.claim(tx, wish, desk, self._sealer, self._floors[wish.route])
            state = desk.state if isinstance(desk, desks.GroupDesk) else None
            used_up = quotas.shut(gates, desk.used_up, tx.now_us)
            missing[:] = [found.missing_key] if found.missing_key is not None else []
            return Claimed(gates, found.leases, found.mark, state, desk.quota_wait_s, used_up)

        claimed = await database.write(work)
        if claimed.leases:
            self._readable.add(wish.route)
        elif missing and wish.route not in self._readable:
            raise missing[0]
        return claimed

    async def claim_probe(self, database: Database, wish: Claim, system: str) -> list[Lease]:
        """A lease for a system's prober."""
        place = (wish.route, system)
        on = replace(wish, after=self._probe_marks.pop(place, None))

        def work(tx: Transaction) -> leases.Found:
            group = wish.group
            pin = groups.load(tx, group.name).pin if group is not None else None
            desk = desks.ProbeDesk(system, group, pin.system if pin else "")
            return leases.claim(tx, on, desk, self._sealer)

        found = await database.write(work)
        if found.mark is not None:
            self._probe_marks[place] = found.mark
        return found.leases
