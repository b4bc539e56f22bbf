"""Connections that are passed on by the name in their hello: untouched, bounded, and never to anybody else."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust import limits
from edgetrust.errors import Error, PeerError
from edgetrust.transport.forward import Target
from edgetrust.transport.listener import Listener, serve
from support.hellos import hello_for, hello_with, in_records, server_name
from support.pki import Holder
from support.wire import DEVICE, PKI, Ears, Echo, listening, remembering, server_slot, stdlib_context

SERVICE = PKI.server("dps.example.com")
MANY = 4 * 1024 * 1024


@dataclass
class Names:
    """A forwarder with a table, which remembers what it was told."""

    targets: dict[str, Target] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    up: int = 0
    down: int = 0
    open: int = 0
    problems: list[Error] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def target(self, name: str | None, peer: tuple[str, int]) -> Target | None:
        assert peer[0] == "127.0.0.1"
        if name in self.refused:
            raise PeerError("no", reason="forward-limit")
        found = self.targets.get(name or "")
        self.open += found is not None
        return found

    def moved(self, target: Target, up: int, down: int) -> None:
        self.up, self.down = self.up + up, self.down + down

    def unreachable(self, target: Target, peer: tuple[str, int], problem: Error) -> None:
        self.problems.append(problem)

    def ended(self, target: Target, peer: tuple[str, int]) -> None:
        self.open -= 1

    def left_at_once(self, name: str, peer: tuple[str, int]) -> None:
        self.left.append(name)


@asynccontextmanager
async def gateway(names: Names) -> AsyncIterator[Listener]:
    """A listener of `localhost` that passes on what `names` says, and echoes the rest."""
    listener = await serve(Echo, server_slot(), "127.0.0.1", 0, label="test", forwarder=names)
    try:
        yield listener
    finally:
        await listener.close(1.0)


async def dialled(
    port: int, name: str, shown: Holder | None = None, directory: Path | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = stdlib_context(shown, directory)
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def to(listener: Listener, name: str = "dps.example.com") -> dict[str, Target]:
    return {name: Target(name, "127.0.0.1", listener.port)}


async def test_the_service_sees_the_clients_certificate_and_the_client_the_services(tmp_path: Path) -> None:
    factory, made = remembering()
    async with listening(factory, server_slot(SERVICE)) as service, gateway(names := Names(to(service))) as passing:
        reader, writer = await dialled(passing.port, "dps.example.com", DEVICE, tmp_path)
        assert writer.get_extra_info("ssl_object").getpeercert()["subjectAltName"] == (("DNS", "dps.example.com"),)
        writer.write(b"register")
        assert await reader.readexactly(8) == b"REGISTER"
        chain = made[0].transport.get_extra_info("peer_chain")
        assert chain[0] == DEVICE.chain.end_entity.public_bytes(Encoding.DER)
        assert (names.open, passing.connections) == (1, 1)
        writer.close()
        await until(lambda: names.open == 0 and passing.connections == 0 and service.connections == 0)
        assert names.up > len(b"register") < names.down


async def test_the_same_hello_in_small_records_and_pieces() -> None:
    async with listening(Ears) as service, gateway(Names(to(service))) as passing:
        reader, writer = await asyncio.open_connection("127.0.0.1", passing.port)
        sent = in_records(hello_for("dps.example.com"), 50)
        for at in range(0, len(sent), 100):
            writer.write(sent[at : at + 100])
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.readexactly(3))[:1] == b"\x16"  # the service's ServerHello
        writer.close()


@pytest.mark.parametrize("name", ["localhost", "other.example.com", "dps.example.com.evil.example"])
async def test_another_name_is_served_here(name: str) -> None:
    async with gateway(Names({"dps.example.com": Target("dps.example.com", "127.0.0.1", 1)})) as passing:
        context = stdlib_context()
        context.check_hostname = False
        reader, writer = await asyncio.open_connection("127.0.0.1", passing.port, ssl=context, server_hostname=name)
        writer.write(b"here")
        assert await reader.readexactly(4) == b"HERE"
        writer.close()


async def test_a_client_that_did_not_mean_us_is_told_apart() -> None:
    async with gateway(names := Names()) as passing:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await dialled(passing.port, "dps.example.com")
        await until(lambda: names.left == ["dps.example.com"])
        await until(lambda: passing.connections == 0)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(256)) * 300,
        b"\x16\x03\x01\xff\xff" + bytes(200_000),
        in_records(hello_with((21, bytes(60_000))), 16_000),  # a hello of 64 KiB
        hello_with(server_name(b"dps.example.com"), server_name(b"dps.example.com")),
    ],
)
async def test_what_is_no_hello_goes_nowhere(sent: bytes) -> None:
    factory, made = remembering(Ears)
    async with listening(factory) as service, gateway(names := Names(to(service))) as passing:
        reader, writer = await asyncio.open_connection("127.0.0.1", passing.port)
        writer.write(sent)
        writer.write_eof()
        with suppress(ConnectionError):
            async with asyncio.timeout(60):
                await reader.read()
        writer.close()
        await until(lambda: passing.connections == 0)
        assert (names.open, names.up, made, service.connections) == (0, 0, [], 0)
        _, next_one = await dialled(passing.port, "localhost")  # it is served
        next_one.close()


async def test_a_hello_that_does_not_end_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENT_HELLO_SECONDS", 0.1)
    async with gateway(Names({"dps.example.com": Target("dps.example.com", "127.0.0.1", 1)})) as passing:
        reader, writer = await asyncio.open_connection("127.0.0.1", passing.port)
        writer.write(hello_for("dps.example.com")[:-1])
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: passing.connections == 0)


async def test_hellos_that_are_waited_for_count_for_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PENDING_PER_ADDRESS", 2)
    async with gateway(Names()) as passing:
        waiting = [await asyncio.open_connection("127.0.0.1", passing.port) for _ in range(2)]
        await until(lambda: passing.connections == 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", passing.port)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        for _, each in (*waiting, (reader, writer)):
            each.close()
        await until(lambda: passing.connections == 0)


async def test_who_looks_at_the_certificate_after_the_handshake_is_told_apart_too() -> None:
    async with gateway(names := Names()) as passing:
        context = stdlib_context()
        context.check_hostname = False
        for said in (b"", b"here"):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", passing.port, ssl=context, server_hostname="x.example"
            )
            writer.write(said)
            assert await reader.readexactly(len(said)) == said.upper()
            writer.close()
            await until(lambda: passing.connections == 0)
        assert names.left == ["x.example"]


async def test_who_is_refused_gets_an_alert() -> None:
    async with gateway(Names(refused=frozenset({"dps.example.com"}))) as passing:
        with pytest.raises(ssl.SSLError, match=r"(?i)alert.internal.error"):
            await dialled(passing.port, "dps.example.com")
        await until(lambda: passing.connections == 0)


async def test_a_service_that_is_away_is_an_alert_and_a_problem() -> None:
    async with listening(Ears) as service:
        nobody = to(service)
    async with gateway(names := Names(nobody)) as passing:
        with pytest.raises(ssl.SSLError, match=r"(?i)alert.internal.error"):
            await dialled(passing.port, "dps.example.com")
        await until(lambda: passing.connections == 0)
        assert [problem.reason for problem in names.problems] == ["forward-unreachable"]
        assert names.open == 0


async def test_a_name_that_leads_back_here_goes_round_no_more_than_once() -> None:
    async with gateway(names := Names()) as passing:
        names.targets.update(to(passing))
        with pytest.raises(ssl.SSLError, match=r"(?i)alert.internal.error"):
            await dialled(passing.port, "dps.example.com")
        await until(lambda: passing.connections == 0)
        assert "leads back to this listener" in names.problems[0].message
        assert (len(names.problems), names.open) == (1, 0)


async def test_a_reader_that_is_slow_slows_the_writer_down_and_nothing_is_lost() -> None:
    factory, made = remembering(Ears)
    async with listening(factory, server_slot(SERVICE)) as service, gateway(names := Names(to(service))) as passing:
        _, writer = await dialled(passing.port, "dps.example.com")
        await until(lambda: made)
        made[0].transport.pause_reading()
        writer.write(bytes(MANY * 4))
        before = -1
        async with asyncio.timeout(60):
            while names.up != before:  # until everything that holds something is full
                before = names.up
                await asyncio.sleep(0.1)
        assert names.up < MANY * 4
        made[0].transport.resume_reading()
        await until(lambda: sum(map(len, made[0].chunks)) == MANY * 4)
        writer.close()


async def test_what_a_service_sends_last_arrives_though_the_client_has_ended_its_side() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = await reader.read()
        writer.write(b"x" * 100_000 + sent[-3:])
        writer.close()

    service = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = service.sockets[0].getsockname()[1]
    async with gateway(names := Names({"dps.example.com": Target("d", "127.0.0.1", port)})) as passing:
        reader, writer = await asyncio.open_connection("127.0.0.1", passing.port)
        writer.write(hello_for("dps.example.com") + b"end")
        writer.write_eof()
        assert await reader.read() == b"x" * 100_000 + b"end"
        writer.close()
        await until(lambda: names.open == 0 and passing.connections == 0)
    service.close()


async def test_a_connection_in_which_nothing_moves_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FORWARD_IDLE_SECONDS", 0.3)
    async with listening(Ears, server_slot(SERVICE)) as service, gateway(names := Names(to(service))) as passing:
        reader, writer = await dialled(passing.port, "dps.example.com")
        with suppress(ConnectionError, ssl.SSLError):
            async with asyncio.timeout(60):
                assert await reader.read() == b""
        writer.close()
        await until(lambda: names.open == 0 and passing.connections == 0 and service.connections == 0)


async def test_closing_ends_what_is_passed_on_and_what_is_dialled() -> None:
    async with listening(Ears, server_slot(SERVICE)) as service:
        async with gateway(names := Names(to(service))) as passing:
            reader, writer = await dialled(passing.port, "dps.example.com")
            await until(lambda: names.open == 1)
        with suppress(ConnectionError, ssl.SSLError):
            assert await reader.read() == b""
        writer.close()
        await until(lambda: names.open == 0 and service.connections == 0)
