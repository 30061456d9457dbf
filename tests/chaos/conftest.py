"""The scene on both databases, and on a PostgreSQL server that a test may stop."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import report
from tests.chaos.processes import PostgresServer
from tests.chaos.scene import KILLS, SECONDS, SEED, Scene, open_scene


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos: kills and freezes real processes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.chaos)
            item.add_marker(pytest.mark.timeout(180 + 3 * SECONDS))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CHAOS_REPORT") and report.CHRONICLE.stories:
        report.write({"KILLS": KILLS, "SECONDS": f"{SECONDS:g}", "SEED": SEED})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    told: pytest.TestReport = yield
    if told.when == "call" or told.outcome != "passed":
        report.CHRONICLE.now.outcome = told.outcome
    return told


@pytest.fixture(autouse=True)
def _story(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the report tells of this test."""
    item: Any = request.node
    of_file = "sqlite" if "file" in item.originalname or "disk" in item.originalname else "postgresql"
    database = item.callspec.params.get("database_url", of_file) if hasattr(item, "callspec") else of_file
    story = report.CHRONICLE.begin(item.originalname, database)
    began = time.monotonic()
    yield
    story.seconds = round(time.monotonic() - began, 1)


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
