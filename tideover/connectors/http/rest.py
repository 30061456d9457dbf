"""The connector of one system that speaks JSON over HTTP, as its description says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from urllib.parse import quote, quote_plus

from yarl import URL

from tideover.config.rest import Limits, Rest, Timeouts
from tideover.connectors.http.access import Access, check_header
from tideover.connectors.http.allowance import Allowance
from tideover.connectors.http.answer import ACCEPT_ENCODING, Answer
from tideover.connectors.http.asking import looked_up
from tideover.connectors.http.auth import Credentials, Keep, Reload, Signature, Signed
from tideover.connectors.http.classify import Meaning, classify, is_refused, meaning_of, plain_meaning
from tideover.connectors.http.message import Request
from tideover.connectors.http.requests import Call, Unusable, address, fill_params, fill_path, origin_of, usual_headers
from tideover.connectors.http.scrub import Hidden, tidy, values
from tideover.connectors.http.sending import Came, Sender
from tideover.connectors.http.source import Asked, Reader
from tideover.connectors.http.tokens import NO_TOKEN
from tideover.connectors.http.wire import Wire
from tideover.errors import AccessError, Refused
from tideover.model import CREDENTIALS, LookUp, Outcome, Outgoing, Page, Unknown, Unsent


class HttpConnector:
    """Implements `tideover.connectors.port.Connector` for one system.

    `reload` reads the system's access again when a credential is refused; `keep` stores a refresh token that replaced
    the old one. Both raise `TideoverError` when they can't. Opens no connection before the first call.
    Raises `AccessError` for headers or certificates that can't be used.
    """

    def __init__(
        self,
        system: str,
        rest: Rest,
        access: Access,
        timeouts: Timeouts,
        limits: Limits,
        reload: Reload | None = None,
        keep: Keep | None = None,
    ) -> None:
        self._system, self._rest, self._total_s = system, rest, timeouts.total
        self._wire = Wire(timeouts, limits)
        self._reload = reload
        if access.ca is not None:
            self._trust(access.ca)
        for name, value in rest.headers.items():
            try:
                check_header(name, value)
            except ValueError as error:
                raise AccessError(system, f"its description: {error}") from None
        self._credentials = Credentials(
            access, self._post_form, reload=self._reloaded if reload is not None else None, keep=keep
        )
        self._allowance = Allowance(rest.reset_headers)
        self._plain = plain_meaning(rest)
        self._usual = {has_body: usual_headers(rest, has_body=has_body) for has_body in (False, True)}
        self._urls: dict[tuple[str, str], URL] = {}
        self._senders = {
            name: Sender(operation, meaning_of(operation, rest), timeouts.total, self._call, self._hidden)
            for name, operation in rest.operations.items()
        }

    @property
    def pause_s(self) -> float:
        return self._allowance.pause_s(time.monotonic())

    @property
    def has_probe(self) -> bool:
        return self._rest.probe is not None

    def batch_size(self, operation: str) -> int:
        """How many records one `send` may carry now: `bulk.size`, or less for a while (see `Sender`)."""
        return self._sender(operation).size

    async def send(self, operation: str, batch: Sequence[Outgoing], deadline: float | None = None) -> Sequence[Outcome]:
        """One outcome per record, in order, within the system's total timeout and by `deadline`. A batch of one uses
        the single call."""
        sender = self._sender(operation)
        if len(batch) > sender.most:
            raise Refused(f"system {self._system}: operation {operation} does not take {len(batch)} records at once")
        return await sender.send(batch, self._deadline(deadline))

    async def look_up(self, operation: str, record: Outgoing) -> LookUp:
        """Whether the system has this record, by its own clear word (`asking`)."""
        lookup = self._sender(operation).operation.lookup
        if lookup is None:
            return Unknown("no_lookup", f"operation {operation} has no look-up")
        try:
            call = Call("GET", fill_path(lookup.path, record), fill_params(lookup.params, record))
        except Unusable as error:
            return Unknown(error.code, error.detail)
        came = await self._call(call, self._deadline(), self._plain)
        return looked_up(came, lookup, self._plain, self._hidden([record])) if isinstance(came, Answer) else came

    def can_void(self, operation: str) -> bool:
        return self._sender(operation).operation.void is not None

    async def void(
        self, operation: str, record: Outgoing, reference: str | None, deadline: float | None = None
    ) -> Outcome:
        """Undoes an accepted call, within the system's total timeout and by `deadline`. `Accepted` only by a whole 2xx
        in which `ok` is true, a status among `gone`, or an error rule."""
        return await self._sender(operation).void(record, reference, self._deadline(deadline))

    async def probe(self) -> Outcome:
        if self._rest.probe is None:
            return Unsent("no_probe", "the system's description has none")
        call = Call(self._rest.probe.method, self._rest.probe.path, is_fixed=True)
        answer = await self._call(call, self._deadline(), self._plain)
        return classify(answer, self._plain, Hidden(self._secrets)) if isinstance(answer, Answer) else answer

    def pages(self, stream: str, cursor: str | None) -> AsyncGenerator[Page, None]:
        described = self._rest.streams.get(stream)
        if described is None:
            raise Refused(f"system {self._system} has no stream {stream}")
        return Reader(self._system, stream, described, self._plain, self._ask, Hidden(self._secrets)).pages(cursor)

    async def close(self) -> None:
        await self._credentials.close()
        await self._wire.close()

    # --- calling ------------------------------------------------------------------------------------------------

    async def _call(self, call: Call, deadline: float, meaning: Meaning) -> Came:
        """Signs and sends one request; once more with other credentials, where the first ones were refused."""
        signed = self._credentials.current() or await self._sign(deadline)
        if not isinstance(signed, Signed):
            return signed
        came = await self._exchange(call, signed, deadline)
        if not (isinstance(came, Answer) and is_refused(came, meaning)):
            return came
        if await self._is_renewed(signed, came, deadline):
            again = await self._sign(deadline)
            return await self._exchange(call, again, deadline) if isinstance(again, Signed) else came
        if self._credentials.fault:
            said = f"http {came.status}, and {self._credentials.fault}"
            return Unsent(CREDENTIALS, tidy(said, Hidden(self._secrets)))
        return came

    async def _sign(self, deadline: float) -> Signature:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._credentials.sign()
        except TimeoutError:
            return Unsent(NO_TOKEN, "no token in time")

    async def _is_renewed(self, signed: Signed, answer: Answer, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._credentials.renew(signed.stamp, answer.status)
        except TimeoutError:
            return False

    async def _exchange(self, call: Call, signed: Signed, deadline: float) -> Answer | Unsent | Unknown:
        try:
            url = self._url(call, signed.access.base_url)
        except ValueError:
            return Unsent("invalid_request", "the address can't be used")
        headers = self._usual[call.content is not None].copy()
        headers.update(signed.headers)
        if call.headers:
            headers.update(call.headers)
        came = await self._wire.exchange(Request(call.method, url, headers, call.content), deadline)
        if isinstance(came, Answer):
            self._allowance.hear(came.headers, time.monotonic())
        return came

    def _url(self, call: Call, base_url: str) -> URL:
        """The address, parsed once for the calls that always have the same."""
        if call.is_fixed and (base_url, call.path) in self._urls:
            return self._urls[base_url, call.path]
        whole = URL(address(origin_of(base_url) if call.is_absolute else base_url, call.path, call.params))
        if call.is_fixed:
            self._urls[base_url, call.path] = whole
        return whole

    async def _ask(self, path: str, params: Mapping[str, str], is_absolute: bool) -> Asked:
        call = Call("GET", path, params, is_absolute=is_absolute)
        came = await self._call(call, self._deadline(), self._plain)
        return Asked(came, str(self._url(call, self._credentials.access.base_url)))

    async def _post_form(self, url: str, headers: list[tuple[str, str]], body: bytes) -> Answer | Unsent | Unknown:
        usual = [("user-agent", "tideover"), ("accept-encoding", ACCEPT_ENCODING)]
        return await self._wire.exchange(Request("POST", URL(url), dict([*usual, *headers]), body))

    async def _reloaded(self) -> Access:
        assert self._reload is not None
        try:
            access = await self._reload()
        except ValueError as error:  # its text may hold a value
            raise AccessError(
                self._system, f"its block can't be used ({type(error).__name__}); save it again"
            ) from None
        if access.ca is not None and access.ca != self._credentials.access.ca:
            self._trust(access.ca)
        return access

    def _trust(self, certificates: str) -> None:
        try:
            self._wire.trust(certificates)
        except ValueError as error:
            raise AccessError(self._system, f"the `ca` of its block {error}; write it again") from None

    def _hidden(self, batch: Sequence[Outgoing]) -> Hidden:
        """What no text about these records may hold."""

        def find() -> Iterator[str]:
            yield from self._secrets()
            for record in batch:
                yield from (record.key, quote(record.key, safe="", errors="replace"))
                yield from values(record.payload)

        return Hidden(find)

    def _secrets(self) -> Iterator[str]:
        """Every secret, as it is and as it stands in an address or a form."""
        for secret in self._credentials.secrets():
            yield from (secret, quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace"))

    def _sender(self, operation: str) -> Sender:
        sender = self._senders.get(operation)
        if sender is None:
            raise Refused(f"system {self._system} has no operation {operation}")
        return sender

    def _deadline(self, latest: float | None = None) -> float:
        """When a call that begins now has to end, by `latest` in any case; on the loop's clock."""
        own = asyncio.get_running_loop().time() + self._total_s
        return own if latest is None else min(own, latest)
