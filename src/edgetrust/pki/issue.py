"""Issuing certificates. Decides the exact contents of a certificate from a profile, names and a public key.

Rules. No certificate outlives its issuer. Dates begin a little in the past (the profile's backdate, but not before the
issuer began) and have whole seconds. Nothing of a CSR but its public key is copied: names are an argument, extensions
come from the profile. Every certificate is linted, by code that shares nothing with this module, before it leaves.

Must not know who asked or whether they may: that is decided before.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from edgetrust.errors import IntegrityError, UsageError
from edgetrust.pki.chain import Chain, key_matches
from edgetrust.pki.csr import Csr
from edgetrust.pki.keys import KeyHandle, PublicKey, signing_key
from edgetrust.pki.lint import lint
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import Profile

_KEY_USAGES: Final = (
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


class Issuer:
    """A key and the chain that certifies it: what signs certificates."""

    def __init__(self, key: KeyHandle, chain: Chain) -> None:
        """Raises IntegrityError (`key-certificate-mismatch`) if the key is not the chain's."""
        key_matches(chain, key)
        self.key, self.chain = key, chain
        self._signing, self._identifier = signing_key(key), _authority(chain.end_entity)

    @property
    def certificate(self) -> x509.Certificate:
        return self.chain.end_entity

    def issue(
        self,
        subject_key: Csr | PublicKey,
        profile: Profile,
        names: Names,
        now: datetime,
        *,
        validity: timedelta | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Chain:
        """A new certificate, followed by this issuer's whole chain.

        `validity` counts from `now` (default: the profile's); `not_before` and `not_after` replace what follows from
        it, though the end is never later than the issuer's. Raises IntegrityError: `issuer-expired`,
        `issuer-not-yet-valid`, or `lint-...` if the result would not be a certificate of its profile. Raises
        UsageError if the profile is self-signed or the dates contradict each other.
        """
        if profile.self_signed:
            raise UsageError(f"a certificate of profile {profile.name!r} signs itself", reason="profile-self-signed")
        issuer = self.certificate
        if issuer.not_valid_after_utc <= now:
            raise IntegrityError(
                f"the issuer {issuer.subject.rfc4514_string()!r} ended at {issuer.not_valid_after_utc:%Y-%m-%dT%H:%MZ}",
                reason="issuer-expired",
                fix="renew the issuing certificate first",
            )
        begin, end = _dates(profile, now, validity, not_before, not_after)
        begin = max(begin, issuer.not_valid_before_utc) if not_before is None else begin
        end = min(end, issuer.not_valid_after_utc)
        if begin >= end:
            raise not_yet_valid(issuer)
        key = subject_key.public_key if isinstance(subject_key, Csr) else subject_key
        builder = _builder(key, profile, names, begin, end).issuer_name(issuer.subject)
        builder = builder.add_extension(self._identifier, critical=False)
        certificate = builder.sign(self._signing, hashes.SHA256())
        _insist(certificate, profile, issuer, now)
        return Chain((certificate, *self.chain.certificates))


def not_yet_valid(issuer: x509.Certificate) -> IntegrityError:
    """What an issuer that begins later than its certificate would end is refused with."""
    return IntegrityError(
        f"the issuer {issuer.subject.rfc4514_string()!r} is not valid before "
        f"{issuer.not_valid_before_utc:%Y-%m-%dT%H:%MZ}",
        reason="issuer-not-yet-valid",
        fix="compare the clock of this machine: date -u",
    )


def self_signed(
    key: KeyHandle,
    profile: Profile,
    names: Names,
    now: datetime,
    *,
    validity: timedelta | None = None,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> Chain:
    """A certificate that signs itself: a root, or a quickstart Edge CA. Arguments and errors as for `Issuer.issue`."""
    if not profile.self_signed:
        raise UsageError(f"a certificate of profile {profile.name!r} needs an issuer", reason="profile-needs-issuer")
    begin, end = _dates(profile, now, validity, not_before, not_after)
    builder = _builder(key.public_key(), profile, names, begin, end).issuer_name(names.subject())
    certificate = builder.sign(signing_key(key), hashes.SHA256())
    _insist(certificate, profile, None, now)
    return Chain((certificate,))


def _dates(
    profile: Profile, now: datetime, validity: timedelta | None, not_before: datetime | None, not_after: datetime | None
) -> tuple[datetime, datetime]:
    begin = now - profile.backdate if not_before is None else not_before
    end = now + (profile.validity if validity is None else validity) if not_after is None else not_after
    if end <= begin:
        raise UsageError(f"a certificate cannot end ({end}) before it begins ({begin})", reason="dates-contradict")
    return begin.replace(microsecond=0), end.replace(microsecond=0)


def _builder(key: PublicKey, profile: Profile, names: Names, begin: datetime, end: datetime) -> x509.CertificateBuilder:
    subject = names.subject()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(profile.is_ca, profile.path_length), critical=True)
        .add_extension(_key_usage(profile, key), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    if profile.eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage(profile.eku), critical=False)
    alternative = _alternative(profile, names)
    if alternative is not None:
        builder = builder.add_extension(alternative, critical=not list(subject))
    for extra in profile.extras:
        builder = builder.add_extension(extra, critical=False)
    return builder


def _alternative(profile: Profile, names: Names) -> x509.SubjectAlternativeName | None:
    general = [] if (asked := names.alternative()) is None else list(asked)
    general += [x509.UniformResourceIdentifier(uri) for uri in profile.uris if uri not in names.uris]
    return x509.SubjectAlternativeName(general) if general else None


def _key_usage(profile: Profile, key: PublicKey) -> x509.KeyUsage:
    wanted = set(profile.key_usage)
    if profile.rsa_key_encipherment and not hasattr(key, "curve"):
        wanted.add("key_encipherment")
    return x509.KeyUsage(**{usage: usage in wanted for usage in _KEY_USAGES})


def _authority(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        identifier = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _insist(certificate: x509.Certificate, profile: Profile, issuer: x509.Certificate | None, now: datetime) -> None:
    findings = lint(certificate, profile, issuer, now)
    if findings:
        raise IntegrityError(
            f"refusing to issue {certificate.subject.rfc4514_string()!r} as {profile.name}: "
            + "; ".join(f"{finding.rule}: {finding.detail}" for finding in findings),
            reason=f"lint-{findings[0].rule}",
        )
