"""Laws of the provisioning decision: it is total, nobody gets in by a wrong key, names mean no letter case."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from edgetrust.protocol.dps.bodies import parse_register
from edgetrust.protocol.dps.enrollments import parse_enrollment
from edgetrust.protocol.dps.errors import DpsError
from edgetrust.protocol.dps.names import DpsUserNameError, parse_dps_user_name, valid_registration_id
from edgetrust.protocol.dps.topics import parse_dps_topic, response_topic
from edgetrust.protocol.sas import derive_key, parse_token, sign
from edgetrust.provisioning.allocation import Choice, allocate
from edgetrust.trust.attest import Attested, Attesting, Known, attest
from edgetrust.trust.credential import credential_from
from edgetrust.trust.enrollment import Enrolled, Groups
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Refused
from support.enrollments import PRIMARY, SCOPE, SECONDARY, group, individual, keys
from support.pki import NOW, Pki

NAMES = st.from_regex(r"[A-Za-z0-9._:\-]{0,40}[A-Za-z0-9\-]", fullmatch=True)
KEYS = st.binary(min_size=16, max_size=64)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=10,
)
CHAIN = tuple(Pki(NOW, 1).device("reg-1").chain.certificates)
FLEET = Enrolled.of(group("fleet", keys()))


def known(*groups: Enrolled, own: Enrolled | None = None) -> Known:
    return Known(own, Groups(list(groups), (), NOW))


def signed(name: str, key: bytes, seconds: int = 60) -> Any:
    return parse_token(sign(key, f"{SCOPE}%2Fregistrations%2F{name}", int(NOW.timestamp()) + seconds))


@given(NAMES, st.none() | st.text(max_size=300), st.lists(st.binary(max_size=80), max_size=3))
def test_whatever_is_shown_there_is_a_verdict_with_checks(name: str, password: str | None, chain: list[bytes]) -> None:
    outcome = attest(
        Identity(SCOPE, name), credential_from(password, tuple(chain)), known(FLEET), NOW, Attesting(SCOPE)
    )
    assert isinstance(outcome, Refused)
    assert outcome.checks
    assert outcome.detail


@given(NAMES, KEYS)
def test_only_the_key_derived_for_this_device_lets_it_in(name: str, key: bytes) -> None:
    claim, how = Identity(SCOPE, name), Attesting(SCOPE)
    for right in (derive_key(PRIMARY, name), derive_key(SECONDARY, name), derive_key(PRIMARY, name.lower())):
        assert isinstance(attest(claim, signed(name, right), known(FLEET), NOW, how), Attested)
    for wrong in (key, PRIMARY, SECONDARY, derive_key(PRIMARY, f"{name}x")):
        assert isinstance(attest(claim, signed(name, wrong), known(FLEET), NOW, how), Refused)


@given(NAMES, KEYS, KEYS)
def test_an_individual_enrollment_wins_over_every_group(name: str, own: bytes, other: bytes) -> None:
    enrolled = Enrolled.of(individual(name, keys(own, other)))
    claim, how = Identity(SCOPE, name), Attesting(SCOPE)
    found = attest(claim, signed(name, own), known(FLEET, own=enrolled), NOW, how)
    assert isinstance(found, Attested)
    assert found.enrolled is enrolled
    fleets = attest(claim, signed(name, derive_key(PRIMARY, name)), known(FLEET, own=enrolled), NOW, how)
    assert isinstance(fleets, Refused)


@given(st.permutations(CHAIN), NAMES)
def test_a_certificate_of_nobodys_ca_lets_nobody_in(chain: list[Any], name: str) -> None:
    der = tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)
    outcome = attest(Identity(SCOPE, name), credential_from(None, der), known(FLEET), NOW, Attesting(SCOPE))
    assert isinstance(outcome, Refused)


@given(NAMES, st.dictionaries(NAMES, st.integers(1, 1000), min_size=1, max_size=6))
def test_a_hub_is_chosen_among_those_there_are_for_every_spelling(name: str, weights: dict[str, int]) -> None:
    distinct = {hub.lower(): weight for hub, weight in weights.items()}
    body = individual("own", keys())
    chosen = allocate(body, name, "", Choice(distinct))
    assert chosen in distinct
    assert allocate(body, name.swapcase(), "", Choice(distinct)) == chosen


# Reading what peers send --------------------------------------------------------------------------------------------


@given(st.binary(max_size=400))
def test_bodies_are_read_or_refused(data: bytes) -> None:
    for read in (parse_register, lambda text: parse_enrollment(text, "individual")):
        try:
            read(data)
        except DpsError as problem:
            assert problem.status in (400, 413)


@given(JSON)
def test_enrollments_are_read_or_refused(value: Any) -> None:
    for attestation in (value, {"type": "symmetricKey", "symmetricKey": value}, {"type": "x509", "x509": value}):
        body = {"registrationId": "a", "attestation": attestation, "iotHubs": value, "initialTwin": value}
        for whole in (body, {"registrationId": "a", "attestation": attestation}):
            try:
                parsed = parse_enrollment(whole, "individual")
            except DpsError as problem:
                assert problem.status == 400
            else:
                assert parsed.name == "a"


@given(st.text(max_size=200))
def test_user_names_and_topics_are_read_or_refused(text: str) -> None:
    try:
        name = parse_dps_user_name(text)
    except DpsUserNameError:
        pass
    else:
        assert valid_registration_id(name.registration_id)
    asked = parse_dps_topic(f"$dps/registrations/PUT/iotdps-register/?$rid={text}")
    if asked is not None:
        answer = response_topic(200, asked.request_id)
        assert answer.count("$") == 2
        assert not set(answer) & set("+#\0")
