"""From what came back, or did not, to one of the five outcomes. Pure; the table is that of the design's "Outcomes".

| what | outcome |
| --- | --- |
| the first of the description's `errors` rules that fits | what the rule says |
| 2xx, whole, JSON, `ok` true or absent | accepted |
| 2xx, whole, JSON, `ok` false | rejected; unsent if its code is one of `retry_codes` |
| 2xx, empty body that nothing is needed from | accepted |
| 2xx otherwise; 1xx as a final answer | unknown: unreadable, oversize or timeout |
| 3xx, to a call that changes nothing | unsent: redirects are never followed |
| 3xx otherwise | unknown: many systems answer so once they *have* done it (RFC 9110 15.4) |
| 401, 403, 407 | unsent: credentials |
| 429; 503 with `Retry-After` | throttled |
| 408, 425, 5xx | unknown: server_error |
| other 4xx, to a void, among its `gone`, by the system's own word | accepted: there is nothing left to undo |
| other 4xx, to a void, among its `gone`, otherwise | unknown: nobody knows who said so |
| 404, 405, 421, 426 otherwise, to a call that may have an effect, not by the system's own word | unknown: likewise |
| other 4xx | rejected; unsent if its code is one of `retry_codes`, or it was cut short and its body has to be seen |
| no answer, and the request was certainly not written | unsent: refused, dns, tls, connect_timeout, pool |
| no answer otherwise | unknown: timeout, reset, unreadable |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tideover.config.asking import NEVER_GONE, VoidCall
from tideover.config.rest import ErrorRule, Operation, Rest
from tideover.connectors.http.answer import Answer, Undecodable, is_json
from tideover.connectors.http.expressions import FAULT, find, is_true, reference, text
from tideover.connectors.http.scrub import Hidden, code_or, nothing, tidy
from tideover.connectors.http.telling import tells
from tideover.connectors.http.throttle import DEFAULT_DELAY_S, capped, delay_s, retry_after_s
from tideover.model import CREDENTIALS, REDIRECTED, Accepted, Outcome, Rejected, Throttled, Unknown, Unsent

RETRY = "retry"  # the Unsent code of a rejection that is the system's fault, by one of `retry_codes`


@dataclass(frozen=True, slots=True)
class Meaning:
    """How one operation's answers are read. `needs_body` false: any whole 2xx is accepted, whatever it holds.

    `retry_codes`: codes of rejections that are the system's fault. `gone`: rejections that are as good as accepted, if
    they are the system's own word: by `missing`, by their form, or by `trusts_status` in any case. `has_effect` false:
    the call changes nothing, so that whatever became of it, nothing was done.
    """

    ok: str | None = None
    reference: str | None = None
    code: str | None = None
    detail: str | None = None
    retry_codes: Sequence[str] = ()
    gone: Sequence[int] = ()
    missing: str | None = None
    trusts_status: bool = False
    has_effect: bool = True
    needs_body: bool = True
    rules: Sequence[ErrorRule] = ()
    reset_headers: Sequence[str] = ()


_USUAL = Operation(path="/")
_REDIRECTS = ": it redirects, which is never followed; mend `base_url` in its block, or the `path` in its description"
_NO_WORD = " without a word of the system's own is no proof that it is gone; say in `missing` what is"
_NOWHERE = (404, 405, 421, 426)  # what a gateway answers that has nowhere to send a call to, or another way
_NOBODY = " without a word of the system's own: as likely a gateway's, or of a `path` that is wrong in its description"
_JSON_TYPE = re.compile(r"[ \t]*application/([a-z0-9.!#$&^_-]{1,100}\+)?json[ \t]*(;|$)", re.IGNORECASE)


def meaning_of(operation: Operation, rest: Rest) -> Meaning:
    """How the answers to single calls of an operation are read."""
    return Meaning(
        ok=operation.ok,
        reference=operation.reference,
        code=operation.code,
        detail=operation.detail,
        retry_codes=operation.retry_codes,
        rules=rest.errors,
        reset_headers=rest.reset_headers,
    )


def void_meaning(meaning: Meaning, void: VoidCall) -> Meaning:
    """How the answers to an operation's voids are read: as to its single calls, but what was done is undone."""
    return replace(
        meaning, ok=void.ok, reference=None, gone=void.gone, missing=void.missing, trusts_status=void.trust_status
    )


def plain_meaning(rest: Rest) -> Meaning:
    """How the answers to probes, look-ups and listings are read: by status and rules; the body is not asked."""
    return Meaning(
        code=_USUAL.code,
        detail=_USUAL.detail,
        has_effect=False,
        needs_body=False,
        rules=rest.errors,
        reset_headers=rest.reset_headers,
    )


def classify(answer: Answer, meaning: Meaning, hidden: Hidden = nothing) -> Outcome:
    """The outcome of an answer. Its texts hold nothing of `hidden` and nothing but what the expressions find."""
    rule = fitting_rule(answer, meaning.rules)
    if rule is not None:
        return _by_rule(answer, rule, meaning, hidden)
    status = answer.status
    if 200 <= status <= 299:
        return _success(answer, meaning, hidden)
    if status <= 199:
        return Unknown("unreadable", _said(answer, meaning, hidden))
    if status <= 399:
        detail = f"http {status}{_REDIRECTS}"
        return Unknown(REDIRECTED, detail) if meaning.has_effect else Unsent(REDIRECTED, detail, is_answer=True)
    return _failure(answer, meaning, hidden)


def is_refused(answer: Answer, meaning: Meaning) -> bool:
    """Whether the answer says that the credential is no good, so that a new one is worth a second try."""
    rule = fitting_rule(answer, meaning.rules)
    return rule.outcome == "credentials" if rule is not None else answer.status in (401, 403)


def fitting_rule(answer: Answer, rules: Sequence[ErrorRule]) -> ErrorRule | None:
    """The first rule whose every condition holds. A body that is cut short is neither JSON nor not JSON."""
    return next((rule for rule in rules if _fits(rule, answer)), None)


def _fits(rule: ErrorRule, answer: Answer) -> bool:
    if rule.status is not None and rule.status != answer.status:
        return False
    if rule.header is not None and rule.header not in answer.headers:
        return False
    if rule.contains is not None and rule.contains.encode() not in answer.body:
        return False
    return rule.json_body is None or (answer.trouble is None and is_json(answer) == rule.json_body)


def _by_rule(answer: Answer, rule: ErrorRule, meaning: Meaning, hidden: Hidden) -> Outcome:
    detail = _said(answer, meaning, hidden)
    match rule.outcome:
        case "accepted":
            return Accepted(reference(meaning.reference, _decoded(answer)))
        case "rejected":
            return Rejected(_code(answer, meaning, rule.code, hidden), detail)
        case "throttled":
            said = delay_s(answer.headers, meaning.reset_headers)
            return _throttled(said, capped(rule.delay), detail)
        case "unsent":
            return Unsent(rule.code or f"http_{answer.status}", detail, is_answer=True)
        case "unknown":
            return Unknown(rule.code or "server_error", detail)
        case "credentials":
            return Unsent(CREDENTIALS, detail)


def _success(answer: Answer, meaning: Meaning, hidden: Hidden) -> Outcome:
    detail = f"http {answer.status}, {len(answer.body)} bytes"
    if answer.trouble is not None:
        return Unknown(answer.trouble, f"{detail}, not whole")
    if not meaning.needs_body or (not answer.body and is_body_spare(answer, meaning)):
        return Accepted()
    try:
        value = answer.value()
    except Undecodable as error:
        return Unknown("unreadable", f"{detail}, {error.what}")
    if meaning.ok is not None:
        ok = find(meaning.ok, value)
        if ok is FAULT:
            return Unknown("unreadable", f"{detail}, `ok` can't be told")
        if not is_true(ok):
            return _refusal(answer, meaning, hidden)
    return Accepted(reference(meaning.reference, value))


def is_body_spare(answer: Answer, meaning: Meaning) -> bool:
    """Whether an empty body will do: `ok` does not ask for one, and neither does `reference` unless it is a 204."""
    return meaning.ok is None and (meaning.reference is None or answer.status == 204)


def _failure(answer: Answer, meaning: Meaning, hidden: Hidden) -> Outcome:
    status, detail = answer.status, _said(answer, meaning, hidden)
    if status in (401, 403, 407):
        return Unsent(CREDENTIALS, detail)
    if status == 429 or (status == 503 and retry_after_s(answer.headers) is not None):
        said = delay_s(answer.headers, meaning.reset_headers)
        return _throttled(said, DEFAULT_DELAY_S, detail)
    if status in (408, 425) or status >= 500:
        return Unknown("server_error", detail)
    is_body_asked = bool(meaning.retry_codes) or any(_asks_body(rule, status) for rule in meaning.rules)
    if answer.trouble not in (None, "oversize") and is_body_asked:
        return Unsent("unreadable", f"http {status}, not whole", is_answer=True)
    if status in _NOWHERE and meaning.has_effect and status not in meaning.gone and not is_own_word(answer):
        return Unknown("unreadable", f"{detail}{_NOBODY}")
    return _refusal(answer, meaning, hidden)


def _throttled(said_s: float | None, guess_s: float, detail: str) -> Throttled:
    return Throttled(guess_s, detail, is_asked=False) if said_s is None else Throttled(said_s, detail)


def _refusal(answer: Answer, meaning: Meaning, hidden: Hidden) -> Outcome:
    """What a plain no means: rejected, unless the description says more of its code or its status."""
    detail = _said(answer, meaning, hidden)
    if meaning.retry_codes and _found_code(answer, meaning) in meaning.retry_codes:
        return Unsent(RETRY, detail, is_answer=True)
    if answer.status in meaning.gone:
        return Accepted() if _is_gone(answer, meaning) else Unknown("unreadable", f"http {answer.status}{_NO_WORD}")
    return Rejected(_code(answer, meaning, None, hidden), detail)


def is_about_one(status: int) -> bool:
    """Whether an error can be about one record's absence: not about the caller or the moment."""
    return 400 <= status <= 499 and status not in NEVER_GONE


def is_own_word(answer: Answer) -> bool:
    """Whether an error has the form in which a system that speaks JSON explains one: an object that is not empty, sent
    as JSON. A gateway's page, or nothing at all, is nobody's word."""
    if answer.trouble is not None or not _JSON_TYPE.match((answer.headers.get("content-type") or "")[:200]):
        return False
    value = _decoded(answer)
    return isinstance(value, dict) and bool(value)


def _is_gone(answer: Answer, meaning: Meaning) -> bool:
    if answer.trouble is not None:
        return False
    if meaning.trusts_status:
        return True
    if meaning.missing is None:
        return is_own_word(answer)
    return tells(meaning.missing, _decoded(answer)) is True


def _asks_body(rule: ErrorRule, status: int) -> bool:
    return rule.status in (None, status) and (rule.contains is not None or rule.json_body is not None)


def _code(answer: Answer, meaning: Meaning, default: str | None, hidden: Hidden) -> str:
    return code_or(_found_code(answer, meaning), default or f"http_{answer.status}", hidden)


def _found_code(answer: Answer, meaning: Meaning) -> str | None:
    return text(meaning.code, _decoded(answer)) if meaning.code else None


def _said(answer: Answer, meaning: Meaning, hidden: Hidden) -> str:
    """`http 422: the reason`. The reason is what the `detail` expression finds, or nothing; never the body."""
    found = text(meaning.detail, _decoded(answer)) if meaning.detail else None
    return tidy(f"http {answer.status}: {found}" if found else f"http {answer.status}", hidden)


def _decoded(answer: Answer) -> object:
    if answer.trouble is not None or not answer.body:
        return None
    try:
        return answer.value()
    except Undecodable:
        return None
