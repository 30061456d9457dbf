"""Who said so, and why: what an operator's word leaves behind for those who read it later."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from tideover.errors import Refused

WhyOption = Annotated[
    str, typer.Option("--why", metavar="TEXT", help="The reason, for those who read it later.", show_default=False)
]
AuthorOption = Annotated[
    str | None,
    typer.Option("--author", metavar="NAME", help="Who says so. Default: the user at work.", show_default=False),
]


def reason(why: str) -> str:
    """The reason as it is kept. Raises `Refused` for an empty one."""
    if not why.strip():
        raise Refused("--why needs a reason")
    return why.strip()


def signature(author: str | None) -> str:
    """Who says so: as given, else the user of the operating system. Raises `Refused` where that has no name."""
    if author and author.strip():
        return author.strip()
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise Refused("this process has no user's name: say who you are with --author") from None
