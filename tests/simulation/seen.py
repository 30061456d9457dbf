"""What has been seen of a history so far: what both kinds of checks look things up in. It decides nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from tests.simulation.tables import LaneRow, RecordRow, SystemRow, Tables

if TYPE_CHECKING:
    from tests.simulation.systems import SimSystem
    from tests.simulation.world import Process, World


class Seen:
    """Kept up to date by `Watch` and `Changes`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tables = Tables(world.disk)
        self.routes = {route.name: route for route in world.scenario.routes}
        self.records: dict[str, RecordRow] = {}
        self.places: dict[tuple[int, int], str] = {}  # by lane and seq: the record's id
        self.staged: defaultdict[tuple[str, str], list[bytes]] = defaultdict(list)  # by route and key: its versions
        self.lanes: dict[int, LaneRow] = {}
        self.systems: dict[str, SystemRow] = {}
        self.holders: dict[int, Process] = {}  # who got each lane last
        self.probers: dict[str, Process] = {}  # who took each system's probe slot last
        self.decided: set[str] = set()  # records that a person decided on: his word counts
        self.rejected: set[tuple[str, str]] = set()  # record and code
        self.tried: Counter[str] = Counter()  # by record: the answers that count as attempts
        self.trouble: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)  # by system: when, and of what kind
        self.closed_s: dict[str, float] = {}  # by system: when its breaker closed last
        self.opened_s: dict[str, float] = {}
        self.doubts_s: dict[str, float] = {}  # by system: when records of a lane were claimed together, in doubt
        self.disturbed_s = -1e9  # when a process stood still or the database was away

    def head(self, lane: LaneRow) -> str:
        """The id of the record whose turn it is."""
        return self.places.get((lane.id, lane.done_seq + 1), "")

    def holding(self, record: str) -> list[str]:
        """The systems where a record stands, each as often as it does."""
        return [name for name, system in self.world.systems.items() for _ in system.standing(record)]

    def under_way(self, record: str) -> set[str]:
        """The systems that a call about it may still reach."""
        return {name for name, system in self.world.systems.items() if _is_under_way(system, record)}

    def was_anywhere(self, record: str) -> bool:
        """Whether any system ever did it."""
        return any(record in system.effects for system in self.world.systems.values())

    def may_repeat(self, record: RecordRow) -> bool:
        """Whether doing it twice is somebody's wish."""
        return self.routes[self.lanes[record.lane].route].accepts_duplicates or record.id in self.decided


def _is_under_way(system: SimSystem, record: str) -> bool:
    return any(record == outgoing.id for call in system.calls for outgoing in call.batch)
