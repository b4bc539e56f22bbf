"""What a config.yaml of version 1.1 becomes, and what cannot be carried over."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from edgetrust.edge.edgeca import EdgeCaFiles
from edgetrust.edge.imported import import_config
from edgetrust.edge.settings import load_settings
from edgetrust.errors import ConfigError

X509 = """
provisioning:
  source: manual
  authentication:
    method: x509
    iothub_hostname: contoso.azure-devices.net
    device_id: EdgeGateway
    identity_cert: file:///var/id.pem
    identity_pk: file:///var/id.key.pem
"""
MANUAL = "provisioning: {source: manual, device_connection_string: 'HostName=h;DeviceId=d;SharedAccessKey=a2V5'}\n"
DPS = """
provisioning:
  source: dps
  global_endpoint: https://global.example
  scope_id: 0ne
  attestation: {%s}
"""


def new(text: str) -> dict[str, Any]:
    return tomllib.loads(import_config(text, "config.yaml").toml)


def test_the_device_ca_is_the_edge_ca_now() -> None:
    certificates = """
certificates:
  device_ca_cert: /var/device ca.pem
  device_ca_pk: file:///var/ca.key.pem
  trusted_ca_certs: /var/root.pem
"""
    said = new(f"hostname: edgegateway.local\n{X509}{certificates}")
    assert said["hostname"] == "edgegateway.local"
    assert said["edge_ca"] == {"cert": "file:///var/device%20ca.pem", "pk": "file:///var/ca.key.pem"}
    assert said["trust_bundle_cert"] == "file:///var/root.pem"


def test_the_life_of_a_generated_ca() -> None:
    said = new(f"{MANUAL}certificates: {{auto_generated_ca_lifetime_days: 30}}")
    assert said["edge_ca"] == {"auto_generated_edge_ca_expiry_days": 30}
    assert "edge_ca" not in new(MANUAL)


def test_manual_provisioning(tmp_path: Path) -> None:
    text = f"hostname: edgegateway.local\n{X509}certificates: {{device_ca_cert: /c.pem, device_ca_pk: /k.pem}}"
    (tmp_path / "config.toml").write_text(import_config(text, "config.yaml").toml)
    settings = load_settings(tmp_path / "config.toml")
    assert (settings.hub, settings.device, settings.hostname) == (
        "contoso.azure-devices.net",
        "EdgeGateway",
        "edgegateway.local",
    )
    assert settings.edge_ca == EdgeCaFiles(Path("/c.pem"), Path("/k.pem"))
    assert new(MANUAL)["provisioning"]["connection_string"].startswith("HostName=h;")


@pytest.mark.parametrize(
    ("attestation", "wanted"),
    [
        ("method: tpm, registration_id: r", {"method": "tpm", "registration_id": "r"}),
        (
            "method: symmetric_key, registration_id: r, symmetric_key: a2V5",
            {"method": "symmetric_key", "registration_id": "r", "symmetric_key": {"value": "a2V5"}},
        ),
        (
            "method: x509, identity_cert: /c.pem, identity_pk: /k.pem",
            {"method": "x509", "identity_cert": "file:///c.pem", "identity_pk": "file:///k.pem"},
        ),
    ],
)
def test_dps(attestation: str, wanted: dict[str, Any]) -> None:
    said = new(DPS % attestation)["provisioning"]
    assert (said["source"], said["global_endpoint"], said["id_scope"]) == ("dps", "https://global.example", "0ne")
    assert said["attestation"] == wanted


@pytest.mark.parametrize(
    ("flag", "mode"),
    [("dynamic_reprovisioning: true", "Dynamic"), ("always_reprovision_on_startup: true", "AlwaysOnStartup")],
)
def test_reprovisioning(flag: str, mode: str) -> None:
    assert new(f"{DPS % 'method: tpm'}  {flag}\n")["auto_reprovisioning_mode"] == mode


def test_what_is_left_out_is_named() -> None:
    text = f"{MANUAL}agent: {{name: edgeAgent}}\nhomedir: /var/lib/iotedge\ncertificates: {{other: 1}}"
    assert import_config(text, "config.yaml").left_out == ("agent", "homedir", "certificates.other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a config.yaml"),
        ("- a", "is not a config.yaml"),
        ("1: a", "is not a config.yaml"),
        ("a: [", "line 1: not YAML"),
        ("a: \x00", "not YAML"),
        ("hostname: x", "provisioning is missing"),
        ("hostname: 7\nprovisioning: {source: manual}", "hostname is not a text"),
        ("provisioning: 7", "provisioning is not a table"),
        ("provisioning: {source: external}", "'external' has no successor"),
        ("provisioning: {source: manual}", "provisioning.authentication is missing"),
        (X509.replace("method: x509", "method: sas"), "authentication.method must be x509"),
        (X509.replace("device_id: EdgeGateway", "other: 1"), "authentication.device_id is missing"),
        (X509.replace("file:///var/id.pem", "id.pem"), "no absolute path"),
        (DPS % "method: other", "method is 'other'"),
        (f"{MANUAL}certificates: {{device_ca_cert: /c.pem}}", "needs both"),
        (f"{MANUAL}certificates: {{auto_generated_ca_lifetime_days: soon}}", "not a number of days"),
        (f"{MANUAL}certificates: {{auto_generated_ca_lifetime_days: true}}", "not a number of days"),
    ],
)
def test_what_cannot_be_carried_over(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml") as problem:
        import_config(text, "config.yaml")
    assert message in problem.value.message
