"""What must always be true, checked at each call, each effect and each transaction, from the database itself and the
systems' own ledgers. The first promise that is broken ends the history."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from tests.simulation.changes import HELD, WAITING, Changes
from tests.simulation.plan import DAY_S, START_US, Quota, SystemPlan
from tests.simulation.seen import Seen
from tests.simulation.tables import RecordRow, SystemRow
from tideover.model import CREDENTIALS, HUNG, Missing, Outgoing, Rejected, Unknown, Unsent, instant

if TYPE_CHECKING:
    from tests.simulation.systems import Call, Effect, SimSystem
    from tests.simulation.world import Process, World

SPELL_S, MOST_TRANSACTIONS = 4.0, 800  # of one worker in such a time: busy ones stay below 500
MOST_UNKNOWN = 9  # within a second: as full jitter goes, so many waits that short come once in 10^13
LIMITS_SETTLE_S = 120.0  # after a worker stood still: until it has sent what was in its hand


class Watch:
    """See the module's text. It looks and changes nothing."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.seen = Seen(world)
        self.changes = Changes(self.seen)
        self._tries: defaultdict[str, list[float]] = defaultdict(list)  # by record: when nothing was learnt of it
        self._transacted: defaultdict[Process, deque[float]] = defaultdict(deque)
        self._sent: defaultdict[str, list[float]] = defaultdict(list)  # by system: when each record was sent

    def _fail(self, rule: str, detail: str, *records: str) -> None:
        self._world.fail(rule, detail, *records)

    # --- what is told ---------------------------------------------------------------------------------------

    def transacts(self, process: Process) -> None:
        """A transaction begins, whatever it reads or writes."""
        now, times = self._world.now_s(), self._transacted[process]
        times.append(now)
        while times[0] < now - SPELL_S:
            times.popleft()
        if len(times) > MOST_TRANSACTIONS:
            self._fail("a loop that waits for hardly anything", f"{process}: {len(times)} in {SPELL_S:.0f} s")

    def committed(self, process: Process, name: str, result: object) -> None:
        """A unit of work is durable."""
        self.changes.committed(process, name, result)

    def decided(self, record: str) -> None:
        """A person takes a record into his own hands."""
        self.seen.decided.add(record)

    def disturbed(self) -> None:
        """A process stood still, or the database was away: word of a breaker may come late."""
        self.seen.disturbed_s = self._world.now_s()

    def acknowledged(self, route: str, record: dict[str, Any]) -> None:
        """A client was told that its record is kept."""
        payload = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
        if payload not in self.seen.staged[route, record["id"]]:
            self._fail("acknowledged before it was durable", f"{route} {record}")

    def answered(self, system: SimSystem, batch: Sequence[Outgoing], outcomes: Sequence[Any]) -> None:
        """What a process was told by a system."""
        name, seen = system.plan.name, self.seen
        for at, outcome in enumerate(outcomes):
            record = batch[at].id if at < len(batch) else ""
            match outcome:
                case Unknown(code=code):
                    self._note_trouble(name, "trouble", "hung" if code == HUNG else "")
                    seen.tried[record] += 1
                    self._check_wait(record)
                case Unsent(is_answer=True):
                    self._note_trouble(name, f"put off {seen.records[record].lane}")
                    seen.tried[record] += 1
                    self._check_wait(record)
                case Unsent(code=code):
                    self._note_trouble(name, "trouble", code if code == CREDENTIALS else "")
                case Rejected(code=code):
                    self._note_trouble(name, "contract")
                    seen.rejected.add((record, code))
            if record and not isinstance(outcome, Missing):
                said = f"{type(outcome).__name__.lower()} {getattr(outcome, 'code', '')}"
                self._world.tell(f"{name} answers: {said}".rstrip(), record)

    def _check_wait(self, record: str) -> None:
        """What failed is not tried again at once, again and again."""
        tries = self._tries[record]
        tries.append(self._world.now_s())
        if record and len(tries) >= MOST_UNKNOWN and tries[-1] - tries[-MOST_UNKNOWN] < 1.0:
            self._fail("tried again at once", f"{MOST_UNKNOWN} times within a second", record)

    def _note_trouble(self, system: str, *kinds: str) -> None:
        self.seen.trouble[system] += [(self._world.now_s(), kind) for kind in kinds]

    def probes(self, process: Process, system: SimSystem) -> None:
        """A probe begins."""
        row = self.seen.systems.get(system.plan.name)
        if not process.is_dead and row is not None and row.state != "closed":
            self._check_prober(process, row)

    def _check_prober(self, process: Process, row: SystemRow) -> None:
        is_slot_his = self.seen.probers.get(row.name) is process and row.prober_until_us > self._world.now_us()
        if not is_slot_his and not self._is_disturbed(row.name):
            self._fail("a call through an open breaker", f"{process} probes {row.name} without having its slot")

    def _is_disturbed(self, system: str) -> bool:
        """Whether a process may not have learnt yet that a breaker is open: what it has under way comes first."""
        total_s = self._world.systems[system].plan.total_s
        opened_s = self.seen.opened_s.get(system, 0.0)
        return self.seen.disturbed_s >= opened_s - 2 * total_s or self._world.now_s() - opened_s <= 2 * total_s + 3.0

    # --- calls and effects ----------------------------------------------------------------------------------

    def sends(self, call: Call) -> None:
        """A request is put on the wire."""
        name, process = call.system.plan.name, call.process
        self._world.tell(f"{process} sends it to {name}", *(record.id for record in call.batch))
        for outgoing in call.batch:
            record = self.seen.records.get(outgoing.id)
            if record is None:
                detail = f"{process} sends {outgoing.key} to {name}"
                self._fail("sent under a key that no record has", detail, outgoing.id)
                return
            self._check_lease(call, record)
            self._check_turn(record)
            self._check_alone(call, record)
        row = self.seen.systems.get(name)
        is_open = row is not None and row.state != "closed"
        if is_open and self.seen.probers.get(name) is not process and not self._is_disturbed(name):
            self._fail("a call through an open breaker", f"{process} sends to {name}", call.batch[0].id)

        self._check_limits(call)

    def _check_limits(self, call: Call) -> None:
        """What all workers together may ask of a system; one that stood still goes on with what it was about to do."""
        system, now = call.system, self._world.now_s()
        plan, sent = system.plan, self._sent[system.plan.name]
        sent.extend([now] * len(call.batch))
        if self.seen.disturbed_s > now - LIMITS_SETTLE_S:
            return
        if plan.in_flight and system.waited_for >= plan.in_flight:
            self._fail("more calls at once than allowed", f"{system.waited_for + 1} to {plan.name}", call.batch[0].id)
        if plan.quota:
            self._check_quota(plan, plan.quota, call)
        if plan.rate:
            most, window_s = plan.rate
            if self.seen.doubts_s.get(plan.name, -1e9) > now - window_s:
                return  # they are claimed together, whatever is left
            within = sum(at_s > now - window_s for at_s in sent[-2 * most :])
            if within > most:
                detail = f"{within} records to {plan.name} within {window_s} s"
                self._fail("more records than the rate allows", detail, call.batch[0].id)

    def _check_quota(self, plan: SystemPlan, quota: Quota, call: Call) -> None:
        """What was claimed before the reset counts there, although it may be sent after it."""
        now, start = self._world.now_s(), instant(START_US)
        since_s = (datetime.combine(start.date(), quota.resets, UTC) - start).total_seconds()
        since_s += DAY_S * ((now - since_s) // DAY_S)
        if since_s > 0:
            since_s += plan.total_s + self._world.scenario.margin_s
        sent = sum(at_s >= since_s for at_s in self._sent[plan.name])
        if sent > quota.records and self.seen.doubts_s.get(plan.name, -1e9) < since_s:
            self._fail("more records than the quota allows", f"{sent} to {plan.name}", call.batch[0].id)

    def _check_lease(self, call: Call, record: RecordRow) -> None:
        lane, name = self.seen.lanes[record.lane], call.system.plan.name
        is_covered = lane.done_seq < record.seq <= lane.done_seq + lane.in_doubt
        is_held = self.seen.holders.get(lane.id) is call.process and lane.lease_until_us > self._world.now_us()
        if not (is_covered and is_held and lane.system == name):
            self._fail("sent without a lease", f"{call.process} sends seq {record.seq} to {name}: {lane}", record.id)

    def _check_turn(self, record: RecordRow) -> None:
        lane = self.seen.lanes[record.lane]
        for seq in range(lane.done_seq + 1, record.seq):
            earlier = self.seen.places.get((lane.id, seq), "")
            if not self.seen.holding(earlier):
                detail = f"seq {record.seq} of {lane.key} before seq {seq}"
                self._fail("sent before its turn", detail, record.id, earlier)

    def _check_alone(self, call: Call, record: RecordRow) -> None:
        """No other call about its lane is under way at another provider; at its own only where the same call twice does
        one thing."""
        for system in self._world.systems.values():
            for outgoing in [outgoing for other in system.calls for outgoing in other.batch]:
                known = self.seen.records.get(outgoing.id)
                if known is None or known.lane != record.lane:
                    continue
                name, here = system.plan.name, call.system.plan.name
                if system is not call.system:
                    self._fail("under way at two providers", f"{name} and {here}", record.id, known.id)
                elif system.plan.resolve in ("lookup", "none") and not self.seen.may_repeat(record):
                    self._fail("sent again while the first call was under way", f"to {name}", record.id, known.id)

    def took_effect(self, system: SimSystem, effect: Effect) -> None:
        """A system did something."""
        record = self.seen.records.get(effect.record)
        if record is None:
            return
        name = system.plan.name
        at = Counter(self.seen.holding(record.id))
        if record.payload != effect.payload:
            self._fail("not what was staged", f"{name} got {effect.payload!r}", record.id)
        if at[name] > 1 and system.plan.resolve != "natural" and not self.seen.may_repeat(record):
            self._fail("done twice", f"{name} did it {at[name]} times", record.id)
        if len(at) > 1 and record.id not in self.seen.decided:
            self._check_told(record.id, at, "now")
        if at[name] == 1:
            self._check_order(name, record)

    def _check_told(self, record: str, at: Counter[str], when: str) -> None:
        cases = self.seen.tables.cases()
        if len([name for name in at if (record, name) not in cases]) > 1:
            self._fail("at two providers and nobody knows", f"at {', '.join(sorted(at))} {when}", record)

    def _check_order(self, name: str, record: RecordRow) -> None:
        later = [
            seq
            for (lane, seq), other in self.seen.places.items()
            if lane == record.lane and seq > record.seq and name in self.seen.holding(other)
        ]
        if later and record.id not in self.seen.decided:
            detail = f"{name} did seq {min(later)} of {record.key} before seq {record.seq}"
            self._fail("out of order", detail, record.id)

    # --- the end --------------------------------------------------------------------------------------------

    def is_settled(self) -> bool:
        """Whether nothing waits any more, for anything but a person."""
        seen = self.seen
        is_read = not any(self._world.is_unread(name) for name, it in seen.routes.items() if not it.is_pushed)
        is_quiet = all(lane.state != WAITING for lane in seen.lanes.values())
        is_closed = all(row.state == "closed" or self._is_untried(row) for row in seen.systems.values())
        is_asked = all(state == "raised" for state in seen.tables.cases().values())
        return is_read and is_quiet and is_closed and is_asked and self._world.people.is_done

    def _is_untried(self, row: SystemRow) -> bool:
        """Whether only a record could tell if a system is back, and none has come since it is time to try."""
        if row.state == "closed" or self._world.scenario.system(row.name).has_probe:
            return False
        came = {self.seen.lanes[it.lane].route for it in self.seen.records.values() if it.staged_us > row.retry_us}
        return not any(row.name in self._world.config.systems_of(self.seen.routes[route].target) for route in came)

    def finish(self) -> None:
        """Everything is delivered or parked, and both ends say the same."""
        self.changes.audit()
        self.changes.check_cursors()
        seen = self.seen
        for lane in seen.lanes.values():
            if lane.state == WAITING:
                self._fail("a lane is stuck", f"{lane}", seen.head(lane))
        if not self.is_settled():
            rows = [row for row in seen.systems.values() if row.state != "closed" and not self._is_untried(row)]
            cases = {case: state for case, state in seen.tables.cases().items() if state != "raised"}
            detail = f"breakers {rows}, cases {cases}"
            self._fail("it never came to rest", detail, *(record for record, _ in cases))
        undrained = {name for (name,) in self._world.disk.rows("select system from outage where drained_us = 0")}
        if ended := sorted(name for name in undrained if not self._is_untried(seen.systems[name])):
            self._fail("an outage never ended", ", ".join(ended))
        parked = seen.tables.open_parked()
        for record in list(seen.records.values()):
            self._check_end(record, parked)

    def _check_end(self, record: RecordRow, parked: set[str]) -> None:
        lane, at = self.seen.lanes.get(record.lane), Counter(self.seen.holding(record.id))
        if lane is None or record.id in parked or record.id in self.seen.decided or lane.state == HELD:
            return
        route = self.seen.routes[lane.route]
        if not at and not (route.order == "latest" and record.seq < lane.last_seq):
            detail = f"{lane.route} {record.key}, seq {record.seq}"
            self._fail("called delivered and is nowhere", detail, record.id)
        if len(at) > 1:
            self._check_told(record.id, at, "at the end")
