"""How many calls may be under way at one system: as many as its settings allow, unless it shows that it is too many.

    restored ──▶ slow start: twice as many with each round of calls, up to the threshold or the first overload
                      │
    overload ──▶ half as many, at most once per round; that is the threshold now
                      │
    calm     ──▶ one more with each round of calls, up to the ceiling

Additive increase and multiplicative decrease lets workers that know nothing of each other share a system fairly (Chiu
and Jain 1989); slow start, the threshold and the one decrease per round are those of TCP (RFC 5681), and so is that a
window which nobody fills does not grow (RFC 7661). Latency is a hint only, as in Netflix's concurrency-limits:
a system that takes several times as long as it used to, while more calls bring no more records, gets somewhat fewer.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from tideover.model import HUNG, LookUp, Outcome, Throttled, Unknown, Unsent

START = 2  # calls under way after a restoration
_BACK_OFF = 0.5
_BAD = (Throttled, Unsent, Unknown)
_OVERLOADED = frozenset({"refused", "connect_timeout", HUNG, "reset", "server_error"})

# Latency. A hint must be strong, and last, before it counts: a busy machine jitters by tens of milliseconds.
_SLOWER, _CALM = 3.0, 2.0  # times the long-term latency: from here on it is overload, until it is below this again
_SLOWER_BY_S = 0.05
_LASTING = 3  # rounds
_MORE = 1.1  # times the records per second: then more calls are worth their wait
_EASE = 0.9
_AT_LEAST = 0.25  # of the ceiling: latency alone takes no more than the rest
_FORGETS = 0.05  # the share of a round in the long-term averages: what lasts for some twenty rounds is normal
_ROUND_CALLS = 8
_OTHER_SIZE = 2.0  # calls that carry so many times more or fewer records are others: their latency says nothing


class Sign(enum.Enum):
    """What a call says about how much its system can take."""

    WELL = "well"
    OVERLOAD = "overload"
    NOTHING = "nothing"  # its failure has other reasons


def sign_of(outcomes: Sequence[Outcome | LookUp]) -> Sign:
    """What one call's outcomes, one for each record that it carried, say together. In bulk, one record that was
    throttled says it of the call; a failure does only if no record went well, as a batch may hold a few odd ones."""
    bad = [outcome for outcome in outcomes if isinstance(outcome, _BAD)]
    if not bad:
        return Sign.WELL
    if any(isinstance(outcome, Throttled) for outcome in bad):
        return Sign.OVERLOAD
    if len(bad) < len(outcomes):
        return Sign.WELL
    is_overload = any(outcome.code in _OVERLOADED for outcome in bad if not isinstance(outcome, Throttled))
    return Sign.OVERLOAD if is_overload else Sign.NOTHING


class Adaptive:
    """The window of one worker at one system; changed in place, as it is asked at every call. It has no clock: instants
    are seconds of any monotonic one.

    It begins at `most`, or small where the system is just back (`is_restored`).
    """

    def __init__(self, most: int, *, is_restored: bool = False) -> None:
        self._most, self._ceiling = most, most
        self._window = self._threshold = float(most)
        self.allowed = most  # how many calls may be under way: at least 1, unless the ceiling is 0
        self._decreased_at = float("-inf")
        self._has_worked = False  # since the last decrease, a call went well: it was too much, and no outage
        self._latency = Latency()
        if is_restored:
            self.restart()

    def _set(self, window: float) -> None:
        self._window = window
        self.allowed = min(max(int(window), 1), self._ceiling)

    def cap(self, ceiling: int) -> None:
        """Allow so many at most from now on; 0: none. What goes beyond the settings' own limit counts for nothing."""
        self._ceiling = max(min(ceiling, self._most), 0)
        self._set(self._window)

    def restart(self) -> None:
        """The system is back from an outage or a pause: begin small. Where a part of the calls had gone well, it was
        their number that broke it, so the doubling ends at half of that; else it ends at the ceiling."""
        self._threshold = min(self._threshold, self._window) if self._has_worked else float(self._most)
        self._threshold = max(self._threshold, 1.0)
        self._set(float(min(START, self._most)))
        self._latency.begin()

    def note(self, sign: Sign, *, began: float, ended: float, records: int, under_way: int) -> None:
        """A call has ended. `records`: how many it carried; 0 where its latency is not to be compared with that of the
        others. `under_way`: how many calls were, this one among them."""
        is_of_this_round = began >= self._decreased_at
        if sign is Sign.OVERLOAD:
            if is_of_this_round:
                self._decrease(max(min(self._window, under_way) * _BACK_OFF, 1.0), ended)
                self._has_worked = False
            return
        if sign is Sign.NOTHING:
            return
        self._has_worked = True
        is_full = 2 * under_way >= self.allowed
        if is_of_this_round and is_full:
            if records and self._latency.is_strained(began, ended, records):
                self._ease(ended)
            else:
                self._increase()

    def _increase(self) -> None:
        if self._latency.holds or self._window >= self._ceiling:
            return
        step = 1.0 if self._window < self._threshold else 1.0 / self._window
        self._set(min(self._window + step, float(self._ceiling)))

    def _ease(self, now: float) -> None:
        least = max(self._ceiling * _AT_LEAST, float(START))
        if self._window * _EASE >= least:
            self._decrease(self._window * _EASE, now)

    def _decrease(self, window: float, now: float) -> None:
        self._threshold = window
        self._set(window)
        self._decreased_at = now


class Latency:
    """Compares each round's latency with the usual one. A round is over once a call that began in it has ended."""

    def __init__(self) -> None:
        self._long_s = self._long_rate = self._long_size = 0.0  # 0: none yet
        self._slow_rounds = 0
        self.begin()

    @property
    def holds(self) -> bool:
        """True while it is slower than usual, and may be strained: no time to ask for more."""
        return self._slow_rounds > 0

    def begin(self) -> None:
        """Forget the round that is under way."""
        self._since: float | None = None
        self._calls = self._records = 0
        self._sum_s = 0.0

    def is_strained(self, began: float, ended: float, records: int) -> bool:
        """Count a call that went well while the window was full. True at the end of a round that shows strain."""
        if self._since is None:
            self._since = began
        self._calls += 1
        self._records += records
        self._sum_s += ended - began
        if began < self._since or self._calls < _ROUND_CALLS or ended <= self._since:
            return False
        mean_s, size = self._sum_s / self._calls, self._records / self._calls
        rate = self._records / (ended - self._since)
        self.begin()
        self._since = ended
        return self._judge(mean_s, rate, size)

    def _judge(self, mean_s: float, rate: float, size: float) -> bool:
        is_other = not self._long_size / _OTHER_SIZE <= size <= self._long_size * _OTHER_SIZE
        if is_other:
            self._long_s, self._long_rate, self._long_size, self._slow_rounds = mean_s, rate, size, 0
            return False
        bound = _CALM if self._slow_rounds else _SLOWER
        is_slow = mean_s > bound * self._long_s and mean_s > self._long_s + _SLOWER_BY_S
        is_slow = is_slow and rate <= _MORE * self._long_rate
        self._slow_rounds = self._slow_rounds + 1 if is_slow else 0
        self._long_s = min(mean_s, self._long_s + _FORGETS * (mean_s - self._long_s))
        self._long_rate += _FORGETS * (rate - self._long_rate)
        self._long_size += _FORGETS * (size - self._long_size)
        return self._slow_rounds >= _LASTING
