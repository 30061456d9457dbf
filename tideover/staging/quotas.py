"""What each system's limits still let through, as rows that all workers share.

One row for each limit of a system, locked by the claim that reads it until its transaction ends: two workers never
spend the same quota. Calls that no claim knew of, such as look-ups and probes, are spent after the fact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import text

from tideover.model import SECOND_US, instant
from tideover.policy.quota import (
    UNUSED,
    LimitRule,
    Use,
    after,
    backlog_part,
    current,
    left,
    limit_wait_us,
    still_counts,
)
from tideover.staging import schema
from tideover.staging.database import Transaction
from tideover.staging.systems import Gate


class Quotas:
    """How many records each system may still get, in one claim's transaction. A system without a limit is not in it."""

    def __init__(self, tx: Transaction, rules: Mapping[str, LimitRule]) -> None:
        self._now_us, self._rules = tx.now_us, rules
        self._uses = _locked(tx, rules)
        # By whether they are live. Counted down: many small steps would be rounded to one record less than a large one.
        self._left = {is_live: self._now(is_live) for is_live in (True, False)}
        self._spent = dict.fromkeys(rules, 0)
        self._aside: dict[str, int] = {}

    def _now(self, is_live: bool) -> dict[str, int]:
        found = {n: left(rule, self._uses[n], self._now_us, is_live=is_live) for n, rule in self._rules.items()}
        return {name: count for name, count in found.items() if count is not None}

    def limits(self, system: str) -> bool:
        """Whether a system has any limit."""
        return system in self._rules

    def left(self, system: str, wanted: int, *, is_live: bool = True) -> int:
        """How many of so many records may go now. `is_live`: they are no backlog."""
        if system not in self._left[is_live]:
            return wanted
        spare = self._left[is_live][system] - self._spent[system] - self._aside.get(system, 0)
        return max(min(spare, wanted), 0)

    def set_aside(self, is_on: bool) -> None:
        """Keep a part of what is left out of `left`: the backlog's share, while live traffic is looked for."""
        self._aside = {}
        if is_on:
            spare = {name: self.left(name, count) for name, count in self._left[True].items()}
            self._aside = {name: backlog_part(self._now_us, count) for name, count in spare.items()}

    def spend(self, system: str, records: int) -> None:
        if system in self._rules:
            self._spent[system] += records

    def _after(self, system: str) -> Mapping[str, Use]:
        return after(self._rules[system], self._uses[system], self._now_us, self._spent[system])

    def wait_s(self, *, is_live: bool = True) -> float:
        """How long until a system that may get nothing more now may get another record; 0 where there is none."""
        waits = [limit_wait_us(self._rules[n], self._after(n), self._now_us, is_live=is_live) for n in self._rules]
        return min((wait for wait in waits if wait > 0), default=0) / SECOND_US

    @property
    def used_up(self) -> dict[str, UsedUp]:
        """The systems whose budget is used up."""
        found = {name: _used_up(rule, self._after(name), self._now_us) for name, rule in self._rules.items()}
        return {name: it for name, it in found.items() if it is not None}

    def write(self, tx: Transaction) -> None:
        for system in sorted(name for name, records in self._spent.items() if records):
            uses = self._after(system)
            _write(tx, system, {name: uses[name] for name in self._rules[system].names})


def spend(tx: Transaction, system: str, rule: LimitRule | None, records: int) -> None:
    """Count calls that no claim knew of."""
    if rule is not None and records:
        _add(tx, system, rule, records)


def give_back(tx: Transaction, system: str, rule: LimitRule | None, unmade: Sequence[tuple[int, int]]) -> None:
    """Take off calls that were claimed, and then not made. `unmade`: when, and how many."""
    if rule is not None and (records := sum(count for at_us, count in unmade if still_counts(rule, at_us, tx.now_us))):
        _add(tx, system, rule, -records)


def _add(tx: Transaction, system: str, rule: LimitRule, records: int) -> None:
    uses = _locked(tx, {system: rule})[system]
    changed = after(rule, uses, tx.now_us, records)
    _write(tx, system, {name: use for name, use in changed.items() if uses.get(name) != use})


@dataclass(frozen=True, slots=True)
class UsedUp:
    """A budget of which nothing is left. `per`: day or month; `until_us`: when it begins anew."""

    per: str
    until_us: int


def used_up(tx: Transaction, rules: Mapping[str, LimitRule]) -> dict[str, UsedUp]:
    """The systems whose budget is used up. Looking changes nothing, and waits for nobody."""
    uses = _read(tx, [name for name, rule in rules.items() if rule.budget is not None])
    found = {name: _used_up(rule, uses.get(name, {}), tx.now_us) for name, rule in rules.items()}
    return {name: it for name, it in found.items() if it is not None}


def shut(gates: Mapping[str, Gate], used_up: Mapping[str, UsedUp], now_us: int) -> dict[str, Gate]:
    """The gates of those systems, as people should see them. A system that is down stays what it is."""
    return {
        name: replace(
            gates[name],
            is_paused=True,
            wait_s=max(gates[name].wait_s, (it.until_us - now_us) / SECOND_US),
            pause=f"its quota of the {it.per} is used up until {_at(it.until_us, now_us)} UTC",
        )
        for name, it in used_up.items()
        if gates[name].lets_through
    }


def _at(us: int, now_us: int) -> str:
    shown = instant(us)
    return f"{shown:%H:%M}" if us - now_us < 86_400 * SECOND_US else f"{shown:%Y-%m-%d %H:%M}"


def _used_up(rule: LimitRule, uses: Mapping[str, Use], now_us: int) -> UsedUp | None:
    if rule.budget is None:
        return None
    use = current(rule.budget, uses.get(rule.budget.name, UNUSED), now_us)
    return UsedUp(rule.budget.per, use.until_us) if use.used >= rule.budget.records else None


def _locked(tx: Transaction, rules: Mapping[str, LimitRule]) -> dict[str, dict[str, Use]]:
    """The uses of these systems' limits, locked in one order by all; a limit that was never used gets its row first."""
    wanted = {(system, name) for system, rule in rules.items() for name in rule.names}
    if not wanted:
        return {system: {} for system in rules}
    uses = _read(tx, rules, lock=tx.dialect.for_update)
    missing = wanted - {(system, name) for system, names in uses.items() for name in names}
    if missing:
        rows = [(system, name, 0, 0) for system, name in sorted(missing)]
        tx.dialect.insert(tx.conn, schema.quota, _COLUMNS, rows, "on conflict (system, name) do nothing")
        uses = _read(tx, rules, lock=tx.dialect.for_update)
    return {system: uses.get(system, {}) for system in rules}


_COLUMNS = ("system", "name", "used", "until_us")


def _read(tx: Transaction, systems: Collection[str], lock: str = "") -> dict[str, dict[str, Use]]:
    if not systems:
        return {}
    bound = {f"s{n}": name for n, name in enumerate(sorted(systems))}
    rows = tx.conn.execute(
        text(
            "select system, name, used, until_us, parts from quota "
            f"where system in ({', '.join(f':{s}' for s in bound)}) order by system, name {lock}"
        ),
        bound,
    )
    found: dict[str, dict[str, Use]] = {}
    for system, name, used, until_us, parts in rows:
        found.setdefault(system, {})[name] = Use(int(used), int(until_us), _decoded(parts))
    return found


def _encoded(parts: Sequence[tuple[int, int]]) -> str:
    """Counted from the first part on: `180000 0:3 1:20 4:1`."""
    first = parts[0][0] if parts else 0
    return " ".join([str(first), *(f"{part - first}:{count}" for part, count in parts)]) if parts else ""


def _decoded(stored: str) -> tuple[tuple[int, int], ...]:
    first, *rest = stored.split() or ["0"]
    pairs = (pair.split(":") for pair in rest)
    return tuple((int(first) + int(part), int(count)) for part, count in pairs)


def _write(tx: Transaction, system: str, uses: Mapping[str, Use]) -> None:
    for name, use in sorted(uses.items()):
        tx.conn.execute(
            text(
                "update quota set used = :used, until_us = :until, parts = :parts "
                "where system = :system and name = :name"
            ),
            {
                "used": use.used,
                "until": use.until_us,
                "parts": _encoded(use.parts),
                "system": system,
                "name": name,
            },
        )
