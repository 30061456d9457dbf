"""Each twin's manners, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jmespath
import pytest
import yaml

from tideover.config.rest import Operation, Rest
from tideover.twins import CREDENTIALS, NAMES, TwinHost, payload_hash

ORDERS = "/crm/v3/objects/orders"
PROBES = {
    "crm": "/health",
    "erp": "/erp/v1/health",
    "marketing": "/3.0/ping",
    "support": "/api/v2/health",
    "carrier-a": "/v1/health",
    "carrier-b": "/v2/health",
}
RECORDS: dict[str, dict[str, Any]] = {
    "erp": {"external_id": "k/1", "total": 12.5},
    "marketing": {"key": "k/1", "email_address": "customer1@example.com"},
    "support": {"external_id": "k/1", "subject": "Where is it"},
    "carrier-a": {"external_shipment_id": "k/1", "weight_kg": 2},
    "carrier-b": {"reference": "k/1", "weight_kg": 2},
}


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def host(tmp_path: Path, clock: Clock) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path, clock=clock) as host:
        yield host


@pytest.fixture
async def callers(host: TwinHost) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        callers: dict[str, httpx.AsyncClient] = {}
        for name, url in host.urls.items():
            caller = httpx.AsyncClient(base_url=url, headers=CREDENTIALS[name].headers(), trust_env=False, verify=False)
            callers[name] = await stack.enter_async_context(caller)
        await authorize(callers["erp"])
        yield callers


async def authorize(erp: httpx.AsyncClient) -> None:
    answer = await erp.post(
        "/oauth2/token",
        data={"grant_type": "client_credentials"},
        auth=(CREDENTIALS["erp"].user, CREDENTIALS["erp"].secret),
    )
    erp.headers["authorization"] = f"Bearer {answer.json()['access_token']}"


# --- the source ---------------------------------------------------------------------------------------------


async def listing(crm: httpx.AsyncClient, **params: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    while True:
        answer = await crm.get(ORDERS, params=params)
        assert answer.status_code == 200, answer.text
        records += answer.json()["results"]
        if "paging" not in answer.json():
            return records
        params["after"] = answer.json()["paging"]["next"]["after"]


async def test_crm_listing_goes_through_every_record_once_in_order_of_change(
    host: TwinHost, callers: dict[str, httpx.AsyncClient]
) -> None:
    await host.seed("orders", 25)
    records = await listing(callers["crm"], limit="10")
    assert [r["id"] for r in records] == [f"order-{n:06d}" for n in range(1, 26)]
    assert records[0]["updatedAt"] == "2023-11-14T22:13:20.000000Z"


async def test_crm_listing_of_whole_pages_has_no_empty_page_at_its_end(
    host: TwinHost, callers: dict[str, httpx.AsyncClient]
) -> None:
    await host.seed("orders", 10)
    answer = await callers["crm"].get(ORDERS, params={"limit": "10"})
    assert "paging" not in answer.json()


async def test_crm_listing_since_an_instant_holds_only_what_changed_after_it(
    host: TwinHost, callers: dict[str, httpx.AsyncClient]
) -> None:
    await host.seed("orders", 5)
    newest = (await listing(callers["crm"]))[-1]["updatedAt"]
    host.upsert("orders", [{"id": "order-000002", "total": 1}])
    changed = await listing(callers["crm"], updated_after=newest)
    assert [(r["id"], r["total"]) for r in changed] == [("order-000002", 1)]
    assert changed[0]["updatedAt"] > newest


async def test_crm_upsert_with_its_own_instant_is_listed_there(
    host: TwinHost, callers: dict[str, httpx.AsyncClient]
) -> None:
    host.upsert("orders", [{"id": "new"}])
    host.upsert("orders", [{"id": "late", "updatedAt": "2020-01-01T02:00:00.000007+02:00"}])
    records = await listing(callers["crm"])
    assert [(r["id"], r["updatedAt"][:10]) for r in records] == [("late", "2020-01-01"), ("new", "2023-11-14")]
    assert records[0]["updatedAt"].endswith("00:00:00.000007Z")


@pytest.mark.parametrize(
    "params", [{"limit": "0"}, {"limit": "x"}, {"limit": "201"}, {"after": "%"}, {"updated_after": "now"}]
)
async def test_crm_listing_with_a_senseless_parameter_is_refused(
    callers: dict[str, httpx.AsyncClient], params: dict[str, str]
) -> None:
    answer = await callers["crm"].get(ORDERS, params=params)
    assert (answer.status_code, answer.json()["category"]) == (400, "VALIDATION_ERROR")


async def test_crm_answers_tell_the_quota(callers: dict[str, httpx.AsyncClient]) -> None:
    first, second = [await callers["crm"].get(ORDERS) for _ in range(2)]
    left = [int(a.headers["x-hubspot-ratelimit-remaining"]) for a in (first, second)]
    assert left == [189, 188]
    assert first.headers["x-hubspot-ratelimit-max"] == "190"


# --- every twin ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
async def test_probe_with_the_credential_is_well_and_without_it_refused(
    host: TwinHost, callers: dict[str, httpx.AsyncClient], name: str
) -> None:
    assert (await callers[name].get(PROBES[name])).status_code == 200
    assert (await callers[name].head(PROBES[name])).status_code == 200
    async with httpx.AsyncClient(base_url=host.urls[name], trust_env=False, verify=False) as stranger:
        assert (await stranger.get(PROBES[name])).status_code == 401


@pytest.mark.parametrize("name", NAMES)
async def test_call_to_a_path_that_is_not_there_is_answered_in_json(
    callers: dict[str, httpx.AsyncClient], name: str
) -> None:
    answer = await callers[name].get("/nowhere")
    assert answer.status_code == 404
    assert answer.json()


@pytest.mark.parametrize("name", NAMES)
async def test_rate_limit_when_set_is_said_in_the_vendors_manner(
    host: TwinHost, callers: dict[str, httpx.AsyncClient], name: str
) -> None:
    host.configure(name, rate_limit=1, rate_window_s=3600.0)
    first, second = [await callers[name].get("/nowhere") for _ in range(2)]
    assert first.status_code == 404
    assert second.status_code == {"erp": 400, "marketing": 403}.get(name, 429)
    assert ("retry-after" in second.headers) is (name not in {"erp", "marketing"})


# --- presets describe what the twins do ---------------------------------------------------------------------


def operation(name: str) -> Operation:
    text = (files("tideover.connectors") / "presets" / f"twin-{name}.yaml").read_text(encoding="utf-8")
    return next(iter(Rest.model_validate(yaml.safe_load(text)["rest"]).operations.values()))


async def send(caller: httpx.AsyncClient, name: str, record: object, idempotency_key: str = "id-1") -> httpx.Response:
    described = operation(name)
    headers = {described.idempotency_header: idempotency_key} if described.idempotency_header else {}
    path = described.path.replace("{key}", quote("k/1", safe=""))
    return await caller.request(described.method, path, json=record, headers=headers)


@pytest.mark.parametrize("name", RECORDS)
async def test_preset_reads_acceptance_and_reference_from_the_answer(
    host: TwinHost, callers: dict[str, httpx.AsyncClient], name: str
) -> None:
    answer, described = await send(callers[name], name, RECORDS[name]), operation(name)
    assert answer.status_code in {200, 201}
    assert described.ok is not None
    assert jmespath.search(described.ok, answer.json())
    assert described.reference is not None
    assert jmespath.search(described.reference, answer.json())
    assert [tally["key"] for tally in host.keys(name)] == ["k/1"]
    assert host.keys(name)[0]["last_hash"] == payload_hash(RECORDS[name])


@pytest.mark.parametrize("name", RECORDS)
async def test_preset_reads_code_and_detail_of_a_rejection(
    host: TwinHost, callers: dict[str, httpx.AsyncClient], name: str
) -> None:
    answer, described = await send(callers[name], name, {"total": -1}), operation(name)
    assert answer.status_code in {400, 422}
    assert jmespath.search(described.code, answer.json())
    assert jmespath.search(described.detail, answer.json())
    assert host.ledger(name)["received"] == 0


@pytest.mark.parametrize("name", ["erp", "carrier-a", "carrier-b"])
async def test_preset_finds_a_record_by_its_look_up_and_not_before(
    callers: dict[str, httpx.AsyncClient], name: str
) -> None:
    look_up = operation(name).lookup
    assert look_up is not None
    assert look_up.reference is not None
    params = {k: v.replace("{key}", "k/1").replace("{id}", "id-1") for k, v in look_up.params.items()}
    before = (await callers[name].get(look_up.path, params=params)).json()
    sent = (await send(callers[name], name, RECORDS[name])).json()
    after = (await callers[name].get(look_up.path, params=params)).json()
    assert not jmespath.search(look_up.found, before)
    assert jmespath.search(look_up.found, after)
    assert jmespath.search(look_up.reference, after) == jmespath.search(operation(name).reference or "", sent)


@pytest.mark.parametrize(("name", "status"), [("marketing", 200), ("support", 207)])
async def test_preset_reads_what_became_of_each_record_of_a_bulk(
    host: TwinHost, callers: dict[str, httpx.AsyncClient], name: str, status: int
) -> None:
    bulk = operation(name).bulk
    assert bulk is not None
    field = "key" if name == "marketing" else "external_id"
    batch = [{**RECORDS[name], field: f"k{n}"} for n in range(3)]
    batch[1] = {field: "k1"}
    answer = await callers[name].request(bulk.method, bulk.path, json={bulk.wrap: batch})
    results = jmespath.search(bulk.results, answer.json())
    assert answer.status_code == status
    assert [bool(jmespath.search(bulk.ok, r)) for r in results] == [True, False, True]
    assert jmespath.search(bulk.code, results[1])
    assert jmespath.search(bulk.detail, results[1])
    if bulk.result_key is not None:
        assert [jmespath.search(bulk.result_key, r) for r in results] == ["k0", "k1", "k2"]
    assert [tally["key"] for tally in host.keys(name)] == ["k0", "k2"]


@pytest.mark.parametrize("size", [0, 101])
async def test_bulk_of_no_or_too_many_records_is_refused_whole(
    host: TwinHost, callers: dict[str, httpx.AsyncClient], size: int
) -> None:
    answer = await callers["marketing"].post("/3.0/lists/main", json={"members": [RECORDS["marketing"]] * size})
    assert answer.status_code == 400
    assert host.ledger("marketing")["received"] == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1"])
async def test_body_that_is_no_json_object_is_refused(callers: dict[str, httpx.AsyncClient], body: bytes) -> None:
    answer = await callers["erp"].post("/erp/v1/orders", content=body)
    assert answer.json()["o:errorDetails"][0]["o:errorCode"] == "INVALID_JSON"


# --- idempotency keys and tokens ----------------------------------------------------------------------------


async def test_erp_when_a_key_comes_again_replays_the_answer_without_a_second_effect(
    host: TwinHost, callers: dict[str, httpx.AsyncClient]
) -> None:
    first, again = [await send(callers["erp"], "erp", RECORDS["erp"]) for _ in range(2)]
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    ledger = host.ledger("erp")
    assert (ledger["received"], ledger["effects"], ledger["duplicates"]) == (2, 1, 0)


async def test_erp_when_a_key_comes_with_another_body_refuses(callers: dict[str, httpx.AsyncClient]) -> None:
    await send(callers["erp"], "erp", RECORDS["erp"])
    other = await send(callers["erp"], "erp", {**RECORDS["erp"], "total": 13})
    assert other.status_code == 422


async def test_erp_when_a_new_key_comes_makes_a_new_version(
    host: TwinHost, callers: dict[str, httpx.AsyncClient]
) -> None:
    versions = [(await send(callers["erp"], "erp", RECORDS["erp"], key)).json()["version"] for key in ("a", "b")]
    assert versions == [1, 2]
    assert host.ledger("erp")["duplicates"] == 0
    by_key = (await callers["erp"].get("/erp/v1/orders", params={"key": "b"})).json()["items"]
    assert [item["version"] for item in by_key] == [2]


async def test_erp_past_the_key_horizon_does_it_again_and_the_ledger_counts_a_duplicate(
    host: TwinHost, callers: dict[str, httpx.AsyncClient], clock: Clock
) -> None:
    await send(callers["erp"], "erp", RECORDS["erp"])
    clock.now += 86_400
    await authorize(callers["erp"])
    assert (await send(callers["erp"], "erp", RECORDS["erp"])).json()["version"] == 2
    assert host.ledger("erp")["duplicates"] == 1


async def test_erp_without_a_key_counts_the_same_content_again_as_a_duplicate(
    host: TwinHost, callers: dict[str, httpx.AsyncClient]
) -> None:
    for total in (1, 1, 2):
        await callers["erp"].post("/erp/v1/orders", json={"external_id": "k", "total": total})
    ledger = host.ledger("erp")
    assert (ledger["effects"], ledger["duplicates"]) == (3, 1)


async def test_erp_rejection_leaves_its_key_free_for_a_mended_record(callers: dict[str, httpx.AsyncClient]) -> None:
    rejected = await send(callers["erp"], "erp", {**RECORDS["erp"], "total": -1})
    mended = await send(callers["erp"], "erp", RECORDS["erp"])
    assert (rejected.status_code, mended.status_code) == (400, 201)


async def test_erp_token_when_its_time_is_over_is_refused(
    host: TwinHost, callers: dict[str, httpx.AsyncClient], clock: Clock
) -> None:
    host.configure("erp", token_lifetime_s=10.0)
    await authorize(callers["erp"])
    clock.now += 9.9
    assert (await callers["erp"].get(PROBES["erp"])).status_code == 200
    clock.now += 0.1
    assert (await callers["erp"].get(PROBES["erp"])).status_code == 401


@pytest.mark.parametrize("token", ["x", "twin-erp.1.x", "twin-erp.99999999999999999.x", "twin-erp.²."])
async def test_erp_token_that_was_never_issued_is_refused(host: TwinHost, token: str) -> None:
    async with httpx.AsyncClient(base_url=host.urls["erp"], trust_env=False, verify=False) as stranger:
        answer = await stranger.get(PROBES["erp"], headers={b"authorization": f"Bearer {token}".encode()})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"grant_type": "password"}, 400),
        ({"grant_type": "client_credentials"}, 401),
        ({"grant_type": "client_credentials", "client_id": "twin-erp-client", "client_secret": "twin-erp-secret"}, 200),
    ],
)
async def test_erp_token_endpoint_answers_as_rfc_6749_says(host: TwinHost, form: dict[str, str], status: int) -> None:
    async with httpx.AsyncClient(base_url=host.urls["erp"], trust_env=False, verify=False) as stranger:
        assert (await stranger.post("/oauth2/token", data=form)).status_code == status


# --- carriers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "method", "word"),
    [("carrier-a", "/v1/shipments", "PUT", "void"), ("carrier-b", "/v2/shipments", "POST", "refund")],
)
async def test_carrier_books_each_post_as_a_parcel_and_a_void_takes_one_back(
    host: TwinHost, callers: dict[str, httpx.AsyncClient], name: str, path: str, method: str, word: str
) -> None:
    described = operation(name)
    first, second = [(await send(callers[name], name, RECORDS[name])).json() for _ in range(2)]
    assert host.ledger(name)["duplicates"] == host.ledger(name)["standing_duplicates"] == 1
    references = [jmespath.search(described.reference or "", answer) for answer in (first, second)]
    for _ in range(2):
        assert (await callers[name].request(method, f"{path}/{references[0]}/{word}")).status_code == 200
    ledger = host.ledger(name)
    assert (ledger["duplicates"], ledger["standing_duplicates"], ledger["voided"]) == (1, 0, 1)
    assert described.lookup is not None
    params = {k: v.replace("{key}", "k/1") for k, v in described.lookup.params.items()}
    found = (await callers[name].get(path, params=params)).json()
    assert jmespath.search(described.lookup.reference or "", found) == references[1]
    assert (await callers[name].request(method, f"{path}/nothing/{word}")).status_code == 404
