"""The durable memory of one twin: a SQLite file that a killed and restarted twin opens again.

A twin answers only after its commit. WAL with `synchronous=NORMAL` keeps everything over the death of the process,
and all but the last moments over a power cut, which is not what twins are for. One connection, used from the event
loop's thread: a statement here takes microseconds, and handlers that never yield need no locks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tideover.twins.refusal import TwinRefused

_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS effects (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  object TEXT NOT NULL,
  key TEXT NOT NULL,
  identity TEXT NOT NULL,
  idempotency_key TEXT,
  version INTEGER NOT NULL,
  payload BLOB NOT NULL,
  hash TEXT NOT NULL,
  at_us INTEGER NOT NULL,
  voided_us INTEGER
);
CREATE INDEX IF NOT EXISTS effects_by_key ON effects (object, key, seq);
CREATE INDEX IF NOT EXISTS effects_by_identity ON effects (object, identity);
CREATE TABLE IF NOT EXISTS tallies (
  object TEXT NOT NULL,
  key TEXT NOT NULL,
  received INTEGER NOT NULL DEFAULT 0,
  effects INTEGER NOT NULL DEFAULT 0,
  duplicates INTEGER NOT NULL DEFAULT 0,
  standing_duplicates INTEGER NOT NULL DEFAULT 0,
  voided INTEGER NOT NULL DEFAULT 0,
  last_hash TEXT,
  last_seq INTEGER,
  PRIMARY KEY (object, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (
  object TEXT PRIMARY KEY,
  received INTEGER NOT NULL DEFAULT 0,
  keys INTEGER NOT NULL DEFAULT 0,
  effects INTEGER NOT NULL DEFAULT 0,
  duplicates INTEGER NOT NULL DEFAULT 0,
  standing_duplicates INTEGER NOT NULL DEFAULT 0,
  voided INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (
  key TEXT PRIMARY KEY,
  fingerprint TEXT NOT NULL,
  status INTEGER NOT NULL,
  body BLOB NOT NULL,
  at_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS source (
  object TEXT NOT NULL,
  id TEXT NOT NULL,
  updated_us INTEGER NOT NULL,
  payload BLOB NOT NULL,
  PRIMARY KEY (object, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS source_by_change ON source (object, updated_us, id);
"""


class Store:
    """The open file. `transaction` is the only way to write."""

    def __init__(self, path: Path) -> None:
        """Raises `TwinRefused` where the file can't be made or used."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open(path)
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise TwinRefused(
                500, f"the twins can't keep what they remember in {path}: {reason}; name another folder with --folder"
            ) from error

    def _open(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        try:
            self.db.row_factory = sqlite3.Row
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=NORMAL")
            self.db.executescript(_SCHEMA)
        except BaseException:
            self.db.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One immediate transaction: committed when the block ends, rolled back when it raises."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def setting(self, name: str) -> str | None:
        """A remembered value, or `None`."""
        row = self.db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row["value"])

    def set_setting(self, name: str, value: str) -> None:
        """Remember a value over restarts."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self.db.close()
