"""The three calls to Prefect's API that a demonstration needs: what `prefect deployment run` does, and looking on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from tideover.errors import HubUnavailable

TRIES = 20


@dataclass(frozen=True, slots=True)
class RunState:
    """A flow run as Prefect tells it. `is_over` is true of every final state."""

    id: str
    name: str
    message: str
    is_over: bool


_FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})


class PrefectApi:
    """A Prefect server, by its `api` address."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)

    async def run(self, deployment: str) -> str:
        """Start a run of `flow/deployment`; its id."""
        found = await self._call("GET", f"/deployments/name/{deployment}")
        body = {"idempotency_key": str(uuid4())}
        made = await self._call("POST", f"/deployments/{found['id']}/create_flow_run", body)
        return str(made["id"])

    async def state(self, run: str) -> RunState:
        """How a run is."""
        found = await self._call("GET", f"/flow_runs/{run}")
        state = found["state"] or {"name": "Scheduled", "type": "SCHEDULED", "message": ""}
        return RunState(run, state["name"], state.get("message") or "", state["type"] in _FINAL)

    async def has_worker(self, pool: str) -> bool:
        """Whether a worker has reported for a pool."""
        return bool(await self._call("POST", f"/work_pools/{pool}/workers/filter", {}))

    async def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        """A 503, or silence, means that the server's SQLite file was locked for a while: ask again. Every call may be
        repeated: starting a run carries an idempotency key."""
        said = "nothing"
        for _ in range(TRIES):
            try:
                answer = await self._client.request(method, path, json=body)
            except httpx.TransportError as error:
                said = f"nothing ({type(error).__name__})"
            else:
                if answer.is_success:
                    return answer.json()
                said = str(answer.status_code)
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    break
            await asyncio.sleep(0.3)
        raise HubUnavailable(f"Prefect's server answered {said} to {method} {path}")

    async def close(self) -> None:
        await self._client.aclose()
