from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tideover.twins import payload_hash
from tideover.twins.ledger import Ledger, iso
from tideover.twins.store import Store

NOW_US = 1_700_000_000_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    store = Store(tmp_path / "twin.sqlite")
    yield Ledger(store)
    store.close()


def add(ledger: Ledger, key: str, identity: str, payload: object = None) -> int:
    return ledger.add("orders", key, payload or {"n": 1}, NOW_US, identity=identity, idempotency_key=None).seq


def test_totals_when_identities_differ_count_no_duplicate(ledger: Ledger) -> None:
    add(ledger, "k", "first")
    add(ledger, "k", "second")
    totals = ledger.totals()
    assert (totals["received"], totals["keys"], totals["effects"], totals["duplicates"]) == (2, 1, 2, 0)


def test_totals_when_an_identity_comes_thrice_count_two_duplicates(ledger: Ledger) -> None:
    for _ in range(3):
        add(ledger, "k", "same")
    assert ledger.totals()["duplicates"] == 2
    assert ledger.totals()["standing_duplicates"] == 2


def test_void_of_a_duplicate_leaves_it_counted_but_no_longer_standing(ledger: Ledger) -> None:
    add(ledger, "k", "same")
    effect = ledger.at("orders", add(ledger, "k", "same"))
    assert effect is not None
    ledger.void(effect, NOW_US)
    ledger.void(effect, NOW_US)
    totals = ledger.totals()
    assert (totals["duplicates"], totals["standing_duplicates"], totals["voided"]) == (1, 0, 1)


def test_void_of_a_single_effect_allows_another_without_a_standing_duplicate(ledger: Ledger) -> None:
    first = ledger.at("orders", add(ledger, "k", "same"))
    assert first is not None
    ledger.void(first, NOW_US)
    add(ledger, "k", "same")
    assert ledger.totals()["standing_duplicates"] == 0


def test_repeat_counts_as_received_and_as_no_effect(ledger: Ledger) -> None:
    add(ledger, "k", "one")
    ledger.repeat("orders", "k")
    totals = ledger.totals()
    assert (totals["received"], totals["effects"], totals["duplicates"]) == (2, 1, 0)


def test_upsert_when_nothing_changes_is_no_effect_and_changing_back_is_one(ledger: Ledger) -> None:
    changed = [ledger.upsert("members", "k", {"v": v}, NOW_US, None) for v in ("a", "a", "b", "a")]
    assert changed == [True, False, True, True]
    totals = ledger.totals()
    assert (totals["received"], totals["effects"], totals["duplicates"]) == (4, 3, 0)
    assert [e.payload["v"] for e in ledger.log("members", "k", 0, 10)] == ["a", "b", "a"]
    assert [e.version for e in ledger.log("members", "k", 0, 10)] == [1, 2, 3]


def test_totals_of_several_objects_add_up(ledger: Ledger) -> None:
    add(ledger, "k", "one")
    ledger.upsert("members", "k", {}, NOW_US, None)
    totals = ledger.totals()
    assert totals["keys"] == 2
    assert {name: counts["effects"] for name, counts in totals["objects"].items()} == {"orders": 1, "members": 1}


def test_tallies_are_paged_by_key_and_hold_the_last_hash(ledger: Ledger) -> None:
    for key in ("a", "b", "c"):
        add(ledger, key, key, {"of": key})
    page = ledger.tallies("orders", "a", 1)
    assert [row["key"] for row in page] == ["b"]
    assert page[0]["last_hash"] == payload_hash({"of": "b"})


def test_payload_hash_ignores_the_order_of_keys() -> None:
    assert payload_hash({"a": 1, "b": [2]}) == payload_hash({"b": [2], "a": 1}) != payload_hash({"a": 1, "b": [3]})


def test_iso_keeps_every_microsecond() -> None:
    assert iso(NOW_US + 1) == "2023-11-14T22:13:20.000001Z"


def test_transaction_when_it_raises_leaves_nothing(ledger: Ledger, tmp_path: Path) -> None:
    store = Store(tmp_path / "other.sqlite")
    mine = Ledger(store)

    def fail() -> None:
        with store.transaction():
            add(mine, "k", "one")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert mine.totals()["effects"] == 0
    store.close()
