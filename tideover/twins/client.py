"""A client of the control server, for twins that run in another process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from tideover.twins.refusal import TwinRefused

_PAGE = 5_000
_STATUS = ("name", "url", "state", "fault", "ledger")


class TwinControl:
    """Speaks to a control URL while its block lasts.

    Raises `TwinRefused` where the server answers 4xx or is another than the twins', and httpx's errors where it can't
    be reached.
    """

    def __init__(self, url: str, *, timeout_s: float = 60.0) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_s, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def twins(self) -> list[dict[str, Any]]:
        """The status of every twin: name, url, state, fault, calls, settings, ledger."""
        twins: list[dict[str, Any]] = (await self._call("GET", "/twins", wants=("twins",)))["twins"]
        return twins

    async def twin(self, name: str) -> dict[str, Any]:
        """The status of one twin."""
        return await self._call("GET", f"/twins/{name}", wants=_STATUS)

    async def urls(self) -> dict[str, str]:
        """Each twin's address."""
        return {twin["name"]: twin["url"] for twin in await self.twins()}

    async def fault(self, name: str, kind: str, **options: Any) -> dict[str, Any]:
        """Break a twin; its new status."""
        return await self._call("POST", f"/twins/{name}/fault", {"kind": kind, **options}, wants=_STATUS)

    async def clear(self, name: str) -> dict[str, Any]:
        """Mend a twin; its new status."""
        return await self._call("DELETE", f"/twins/{name}/fault", wants=_STATUS)

    async def configure(self, name: str, **settings: Any) -> dict[str, Any]:
        """Change a twin's settings; its new status."""
        return await self._call("PATCH", f"/twins/{name}/settings", settings, wants=_STATUS)

    async def seed(self, object_name: str, count: int, start: int = 1) -> int:
        """Create or replace sample records in the CRM; how many."""
        content = {"object": object_name, "count": count, "start": start}
        return int((await self._call("POST", "/twins/crm/seed", content, wants=("records",)))["records"])

    async def upsert(self, object_name: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Create or replace records in the CRM by `id`; how many."""
        content = {"object": object_name, "records": [dict(record) for record in records]}
        return int((await self._call("POST", "/twins/crm/upsert", content, wants=("records",)))["records"])

    async def ledger(self, name: str) -> dict[str, Any]:
        """The counts of a twin's ledger."""
        return await self._call("GET", f"/twins/{name}/ledger", wants=("objects", "keys"))

    async def keys(self, name: str, object_name: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """The counts of every business key, in key order."""
        async for tally in self._pages(f"/twins/{name}/ledger/keys", "keys", {"object": object_name}):
            yield tally

    async def effects(
        self, name: str, object_name: str | None = None, key: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Every effect with its payload, in the order in which they happened."""
        async for effect in self._pages(
            f"/twins/{name}/ledger/effects", "effects", {"object": object_name, "key": key}
        ):
            yield effect

    async def trapped(self) -> dict[str, int]:
        """How many calls followed a redirect, with credentials, with a body."""
        return await self._call("GET", "/trap")

    async def _pages(self, path: str, name: str, params: Mapping[str, str | None]) -> AsyncIterator[dict[str, Any]]:
        query = {key: value for key, value in params.items() if value is not None} | {"limit": str(_PAGE)}
        while True:
            page = await self._call("GET", path, params=query)
            for row in page[name]:
                yield row
            if page["next"] is None:
                return
            query["after"] = str(page["next"])

    async def _call(
        self,
        method: str,
        path: str,
        content: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        *,
        wants: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The answer's object, which has the keys `wants`: any other is not from a control server of twins."""
        answer = await self._http.request(method, path, json=content, params=params)
        if not answer.is_client_error:
            answer.raise_for_status()
        wanted = {"error", "valid"} if answer.is_client_error else set(wants)
        try:
            decoded = answer.json()
        except ValueError:
            decoded = None
        if not isinstance(decoded, dict) or not wanted <= decoded.keys():
            raise TwinRefused(
                answer.status_code,
                f"what answers at {self._http.base_url} is no control server of twins; start one with "
                "`tideover twins`, or say where it is with --control",
            )
        if answer.is_client_error:
            raise TwinRefused(answer.status_code, decoded["error"], decoded["valid"])
        return decoded
