"""Which incoming records change anything, and which place and id each gets."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from tideover.model import NORMAL, NewRecord, content_hash, record_id
from tideover.policy.lanes import Intake, LaneTail, place

FRESH = LaneTail(born_us=1_000, last_seq=0, last_hash=b"")


def staged(*contents: str, tail: LaneTail = FRESH, lane: int = 1) -> Intake:
    return place([(lane, NewRecord("k", content.encode())) for content in contents], {lane: tail})


def test_place_of_the_same_content_twice_is_one_record() -> None:
    intake = staged("A", "A")
    assert ([p.seq for p in intake.placed], intake.unchanged) == ([1], 1)


def test_place_of_a_content_that_comes_back_is_three_records_with_ids_of_their_own() -> None:
    intake = staged("A", "B", "A")
    assert [(p.seq, p.payload) for p in intake.placed] == [(1, b"A"), (2, b"B"), (3, b"A")]
    assert len({p.id for p in intake.placed}) == 3
    assert intake.unchanged == 0


def test_place_of_what_stands_at_the_lanes_end_changes_nothing() -> None:
    tail = LaneTail(1_000, 7, content_hash(b"A"))
    intake = staged("A", tail=tail)
    assert (intake.placed, intake.tails, intake.unchanged) == ([], {}, 1)


def test_place_after_older_records_goes_on_counting_from_the_tail() -> None:
    tail = LaneTail(1_000, 7, content_hash(b"A"))
    intake = staged("B", "C", tail=tail)
    assert [p.seq for p in intake.placed] == [8, 9]
    assert intake.tails == {1: LaneTail(1_000, 9, content_hash(b"C"), NORMAL)}


def test_place_of_an_empty_payload_in_a_fresh_lane_is_a_record() -> None:
    assert len(staged("").placed) == 1


def test_place_in_several_lanes_keeps_each_lanes_order_and_leaves_the_others_alone() -> None:
    tails = {1: FRESH, 2: LaneTail(5, 3, content_hash(b"X")), 3: FRESH}
    wanted = [(1, "A"), (2, "X"), (1, "B"), (2, "Y"), (1, "B"), (2, "X")]
    intake = place([(lane, NewRecord(str(lane), text.encode())) for lane, text in wanted], tails)
    placed = [(p.lane, p.seq, p.payload) for p in intake.placed]
    assert placed == [(1, 1, b"A"), (1, 2, b"B"), (2, 4, b"Y"), (2, 5, b"X")]
    assert (set(intake.tails), intake.unchanged) == ({1, 2}, 2)


def test_id_of_a_record_when_staged_again_is_the_same() -> None:
    assert staged("A", "B").placed == staged("A", "B").placed


def test_id_of_a_record_when_anything_of_its_place_differs_is_another() -> None:
    content = content_hash(b"A")
    ids = {
        record_id(1, 1_000, 1, content),
        record_id(2, 1_000, 1, content),
        record_id(1, 1_001, 1, content),
        record_id(1, 1_000, 2, content),
        record_id(1, 1_000, 1, content_hash(b"B")),
    }
    assert len(ids) == 5
    assert all(len(identity) == 32 and int(identity, 16) >= 0 for identity in ids)


_contents = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["A", "B", "C"])), max_size=30)


@settings(derandomize=True, deadline=None)
@given(_contents, st.integers(0, 30))
def test_place_of_any_stream_in_any_split_gives_the_same_records(wanted: list[tuple[int, str]], cut: int) -> None:
    records = [(lane, NewRecord(str(lane), text.encode())) for lane, text in wanted]
    fresh = dict.fromkeys((1, 2, 3), FRESH)
    at_once = place(records, fresh)
    first = place(records[:cut], fresh)
    second = place(records[cut:], {**fresh, **first.tails})
    assert first.placed + second.placed == at_once.placed
    assert {**first.tails, **second.tails} == at_once.tails
    for lane in (1, 2, 3):
        changes = [text for text, _ in groupby(text for number, text in wanted if number == lane)]
        placed = [p for p in at_once.placed if p.lane == lane]
        assert [p.payload.decode() for p in placed] == changes
        assert [p.seq for p in placed] == list(range(1, len(changes) + 1))


# --- `latest` and `none` ------------------------------------------------------------------------------------


def test_place_where_older_versions_give_way_leaves_only_the_newest_waiting() -> None:
    intake = staged("A", "B", "C", tail=LaneTail(1_000, 7, content_hash(b"Z"), 2, done_seq=5, gives_way=True))
    assert [p.seq for p in intake.placed] == [8, 9, 10]
    assert intake.superseded == {1: 4}
    assert (intake.tails[1].last_seq, intake.tails[1].done_seq, intake.tails[1].priority) == (10, 9, 2)


def test_place_where_nothing_waits_supersedes_nothing() -> None:
    intake = staged("A", tail=LaneTail(1_000, 7, content_hash(b"Z"), done_seq=7, gives_way=True))
    assert (intake.superseded, intake.tails[1].done_seq) == ({}, 7)


def test_place_where_the_lane_may_have_been_sent_from_supersedes_nothing() -> None:
    intake = staged("A", "B", tail=LaneTail(1_000, 7, content_hash(b"Z"), 3, done_seq=5))
    assert (intake.superseded, intake.tails[1].done_seq) == ({}, 5)


def test_place_without_an_order_gives_each_change_a_lane_of_its_own() -> None:
    tail = LaneTail(1_000, 7, content_hash(b"Z"), done_seq=7, is_tail=True)
    intake = staged("Z", "A", "A", "B", "A", tail=tail, lane=500)
    assert [(p.lane, p.seq, p.payload) for p in intake.placed] == [(508, 1, b"A"), (509, 1, b"B"), (510, 1, b"A")]
    assert all(p.has_own_lane for p in intake.placed)
    assert len({p.id for p in intake.placed}) == 3
    assert (intake.unchanged, intake.superseded) == (2, {})
    end = intake.tails[500]
    assert (end.last_seq, end.done_seq, end.last_hash) == (10, 10, content_hash(b"A"))


def test_place_without_an_order_leaves_out_lanes_that_another_key_has() -> None:
    tail = LaneTail(1_000, 0, b"", is_tail=True)
    records = [(500, NewRecord("k", content.encode())) for content in "ABC"]
    intake = place(records, {500: tail}, taken={501, 503})
    assert [p.lane for p in intake.placed] == [502, 504, 505]
    assert intake.tails[500].last_seq == 5
