"""Endpoints of routes against what they deliver to: files, a web service over HTTPS, a real NATS server."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import nats
import pytest
import structlog

from edgetrust.errors import UnavailableError
from edgetrust.hub.endpoints import FileEndpoint, LogEndpoint, WebhookEndpoint
from edgetrust.hub.endpoints.nats import NatsEndpoint, NatsPlace
from edgetrust.pki.keys import SecretText
from edgetrust.protocol.messages import Message
from edgetrust.store.events import StoredMessage
from edgetrust.transport.http import https_context
from support.pki import Pki
from support.receiver import nats_server, receiving


def event(offset: int, device: str = "d1", body: bytes | None = None) -> StoredMessage:
    text = b"%d" % offset if body is None else body
    return StoredMessage(offset, Message(device, None, "k=v", text, 1_800_000_000_000, "{}", "Telemetry"))


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki(datetime.now(UTC), intermediates=1)


class TestFile:
    async def test_lines(self, tmp_path: Path) -> None:
        file = tmp_path / "events.jsonl"
        endpoint = FileEndpoint(file)
        await endpoint.deliver([event(1), event(2, body=b"\xff\n")])
        with file.open("ab") as cut:
            cut.write(b'{"offset": 3, "dev')  # a crash in the middle of a line
        await asyncio.gather(endpoint.deliver([event(3)]), endpoint.deliver([event(4)]))
        lines = file.read_bytes().split(b"\n")
        assert [json.loads(line)["offset"] for line in lines if line.endswith(b"}")] == [1, 2, 3, 4]
        assert json.loads(lines[0])["properties"] == {"k": "v"}
        assert file.stat().st_mode & 0o077 == 0

    async def test_moved_away_by_log_rotation(self, tmp_path: Path) -> None:
        file = tmp_path / "events.jsonl"
        endpoint = FileEndpoint(file)
        await endpoint.deliver([event(1)])
        file.rename(tmp_path / "events.1")
        await endpoint.deliver([event(2)])
        assert json.loads(file.read_text())["offset"] == 2

    async def test_a_disk_that_refuses(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError) as raised:
            await FileEndpoint(tmp_path / "missing" / "events.jsonl").deliver([event(1)])
        assert raised.value.reason == "endpoint-file"


async def test_log() -> None:
    with structlog.testing.capture_logs() as logs:
        await LogEndpoint("journal").deliver([event(7)])
    assert [(entry["event"], entry["offset"], entry["bodyText"]) for entry in logs] == [("event.routed", 7, "7")]


class TestWebhook:
    async def test_received(self, pki: Pki, tmp_path: Path) -> None:
        async with receiving(pki.server("localhost"), tmp_path) as receiver:
            url = f"https://localhost:{receiver.port}/in"
            secret = SecretText("Bearer abc")
            endpoint = WebhookEndpoint("hub", url, bundle=pki.bundle, authorization=secret)
            await endpoint.deliver([event(1), event(2)])
            await endpoint.close()
        assert receiver.texts == ["1", "2"]
        assert [headers["Idempotency-Key"] for headers in receiver.headers] == ["hub:1", "hub:2"]
        assert receiver.headers[0]["Authorization"] == "Bearer abc"
        assert receiver.headers[0]["Content-Type"] == "application/json"

    @pytest.mark.parametrize("status", [302, 400, 401, 429, 500, 503])
    async def test_any_other_status_is_no_receipt(self, pki: Pki, tmp_path: Path, status: int) -> None:
        async with receiving(pki.server("localhost"), tmp_path) as receiver:
            receiver.statuses = [status]
            endpoint = WebhookEndpoint("hub", f"https://localhost:{receiver.port}/", bundle=pki.bundle)
            with pytest.raises(UnavailableError) as raised:
                await endpoint.deliver([event(1)])
            assert (raised.value.reason, str(status) in raised.value.message) == ("endpoint-webhook", True)
            await endpoint.deliver([event(1)])
            await endpoint.close()
        assert receiver.texts == ["1"]

    async def test_only_who_is_verified_gets_anything(self, pki: Pki, tmp_path: Path) -> None:
        async with receiving(pki.server("localhost"), tmp_path) as receiver:
            for host, bundle in (("127.0.0.1", pki.bundle), ("localhost", pki.impostor().bundle), ("localhost", None)):
                endpoint = WebhookEndpoint("hub", f"https://{host}:{receiver.port}/", bundle=bundle)
                with pytest.raises(UnavailableError) as raised:
                    await endpoint.deliver([event(1)])
                assert "certificate verify failed" in raised.value.message
                await endpoint.close()
        assert receiver.headers == []

    async def test_an_idle_connection_that_was_closed_is_no_failure(
        self, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with receiving(pki.server("localhost"), tmp_path) as receiver:
            endpoint = WebhookEndpoint("hub", f"https://localhost:{receiver.port}/", bundle=pki.bundle)
            ask, closed = endpoint._status, [True, False, True, True]

            async def status(session: aiohttp.ClientSession, body: bytes, headers: dict[str, str]) -> int:
                if closed.pop(0):
                    raise aiohttp.ServerDisconnectedError
                return await ask(session, body, headers)

            monkeypatch.setattr(endpoint, "_status", status)
            await endpoint.deliver([event(1)])
            with pytest.raises(UnavailableError, match="Server disconnected"):
                await endpoint.deliver([event(2)])
            await endpoint.close()
        assert receiver.texts == ["1"]

    async def test_nobody_listens(self, pki: Pki, tmp_path: Path) -> None:
        async with receiving(pki.server("localhost"), tmp_path) as receiver:
            url = f"https://localhost:{receiver.port}/"
        endpoint = WebhookEndpoint("hub", url, bundle=pki.bundle)
        with pytest.raises(UnavailableError, match="did not take the event"):
            await endpoint.deliver([event(1)])
        await endpoint.close()


class TestNats:
    async def test_stored_by_a_stream_once(self, pki: Pki, tmp_path: Path) -> None:
        """Over TLS; what is delivered twice is in the stream once; identifiers do not split subjects."""
        async with nats_server(tmp_path / "nats", pki.server("localhost")) as port:
            tls = https_context(pki.bundle)
            place = NatsPlace((f"tls://localhost:{port}",), "iot.{hub}.{device}.{module}", None, tls, None)
            endpoint = NatsEndpoint("my.hub", place)
            with pytest.raises(UnavailableError) as raised:  # no stream takes the subject yet
                await endpoint.deliver([event(1)])
            assert raised.value.reason == "endpoint-nats"
            client = await nats.connect(f"tls://localhost:{port}", tls=https_context(pki.bundle))
            stream = client.jetstream()
            await stream.add_stream(name="IOT", subjects=["iot.>"])
            await endpoint.deliver([event(1), event(2, "a.b*")])
            await endpoint.deliver([event(2, "a.b*")])
            subscription = await stream.subscribe("iot.>")
            got = [await subscription.next_msg(5) for _ in range(2)]
            assert [message.subject for message in got] == ["iot.my%2Ehub.d1.-", "iot.my%2Ehub.a%2Eb%2A.-"]
            assert [json.loads(message.data)["offset"] for message in got] == [1, 2]
            assert (await stream.stream_info("IOT")).state.messages == 2
            await client.close()
            await endpoint.close()

    async def test_a_server_that_comes_back(self, tmp_path: Path) -> None:
        async with nats_server(tmp_path / "nats") as port:
            client = await nats.connect(f"nats://127.0.0.1:{port}")
            await client.jetstream().add_stream(name="IOT", subjects=["iot.>"])
            await client.close()
            endpoint = NatsEndpoint("hub", NatsPlace((f"nats://127.0.0.1:{port}",), "iot.{device}", "IOT", None, None))
            await endpoint.deliver([event(1)])
        with pytest.raises(UnavailableError) as raised:
            await endpoint.deliver([event(2)])
        assert raised.value.reason == "endpoint-nats"
        async with nats_server(tmp_path / "nats", port=port):
            await endpoint.deliver([event(2)])
            await endpoint.close()

    async def test_only_who_is_verified_gets_anything(self, pki: Pki, tmp_path: Path) -> None:
        async with nats_server(tmp_path / "nats", pki.server("localhost")) as port:
            tls = https_context(pki.impostor().bundle)
            endpoint = NatsEndpoint("hub", NatsPlace((f"tls://localhost:{port}",), "iot.x", None, tls, None))
            with pytest.raises(UnavailableError, match="certificate verify failed"):
                await endpoint.deliver([event(1)])
            await endpoint.close()
