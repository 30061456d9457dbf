"""Telling Prefect at once what an operator did, so that its automations need not wait for the next run.

Best effort: what can't be handed over now stays in the outbox, and the next run announces it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tideover.cli.frame import Cli
from tideover.errors import TideoverError

if TYPE_CHECKING:
    from tideover.hub.runtime import Runtime


async def announce(cli: Cli, rt: Runtime) -> None:
    """Hand over what nobody has announced yet. Imports Prefect only where there is something to tell, and to whom."""
    if not await rt.store.unannounced(1):
        return
    if not _knows_an_api():
        cli.note(("Prefect is told by the next run: PREFECT_API_URL is not set here", "dim"))
        return
    from tideover.cli.prefect_project import find_project, load

    try:
        announce_now = load(find_project(cli.hub_file), "tasks.announcing").announce_now
    except (ImportError, TideoverError):
        cli.note(("Prefect is told by the next run: its project is not here", "dim"))
        return
    if not await announce_now(rt):
        cli.note(("Prefect does not answer: it is told by the next run", "yellow"))


def _knows_an_api() -> bool:
    """Whether Prefect may have been told where its API is: by the environment, a file here, or a profile."""
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    return bool(os.environ.get("PREFECT_API_URL")) or profiles.is_file() or Path("prefect.toml").is_file()
