"""Cron expressions and time zones, checked without a scheduler.

Five fields, as crontab(5) has them, and what Prefect's scheduler adds of Quartz: `l` for the last day of the month.
What is stranger than that is refused here: an expression that few can read is a bad place for a surprise.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

from tideover.config.messages import named

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

# name, lowest, highest, words and the number of the first word
_Field = tuple[str, int, int, tuple[str, ...], int]
_FIELDS: tuple[_Field, ...] = (
    ("minute", 0, 59, (), 0),
    ("hour", 0, 23, (), 0),
    ("day of the month", 1, 31, (), 0),
    ("month", 1, 12, _MONTHS, 1),
    ("day of the week", 0, 7, _DAYS, 0),
)
_PART = re.compile(
    r"(?:\*|(?P<first>[0-9]{1,2}|[a-z]{3})(?:-(?P<last>[0-9]{1,2}|[a-z]{3}))?)(?:/(?P<step>[0-9]{1,2}))?"
)
_LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def check_cron(expression: str) -> tuple[str, str] | None:
    """What is wrong with a cron expression and how to mend it, or None."""
    fields = expression.lower().split()
    if expression.startswith("@"):
        return "is a nickname", "write five fields: `@daily` is `0 0 * * *`"
    if len(fields) != len(_FIELDS):
        mend = "write five: minute, hour, day of the month, month, day of the week"
        return f"has {len(fields)} field{'s' if len(fields) != 1 else ''}", mend
    for field, (name, lowest, highest, words, first_word) in zip(fields, _FIELDS, strict=True):
        numbers = {word: n for n, word in enumerate(words, first_word)}
        for part in field.split(","):
            if part == "l" and name == "day of the month":
                continue
            if not _is_part(part, lowest, highest, numbers):
                allowed = f"{lowest} to {highest}" + (f" or {words[0]} to {words[-1]}" if words else "")
                return (
                    f"has no {named(name, part)}",
                    f"allowed are {allowed}, `*`, ranges, lists and steps as in `*/5`",
                )
            if lone := _lone(part, numbers):
                return f"has a range of one {name}, which Prefect takes for every one", f"write `{lone}`"
    if _never_comes(fields[2], fields[3]):
        return f"never comes: there is no day {fields[2]} in month {fields[3]}", _mend_of_day(fields[4])
    return None


def _mend_of_day(weekday: str) -> str:
    if weekday == "*":
        return "correct the day or the month"
    # crontab(5) would take the weekday then; Prefect's scheduler fails on such a day, whatever else is asked for.
    return "correct the day or the month; for the weekdays alone, write `*` for the day of the month"


def _is_part(part: str, lowest: int, highest: int, words: dict[str, int]) -> bool:
    match = _PART.fullmatch(part)
    if not match:
        return False
    first, last = _first(match, words), _last(match, words)
    if match["first"] is None:
        is_range = True
    elif match["last"] is None:
        is_range = first is not None and lowest <= first <= highest and match["step"] is None
    else:
        is_range = first is not None and last is not None and lowest <= first <= last <= highest
    return is_range and (match["step"] is None or 1 <= int(match["step"]) <= highest)


def _lone(part: str, words: dict[str, int]) -> str:
    """The value of a range that has one only: Prefect's scheduler takes `5-5` for all values. Empty for others."""
    match = _PART.fullmatch(part)
    if match is None or match["last"] is None or _first(match, words) != _number(match["last"], words):
        return ""
    return match["first"]


def _first(match: re.Match[str], words: dict[str, int]) -> int | None:
    return _number(match["first"], words)


def _last(match: re.Match[str], words: dict[str, int]) -> int | None:
    return 7 if match["last"] == "sun" else _number(match["last"], words)  # as in `fri-sun`


def _number(text: str | None, words: dict[str, int]) -> int | None:
    if text is None:
        return None
    return int(text) if text.isdigit() else words.get(text)


def _never_comes(day: str, month: str) -> bool:
    """Whether no month that is asked for has one of the days, of those asked for by number: by the last of a month
    alone, one comes always. Sound fields only."""
    days, months = _values(day, _FIELDS[2]), _values(month, _FIELDS[3])
    return bool(days) and min(days) > max(_LONGEST_MONTH[each - 1] for each in months)


def _values(field: str, of: _Field) -> set[int]:
    """The numbers that a sound field stands for, without `l`."""
    _, lowest, highest, words, first_word = of
    numbers = {word: n for n, word in enumerate(words, first_word)}
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:  # `l`
            continue
        first, last = _first(match, numbers), _last(match, numbers)
        start = lowest if first is None else first
        end = last if last is not None else highest if first is None else start
        found.update(range(start, end + 1, int(match["step"] or 1)))
    return found


def check_timezone(name: str) -> tuple[str, str] | None:
    """What is wrong with a time zone's name and how to mend it, or None."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # no such name; one that is a path; a folder of zones
        near = get_close_matches(name, available_timezones(), 1, 0.6)
        mend = f"did you mean `{near[0]}`?" if near else "write one as in `Europe/Amsterdam`, or UTC"
        return "is no time zone", mend
    return None
