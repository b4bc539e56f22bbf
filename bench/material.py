"""Keys and certificates for the measurements, made with `cryptography` alone so that nothing measured helps.

    root -> issuing -> server            what mosquitto shows; the hub makes a chain of the same shape for itself
    root -> fleet   -> CA device         sends two certificates; its root is known to the hub and to mosquitto
    thumbprint device                    self-signed

All keys are P-256 and all signatures ECDSA with SHA-256. Every device has a key of its own.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Held:
    """A certificate with its key. `above` is sent behind it."""

    certificate: x509.Certificate
    key: Key
    above: tuple[x509.Certificate, ...] = ()

    def pem(self) -> bytes:
        return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (self.certificate, *self.above))

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@dataclass(frozen=True)
class Device:
    """A device and the file with its chain and key."""

    name: str
    file: Path
    thumbprint: str

    @property
    def key_log(self) -> Path:
        """The secrets of this device's TLS connections, for `records`."""
        return self.file.with_suffix(".keys")

    @cached_property
    def context(self) -> ssl.SSLContext:
        """The client's TLS context. It does not verify the server, which costs the server nothing either way."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self.file)
        context.keylog_filename = str(self.key_log)
        return context


@dataclass(frozen=True)
class Material:
    """All files of one run."""

    root: Path
    server_chain: Path
    server_key: Path
    by_thumbprint: list[Device]
    by_ca: list[Device]


def make(directory: Path, thumbprint_devices: int, ca_devices: int) -> Material:
    """Make the PKI and its devices in `directory`."""
    root = _authority("bench root", None, 2)
    issuing = _authority("bench issuing", root, 0)
    fleet = _authority("bench fleet", root, 0)
    server = _leaf("localhost", issuing, ExtendedKeyUsageOID.SERVER_AUTH)
    files = {"root.pem": root.pem(), "server.pem": server.pem(), "server.key": server.key_pem()}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return Material(
        directory / "root.pem",
        directory / "server.pem",
        directory / "server.key",
        [_device(directory, f"thumb-{n:05}", None) for n in range(thumbprint_devices)],
        [_device(directory, f"fleet-{n:05}", fleet) for n in range(ca_devices)],
    )


def _device(directory: Path, name: str, issuer: Held | None) -> Device:
    held = _leaf(name, issuer, ExtendedKeyUsageOID.CLIENT_AUTH)
    file = directory / f"{name}.pem"
    file.write_bytes(held.pem() + held.key_pem())
    return Device(name, file, held.certificate.fingerprint(hashes.SHA256()).hex().upper())


def _authority(name: str, issuer: Held | None, path_length: int) -> Held:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    extensions = [(x509.BasicConstraints(True, path_length), True), (usage, True)]
    certificate = _sign(name, key, issuer, extensions, days=365)
    above = () if issuer is None or issuer.certificate.issuer == issuer.certificate.subject else issuer.above
    return Held(certificate, key, above)


def _leaf(name: str, issuer: Held | None, purpose: x509.ObjectIdentifier) -> Held:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(False, None), True),
        (usage, True),
        (x509.ExtendedKeyUsage([purpose]), False),
    ]
    if purpose == ExtendedKeyUsageOID.SERVER_AUTH:
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        extensions.append((x509.SubjectAlternativeName(names), False))
    certificate = _sign(name, key, issuer, extensions, days=90)
    return Held(certificate, key, () if issuer is None else (issuer.certificate, *issuer.above))


def _sign(
    name: str, key: Key, issuer: Held | None, extensions: list[tuple[x509.ExtensionType, bool]], *, days: int
) -> x509.Certificate:
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = key if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256())
