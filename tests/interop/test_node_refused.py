"""azure-iot-device for Node with a wrong credential: its UnauthorizedError, and the right reason on record."""

from __future__ import annotations

import pytest

from support.azure import SdkError
from support.node import NodeContoso
from support.pki import self_signed
from support.processes import Device, wait_for
from support.surface import NODE_DEVICE, surface
from support.wrong_credentials import (
    BY_CA,
    CASES,
    WRONG_KEY,
    Case,
    key_of,
    module_with_its_devices_certificate,
    pki_of,
    registered,
)

# Module clients of this SDK take keys only.
NODE_CASES = [case for case in CASES if case is not module_with_its_devices_certificate]


def is_refused(client: Device) -> None:
    with pytest.raises(SdkError) as raised:
        client.connect()
    assert raised.value.kind == "UnauthorizedError"


@surface(NODE_DEVICE, "refused")
@pytest.mark.parametrize("case", NODE_CASES, ids=lambda case: case.__name__)
def test_refused(node: NodeContoso, case: Case) -> None:
    client = case(node, f"n-refused-{case.__name__}")
    is_refused(client)
    assert node.refusals(client.identity) == [CASES[case]]
    client.shutdown()


@surface(NODE_DEVICE, "refused", "websocket")
def test_a_wrong_key_is_refused_over_websocket_too(node: NodeContoso) -> None:
    node.register("n-refused-ws")
    client = node.with_key("n-refused-ws", WRONG_KEY, transport="websocket")
    is_refused(client)
    assert node.refusals("n-refused-ws") == ["sas-signature-mismatch"]
    client.shutdown()


@surface(NODE_DEVICE, "refused")
def test_an_impostor_does_not_disturb_the_device(node: NodeContoso) -> None:
    device = registered(node, "n-undisturbed", self_signed("n-undisturbed", now=node.pki.now))
    device.connect()
    device.send("1")
    impostor = node.with_certificate("n-undisturbed", self_signed("n-impostor", now=node.pki.now))
    is_refused(impostor)
    device.send("2")
    assert device.news("disconnected") == []
    assert node.bodies("n-undisturbed") == ["1", "2"]
    for client in (device, impostor):
        client.shutdown()


# A device that was accepted and is so no more -----------------------------------------------------------------------


def listens(node: NodeContoso, device: Device) -> None:
    """Connected and subscribed, which the SDK does not tell: a message that comes shows it."""
    device.connect()
    device.listen()
    node.command(device.identity, "there?")
    device.wait_for("message")


def is_kept_out(node: NodeContoso, device: Device, reason: str) -> None:
    """The hub has ended the connection. A client that was connected once takes a refusal for a fault of the network and
    comes again, after pauses that grow; each time it is refused.
    """
    wait_for(lambda: len(node.refusals(device.identity)) >= 2, "it is refused again and again")
    assert set(node.refusals(device.identity)) == {reason}
    state = "connectionState"
    wait_for(lambda: node.rest("GET", "devices", device.identity)[state] == "Disconnected", "the registry says so")


@surface(NODE_DEVICE, "refused")
def test_a_device_that_is_disabled_loses_its_connection_until_it_is_enabled(node: NodeContoso) -> None:
    device = node.with_key("n-to-disable", key_of(node, "n-to-disable"))
    listens(node, device)
    node.change("n-to-disable", status="disabled")
    is_kept_out(node, device, "disabled")
    node.change("n-to-disable", status="enabled")
    node.command("n-to-disable", "back?")
    assert device.wait_for("message", 2)[1]["body"] == "back?"
    device.shutdown()


@surface(NODE_DEVICE, "refused")
def test_a_device_whose_ca_is_retired_loses_its_connection(node: NodeContoso) -> None:
    pki = pki_of(node, "n-to-retire")
    node.register("n-of-retired", **BY_CA)
    device = node.with_certificate("n-of-retired", pki.device("n-of-retired"), root=True)
    listens(node, device)
    node.rest("DELETE", "certificates", "n-to-retire", headers={"If-Match": "*"})
    is_kept_out(node, device, "chain-untrusted")
    device.shutdown()
