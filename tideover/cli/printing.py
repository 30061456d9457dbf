"""How things look: the same words on a terminal and in a pipe, colours and a width only where there is a terminal.

What comes from outside (keys, a vendor's texts) goes through `plain` and into `Text` objects: it may hold terminal
escapes or something that looks like markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tideover.model import SECOND_US, instant

UNWRAPPED = 4_000  # columns of output that nobody's screen wraps
NOTHING = "–"
GIVES_WAY_TO = 12  # columns: narrower, a text that wraps is no easier to read than one below the row
GAP = 2  # columns between cells
INDENT = 2

_SPANS = (("d", 86_400), ("h", 3_600), ("m", 60))


def console(*, stderr: bool = False) -> Console:
    """A console on the present standard output or error. Without a terminal, lines are as long as they are."""
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = UNWRAPPED
    return made


def forgive_encodings() -> None:
    """Where a terminal's encoding lacks a character, show a question mark instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show that something is going on, on standard error and only where that is a terminal."""
    err = console(stderr=True)
    if not err.is_terminal:
        yield
        return
    with err.status(Text(what)):
        yield


def plain(text: object) -> str:
    """One line without anything that a terminal would obey: what can't be printed is shown as an escape."""
    return "".join(c if c.isprintable() else " " if c in "\r\n\t" else repr(c)[1:-1] for c in str(text))


def cell(value: object, style: str = "") -> Text:
    """A table's cell, or a piece of a line."""
    return Text(plain(value), style=style)


def line(*pieces: str | Text | tuple[object, str]) -> Text:
    """One line of pieces, each a text or a pair of text and style."""
    built = Text()
    for piece in pieces:
        if isinstance(piece, tuple):
            built.append(plain(piece[0]), piece[1])
        else:
            built.append(piece if isinstance(piece, Text) else plain(piece))
    return built


class Rows(Table):
    """A table without lines. Where the screen is too narrow for it, each row is its first cell, then `name: value` of
    the others: a figure that is cut says something else."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._least_width() <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            yield from self._stacked([_text(each) for each in cells], options.max_width)
        if self.caption:
            yield Text(str(self.caption), style=self.caption_style or "")

    def _least_width(self) -> int:
        """Columns that the table needs: all of a figure, and at least `GIVES_WAY_TO` of a text that wraps."""
        widths = []
        for column in self.columns:
            longest = max(cell_len(_text(each).plain) for each in (column.header, *column.cells))
            widths.append(longest if column.no_wrap else min(longest, GIVES_WAY_TO))
        return sum(widths) + GAP * (len(widths) - 1)

    def _stacked(self, cells: list[Text], width: int) -> Iterator[RenderableType]:
        title, *others = cells
        if title.plain:
            yield _foldable(title)
        current = Text()
        for column, value in zip(self.columns[1:], others, strict=True):
            if not value.plain:
                continue
            name = _text(column.header).plain
            pair = Text.assemble((f"{name}: ", "dim"), value) if name else value
            if current and INDENT + current.cell_len + GAP + pair.cell_len > width:
                yield Padding(_foldable(current), (0, 0, 0, INDENT), expand=False)
                current = Text()
            current = Text.assemble(current, " " * GAP, pair) if current else pair
        if current:
            yield Padding(_foldable(current), (0, 0, 0, INDENT), expand=False)


def _text(shown: object) -> Text:
    return shown if isinstance(shown, Text) else Text(str(shown))


def _foldable(text: Text) -> Text:
    text.overflow = "fold"
    return text


def table(columns: Sequence[str], *, right: Sequence[str] = (), wide: Sequence[str] = ()) -> Rows:
    """An empty table. `right`: columns of numbers. `wide`: those that give way, and wrap, on a narrow screen."""
    made = Rows(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=name not in wide, overflow="fold")
    return made


def number(count: int) -> str:
    """With separators, as people read it."""
    return f"{count:,}"


def amount(count: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 record`, `2 records`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def span(seconds: float | None) -> str:
    """A duration in at most two units: `120 ms`, `12.3 s`, `2m 13s`, `3h 05m`, `2d 4h`; a dash for None."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    rest = round(seconds)
    for (unit, size), (below, smaller) in zip(_SPANS, (*_SPANS[1:], ("s", 1)), strict=True):
        if rest >= size:
            return f"{rest // size}{unit} {rest % size // smaller:02d}{below}"
    return f"{rest} s"


def moment(us: int) -> str:
    """An instant to the second, in UTC; a dash for 0."""
    return f"{instant(us):%Y-%m-%d %H:%M:%S}" if us else NOTHING


def stamp(us: int) -> str | None:
    """An instant as JSON has it: `2026-01-31T12:00:00.000001Z`; None for 0."""
    return instant(us).isoformat(timespec="microseconds").replace("+00:00", "Z") if us else None


def seconds(value: float | None) -> float | None:
    """A duration as JSON has it: seconds, to the microsecond."""
    return None if value is None else round(value, 6)


def since(now_us: int, then_us: int) -> float | None:
    """Seconds from an instant until now; None for 0."""
    return (now_us - then_us) / SECOND_US if then_us else None
