"""A certificate authority for tests: right certificates, and wrong ones on request. Shares no code with `pki.issue`.

    pki = Pki(now, intermediates=2)          # root -> int-1 -> int-2
    pki.device("sensor-1").chain             # what the device sends: end entity and intermediates, without the root
    pki.device("sensor-1", **EXPIRED)        # any field of `certificate` can be replaced: that makes wrong ones
    pki.bundle                               # trusts the root

Keys are made once per process and kind: making RSA keys is slow, and no test depends on keys being new.
"""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.softkeys import SoftKey

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)

# What to pass to `Pki.device`, `Pki.server` or `Pki.authority` for a certificate that is wrong in one way.
EXPIRED: dict[str, Any] = {"begin": -30 * DAY, "end": -DAY}
NOT_YET_VALID: dict[str, Any] = {"begin": DAY, "end": 30 * DAY}
SERVER_ONLY: dict[str, Any] = {"eku": (SERVER,)}
CLIENT_ONLY: dict[str, Any] = {"eku": (CLIENT,)}
NOT_A_CA: dict[str, Any] = {"ca": False}
UNKNOWN_CRITICAL: dict[str, Any] = {
    "extra": ((x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True),)
}
WITHOUT_EXTENSIONS: dict[str, Any] = {"ca": None, "usage": None, "eku": None}


def key(label: str, kind: str = "ec") -> PrivateKey:
    """A private key, always the same for the same arguments within a process. `kind`: ec or rsa-BITS."""
    return _key(label, kind)


@cache
def _key(_label: str, kind: str) -> PrivateKey:
    if kind == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa-")))


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def key_usage(usages: Iterable[str]) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in set(usages) for usage in _USAGES})


def alternative(hosts: Iterable[str]) -> x509.SubjectAlternativeName:
    general: list[x509.GeneralName] = []
    for host in hosts:
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            general.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(general)


def certificate(
    subject: str,
    subject_key: PrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: PrivateKey,
    *,
    now: datetime = NOW,
    begin: timedelta = -DAY,
    end: timedelta = 30 * DAY,
    ca: bool | None = False,
    ca_critical: bool = True,
    path_length: int | None = None,
    usage: Sequence[str] | None = ("digital_signature",),
    eku: Sequence[ObjectIdentifier] | None = (CLIENT,),
    eku_critical: bool = False,
    hosts: Sequence[str] = (),
    key_ids: bool = True,
    issuer_serial: bool = False,
    serial: int | None = None,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    hash_algorithm: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    """One certificate; None leaves an extension out. `begin` and `end` count from `now`."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(subject) if issuer is None else issuer.subject)
        .public_key(subject_key.public_key())
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(now + begin)
        .not_valid_after(now + end)
    )
    extensions: list[tuple[x509.ExtensionType, bool]] = []
    if ca is not None:
        extensions.append((x509.BasicConstraints(ca, path_length if ca else None), ca_critical))
    if usage is not None:
        extensions.append((key_usage(usage), True))
    if eku is not None:
        extensions.append((x509.ExtendedKeyUsage(eku), eku_critical))
    if hosts:
        extensions.append((alternative(hosts), not subject))
    if key_ids:
        extensions.append((x509.SubjectKeyIdentifier.from_public_key(subject_key.public_key()), False))
        extensions.append((_authority_key_id(issuer, issuer_key, issuer_serial), False))
    for value, critical in (*extensions, *extra):
        builder = builder.add_extension(value, critical)
    return builder.sign(issuer_key, hash_algorithm or hashes.SHA256())


def _authority_key_id(
    issuer: x509.Certificate | None, issuer_key: PrivateKey, with_serial: bool
) -> x509.AuthorityKeyIdentifier:
    plain = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    if issuer is None or not with_serial:
        return plain
    return x509.AuthorityKeyIdentifier(plain.key_identifier, [x509.DirectoryName(issuer.issuer)], issuer.serial_number)


@dataclass(frozen=True)
class Holder:
    """A certificate, its key, and who issued it."""

    certificate: x509.Certificate
    private_key: PrivateKey
    issuer: Holder | None = None

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        """From this certificate to the root, the root included."""
        return (self.certificate, *(() if self.issuer is None else self.issuer.path))

    @property
    def chain(self) -> Chain:
        """What its holder sends: everything but the root (unless it is the root)."""
        return Chain(self.path[:-1] or self.path)

    @property
    def full_chain(self) -> Chain:
        return Chain(self.path)

    @property
    def key(self) -> SoftKey:
        return SoftKey(self.certificate.subject.rfc4514_string(), self.private_key)

    def key_pem(self) -> bytes:
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def issue(self, subject: str, *, key_kind: str = "ec", key_label: str = "", **fields: Any) -> Holder:
        """A certificate below this one. Fields are those of `certificate`."""
        subject_key = key(key_label or subject, key_kind)
        made = certificate(subject, subject_key, self.certificate, self.private_key, **fields)
        return Holder(made, subject_key, self)

    def authority(self, subject: str, **fields: Any) -> Holder:
        """A CA below this one."""
        wanted = {
            "ca": True,
            "usage": ("digital_signature", "key_cert_sign", "crl_sign"),
            "eku": None,
            "end": 365 * DAY,
        }
        return self.issue(subject, **{**wanted, **fields})


def root(subject: str = "Test Root", *, key_kind: str = "ec", key_label: str = "", **fields: Any) -> Holder:
    """A self-signed CA."""
    own_key = key(key_label or subject, key_kind)
    wanted = {"ca": True, "usage": ("key_cert_sign", "crl_sign"), "eku": None, "end": 3650 * DAY}
    return Holder(certificate(subject, own_key, None, own_key, **{**wanted, **fields}), own_key)


def self_signed(subject: str, *, key_kind: str = "ec", **fields: Any) -> Holder:
    """A device that certifies itself, as for thumbprint authentication."""
    own_key = key(subject, key_kind)
    return Holder(certificate(subject, own_key, None, own_key, **fields), own_key)


@dataclass
class Pki:
    """A root and 0 to 5 intermediates below it, each issuing the next."""

    now: datetime = NOW
    intermediates: int = 1
    key_kind: str = "ec"
    root_name: str = "Test Root"
    root: Holder = field(init=False)
    issuers: tuple[Holder, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.root = root(self.root_name, key_kind=self.key_kind, now=self.now)
        made = [self.root]
        for number in range(1, self.intermediates + 1):
            made.append(self._below(made[-1], f"Test Intermediate {number}"))
        self.issuers = tuple(made)

    def _below(self, holder: Holder, subject: str, **fields: Any) -> Holder:
        own = {"key_label": f"{self.root_name}: {subject}", "key_kind": self.key_kind, "now": self.now}
        return holder.authority(subject, **{**own, **fields})

    @property
    def issuing(self) -> Holder:
        """The CA at the bottom."""
        return self.issuers[-1]

    @property
    def bundle(self) -> TrustBundle:
        return TrustBundle((self.root.certificate,), as_of=self.now)

    def device(self, device_id: str = "device-1", **fields: Any) -> Holder:
        """A device certificate whose only name is its common name."""
        return self.issuing.issue(device_id, **{"now": self.now, **fields})

    def server(self, *hosts: str, **fields: Any) -> Holder:
        """A server certificate; the common name is the first host."""
        wanted: dict[str, Any] = {"eku": (SERVER,), "hosts": hosts, "now": self.now}
        return self.issuing.issue(hosts[0], **{**wanted, **fields})

    def authority(self, subject: str = "Test Edge CA", **fields: Any) -> Holder:
        """A CA below the bottom one."""
        return self._below(self.issuing, subject, **fields)

    def impostor(self) -> Pki:
        """Another hierarchy with the same names and other keys."""
        other = Pki(self.now, 0, self.key_kind, self.root_name)
        other.root = root(self.root_name, key_kind=self.key_kind, key_label="impostor", now=self.now)
        made = [other.root]
        for holder in self.issuers[1:]:
            subject = holder.certificate.subject.rfc4514_string().removeprefix("CN=")
            made.append(self._below(made[-1], subject, key_label=f"impostor {subject}"))
        other.issuers = tuple(made)
        return other


def ed25519_key() -> PrivateKey:
    """A key of a kind that this project does not accept."""
    odd: Any = ed25519.Ed25519PrivateKey.generate()
    return odd


def resigned(der: bytes, issuer: Holder) -> bytes:
    """A certificate whose TBSCertificate was edited in place (same length), signed again with an EC key."""
    total, body = _element(der)
    tbs_length, _ = _element(body)
    tbs = body[:tbs_length]
    algorithm_length, _ = _element(body[tbs_length:])
    algorithm = body[tbs_length : tbs_length + algorithm_length]
    assert total == len(der)
    assert isinstance(issuer.private_key, ec.EllipticCurvePrivateKey)
    signature = b"\x00" + issuer.private_key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    content = tbs + algorithm + _tagged(0x03, signature)
    return _tagged(0x30, content)


def _element(data: bytes) -> tuple[int, bytes]:
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    return start + length, data[start : start + length]


def _tagged(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def openssl(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the openssl program; a machine without it fails the test."""
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


def openssl_verify(
    directory: Path, chain: Chain, anchors: Iterable[x509.Certificate], now: datetime, *options: str
) -> subprocess.CompletedProcess[str]:
    """`openssl verify` of a chain against anchors at a time; the second, independent opinion."""
    (directory / "anchors.pem").write_text("".join(c.public_bytes(Encoding.PEM).decode() for c in anchors))
    (directory / "end-entity.pem").write_text(chain.end_entity.public_bytes(Encoding.PEM).decode())
    untrusted: list[str] = []
    if chain.intermediates:
        (directory / "untrusted.pem").write_text(Chain(chain.intermediates).pem())
        untrusted = ["-untrusted", str(directory / "untrusted.pem")]
    when = ["-attime", str(int(now.timestamp()))]
    trust = ["-no-CApath", "-no-CAstore", "-partial_chain", "-CAfile", str(directory / "anchors.pem")]
    return openssl("verify", *trust, *when, *options, *untrusted, str(directory / "end-entity.pem"))
