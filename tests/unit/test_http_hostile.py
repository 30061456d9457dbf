"""What a provider can write into headers: nothing raises, and nothing takes more than a pass over it.

The times are those of a machine that has other work to do; what is guarded against took seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tideover.connectors.http.allowance import Allowance
from tideover.connectors.http.answer import Headers
from tideover.connectors.http.pagination import Unfit, next_link
from tideover.connectors.http.throttle import delay_s, rate_limit_s

NAMES = [
    "Retry-After", "RateLimit", "RateLimit-Policy", "RateLimit-Reset", "RateLimit-Remaining", "Date",
    "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-HubSpot-RateLimit-Interval-Milliseconds",
    "Sforce-Limit-Info", "X-Shopify-Shop-Api-Call-Limit", "X-DayLimit-Remaining",
]  # fmt: skip
DIGITS = st.sampled_from(["0", "9", "1", "\u0663", "\u00b2"]).flatmap(
    lambda digit: st.sampled_from([1, 18, 19, 4301, 30_000]).map(lambda times: digit * times)
)
VALUES = (
    DIGITS
    | st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60)
    | st.tuples(DIGITS, st.sampled_from(["/", ".", ";r=0;t=", " Nov 2044 08:49:37 GMT", "e"]), DIGITS).map("".join)
    | DIGITS.map(lambda digits: f'"d";r=0;t={digits}')
    | DIGITS.map(lambda digits: f"Mon, 1 Jan {digits} 00:00:00 +{digits}")
)


@given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=6))
def test_headers_about_quota_never_raise_whatever_they_hold(fields: list[tuple[str, str]]) -> None:
    headers = Headers(fields)
    said = delay_s(headers, ["x-ratelimit-reset"])
    assert said is None or 0 < said <= 3600
    allowance = Allowance(["x-ratelimit-reset"])
    allowance.hear(headers, 100.0)
    allowance.hear(headers, 101.0)
    assert 0 <= allowance.pause_s(101.0) <= 3600


def heard(fields: list[tuple[str, str]]) -> Callable[[], object]:
    return lambda: Allowance().hear(Headers(fields), 100.0)


def linked(value: str) -> Callable[[], object]:
    return lambda: next_link((value,), "http://a.example/")


UNCLOSED = '"' + '\\"' * 16_000
SLOW: dict[str, Callable[[], object]] = {
    "a quote that is not closed": lambda: rate_limit_s(Headers([("ratelimit", UNCLOSED)])),
    "quotes that are not closed": lambda: rate_limit_s(Headers([("ratelimit", '"' * 32_001)])),
    "a policy that is not closed": lambda: delay_s(Headers([("ratelimit-policy", UNCLOSED)])),
    "many quotas with many dates": heard(
        [*((f"limit-{n}-remaining", "0") for n in range(1500)), *[("retry-after", "Mon, x")] * 1500]
    ),
    "links that are not closed": linked('<>"' + '\\"<>' * 15_000),
    "a backslash at the end": linked('<>"' + '\\"<>' * 15_000 + "\\"),
    "many links": linked("<" * 60_000),
    "many parameters": linked("<a>" + "; rel" * 12_000),
    "many spaces": linked("<a>" + "; \t" * 20_000),
}


@pytest.mark.parametrize("case", SLOW)
def test_hostile_header_is_read_in_one_pass(case: str) -> None:
    began = time.process_time()
    SLOW[case]()
    assert time.process_time() - began < 0.5


def test_allowance_remembers_no_more_of_a_system_that_names_its_quotas_anew_each_time() -> None:
    allowance = Allowance()
    for n in range(1000):
        allowance.hear(Headers([(f"x-limit-{n}-remaining", "5")]), float(n))
    assert len(allowance._last) <= 32


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ('</a>; rel="next"', "/a"),
        ('</a>; title="; rel=next"; rel=prev, </b>; rel=next', "/b"),
        ('</a>; title="x, <y>; rel=next"; rel="next"', "/a"),
        ("</a>; rel=prev; rel=next", None),
        ('</a>; title="unclosed; rel=next', None),
        ("</a>;rel = next", "/a"),
        ("</a> ;REL=NEXT;x", "/a"),
        ("</a>", None),
    ],
)
def test_next_link_reads_the_parameters_of_each_link(value: str, path: str | None) -> None:
    assert next_link((value,), "http://a.example/x") == path


@pytest.mark.parametrize("target", ["/\udc80", "/" + "x" * 9000, "/a\x7fb"])
def test_next_link_that_no_request_can_carry_is_unfit(target: str) -> None:
    with pytest.raises(Unfit, match="too long, or holds a character"):
        next_link((f"<{target}>; rel=next",), "http://a.example/")
