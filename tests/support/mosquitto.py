"""The mosquitto clients and paho, as devices that share no code with us."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from support.hub import NAME, VERSION, World
from support.pki import Holder


def credentials(world: World, who: str, password: str | None = "", show: Path | None = None) -> list[str]:
    """Options of mosquitto_pub and _sub; `password` "" stands for a good token, `show` holds certificate and key."""
    options = ["-h", NAME, "-p", str(world.mqtt_port), "--cafile", str(world.root), "-i", who, "-V", "311"]
    options += ["-u", f"{NAME}/{who}/?{VERSION}"]
    if show is not None:
        return [*options, "--cert", str(show), "--key", str(show)]
    secret = world.token(who) if password == "" else password
    return options if secret is None else [*options, "-P", secret]


class Subscriber:
    """A running mosquitto_sub; `lines` is what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))

    def has(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@asynccontextmanager
async def subscribed(*arguments: str) -> AsyncIterator[Subscriber]:
    """mosquitto_sub with `-d`, while the block runs."""
    process = await asyncio.create_subprocess_exec(
        "stdbuf", "-oL", "-eL", "mosquitto_sub", "-d", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    made = Subscriber(process)
    reading = asyncio.create_task(made.read())
    try:
        yield made
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


class Device:
    """paho, connected by its own thread; what happened is in plain attributes."""

    def __init__(
        self,
        world: World,
        who: str,
        *,
        password: str | None = "",
        show: Path | None = None,
        clean: bool = False,
        keep_alive: int = 60,
        user_name: str | None = None,
        will: tuple[str, bytes, int] | None = None,
        websocket: bool = False,
    ) -> None:
        self.code: int | None = None
        self.present = False
        self.lost: int | None = None
        self.acknowledged: list[int] = []
        self.got: list[paho.MQTTMessage] = []
        self.granted: list[Any] = []
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=who,
            clean_session=clean,
            protocol=paho.MQTTv311,
            transport="websockets" if websocket else "tcp",
        )
        self.client.ws_set_options(path="/$iothub/websocket")
        self.client.max_inflight_messages_set(0)  # else messages at quality 0 overtake those that wait
        secret = world.token(who) if password == "" and show is None else password
        self.client.username_pw_set(user_name or f"{NAME}/{who}/?{VERSION}", secret or None)
        context = ssl.create_default_context(cafile=str(world.root))
        if show is not None:
            context.load_cert_chain(show)
        self.client.tls_set_context(context)
        if will is not None:
            self.client.will_set(*will)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_publish = lambda _c, _u, mid, _r, _p: self.acknowledged.append(mid)
        self.client.on_message = lambda _c, _u, message: self.got.append(message)
        self.client.on_subscribe = lambda _c, _u, _m, codes, _p: self.granted.append([code.value for code in codes])
        self.client.connect_async(NAME, world.hub.https_port if websocket else world.mqtt_port, keep_alive)
        self.client._reconnect_on_failure = False

    def _on_connect(self, _client: Any, _user: Any, flags: Any, code: Any, _properties: Any) -> None:
        self.code = _RETURN_CODES.get(code.value, code.value)
        self.present = flags.session_present

    def _on_disconnect(self, _client: Any, _user: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self.lost = code.value

    def cut(self) -> None:
        """End TCP without a word."""
        socket = self.client.socket()
        assert socket is not None
        threading.Thread(target=lambda: _shut(socket), daemon=True).start()


# paho turns the codes of MQTT 3.1.1 into reason codes of MQTT 5
_RETURN_CODES = {0: 0, 132: 1, 133: 2, 136: 3, 134: 4, 135: 5}


def _shut(socket: Any) -> None:
    import socket as sockets

    try:
        sockets.socket.shutdown(socket, sockets.SHUT_RDWR)
    except OSError:
        return


@contextmanager
def device(world: World, who: str, **more: Any) -> Iterator[Device]:
    """A paho client that runs while the block does."""
    made = Device(world, who, **more)
    made.client.loop_start()
    try:
        yield made
    finally:
        made.client.disconnect()
        made.client.loop_stop()


async def wait(condition: Any, seconds: float = 60.0) -> float:
    """Wait until something in another thread or process holds; how long that took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"not within {seconds} seconds"
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


def identity(holder: Holder, directory: Path, name: str = "device") -> Path:
    file = directory / f"{name}.pem"
    file.write_bytes(holder.chain.pem().encode() + holder.key_pem())
    return file
