"""What a run's state says: its name is what a person must act on first, its message says everything."""

from __future__ import annotations

import pytest

from flows.outcome import counts_of, state_of
from tideover.hub.progress import Ending, Progress
from tideover.policy.breaker import State
from tideover.staging.systems import Gate

OPEN = Gate(State.OPEN, "unreachable", "refused", is_forced=False, is_paused=False, wait_s=1.0)
CARRIERS = ["carrier-a", "carrier-b"]


def erp(ending: Ending, *, parked: int = 0) -> Progress:
    gates = {"erp": OPEN} if ending is Ending.DOWN else {}
    return Progress("erp", ["erp"], delivered=5, parked=parked, by_system={"erp": 5}, gates=gates, ending=ending)


def shipping(ending: Ending, *, parked: int = 0) -> Progress:
    return Progress(
        "shipping", CARRIERS, delivered=5, failed_over=4, parked=parked,
        by_system={"carrier-a": 1, "carrier-b": 4}, gates={"carrier-a": OPEN}, ending=ending,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("progress", "name", "message"),
    [
        (erp(Ending.DRAINED), "Completed", "5 delivered to erp"),
        (erp(Ending.DOWN), "Queued", "5 delivered to erp; erp is unreachable, the rest is kept"),
        (erp(Ending.WAITING), "Queued", "5 delivered to erp; the rest is kept and tried again later"),
        (
            erp(Ending.DOWN, parked=2), "Parked",
            "5 delivered to erp; erp is unreachable, the rest is kept; 2 parked, a person is needed",
        ),
        (
            shipping(Ending.DRAINED), "FailedOver",
            "5 delivered to shipping (carrier-a 1, carrier-b 4); 4 of them in place of a preferred provider",
        ),
        (
            shipping(Ending.WAITING), "FailedOver",
            "5 delivered to shipping (carrier-a 1, carrier-b 4); 4 of them in place of a preferred provider; "
            "the rest is kept and tried again later",
        ),
        (
            shipping(Ending.DRAINED, parked=1), "Parked",
            "5 delivered to shipping (carrier-a 1, carrier-b 4); 4 of them in place of a preferred provider; "
            "1 parked, a person is needed",
        ),
    ],
)  # fmt: skip
def test_state_of_a_delivery(progress: Progress, name: str, message: str) -> None:
    state = state_of(counts_of(progress))
    assert (state.is_completed(), state.name, state.message) == (True, name, message)


def test_record_parked_at_intake_counts_for_the_state() -> None:
    assert state_of(counts_of(erp(Ending.DRAINED)), parked_at_intake=1).name == "Parked"
