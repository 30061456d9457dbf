"""Reading what heads hold: the records that may be leased with them, and no more than a claim should weigh.

Small payloads come with their records. The others are weighed first, by their length, which both databases know without
reading them: a thousand lanes of a megabyte each would be a gigabyte in one worker's memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, takewhile
from typing import Any, NamedTuple

from sqlalchemy import text

from tideover.errors import CorruptPayload, MissingKey
from tideover.model import LeasedRecord
from tideover.staging.database import Transaction
from tideover.staging.decisions import Head
from tideover.staging.missing import hold_back
from tideover.staging.sealing import Sealer, is_sealed

MOST_BYTES = 32 * 2**20  # of payloads that are not small, in one claim; a single lane in doubt may have more
SMALL_BYTES = 16 * 2**10  # there are no more than `depth.MOST` records in a claim

Place = tuple[int, int]  # a record's lane and seq


class Reading(NamedTuple):
    """`left`: the heads that were not read. `missing_key`: one that none of those read can do without, if nobody was
    told of it yet."""

    read: list[Head]
    left: list[Head]
    missing_key: MissingKey | None


def read(tx: Transaction, route: str, heads: Sequence[Head], sealer: Sealer, depth: int, spare_bytes: int) -> Reading:
    """Give each head the records that may be leased with it, as far as there is room for what they weigh. The first is
    read in any case while nothing else was."""
    for head in heads:
        head.run = head.in_doubt or depth
    rows = _records(tx, [(head.id, head.done_seq, head.done_seq + head.run) for head in heads])
    large = [(lane, seq) for lane, seq, *_, stored in rows if stored is None]
    read, left = _that_fit(tx, heads, large, spare_bytes) if large else (list(heads), [])
    payloads = _payloads(tx, read, large) if large else {}
    by_lane = {head.id: head for head in read}
    missing: dict[str, MissingKey] = {}
    for lane, seq, identity, key, staged_us, stored in rows:
        found = by_lane.get(lane)
        if found is None or seq > found.done_seq + found.run or found.missing_key is not None:
            continue
        if stored is None:
            stored = payloads[lane, seq]
        payload, fault = stored, ""
        if is_sealed(stored):
            try:
                payload = sealer.unseal(f"{route}|{identity}", stored)
            except CorruptPayload as error:
                fault = str(error)
            except MissingKey as error:
                found.missing_key = missing[identity] = error
                continue
        is_in_doubt = seq <= found.done_seq + found.in_doubt
        found.records.append(LeasedRecord(identity, seq, key, payload, staged_us, is_in_doubt, fault))
    return Reading(read, left, hold_back(tx, route, read, missing) if missing else None)


def _records(tx: Transaction, spans: Sequence[tuple[int, int, int]]) -> Sequence[Any]:
    """Rows of lane, seq, id, key, staged_us and payload, by lane and seq; the payload is None of those not small.
    `spans`: lanes, and the places after and up to which they are read."""
    columns = ("lanes", "froms", "tos")
    # A cross join keeps SQLite from reading the records first and looking for their lanes.
    return tx.conn.execute(
        text(
            "select r.lane, r.seq, r.id, r.key, r.staged_us, case when length(r.payload) <= :small then r.payload end "
            f"from {tx.dialect.numbers('w', columns)} cross join record r "
            "where r.lane = w.lanes and r.seq > w.froms and r.seq <= w.tos order by r.lane, r.seq"
        ),
        {"small": SMALL_BYTES, **tx.dialect.bound_numbers(columns, spans)},
    ).all()


def _at(tx: Transaction, what: str, places: Sequence[Place]) -> dict[Place, Any]:
    """An expression over the records at these places."""
    columns = ("lanes", "seqs")
    rows = tx.conn.execute(
        text(
            f"select r.lane, r.seq, {what} from {tx.dialect.numbers('w', columns)} cross join record r "
            "where r.lane = w.lanes and r.seq = w.seqs"
        ),
        tx.dialect.bound_numbers(columns, places),
    )
    return {(lane, seq): value for lane, seq, value in rows.all()}


def _that_fit(
    tx: Transaction, heads: Sequence[Head], large: Sequence[Place], spare_bytes: int
) -> tuple[list[Head], list[Head]]:
    """The heads that there is room for, and the others. What is in doubt is leased as a whole; of any other lane fewer
    records will do."""
    sizes = _at(tx, "length(r.payload)", large)
    by_lane: dict[int, list[Place]] = {}
    for place in large:
        by_lane.setdefault(place[0], []).append(place)
    read: list[Head] = []
    spent, is_first = 0, spare_bytes >= MOST_BYTES
    for at, head in enumerate(heads):
        places = by_lane.get(head.id, [])
        fitting = places if head.in_doubt else _fitting(places, sizes, spare_bytes - spent, at_least=int(is_first))
        if len(fitting) < len(places):
            head.run = places[len(fitting)][1] - head.done_seq - 1
        weight = sum(sizes[place] for place in fitting)
        if head.run < 1 or (weight > spare_bytes - spent and not is_first):
            return read, list(heads[at:])
        head.large_bytes, spent, is_first = weight, spent + weight, is_first and not weight
        read.append(head)
    return read, []


def _fitting(places: Sequence[Place], sizes: Mapping[Place, int], room: int, at_least: int) -> Sequence[Place]:
    """The first of these places whose records weigh no more together than there is room for; and so many at least."""
    sums = accumulate(sizes[place] for place in places)
    return places[: max(sum(1 for _ in takewhile(lambda total: total <= room, sums)), at_least)]


def _payloads(tx: Transaction, read: Sequence[Head], large: Sequence[Place]) -> dict[Place, bytes]:
    last = {head.id: head.done_seq + head.run for head in read}
    return _at(tx, "r.payload", [(lane, seq) for lane, seq in large if seq <= last.get(lane, 0)])
