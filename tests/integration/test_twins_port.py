"""The port itself: what a caller's kernel sees."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from tideover.twins.answer import json_answer
from tideover.twins.port import Port


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    port = Port(json_answer(200, {}), "127.0.0.1", 0)
    yield port
    await port.close()


async def get(port: Port) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
    writer.write(b"GET / HTTP/1.1\r\nhost: twin\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_port_before_it_is_opened_refuses(port: Port) -> None:
    assert not port.is_open
    with pytest.raises(ConnectionRefusedError):
        await get(port)


async def test_port_opened_twice_and_shut_twice_is_open_and_shut(port: Port) -> None:
    await port.open()
    await port.open()
    assert (await get(port)).startswith(b"HTTP/1.1 200")
    await port.shut()
    await port.shut()
    with pytest.raises(ConnectionRefusedError):
        await get(port)


async def test_port_sends_small_pieces_at_once(port: Port) -> None:
    await port.open()
    _, writer = await asyncio.open_connection("127.0.0.1", port.number)
    async with asyncio.timeout(90):
        while not port.connections:
            await asyncio.sleep(0)
    (connection,) = port.connections
    sock = connection.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    writer.close()
    await writer.wait_closed()


async def test_port_when_shut_resets_an_open_connection(port: Port) -> None:
    await port.open()
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
    writer.write(b"GET / HTTP/1.1\r\nhost: twin\r\n")  # a request that is not complete
    async with asyncio.timeout(90):
        while not port.connections:
            await asyncio.sleep(0)
    await port.shut()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
