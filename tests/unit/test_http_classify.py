"""The reading of answers, as properties: nothing raises, and nothing is believed that the answer does not prove."""

from __future__ import annotations

from typing import cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tideover.config.rest import Bulk, ErrorRule, Operation, Rest
from tideover.connectors.http.answer import Answer, Headers, Trouble
from tideover.connectors.http.bulk import outcomes
from tideover.connectors.http.classify import Meaning, classify, is_own_word, meaning_of
from tideover.connectors.http.scrub import MAX_DETAIL, Hidden, code_or, nothing, tidy, values
from tideover.model import CREDENTIALS, Accepted, Outgoing, Rejected, Throttled, Unknown, Unsent

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["error", "errors", "code", "message", "id", "ok", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def _dumped(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        return b'{"n":123456789012345678901234567890}'


BODIES = (
    st.binary(max_size=200)
    | JSON.map(_dumped)
    | st.sampled_from([b"", b"[" * 3000, b'"\\ud800"', b"1e999", b"\xef\xbb\xbf{}"])
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["Retry-After", "RateLimit", "RateLimit-Policy", "RateLimit-Reset", "Date", "X-Reset", "X"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)
        | st.integers(-(10**20), 10**20).map(str)
        | st.sampled_from(["Sun, 06 Nov 2044 08:49:37 GMT", '"d";r=0;t=30', "limit=1, remaining=0, reset=9"]),
    ),
    max_size=5,
)
STATUSES = st.integers(100, 599)
TROUBLES = st.sampled_from([None, "timeout", "unreadable", "oversize"])
OPERATIONS = st.sampled_from(
    [
        Operation(path="/"),
        Operation(path="/", ok="ok"),
        Operation(path="/", ok="length(errors) == `0`", reference="id"),
        Operation(path="/", reference="id", code="to_string(@)", detail="to_string(@)"),
    ]
)
NOWHERE = (404, 405, 421, 426)
RULES = st.lists(
    st.builds(
        ErrorRule,
        status=st.none() | st.integers(400, 599),
        contains=st.none() | st.just("x"),
        json_body=st.none() | st.booleans(),
        outcome=st.sampled_from(["rejected", "throttled", "unsent", "unknown", "credentials"]),
    ),
    max_size=2,
)


def answer(status: int, headers: list[tuple[str, str]], body: bytes, trouble: str | None) -> Answer:
    return Answer(status, Headers(headers), body, cast("Trouble | None", trouble))


def meaning(operation: Operation, rules: list[ErrorRule] | None = None) -> Meaning:
    return meaning_of(operation, Rest(errors=rules or [], reset_headers=["x-reset"]))


@given(STATUSES, HEADERS, BODIES, TROUBLES, OPERATIONS)
def test_classify_believes_no_more_than_the_status_proves(
    status: int, headers: list[tuple[str, str]], body: bytes, trouble: str | None, operation: Operation
) -> None:
    outcome = classify(answer(status, headers, body, trouble), meaning(operation))
    match outcome:
        case Accepted():
            assert 200 <= status <= 299
            assert trouble is None
        case Unsent(code):
            assert status in (401, 403, 407)
            assert code == CREDENTIALS
        case Throttled(delay):
            assert status in (429, 503)
            assert 0 < delay <= 3600
        case Rejected(code):
            assert 400 <= status <= 499 or (200 <= status <= 299 and operation.ok is not None)
            assert status not in NOWHERE or is_own_word(answer(status, headers, body, trouble))
            assert 0 < len(code) <= 64
        case Unknown():
            assert status < 400 or status in (408, 425, *NOWHERE) or status >= 500


@pytest.mark.parametrize("status", NOWHERE)
@pytest.mark.parametrize(
    ("content_type", "body"),
    [("text/html", b"<h1>Not Found</h1>"), ("application/json", b""), ("application/json", b'"no route"')],
)
def test_classify_takes_no_gateways_word_for_the_records_own_fault(status: int, content_type: str, body: bytes) -> None:
    """A `path` that is not there, for a moment or since a change, is true of every record: none is to be parked."""
    outcome = classify(answer(status, [("Content-Type", content_type)], body, None), meaning(Operation(path="/x")))
    assert isinstance(outcome, Unknown)
    assert outcome.code == "unreadable"


@pytest.mark.parametrize("status", NOWHERE)
def test_classify_takes_the_systems_own_word_for_the_records_fault(status: int) -> None:
    body = b'{"message": "no such customer"}'
    outcome = classify(
        answer(status, [("Content-Type", "application/json")], body, None), meaning(Operation(path="/x"))
    )
    assert outcome == Rejected(f"http_{status}", f"http {status}: no such customer")


@given(STATUSES, HEADERS, BODIES, TROUBLES, OPERATIONS, RULES)
def test_classify_with_any_rules_never_raises_and_says_one_short_line(
    status: int,
    headers: list[tuple[str, str]],
    body: bytes,
    trouble: str | None,
    operation: Operation,
    rules: list[ErrorRule],
) -> None:
    outcome = classify(answer(status, headers, body, trouble), meaning(operation, rules))
    if not isinstance(outcome, Accepted):
        assert len(outcome.detail) <= MAX_DETAIL
        assert len(outcome.detail.splitlines()) <= 1
    else:
        assert 200 <= status <= 299


@pytest.mark.parametrize(
    ("said", "taken"), [("a-7", "a-7"), (7, "7"), ("x\x00y", None), ("x" * 1001, None), ("", None), (None, None)]
)
def test_reference_that_could_not_be_kept_is_none(said: object, taken: str | None) -> None:
    body, operation = orjson.dumps({"id": said}), Operation(path="/", reference="id")
    assert classify(answer(200, [], body, None), meaning(operation)) == Accepted(taken)
    bulk = Bulk.model_validate({"path": "/", "size": 5, "match": "index", "ok": "`true`", "reference": "id"})
    listed = answer(200, [], b"[" + body + b"]", None)
    batch = [Outgoing("1", "1", b"{}")]
    assert outcomes(listed, bulk, meaning(operation), batch, nothing) == [Accepted(taken)]


@given(STATUSES, BODIES, TROUBLES, st.integers(2, 4), st.sampled_from(["index", "key"]))
def test_bulk_outcomes_accept_only_what_a_whole_2xx_names(
    status: int, body: bytes, trouble: str | None, count: int, match: str
) -> None:
    bulk = Bulk.model_validate({"path": "/", "size": 5, "match": match, "result_key": "id"})
    batch = [Outgoing(str(n), str(n), b"{}") for n in range(count)]
    found = outcomes(answer(status, [], body, trouble), bulk, meaning(Operation(path="/")), batch, nothing)
    if isinstance(found, list):
        assert len(found) == count
        assert 200 <= status <= 299
        assert trouble is None
    else:
        assert not isinstance(found, Accepted)


@given(st.text(min_size=4, max_size=30), st.text(max_size=400), st.text(max_size=400))
def test_tidy_leaves_no_hidden_value(hidden: str, before: str, after: str) -> None:
    piece = " ".join(hidden.split())
    line = tidy(f"{before} {hidden} {after}", Hidden(lambda: [hidden]))
    assert len(line) <= MAX_DETAIL
    if len(piece) >= 4 and piece.isascii() and piece.strip("*… "):
        assert piece.lower() not in line.lower() or piece.lower() in "***"


def test_tidy_when_a_hidden_value_stands_at_the_cut_leaves_no_half_of_it() -> None:
    line = tidy("x" * (MAX_DETAIL - 6) + "secret-value", Hidden(lambda: ["secret-value"]))
    assert "secret" not in line


def test_code_or_when_it_is_a_sentence_or_names_a_value_gives_the_default() -> None:
    assert code_or("DUPLICATE_ID", "http_409") == "DUPLICATE_ID"
    assert code_or("Customer 'Ada' exists!", "http_409") == "http_409"
    assert code_or("no-ada-lovelace", "http_409", Hidden(lambda: ["Ada-Lovelace"])) == "http_409"
    assert code_or("x" * 65, "http_409") == "http_409"


def test_values_finds_every_leaf() -> None:
    found = set(values(b'{"a":["x",{"b":1.5}],"c":null,"d":true,"e":123456789012345678901}'))
    assert found == {"x", "1.5", "123456789012345678901"}
    assert list(values(b"no json")) == []


def test_classify_of_a_400_cut_short_that_a_rule_has_to_see_is_unsent() -> None:
    rules = [ErrorRule(status=400, contains="LIMIT", outcome="throttled")]
    cut = classify(answer(400, [], b"{", "unreadable"), meaning(Operation(path="/"), rules))
    assert cut == Unsent("unreadable", "http 400, not whole", is_answer=True)
    seen = classify(answer(400, [], b'{"code":"LIMIT', "unreadable"), meaning(Operation(path="/"), rules))
    assert isinstance(seen, Throttled)
