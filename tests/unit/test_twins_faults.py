from __future__ import annotations

from random import Random

import pytest

from tideover.twins import KINDS, TwinRefused
from tideover.twins.faults import Fault, FaultSwitch, Role, parse_fault
from tideover.twins.samples import SAMPLES


def switch() -> FaultSwitch:
    return FaultSwitch(Random(1), lambda fault: None)


def test_parse_fault_when_the_kind_is_unknown_lists_the_valid_ones() -> None:
    with pytest.raises(TwinRefused, match="explode") as caught:
        parse_fault("erp", {"kind": "explode"})
    assert caught.value.status == 422
    assert "hang" in caught.value.valid
    assert "broken_record" not in caught.value.valid


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "hang", "delay_s": 1},
        {"kind": "down", "count": 1},
        {"kind": "slow", "delay_s": "1s"},
        {"kind": "slow", "delay_s": -1},
        {"kind": "hang", "probability": 1.5},
        {"kind": "hang", "count": 0},
        {"kind": "hang", "color": "red"},
        {"kind": None},
    ],
)
def test_parse_fault_when_an_option_makes_no_sense_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(TwinRefused) as caught:
        parse_fault("erp", content)
    assert caught.value.status == 422
    assert caught.value.valid


@pytest.mark.parametrize(("twin", "kind"), [("crm", "contract"), ("erp", "partial"), ("erp", "loop_pages")])
def test_parse_fault_when_the_twin_can_not_have_it_is_refused(twin: str, kind: str) -> None:
    with pytest.raises(TwinRefused):
        parse_fault(twin, {"kind": kind})


def test_kinds_take_only_options_that_a_fault_has() -> None:
    named = {option for kind in KINDS.values() for option in kind.options | kind.limits}
    assert named == set(Fault.model_fields) - {"kind"}


def test_choose_when_count_is_used_up_harms_no_further_call() -> None:
    mine = switch()
    mine.put(Fault(kind="error_500", count=2))
    chosen = [mine.choose(Role.BUSINESS, is_read=False) is not None for _ in range(4)]
    assert chosen == [True, True, False, False]
    assert mine.active is not None
    assert mine.active.is_used_up
    assert not mine.active.ended.is_set()


def test_choose_with_a_count_spares_probes_and_token_calls() -> None:
    mine = switch()
    mine.put(Fault(kind="hang", count=1))
    assert mine.choose(Role.PROBE, is_read=True) is None
    assert mine.choose(Role.TOKEN, is_read=False) is None
    assert mine.choose(Role.BUSINESS, is_read=True) is not None


@pytest.mark.parametrize("role", [Role.PROBE, Role.TOKEN])
def test_choose_when_an_outage_is_on_harms_probe_and_token_calls(role: Role) -> None:
    mine = switch()
    mine.put(Fault(kind="hang"))
    assert mine.choose(role, is_read=True) is not None


def test_choose_when_only_records_are_harmed_spares_the_probe() -> None:
    mine = switch()
    mine.put(Fault(kind="contract"))
    assert mine.choose(Role.PROBE, is_read=True) is None


@pytest.mark.parametrize(("only", "is_read", "expected"), [
    ("reads", True, True), ("reads", False, False), ("writes", True, False), ("writes", False, True),
])  # fmt: skip
def test_choose_with_only_harms_that_side(only: str, is_read: bool, expected: bool) -> None:
    mine = switch()
    mine.put(Fault.model_validate({"kind": "drop", "only": only}))
    assert (mine.choose(Role.BUSINESS, is_read=is_read) is not None) is expected


def test_choose_with_a_probability_harms_about_that_share_and_the_same_for_a_seed() -> None:
    def harmed() -> int:
        mine = switch()
        mine.put(Fault(kind="drop", probability=0.25))
        return sum(mine.choose(Role.BUSINESS, is_read=True) is not None for _ in range(1000))

    assert 200 < harmed() < 300
    assert harmed() == harmed()


def test_put_when_another_is_active_ends_it() -> None:
    mine = switch()
    mine.put(Fault(kind="hang"))
    old = mine.active
    mine.put(Fault(kind="drop"))
    assert old is not None
    assert old.ended.is_set()
    assert mine.active is not None
    assert mine.active.fault.kind == "drop"


async def test_put_with_for_s_ends_by_itself_and_tells() -> None:
    ended: list[str] = []
    mine = FaultSwitch(Random(1), lambda fault: ended.append(fault.kind))
    mine.put(Fault(kind="hang", for_s=0.01))
    assert mine.active is not None
    await mine.active.ended.wait()
    assert mine.active is None
    assert ended == ["hang"]


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_a_number_are_always_the_same_and_have_ids_of_their_own(name: str) -> None:
    make = SAMPLES[name]
    assert [make(n) for n in range(50)] == [make(n) for n in range(50)]
    assert len({make(n)["id"] for n in range(1000)}) == 1000


def test_sample_order_total_is_the_sum_of_its_lines() -> None:
    for number in range(200):
        order = SAMPLES["orders"](number)
        assert order["total"] == pytest.approx(sum(line["quantity"] * line["price"] for line in order["lines"]))
        assert order["weightKg"] > 0
