"""Voids and single bodies as values, and how far a void's answer is believed."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.test_http_classify import BODIES, HEADERS, STATUSES, TROUBLES, answer
from tideover.config.asking import VoidCall
from tideover.config.rest import Operation, Rest
from tideover.connectors.http.classify import RETRY, classify, meaning_of, void_meaning
from tideover.connectors.http.requests import Unusable, fill_params, single, undoing
from tideover.model import CREDENTIALS, Accepted, Outgoing, Rejected, Throttled, Unknown, Unsent

RECORD = Outgoing("i-1", "order/1", b'{"n":1.10}')


def void(**described: object) -> VoidCall:
    return VoidCall.model_validate({"path": "/o/{reference}/void", **described})


@given(st.text(max_size=40))
def test_undoing_keeps_any_reference_in_its_one_segment(reference: str) -> None:
    assume(reference not in ("", ".", ".."))
    call = undoing(void(), RECORD, reference)
    _, _, segment, word = call.path.split("/")
    assert (unquote(segment), word, call.content) == (reference, "void", None)


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        (None, "no_reference"),
        ("", "no_reference"),
        (".", "unusable_reference"),
        ("..", "unusable_reference"),
        ("\ud800", "unusable_reference"),
        ("é" * 2000, "unusable_"),
    ],
)
def test_undoing_with_a_reference_that_no_path_can_hold_is_unusable(reference: str | None, code: str) -> None:
    with pytest.raises(Unusable) as caught:
        undoing(void(), RECORD, reference)
    assert caught.value.code.startswith(code)


def test_undoing_fills_path_and_body_each_in_its_own_way() -> None:
    call = undoing(
        void(path="/o/{key}/{id}", method="PUT", body={"ref": "r:{reference}", "why": 'no "need"', "key": "{key}"}),
        RECORD,
        'a/b"{key}',
    )
    assert (call.method, call.path, call.is_fixed) == ("PUT", "/o/order%2F1/i-1", False)
    assert json.loads(call.content or b"") == {"ref": 'r:a/b"{key}', "why": 'no "need"', "key": "order/1"}


def test_undoing_by_body_alone_needs_the_reference_too() -> None:
    described = void(path="/refunds", body={"charge": "{reference}"})
    assert undoing(described, RECORD, "c-1").is_fixed
    with pytest.raises(Unusable, match="not known"):
        undoing(described, RECORD, None)
    with pytest.raises(Unusable, match="no valid Unicode"):
        undoing(described, RECORD, "\ud800")


def test_undoing_by_our_own_key_needs_no_reference() -> None:
    assert undoing(void(path="/o/{key}", method="DELETE"), RECORD, None).path == "/o/order%2F1"


def test_fill_params_of_a_look_up_leaves_a_reference_as_it_is() -> None:
    assert fill_params({"q": "{key} {reference}"}, RECORD) == {"q": "order/1 {reference}"}


@pytest.mark.parametrize(
    ("described", "body"),
    [
        ({}, b'{"n":1.10}'),
        ({"wrap": "order"}, b'{"order":{"n":1.10}}'),
        ({"wrap": 'o"', "idempotency_field": "ref"}, b'{"o\\"":{"n":1.10,"ref":"i-1"}}'),
    ],
)
def test_single_wraps_the_record_without_reading_it(described: dict[str, str], body: bytes) -> None:
    assert single(Operation.model_validate({"path": "/o", **described}), RECORD).content == body


@given(STATUSES, HEADERS, BODIES, TROUBLES, st.sampled_from([None, "ok", "length(errors) == `0`"]), st.booleans())
def test_answer_to_a_void_is_believed_no_more_than_its_status_proves(
    status: int, headers: list[tuple[str, str]], body: bytes, trouble: str | None, ok: str | None, has_codes: bool
) -> None:
    operation = Operation(path="/", ok="never", reference="id", retry_codes=["x"] if has_codes else [])
    outcome = classify(
        answer(status, headers, body, trouble),
        void_meaning(meaning_of(operation, Rest()), void(ok=ok, gone=[404, 409])),
    )
    match outcome:
        case Accepted(reference):
            assert reference is None
            assert trouble is None
            assert status in (404, 409) or 200 <= status <= 299
        case Unsent(code):
            assert code in (CREDENTIALS, RETRY) or (trouble is not None and has_codes)
        case Throttled():
            assert status in (429, 503)
        case Rejected():
            assert (400 <= status <= 499 and status not in (404, 409)) or (200 <= status <= 299 and ok is not None)
        case Unknown():
            assert status < 400 or status in (404, 405, 408, 409, 421, 425, 426) or status >= 500


@pytest.mark.parametrize(
    ("status", "body", "trouble", "expected"),
    [
        (400, b'{"code":"busy","message":"row lock"}', None, Unsent(RETRY, "http 400: row lock", is_answer=True)),
        (200, b'{"code":"busy","ok":false}', None, Unsent(RETRY, "http 200", is_answer=True)),
        (400, b'{"code":"bad"}', None, Rejected("bad", "http 400")),
        (400, b'{"code":"bu', "unreadable", Unsent("unreadable", "http 400, not whole", is_answer=True)),
        (401, b'{"code":"busy"}', None, Unsent(CREDENTIALS, "http 401")),
        (500, b'{"code":"busy"}', None, Unknown("server_error", "http 500")),
        (200, b'{"code":"busy","ok":true}', None, Accepted()),
    ],
)
def test_classify_of_a_rejection_by_a_retry_code_is_unsent(
    status: int, body: bytes, trouble: str | None, expected: object
) -> None:
    operation = Operation(path="/", ok="ok", retry_codes=["busy"])
    assert classify(answer(status, [], body, trouble), meaning_of(operation, Rest())) == expected
