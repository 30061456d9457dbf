"""What to write, given what the file wants, what Prefect holds and what was written last. Pure.

    wanted == held                      nothing to do; it counts as ours
    held == written last                ours, and nobody touched it: write
    held != written last                a person changed it: keep it, and say so
    anything, with `overwrite`          write

A field of which nothing was written last, and that differs, is a person's too. What was written is remembered as a
digest, so that the notes stay small and tell nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

What = Literal["created", "updated", "unchanged", "kept", "removed"]


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one object. `kept`: a person changed these fields, and they were left so.

    An object may have two changes: some fields updated, and others kept.
    """

    kind: Literal["work pool", "deployment", "schedule", "automation"]
    name: str
    what: What
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Merge:
    """The fields to write, those left to a person, and the notes for the next time."""

    write: Mapping[str, object]
    kept: tuple[str, ...]
    notes: Mapping[str, str]


def digest(value: object) -> str:
    """16 hex digits that two values share when they mean the same to Prefect, whatever the order of keys and sets."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, Set) else str(value)


def merge(
    wanted: Mapping[str, object],
    held: Mapping[str, object],
    notes: Mapping[str, str],
    *,
    overwrite: bool = False,
    ours: Set[str] = frozenset(),
) -> Merge:
    """Decide field by field. `ours` are fields that only the hub may set: they are always made equal.

    A kept field keeps its old note: once a person undoes the change, the file decides again.
    """
    write: dict[str, object] = {}
    kept: list[str] = []
    after: dict[str, str] = {}
    for field, value in wanted.items():
        want, have = digest(value), digest(held.get(field))
        if want != have and not overwrite and field not in ours and notes.get(field) != have:
            kept.append(field)
            after |= {field: notes[field]} if field in notes else {}
            continue
        after[field] = want
        if want != have:
            write[field] = value
    return Merge(write, tuple(kept), after)


def changes_of(kind: Literal["deployment", "schedule", "automation"], name: str, merged: Merge) -> list[Change]:
    """The merge as people read it."""
    found = [Change(kind, name, "updated", tuple(merged.write))] if merged.write else []
    if merged.kept:
        found.append(Change(kind, name, "kept", merged.kept))
    return found or [Change(kind, name, "unchanged")]
