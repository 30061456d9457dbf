"""An HTTP server in a process of its own that accepts whatever comes, as cheaply as Python can.

`POST /one` takes a record, `POST /bulk` a list of them, `POST /hang` never answers. Where a record holds `at` (the
monotonic clock in ns, which is one for the whole machine), its age at arrival is kept; `GET /ages` gives and forgets
the ages, in ms.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import orjson

_AGES: list[float] = []


def response(body: bytes) -> bytes:
    """A 200 with this JSON."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


ACCEPTED = response(b'{"id":1}')


class Sink(asyncio.Protocol):
    """HTTP/1.1 with a length on every request; one after the other on each connection."""

    def __init__(self) -> None:
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._seen += data
        while (end := self._seen.find(b"\r\n\r\n")) >= 0:
            head = self._seen[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._seen) < end + 4 + length:
                return
            body, self._seen = self._seen[end + 4 : end + 4 + length], self._seen[end + 4 + length :]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path == b"/hang":
            return
        if path == b"/ages":
            answer = orjson.dumps(_AGES)
            _AGES.clear()
        elif path == b"/bulk":
            answer = b"[" + b",".join([b'{"id":1}'] * len(orjson.loads(body))) + b"]"
        else:
            answer = b'{"id":1}'
            if b'"at":' in body:
                _AGES.append((asyncio.get_running_loop().time() * 1e9 - orjson.loads(body)["at"]) / 1e6)
        self._write(answer)

    def _write(self, answer: bytes) -> None:
        self._transport.write(response(answer))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_sink() -> Iterator[str]:
    """The address of a sink that runs while the block lasts."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.sink", str(port)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate()


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
