"""The pure parts: inflating under a cap, waits, cursors, paths and bodies."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from tideover.connectors.http import watermark
from tideover.connectors.http.answer import Garbled, Headers, Inflater, Oversize, Undecodable, decode
from tideover.connectors.http.requests import Unusable, address, fill_path, with_field
from tideover.connectors.http.throttle import delay_s
from tideover.connectors.http.watermark import Place
from tideover.model import Outgoing

NOW = "Sun, 06 Nov 2044 08:49:37 GMT"
PIECES = st.lists(st.binary(max_size=300), max_size=6)


def inflated(coding: str, coded: bytes, cap: int = 10_000, step: int = 7) -> bytes:
    inflater = Inflater(coding, cap)
    out = b"".join(inflater.feed(coded[at : at + step]) for at in range(0, len(coded), step))
    inflater.finish()
    assert inflater.produced == len(out)
    return out


def test_headers_are_found_in_any_case_and_keep_the_order_of_repeated_ones() -> None:
    headers = Headers([("X-Limit", "1"), ("Link", "a"), ("link", "b")])
    assert list(headers) == ["x-limit", "link"]
    assert headers.get("LINK") == "a"
    assert (list(headers.all("Link")), list(headers.all("date")), headers.get("date")) == (["a", "b"], [], None)
    assert "x-LIMIT" in headers
    assert "date" not in headers


@given(PIECES, st.integers(1, 50))
def test_inflater_undoes_every_coding_at_any_cut(members: list[bytes], step: int) -> None:
    whole = b"".join(members)
    assert inflated("gzip", b"".join(map(gzip.compress, members)), step=step) == whole
    assert inflated("Deflate ", zlib.compress(whole), step=step) == whole
    assert inflated("identity", whole, step=step) == whole


def test_inflater_never_makes_more_than_one_byte_over_the_cap() -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()
    inflater = Inflater("gzip", 100_000)
    tracemalloc.start()
    try:
        with pytest.raises(Oversize):
            inflater.feed(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert inflater.produced == 100_001
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("coding", "coded"),
    [
        ("gzip", gzip.compress(b"hello", mtime=0)[:-3]),
        ("gzip", gzip.compress(b"hello", mtime=0) + b"rubbish"),
        ("deflate", zlib.compress(b"hello") + b"more"),
        ("gzip", b"hello hello"),
        ("gzip", gzip.compress(b"", mtime=0) * 1001),
        ("br", b""),
        ("gzip, gzip", b""),
    ],
)
def test_inflater_of_a_broken_body_raises_garbled(coding: str, coded: bytes) -> None:
    with pytest.raises(Garbled):
        inflated(coding, coded)


@given(st.integers(-(10**40), 10**40))
def test_decode_keeps_integers_exact(number: int) -> None:
    assert decode(b'{"n": %d}' % number) == {"n": number}


@pytest.mark.parametrize("body", [b"", b"NaN", b"1e999", b"[" * 100_000, b"\xff", b'"\\ud800"', b"9" * 5000, b"{} x"])
def test_decode_of_what_is_no_json_raises_undecodable(body: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(body)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([("Retry-After", "7")], 7),
        ([("Retry-After", "0")], 0.1),
        ([("Retry-After", "1.5")], 1.5),
        ([("Retry-After", "-5")], None),
        ([("Retry-After", "9" * 18)], None),
        ([("Retry-After", "99999999")], 3600),
        ([("Retry-After", "Sun, 06 Nov 2044 08:50:37 GMT"), ("Date", NOW)], 60),
        ([("Retry-After", "Sun, 06 Nov 2044 08:48:37 GMT"), ("Date", NOW)], 0.1),
        ([("Retry-After", "Sun, 06 Nov 2044 08:50:37 GMT")], None),
        ([("Retry-After", "7"), ("RateLimit", '"d";r=0;t=30')], 7),
        ([("RateLimit", '"a";r=5;t=90, "b";r=0;t=30')], 30),
        ([("RateLimit", '"x;t=99";r=0;t=30')], 30),
        ([("RateLimit", "limit=10, remaining=0, reset=12")], 12),
        ([("RateLimit-Reset", "11")], 11),
        ([("X-Reset", "2362034987"), ("Date", NOW)], 10),
        ([("X-Reset", "2362034987000"), ("Date", NOW)], 10),
        ([("X-Reset", "25")], 25),
        ([("RateLimit-Policy", '"day";q=9;w=3000, "burst";q=1;w=60')], 60),
    ],
)
def test_delay_s_reads_every_form(headers: list[tuple[str, str]], expected: float | None) -> None:
    assert delay_s(Headers(headers), ["x-reset"]) == expected


@given(st.text(min_size=1, max_size=50))
def test_fill_path_keeps_any_key_in_its_one_segment(key: str) -> None:
    try:
        path = fill_path("/v1/{key}/items", Outgoing("i", key, b""))
    except Unusable:
        assert key in (".", "..")
        return
    url = URL(address("https://a.example/base/", path))
    assert url.raw_path_qs == url.raw_path
    prefix, segment, suffix = url.raw_path.removeprefix("/base").rsplit("/", 2)
    assert (prefix, unquote(segment), suffix) == ("/v1", key, "items")


def test_fill_path_beside_other_text_lets_dots_be() -> None:
    assert fill_path("/o/{key}.json", Outgoing("i", ".", b"")) == "/o/..json"


JSON_OBJECTS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=8) | st.none(), max_size=4)


@given(JSON_OBJECTS, st.sampled_from(["ref", "a", 'q"uote']), st.text("abc", max_size=5), st.booleans())
def test_with_field_sets_the_field_once(record: dict[str, object], name: str, value: str, is_ascii: bool) -> None:
    payload = json.dumps(record, ensure_ascii=is_ascii, indent=1).encode()
    pairs = json.loads(with_field(payload, name, value), object_pairs_hook=list)
    assert dict(pairs) == {**record, name: value}
    assert len(pairs) == len(dict(pairs))


@given(st.integers(0, 4_000_000_000_000_000), st.floats(0, 1e6))
def test_written_as_is_never_after_the_instant(us: int, overlap_s: float) -> None:
    for written in ("iso", "epoch_s", "epoch_ms"):
        text = watermark.written_as(us, overlap_s, written)
        back = watermark.parse(text, written)
        assert back is not None
        assert back <= us


@pytest.mark.parametrize(
    ("value", "written", "us"),
    [
        ("1970-01-01T00:00:01Z", "iso", 1_000_000),
        ("1970-01-01T01:00:01+01:00", "iso", 1_000_000),
        ("1970-01-01T00:00:01.2345678Z", "iso", 1_234_567),
        ("1970-01-01 00:00:01", "iso", 1_000_000),
        ("0001-01-01T00:00:00Z", "iso", None),
        ("soon", "iso", None),
        (5, "iso", None),
        (True, "epoch_s", None),
        (1.5, "epoch_s", 1_500_000),
        ("12", "epoch_ms", 12_000),
        (10**30, "epoch_s", None),
        (None, "epoch_s", None),
    ],
)
def test_parse_reads_instants(value: object, written: watermark.Format, us: int | None) -> None:
    assert watermark.parse(value, written) == us


@given(
    st.builds(
        Place,
        since_us=st.none() | st.integers(0, 10**15),
        next=st.none() | st.integers(0) | st.text(max_size=9).filter(lambda t: t < "\ud800"),
        high_us=st.none() | st.integers(0, 10**15),
        pages=st.integers(0, 9),
    ).filter(lambda place: not isinstance(place.next, int) or place.next < 2**63)
)
def test_a_place_survives_its_text(place: Place) -> None:
    loaded = watermark.load(place.dump())
    assert (loaded.next, loaded.pages) == (place.next, place.pages)
    assert (loaded.since_us or 0, loaded.high_us or 0) == (place.since_us or 0, place.high_us or 0)


@given(st.integers(0, 20), st.integers(1, 20), st.booleans())
def test_any_cycle_of_tokens_or_pages_is_seen(lead: int, length: int, is_token: bool) -> None:
    place, turn = Place(), 0
    while turn < 10 * (lead + length) + 10:
        around = turn if turn < lead else lead + (turn - lead) % length
        token, content = (str(around), "") if is_token else (str(turn), f"p{around}")
        if place.is_seen(token, content):
            return
        place, turn = place.turned(token, content, None), turn + 1
    raise AssertionError("the cycle was not seen")
