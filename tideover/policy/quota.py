"""How many records a system's limits let through, shared by all workers. Pure: the caller says what time it is.

A **rate** is N per window of any length. An eighth of N may go at once after a rest, and the rest evenly: the generic
cell rate algorithm (GCRA: ITU-T I.371, appendix; a leaky bucket as one instant). Besides, what went is counted in
hundredths of the window, each of which counts in full until all of it is past: so no window of that length, wherever
it begins, ever holds more than N.

What is let go evenly does not arrive evenly. So both reckon with a window that is 3 % longer, and in the long run 96 %
of N go. Of a window that is so short that a call's own time is more than these 3 %, only a 40th of N goes at once: what
goes in a burst comes round again in each window, and a refusal costs more than what is lost when somebody asks late.

A **budget** is N per day or month of a provider's calendar: a counter that begins anew at the reset. A part of it is
kept for live traffic, less and less as the reset comes near: a backlog can't use all of a day in its morning, and
nothing is left over in the evening.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from tideover.model import SECOND_US, instant

LIVE_S = 60.0  # while a limit is short: what became due no longer ago than this is live, the rest is backlog
BACKLOG_SHARE = 0.2  # of what can be sent, so much goes to a backlog while live traffic could use all of it
LONGEST_GUESS_S = 900.0  # a pause that nobody measured out does not grow beyond it
_BURST_SHARE, _SHORT_BURST_SHARE = 8, 40
_SHORT_WINDOW_S = 10.0
_PARTS = 100  # of a window


@dataclass(frozen=True, slots=True)
class RateRule:
    """So many records in a window, wherever it begins."""

    calls: int
    window_s: float

    @property
    def name(self) -> str:
        """What its use is stored under; another rate begins unused."""
        return f"rate {self.calls}/{self.window_s:g}s"

    @property
    def burst(self) -> int:
        """How many may go at once after a rest."""
        return max(1, self.calls // (_SHORT_BURST_SHARE if self.window_s < _SHORT_WINDOW_S else _BURST_SHARE))

    @property
    def window_us(self) -> int:
        return round(self.window_s * SECOND_US)

    @property
    def span_us(self) -> int:
        """The window that is reckoned with."""
        return self.window_us * 103 // 100

    @property
    def part_us(self) -> int:
        """What goes within so long is counted together."""
        return max(self.window_us // _PARTS, 1)


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """So many records from one reset to the next, which is at `resets` of each day, or of each month's first day.

    `reserve`: the share, 0 to 1, that is kept for live traffic at the beginning.
    """

    records: int
    per: Literal["day", "month"] = "day"
    resets: time = time(0)
    timezone: str = "UTC"
    reserve: float = 0.0

    @property
    def name(self) -> str:
        """What its use is stored under; one with another reset begins unused."""
        return f"quota {self.per} {self.resets:%H:%M} {self.timezone}"

    @property
    def length_us(self) -> int:
        """About how long it is from one reset to the next."""
        return (31 if self.per == "month" else 1) * 86_400 * SECOND_US

    def next_reset_us(self, now_us: int) -> int:
        """The first reset after an instant."""
        day = instant(now_us).astimezone(ZoneInfo(self.timezone)).date()
        first = day.replace(day=1) if self.per == "month" else day
        while (found := self._reset_us(first)) <= now_us:
            first = _next_month(first) if self.per == "month" else first + timedelta(days=1)
        return found

    def _reset_us(self, day: date) -> int:
        at = datetime.combine(day, self.resets, ZoneInfo(self.timezone)).astimezone(UTC)
        return round(at.timestamp()) * SECOND_US


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


@dataclass(frozen=True, slots=True)
class LimitRule:
    """What a system's limits allow: all of them must permit a record."""

    rates: tuple[RateRule, ...] = ()
    budget: BudgetRule | None = None

    @property
    def names(self) -> list[str]:
        """What the limits' uses are stored under."""
        return [*(rate.name for rate in self.rates), *([self.budget.name] if self.budget is not None else [])]


@dataclass(frozen=True, slots=True)
class Use:
    """How much of one limit is used. Of a rate: `until_us` is when its whole burst is free again, and `parts` counts
    what went, by the number of the part. Of a budget: `used` records since the last reset, and the next one is at
    `until_us`."""

    used: int = 0
    until_us: int = 0
    parts: tuple[tuple[int, int], ...] = ()


UNUSED = Use()


# In whole numbers, and rounded to the later instant: what is rounded away would add up to one record too many.


def permits(rule: RateRule, use: Use, now_us: int) -> int:
    """How many records may go now."""
    debt_us = max(use.until_us - now_us, 0)
    by_pace = (rule.burst * rule.span_us - debt_us * rule.calls) // rule.span_us
    return max(0, min(by_pace, rule.calls - sum(count for _, count in _in_window(rule, use, now_us))))


def _in_window(rule: RateRule, use: Use, now_us: int) -> list[tuple[int, int]]:
    """The parts of which something may be in a window that ends now."""
    oldest = (now_us - rule.span_us + 1) // rule.part_us
    return [(part, count) for part, count in use.parts if part >= oldest]


def spent(rule: RateRule, use: Use, now_us: int, records: int) -> Use:
    """The use after so many records."""
    parts = dict(_in_window(rule, use, now_us))
    part = now_us // rule.part_us
    parts[part] = parts.get(part, 0) + records
    until_us = max(use.until_us, now_us) - (-records * rule.span_us // rule.calls)
    return Use(0, until_us, tuple(sorted(parts.items())))


def wait_us(rule: RateRule, use: Use, now_us: int) -> int:
    """How long until the next record may go; 0 when one may go now."""
    debt_us = max(use.until_us - now_us, 0)
    by_pace_us = max(0, debt_us - (rule.burst - 1) * rule.span_us // rule.calls)
    over = sum(count for _, count in _in_window(rule, use, now_us)) - rule.calls
    for part, count in _in_window(rule, use, now_us) if over >= 0 else ():
        over -= count
        if over < 0:
            return max(by_pace_us, (part + 1) * rule.part_us + rule.span_us - 1 - now_us)
    return by_pace_us


def current(rule: BudgetRule, use: Use, now_us: int) -> Use:
    """A budget's use as it is now: its reset may have come."""
    return use if use.until_us > now_us else Use(0, rule.next_reset_us(now_us))


def left(rule: LimitRule, uses: Mapping[str, Use], now_us: int, *, is_live: bool = True) -> int | None:
    """How many records may go now; None where nothing limits them. `is_live`: they are no backlog, so that they may
    have what is kept for live traffic too."""
    found = [permits(rate, uses.get(rate.name, UNUSED), now_us) for rate in rule.rates]
    if (budget := rule.budget) is not None:
        use = current(budget, uses.get(budget.name, UNUSED), now_us)
        kept = 0 if is_live else _kept(budget, use, now_us)
        found.append(max(budget.records - kept - use.used, 0))
    return min(found, default=None)


def _kept(rule: BudgetRule, use: Use, now_us: int) -> int:
    """How many records are kept for live traffic now."""
    part = min((use.until_us - now_us) / rule.length_us, 1.0)
    return int(rule.records * rule.reserve * part)


def after(rule: LimitRule, uses: Mapping[str, Use], now_us: int, records: int) -> dict[str, Use]:
    """The uses after so many records. Fewer than 0 were not sent after all: a budget gets them back. A rate does not:
    what it would have let through meanwhile can't be told any more, and in a moment it makes no difference."""
    changed = dict(uses)
    if records > 0:
        for rate in rule.rates:
            changed[rate.name] = spent(rate, uses.get(rate.name, UNUSED), now_us, records)
    if (budget := rule.budget) is not None and records:
        use = current(budget, uses.get(budget.name, UNUSED), now_us)
        changed[budget.name] = replace(use, used=max(use.used + records, 0))
    return changed


def still_counts(rule: LimitRule, taken_us: int, now_us: int) -> bool:
    """Whether what was taken then is in the budget's use now: since a reset, it is not."""
    return rule.budget is None or rule.budget.next_reset_us(taken_us) > now_us


def limit_wait_us(rule: LimitRule, uses: Mapping[str, Use], now_us: int, *, is_live: bool = True) -> int:
    """How long until the next record may go, as far as is known; 0 when one may go now."""
    waits = [wait_us(rate, uses.get(rate.name, UNUSED), now_us) for rate in rule.rates]
    if (budget := rule.budget) is not None:
        use = current(budget, uses.get(budget.name, UNUSED), now_us)
        if use.used >= budget.records:
            waits.append(use.until_us - now_us)
        elif not is_live and use.used >= budget.records - _kept(budget, use, now_us):
            waits.append(_released_us(budget, use, now_us))
    return max(waits, default=0)


def _released_us(rule: BudgetRule, use: Use, now_us: int) -> int:
    """How long until so much less is kept for live traffic that one record of a backlog may go."""
    kept = rule.records - use.used - 1  # then no more than that may be kept
    until_us = use.until_us - int((kept + 1) / (rule.records * rule.reserve) * rule.length_us)
    return max(until_us - now_us, SECOND_US)


def backlog_part(now_us: int, room: int) -> int:
    """How many of `room` places are the backlog's at least: on the average its share of them, also where there is only
    one at a time. The draw is made of the instant, so it needs no memory; well mixed (the end of splitmix64), so that
    claims that come at even steps get their share as well."""
    mixed = (now_us ^ now_us >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    draw = (mixed ^ mixed >> 31) / 2**64
    return min(int(room * BACKLOG_SHARE + draw), room)


def throttle(asked_s: float, guess_s: float, throttles: int, *, is_paused: bool, is_served: bool) -> tuple[float, int]:
    """For how long to pause, in seconds, and the number of throttles in a row without a word of how long.

    `asked_s`: what the system asked for; `guess_s`: the first wait where it did not say. That one doubles each time up
    to `LONGEST_GUESS_S`, until something is delivered again. What comes in while it is paused already belongs to the
    same throttle.
    """
    if not guess_s:
        return asked_s, 0 if is_served and not is_paused else throttles
    before = max(throttles - 1, 0) if is_paused else throttles
    return max(asked_s, min(guess_s * 2 ** min(before, 30), max(guess_s, LONGEST_GUESS_S))), before + 1
