"""Rows of free ports for servers that must come back where they were."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

_FIRST, _MANY = 20_000, 12_000  # below what kernels give to outgoing connections
_SLICES = 4  # processes that run tests side by side would else find the same ports free


def _walk(step: int) -> Iterator[int]:
    """This process's own ports, again and again, a row's length apart."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SLICES
    size = _MANY // _SLICES
    at = os.getpid() * step % size  # another run may go on beside this one
    while True:
        yield _FIRST + worker * size + at
        at = (at + step) % (size - step)


_LONGEST = 10
_bases = _walk(_LONGEST)


def free_row(count: int) -> int:
    """The first of so many consecutive ports that nobody listens on now, and that nobody else here is given soon."""
    assert count <= _LONGEST
    for _ in range(_MANY // _LONGEST):
        base = next(_bases)
        with suppress(OSError):
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return base
    raise AssertionError("no free ports")
