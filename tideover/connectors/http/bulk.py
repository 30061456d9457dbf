"""From the answer to a bulk call to one outcome per record. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from tideover.config.rest import Bulk
from tideover.connectors.http.answer import Answer, Undecodable, decode_one
from tideover.connectors.http.classify import RETRY, Meaning, classify, fitting_rule
from tideover.connectors.http.expressions import FAULT, find, is_true, reference, text
from tideover.connectors.http.scrub import Hidden, code_or, tidy
from tideover.model import Accepted, Outcome, Outgoing, Rejected, Unknown, Unsent


def outcomes(
    answer: Answer, bulk: Bulk, meaning: Meaning, batch: Sequence[Outgoing], hidden: Hidden
) -> Outcome | list[Outcome]:
    """One outcome per record, in the batch's order, or the one of the whole call.

    A status other than 2xx or an unreadable answer concern the whole call; so does a rule of the description that fits,
    but of a 2xx that lists results: what a rule sees in one of them is not what became of the others. A record is
    accepted or rejected only by a result that certainly is its own; else it is unknown.
    """
    if not 200 <= answer.status <= 299 or answer.trouble is not None:
        return classify(answer, meaning, hidden)
    is_ruled = fitting_rule(answer, meaning.rules) is not None
    what = "no list of results"
    try:
        found = find(bulk.results, decode_one(answer.body, len(batch)))
    except Undecodable as error:
        found, what = FAULT, error.what
    if is_ruled and not (isinstance(found, list) and found):
        return classify(answer, meaning, hidden)
    if not isinstance(found, list):
        return Unknown("unreadable", f"http {answer.status}, {what}")
    if bulk.match == "index" and bulk.result_key is None:
        results: Sequence[object] = found if len(found) == len(batch) else [_NO_RESULT] * len(batch)
    else:
        results = _by_name(found, bulk, batch)
    is_fine = bulk.unlisted == "accepted" and not is_ruled
    unlisted = Accepted() if is_fine else Unknown("unreadable", "has no result of its own")
    return [unlisted if result is _NO_RESULT else _outcome(result, bulk, hidden) for result in results]


_NO_RESULT: Final = object()
_AMBIGUOUS: Final = object()  # its results can't be told from another's: no outcome can be read from it


def _by_name(found: list[object], bulk: Bulk, batch: Sequence[Outgoing]) -> Sequence[object]:
    """Each record's result. Several of one name belong together in order, if there are as many of both."""
    results: dict[str | None, list[object]] = defaultdict(list)
    for result in found:
        results[text(bulk.result_key, result)].append(result)
    places: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(batch):
        places[_name(record, index, bulk)].append(index)
    is_sure = results.keys() <= places.keys()  # a failure of nobody we know may be anybody's
    own: list[object] = [_NO_RESULT if is_sure or bulk.unlisted == "unknown" else _AMBIGUOUS] * len(batch)
    for name, indices in places.items():
        if len(results[name]) == len(indices):
            for index, result in zip(indices, results[name], strict=True):
                own[index] = result
        elif results[name]:
            for index in indices:
                own[index] = _AMBIGUOUS
    return own


def _name(record: Outgoing, index: int, bulk: Bulk) -> str:
    match bulk.match:
        case "index":
            return str(index)
        case "key":
            return record.key
        case "id":
            return record.id


def _outcome(result: object, bulk: Bulk, hidden: Hidden) -> Outcome:
    ok = find(bulk.ok, result) if isinstance(result, dict) else FAULT
    if ok is FAULT:
        return Unknown("unreadable", "its result can't be told")
    if is_true(ok):
        return Accepted(reference(bulk.reference, result))
    code = text(bulk.code, result)
    detail = tidy(text(bulk.detail, result) or "", hidden)
    if code in bulk.retry_codes:
        return Unsent(RETRY, detail or code or "", is_answer=True)
    return Rejected(code_or(code, "rejected", hidden), detail)
