"""The network in memory behaves as TCP does, and badly on request."""

from __future__ import annotations

import asyncio

from edgetrust.errors import Error
from edgetrust.transport.memory import MemoryTransport, memory_pair
from edgetrust.transport.tls.engine import TlsEngine
from edgetrust.transport.tls.transport import LoopShare, TlsTransport
from support.wire import Ears, Echo, client_context, server_slot


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_bytes_arrive_later_and_in_pieces() -> None:
    left, right = Ears(), Echo()
    near, far = memory_pair(left, right, piece_bytes=3)
    near.write(b"hello")
    assert right.chunks == []
    assert near.get_write_buffer_size() == 5
    await turns()
    assert right.chunks == [b"hel", b"lo"]
    assert b"".join(left.chunks) == b"HELLO"
    assert near.get_extra_info("peername") == ("192.0.2.2", 8883)
    assert far.get_extra_info("peername") == ("192.0.2.1", 50_000)
    assert near.get_protocol() is left


async def test_closing_delivers_what_was_written_and_ends_both() -> None:
    left, right = Ears(), Echo()
    near, far = memory_pair(left, right)
    near.write(b"last")
    near.close()
    near.close()
    near.write(b"nowhere")
    await turns()
    assert right.chunks == [b"last"]
    assert right.events == ["made", "eof"]
    assert left.lost.result() is None
    assert right.lost.result() is None
    assert far.is_closing()


async def test_aborting_delivers_nothing() -> None:
    left, right = Ears(), Echo()
    near, _far = memory_pair(left, right)
    near.write(b"lost")
    near.abort()
    await turns()
    assert left.lost.result() is None
    assert isinstance(right.lost.result(), ConnectionResetError)


async def test_a_stream_can_be_cut_after_some_bytes() -> None:
    left, right = Ears(), Echo()
    near, _far = memory_pair(left, right, piece_bytes=2)
    near.cut_after = 5
    near.write(b"123456789")
    await turns()
    assert right.chunks == [b"12", b"34"]
    assert isinstance(right.lost.result(), ConnectionResetError)


async def test_a_reader_that_pauses_makes_its_writer_pause() -> None:
    left, right = Ears(), Echo()
    near, far = memory_pair(left, right, piece_bytes=10)
    near.set_write_buffer_limits(high=20)
    assert near.get_write_buffer_limits() == (5, 20)
    far.pause_reading()
    assert not far.is_reading()
    near.write(b"x" * 30)
    await turns()
    assert left.events == ["made", "pause"]
    assert right.chunks == []
    far.resume_reading()
    await turns()
    assert left.events == ["made", "pause", "resume"]
    assert b"".join(right.chunks) == b"x" * 30


class Owner:
    """Of one end of TLS."""

    def __init__(self, engine: TlsEngine) -> None:
        self.engine = engine
        self.protocol = Ears()
        self.told: list[str] = []

    def admit(self, transport: TlsTransport) -> TlsEngine | None:
        return self.engine

    def shaken(self, transport: TlsTransport) -> asyncio.Protocol:
        self.told.append("shaken")
        return self.protocol

    def failed(self, transport: TlsTransport, error: Error) -> None:
        self.told.append(error.reason)

    def gone(self, transport: TlsTransport) -> None:
        self.told.append("gone")


def tls_pair(piece_bytes: int) -> tuple[Owner, Owner, MemoryTransport, MemoryTransport]:
    client, server = Owner(client_context().engine("localhost")), Owner(server_slot().current.engine())
    share = LoopShare.of(asyncio.get_running_loop())
    near, far = memory_pair(TlsTransport(client, share), TlsTransport(server, share), piece_bytes=piece_bytes)
    return client, server, near, far


async def test_tls_runs_over_it_even_byte_by_byte() -> None:
    for piece_bytes in (1, 7, 65_536):
        client, server, _near, _far = tls_pair(piece_bytes)
        while not server.told:
            await asyncio.sleep(0)
        client.protocol.transport.write(b"telemetry")
        client.protocol.transport.close()
        while "gone" not in server.told:
            await asyncio.sleep(0)
        assert server.protocol.chunks == [b"telemetry"]
        assert server.protocol.lost.result() is None
        assert client.told == server.told == ["shaken", "gone"]


async def test_tls_that_is_cut_anywhere_ends_in_an_error_and_not_in_data() -> None:
    for cut_after in (1, 5, 100, 300, 450, 520, 600):
        client, server, near, _far = tls_pair(50)
        near.cut_after = cut_after
        async with asyncio.timeout(60):
            while "gone" not in server.told:
                if client.told == ["shaken"] and not client.protocol.transport.is_closing():
                    client.protocol.transport.write(b"x" * 200)
                await asyncio.sleep(0)
        assert server.told[0] in {"tls-cut", "shaken"}
        if server.told[0] == "shaken":
            assert server.protocol.lost.result() is not None
        assert server.protocol.chunks in ([], [b"x" * 200])
