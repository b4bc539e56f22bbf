"""The config.toml of a gateway: where it stands, who it is, who issues for it, and what it passes on for those below.

A gateway is given what it is, or names those who give it: with `dps-est` an EST server issues its identity and its Edge
CA, and a provisioning service says its hub. Files are named by where they will lie. A JSON string is a TOML string.
"""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Final

from edgetrust.cli.fleet.files import (
    BOOTSTRAP,
    BOOTSTRAP_KEY,
    DPS_TRUST,
    EDGE_CA,
    EDGE_CA_KEY,
    EST_TRUST,
    HUB_TRUST,
    IDENTITY,
    IDENTITY_KEY,
    SYMMETRIC_KEY,
    TRUST,
    HubPlace,
)
from edgetrust.cli.fleet.services import Dps, Est, Services
from edgetrust.cli.fleet.topology import DPS_EST, GatewayTable, Member

_RENEW: Final = 'auto_renew = { rotate_key = true, threshold = "80%", retry = "4%" }'


def config_text(
    member: Member, hub: HubPlace, services: Services | None, installed: Path, files: Container[str]
) -> str:
    """The whole file. `files` are the others of its bundle, which lie in `installed`."""
    gateway = member.gateway
    assert gateway is not None
    above = None if member.parent is None else member.parent.gateway
    lines = [f"hostname = {_text(gateway.hostname)}", f"trust_bundle_cert = {_url(installed, TRUST)}"]
    if above is not None:
        lines.append(f"parent_hostname = {_text(above.hostname)}")
    if member.auth == DPS_EST:
        assert services is not None
        assert services.est is not None
        assert services.dps is not None
        lines += _provisioned(member, services.est, services.dps, installed, files)
    else:
        lines += _manual(member, hub, installed, files)
    lines += ["", "[edgetrust.listen]", f"host = {_text(gateway.listen)}"]
    lines += [f"mqtt_port = {gateway.mqtt_port}", f"https_port = {gateway.https_port}"]
    if gateway.names:
        lines += ["", "[edgetrust.gateway]", f"names = {json.dumps(gateway.names)}"]
    lines += _upstream(hub, above, installed, files)
    if services is not None and (gateway.gateways or gateway.devices):
        lines += _forward(services)
    return "\n".join(lines) + "\n"


def _manual(member: Member, hub: HubPlace, installed: Path, files: Container[str]) -> list[str]:
    lines = ["", "[provisioning]", 'source = "manual"', f"iothub_hostname = {_text(hub.name)}"]
    lines += [f"device_id = {_text(member.id)}", "", "[provisioning.authentication]"]
    if IDENTITY in files:
        lines += ['method = "x509"', f"identity_cert = {_url(installed, IDENTITY)}"]
        lines += [f"identity_pk = {_url(installed, IDENTITY_KEY)}"]
    else:
        lines += ['method = "sas"', f"device_id_pk = {{ uri = {_url(installed, SYMMETRIC_KEY)} }}"]
    return [*lines, "", "[edge_ca]", f"cert = {_url(installed, EDGE_CA)}", f"pk = {_url(installed, EDGE_CA_KEY)}"]


def _provisioned(member: Member, est: Est, dps: Dps, installed: Path, files: Container[str]) -> list[str]:
    lines = ["", "[provisioning]", 'source = "dps"', f"global_endpoint = {_text(dps.endpoint)}"]
    lines += [f"id_scope = {_text(dps.id_scope)}", "", "[provisioning.attestation]", 'method = "x509"']
    lines += [f"registration_id = {_text(member.id)}", "", "[provisioning.attestation.identity_cert]", 'method = "est"']
    lines += [f"common_name = {_text(member.id)}", _RENEW]
    if DPS_TRUST in files:
        lines += ["", "[edgetrust.provisioning]", f"ca = {_url(installed, DPS_TRUST)}"]
    lines += ["", "[cert_issuance.est]", f"trusted_certs = [{_url(installed, EST_TRUST)}]"]
    lines += ["", "[cert_issuance.est.auth]"]
    if est.password is None:
        assert BOOTSTRAP in files
        lines += [f"bootstrap_identity_cert = {_url(installed, BOOTSTRAP)}"]
        lines += [f"bootstrap_identity_pk = {_url(installed, BOOTSTRAP_KEY)}"]
    else:
        lines += [f"username = {_text(est.password[0])}", f"password = {_text(est.password[1].reveal())}"]
    lines += ["", "[cert_issuance.est.urls]", f"default = {_text(est.url)}"]
    return [*lines, "", "[edge_ca]", 'method = "est"', _RENEW]


def _upstream(hub: HubPlace, above: GatewayTable | None, installed: Path, files: Container[str]) -> list[str]:
    address, mqtt_port, https_port = hub.address, hub.mqtt_port, hub.https_port
    if above is not None:
        address, mqtt_port, https_port = above.address, above.mqtt_port, above.https_port
    lines = ["", "[edgetrust.upstream]", f"mqtt_port = {mqtt_port}", f"https_port = {https_port}"]
    if address is not None:
        lines.append(f"host = {_text(address)}")
    if HUB_TRUST in files:
        lines.append(f"ca = {_url(installed, HUB_TRUST)}")
    return lines


def _forward(services: Services) -> list[str]:
    entries = {"https": services.https, "mqtt": services.mqtt}
    lines = [f"{listener} = {json.dumps(names)}" for listener, names in entries.items() if names]
    return ["", "[edgetrust.forward]", *lines] if lines else []


def _url(installed: Path, name: str) -> str:
    return _text(f"file://{installed / name}")


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
