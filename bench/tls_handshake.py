"""What TLS costs the server: CPU per full mutual handshake, by engine, and memory per idle connection.

    python bench/tls_handshake.py [--handshakes 500] [--connections 2000]

Handshakes run in memory, both roles in one process; only the server's calls are timed, and the standard library's
server (which cannot accept any certificate) is the reference. Memory is that of a process that holds idle MQTT
connections of clients with a certificate, MQTT state and handler included, in a second process; sockets' kernel
memory is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from edgetrust.protocol.mqtt.encoding import encode
from edgetrust.protocol.mqtt.packets import Connack, Connect, Packet
from edgetrust.transport.listener import serve
from edgetrust.transport.mqtt import MqttServerProtocol, MqttStream, connect_mqtt
from edgetrust.transport.tls.contexts import ClientContext, ContextSlot, ServerContext
from support.pki import Pki, self_signed

PKI = Pki(datetime.now(UTC), intermediates=1)
SERVER = PKI.server("localhost", "127.0.0.1")
DEVICE = self_signed("device", now=PKI.now)


class StdlibServer:
    """The standard library's ssl as an engine; it must know its clients' certificates."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._into, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._into, self._out, server_side=True)

    def feed(self, data: bytes) -> None:
        self._into.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return

    def take(self) -> bytes:
        return self._out.read()

    def peer_chain(self) -> tuple[bytes, ...]:
        return (self._tls.getpeercert(True) or b"",)


def stdlib_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=DEVICE.chain.pem())
    with tempfile.NamedTemporaryFile() as file:
        file.write(SERVER.key_pem() + SERVER.chain.pem().encode())
        file.flush()
        context.load_cert_chain(file.name)
    return context


def handshake_us(make: Callable[[], Any], clients: ClientContext, count: int) -> float:
    """The server's CPU microseconds per handshake, the reading of the peer's chain included."""
    spent = 0.0
    for _ in range(count):
        server, client = make(), clients.engine("localhost")
        client.start()
        for _ in range(2):
            there = client.take()
            begin = time.process_time()
            server.feed(there)
            back = server.take()
            spent += time.process_time() - begin
            client.feed(back)
        begin = time.process_time()
        chain = server.peer_chain()
        spent += time.process_time() - begin
        assert chain
    return spent / count * 1e6


class Idle:
    """A handler that lets everybody in."""

    __slots__ = ("stream",)

    async def connect(self, packet: Connect, stream: MqttStream) -> None:
        self.stream = stream
        stream.set_keep_alive(1_000)
        stream.send(encode(Connack(False, 0)))

    def packets(self, packets: list[Packet]) -> None:
        return

    def lost(self, cause: str, clean: bool) -> None:
        return


async def hold(pipe: Connection, loop: asyncio.AbstractEventLoop) -> None:
    """A server that tells its port, then its memory whenever it is asked."""
    slot = ContextSlot(ServerContext(SERVER.chain, SERVER.key))
    listener = await serve(lambda: MqttServerProtocol(Idle), slot, "127.0.0.1", 0, label="bench")
    pipe.send(listener.port)
    while await loop.run_in_executor(None, pipe.recv):
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        pipe.send((listener.connections, pages * 4))


def server_process(pipe: Connection) -> None:
    """The process that is measured."""

    async def run() -> None:
        await hold(pipe, asyncio.get_running_loop())

    uvloop.run(run())


def start_server() -> Connection:
    """Start the process that is measured, with our PKI."""
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.get_context("fork").Process(target=server_process, args=(theirs,), daemon=True).start()
    return ours


async def connections_kib(ours: Connection, count: int) -> float:
    """Resident KiB per idle connection."""
    port = ours.recv()
    context = ClientContext(PKI.bundle, chain=DEVICE.chain, key=DEVICE.key)

    async def open_some(number: int) -> list[object]:
        connect = Connect("x", clean_session=True, keep_alive=0)
        return [await connect_mqtt("127.0.0.1", port, context, connect) for _ in range(number)]

    async def open_all(number: int) -> list[object]:
        return await asyncio.gather(*(open_some(number // 10) for _ in range(10)))

    def memory() -> tuple[int, int]:
        ours.send(True)
        answer: tuple[int, int] = ours.recv()
        return answer

    kept = await open_all(200)
    before = memory()
    kept += await open_all(count)
    after = memory()
    return (after[1] - before[1]) / (after[0] - before[0])


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--handshakes", type=int, default=500)
    arguments.add_argument("--connections", type=int, default=2_000)
    options = arguments.parse_args()
    clients = ClientContext(PKI.bundle, chain=DEVICE.chain, key=DEVICE.key)
    stdlib = stdlib_context()
    kinds: dict[str, Callable[[], Any]] = {
        "stdlib ssl": lambda: StdlibServer(stdlib),
        "pyOpenSSL": ServerContext(SERVER.chain, SERVER.key, public_only=True).engine,
        "thin": ServerContext(SERVER.chain, SERVER.key).engine,
    }
    server = start_server()
    rounds = {name: [handshake_us(make, clients, options.handshakes) for _ in range(3)] for name, make in kinds.items()}
    reference = statistics.median(rounds["stdlib ssl"])
    for name, measured in rounds.items():
        median = statistics.median(measured)
        spread = f"{min(measured):.0f}/{median:.0f}/{max(measured):.0f}"
        print(f"handshake {name:12} {median:7.0f} us  ratio {median / reference:.2f}  min/median/max of 3: {spread}")
    print(
        f"idle connection {uvloop.run(connections_kib(server, options.connections)):.1f} KiB of {options.connections}"
    )


if __name__ == "__main__":
    main()
