"""From the answer to a look-up to whether the system has the record. Pure.

| what | the record is |
| --- | --- |
| the first of the description's `errors` rules that fits | as the rule says; but neither there nor missing |
| whole, JSON, 2xx or a 4xx about the record, `missing` true | missing; can't be told if `found` is true too |
| 2xx, whole, JSON, `found` true | there |
| 2xx, whole, JSON, `found` false, and there is no `missing` | missing |
| 404, whole, where the path names the record: a JSON object, and no `missing`; or `trust_status` | missing |
| 202, 206, any other 2xx or 404 | can't be told |
| other 4xx | can't be told: the question is refused |
| anything else | can't be told, as `classify` says |

What can't be told is asked again. "Missing" frees the record, so that it may be sent a second time: taken from a
gateway that had nowhere to send the question to, it would be done twice.
"""

from __future__ import annotations

from tideover.config.asking import LookUpCall
from tideover.connectors.http.answer import Answer, Undecodable
from tideover.connectors.http.classify import Meaning, classify, fitting_rule, is_about_one, is_own_word
from tideover.connectors.http.expressions import reference
from tideover.connectors.http.scrub import Hidden
from tideover.connectors.http.telling import tells
from tideover.model import REFUSED, Accepted, Found, LookUp, Missing, Rejected, Unknown

_PARTIAL = (202, 206)  # successes that do not say everything yet


def looked_up(answer: Answer, lookup: LookUpCall, meaning: Meaning, hidden: Hidden) -> LookUp:
    """What an answer says about the record that was asked about."""
    is_ruled = fitting_rule(answer, meaning.rules) is not None
    if not is_ruled and _says_missing(answer, lookup):
        return Missing()
    outcome = classify(answer, meaning, hidden)
    if isinstance(outcome, Accepted):
        return _found(answer, lookup)
    if isinstance(outcome, Rejected):
        is_unclear = answer.status == 404 and not is_ruled
        return Unknown("unreadable", _no_proof(lookup)) if is_unclear else Unknown(REFUSED, outcome.detail)
    return outcome


def _says_missing(answer: Answer, lookup: LookUpCall) -> bool:
    if answer.trouble is not None or not (answer.status // 100 == 2 or is_about_one(answer.status)):
        return False
    if lookup.trust_status and answer.status == 404:
        return True
    if lookup.missing is None:
        return answer.status == 404 and lookup.is_by_path and is_own_word(answer)
    try:
        value = answer.value()
    except Undecodable:
        return False
    has_it = answer.status // 100 == 2 and tells(lookup.found, value) is True
    return answer.status not in _PARTIAL and not has_it and tells(lookup.missing, value) is True


def _found(answer: Answer, lookup: LookUpCall) -> LookUp:
    """What a whole 2xx says. What can't be read is no proof of anything."""
    if answer.status // 100 != 2 or answer.status in _PARTIAL:
        return Unknown("unreadable", f"http {answer.status} says nothing about one record")
    try:
        value = answer.value()
    except Undecodable as error:
        return Unknown("unreadable", f"http {answer.status}, {error.what}")
    has_it = tells(lookup.found, value)
    if has_it is None:
        return Unknown("unreadable", f"http {answer.status}, `found` can't be told")
    if lookup.missing is not None:
        is_missing = tells(lookup.missing, value) is True
        if has_it == is_missing:
            what = "both `found` and `missing`" if has_it else "neither `found` nor `missing`"
            return Unknown("unreadable", f"http {answer.status}, {what}")
    return Found(reference(lookup.reference, value)) if has_it else Missing()


def _no_proof(lookup: LookUpCall) -> str:
    if lookup.missing is not None:
        return "http 404, and `missing` is not true of it: no proof that it is missing"
    if not lookup.is_by_path:
        return "http 404 to a search is no proof that it is missing; say in `missing` what is"
    return "http 404 without a word of the system's own is no proof that it is missing; say in `missing` what is"
