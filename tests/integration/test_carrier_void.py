"""What failover does with a parcel too many: the shipped presets void it at the simulated carriers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.twinhubs import HASTY, PATIENT, TwinSecrets
from tideover.config.rest import Limits, Rest, Timeouts
from tideover.connectors.http import HttpConnector
from tideover.connectors.port import Connector
from tideover.model import HUNG, Accepted, Found, Missing, Outgoing, Rejected, Unknown, Unsent
from tideover.twins import TwinHost

SHIP = "create-shipment"
RECORDS = {
    name: Outgoing("i-1", "k/1", json.dumps({field: "k/1", "weight_kg": 2}).encode())
    for name, field in (("carrier-a", "external_shipment_id"), ("carrier-b", "reference"))
}
CARRIERS = pytest.mark.parametrize("name", RECORDS)


@pytest.fixture
async def twins(tmp_path: Path) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path) as host:
        yield host


@asynccontextmanager
async def carrier(twins: TwinHost, name: str, patience: Mapping[str, Any] = PATIENT) -> AsyncIterator[Connector]:
    text = (files("tideover.connectors") / "presets" / f"twin-{name}.yaml").read_text(encoding="utf-8")
    rest = Rest.model_validate(yaml.safe_load(text)["rest"])
    access = await TwinSecrets(twins.urls).access(name, "")
    connector: Connector = HttpConnector(name, rest, access, Timeouts.model_validate(patience["timeouts"]), Limits())
    try:
        yield connector
    finally:
        await connector.close()


async def shipped(connector: Connector, name: str) -> str:
    """Books the parcel; the carrier's reference of it."""
    [outcome] = await connector.send(SHIP, [RECORDS[name]])
    assert isinstance(outcome, Accepted)
    assert outcome.reference is not None
    return outcome.reference


@CARRIERS
async def test_void_of_a_parcel_takes_it_back_once_however_often_it_is_asked(twins: TwinHost, name: str) -> None:
    async with carrier(twins, name) as connector:
        assert connector.can_void(SHIP)
        reference = await shipped(connector, name)
        assert await connector.look_up(SHIP, RECORDS[name]) == Found(reference)
        for _ in range(2):
            assert await connector.void(SHIP, RECORDS[name], reference) == Accepted()
            assert await connector.look_up(SHIP, RECORDS[name]) == Missing()
        assert twins.ledger(name)["voided"] == 1


@CARRIERS
async def test_void_of_one_of_two_parcels_leaves_the_other(twins: TwinHost, name: str) -> None:
    async with carrier(twins, name) as connector:
        first, second = [await shipped(connector, name) for _ in range(2)]
        assert await connector.void(SHIP, RECORDS[name], first) == Accepted()
        assert await connector.look_up(SHIP, RECORDS[name]) == Found(second)
        assert twins.ledger(name)["standing_duplicates"] == 0


@CARRIERS
@pytest.mark.parametrize("reference", ["nothing", "se-999", "shp_999", "a/b"])
async def test_void_with_a_wrong_reference_is_rejected_and_takes_nothing_back(
    twins: TwinHost, name: str, reference: str
) -> None:
    async with carrier(twins, name) as connector:
        right = await shipped(connector, name)
        assert isinstance(await connector.void(SHIP, RECORDS[name], reference), Rejected)
        assert await connector.look_up(SHIP, RECORDS[name]) == Found(right)


@CARRIERS
async def test_void_without_a_reference_is_rejected_until_a_look_up_names_it(twins: TwinHost, name: str) -> None:
    async with carrier(twins, name) as connector:
        await shipped(connector, name)
        refused = await connector.void(SHIP, RECORDS[name], None)
        assert isinstance(refused, Rejected)
        assert refused.code == "no_reference"
        found = await connector.look_up(SHIP, RECORDS[name])
        assert isinstance(found, Found)
        assert await connector.void(SHIP, RECORDS[name], found.reference) == Accepted()


@CARRIERS
async def test_void_that_hangs_is_unknown_and_done_again_safely(twins: TwinHost, name: str) -> None:
    async with carrier(twins, name, HASTY) as connector:
        reference = await shipped(connector, name)
        await twins.fault(name, "hang", only="writes")
        assert await connector.void(SHIP, RECORDS[name], reference) == Unknown(HUNG, "no answer in time")
        await twins.clear(name)
        assert await connector.void(SHIP, RECORDS[name], reference) == Accepted()
        assert twins.ledger(name)["voided"] == 1


@CARRIERS
async def test_void_whose_answer_is_lost_is_unknown_and_done_again_safely(twins: TwinHost, name: str) -> None:
    async with carrier(twins, name) as connector:
        reference = await shipped(connector, name)
        await twins.fault(name, "commit_then_drop", only="writes")
        assert isinstance(await connector.void(SHIP, RECORDS[name], reference), Unknown)
        assert twins.ledger(name)["voided"] == 1
        await twins.clear(name)
        assert await connector.void(SHIP, RECORDS[name], reference) == Accepted()
        assert twins.ledger(name)["voided"] == 1


@CARRIERS
async def test_void_while_the_carrier_is_down_is_unsent(twins: TwinHost, name: str) -> None:
    async with carrier(twins, name) as connector:
        reference = await shipped(connector, name)
    async with carrier(twins, name) as connector:  # without a connection that would be reset, which is unknown
        await twins.fault(name, "down")
        assert isinstance(await connector.void(SHIP, RECORDS[name], reference), Unsent)
    assert twins.ledger(name)["voided"] == 0
