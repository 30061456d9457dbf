"""What a demonstration shows: live on a terminal, line by line anywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tideover.cli.printing import table
from tideover.hub.overview import Overview
from tideover.policy.breaker import State


@dataclass
class Screen:
    """The stage. `say` tells what happens; `view` and `received` are what the hub and the other ends know now."""

    console: Console
    view: Overview | None = None
    received: dict[str, int] = field(default_factory=dict)
    duplicated: dict[str, int] = field(default_factory=dict)
    act: str = ""
    _lines: list[tuple[float, str]] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _live: Live | None = None
    _pulse: str = ""

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=8, get_renderable=self._render, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            for at, line in self._lines:
                self.console.print(_stamped(at, line))

    def begin(self, act: str) -> None:
        """Announce an act."""
        self.act = act
        self.say(f"[bold cyan]{act}[/]")

    def say(self, line: str) -> None:
        """Tell one thing that happened."""
        at = time.monotonic() - self._began
        self._lines.append((at, line))
        if self._live is None:
            self.console.print(_stamped(at, line))

    def pulse(self, line: str) -> None:
        """Say what is being waited for; on a terminal it replaces what was said before."""
        if line != self._pulse:
            self._pulse = line
            if self._live is None and line:
                self.say(f"[dim]{line}[/]")

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _render(self) -> RenderableType:
        pieces: list[RenderableType] = [Text.from_markup(f"[bold]tideover[/]  {self.elapsed_s:5.1f} s   {self.act}")]
        if self.view is not None:
            pieces.append(flows_table(self.view, self.received))
        pieces.extend(_stamped(at, line) for at, line in self._lines[-12:])
        if self._pulse:
            pieces.append(Text(f"        … {self._pulse}", style="dim"))
        return Panel(Group(*pieces), border_style="cyan")


def _stamped(at: float, line: str) -> Text:
    return Text.from_markup(f"[dim]{at:6.1f}s[/] {line}")


def flows_table(view: Overview, received: dict[str, int]) -> Table:
    """A row per route: what was accepted, what waits, what the other end holds."""
    counts = ("accepted", "delivered", "waiting", "parked", "target holds")
    rows = table(("route", "target", "breaker", *counts), right=counts, wide=("breaker",))
    for figures in view.routes:
        status = figures.status
        waiting = Text(str(status.waiting), "yellow" if status.waiting else "")
        rows.add_row(
            status.route, figures.target, Text.from_markup(_breakers(view, figures.target)), str(status.staged),
            str(status.delivered), waiting, str(status.parked), str(received.get(figures.target, 0)),
        )  # fmt: skip
    return rows


def _breakers(view: Overview, target: str) -> str:
    """The state of a system's breaker; of a group, the provider that serves and those that are out."""
    group = next((group for group in view.groups if group.name == target), None)
    if group is not None:
        out = ", ".join(f"[red]{p.system} {p.trust.phase.value}[/]" for p in group.out)
        return f"[green]{group.serving or 'none'}[/]" + (f" ({out})" if out else "")
    state = view.systems[target].state
    return f"[{'green' if state is State.CLOSED else 'red'}]{state.value}[/]"


def verdict(rows: Sequence[tuple[str, str]], *, is_good: bool) -> Panel:
    """The last screen."""
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in rows:
        grid.add_row(f"[bold]{name}[/]", value)
    title = "[bold green]nothing lost, nothing done twice[/]" if is_good else "[bold red]the books do not balance[/]"
    return Panel(grid, title=title, border_style="green" if is_good else "red", expand=False)
