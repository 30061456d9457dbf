"""The rule of what to write, and what a person keeps."""

from __future__ import annotations

from datetime import timedelta

import pytest

from deployments.changes import Change, changes_of, digest, merge

NOTES = {"limit": digest(1)}


@pytest.mark.parametrize(
    ("wanted", "held", "notes", "write", "kept"),
    [
        (1, 1, {}, {}, ()),  # equal, and now ours
        (2, 1, NOTES, {"limit": 2}, ()),  # the file changed
        (1, 3, NOTES, {}, ("limit",)),  # a person changed it
        (3, 3, NOTES, {}, ()),  # both came to the same
        (2, 3, NOTES, {}, ("limit",)),  # both changed it: the person's stays
        (1, 3, {}, {}, ("limit",)),  # nobody knows whose it is
        (1, None, NOTES, {}, ("limit",)),  # a person emptied it
    ],
)
def test_merge_keeps_what_a_person_changed(
    wanted: int, held: int | None, notes: dict[str, str], write: dict[str, int], kept: tuple[str, ...]
) -> None:
    merged = merge({"limit": wanted}, {"limit": held}, notes)
    assert (merged.write, merged.kept) == (write, kept)


def test_merge_when_told_to_overwrite_writes_everything_that_differs() -> None:
    assert merge({"limit": 1}, {"limit": 3}, NOTES, overwrite=True).write == {"limit": 1}


def test_merge_when_the_field_is_the_hubs_alone_writes_it() -> None:
    assert merge({"limit": 1}, {"limit": 3}, {}, ours=frozenset({"limit"})).write == {"limit": 1}


def test_merge_when_a_person_undoes_the_change_follows_the_file_again() -> None:
    kept = merge({"limit": 2}, {"limit": 3}, NOTES)
    assert merge({"limit": 2}, {"limit": 1}, kept.notes).write == {"limit": 2}


def test_digest_when_only_the_order_differs_is_the_same() -> None:
    assert digest({"a": {"x", "y"}, "b": 1}) == digest({"b": 1, "a": {"y", "x"}})
    assert digest(timedelta(seconds=60)) == digest(timedelta(minutes=1))
    assert digest([1, 2]) != digest([2, 1])


def test_changes_when_some_fields_are_kept_and_others_written_tell_both() -> None:
    merged = merge({"a": 2, "b": 2}, {"a": 1, "b": 1}, {"a": digest(1)})
    assert changes_of("deployment", "sync/x", merged) == [
        Change("deployment", "sync/x", "updated", ("a",)),
        Change("deployment", "sync/x", "kept", ("b",)),
    ]
