"""Which of the incoming records change anything, and which place in which lane each gets.

Dedupe is against the newest content of the key, not against everything ever seen: A, A is one record, but A, B, A is
three, as the second A undoes B.

Where order does not matter (`none`), each record gets a lane of its own. The key's lane then holds no record: it is a
*tail*, idle for ever, that keeps the newest content and counts. The n-th record's lane is n further on, so that what
belongs to a key is one range of lanes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from tideover.model import NewRecord, content_hash, record_id


class LaneTail(NamedTuple):
    """The end of a lane: when it was born, the last place given, and the content that stands there.

    `priority`: the most urgent of its waiting records; 0 while none waits. `done_seq`: the last place that is settled.
    `gives_way`: nobody can have sent from it, so that older versions may give way to the newest. `is_tail`: its records
    get lanes of their own. `is_new`: the lane is not there yet. `state`, `due_us`: as the database has them.
    """

    born_us: int
    last_seq: int
    last_hash: bytes
    priority: int = 0
    done_seq: int = 0
    gives_way: bool = False
    is_tail: bool = False
    is_new: bool = False
    state: int = 0
    due_us: int = 0


class Placed(NamedTuple):
    """A record with its place, and the id that follows from it. `has_own_lane`: no other record is in its lane."""

    lane: int
    seq: int
    id: str
    key: str
    payload: bytes
    priority: int
    has_own_lane: bool = False


@dataclass(slots=True)
class Intake:
    """`tails` holds the new end of each lane that got records. `superseded`: how many records gave way, and in which
    lanes."""

    placed: list[Placed] = field(default_factory=list)
    tails: dict[int, LaneTail] = field(default_factory=dict)
    unchanged: int = 0
    superseded: dict[int, int] = field(default_factory=dict)


def place(
    records: Iterable[tuple[int, NewRecord]], tails: Mapping[int, LaneTail], taken: Collection[int] = ()
) -> Intake:
    """Places for records, each with its key's lane, in the order in which they came. `taken`: lanes of other keys."""
    intake = Intake()
    for lane, record in records:
        tail = intake.tails.get(lane) or tails[lane]
        content = content_hash(record.payload)
        if content == tail.last_hash:
            intake.unchanged += 1
            continue
        if tail.is_tail:
            end = next(n for n in count(tail.last_seq + 1) if lane + n not in taken)
            own_lane, seq, done_seq = lane + end, 1, end
        else:
            end = tail.last_seq + 1
            own_lane, seq, done_seq = lane, end, tail.done_seq
        priority = min(tail.priority or record.priority, record.priority)
        intake.tails[lane] = LaneTail(
            tail.born_us, end, content, priority, done_seq, tail.gives_way, tail.is_tail, tail.is_new, tail.state,
            tail.due_us,
        )  # fmt: skip
        identity = record_id(own_lane, tail.born_us, seq, content)
        intake.placed.append(Placed(own_lane, seq, identity, record.key, record.payload, record.priority, tail.is_tail))
    _give_way(intake)
    return intake


def _give_way(intake: Intake) -> None:
    """The newest keeps the urgency of those that it stands for."""
    for lane, tail in intake.tails.items():
        older = tail.last_seq - 1 - tail.done_seq
        if tail.gives_way and older > 0:
            intake.superseded[lane] = older
            intake.tails[lane] = tail._replace(done_seq=tail.last_seq - 1)
