"""The calls about one record that was sent: whether the system has it, and how to undo it.

Both hang on an answer that says that there is nothing. Believed of a gateway, a proxy or a deployment that is under
way, it books a second time or leaves a second booking standing; so it has to be the system's own word.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from tideover.config.expressions import Expression
from tideover.config.paths import OF_RECORD, OF_VOID, UrlPath, VoidPath, VoidText
from tideover.config.strict import Strict

NEVER_GONE = (401, 403, 408, 425, 429)  # statuses that are about the caller or the moment


def check_gone(value: int) -> int:
    """The status itself. Raises `ValueError`, as `what; how to mend it`, if it can't be about one thing's absence."""
    if value in NEVER_GONE:
        raise ValueError("does not say that a thing is gone; remove it")
    return value


GoneCode = Annotated[int, Field(ge=400, le=499), AfterValidator(check_gone)]


class LookUpCall(Strict):
    """How to ask whether the system has a record.

    Only a clear word counts. An answer that says neither that the record is there nor that it is missing leaves it in
    doubt, and it is asked about again.
    """

    path: UrlPath
    """Where the call goes, from the system's base address; it may hold `{key}` and `{id}`."""
    params: dict[str, str] = Field(default_factory=dict)
    """Query parameters; values may hold `{key}` and `{id}`."""
    found: Expression | None = None
    """What a 2xx answer holds where the system has it, such as `id`, `items` or `total`. Something: it has it.
    `false`, `null`, `0`, or an empty text, list or object: it does not, unless `missing` is there to say that. A field
    that is not in the answer at all, as in an error under 200: that can't be told. Has to be there."""
    missing: Expression | None = None
    """True of an answer that says that the system does not have it, such as `error.code == 'NOT_FOUND'`; then nothing
    else says so. Read in a 2xx, and in a 4xx that is about the record: not 401, 403, 408, 425 or 429. Without it, a 404
    says so if the path holds `{key}` or `{id}` and its body is a JSON object that is sent as JSON."""
    trust_status: bool = False
    """True: a 404 is believed whatever came with it, for a system that answers so with an empty body. Only where
    nothing stands before it that could answer so too: no gateway, no proxy, no deployment that takes it away."""
    reference: Expression | None = None
    """Where the answer names the provider's own id."""

    @property
    def is_by_path(self) -> bool:
        """Whether the address itself is the record's, so that there may be nothing at it."""
        return any(place in self.path.partition("?")[0] for place in OF_RECORD)

    @model_validator(mode="after")
    def _asks_about_a_record(self) -> LookUpCall:
        texts = (self.path, *self.params.values())
        if not any(place in text for text in texts for place in OF_RECORD):
            raise ValueError("asks about no record; write {key} or {id} in its `path` or `params`")
        if self.trust_status and not self.is_by_path:
            what = "`trust_status` is about a 404, and a search that finds nothing is no 404"
            raise ValueError(f"{what}; remove it, or write {{key}} or {{id}} in its `path`")
        return self


class VoidCall(Strict):
    """How to undo what an accepted call did. Its answers are read as the operation's own, but for what is said here."""

    path: VoidPath
    """Where the call goes, from the system's base address; it may hold `{key}`, `{id}` and `{reference}`, the
    provider's own id, which the accepted call's answer or a look-up named."""
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    """The HTTP method."""
    body: dict[str, VoidText] | None = None
    """The fields of the body; values may hold `{key}`, `{id}` and `{reference}`. Without it, there is no body."""
    ok: Expression | None = None
    """True of a 2xx answer that really means undone, where the status alone can't be trusted. Write it so that a
    second void is true as well."""
    gone: list[GoneCode] = Field(default_factory=lambda: [404, 410])
    """Statuses that mean that there is nothing left to undo, which is as good as undone, if `missing` is true, or
    without one if the body is a JSON object that is sent as JSON; else that can't be told, and it is tried again. Empty
    where the system answers so only to a reference that it never gave. A rule of `errors` that fits goes before."""
    missing: Expression | None = None
    """True of a body that says so in the system's own words, such as `error.code == 'NOT_FOUND'`."""
    trust_status: bool = False
    """True: a status among `gone` is believed whatever came with it. Only where nothing stands before the system that
    could answer so too: no gateway, no proxy, no deployment that takes it away."""

    @model_validator(mode="after")
    def _names_what_it_undoes(self) -> VoidCall:
        texts = (self.path, *(self.body or {}).values())
        if not any(place in text for text in texts for place in OF_VOID):
            raise ValueError("names nothing that is undone; write {reference}, {key} or {id} in its `path` or `body`")
        return self
