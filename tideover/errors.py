"""Every error that tideover raises on purpose: whose fault it is, and what to do.

    TideoverError
    ├── ConfigError            the configuration is wrong           -> mend the file; nothing was started
    ├── HubUnavailable         the staging database can't be used   -> retry; nothing was acknowledged
    │   ├── SchemaMismatch     the database has another schema      -> migrate, or upgrade this worker
    │   └── NoDatabase         there is no staging database yet     -> run a route, or mend the place
    ├── AccessError            a credential is missing or unusable  -> mend the block; records are kept
    ├── SourceError            a source can't be read               -> retry; the cursor has not moved
    │   ├── SourceLoop         a source repeats its cursor or pages -> mend the source or its description
    │   ├── SourceContract     a source's answer has another shape  -> mend the description
    │   └── Overtaken          another run of the route read on     -> read again from the new cursor
    ├── CorruptPayload         a stored payload is not what it was  -> the record is parked, others flow
    ├── MappingError           a mapping can't turn a record        -> the record is parked at intake
    └── Refused                an operator's request makes no sense -> the text says why
        └── MissingKey         a stored payload needs another key   -> put the key back; the record waits

What happens to a *delivery* is no exception but an outcome (`tideover.model`). No message carries a payload or
a secret: only names, ids, sizes and codes.
"""

from __future__ import annotations

from dataclasses import dataclass


class TideoverError(Exception):
    """The root. `exit_code` is what the command line ends with."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration file: where, what, and how to mend it.

    `line` and `column` count from 1; 0 means that the place is not known. `key` is the dotted path, such as
    `routes.orders-to-erp.target`.
    """

    file: str
    line: int
    column: int
    key: str
    what: str
    mend: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        mend = f" ({self.mend})" if self.mend else ""
        return f"{place}:{key} {self.what}{mend}"


class ConfigError(TideoverError):
    """The configuration can't be used. `problems` holds every mistake found, in file order."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(p) for p in problems))


class HubUnavailable(TideoverError):
    """The staging database refused, failed or did not answer. Nothing was acknowledged; try again."""

    exit_code = 3


class SchemaMismatch(HubUnavailable):
    """The staging database has a schema that this release can't use."""


class NoDatabase(HubUnavailable):
    """There is no staging database where the configuration says, and who only looks makes none: an empty one that was
    just made would prove that nothing was lost."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"there is no staging database at {place}: nothing has run yet, or the place is wrong; see `staging` in "
            "the hub's file. The first run makes it, and so does `tideover migrate`"
        )


class AccessError(TideoverError):
    """A system's credentials are missing or unusable. Its records are kept."""

    exit_code = 4

    def __init__(self, system: str, what: str) -> None:
        self.system = system
        super().__init__(f"system {system}: {what}")


class SourceError(TideoverError):
    """A source can't be read now. Its cursor has not moved, so nothing is lost; try again.

    `retry_after_s` is what the source asked for, if it did.
    """

    exit_code = 5

    def __init__(self, system: str, stream: str, what: str, *, retry_after_s: float | None = None) -> None:
        self.system, self.stream, self.retry_after_s = system, stream, retry_after_s
        super().__init__(f"{system}/{stream}: {what}")


class SourceLoop(SourceError):
    """A source gives the same page or page token again. Reading stopped; what came before is staged.

    `restart` is the cursor from which the listing begins anew: to go on inside the circle would never end.
    """

    def __init__(self, system: str, stream: str, what: str, *, restart: str) -> None:
        self.restart = restart
        super().__init__(system, stream, what)


class SourceContract(SourceError):
    """A source's answer has another shape than its description says. The cursor has not moved."""


class Overtaken(SourceError):
    """Another run of this route staged meanwhile. What we read may be older than what it read, so nothing of ours was
    staged; read again from the new cursor."""


class MappingError(TideoverError):
    """A mapping can't turn this source record into a target record; the record is parked at intake."""


class CorruptPayload(TideoverError):
    """A stored payload does not fit its record: it was altered or moved. The record is parked."""


class Refused(TideoverError):
    """An operator asked for something that makes no sense now; the text says why and what would."""

    exit_code = 6


class MissingKey(Refused):
    """A stored payload was sealed with a key that is not among the hub's, called `key`; empty where it has none at all.
    Its record waits for the key."""

    def __init__(self, key: str, what: str) -> None:
        self.key = key
        super().__init__(what)
