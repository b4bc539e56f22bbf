"""Rows 36 to 40: EdgeGateway through the provisioning service, and what of it the hub knows afterwards.

The service is a process of its own, linked to ContosoIotHub by a service connection string; the device is curl, in the
shape of the edge runtime's client.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from support.enrollments import pem
from support.pki import Holder, Pki
from support.story import HUB, Service, Story, edgetrust, eventually, fingerprint, tool

SCOPE = "0neCONTOSO"


@dataclass
class Dps:
    """The running service, its enrollment group, and a device that registers."""

    story: Story
    service: Service
    secret: Path
    pki: Pki = field(init=False)
    _fleet: bool = False

    def __post_init__(self) -> None:
        self.pki = Pki(self.story.now, 2, root_name="Root of the gateways")

    @property
    def port(self) -> int:
        return int(self.service.ready["dps"]["https_port"])

    def command(self, *arguments: str | Path) -> Any:
        here = ("--dps", f"https://localhost:{self.port}", "--ca", self.story.os_store)
        silent = ("--json",) if {"delete", "remove"}.isdisjoint(map(str, arguments)) else ()
        done = edgetrust(*arguments, *here, "--connection-string-file", self.secret, *silent)
        assert done.code == 0, done.text
        return json.loads(done.out) if silent else None

    def curl(self, path: str, *options: str | Path, method: str = "GET") -> tuple[int, Any]:
        done = tool(
            *("curl", "--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"),
            *("--cacert", self.story.os_store, "--request", method, *options),
            f"https://localhost:{self.port}/{SCOPE}/registrations/{path}",
        )
        assert done.code == 0, done.err
        content, _, status = done.out.rpartition("\n")
        return int(status), json.loads(content) if content.strip() else None

    def register(self, device: str, holder: Holder) -> tuple[int, Any]:
        """As identityd does: register, then ask every while until it is over."""
        certificate, key = self.story.files(holder)
        shown = ("--cert", certificate, "--key", key)
        body = ("--header", "Content-Type: application/json", "--data", json.dumps({"registrationId": device}))
        version = "api-version=2021-06-01"
        status, said = self.curl(f"{device}/register?{version}", *shown, *body, method="PUT")
        if status != 202:
            return status, said
        answers: list[tuple[int, Any]] = []

        def over() -> bool:
            answers.append(self.curl(f"{device}/operations/{said['operationId']}?{version}", *shown))
            return answers[-1][0] != 202

        eventually(over)
        return answers[-1]

    def enroll_fleet(self) -> None:
        """The group that most rows use, once."""
        if not self._fleet:
            self.enroll_by("fleet-root", self.pki.root)
            self._fleet = True

    def enroll_by(self, name: str, ca: Holder) -> None:
        """A verified CA certificate and a group of edge devices below it."""
        file = self.story.folder / f"{name}.pem"
        file.write_text(pem(ca.certificate))
        key = self.story.folder / f"{name}.key.pem"
        key.write_bytes(ca.key_pem())
        self.command("dps", "ca", "add", name, file)
        self.command("dps", "ca", "verify", name, "--key", key)
        self.command("group", "create", name, "--ca-name", name, "--edge")


@pytest.fixture(scope="module")
def dps(story: Story) -> Iterator[Dps]:
    folder = story.folder
    certificate, key = story.files(story.hub_server("localhost"), whole=False)
    (folder / "hub-link.txt").write_text(story.hub.ready["service_connection_string"])
    (folder / "dps.toml").write_text(
        f"""
[dps]
name = "localhost"
id_scope = "{SCOPE}"
data = "dps"

[listen]
host = "localhost"
mqtt_port = 0
https_port = 0

[tls]
certificate = "{certificate}"
key = "{key}"
trust_bundle = "{story.os_store}"

[[hubs]]
name = "{HUB}"
connection_string_file = "hub-link.txt"
url = "https://localhost:{story.https_port}"
trust_bundle = "{story.os_store}"
"""
    )
    service = story.service("dps", "serve", "-c", str(folder / "dps.toml"), "--json")
    service.start()
    secret = folder / "dps-service.txt"
    secret.write_text(service.ready["dps"]["service_connection_string"])
    try:
        yield Dps(story, service, secret)
    finally:
        service.stop()


def thumbprint(dps: Dps, holder: Holder, algorithm: str) -> str:
    certificate, _ = dps.story.files(holder)
    return fingerprint(certificate, algorithm)


def test_row_036_a_group_is_anchored_at_a_ca_or_an_intermediate(dps: Dps) -> None:
    """The chain that the device presents is verified up to the root, or the intermediate, that its group names."""
    dps.enroll_fleet()
    device = dps.pki.device("ProvisionedGateway")
    status, said = dps.register("ProvisionedGateway", device)
    assert (status, said["status"]) == (200, "assigned")
    assert (said["registrationState"]["assignedHub"], said["registrationState"]["deviceId"]) == (
        HUB,
        "ProvisionedGateway",
    )
    other = Pki(dps.story.now, 1, root_name="Root of a plant").authority("Plant CA", now=dps.story.now)
    dps.enroll_by("plant", other)
    below = other.issue("PlantGateway", now=dps.story.now)
    assert dps.register("PlantGateway", below)[1]["status"] == "assigned"
    stranger = Pki(dps.story.now, 1, root_name="Root of strangers").device("StrangeGateway")
    status, said = dps.register("StrangeGateway", stranger)
    assert (status, said["errorCode"], said["message"]) == (401, 401_002, "Invalid certificate.")
    alone = Holder(device.certificate, device.private_key)
    assert dps.register("ProvisionedGateway", alone)[0] == 401
    reasons = [one["reason"] for one in dps.command("dps", "refusals", "--limit", "2")]
    assert reasons == ["chain-intermediate-missing", "chain-intermediate-missing"]


def test_row_037_the_registration_shows_sha1(dps: Dps) -> None:
    """The registration record has the certificate's SHA-1, as `openssl x509 -fingerprint -sha1` prints it."""
    device = dps.pki.device("ShownGateway")
    dps.enroll_fleet()
    assert dps.register("ShownGateway", device)[1]["status"] == "assigned"
    state = dps.command("enrollment", "registration", "ShownGateway")
    assert state["x509"]["certificateInfo"]["sha1Thumbprint"] == thumbprint(dps, device, "sha1")
    assert state["x509"]["enrollmentGroupId"] == "fleet-root"


def test_row_038_the_hub_gets_sha256_in_both_slots(dps: Dps) -> None:
    """Afterwards the hub has the device as self-signed, with the certificate's SHA-256 as both thumbprints."""
    device = dps.pki.device("HashedGateway")
    dps.enroll_fleet()
    assert dps.register("HashedGateway", device)[1]["status"] == "assigned"
    stored = dps.story.get("/devices/HashedGateway")
    wanted = thumbprint(dps, device, "sha256")
    assert stored["authentication"]["type"] == "selfSigned"
    prints = stored["authentication"]["x509Thumbprint"]
    assert (prints["primaryThumbprint"], prints["secondaryThumbprint"]) == (wanted, wanted)
    assert stored["capabilities"]["iotEdge"] is True


def test_row_039_at_the_hub_the_ca_does_not_count(dps: Dps) -> None:
    """The device authenticates at the hub by thumbprint: with its group and CA gone it is still accepted."""
    issuer = Pki(dps.story.now, 1, root_name="Root that goes")
    dps.enroll_by("going", issuer.root)
    device = issuer.device("LastingGateway")
    assert dps.register("LastingGateway", device)[1]["status"] == "assigned"
    dps.command("group", "delete", "going")
    dps.command("dps", "ca", "remove", "going")
    assert dps.register("LastingGateway", device)[0] == 401
    assert dps.story.status_for("LastingGateway", device) == 200


def test_row_040_a_renewed_certificate_replaces_the_thumbprint(dps: Dps) -> None:
    """The device registers again with its new certificate; the hub's record changes and the old one is refused."""
    dps.enroll_fleet()
    old = dps.pki.device("RenewedGateway")
    new = dps.pki.device("RenewedGateway", end=timedelta(days=60))
    assert dps.register("RenewedGateway", old)[1]["status"] == "assigned"
    assert dps.story.status_for("RenewedGateway", old) == 200
    assert dps.story.status_for("RenewedGateway", new) == 401
    assert dps.register("RenewedGateway", new)[1]["status"] == "assigned"
    stored = dps.story.get("/devices/RenewedGateway")["authentication"]["x509Thumbprint"]
    assert set(stored.values()) == {thumbprint(dps, new, "sha256")}
    assert dps.story.status_for("RenewedGateway", new) == 200
    assert dps.story.status_for("RenewedGateway", old) == 401
