"""HTTPS over our TLS: what curl, Node, the standard library and aiohttp see, and MQTT in WebSocket frames."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path

import aiohttp
import paho.mqtt.client as paho
import pytest
from aiohttp import web

from edgetrust import limits
from edgetrust.errors import ConfigError
from edgetrust.pki.chain import TrustBundle
from edgetrust.protocol.mqtt.encoding import encode, encode_pubacks
from edgetrust.protocol.mqtt.packets import Connack, Connect, Disconnect, Packet, Publish
from edgetrust.transport.http import HttpServer, application, https_session, peer_chain, serve_http
from edgetrust.transport.mqtt import MqttServerProtocol, MqttStream
from edgetrust.transport.websocket import WebSockets
from support.pki import EXPIRED, Pki, self_signed
from support.wire import DEVICE, PKI, identity_file, server_slot, stdlib_context, trust_file


class Acknowledging:
    """An MQTT handler that acknowledges."""

    def __init__(self) -> None:
        self.stream: MqttStream
        self.received: list[Packet] = []
        self.ended: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()

    async def connect(self, packet: Connect, stream: MqttStream) -> None:
        self.stream = stream
        stream.set_keep_alive(90)
        stream.send(encode(Connack(False, 0)))

    def packets(self, packets: list[Packet]) -> None:
        self.received += packets
        ids = [each.packet_id for each in packets if isinstance(each, Publish) and each.packet_id]
        if ids:
            self.stream.send(encode_pubacks(ids))

    def lost(self, cause: str, clean: bool) -> None:
        self.ended.set_result((cause, clean))


ASKED = web.AppKey("asked", asyncio.Event)
HANDLERS: web.AppKey[list[Acknowledging]] = web.AppKey("handlers", list)


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    chain = [len(each) for each in peer_chain(request)]
    return web.json_response(
        {
            "method": request.method,
            "body": body.decode(),
            "chain": chain,
            "scheme": request.scheme,
            "peer": request.remote,
        }
    )


async def slow(request: web.Request) -> web.Response:
    request.app[ASKED].set()
    await asyncio.sleep(0.3)
    return web.Response(text="finished")


async def stream(_request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(_request)
    for _ in range(300):
        await response.write(b"x" * 65_536)
    return response


@asynccontextmanager
async def serving(app: web.Application | None = None) -> AsyncIterator[HttpServer]:
    app = app or make()
    server = await serve_http(app, server_slot(), "localhost", 0, grace=2)
    try:
        yield server
    finally:
        await server.close()


def make() -> web.Application:
    app = application()
    app[HANDLERS] = []
    app[ASKED] = asyncio.Event()
    app.router.add_route("*", "/echo", echo)
    app.router.add_get("/slow", slow)
    app.router.add_get("/stream", stream)

    def handler() -> Acknowledging:
        app[HANDLERS].append(Acknowledging())
        return app[HANDLERS][-1]

    sockets = WebSockets(lambda: MqttServerProtocol(handler))
    app.router.add_get("/$iothub/websocket", sockets.serve)
    app.on_shutdown.append(sockets.close)
    return app


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_our_session_shows_its_chain_and_keeps_the_connection() -> None:
    async with serving() as server, https_session(PKI.bundle, chain=DEVICE.chain, key=DEVICE.key) as session:
        for number in range(3):
            async with session.put(f"https://localhost:{server.port}/echo", data=f"body {number}") as response:
                answer = await response.json()
            assert answer["body"] == f"body {number}"
            assert answer["scheme"] == "https"
            assert len(answer["chain"]) == 3
            assert server.connections == 1
        async with session.get(f"https://127.0.0.1:{server.port}/echo") as response:
            assert (await response.json())["peer"] == "127.0.0.1"


async def test_any_certificate_reaches_the_application_and_none_too() -> None:
    shown = {None: 0, self_signed("lonely", now=PKI.now): 1, PKI.device("old", **EXPIRED): 3}
    async with serving() as server:
        for holder, count in shown.items():
            chain = None if holder is None else holder.chain
            async with (
                https_session(PKI.bundle, chain=chain, key=holder and holder.key) as session,
                session.get(f"https://localhost:{server.port}/echo") as response,
            ):
                assert len((await response.json())["chain"]) == count


async def test_our_session_verifies_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Pki(PKI.now, 0, "ec", "Elsewhere").bundle
    empty = TrustBundle((), as_of=PKI.now)
    monkeypatch.setenv("SSL_CERT_FILE", str(trust_file(tmp_path)))
    async with serving() as server:
        url = f"https://localhost:{server.port}/echo"
        for bundle in (elsewhere, empty):
            async with https_session(bundle) as session:
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await session.get(url)
        async with https_session(None) as session, session.get(url) as response:
            assert response.status == 200
        anchored = TrustBundle((PKI.issuers[1].certificate,), as_of=PKI.now)
        async with https_session(anchored) as session:
            async with session.get(url) as response:  # an intermediate may be the anchor
                assert response.status == 200
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(url, server_hostname="other.test")


async def test_curl(tmp_path: Path) -> None:
    identity, trust = str(identity_file(DEVICE, tmp_path)), str(trust_file(tmp_path))
    async with serving() as server:
        url = f"https://localhost:{server.port}/echo"
        options = ("--silent", "--show-error", "--fail", "--cacert", trust, "--cert", identity, "--key", identity)
        for more in ((), ("--tls-max", "1.2"), ("--header", "Transfer-Encoding: chunked"), ("--http1.0",)):
            answer = json.loads(await run("curl", *options, *more, "--data", "from curl", url))
            assert answer["body"] == "from curl"
            assert len(answer["chain"]) == 3
        twice = await run("curl", *options, "--verbose", url, url)
        assert "Re-using existing connection" in twice


async def test_node_sends_chunked_bodies(tmp_path: Path) -> None:
    script = f"""
        const https = require('https'), fs = require('fs');
        const identity = fs.readFileSync({json.dumps(str(identity_file(DEVICE, tmp_path)))});
        const ca = fs.readFileSync({json.dumps(str(trust_file(tmp_path)))});
        const keys = {{ca, cert: identity, key: identity}};
        const target = {{host: 'localhost', port: PORT, path: '/echo', method: 'PUT', ...keys}};
        const request = https.request(target, (response) => {{
            let body = '';
            response.on('data', (part) => body += part);
            response.on('end', () => console.log(body));
        }});
        request.write('one '); request.write('two'); request.end();
    """
    async with serving() as server:
        answer = json.loads(await run("node", "-e", script.replace("PORT", str(server.port))))
    assert answer["body"] == "one two"
    assert len(answer["chain"]) == 3


async def test_bodies_and_headers_have_limits() -> None:
    async with serving() as server, https_session(PKI.bundle) as session:
        url = f"https://localhost:{server.port}/echo"
        async with session.post(url, data=BytesIO(b"x" * (limits.HTTP_BODY_BYTES + 1))) as response:
            assert response.status == 413
        async with session.get(url, headers={"X-Long": "x" * 2 * limits.HTTP_HEADER_BYTES}) as response:
            assert response.status == 400


async def test_a_large_answer_streams_to_a_slow_reader() -> None:
    async with serving() as server, https_session(PKI.bundle) as session:
        async with session.get(f"https://localhost:{server.port}/stream") as response:
            await asyncio.sleep(0.2)
            body = await response.read()
        assert len(body) == 300 * 65_536


async def test_closing_lets_requests_finish() -> None:
    server = await serve_http(app := make(), server_slot(), "localhost", 0, grace=20)
    async with https_session(PKI.bundle) as session:
        url = f"https://localhost:{server.port}"
        pending = asyncio.create_task(session.get(f"{url}/slow"))
        await app[ASKED].wait()
        await server.close()
        async with await pending as response:
            assert await response.text() == "finished"
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{url}/echo")
    assert server.connections == 0


async def test_a_taken_port_is_a_configuration_error() -> None:
    async with serving() as server:
        with pytest.raises(ConfigError):
            await serve_http(make(), server_slot(), "localhost", server.port)


async def test_mqtt_in_websocket_frames(tmp_path: Path) -> None:
    app = make()
    async with serving(app) as server, aiohttp.ClientSession() as session:
        url = f"https://localhost:{server.port}/$iothub/websocket"
        context = stdlib_context(DEVICE, tmp_path)
        async with session.ws_connect(url, ssl=context, protocols=("mqtt",), compress=15) as socket:
            assert socket.protocol == "mqtt"
            assert not socket.compress
            words = encode(Connect("x", clean_session=True)) + encode(Publish("t", b"hello", 1, packet_id=1))
            for byte in words:  # frames mean nothing
                await socket.send_bytes(bytes([byte]))
            heard = b""
            while len(heard) < 8:
                heard += await socket.receive_bytes()
            assert heard == encode(Connack(False, 0)) + encode_pubacks([1])
            await socket.ping()
            handler = app[HANDLERS][0]
            assert len(handler.stream.peer_chain) == 3
            assert "127.0.0.1" in handler.stream.peer_address or "[::1]" in handler.stream.peer_address
            handler.stream.pause_reading()
            handler.stream.resume_reading()
            await socket.send_bytes(encode(Disconnect()))
            assert (await socket.receive()).type in {aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED}
        assert await handler.ended == ("the client disconnected", True)
        async with session.ws_connect(url, ssl=context, protocols=("mqtt",)) as socket:
            await socket.send_bytes(encode(Connect("x", clean_session=True)))
            await socket.receive_bytes()
            await socket.send_str("text")
            assert "not binary" in (await app[HANDLERS][1].ended)[0]
        async with session.ws_connect(url, ssl=context, protocols=("mqtt",)) as socket:
            await socket.send_bytes(encode(Connect("x", clean_session=True)))
            await socket.receive_bytes()
        assert not (await app[HANDLERS][2].ended)[1]
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(url, ssl=context, protocols=("AMQPWSB10",))
        assert caught.value.status == 400


async def test_a_websocket_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WRITE_LIMIT_BYTES", 4_000_000)
    monkeypatch.setattr(limits, "CLOSE_SECONDS", 0.3)
    app = make()
    async with serving(app) as server, aiohttp.ClientSession() as session:
        url = f"https://localhost:{server.port}/$iothub/websocket"
        async with session.ws_connect(url, ssl=stdlib_context(), protocols=("mqtt",)) as socket:
            await socket.send_bytes(encode(Connect("x", clean_session=True)))
            await socket.receive_bytes()
            handler = app[HANDLERS][0]
            message = encode(Publish("t", b"x" * 200_000, 0))
            for _ in range(1_000):
                handler.stream.send(message)
                if handler.stream.is_closing:
                    break
            assert handler.stream.is_closing
        assert "does not read" in (await handler.ended)[0]


async def test_paho_over_websocket(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[str] = asyncio.Queue()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="paho", transport="websockets")
    client.ws_set_options(path="/$iothub/websocket")
    client.tls_set(str(trust_file(tmp_path)))
    client.on_connect = lambda *_: loop.call_soon_threadsafe(events.put_nowait, "connect")
    client.on_publish = lambda *_: loop.call_soon_threadsafe(events.put_nowait, "publish")
    app = make()
    async with serving(app) as server:
        client.connect_async("localhost", server.port)
        client.loop_start()
        assert await events.get() == "connect"
        client.publish("t", b"x" * 100_000, 1)
        assert await events.get() == "publish"
        client.disconnect()
        assert (await app[HANDLERS][0].ended) == ("the client disconnected", True)
        await asyncio.to_thread(client.loop_stop)


async def test_closing_ends_open_websockets() -> None:
    app = make()
    server = await serve_http(app, server_slot(), "localhost", 0, grace=5)
    async with aiohttp.ClientSession() as session:
        url = f"https://localhost:{server.port}/$iothub/websocket"
        async with session.ws_connect(url, ssl=stdlib_context(), protocols=("mqtt",)) as socket:
            await socket.send_bytes(encode(Connect("x", clean_session=True)))
            await socket.receive_bytes()
            closing = asyncio.create_task(server.close())
            async with asyncio.timeout(60):
                assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
                await closing
        assert not (await app[HANDLERS][0].ended)[1]
