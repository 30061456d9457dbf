"""When a record is tried again, and when it is given up: exponential backoff with full jitter, by count and by age.

Wait before attempt n+1, after n attempts: uniform in [0, min(cap, base * 2**(n-1))] (full jitter, as in "Exponential
Backoff And Jitter", AWS Architecture Blog). Only attempts count whose outcome is unknown, or that the system
answered: what reached nobody says nothing about the record, and while a system is down its breaker lets nothing be
attempted.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryRule:
    """`max_age_s` is None where a record may wait for ever."""

    max_attempts: int
    base_s: float
    cap_s: float
    max_age_s: float | None


def wait_s(rule: RetryRule, attempts: int, spread: float) -> float:
    """Seconds before the next attempt. `spread` is a random number in [0, 1)."""
    exponent = min(max(attempts - 1, 0), 62)
    return min(rule.cap_s, rule.base_s * float(2**exponent)) * spread


def ask_again_s(rule: RetryRule, doubt_age_s: float) -> float:
    """Seconds before a system that is down is asked again what became of a record: a quarter of the time that this has
    been unknown, at least `base_s` and at most `cap_s`."""
    return min(rule.cap_s, max(rule.base_s, doubt_age_s / 4))


EXPIRED = "expired"  # the code under which a record is parked that is older than its route's deadline


def is_expired(max_age_s: float | None, age_s: float) -> bool:
    """Whether a record of this age is not to be sent any more."""
    return max_age_s is not None and age_s >= max_age_s


def reason_to_give_up(rule: RetryRule, attempts: int, age_s: float) -> str | None:
    """`attempts` or `expired` when the record is to be parked, else None."""
    if is_expired(rule.max_age_s, age_s):
        return EXPIRED
    if attempts >= rule.max_attempts:
        return "attempts"
    return None
