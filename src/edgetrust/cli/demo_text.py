"""The demonstration set in words: its files, and the lines of configuration and the commands that use them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from edgetrust.cli.demo_pki import CA_SENSOR_ID, GATEWAY_ID, SENSOR_ID, DemoPki, Material
from edgetrust.cli.output import iso


def as_text(pki: DemoPki) -> str:
    """Everything that `cert demo` prints."""
    parts = [
        f"# Certificates in {pki.directory / 'certs'}, keys in {pki.directory / 'private'}",
        _section("config.toml of the gateway", config_toml(pki)),
        _section("hub.toml, certificate of the hub", _hub_toml(pki)),
        _section("registration at the hub", "\n".join(registration(pki))),
        _section("devices through the gateway", "\n".join(sending(pki))),
        _section("what a device sees of the gateway", _s_client(pki)),
    ]
    if pki.bad:
        parts.append(_section("certificates that must be refused", _bad(pki)))
    return "\n".join(parts)


def config_toml(pki: DemoPki) -> str:
    """The gateway's config.toml."""
    first = pki.gateway[0]
    return "\n".join(
        (
            f'hostname = "{pki.options.gateway}"',
            f'trust_bundle_cert = "{pki.root.certificate_file.as_uri()}"',
            "",
            "[provisioning]",
            'source = "manual"',
            f'iothub_hostname = "{pki.options.hub}"',
            f'device_id = "{GATEWAY_ID}"',
            "",
            "[provisioning.authentication]",
            'method = "x509"',
            f'identity_cert = "{first.certificate_file.as_uri()}"',
            f'identity_pk = "{first.key_file.as_uri()}"',
            "",
            "[edge_ca]",
            f'cert = "{pki.edge_ca.certificate_file.as_uri()}"',
            f'pk = "{pki.edge_ca.key_file.as_uri()}"',
        )
    )


def registration(pki: DemoPki) -> tuple[str, ...]:
    """The commands that make the hub know the set."""
    root = _command("edgetrust", "hub", "ca", "add", "demo-root", pki.root.certificate_file, "--verified")
    edge = _command("edgetrust", "device", "create", GATEWAY_ID, "--edge", *_thumbprints(pki.gateway))
    sensor = _command("edgetrust", "device", "create", SENSOR_ID, "--parent", GATEWAY_ID, *_thumbprints(pki.sensor))
    by_ca = _command("edgetrust", "device", "create", CA_SENSOR_ID, "--parent", GATEWAY_ID, "--auth", "ca")
    return root, edge, sensor, by_ca


def sending(pki: DemoPki) -> tuple[str, ...]:
    """A message of each device through the gateway."""
    return tuple(
        _command(
            "edgetrust",
            "device",
            "send",
            device,
            "--hub",
            pki.options.hub,
            "--gateway",
            pki.options.gateway,
            "--trust",
            pki.root.certificate_file,
            "--cert",
            material.certificate_file,
            "--cert-key",
            material.key_file,
            "--message",
            '{"temperature": 21.5}',
        )
        for device, material in ((SENSOR_ID, pki.sensor[0]), (CA_SENSOR_ID, pki.ca_sensor))
    )


def as_json(pki: DemoPki) -> dict[str, Any]:
    """The set for machines: files with thumbprints, configuration and commands."""
    return {
        "directory": str(pki.directory),
        "root": _material(pki.root),
        "intermediates": [_material(material) for material in pki.intermediates],
        "hub": _material(pki.hub),
        "edgeCa": _material(pki.edge_ca),
        "devices": {
            GATEWAY_ID: {"primary": _material(pki.gateway[0]), "secondary": _material(pki.gateway[1])},
            SENSOR_ID: {"primary": _material(pki.sensor[0]), "secondary": _material(pki.sensor[1])},
            CA_SENSOR_ID: {"primary": _material(pki.ca_sensor)},
        },
        "bad": [
            {**_material(bad.material), "name": bad.name, "reason": bad.reason, "verify": bad.verify, "text": bad.text}
            for bad in pki.bad
        ],
        "configToml": config_toml(pki),
        "registration": list(registration(pki)),
        "sending": list(sending(pki)),
    }


def _material(material: Material) -> dict[str, Any]:
    certificate = material.chain.end_entity
    return {
        "certificate": str(material.certificate_file),
        "key": str(material.key_file),
        "subject": certificate.subject.rfc4514_string(),
        "sha256": material.chain.thumbprint().hex(),
        "notAfter": iso(certificate.not_valid_after_utc),
    }


def _thumbprints(pair: tuple[Material, Material]) -> tuple[str | Path, ...]:
    first, second = (material.certificate_file for material in pair)
    return "--auth", "thumbprint", "--certificate", first, "--secondary-certificate", second


def _hub_toml(pki: DemoPki) -> str:
    return f'[tls]\ncertificate = "{pki.hub.certificate_file}"\nkey = "{pki.hub.key_file}"'


def _s_client(pki: DemoPki) -> str:
    root = shlex.quote(str(pki.root.certificate_file))
    name = pki.options.gateway
    return f"openssl s_client -connect {name}:8883 -CAfile {root} -verify_hostname {name} </dev/null"


def _bad(pki: DemoPki) -> str:
    return "\n".join(f"{bad.material.certificate_file}  # {bad.reason}: {bad.text}" for bad in pki.bad)


def _section(title: str, text: str) -> str:
    return f"\n# --- {title} ---\n{text}"


def _command(*words: str | Path) -> str:
    return shlex.join(str(word) for word in words)
