"""What autovacuum would have done by the time that a backlog is consumed."""

from __future__ import annotations

import psycopg


def settle_down(dsn: str) -> None:
    """Vacuum and analyse the database's tables."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("vacuum analyze")
