"""What each kind of fault does to one call. A kind that is not here harms inside the vendor's own handlers."""

from __future__ import annotations

import gzip
import io
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from tideover.twins.adversary import Behaviour
from tideover.twins.adversary import acts as adversary
from tideover.twins.answer import Answer, body_answer, json_answer, raw_headers
from tideover.twins.exchange import Exchange
from tideover.twins.faults import ActiveFault, Fault
from tideover.twins.vendor import Vendor

_MEGABYTE = 1_000_000
_PAGE_OF_A_PROXY = b"<!doctype html><html><body><h1>We'll be right back</h1></body></html>"
_MANNERS: dict[str, Behaviour] = {
    "no_http": adversary.raw(b"SSH-2.0-OpenSSH_9.6\r\n", then_end=True),
    "cut_head": adversary.raw(adversary.head(200)[:-7], then_end=True),
    "broken_chunks": adversary.broken_chunks(200),
    "cut_chunks": adversary.cut_chunks(200, b'{"id":"1"}'),
    "stall": adversary.stall(200, b'{"id":'),
    "endless": adversary.endless(),
}
_OPENING, _CLOSING = b'{"results":[],"filler":"', b'"}'


@dataclass(frozen=True, slots=True)
class Turn:
    """One call that meets a fault. `work` does what the caller asked for and commits it; `trap` is a URL of
    another origin."""

    exchange: Exchange
    active: ActiveFault
    vendor: Vendor
    work: Callable[[], Awaitable[Answer]]
    trap: str

    @property
    def fault(self) -> Fault:
        """The fault's options."""
        return self.active.fault

    async def commit(self) -> None:
        """Do the work if the fault is one that lets it happen."""
        if self.active.commits:
            await self.work()


Act = Callable[[Turn], Awaitable[None]]


async def work_well(turn: Turn) -> None:
    """The call goes as without a fault, but for what the vendor itself makes of it."""
    await turn.exchange.reply(await turn.work())


async def _hang(turn: Turn) -> None:
    if not turn.fault.late:
        await turn.exchange.hold(turn.active.ended)
        return await turn.exchange.reset()
    await turn.exchange.freeze(turn.active.ended)
    return await turn.exchange.reply(await turn.work())


async def _drop(turn: Turn) -> None:
    await turn.exchange.reset()


async def _commit_then_hang(turn: Turn) -> None:
    await turn.work()
    await turn.exchange.hold(turn.active.ended)
    await turn.exchange.reset()


async def _commit_then_drop(turn: Turn) -> None:
    await turn.work()
    await turn.exchange.reset()


async def _error_500(turn: Turn) -> None:
    await turn.commit()
    await turn.exchange.reply(turn.vendor.error(500, "UNEXPECTED_ERROR", "An unexpected error occurred."))


async def _unavailable_503(turn: Turn) -> None:
    answer = turn.vendor.error(503, "SERVICE_UNAVAILABLE", "The service is down for maintenance.")
    await turn.exchange.reply(answer.with_headers(_retry_after(turn.fault)))


async def _throttle_429(turn: Turn) -> None:
    seconds = turn.fault.retry_after_s
    if turn.fault.vendor:
        return await turn.exchange.reply(turn.vendor.throttled(seconds))
    headers = _retry_after(turn.fault)
    if seconds is not None:
        headers["ratelimit"] = f'"default";r=0;t={seconds}'
    answer = turn.vendor.error(429, "RATE_LIMITED", "Too many requests.")
    return await turn.exchange.reply(answer.with_headers(headers))


async def _unauthorized_401(turn: Turn) -> None:
    await turn.exchange.reply(turn.vendor.unauthorized())


async def _truncated(turn: Turn) -> None:
    answer = await turn.work() if turn.active.commits else json_answer(200, {"id": "1", "status": "ok"})
    await turn.exchange.cut(answer.status, answer.headers, answer.body[: max(1, len(answer.body) // 2)])


async def _malformed(turn: Turn) -> None:
    await turn.commit()
    await turn.exchange.reply(body_answer(200, _PAGE_OF_A_PROXY, "text/html"))


async def _broken_http(turn: Turn) -> None:
    await turn.commit()
    await turn.exchange.misbehave(_MANNERS[turn.fault.manner])


async def _error_body_200(turn: Turn) -> None:
    await turn.commit()
    code = turn.fault.code or "UNEXPECTED_ERROR"
    body = turn.vendor.error(400, code, "An unexpected error occurred.").body
    await turn.exchange.reply(body_answer(200, body, "application/json"))


async def _redirect(turn: Turn) -> None:
    path = quote(turn.exchange.scope["path"])
    location = turn.fault.location or f"{turn.trap}{path}"
    await turn.exchange.reply(json_answer(307, {}, {"location": location}))


async def _drip(turn: Turn) -> None:
    answer = await turn.work() if turn.active.commits else json_answer(200, {"id": "1", "status": "ok"})
    pieces = (answer.body[at : at + 1] for at in range(len(answer.body)))
    await turn.exchange.stream(answer.status, answer.headers, pieces, turn.fault.interval_s)


async def _huge(turn: Turn) -> None:
    await turn.commit()
    headers = raw_headers({"content-type": "application/json"})
    await turn.exchange.stream(200, headers, _filled(turn.fault.size_mb))


async def _gzip_bomb(turn: Turn) -> None:
    await turn.commit()
    headers = raw_headers({"content-type": "application/json", "content-encoding": "gzip"})
    await turn.exchange.stream(200, headers, _compressed(_filled(turn.fault.size_mb)))


def _filled(size_mb: int) -> Iterator[bytes]:
    """A JSON object of `size_mb`, a megabyte at a time."""
    yield _OPENING
    for _ in range(size_mb):
        yield b"x" * _MEGABYTE
    yield _CLOSING


def _compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces as one gzip member, made while it is sent: the bomb takes no memory here."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as packer:
        for piece in pieces:
            packer.write(piece)
            yield _taken(buffer)
    yield _taken(buffer)


def _taken(buffer: io.BytesIO) -> bytes:
    content = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return content


def _retry_after(fault: Fault) -> dict[str, str]:
    return {} if fault.retry_after_s is None else {"retry-after": str(fault.retry_after_s)}


ACTS: dict[str, Act] = {
    "hang": _hang,
    "drop": _drop,
    "commit_then_hang": _commit_then_hang,
    "commit_then_drop": _commit_then_drop,
    "error_500": _error_500,
    "unavailable_503": _unavailable_503,
    "throttle_429": _throttle_429,
    "unauthorized_401": _unauthorized_401,
    "truncated": _truncated,
    "malformed": _malformed,
    "broken_http": _broken_http,
    "error_body_200": _error_body_200,
    "redirect": _redirect,
    "drip": _drip,
    "huge": _huge,
    "gzip_bomb": _gzip_bomb,
}
