"""Devices at the hub, played by the mosquitto clients and by paho."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from edgetrust.protocol.mqtt.codec import encode
from edgetrust.protocol.mqtt.packets import Connect, Pingreq, Publish, Subscribe, Will
from support import pki as odd
from support.hub import NAME, VERSION, World, devices_pki, run, running, until
from support.mosquitto import credentials, device, identity, subscribed, wait
from support.surface import MOSQUITTO, PAHO, surface

TOPIC = "devices/d1/messages/events/"
C2D = "devices/d1/messages/devicebound/#"


async def publish(world: World, *arguments: str, who: str = "d1", **more: Any) -> tuple[int, str]:
    code, said = await run("mosquitto_pub", *credentials(world, who, **more), *arguments)
    return code, said.decode()


async def bodies(world: World) -> list[str]:
    return [event["bodyText"] for event in await world.events("after=0&limit=1000")]


class TestCredentials:
    @surface(MOSQUITTO, "connect-sas", "telemetry")
    async def test_sas(self, world: World) -> None:
        await world.create("d1")
        code, said = await publish(world, "-q", "1", "-t", TOPIC + "a=b%20c", "-m", "hello")
        assert code == 0, said
        (event,) = await world.events()
        assert (event["device"], event["bodyText"], event["properties"]) == ("d1", "hello", {"a": "b c"})
        assert '"type":"sas"' in event["authMethod"]

    async def test_module(self, world: World) -> None:
        await world.create("d1")
        await world.create_module("d1", "m1")
        topic = "devices/d1/modules/m1/messages/events/"
        assert (await publish(world, "-q", "1", "-t", topic, "-m", "x", who="d1/m1"))[0] == 0
        (event,) = await world.events()
        assert (event["device"], event["module"]) == ("d1", "m1")

    @surface(MOSQUITTO, "connect-thumbprint")
    @pytest.mark.parametrize("slot", [0, 1])
    @pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
    async def test_thumbprint(self, world: World, slot: int, algorithm: str) -> None:
        holder, other = odd.root("whoever", now=datetime.now(UTC)), devices_pki().device("d1")
        prints = [other.chain.thumbprint("sha256").hex()] * 2
        prints[slot] = holder.chain.thumbprint(algorithm).hex()  # type: ignore[arg-type]
        names = dict(zip(("primaryThumbprint", "secondaryThumbprint"), prints, strict=True))
        await world.create("d1", authentication={"type": "selfSigned", "x509Thumbprint": names})
        file = identity(holder, world.directory)
        code, said = await publish(world, "-q", "1", "-t", TOPIC, "-m", "x", show=file)
        assert code == 0, said
        (event,) = await world.events()
        assert '"type":"x509Certificate"' in event["authMethod"]

    @surface(MOSQUITTO, "connect-ca")
    async def test_authority(self, world: World) -> None:
        pki = devices_pki()
        await world.trust(pki.root)
        await world.create("d1", authentication={"type": "certificateAuthority"})
        file = identity(pki.device("d1"), world.directory)
        assert (await publish(world, "-q", "1", "-t", TOPIC, "-m", "x", show=file))[0] == 0
        (event,) = await world.events()
        assert '"type":"x509Authority"' in event["authMethod"]

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            ("expired", "certificate-expired"),
            ("unknown", "thumbprint-mismatch"),
            ("same subject", "thumbprint-unknown-subject-known"),
            ("no certificate", "no-credential"),
            ("password", "sas-malformed"),
        ],
    )
    async def test_refused_after_the_handshake(self, world: World, wrong: str, reason: str) -> None:
        pki = devices_pki()
        right = pki.device("d1")
        shown = {
            "expired": pki.device("d1", **odd.EXPIRED),
            "unknown": pki.device("intruder"),
            "same subject": pki.device("d1", serial=7),
        }.get(wrong)
        await world.by_thumbprint("d1", shown if wrong == "expired" and shown else right)
        file = None if shown is None else identity(shown, world.directory)
        password = "secret" if wrong == "password" else None
        code, said = await publish(world, "-q", "1", "-t", TOPIC, "-m", "x", show=file, password=password)
        assert code == 5, said
        assert "not authorised" in said.lower()
        record = (await world.refusals())[0]
        assert (record["reason"], record["identity"], record["place"]) == (reason, "d1", "hub-mqtt")
        assert record["peer"].startswith("127.0.0.1:")
        assert await world.events() == []

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            (odd.SERVER_ONLY, "chain-wrong-usage"),
            (odd.EXPIRED, "certificate-expired"),
            (odd.NOT_YET_VALID, "certificate-not-yet-valid"),
            ({}, "cn-mismatch"),
        ],
    )
    async def test_refused_by_authority(self, world: World, wrong: dict[str, Any], reason: str) -> None:
        pki = devices_pki()
        await world.trust(pki.root)
        await world.create("d1", authentication={"type": "certificateAuthority"})
        holder = pki.device("d1" if wrong else "D1", **wrong)
        code, _ = await publish(world, "-t", TOPIC, "-m", "x", show=identity(holder, world.directory))
        assert code == 5
        assert (await world.refusals())[0]["reason"] == reason

    async def test_an_unverified_ca_and_another_ca(self, world: World) -> None:
        pki = devices_pki()
        body = {"properties": {"certificate": pki.root.chain.pem(), "isVerified": False}}
        assert (await world.ask("PUT", "/certificates/ca", body)).status == 201
        await world.create("d1", authentication={"type": "certificateAuthority"})
        file = identity(pki.device("d1"), world.directory)
        assert (await publish(world, "-t", TOPIC, "-m", "x", show=file))[0] == 5
        await world.trust(pki.impostor().root, "other")
        assert (await publish(world, "-t", TOPIC, "-m", "x", show=file))[0] == 5
        reasons = {record["reason"] for record in await world.refusals()}
        assert reasons <= {"chain-untrusted", "chain-broken", "chain-intermediate-missing"}

    @pytest.mark.parametrize(
        ("user_name", "code"),
        [
            (f"{NAME}/d1/?x=1", 4),
            ("d1", 4),
            (f"other/d1/?{VERSION}", 5),
            (f"{NAME}/d2/?{VERSION}", 2),
            (f"{NAME.upper()}:8883/d1/{VERSION}", 0),
            (f"127.0.0.1/d1/?{VERSION}", 0),
        ],
    )
    async def test_user_names(self, world: World, user_name: str, code: int) -> None:
        await world.create("d1")
        with device(world, "d1", user_name=user_name) as client:
            await wait(lambda: client.code is not None)
            assert client.code == code


async def test_the_chain_that_devices_see(world: World) -> None:
    """The end entity and its issuer, not the root; any client certificate is let through, and no CA is named."""
    file = identity(odd.root("stranger", now=datetime.now(UTC)), world.directory)
    connect = ["openssl", "s_client", "-connect", f"127.0.0.1:{world.mqtt_port}", "-CAfile", str(world.root)]
    for version in ("-tls1_2", "-tls1_3"):
        options = ["-verify_hostname", NAME, "-verify_return_error", "-showcerts", version]
        code, said = await run(*connect, *options, "-cert", str(file), "-key", str(file), say=b"")
        text = said.decode()
        assert code == 0, text
        assert text.count("BEGIN CERTIFICATE") == 2
        assert "Verify return code: 0 (ok)" in text
        assert "No client certificate CA names sent" in text


class TestWebSocket:
    """MQTT on the HTTPS port: the same door."""

    @surface(PAHO, "websocket", "telemetry")
    async def test_sas(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1", websocket=True) as client:
            await wait(lambda: client.code == 0)
            client.client.publish(TOPIC, b"through the web", qos=1)
            await wait(lambda: client.acknowledged)
        assert await bodies(world) == ["through the web"]

    async def test_certificate(self, world: World) -> None:
        pki = devices_pki()
        await world.by_thumbprint("d1", pki.device("d1"))
        with device(world, "d1", websocket=True, show=identity(pki.device("d1", serial=9), world.directory)) as wrong:
            await wait(lambda: wrong.code is not None)
            assert wrong.code == 5

    async def test_disabled(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1", websocket=True) as client:
            await wait(lambda: client.code == 0)
            await world.ask("PUT", "/devices/d1", {"deviceId": "d1", "status": "disabled"}, If_Match="*")
            await wait(lambda: client.lost is not None)

    async def test_faults_are_on_record(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1", websocket=True) as client:
            await wait(lambda: client.code == 0)
            client.client.publish(TOPIC, b"x", qos=2)
            await wait(lambda: client.lost is not None)
        record = (await world.refusals())[0]
        assert (record["reason"], record["identity"]) == ("protocol-violation", "d1")
        assert record["peer"].startswith("127.0.0.1")


class TestMessages:
    async def test_many_at_both_qualities_in_order(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            sent = [client.client.publish(TOPIC, str(n), qos=n % 2) for n in range(200)]
            await wait(lambda: len(client.acknowledged) == len(sent))
        assert await bodies(world) == [str(n) for n in range(200)]

    async def test_from_standard_input(self, world: World) -> None:
        await world.create("d1")
        lines = "".join(f"line {n}\n" for n in range(50)).encode()
        code, _ = await run("mosquitto_pub", *credentials(world, "d1"), "-q", "1", "-t", TOPIC, "-l", say=lines)
        assert code == 0
        assert await bodies(world) == [f"line {n}" for n in range(50)]

    async def test_retain_is_a_property(self, world: World) -> None:
        await world.create("d1")
        await publish(world, "-q", "1", "-r", "-t", TOPIC, "-m", "x")
        (event,) = await world.events()
        assert event["properties"] == {"mqtt-retain": "true"}

    @pytest.mark.parametrize("size", [0, 1, 262_144])
    async def test_sizes(self, world: World, size: int) -> None:
        await world.create("d1")
        file = world.directory / "body"
        file.write_bytes(b"x" * size)
        body = ("-f", str(file)) if size else ("-n",)
        assert (await publish(world, "-q", "1", "-t", TOPIC, *body))[0] == 0
        (event,) = await world.events()
        assert len(event["bodyText"]) == size

    async def test_too_large_closes(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            client.client.publish(TOPIC, b"x" * 400_000, qos=1)
            await wait(lambda: client.lost is not None)
        assert await world.events() == []
        assert (await world.refusals())[0]["reason"] == "protocol-violation"

    @pytest.mark.parametrize("topic", ["devices/d2/messages/events/", "anything", "$SYS/x"])
    async def test_foreign_topics_close(self, world: World, topic: str) -> None:
        await world.create("d1")
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            client.client.publish(topic, b"x", qos=1)
            await wait(lambda: client.lost is not None)
            assert client.acknowledged == []
        assert await world.events() == []
        assert (await world.refusals())[0]["reason"] in ("protocol-violation", "not-authorized")

    async def test_quality_2_closes(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            client.client.publish(TOPIC, b"x", qos=2)
            await wait(lambda: client.lost is not None)
        assert (await world.refusals())[0]["checks"][0]["detail"].startswith("mqtt-qos-2")


class TestSessions:
    async def test_a_second_connection_closes_the_first(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1") as first:
            await wait(lambda: first.code == 0)
            with device(world, "d1") as second:
                await wait(lambda: first.lost is not None and second.code == 0)
                second.client.publish(TOPIC, b"from the second", qos=1)
                await wait(lambda: second.acknowledged)
        assert await bodies(world) == ["from the second"]

    async def test_a_wrong_connect_does_not(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1") as good:
            await wait(lambda: good.code == 0)
            for password in ("wrong", world.token("d1", seconds=-1000), None):
                assert (await publish(world, "-t", TOPIC, "-m", "x", password=password))[0] == 5
            good.client.publish(TOPIC, b"still here", qos=1)
            await wait(lambda: good.acknowledged)
            assert good.lost is None

    async def test_presence(self, world: World) -> None:
        await world.create("d1")

        async def shown(state: str) -> bool:
            return bool((await world.ask("GET", "/devices/d1")).json["connectionState"] == state)

        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            await until(lambda: shown("Connected"))
            assert (await world.ask("GET", "/statistics/service")).json == {"connectedDeviceCount": 1}
        await until(lambda: shown("Disconnected"))

    async def test_silence_beyond_the_keep_alive(self, world: World) -> None:
        """A client that says nothing for one and a half times its keep alive is closed, and its will is sent."""
        await world.create("d1")
        reader, writer = await connected(world, keep_alive=1)
        begun = asyncio.get_running_loop().time()
        assert await asyncio.wait_for(reader.read(100), 60) == b""
        assert asyncio.get_running_loop().time() - begun > 1.3
        writer.close()

        async def sent() -> bool:
            return await bodies(world) == ["will"]

        await until(sent)

    async def test_a_ping_keeps_it(self, world: World) -> None:
        await world.create("d1")
        reader, writer = await connected(world, keep_alive=1)
        for _ in range(4):
            await asyncio.sleep(0.6)
            writer.write(encode(Pingreq()))
            assert await asyncio.wait_for(reader.readexactly(2), 60) == b"\xd0\x00"
        writer.close()

    async def test_the_will(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1", will=(TOPIC + "why=lost", b"gone", 1)) as client:
            await wait(lambda: client.code == 0)
            client.cut()
            await wait(lambda: client.lost is not None)
        async with asyncio.timeout(60):
            while not (found := await world.events()):
                await asyncio.sleep(0.02)
        assert found[0]["bodyText"] == "gone"
        assert found[0]["properties"] == {"why": "lost", "iothub-MessageType": "Will"}

    async def test_no_will_after_disconnect(self, world: World) -> None:
        await world.create("d1")
        code, _ = await publish(
            world, "-q", "1", "-t", TOPIC, "-m", "x", "--will-topic", TOPIC, "--will-payload", "gone"
        )
        assert code == 0
        await asyncio.sleep(0.2)
        assert await bodies(world) == ["x"]

    async def test_it_is_there_after_a_restart_of_the_hub(self, world: World, hub_pki: Any) -> None:
        await world.create("d1")
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            client.client.subscribe(C2D, 1)
            await wait(lambda: client.granted)
        await world.hub.stop()
        async with running(world.directory, hub_pki, clock=world.clock) as again:
            again.keys = world.keys
            await again.ask("POST", "/devices/d1/messages/devicebound", b"hello again")
            with device(again, "d1") as client:
                await wait(lambda: client.got)
                assert client.present
                assert client.got[0].payload == b"hello again"


class TestCommands:
    @surface(MOSQUITTO, "c2d")
    async def test_to_mosquitto(self, world: World) -> None:
        await world.create("d1")
        await world.ask("POST", "/devices/d1/messages/devicebound", b"queued", iothub_app_colour="deep%20blue")

        async def nothing_waits() -> bool:
            waiting: int = (await world.ask("GET", "/devices/d1")).json["cloudToDeviceMessageCount"]
            return waiting == 0

        arguments = [*credentials(world, "d1"), "-q", "1", "-t", C2D, "-F", "%t|%q|%r|%p", "-c"]
        async with subscribed(*arguments) as client:
            await wait(lambda: client.has("queued"))
            await world.ask("POST", "/devices/d1/messages/devicebound", b"live", iothub_messageid="m/1")
            await wait(lambda: client.has("live"))
            await until(nothing_waits)
        lines = [line for line in client.lines if line.startswith("devices/")]
        to = "%24.to=%2Fdevices%2Fd1%2Fmessages%2Fdevicebound"
        assert lines == [
            f"devices/d1/messages/devicebound/colour=deep%20blue&{to}|1|0|queued",
            f"devices/d1/messages/devicebound/%24.mid=m%2F1&{to}|1|0|live",
        ]

    async def test_quality_0_is_not_exceeded(self, world: World) -> None:
        await world.create("d1")
        await world.ask("POST", "/devices/d1/messages/devicebound", b"queued")
        arguments = [*credentials(world, "d1"), "-q", "0", "-t", C2D, "-F", "%q|%p", "-C", "1"]
        async with subscribed(*arguments) as client:
            await wait(lambda: client.has("0|queued"))

    async def test_what_was_not_acknowledged_comes_again(self, world: World) -> None:
        await world.create("d1")
        await world.ask("POST", "/devices/d1/messages/devicebound", b"again")
        reader, writer = await connected(world, keep_alive=60)
        writer.write(encode(Subscribe(1, ((C2D, 1),))))
        assert b"again" in await asyncio.wait_for(read_until(reader, b"again"), 60)
        writer.transport.abort()
        with device(world, "d1") as client:
            await wait(lambda: client.got)
            assert (client.got[0].payload, client.got[0].dup) == (b"again", True)

    async def test_taken_over_with_a_command_in_hand(self, world: World) -> None:
        """The old connection never acknowledged: the new one gets the message at once, not after the lock."""
        await world.create("d1")
        reader, writer = await connected(world, keep_alive=60)
        writer.write(encode(Subscribe(1, ((C2D, 1),))))
        await world.ask("POST", "/devices/d1/messages/devicebound", b"mine")
        await asyncio.wait_for(read_until(reader, b"mine"), 60)
        with device(world, "d1") as client:
            await wait(lambda: client.got, 30)  # half as long as the lock
            assert [message.payload for message in client.got] == [b"mine"]
        writer.close()


class TestDecidedAgain:
    """A change at the registry reaches an open connection within a second."""

    async def gone(self, client: Any) -> None:
        await wait(lambda: client.lost is not None)

    async def refused(self, world: World, reason: str) -> None:
        record = (await world.refusals())[0]
        assert (record["identity"], record["reason"]) == ("d1", reason)

    async def test_disabled(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            await world.ask("PUT", "/devices/d1", {"deviceId": "d1", "status": "disabled"}, If_Match="*")
            await self.gone(client)
        await self.refused(world, "disabled")
        with device(world, "d1") as client:
            await wait(lambda: client.code is not None)
            assert client.code == 5

    async def test_deleted(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            await world.ask("DELETE", "/devices/d1")
            await self.gone(client)
        await self.refused(world, "unknown-identity")

    async def test_a_module_with_its_device(self, world: World) -> None:
        await world.create("d1")
        await world.create_module("d1", "m1")
        with device(world, "d1/m1") as client:
            await wait(lambda: client.code == 0)
            await world.ask("PUT", "/devices/d1", {"deviceId": "d1", "status": "disabled"}, If_Match="*")
            await self.gone(client)
        assert (await world.refusals())[0]["reason"] == "device-disabled"

    async def test_key_rolled(self, world: World) -> None:
        made = await world.create("d1")
        keys = made["authentication"]["symmetricKey"]

        async def roll(primary: str, secondary: str) -> None:
            both = {"primaryKey": primary, "secondaryKey": secondary}
            body = {"deviceId": "d1", "authentication": {"type": "sas", "symmetricKey": both}}
            assert (await world.ask("PUT", "/devices/d1", body, If_Match="*")).status == 200

        other = "b3RoZXIga2V5LCBsb25nIGVub3VnaCE="
        with device(world, "d1") as client:
            await wait(lambda: client.code == 0)
            await roll(keys["primaryKey"], other)  # the other key: no reason to go
            await asyncio.sleep(0.3)
            assert client.lost is None
            await roll(other, keys["primaryKey"])  # now it is the secondary one
            await asyncio.sleep(0.3)
            assert client.lost is None
            await roll(other, other)
            await self.gone(client)
        await self.refused(world, "sas-signature-mismatch")

    async def test_thumbprint_removed(self, world: World) -> None:
        pki = devices_pki()
        first, second = pki.device("d1"), pki.device("d1", serial=2)
        await world.by_thumbprint("d1", first, second)
        with device(world, "d1", show=identity(second, world.directory)) as client:
            await wait(lambda: client.code == 0)
            slots = {"primaryThumbprint": first.chain.thumbprint("sha256").hex(), "secondaryThumbprint": None}
            body = {"deviceId": "d1", "authentication": {"type": "selfSigned", "x509Thumbprint": slots}}
            assert (await world.ask("PUT", "/devices/d1", body, If_Match="*")).status == 200
            await self.gone(client)
        await self.refused(world, "thumbprint-unknown-subject-known")

    async def test_ca_retired(self, world: World) -> None:
        pki = devices_pki()
        etag = await world.trust(pki.root)
        await world.create("d1", authentication={"type": "certificateAuthority"})
        with device(world, "d1", show=identity(pki.device("d1"), world.directory)) as client:
            await wait(lambda: client.code == 0)
            assert (await world.ask("DELETE", "/certificates/ca", If_Match=etag)).status == 204
            await self.gone(client)
        assert (await world.refusals())[0]["reason"].startswith("chain-")

    async def test_token_expired(self, world: World) -> None:
        await world.create("d1")
        with device(world, "d1", password=world.token("d1", seconds=10)) as client:
            await wait(lambda: client.code == 0)
            world.clock.advance(300)
            await asyncio.sleep(1.2)
            assert client.lost is None  # the grace of five minutes
            world.clock.advance(11)
            await wait(lambda: client.lost is not None)

    async def test_certificate_expired(self, world: World) -> None:
        pki = devices_pki()
        holder = pki.device("d1")
        await world.by_thumbprint("d1", holder)
        with device(world, "d1", show=identity(holder, world.directory)) as client:
            await wait(lambda: client.code == 0)
            world.clock.jump(holder.certificate.not_valid_after_utc)
            await wait(lambda: client.lost is not None)

    async def test_nobody_else_is_touched(self, world: World) -> None:
        await world.create("d1")
        await world.create("d2")
        with device(world, "d2") as other:
            await wait(lambda: other.code == 0)
            await world.ask("PUT", "/devices/d1", {"deviceId": "d1", "status": "disabled"}, If_Match="*")
            await world.ask("DELETE", "/devices/d1")
            await asyncio.sleep(0.3)
            assert other.lost is None


class TestBadInput:
    """Before authentication: closed, on record, and nothing held."""

    FIRST: ClassVar[list[tuple[str, bytes, str]]] = [
        ("PUBLISH", encode(Publish(TOPIC, b"x")), "mqtt-connect-expected"),
        ("PINGREQ", encode(Pingreq()), "mqtt-connect-expected"),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n", "mqtt-"),
        ("zeros", bytes(64), "mqtt-"),
        ("endless length", b"\x10\xff\xff\xff\xff\xff", "mqtt-"),
        ("larger than allowed", b"\x10\xff\xff\xff\x7f" + bytes(20_000), "mqtt-"),
        ("another protocol", b"\x10\x0f\x00\x03ABC\x04\x02\x00\x3c\x00\x02d1\x00\x00", "mqtt-"),
        ("empty will topic", b"\x10\x0c\x00\x04MQTT\x04\x06\x00\x3c\x00\x00", "mqtt-"),
    ]

    @pytest.mark.parametrize(("first", "fault"), [row[1:] for row in FIRST], ids=[row[0] for row in FIRST])
    async def test_first_packets(self, world: World, first: bytes, fault: str) -> None:
        reader, writer = await tls(world)
        writer.write(first)
        answer = await asyncio.wait_for(reader.read(100), 60)
        assert answer in (b"", b"\x20\x02\x00\x01")
        writer.close()
        (record,) = await world.refusals()
        assert record["reason"] == "protocol-violation"
        assert record["checks"][0]["detail"].startswith(fault)
        assert record["peer"].startswith("127.0.0.1:")

    async def test_second_connect(self, world: World) -> None:
        await world.create("d1")
        reader, writer = await connected(world)
        writer.write(encode(Connect("d1", f"{NAME}/d1/?{VERSION}", world.token("d1").encode())))
        assert await asyncio.wait_for(reader.read(100), 60) == b""
        writer.close()
        (record,) = await world.refusals()
        assert record["checks"][0]["detail"].startswith("mqtt-second-connect")
        assert record["identity"] == "d1"

    async def test_mqtt_3_1(self, world: World) -> None:
        await world.create("d1")
        code, said = await publish(world, "-V", "mqttv31", "-t", "x", "-m", "x")
        assert code == 1, said
        assert (await world.refusals())[0]["checks"][0]["detail"].startswith("mqtt-protocol-level")

    async def test_random_bytes(self, world: World) -> None:
        """A hundred strangers with noise; then a good client connects as ever."""
        noise = random.Random(7)

        async def stranger() -> None:
            reader, writer = await tls(world)
            writer.write(noise.randbytes(noise.randrange(1, 5000)))
            with contextlib.suppress(TimeoutError, ConnectionError):
                await asyncio.wait_for(reader.read(), 0.5)
            writer.close()

        await asyncio.gather(*(stranger() for _ in range(60)))
        await world.create("d1")
        assert (await publish(world, "-q", "1", "-t", TOPIC, "-m", "x"))[0] == 0

    async def test_no_tls(self, world: World) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.mqtt_port)
        writer.write(encode(Connect("d1", f"{NAME}/d1/?{VERSION}", b"x")))
        answer = await asyncio.wait_for(reader.read(100), 60)
        assert not answer.startswith(b"\x20")
        writer.close()

    @pytest.mark.parametrize("name", ["d#1", "d+1"])
    async def test_wildcards_in_a_registered_name(self, world: World, name: str) -> None:
        await world.create(name)
        with device(world, name) as client:
            await wait(lambda: client.code is not None)
            assert client.code == 4
        assert (await world.refusals())[0]["reason"] == "user-name-malformed"


async def tls(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context(cafile=str(world.root))
    return await asyncio.open_connection(NAME, world.mqtt_port, ssl=context, family=socket.AF_INET)


async def connected(world: World, keep_alive: int = 60) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client by hand, with a will, CleanSession 0."""
    reader, writer = await tls(world)
    packet = Connect("d1", f"{NAME}/d1/?{VERSION}", world.token("d1").encode(), False, keep_alive, Will(TOPIC, b"will"))
    writer.write(encode(packet))
    assert (await asyncio.wait_for(reader.readexactly(4), 60))[3] == 0
    return reader, writer


async def read_until(reader: asyncio.StreamReader, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        part = await reader.read(4096)
        assert part, seen
        seen += part
    return seen
