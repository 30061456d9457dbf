"""How a void may be described: what its placeholders are, and where each mistake is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_config_loader import check, replaced
from tideover.config.paths import check_path, check_void_path, check_void_text
from tideover.config.rest import Operation

LOOKUP = "systems.erp.rest.operations.create.lookup"
VOID = "systems.erp.rest.operations.create.void"


def test_reference_when_a_path_holds_it_is_a_voids_only() -> None:
    assert check_void_path("/o/{reference}/{key}?id={id}") == "/o/{reference}/{key}?id={id}"
    assert check_void_text("{reference} {key} {id}") == "{reference} {key} {id}"
    with pytest.raises(ValueError, match=r"has \{reference\}, .*; a path may hold \{key\} and \{id\}$"):
        check_path("/o/{reference}")
    with pytest.raises(ValueError, match=r"has \{ref\}, .*; a void's path may hold \{key\}, \{id\} and \{reference\}$"):
        check_void_path("/o/{ref}")


@pytest.mark.parametrize("path", ["", "orders", "//evil/x", "/a\\b", "https://h/x"])
def test_path_of_a_void_when_it_is_none_is_refused_as_any_path(path: str) -> None:
    with pytest.raises(ValueError, match="is no path; "):
        check_void_path(path)


def test_void_when_only_its_path_is_written_posts_and_takes_404_and_410_for_gone() -> None:
    void = Operation.model_validate({"path": "/o", "void": {"path": "/o/{reference}/void"}}).void
    assert void is not None
    assert (void.method, void.body, void.ok, void.gone) == ("POST", None, None, [404, 410])


HALF_VALID = [
    ("void: {path: '/o/{order}'}", f"{VOID}.path", "has {order}, which nothing fills in (a void's path may hold {key}"),
    ("void: {path: orders}", f"{VOID}.path", "is no path"),
    ("void: {path: /o, body: {id: '{ref}'}}", f"{VOID}.body.id", "has {ref}, which nothing fills in (a void's field"),
    ("void: {path: /o, body: {id: 5}}", f"{VOID}.body.id", "needs text"),
    ("void: {path: /o, body: {why: late}}", VOID, "names nothing that is undone (write {reference}"),
    ("void: {path: '/o/{id}', method: GET}", f"{VOID}.method", "is not one of"),
    ("void: {path: '/o/{id}', ok: a-b}", f"{VOID}.ok", "no minus"),
    ("void: {path: '/o/{id}', gone: [500]}", f"{VOID}.gone[0]", "at most 499"),
    ("void: {path: '/o/{id}', gone: [404, 403]}", f"{VOID}.gone[1]", "does not say that a thing is gone"),
    ("void: {path: '/o/{id}', paht: x}", f"{VOID}.paht", "did you mean `path`?"),
    ("lookup: {path: '/o/{reference}'}", "systems.erp.rest.operations.create.lookup.path", "has {reference}"),
    ("lookup: {path: /o, found: id}", LOOKUP, "asks about no record (write {key} or {id}"),
    ("lookup: {path: /o, params: {q: '{id}'}, trust_status: true}", LOOKUP, "a search that finds nothing is no 404"),
    ("bulk: {path: '/o/{reference}', size: 2}", "systems.erp.rest.operations.create.bulk.path", "has {reference}"),
    ("retry_codes: busy", "systems.erp.rest.operations.create.retry_codes", "needs a list"),
    ("wrap: [order]", "systems.erp.rest.operations.create.wrap", "needs text"),
]


@pytest.mark.parametrize(("line", "key", "words"), HALF_VALID)
def test_operation_when_half_valid_names_the_place_and_the_mend(
    tmp_path: Path, line: str, key: str, words: str
) -> None:
    problems = check(tmp_path, replaced("path: /invoices", f"path: /x\n          {line}")).problems
    first = next(problem for problem in problems if problem.key == key)
    assert first.line == 14
    assert words in str(first)
