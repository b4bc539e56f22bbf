"""Issuing: contents, dates and refusals, with openssl as the second opinion."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgetrust.errors import IntegrityError, UsageError
from edgetrust.pki import profiles
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.csr import build_csr, parse_csr
from edgetrust.pki.issue import Issuer, self_signed
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.lint import lint
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import Profile
from edgetrust.pki.softkeys import SoftKey
from edgetrust.pki.verify import Purpose, VerifiedChain, verify_chain
from support.pki import DAY, NOW, key, openssl, openssl_verify, root

ROOT_KEY, CA_KEY, ISSUING_KEY = (SoftKey(label, key(label)) for label in ("root", "ca", "issuing"))
ROOT = Issuer(ROOT_KEY, self_signed(ROOT_KEY, profiles.ROOT, Names("Root", organization="Example"), NOW))
CA = Issuer(CA_KEY, ROOT.issue(CA_KEY.public_key(), profiles.INTERMEDIATE, Names("CA", organization="Example"), NOW))
ISSUING = Issuer(ISSUING_KEY, CA.issue(ISSUING_KEY.public_key(), profiles.EDGE_CA, Names("Edge CA"), NOW))
BUNDLE = TrustBundle((ROOT.certificate,), as_of=NOW)
HOSTS = Names.for_hosts("192.0.2.7", "gw.local", "edgeHub")
END_ENTITIES = (
    (profiles.GATEWAY_SERVER, HOSTS, Purpose.SERVER),
    (profiles.DEVICE, Names("device-1"), Purpose.DEVICE),
    (profiles.DEVICE, Names("device-1", uris=("https://hub.example/device-1",)), Purpose.DEVICE),
    (profiles.BOOTSTRAP, Names("batch-7"), Purpose.DEVICE),
    (profiles.DOWNSTREAM, Names("sensor"), Purpose.DEVICE),
    (profiles.HUB_SERVER, Names.for_hosts("*.hub.example", "hub.example"), Purpose.SERVER),
    (profiles.HUB_SERVER, Names("", dns=("a" * 60 + ".example",)), Purpose.SERVER),
    (profiles.EST_SERVER, Names.for_hosts("est.example"), Purpose.SERVER),
    (profiles.OCSP, Names("OCSP"), None),
)


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.RSA2048])
@pytest.mark.parametrize(("profile", "names", "purpose"), END_ENTITIES)
def test_every_end_entity_satisfies_us_and_openssl(
    profile: Profile, names: Names, purpose: Purpose | None, algorithm: KeyAlgorithm, tmp_path: Path
) -> None:
    kind = "ec" if algorithm is KeyAlgorithm.P256 else "rsa-2048"
    csr = parse_csr(build_csr(SoftKey("k", key("end", kind)), Names("anything else")))
    chain = ISSUING.issue(csr, profile, names, NOW)
    assert chain.intermediates == ISSUING.chain.certificates
    assert lint(chain.end_entity, profile, ISSUING.certificate, NOW) == ()
    options = ["-x509_strict"]
    if purpose is not None:
        assert isinstance(verify_chain(chain, BUNDLE, purpose, NOW), VerifiedChain)
        options += ["-purpose", {Purpose.DEVICE: "sslclient", Purpose.SERVER: "sslserver"}[purpose]]
    theirs = openssl_verify(tmp_path, chain, BUNDLE.anchors, NOW, *options)
    assert theirs.returncode == 0, theirs.stderr


def test_names_satisfy_openssl(tmp_path: Path) -> None:
    chain = ISSUING.issue(key("end").public_key(), profiles.GATEWAY_SERVER, HOSTS, NOW)
    for option, name, good in (
        ("-verify_hostname", "gw.local", True),
        ("-verify_hostname", "edgehub", True),
        ("-verify_ip", "192.0.2.7", True),
        ("-verify_hostname", "other.local", False),
        ("-verify_ip", "192.0.2.8", False),
    ):
        theirs = openssl_verify(tmp_path, chain, BUNDLE.anchors, NOW, option, name)
        ours = verify_chain(chain, BUNDLE, Purpose.SERVER, NOW, name=name)
        assert (theirs.returncode == 0) == isinstance(ours, VerifiedChain) == good
    (tmp_path / "c.pem").write_text(chain.pem())
    shown = openssl("x509", "-in", str(tmp_path / "c.pem"), "-noout", "-ext", "subjectAltName", "-subject")
    assert "IP Address:192.0.2.7, DNS:gw.local, DNS:edgeHub" in shown.stdout
    assert "CN = 192.0.2.7" in shown.stdout


@pytest.mark.parametrize("profile", [profiles.INTERMEDIATE, profiles.ISSUING, profiles.EDGE_CA])
def test_cas_satisfy_openssl(profile: Profile, tmp_path: Path) -> None:
    issuer = ROOT if profile is profiles.INTERMEDIATE else CA
    chain = issuer.issue(key("below").public_key(), profile, Names("Below"), NOW)
    assert isinstance(verify_chain(chain, BUNDLE, Purpose.CA, NOW), VerifiedChain)
    theirs = openssl_verify(tmp_path, chain, BUNDLE.anchors, NOW, "-x509_strict")
    assert theirs.returncode == 0, theirs.stderr


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.RSA2048])
def test_self_signed_edge_ca(algorithm: KeyAlgorithm) -> None:
    own = SoftKey("k", key("quickstart", "ec" if algorithm is KeyAlgorithm.P256 else "rsa-2048"))
    chain = self_signed(own, profiles.EDGE_CA_SELF_SIGNED, Names("aziot-edge CA gw"), NOW)
    assert len(chain.certificates) == 1
    assert chain.end_entity.not_valid_after_utc == NOW + 90 * DAY
    module = Issuer(own, chain).issue(key("m").public_key(), profiles.GATEWAY_SERVER, HOSTS, NOW)
    assert isinstance(
        verify_chain(module, TrustBundle(chain.certificates, as_of=NOW), Purpose.SERVER, NOW, name="gw.local"),
        VerifiedChain,
    )


def test_dates() -> None:
    issue, public = ISSUING.issue, key("end").public_key()
    plain = issue(public, profiles.DEVICE, Names("d"), NOW + timedelta(hours=1, microseconds=7)).end_entity
    assert plain.not_valid_before_utc == NOW + timedelta(minutes=55)
    short = issue(public, profiles.DEVICE, Names("d"), NOW, validity=timedelta(minutes=3)).end_entity
    assert short.not_valid_after_utc == NOW + timedelta(minutes=3)
    exact = issue(public, profiles.DEVICE, Names("d"), NOW, not_before=NOW, not_after=NOW + DAY).end_entity
    assert (exact.not_valid_before_utc, exact.not_valid_after_utc) == (NOW, NOW + DAY)


def test_never_beyond_nor_before_the_issuer() -> None:
    late = ISSUING.certificate.not_valid_after_utc - DAY
    capped = ISSUING.issue(key("end").public_key(), profiles.DEVICE, Names("d"), late).end_entity
    assert capped.not_valid_after_utc == ISSUING.certificate.not_valid_after_utc
    early = ISSUING.issue(key("end").public_key(), profiles.DEVICE, Names("d"), NOW).end_entity
    assert early.not_valid_before_utc == ISSUING.certificate.not_valid_before_utc


def reason_of(profile: Profile, names: Names, issuer: Issuer = ISSUING, **more: object) -> str:
    with pytest.raises((IntegrityError, UsageError)) as caught:
        issuer.issue(key("end").public_key(), profile, names, NOW, **more)  # type: ignore[arg-type]
    return caught.value.reason


def test_refusals() -> None:
    assert reason_of(profiles.ROOT, Names("R")) == "profile-self-signed"
    assert reason_of(profiles.GATEWAY_SERVER, Names("no-san")) == "lint-san"
    assert reason_of(profiles.EDGE_CA, Names("Below path length 0")) == "lint-path-length"
    assert reason_of(profiles.INTERMEDIATE, Names("As long as its issuer"), CA) == "lint-path-length"
    assert reason_of(profiles.EDGE_CA, Names(""), CA) == "lint-subject"
    assert reason_of(profiles.DEVICE, Names("Edge CA")) == "lint-subject"
    assert reason_of(profiles.EDGE_CA, Names("c", dns=("gw.local",)), CA) == "lint-san"
    assert reason_of(profiles.DEVICE, Names("d"), ROOT, validity=400 * DAY) == "lint-validity"
    assert reason_of(profiles.DEVICE, Names("d"), not_before=NOW, not_after=NOW) == "dates-contradict"
    assert reason_of(profiles.DEVICE, Names("d"), not_before=NOW - 2 * DAY, not_after=NOW - DAY) == "lint-validity"
    with pytest.raises(UsageError) as caught:
        self_signed(ROOT_KEY, profiles.DEVICE, Names("d"), NOW)
    assert caught.value.reason == "profile-needs-issuer"


def test_an_expired_issuer_says_so() -> None:
    with pytest.raises(IntegrityError) as caught:
        ISSUING.issue(key("end").public_key(), profiles.DEVICE, Names("d"), NOW + 91 * DAY)
    assert caught.value.reason == "issuer-expired"


def test_a_weak_key_gets_no_certificate() -> None:
    with pytest.raises(IntegrityError) as caught:
        ISSUING.issue(key("end", "rsa-1024").public_key(), profiles.DEVICE, Names("d"), NOW)  # type: ignore[arg-type]
    assert caught.value.reason == "lint-key"


def test_the_key_must_be_the_chains() -> None:
    with pytest.raises(IntegrityError) as caught:
        Issuer(CA_KEY, ROOT.chain)
    assert caught.value.reason == "key-certificate-mismatch"


def test_an_issuer_without_key_identifier() -> None:
    bare = root("Bare", key_ids=False)
    chain = Issuer(bare.key, Chain((bare.certificate,))).issue(
        key("end").public_key(), profiles.DEVICE, Names("d"), NOW
    )
    assert isinstance(
        verify_chain(chain, TrustBundle((bare.certificate,), as_of=NOW), Purpose.DEVICE, NOW), VerifiedChain
    )


def test_deeper_hierarchies_and_longer_validities() -> None:
    deep = Issuer(
        CA_KEY, ROOT.issue(CA_KEY.public_key(), profiles.INTERMEDIATE.with_path_length(4), Names("Deep"), NOW)
    )
    below = deep.issue(key("b").public_key(), profiles.INTERMEDIATE.with_path_length(3), Names("Below"), NOW)
    assert isinstance(verify_chain(below, BUNDLE, Purpose.CA, NOW), VerifiedChain)
    long = profiles.DEVICE.with_validity(365 * DAY)
    made = CA.issue(key("b").public_key(), long, Names("d"), NOW).end_entity
    assert made.not_valid_after_utc == NOW + 365 * DAY
    assert profiles.DEVICE.with_validity(DAY).max_validity == profiles.DEVICE.max_validity


def test_rsa_server_keys_may_encipher_and_ec_keys_may_not() -> None:
    for kind, expected in (("ec", False), ("rsa-2048", True)):
        made = ISSUING.issue(key("end", kind).public_key(), profiles.GATEWAY_SERVER, HOSTS, NOW).end_entity  # type: ignore[arg-type]
        assert made.extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment is expected
    device = ISSUING.issue(key("end", "rsa-2048").public_key(), profiles.DEVICE, Names("d"), NOW).end_entity  # type: ignore[arg-type]
    assert not device.extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment


def test_marks() -> None:
    ocsp = ISSUING.issue(key("o").public_key(), profiles.OCSP, Names("OCSP"), NOW).end_entity
    assert not ocsp.extensions.get_extension_for_class(x509.OCSPNoCheck).critical
    assert list(ocsp.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.OCSP_SIGNING
    ]
    names = Names("batch", uris=(profiles.BOOTSTRAP_URI,))
    for wanted in (names, Names("batch")):
        made = ISSUING.issue(key("o").public_key(), profiles.BOOTSTRAP, wanted, NOW).end_entity
        san = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert san.get_values_for_type(x509.UniformResourceIdentifier) == [profiles.BOOTSTRAP_URI]


def test_the_table_is_complete() -> None:
    assert set(profiles.PROFILES) == {profile.name for profile in profiles.PROFILES.values()}
    assert all(profile.validity <= profile.max_validity for profile in profiles.PROFILES.values())
