"""Errors as people read them: one red message, and for a mistake in a file its line with a caret under the place.

error: there is no system "erpp" (did you mean `erp`?)
  --> hub.yaml:24:22  routes.orders-to-erp.target.system
 24 |     target: {system: erpp, operation: create-order}
    |                      ^
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.text import Text

from tideover.cli.frame import Cli
from tideover.cli.printing import console, line, plain
from tideover.errors import ConfigError, Problem, TideoverError
from tideover.model import JsonObject

RED, YELLOW, DIM = "bold red", "bold yellow", "dim"
PACKAGE = Path(__file__).resolve().parents[1]
LONGEST = 160  # characters of a source line that are shown

# What somebody may have written into a file where it does not belong; a log of ours must not keep it.
_SECRETS = re.compile(
    r"""(?ix) (?<= ://) [^/@\s"']+ : [^/@\s"']+ (?= @)
    | (?: (?:token|secret|password|passphrase|authorization|literal|api[_-]?key) ["']? \s* : \s* )
      (?P<value> [^,}\]\s] [^,}\]]* )"""
)


def tell(cli: Cli, error: TideoverError) -> int:
    """Show an error that tideover raised on purpose; its exit code."""
    _trace(cli)
    problems = error.problems if isinstance(error, ConfigError) else []
    if cli.as_json:
        content: JsonObject = {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
        cli.write_json({"error": content | ({"problems": [as_json(p) for p in problems]} if problems else {})})
    if problems:
        show_problems(cli, problems, "error")
    else:
        cli.note(("error: ", RED), str(error))
    return error.exit_code


def tell_defect(cli: Cli, error: Exception) -> int:
    """Show an error that nobody foresaw, without its text, which may quote a record; exit code 1."""
    _trace(cli)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    message = f"a defect in tideover: {type(error).__name__} at {where}"
    if cli.as_json:
        cli.write_json({"error": {"kind": "Defect", "message": message, "exit_code": 1}})
    cli.note(("error: ", RED), f"{message}; please report it with what `--debug` shows")
    return 1


def _trace(cli: Cli) -> None:
    if cli.debug:
        traceback.print_exc(file=sys.stderr)


def as_json(problem: Problem) -> JsonObject:
    """A problem with the keys file, line, column, key, what, mend."""
    return {name: getattr(problem, name) for name in ("file", "line", "column", "key", "what", "mend")}


def show_problems(cli: Cli, problems: Sequence[Problem], word: str) -> None:
    """Write problems to standard error, each with its place. `word` is `error` or `warning`.

    Lines are quoted of the hub's file and of presets only: a file of blocks holds secrets wherever somebody put them.
    """
    err, lines, hub_file = console(stderr=True), _Lines(), cli.hub_file
    for problem in problems:
        file = Path(problem.file).absolute()
        is_quotable = file == hub_file or file.is_relative_to(PACKAGE)
        for text in explained(_near(problem), word, lines.of(problem) if is_quotable else None):
            err.print(text, soft_wrap=True)
        err.print()


def _near(problem: Problem) -> Problem:
    """The problem with its file as seen from the working directory, where that is shorter."""
    try:
        near = os.path.relpath(problem.file)
    except ValueError:  # another drive
        return problem
    return replace(problem, file=near) if len(near) < len(problem.file) else problem


def explained(problem: Problem, word: str, source: str | None) -> list[Text]:
    """A problem as lines. `source` is the line that it is in, where that may be shown."""
    colour = RED if word == "error" else YELLOW
    mend = f" ({problem.mend})" if problem.mend else ""
    told = [line((f"{word}: ", colour), (problem.what, "bold"), (mend, "green"))]
    if not problem.line:
        return [*told, line(("  --> ", DIM), "  ".join(part for part in (problem.file, problem.key) if part))]
    told.append(line(("  --> ", DIM), f"{problem.file}:{problem.line}:{problem.column}", (f"  {problem.key}", DIM)))
    if source is not None:
        at = str(problem.line)
        shown, column = _window(source, problem.column)
        told.append(line((f"  {at} | ", DIM), shown))
        told.append(line((f"  {' ' * len(at)} | ", DIM), (" " * (column - 1) + "^", colour)))
    return told


def _window(source: str, column: int) -> tuple[str, int]:
    """The part of a line around a column that fits, and the column in it."""
    start = max(column - LONGEST // 2, 0) if len(source) > LONGEST else 0
    return source[start : start + LONGEST], column - start


class _Lines:
    """The lines of the files that problems are in, each file read once, with secrets covered."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}

    def of(self, problem: Problem) -> str | None:
        if problem.file not in self._files:
            self._files[problem.file] = _read_lines(problem.file)
        lines = self._files[problem.file]
        return lines[problem.line - 1] if 0 < problem.line <= len(lines) else None


def _read_lines(file: str) -> list[str]:
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return []
    return [covered(plain(one)) for one in re.split(r"\r\n|[\r\n\x85\u2028\u2029]", text)]


def covered(source: str) -> str:
    """A line of a file with a star for each character of what looks like a secret."""

    def stars(match: re.Match[str]) -> str:
        start = match.start("value") - match.start() if match["value"] is not None else 0
        return match[0][:start] + "*" * (len(match[0]) - start)

    return _SECRETS.sub(stars, source)
