"""What a desk is asked, and what it may answer: of each lane that a claim found, whether a system gets it now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tideover.errors import MissingKey
from tideover.model import SECOND_US, LeasedRecord
from tideover.staging.database import Transaction

RECHECK_MAX_S = 60.0  # the longest that a lane which nobody can have is not looked at


@dataclass(slots=True)
class Head:
    """A lane that a claim found, and the records that may be leased with it."""

    id: int
    token: int
    last_seq: int
    done_seq: int
    in_doubt: int
    doubted_us: int
    attempts: int
    lease_until_us: int
    due_us: int
    system: str
    avoid: str
    priority: int
    run: int = 0  # how many of its records may be leased
    large_bytes: int = 0  # what those of them weigh that are not small
    records: list[LeasedRecord] = field(default_factory=list)
    missing_key: MissingKey | None = None  # what a record needs that can't be leased, so that none from it on can


class Take(NamedTuple):
    """The lane goes to a system, with so many of its records. `from_system`: what may be there is sent elsewhere.
    `counted`: how many records were taken from the system's limits for it."""

    head: Head
    system: str
    depth: int
    counted: int = 0
    is_backup: bool = False
    is_canary: bool = False
    from_system: str = ""


@dataclass(frozen=True, slots=True)
class Defer:
    """Nobody can have the lane before an instant."""

    head: Head
    until_us: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Its provider has no room for it now."""


Decision = Take | Defer | Skip


class Desk(Protocol):
    """Decides lane by lane; what it gives away is no longer there for the next."""

    @property
    def ready(self) -> Sequence[str]:
        """The systems whose lanes in doubt may be claimed."""
        ...

    @property
    def room(self) -> int:
        """How many more lanes can be given away."""
        ...

    @property
    def live_since_us(self) -> int | None:
        """Lanes that became due after it are live traffic and go before the backlog; None while there is none."""
        ...

    @property
    def has_room_for_backlog(self) -> bool:
        """Whether a lane that is no live traffic could be given away."""
        ...

    def set_aside(self, is_on: bool) -> None:
        """Keep the backlog's share back while live traffic is looked for."""
        ...

    def prepare(self, tx: Transaction, heads: Sequence[Head]) -> None:
        """Look up what the decisions on these lanes need."""
        ...

    def decide(self, head: Head) -> Decision: ...

    def close(self, tx: Transaction) -> None:
        """Write what the decisions used up."""
        ...


def put_off(head: Head, now_us: int) -> Defer:
    """Of a lane whose head can't be had: its key is missing, or it is gone, as the audit says."""
    return Defer(head, now_us + int(RECHECK_MAX_S * SECOND_US))
