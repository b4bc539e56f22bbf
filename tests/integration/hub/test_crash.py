"""`edgetrust up` as a process that is killed: what it acknowledged is there, and it starts again as it was."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from pathlib import Path

import paho.mqtt.client as paho

from edgetrust.protocol.sas import resource_text, sign
from support.mosquitto import wait
from support.up import FAR, UpProcess, up

TOPIC = "devices/d1/messages/events/"


def device(hub: UpProcess, key: str) -> tuple[paho.Client, list[int], list[bytes]]:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "d1", clean_session=False, protocol=paho.MQTTv311)
    acknowledged: list[int] = []
    got: list[bytes] = []
    secret = sign(base64.b64decode(key), resource_text("localhost", "d1"), FAR)
    client.username_pw_set("localhost/d1/?api-version=2021-04-12", secret)
    client.tls_set(ca_certs=hub.ready["trust_bundle"])
    client.on_publish = lambda _c, _u, mid, _r, _p: acknowledged.append(mid)
    client.on_message = lambda _c, _u, message: got.append(message.payload)
    client._reconnect_on_failure = False
    client.max_inflight_messages_set(50)
    client.connect("localhost", hub.mqtt_port)
    client.loop_start()
    return client, acknowledged, got


async def test_everything_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    async with up(tmp_path / "hub") as hub:
        made = await hub.ask("PUT", "/devices/d1?api-version=2021-04-12", {"deviceId": "d1"})
        key = made["authentication"]["symmetricKey"]["primaryKey"]
        client, acknowledged, _ = device(hub, key)
        pid = hub.process.pid

        def acknowledge(_client: object, _user: object, mid: int, *_more: object) -> None:
            acknowledged.append(mid)
            if len(acknowledged) == 300:  # in the middle of it
                os.kill(pid, signal.SIGKILL)

        client.on_publish = acknowledge
        numbers = {client.publish(TOPIC, str(n), qos=1).mid: n for n in range(3000)}
        await asyncio.wait_for(hub.process.wait(), 60)
        client.loop_stop()
        known = {numbers[mid] for mid in acknowledged}
        assert len(known) < 3000
    async with up(tmp_path / "hub") as hub:
        stored: list[int] = []
        after = 0
        while page := await hub.ask("GET", f"/edgetrust/events?after={after}&limit=1000"):
            if not page["events"]:
                break
            stored += [int(event["bodyText"]) for event in page["events"]]
            after = page["next"]
        assert known <= set(stored)
        assert stored == sorted(stored)
        assert len(stored) == len(set(stored))


async def test_every_acknowledged_report_survives_kill_9(tmp_path: Path) -> None:
    async with up(tmp_path / "hub") as hub:
        made = await hub.ask("PUT", "/devices/d1?api-version=2021-04-12", {"deviceId": "d1"})
        client, acknowledged, _ = device(hub, made["authentication"]["symmetricKey"]["primaryKey"])
        topic = "$iothub/twin/PATCH/properties/reported/?$rid={}"
        numbers = {
            client.publish(topic.format(n), json.dumps({f"k{n}": n, "last": n}), qos=1).mid: n for n in range(60)
        }
        await wait(lambda: len(acknowledged) > 10)
        await hub.kill()  # in the middle of it
        client.loop_stop()
        known = {numbers[mid] for mid in acknowledged}
    async with up(tmp_path / "hub") as hub:
        twin = await hub.ask("GET", "/twins/d1?api-version=2021-04-12")
        reported = twin["properties"]["reported"]
        there = {value for name, value in reported.items() if name.startswith("k")}
        assert known <= there
        assert there == set(range(len(there)))  # in order, each whole
        assert reported["last"] == len(there) - 1
        assert reported["$version"] == 1 + len(there)


async def test_a_command_in_hand_comes_again_right_after_the_restart(tmp_path: Path) -> None:
    """Its lock is a minute long; the device must not wait for that, nor for the next message."""
    async with up(tmp_path / "hub") as hub:
        made = await hub.ask("PUT", "/devices/d1?api-version=2021-04-12", {"deviceId": "d1"})
        key = made["authentication"]["symmetricKey"]["primaryKey"]
        client, _, got = device(hub, key)
        client.manual_ack_set(True)
        client.subscribe("devices/d1/messages/devicebound/#", 1)
        await hub.ask("POST", "/devices/d1/messages/devicebound?api-version=2021-04-12", {"x": 1})
        await wait(lambda: got)
        await hub.kill()
        client.loop_stop()
    async with up(tmp_path / "hub") as hub:
        client, _, got = device(hub, key)
        await wait(lambda: got, 30)
        client.disconnect()
        client.loop_stop()


async def test_killed_at_any_moment_of_its_first_start(tmp_path: Path) -> None:
    """Whatever was written when it died, the next start makes good."""
    for milliseconds in (500, 700):
        directory = tmp_path / str(milliseconds)
        arguments = ["up", "--dir", str(directory), "--mqtt-port", "0", "--https-port", "0", "--json"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edgetrust.cli", *arguments, stdout=asyncio.subprocess.DEVNULL
        )
        await asyncio.sleep(milliseconds / 1000)
        process.kill()
        await process.wait()
        async with up(directory) as hub:
            assert (await hub.ask("GET", "/edgetrust/health"))["status"] == "ok"
