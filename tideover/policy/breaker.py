"""The circuit breaker of one system, as a table from (state, event) to (state, actions).

              failures in a row, a hung call,
              a refused credential, a storm of
    CLOSED ── identical rejections ───────────────▶ OPEN
       ▲                                             │ `retry_us` reached: one prober in the whole cluster
       │  `successes` good probes                    ▼
       └───────────────────────────────────────── HALF_OPEN ── a bad probe ──▶ OPEN, for twice as long
                                                        └───── throttled ────▶ OPEN, for as long as it asked

Consecutive failures, not a failure rate: a window of 100 calls never trips for a carrier that gets 20 calls an hour.
One bad record does not open it: unknown outcomes, rejections and whatever else the system answers count once per lane.
An operator can force it open or closed; a forced breaker ignores everything but the operator.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tideover.model import (
    BATCH_REJECTED,
    CREDENTIALS,
    HUNG,
    INTERRUPTED,
    REDIRECTED,
    SECOND_US,
    Accepted,
    Outcome,
    Rejected,
    Throttled,
    Unknown,
    Unsent,
)


class State(enum.StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Reason(enum.StrEnum):
    """Why a breaker is open."""

    UNREACHABLE = "unreachable"
    FAILING = "failing"
    HUNG = "hung"
    CREDENTIALS = "credentials"
    CONTRACT = "contract"
    OPERATOR = "operator"


# Why a breaker is open by a call that reached its system; any other code: it is failing. A system that redirects
# does so to records only, maybe, while its probe is well: then only a record can tell that it has been mended.
_CALLED = {HUNG: Reason.HUNG, REDIRECTED: Reason.CONTRACT}
_NO_WORD = (INTERRUPTED, BATCH_REJECTED)  # codes of what the system had no part in


@dataclass(frozen=True, slots=True)
class BreakerRule:
    failures: int = 5
    rejections: int = 5
    open_for_s: float = 5.0
    max_open_s: float = 300.0
    successes: int = 2


@dataclass(frozen=True, slots=True)
class Breaker:
    """What the database holds of one system's breaker.

    `failing` and `rejecting` are the lanes of the current streak; `rejected_code` is what that streak has in common
    (`route|code`). `opens` counts openings without a lasting recovery between them and sets how long it stays open.
    """

    state: State = State.CLOSED
    reason: str = ""
    detail: str = ""
    is_forced: bool = False
    failing: tuple[int, ...] = ()
    rejecting: tuple[int, ...] = ()
    rejected_code: str = ""
    first_failure_us: int = 0
    streak_us: int = 0
    opens: int = 0
    successes: int = 0
    opened_us: int = 0
    retry_us: int = 0
    closed_us: int = 0

    @property
    def is_clean(self) -> bool:
        """True where a success has nothing to change."""
        return self.state is State.CLOSED and not self.failing and not self.rejecting


@dataclass(frozen=True, slots=True)
class Result:
    """A send ended. `is_probe`: it was the half-open prober's."""

    route: str
    lane: int
    outcome: Outcome
    is_probe: bool = False


@dataclass(frozen=True, slots=True)
class ProbeBegan:
    """A prober took the half-open slot."""


@dataclass(frozen=True, slots=True)
class Forced:
    """An operator decides: `open`, `closed`, or `auto` to hand it back."""

    to: str
    why: str


Event = Result | ProbeBegan | Forced


class Action(enum.Enum):
    """What the caller must do in the same transaction."""

    OPENED = "opened"  # begin an outage, announce `tideover.system.down`
    CLOSED = "closed"  # end the outage's downtime, announce `tideover.system.restored`


def step(
    breaker: Breaker, event: Event, now_us: int, rule: BreakerRule, spread: float
) -> tuple[Breaker, Sequence[Action]]:
    """The breaker after an event, and what follows. `spread` is a random number in [0, 1)."""
    match event:
        case Forced():
            return _force(breaker, event, now_us)
        case ProbeBegan():
            can_probe = breaker.state is not State.CLOSED and not breaker.is_forced
            return (replace(breaker, state=State.HALF_OPEN) if can_probe else breaker), ()
        case Result() if breaker.is_forced:
            return breaker, ()
        case Result(outcome=Unknown(code=code) | Unsent(code=code)) if code in _NO_WORD:
            return breaker, ()
        case Result(is_probe=True) if breaker.state is State.HALF_OPEN:
            return _probed(breaker, event, now_us, rule, spread)
        case Result() if breaker.state is State.CLOSED:
            return _counted(breaker, event, now_us, rule, spread)
    return breaker, ()  # a straggler that was sent before it opened


def may_probe(breaker: Breaker, now_us: int) -> bool:
    """Whether the half-open slot may be taken now. The slot itself is a lease on the row."""
    return breaker.state is not State.CLOSED and not breaker.is_forced and now_us >= breaker.retry_us


def _counted(
    breaker: Breaker, result: Result, now_us: int, rule: BreakerRule, spread: float
) -> tuple[Breaker, Sequence[Action]]:
    match result.outcome:
        case Accepted():
            cleared = breaker if breaker.is_clean else replace(breaker, failing=(), rejecting=(), rejected_code="")
            return cleared, ()
        case Throttled():
            return breaker, ()
        case Rejected(code=code, detail=detail):
            return _rejected(breaker, result, code, detail, now_us, rule, spread)
        case Unsent(code=code, detail=detail, is_answer=False):
            counted = (*breaker.failing, result.lane)  # never the record's fault, so each one counts
            reason = _reason(result.outcome)
        case Unsent(code=code, detail=detail) | Unknown(code=code, detail=detail):
            counted = breaker.failing if result.lane in breaker.failing else (*breaker.failing, result.lane)
            reason = _reason(result.outcome)
    first = breaker.first_failure_us if breaker.failing else now_us
    breaker = replace(breaker, failing=counted, first_failure_us=first)
    if len(counted) >= rule.failures or reason in (Reason.CREDENTIALS, Reason.HUNG):
        if reason is Reason.CONTRACT:  # by no rejection: none belongs to it
            breaker = replace(breaker, rejecting=(), rejected_code="")
        return _open(breaker, reason, _join(code, detail), now_us, rule, spread), (Action.OPENED,)
    return breaker, ()


def _rejected(
    breaker: Breaker, result: Result, code: str, detail: str, now_us: int, rule: BreakerRule, spread: float
) -> tuple[Breaker, Sequence[Action]]:
    """A rejection proves that the system answers; many alike, of different records, that its contract changed."""
    signature = f"{result.route}|{code}"
    if signature != breaker.rejected_code or not breaker.rejecting:
        lanes: tuple[int, ...] = (result.lane,)
        streak_us = now_us
    else:
        seen = result.lane in breaker.rejecting
        lanes = breaker.rejecting if seen else (*breaker.rejecting, result.lane)
        streak_us = breaker.streak_us
    breaker = replace(breaker, failing=(), rejecting=lanes, rejected_code=signature, streak_us=streak_us)
    if len(lanes) < rule.rejections:
        return breaker, ()
    breaker = replace(breaker, first_failure_us=streak_us)
    opened = _open(breaker, Reason.CONTRACT, _join(code, detail), now_us, rule, spread)
    return opened, (Action.OPENED,)


def _probed(
    breaker: Breaker, result: Result, now_us: int, rule: BreakerRule, spread: float
) -> tuple[Breaker, Sequence[Action]]:
    match result.outcome:
        case Throttled(delay_s=delay_s):
            # It answers, but serves nobody yet: neither good nor bad. It says itself when to ask again.
            return replace(breaker, state=State.OPEN, retry_us=now_us + int(delay_s * SECOND_US)), ()
        case Accepted():
            is_good = True
        case Rejected(code=code):
            # Of a breaker that opened for its contract, the same rejection again is the very fault.
            is_good = breaker.reason != Reason.CONTRACT or f"{result.route}|{code}" != breaker.rejected_code
        case Unsent() | Unknown():
            is_good = False
    if not is_good:
        return _reopen(breaker, result.outcome, now_us, rule, spread), ()
    successes = breaker.successes + 1
    if successes < rule.successes:
        return replace(breaker, successes=successes), ()
    return _close(breaker, now_us), (Action.CLOSED,)


def _reason(outcome: Unsent | Unknown) -> Reason:
    if outcome.code == CREDENTIALS:
        return Reason.CREDENTIALS
    if isinstance(outcome, Unsent):
        is_moved = outcome.is_answer and outcome.code == REDIRECTED
        answered = Reason.CONTRACT if is_moved else Reason.FAILING
        return answered if outcome.is_answer else Reason.UNREACHABLE
    return _CALLED.get(outcome.code, Reason.FAILING)


def _open(breaker: Breaker, reason: Reason, detail: str, now_us: int, rule: BreakerRule, spread: float) -> Breaker:
    """A relapse soon after closing counts on; hysteresis against flapping."""
    lasting_us = int(2 * rule.max_open_s * SECOND_US)
    is_relapse = breaker.opens > 0 and now_us - breaker.closed_us < lasting_us
    opens = breaker.opens + 1 if is_relapse else 1
    return replace(
        breaker,
        state=State.OPEN,
        reason=reason.value,
        detail=detail,
        opens=opens,
        successes=0,
        opened_us=now_us,
        retry_us=now_us + _open_us(opens, rule, spread),
    )


def _reopen(breaker: Breaker, outcome: Outcome, now_us: int, rule: BreakerRule, spread: float) -> Breaker:
    reason, detail = breaker.reason, breaker.detail
    if isinstance(outcome, Unsent | Unknown):
        reason, detail = _reason(outcome).value, _join(outcome.code, outcome.detail)
    if breaker.reason == Reason.CONTRACT and reason != Reason.CONTRACT:
        reason = Reason.CONTRACT.value  # until the contract fits again, only a real record may close it
    opens = breaker.opens + 1
    retry_us = now_us + _open_us(opens, rule, spread)
    return replace(breaker, state=State.OPEN, reason=reason, detail=detail, opens=opens, successes=0, retry_us=retry_us)


def _close(breaker: Breaker, now_us: int) -> Breaker:
    return replace(
        breaker,
        state=State.CLOSED,
        reason="",
        detail="",
        failing=(),
        rejecting=(),
        rejected_code="",
        successes=0,
        closed_us=now_us,
    )


def _force(breaker: Breaker, event: Forced, now_us: int) -> tuple[Breaker, Sequence[Action]]:
    was_open = breaker.state is not State.CLOSED
    if event.to == "open":
        opened = replace(
            breaker,
            state=State.OPEN,
            is_forced=True,
            reason=Reason.OPERATOR.value,
            detail=event.why,
            opened_us=breaker.opened_us if was_open else now_us,
            first_failure_us=breaker.first_failure_us if was_open else now_us,
        )
        return opened, () if was_open else (Action.OPENED,)
    closed = replace(_close(breaker, now_us), is_forced=event.to == "closed", detail=event.why)
    return closed, (Action.CLOSED,) if was_open else ()


def _open_us(opens: int, rule: BreakerRule, spread: float) -> int:
    """`open_for`, doubled with each relapse up to `max_open`, less up to a fifth so that hubs don't march in step."""
    longest = min(rule.max_open_s, rule.open_for_s * float(2 ** min(opens - 1, 30)))
    return int(longest * (0.8 + 0.2 * spread) * SECOND_US)


def _join(code: str, detail: str) -> str:
    return f"{code}: {detail}" if detail else code
