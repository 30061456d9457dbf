"""Reading a route's source and staging what changed. The cursor moves only with the records it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tideover.config.models import Route
from tideover.errors import SourceLoop
from tideover.hub.mapping import Mapper
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US, Broken, JsonObject, NewRecord, Staged
from tideover.staging.stage import Batch, CursorMove

BATCH_RECORDS = 1_000


@dataclass(frozen=True, slots=True)
class Extract:
    """Some of a source's records, mapped, and the cursor that stands for them.

    `fault`: the source began to repeat itself after these. They are sound, and are staged before it is raised; the
    cursor goes back to where the listing began.
    """

    batch: Batch
    read: int
    is_last: bool
    fault: SourceLoop | None = None


async def extract(rt: Runtime, route_name: str, *, limit: int = BATCH_RECORDS) -> Extract:
    """Read on from the route's stored cursor: whole pages, until `limit` records or the end of the listing.

    Raises `SourceError` when nothing could be read; the cursor has not moved then.
    """
    route = rt.route(route_name)
    connector = await rt.connector(route.source.system)
    mapper = rt.mapper(route_name)
    start = await rt.store.cursor(route_name)
    records: list[NewRecord] = []
    broken: list[Broken] = []
    read, cursor, is_last = 0, start.text, False
    fault: SourceLoop | None = None
    pages = connector.pages(route.source.stream, start.text)
    try:
        async for page in pages:
            broken.extend(page.broken)
            sort_out(mapper, page.records, records, broken)
            read += len(page.records) + len(page.broken)
            cursor, is_last = page.cursor, page.is_last
            if is_last or read >= limit:
                break
        else:
            is_last = True
    except SourceLoop as error:
        fault, cursor = error, error.restart
    finally:
        await pages.aclose()
    move = None if cursor is None else CursorMove(start, cursor, is_last)
    batch = Batch(route_name, route.source.system, records, broken, move, route.order, _seen_every_us(route))
    return Extract(batch, read, is_last, fault)


def sort_out(mapper: Mapper, found: Iterable[JsonObject], records: list[NewRecord], broken: list[Broken]) -> None:
    """Map records and put each where it belongs."""
    for record in found:
        match mapper.map(record):
            case NewRecord() as mapped:
                records.append(mapped)
            case Broken() as fault:
                broken.append(fault)


async def stage(rt: Runtime, extracted: Extract) -> Staged:
    """Stage an extract and move the cursor, in one transaction. Then raise its fault, if it has one.

    Raises `Overtaken`, and stages nothing, when another run of the route has read on meanwhile: extract again.
    """
    staged = await rt.store.stage(extracted.batch)
    if extracted.fault is not None:
        raise extracted.fault
    return staged


async def stage_records(rt: Runtime, route_name: str, found: Iterable[JsonObject]) -> Staged:
    """Stage records that come from somewhere else than the route's source, through the route's mapping."""
    mapper = rt.mapper(route_name)
    records: list[NewRecord] = []
    broken: list[Broken] = []
    sort_out(mapper, found, records, broken)
    route = rt.route(route_name)
    seen_us = _seen_every_us(route)
    return await rt.store.stage(
        Batch(route_name, route.source.system, records, broken, order=route.order, seen_every_us=seen_us)
    )


def _seen_every_us(route: Route) -> int:
    """Seldom, as it costs a write, but several times within the retention."""
    return int(min(route.retention / 4, 86_400.0) * SECOND_US)


def add(one: Staged, other: Staged) -> Staged:
    """The sum of two counts."""
    return replace(
        one,
        staged=one.staged + other.staged,
        unchanged=one.unchanged + other.unchanged,
        parked=one.parked + other.parked,
    )
