"""The throw-away PKI of `edgetrust up`: made once, mended when it must be, and accepted by openssl."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgetrust.hub.pki import HubPki, ensure_pki
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.softkeys import SoftKey, write_private
from edgetrust.pki.verify import Purpose, VerifiedChain, verify_chain
from support.pki import openssl

NOW = datetime.now(UTC)
HOSTS = ("localhost", "127.0.0.1", "::1")


@pytest.fixture
def made(tmp_path: Path) -> HubPki:
    return ensure_pki(tmp_path / "pki", HOSTS, NOW)


def chain(files: HubPki) -> Chain:
    return Chain.from_pem(files.certificate.read_bytes())


@pytest.mark.parametrize("host", HOSTS)
def test_good_for_every_name(made: HubPki, host: str) -> None:
    bundle = TrustBundle.from_pem(made.trust_bundle.read_bytes(), as_of=NOW)
    assert isinstance(verify_chain(chain(made), bundle, Purpose.SERVER, NOW, name=host), VerifiedChain)


def test_openssl_agrees(made: HubPki) -> None:
    said = openssl(
        "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost",
        "-CAfile", str(made.trust_bundle), "-untrusted", str(made.certificate), str(made.certificate),
    )  # fmt: skip
    assert said.returncode == 0, said


def test_keys_are_private(made: HubPki) -> None:
    directory = made.key.parent
    assert directory.stat().st_mode & 0o777 == 0o700
    for key in directory.glob("*.key.pem"):
        assert key.stat().st_mode & 0o777 == 0o600
    assert len(list(directory.glob("*.key.pem"))) == 3


def test_kept(made: HubPki) -> None:
    before = {file: file.read_bytes() for file in made.key.parent.iterdir()}
    assert ensure_pki(made.key.parent, HOSTS, NOW + timedelta(days=1)) == made
    assert {file: file.read_bytes() for file in made.key.parent.iterdir()} == before


def test_renewed_near_its_end(made: HubPki) -> None:
    first = chain(made).end_entity
    ensure_pki(made.key.parent, HOSTS, first.not_valid_after_utc - timedelta(days=1))
    assert chain(made).end_entity.not_valid_after_utc > first.not_valid_after_utc
    issuing = Chain.from_pem((made.key.parent / "issuing.cert.pem").read_bytes())
    assert chain(made).intermediates == issuing.certificates  # by the CA that was there


def test_renewed_for_another_name(made: HubPki) -> None:
    root = made.trust_bundle.read_bytes()
    ensure_pki(made.key.parent, (*HOSTS, "hub.local"), NOW)
    assert made.trust_bundle.read_bytes() == root
    bundle = TrustBundle.from_pem(root, as_of=NOW)
    assert isinstance(verify_chain(chain(made), bundle, Purpose.SERVER, NOW, name="hub.local"), VerifiedChain)


def test_killed_between_key_and_certificate(made: HubPki) -> None:
    """The new key is there and the old certificate still is: they do not belong together."""
    write_private(made.key, SoftKey.generate("other").private_pem().reveal())
    before = chain(made)
    ensure_pki(made.key.parent, HOSTS, NOW)
    assert chain(made) != before


@pytest.mark.parametrize("gone", [("hub.cert.pem",), ("hub.key.pem",), ("hub.cert.pem", "issuing.cert.pem")])
def test_what_is_missing_is_made(made: HubPki, gone: tuple[str, ...]) -> None:
    for name in gone:
        (made.key.parent / name).unlink()
    ensure_pki(made.key.parent, HOSTS, NOW)
    for name in gone:
        assert (made.key.parent / name).exists()


def test_a_root_whose_key_was_taken_away_stays_the_root(made: HubPki) -> None:
    (made.key.parent / "root.key.pem").unlink()
    before = made.trust_bundle.read_bytes()
    made.certificate.unlink()
    ensure_pki(made.key.parent, HOSTS, NOW)
    assert made.trust_bundle.read_bytes() == before
    assert not (made.key.parent / "root.key.pem").exists()
