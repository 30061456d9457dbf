"""How fast something goes."""

from __future__ import annotations

import math

_PACE_S = 1.0


class Pace:
    """An average over about the last second that forgets what is older."""

    def __init__(self) -> None:
        self._rate, self._at = 0.0, 0.0

    def add(self, count: int, now: float) -> None:
        self._rate = self.per_s(now) + count / _PACE_S
        self._at = now

    def per_s(self, now: float) -> float:
        return self._rate * math.exp(-(now - self._at) / _PACE_S)
