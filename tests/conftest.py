"""Fixtures that every kind of test may use."""

from __future__ import annotations

import pytest

from tests.databases import database_url, postgres

__all__ = ["database_url", "postgres"]

# What each process that runs tests would have to make anew: a Prefect server, an environment with the wheel.
ONE_PROCESS = ("prefect", "packaging")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in ONE_PROCESS:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.xdist_group(marker))
