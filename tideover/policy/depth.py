"""How many records of one lane a lease covers. Pure, but for what `RunLength` remembers of the last calls.

A lane is sent one record after the other, and each claim and settlement costs some tens of milliseconds: where only a
few lanes wait, short runs make these the larger part of the time. Three things keep runs short:

* A full claim's number of records is shared by the lanes that there are, so a claim never covers more records than
  with many lanes. All that it covers is in doubt should its worker vanish.
* A run holds one of the system's calls until it is over, and more urgent records wait for that: so it should last no
  longer than `RUN_S` at the pace of the last calls. Asking what became of a run takes about as long.
* Where nobody can tell what became of a record in doubt, and it may not be sent twice, each one needs a person.
"""

from __future__ import annotations

MOST = 5_000  # records of one claim
DEPTH = 10  # records of a lane under one lease, where there is room for all lanes that wait
LONGEST = 100
RUN_S = 1.0
_MEMORY = 0.1  # the weight of the newest call in the average


class RunLength:
    """How long the runs at one system may be, by how long its calls take."""

    def __init__(self) -> None:
        self._call_s: float | None = None

    def note(self, took_s: float) -> None:
        """A call took so long."""
        before = took_s if self._call_s is None else self._call_s
        self._call_s = before + _MEMORY * (took_s - before)

    @property
    def longest(self) -> int:
        """How many records a run may have; `DEPTH` before the first call."""
        if self._call_s is None:
            return DEPTH
        return max(DEPTH, min(int(RUN_S / max(self._call_s, RUN_S / LONGEST)), LONGEST))


def depth_of(depth: int, longest: int, room: int, lanes: int) -> int:
    """How many records of each lane to lease, where `lanes` of them were found and there was room for `room`, with
    `depth` records each: more of each if they are fewer, but no more in all, and `longest` at most. Never more than
    `MOST` in all, but one of each."""
    lanes = max(lanes, 1)
    return max(min(max(depth, min(longest, room * depth // lanes)), MOST // lanes), 1)
