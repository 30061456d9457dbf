"""Fixtures that every kind of test may use."""

from __future__ import annotations

from tests.databases import database_url, postgres

__all__ = ["database_url", "postgres"]
