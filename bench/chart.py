"""A run as a picture: what each target asks and what came, and the systems side by side. Plain SVG, no library: two bar
charts and their words need no more than this, and the file shows wherever Markdown does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from bench.figures import Figure, shown

WIDTH, LEFT, RIGHT = 1120, 530, 130
ROW, BAR, HEAD = 24, 14, 64
FONT = "font-family='ui-sans-serif, system-ui, Helvetica, Arial, sans-serif'"
INK, FAINT, GRID = "#1f2933", "#6b7785", "#e3e8ed"
GOOD, BAD, OURS, THEIRS, FLOOR = "#2a9d6f", "#d1495b", "#2563a8", "#a9b8c9", "#d9c58b"
LONGEST = 84  # letters of a label
FURTHEST = 8.0  # times the target; what is further is drawn as that


def svg(title: str, figures: Sequence[Figure]) -> str:
    """The whole picture."""
    parts, y = [_text(24, 34, title, size=19, weight=600, fill=INK)], 56
    for draw in (_targets, _systems):
        piece, y = draw(figures, y)
        parts += piece
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {y}' width='{WIDTH}' height='{y}' {FONT}>"
    return "\n".join([head, f"<rect width='{WIDTH}' height='{y}' fill='#ffffff'/>", *parts, "</svg>"]) + "\n"


# --- targets --------------------------------------------------------------------------------------------------


def _targets(figures: Sequence[Figure], y: int) -> tuple[list[str], int]:
    """A bar for each: how many times as good as the target; 1 is the target itself, on a scale of powers of two."""
    rows = [figure for figure in figures if figure.is_met is not None]
    if not rows:
        return [], y
    parts = [*_heading(y, "Targets", "to the right of the line: it holds, by so many times")]
    top, y = y + HEAD, y + HEAD
    middle, unit = LEFT + 210, 210 / math.log2(FURTHEST)
    for factor in (1 / 8, 1 / 4, 1 / 2, 2, 4, 8):
        at = middle + unit * math.log2(factor)
        parts.append(_line(at, top - 6, at, top + ROW * len(rows), GRID))
        parts.append(_text(at, top - 12, f"{factor:g} x" if factor >= 1 else f"1/{1 / factor:g}", anchor="middle"))
    for figure in rows:
        length = unit * math.log2(min(max(_goodness(figure), 1 / FURTHEST), FURTHEST))
        colour = GOOD if figure.is_met else BAD
        parts.append(_label(y, f"{figure.what}{_of(figure)}"))
        parts.append(_bar(middle + min(length, 0.0), y, max(abs(length), 2.0), colour))
        words = f"{_value(figure)} ({figure.target})"
        parts.append(_text(WIDTH - 20, y + 15, words, anchor="end", fill=INK if figure.is_met else BAD))
        y += ROW
    parts.append(_line(middle, top - 6, middle, y, INK, width=1.5))
    return parts, y + 24


def _goodness(figure: Figure) -> float:
    """How many times as good as the target."""
    assert figure.value is not None
    assert figure.bound is not None
    if figure.target.startswith(">="):
        return figure.value / figure.bound if figure.bound else FURTHEST
    if figure.value <= 0:
        return FURTHEST if figure.bound else 1.0
    return figure.bound / figure.value


# --- systems side by side -------------------------------------------------------------------------------------


def _systems(figures: Sequence[Figure], y: int) -> tuple[list[str], int]:
    """Records a second, a group for each kind of work, on a logarithmic scale."""
    rows = [f for f in figures if f.bench == "peers" and f.unit == "records/s" and f.value]
    parts: list[str] = []
    for group in dict.fromkeys(figure.what.partition(": ")[0] for figure in rows):
        members = [figure for figure in rows if figure.what.startswith(f"{group}: ")]
        members.sort(key=lambda figure: -(figure.value or 0))
        piece, y = _group(group, members, y)
        parts += piece
    return parts, y


def _group(name: str, rows: Sequence[Figure], y: int) -> tuple[list[str], int]:
    values = [figure.value or 1.0 for figure in rows]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    unit = (WIDTH - RIGHT - LEFT) / max(high - low, 1)
    parts = [*_heading(y, f"{name[0].upper()}{name[1:]}", "records a second, median; each step is ten times as many")]
    top, y = y + HEAD, y + HEAD
    for power in range(low, high + 1):
        at = LEFT + unit * (power - low)
        parts.append(_line(at, top - 6, at, top + ROW * len(rows), GRID))
        parts.append(_text(at, top - 12, f"{10**power:,}", anchor="middle"))
    for figure, value in zip(rows, values, strict=True):
        whose = figure.what.partition(": ")[2]
        is_floor = "limit" in whose or "bare" in whose
        colour = OURS if whose == "tideover" else FLOOR if is_floor else THEIRS
        parts.append(_label(y, f"{whose}{_of(figure)}", weight=600 if whose == "tideover" else 400))
        parts.append(_bar(LEFT, y, max(unit * (math.log10(value) - low), 2.0), colour))
        parts.append(_text(WIDTH - 20, y + 15, shown(value), anchor="end", fill=INK))
        y += ROW
    return parts, y + 24


# --- pieces ---------------------------------------------------------------------------------------------------


def _heading(y: int, title: str, words: str) -> tuple[str, str]:
    return _text(24, y + 24, title, size=15, weight=600, fill=INK), _text(24, y + 42, words)


def _label(y: int, words: str, weight: int = 400) -> str:
    words = words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"
    return _text(LEFT - 12, y + 15, words, anchor="end", fill=INK, weight=weight)


def _of(figure: Figure) -> str:
    return "" if figure.database == "-" else f", {'PostgreSQL' if figure.database == 'postgresql' else 'SQLite'}"


def _value(figure: Figure) -> str:
    assert figure.value is not None
    return f"{shown(figure.value)} {figure.unit}"


def _text(
    x: float, y: float, words: str, *, size: int = 12, weight: int = 400, anchor: str = "start", fill: str = FAINT
) -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' font-size='{size}' font-weight='{weight}'"
    return f"<text {place} text-anchor='{anchor}' fill='{fill}'>{escape(words)}</text>"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> str:
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' stroke-width='{width}'/>"


def _bar(x: float, y: float, length: float, colour: str) -> str:
    at = f"x='{x:.1f}' y='{y + (ROW - BAR) / 2:.1f}' width='{length:.1f}' height='{BAR}'"
    return f"<rect {at} rx='2' fill='{colour}'/>"
