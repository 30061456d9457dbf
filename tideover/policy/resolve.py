"""What to do with a record whose last attempt may or may not have been processed.

| the system resolves by | first attempt within the key horizon | past it |
| --- | --- | --- |
| natural | resend | resend |
| key | resend with the same key | look up where possible, else as `none` |
| lookup | look up | look up |
| none | resend if the route accepts duplicates, else park | the same |

A look-up that finds nothing proves that the provider does not have the record *now*. A request that is still on its
way may arrive later, so a miss counts only once the attempt is older than the system's total timeout. And of a provider
that is not trusted, one miss is not enough for another provider to get the record: what answers for it may be a
gateway, or a copy that lags behind. It takes two, that far apart.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tideover.model import Resolve

# A key is not used to its last second: clocks differ, and the request needs time to arrive.
HORIZON_SHARE = 0.95


class Step(enum.Enum):
    RESEND = "resend"
    LOOK_UP = "look_up"
    PARK = "park"


@dataclass(frozen=True, slots=True)
class ResolveRule:
    """How unknown outcomes of one route at one system are resolved. `settle_s`: when a miss may be believed."""

    how: Resolve
    key_horizon_s: float
    has_lookup: bool
    settle_s: float
    accepts_duplicates: bool

    @property
    def can_ask(self) -> bool:
        """Whether the system can be asked by a call that changes nothing."""
        return self.has_lookup and self.how is not Resolve.NONE


def next_step(rule: ResolveRule, doubt_age_s: float) -> Step:
    """`doubt_age_s`: how long ago the first attempt began whose outcome is still unknown."""
    if rule.how is Resolve.NATURAL:
        return Step.RESEND
    if rule.how is Resolve.KEY and doubt_age_s < rule.key_horizon_s * HORIZON_SHARE:
        return Step.RESEND
    if rule.can_ask:
        return Step.LOOK_UP
    return Step.RESEND if rule.accepts_duplicates else Step.PARK


def is_miss_final(rule: ResolveRule, doubt_age_s: float) -> bool:
    """Whether a look-up that found nothing may be believed, so that the record is sent again."""
    return doubt_age_s >= rule.settle_s


def is_second_miss_final(rule: ResolveRule, doubt_age_s: float, miss_age_s: float | None) -> bool:
    """The same of a provider that is not trusted. `miss_age_s`: how long ago the first look-up that counts found
    nothing; None where none did."""
    return is_miss_final(rule, doubt_age_s) and miss_age_s is not None and miss_age_s >= rule.settle_s
