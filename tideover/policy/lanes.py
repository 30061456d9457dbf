"""Which of the incoming records change anything, and which place in its lane each gets.

Dedupe is against the newest content of the lane, not against everything ever seen: A, A is one record, but A, B, A is
three, as the second A undoes B.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tideover.model import NewRecord, content_hash, record_id


@dataclass(frozen=True, slots=True)
class LaneTail:
    """The end of a lane: when it was born, the last place given, and the content that stands there.

    `priority`: the most urgent of its waiting records; 0 while none waits.
    """

    born_us: int
    last_seq: int
    last_hash: bytes
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """A record with its place, and the id that follows from it."""

    lane: int
    seq: int
    id: str
    key: str
    payload: bytes


@dataclass(slots=True)
class Intake:
    """`tails` holds the new end of each lane that got records."""

    placed: list[Placed] = field(default_factory=list)
    tails: dict[int, LaneTail] = field(default_factory=dict)
    unchanged: int = 0


def place(records: Iterable[tuple[int, NewRecord]], tails: Mapping[int, LaneTail]) -> Intake:
    """Places for records, each with its lane, in the order in which they came."""
    intake = Intake()
    for lane, record in records:
        tail = intake.tails.get(lane) or tails[lane]
        content = content_hash(record.payload)
        if content == tail.last_hash:
            intake.unchanged += 1
            continue
        priority = min(tail.priority or record.priority, record.priority)
        tail = replace(tail, last_seq=tail.last_seq + 1, last_hash=content, priority=priority)
        intake.tails[lane] = tail
        identity = record_id(lane, tail.born_us, tail.last_seq, content)
        intake.placed.append(Placed(lane, tail.last_seq, identity, record.key, record.payload))
    return intake
