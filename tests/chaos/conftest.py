"""The scene on both databases, and on a PostgreSQL server that a test may stop."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.chaos.processes import PostgresServer
from tests.chaos.scene import SECONDS, Scene, open_scene


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos: kills and freezes real processes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.chaos)
            item.add_marker(pytest.mark.timeout(180 + 3 * SECONDS))


@pytest.fixture
async def scene(tmp_path: Path, database_url: str) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, database_url) as opened:
        yield opened


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of the module's own, so that nobody else misses it.

    Not below pytest's temporary folder: each session that starts closes that to other users, and PostgreSQL, which
    does not run as root, could not be started again.
    """
    with tempfile.TemporaryDirectory(prefix="tideover-postgres-", ignore_cleanup_errors=True) as folder:
        opened = PostgresServer(Path(folder) / "server")
        try:
            yield opened
        finally:
            opened.close()
