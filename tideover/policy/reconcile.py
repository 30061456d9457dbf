"""What becomes of a record that may be at one provider and was sent to another, once the first one can be asked.

| the look-up says | somebody else has it | where its lane is | then |
| --- | --- | --- | --- |
| (there is no look-up) | any | any | raise |
| found | yes | any | void it; raise where the provider has no void |
| found | no | free: its head, nobody sends it; or parked | adopt |
| found | no | busy: leased, in doubt, behind others | later |
| found | no | gone: released, corrected, superseded | raise |
| missing, after a void began | any | any | voided |
| missing for the first time, or too soon | any | any | later, after `settle_s` at least |
| missing again, past `settle_s` | any | any | absent |
| throttled, unsent, unknown | any | any | later |

| the void says | then |
| --- | --- |
| accepted | voided |
| rejected | raise |
| throttled, unsent, unknown | later: the next look-up tells whether it worked |

One miss is not enough even past `settle_s`: whoever has just come back may answer from a copy that lags behind. A
provider's record is voided only while another one is known to have it, so that at least one of the two is left.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tideover.model import REFUSED, Accepted, Found, LookUp, Missing, Outcome, Rejected, Throttled, Unknown, Unsent

MISSES = 2
REFUSALS = 8  # attempts, over four minutes, before a system that refuses the question is believed to mean it
_FIRST_DELAY_S = 1.0
_MAX_DELAY_S = 300.0


class State(enum.StrEnum):
    """Where a case stands. It is asked about in the first two; the last four are closed."""

    OPEN = "open"
    VOIDING = "voiding"  # it was found there, and a void may have been sent
    RAISED = "raised"  # a person has to settle it
    ABSENT = "absent"
    VOIDED = "voided"
    ADOPTED = "adopted"
    SETTLED = "settled"  # by a person


class Place(enum.Enum):
    """Where the record stands in the hub while no other provider is known to have it."""

    FREE = "free"  # it may be counted as delivered now
    BUSY = "busy"  # somebody may be sending it, or others come first
    GONE = "gone"  # the hub no longer wants to deliver it


@dataclass(frozen=True, slots=True)
class Holder:
    """A provider that is known to have the record, and its reference, if it gave one."""

    system: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """What the provider lets us do. `why_not`: why it can't be asked, for people, where that is not its description's
    fault; `settle_s`: when a miss may be believed."""

    can_ask: bool
    can_void: bool
    settle_s: float
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Doubt:
    """One case as it stands. `age_s`: how old the doubt was when the look-up began; `attempts`, `misses`: before it."""

    system: str
    age_s: float
    place: Place
    other: Holder | None = None
    misses: int = 0
    attempts: int = 0
    void_began: bool = False


@dataclass(frozen=True, slots=True)
class Absent:
    """It never got there: closed."""


@dataclass(frozen=True, slots=True)
class Voided:
    """It was there and no longer is: closed."""


@dataclass(frozen=True, slots=True)
class Later:
    """Ask again in `delay_s` seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class VoidIt:
    """Undo it at the provider, under the provider's own reference."""

    reference: str | None


@dataclass(frozen=True, slots=True)
class Adopt:
    """The provider has it and nobody else does: it is delivered, and closed."""

    reference: str | None


@dataclass(frozen=True, slots=True)
class Raise:
    """A person has to settle it; it is not asked about again."""

    detail: str


Verdict = Absent | Voided | Later | VoidIt | Adopt | Raise


def judge(answer: LookUp | None, doubt: Doubt, means: Means) -> Verdict:
    """What follows from a look-up; `answer` is None where there could be none."""
    if answer is None or not means.can_ask:
        return Raise(means.why_not or f"{doubt.system} can't be asked whether it has the record")
    match answer:
        case Found(reference=reference):
            return _found(reference, doubt, means)
        case Missing():
            return _missing(doubt, means)
        case Throttled(delay_s=delay_s):
            return Later(max(delay_s, backoff_s(doubt.attempts)))
        case Unknown(code=code, detail=detail) if code == REFUSED and doubt.attempts + 1 >= REFUSALS:
            return Raise(f"{doubt.system} refuses to say whether it has the record: {detail or code}")
    return Later(backoff_s(doubt.attempts))


def _found(reference: str | None, doubt: Doubt, means: Means) -> Verdict:
    if doubt.other is not None:
        if means.can_void:
            return VoidIt(reference)
        return Raise(f"{both(doubt.system, reference, doubt.other)}; {doubt.system} has no void")
    match doubt.place:
        case Place.FREE:
            return Adopt(reference)
        case Place.BUSY:
            return Later(backoff_s(doubt.attempts))
    had = named(doubt.system, reference)
    return Raise(f"{had} has it, but the hub gave the record up: released, corrected or superseded")


def _missing(doubt: Doubt, means: Means) -> Verdict:
    if doubt.void_began:
        return Voided()
    if doubt.misses + 1 >= MISSES and doubt.age_s >= means.settle_s:
        return Absent()
    return Later(max(means.settle_s, backoff_s(doubt.attempts)))


def judge_void(outcome: Outcome, doubt: Doubt, reference: str | None) -> Voided | Later | Raise:
    """What follows from a void."""
    match outcome:
        case Accepted():
            return Voided()
        case Rejected(code=code, detail=detail):
            reason = f"{code}: {detail}" if detail else code
            had = both(doubt.system, reference, doubt.other) if doubt.other else named(doubt.system, reference)
            return Raise(f"{had}; {doubt.system} refuses to undo it: {reason}")
        case Throttled(delay_s=delay_s):
            return Later(max(delay_s, backoff_s(doubt.attempts)))
    return Later(backoff_s(doubt.attempts))


def may_have_voided(outcome: Outcome) -> bool:
    """False where the void certainly did nothing."""
    return not isinstance(outcome, Throttled | Unsent)


def backoff_s(attempts: int) -> float:
    """How long to wait after so many earlier attempts: 1 s, doubled by each, up to 5 min."""
    return min(_MAX_DELAY_S, _FIRST_DELAY_S * float(2 ** min(attempts, 30)))


def both(system: str, reference: str | None, other: Holder) -> str:
    """Who has it under which reference, in words."""
    return f"{named(system, reference)} and {named(other.system, other.reference)} both have it"


def named(system: str, reference: str | None) -> str:
    return f"{system} ({reference or 'no reference'})"
