"""Laws of the PKI: issue, lint and verify agree; every change to a certificate is noticed; parsers fail in one way."""

from __future__ import annotations

import string
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgetrust import limits
from edgetrust.pki import profiles
from edgetrust.pki.chain import Chain, ChainError, Thumbprint, ThumbprintError, TrustBundle
from edgetrust.pki.csr import Csr, CsrError, build_csr, parse_csr
from edgetrust.pki.issue import Issuer, self_signed
from edgetrust.pki.keys import KeyUnfitError, SecretBytes
from edgetrust.pki.lint import lint
from edgetrust.pki.names import Names, as_ip, covers, dns_fault
from edgetrust.pki.softkeys import SoftKey
from edgetrust.pki.verify import ChainFailure, Purpose, VerifiedChain, verify_chain
from support.pki import CLIENT, DAY, NOW, SERVER, Holder, Pki, key, root

ROOT_KEY = SoftKey("root", key("law root"))
ROOT = Issuer(ROOT_KEY, self_signed(ROOT_KEY, profiles.ROOT, Names("Law Root"), NOW))
BUNDLE = TrustBundle((ROOT.certificate,), as_of=NOW)
PURPOSES = {profiles.DEVICE: Purpose.DEVICE, profiles.DOWNSTREAM: Purpose.DEVICE, profiles.HUB_SERVER: Purpose.SERVER}
GOOD_PKI = Pki(intermediates=0)
GOOD_DER = GOOD_PKI.device("d").certificate.public_bytes(Encoding.DER)
GOOD_CSR = build_csr(SoftKey("k", key("law end")), Names("d", dns=("d.example",)))
GOOD_KEY = SoftKey("k", key("law end")).private_pem().reveal()


labels = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=63).filter(
    lambda t: t == t.strip("-")
)
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: dns_fault(name) is None)
common_names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=64).filter(
    lambda text: len(text.encode()) <= 64
)
instants = st.integers(0, 100_000).map(lambda minutes: NOW + timedelta(minutes=minutes))


def issued(depth: int, profile: profiles.Profile, names: Names) -> Chain:
    issuer = ROOT
    for level in range(depth):
        own = SoftKey(f"ca {level}", key(f"law ca {level}"))
        room = profiles.INTERMEDIATE.with_path_length(depth - level - 1)
        issuer = Issuer(own, issuer.issue(own.public_key(), room, Names(f"Law CA {level}"), NOW))
    return issuer.issue(key("law end").public_key(), profile, names, NOW)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.sampled_from(list(PURPOSES)), common_names, hosts, st.integers(0, 120 * 24))
def test_issue_lint_and_verify_agree(
    depth: int, profile: profiles.Profile, common_name: str, host: str, hours: int
) -> None:
    assume(common_name not in {"Law Root", *(f"Law CA {level}" for level in range(depth))})
    chain = issued(depth, profile, Names(common_name, dns=(host,)))
    assert lint(chain.end_entity, profile, (*chain.certificates, ROOT.certificate)[1], NOW) == ()
    when = NOW + timedelta(hours=hours)
    outcome = verify_chain(chain, BUNDLE, PURPOSES[profile], when, name=host)
    assert isinstance(outcome, VerifiedChain) == (when <= chain.end_entity.not_valid_after_utc)
    opposite = Purpose.SERVER if PURPOSES[profile] is Purpose.DEVICE else Purpose.DEVICE
    assert isinstance(verify_chain(chain, BUNDLE, opposite, NOW), ChainFailure)
    for skipped in range(1, depth + 1):
        gap = Chain(chain.certificates[:skipped] + chain.certificates[skipped + 1 :])
        assert isinstance(
            verify_chain(gap, TrustBundle((ROOT.certificate,), as_of=NOW), PURPOSES[profile], NOW), ChainFailure
        ) == (skipped < len(chain.certificates) - 1)


def _fields() -> st.SearchStrategy[dict[str, Any]]:
    """One or more fields of a device certificate, each possibly other than its profile says."""
    usages = st.lists(st.sampled_from(["digital_signature", "key_agreement", "key_cert_sign", "crl_sign"]), max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "ca": st.sampled_from([None, True]),
            "ca_critical": st.just(False),
            "usage": st.none() | usages.filter(lambda found: set(found) != {"digital_signature"}),
            "eku": st.sampled_from([None, (SERVER,), (CLIENT, SERVER), (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)]),
            "eku_critical": st.just(True),
            "key_ids": st.just(False),
            "issuer_serial": st.just(True),
            "serial": st.integers(1, 2**60),
            "end": st.sampled_from([91 * DAY, 4000 * DAY]),
            "key_kind": st.just("rsa-1024"),
            "hash_algorithm": st.just(hashes.SHA224()),
            "extra": st.sampled_from(
                [
                    ((x509.OCSPNoCheck(), False),),
                    ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True),),
                    ((x509.SubjectAlternativeName([x509.DNSName("10.0.0.1")]), False),),
                    ((x509.NameConstraints([x509.DNSName("x")], None), True),),
                ]
            ),
        },
    )


@settings(max_examples=150, deadline=None)
@given(_fields())
def test_every_wrong_field_is_caught(fields: dict[str, Any]) -> None:
    assume(fields and not (set(fields) == {"eku_critical"} and fields.get("eku", 1) is None))
    pki = Pki(intermediates=0)
    made = pki.issuing.issue("d", **{"begin": timedelta(0), **fields})
    outcome = verify_chain(made.chain, pki.bundle, Purpose.DEVICE, NOW)
    findings = lint(made.certificate, profiles.DEVICE, pki.root.certificate, NOW)
    assert findings or isinstance(outcome, ChainFailure), fields


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_every_changed_byte_is_caught(data: st.DataObject) -> None:
    """Whatever byte of a certificate changes: it cannot be read, or it does not verify."""
    der = bytearray(GOOD_DER)
    place = data.draw(st.integers(0, len(der) - 1))
    der[place] ^= data.draw(st.integers(1, 255))
    try:
        chain = Chain.from_der([bytes(der)])
    except ChainError:
        return
    assert isinstance(verify_chain(chain, GOOD_PKI.bundle, Purpose.DEVICE, NOW), ChainFailure)


@st.composite
def hierarchies(draw: st.DrawFn) -> tuple[Chain, TrustBundle]:
    """Chains that are right or wrong in one or more ways, shuffled, with gaps and foreign certificates."""
    holder: Holder = root("R", path_length=draw(st.sampled_from([None, 0, 1, 2])))
    anchors = [holder.certificate]
    for level in range(draw(st.integers(0, 3))):
        holder = holder.authority(
            f"CA {level}",
            path_length=draw(st.sampled_from([None, None, 0, 1])),
            end=draw(st.sampled_from([DAY, DAY, -timedelta(hours=1)])),
            eku=draw(st.sampled_from([None, None, (SERVER,), (CLIENT,), (CLIENT, SERVER)])),
            ca=draw(st.sampled_from([True, True, True, False])),
        )
        anchors.append(holder.certificate)
    end = holder.issue(
        "d",
        eku=draw(st.sampled_from([None, (CLIENT,), (SERVER,)])),
        ca=draw(st.sampled_from([None, False, False, True])),
        hosts=("d.example",),
    )
    sent = list(draw(st.permutations(end.path[1:])))[: draw(st.integers(0, 4))]
    chosen = draw(st.lists(st.sampled_from(anchors), max_size=2))
    return Chain((end.certificate, *sent)), TrustBundle(tuple(chosen), as_of=NOW)


@settings(max_examples=150, deadline=None)
@given(hierarchies(), st.sampled_from(list(Purpose)), instants)
def test_verification_is_total_and_never_laxer_than_the_strict_library(
    pair: tuple[Chain, TrustBundle], purpose: Purpose, now: Any
) -> None:
    """What the library's own strict client policy accepts, we accept as a device's; and we always answer."""
    chain, bundle = pair
    ours = verify_chain(chain, bundle, purpose, now)
    assert isinstance(ours, VerifiedChain | ChainFailure)
    if isinstance(ours, VerifiedChain):
        assert ours.valid_from <= now <= ours.valid_until
        assert ours.anchor in bundle.anchors
        assert ours.path[0] == chain.end_entity
        for child, issuer in zip(ours.path, ours.path[1:], strict=False):
            child.verify_directly_issued_by(issuer)
    if not bundle.anchors or purpose is not Purpose.DEVICE:
        return
    strict = PolicyBuilder().store(Store(list(bundle.anchors))).time(now).build_client_verifier()
    try:
        strict.verify(chain.end_entity, list(chain.intermediates))
    except VerificationError:
        return
    assert isinstance(ours, VerifiedChain)


@given(hierarchies())
@settings(max_examples=60, deadline=None)
def test_more_trust_or_more_certificates_never_hurt(pair: tuple[Chain, TrustBundle]) -> None:
    chain, bundle = pair
    if not isinstance(verify_chain(chain, bundle, Purpose.DEVICE, NOW), VerifiedChain):
        return
    stranger = root("Stranger").certificate
    wider = bundle.with_(anchors=[stranger], intermediates=chain.intermediates)
    assert isinstance(verify_chain(Chain((*chain.certificates, stranger)), wider, Purpose.DEVICE, NOW), VerifiedChain)


@given(st.binary(min_size=20, max_size=20) | st.binary(min_size=32, max_size=32), st.sampled_from(["", ":", "-", " "]))
def test_thumbprints_round_trip(digest: bytes, separator: str) -> None:
    thumbprint = Thumbprint("sha1" if len(digest) == 20 else "sha256", digest)
    text = separator.join(f"{byte:02x}" for byte in digest)
    for spelled in (text, text.upper(), thumbprint.hex(), thumbprint.openssl()):
        assert Thumbprint.parse(spelled) == thumbprint
    assert thumbprint.openssl().replace(":", "") == thumbprint.hex() == digest.hex().upper()


@given(st.text(max_size=200))
def test_thumbprint_parsing_fails_in_one_way(text: str) -> None:
    try:
        assert Thumbprint.parse(Thumbprint.parse(text).openssl()) == Thumbprint.parse(text)
    except ThumbprintError as error:
        assert error.reason == "thumbprint-malformed"


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, truncations, overlong input, and good input with some bytes replaced."""
    patches = st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), min_size=1, max_size=4)

    def patch(changes: list[tuple[int, int]]) -> bytes:
        whole = bytearray(good)
        for place, value in changes:
            whole[place] = value
        return bytes(whole)

    return st.one_of(
        st.binary(max_size=300),
        st.integers(0, len(good)).map(lambda end: good[:end]),
        st.binary(min_size=1, max_size=50).map(lambda more: good + more),
        st.just(good * (limits.PEM_BYTES // len(good) + 2)),
        patches.map(patch),
    )


@settings(max_examples=300, deadline=None)
@given(damaged(GOOD_DER) | damaged(Chain.from_der([GOOD_DER]).pem().encode()))
def test_chain_parsing_fails_in_one_way(data: bytes) -> None:
    for parse in (lambda: Chain.from_der([data]), lambda: Chain.from_pem(data)):
        try:
            chain = parse()
        except ChainError as error:
            assert error.reason == "chain-malformed"
        else:
            assert isinstance(verify_chain(chain, BUNDLE, Purpose.DEVICE, NOW), ChainFailure)
            lint(chain.end_entity, profiles.DEVICE, ROOT.certificate, NOW)


@settings(max_examples=300, deadline=None)
@given(damaged(GOOD_CSR) | damaged(parse_csr(GOOD_CSR).der))
def test_csr_parsing_fails_in_one_way(data: bytes) -> None:
    try:
        csr = parse_csr(data)
    except CsrError as error:
        assert error.reason in {"not-a-csr", "bad-signature", "weak-key", "too-large"}
    else:
        assert isinstance(csr, Csr)
        _ = (csr.common_name, csr.dns, csr.ips, csr.uris, csr.pem())


@settings(max_examples=200, deadline=None)
@given(damaged(GOOD_KEY))
def test_key_parsing_fails_in_one_way(data: bytes) -> None:
    try:
        SoftKey.from_pem("k", SecretBytes(data))
    except KeyUnfitError as error:
        assert error.reason in {"key-not-a-key", "key-unfit", "key-encrypted"}


@given(hosts, st.text(max_size=60))
def test_names_are_covered_exactly(host: str, other: str) -> None:
    assert covers([host], [], host.upper() + ".") == host
    assert covers(["*." + host], [], "x." + host) == (None if "." not in host else "*." + host)
    assert covers(["*." + host], [], host) is None
    if other.lower().removesuffix(".") != host.lower():
        assert covers([host], [], other) is None
    assert covers([other], [], "192.0.2.1") is None
    assert as_ip(host) is None
