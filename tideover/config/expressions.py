"""JMESPath expressions in the configuration: checked as far as they can be without a record."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any

import jmespath
from jmespath import exceptions
from jmespath.functions import Functions
from pydantic import AfterValidator, Field

MAX_LENGTH = 2000

_FUNCTIONS: dict[str, dict[str, Any]] = Functions.FUNCTION_TABLE  # JMESPath's own registry is untyped


def check_expression(value: str) -> str:
    """The expression itself. Raises `ValueError`, as `what; how to mend it`, if it can't be evaluated.

    Checked are its syntax, the names of its functions and how many arguments they get.
    """
    if "{{" in value or "{%" in value or "${" in value:
        raise ValueError("is a template; there is no template engine: write a JMESPath expression, as in billing.email")
    if len(value) > MAX_LENGTH:
        raise ValueError(f"is longer than {MAX_LENGTH} characters; a mapping this large is better a Python function")
    try:
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always")
            tree: Any = jmespath.compile(value).parsed
        for name, arguments in _calls(tree):
            _check_call(name, arguments)
    except RecursionError:
        raise ValueError("is nested too deeply; a mapping this deep is better a Python function") from None
    except exceptions.JMESPathError as error:
        raise ValueError(_explain(error, value)) from None
    if doubts:  # the only thing that JMESPath warns of
        raise ValueError("has a text between backticks; put text in single quotes: backticks are for JSON, as in `5`")
    return value


def check_priority(value: object) -> object:
    """The priority itself: 1 to 5, or an expression. Raises `ValueError`, as `what; how to mend it`."""
    if isinstance(value, str) and not value.strip().lstrip("-").isdigit():
        return check_expression(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 5:
        return value
    unquoted = ", without quotes" if isinstance(value, str) else ""
    raise ValueError(f"is no priority; write 1 (first) to 5 (last){unquoted}, or a JMESPath expression that gives one")


def check_key(value: str) -> str:
    """The expression of a business key itself. Raises `ValueError` for one that never gives text or a whole number."""
    tree: Any = jmespath.compile(value).parsed
    if (kind := _never_a_key(tree)) is not None:
        raise ValueError(
            f"always gives {kind}, and a key is text or a whole number; "
            "name one field, or join several as in `join('/', [region, number])`"
        )
    return value


def _never_a_key(node: dict[str, Any]) -> str | None:
    """What an expression gives whatever the record, where that is no key; None for others."""
    while node["type"] in ("subexpression", "pipe", "index_expression"):
        node = node["children"][-1]
    if node["type"] == "function_expression":
        return "a list" if node["value"] in _LISTING else None
    return _NO_KEY.get(node["type"])


_LISTING = {"keys", "values", "map", "sort", "sort_by", "to_array"}
_NO_KEY = {
    "multi_select_list": "a list",
    "projection": "a list",
    "filter_projection": "a list",
    "value_projection": "a list",
    "flatten": "a list",
    "multi_select_dict": "a mapping",
    "comparator": "`true` or `false`",
    "not_expression": "`true` or `false`",
}


def _calls(node: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Each function called in a syntax tree, and with how many arguments."""
    if node["type"] == "function_expression":
        yield node["value"], len(node["children"])
    for child in node["children"]:
        if isinstance(child, dict):
            yield from _calls(child)


def _check_call(name: str, arguments: int) -> None:
    if name not in _FUNCTIONS:
        near = get_close_matches(name, _FUNCTIONS, 1)
        mend = f"did you mean `{near[0]}`?" if near else f"the functions are {', '.join(_FUNCTIONS)}"
        raise ValueError(f"calls `{name}`, which is no JMESPath function; {mend}")
    signature = _FUNCTIONS[name]["signature"]
    is_variadic = bool(signature and signature[-1].get("variadic"))
    if arguments < len(signature) or (arguments > len(signature) and not is_variadic):
        least = "at least " if is_variadic else ""
        raise ValueError(f"calls `{name}` with {arguments} argument(s); it takes {least}{len(signature)}")


def _explain(error: exceptions.JMESPathError, value: str) -> str:
    if not value.strip():
        return "is an empty expression; name a field, as in order.number"
    if isinstance(error, exceptions.ParseError) and not isinstance(error, exceptions.IncompleteExpressionError):
        at, token = error.lex_position, error.token_value
        if isinstance(error, exceptions.LexerError) and str(error.message).startswith("Unclosed"):
            return f"is no JMESPath expression: the quote at character {at + 1} is never closed; close it"
        if token == "-":  # noqa: S105 - a token of the grammar
            return 'is no JMESPath expression: it has no minus; quote a field with a hyphen, as in "order-id"'
        if token == "=":  # noqa: S105
            return "is no JMESPath expression: it has no single `=`; compare with `==`"
        if token not in (None, "") and at < len(value):
            what = f"`{token}` at character {at + 1} makes no sense there"
            return f"is no JMESPath expression: {what}; field names with other characters need double quotes"
    return "is no JMESPath expression: it ends too early; is a bracket, quote or name missing at its end?"


Expression = Annotated[str, AfterValidator(check_expression), Field(min_length=1)]
Key = Annotated[Expression, AfterValidator(check_key)]
