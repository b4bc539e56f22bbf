"""azure-iot-device's ProvisioningDeviceClient registers: by keys and certificates, of its own and of groups; then the
device client uses what it was told at the hub.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgetrust.cli.client import DpsClient, find_hub
from edgetrust.protocol.sas import decode_key, derive_key
from support.azure import Sdk, SdkError
from support.edge_world import write_holder
from support.enrollments import certificates, pem, references
from support.pki import Holder, Pki, self_signed
from support.processes import HUB, Contoso
from support.surface import PYTHON_DEVICE, surface

ASSIGNED = {"status": "assigned", "hub": HUB, "substatus": "initialAssignment", "payload": "null"}


class Dps:
    """The provisioning service beside Contoso's hub, and a device that registers."""

    def __init__(self, contoso: Contoso, folder: Path) -> None:
        self._contoso = contoso
        self._folder = folder
        ready = contoso.world.hub.ready
        self.scope = ready["dps"]["id_scope"]
        secret = folder / "dps.txt"
        secret.write_text(ready["dps"]["service_connection_string"])
        here = f"https://localhost:{ready['dps']['https_port']}"
        self._hub = find_hub(None, here, secret, Path(ready["trust_bundle"]), dps=True)
        self._sdk = Sdk("provisioning", log=folder / "sdk.log")

    def close(self) -> None:
        self._sdk.close()

    def rest(self, method: str, *path: str, **options: Any) -> Any:
        async def ask() -> Any:
            async with DpsClient(self._hub) as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def enroll(self, name: str, attestation: dict[str, Any], **fields: Any) -> dict[str, Any]:
        body = {"registrationId": name, "attestation": attestation, **fields}
        self.rest("PUT", "enrollments", name, body=body)
        return dict(self.rest("POST", "enrollments", name, "attestationmechanism"))

    def group(self, name: str, attestation: dict[str, Any]) -> dict[str, Any]:
        self.rest("PUT", "enrollmentGroups", name, body={"enrollmentGroupId": name, "attestation": attestation})
        return dict(self.rest("POST", "enrollmentGroups", name, "attestationmechanism"))

    def register(self, name: str, holder: Holder | None = None, **options: Any) -> dict[str, Any]:
        if holder is not None:
            certificate, key = write_holder(self._folder, f"{name}-{id(holder)}", holder)
            options["x509"] = {"certificate": str(certificate), "key": str(key)}
        proxy = {"kind": "SOCKS5", "port": self._contoso.proxy.port}
        wanted = {"scope": self.scope, "proxy": proxy, "server_verification_cert": self._contoso.hub_root, **options}
        return dict(self._sdk.do("register", host=HUB, registration=name, **wanted))

    def refused(self, name: str, holder: Holder | None = None, **options: Any) -> str:
        with pytest.raises(SdkError) as raised:
            self.register(name, holder, **options)
        return str(raised.value)


@pytest.fixture(scope="module")
def dps(contoso: Contoso, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dps]:
    with closing(Dps(contoso, tmp_path_factory.mktemp("dps"))) as made:
        yield made


def sends(contoso: Contoso, device: Any, name: str) -> None:
    device.connect()
    device.send("21.5")
    device.shutdown()
    assert contoso.bodies(name)[-1] == "21.5"


@surface(PYTHON_DEVICE, "dps-mqtt", "dps-websocket")
@pytest.mark.parametrize("websockets", [False, True])
@pytest.mark.parametrize("slot", ["primaryKey", "secondaryKey"])
def test_with_a_key_of_its_own(contoso: Contoso, dps: Dps, slot: str, websockets: bool) -> None:
    name = f"own-{slot}-{'ws' if websockets else 'tcp'}"
    key = dps.enroll(name, {"type": "symmetricKey"}, deviceId=f"{name}-device")["symmetricKey"][slot]
    told = dps.register(name, key=key, websockets=websockets, payload={"model": 7})
    assert told == {**ASSIGNED, "device": f"{name}-device"}
    sends(contoso, contoso.with_key(told["device"], key), told["device"])


@surface(PYTHON_DEVICE, "dps-mqtt")
def test_with_a_key_derived_from_a_groups(contoso: Contoso, dps: Dps) -> None:
    held = dps.group("by-key", {"type": "symmetricKey"})["symmetricKey"]
    for slot in ("primaryKey", "secondaryKey"):
        name = f"Derived-{slot}"
        key = base64.b64encode(derive_key(decode_key(held[slot]), name)).decode()
        assert dps.register(name, key=key) == {**ASSIGNED, "device": name}
        sends(contoso, contoso.with_key(name, key), name)
    assert "401" in dps.refused("Derived-itself", key=held["primaryKey"])
    assert contoso.refusals("Derived-itself") == ["group-key-not-derived"]


@surface(PYTHON_DEVICE, "dps-mqtt")
def test_with_its_very_certificate(contoso: Contoso, dps: Dps) -> None:
    first, second = (self_signed("own-cert", now=contoso.pki.now, serial=serial) for serial in (1, 2))
    dps.enroll("own-cert", certificates("clientCertificates", first.certificate, second.certificate))
    for holder in (first, second):
        assert dps.register("own-cert", holder) == {**ASSIGNED, "device": "own-cert"}
        shown = holder.chain.thumbprint().hex()
        stored = contoso.rest("GET", "devices", "own-cert")["authentication"]
        assert stored["type"] == "selfSigned"
        assert set(stored["x509Thumbprint"].values()) == {shown}
        sends(contoso, contoso.with_certificate("own-cert", holder), "own-cert")
    assert "401" in dps.refused("own-cert", self_signed("own-cert", now=contoso.pki.now, serial=3))


@surface(PYTHON_DEVICE, "dps-mqtt")
def test_with_a_certificate_of_a_groups_ca(contoso: Contoso, dps: Dps) -> None:
    pki = Pki(contoso.pki.now, 2, root_name="Root of a fleet")
    body = {"properties": {"certificate": pem(pki.root.certificate), "isVerified": False}}
    path = ("provisioningServices", "dps", "certificates", "fleet-root")
    etag = dps.rest("PUT", *path, body=body)["etag"]
    dps.group("by-ca", references("fleet-root"))
    device = pki.device("of-fleet")
    assert "401" in dps.refused("of-fleet", device)
    assert contoso.refusals("of-fleet") == ["ca-not-verified"]
    shown = dps.rest("POST", *path, "generateVerificationCode", headers={"If-Match": f'"{etag}"'})
    proof = pki.root.issue(shown["properties"]["verificationCode"], now=contoso.pki.now)
    headers = {"If-Match": f'"{shown["etag"]}"'}
    dps.rest("POST", *path, "verify", body={"certificate": pem(proof.certificate)}, headers=headers)
    assert dps.register("of-fleet", device) == {**ASSIGNED, "device": "of-fleet"}
    sends(contoso, contoso.with_certificate("of-fleet", device), "of-fleet")
    assert "401" in dps.refused("of-fleet", Holder(device.certificate, device.private_key))  # no intermediates
    assert contoso.refusals("of-fleet")[-1] == "chain-intermediate-missing"
    stranger = Pki(contoso.pki.now, 1, root_name="Root of strangers").device("of-strangers")
    assert "401" in dps.refused("of-strangers", stranger)


@surface(PYTHON_DEVICE, "dps-mqtt")
def test_who_is_not_let_in(contoso: Contoso, dps: Dps) -> None:
    key = dps.enroll("not-in", {"type": "symmetricKey"})["symmetricKey"]["primaryKey"]
    wrong = base64.b64encode(b"x" * 32).decode()
    assert "401" in dps.refused("not-in", key=wrong)
    assert "401" in dps.refused("nobody-enrolled", key=wrong)
    assert "refused" in dps.refused("not-in", key=key, scope="0neOTHER").lower()
    etag = dps.rest("GET", "enrollments", "not-in")["etag"]
    body = {"registrationId": "not-in", "attestation": {"type": "symmetricKey"}, "provisioningStatus": "disabled"}
    dps.rest("PUT", "enrollments", "not-in", body=body, headers={"If-Match": etag})
    dps.refused("not-in", key=key)
    assert contoso.refusals("not-in") == ["sas-signature-mismatch", "id-scope-unknown", "enrollment-disabled"]
