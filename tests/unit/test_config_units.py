"""Durations, sizes, shares, rates, names and expressions: what is read back, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tideover.config.expressions import check_expression, check_priority
from tideover.config.names import check_block, check_dotted, check_file, check_name, check_variable
from tideover.config.paths import check_path
from tideover.config.units import (
    Rate,
    format_duration,
    format_rate,
    format_share,
    format_size,
    parse_duration,
    parse_rate,
    parse_rates,
    parse_share,
    parse_size,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("90s", 90.0), ("1h30m", 5400.0), ("1.5h", 5400.0), ("30d", 2_592_000.0)]
)
def test_duration_when_it_has_units_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "5 m", "-5m", "m", "5y", "٥m", 5, None, "9" * 400 + "d", "101w1000000h"])
def test_duration_when_unclear_or_endless_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|100 years"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "10", "10mb", "-1B", "1.2.3MB", "9" * 400 + "GB", 10])
def test_size_when_unclear_or_endless_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"size|1000GB"):
        parse_size(text)


@pytest.mark.parametrize(("text", "share"), [("0%", 0.0), ("2%", 0.02), ("0.5%", 0.005), ("50%", 0.5), ("50.0%", 0.5)])
def test_share_when_it_is_a_percentage_is_a_fraction(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    "text", ["", "2", "%", "2 %", "-1%", "51%", "50.1%", "100%", "1e1%", "٥%", "2%%", 0.02, 2, None]
)
def test_share_when_unclear_or_over_half_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a share; write a percentage from 0% to 50%"):
        parse_share(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5/s", Rate(5, 1.0)), ("20/10s", Rate(20, 10.0)), ("200/1m", Rate(200, 60.0)), ("5000/1h", Rate(5000, 3600.0)),
        ("100000/1d", Rate(100_000, 86_400.0)), (" 9/31d ", Rate(9, 2_678_400.0)), (Rate(7, 1.0), Rate(7, 1.0)),
    ],
)  # fmt: skip
def test_rate_when_it_has_calls_and_window_is_both(text: object, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    ["", "5", "/s", "0/s", "05/s", "-5/s", "2.5/s", "5/0s", "5/1.5s", "5/ms", "5/w", "5 / s", "5/sec", "٥/s", "5/32d",
     "5/9999999d", "9" * 10 + "/s", 5, None],
)  # fmt: skip
def test_rate_when_unclear_or_endless_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"is not a rate; write|longer than 31 days; write"):
        parse_rate(text)


@given(st.integers(0, 5000))
def test_share_when_formatted_reads_back(hundredths: int) -> None:
    assert parse_share(format_share(hundredths / 10_000)) == pytest.approx(hundredths / 10_000)


@given(st.integers(1, 10**9 - 1), st.integers(1, 31 * 86_400))
def test_rate_when_formatted_reads_back(calls: int, seconds: int) -> None:
    rate = Rate(calls, float(seconds))
    assert parse_rate(format_rate(rate)) == rate


def test_rate_when_formatted_has_the_largest_unit_that_fits() -> None:
    rates = [Rate(200, 60.0), Rate(5, 1.0), Rate(9, 90.0), Rate(2, 86_400.0)]
    assert [format_rate(rate) for rate in rates] == ["200/1m", "5/1s", "9/90s", "2/1d"]


@pytest.mark.parametrize("value", [1, 3, 5, "rank", "urgent && `1` || `3`"])
def test_priority_when_a_rank_or_an_expression_is_kept(value: object) -> None:
    assert check_priority(value) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "1 (first) to 5 (last), or"), (6, "1 (first)"), (True, "no priority"), (2.0, "no priority"),
     ([1], "no priority"), (None, "no priority"), ("3", "without quotes"), ("-1", "without quotes"),
     ("a-b", "no minus"), ("", "empty")],
)  # fmt: skip
def test_priority_when_neither_is_refused_in_plain_words(value: object, words: str) -> None:
    with pytest.raises(ValueError, match="; ") as caught:
        check_priority(value)
    assert words in str(caught.value)


@given(st.integers(0, 10**9))
def test_duration_when_formatted_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(float(seconds))) == seconds


@given(st.integers(1, 10**12))
def test_size_when_formatted_reads_back(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    "expression",
    ["@", "id", "order.number", "items[?qty > `1`].sku", '"order-id"', "join(',', tags)", "not_null(a, b, c)"],
)
def test_expression_when_sound_is_kept(expression: str) -> None:
    assert check_expression(expression) == expression


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("{{ order.id }}", "no template engine"),
        ("${TOKEN}", "no template engine"), ("{% if a %}", "no template engine"),
        ("order-id", "no minus"), ("a = b", "single `=`"), ("a b", "`b` at character 3"), ("'a", "never closed"),
        ("a[", "ends too early"), ("", "empty"), ("  ", "empty"), ("uper(a)", "no JMESPath function"),
        ("to_strng(a)", "did you mean `to_string`"), ("join(a)", "takes 2"), ("not_null()", "at least 1"),
        ("a || `text`", "single quotes"),
        ("``", "single quotes"), ("(" * 900, "nested too deeply"), ("a" * 2001, "longer than 2000"),
        ("a.{b: nope(@)}", "calls `nope`"),
    ],
)  # fmt: skip
def test_expression_when_unsound_is_refused_in_plain_words(expression: str, what: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        check_expression(expression)
    assert what in str(caught.value)


@given(st.one_of(st.text(max_size=60), st.text("ab.[]{}()|&@`'\"*?!<>=,:-0 1$\\", max_size=40)))
def test_expression_when_random_is_kept_or_refused(expression: str) -> None:
    try:
        assert check_expression(expression) == expression
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either way is right


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (check_name, ["crm", "orders-to-erp", "a1"], ["", "A", "a_b", "a--b", "-a", "1a", "a" * 61, "é"]),
        (check_block, ["tideover-bearer/crm"], ["crm", "a/b/c", "/", "a/", "A/b"]),
        (check_dotted, ["mappings.orders:to_invoice", "m:f"], ["m", "m.f", ":f", "m:", "a b:c", "m:f:g", ".m:f"]),
        (check_variable, ["TIDEOVER_DB", "_x1"], ["", "1x", "A-B", "postgresql://u:p@h/db", "$X"]),
        (check_file, ["tideover.db", "/var/lib/tideover.db"], ["", "sqlite:///x.db", ":memory:", "a\0b"]),
        (check_path, ["/v3/orders", "/o/{key}/{id}"], ["", "orders", "//evil/x", "/a\\b", "/o/{order}", "https://h/x"]),
    ],
)
def test_text_when_checked_is_kept_or_refused(check, good: list[str], bad: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert [check(text) for text in good] == good
    for text in bad:
        with pytest.raises(ValueError, match="; "):
            check(text)


def test_parse_rates_takes_one_or_several() -> None:
    assert parse_rates("200/1m") == (Rate(200, 60.0),)
    assert parse_rates(["10/s", "200/1m"]) == (Rate(10, 1.0), Rate(200, 60.0))
    assert parse_rates(parse_rates("5/s")) == (Rate(5, 1.0),)


@pytest.mark.parametrize("wrong", [[], ["5/s"] * 11, ["5/s", 3], {"rate": "5/s"}, None, 5])
def test_parse_rates_refuses_what_is_none(wrong: object) -> None:
    with pytest.raises(ValueError, match="rate"):
        parse_rates(wrong)


@pytest.mark.parametrize("right", ["00:00", "06:30", "23:59", " 12:00 "])
def test_parse_time_keeps_what_is_written(right: str) -> None:
    assert parse_time(right) == right.strip()


@pytest.mark.parametrize("wrong", ["24:00", "6:30", "06:60", "06:30:00", "noon", 6, None])
def test_parse_time_refuses_what_is_no_time_of_day(wrong: object) -> None:
    with pytest.raises(ValueError, match="time of day"):
        parse_time(wrong)
