"""Twins as a process of their own, until a signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tideover.twins.host import NAMES, TwinHost

DEFAULT_CONTROL_PORT = 7500
DEFAULT_PORTS: dict[str, int] = {name: DEFAULT_CONTROL_PORT + 1 + at for at, name in enumerate(NAMES)}
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def ports_from(base: int) -> dict[str, int]:
    """Fixed ports of the twins above the control server's."""
    return {name: base + number - DEFAULT_CONTROL_PORT for name, number in DEFAULT_PORTS.items()}


def serve(
    folder: Path | str,
    ports: Mapping[str, int] | None = None,
    control_port: int = DEFAULT_CONTROL_PORT,
    *,
    names: Sequence[str] | None = None,
    address: str = "127.0.0.1",
    announce: Callable[[str], None] = lambda line: print(line, flush=True),
) -> None:
    """Run twins until SIGINT or SIGTERM, then stop cleanly. `announce` gets one line per server once all listen.

    Raises `TwinRefused` when a port can't be had. To be called from the main thread.
    """
    wanted = DEFAULT_PORTS if ports is None else ports
    asyncio.run(_serve(TwinHost(folder, names, control_port, wanted, address=address), announce))


async def _serve(host: TwinHost, announce: Callable[[str], None]) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        async with host:
            for name, url in {**host.urls, "control": host.control_url}.items():
                announce(f"{name:<10} {url}")
            await stop.wait()
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
