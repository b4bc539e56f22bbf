"""azure-iot-device when its connection is cut, its token renewed or its hub killed: it goes on, and nothing that was
acknowledged is lost.
"""

from __future__ import annotations

import signal
import time

from edgetrust.limits import CLOSE_SECONDS
from support.azure import Sdk
from support.pki import self_signed
from support.processes import HUB, MQTT, Contoso, Device, wait_for
from support.surface import PYTHON_DEVICE, surface


def key_of(contoso: Contoso, device: str) -> str:
    return str(contoso.register(device)["authentication"]["symmetricKey"]["primaryKey"])


def subscribed(sdk: Sdk) -> int:
    """How many SUBSCRIBE packets the SDK has sent."""
    return len(sdk.news("paho", "subscribe"))


def in_order(bodies: list[str], count: int) -> None:
    """Every number from 0 on came, and for the first time in order (what was not acknowledged comes again)."""
    assert list(dict.fromkeys(bodies)) == [str(number) for number in range(count)]


@surface(PYTHON_DEVICE, "sessions")
def test_a_cut_connection_is_made_again_at_once(contoso: Contoso) -> None:
    client = contoso.with_key("cut", key_of(contoso, "cut"))
    client.connect()
    client.send("1")
    assert contoso.proxy.cut() >= 1
    client.wait_for("connected", 2)
    client.send("2")
    client.shutdown()
    assert contoso.bodies("cut") == ["1", "2"]


@surface(PYTHON_DEVICE, "sessions", "c2d")
def test_commands_are_received_after_a_cut_without_another_subscribe(contoso: Contoso) -> None:
    client = contoso.with_key("cut-listener", key_of(contoso, "cut-listener"))
    client.connect()
    client.listen()
    contoso.command("cut-listener", "before")
    client.wait_for("message")
    waiting = "cloudToDeviceMessageCount"
    wait_for(lambda: contoso.rest("GET", "devices", "cut-listener")[waiting] == 0, "it is acknowledged")
    packets = subscribed(contoso.sdk)
    assert packets >= 1
    contoso.proxy.cut()
    client.wait_for("connected", 2)
    contoso.command("cut-listener", "after")
    assert [told["body"] for told in client.wait_for("message", 2)] == ["before", "after"]
    assert subscribed(contoso.sdk) == packets
    client.shutdown()


@surface(PYTHON_DEVICE, "sessions", "c2d")
def test_commands_for_a_device_that_was_away_are_received_when_it_is_back(contoso: Contoso) -> None:
    client = contoso.with_key("away", key_of(contoso, "away"))
    client.connect()
    client.listen()
    client.disconnect()
    packets = subscribed(contoso.sdk)
    for number in range(3):
        contoso.command("away", str(number))
    client.connect()
    assert [told["body"] for told in client.wait_for("message", 3)] == ["0", "1", "2"]
    assert subscribed(contoso.sdk) == packets
    client.shutdown()


def test_a_stream_survives_cuts(contoso: Contoso) -> None:
    holder = self_signed("streaming", now=contoso.pki.now)
    contoso.register_thumbprints("streaming", holder.chain.thumbprint().hex())
    client = contoso.with_certificate("streaming", holder)
    client.connect()
    stream = client.begin("stream", count=120, pause=0.01)
    for sent in (20, 60, 100):
        client.wait_for("sent", sent)
        contoso.proxy.cut()
    stream.result(60)
    client.shutdown()
    in_order(contoso.bodies("streaming"), 120)


@surface(PYTHON_DEVICE, "websocket")
def test_a_cut_connection_over_websocket_is_made_again(contoso: Contoso) -> None:
    client = contoso.with_key("cut-ws", key_of(contoso, "cut-ws"), websockets=True)
    client.connect()
    client.send("1")
    contoso.proxy.cut()
    client.wait_for("connected", 2)
    client.send("2")
    client.shutdown()
    assert contoso.bodies("cut-ws") == ["1", "2"]


@surface(PYTHON_DEVICE, "sessions")
def test_a_token_is_renewed_by_connecting_again(contoso: Contoso) -> None:
    """The SDK renews two minutes before the end: two seconds from now, and every two seconds."""
    client = contoso.with_key("renewing", key_of(contoso, "renewing"), sastoken_ttl=122)
    client.connect()
    client.listen()
    dialled = contoso.proxy.asked_for((HUB, MQTT))
    packets = subscribed(contoso.sdk)
    stream = client.begin("stream", count=50, pause=0.1)
    stream.result(60)
    wait_for(lambda: contoso.proxy.asked_for((HUB, MQTT)) >= dialled + 2, "it has connected again twice")
    contoso.command("renewing", "still there")
    assert client.wait_for("message")[0]["body"] == "still there"
    assert subscribed(contoso.sdk) == packets
    client.shutdown()
    in_order(contoso.bodies("renewing"), 50)
    assert contoso.refusals("renewing") == []


@surface(PYTHON_DEVICE, "take-over")
def test_the_second_client_of_a_device_takes_the_connection(contoso: Contoso) -> None:
    key = key_of(contoso, "twice")
    first = contoso.with_key("twice", key, connection_retry=False)
    second = contoso.with_key("twice", key)
    first.connect()
    second.connect()
    first.wait_for("disconnected")
    second.send("from the second")
    assert second.news("disconnected") == []
    assert contoso.bodies("twice") == ["from the second"]
    for client in (first, second):
        client.shutdown()


# A hub that ends ----------------------------------------------------------------------------------------------------


def test_a_hub_that_is_killed_and_started_again_has_all_that_it_acknowledged(own_contoso: Contoso) -> None:
    contoso = own_contoso
    names = ("by-key", "by-certificate", "by-websocket", "many-at-once")
    holder = self_signed("by-certificate", now=contoso.pki.now)
    contoso.register_thumbprints("by-certificate", holder.chain.thumbprint().hex())
    clients = [
        contoso.with_key("by-key", key_of(contoso, "by-key")),
        contoso.with_certificate("by-certificate", holder),
        contoso.with_key("by-websocket", key_of(contoso, "by-websocket"), websockets=True),
        contoso.with_key("many-at-once", key_of(contoso, "many-at-once")),
    ]
    for connecting in [client.begin("connect") for client in clients]:
        connecting.result(60)
    clients[0].listen()
    packets = subscribed(contoso.sdk)
    streams = [client.begin("stream", count=80, pause=0.02, window=1) for client in clients[:3]]
    streams.append(clients[3].begin("stream", count=80, pause=0.02, window=16))
    for client in clients:
        client.wait_for("sent", 20)
    contoso.world.hub.stop(signal.SIGKILL)
    acknowledged = [_numbers(client) for client in clients]
    contoso.start_hub()
    kept = [set(contoso.bodies(name)) for name in names]
    assert [sent - there for sent, there in zip(acknowledged, kept, strict=True)] == [set(), set(), set(), set()]
    for stream in streams:
        stream.result(60)
    for name in names[:3]:
        in_order(contoso.bodies(name), 80)
    assert set(contoso.bodies("many-at-once")) == {str(number) for number in range(80)}
    contoso.command("by-key", "after the restart")
    assert clients[0].wait_for("message")[0]["body"] == "after the restart"
    assert subscribed(contoso.sdk) == packets


@surface(PYTHON_DEVICE, "retry")
def test_a_hub_that_cannot_decide_now_is_asked_again(own_contoso: Contoso) -> None:
    """It answers "server unavailable", CONNACK 3: the one refusal after which this SDK goes on trying."""
    contoso = own_contoso
    client = contoso.with_key("undecided", key_of(contoso, "undecided"))
    client.connect()
    port = contoso.proxy.routes.pop((HUB, MQTT))  # the hub that starts anew must not see the device before
    contoso.world.hub.stop()
    contoso.world.hub.start()
    with contoso.registry_away():
        contoso.proxy.routes[HUB, MQTT] = port
        wait_for(lambda: len(contoso.refusals("undecided")) >= 2, "it comes again")
    client.send("1")  # connects, if it has not come again by itself: at times this SDK waits for long
    client.shutdown()
    assert set(contoso.refusals("undecided")) == {"registry-unavailable"}
    assert contoso.bodies("undecided") == ["1"]


def _numbers(client: Device) -> set[str]:
    return {str(told["number"]) for told in client.news("sent")}


def test_a_hub_that_is_told_to_stop_stops_soon_with_devices_connected(own_contoso: Contoso) -> None:
    contoso = own_contoso
    for name, websockets in (("stay", False), ("stay-ws", True)):
        client = contoso.with_key(name, key_of(contoso, name), websockets=websockets)
        client.connect()
        client.send("1")
    began = time.monotonic()
    assert contoso.world.hub.stop() == 0
    assert time.monotonic() - began < CLOSE_SECONDS  # which it gives who does not go
    contoso.start_hub()
    wait_for(lambda: contoso.rest("GET", "statistics", "service")["connectedDeviceCount"] == 2, "both are back")
