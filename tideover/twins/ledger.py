"""The ledger of one twin: every effect it had, so that losses, duplicates and order show from the other side.

An *effect* is something that happened: a document made, a parcel booked, a member changed. *Received* counts more:
also answers replayed under an idempotency key, and upserts that changed nothing. An effect has an *identity*, which
a vendor chooses: where two effects share it, the second is a *duplicate*. A duplicate that has not been voided is
*standing*: its customer gets two parcels.

`tallies` and `totals` are kept in the transaction of the effect, so asking them costs one row, not a scan.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import orjson

from tideover.twins.store import Store

COUNTS = ("received", "keys", "effects", "duplicates", "standing_duplicates", "voided")
_BUMP_TALLY = """
INSERT INTO tallies (object, key, received, effects, duplicates, standing_duplicates, voided, last_hash, last_seq)
VALUES (:object, :key, :received, :effects, :duplicates, :standing_duplicates, :voided, :last_hash, :last_seq)
ON CONFLICT (object, key) DO UPDATE SET
  received = received + excluded.received, effects = effects + excluded.effects,
  duplicates = duplicates + excluded.duplicates,
  standing_duplicates = standing_duplicates + excluded.standing_duplicates, voided = voided + excluded.voided,
  last_hash = coalesce(excluded.last_hash, last_hash), last_seq = coalesce(excluded.last_seq, last_seq)
"""
_BUMP_TOTALS = """
INSERT INTO totals (object, received, keys, effects, duplicates, standing_duplicates, voided)
VALUES (:object, :received, :keys, :effects, :duplicates, :standing_duplicates, :voided)
ON CONFLICT (object) DO UPDATE SET
  received = received + excluded.received, keys = keys + excluded.keys, effects = effects + excluded.effects,
  duplicates = duplicates + excluded.duplicates,
  standing_duplicates = standing_duplicates + excluded.standing_duplicates, voided = voided + excluded.voided
"""


def canonical(content: object) -> bytes:
    """JSON with sorted keys and no spaces: equal for equal content."""
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def payload_hash(content: object) -> str:
    """32 hex digits of a decoded JSON payload, as the ledger shows them."""
    return _digest(canonical(content))


def _digest(text: bytes) -> str:
    return sha256(text).hexdigest()[:32]


def iso(us: int) -> str:
    """An instant as vendors write it: microseconds since the epoch -> `2026-01-31T12:00:00.000001Z`."""
    seconds, micros = divmod(us, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%dT%H:%M:%S}.{micros:06d}Z"


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect. `seq` grows with every effect of the twin; `version` counts the effects of one key from 1."""

    seq: int
    object_name: str
    key: str
    idempotency_key: str | None
    version: int
    payload: Any  # decoded JSON: what the caller sent
    hash: str
    at_us: int
    voided_us: int | None

    @property
    def is_voided(self) -> bool:
        """Whether the effect was taken back."""
        return self.voided_us is not None

    def as_json(self) -> dict[str, Any]:
        """The effect as the control server shows it."""
        return {
            "seq": self.seq,
            "object": self.object_name,
            "key": self.key,
            "idempotency_key": self.idempotency_key,
            "version": self.version,
            "payload": self.payload,
            "hash": self.hash,
            "at": iso(self.at_us),
            "voided": self.is_voided,
        }


class Ledger:
    """Writes belong inside `Store.transaction`; `now_us` is the twin's wall clock."""

    def __init__(self, store: Store) -> None:
        self._db = store.db

    def add(
        self, object_name: str, key: str, payload: object, now_us: int, *, identity: str, idempotency_key: str | None
    ) -> Effect:
        """Record a new effect and return it."""
        text = canonical(payload)
        digest = _digest(text)
        same, standing = self._like(object_name, identity)
        version = self._tally(object_name, key, "effects") + 1
        cursor = self._db.execute(
            "INSERT INTO effects (object, key, identity, idempotency_key, version, payload, hash, at_us)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (object_name, key, identity, idempotency_key, version, text, digest, now_us),
        )
        seq = int(cursor.lastrowid or 0)
        more = {"received": 1, "effects": 1, "duplicates": int(same > 0), "standing_duplicates": int(standing > 0)}
        self._bump(object_name, key, more, digest, seq)
        return Effect(seq, object_name, key, idempotency_key, version, payload, digest, now_us, None)

    def upsert(self, object_name: str, key: str, payload: object, now_us: int, idempotency_key: str | None) -> bool:
        """Record an upsert; whether it changed anything, which alone makes it an effect.

        Changing a thing back is a change, so no upsert is ever a duplicate.
        """
        digest = payload_hash(payload)
        row = self._db.execute(
            "SELECT last_hash, effects FROM tallies WHERE object = ? AND key = ?", (object_name, key)
        ).fetchone()
        if row is not None and row["last_hash"] == digest:
            self.repeat(object_name, key)
            return False
        identity = f"{key} {0 if row is None else row['effects']}"
        self.add(object_name, key, payload, now_us, identity=identity, idempotency_key=idempotency_key)
        return True

    def repeat(self, object_name: str, key: str) -> None:
        """Count something that was received and changed nothing."""
        self._bump(object_name, key, {"received": 1})

    def void(self, effect: Effect, now_us: int) -> None:
        """Take an effect back; a second time changes nothing."""
        row = self._db.execute("SELECT identity, voided_us FROM effects WHERE seq = ?", (effect.seq,)).fetchone()
        if row is None or row["voided_us"] is not None:
            return
        _, standing = self._like(effect.object_name, row["identity"])
        self._db.execute("UPDATE effects SET voided_us = ? WHERE seq = ?", (now_us, effect.seq))
        self._bump(effect.object_name, effect.key, {"voided": 1, "standing_duplicates": -int(standing > 1)})

    def find(self, object_name: str, *, key: str | None = None, identity: str | None = None) -> list[Effect]:
        """The effects of one business key or one identity, in order."""
        column, value = ("key", key) if key is not None else ("identity", identity)
        rows = self._db.execute(
            f"SELECT * FROM effects WHERE object = ? AND {column} = ? ORDER BY seq",  # noqa: S608 - two known names
            (object_name, value),
        )
        return [_effect(row) for row in rows]

    def at(self, object_name: str, seq: int) -> Effect | None:
        """The effect with this number, if the twin has it."""
        row = self._db.execute("SELECT * FROM effects WHERE seq = ? AND object = ?", (seq, object_name)).fetchone()
        return None if row is None else _effect(row)

    def log(self, object_name: str, key: str | None, after: int, limit: int) -> list[Effect]:
        """Effects in the order in which they happened, after a number, of one key or of all."""
        mine, values = ("AND key = ?", [key]) if key is not None else ("", [])
        rows = self._db.execute(
            f"SELECT * FROM effects WHERE object = ? AND seq > ? {mine} ORDER BY seq LIMIT ?",  # noqa: S608
            (object_name, after, *values, limit),
        )
        return [_effect(row) for row in rows]

    def tallies(self, object_name: str, after: str, limit: int) -> list[dict[str, Any]]:
        """What is counted of each business key after `after`, in key order."""
        rows = self._db.execute(
            "SELECT key, received, effects, duplicates, standing_duplicates, voided, last_hash, last_seq"
            " FROM tallies WHERE object = ? AND key > ? ORDER BY key LIMIT ?",
            (object_name, after, limit),
        )
        return [dict(row) for row in rows]

    def totals(self) -> dict[str, Any]:
        """The counts of all objects, and of each."""
        objects = {
            row["object"]: {name: row[name] for name in COUNTS}
            for row in self._db.execute("SELECT * FROM totals ORDER BY object")
        }
        return {name: sum(counts[name] for counts in objects.values()) for name in COUNTS} | {"objects": objects}

    def _tally(self, object_name: str, key: str, column: str) -> int:
        row = self._db.execute("SELECT * FROM tallies WHERE object = ? AND key = ?", (object_name, key)).fetchone()
        return 0 if row is None else int(row[column])

    def _like(self, object_name: str, identity: str) -> tuple[int, int]:
        """How many effects have this identity, and how many of them are not voided."""
        row = self._db.execute(
            "SELECT count(*), count(*) - count(voided_us) FROM effects WHERE object = ? AND identity = ?",
            (object_name, identity),
        ).fetchone()
        return int(row[0]), int(row[1])

    def _bump(
        self, object_name: str, key: str, more: Mapping[str, int], last_hash: str | None = None, seq: int | None = None
    ) -> None:
        is_new = self._tally(object_name, key, "received") == 0
        counts = {name: more.get(name, 0) for name in COUNTS} | {"keys": int(is_new)}
        place = {"object": object_name, "key": key, "last_hash": last_hash, "last_seq": seq}
        self._db.execute(_BUMP_TALLY, {**counts, **place})
        self._db.execute(_BUMP_TOTALS, {**counts, "object": object_name})


def _effect(row: sqlite3.Row) -> Effect:
    return Effect(
        seq=row["seq"],
        object_name=row["object"],
        key=row["key"],
        idempotency_key=row["idempotency_key"],
        version=row["version"],
        payload=orjson.loads(row["payload"]),
        hash=row["hash"],
        at_us=row["at_us"],
        voided_us=row["voided_us"],
    )
