"""An MQTT 3.1.1 client that writes bytes by hand, shares no code with us, and is cheap enough for fifty at once."""

from __future__ import annotations

import asyncio
import ssl
import struct
from contextlib import suppress
from pathlib import Path

CONNACK, PUBLISH, PUBACK, SUBACK = 2, 3, 4, 9


def text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">H", len(encoded)) + encoded


def packet(first: int, body: bytes) -> bytes:
    """A packet with its remaining length."""
    length, size = bytearray(), len(body)
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes((first,)) + bytes(length) + body


def connect(client_id: str, user_name: str, password: str | None, *, clean: bool = False) -> bytes:
    flags = (0x80 if password is None else 0xC0) | (0x02 if clean else 0)
    body = text("MQTT") + bytes((4, flags)) + struct.pack(">H", 60) + text(client_id) + text(user_name)
    return packet(0x10, body + (b"" if password is None else text(password)))


def publish(topic: str, payload: bytes, packet_id: int | None = None, *, dup: bool = False) -> bytes:
    """Quality 1 with a packet identifier, 0 without."""
    if packet_id is None:
        return packet(0x30, text(topic) + payload)
    return packet(0x3A if dup else 0x32, text(topic) + struct.pack(">H", packet_id) + payload)


def subscribe(topic: str, qos: int = 1) -> bytes:
    return packet(0x82, struct.pack(">H", 1) + text(topic) + bytes((qos,)))


def puback(packet_id: int) -> bytes:
    return packet(0x40, struct.pack(">H", packet_id))


class Raw:
    """One connection. Made by `Raw.connect`, which raises ConnectionError when it is not accepted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(
        cls, port: int, root: Path, who: str, password: str, *, host: str = "localhost", clean: bool = False
    ) -> Raw:
        context = ssl.create_default_context(cafile=str(root))
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        raw = cls(reader, writer)
        writer.write(connect(who, f"{host}/{who}/?api-version=2021-04-12", password, clean=clean))
        kind, body = await raw.read()
        if kind != CONNACK or body[1] != 0:
            raw.abort()
            raise ConnectionError(f"not accepted: {kind} {body!r}")
        return raw

    async def read(self) -> tuple[int, bytes]:
        """The next packet: its type and what follows its length."""
        try:
            first = (await self.reader.readexactly(1))[0]
            size = shift = 0
            while True:
                digit = (await self.reader.readexactly(1))[0]
                size |= (digit & 0x7F) << shift
                shift += 7
                if not digit & 0x80:
                    return first >> 4, await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ssl.SSLError) as problem:
            raise ConnectionError("the connection is gone") from problem

    def abort(self) -> None:
        """End TCP without a word."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """DISCONNECT, then the end."""
        with suppress(ConnectionError, ssl.SSLError):
            self.writer.write(packet(0xE0, b""))
            await self.writer.drain()
            self.writer.close()
            await self.writer.wait_closed()
