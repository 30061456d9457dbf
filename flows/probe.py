"""`probe/<system>`: ask a system now whether it is well; the answer counts for its breaker."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.board import publish
from flows.visible import logger
from tasks import ask, hub
from tideover.model import Accepted
from tideover.staging.settle import describe


@flow(name="probe", flow_run_name="probe-{system}", persist_result=False)
async def probe(system: str) -> State[dict[str, str]]:
    """Ask a system whether it is well. With an open breaker the answer counts if it is time to probe; with a closed
    one a failure counts like a record's.

    Args:
        system: A system of the hub.
    """
    async with hub() as rt:
        outcome, gate = await ask(system)
        await publish(rt)
    kind, code, detail, _ = describe(outcome)
    said = f"{system} answered: {kind} {code} {detail}".strip()
    logger().info("%s; its breaker is %s", said, gate.state.value)
    is_well = isinstance(outcome, Accepted)
    return Completed(
        name="Completed" if is_well else "Queued",
        message=f"{said}; breaker {gate.state.value}",
        data={"system": system, "outcome": kind, "code": code, "breaker": gate.state.value},
    )
