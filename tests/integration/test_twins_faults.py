"""Each fault, as a client sees it over real HTTP, and what the ledger says happened."""

from __future__ import annotations

import asyncio
import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tideover.twins import CREDENTIALS, KINDS, NAMES, TwinHost

PARCEL = {"external_shipment_id": "k", "weight_kg": 1}
PATIENCE_S = 60.0
BRIEFLY = httpx.Timeout(PATIENCE_S, read=0.2)  # only the answer is not waited for long


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path) as host:
        yield host


@pytest.fixture
async def carrier(host: TwinHost) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(host, "carrier-a") as carrier:
        yield carrier


def caller(host: TwinHost, name: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=host.urls[name],
        headers=CREDENTIALS[name].headers(),
        timeout=PATIENCE_S,
        trust_env=False,
        verify=False,
    )


async def book(carrier: httpx.AsyncClient, **options: Any) -> httpx.Response:
    return await carrier.post("/v1/shipments", json=PARCEL, **options)


def booked(host: TwinHost) -> int:
    effects = host.ledger("carrier-a")["effects"]
    assert isinstance(effects, int)
    return effects


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.005)


def harmed(host: TwinHost, name: str = "carrier-a") -> int:
    fault = host.status(name)["fault"]
    return 0 if fault is None else int(fault["harmed"])


# --- the port -----------------------------------------------------------------------------------------------


async def test_down_closes_the_port_and_clear_opens_the_same_one(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await book(carrier)  # leaves an open connection in the pool, which must die too
    status = await host.fault("carrier-a", "down")
    assert status["state"] == "down"
    with pytest.raises(httpx.TransportError):
        await book(carrier)
    address = httpx.URL(host.urls["carrier-a"])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port or 0), timeout=PATIENCE_S)
    assert (await host.clear("carrier-a"))["url"] == host.urls["carrier-a"]
    assert (await book(carrier)).status_code == 201
    assert booked(host) == 2


async def test_down_keeps_the_port_from_others(host: TwinHost) -> None:
    await host.fault("carrier-a", "down")
    address = httpx.URL(host.urls["carrier-a"])
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((address.host, address.port or 0))


async def test_down_for_a_time_comes_back_by_itself(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "down", for_s=0.01)
    await eventually(lambda: host.status("carrier-a")["state"] == "up")
    assert (await book(carrier)).status_code == 201


async def test_down_and_clear_many_times_at_once_ends_open(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    turns = [host.fault("carrier-a", "down") if n % 2 == 0 else host.clear("carrier-a") for n in range(20)]
    await asyncio.gather(*turns)
    await host.clear("carrier-a")
    assert (await book(carrier)).status_code == 201


async def test_down_while_a_slow_call_is_at_work_loses_its_work(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "slow", delay_s=3600.0)
    async with asyncio.TaskGroup() as group:
        call = group.create_task(_fails(lambda: book(carrier)))
        await eventually(lambda: harmed(host) == 1)
        await host.fault("carrier-a", "down")
    assert call.result()
    assert booked(host) == 0


# --- silence ------------------------------------------------------------------------------------------------


async def _fails(call: Callable[[], Awaitable[object]]) -> bool:
    with pytest.raises(httpx.TransportError):
        await call()
    return True


async def test_hang_never_answers_and_does_nothing(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "hang")
    with pytest.raises(httpx.ReadTimeout):
        await book(carrier, timeout=BRIEFLY)
    with pytest.raises(httpx.ReadTimeout):
        await carrier.get("/v1/health", timeout=BRIEFLY)
    await eventually(lambda: harmed(host) == 2)
    await host.clear("carrier-a")
    assert (await book(carrier)).status_code == 201
    assert booked(host) == 1


async def test_hang_when_cleared_drops_the_calls_that_it_held(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "hang")
    async with asyncio.TaskGroup() as group:
        call = group.create_task(_fails(lambda: book(carrier)))
        await eventually(lambda: harmed(host) == 1)
        await host.clear("carrier-a")
    assert call.result()
    assert booked(host) == 0


async def test_hang_late_when_cleared_works_off_even_what_was_given_up(
    host: TwinHost, carrier: httpx.AsyncClient
) -> None:
    await host.fault("carrier-a", "hang", late=True)
    with pytest.raises(httpx.ReadTimeout):
        await book(carrier, timeout=BRIEFLY)
    assert booked(host) == 0
    await host.clear("carrier-a")
    await eventually(lambda: booked(host) == 1)


async def test_hang_with_a_count_holds_only_so_many_calls(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "hang", count=1)
    with pytest.raises(httpx.ReadTimeout):
        await book(carrier, timeout=BRIEFLY)
    assert (await book(carrier)).status_code == 201


async def test_slow_takes_its_time_and_works_even_if_the_caller_leaves(
    host: TwinHost, carrier: httpx.AsyncClient
) -> None:
    await host.fault("carrier-a", "slow", delay_s=0.3)
    began = time.monotonic()
    assert (await book(carrier)).status_code == 201
    assert time.monotonic() - began >= 0.3
    with pytest.raises(httpx.ReadTimeout):
        await book(carrier, timeout=httpx.Timeout(PATIENCE_S, read=0.05))
    await eventually(lambda: booked(host) == 2)


async def test_slow_when_a_key_is_still_at_work_refuses_it_with_409(host: TwinHost) -> None:
    secret = (CREDENTIALS["erp"].user, CREDENTIALS["erp"].secret)
    async with caller(host, "erp") as erp:
        answer = await erp.post("/oauth2/token", data={"grant_type": "client_credentials"}, auth=secret)
        headers = {"authorization": f"Bearer {answer.json()['access_token']}", "idempotency-key": "one"}
        await host.fault("erp", "slow", delay_s=3.0, count=1)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(erp.post("/erp/v1/orders", json={"external_id": "k"}, headers=headers))
            await eventually(lambda: harmed(host, "erp") == 1)
            second = await erp.post("/erp/v1/orders", json={"external_id": "k"}, headers=headers)
    assert (first.result().status_code, second.status_code) == (201, 409)
    assert host.ledger("erp")["effects"] == 1


async def test_drip_gives_a_byte_at_a_time(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "drip", interval_s=0.02)
    pieces: list[bytes] = []
    async with asyncio.timeout(PATIENCE_S), carrier.stream("POST", "/v1/shipments", json=PARCEL) as answer:
        async for piece in answer.aiter_raw():
            pieces.append(piece)
            if len(pieces) == 5:
                break
    assert b"".join(pieces).startswith(b'{"shi')
    assert int(answer.headers["content-length"]) > 50
    assert booked(host) == 1


# --- lost answers -------------------------------------------------------------------------------------------


async def test_commit_then_hang_does_the_work_and_never_answers(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "commit_then_hang", count=1)
    with pytest.raises(httpx.ReadTimeout):
        await book(carrier, timeout=BRIEFLY)
    await eventually(lambda: booked(host) == 1)


@pytest.mark.parametrize(("kind", "effects"), [("commit_then_drop", 1), ("drop", 0)])
async def test_drop_resets_the_connection(host: TwinHost, carrier: httpx.AsyncClient, kind: str, effects: int) -> None:
    await host.fault("carrier-a", kind, count=1)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await book(carrier)
    assert booked(host) == effects
    assert (await book(carrier)).status_code == 201


async def test_truncated_promises_more_than_it_gives(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "truncated")
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        await book(carrier)
    assert booked(host) == 1


# --- wrong answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [False, True])
async def test_error_500_does_the_work_only_if_told(host: TwinHost, carrier: httpx.AsyncClient, commit: bool) -> None:
    await host.fault("carrier-a", "error_500", commit=commit)
    answer = await book(carrier)
    assert (answer.status_code, answer.json()["errors"][0]["error_code"]) == (500, "UNEXPECTED_ERROR")
    assert booked(host) == int(commit)
    assert (await carrier.get("/v1/health")).status_code == 500


async def test_unavailable_503_says_when_to_come_back(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "unavailable_503", retry_after_s=7)
    answer = await book(carrier)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


async def test_throttle_429_says_when_to_come_back(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "throttle_429", retry_after_s=7)
    answer = await book(carrier)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.headers["ratelimit"] == '"default";r=0;t=7'
    await host.fault("carrier-a", "throttle_429", retry_after_s=None)
    assert "retry-after" not in (await book(carrier)).headers


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [("erp", 400, "SSS_REQUEST_LIMIT_EXCEEDED"), ("marketing", 403, "<h1>403"), ("support", 429, "RATE_LIMITED")],
)
async def test_throttle_in_the_vendors_manner(host: TwinHost, name: str, status: int, said: str) -> None:
    await host.fault(name, "throttle_429", vendor=True, retry_after_s=3)
    async with caller(host, name) as somebody:
        answer = await somebody.get("/anything")
    assert answer.status_code == status
    assert said in answer.text
    assert (answer.headers.get("ratelimit-reset") == "3") is (name == "support")


@pytest.mark.parametrize("name", NAMES)
async def test_unauthorized_401_refuses_every_call(host: TwinHost, name: str) -> None:
    await host.fault(name, "unauthorized_401")
    async with caller(host, name) as somebody:
        assert (await somebody.get("/anything")).status_code == 401


async def test_malformed_is_a_200_that_is_not_json(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "malformed")
    answer = await book(carrier)
    assert answer.status_code == 200
    assert answer.text.startswith("<!doctype html>")
    assert booked(host) == 0


@pytest.mark.parametrize(
    ("manner", "error"),
    [
        ("no_http", httpx.RemoteProtocolError),
        ("cut_head", httpx.RemoteProtocolError),
        ("broken_chunks", httpx.RemoteProtocolError),
        ("cut_chunks", httpx.RemoteProtocolError),
        ("stall", httpx.ReadTimeout),
    ],
)
async def test_broken_http_does_the_work_and_answers_what_no_server_sends(
    host: TwinHost, carrier: httpx.AsyncClient, manner: str, error: type[Exception]
) -> None:
    await host.fault("carrier-a", "broken_http", manner=manner)
    with pytest.raises(error):
        await carrier.post("/v1/shipments", json=PARCEL, timeout=2.0)
    assert booked(host) == 1
    await host.clear("carrier-a")
    assert (await carrier.get("/v1/health")).status_code == 200


async def test_broken_http_without_an_end_goes_on_until_the_caller_leaves(
    host: TwinHost, carrier: httpx.AsyncClient
) -> None:
    await host.fault("carrier-a", "broken_http", manner="endless")
    async with carrier.stream("POST", "/v1/shipments", json=PARCEL) as answer:
        read = 0
        async for piece in answer.aiter_raw():
            read += len(piece)
            if read > 5_000_000:
                break
    await host.clear("carrier-a")
    assert (await carrier.get("/v1/health")).status_code == 200


async def test_error_body_200_is_a_200_with_the_vendors_error(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "error_body_200", code="out_of_labels")
    answer = await book(carrier)
    assert (answer.status_code, answer.json()["errors"][0]["error_code"]) == (200, "out_of_labels")
    assert booked(host) == 0


async def test_huge_gives_as_many_megabytes_as_told(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "huge", size_mb=3)
    answer = await book(carrier)
    assert len(answer.content) > 3_000_000
    assert answer.json()["results"] == []


async def test_gzip_bomb_is_small_until_it_is_opened(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    await host.fault("carrier-a", "gzip_bomb", size_mb=20)
    async with carrier.stream("POST", "/v1/shipments", json=PARCEL) as answer:
        raw = b"".join([piece async for piece in answer.aiter_raw()])
    assert len(raw) < 100_000
    assert len(zlib.decompress(raw, wbits=31)) > 20_000_000


async def test_redirect_leads_to_another_origin_that_counts_who_follows(
    host: TwinHost, carrier: httpx.AsyncClient
) -> None:
    await host.fault("carrier-a", "redirect")
    answer = await book(carrier)
    assert answer.status_code == 307
    assert answer.headers["location"] == f"{host.control_url}/trap/v1/shipments"
    assert host.trap.counts() == {"hits": 0, "with_credentials": 0, "with_body": 0}
    await book(carrier, follow_redirects=True)
    assert host.trap.counts() == {"hits": 1, "with_credentials": 1, "with_body": 1}
    assert booked(host) == 0


# --- the host -----------------------------------------------------------------------------------------------


async def test_faults_of_one_twin_leave_the_others_alone(host: TwinHost, carrier: httpx.AsyncClient) -> None:
    for name in set(NAMES) - {"carrier-a"}:
        await host.fault(name, "hang" if name != "erp" else "down")
    assert (await book(carrier)).status_code == 201


@pytest.mark.parametrize("kind", ["hang", "slow", "commit_then_hang", "drip"])
async def test_host_stops_within_seconds_while_a_call_is_held(tmp_path: Path, kind: str) -> None:
    options = {"slow": {"delay_s": 3600.0}, "drip": {"interval_s": 3600.0}}.get(kind, {})
    async with AsyncExitStack() as stack:
        async with TwinHost(tmp_path, names=["carrier-a"]) as host:
            carrier = await stack.enter_async_context(caller(host, "carrier-a"))
            await host.fault("carrier-a", kind, **options)
            call = asyncio.create_task(_fails(lambda: book(carrier)))
            await eventually(lambda: harmed(host) == 1)
            began = time.monotonic()
        assert time.monotonic() - began < PATIENCE_S / 2, "it waited for the caller"
        assert await call


def test_every_kind_of_fault_is_seen_from_a_client_in_some_test() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_twins_*faults.py"))
    assert [kind for kind in KINDS if f'"{kind}"' not in text] == []
