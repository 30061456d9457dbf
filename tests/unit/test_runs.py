"""Working a lease off: what is sent, in which order, until when, and what is said of it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from tideover.connectors.port import Connector
from tideover.errors import MappingError
from tideover.hub.runs import Held, Run, Sender
from tideover.model import (
    INTERRUPTED,
    SECOND_US,
    Accepted,
    Found,
    Lease,
    LeasedRecord,
    LookUp,
    Missing,
    Outcome,
    Outgoing,
    Page,
    Rejected,
    Resolve,
    Throttled,
    Unknown,
    Unsent,
)
from tideover.policy.resolve import ResolveRule
from tideover.policy.settlement import Defer, Kind, LaneReport, Park

DOUBTED_US = 500 * SECOND_US
CALL_S = 10.0


def leased(seq: int, *, in_doubt: bool = False, fault: str = "", lane: int = 1) -> LeasedRecord:
    return LeasedRecord(f"{lane}-{seq}", seq, f"k{lane}", b"{}", 0, in_doubt, fault)


def held(
    count: int = 3, *, doubt: int = 0, lane: int = 1, deadline: float = 1_000.0, age_s: float = 60.0, fault_at: int = 0
) -> Held:
    """A lease of `count` records, the first `doubt` of them in doubt."""
    records = [
        leased(seq, in_doubt=seq <= doubt, lane=lane, fault="altered" if seq == fault_at else "")
        for seq in range(1, count + 1)
    ]
    lease = Lease(lane, 7, "orders", "erp", 0, DOUBTED_US if doubt else 0, age_s if doubt else 0.0, records)
    return Held(lease, deadline, claimed_at=0.0)


@dataclass
class Script:
    """A connector that gives its answers in turn, and keeps what it was asked. Each call takes `call_s`."""

    answers: list[Outcome | list[Outcome]] = field(default_factory=list)
    found: list[LookUp] = field(default_factory=list)
    now: float = 0.0
    call_s: float = 1.0
    asked: list[str] = field(default_factory=list)
    hangs: asyncio.Event | None = None

    has_probe = False

    def monotonic(self) -> float:
        return self.now

    def batch_size(self, operation: str) -> int:
        return 10

    async def send(self, operation: str, batch: Sequence[Outgoing], deadline: float | None = None) -> Sequence[Outcome]:
        self.asked.append("send " + " ".join(record.id for record in batch))
        self.now += self.call_s
        await self._hang()
        answer = self.answers.pop(0) if self.answers else Accepted()
        return answer if isinstance(answer, list) else [answer] * len(batch)

    async def look_up(self, operation: str, record: Outgoing) -> LookUp:
        self.asked.append(f"look up {record.id}")
        self.now += self.call_s
        await self._hang()
        return self.found.pop(0)

    def can_void(self, operation: str) -> bool:
        return False

    async def void(
        self, operation: str, record: Outgoing, reference: str | None, deadline: float | None = None
    ) -> Outcome:
        return Rejected("no_void")

    async def _hang(self) -> None:
        if self.hangs is not None:
            self.hangs.set()
            await asyncio.Event().wait()

    async def probe(self) -> Outcome:
        return Accepted()

    async def pages(self, stream: str, cursor: str | None) -> AsyncGenerator[Page, None]:
        yield Page([], "", True)

    async def close(self) -> None:
        return None


def sender(script: Script, how: Resolve = Resolve.LOOKUP, *, settle_s: float = 30.0) -> Sender:
    connector: Connector = script
    rule = ResolveRule(how, 86_400.0, how in (Resolve.LOOKUP, Resolve.KEY), settle_s, accepts_duplicates=False)
    return Sender(connector, "take", rule, CALL_S, script.monotonic)


async def worked_off(
    script: Script, *group: Held, how: Resolve = Resolve.LOOKUP, is_wanted: Callable[[], bool] = lambda: True
) -> list[LaneReport]:
    """The report of each lease, in the order in which they were over."""
    over: list[Run] = []
    await sender(script, how).work_off(group, is_wanted, over.append)
    assert len(over) == len(group)
    return [run.report(script.now) for run in over]


def outcomes(report: LaneReport) -> list[object]:
    return [attempt.outcome for attempt in report.attempts]


# --- what a run says ----------------------------------------------------------------------------------------


def run_with(it: Held, *steps: tuple[Kind, Outcome | Missing], is_cleared: bool = False) -> LaneReport:
    run = Run(it)
    for number, (kind, outcome) in enumerate(steps):
        run.note(kind, outcome, float(number), number + 0.5)
    run.is_cleared = run.is_cleared or is_cleared
    return run.report(100.0)


SEND, LOOK_UP = Kind.SEND, Kind.LOOK_UP
UNKNOWN = Unknown("server_error")


@pytest.mark.parametrize(
    ("in_doubt", "steps", "is_cleared", "doubt", "doubted_us"),
    [
        pytest.param(0, [], False, 0, 0, id="nothing was sent"),
        pytest.param(3, [], False, 3, DOUBTED_US, id="nothing was sent and all are in doubt"),
        pytest.param(0, [(SEND, Accepted()), (SEND, Unsent("dns"))], False, 0, 0, id="unsent"),
        pytest.param(0, [(SEND, Rejected("X"))], False, 0, 0, id="rejected"),
        pytest.param(0, [(SEND, Throttled(1))], False, 0, 0, id="throttled"),
        pytest.param(0, [(SEND, UNKNOWN)], False, 1, 0, id="unknown"),
        pytest.param(0, [(SEND, Accepted()), (SEND, UNKNOWN)], False, 1, 0, id="accepted, unknown"),
        pytest.param(0, [(SEND, Accepted())] * 3, False, 0, 0, id="all accepted"),
        pytest.param(3, [(LOOK_UP, Accepted())], False, 2, DOUBTED_US, id="the first was found"),
        pytest.param(3, [(LOOK_UP, Accepted())] * 3, False, 0, 0, id="all were found"),
        pytest.param(3, [(LOOK_UP, Missing())], False, 3, DOUBTED_US, id="missing, too young"),
        pytest.param(3, [(LOOK_UP, Missing())], True, 0, 0, id="missing"),
        pytest.param(3, [(LOOK_UP, UNKNOWN)], False, 3, DOUBTED_US, id="look-up failed"),
        pytest.param(1, [(SEND, UNKNOWN)], False, 1, DOUBTED_US, id="resent and unknown again"),
        pytest.param(3, [(SEND, Unsent("dns"))], False, 3, DOUBTED_US, id="resent and unsent"),
        pytest.param(3, [(SEND, Accepted()), (SEND, UNKNOWN)], False, 2, DOUBTED_US, id="resent, next unknown"),
        pytest.param(1, [(SEND, Rejected("X"))], False, 1, DOUBTED_US, id="resent and rejected"),
    ],
)
def test_report_in_each_situation_tells_how_much_is_in_doubt_and_since_when(
    in_doubt: int, steps: list[tuple[Kind, Outcome | Missing]], is_cleared: bool, doubt: int, doubted_us: int
) -> None:
    report = run_with(held(doubt=in_doubt), *steps, is_cleared=is_cleared)
    assert (report.doubt, report.doubted_us) == (doubt, doubted_us)


def test_report_when_a_cleared_record_is_sent_and_unknown_is_a_doubt_of_now() -> None:
    run = Run(held(doubt=3))
    run.note(LOOK_UP, Missing(), 0.0, 1.0)
    run.is_cleared = True
    run.note(SEND, UNKNOWN, 1.0, 2.0)
    report = run.report(2.0)
    assert (report.doubt, report.doubted_us) == (1, 0)


def test_report_tells_how_long_ago_each_attempt_began_and_how_long_it_took() -> None:
    report = run_with(held(), (SEND, Accepted()), (SEND, UNKNOWN))
    assert [(a.record.seq, a.ago_us, a.took_us) for a in report.attempts] == [
        (1, 100 * SECOND_US, SECOND_US // 2),
        (2, 99 * SECOND_US, SECOND_US // 2),
    ]


def test_report_carries_the_lease_and_whether_it_probed() -> None:
    report = run_with(replace(held(), is_probe=True))
    assert (report.lane, report.token, report.is_probe) == (1, 7, True)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [(Accepted(), False), (Rejected("X"), False), (Throttled(1), True), (Unsent("dns"), True), (UNKNOWN, True)],
)
def test_met_trouble_after_each_outcome_tells_the_system_from_the_record(outcome: Outcome, expected: bool) -> None:
    run = Run(held())
    run.note(SEND, outcome, 0.0, 1.0)
    assert run.met_trouble is expected


def test_note_after_acceptance_goes_on_and_after_anything_else_ends_the_run() -> None:
    run = Run(held())
    run.note(SEND, Accepted(), 0.0, 1.0)
    assert run.head is not None
    assert run.head.seq == 2
    run.note(SEND, Throttled(1), 1.0, 2.0)
    assert run.head is None


# --- working off --------------------------------------------------------------------------------------------


async def test_lease_when_all_goes_well_is_sent_in_order() -> None:
    script = Script()
    [report] = await worked_off(script, held())
    assert script.asked == ["send 1-1", "send 1-2", "send 1-3"]
    assert (outcomes(report), report.doubt) == ([Accepted()] * 3, 0)


@pytest.mark.parametrize("outcome", [Rejected("X"), Throttled(1), Unsent("dns"), UNKNOWN])
async def test_lease_when_a_record_is_not_accepted_sends_nothing_after_it(outcome: Outcome) -> None:
    script = Script([Accepted(), outcome])
    [report] = await worked_off(script, held())
    assert script.asked == ["send 1-1", "send 1-2"]
    assert outcomes(report) == [Accepted(), outcome]


async def test_leases_together_send_the_heads_of_their_lanes_in_one_call() -> None:
    script = Script([[Accepted(), Rejected("X"), Accepted()]])
    reports = await worked_off(script, held(2, lane=1), held(2, lane=2), held(1, lane=3))
    assert script.asked == ["send 1-1 2-1 3-1", "send 1-2"]
    assert {r.lane: outcomes(r) for r in reports} == {
        1: [Accepted(), Accepted()],
        2: [Rejected("X")],
        3: [Accepted()],
    }


async def test_leases_when_one_is_over_early_are_reported_without_waiting_for_the_others() -> None:
    script = Script([[Accepted(), Rejected("X")]])
    assert [r.lane for r in await worked_off(script, held(3, lane=1), held(3, lane=2))] == [2, 1]


async def test_lease_when_its_deadline_is_near_sends_nothing_more() -> None:
    script = Script()
    [report] = await worked_off(script, held(deadline=CALL_S + 1.5))
    assert script.asked == ["send 1-1", "send 1-2"]
    assert (len(report.attempts), report.doubt, report.verdict) == (2, 0, None)


async def test_lease_when_its_deadline_is_exactly_one_call_away_sends_nothing() -> None:
    script = Script()
    [report] = await worked_off(script, held(deadline=CALL_S))
    assert (script.asked, report.attempts) == ([], [])


async def test_lease_in_doubt_when_its_deadline_is_near_asks_nothing_and_stays_in_doubt() -> None:
    script = Script()
    [report] = await worked_off(script, held(doubt=2, deadline=CALL_S))
    assert (script.asked, report.doubt, report.doubted_us) == ([], 2, DOUBTED_US)


async def test_lease_when_nothing_is_wanted_any_more_is_given_back_as_it_was() -> None:
    script = Script()
    reports = await worked_off(script, held(doubt=2), held(lane=2), is_wanted=lambda: False)
    assert script.asked == []
    assert sorted((r.lane, r.doubt, len(r.attempts)) for r in reports) == [(1, 2, 0), (2, 0, 0)]


async def test_lease_when_stopped_in_between_keeps_what_was_accepted() -> None:
    script = Script()
    [report] = await worked_off(script, held(), is_wanted=lambda: len(script.asked) < 2)
    assert (script.asked, len(report.attempts)) == (["send 1-1", "send 1-2"], 2)


async def test_record_in_doubt_when_it_is_found_is_not_sent_again() -> None:
    script = Script(found=[Found("ref")])
    [report] = await worked_off(script, held(2, doubt=1))
    assert script.asked == ["look up 1-1", "send 1-2"]
    assert [(a.kind, a.outcome) for a in report.attempts] == [(LOOK_UP, Accepted("ref")), (SEND, Accepted())]


async def test_record_in_doubt_when_it_is_missing_is_sent_and_the_next_is_asked_for_anew() -> None:
    script = Script(found=[Missing(), Found("ref")])
    await worked_off(script, held(2, doubt=2))
    assert script.asked == ["look up 1-1", "send 1-1", "look up 1-2"]


async def test_record_in_doubt_when_a_miss_is_too_young_is_deferred_until_it_may_be_believed() -> None:
    script = Script(found=[Missing()])
    [report] = await worked_off(script, held(2, doubt=2, age_s=12.0))
    assert script.asked == ["look up 1-1"]
    assert (report.verdict, report.doubt, report.doubted_us) == (Defer(18.0), 2, DOUBTED_US)


async def test_record_in_doubt_when_time_passed_in_this_hand_counts_its_age_from_the_claim() -> None:
    script = Script(found=[Missing()], now=20.0)
    await worked_off(script, held(1, doubt=1, age_s=12.0))
    assert script.asked == ["look up 1-1", "send 1-1"]


@pytest.mark.parametrize("answer", [Throttled(3), Unsent("dns"), UNKNOWN])
async def test_record_in_doubt_when_it_can_not_be_asked_for_stays_in_doubt(answer: LookUp) -> None:
    script = Script(found=[answer])
    [report] = await worked_off(script, held(2, doubt=2))
    assert script.asked == ["look up 1-1"]
    assert (outcomes(report), report.doubt, report.verdict) == ([answer], 2, None)


@pytest.mark.parametrize("how", [Resolve.NATURAL, Resolve.KEY])
async def test_record_in_doubt_when_its_system_takes_it_again_is_resent(how: Resolve) -> None:
    script = Script()
    [report] = await worked_off(script, held(2, doubt=1), how=how)
    assert (script.asked, report.doubt) == (["send 1-1", "send 1-2"], 0)


async def test_record_in_doubt_when_its_key_is_forgotten_is_looked_up() -> None:
    script = Script(found=[Found("ref")])
    await worked_off(script, held(1, doubt=1, age_s=86_400.0), how=Resolve.KEY)
    assert script.asked == ["look up 1-1"]


async def test_record_in_doubt_when_nobody_can_be_asked_is_parked_unresolved() -> None:
    script = Script()
    [report] = await worked_off(script, held(2, doubt=2), how=Resolve.NONE)
    assert script.asked == []
    assert isinstance(report.verdict, Park)
    assert (report.verdict.record.seq, report.verdict.code, report.doubt) == (1, "unresolved", 2)


@pytest.mark.parametrize(("fault_at", "asked"), [(1, []), (2, ["send 1-1"])])
async def test_record_when_its_payload_is_corrupt_is_parked_and_nothing_after_it_sent(
    fault_at: int, asked: list[str]
) -> None:
    script = Script()
    reports = await worked_off(script, held(3, fault_at=fault_at), held(1, lane=2))
    report = next(r for r in reports if r.lane == 1)
    assert [line.removesuffix(" 2-1") for line in script.asked if "1-" in line and "send 1" in line] == asked
    assert isinstance(report.verdict, Park)
    assert (report.verdict.record.seq, report.verdict.code, report.verdict.detail) == (fault_at, "corrupt", "altered")


async def _cancelled_in_the_call(script: Script, *group: Held) -> list[LaneReport]:
    script.hangs = asyncio.Event()
    over: list[Run] = []
    task = asyncio.create_task(sender(script).work_off(group, lambda: True, over.append))
    await script.hangs.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return [run.report(script.now) for run in over]


async def test_cancellation_in_the_middle_of_a_send_is_reported_as_unknown_and_interrupted() -> None:
    reports = await _cancelled_in_the_call(Script(), held(lane=1), held(lane=2))
    for report in reports:
        [attempt] = report.attempts
        assert isinstance(attempt.outcome, Unknown)
        assert (attempt.outcome.code, attempt.kind, report.doubt) == (INTERRUPTED, SEND, 1)
    assert sorted(r.lane for r in reports) == [1, 2]


async def test_cancellation_in_the_middle_of_a_look_up_leaves_all_as_it_was() -> None:
    reports = await _cancelled_in_the_call(Script(), held(doubt=2), held(lane=2))
    assert sorted((r.lane, r.doubt, len(r.attempts)) for r in reports) == [(1, 2, 0), (2, 0, 0)]


async def test_send_when_the_connector_answers_for_too_few_leaves_every_record_in_doubt() -> None:
    script = Script([[Accepted()]])
    over: list[Run] = []
    with pytest.raises(ValueError):
        await sender(script).work_off([held(1, lane=1), held(1, lane=2)], lambda: True, over.append)
    reports = {run.held.lease.lane: run.report(script.now) for run in over}
    assert {lane: report.doubt for lane, report in reports.items()} == {1: 1, 2: 1}


# --- where there are other providers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moves_on", "attempts", "asked"),
    [
        pytest.param(True, 1, ["look up 1-1"], id="its call was lost here: another provider's turn"),
        pytest.param(True, 0, ["look up 1-1", "send 1-1"], id="its worker died: nothing against this provider"),
        pytest.param(False, 1, ["look up 1-1", "send 1-1"], id="there is no other provider"),
    ],
)
async def test_record_that_is_not_there_is_sent_again_unless_its_call_was_lost_and_another_can_have_it(
    moves_on: bool, attempts: int, asked: list[str]
) -> None:
    script = Script(found=[Missing()])
    it = held(1, doubt=1)
    it.lease = it.lease._replace(attempts=attempts)
    over: list[Run] = []
    await replace(sender(script), moves_on=moves_on).work_off([it], lambda: True, over.append)
    assert script.asked == asked
    assert over[0].report(script.now).doubt == 0


async def test_ask_when_an_answer_fails_asks_no_more_and_reports_every_lease() -> None:
    script = Script(found=[Found("ref"), Unknown("timeout"), Found("never asked")])
    group = [held(1, doubt=1, lane=lane) for lane in (1, 2, 3)]
    over: list[Run] = []
    assert not await sender(script).ask(group, over.append)
    assert script.asked == ["look up 1-1", "look up 2-1"]
    assert [run.report(script.now).doubt for run in over] == [0, 1, 1]


@pytest.mark.parametrize(
    ("miss_age_s", "doubt", "waits_s"),
    [
        pytest.param(None, 1, 30.0, id="first miss"),
        pytest.param(10.0, 1, 30.0, id="second, too soon"),
        pytest.param(40.0, 0, None, id="second"),
    ],
)
async def test_ask_when_a_record_is_not_there_believes_it_the_second_time_and_never_sends(
    miss_age_s: float | None, doubt: int, waits_s: float | None
) -> None:
    script = Script(found=[Missing()])
    it = held(1, doubt=1)
    it.lease = it.lease._replace(miss_age_s=miss_age_s)
    over: list[Run] = []
    assert await sender(script).ask([it], over.append)
    assert script.asked == ["look up 1-1"]
    report = over[0].report(script.now)
    assert report.doubt == doubt
    assert report.verdict == (Defer(waits_s) if waits_s else None)


async def test_record_that_has_no_form_for_its_provider_is_parked_and_not_sent() -> None:
    def shape(payload: bytes) -> bytes:
        raise MappingError("required fields are missing: reference")

    script = Script()
    over: list[Run] = []
    await replace(sender(script), shape=shape).work_off([held(1)], lambda: True, over.append)
    verdict = over[0].report(script.now).verdict
    assert isinstance(verdict, Park)
    assert (verdict.code, script.asked) == ("mapping", [])


# --- a deadline of its own ----------------------------------------------------------------------------------


async def worked_off_at(age_s: float, script: Script, it: Held) -> LaneReport:
    """The report of a lease on records of this age, of which none may be older than a minute."""
    lease = it.lease._replace(given_us=int(age_s * SECOND_US))
    over: list[Run] = []
    its = replace(sender(script), max_age_s=60.0)
    await its.work_off([replace(it, lease=lease)], lambda: True, over.append)
    return over[0].report(script.now)


async def test_record_that_is_too_old_is_parked_and_nothing_is_sent() -> None:
    script = Script()
    report = await worked_off_at(60.0, script, held())
    assert script.asked == []
    assert isinstance(report.verdict, Park)
    assert (report.verdict.code, report.verdict.record.seq) == ("expired", 1)


async def test_record_that_grows_too_old_in_the_workers_hand_is_parked_and_those_before_it_were_sent() -> None:
    script = Script()
    report = await worked_off_at(58.5, script, held())
    assert script.asked == ["send 1-1", "send 1-2"]
    assert isinstance(report.verdict, Park)
    assert (report.verdict.code, report.verdict.record.seq) == ("expired", 3)


async def test_record_that_its_system_may_have_is_asked_about_however_old_and_then_not_sent() -> None:
    script = Script(found=[Missing()])
    report = await worked_off_at(1_000.0, script, held(1, doubt=1))
    assert script.asked == ["look up 1-1"]
    assert isinstance(report.verdict, Park)
    assert (report.verdict.code, report.doubt) == ("expired", 0)
