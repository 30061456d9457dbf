"""The control server through its client, durability over restarts, and twins as a process of their own."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ports import free_row
from tideover.twins import CREDENTIALS, DEFAULT_CONTROL_PORT, DEFAULT_PORTS, NAMES, TwinControl, TwinHost, TwinRefused

PATIENCE_S = 30.0


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path) as host:
        yield host


@pytest.fixture
async def control(host: TwinHost) -> AsyncIterator[TwinControl]:
    async with TwinControl(host.control_url) as control:
        yield control


@pytest.fixture
async def http(host: TwinHost) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=host.control_url, trust_env=False, verify=False) as http:
        yield http


def caller(urls: dict[str, str], name: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=urls[name],
        headers=CREDENTIALS[name].headers(),
        timeout=PATIENCE_S,
        trust_env=False,
        verify=False,
    )


async def book(urls: dict[str, str], key: str) -> str:
    async with caller(urls, "carrier-a") as carrier:
        answer = await carrier.post("/v1/shipments", json={"external_shipment_id": key})
        assert answer.status_code == 201
        reference: str = answer.json()["shipment_id"]
        return reference


# --- the control server -------------------------------------------------------------------------------------


async def test_twins_tell_name_url_state_fault_and_counts(host: TwinHost, control: TwinControl) -> None:
    await control.fault("erp", "slow", delay_s=2.5)
    twins = {twin["name"]: twin for twin in await control.twins()}
    assert set(twins) == set(NAMES)
    assert await control.urls() == host.urls
    assert (twins["erp"]["state"], twins["crm"]["state"]) == ("faulty", "up")
    assert twins["erp"]["fault"] == {"kind": "slow", "delay_s": 2.5, "harmed": 0, "used_up": False}
    assert twins["erp"]["ledger"]["effects"] == 0
    assert (await control.clear("erp"))["fault"] is None


async def test_seed_and_upsert_fill_the_source(control: TwinControl) -> None:
    assert await control.seed("contacts", 4500) == 4500
    assert await control.upsert("contacts", [{"id": "mine"}, {"id": "contact-000001"}]) == 2
    assert (await control.ledger("crm"))["source"] == {"orders": 0, "contacts": 4501, "tickets": 0}


async def test_keys_and_effects_are_listed_whole_and_in_order(host: TwinHost, control: TwinControl) -> None:
    async with caller(host.urls, "support") as support:
        for subject in ("one", "two", "one"):
            record = {"external_id": "k", "subject": subject}
            await support.post("/api/v2/tickets/create_or_update", json=record)
        await support.post("/api/v2/tickets/create_or_update", json={"external_id": "j", "subject": "s"})
    assert [tally["key"] async for tally in control.keys("support")] == ["j", "k"]
    mine = [effect async for effect in control.effects("support", key="k")]
    assert [effect["payload"]["subject"] for effect in mine] == ["one", "two", "one"]
    assert [effect["seq"] for effect in mine] == sorted(effect["seq"] for effect in mine)


async def test_ledger_pages_hold_as_many_rows_as_asked(host: TwinHost, http: httpx.AsyncClient) -> None:
    for key in ("a", "b", "c"):
        await book(host.urls, key)
    first = (await http.get("/twins/carrier-a/ledger/keys", params={"limit": "2"})).json()
    rest = (await http.get("/twins/carrier-a/ledger/keys", params={"limit": "2", "after": first["next"]})).json()
    assert [[row["key"] for row in answer["keys"]] for answer in (first, rest)] == [["a", "b"], ["c"]]


async def test_settings_are_changed_and_told(control: TwinControl) -> None:
    await control.configure("erp", token_lifetime_s=5, key_horizon_s=60.0)
    settings = (await control.twin("erp"))["settings"]
    assert (settings["token_lifetime_s"], settings["key_horizon_s"]) == (5.0, 60.0)


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "valid"),
    [
        ("POST", "/twins/nobody/fault", {"kind": "hang"}, 404, "erp"),
        ("POST", "/twins/erp/fault", {"kind": "explode"}, 422, "hang"),
        ("POST", "/twins/erp/fault", {}, 422, "hang"),
        ("POST", "/twins/erp/fault", {"kind": "hang", "delay_s": 1}, 422, "for_s"),
        ("POST", "/twins/erp/fault", {"kind": "hang", "name": "crm"}, 422, None),
        ("POST", "/twins/erp/fault", [], 422, None),
        ("DELETE", "/twins/nobody/fault", None, 404, "erp"),
        ("GET", "/twins/nobody", None, 404, "erp"),
        ("GET", "/twins/erp/ledger/keys?object=parcels", None, 404, "orders"),
        ("GET", "/twins/erp/ledger/keys?limit=many", None, 422, None),
        ("PATCH", "/twins/erp/settings", {"colour": "red"}, 422, "key_horizon_s"),
        ("PATCH", "/twins/crm/settings", {"key_horizon_s": 1.0}, 422, "rate_limit"),
        ("POST", "/twins/crm/seed", {"object": "parcels", "count": 1}, 404, "orders"),
        ("POST", "/twins/crm/seed", {"object": "orders", "count": "all"}, 422, "count"),
        ("POST", "/twins/crm/upsert", {"object": "orders", "records": [{"total": 1}]}, 422, None),
        ("POST", "/twins/crm/upsert", {"object": "orders", "records": [{"id": "k", "updatedAt": "now"}]}, 422, None),
        ("GET", "/nowhere", None, 404, "/twins"),
    ],
)
async def test_request_that_makes_no_sense_gets_an_error_with_what_is_valid(
    http: httpx.AsyncClient, method: str, path: str, content: Any, status: int, valid: str | None
) -> None:
    answer = await http.request(method, path, json=content)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert valid is None or valid in answer.json()["valid"]


async def test_body_that_is_not_json_gets_422(http: httpx.AsyncClient) -> None:
    assert (await http.post("/twins/erp/fault", content=b"{")).status_code == 422


async def test_client_raises_what_the_server_refuses(control: TwinControl) -> None:
    with pytest.raises(TwinRefused, match=r"valid: .*hang") as caught:
        await control.fault("erp", "explode")
    assert caught.value.status == 422


async def test_kinds_tell_what_each_does_and_takes(http: httpx.AsyncClient) -> None:
    kinds = (await http.get("/kinds")).json()
    assert kinds["slow"]["options"] == ["count", "delay_s", "for_s", "only", "probability"]
    assert kinds["loop_pages"]["twins"] == ["crm"]
    assert (await http.get("/health")).status_code == 200


async def test_trap_takes_any_call_and_counts_it(http: httpx.AsyncClient, control: TwinControl) -> None:
    await http.put("/trap/anything", headers={"api-key": "x"})
    await http.post("/trap/anything/else", content=b"x")
    assert await control.trapped() == {"hits": 2, "with_credentials": 1, "with_body": 1}


# --- restarts -----------------------------------------------------------------------------------------------


async def test_restarted_twins_remember_records_effects_keys_and_settings(tmp_path: Path) -> None:
    async def create(host: TwinHost) -> dict[str, Any]:
        secret = (CREDENTIALS["erp"].user, CREDENTIALS["erp"].secret)
        async with caller(host.urls, "erp") as erp:
            answer = await erp.post("/oauth2/token", data={"grant_type": "client_credentials"}, auth=secret)
            headers = {"authorization": f"Bearer {answer.json()['access_token']}", "idempotency-key": "one"}
            answer = await erp.post("/erp/v1/orders", json={"external_id": "k"}, headers=headers)
            document: dict[str, Any] = answer.json()
            return document

    async with TwinHost(tmp_path) as host:
        await host.seed("orders", 3)
        host.configure("erp", key_horizon_s=7200.0)
        first = await create(host)
        await host.fault("erp", "hang")
    async with TwinHost(tmp_path) as host:
        assert host.ledger("crm")["source"]["orders"] == 3
        assert host.status("erp")["fault"] is None
        assert host.status("erp")["settings"]["key_horizon_s"] == 7200.0
        assert await create(host) == first
        assert (host.ledger("erp")["received"], host.ledger("erp")["effects"]) == (2, 1)


async def test_host_whose_port_is_taken_says_so_and_gives_everything_back(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(TwinRefused, match=str(taken)):
            async with TwinHost(tmp_path, ports={"carrier-b": taken}):
                pass
    async with TwinHost(tmp_path, ports={"carrier-b": taken}) as host:
        assert host.urls["carrier-b"].endswith(f":{taken}")


@pytest.mark.parametrize("options", [{"names": ["nobody"]}, {"ports": {"nobody": 1}}])
def test_host_of_an_unknown_twin_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(TwinRefused, match="nobody"):
        TwinHost(tmp_path, **options)


def test_default_ports_are_fixed_and_follow_the_control_port() -> None:
    assert DEFAULT_CONTROL_PORT == 7500
    assert list(DEFAULT_PORTS.values()) == list(range(7501, 7507))
    assert set(DEFAULT_PORTS) == set(NAMES)


# --- a process of its own -----------------------------------------------------------------------------------


@asynccontextmanager
async def running(folder: Path, base: int, *more: str) -> AsyncIterator[tuple[Process, dict[str, str]]]:
    """Twins in a process, once they listen; killed at the end if they still run."""
    given = ["-W", "error", "-m", "tideover.twins", "--folder", str(folder), "--port-base", str(base), *more]
    process = await asyncio.create_subprocess_exec(sys.executable, *given, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    try:
        urls: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE_S):
            while "control" not in urls:
                line = (await process.stdout.readline()).decode()
                assert line, (await process.communicate())[1].decode()
                name, url = line.split()
                urls[name] = url
        yield process, urls
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_process_when_killed_and_started_again_remembers_and_has_the_same_ports(tmp_path: Path) -> None:
    base = free_row(7)
    async with running(tmp_path, base) as (process, urls):
        assert set(urls) == {*NAMES, "control"}
        reference = await book(urls, "k")
        process.kill()
        await process.wait()
    async with running(tmp_path, base) as (_, again), TwinControl(again["control"]) as control:
        assert again == urls
        assert (await control.ledger("carrier-a"))["effects"] == 1
        assert await book(urls, "k") != reference
        assert (await control.ledger("carrier-a"))["duplicates"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_process_stops_cleanly_on_a_signal_even_while_a_call_hangs(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with running(tmp_path, free_row(7), "--only", "carrier-a") as (process, urls):
        assert set(urls) == {"carrier-a", "control"}
        async with TwinControl(urls["control"]) as control:
            await control.fault("carrier-a", "hang")
            call = asyncio.create_task(book(urls, "k"))
            async with asyncio.timeout(PATIENCE_S):
                while (await control.twin("carrier-a"))["fault"]["harmed"] == 0:
                    await asyncio.sleep(0.005)
        process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            _, errors = await process.communicate()
        with pytest.raises(httpx.TransportError):
            await call
        assert (process.returncode, errors.decode()) == (0, "")


async def test_process_whose_port_is_taken_says_so_and_ends(tmp_path: Path) -> None:
    base = free_row(7)
    async with running(tmp_path, base, "--only", "crm"):
        given = ["-m", "tideover.twins", "--folder", str(tmp_path), "--port-base", str(base), "--only", "crm"]
        second = await asyncio.create_subprocess_exec(sys.executable, *given, stdout=PIPE, stderr=PIPE)
        _, errors = await second.communicate()
    assert second.returncode == TwinRefused.exit_code
    assert f"port {base}" in errors.decode()
