"""Where an answer ends, what is not one, and that no way of cutting it makes it another answer."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.test_http_wire import request, wired
from tideover.connectors.http.answer import Answer
from tideover.connectors.http.reading import MAX_HEAD, AnswerReader
from tideover.model import Unknown, Unsent
from tideover.twins.adversary import Adversary, Behaviour, acts
from tideover.twins.adversary.server import Talk


async def exchanged(behaviour: Behaviour, method: str = "POST") -> tuple[Answer | Unsent | Unknown, int]:
    """What came of it, and how many connections it and a second exchange took."""
    async with Adversary() as server, wired() as wire:
        server.on("/", behaviour, acts.reply(299, b"second"))
        came = await wire.exchange(request(server.url, method))
        second = await wire.exchange(request(server.url))
        assert isinstance(second, Answer)
        assert (second.status, second.body) == (299, b"second")
        assert len(server.received) == 2
        return came, server.connections


LENGTH = acts.head(200, [("content-length", "5")])
CHUNKS = acts.head(200, [("transfer-encoding", "Chunked")]) + b"2\r\nhe\r\n3;ext=1\r\nllo\r\n0\r\nx-trailer: 1\r\n\r\n"
KEPT = {
    "length": LENGTH + b"hello",
    "chunks": CHUNKS,
    "interim answers": acts.head(100) + acts.head(103, [("link", "<x>")]) + acts.head(199) + LENGTH + b"hello",
    "no CR": LENGTH.replace(b"\r\n", b"\n") + b"hello",
}


@pytest.mark.parametrize("case", KEPT)
async def test_answer_with_an_end_of_its_own_keeps_the_connection(case: str) -> None:
    came, connections = await exchanged(acts.raw(KEPT[case]))
    assert isinstance(came, Answer)
    assert (came.status, came.body, came.trouble, connections) == (200, b"hello", None, 1)
    assert "x-trailer" not in came.headers
    assert "link" not in came.headers


UNTIL_CLOSED = {
    "HTTP/1.1": acts.head(200) + b"hello",
    "HTTP/1.0": acts.head(200).replace(b"1.1", b"1.0") + b"hello",
    "HTTP/1.0 with length": LENGTH.replace(b"1.1", b"1.0") + b"hello",
    "Connection: close": acts.head(200, [("content-length", "5"), ("connection", "close")]) + b"hello",
}


@pytest.mark.parametrize("case", UNTIL_CLOSED)
async def test_answer_that_ends_with_the_connection_is_whole(case: str) -> None:
    came, connections = await exchanged(acts.raw(UNTIL_CLOSED[case], then_end=True))
    assert isinstance(came, Answer)
    assert (came.body, came.trouble, connections) == (b"hello", None, 2)


async def test_answer_that_would_end_with_the_connection_and_is_reset_is_not_whole() -> None:
    async def act(talk: Talk) -> None:
        await talk.read_body()
        await talk.write(acts.head(200) + b"hel")
        await asyncio.sleep(0.05)  # so that the reset finds something to follow; without it there may be no answer
        talk.reset()

    came, _ = await exchanged(act)
    assert came == Unknown("reset", "ConnectionResetError ECONNRESET") or (
        isinstance(came, Answer) and came.trouble == "unreadable"
    )


@pytest.mark.parametrize(
    ("status", "method", "is_kept"), [(204, "POST", True), (304, "GET", True), (200, "HEAD", False)]
)
async def test_answer_that_has_no_body_is_not_waited_for(status: int, method: str, is_kept: bool) -> None:
    came, connections = await exchanged(acts.raw(acts.head(status, [("content-length", "500")])), method)
    assert isinstance(came, Answer)
    assert (came.status, came.body, came.trouble, connections) == (status, b"", None, 1 if is_kept else 2)
    assert came.headers.get("Content-Length") == "500"


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 2"])
@pytest.mark.parametrize("whole", [LENGTH + b"hello", CHUNKS, acts.head(204)])
async def test_answer_with_something_after_its_end_is_kept_and_its_connection_is_not(whole: bytes, more: bytes) -> None:
    came, connections = await exchanged(acts.raw(whole + more))
    assert isinstance(came, Answer)
    assert (came.trouble, connections) == (None, 2)


def with_headers(*headers: tuple[str, str]) -> bytes:
    return acts.head(200, headers) + b"5\r\nhello\r\n0\r\n\r\n"


UNREADABLE = {
    "101": acts.head(101),
    "upgrade": acts.head(101, [("connection", "upgrade"), ("upgrade", "h2c")]),
    "status 42": b"HTTP/1.1 042 No\r\ncontent-length: 0\r\n\r\n",
    "length and chunks": with_headers(("content-length", "5"), ("transfer-encoding", "chunked")),
    "chunks and length": with_headers(("transfer-encoding", "chunked"), ("content-length", "5")),
    "two lengths": with_headers(("content-length", "5"), ("content-length", "6")),
    "negative length": with_headers(("content-length", "-5")),
    "length beyond 64 bits": with_headers(("content-length", "9" * 30)),
    "one large header": acts.head(200, [("x", "y" * MAX_HEAD)]),
    "many headers": acts.head(200, [(f"x-{n}", "y" * 50) for n in range(MAX_HEAD // 50)]),
    "interim answers without end": acts.head(100, [("x", "y" * 50)]) * (MAX_HEAD // 50),
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"x" * (MAX_HEAD + 1),
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
}


@pytest.mark.parametrize("case", UNREADABLE)
async def test_what_is_no_answer_is_unknown_unreadable(case: str) -> None:
    came, connections = await exchanged(acts.raw(UNREADABLE[case]))
    assert isinstance(came, Unknown)
    assert (came.code, connections) == ("unreadable", 2)


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, gzip", "identity"])
async def test_answer_in_a_transfer_coding_that_nobody_asked_for_is_unreadable(coding: str) -> None:
    came, _ = await exchanged(acts.raw(with_headers(("transfer-encoding", coding)), then_end=True))
    assert isinstance(came, Answer)
    assert (came.status, came.trouble) == (200, "unreadable")


PACKED = gzip.compress(b"hello" * 20, mtime=0)
ANSWERS = [
    *KEPT.values(),
    acts.head(204),
    acts.head(200, [("content-length", str(len(PACKED))), ("content-encoding", "gzip")]) + PACKED,
    acts.head(503, [("retry-after", "1"), ("retry-after", "2"), ("content-length", "0")]),
]


def pieces_of(whole: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted({cut % len(whole) for cut in cuts}), len(whole)]
    return [whole[start:end] for start, end in pairwise(places) if end > start]


def shown(answer: Answer | None) -> tuple[object, ...] | None:
    if answer is None:
        return None
    headers = {name: list(answer.headers.all(name)) for name in answer.headers}
    return answer.status, headers, answer.body, answer.trouble


def read(pieces: Sequence[bytes]) -> AnswerReader:
    reader = AnswerReader(10_000)
    for piece in pieces:
        if not reader.is_over:
            reader.feed(piece)
    return reader


@given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 10_000), max_size=40))
def test_answer_in_any_pieces_is_the_same(whole: bytes, cuts: list[int]) -> None:
    at_once, piecewise = read([whole]), read(pieces_of(whole, cuts))
    assert at_once.is_over
    assert (shown(piecewise.answer()), piecewise.stays) == (shown(at_once.answer()), at_once.stays)


@given(st.sampled_from(ANSWERS), st.data(), st.lists(st.integers(0, 10_000), max_size=5))
def test_answer_that_is_cut_anywhere_is_no_whole_one(whole: bytes, data: st.DataObject, cuts: list[int]) -> None:
    part = whole[: data.draw(st.integers(1, len(whole) - 1))]
    reader = read(pieces_of(part, cuts))
    assert not reader.is_over
    reader.end()
    answer = reader.answer()
    assert not reader.stays
    assert reader.trouble == "unreadable"
    assert answer is None or answer.trouble == "unreadable"


@given(st.lists(st.binary(min_size=1, max_size=50) | st.sampled_from(ANSWERS), max_size=5))
def test_anything_at_all_is_read_without_an_error(pieces: list[bytes]) -> None:
    reader = read(pieces)
    reader.end()
    assert reader.is_over


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ANSWERS), st.data(), st.lists(st.integers(0, 10_000), max_size=5))
def test_exchange_whose_answer_is_cut_anywhere_ends_and_is_not_repeated(
    whole: bytes, data: st.DataObject, cuts: list[int]
) -> None:
    part = whole[: data.draw(st.integers(0, len(whole)))]

    async def act(talk: Talk) -> None:
        await talk.read_body()
        for piece in pieces_of(part, cuts) if part else []:
            await talk.write(piece)
            await asyncio.sleep(0)
        talk.end()

    async def one() -> Answer | Unsent | Unknown:
        async with Adversary() as server, wired() as wire:
            server.on("/", act)
            came = await wire.exchange(request(server.url))
            assert len(server.received) == 1
            return came

    came = asyncio.run(one())
    if part == whole:
        assert isinstance(came, Answer)
        assert shown(came) == shown(read([whole]).answer())
    else:
        assert isinstance(came, Answer | Unknown)
        assert came.trouble == "unreadable" if isinstance(came, Answer) else came.code == "reset"


def test_body_of_many_small_chunks_takes_no_more_memory_than_its_bytes() -> None:
    reader = AnswerReader(cap=1_000_000)
    reader.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    chunks = b"2\r\nxy\r\n" * 10_000
    tracemalloc.start()
    try:
        for _ in range(20):
            reader.feed(chunks)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000, "one piece of memory a chunk is twenty times the body"
