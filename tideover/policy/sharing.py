"""How workers share what a system takes of calls at once. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def fair_shares(cap: int, wanted: Mapping[str, int], turn: int = 0) -> dict[str, int]:
    """How many calls each worker may have under way: as many as it wants, or else as many as the others who want more
    (max-min fairness). What can't be divided, or a cap below the number of workers, goes round with `turn`.
    """
    shares = dict.fromkeys(wanted, 0)
    names = sorted(wanted)
    start = turn % len(names) if names else 0
    hungry = [name for name in names[start:] + names[:start] if wanted[name] > 0]
    left = cap
    while hungry and left > 0:
        level = max(left // len(hungry), 1)
        for name in hungry:
            more = min(level, wanted[name] - shares[name], left)
            shares[name] += more
            left -= more
        hungry = [name for name in hungry if shares[name] < wanted[name]]
    return shares
