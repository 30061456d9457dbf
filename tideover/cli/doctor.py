"""`tideover version`, and whether what is installed fits together. Asks the installed packages' metadata only."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from importlib import metadata

from tideover.cli.frame import Cli
from tideover.cli.printing import console, line, table
from tideover.errors import Refused

SHOWN = ("prefect", "fastapi", "sqlalchemy", "typer")
# The server of prefect 3.8 does not start on fastapi 0.151 and later, and on SQLAlchemy 2.1 its scheduler fails, so
# that no schedule ever fires: docs/adr/0002-dependencies.md.
PREFECT_THAT_MINDS = (3, 9)
FASTAPI_TOO_NEW = (0, 151)
SQLALCHEMY_TOO_NEW = (2, 1)


def version(cli: Cli) -> None:
    """Show the versions that matter, and whether they fit together.

    JSON: tideover, python, prefect, fastapi, sqlalchemy, typer, problems [text].
    """
    from tideover import __version__

    versions = {"tideover": __version__, "python": platform.python_version()}
    versions |= {name: installed(name) or "not installed" for name in SHOWN}
    problems = check_prefect()
    if cli.as_json:
        cli.write_json({**versions, "problems": problems})
        return
    rows = table(("package", "version"))
    rows.show_header = False
    for name, found in versions.items():
        rows.add_row(name, found)
    out = console()
    out.print(rows)
    out.print()
    for problem in problems:
        out.print(line((problem, "bold red")), soft_wrap=True)
    if not problems:
        out.print(line(("these fit together: a Prefect server can start here", "green")))


def installed(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_prefect(installed: Callable[[str], str | None] = installed) -> list[str]:
    """Why a Prefect server could not start with what is installed, in words with a way out; empty if it can."""
    prefect, fastapi = installed("prefect"), installed("fastapi")
    if prefect is None:
        return ["prefect is not installed: pip install prefect-tideover"]
    if fastapi is None:
        return ["fastapi is not installed, and Prefect's server needs it: pip install 'fastapi<0.151'"]
    if _release(prefect) >= PREFECT_THAT_MINDS:
        return []
    problems = []
    if _release(fastapi) >= FASTAPI_TOO_NEW:
        problems.append(
            f"the server of prefect {prefect} does not start on fastapi {fastapi}: pip install 'fastapi<0.151'"
        )
    sqlalchemy = installed("sqlalchemy") or ""
    if _release(sqlalchemy) >= SQLALCHEMY_TOO_NEW:
        problems.append(
            f"no schedule of prefect {prefect} fires on SQLAlchemy {sqlalchemy}: pip install 'sqlalchemy<2.1'"
        )
    return problems


def need_prefect(cli: Cli) -> None:
    """Raise `Refused` where a server could not start here. With one elsewhere, `PREFECT_API_URL`, only warn."""
    problems = check_prefect()
    if not problems:
        return
    if not os.environ.get("PREFECT_API_URL"):
        raise Refused("; ".join(problems))
    for problem in problems:
        cli.note(("warning: ", "bold yellow"), problem)


def _release(version: str) -> tuple[int, int]:
    """The first two numbers of a version."""
    numbers = re.match(r"(\d+)(?:\.(\d+))?", version)
    return (int(numbers[1]), int(numbers[2] or 0)) if numbers else (0, 0)
