"""Parked records, by a person's word: sent again, corrected, or let go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import orjson

from tideover.errors import CorruptPayload, Refused
from tideover.hub.runtime import Runtime
from tideover.model import Broken, JsonObject, NewRecord, Order
from tideover.staging.parking import Parked, Selection, newest
from tideover.staging.restaging import Remapped


@dataclass(frozen=True, slots=True)
class Replayed:
    """`still_broken`: records parked at intake that today's mapping still can't turn into anything, or that could not
    even be tried. `left`: others that stay parked, such as those that a newer version of their key has passed. `why`
    tells of the last of either. The rest were parked at intake and are closed, with nothing to send: `unchanged` say
    what the newest of their key says, `left_out` are what the mapping leaves out now, `superseded` gave way to a newer
    version of their key."""

    replayed: int = 0
    still_broken: int = 0
    why: str = ""
    left: int = 0
    unchanged: int = 0
    left_out: int = 0
    superseded: int = 0

    def plus(self, other: Replayed) -> Replayed:
        return Replayed(
            self.replayed + other.replayed,
            self.still_broken + other.still_broken,
            other.why or self.why,
            self.left + other.left,
            self.unchanged + other.unchanged,
            self.left_out + other.left_out,
            self.superseded + other.superseded,
        )

    @property
    def counts(self) -> dict[str, int]:
        """All but the text."""
        return {name: count for name, count in asdict(self).items() if name != "why"}


async def replay(rt: Runtime, selection: Selection) -> Replayed:
    """Send parked records again, each under the idempotency key that it always had, so that replaying twice does one
    thing. What was parked at intake is mapped anew; it would undo what came since, so it needs to be named then, and
    under `latest` it is superseded. In batches: a bulk replay at a system that is down just waits. What
    is parked while it runs, also by what it sent, is left to a person.
    """
    total = Replayed()
    selection = await _as_it_is(rt, selection)
    latest = {name for name, route in rt.config.routes.items() if route.order is Order.LATEST}
    while batch := await rt.store.parked(selection):
        ready = [p.id for p in batch if not p.at_intake]
        if ready:
            total = total.plus(Replayed(await rt.store.replay(ready, latest)))
            total = total.plus(await _left(rt, ready, replace(selection, until=batch[-1].id)))
        for parked in batch:
            if parked.at_intake:
                total = total.plus(await _remap(rt, parked, is_named=parked.record in selection.records))
        selection = replace(selection, after=batch[-1].id)
    return total


async def _left(rt: Runtime, tried: Sequence[int], selection: Selection) -> Replayed:
    """Those of a batch that are parked as they were."""
    left = [parked for parked in await rt.store.parked(selection) if parked.id in tried]
    return Replayed(left=len(left), why=await _why(rt, left[-1]) if left else "")


async def _why(rt: Runtime, parked: Parked) -> str:
    try:
        await rt.store.parked_payload(parked.id)
    except (Refused, CorruptPayload) as error:
        return f"record {parked.record}: {error}"
    return f"record {parked.record}: it may have been sent, and others wait before it"


async def _remap(rt: Runtime, parked: Parked, *, is_named: bool) -> Replayed:
    """Those behind one that can't be tried must not wait for it: its route may be gone, its payload altered."""
    try:
        mapper = rt.mapper(parked.route)
        source = _decoded(await rt.store.parked_payload(parked.id))
    except (Refused, CorruptPayload) as error:
        return Replayed(still_broken=1, why=f"record {parked.record}: {error}")
    mapped = mapper.map(source) if source is not None else Broken(parked.key, b"", parked.code, parked.detail)
    if isinstance(mapped, Broken):
        return Replayed(still_broken=1)
    try:
        done = await rt.store.remap(parked.id, mapped, rt.route(parked.route).order, is_named=is_named)
    except Refused as error:
        return Replayed(left=1, why=f"record {parked.record}: {error}")
    if done is Remapped.PASSED:
        why = f"record {parked.record}: a newer version of its key came since; name it to send it all the same"
        return Replayed(left=1, why=why)
    return _CLOSED.get(done, Replayed())


_CLOSED = {
    Remapped.STAGED: Replayed(1),
    Remapped.UNCHANGED: Replayed(unchanged=1),
    Remapped.LEFT_OUT: Replayed(left_out=1),
    Remapped.SUPERSEDED: Replayed(superseded=1),
}


def _decoded(payload: bytes) -> JsonObject | None:
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


async def correct(rt: Runtime, record: str, corrected: JsonObject) -> None:
    """Replace a parked record by a corrected one: a new record with a key of its own, linked to its parent.

    `corrected` is what the target will get. Raises `Refused` when no such record is parked.
    """
    found = await rt.store.parked(Selection(records=(record,), limit=1))
    if not found:
        raise Refused(f"no open parked record has the id {record}")
    payload = orjson.dumps(corrected, option=orjson.OPT_SORT_KEYS)
    order = rt.route(found[0].route).order
    if not await rt.store.restage(found[0].id, NewRecord(found[0].key, payload), order):
        raise Refused(f"record {record} was settled by somebody else meanwhile")


async def release(rt: Runtime, selection: Selection) -> int:
    """Let lanes go on without their parked heads. Returns how many records were let go; they stay on the books. What is
    parked meanwhile is not among them: nobody has seen it."""
    count = 0
    selection = await _as_it_is(rt, selection)
    while batch := await rt.store.parked(selection):
        count += await rt.store.release([p.id for p in batch])
        selection = replace(selection, after=batch[-1].id)
    return count


async def _as_it_is(rt: Runtime, selection: Selection) -> Selection:
    """The selection without what is parked from now on. One that ends at a record already stays as it is."""
    if selection.until is not None:
        return selection
    return replace(selection, until=await rt.store.report(newest))
