"""The gateway's HTTPS port: MQTT over WebSocket as a device, and whether the gateway is up."""

from __future__ import annotations

import json
import ssl
import threading
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from support.edge_world import HUB_NAME, Story, write_holder
from support.pki import Holder, self_signed

SECONDS = 60


def https_port(story: Story) -> int:
    return int(story.gateway.ready["gateway"]["https_port"])


def by_websocket(story: Story, device: str, holder: Holder, path: str, folder: Path) -> tuple[int, bool]:
    """The reason code of the CONNACK, and whether a message was acknowledged."""
    connected, acknowledged = threading.Event(), threading.Event()
    codes: list[int] = []
    client = paho.Client(
        paho.CallbackAPIVersion.VERSION2, client_id=device, protocol=paho.MQTTv311, transport="websockets"
    )
    client.ws_set_options(path=path)
    client.username_pw_set(f"{HUB_NAME}/{device}/?api-version=2021-04-12", None)
    context = ssl.create_default_context(cafile=str(story.gateway.trust))
    certificate, key = write_holder(folder, "websocket", holder)
    context.load_cert_chain(certificate, key)
    client.tls_set_context(context)

    def on_connect(_client: object, _user: object, _flags: object, code: paho.ReasonCode, _more: object) -> None:
        codes.append(code.value)
        connected.set()

    client.on_connect = on_connect
    client.on_publish = lambda *_: acknowledged.set()
    client._reconnect_on_failure = False
    client.connect_async(story.gateway.hostname, https_port(story), 60)
    client.loop_start()
    try:
        assert connected.wait(SECONDS)
        if codes[0]:
            return codes[0], False
        client.publish(f"devices/{device}/messages/events/", "by websocket", qos=1)
        return codes[0], acknowledged.wait(SECONDS)
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.parametrize("path", ["/$iothub/websocket", "/whatever"])
def test_a_device_by_websocket(shared: Story, tmp_path: Path, path: str) -> None:
    assert by_websocket(shared, "TempSensor", shared.sensor, path, tmp_path) == (0, True)
    shared.world.wait_for_events(["by websocket"], "TempSensor")


def test_the_same_door(shared: Story, tmp_path: Path) -> None:
    impostor = self_signed("Impostor", now=shared.world.pki.now)
    code, _ = by_websocket(shared, "TempSensor", impostor, "/$iothub/websocket", tmp_path)
    assert code == 135  # paho's word for CONNACK 5
    assert "thumbprint-mismatch" in shared.gateway.text()


def test_whether_it_is_up(shared: Story) -> None:
    status, body = shared.gateway.curl("/edgetrust/health")
    assert (status, json.loads(body)["status"]) == (200, "ok")


def test_what_is_not_offered(shared: Story) -> None:
    assert shared.gateway.curl("/devices")[0] == 404
    upgrade = ("-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13")
    other = ("-H", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "-H", "Sec-WebSocket-Protocol: chat", "--http1.1")
    assert shared.gateway.curl("/$iothub/websocket", *upgrade, *other)[0] == 400
