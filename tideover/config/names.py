"""Names as people write them in `hub.yaml`: of systems and routes, of blocks, functions, variables and files."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
NAME_SCHEMA = {"type": "string", "pattern": "^[a-z][a-z0-9]*(-[a-z0-9]+)*$", "maxLength": 60}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_name(text: str) -> bool:
    """Whether this can be the name of a system, group, route or preset."""
    return len(text) <= 60 and _NAME.fullmatch(text) is not None


def check_name(value: str) -> str:
    """The name itself. Raises `ValueError`, as `what; how to mend it`."""
    if not is_name(value):
        raise ValueError("is no name; use up to 60 lower-case letters, digits and single hyphens, as in orders-to-erp")
    return value


def check_block(value: str) -> str:
    """The block's type and name. Raises `ValueError`, as `what; how to mend it`."""
    slug, _, name = value.partition("/")
    if not (_NAME.fullmatch(slug) and _NAME.fullmatch(name)):
        raise ValueError("is no block; write its type and its name, as in tideover-bearer/crm")
    return value


def check_dotted(value: str) -> str:
    """The function's dotted path. Raises `ValueError`, as `what; how to mend it`."""
    module, _, function = value.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise ValueError("is no function; write module and function, as in mappings.orders:to_invoice")
    return value


def check_variable(value: str) -> str:
    """The environment variable's name. Raises `ValueError`, as `what; how to mend it`."""
    if not _VARIABLE.fullmatch(value):
        raise ValueError("is no name of an environment variable; the URL goes into the variable, never into this file")
    return value


def check_file(value: str) -> str:
    """The file's path. Raises `ValueError`, as `what; how to mend it`."""
    if not value or "://" in value or value.startswith(":") or "\x00" in value:
        raise ValueError("is no file; write its path, as in tideover.db; another database is named by `env` or `block`")
    return value


Name = Annotated[str, AfterValidator(check_name)]
BlockName = Annotated[str, AfterValidator(check_block)]
DottedFunction = Annotated[str, AfterValidator(check_dotted)]
VariableName = Annotated[str, AfterValidator(check_variable)]
FilePath = Annotated[str, AfterValidator(check_file)]
