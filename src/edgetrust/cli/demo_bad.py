"""Certificates that must be refused, for demonstrations and tests. `pki.issue` would not make them, so they are
forged here.

Each differs from a good one in exactly one thing. Those for HumiditySensor (X.509 CA) show what path validation and
the common name decide; the one for TempSensor (thumbprint) is sound and only not the registered one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from edgetrust.cli.demo_pki import CA_SENSOR_ID, SENSOR_ID, BadMaterial, DemoPki, Material, Workshop, without_root
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import signing_key
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DOWNSTREAM

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Forgery:
    """What a forged certificate says."""

    common_name: str
    not_before: datetime
    not_after: datetime
    usage: ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH
    ca: bool = False


class Forger:
    """Signs whatever it is asked to, below a CA of the set."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    def forge(self, file_name: str, issuer: Material, says: Forgery) -> Material:
        """A certificate with a valid signature of `issuer`, and whatever `says` says."""
        workshop = self._workshop
        key = workshop.key(file_name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, says.common_name)]))
            .issuer_name(issuer.chain.end_entity.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(says.not_before.replace(microsecond=0))
            .not_valid_after(says.not_after.replace(microsecond=0))
            .add_extension(x509.BasicConstraints(says.ca, 0 if says.ca else None), critical=True)
            .add_extension(_key_usage(ca=says.ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(_issuer_key(issuer), critical=False)
        )
        if not says.ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([says.usage]), critical=False)
        certificate = builder.sign(signing_key(issuer.key), hashes.SHA256())
        return workshop.keep(file_name, without_root(Chain((certificate, *issuer.chain.certificates))), key)


def make_bad(pki: DemoPki, now: datetime) -> tuple[BadMaterial, ...]:
    """One certificate per fault, in `certs/bad` and `private/bad`."""
    workshop = Workshop(pki.directory, now, pki.options.algorithm)
    forger, issuing = Forger(workshop), pki.issuing
    good = Forgery(CA_SENSOR_ID, now - timedelta(minutes=5), now + pki.options.days * _DAY)
    end = good.not_after

    def bad(name: str, reason: str, verify: str | None, text: str, material: Material) -> BadMaterial:
        return BadMaterial(name, material, reason, verify, text)

    def forged(name: str, says: Forgery, issuer: Material = issuing) -> Material:
        return forger.forge(f"bad/{name}", issuer, says)

    sub_ca = forged("sub-ca", Forgery("sub CA below the Edge CA", good.not_before, end, ca=True), pki.edge_ca)
    other_root = workshop.root(
        pki.root.chain.end_entity.subject.rfc4514_string().removeprefix("CN="), "bad/other-root-ca"
    )
    return (
        bad(
            "expired",
            "certificate-expired",
            "chain-expired",
            "its dates have passed",
            forged("expired", Forgery(CA_SENSOR_ID, now - 60 * _DAY, now - _DAY)),
        ),
        bad(
            "not-yet-valid",
            "certificate-not-yet-valid",
            "chain-not-yet-valid",
            "its dates have not begun",
            forged("not-yet-valid", Forgery(CA_SENSOR_ID, now + 30 * _DAY, now + 60 * _DAY)),
        ),
        bad(
            "wrong-usage",
            "chain-wrong-usage",
            "chain-wrong-usage",
            "its extended key usage is serverAuth only",
            forged("wrong-usage", Forgery(CA_SENSOR_ID, good.not_before, end, ExtendedKeyUsageOID.SERVER_AUTH)),
        ),
        bad(
            "path-length",
            "chain-broken",
            "chain-path-length",
            "a CA below the Edge CA issued it, whose path length is 0",
            forged("path-length", good, sub_ca),
        ),
        bad(
            "other-root",
            "chain-untrusted",
            "chain-bad-signature",
            "its root has the same name as the trusted one, but another key",
            workshop.below(other_root, DOWNSTREAM, Names(CA_SENSOR_ID), "bad/other-root"),
        ),
        bad(
            "cn-mismatch",
            "cn-mismatch",
            None,
            "its common name is another device's",
            forged("cn-mismatch", Forgery("AnotherSensor", good.not_before, end)),
        ),
        bad(
            "ca-true",
            "end-entity-is-a-ca",
            "end-entity-is-a-ca",
            "it is itself a CA",
            forged("ca-true", Forgery(CA_SENSOR_ID, good.not_before, end, ca=True)),
        ),
        bad(
            "other-key",
            "thumbprint-unknown-subject-known",
            None,
            f"it names {SENSOR_ID} and is sound, but it is not the registered certificate",
            workshop.below(issuing, DOWNSTREAM, Names(SENSOR_ID), "bad/other-key"),
        ),
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_key(issuer: Material) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.chain.end_entity.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
