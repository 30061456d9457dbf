"""Mistakes that a capable engineer could make, each as a small patch of the engine's own source: what the simulator has
to find, or it could not be believed when it finds nothing.

A patch says which text of which function becomes which other. It is applied to the function that everybody already
imported, and taken back afterwards. One that no longer fits the function's text is refused: write it anew.
"""

from __future__ import annotations

import __future__
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any
from unittest import mock

from tideover.hub.delivery import Delivery
from tideover.hub.runs import Run, Sender
from tideover.hub.sharing import Sharing
from tideover.policy import breaker, choice, lanes, quota, reconcile, resolve, retry, settlement
from tideover.staging import cases, desks, leases, reconciliation, settle, shares, stage, systems
from tideover.staging.store import Store


class DoesNotFit(Exception):
    """The engine's text is not the one that a patch was written for."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In `function`, each first text, which is there exactly once, becomes the second. Indented as in a function at the
    left margin."""

    function: Any
    changes: tuple[tuple[str, str], ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Only the code is exchanged, so that whoever imported the function runs the other one too."""
        assert isinstance(self.function, FunctionType)
        before = self.function.__code__
        self.function.__code__ = self._compiled()
        try:
            yield
        finally:
            self.function.__code__ = before

    def _compiled(self) -> Any:
        source = textwrap.dedent(inspect.getsource(self.function))
        for was, becomes in self.changes:
            if source.count(was) != 1:
                raise DoesNotFit(f"{self.function.__qualname__} has {source.count(was)} times: {was}")
            source = source.replace(was, becomes)
        found: dict[str, Any] = {}
        flags = __future__.annotations.compiler_flag
        exec(compile(source, "<a planted bug>", "exec", flags, True), self.function.__globals__, found)
        return found[self.function.__name__].__code__


@dataclass(frozen=True, slots=True)
class Entry:
    """The same for a text in a table of the engine."""

    table: dict[Any, str]
    key: Any
    was: str
    becomes: str

    @contextmanager
    def applied(self) -> Iterator[None]:
        text = self.table[self.key]
        if text.count(self.was) != 1:
            raise DoesNotFit(f"{self.key} is: {text}")
        with mock.patch.dict(self.table, {self.key: text.replace(self.was, self.becomes)}):
            yield


@dataclass(frozen=True, slots=True)
class Bug:
    """`mistake`: why somebody would do that. `rules`: the promises that it may be seen to break. `within`: it is caught
    by one of the seeds from 0 up to this number. `first`: a seed from which on that does not take long."""

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
                "staged = await self.database.write(lambda tx: staging.stage(tx, batch, self._sealer))",
                "asyncio.ensure_future(self.database.write(lambda tx: staging.stage(tx, batch, self._sealer)))\n"
                "    staged = Staged(len(batch.records), 0, 0)",
            ),
        ),
        rules={"acknowledged before it was durable"},
        within=30,
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
    ),
    _bug(
        "no fence",
        "Whoever settles a lane that is leased may do so: its token is not compared.",
        _edit(settlement.plan, ("row.token != report.token or ", "")),
        rules={"settled without a lease"},
        within=200,
    ),
    _bug(
        "unknown treated as unsent",
        "A call without an answer has failed, and what failed is simply tried again.",
        _edit(
            Run.report,
            ("isinstance(last.outcome, Unknown)", "(isinstance(last.outcome, Unknown) and last.outcome.code == INTERRUPTED)"),
        ),
        rules={"taken for unsent", "done twice", "sent again while the first call was under way"},
        within=30,
    ),
    _bug(
        "expired lease treated as ready",
        "A lease that ran out was never used: its records are claimed as if they were new.",
        _edit(
            leases._read_heads,
            (
                "head.run = head.in_doubt or depth",
                "head.in_doubt = 0 if head.lease_until_us else head.in_doubt\n        head.run = head.in_doubt or depth",
            ),
        ),
        rules={"a doubt was forgotten", "moved while in doubt", "taken for unsent"},
        within=60,
    ),
    _bug(
        "breaker get-then-set",
        "The breaker is read first, and written back later by the transaction that settles.",
        _edit(
            Store.settle,
            (
                "settled = await self.database.write(lambda tx: settling.settle(tx, settlement, self._sealer, self._spread))",
                "seen = await self.database.read(lambda tx: systems.load(tx, settlement.system))\n"
                "    settled = await self.database.write(\n"
                "        lambda tx: settling.settle(tx, settlement, self._sealer, self._spread, seen)\n"
                "    )",
            ),
        ),
        _edit(
            settle.settle,
            ("= random.random", ", seen: object = None"),
            ("row = systems.load(tx, settlement.system)\n", "row = seen\n"),
            ("row = systems.load(tx, settlement.system, for_update=True)", "systems.ensure(tx, settlement.system)"),
        ),
        _edit(systems._write, (" and version = :version", "")),
        rules={"two probers"},
        within=400,
    ),
    _bug(
        "half-open stampede",
        "When it is time to probe, everybody probes.",
        _edit(systems.take_probe, ("max(row.prober_until_us, row.paused_until_us)", "row.paused_until_us")),
        rules={"two probers"},
        within=60,
    ),
    _bug(
        "cursor moved before staging",
        "The cursor is committed when a page was read, and its records are staged right after.",
        _edit(
            Store.stage,
            (
                "staged = await",
                "if batch.move is not None:\n"
                "        await self.database.write(lambda tx: staging.stage(tx, replace(batch, records=()), self._sealer))\n"
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
                "taken: list[Take] = []",
                "tx.conn.execute(\n"
                "        text(\n"
                '            "update lane set lease_until_us = 0, in_doubt = 0 "\n'
                '            "where route = :route and lease_until_us > 0 and lease_until_us <= :now"\n'
                "        ),\n"
                '        {"route": wish.route, "now": tx.now_us},\n'
                "    )\n"
                "    taken: list[Take] = []",
            ),
        ),
        rules={"taken for unsent", "a doubt was forgotten"},
        within=60,
    ),
    _bug(
        "`latest` supersedes a record in flight",
        "Whatever is older than the newest version gives way, also what somebody is sending.",
        Entry(stage._SORTS, stage.Order.LATEST, "state < 2 and in_doubt = 0 and lease_until_us = 0", "state < 2"),
        rules={"superseded although it may have been sent"},
        within=60,
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
    ),
    _bug(
        "throttle counted as failure",
        "A 429 is an error like any other, and five of them open the breaker.",
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
        within=60,
    ),
    # --- beyond the twelve ----------------------------------------------------------------------------------
    _bug(
        "first miss taken as final",
        "What a look-up does not find is not there.",
        _edit(resolve.is_miss_final, ("doubt_age_s >= rule.settle_s", "True")),
        rules={"sent again while the first call was under way", "taken for unsent", "done twice"},
        within=60,
    ),
    _bug(
        "lease's end not looked at when settling",
        "The token is compared, and nothing else.",
        _edit(settlement.plan, ("row.lease_until_us <= now_us or ", "")),
        rules={"settled without a lease"},
        within=200,
    ),
    _bug(
        "deadline not looked at before a call",
        "Whoever holds a lease may begin a call.",
        _edit(Sender._is_in_time, ("self.monotonic() + self.call_s < run.held.deadline", "True")),
        rules={"sent again while the first call was under way", "sent without a lease", "settled without a lease"},
        within=400,
    ),
    _bug(
        "key horizon ignored",
        "A system that honours keys honours them for ever.",
        _edit(resolve.next_step, (" and doubt_age_s < rule.key_horizon_s * HORIZON_SHARE", "")),
        rules={"done twice"},
        within=400,
    ),
    _bug(
        "rerouted before `max_hold`",
        "A record in doubt goes elsewhere at once where its route reroutes.",
        _edit(leases._due, ("tx.now_us - int(hold_s * SECOND_US)", "tx.now_us")),
        rules={"moved while in doubt"},
        within=60,
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
        within=60,
    ),
    _bug(
        "cursor moved without compare and swap",
        "Two runs of one route read the same page, and the later commit wins.",
        _edit(stage._move_cursor, ('"where route = :route and version = :version"', '"where route = :route"')),
        rules={"a cursor moved past what is not staged"},
        within=100,
    ),
    _bug(
        "claim without its limits",
        "The rate is looked at where calls are counted, and not where records are claimed.",
        _edit(Delivery._claim_route, ("limits=self._limits,", "limits={},")),
        rules={"more records than the rate allows"},
        within=60,
    ),
    _bug(
        "each worker has all calls",
        "What others have under way is not subtracted from a worker's share.",
        _edit(shares.share, ("max(min(fair, ask.cap - sum(int(held) for _, _, held in rows)), 0)", "ask.cap")),
        rules={"more calls at once than allowed"},
        within=200,
    ),
    _bug(
        "stopped call treated as unsent",
        "What a run had under way when it was stopped was not sent.",
        _edit(
            Run.report,
            ("isinstance(last.outcome, Unknown)", "(isinstance(last.outcome, Unknown) and last.outcome.code != INTERRUPTED)"),
        ),
        rules={"taken for unsent", "sent again while the first call was under way"},
        within=400,
    ),
    _bug(
        "parked record not in the books",
        "Parking moves a record, and the ledger is told of deliveries only.",
        _edit(settle.settle, ("parked=parked", "parked=0")),
        rules={"the books do not balance"},
        within=60,
    ),
    _bug(
        "pin ignored",
        "An operator's pin moves the group's first choice, and no record.",
        _edit(choice.choose, ("may if state.pin is None else", "may if True else")),
        rules={"sent past a pin"},
        within=400,
    ),
    _bug(
        "parked head holds nothing",
        "A parked record is stepped over, whatever the route's order is.",
        _edit(settlement._park, ("holds = rule.order is Order.BLOCK", "holds = False")),
        rules={"sent before its turn"},
        within=100,
    ),
    _bug(
        "retry without backoff",
        "What failed is due again at once.",
        _edit(retry.wait_s, (" * spread", " * 0.0")),
        rules={"a loop that waits for nothing", "tried again at once"},
        within=100,
    ),
    _bug(
        "outage never closed",
        "Held lanes are waited for too, so a parked head keeps an outage open.",
        _edit(systems._is_waiting, ("lane.state = 1", "lane.state in (1, 2)")),
        rules={"it never came to rest"},
        within=200,
    ),
    _bug(
        "voided where nobody else has it",
        "What is found at the first provider after a reroute is voided, whoever has it now.",
        _edit(reconcile._found, ("if doubt.other is not None:", "if True:")),
        rules={"called delivered and is nowhere"},
        within=400,
    ),
    _bug(
        "void at the provider that keeps it",
        "A void that is answered is believed to have hit the loser: any accepted attempt counts as another holder.",
        _edit(cases._standing, ("and kind <> 'void' and system <> :system", "and kind <> 'void'")),
        rules={"called delivered and is nowhere"},
        within=400,
    ),
    _bug(
        "rerouted without a case",
        "The record moves on, and what the first provider may have is forgotten.",
        _edit(leases._reroute, ("reconciliation.begin(", "(lambda *_: None)(")),
        rules={"moved while in doubt", "at two providers and nobody knows"},
        within=60,
    ),
)
