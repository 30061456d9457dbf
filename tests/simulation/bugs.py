"""Mistakes that a capable engineer could make, each as a small patch of the engine: what the simulator has to find, or
it could not be believed when it finds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.simulation.patches import Edit, Entry
from tideover.hub.delivery import Delivery
from tideover.hub.gatekeeper import Gatekeeper
from tideover.hub.runs import Run, Sender
from tideover.model import Order
from tideover.policy import breaker, choice, quota, resolve, retry, settlement
from tideover.staging import desks, heads, leases, settle, shares, stage, systems
from tideover.staging.claiming import Claiming
from tideover.staging.store import Store


@dataclass(frozen=True, slots=True)
class Bug:
    """`mistake`: why somebody would do that. `rules`: the promises that it may be seen to break. `within`: it is caught
    by one of the seeds from 0 up to this number. `first`: the seeds before it don't catch it."""

    name: str
    mistake: str
    patch: tuple[Edit | Entry, ...]
    rules: frozenset[str]
    within: int
    first: int = 0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The engine has the bug."""
        with ExitStack() as patches:
            for part in self.patch:
                patches.enter_context(part.applied())
            yield


def _edit(function: Any, *changes: tuple[str, str]) -> Edit:
    return Edit(function, changes)


def _bug(name: str, mistake: str, *patch: Edit | Entry, rules: set[str], within: int, first: int = 0) -> Bug:
    return Bug(name, mistake, patch, frozenset(rules), within, first)


BUGS = (
    _bug(
        "acknowledge before commit",
        "The write goes on in the background, and the client gets its answer at once.",
        _edit(
            Store.stage,
            (
                "staged = await self.database.write(lambda tx: staging.stage(tx, batch, self._sealer, push))",
                "import asyncio\n"
                "    write = self.database.write(lambda tx: staging.stage(tx, batch, self._sealer, push))\n"
                "    asyncio.ensure_future(write)\n"
                "    staged = Staged(len(batch.records), 0, 0)",
            ),
        ),
        rules={"acknowledged before it was durable"},
        within=30,
        first=2,
    ),
    _bug(
        "new key on retry",
        "Each attempt gets an idempotency key of its own, so that attempts can be told apart.",
        _edit(
            Sender._send,
            (
                "Outgoing(run.head.id, ",
                "Outgoing(f'{run.head.id}-{run.held.lease.token}' if run.head.in_doubt else run.head.id, ",
            ),
        ),
        rules={"sent under a key that no record has", "done twice"},
        within=30,
        first=1,
    ),
    _bug(
        "no fence",
        "Whoever settles a lane that is leased may do so: its token is not compared.",
        _edit(settlement.plan, ("row.token != report.token or ", "")),
        rules={"settled without a lease"},
        within=700,
        first=626,
    ),
    _bug(
        "unknown treated as unsent",
        "A call without an answer has failed, and what failed is simply tried again.",
        _edit(
            Run._doubt,
            (
                "isinstance(last.outcome, Unknown)",
                "(isinstance(last.outcome, Unknown) and last.outcome.code == INTERRUPTED)",
            ),
        ),
        rules={
            "at two providers and nobody knows",
            "taken for unsent",
            "done twice",
            "sent again while the first call was under way",
        },
        within=20,
    ),
    _bug(
        "expired lease treated as ready",
        "A lease that ran out was never used: its records are claimed as if they were new.",
        _edit(
            heads.read,
            (
                "head.run = head.in_doubt or depth",
                "head.in_doubt = 0 if head.lease_until_us else head.in_doubt\n"
                "        head.run = head.in_doubt or depth",
            ),
        ),
        rules={"a doubt was forgotten", "moved while in doubt", "taken for unsent"},
        within=20,
        first=1,
    ),
    _bug(
        "breaker get-then-set",
        "The breaker is got when records are claimed, and set when their calls have ended: that saves a query.",
        _edit(Claiming.claim, ("gates = {", "self.seen = rows\n        gates = {")),
        _edit(
            Store.settle,
            (
                "self._sealer, self._spread))",
                "self._sealer, self._spread, getattr(self._claiming, 'seen', {}).get(settlement.system)))",
            ),
        ),
        _edit(
            settle.settle,
            ("= random.random", "= random.random, seen: systems.SystemRow | None = None"),
            ("row = systems.load(tx, settlement.system)\n", "row = seen or systems.load(tx, settlement.system)\n"),
            ("row = systems.load(tx, settlement.system, for_update=True)", "systems.ensure(tx, settlement.system)"),
        ),
        _edit(systems._write, (" and version = :version", "")),
        rules={"a prober's number went back", "a breaker closed without a probe", "a pause was forgotten"},
        within=80,
        first=41,
    ),
    _bug(
        "half-open stampede",
        "When it is time to probe, everybody probes.",
        _edit(systems.take_probe, ("max(row.prober_until_us, row.paused_until_us)", "row.paused_until_us")),
        rules={"two probers"},
        within=80,
        first=10,
    ),
    _bug(
        "cursor moved before staging",
        "The cursor is committed when a page was read, and its records are staged right after.",
        _edit(
            Store.stage,
            (
                "staged = await",
                "from dataclasses import replace\n"
                "    if batch.move is not None:\n"
                "        moved = replace(batch, records=())\n"
                "        await self.database.write(lambda tx: staging.stage(tx, moved, self._sealer))\n"
                "        batch = replace(batch, move=None)\n"
                "    staged = await",
            ),
        ),
        rules={"a cursor moved past what is not staged"},
        within=10,
    ),
    _bug(
        "lane released at lease expiry",
        "A sweep gives lanes back whose lease ran out, as if nothing had been sent.",
        _edit(
            leases.claim,
            (
                "haul = Haul()",
                "tx.conn.execute(\n"
                "        text(\n"
                '            "update lane set lease_until_us = 0, in_doubt = 0 "\n'
                '            "where route = :route and lease_until_us > 0 and lease_until_us <= :now"\n'
                "        ),\n"
                '        {"route": wish.route, "now": tx.now_us},\n'
                "    )\n"
                "    haul = Haul()",
            ),
        ),
        rules={"moved while in doubt", "taken for unsent", "a doubt was forgotten"},
        within=20,
        first=1,
    ),
    _bug(
        "`latest` supersedes a record in flight",
        "Whatever is older than the newest version gives way, also what somebody is sending.",
        Entry(stage._SORTS, Order.LATEST, "state < 2 and in_doubt = 0 and lease_until_us = 0", "state < 2"),
        rules={"superseded although it may have been sent"},
        within=20,
        first=1,
    ),
    _bug(
        "failback with records in flight",
        "When the preferred provider serves again, everything goes there, also what the other one may have.",
        _edit(
            desks.GroupDesk.decide,
            ("head.system in self._open:", "head.system in self._open and self.state.serving in ('', head.system):"),
        ),
        rules={"moved while in doubt"},
        within=60,
        first=8,
    ),
    _bug(
        "throttle counted as failure",
        "A 429 is an error like any other, and enough of them in a row open the breaker.",
        _edit(
            breaker._counted,
            (
                "case Throttled():\n            return breaker, ()",
                "case Throttled(detail=detail):\n"
                "            code, counted = 'throttled', (*breaker.failing, result.lane)\n"
                "            reason = Reason.FAILING",
            ),
        ),
        rules={"a breaker opened for no reason"},
        within=300,
        first=168,
    ),
    # --- beyond the twelve ----------------------------------------------------------------------------------
    _bug(
        "first miss taken as final",
        "What a look-up does not find is not there.",
        _edit(resolve.is_miss_final, ("doubt_age_s >= rule.settle_s", "True")),
        rules={"sent again while the first call was under way", "taken for unsent", "done twice"},
        within=400,
        first=150,
    ),
    _bug(
        "lease's end not looked at when settling",
        "The token is compared, and nothing else.",
        _edit(settlement.plan, ("row.lease_until_us <= now_us or ", "")),
        rules={"settled without a lease"},
        within=150,
        first=22,
    ),
    _bug(
        "key horizon ignored",
        "A system that honours keys honours them for ever.",
        _edit(resolve.next_step, (" and doubt_age_s < rule.key_horizon_s * HORIZON_SHARE", "")),
        rules={"done twice"},
        within=200,
        first=56,
    ),
    _bug(
        "rerouted before `max_hold`",
        "A record in doubt goes elsewhere at once where its route reroutes.",
        _edit(leases._due, ("tx.now_us - int(hold_s * SECOND_US)", "tx.now_us")),
        rules={"moved while in doubt"},
        within=20,
    ),
    _bug(
        "dedupe against any version",
        "A content that the key once had is not staged again.",
        _edit(
            stage.stage,
            (
                "for record in batch.records]",
                "for record in batch.records\n"
                "             if not tx.conn.execute(\n"
                '                 text("select 1 from record where lane = :lane and payload = :payload limit 1"),\n'
                '                 {"lane": lane_id(batch.route, record.key), "payload": record.payload},\n'
                "             ).scalar()]",
            ),
        ),
        rules={"a cursor moved past what is not staged"},
        within=20,
        first=1,
    ),
    _bug(
        "cursor moved without compare and swap",
        "Two runs of one route read the same page, and the later commit wins.",
        _edit(stage._move_cursor, ('"where route = :route and version = :version"', '"where route = :route"')),
        rules={"a cursor moved past what is not staged"},
        within=80,
        first=10,
    ),
    _bug(
        "claim without its limits",
        "The rate is looked at where calls are counted, and not where records are claimed.",
        _edit(Delivery._claim_route, ("limits=self._limits,", "limits={},")),
        rules={"more records than the rate allows", "more records than the quota allows"},
        within=40,
        first=3,
    ),
    _bug(
        "each worker has all calls",
        "What others have under way is not subtracted from a worker's share.",
        _edit(shares.share, ("max(min(fair, ask.cap - sum(int(held) for _, _, held in rows)), 0)", "ask.cap")),
        rules={"more calls at once than allowed"},
        within=400,
        first=230,
    ),
    _bug(
        "stopped call treated as unsent",
        "What a run had under way when it was stopped was not sent.",
        _edit(
            Run._doubt,
            (
                "isinstance(last.outcome, Unknown)",
                "(isinstance(last.outcome, Unknown) and last.outcome.code != INTERRUPTED)",
            ),
        ),
        rules={"taken for unsent", "sent again while the first call was under way"},
        within=200,
        first=44,
    ),
    _bug(
        "parked record not in the books",
        "Parking moves a record, and the ledger is told of deliveries only.",
        _edit(settle.settle, ("parked=parked", "parked=0")),
        rules={"the books do not balance"},
        within=20,
    ),
    _bug(
        "pin ignored",
        "An operator's pin moves the group's first choice, and no record.",
        _edit(choice.choose, ("may if state.pin is None else", "may if True else")),
        rules={"sent past a pin"},
        within=80,
        first=9,
    ),
    _bug(
        "parked head holds nothing",
        "A parked record is stepped over, whatever the route's order is.",
        _edit(settlement._park, ("holds = rule.order is Order.BLOCK", "holds = False")),
        rules={"a parked record holds nothing"},
        within=20,
    ),
    _bug(
        "retry without backoff",
        "What failed is due again at once.",
        _edit(retry.wait_s, (" * spread", " * 0.0")),
        rules={"tried again at once"},
        within=20,
        first=1,
    ),
    _bug(
        "outage never closed",
        "Held lanes are waited for too, so a parked head keeps an outage open.",
        _edit(systems._is_waiting, ("lane.state = 1", "lane.state in (1, 2)")),
        rules={"an outage never ended"},
        within=40,
        first=4,
    ),
    _bug(
        "rerouted without a case",
        "The record moves on, and what the first provider may have is forgotten.",
        _edit(leases._reroute, ("reconciliation.begin(", "(lambda *_: None)(")),
        rules={"moved while in doubt", "at two providers and nobody knows"},
        within=100,
        first=24,
    ),
    _bug(
        "an answer that wakes whoever asked",
        "Each look at a system that is down is news to whoever claims; who then asks for another look.",
        _edit(Gatekeeper._look, ("if is_news:", "if True:")),
        rules={"a loop that waits for hardly anything"},
        within=180,
        first=108,
    ),
    _bug(
        "each putting off counted",
        "A breaker counts calls that came to nothing, and not the records that they were about.",
        _edit(
            breaker._counted, ("case Unsent(code=code, detail=detail, is_answer=False):", "case Unsent(code, detail):")
        ),
        rules={"a breaker opened for no reason"},
        within=120,
        first=4,
    ),
    _bug(
        "quota reckoned and not written",
        "What a claim takes from a quota is subtracted where it is looked at, and nowhere else.",
        _edit(quota.after, ("changed[budget.name] = replace(use, used=max(use.used + records, 0))", "pass")),
        rules={"more records than the quota allows"},
        within=120,
        first=10,
    ),
)
