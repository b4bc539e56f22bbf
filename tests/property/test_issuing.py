"""Whatever a CSR asks for, no certificate exceeds its profile: our lint says so, and so does one that is not ours."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetrust.ca.authority import Issued
from edgetrust.ca.policy import CredentialKind, Refused, Registered, Rule
from edgetrust.pki.issue import Issuer, self_signed
from edgetrust.pki.keys import KeyAlgorithm, signing_key
from edgetrust.pki.lint import lint
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import EDGE_CA, PROFILES, Profile, SanRule
from edgetrust.pki.softkeys import SoftKey
from support.ca import certificate_authority, csr

NAMES = st.sampled_from(["dev1", "gw1", "aziot-edge CA gw1", "gw1.ca", "a b", "*", "", "x" * 64, "x" * 65, "dév"])
HOSTS = st.sampled_from(["dev1", "gw1", "gw1.plant.example", "*.plant.example", "other.example", "a b", "x" * 70, ""])
USAGES = st.sampled_from(
    [
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CODE_SIGNING,
        ExtendedKeyUsageOID.OCSP_SIGNING,
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    ]
)


def key_usage(bits: list[bool]) -> x509.KeyUsage:
    agreement = bits[4]
    return x509.KeyUsage(*bits[:7], bits[7] and agreement, bits[8] and agreement)


EXTENSIONS = st.tuples(
    st.none()
    | st.builds(
        lambda ca, n: x509.BasicConstraints(ca, n if ca else None), st.booleans(), st.none() | st.integers(0, 3)
    ),
    st.none() | st.lists(st.booleans(), min_size=9, max_size=9).map(key_usage),
    st.none() | st.lists(USAGES, min_size=1, max_size=3, unique=True).map(x509.ExtendedKeyUsage),
    st.none() | st.lists(HOSTS.map(x509.DNSName), min_size=1, max_size=4).map(x509.SubjectAlternativeName),
    st.none() | st.just(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")),
)
REQUESTS = st.tuples(NAMES, EXTENSIONS, st.booleans(), st.sampled_from(["edge", "devices", "servers", "bootstrap"]))


async def collect(directory: Path, requests: list[tuple[str, tuple[object, ...], bool, str]]) -> list[Issued]:
    """What a generous rule lets through."""
    found = []
    profiles = tuple(name for name, profile in PROFILES.items() if not profile.self_signed)
    async with certificate_authority(directory) as ca:
        rule = Rule(CredentialKind.PASSWORD, profiles=profiles, hosts=("*.plant.example",))
        ca.use(rules=(rule,))
        ca.registered["gw1"] = Registered.GATEWAY
        peer = await ca.password("anyone", "*")
        for name, wanted, critical, label in requests:
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False)] if name else [])
            extensions = [(one, critical) for one in wanted if one is not None]
            try:
                der = csr(subject=subject, label=f"{name} key", extensions=extensions)
            except ValueError:  # what cannot even be encoded
                continue
            outcome = await ca.enroll(der, peer, label=label)
            assert isinstance(outcome, Issued | Refused), outcome
            if isinstance(outcome, Issued):
                issuer = ca.authority.named(label)
                assert (
                    lint(outcome.row.certificate, PROFILES[outcome.row.profile], issuer.row.certificate, ca.clock.now())
                    == ()
                )
                assert outcome.row.profile in issuer.row.profiles
                found.append(outcome)
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(REQUESTS, min_size=8, max_size=20))
def test_no_certificate_exceeds_its_profile(
    tmp_path_factory: pytest.TempPathFactory, pkilint: Pkilint, requests: list[Any]
) -> None:
    for issued in asyncio.run(collect(tmp_path_factory.mktemp("ca"), requests)):
        extensions = issued.row.certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        profile = PROFILES[issued.row.profile]
        assert basic.ca is (issued.row.profile == EDGE_CA.name)
        assert usage.key_cert_sign is basic.ca
        assert not basic.ca or basic.path_length == 0
        usages = [e.value for e in extensions if isinstance(e.value, x509.ExtendedKeyUsage)]
        assert [tuple(one) for one in usages] == ([profile.eku] if profile.eku else [])
        assert not any(isinstance(e.value, x509.UnrecognizedExtension) for e in extensions)
        names = [e.value for e in extensions if isinstance(e.value, x509.SubjectAlternativeName)]
        assert pkilint.judge(issued.row.certificate) == []
        allowed = {
            issued.row.identity,
            issued.row.certificate.subject.rfc4514_string()[3:],
            "gw1.plant.example",
            "*.plant.example",
        }
        assert {name.lower() for one in names for name in one.get_values_for_type(x509.DNSName)} <= allowed


# pkilint wants a dot in every dNSName, and no star. A host name of one label is one (RFC 1034, 3.5), and modules dial
# `edgeHub`; a wildcard is what RFC 9525 (6.3) says it is.
KNOWN = re.compile(r'pkix\.invalid_domain_name_syntax: .*"([A-Za-z0-9-]+|\*(\.[A-Za-z0-9-]+){2,})"$')


class Pkilint:
    """An outside linter (PKIX rules), started once."""

    def __init__(self) -> None:
        python = Path(sys.prefix).parent / ".venv-judges" / "bin" / "python"
        program = Path(__file__).parent.parent / "support" / "pkilint_judge.py"
        self._process = subprocess.Popen([python, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def judge(self, certificate: x509.Certificate) -> list[str]:
        """Warnings and worse."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(base64.b64encode(certificate.public_bytes(Encoding.DER)).decode() + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "pkilint has ended"
        return [finding for finding in json.loads(line) if not KNOWN.search(finding)]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def pkilint() -> Iterator[Pkilint]:
    judge = Pkilint()
    yield judge
    judge.close()


NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROOT_KEY = SoftKey.generate("root")
ROOT_ISSUER = Issuer(ROOT_KEY, self_signed(ROOT_KEY, PROFILES["root"], Names("Root", organization="Test"), NOW))
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
COMMON_NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=16) | LABEL
ORGANIZATIONS = st.none() | COMMON_NAMES
DNS_NAMES = st.lists(
    st.lists(LABEL, min_size=1, max_size=4).map(lambda labels: ".".join((*labels, "example"))), max_size=4, unique=True
)
IP_ADDRESSES = st.lists(st.ip_addresses().map(str), max_size=2, unique=True)
URIS = st.lists(LABEL.map("https://{}.example/id".format), max_size=2, unique=True)
KEYS = [SoftKey.generate("ec"), SoftKey.generate("rsa", KeyAlgorithm.RSA2048)]
POINTS = [[x509.DistributionPoint([x509.UniformResourceIdentifier("http://ca.example/crl")], None, None, None)]]


@st.composite
def certificates(draw: st.DrawFn, profile: Profile) -> x509.Certificate:
    """A certificate of a profile with whatever names, key, life and pointers its kind may have."""
    dns, ips, uris = draw(DNS_NAMES), draw(IP_ADDRESSES), draw(URIS)
    if profile.san is SanRule.FORBIDDEN:
        dns, ips, uris = [], [], []
    elif profile.san is SanRule.REQUIRED and not (dns or ips or uris or profile.uris):
        dns = ["host.example"]
    organization = draw(ORGANIZATIONS) if profile.is_ca else None
    names = Names(draw(COMMON_NAMES), tuple(dns), tuple(ips), tuple(uris), organization)
    minutes = draw(st.integers(6, int(profile.max_validity / timedelta(minutes=1))))
    key, life = draw(st.sampled_from(KEYS)), timedelta(minutes=minutes)
    if draw(st.booleans()) and not profile.self_signed:
        profile = replace(profile, extras=(*profile.extras, x509.CRLDistributionPoints(POINTS[0])))
    if profile.self_signed:
        return self_signed(key, profile, names, NOW, validity=life).end_entity
    return ROOT_ISSUER.issue(key.public_key(), profile, names, NOW, validity=life).end_entity


@pytest.mark.parametrize("name", list(PROFILES))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_an_outside_linter_agrees_about_every_kind(pkilint: Pkilint, name: str, data: st.DataObject) -> None:
    """Nothing leaves `issue` that our linter faults; pkilint must not fault it either."""
    assert pkilint.judge(data.draw(certificates(PROFILES[name]))) == []


def test_the_outside_linter_finds_faults(pkilint: Pkilint) -> None:
    """What it judges is what it is shown."""
    key = KEYS[0]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=False)
    assert pkilint.judge(builder.sign(signing_key(key), hashes.SHA256())) != []
