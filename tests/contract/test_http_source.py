"""Reading over real sockets: every kind of pages, resumed, restarted, looping, or of another shape."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.contract.test_http_deliver import HASTY, connected
from tideover.config.rest import Rest
from tideover.connectors.http import HttpConnector
from tideover.errors import AccessError, Refused, SourceContract, SourceError, SourceLoop, TideoverError
from tideover.model import Page
from tideover.twins.adversary import Adversary, Behaviour, acts, refused_port
from tideover.twins.adversary.server import Talk

CURSOR = {"type": "cursor", "next": "next"}
DATED = {"param": "since", "field": "at", "format": "iso", "overlap": "60s"}


def described(**stream: Any) -> Rest:
    return Rest.model_validate({"streams": {"orders": {"path": "/orders", "records": "items", **stream}}})


def page(*items: object, following: object = None, **more: Any) -> Behaviour:
    return acts.reply(200, {"items": list(items), "next": following}, **more)


def asked(server: Adversary) -> list[dict[str, str]]:
    return [{k: v[0] for k, v in parse_qs(urlsplit(r.target).query).items()} for r in server.received]


async def read(connector: HttpConnector, cursor: str | None = None) -> list[Page]:
    return [page async for page in connector.pages("orders", cursor)]


async def listed(
    *behaviours: Behaviour, rest: Rest | None = None, cursor: str | None = None, **settings: Any
) -> list[Page]:
    async with Adversary() as server:
        server.on("/orders", *behaviours)
        async with connected(server.url, rest or described(pagination=CURSOR), **settings) as connector:
            return await read(connector, cursor)


async def test_pages_by_cursor_follow_the_token_to_the_end() -> None:
    async with Adversary() as server:
        server.on("/orders", page({"n": 1}, following="a&b"), page({"n": 2}, following=7), page({"n": 3}))
        async with connected(server.url, described(pagination=CURSOR, params={"state": "open"})) as connector:
            pages = await read(connector)
        assert asked(server) == [
            {"state": "open"},
            {"state": "open", "cursor": "a&b"},
            {"state": "open", "cursor": "7"},
        ]
    assert [p.records for p in pages] == [[{"n": 1}], [{"n": 2}], [{"n": 3}]]
    assert [p.is_last for p in pages] == [False, False, True]


async def test_pages_by_number_end_with_a_short_page() -> None:
    rest = described(pagination={"type": "page", "size": 2})
    async with Adversary() as server:
        server.on("/orders", page({"n": 1}, {"n": 2}), page({"n": 3}))
        async with connected(server.url, rest) as connector:
            assert len(await read(connector)) == 2
        assert asked(server) == [{"page": "1", "per_page": "2"}, {"page": "2", "per_page": "2"}]


async def test_pages_by_offset_go_on_from_what_came() -> None:
    rest = described(pagination={"type": "offset", "limit": 2})
    async with Adversary() as server:
        server.on("/orders", page({"n": 1}, {"n": 2}, {"n": 3}), page())
        async with connected(server.url, rest) as connector:
            assert len(await read(connector)) == 2
        assert asked(server) == [{"offset": "0", "limit": "2"}, {"offset": "3", "limit": "2"}]


async def test_pages_by_link_stay_on_the_origin() -> None:
    rest = described(pagination={"type": "link"}, records="@")
    async with Adversary() as server:
        links = [("link", '</x>; rel="prev", <?p=2>; rel="NEXT last"')]
        server.on("/orders", acts.reply(200, [{"n": 1}], links), acts.reply(200, [{"n": 2}]))
        async with connected(server.url, rest) as connector:
            assert len(await read(connector)) == 2
        assert [r.target for r in server.received] == ["/orders", "/orders?p=2"]
        for evil in (
            f"<http://evil.example:{server.port}/>",
            "<//localhost:1/>",
            f"<http://u@localhost:{server.port}/>",
        ):
            server.on("/orders", acts.reply(200, [{"n": 1}], [("link", f'{evil}; rel="next"')]))
            async with connected(server.url, rest) as connector:
                with pytest.raises(SourceContract, match="another origin"):
                    await read(connector)


@pytest.mark.parametrize(
    ("pagination", "behaviours"),
    [
        (CURSOR, [page({"n": 1}, following="a"), page({"n": 2}, following="a")]),
        (CURSOR, [page({"n": i}, following="ab"[i % 2]) for i in range(20)]),
        (CURSOR, [page({"n": 1}, following=str(i)) for i in range(20)]),
        (CURSOR, [page({"n": i % 3}, following=str(i)) for i in range(40)]),
        ({"type": "page", "size": 1}, [page({"n": 1})]),
        ({"type": "offset", "limit": 1}, [page({"n": 1}, {"n": 2})]),
    ],
)
async def test_pages_that_repeat_raise_source_loop(pagination: dict[str, Any], behaviours: list[Behaviour]) -> None:
    with pytest.raises(SourceLoop):
        await listed(*behaviours, rest=described(pagination=pagination))


async def test_pages_that_repeat_are_found_by_readers_of_one_page_each() -> None:
    async def read_one_by_one(server: Adversary) -> None:
        cursor: str | None = None
        for turn in range(20):
            server.on("/orders", page({"n": turn}, following="abc"[turn % 3]))
            async with connected(server.url, described(pagination=CURSOR)) as connector:
                cursor = (await anext(connector.pages("orders", cursor))).cursor

    async with Adversary() as server:
        with pytest.raises(SourceLoop):
            await read_one_by_one(server)


async def test_empty_pages_with_new_tokens_are_no_loop() -> None:
    pages = await listed(*(page(following=str(n)) for n in range(9)), page({"n": 1}))
    assert len(pages) == 10


async def test_a_listing_cut_off_by_a_crash_goes_on_with_its_next_page() -> None:
    rest = described(pagination=CURSOR, incremental=DATED)
    async with Adversary() as server:
        server.on("/orders", page({"at": "2044-01-02T00:00:00Z"}, following="p2"), page({"at": "2044-01-01T00:00:00Z"}))
        async with connected(server.url, rest) as connector:
            first = await anext(connector.pages("orders", None))
        async with connected(server.url, rest) as connector:
            [second] = await read(connector, first.cursor)
            await read(connector, second.cursor)
        assert asked(server) == [{}, {"cursor": "p2"}, {"since": "2044-01-01T23:59:00Z"}]


@pytest.mark.parametrize("status", [400, 404, 410])
async def test_a_resumed_token_that_is_refused_restarts_the_listing_once(status: int) -> None:
    rest = described(pagination=CURSOR, incremental=DATED)
    async with Adversary() as server:
        server.on("/orders", page({"at": "1970-01-01T00:01:39Z"}, following="old"))
        async with connected(server.url, rest) as connector:
            cursor = (await anext(connector.pages("orders", json.dumps({"since_us": 60_000_000})))).cursor
        server.received.clear()
        server.on("/orders", acts.reply(status), page({"at": "1970-01-01T00:01:30Z"}), acts.reply(status))
        async with connected(server.url, rest) as connector:
            [only] = await read(connector, cursor)
            assert json.loads(only.cursor)["since_us"] == 90_000_000
            with pytest.raises(SourceContract):
                await read(connector, cursor)
        assert asked(server)[:2] == [
            {"cursor": "old", "since": "1970-01-01T00:00:00Z"},
            {"since": "1970-01-01T00:00:00Z"},
        ]
        assert len(server.received) == 4


async def since(*pages: Behaviour, cursor: str | None = None, **incremental: str) -> object:
    rest = described(pagination=CURSOR, incremental={**DATED, **incremental})
    read_pages = await listed(*pages, rest=rest, cursor=cursor)
    return json.loads(read_pages[-1].cursor).get("since_us")


async def test_the_watermark_stops_at_the_beginning_of_the_listing() -> None:
    """A record dated in the future, or changed while the listing ran, must not hide what changed before it."""
    began = "Thu, 01 Jan 1970 01:00:00 GMT"
    later = "Thu, 01 Jan 1970 02:00:00 GMT"
    first = page({"at": "1970-01-01T00:30:00Z"}, following="b", date=began)
    assert await since(first, page({"at": "1970-01-01T01:59:00Z"}, date=later)) == 3600_000_000
    assert await since(first, page({"at": "2999-01-01T00:00:00Z"}, date=later)) == 3600_000_000
    assert await since(first, page({"at": None}, date=later)) == 1800_000_000
    assert await since(page({"at": "2999-01-01T00:00:00Z"}, date=None)) == 32472144000_000_000


async def test_the_watermark_never_moves_back() -> None:
    cursor = json.dumps({"since_us": 7200_000_000})
    assert await since(page({"at": "1970-01-01T01:00:00Z"}), cursor=cursor) == 7200_000_000
    assert await since(page(), cursor=cursor) == 7200_000_000


async def test_the_watermark_reads_epochs() -> None:
    assert await since(page({"at": 90}), format="epoch_s") == 90_000_000
    assert await since(page({"at": "90500"}), format="epoch_ms") == 90_500_000


async def test_a_page_whose_every_instant_is_unreadable_is_of_another_shape() -> None:
    with pytest.raises(SourceContract, match=r"incremental\.field"):
        await since(page({"at": "yesterday"}))


async def test_items_that_are_no_objects_are_broken_and_the_page_goes_on() -> None:
    body = b'{"items": [{"n": 1}, null, "x", [123456789012345678901], 5], "next": null}'
    [only] = await listed(acts.reply(200, body))
    assert only.records == [{"n": 1}]
    assert [b.payload for b in only.broken] == [b"null", b'"x"', b"[123456789012345678901]", b"5"]
    assert {b.code for b in only.broken} == {"not_an_object"}


async def test_numbers_survive_reading() -> None:
    body = b'{"items": [{"big": 18446744073709551616, "low": -9223372036854775809, "f": 0.1}]}'
    [only] = await listed(acts.reply(200, body))
    assert only.records == [{"big": 2**64, "low": -(2**63) - 1, "f": 0.1}]


@pytest.mark.parametrize(
    ("behaviour", "error", "text"),
    [
        (acts.reply(200, b"<html>"), SourceContract, "expected JSON"),
        (acts.reply(200, b"[" * 100_000), SourceContract, "expected JSON"),
        (acts.reply(200, {"items": None}), SourceContract, "expected a list at `records`"),
        (acts.reply(200, {"items": {}}), SourceContract, "/orders answered http 200"),
        (page({}, following={"a": 1}), SourceContract, "must find a string"),
        (acts.reply(404), SourceContract, "http_404"),
        (acts.endless(), SourceContract, "limits.response"),
        (acts.bomb(size=20_000_000), SourceContract, "limits.response"),
        (acts.reply(401), AccessError, "credential was refused"),
        (acts.reply(403), AccessError, "credential was refused"),
        (acts.reply(302), SourceError, "redirect"),
        (acts.reply(500), SourceError, "server_error"),
        (acts.hang(), SourceError, "timeout"),
        (acts.drip(), SourceError, "timeout"),
        (acts.end(), SourceError, "reset"),
        (acts.cut_length(200, b'{"items": []'), SourceError, "not whole"),
    ],
)
async def test_pages_when_the_source_can_not_be_read_raise(
    behaviour: Behaviour, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await listed(behaviour, **(HASTY if text == "timeout" else {}))


@pytest.mark.parametrize("status", [429, 503])
async def test_pages_when_throttled_say_how_long(status: int) -> None:
    with pytest.raises(SourceError) as caught:
        await listed(acts.reply(status, b"", [("retry-after", "7")]))
    assert caught.value.retry_after_s == 7


async def test_pages_of_a_system_that_is_down_raise_source_error() -> None:
    with refused_port() as port:
        async with connected(f"http://127.0.0.1:{port}", described()) as connector:
            with pytest.raises(SourceError, match="refused"):
                await read(connector)


@pytest.mark.parametrize(
    "cursor", ["", "x", "[]", '{"a": 1}', '{"next": true}', '{"since_us": "x"}', '{"pages": null}']
)
async def test_a_cursor_of_another_making_is_refused(cursor: str) -> None:
    with pytest.raises(SourceContract, match="cursor can't be read"):
        await listed(page(), cursor=cursor)


async def test_no_error_of_a_source_holds_a_secret() -> None:
    for status in (400, 401, 500):
        with pytest.raises(TideoverError) as caught:
            await listed(acts.reply(status, {"code": "s3cret-token", "message": "bad s3cret-token"}))
        assert "s3cret" not in str(caught.value)


async def test_a_resumed_listing_that_is_throttled_by_a_400_does_not_restart() -> None:
    rest = Rest.model_validate(
        {
            "streams": {"orders": {"path": "/orders", "records": "items", "pagination": CURSOR}},
            "errors": [{"status": 400, "contains": "LIMIT", "outcome": "throttled", "delay": "9s"}],
        }
    )
    async with Adversary() as server:
        server.on("/orders", acts.reply(200, {"items": [], "next": "p2"}), acts.reply(400, b'"LIMIT"'))
        async with connected(server.url, rest) as connector:
            first = await anext(connector.pages("orders", None))
            with pytest.raises(SourceError) as caught:
                await read(connector, first.cursor)
        assert len(server.received) == 2
    assert caught.value.retry_after_s == 9


SHOP = [{"n": n} for n in range(7)]
WAYS: dict[str, dict[str, Any]] = {
    "page": {"pagination": {"type": "page", "size": 2}},
    "larger pages": {"pagination": {"type": "page", "size": 3}},
    "offset": {"pagination": {"type": "offset", "limit": 2}},
    "cursor": {"pagination": CURSOR},
    "link": {"pagination": {"type": "link"}},
    "none": {},
    "another path": {"pagination": {"type": "offset", "limit": 2}, "path": "/archive"},
}


async def shop(talk: Talk) -> None:
    """Lists `SHOP` in every manner, two at a time where nobody says how many; the archive has another order."""
    asked = {name: values[-1] for name, values in parse_qs(urlsplit(talk.request.target).query).items()}
    size = int(asked.get("per_page") or asked.get("limit") or 2)
    start = int(asked.get("cursor") or asked.get("offset") or (int(asked.get("page", "1")) - 1) * size)
    items = SHOP if talk.request.target.startswith("/orders") else SHOP[::-1]
    end = start + size
    found = items[start:end] if asked else items if talk.request.headers.get("x-all") else items[start:end]
    following = end if end < len(items) else None
    link = [("link", f"</orders?cursor={following}>; rel=next")] if following is not None else []
    await acts.reply(200, {"items": found, "next": following}, link)(talk)


@pytest.mark.parametrize("new", WAYS)
@pytest.mark.parametrize("old", [way for way in WAYS if way != "none"])
async def test_a_listing_that_is_described_anew_while_it_is_under_way_misses_nothing(old: str, new: str) -> None:
    async with Adversary() as server:
        server.on("*", shop)
        async with connected(server.url, described(**WAYS[old])) as connector:
            pages = connector.pages("orders", None)
            first = await anext(pages)
            second = await anext(pages)
        headers = {"x-all": "1"} if new == "none" else {}
        rest = described(**WAYS[new]).model_copy(update={"headers": headers})
        async with connected(server.url, rest) as connector:
            rest_of_it = await read(connector, second.cursor)
    seen = [record for page in (first, second, *rest_of_it) for record in page.records]
    assert {record["n"] for record in seen} == set(range(7))
    if old == new:
        assert len(seen) == 7, "it goes on where it was"


@pytest.mark.parametrize(
    ("query", "more"),
    [("per_page=1", {}), ("x=1&per%5Fpage=1&per_page=1", {}), ("page=2", {}), ("x=1", {"params": {"per_page": "1"}})],
)
async def test_pages_have_the_size_of_their_pagination_whatever_the_path_says(query: str, more: dict[str, Any]) -> None:
    rest = described(path=f"/orders?{query}", pagination={"type": "page", "size": 2}, **more)
    async with Adversary() as server:
        server.on("*", shop)
        async with connected(server.url, rest) as connector:
            pages = await read(connector)
        assert [record["n"] for page in pages for record in page.records] == list(range(7))
        assert server.received[0].target == f"/orders?{'x=1&' if 'x=1' in query else ''}page=1&per_page=2"


async def test_the_paths_own_query_goes_before_params_and_gives_way_to_the_cursor() -> None:
    rest = described(path="/orders?state=open&since=2020-01-01", params={"state": "all", "a": "b"}, incremental=DATED)
    async with Adversary() as server:
        server.on("*", page({"at": "2044-01-02T00:00:00Z"}))
        async with connected(server.url, rest) as connector:
            [only] = await read(connector)
            await read(connector, only.cursor)
        assert [request.target for request in server.received] == [
            "/orders?state=open&since=2020-01-01&a=b",
            "/orders?state=open&a=b&since=2044-01-01T23:59:00Z",
        ]


async def test_a_token_beyond_64_bits_is_kept_exactly() -> None:
    big = 10**30 + 7
    async with Adversary() as server:
        server.on("/orders", acts.reply(200, b'{"items": [], "next": %d}' % big), page())
        async with connected(server.url, described(pagination=CURSOR)) as connector:
            first = await anext(connector.pages("orders", None))
            await read(connector, first.cursor)
        assert asked(server) == [{}, {"cursor": str(big)}]


@pytest.mark.parametrize("item", [b"[" * 1000 + b"]" * 1000, b'{"a":' * 1000 + b"1" + b"}" * 1000])
async def test_a_page_that_is_nested_deeper_than_can_be_written_is_read(item: bytes) -> None:
    async with Adversary() as server:
        server.on("/orders", acts.reply(200, b'{"items": [%b], "next": 7}' % item), page({"n": 1}))
        async with connected(server.url, described(pagination=CURSOR)) as connector:
            first, second = await read(connector)
    assert len(first.records) + len(first.broken) == 1
    assert second.records == [{"n": 1}]


async def test_a_stream_that_is_not_there_is_refused() -> None:
    async with connected("http://localhost:1") as connector:
        with pytest.raises(Refused):
            connector.pages("orders", None)


async def test_reading_stays_flat_however_many_pages_there_are() -> None:
    count = 0

    async def more(talk: Talk) -> None:
        nonlocal count
        count += 1
        await page({"n": count}, following=f"t{count}" if count < 300 else None)(talk)

    longest = 0
    async with Adversary() as server:
        server.on("/orders", more)
        async with connected(server.url, described(pagination=CURSOR)) as connector:
            async for one in connector.pages("orders", None):
                longest = max(longest, len(one.cursor))
    assert count == 300
    assert longest < 200
