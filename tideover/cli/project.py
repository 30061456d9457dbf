"""`tideover init`: a new project, from the Prefect project that ships with tideover and a small hub to begin with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from tideover.cli.frame import Cli
from tideover.cli.prefect_project import FOLDERS
from tideover.cli.printing import console, line
from tideover.errors import Refused

PACKAGE = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).resolve().parent / "template"
SCHEMA = "hub.schema.json"
# What a file of the template is called in the project.
FILES = {"hub.yaml": "hub.yaml", "blocks.yaml": "blocks.yaml", "mappings.py": "mappings.py", "gitignore": ".gitignore"}

NEXT = (
    ("tideover check", "what the hub's file means, and what is wrong with it"),
    ("tideover twins", "simulated systems, in a terminal of their own"),
    ("tideover twins seed orders 100", "something to carry"),
    ('export PREFECT_HOME="$PWD/.tideover/prefect"', "in every terminal: Prefect's own files, beside the hub's"),
    ("python -m deployments.server", "Prefect's, in a terminal of its own; then, in the others:"),
    ("export PREFECT_API_URL=http://127.0.0.1:4200/api", ""),
    ("tideover blocks apply blocks.yaml", "addresses and secrets, into Prefect's blocks"),
    ("tideover deploy", "the hub, into Prefect's deployments"),
    ("export PREFECT_WORKER_QUERY_SECONDS=2", "so that the worker looks for runs more often than every 10 s"),
    ("python -m prefect worker start --pool tideover", "in a terminal of its own"),
    ("python -m prefect deployment run sync/orders-to-erp", ""),
    ("tideover status --watch", "and now break something: tideover twins fault erp hang"),
)


def init(
    cli: Cli,
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where; made if it is not there.")] = Path(),
) -> None:
    """Lay a new project: the Prefect flows, and a hub with one route between two simulated systems.

    Nothing that is there is overwritten.

    JSON: folder, created [name].
    """
    created = lay_project(folder)
    if cli.as_json:
        cli.write_json({"folder": str(folder.absolute()), "created": created})
        return
    out = console()
    out.print(line(("a new project is in ", "bold green"), (folder.absolute(), "bold green")), soft_wrap=True)
    out.print(line((", ".join(created), "dim")), soft_wrap=True)
    out.print()
    out.print(line(("next", "bold")))
    if folder.absolute() != Path.cwd():
        out.print(line(f"  cd {folder}"), soft_wrap=True)
    for command, why in NEXT:
        out.print(line(f"  {command:<52}" if why else f"  {command}", (why, "dim")), soft_wrap=True)


def lay_project(folder: Path) -> list[str]:
    """Lay a new project into a folder, which is made where needed; the names of what is new in it.

    Raises `Refused`, before anything is written, when one of them is there already.
    """
    origin = project_source()
    names = [*FOLDERS, *FILES.values(), SCHEMA]
    try:
        is_other = folder.exists() and not folder.is_dir()
        there = [name for name in names if (folder / name).exists()]
    except OSError as error:  # a name that is too long, a folder that can't be looked into
        raise Refused(f"{folder} can't be used: {error.strerror}; name another folder") from error
    if is_other:
        raise Refused(f"{folder} is a file; name a folder")
    if there:
        raise Refused(
            f"{folder.absolute()} has {', '.join(there)} already, and nothing is overwritten: name another folder"
        )
    try:
        _copy(origin, folder)
    except OSError as error:
        raise Refused(f"{error.filename or folder} can't be written: {error.strerror}") from error
    return names


def _copy(origin: Path, folder: Path) -> None:
    from tideover.config.schema import json_schema

    folder.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        shutil.copytree(origin / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name, wanted in FILES.items():
        shutil.copyfile(TEMPLATE / name, folder / wanted)
    (folder / SCHEMA).write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")


def project_source() -> Path:
    """Where the Prefect project's folders are: in the wheel as data, else in the repository that we run from."""
    for place in (PACKAGE / "project", PACKAGE.parent):
        if all((place / name).is_dir() for name in FOLDERS):
            return place
    raise Refused("this installation of tideover lacks the Prefect project's folders: install it again")
