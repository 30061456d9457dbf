"""Between whoever claims and whoever looks after a system that is down."""

from __future__ import annotations

import asyncio

from tideover.hub.offer import ANSWER_S, Offer


async def test_offer_waits_for_its_answer_and_wakes_whoever_looks() -> None:
    offer = Offer(is_wanted=True)
    made = asyncio.create_task(offer.make())
    await offer.wait(60.0)
    assert not made.done()
    offer.answer()
    await made


async def test_offer_that_is_not_answered_delays_a_claim_for_a_moment_only() -> None:
    async with asyncio.timeout(60 * ANSWER_S):
        await Offer(is_wanted=True).make()


async def test_system_that_has_a_record_wants_no_other() -> None:
    offer = Offer(is_wanted=True)
    offer.was_taken()
    assert not offer.is_wanted


def test_looks_that_find_nothing_fit_become_rarer_up_to_a_bound_until_one_does() -> None:
    offer, now, waits = Offer(is_wanted=True), 100.0, []
    for _ in range(6):
        offer.was_unfit(now)
        began = now
        while not offer.is_worth_a_look(now):
            now += 0.125
        waits.append(now - began)
    assert waits == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    offer.was_taken()
    offer.was_unfit(now)
    assert offer.is_worth_a_look(now + 0.25)
