"""Who said so, and why: what an operator's word leaves behind for those who read it later."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from tideover.errors import Refused

MAX_REASON = 500  # characters: it is a cell of every board that tells of it

WhyOption = Annotated[
    str, typer.Option("--why", metavar="TEXT", help="The reason, for those who read it later.", show_default=False)
]
AuthorOption = Annotated[
    str | None,
    typer.Option("--author", metavar="NAME", help="Who says so. Default: the user at work.", show_default=False),
]


def reason(why: str) -> str:
    """The reason as it is kept. Raises `Refused` for an empty one, and for one longer than `MAX_REASON`."""
    kept = why.strip()
    if not kept:
        raise Refused("--why needs a reason")
    if len(kept) > MAX_REASON:
        raise Refused(f"--why has {len(kept):,} characters, more than {MAX_REASON}: say it in short")
    return kept


def signature(author: str | None) -> str:
    """Who says so: as given, else the user of the operating system. Raises `Refused` where that has no name."""
    if author and author.strip():
        return author.strip()
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise Refused("this process has no user's name: say who you are with --author") from None
