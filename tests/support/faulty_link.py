"""A link between a gateway and its hub that fails in a way of its own.

through       carries everything
forget        takes connections and bytes, and does nothing with them
slow          carries what the hub says a moment later
half-close    ends the hub's side of each connection, and still listens
reset         ends connections with a reset: open ones now, new ones in the middle of their TLS handshake
garble        changes a byte in each block that the hub says
other         leads to another server
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass

MODES = ("through", "forget", "slow", "half-close", "reset", "garble", "other")
SLOW_SECONDS = 0.2
_BLOCK = 65536


@dataclass(eq=False)
class _Pair:
    near: asyncio.StreamWriter  # towards the gateway
    far: asyncio.StreamWriter

    def reset(self) -> None:
        raw = self.near.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.near.transport.abort()
        self.far.transport.abort()


class FaultyLink:
    """Make it with `await FaultyLink.start(port of the hub)`."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.other = 0  # where `other` leads
        self.mode = "through"
        self._pairs: set[_Pair] = set()

    @classmethod
    async def start(cls, target: int) -> FaultyLink:
        link = cls(target)
        link._server = await asyncio.start_server(link._serve, "127.0.0.1", 0)
        link.port = int(link._server.sockets[0].getsockname()[1])
        return link

    async def close(self) -> None:
        self._server.close()
        self._end_all()
        await asyncio.sleep(0)

    def fail(self, mode: str) -> None:
        """From now on, also for what is open."""
        assert mode in MODES
        was, self.mode = self.mode, mode
        if mode in ("reset", "other") or was == "forget":
            self._end_all()
        if mode == "half-close":
            for pair in self._pairs:
                pair.near.write_eof()

    def _end_all(self) -> None:
        for pair in list(self._pairs):
            pair.reset()

    async def _serve(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        target = self.other if self.mode == "other" else self.target
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            near.transport.abort()
            return
        pair = _Pair(near, far)
        self._pairs.add(pair)
        try:
            if self.mode == "half-close":
                near.write_eof()
            with contextlib.suppress(OSError, RuntimeError):
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._up(reader, pair))
                    both.create_task(self._down(far_reader, pair))
        except* (OSError, RuntimeError):  # one side is gone, or its end was said already
            pass
        finally:
            self._pairs.discard(pair)
            near.transport.abort()
            far.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, pair: _Pair) -> None:
        while block := await reader.read(_BLOCK):
            if self.mode != "forget":
                pair.far.write(block)
        if self.mode != "half-close":
            pair.far.write_eof()

    async def _down(self, reader: asyncio.StreamReader, pair: _Pair) -> None:
        while block := await reader.read(_BLOCK):
            match self.mode:
                case "reset":
                    pair.reset()
                    return
                case "forget" | "half-close":
                    continue
                case "slow":
                    await asyncio.sleep(SLOW_SECONDS)
                case "garble":
                    middle = len(block) // 2
                    block = block[:middle] + bytes((block[middle] ^ 0xFF,)) + block[middle + 1 :]
                case _:
                    pass
            pair.near.write(block)
        pair.near.write_eof()
