"""Asking a provider of a failover group what became of what may have reached it: while it may get nothing, of records
that are in doubt, so that another provider can have them; while it may, of those that another one got meanwhile.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tideover.errors import HubUnavailable
from tideover.hub.claims import Claims
from tideover.hub.gatekeeper import Gatekeeper
from tideover.hub.reconciling import Reconciler
from tideover.hub.runs import Held, Sender
from tideover.hub.settler import Settler
from tideover.hub.terms import Terms

ASK_LANES = 5  # at a time, of a system that may be in trouble
ASK_EVERY_S, ASK_AT_LEAST_EVERY_S = 1.0, 30.0
RECONCILE_EVERY_S = 1.0


class Asker:
    """Asks one system, beside what is sent to it."""

    def __init__(
        self,
        terms: Terms,
        gatekeeper: Gatekeeper,
        *,
        claims: Claims,
        senders: Mapping[str, Sender],
        settler: Settler,
        reconciler: Reconciler | None,
    ) -> None:
        """`gatekeeper`: says which of the two is to be asked about. The others as in `Gatekeeper`."""
        self._terms, self._rt, self._gatekeeper = terms, terms.rt, gatekeeper
        self._claims, self._senders, self._settler = claims, senders, settler
        self._reconciler = reconciler
        self._asking = 0
        self._is_winding_up = False

    @property
    def is_asking(self) -> bool:
        """True while records in doubt are asked about."""
        return self._asking > 0

    @property
    def is_reconciling(self) -> bool:
        """True while cases of the reconciliation are worked on."""
        return self._reconciler is not None and self._reconciler.is_working

    def wind_up(self) -> None:
        """Begin no more cases; the one under way is best let end."""
        self._is_winding_up = True

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run; none of them ever returns. Without a failover group there is nobody to ask for."""
        tasks: list[Coroutine[Any, Any, None]] = []
        if self._terms.group:
            if askable := [name for name, sender in self._senders.items() if sender.rule.can_ask]:
                tasks.append(self._ask_forever(askable))
            if self._reconciler is not None:
                tasks.append(self._reconcile_forever(self._reconciler))
        return tasks

    async def _ask_forever(self, routes: Sequence[str]) -> None:
        """A system that may get nothing can often still be asked. What it says frees a record for another provider, or
        settles it; so ask, gently: rarer with each question that is not answered."""
        wait_s = ASK_EVERY_S
        while True:
            await self._rt.sleep(wait_s)
            wait_s = ASK_EVERY_S
            if self._gatekeeper.is_open or self._gatekeeper.gate.is_paused:
                continue
            with suppress(HubUnavailable):
                for name in routes:
                    if not await self._ask(name):
                        wait_s = min(2 * wait_s, ASK_AT_LEAST_EVERY_S)
                        break

    async def _ask(self, route: str) -> bool:
        """Ask about all that can be asked about now, one at a time. False as soon as it gave no answer."""
        while not (self._gatekeeper.is_open or self._terms.is_stopped()):
            claimed_at = self._rt.monotonic()
            leases = await self._claims.in_doubt(route, ASK_LANES)
            held = [Held(lease, claimed_at + self._claims.lease_s, claimed_at) for lease in leases]
            self._asking += 1
            try:
                if not await self._senders[route].ask(held, self._settler.put):
                    return False
            finally:
                self._asking -= 1
            if len(leases) < ASK_LANES:
                break
        return True

    async def _reconcile_forever(self, reconciler: Reconciler) -> None:
        while True:
            if self._gatekeeper.is_open:
                with suppress(HubUnavailable):
                    if (await reconciler.work(is_wanted=lambda: not self._is_winding_up)).asked:
                        self._terms.stirred.set()  # a run that is over waits for it
            await self._rt.sleep(RECONCILE_EVERY_S)
