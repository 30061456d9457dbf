"""When a target will be caught up, how many records are to go, how fast they go, and what bounds that.

The pace is that of the last minute, from what was written down as gone; nothing is extrapolated from settings. What is
not known is said to be unknown.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from tideover.model import SECOND_US, instant

WINDOW_S = 60.0
STALL_S = 30.0  # a pause in the deliveries as long as this ends a spell of them
_SPELL_AT_LEAST_S = 3.0  # else its pace is a guess
_ARRIVALS_WINDOW_S = 3600.0
_NEAR_LIMIT = 0.85  # of a limit's pace: an even share of a limit, less what its bursts leave
_NEARLY_ALL = 0.75  # of the calls that may be under way
_IN_TROUBLE = 0.01  # of the calls
_KEEPS_UP_S = 2.0  # what goes in this time is on its way rather than waiting
_AHEAD = 1.02  # times the arrivals: slower, and it would never be caught up
_FAR_OFF_S = 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Records of a few seconds, from `at_us` on: those that no longer wait, and those that came."""

    at_us: int
    gone: int
    come: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Records per second. `gone` is None where too little is known to tell, and 0 where nothing has gone for long."""

    gone: float | None
    come: float


def pace(samples: Sequence[Sample], come_in_an_hour: int, now_us: int, since_us: int = 0) -> Pace:
    """The pace of the last minute. `samples`: of that minute, oldest first, all of one length. `since_us`: when the way
    was last opened, as what happened before says nothing.

    Gone: over the latest spell of deliveries, up to now. Come: of the last minute where they come all the time; of the
    last hour where they come in bursts, such as those of a scheduled reading.
    """
    busy = [sample for sample in samples if sample.gone > 0 and sample.at_us >= since_us]
    spell: list[Sample] = []
    end_us = now_us
    for sample in reversed(busy):
        if end_us - sample.at_us > STALL_S * SECOND_US:
            break
        spell.append(sample)
        end_us = sample.at_us
    coming = [sample for sample in samples if sample.come > 0]
    is_steady = 2 * len(coming) >= len(samples) and len(coming) > 2
    come = (
        sum(s.come for s in coming) / max((now_us - samples[0].at_us) / SECOND_US, 1.0)
        if is_steady
        else come_in_an_hour / _ARRIVALS_WINDOW_S
    )
    if not spell:
        is_young = now_us - since_us < STALL_S * SECOND_US
        return Pace(None if is_young else 0.0, come)
    span_s = (now_us - spell[-1].at_us) / SECOND_US
    return Pace(sum(s.gone for s in spell) / span_s if span_s >= _SPELL_AT_LEAST_S else None, come)


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of a system, in records per second and in words: `200 a minute`."""

    per_s: float
    words: str


@dataclass(frozen=True, slots=True)
class Calls:
    """The latest calls to a system: how many were under way on average, how long each took, the share that failed."""

    under_way: float
    call_s: float
    failed: float


@dataclass(frozen=True, slots=True)
class Way:
    """The way to one system. `wait_s`: until a breaker's next probe, or the end of a pause; 0: it is due.
    `at_once`: how many calls one worker may have under way."""

    system: str
    is_down: bool
    is_paused: bool
    is_forced: bool
    wait_s: float
    at_once: int
    pause: str = ""  # why it is paused, in words, where it did not ask for it
    limit: Limit | None = None
    calls: Calls | None = None


class Course(enum.StrEnum):
    IDLE = "idle"  # nothing waits
    KEEPING_UP = "keeping up"  # what comes goes at once
    DRAINING = "draining"
    FALLING_BEHIND = "falling behind"
    STOPPED = "not moving"
    UNKNOWN = "unknown"  # it may go, and its pace is not known yet


class Bound(enum.StrEnum):
    """What the pace depends on."""

    LIMIT = "limit"  # a limit of the system
    SYSTEM = "system"  # how much the system can take, or how long it takes
    HUB = "hub"
    DOWN = "down"
    PAUSED = "paused"
    IDLE = "idle"  # nothing delivers, or all that waits is to be tried later
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Forecast:
    """`caught_up_us`: the instant when nothing will wait, if it goes on like this; 0 when that can't be told. `why`:
    what bounds it, in words; empty where nothing is known or there is nothing to say. `next_try_us`: of a target that
    does not move, when it may; 0 when that is not known."""

    course: Course
    to_go: int
    pace: Pace
    now_us: int
    caught_up_us: int = 0
    bound: Bound = Bound.UNKNOWN
    why: str = ""
    next_try_us: int = 0

    def __str__(self) -> str:
        """For people, such as `caught up 14:32 UTC, 41,200 to go, 230/s, bounded by erp's limit of 200 a minute`."""
        to_go, why = f"{rounded(self.to_go)} to go", f", bounded by {self.why}" if self.why else ""
        gone, come = per(self.pace.gone or 0.0), per(self.pace.come)
        match self.course:
            case Course.IDLE:
                return "nothing waits"
            case Course.UNKNOWN:
                return f"{to_go}, pace not known yet"
            case Course.STOPPED:
                return f"not moving: {self.why}; {to_go}"
            case Course.KEEPING_UP:
                return f"keeping up: {come} come, {to_go}"
            case Course.FALLING_BEHIND:
                return f"falling behind: {come} come, {gone} go; {to_go}{why}"
            case Course.DRAINING:
                return f"caught up {at(self.caught_up_us, self.now_us)}, {to_go}, {gone}{why}"


def forecast(to_go: int, pace: Pace, ways: Sequence[Way], now_us: int) -> Forecast:
    """What will become of the `to_go` records of one target. `ways`: to its systems, the preferred one first."""
    if to_go <= 0:
        return Forecast(Course.IDLE, 0, pace, now_us)
    is_moving = bool(pace.gone)
    usable = [way for way in ways if not (way.is_down or (way.is_paused and (not is_moving or way.wait_s > STALL_S)))]
    if not usable:
        return _stopped(to_go, pace, ways, now_us)
    if pace.gone is None:
        return Forecast(Course.UNKNOWN, to_go, pace, now_us)
    if not pace.gone:
        why = f"nothing has gone for {STALL_S:.0f} s; no delivery runs, or what waits is to be tried later"
        return Forecast(Course.STOPPED, to_go, pace, now_us, bound=Bound.IDLE, why=why)
    if to_go <= _KEEPS_UP_S * pace.come:
        return Forecast(Course.KEEPING_UP, to_go, pace, now_us)
    bound, why = _bound(pace.gone, usable)
    net = pace.gone - pace.come
    if pace.gone <= _AHEAD * pace.come or to_go / net > _FAR_OFF_S:
        return Forecast(Course.FALLING_BEHIND, to_go, pace, now_us, bound=bound, why=why)
    caught_up_us = now_us + round(to_go / net * SECOND_US)
    return Forecast(Course.DRAINING, to_go, pace, now_us, caught_up_us=caught_up_us, bound=bound, why=why)


def _stopped(to_go: int, pace: Pace, ways: Sequence[Way], now_us: int) -> Forecast:
    """No system may be called. Said of the one that may be back first."""
    tried = [way for way in ways if not way.is_forced]
    way = min(tried or ways, key=lambda w: w.wait_s)
    next_try_us = now_us + round(way.wait_s * SECOND_US)
    bound = Bound.DOWN if way.is_down else Bound.PAUSED
    if not tried:
        why, next_try_us = f"{way.system} is held shut by hand", 0
    elif way.pause and not way.is_down:
        why = f"{way.system}: {way.pause}"
    elif not way.is_down:
        why = f"{way.system} asked for a pause until {at(next_try_us, now_us)}"
    else:
        why = f"{way.system} is down, next try {at(next_try_us, now_us) if way.wait_s else 'due'}"
    return Forecast(Course.STOPPED, to_go, pace, now_us, bound=bound, why=why, next_try_us=next_try_us)


def _bound(gone: float, ways: Sequence[Way]) -> tuple[Bound, str]:
    limited = [way.limit for way in ways if way.limit is not None]
    if len(limited) == len(ways) and gone >= _NEAR_LIMIT * sum(limit.per_s for limit in limited):
        return Bound.LIMIT, " and ".join(f"{way.system}'s limit of {way.limit.words}" for way in ways if way.limit)
    if paused := [way for way in ways if way.is_paused]:
        return Bound.LIMIT, f"{paused[0].system} itself: it asks for pauses"
    called = [(way, way.calls) for way in ways if way.calls is not None]
    if not called:
        return Bound.UNKNOWN, ""
    way, calls = max(called, key=lambda pair: pair[1].under_way)
    if calls.under_way >= _NEARLY_ALL * way.at_once or calls.failed > _IN_TROUBLE:
        at_once = max(round(calls.under_way), 1)
        said = f"{rounded(at_once)} {'call' if at_once == 1 else 'calls'} at once, {_span(calls.call_s)} each"
        return Bound.SYSTEM, f"{way.system} itself: {said}"
    return Bound.HUB, "the hub"


def rounded(count: int) -> str:
    """To three digits, with separators: 41,237 is `41,200`."""
    digits = max(len(str(count)) - 3, 0)
    return f"{round(count, -digits):,}"


def per(rate: float) -> str:
    """A pace as people say it: `230/s`, `3.5/s`, `12/min`, `5/h`."""
    for unit, size in (("s", 1), ("min", 60), ("h", 3600)):
        if rate * size >= 1 or unit == "h":
            count = rate * size
            return f"{count:.1f}/{unit}" if count < 10 and count % 1 >= 0.05 else f"{rounded(round(count))}/{unit}"
    return "0/s"


def at(us: int, now_us: int) -> str:
    """An instant of the near future: to the second within two minutes, to the minute within a day, else with day."""
    away_s = (us - now_us) / SECOND_US
    shown = "%H:%M:%S" if away_s < 120 else "%H:%M" if away_s < 86_400 else "%Y-%m-%d %H:%M"
    return f"{instant(us):{shown}} UTC"


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
