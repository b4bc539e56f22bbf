"""The listener and TLS on real sockets, with openssl, the standard library and our own client as peers."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust import limits
from edgetrust.errors import ConfigError, UnavailableError
from edgetrust.pki.chain import TrustBundle
from edgetrust.telemetry import CONNECTIONS, HANDSHAKES_FAILED
from edgetrust.transport.dial import dial
from edgetrust.transport.listener import ListenerClosedError, serve
from edgetrust.transport.tls.contexts import ClientContext, ContextSlot, ServerContext
from edgetrust.transport.tls.engine import ServerRefusedError, TlsError
from edgetrust.transport.tls.transport import ConnectionCutError
from support.pki import Pki, self_signed
from support.wire import (
    DEVICE,
    PKI,
    SERVER,
    Ears,
    Echo,
    client_context,
    identity_file,
    listening,
    openssl_client,
    remembering,
    server_slot,
    stdlib_context,
    trust_file,
)


@pytest.fixture
def failures() -> Iterator[dict[str, float]]:
    """Handshakes that failed in this test, by cause."""

    def counted() -> dict[str, float]:
        found = HANDSHAKES_FAILED.collect()
        return {
            sample.labels["cause"]: sample.value
            for metric in found
            for sample in metric.samples
            if sample.name.endswith("_total")
        }

    before = counted()

    class Now(dict[str, float]):
        def __missing__(self, cause: str) -> float:
            return counted().get(cause, 0) - before.get(cause, 0)

    yield Now()


async def until(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("shown", ["none", "ca", "self-signed", "stranger"])
async def test_openssl_s_client(version: str, shown: str, tmp_path: Path) -> None:
    holders = {
        "none": None,
        "ca": DEVICE,
        "self-signed": self_signed("lonely", now=PKI.now),
        "stranger": PKI.impostor().device("stranger"),
    }
    holder = holders[shown]
    identity: tuple[str, ...] = ()
    if holder is not None:
        file = str(identity_file(holder, tmp_path))
        identity = ("-cert", file, "-key", file, "-cert_chain", file)
    factory, made = remembering()
    async with listening(factory) as listener:
        options = (version, "-CAfile", str(trust_file(tmp_path)), "-verify_hostname", "localhost", *identity)
        output = await openssl_client(listener.port, *options, say=b"hello\n")
        await made[0].lost
    assert "HELLO" in output
    assert "Verify return code: 0 (ok)" in output
    assert "No client certificate CA names sent" in output
    sent = () if holder is None else holder.chain.certificates
    got = made[0].transport.get_extra_info("peer_chain")
    assert [each.hex() for each in got] == [each.public_bytes(Encoding.DER).hex() for each in sent]


async def test_the_listing_that_openssl_shows_is_the_chain_without_its_root(tmp_path: Path) -> None:
    async with listening(Echo) as listener:
        output = await openssl_client(listener.port, "-showcerts", "-CAfile", str(trust_file(tmp_path)), say=b"x\n")
    assert output.count("BEGIN CERTIFICATE") == 3 + (output.count("Server certificate\n-----BEGIN"))
    assert " 0 s:CN = localhost" in output
    assert " 2 s:CN = Test Intermediate 1" in output
    assert " 3 s:" not in output


async def test_our_client_and_the_standard_librarys(tmp_path: Path) -> None:
    factory, made = remembering()
    async with listening(factory, host="localhost") as listener:
        context = stdlib_context(DEVICE, tmp_path)
        for host in ("localhost", "127.0.0.1", "::1"):
            reader, writer = await asyncio.open_connection(host, listener.port, ssl=context)
            writer.write(b"stdlib")
            assert await reader.readexactly(6) == b"STDLIB"
            writer.close()
            await writer.wait_closed()
            client = await dial(host, listener.port, client_context(DEVICE), Ears)
            client.transport.write(b"Ours")
            await until(lambda client=client: client.chunks == [b"OURS"])
            assert client.transport.get_extra_info("tls_version") == "TLSv1.3"
            assert len(client.transport.get_extra_info("peer_chain")) == 3
            client.transport.abort()
            await client.lost
        await until(lambda: all(each.lost.done() for each in made))
        assert made[0].events == ["made", "eof"]
        assert made[0].lost.result() is None
        info = made[0].transport.get_extra_info
        assert len(info("peer_chain")) == 3
        assert info("peername")[0] == "127.0.0.1"
        assert info("cipher") is None  # gone with the connection
        assert info("nothing", "default") == "default"


async def test_extra_info_of_an_open_connection() -> None:
    factory, made = remembering()
    async with listening(factory) as listener:
        client = await dial("127.0.0.1", listener.port, client_context(), Ears, server_name="localhost")
        await until(lambda: made)
        info = made[0].transport.get_extra_info
        assert info("server_name") == "localhost"
        assert info("peer_chain") == ()
        assert "GCM" in info("cipher") or "CHACHA" in info("cipher")
        assert info("sslcontext")
        assert info("tls_engine").is_open
        assert info("sockname")[1] == listener.port
        assert made[0].transport.get_protocol() is made[0]
        assert not made[0].transport.can_write_eof()
        assert listener.connections == 1
        client.transport.close()
        await made[0].lost
        await until(lambda: listener.connections == 0)


async def test_writes_of_one_call_leave_in_one_record() -> None:
    class Chatty(Echo):
        def data_received(self, data: bytes) -> None:
            for _ in range(50):
                self.transport.write(b"x")
            self.transport.writelines([b"y", bytearray(b"z"), memoryview(b"!")])

    async with listening(Chatty) as listener:
        client = await dial("localhost", listener.port, client_context(), Ears)
        client.transport.write(b"go")
        await until(lambda: client.chunks)
        assert client.chunks == [b"x" * 50 + b"yz!"]
        for _ in range(20):
            client.transport.write(b"a")
        await until(lambda: len(client.chunks) == 2)
        client.transport.close()


async def test_large_transfers_arrive_whole_and_slow_readers_pause_the_writer() -> None:
    factory, made = remembering()
    payload = bytes(range(256)) * 40_000
    async with listening(factory) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=stdlib_context(), limit=2**16)
        await until(lambda: made)
        made[0].transport.write(payload)
        await until(lambda: "pause" in made[0].events)
        assert made[0].transport.get_write_buffer_size() > limits.WRITE_HIGH_WATER_BYTES
        assert await reader.readexactly(len(payload)) == payload
        await until(lambda: "resume" in made[0].events)
        writer.close()


async def test_paused_reading_holds_everything_back_and_loses_nothing() -> None:
    factory, made = remembering()
    async with listening(factory) as listener:
        client = await dial("localhost", listener.port, client_context(), Ears)
        await until(lambda: made)
        transport = made[0].transport
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        client.transport.write(b"early")
        await asyncio.sleep(0.1)
        assert made[0].chunks == []
        transport.resume_reading()
        transport.resume_reading()
        await until(lambda: client.chunks == [b"EARLY"])
        client.transport.close()


async def test_what_comes_with_the_handshake_waits_for_a_protocol_that_is_paused_from_the_start() -> None:
    class Reluctant(Echo):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.pause_reading()

    class Eager(Ears):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.write(b"first")

    factory, made = remembering(Reluctant)
    async with listening(factory) as listener:
        client = await dial("localhost", listener.port, client_context(), Eager)
        await until(lambda: made)
        await asyncio.sleep(0.05)
        assert made[0].chunks == []
        made[0].transport.resume_reading()
        await until(lambda: client.chunks == [b"FIRST"])
        client.transport.close()


async def test_a_cut_is_not_an_end(tmp_path: Path) -> None:
    factory, made = remembering()
    async with listening(factory) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=stdlib_context())
        await until(lambda: made)
        raw = writer.get_extra_info("socket")
        writer.transport.pause_reading()
        raw_copy = raw.dup() if hasattr(raw, "dup") else raw
        raw_copy.shutdown(1)  # TCP half-closed without close_notify
        cause = await made[0].lost
        assert isinstance(cause, ConnectionCutError)
        assert made[0].events == ["made"]
        raw_copy.close()
        writer.transport.abort()
        del reader


async def test_a_broken_record_ends_the_connection() -> None:
    factory, made = remembering()
    async with listening(factory) as listener:
        client = await dial("127.0.0.1", listener.port, client_context(), Ears)
        await until(lambda: made)
        lower = client.transport._lower  # type: ignore[attr-defined]
        lower.write(b"\x17\x03\x03\x00\x20" + b"not sealed by any key at all....")
        cause = await made[0].lost
        assert isinstance(cause, ConnectionCutError)
        await client.lost


async def test_plain_speech_gets_no_answer(failures: dict[str, float]) -> None:
    async with listening(Echo) as listener:
        for words in (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", b"GET / HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(words)
            assert await reader.read() == b""
            writer.close()
    assert failures["tls-not-tls"] == 2


async def test_a_handshake_has_a_deadline(failures: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 0.3)
    async with listening(Echo) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: listener.connections == 0)
    assert failures["tls-late"] == 1


async def test_a_handshake_that_is_given_up_is_counted(failures: dict[str, float]) -> None:
    async with listening(Echo) as listener:
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"\x16\x03\x01")
        await until(lambda: listener.connections == 1)
        writer.close()
        await until(lambda: listener.connections == 0)
    assert failures["tls-cut"] == 1


async def test_one_address_has_so_many_handshakes_and_connections(
    failures: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PENDING_PER_ADDRESS", 2)
    monkeypatch.setattr(limits, "CONNECTIONS_PER_ADDRESS", 3)
    async with listening(Echo) as listener:
        silent = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(2)]
        await until(lambda: listener.connections == 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        assert await _ended(reader)
        writer.close()
        silent.pop()[1].close()
        await until(lambda: listener.connections == 1)
        open_ones = [await dial("127.0.0.1", listener.port, client_context(), Ears) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        assert await _ended(reader)
        writer.close()
        assert failures["address-limit"] == 2
        for client in open_ones:
            client.transport.close()
        silent.pop()[1].close()
        await until(lambda: listener.connections == 0)
        assert listener._from == {}


async def _ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def test_contexts_are_swapped_under_open_connections() -> None:
    slot = server_slot()
    renewed = PKI.server("localhost", "127.0.0.1", "renewed.test")
    async with listening(Echo, slot) as listener:
        old = await dial("127.0.0.1", listener.port, client_context(), Ears)
        slot.current = ServerContext(renewed.full_chain, renewed.key)
        new = await dial("127.0.0.1", listener.port, client_context(), Ears, server_name="renewed.test")
        for client in (old, new):
            client.transport.write(b"still there")
        await until(lambda: old.chunks == new.chunks == [b"STILL THERE"])
        ends = [client.transport.get_extra_info("peer_chain")[0] for client in (old, new)]
        assert ends == [each.certificate.public_bytes(Encoding.DER) for each in (SERVER, renewed)]
        old.transport.close()
        new.transport.close()


async def test_closing_ends_connections_in_order_and_cuts_the_stubborn() -> None:
    factory, made = remembering()
    listener = await serve(factory, server_slot(), "127.0.0.1", 0, label="test")
    port = listener.port
    client = await dial("127.0.0.1", port, client_context(), Ears)
    stubborn, writer = await asyncio.open_connection("127.0.0.1", port)
    del stubborn
    await until(lambda: listener.connections == 2)
    gauge = CONNECTIONS.labels("test")._value.get()  # type: ignore[attr-defined]
    assert gauge >= 1
    await listener.close(0.2)
    assert isinstance(made[0].lost.result(), ListenerClosedError)
    assert await client.lost is None
    assert client.events == ["made", "eof"]
    assert listener.connections == 0
    writer.close()
    with pytest.raises(UnavailableError) as caught:
        await dial("127.0.0.1", port, client_context(), Ears)
    assert caught.value.reason == "connect-failed"


async def test_a_reader_that_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SLOW_READER_SECONDS", 0.3)
    factory, made = remembering()
    async with listening(factory) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=stdlib_context())
        await until(lambda: made)
        writer.transport.pause_reading()
        made[0].transport.write(b"x" * 30_000_000)
        async with asyncio.timeout(60):
            cause = await made[0].lost
        assert "does not read" in str(cause)
        writer.transport.abort()
        del reader


async def test_a_peer_that_does_not_take_the_rest_is_cut_off_after_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOSE_SECONDS", 0.3)
    factory, made = remembering()
    async with listening(factory) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=stdlib_context())
        await until(lambda: made)
        writer.transport.pause_reading()
        made[0].transport.write(b"x" * 30_000_000)
        made[0].transport.close()
        made[0].transport.write(b"nowhere")
        assert made[0].transport.is_closing()
        async with asyncio.timeout(60):
            assert "does not read" in str(await made[0].lost)
        writer.transport.abort()
        del reader


async def test_a_protocol_that_fails_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Echo):
        def data_received(self, data: bytes) -> None:
            if data == b"bad":
                raise RuntimeError("a defect above the transport")
            super().data_received(data)

    loop = asyncio.get_running_loop()
    reported: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _loop, context: reported.append(context))
    factory, made = remembering(Failing)
    async with listening(factory) as listener:
        good = await dial("127.0.0.1", listener.port, client_context(), Ears)
        bad = await dial("127.0.0.1", listener.port, client_context(), Ears)
        bad.transport.write(b"bad")
        await bad.lost
        await made[1].lost
        good.transport.write(b"good")
        await until(lambda: good.chunks == [b"GOOD"])
        good.transport.close()
    assert reported


async def test_a_client_is_told_why_it_does_not_connect() -> None:
    async with listening(Echo) as listener:
        with pytest.raises(ServerRefusedError) as refused:
            await dial("127.0.0.1", listener.port, client_context(), Ears, server_name="other.test")
        assert refused.value.reason == "name-mismatch"
        other = ClientContext(TrustBundle((Pki(PKI.now, 0, "ec", "Elsewhere").root.certificate,), as_of=PKI.now))
        with pytest.raises(ServerRefusedError) as refused:
            await dial("127.0.0.1", listener.port, other, Ears)
        assert refused.value.reason in {"chain-untrusted", "chain-intermediate-missing"}  # its top is unknown here
        await until(lambda: listener.connections == 0)
    with pytest.raises(UnavailableError):
        await dial("name.invalid", 1, client_context(), Ears)


async def test_a_server_that_is_silent_or_no_tls_server() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(3)
        if speaking:
            writer.write(b"SSH-2.0-thing\r\n")
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        over.set()

    over = asyncio.Event()
    speaking = False
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(UnavailableError):
        await dial("127.0.0.1", port, client_context(), Ears, timeout=0.2)
    await over.wait()
    over.clear()
    speaking = True
    with pytest.raises(TlsError) as caught:
        await dial("127.0.0.1", port, client_context(), Ears)
    assert caught.value.reason == "tls-not-tls"
    await over.wait()
    server.close()


async def test_a_port_that_is_taken_is_named() -> None:
    async with listening(Echo) as listener:
        with pytest.raises(ConfigError) as caught:
            await serve(Echo, server_slot(), "127.0.0.1", listener.port, label="test")
        assert caught.value.reason == "listen-failed"
        assert str(listener.port) in caught.value.message
        assert caught.value.fix
    with pytest.raises(ConfigError):
        await serve(Echo, server_slot(), "192.0.2.1", 0, label="test")


async def test_localhost_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    create = loop.create_server

    class Poor:
        """A loop on a machine without IPv6."""

        async def create_server(self, factory: object, host: str, *rest: object, **named: object) -> asyncio.Server:
            if ":" in host:
                raise OSError(errno.EADDRNOTAVAIL, "no such address")
            return await create(factory, host, *rest, **named)  # type: ignore[call-overload,no-any-return]

        def __getattr__(self, name: str) -> object:
            return getattr(loop, name)

    monkeypatch.setattr("edgetrust.transport.listener.asyncio.get_running_loop", Poor, raising=True)
    monkeypatch.setattr("edgetrust.transport.listener.LoopShare.of", lambda _loop: _share(loop))
    listener = await serve(Echo, server_slot(), "localhost", 0, label="test")
    monkeypatch.undo()
    assert listener.port
    await listener.close()


def _share(loop: asyncio.AbstractEventLoop) -> object:
    from edgetrust.transport.tls.transport import LoopShare

    return LoopShare(loop)


async def test_all_addresses() -> None:
    async with listening(Echo, host="") as listener:
        for host in ("127.0.0.1", "::1"):
            client = await dial(host, listener.port, client_context(), Ears)
            client.transport.close()


async def test_one_byte_at_a_time(tmp_path: Path) -> None:
    """A peer on a bad link: its records arrive in pieces of one byte."""
    factory, made = remembering()
    async with listening(factory) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = stdlib_context().wrap_bio(into, out, server_hostname="localhost")

        async def dribble() -> None:
            for byte in out.read():
                writer.write(bytes([byte]))
                await asyncio.sleep(0)

        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await dribble()
                into.write(await reader.read(65536))
        tls.write(b"slowly")
        await dribble()
        heard = b""
        while not heard:
            into.write(await reader.read(65536))
            with suppress(ssl.SSLWantReadError):
                heard = tls.read()
        assert heard == b"SLOWLY"
        writer.transport.abort()
    assert made[0].chunks == [b"slowly"]


def test_slots_hold_what_is_current() -> None:
    slot = ContextSlot(1)
    slot.current = 2
    assert slot.current == 2
