"""No value of a record and no secret is left in a text, however long the text, the value or the batch."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tideover.connectors.http.scrub import MAX_DETAIL, Hidden, tidy

LONG = "".join(f"canary{n:04}-" for n in range(300))  # 3,300 characters, no two pieces alike
TOKEN = "".join(f"{n:05x}" for n in range(7, 90_000, 311))


def pieces(value: str, size: int = 31) -> set[str]:
    return {value[at : at + size] for at in range(len(value) - size + 1)}


@pytest.mark.parametrize("secret", [LONG, TOKEN, TOKEN[:250], TOKEN[:201], "a-short-secret"])
@pytest.mark.parametrize("before", [0, 1, 150, 195, 199, 3980, 3996, 7990])
@pytest.mark.parametrize("times", [1, 2, 60])
def test_tidy_leaves_no_piece_of_a_secret_wherever_it_stands(secret: str, before: int, times: int) -> None:
    line = tidy("~" * before + " ".join([secret] * times) + " is not valid", Hidden(lambda: [secret]))
    assert len(line) <= MAX_DETAIL
    assert not any(secret[at : at + 8] in line for at in range(len(secret) - 7))


@given(st.data())
def test_tidy_leaves_no_piece_of_a_long_value_that_a_provider_repeats_in_parts(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(LONG) - 31))
    part = LONG[start : start + data.draw(st.integers(31, 200))]
    line = tidy(f"the value '{part}...' is wrong", Hidden(lambda: [LONG]))
    assert line == "the value '***...' is wrong"


def test_tidy_blanks_the_beginning_and_the_end_of_a_long_value() -> None:
    hidden = Hidden(lambda: [LONG])
    assert tidy(f"{LONG[:16]}... is too long", hidden) == "***... is too long"
    assert tidy(f"ends with {LONG[-16:]}", hidden) == "ends with ***"


def test_tidy_finds_the_last_value_of_a_large_batch_and_reads_the_batch_once() -> None:
    asked = []

    def find() -> list[str]:
        asked.append(1)
        return [f"value-{n:06}" for n in range(100_000)]

    hidden = Hidden(find)
    began = time.process_time()
    for n in range(0, 100_000, 97):
        assert tidy(f"no value-{n:06} here", hidden) == "no *** here"
    assert asked == [1]
    assert time.process_time() - began < 3, "each text would have to be compared with each value"


@pytest.mark.parametrize("value", ['Ada "the first" Lovelace', "C:\\orders\\Ada", "Zoë Müller", "İpek ΟΔΟΣ"])
def test_tidy_finds_a_value_as_it_stands_in_json_and_in_any_case(value: str) -> None:
    hidden = Hidden(lambda: [value])
    for said in (value, value.upper() if len(value.upper()) == len(value) else value, json.dumps(value)[1:-1]):
        assert tidy(f"got {said}!", hidden) == "got ***!"
    assert tidy(json.dumps({"got": value}, ensure_ascii=False), hidden) == '{"got": "***"}'


@pytest.mark.parametrize("text", ["a" * 4000, "ab" * 2000, LONG[:3000]])
def test_tidy_of_a_text_made_to_be_compared_for_long_ends_soon(text: str) -> None:
    many = [text[n:] + f"-{n}" for n in range(300)]
    began = time.process_time()
    assert tidy(text, Hidden(lambda: many)) == "***…" or len(tidy(text, Hidden(lambda: many))) <= MAX_DETAIL
    assert time.process_time() - began < 2


def test_tidy_keeps_what_is_nobodys() -> None:
    hidden = Hidden(lambda: ["Ada Lovelace", LONG, "7", "abc"])
    assert tidy("field 7 of abc is  missing", hidden) == "field 7 of abc is missing"
    assert tidy("", hidden) == ""
