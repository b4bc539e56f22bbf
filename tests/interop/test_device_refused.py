"""azure-iot-device with a wrong credential: its own CredentialError, and the right reason on record at the hub.

Never a broken handshake or a dropped connection: the SDK would try those again for ever.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from edgetrust.cli.client import HubError
from support.azure import SdkError
from support.pki import self_signed
from support.processes import Contoso, Device, wait_for
from support.surface import PYTHON_DEVICE, surface
from support.wrong_credentials import BY_CA, CASES, WRONG_KEY, Case, key_of, pki_of, registered


@surface(PYTHON_DEVICE, "refused")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_refused(contoso: Contoso, case: Case) -> None:
    name = f"refused-{case.__name__}"
    client = case(contoso, name)
    with pytest.raises(SdkError) as raised:
        client.connect()
    assert (raised.value.module, raised.value.causes) == (
        "azure.iot.device.exceptions",
        ["CredentialError", "UnauthorizedError"],
    )
    assert contoso.refusals(client.identity) == [CASES[case]]
    client.shutdown()


@surface(PYTHON_DEVICE, "refused", "websocket")
def test_a_wrong_key_is_refused_over_websocket_too(contoso: Contoso) -> None:
    contoso.register("refused-ws")
    client = contoso.with_key("refused-ws", WRONG_KEY, websockets=True)
    with pytest.raises(SdkError) as raised:
        client.connect()
    assert raised.value.kind == "CredentialError"
    assert contoso.refusals("refused-ws") == ["sas-signature-mismatch"]
    client.shutdown()


def test_a_websocket_for_something_else_than_mqtt_is_refused(contoso: Contoso) -> None:
    with pytest.raises(HubError) as raised:
        contoso.rest("GET", "$iothub", "websocket", headers={"Sec-WebSocket-Protocol": "AMQPWSB10"})
    assert raised.value.status == 400


@surface(PYTHON_DEVICE, "refused")
def test_a_token_that_has_run_out(contoso: Contoso) -> None:
    """Ten minutes ago: the hub's allowance for clocks that differ is five."""
    client = contoso.with_key("refused-late", key_of(contoso, "refused-late"), sastoken_ttl=-600)
    with pytest.raises(SdkError) as raised:
        client.connect()
    assert raised.value.kind == "CredentialError"
    assert contoso.refusals("refused-late") == ["sas-expired"]
    client.shutdown()


def test_an_impostor_does_not_disturb_the_device(contoso: Contoso) -> None:
    holder = self_signed("undisturbed", now=contoso.pki.now)
    device = registered(contoso, "undisturbed", holder)
    device.connect()
    device.send("1")
    impostor = contoso.with_certificate("undisturbed", self_signed("impostor", now=contoso.pki.now))
    with pytest.raises(SdkError):
        impostor.connect()
    device.send("2")
    assert device.news("disconnected") == []
    assert contoso.bodies("undisturbed") == ["1", "2"]
    for client in (device, impostor):
        client.shutdown()


# A device that was accepted and is so no more -----------------------------------------------------------------------


def loses_its_connection(contoso: Contoso, device: Device, reason: str) -> None:
    """The hub ends the connection; the SDK comes back at once, is refused, says so, and does not try again."""
    device.wait_for("disconnected")

    def given_up() -> bool:
        return any("UnauthorizedError" in told["error"]["causes"] for told in device.news("background"))

    wait_for(given_up, "the SDK says that it is not authorized any more")
    device.shutdown()
    recorded = contoso.refusals(device.identity)
    assert recorded[-1] == reason
    assert len(recorded) <= 2, "at the end of the connection if that was a decision, and at the one attempt after it"


def test_a_device_that_is_disabled_loses_its_connection(contoso: Contoso) -> None:
    device = contoso.with_key("to-disable", key_of(contoso, "to-disable"))
    device.connect()
    contoso.change("to-disable", status="disabled")
    loses_its_connection(contoso, device, "disabled")


def test_a_device_that_is_deleted_loses_its_connection(contoso: Contoso) -> None:
    device = contoso.with_key("to-delete", key_of(contoso, "to-delete"))
    device.connect()
    contoso.rest("DELETE", "devices", "to-delete", headers={"If-Match": "*"})
    loses_its_connection(contoso, device, "unknown-identity")


def test_a_device_whose_thumbprint_is_replaced_loses_its_connection(contoso: Contoso) -> None:
    device = registered(contoso, "to-replace", self_signed("to-replace", now=contoso.pki.now))
    device.connect()
    slots = {"primaryThumbprint": "AB" * 32, "secondaryThumbprint": None}
    contoso.change("to-replace", authentication={"type": "selfSigned", "x509Thumbprint": slots})
    loses_its_connection(contoso, device, "thumbprint-unknown-subject-known")


def test_a_device_whose_ca_is_retired_loses_its_connection(contoso: Contoso) -> None:
    pki = pki_of(contoso, "to-retire")
    contoso.register("of-retired", **BY_CA)
    device = contoso.with_certificate("of-retired", pki.device("of-retired"), root=True)
    device.connect()
    contoso.rest("DELETE", "certificates", "to-retire", headers={"If-Match": "*"})
    loses_its_connection(contoso, device, "chain-untrusted")


def test_a_device_whose_certificate_runs_out_loses_its_connection(contoso: Contoso) -> None:
    brief = self_signed("brief", now=contoso.pki.now, begin=timedelta(0), end=contoso.age() + timedelta(seconds=10))
    device = registered(contoso, "brief", brief)
    device.connect()
    device.send("1")
    loses_its_connection(contoso, device, "certificate-expired")
    assert contoso.bodies("brief") == ["1"]
