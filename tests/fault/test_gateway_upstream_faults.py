"""The way from a gateway to its hub fails in every way there is: devices are served meanwhile, the reason is said, and
when it is over everything arrives, in order.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from edgetrust.clock import ManualClock
from edgetrust.edge import gateway as gateway_module
from edgetrust.edge import hubside, upstream
from edgetrust.errors import UnavailableError
from edgetrust.hub.pki import HubPki
from edgetrust.telemetry import EVENT_MESSAGE_DROPPED, EVENT_UPSTREAM_LOST, MESSAGES_REPEATED
from support.gateway_field import GATEWAY, SENSOR, Field, field, is_connected
from support.hub import new_pki, running, until
from support.pki import Pki
from support.raw_mqtt import PUBACK, Raw, publish


@pytest.fixture(scope="module")
def hub_pki(tmp_path_factory: pytest.TempPathFactory) -> HubPki:
    return new_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "UPSTREAM_RETRY_SECONDS", (0.05, 0.1))
    monkeypatch.setattr(hubside, "UPSTREAM_KEEP_ALIVE_SECONDS", 1)
    monkeypatch.setattr(hubside, "SCOPE_WATCH_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(gateway_module, "_TICK_SECONDS", 0.1)


@pytest.fixture
async def stranger() -> AsyncIterator[int]:
    """A TLS server of the hub's name whose certificate nobody has asked for; its port."""
    holder = Pki(datetime.now(UTC), root_name="Stranger").server("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(holder.chain.pem().encode() + holder.key_pem())
        context.load_cert_chain(file.name)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=context)
    yield int(server.sockets[0].getsockname()[1])
    server.close()


# The fault, and what the gateway says of the connection that it has ended.
FAULTS = {
    "forget": "the server does not answer PINGREQ",
    "half-close": "without the end of TLS",
    "reset": "Connection reset",
    "garble": "TLS failed",
    "other": "Connection reset",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_devices_are_served_and_everything_arrives_afterwards(
    tmp_path: Path, hub_pki: HubPki, stranger: int, fault: str
) -> None:
    async with running(tmp_path / "hub", hub_pki) as hub, field(tmp_path, hub_pki, hub) as made:
        made.mqtt.other = made.https.other = stranger
        sensor = await made.device()
        await made.send(sensor)
        await until(made.all_arrived)
        with structlog.testing.capture_logs() as logs:
            made.fail(fault)
            for _ in range(5):
                await made.send(sensor)
            await until(lambda: not is_connected(made))
            again = await made.device()  # accepted from the copy
            await made.send(again)
            await until(lambda: any(one["event"] == EVENT_UPSTREAM_LOST for one in logs))
        lost = next(one for one in logs if one["event"] == EVENT_UPSTREAM_LOST)
        assert lost["reason"] == "connection-lost"
        assert FAULTS[fault] in lost["detail"]
        assert (await made.gateway.state())["upstream"]["problem"]
        if fault != "garble":  # there the hub hears, and is not heard
            assert await made.at_hub() == [1]
        made.fail("through")
        await until(made.all_arrived)
        await until(lambda: is_connected(made))
        again.abort()
        sensor.abort()


async def test_what_is_sent_again_by_device_and_gateway_is_at_the_hub_once(
    tmp_path: Path, hub_pki: HubPki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With message ids. The gateway cannot take what the hub has from its queue, and then does not know of it any more,
    as after SIGKILL: it sends all of it again.
    """

    async def full(offsets: list[int]) -> None:
        raise UnavailableError("the disk is full", reason="store-full")

    async with running(tmp_path / "hub", hub_pki) as hub, field(tmp_path, hub_pki, hub) as made:

        def telling(number: int, *, dup: bool = False) -> bytes:
            return publish(f"devices/{SENSOR}/messages/events/%24.mid=id{number}", b"%d" % number, number, dup=dup)

        async def acknowledged(raw: Raw, *packet_ids: int) -> None:
            async with asyncio.timeout(60):
                for packet_id in packet_ids:
                    assert await raw.read() == (PUBACK, packet_id.to_bytes(2, "big"))

        async def bodies() -> list[int]:
            return [int(one["bodyText"]) for one in await hub.events() if one["device"] == SENSOR]

        async def are_there(count: int) -> bool:
            return len(await bodies()) >= count

        counted = MESSAGES_REPEATED._value.get()
        with monkeypatch.context() as patched:
            patched.setattr(made.gateway._stored.queue.lane("$upstream"), "ack", full)
            sensor = await made.device()
            for number in (1, 2, 3):
                sensor.writer.write(telling(number))
            await acknowledged(sensor, 1, 2, 3)
            await until(partial(are_there, 3))
            made.fail("reset")
            await until(lambda: not is_connected(made))
            way = made.gateway._hub_side.upstream
            assert way is not None
            way._arrived.clear()
        sensor.abort()
        again = await made.device()
        again.writer.write(b"".join(telling(number, dup=True) for number in (1, 2, 3, 4)))
        await acknowledged(again, 1, 2, 3, 4)
        assert (await made.gateway.state())["queue"]["messages"] == 4
        made.fail("through")
        await until(partial(are_there, 4))
        await until(lambda: is_connected(made))
        assert await bodies() == [1, 2, 3, 4]
        assert made.gateway.metrics.repeated.values == {(SENSOR,): 3}
        assert MESSAGES_REPEATED._value.get() - counted == 3
        again.abort()


async def test_a_hub_that_answers_slowly_is_waited_for(tmp_path: Path, hub_pki: HubPki) -> None:
    async with running(tmp_path / "hub", hub_pki) as hub, field(tmp_path, hub_pki, hub) as made:
        sensor = await made.device()
        made.fail("slow")
        for _ in range(20):
            await made.send(sensor)
        await until(made.all_arrived)
        assert is_connected(made)
        sensor.abort()


async def test_a_stranger_gets_nothing(tmp_path: Path, hub_pki: HubPki, stranger: int) -> None:
    """Whoever has another certificate is named as what is wrong, and no credential was shown to them."""
    async with running(tmp_path / "hub", hub_pki) as hub, field(tmp_path, hub_pki, hub) as made:
        made.mqtt.other = made.https.other = stranger
        with structlog.testing.capture_logs() as logs:
            made.fail("other")
            await until(lambda: lost_for(logs, "not trusted"))
        assert not is_connected(made)
        made.fail("through")
        await until(lambda: is_connected(made))


async def test_an_older_registry_is_believed(tmp_path: Path, hub_pki: HubPki) -> None:
    """A hub restored from a backup has never heard of a newer device: its connection ends, its messages are dropped
    loudly, and nobody else's are held up.
    """
    async with AsyncExitStack() as open_now:
        first = AsyncExitStack()
        hub = await first.enter_async_context(running(tmp_path / "hub", hub_pki))
        made = await open_now.enter_async_context(field(tmp_path, hub_pki, hub))
        keys, backup = hub.keys, tmp_path / "backup.sqlite"
        made.fail("forget")
        await first.aclose()
        shutil.copy(tmp_path / "hub" / "hub.sqlite", backup)

        second = AsyncExitStack()
        hub = await second.enter_async_context(running(tmp_path / "hub", hub_pki))
        hub.keys.update(keys)
        made.hub, made.mqtt.target, made.https.target = hub, hub.mqtt_port, hub.hub.https_port
        made.fail("through")
        await until(lambda: is_connected(made))
        await hub.create("newer", deviceScope=await hub.scope_of(GATEWAY))
        keys = hub.keys
        sensor, newer = await made.device(), await made.device("newer")
        made.fail("forget")
        await until(lambda: not is_connected(made))
        await second.aclose()
        await made.send(newer, "newer")
        await made.send(sensor)

        shutil.copy(backup, tmp_path / "hub" / "hub.sqlite")
        for leftover in ("hub.sqlite-wal", "hub.sqlite-shm"):
            (tmp_path / "hub" / leftover).unlink(missing_ok=True)
        hub = await open_now.enter_async_context(running(tmp_path / "hub", hub_pki))
        hub.keys.update(keys)
        made.hub, made.mqtt.target, made.https.target = hub, hub.mqtt_port, hub.hub.https_port
        with structlog.testing.capture_logs() as logs:
            made.fail("through")
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(60):
                    await newer.read()
            await until(lambda: has(made, [2]))
        assert [one["device"] for one in logs if one["event"] == EVENT_MESSAGE_DROPPED] == ["newer"]
        with pytest.raises(ConnectionError, match=r"not accepted: 2 b'\\x00\\x05'"):
            await made.device("newer")
        await made.send(sensor)
        await until(lambda: has(made, [2, 3]))
        sensor.abort()


def lost_for(logs: Sequence[Mapping[str, Any]], why: str) -> bool:
    return any(one["event"] == EVENT_UPSTREAM_LOST and why in one["detail"] for one in logs)


async def has(made: Field, wanted: list[int]) -> bool:
    return await made.at_hub() == wanted


async def test_a_clock_that_jumps_back_a_day_costs_the_connection_and_no_message(
    tmp_path: Path, hub_pki: HubPki
) -> None:
    """By a clock of yesterday the hub's certificate is not valid yet: that is said, until the clock is right again."""
    clock = ManualClock(datetime.now(UTC))
    async with running(tmp_path / "hub", hub_pki) as hub, field(tmp_path, hub_pki, hub, clock) as made:
        sensor = await made.device()
        await made.send(sensor)
        await until(made.all_arrived)
        clock.jump(clock.now() - timedelta(days=1))
        await made.send(sensor)
        await until(made.all_arrived)  # the open connection is as good as it was
        with structlog.testing.capture_logs() as logs:
            made.fail("reset")
            made.fail("through")
            await until(
                lambda: any(one["event"] == EVENT_UPSTREAM_LOST and "valid" in one["detail"] for one in logs), 10
            )
        await made.send(sensor)
        again = await made.device()
        await made.send(again)
        assert not is_connected(made)
        clock.jump(clock.now() + timedelta(days=1))
        await until(made.all_arrived)
        for raw in (sensor, again):
            raw.abort()


async def test_a_clock_that_jumps_forward_ends_what_has_ended(tmp_path: Path, hub_pki: HubPki) -> None:
    """Two hours later the device's token is over: its session ends, and a new token is accepted."""
    clock = ManualClock(datetime.now(UTC))
    async with running(tmp_path / "hub", hub_pki) as hub, field(tmp_path, hub_pki, hub, clock) as made:
        sensor = await made.device()
        await made.send(sensor)
        clock.advance(7_200)
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(60):
                await sensor.read()
        with pytest.raises(ConnectionError, match="not accepted"):
            await made.device()
        token = hub.token(SENSOR, seconds=9_000)
        again = await Raw.connect(made.gateway.mqtt_port, made.root, SENSOR, token)
        await made.send(again)
        await until(made.all_arrived)
        again.abort()
