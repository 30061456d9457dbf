"""What the staging database holds, read from outside the engine after each transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tests.simulation.disk import Disk


class LaneRow(NamedTuple):
    id: int
    route: str
    key: str
    last_seq: int
    done_seq: int
    state: int
    lease_until_us: int
    token: int
    system: str
    in_doubt: int
    doubted_us: int


class SystemRow(NamedTuple):
    name: str
    state: str
    retry_us: int
    paused_until_us: int
    prober: int
    prober_until_us: int
    breaker: str


class ParkedRow(NamedTuple):
    id: int
    record: str
    route: str
    lane: int
    seq: int
    system: str
    code: str
    parked_us: int
    staged_us: int
    at_intake: bool


class RecordRow(NamedTuple):
    id: str
    lane: int
    seq: int
    key: str
    payload: bytes
    staged_us: int


_LANES = f"select {', '.join(LaneRow._fields)} from lane"
_SYSTEMS = f"select {', '.join(SystemRow._fields)} from system"
_PARKED = f"select {', '.join(ParkedRow._fields)} from parked where id > ? order by id"
_RECORDS = f"select {', '.join(RecordRow._fields)}, rowid from record where rowid > ? order by rowid"


class Tables:
    """Reads only what may have changed."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._last_record = self._last_parked = self._changes = 0

    def have_changed(self) -> bool:
        """Whether any row was written since the last time."""
        before, self._changes = self._changes, self._disk.connection.total_changes
        return before != self._changes

    def lanes(self) -> dict[int, LaneRow]:
        return {row[0]: LaneRow(*row) for row in self._disk.rows(_LANES)}

    def systems(self) -> dict[str, SystemRow]:
        return {row[0]: SystemRow(*row) for row in self._disk.rows(_SYSTEMS)}

    def new_records(self) -> list[RecordRow]:
        """Those that were staged since the last time."""
        rows = self._disk.rows(_RECORDS, self._last_record)
        self._last_record = self._disk.rows("select coalesce(max(rowid), 0) from record")[0][0]
        return [RecordRow(*row[:-1]) for row in rows]

    def new_parked(self) -> list[ParkedRow]:
        rows = self._disk.rows(_PARKED, self._last_parked)
        if rows:
            self._last_parked = rows[-1][0]
        return [ParkedRow(*row) for row in rows]

    def open_parked(self) -> set[str]:
        """The ids of records that are parked now."""
        return {row[0] for row in self._disk.rows("select record from parked where closed_us = 0")}

    def cases(self) -> Mapping[tuple[str, str], str]:
        """By record and system: the state of its case, of those that are not closed."""
        return {
            (row[0], row[1]): row[2]
            for row in self._disk.rows("select record, system, state from reconciliation where closed_us = 0")
        }
