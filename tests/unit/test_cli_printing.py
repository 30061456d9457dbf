"""How the command line writes quantities, foreign text and errors; and what it thinks of what is installed."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from tideover.cli.doctor import check_prefect
from tideover.cli.explaining import covered, explained
from tideover.cli.frame import EXIT_CODES
from tideover.cli.gates import in_words, next_probe
from tideover.cli.printing import amount, cell, plain, span, stamp, table
from tideover.cli.signing import MAX_REASON
from tideover.cli.signing import reason as said
from tideover.errors import (
    AccessError,
    ConfigError,
    HubUnavailable,
    Problem,
    Refused,
    SourceError,
    TideoverError,
)
from tideover.policy.breaker import State
from tideover.staging.systems import Gate


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (0, "0 ms"),
        (0.1204, "120 ms"),
        (12.34, "12.3 s"),
        (59.96, "1m 00s"),
        (75, "1m 15s"),
        (3600, "1h 00m"),
        (11_100, "3h 05m"),
        (187_200, "2d 04h"),
    ],
)
def test_span_shows_two_units_at_most(seconds: float | None, shown: str) -> None:
    assert span(seconds) == shown


def test_stamp_of_an_instant_is_utc_and_of_none_is_null() -> None:
    assert stamp(1_769_860_800_000_001) == "2026-01-31T12:00:00.000001Z"
    assert stamp(0) is None


def test_amount_counts_one_and_many() -> None:
    assert [amount(n, "record") for n in (0, 1, 1200)] == ["0 records", "1 record", "1,200 records"]


@given(st.text())
def test_plain_is_one_printable_line_whatever_comes(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable() or shown == ""


def _printed(rows: Table, width: int) -> str:
    console = Console(width=width, color_system=None, file=StringIO(), force_terminal=False)
    with console.capture() as captured:
        console.print(rows)
    shown = captured.get()
    assert all(len(line) <= width for line in shown.splitlines())
    return shown


def test_table_on_a_narrow_screen_keeps_the_first_column_whole() -> None:
    rows = table(("record", "detail"), wide=("detail",))
    rows.add_row(cell("f" * 32), cell("a long text " * 10))
    assert "f" * 32 in _printed(rows, 60)


def _figures() -> Table:
    rows = table(("system", "down", "backlog", "drained", "RTO", "why"), right=("down", "backlog"), wide=("why",))
    rows.add_row(cell("carrier-a"), "9m 03s", "1,234,567", "12.3 s", "15m", cell("hung: no answer within 2 s"))
    rows.add_row(cell("erp"), "–", "0", "–", "1h", cell(""))
    return rows


@pytest.mark.parametrize("width", [200, 80, 60, 40, 25])
def test_table_on_any_screen_shows_every_name_and_figure_whole(width: int) -> None:
    shown = _printed(_figures(), width)
    for whole in ("carrier-a", "9m 03s", "1,234,567", "12.3 s", "15m", "1h", "why", "backlog", "RTO"):
        assert whole in shown
    assert "…" not in shown
    assert "hung: no answer within 2 s" in " ".join(shown.split())


def test_table_that_does_not_fit_lays_its_rows_out_as_names_and_values() -> None:
    assert _printed(_figures(), 40) == (
        "carrier-a\n"
        "  down: 9m 03s  backlog: 1,234,567\n"
        "  drained: 12.3 s  RTO: 15m\n"
        "  why: hung: no answer within 2 s\n"
        "erp\n"
        "  down: –  backlog: 0  drained: –\n"
        "  RTO: 1h\n"
    )


def test_table_that_does_not_fit_keeps_its_caption() -> None:
    rows = _figures()
    rows.caption = "* of the last hour"
    assert _printed(rows, 40).endswith("* of the last hour\n")


def test_board_of_a_provider_at_80_columns_keeps_reasons_and_figures_whole() -> None:
    columns = ("provider", "breaker", "phase", "share", "relapses", "next", "in doubt", "reason")
    rows = table(columns, right=("share", "relapses", "in doubt"), wide=("reason",))
    shares = ("open (forced)", "canary 1 of 3", "2 %*", "3", "pause ends in 30.0 s", "12", "hung: it does not answer")
    rows.add_row(cell("carrier-a"), *shares)
    shown = _printed(rows, 80)
    assert all(each in shown for each in shares)


def test_explained_problem_has_a_caret_under_its_column() -> None:
    problem = Problem("hub.yaml", 7, 5, "routes.r", "is wrong", "mend it")
    _, _, source, caret = (text.plain for text in explained(problem, "error", "    bad: 1"))
    assert caret.index("^") == source.index("bad")


def test_explained_problem_in_a_very_long_line_shows_the_part_around_it() -> None:
    problem = Problem("hub.yaml", 1, 5_001, "x", "is wrong")
    _, _, source, caret = (text.plain for text in explained(problem, "error", "a" * 5_000 + "X" + "b" * 5_000))
    assert len(source) < 200
    assert caret.index("^") == source.index("X")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("    token: hush", "    token: ****"),
        ('{"api_key": "hush", "x": 1}', '{"api_key": ******, "x": 1}'),
        ("url: postgresql://me:hush@host/db", "url: postgresql://*******@host/db"),
        ("client_secret: {literal: hush}", "client_secret: **************}"),
        ("key: id", "key: id"),
        ("token: [", "token: *"),
    ],
)
def test_covered_line_keeps_no_secret_and_its_length(source: str, shown: str) -> None:
    assert covered(source) == shown
    assert len(covered(source)) == len(source)


@pytest.mark.parametrize(
    ("prefect", "fastapi", "is_good"),
    [
        ("3.8.8", "0.150.0", True),
        ("3.8.8", "0.151.0", False),
        ("3.8.8", "1.0", False),
        ("3.9.0", "0.151.0", True),
        ("3.10.1", "0.160.0", True),
        (None, "0.150.0", False),
        ("3.8.8", None, False),
    ],
)
def test_check_prefect_knows_which_versions_fit(prefect: str | None, fastapi: str | None, is_good: bool) -> None:
    versions = {"prefect": prefect, "fastapi": fastapi}
    problems = check_prefect(versions.get)
    assert (not problems) is is_good
    assert all("pip install" in problem for problem in problems)


def test_exit_codes_of_all_errors_are_documented() -> None:
    kinds = (TideoverError, ConfigError, HubUnavailable, AccessError, SourceError, Refused)
    assert [kind.exit_code for kind in kinds] == [1, 2, 3, 4, 5, 6]
    assert {kind.exit_code for kind in kinds} <= set(EXIT_CODES)


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ("", ""),
        ("refused: ConnectionRefusedError ECONNREFUSED", "it refuses connections"),
        ("token: token endpoint: refused", "its token endpoint refuses connections"),
        (
            "token: token endpoint: http 500 without a bearer token",
            "its token endpoint says http 500 without a bearer token",
        ),
        ("timeout: no answer in time", "no answer in time"),
        ("timeout", "it does not answer in time"),
        (
            "tls: SSLCertVerificationError CERTIFICATE_VERIFY_FAILED",
            "it fails at TLS: SSLCertVerificationError CERTIFICATE_VERIFY_FAILED",
        ),
        ("late: its time was over before it was sent", "its time was over before it was sent"),
        ("server_error: http 500", "http 500"),
        ("maintenance until six", "maintenance until six"),
    ],
)
def test_what_a_call_met_is_told_in_words(detail: str, shown: str) -> None:
    assert in_words(detail) == shown


def test_probe_whose_time_has_come_is_due() -> None:
    assert next_probe(Gate(State.OPEN, "hung", "", False, False, 0.0)) == "due"
    assert next_probe(Gate(State.OPEN, "hung", "", False, False, 2.5)) == "in 2.5 s"
    assert next_probe(Gate(State.OPEN, "operator", "", True, False, 0.0)) == "never"


def test_reason_is_kept_in_short_and_never_longer_than_a_board_can_show() -> None:
    assert said(" upgrade until four ") == "upgrade until four"
    assert said("x" * MAX_REASON) == "x" * MAX_REASON
    with pytest.raises(Refused, match=r"--why has 5,000 characters, more than 500: say it in short"):
        said("x" * 5_000)
