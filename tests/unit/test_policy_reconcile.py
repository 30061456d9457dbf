"""What follows from asking a provider about a record that was sent elsewhere: the whole table, and its times."""

from __future__ import annotations

import itertools

import pytest

from tideover.model import REFUSED, Accepted, Found, LookUp, Missing, Outcome, Rejected, Throttled, Unknown, Unsent
from tideover.policy.reconcile import (
    REFUSALS,
    Absent,
    Adopt,
    Doubt,
    Holder,
    Later,
    Means,
    Place,
    Raise,
    Verdict,
    Voided,
    VoidIt,
    backoff_s,
    judge,
    judge_void,
    may_have_voided,
)

SETTLE_S = 30.0
OTHER = Holder("carrier-b", "B-7")
FREE, BUSY, GONE = Place.FREE, Place.BUSY, Place.GONE
ANSWERS: dict[str, LookUp] = {
    "found": Found("A-1"),
    "missing": Missing(),
    "throttled": Throttled(7.0),
    "unsent": Unsent("refused"),
    "unknown": Unknown("timeout"),
}
TROUBLE = ("throttled", "unsent", "unknown")

# (somebody else has it, place): (with a void, without)
FOUND: dict[tuple[bool, Place], tuple[type, type]] = {
    (True, FREE): (VoidIt, Raise),
    (True, BUSY): (VoidIt, Raise),
    (True, GONE): (VoidIt, Raise),
    (False, FREE): (Adopt, Adopt),
    (False, BUSY): (Later, Later),
    (False, GONE): (Raise, Raise),
}


def means(can_ask: bool = True, can_void: bool = True) -> Means:
    return Means(can_ask, can_void, SETTLE_S)


def doubt(
    place: Place = BUSY,
    other: Holder | None = None,
    age_s: float = 1e6,
    misses: int = 0,
    attempts: int = 0,
    void_began: bool = False,
) -> Doubt:
    return Doubt("carrier-a", age_s, place, other, misses, attempts, void_began)


@pytest.mark.parametrize(("has_other", "place"), list(itertools.product((True, False), Place)))
@pytest.mark.parametrize("void_began", [True, False])
def test_found_follows_the_table(has_other: bool, place: Place, void_began: bool) -> None:
    case = doubt(place, OTHER if has_other else None, void_began=void_began)
    verdicts = tuple(type(judge(Found("A-1"), case, means(can_void=can_void))) for can_void in (True, False))
    assert verdicts == FOUND[has_other, place]


@pytest.mark.parametrize(("answer", "has_other", "place"), list(itertools.product(ANSWERS, (True, False), Place)))
def test_provider_that_can_not_be_asked_is_a_persons(answer: str, has_other: bool, place: Place) -> None:
    case = doubt(place, OTHER if has_other else None)
    assert judge(ANSWERS[answer], case, means(can_ask=False)) == Raise(
        "carrier-a can't be asked whether it has the record"
    )
    assert isinstance(judge(None, case, means()), Raise)


def test_raise_names_both_with_their_references() -> None:
    verdict = judge(Found("A-1"), doubt(other=OTHER), means(can_void=False))
    assert verdict == Raise("carrier-a (A-1) and carrier-b (B-7) both have it; carrier-a has no void")


@pytest.mark.parametrize("name", TROUBLE)
@pytest.mark.parametrize("void_began", [True, False])
def test_trouble_is_asked_again_later(name: str, void_began: bool) -> None:
    verdict = judge(ANSWERS[name], doubt(other=OTHER, attempts=1, void_began=void_began), means())
    assert verdict == Later(7.0 if name == "throttled" else 2.0)


@pytest.mark.parametrize(
    ("misses", "age_s", "expected"),
    [
        (0, 0.0, Later(SETTLE_S)),
        (0, 1e6, Later(SETTLE_S)),  # one miss is never enough
        (1, 29.9, Later(SETTLE_S)),  # nor are two, while the request may still be on its way
        (1, 30.0, Absent()),
        (5, 1e6, Absent()),
    ],
)
@pytest.mark.parametrize(("has_other", "place"), list(itertools.product((True, False), Place)))
def test_missing_counts_when_it_is_repeated_and_old(
    misses: int, age_s: float, expected: Verdict, has_other: bool, place: Place
) -> None:
    case = doubt(place, OTHER if has_other else None, age_s=age_s, misses=misses)
    assert judge(Missing(), case, means()) == expected


def test_missing_after_a_void_began_says_that_it_worked() -> None:
    assert judge(Missing(), doubt(other=OTHER, age_s=0.0, void_began=True), means()) == Voided()


def test_missing_waits_for_settle_even_where_the_backoff_is_shorter_and_the_other_way_round() -> None:
    assert judge(Missing(), doubt(attempts=0), means()) == Later(SETTLE_S)
    assert judge(Missing(), doubt(attempts=7), means()) == Later(128.0)


def test_question_that_is_always_refused_is_raised_to_a_person() -> None:
    refused = Unknown(REFUSED, "http 410")
    assert judge(refused, doubt(attempts=REFUSALS - 2), means()) == Later(backoff_s(REFUSALS - 2))
    verdict = judge(refused, doubt(attempts=REFUSALS - 1), means())
    assert isinstance(verdict, Raise)
    assert "carrier-a refuses to say whether it has the record: http 410" in verdict.detail
    assert isinstance(judge(Unknown("server_error"), doubt(attempts=1000), means()), Later)


VOIDS: list[tuple[Outcome, type, bool]] = [
    (Accepted(), Voided, True),
    (Rejected("shipped"), Raise, True),
    (Throttled(1.0), Later, False),
    (Unsent("refused"), Later, False),
    (Unknown("timeout"), Later, True),
]


@pytest.mark.parametrize(("outcome", "expected", "may_have"), VOIDS)
def test_void_follows_the_table(outcome: Outcome, expected: type, may_have: bool) -> None:
    assert type(judge_void(outcome, doubt(other=OTHER), "A-1")) is expected
    assert may_have_voided(outcome) is may_have


def test_refused_void_tells_a_person_both_references_and_the_reason() -> None:
    verdict = judge_void(Rejected("shipped", "it left"), doubt(other=OTHER), "A-1")
    assert verdict == Raise(
        "carrier-a (A-1) and carrier-b (B-7) both have it; carrier-a refuses to undo it: shipped: it left"
    )


def test_backoff_doubles_up_to_five_minutes() -> None:
    assert [backoff_s(n) for n in (0, 1, 2, 8, 9, 10_000)] == [1.0, 2.0, 4.0, 256.0, 300.0, 300.0]
