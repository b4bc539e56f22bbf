"""Laws of the decision: total, monotone in the credential, and the same for hub and gateway.

Certificates are made once; hypothesis combines them with registrations, bundles, times and policies.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st

from edgetrust.pki.chain import Chain, Thumbprint, TrustBundle
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.remember import VerifiedChains
from edgetrust.protocol.sas import SasToken, sign
from edgetrust.trust.authenticate import Policy, authenticate
from edgetrust.trust.credential import (
    ClientChain,
    Credential,
    MalformedChain,
    MalformedToken,
    NoCredential,
    credential_from,
)
from edgetrust.trust.explain import explain
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import (
    Authentication,
    CertificateAuthority,
    Missing,
    MissingWhy,
    NoAuthentication,
    Registration,
    SasKeys,
    Thumbprints,
)
from edgetrust.trust.verdict import Accepted, How, Reason, Refused, Verdict
from support import pki as odd
from support.decisions import HUB, NOW, token

HOSTS = frozenset({HUB, "::1", "[::1]"})
CLAIMS = [Identity(HUB, "d1"), Identity(HUB, "d1", "m1"), Identity(HUB, "d2"), Identity("other", "d1")]
KEYS = [bytes([n]) * 32 for n in range(4)]


@cache
def hierarchy() -> odd.Pki:
    return odd.Pki(NOW, intermediates=2)


@cache
def chains() -> tuple[Chain, ...]:
    """Right and wrong in every way that a certificate can be, most with the right name."""
    pki = hierarchy()
    wrong = [odd.EXPIRED, odd.NOT_YET_VALID, odd.SERVER_ONLY, odd.UNKNOWN_CRITICAL, odd.WITHOUT_EXTENSIONS]
    holders = [
        pki.device("d1"),
        pki.device("d1"),
        pki.device("d1/m1"),
        pki.device("D1"),
        pki.device("d2"),
        pki.device(""),
        *(pki.device("d1", **fields) for fields in wrong),
        pki.impostor().device("d1"),
        pki.authority("d1"),
        pki.authority("old", **odd.EXPIRED).issue("d1", now=NOW),
        pki.authority("flat", path_length=0).authority("deep", now=NOW).issue("d1", now=NOW),
    ]
    made = [holder.chain for holder in holders]
    made += [Chain((chain.end_entity,)) for chain in made[:2]]
    made += [Chain(chain.certificates[::-1]) for chain in made[:2]]
    return tuple(made)


@cache
def bundles() -> tuple[TrustBundle, ...]:
    pki = hierarchy()
    return (
        pki.bundle,
        TrustBundle((), as_of=NOW),
        TrustBundle((pki.issuing.certificate,), as_of=NOW),
        TrustBundle((chains()[0].end_entity,), as_of=NOW),  # a device as an anchor: never do that
        odd.Pki(NOW, root_name="Another").bundle,
    )


secrets = st.sampled_from(KEYS)
sas_keys = st.builds(lambda a, b: SasKeys(SecretBytes(a), SecretBytes(b)), secrets, secrets)
chain_strategy = st.deferred(lambda: st.sampled_from(chains()))
thumbprints = st.builds(
    lambda chain, algorithm: Thumbprint.of(chain.end_entity, algorithm),
    chain_strategy,
    st.sampled_from(["sha1", "sha256"]),
)
authentications: st.SearchStrategy[Authentication] = st.one_of(
    sas_keys,
    st.builds(Thumbprints, st.none() | thumbprints, st.none() | thumbprints),
    st.builds(CertificateAuthority),
    st.builds(NoAuthentication),
)
RESOURCES = [
    HUB,
    f"{HUB}%2Fdevices%2Fd1",
    f"{HUB}%2Fdevices%2FD1",
    f"{HUB}%2Fdevices%2Fd1%2Fmodules%2Fm1",
    f"{HUB}%2Fdevices%2Fd2",
    "other%2Fdevices%2Fd1",
    "%2F",
    "a",
]
tokens = st.builds(
    token,
    secrets,
    st.sampled_from(RESOURCES),
    st.sampled_from([-(10**6), -301, -300, 0, 600, 10**9]),
    st.sampled_from([None, "device", "service"]),
)
raw_tokens = st.builds(
    SasToken,
    st.text(st.characters(codec="ascii"), max_size=40),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**63 - 1),
    st.none() | st.text(max_size=8),
)
credentials: st.SearchStrategy[Credential] = st.one_of(
    tokens,
    raw_tokens,
    st.builds(ClientChain, chain_strategy),
    st.builds(MalformedToken, st.text(min_size=1, max_size=20)),
    st.builds(MalformedChain, st.text(min_size=1, max_size=20)),
    st.builds(NoCredential),
)
claims = st.sampled_from(CLAIMS)
times = st.sampled_from(
    [
        NOW,
        NOW + timedelta(minutes=10),
        NOW - timedelta(days=400),
        NOW + timedelta(days=4000),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, tzinfo=UTC),
    ]
) | st.datetimes(timezones=st.just(UTC))
registrations = st.builds(
    Registration,
    identity=claims,
    authentication=authentications,
    enabled=st.sampled_from([True, True, True, False]),
    edge=st.booleans(),
    generation=st.just("1"),
    etag=st.just(""),
    scope=st.none(),
    parents=st.just(()),
    as_of=times,
    device_keys=st.none() | sas_keys,
    device_enabled=st.sampled_from([True, True, False]),
    policy_keys=st.lists(st.tuples(st.sampled_from(["device", "service"]), sas_keys), max_size=2).map(tuple),
    revoked=st.lists(thumbprints, max_size=1).map(tuple),
    trusted_until=st.none() | times,
)
missing = st.builds(Missing, st.sampled_from(MissingWhy), st.none() | times)
policies = st.builds(
    Policy,
    st.just(HOSTS),
    module_certificates=st.booleans(),
    edge_by_ca=st.booleans(),
    thumbprint_needs_common_name=st.booleans(),
)
anchors = st.deferred(lambda: st.sampled_from(bundles()))


@given(claims, credentials, registrations | missing | st.none(), anchors, times, policies)
def test_total(
    claim: Identity,
    credential: Credential,
    registration: Registration | Missing | None,
    bundle: TrustBundle,
    now: datetime,
    policy: Policy,
) -> None:
    verdict = authenticate(claim, credential, registration, bundle, now, policy)
    match verdict:
        case Accepted():
            assert verdict.identity == claim
            assert all(check.passed for check in verdict.checks)
            assert verdict.valid_until is not None
            assert verdict.valid_until >= now
        case Refused():
            assert verdict.claim == claim
            assert [check.passed for check in verdict.checks].count(False) == 1
            assert not verdict.checks[-1].passed
            assert verdict.detail
            assert explain(verdict.reason).fix
    again = authenticate(claim, credential, registration, bundle, now, policy)
    assert again == verdict  # it remembers nothing
    remembering = replace(policy, verify=VerifiedChains().verify)
    assert authenticate(claim, credential, registration, bundle, now, remembering) == verdict


@given(st.binary(max_size=600), st.integers(0, 600), st.integers(0, 255), chain_strategy, st.text(max_size=60), anchors)
@example(b"", 0, 0x30, Chain((odd.Pki(NOW, 0).device("d1").certificate,)), "", TrustBundle((), as_of=NOW))
def test_total_over_what_tls_and_mqtt_may_carry(
    junk: bytes, place: int, octet: int, chain: Chain, password: str, bundle: TrustBundle
) -> None:
    """Bytes of any kind, certificates with one byte changed, any text as password."""
    der = bytearray(chain.end_entity.public_bytes(Encoding.DER))
    der[place % len(der)] = octet
    claim = CLAIMS[0]
    for shown in (
        (bytes(der),),
        (junk,),
        (bytes(der), junk),
        (chain.end_entity.public_bytes(Encoding.DER), bytes(der)),
    ):
        for authentication in (CertificateAuthority(), Thumbprints(Thumbprint.of(chain.end_entity))):
            for text in (None, password):
                registration = replace(BASE, authentication=authentication)
                verdict = authenticate(claim, credential_from(text, shown), registration, bundle, NOW, DEFAULT)
                assert isinstance(verdict, Accepted | Refused)


BASE = Registration(CLAIMS[0], NoAuthentication(), True, False, "1", "", None, (), NOW)
DEFAULT = Policy(HOSTS)


# Weaker never helps -------------------------------------------------------------------------------------------------


def weaker_credentials(credential: Credential) -> list[Credential]:
    """The same credential, worse in one way."""
    weaker: list[Credential] = [NoCredential()]
    match credential:
        case SasToken():
            flipped = bytes([credential.signature[0] ^ 1]) + credential.signature[1:]
            weaker += [
                MalformedToken("cut off"),
                replace(credential, signature=flipped),
                replace(credential, signature=bytes(32)),
                replace(credential, expires_at=0),
                replace(credential, expires_at=max(0, credential.expires_at - 1)),
                replace(credential, resource="x" + credential.resource),
            ]
        case ClientChain(chain):
            weaker += [MalformedChain("cut off")]
            weaker += [ClientChain(Chain(chain.certificates[:n])) for n in range(1, len(chain.certificates))]
        case _:
            pass
    return weaker


def weaker_registrations(registration: Registration) -> list[Registration | Missing | None]:
    """The same registration, saying less in one way."""
    return [
        None,
        *(Missing(why) for why in MissingWhy),
        replace(registration, enabled=False),
        replace(registration, device_enabled=False),
        replace(registration, authentication=NoAuthentication()),
        replace(registration, device_keys=None),
        replace(registration, policy_keys=()),
        replace(registration, trusted_until=datetime(1, 1, 1, tzinfo=UTC)),
        replace(registration, identity=Identity(HUB, "somebody")),
        replace(registration, edge=True),
    ]


def accepts(verdict: Verdict) -> bool:
    return isinstance(verdict, Accepted)


@given(claims, credentials, registrations, anchors, times, policies)
def test_a_weaker_credential_is_not_accepted_where_the_stronger_was_refused(
    claim: Identity,
    credential: Credential,
    registration: Registration,
    bundle: TrustBundle,
    now: datetime,
    policy: Policy,
) -> None:
    before = authenticate(claim, credential, registration, bundle, now, policy)
    if accepts(before):
        return
    empty = TrustBundle((), as_of=NOW)
    for weaker in weaker_credentials(credential):
        assert not accepts(authenticate(claim, weaker, registration, bundle, now, policy))
    for less in weaker_registrations(registration):
        assert not accepts(authenticate(claim, credential, less, bundle, now, policy))
    assert not accepts(authenticate(claim, credential, registration, empty, now, policy))
    strict = replace(policy, module_certificates=False, edge_by_ca=False, thumbprint_needs_common_name=True)
    assert not accepts(authenticate(claim, credential, registration, bundle, now, strict))
    assert not accepts(authenticate(claim, credential, registration, bundle, now, replace(policy, hosts=frozenset())))


@given(secrets, st.integers(0, 255), st.integers(1, 255), st.sampled_from(RESOURCES[1:2]), policies)
def test_any_other_signature_is_refused(key: bytes, place: int, change: int, resource: str, policy: Policy) -> None:
    good = token(key, resource)
    registration = replace(BASE, authentication=SasKeys(SecretBytes(key), SecretBytes(key)))
    none = TrustBundle((), as_of=NOW)
    assert accepts(authenticate(CLAIMS[0], good, registration, none, NOW, policy))
    signature = bytearray(good.signature)
    signature[place % 32] ^= change
    verdict = authenticate(CLAIMS[0], replace(good, signature=bytes(signature)), registration, none, NOW, policy)
    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.SAS_SIGNATURE_MISMATCH


@given(chain_strategy, authentications, st.text(min_size=1, max_size=80), anchors, times)
@example(
    Chain((odd.Pki(NOW, 0).device("d1").certificate,)), CertificateAuthority(), " ", TrustBundle((), as_of=NOW), NOW
)
def test_a_wrong_password_is_not_rescued_by_a_certificate(
    chain: Chain, authentication: Authentication, password: str, bundle: TrustBundle, now: datetime
) -> None:
    """Whatever the certificate beside it would be worth."""
    der = tuple(certificate.public_bytes(Encoding.DER) for certificate in chain.certificates)
    registration = replace(BASE, authentication=authentication)
    of_another = sign(KEYS[0], RESOURCES[4], 2**40)
    foreign = sign(b"nobody's key, 32 bytes long.....", RESOURCES[1], 2**40)
    for wrong in (password, of_another, foreign, foreign[:-3]):
        shown = credential_from(wrong, der)
        assert shown == credential_from(wrong, ())  # the certificate is not even looked at
        assert not accepts(authenticate(CLAIMS[0], shown, registration, bundle, now, DEFAULT))


@given(st.sampled_from(CLAIMS[:3]), credentials, registrations, anchors, times)
def test_hub_and_gateway_agree_on_equal_facts(
    claim: Identity, credential: Credential, registration: Registration, bundle: TrustBundle, now: datetime
) -> None:
    """Except about certificates of modules, which gateways do not take."""
    hub = authenticate(claim, credential, registration, bundle, now, Policy(HOSTS))
    gateway = authenticate(claim, credential, registration, bundle, now, Policy(HOSTS, module_certificates=False))
    if claim.module is not None and isinstance(credential, ClientChain):
        assert isinstance(gateway, Refused)
    else:
        assert gateway == hub


@given(registrations, tokens, times)
def test_what_is_accepted_by_a_key_is_over_when_the_key_is_replaced(
    registration: Registration, shown: SasToken, now: datetime
) -> None:
    none = TrustBundle((), as_of=NOW)
    verdict = authenticate(registration.identity, shown, registration, none, now, DEFAULT)
    if isinstance(verdict, Accepted) and verdict.how in (How.SAS_PRIMARY, How.SAS_SECONDARY):
        fresh = SasKeys(SecretBytes(b"f" * 32), SecretBytes(b"g" * 32))
        rolled = replace(registration, authentication=fresh, device_keys=None)
        assert not accepts(authenticate(registration.identity, shown, rolled, none, now, DEFAULT))


@given(chain_strategy, anchors, times)
def test_accepted_by_authority_means_valid_until_then(chain: Chain, bundle: TrustBundle, now: datetime) -> None:
    """Valid now, so valid at any moment up to `valid_until`; a second later not any more."""
    registration = replace(BASE, authentication=CertificateAuthority())
    verdict = authenticate(CLAIMS[0], ClientChain(chain), registration, bundle, now, DEFAULT)
    if isinstance(verdict, Accepted):
        end = verdict.valid_until
        assert end is not None
        assert accepts(authenticate(CLAIMS[0], ClientChain(chain), registration, bundle, end, DEFAULT))
        late = end + timedelta(seconds=1)
        assert not accepts(authenticate(CLAIMS[0], ClientChain(chain), registration, bundle, late, DEFAULT))
        assert not accepts(
            authenticate(CLAIMS[0], ClientChain(chain), registration, TrustBundle((), as_of=NOW), now, DEFAULT)
        )
