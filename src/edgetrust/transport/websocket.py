"""MQTT in WebSocket frames: the same protocol as over TLS, for clients that may only use the HTTPS port.

Rules (hub specification 3.14): the subprotocol is `mqtt`; packets travel in binary frames, and the frames' borders
mean nothing; compression is not offered; the peer's chain is that of the TLS connection. A text frame ends the
connection.

It must not know paths or credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import WSMsgType, web

from edgetrust import limits
from edgetrust.transport.http import peer_chain
from edgetrust.transport.tls.engine import Buffer

SUBPROTOCOL: Final = "mqtt"


class WebSocketTransport(asyncio.Transport):
    """An asyncio transport whose writes are binary frames, one per turn of the loop."""

    __slots__ = ("_closing", "_extra_info", "_out", "_out_bytes", "_protocol", "_reading", "_sender", "_socket")

    def __init__(self, socket: web.WebSocketResponse, protocol: asyncio.Protocol, extra_info: dict[str, Any]) -> None:
        self._socket = socket
        self._protocol = protocol
        self._extra_info = extra_info
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._sender: asyncio.Task[None] | None = None
        self._closing = False
        self._reading = asyncio.Event()
        self._reading.set()

    async def run(self) -> None:
        """Hand frames to the protocol until either side has closed."""
        self._protocol.connection_made(self)
        error: Exception | None = None
        try:
            async for message in self._socket:
                if message.type is not WSMsgType.BINARY:
                    error = ConnectionError(f"a WebSocket frame of kind {message.type.name.lower()}, not binary")
                    break
                self._protocol.data_received(message.data)
                await self._reading.wait()
            error = error or self._socket.exception()  # type: ignore[assignment]  # no exit exceptions come from frames
        finally:
            self._closing = True
            if self._sender is not None:
                await asyncio.wait([self._sender], timeout=limits.CLOSE_SECONDS)
            self._protocol.connection_lost(error)

    def write(self, data: Buffer) -> None:
        """Take in bytes to send. After `close` they go nowhere."""
        if self._closing or not data:
            return
        self._out.append(bytes(data))
        self._out_bytes += len(data)
        self._start_sending()
        if self._out_bytes > limits.WRITE_HIGH_WATER_BYTES:
            self._protocol.pause_writing()

    def close(self) -> None:
        """Send what was written, then close in order."""
        if not self._closing:
            self._closing = True
            self._reading.set()
            self._start_sending()

    def abort(self) -> None:
        """Close without sending what was written."""
        self._out.clear()
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    def get_write_buffer_size(self) -> int:
        return self._out_bytes

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`peer_chain` and `peername` of the TLS connection below."""
        return self._extra_info.get(name, default)

    def _start_sending(self) -> None:
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._out:
                out, self._out = self._out, []
                await self._socket.send_bytes(b"".join(out))
                paused = self._out_bytes > limits.WRITE_HIGH_WATER_BYTES
                self._out_bytes = sum(map(len, self._out))
                if paused:
                    self._protocol.resume_writing()
            if self._closing:
                await self._socket.close()
        except ConnectionError:
            self._closing = True
        finally:
            self._sender = None


class WebSockets:
    """The connections of one application that came as WebSockets. `accept` makes each one's protocol."""

    def __init__(self, accept: Callable[[], asyncio.Protocol]) -> None:
        self._accept = accept
        self._open: set[WebSocketTransport] = set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for a WebSocket with MQTT in it: 101, or 400 when the client offers another subprotocol.

        Returns when the connection has ended.
        """
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        if SUBPROTOCOL not in (each.strip() for each in offered.split(",")):
            return web.Response(status=400, text=f"the subprotocol is {SUBPROTOCOL!r}")
        socket = web.WebSocketResponse(protocols=(SUBPROTOCOL,), compress=False, max_msg_size=limits.PACKET_BYTES)
        extra_info = {"peer_chain": peer_chain(request), "peername": request.get_extra_info("peername")}
        await socket.prepare(request)
        transport = WebSocketTransport(socket, self._accept(), extra_info)
        self._open.add(transport)
        try:
            await transport.run()
        finally:
            self._open.discard(transport)
        return socket

    async def close(self, app: web.Application) -> None:
        """Begin to close what is open; an application does this before it waits for its requests."""
        for transport in self._open:
            transport.close()
