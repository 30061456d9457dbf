"""From the answer to a bulk call to one outcome per record. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tideover.config.rest import Bulk
from tideover.connectors.http.answer import Answer, Undecodable, decode
from tideover.connectors.http.classify import MAX_REFERENCE, RETRY, Meaning, classify, fitting_rule
from tideover.connectors.http.expressions import FAULT, find, is_true, text
from tideover.connectors.http.scrub import Hidden, code_or, tidy
from tideover.model import Accepted, Outcome, Outgoing, Rejected, Unknown, Unsent


def outcomes(
    answer: Answer, bulk: Bulk, meaning: Meaning, batch: Sequence[Outgoing], hidden: Hidden
) -> Outcome | list[Outcome]:
    """One outcome per record, in the batch's order, or the one of the whole call.

    A rule of the description that fits, a status other than 2xx or an unreadable answer concern the whole call. A
    record is accepted or rejected only by a result that certainly is its own; else it is unknown.
    """
    is_settled = fitting_rule(answer, meaning.rules) is not None or not 200 <= answer.status <= 299
    if is_settled or answer.trouble is not None:
        return classify(answer, meaning, hidden)
    try:
        found = find(bulk.results, decode(answer.body))
    except Undecodable:
        return Unknown("unreadable", f"http {answer.status}, not JSON")
    if not isinstance(found, list):
        return Unknown("unreadable", f"http {answer.status}, no list of results")
    results = _by_index(found, batch) if bulk.match == "index" else _by_key(found, bulk, batch)
    return [
        _outcome(result, bulk, hidden) if result is not None else Unknown("unreadable", "has no result of its own")
        for result in results
    ]


def _by_index(found: list[object], batch: Sequence[Outgoing]) -> Sequence[object]:
    """Each record's result. With more or fewer results than records, no place can be trusted."""
    return found if len(found) == len(batch) else [None] * len(batch)


def _by_key(found: list[object], bulk: Bulk, batch: Sequence[Outgoing]) -> Sequence[object]:
    """Each record's result. Several of one key belong together in order, if there are as many of both."""
    results: dict[str | None, list[object]] = defaultdict(list)
    for result in found:
        results[text(bulk.result_key, result)].append(result)
    places: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(batch):
        places[record.key].append(index)
    own: list[object] = [None] * len(batch)
    for key, indices in places.items():
        if len(results[key]) == len(indices):
            for index, result in zip(indices, results[key], strict=True):
                own[index] = result
    return own


def _outcome(result: object, bulk: Bulk, hidden: Hidden) -> Outcome:
    ok = find(bulk.ok, result) if isinstance(result, dict) else FAULT
    if ok is FAULT:
        return Unknown("unreadable", "its result can't be told")
    if is_true(ok):
        reference = text(bulk.reference, result)
        return Accepted(reference if reference is not None and len(reference) <= MAX_REFERENCE else None)
    code = text(bulk.code, result)
    detail = tidy(text(bulk.detail, result) or "", hidden)
    if code in bulk.retry_codes:
        return Unsent(RETRY, detail or code or "")
    return Rejected(code_or(code, "rejected", hidden), detail)
