"""What the hub asks of a connector. One instance speaks to one system; it shares nothing with another's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from tideover.model import LookUp, Outcome, Outgoing, Page


class Connector(Protocol):
    """A system, as the hub sees it.

    Delivery methods never raise for what the other side does: they answer with an outcome. Reading raises
    `SourceError`. A connector reads no clock but the monotonic one, and keeps no state that matters after a crash.
    """

    def batch_size(self, operation: str) -> int:
        """How many records one `send` of this operation may carry; 1 where the system takes one at a time."""
        ...

    async def send(self, operation: str, batch: Sequence[Outgoing], deadline: float | None = None) -> Sequence[Outcome]:
        """One call that carries the batch; one outcome per record, in the batch's order.

        Ends within the system's total timeout, whatever the other side does, and puts nothing on the wire after
        `deadline` (monotonic): the lease ends there, and a process that was frozen on the way must not send late. The
        record's id travels as its idempotency key where the operation has a place for it. A batch of one uses the
        single call.
        """
        ...

    async def look_up(self, operation: str, record: Outgoing) -> LookUp:
        """Whether the system has this record, asked by our own reference or key."""
        ...

    def can_void(self, operation: str) -> bool:
        """Whether the system's description says how to undo an accepted call of this operation."""
        ...

    async def void(
        self, operation: str, record: Outgoing, reference: str | None, deadline: float | None = None
    ) -> Outcome:
        """Undo what an accepted call did with this record. `reference`: the provider's own id of it, as `Accepted` or
        `Found` named it.

        `Accepted` when it is undone, or there is nothing left to undo: voiding twice is accepted twice. `Rejected`
        when the provider says that it can't be undone any more, and, with nothing sent, as `no_void` where
        `can_void` is false and as `no_reference` where the call needs a reference and there is none. `Throttled`,
        `Unsent` and `Unknown` mean what they mean for `send`; after each of them voiding again is safe. Ends within the
        system's total timeout, and puts nothing on the wire after `deadline` (monotonic).
        """
        ...

    async def probe(self) -> Outcome:
        """Whether the system is well: `Accepted`, or what the delivery of a record would have met."""
        ...

    @property
    def pause_s(self) -> float:
        """For how many seconds no call should be made, by what the system's answers said of the quota that is left; 0
        while it has some, or does not say."""
        ...

    @property
    def has_probe(self) -> bool:
        """Whether the system's description has a probe; without one, only a real record can tell."""
        ...

    def pages(self, stream: str, cursor: str | None) -> AsyncGenerator[Page, None]:
        """The pages of a stream after `cursor` (`None`: from the beginning).

        Raises `SourceError` when the system can't be read, `SourceLoop` when it repeats itself and
        `SourceContract` when its answer has another shape. A record that is no JSON object is `broken`, and the
        page goes on.
        """
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...
