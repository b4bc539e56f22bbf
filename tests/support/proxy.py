"""A proxy on loopback that takes any host name and port to a port of this machine.

The unmodified Python device SDK dials ports 8883 and 443 only; its `proxy_options` are the documented way past that. It
speaks SOCKS5 and HTTP CONNECT, counts who went where, and can cut what it carries. For clients that know no proxy it
serves sockets, made in a network of their own, that stand for one address each.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

Address = tuple[str, int]
_BLOCK = 65536
_SOCKS5, _CONNECT, _DOMAIN_NAME = 5, 1, 3
_SOCKS5_DONE = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"


class Proxy:
    """Serves in a thread of its own. `routes`: what clients ask for, and the local port it means."""

    def __init__(self, routes: Mapping[Address, int]) -> None:
        self.routes = dict(routes)
        self.asked: list[Address] = []
        self.port = 0
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        self._servers = [self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))]
        self.port = self._servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for server in self._servers:
            server.close()
        self.cut()
        self._do(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stand_for(self, address: Address, listening: socket.socket) -> None:
        """Take whoever comes to a listening socket to what this address means."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(reader, writer, address)

        self._servers.append(self._do(asyncio.start_server(serve, sock=listening)))

    def cut(self) -> int:
        """Cut every connection, as a network that fails does; how many there were."""
        return self._do(self._cut())

    def asked_for(self, address: Address) -> int:
        """How often clients dialled this address."""
        return self.asked.count(address)

    def _do(self, coroutine):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _cut(self) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            for writer in pair:
                writer.transport.abort()
        return len(pairs)

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Address | None = None
    ) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                address = address or await _asked(reader, writer)
                self.asked.append(address)
                await self._carry(address, reader, writer)
        finally:
            writer.transport.abort()

    async def _carry(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Where nothing listens the client has been told "connected" and is cut off now: it takes a proxy's refusal for
        # a mistake in its configuration and would not try again.
        if address not in self.routes:
            return
        there_reader, there = await asyncio.open_connection("127.0.0.1", self.routes[address])
        pair = writer, there
        self._pairs.add(pair)
        try:
            await asyncio.gather(_pump(reader, there), _pump(there_reader, writer))
        finally:
            self._pairs.discard(pair)
            there.transport.abort()


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Address:
    """Where the client wants to go. It is told that it is there."""
    first = await reader.readexactly(1)
    if first[0] != _SOCKS5:
        line = (first + await reader.readuntil(b"\r\n\r\n")).split(b" ")
        assert line[0] == b"CONNECT", line
        host, _, port = line[1].decode().rpartition(":")
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return host, int(port)
    await reader.readexactly((await reader.readexactly(1))[0])
    writer.write(b"\x05\x00")
    command = await reader.readexactly(4)
    assert command[1] == _CONNECT, command
    assert command[3] == _DOMAIN_NAME, "the SDK leaves names to its proxy"
    name = await reader.readexactly((await reader.readexactly(1))[0])
    port_bytes = await reader.readexactly(2)
    writer.write(_SOCKS5_DONE)
    return name.decode(), int.from_bytes(port_bytes, "big")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(_BLOCK):
        writer.write(block)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
