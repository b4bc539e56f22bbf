"""Keys in a PKCS#11 token (SoftHSM): they sign everything an authority signs, and never come out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.ca.authority import CertificateAuthority
from edgetrust.ca.ceremony import make_hierarchy
from edgetrust.ca.revocation import build_crl
from edgetrust.ca.settings import CaSettings
from edgetrust.clock import ManualClock
from edgetrust.errors import ConfigError
from edgetrust.pki.csr import build_csr, parse_csr
from edgetrust.pki.keys import KeyAlgorithm, KeyExistsError, KeyMissingError, SecretText, TlsKey
from edgetrust.pki.names import Names
from edgetrust.pki.pkcs11 import KeyUri, Token
from edgetrust.store.engine import Database
from edgetrust.store.schema import METADATA
from support.ca import CaWorld, csr
from support.pki import openssl

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = SecretText("1234")


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A token store for this process: the module reads its configuration once."""
    directory = tmp_path_factory.mktemp("softhsm")
    (directory / "tokens").mkdir()
    (directory / "softhsm2.conf").write_text(f"directories.tokendir = {directory / 'tokens'}\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(directory / "softhsm2.conf")
    for label in ("edgetrust", "locked", "authority"):
        _new_token(label)
    yield directory
    del os.environ["SOFTHSM2_CONF"]


def _new_token(label: str) -> None:
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", "1234", "--so-pin", "5678"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="session")
def token(softhsm: Path) -> Token:
    return Token.open(MODULE, "pkcs11:token=edgetrust", PIN)


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.RSA2048])
def test_a_key_signs_and_is_found_again(token: Token, algorithm: KeyAlgorithm) -> None:
    label = f"key {algorithm.value}"
    key = token.create(label, algorithm)
    assert parse_csr(build_csr(key, Names("dev1"))).common_name == "dev1", "the request's signature is valid"
    found = token.find(f"pkcs11:token=edgetrust;object=key%20{algorithm.value}")
    assert found.public_key() == key.public_key()
    assert not isinstance(key, TlsKey)
    with pytest.raises(KeyExistsError):
        token.create(label, algorithm)


def test_it_does_not_come_out(token: Token) -> None:
    import pkcs11

    token.create("secret", KeyAlgorithm.P256)
    private = token._session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label="secret")
    assert private[pkcs11.Attribute.SENSITIVE] is True
    assert private[pkcs11.Attribute.EXTRACTABLE] is False
    with pytest.raises(pkcs11.exceptions.AttributeSensitive):
        private[pkcs11.Attribute.VALUE]


def test_what_is_not_there(token: Token, tmp_path: Path) -> None:
    with pytest.raises(KeyMissingError):
        token.find("pkcs11:token=edgetrust;object=nothing")
    for module, uri, pin, reason in (
        (tmp_path / "none.so", "pkcs11:token=edgetrust", PIN, "pkcs11-module"),
        (Path(__file__), "pkcs11:token=edgetrust", PIN, "pkcs11-module"),
        (MODULE, "pkcs11:token=other", PIN, "pkcs11-token"),
        (MODULE, "pkcs11:slot-id=99", PIN, "pkcs11-token"),
        (MODULE, "pkcs11:object=x", PIN, "pkcs11-uri"),
        (MODULE, "file:x", PIN, "pkcs11-uri"),
        (MODULE, "pkcs11:token=edgetrust?pin-source=file:/nowhere/pin", None, "pin-unreadable"),
    ):
        with pytest.raises(ConfigError) as caught:
            Token.open(module, uri, pin)
        assert caught.value.reason == reason, (module, uri)


def test_a_wrong_pin(softhsm: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Token.open(MODULE, "pkcs11:token=locked", SecretText("9999"))
    assert caught.value.reason == "pkcs11-pin"
    assert "9999" not in str(caught.value)


def test_uris() -> None:
    parsed = KeyUri.parse("pkcs11:token=Key%20pairs;object=my-key;id=%01%02?pin-value=12%2034")
    assert (parsed.token, parsed.label, parsed.key_id) == ("Key pairs", "my-key", b"\x01\x02")
    assert parsed.pin == SecretText("12 34")
    assert "12 34" not in repr(parsed)
    with pytest.raises(ConfigError, match="'colour' is unknown"):
        KeyUri.parse("pkcs11:token=a;colour=red")


async def test_a_whole_authority_in_a_token(softhsm: Path, tmp_path: Path) -> None:
    """Root and issuing CAs in the token: enrolment, CRL, and a restart that finds the keys again."""
    (tmp_path / "pin").write_text("1234\n")
    settings = replace(
        CaSettings(tmp_path, "sqlite://"),
        pkcs11_module=MODULE,
        pkcs11_token="pkcs11:token=authority",
        pkcs11_pin_file=tmp_path / "pin",
    )
    database, clock = Database("sqlite://"), ManualClock()
    await database.write(METADATA.create_all)
    try:
        await make_hierarchy(await CertificateAuthority.open(settings, database, clock), "Token")
        authority = await CertificateAuthority.open(settings, database, clock)
        assert not (tmp_path / "keys").exists()
        ca = CaWorld(authority, clock)
        issued = await ca.issued(csr("dev1"), await ca.password("dev1"))
        edge = authority.named("edge")
        assert edge.row.key_reference == "pkcs11:token=authority;object=edge"
        assert edge.issuer is not None
        assert build_crl(edge.issuer, (), 1, clock.now()).is_signature_valid(edge.issuer.key.public_key())
        (tmp_path / "root.pem").write_bytes(authority.named("root").row.certificate.public_bytes(Encoding.PEM))
        (tmp_path / "edge.pem").write_bytes(edge.row.certificate.public_bytes(Encoding.PEM))
        (tmp_path / "dev1.pem").write_bytes(issued.row.certificate.public_bytes(Encoding.PEM))
        said = openssl("verify", "-x509_strict", "-attime", str(int(clock.now().timestamp())), "-CAfile", "root.pem",
                       "-untrusted", "edge.pem", "dev1.pem", cwd=tmp_path)  # fmt: skip
        assert said.returncode == 0, said.stderr
        assert isinstance(issued.row.certificate, x509.Certificate)
    finally:
        await database.close()
