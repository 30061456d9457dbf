"""How many records a rate limit lets through, shared by all workers: the generic cell rate algorithm.

Of a limit of N per window, a burst of b = max(1, N/25) goes at once and the rest evenly, at (N - b + 1) per window: so
no window of that length, wherever it begins, ever holds more than N. (GCRA: ITU-T I.371, appendix; a leaky bucket as
one instant.)
"""

from __future__ import annotations

from dataclasses import dataclass

from tideover.model import SECOND_US

_BURST_SHARE = 25


@dataclass(frozen=True, slots=True)
class RateRule:
    calls: int
    window_s: float

    @property
    def burst(self) -> int:
        return max(1, self.calls // _BURST_SHARE)

    @property
    def slots(self) -> int:
        """Once the burst is used, one record may go every `window / slots`."""
        return self.calls - self.burst + 1

    @property
    def window_us(self) -> int:
        return round(self.window_s * SECOND_US)


# In whole numbers, and rounded to the later instant: what is rounded away would add up to one record too many.


def permits(rule: RateRule, unused_us: int, now_us: int) -> int:
    """How many records may go now. `unused_us`: when the whole burst is free again."""
    debt_us = max(unused_us - now_us, 0)
    return max(0, (rule.burst * rule.window_us - debt_us * rule.slots) // rule.window_us)


def spent(rule: RateRule, unused_us: int, now_us: int, records: int) -> int:
    """`unused_us` after so many records."""
    return max(unused_us, now_us) - (-records * rule.window_us // rule.slots)


def wait_us(rule: RateRule, unused_us: int, now_us: int) -> int:
    """How long until the next record may go; 0 when one may go now."""
    debt_us = max(unused_us - now_us, 0)
    return max(0, debt_us - (rule.burst - 1) * rule.window_us // rule.slots)
