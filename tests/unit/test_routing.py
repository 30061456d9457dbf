"""What a failover group's configuration means for a record."""

from __future__ import annotations

import orjson
import pytest

from tideover.config.models import Group
from tideover.hub.routing import eligibility


def group(when: str | None) -> Group:
    providers: list[object] = ["carrier-a", {"system": "carrier-b", "when": when} if when else "carrier-b"]
    return Group.model_validate_json(orjson.dumps({"providers": providers}))


def test_eligibility_where_no_provider_has_a_condition_is_nothing_to_ask() -> None:
    assert eligibility(group(None)) is None


@pytest.mark.parametrize(
    ("when", "record", "is_met"),
    [
        ("weight <= `30`", {"weight": 12}, True),
        ("weight <= `30`", {"weight": 31}, False),
        ("weight <= `30`", {}, False),
        ("weight <= `30`", {"weight": "12"}, False),
        ("weight < `30`", {"weight": {"kg": 3}}, False),
        ("abs(weight) < `30`", {"weight": "heavy"}, False),
        ("ceil(to_number(weight)) < `30`", {"weight": "nan"}, False),
        ("ceil(to_number(weight)) < `30`", {"weight": "1e999"}, False),
        ("country != 'CH'", {"country": "DE"}, True),
    ],
)
def test_eligibility_of_any_record_answers_and_never_raises(when: str, record: object, is_met: bool) -> None:
    eligible = eligibility(group(when))
    assert eligible is not None
    assert list(eligible(orjson.dumps(record))) == (["carrier-a", "carrier-b"] if is_met else ["carrier-a"])
