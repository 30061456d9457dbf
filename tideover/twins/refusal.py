"""What the twins' host says to a request that makes no sense."""

from __future__ import annotations

from collections.abc import Iterable

from tideover.errors import Refused


class TwinRefused(Refused):
    """The host of the twins can't do what was asked. `status` is its HTTP status; `valid` lists what it could do."""

    def __init__(self, status: int, what: str, valid: Iterable[str] = ()) -> None:
        self.status, self.what, self.valid = status, what, sorted(valid)
        choices = f"; valid: {', '.join(self.valid)}" if self.valid else ""
        super().__init__(f"{what}{choices}")
