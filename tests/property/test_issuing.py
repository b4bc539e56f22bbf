"""Whatever a CSR asks for, no certificate exceeds its profile: our lint says so, and so does one that is not ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgetrust.ca.authority import Issued
from edgetrust.ca.policy import CredentialKind, Refused, Registered, Rule
from edgetrust.pki.lint import lint
from edgetrust.pki.profiles import EDGE_CA, PROFILES
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
def test_no_certificate_exceeds_its_profile(tmp_path_factory: pytest.TempPathFactory, requests: list) -> None:  # type: ignore[type-arg]
    import asyncio

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
        allowed = {issued.row.identity, issued.row.certificate.subject.rfc4514_string()[3:], "gw1.plant.example"}
        assert {name.lower() for one in names for name in one.get_values_for_type(x509.DNSName)} <= allowed


async def test_an_outside_linter_agrees(tmp_path: Path) -> None:
    """pkilint (PKIX rules) finds no fault with one certificate of each kind that EST issues."""
    eku = x509.ExtendedKeyUsage
    basic, usage = x509.BasicConstraints(True, 0), x509.KeyUsage(True, *[False] * 4, True, False, False, False)
    host = x509.SubjectAlternativeName([x509.DNSName("gw1.plant.example")])
    requests: list[tuple[str, tuple[object, ...], bool, str]] = [
        ("dev1", (), False, "edge"),
        ("gw1", (eku([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),), True, "devices"),
        ("aziot-edge CA gw1", (basic, usage), True, "edge"),
        ("gw1", (eku([ExtendedKeyUsageOID.SERVER_AUTH]), host), False, "servers"),
    ]
    issued = await collect(tmp_path, requests)
    assert [one.row.profile for one in issued] == ["device", "device", "edge-ca", "gateway-server"]
    linter = Path(sys.prefix).parent / ".venv-judges" / "bin" / "lint_pkix_cert"
    for number, one in enumerate(issued):
        path = tmp_path / f"{number}.pem"
        path.write_bytes(one.row.certificate.public_bytes(Encoding.PEM))
        said = subprocess.run(
            [linter, "lint", "-s", "WARNING", path], capture_output=True, text=True, timeout=60, check=False
        )
        assert said.returncode == 0, said.stdout + said.stderr
