"""Delivering through one operation: one record, a batch, and a batch that is refused as a whole. And undoing it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tideover.config.rest import Operation
from tideover.connectors.http import bulk as bulks
from tideover.connectors.http.answer import Answer
from tideover.connectors.http.classify import Meaning, classify, void_meaning
from tideover.connectors.http.requests import Call, Unusable, several, single, undoing
from tideover.connectors.http.scrub import Hidden
from tideover.model import BATCH_REJECTED, Accepted, Outcome, Outgoing, Rejected, Throttled, Unknown, Unsent

NO_VOID = "no_void"  # the Rejected code of a void that the system's description does not know

Came = Answer | Unsent | Throttled | Unknown
Send = Callable[[Call, float, Meaning], Awaitable[Came]]


class Sender:
    """One operation of one system.

    A batch that is refused as a whole says nothing about any one record, and was certainly not processed. It is sent
    again in halves, in order, until each culprit stands alone. A half is sent only in the first half of the time that
    the send may take, so that it does not end as unknown for want of time; what is left over is `Unsent`
    (`batch_rejected`), and `size` is halved, so that the next batches come to an end. Full batches that go
    through double it again.
    """

    def __init__(
        self,
        operation: Operation,
        meaning: Meaning,
        total_s: float,
        send: Send,
        hidden_of: Callable[[Sequence[Outgoing]], Hidden],
    ) -> None:
        self.operation, self._meaning = operation, meaning
        self._half_s, self._send, self._hidden_of = total_s / 2, send, hidden_of
        self.most = operation.bulk.size if operation.bulk is not None else 1
        self.size = self.most

    async def send(self, batch: Sequence[Outgoing], deadline: float) -> list[Outcome]:
        """One outcome per record, in the batch's order. `deadline` is on the loop's clock."""
        if self.most == 1 and len(batch) == 1:  # nothing to halve
            return [await self._send_one(batch[0], deadline)]
        outcomes: list[Outcome] = []
        waiting = [batch] if batch else []
        is_stopped = False
        while waiting:
            part = waiting.pop()
            if is_stopped or (part is not batch and asyncio.get_running_loop().time() > deadline - self._half_s):
                is_stopped = True
                outcomes += [Unsent(BATCH_REJECTED, "its batch was refused")] * len(part)
                continue
            result = await self._send_part(part, deadline)
            if isinstance(result, list):
                outcomes += result
            elif isinstance(result, Rejected) and len(part) > 1:
                middle = (len(part) + 1) // 2
                waiting += [part[middle:], part[:middle]]
            else:  # what stops one call would stop the next
                is_stopped = not isinstance(result, Accepted | Rejected)
                outcomes += [result] * len(part)
        self._resize(len(batch), outcomes)
        return outcomes

    async def void(self, record: Outgoing, reference: str | None, deadline: float) -> Outcome:
        """Undoes what was accepted. `deadline` is on the loop's clock."""
        void = self.operation.void
        if void is None:
            return Rejected(NO_VOID, "the operation's description has no void")
        meaning = void_meaning(self._meaning, void)
        return await self._call(lambda: undoing(void, record, reference), meaning, record, deadline)

    async def _send_part(self, part: Sequence[Outgoing], deadline: float) -> Outcome | list[Outcome]:
        if len(part) == 1:
            return await self._send_one(part[0], deadline)
        assert self.operation.bulk is not None
        try:
            call = several(self.operation, self.operation.bulk, part)
        except Unusable as error:
            return Rejected(error.code, error.detail)  # never sent: halving finds the culprit
        came = await self._send(call, deadline, self._meaning)
        if not isinstance(came, Answer):
            return came
        return bulks.outcomes(came, self.operation.bulk, self._meaning, part, self._hidden_of(part))

    async def _send_one(self, record: Outgoing, deadline: float) -> Outcome:
        return await self._call(lambda: single(self.operation, record), self._meaning, record, deadline)

    async def _call(self, prepare: Callable[[], Call], meaning: Meaning, record: Outgoing, deadline: float) -> Outcome:
        """One call about one record. `prepare` raises `Unusable` if the record can't be put into it."""
        try:
            call = prepare()
        except Unusable as error:
            return Rejected(error.code, error.detail)
        came = await self._send(call, deadline, meaning)
        return classify(came, meaning, self._hidden_of([record])) if isinstance(came, Answer) else came

    def _resize(self, sent: int, outcomes: Sequence[Outcome]) -> None:
        if any(isinstance(outcome, Unsent) and outcome.code == BATCH_REJECTED for outcome in outcomes):
            self.size = max(1, min(self.size, sent) // 2)
        elif sent >= self.size and all(isinstance(outcome, Accepted) for outcome in outcomes):
            self.size = min(self.most, self.size * 2)
