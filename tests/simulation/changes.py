"""What a transaction may change, checked on the tables themselves after each commit."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import orjson

from tests.simulation.plan import GROUP
from tests.simulation.seen import Seen
from tests.simulation.tables import LaneRow, ParkedRow, RecordRow, SystemRow
from tideover.model import SECOND_US
from tideover.policy.breaker import Reason
from tideover.policy.resolve import HORIZON_SHARE
from tideover.staging import reports
from tideover.staging.claiming import Claimed
from tideover.staging.settle import Settled

if TYPE_CHECKING:
    from tests.simulation.world import Process

AUDIT_EVERY = 25  # transactions
WAITING, HELD = 1, 2
CLAIMS = ("claim", "claim_probe", "claim_doubted")
PEOPLE = ("replay", "release", "restore_storm", "restage", "remap")
REASONS = {
    Reason.HUNG: "hung",
    Reason.CREDENTIALS: "credentials",
    Reason.UNREACHABLE: "trouble",
    Reason.FAILING: "trouble",
    Reason.CONTRACT: "contract",
}


class Changes:
    """See the module's text. It looks and changes nothing but what was seen."""

    def __init__(self, seen: Seen) -> None:
        self._seen, self._world = seen, seen.world
        self._audit_in = AUDIT_EVERY

    def committed(self, process: Process, name: str, result: object) -> None:
        """A unit of work is durable. `name`: the store's method."""
        seen = self._seen
        if name == "take_probe" and result is not None:
            self._take_slot(process)
        self._note_result(process, result)
        if not seen.tables.have_changed():
            return
        for row in seen.tables.new_records():
            self._note_staged(row)
        before, seen.lanes = seen.lanes, seen.tables.lanes()
        for lane in seen.lanes.values():
            known = before.get(lane.id)
            if known is not None and known != lane:
                self._check_lane(process, name, known, lane)
        for parked in seen.tables.new_parked():
            self._check_parked(parked)
        self._check_systems(name, seen.tables.systems())
        if name == "stage":
            self.check_cursors()
        self._audit_in -= 1
        if not self._audit_in:
            self._audit_in = AUDIT_EVERY
            self.audit()

    def _note_result(self, process: Process, result: object) -> None:
        """What a settlement or a claim was answered."""
        seen = self._seen
        if isinstance(result, Settled):
            for lane in result.refused:
                self._world.tell(f"{process} settles too late: refused", seen.head(seen.lanes[lane]))
        if isinstance(result, Claimed):
            for lease in result.leases:
                if sum(record.in_doubt for record in lease.records) > 1:
                    seen.doubts_s[lease.system] = self._world.now_s()

    def _fail(self, rule: str, detail: str, *records: str) -> None:
        self._world.fail(rule, detail, *records)

    def _note_staged(self, row: RecordRow) -> None:
        seen = self._seen
        known = seen.records.get(row.id)
        seen.records[row.id] = row
        seen.places[row.lane, row.seq] = row.id
        if known is None:
            route = self._world.disk.rows("select route from lane where id = ?", row.lane)[0][0]
            seen.staged[route, row.key].append(row.payload)
            self._world.tell(f"staged: {route} {row.key}, seq {row.seq}", row.id)

    # --- lanes ----------------------------------------------------------------------------------------------

    def _check_lane(self, process: Process, name: str, was: LaneRow, lane: LaneRow) -> None:
        head = self._seen.head(lane)
        is_held = was.lease_until_us > self._world.now_us() and lane.token == was.token
        if lane.token < was.token:
            self._fail("a token went back", f"{name}: {was} -> {lane}", head)
        if name in CLAIMS and lane.token != was.token:
            self._check_claim(process, name, was, lane, head)
        elif name == "settle":
            self._check_settled(process, was, lane)
        elif is_held and lane.done_seq != was.done_seq and name == "stage":
            self._fail("superseded although it may have been sent", f"{name}: {was} -> {lane}", head)
        elif is_held and not lane.lease_until_us and self._seen.holders.get(lane.id) is not process:
            self._fail("somebody else's lease was ended", f"{process}, {name}: {was} -> {lane}", head)
        if lane.done_seq > was.done_seq:
            self._check_done(name, was, lane)
        self._check_doubt(name, lane)

    def _check_claim(self, process: Process, name: str, was: LaneRow, lane: LaneRow, head: str) -> None:
        now_us = self._world.now_us()
        late = " after its lease ran out" if was.lease_until_us else ""
        self._world.tell(f"{process} gets the lane for {lane.system} ({name}, token {lane.token}){late}", head)
        if was.lease_until_us > now_us:
            self._fail(
                "two leases on one lane", f"{process} takes {lane.key} from {self._seen.holders.get(lane.id)}", head
            )
        self._seen.holders[lane.id] = process
        row = self._seen.systems.get(lane.system)
        if name == "claim" and row is not None and (row.state != "closed" or row.paused_until_us > now_us):
            self._fail("claimed for a system that may not be called", f"{lane.system} is {row.state}", head)
        if was.in_doubt and lane.system != was.system:
            self._check_moved(was, lane, head)
        elif not was.in_doubt:
            self._check_pin(name, lane, head)
        elif lane.in_doubt < was.in_doubt or lane.doubted_us != was.doubted_us:
            self._fail("a doubt was forgotten", f"{name}: {was} -> {lane}", head)

    def _check_pin(self, name: str, lane: LaneRow, head: str) -> None:
        """What an operator pinned a group to gets all that is not in doubt elsewhere."""
        if self._seen.routes[lane.route].target != GROUP:
            return
        for (state,) in self._world.disk.rows("select state from failover_group"):
            pin = json.loads(state)["pin"]
            if pin and lane.system != pin["system"]:
                self._fail("sent past a pin", f"{name}: to {lane.system}, pinned to {pin['system']}", head)

    def _check_moved(self, was: LaneRow, lane: LaneRow, head: str) -> None:
        """What may be at one provider goes to another only where the route says so, after `max_hold`, as a case."""
        route = self._seen.routes[lane.route]
        held_s = (self._world.now_us() - was.doubted_us) / SECOND_US
        is_told = (head, was.system) in self._seen.tables.cases()
        if route.on_unknown != "reroute" or held_s < route.max_hold_s or not is_told:
            self._fail("moved while in doubt", f"from {was.system} to {lane.system} after {held_s:.1f} s", head)
        self._world.tell(f"{was.system} may have it: sent to {lane.system} after {held_s:.1f} s", head)

    def _check_settled(self, process: Process, was: LaneRow, lane: LaneRow) -> None:
        head = self._seen.head(was)
        if was.lease_until_us <= self._world.now_us() or self._seen.holders.get(lane.id) is not process:
            self._fail("settled without a lease", f"{process}: {was} -> {lane}", head)
        self._world.tell(f"{process} settles: done {lane.done_seq} of {lane.last_seq}, {lane.in_doubt} in doubt", head)

    def _check_done(self, name: str, was: LaneRow, lane: LaneRow) -> None:
        """What a lane has left behind is done somewhere, or parked, or gave way to a newer version."""
        seen, order = self._seen, self._seen.routes[lane.route].order
        parked = seen.tables.open_parked()
        for seq in range(was.done_seq + 1, lane.done_seq + 1):
            record = seen.places.get((lane.id, seq), "")
            if not record and order == "none":
                continue  # of a key whose records have lanes of their own, its lane only counts them
            if seen.was_anywhere(record) or record in parked or record in seen.decided:
                continue
            if name in ("stage", *CLAIMS) and seq < lane.last_seq and order == "latest":
                if was.in_doubt or was.lease_until_us > self._world.now_us():
                    self._fail("superseded although it may have been sent", f"{was}", record)
            elif name not in PEOPLE:
                self._fail("called delivered and is nowhere", f"{name}: seq {seq} of {lane.key}", record)

    def _check_doubt(self, name: str, lane: LaneRow) -> None:
        """Of a lane that nobody has and that is not in doubt, no record is anywhere, but where a case says so."""
        if lane.in_doubt or lane.lease_until_us > self._world.now_us() or lane.state != WAITING:
            return
        seen, record = self._seen, self._seen.head(lane)
        at = {*seen.holding(record), *seen.under_way(record)}
        if at and record not in seen.decided and not seen.routes[lane.route].accepts_duplicates:
            cases = seen.tables.cases()
            untold = sorted(system for system in at if (record, system) not in cases)
            if untold:
                self._fail("taken for unsent", f"{name}: {', '.join(untold)} may have it: {lane}", record)

    def _check_parked(self, row: ParkedRow) -> None:
        self._world.tell(f"parked: {row.code}", row.record)
        seen = self._seen
        if row.at_intake or row.record not in seen.records:
            return
        route, plan = seen.routes[row.route], self._world.systems[row.system].plan
        if route.order == "block" and seen.lanes[row.lane].state != HELD:
            self._fail("a parked record holds nothing", f"{row.route}: {seen.lanes[row.lane]}", row.record)
        age_s = (row.parked_us - row.staged_us) / SECOND_US
        is_old_key = plan.resolve == "key" and age_s >= plan.horizon_s * HORIZON_SHARE and not plan.has_lookup
        reasons = {
            "unresolved": (plan.resolve == "none" or is_old_key) and not route.accepts_duplicates,
            "expired": route.max_age_s is not None and age_s >= route.max_age_s,
            "attempts": seen.tried[row.record] >= route.max_attempts,
        }
        if not reasons.get(row.code, (row.record, row.code) in seen.rejected):
            self._fail("parked for no reason of its own", f"{row.code} at {row.system}", row.record)

    # --- systems --------------------------------------------------------------------------------------------

    def _take_slot(self, process: Process) -> None:
        seen = self._seen
        for row in seen.tables.systems().values():
            known = seen.systems.get(row.name)
            if row.prober == (known.prober if known else 0):
                continue
            if known is not None and known.prober_until_us > self._world.now_us():
                whose = seen.probers.get(row.name)
                self._fail("two probers", f"{process} takes the slot of {row.name} from {whose}")
            seen.probers[row.name] = process

    def _check_systems(self, name: str, rows: dict[str, SystemRow]) -> None:
        seen = self._seen
        before, seen.systems = seen.systems, rows
        for row in rows.values():
            was = before.get(row.name)
            if was is not None:
                self._check_went_on(name, was, row)
            if (was.state if was else "closed") == row.state:
                continue
            self._world.tell(f"the breaker of {row.name} is {row.state}")
            if row.state == "closed":
                seen.closed_s[row.name] = self._world.now_s()
            elif was is None or was.state == "closed":
                seen.opened_s[row.name] = self._world.now_s()
                self._check_opened(name, row)

    def _check_went_on(self, name: str, was: SystemRow, row: SystemRow) -> None:
        """Nobody writes down what he saw before somebody else's word: a straggler closes no breaker."""
        if row.state == "closed" and was.state == "open" and name != "force":
            self._fail("a breaker closed without a probe", f"{name}: {was} -> {row}")
        if row.prober < was.prober:
            self._fail("a prober's number went back", f"{name}: {was} -> {row}")
        if row.paused_until_us < was.paused_until_us and name != "force":
            self._fail("a pause was forgotten", f"{name}: {was} -> {row}")

    def _check_opened(self, name: str, row: SystemRow) -> None:
        """A breaker opens for what its system did, and for nothing else."""
        reason = json.loads(row.breaker)["reason"]
        if name == "force":
            return
        plan, seen = self._world.systems[row.name].plan, self._seen
        # An answer from before it closed may be settled after that.
        since_s = seen.closed_s.get(row.name, -1e9) - 2 * plan.total_s
        had = Counter(kind for at_s, kind in seen.trouble[row.name] if at_s > since_s)
        had["trouble"] += sum(kind.startswith("put off") for kind in had)  # of one lane, only one counts
        kind = REASONS[Reason(reason)]
        needed = {"trouble": plan.failures, "contract": 3}.get(kind, 1)
        if had[kind] < needed:
            self._fail("a breaker opened for no reason", f"{row.name}: {reason} after {dict(had)}")

    # --- cursors and books ----------------------------------------------------------------------------------

    def check_cursors(self) -> None:
        """What a cursor has passed is staged: each change of each key, in order."""
        for route, cursor in self._world.disk.rows("select route, cursor from cursor"):
            if self._seen.routes[route].is_pushed:
                continue
            wanted: defaultdict[str, list[bytes]] = defaultdict(list)
            for record in self._world.listings[route][: int(cursor or 0)]:
                payload = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
                if not wanted[record["id"]] or wanted[record["id"]][-1] != payload:
                    wanted[record["id"]].append(payload)
            for key, versions in wanted.items():
                staged = self._seen.staged[route, key]
                if staged != versions:
                    detail = f"{route} {key}: {len(staged)} of {len(versions)} versions"
                    self._fail("a cursor moved past what is not staged", detail)

    def audit(self) -> None:
        """Accepted is delivered, parked, superseded or waiting."""
        routes = list(self._seen.routes)
        for route in self._world.disk.transact(lambda tx: reports.audit(tx, routes), self._world.now_us()):
            if route.faults or route.difference:
                self._fail("the books do not balance", f"{route}")
