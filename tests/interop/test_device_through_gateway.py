"""azure-iot-device through the gateway (`gateway_hostname`, `GatewayHostName=`): it dials the gateway's name, verifies
the gateway with the private root that it was given, and speaks as if it were at the hub.
"""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from support.azure import SdkError
from support.edge_world import Gateway
from support.pki import EXPIRED, Pki, self_signed
from support.processes import GATEWAY, HUB, MQTT, Contoso, Device, wait_for
from support.surface import PYTHON_DEVICE, surface

WRONG_KEY = "d3Jvbmcga2V5LCBidXQgYXMgbG9uZyBhcyBhIHJlYWwgb25l"


def child_with_key(contoso: Contoso, name: str, **more: object) -> Device:
    made = contoso.register(name, **contoso.scope(), **more)
    return contoso.with_key(name, made["authentication"]["symmetricKey"]["primaryKey"], gateway=GATEWAY)


def child_with_thumbprint(contoso: Contoso, name: str, algorithm: str = "sha256", **fields: object) -> Device:
    holder = self_signed(name, now=contoso.pki.now, **fields)
    contoso.register_thumbprints(name, None, holder.chain.thumbprint(algorithm).hex(), **contoso.scope())
    return contoso.with_certificate(name, holder, gateway=GATEWAY)


def child_of_ca(contoso: Contoso, name: str) -> Device:
    pki = Pki(contoso.pki.now, 2, root_name=f"Root of {name}")
    contoso.register_ca(name, pki.root.certificate)
    contoso.register(name, authentication={"type": "certificateAuthority"}, **contoso.scope())
    return contoso.with_certificate(name, pki.device(name), gateway=GATEWAY)


def refused(device: Device, gateway: Gateway, reason: str) -> None:
    """The SDK's own credential error, and the gateway has written down why."""
    with pytest.raises(SdkError) as raised:
        device.connect()
    assert (raised.value.module, raised.value.kind) == ("azure.iot.device.exceptions", "CredentialError")
    lines = [line for line in gateway.text().splitlines() if f'"{device.identity}"' in line]
    assert reason in lines[-1]
    device.shutdown()


def arrives(contoso: Contoso, device: Device, count: int = 5) -> None:
    """It sends through the gateway and not past it, and all is at the hub in order."""
    dialled = contoso.proxy.asked_for((GATEWAY, MQTT)), contoso.proxy.asked_for((HUB, MQTT))
    device.connect()
    device.begin("stream", count=count).result(60)
    device.shutdown()
    assert contoso.proxy.asked_for((GATEWAY, MQTT)) == dialled[0] + 1
    assert contoso.proxy.asked_for((HUB, MQTT)) == dialled[1]
    at_hub(contoso, device, count)


def once_at_hub(contoso: Contoso, device: Device, count: int) -> None:
    """All is at the hub, in order, and nothing a second time."""
    at_hub(contoso, device, count)
    nothing_twice(contoso, device, count)


def nothing_twice(contoso: Contoso, device: Device, count: int) -> None:
    """All is at the hub, and as often as the application sent it: what MQTT sends again is recognised."""
    name = device.identity.partition("/")[0]
    sent = Counter([*range(count), *(one["number"] for one in device.news("again"))])
    came = Counter(map(int, contoso.bodies(name)))
    assert set(came) == set(range(count))
    assert not came - sent
    assert len({event["systemProperties"]["$.mid"] for event in contoso.events(name)}) == count


def at_hub(contoso: Contoso, device: Device, count: int) -> None:
    wanted = [str(number) for number in range(count)]
    name = device.identity.partition("/")[0]
    wait_for(lambda: list(dict.fromkeys(contoso.bodies(name))) == wanted, f"{count} messages at the hub, in order")


# Accepted -----------------------------------------------------------------------------------------------------------


@surface(PYTHON_DEVICE, "scope")
@pytest.mark.usefixtures("gateway")
def test_a_child_with_a_key(contoso: Contoso) -> None:
    arrives(contoso, child_with_key(contoso, "g-key"))


@surface(PYTHON_DEVICE, "scope")
@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_child_with_a_thumbprint(contoso: Contoso, algorithm: str) -> None:
    arrives(contoso, child_with_thumbprint(contoso, f"g-{algorithm}", algorithm))


@surface(PYTHON_DEVICE, "scope")
@pytest.mark.usefixtures("gateway")
def test_a_child_of_a_ca(contoso: Contoso) -> None:
    arrives(contoso, child_of_ca(contoso, "g-ca"))


@surface(PYTHON_DEVICE, "scope")
@pytest.mark.usefixtures("gateway")
def test_a_module_of_a_child(contoso: Contoso) -> None:
    contoso.register("g-modules", **contoso.scope())
    key = contoso.register("g-modules", "m1")["authentication"]["symmetricKey"]["primaryKey"]
    arrives(contoso, contoso.with_key("g-modules", key, module="m1", gateway=GATEWAY))
    assert contoso.events("g-modules")[0]["module"] == "m1"


def test_a_module_of_a_child_stays_connected_when_the_gateway_synchronises(contoso: Contoso, gateway: Gateway) -> None:
    """The hub's listings leave out the modules of devices that are no gateways."""
    contoso.register("g-lasting", **contoso.scope())
    key = contoso.register("g-lasting", "m1")["authentication"]["symmetricKey"]["primaryKey"]
    device = contoso.with_key("g-lasting", key, module="m1", gateway=GATEWAY)
    device.connect()
    device.send("0")
    known = gateway.state()["scope"]["identities"]
    contoso.register("g-new", **contoso.scope())
    wait_for(lambda: gateway.state()["scope"]["identities"] > known, "the gateway has synchronised")
    device.send("1")
    assert device.news("disconnected") == []
    device.shutdown()
    at_hub(contoso, device, 2)


@pytest.mark.usefixtures("gateway")
def test_properties_arrive_at_the_hub_as_they_were_sent(contoso: Contoso) -> None:
    device = child_with_key(contoso, "g-exact")
    device.connect()
    properties, system = {"a b": "é&", "z/": "1", "empty": ""}, {"message_id": "m 1/2", "content_type": "text/plain"}
    device.send("21.5", properties=properties, system=system)
    device.shutdown()
    wait_for(lambda: bool(contoso.events("g-exact")), "the message is at the hub")
    (event,) = contoso.events("g-exact")
    assert event["properties"] == properties
    assert (event["systemProperties"]["$.mid"], event["systemProperties"]["$.ct"]) == ("m 1/2", "text/plain")


@pytest.mark.usefixtures("gateway")
def test_a_cut_connection_to_the_gateway_is_made_again(contoso: Contoso) -> None:
    device = child_with_thumbprint(contoso, "g-cut")
    device.connect()
    stream = device.begin("stream", count=60, pause=0.01, ids=True)
    for sent in (15, 35):
        device.wait_for("sent", sent)
        assert contoso.proxy.cut() >= 1
    stream.result(60)
    device.shutdown()
    once_at_hub(contoso, device, 60)


def test_a_gateway_that_is_killed_has_every_message_at_the_hub_once(contoso: Contoso) -> None:
    """The SDK sends again what was not acknowledged, the gateway what it does not know the hub to have."""
    gateway = contoso.start_gateway("g-killed", "g-killed.local")
    devices = []
    for name, window in (("g-killed-one", 1), ("g-killed-many", 16)):
        made = contoso.register(name, **contoso.scope("g-killed"))
        key = made["authentication"]["symmetricKey"]["primaryKey"]
        devices.append((contoso.with_key(name, key, gateway="g-killed.local"), window))
    for device, _ in devices:
        device.connect()
    streams = [device.begin("stream", count=80, pause=0.01, window=window, ids=True) for device, window in devices]
    for device, _ in devices:
        device.wait_for("sent", 20)
    gateway.stop(signal.SIGKILL)
    gateway.start()
    contoso.proxy.routes["g-killed.local", MQTT] = gateway.port
    for stream in streams:
        stream.result(60)
    (one, _), (many, _) = devices
    once_at_hub(contoso, one, 80)
    wait_for(lambda: gateway.state()["queue"]["messages"] == 0, "the gateway has nothing left to send")
    nothing_twice(contoso, many, 80)
    for device in (one, many):
        device.shutdown()
    gateway.stop()


# Refused ------------------------------------------------------------------------------------------------------------


def test_a_wrong_key(contoso: Contoso, gateway: Gateway) -> None:
    contoso.register("g-wrong-key", **contoso.scope())
    refused(contoso.with_key("g-wrong-key", WRONG_KEY, gateway=GATEWAY), gateway, "sas-signature-mismatch")


def test_another_certificate(contoso: Contoso, gateway: Gateway) -> None:
    contoso.register_thumbprints("g-other", "AB" * 32, **contoso.scope())
    holder = self_signed("g-intruder", now=contoso.pki.now)
    refused(contoso.with_certificate("g-other", holder, gateway=GATEWAY), gateway, "thumbprint-mismatch")


def test_an_expired_certificate(contoso: Contoso, gateway: Gateway) -> None:
    refused(child_with_thumbprint(contoso, "g-expired", **EXPIRED), gateway, "certificate-expired")


def test_a_certificate_of_another_ca(contoso: Contoso, gateway: Gateway) -> None:
    contoso.register("g-other-ca", authentication={"type": "certificateAuthority"}, **contoso.scope())
    holder = Pki(contoso.pki.now, 1, root_name="Nobody's Root").device("g-other-ca")
    device = contoso.with_certificate("g-other-ca", holder, gateway=GATEWAY, root=True)
    refused(device, gateway, "chain-untrusted")


def test_a_device_of_the_hub_that_is_no_child_of_this_gateway(contoso: Contoso, gateway: Gateway) -> None:
    key = contoso.register("g-stranger")["authentication"]["symmetricKey"]["primaryKey"]
    straight = contoso.with_key("g-stranger", key)
    straight.connect()
    straight.shutdown()
    refused(contoso.with_key("g-stranger", key, gateway=GATEWAY), gateway, "not-a-child")


def test_a_device_that_nobody_knows(contoso: Contoso, gateway: Gateway) -> None:
    refused(contoso.with_key("g-nobody", WRONG_KEY, gateway=GATEWAY), gateway, "unknown-identity")


def test_a_disabled_child(contoso: Contoso, gateway: Gateway) -> None:
    refused(child_with_key(contoso, "g-disabled", status="disabled"), gateway, "disabled")


@pytest.mark.usefixtures("gateway")
def test_a_gateway_that_the_device_does_not_trust(contoso: Contoso) -> None:
    """Given the hub's root instead of the private one the SDK does not talk to the gateway."""
    made = contoso.register("g-careful", **contoso.scope())
    key = made["authentication"]["symmetricKey"]["primaryKey"]
    device = contoso.with_key("g-careful", key, gateway=GATEWAY, server_verification_cert=contoso.hub_root)
    with pytest.raises(SdkError, match="TLS exchanges"):
        device.connect()
    device.shutdown()


def test_a_child_that_is_disabled_loses_its_connection(contoso: Contoso, gateway: Gateway) -> None:
    device = child_with_key(contoso, "g-to-disable")
    device.connect()
    device.send("0")
    contoso.change("g-to-disable", status="disabled")
    device.wait_for("disconnected")
    device.shutdown()
    assert '"disabled"' in gateway.text()


# The hub is away ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_while_the_hub_is_away_devices_send_and_when_it_is_back_all_is_there(own_contoso: Contoso, end: int) -> None:
    contoso = own_contoso
    gateway = contoso.start_gateway()
    devices = [child_with_key(contoso, "key"), child_with_thumbprint(contoso, "pin"), child_of_ca(contoso, "ca")]
    later = child_with_key(contoso, "later")
    for connecting in [device.begin("connect") for device in devices]:
        connecting.result(60)
    wait_for(lambda: gateway.state()["scope"]["identities"] >= len(devices) + 2, "the gateway knows its children")
    streams = [device.begin("stream", count=60, pause=0.02, ids=True) for device in devices]
    for device in devices:
        device.wait_for("sent", 20)
    contoso.world.hub.stop(end)
    for stream in streams:
        stream.result(60)
    assert [device.news("disconnected") for device in devices] == [[], [], []]

    later.connect()  # the gateway decides by its copy
    later.begin("stream", count=10).result(60)
    with pytest.raises(SdkError) as raised:
        contoso.with_key("later", WRONG_KEY, gateway=GATEWAY).connect()
    assert raised.value.kind == "CredentialError"

    contoso.start_hub()
    for device in devices:
        once_at_hub(contoso, device, 60)
    at_hub(contoso, later, 10)
    wait_for(lambda: gateway.state()["queue"]["messages"] == 0, "the gateway has nothing left to send")
