"""A server of our TLS and MQTT layers alone: every client is let in and every publish is acknowledged at once.

What it costs is the floor under the hub; the difference to the hub is decisions, records and the disk. Prints its port
when it is ready and serves until SIGTERM. `--profile FILE` writes cProfile's figures at the end;
`--asyncio` does without uvloop.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from edgetrust.pki.chain import Chain
from edgetrust.pki.softkeys import load_key_file
from edgetrust.protocol.mqtt.codec import encode, encode_pubacks
from edgetrust.protocol.mqtt.packets import Connack, Connect, Packet, Publish
from edgetrust.transport.listener import serve
from edgetrust.transport.mqtt import MqttServerProtocol, MqttStream
from edgetrust.transport.tls.contexts import ContextSlot, ServerContext


class Acknowledging:
    """A handler that believes everybody and stores nothing."""

    __slots__ = ("_stream",)

    def __init__(self) -> None:
        self._stream: MqttStream | None = None

    async def connect(self, packet: Connect, stream: MqttStream) -> None:
        self._stream = stream
        stream.set_keep_alive(packet.keep_alive * 1.5)
        stream.send(encode(Connack(False, 0)))

    def packets(self, packets: list[Packet]) -> None:
        assert self._stream is not None
        ids = [packet.packet_id for packet in packets if type(packet) is Publish and packet.packet_id]
        if ids:
            self._stream.send(encode_pubacks(ids))

    def lost(self, cause: str, clean: bool) -> None:
        self._stream = None


async def run(chain: Path, key: Path) -> None:
    """Serve until SIGTERM."""
    slot = ContextSlot(ServerContext(Chain.from_pem(chain.read_bytes()), load_key_file(key)))
    listener = await serve(lambda: MqttServerProtocol(Acknowledging), slot, "127.0.0.1", 0, label="bench")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    gc.freeze()
    print(listener.port, flush=True)
    await stop.wait()
    await listener.close(grace=1.0)


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--asyncio", action="store_true")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    serving = run(options.certificate, options.key)
    start = asyncio.run if options.asyncio else uvloop.run
    if options.profile is None:
        start(serving)
        return
    profile = cProfile.Profile()
    profile.runcall(start, serving)
    profile.dump_stats(options.profile)


if __name__ == "__main__":
    sys.exit(main())
