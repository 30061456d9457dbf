"""What answers say of the quota that is left, in each vendor's manner."""

from __future__ import annotations

import pytest

from tideover.connectors.http.allowance import Allowance
from tideover.connectors.http.answer import Headers

DATE = ("Date", "Wed, 06 May 2026 12:00:00 GMT")
NOON_S = 1778068800
Fields = list[tuple[str, str]]


def heard(allowance: Allowance, headers: Fields, now: float = 100.0) -> float:
    allowance.hear(Headers(headers), now)
    return allowance.pause_s(now)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param([("RateLimit", '"default";r=0;t=30')], 30, id="IETF"),
        pytest.param([("RateLimit", '"default";r=1;t=30')], 0, id="IETF, one left"),
        pytest.param([("RateLimit", '"burst";r=0;t=5, "daily";r=900;t=4000')], 5, id="IETF, one of two"),
        pytest.param([("RateLimit", "limit=100, remaining=0, reset=7")], 7, id="IETF, an older draft"),
        pytest.param([("RateLimit-Policy", '"a";q=100;w=60')], 0, id="a policy says nothing of what is left"),
        pytest.param([("RateLimit-Remaining", "0"), ("RateLimit-Reset", "12")], 12, id="IETF, three headers"),
        pytest.param([("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", str(NOON_S + 9)), DATE], 9, id="GitHub"),
        pytest.param([("X-RateLimit-Remaining", "3"), ("X-RateLimit-Reset", str(NOON_S + 9)), DATE], 0, id="three"),
        pytest.param([("X-Rate-Limit-Remaining", "0"), ("X-Rate-Limit-Reset", "20")], 20, id="ShipStation"),
        pytest.param([("X-Rate-Limit-Remaining", "0"), ("ratelimit-reset", "33")], 33, id="Zendesk"),
        pytest.param([("X-RateLimit-Remaining", "0")], 0, id="nobody says until when"),
        pytest.param([("X-RateLimit-Remaining", "0"), ("x-back-in", "6")], 6, id="the description's own header"),
        pytest.param(
            [
                ("X-HubSpot-RateLimit-Max", "190"),
                ("X-HubSpot-RateLimit-Remaining", "0"),
                ("X-HubSpot-RateLimit-Interval-Milliseconds", "10000"),
            ],
            10,
            id="HubSpot",
        ),
        pytest.param([("X-HubSpot-RateLimit-Secondly-Remaining", "0")], 1, id="HubSpot, of a second"),
        pytest.param([("X-HubSpot-RateLimit-Daily-Remaining", "0")], 3600, id="HubSpot, of a day"),
        pytest.param([("X-MinLimit-Remaining", "0"), ("X-DayLimit-Remaining", "4000")], 60, id="Xero"),
        pytest.param([("X-DayLimit-Remaining", "0")], 3600, id="Xero, of a day"),
        pytest.param([("X-Shopify-Shop-Api-Call-Limit", "39/40")], 0, id="Shopify, one left"),
        pytest.param([("X-Shopify-Shop-Api-Call-Limit", "40/40")], 1, id="Shopify"),
        pytest.param([("Sforce-Limit-Info", "api-usage=99/100000")], 0, id="Salesforce, plenty"),
        pytest.param([("Sforce-Limit-Info", "api-usage=100000/100000")], 900, id="Salesforce"),
        pytest.param(
            [("Sforce-Limit-Info", "api-usage=10/100; per-app-api-usage=250/250(appName=hub)")], 900, id="of one app"
        ),
        pytest.param([("X-RateLimit-Remaining", "zero"), ("X-RateLimit-Reset", "9")], 0, id="nonsense"),
        pytest.param([("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "9" * 17)], 0, id="no date to compare"),
        pytest.param([("RateLimit-Remaining", "0"), ("RateLimit-Reset", "99999999")], 3600, id="never for longer"),
        pytest.param([("X-Body-Size-Limit", "0")], 0, id="some other limit"),
    ],
)
def test_pause_after_one_answer(headers: Fields, expected: float) -> None:
    assert heard(Allowance(["X-Back-In"]), headers) == pytest.approx(expected)


def test_pause_is_over_when_its_time_has_come() -> None:
    allowance = Allowance()
    heard(allowance, [("RateLimit", '"d";r=0;t=30')], now=100.0)
    assert [allowance.pause_s(now) for now in (100.0, 120.0, 130.0, 200.0)] == [30.0, 10.0, 0.0, 0.0]


def test_pause_is_not_shortened_by_an_answer_that_was_overtaken() -> None:
    allowance = Allowance()
    heard(allowance, [("RateLimit", '"d";r=0;t=30')])
    assert heard(allowance, [("RateLimit", '"d";r=2;t=30')]) == 30.0


def test_pause_by_an_interval_counts_from_the_windows_beginning() -> None:
    def quota(left: int) -> Fields:
        name = "X-HubSpot-RateLimit"
        return [(f"{name}-Max", "190"), (f"{name}-Remaining", str(left)), (f"{name}-Interval-Milliseconds", "10000")]

    allowance = Allowance()
    for left, now in ((20, 100.0), (189, 104.0), (90, 105.0), (93, 105.1)):  # the last two in the wrong order
        assert heard(allowance, quota(left), now) == 0
    assert heard(allowance, quota(0), 106.0) == pytest.approx(8.0)
