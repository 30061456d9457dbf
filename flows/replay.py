"""`replay/hub`: parked records get another try."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.board import publish
from flows.visible import logger
from tasks import hub, replay_parked
from tideover.errors import Refused


@flow(name="replay", persist_result=False)
async def replay(
    route: str | None = None, records: list[str] | None = None, code: str | None = None, everything: bool = False
) -> State[dict[str, int]]:
    """Put parked records back to waiting, each under the idempotency key it always had: replaying twice does one thing.

    What was parked at intake, and a newer version of its key has passed, is sent only where its id is given.

    Args:
        route: Only this route's records.
        records: Only records with these ids.
        code: Only records parked for this reason.
        everything: With none of the above, say yes to replaying all parked records of the hub.
    """
    if not (route or records or code or everything):
        raise Refused("say which parked records: give `route`, `records` or `code`, or set `everything`")
    async with hub() as rt:
        replayed = await replay_parked(route, records or [], code)
        await publish(rt)
    message = f"{replayed.replayed} replayed, {replayed.still_broken} still broken"
    message += f", {replayed.left} left alone" if replayed.left else ""
    message += f", {replayed.unchanged} unchanged" if replayed.unchanged else ""
    message += f", {replayed.left_out} left out by the mapping" if replayed.left_out else ""
    message += f", {replayed.superseded} superseded" if replayed.superseded else ""
    message += f" ({replayed.why})" if replayed.why else ""
    logger().info(message)
    name = "Parked" if replayed.still_broken or replayed.left else "Completed"
    return Completed(name=name, message=message, data=replayed.counts)
