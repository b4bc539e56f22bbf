"""Keys as references: secrets that do not show, keys that are fit, and builders that sign through a handle."""

from __future__ import annotations

import copy
import pickle

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from edgetrust.pki.keys import (
    KeyAlgorithm,
    KeyUnfitError,
    PublicKey,
    SecretBytes,
    SecretText,
    key_fault,
    public_der,
    signing_key,
)
from edgetrust.pki.softkeys import SoftKey
from support.pki import NOW, key, name


@pytest.mark.parametrize("secret", [SecretBytes(b"hunter2"), SecretText("hunter2")])
def test_secrets_do_not_show(secret: SecretBytes | SecretText) -> None:
    assert "hunter2" not in f"{secret} {secret!r} {secret!s} {[secret]}"
    assert len(secret) == 7
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_secrets_compare_by_value() -> None:
    assert SecretBytes(b"a") == SecretBytes(b"a") != SecretBytes(b"b")
    assert SecretText("ä") == SecretText("ä") != SecretText("b")
    assert SecretBytes(b"a") != b"a"
    assert SecretText("a") != "a"
    assert len({SecretBytes(b"a"), SecretBytes(b"a"), SecretText("a"), SecretText("a")}) == 2
    assert SecretText("a").reveal() == "a"
    assert SecretBytes(b"a").reveal() == b"a"


def test_fit_keys() -> None:
    assert key_fault(key("k").public_key()) is None
    assert key_fault(key("k", "rsa-2048").public_key()) is None
    assert key_fault(ec.generate_private_key(ec.SECP384R1()).public_key()) is None
    assert "1024" in str(key_fault(key("k", "rsa-1024").public_key()))
    assert "secp256k1" in str(key_fault(ec.generate_private_key(ec.SECP256K1()).public_key()))
    assert "Ed25519" in str(key_fault(ed25519.Ed25519PrivateKey.generate().public_key()))
    modulus = key("k", "rsa-2048").public_key().public_numbers().n  # type: ignore[union-attr]
    slow = rsa.RSAPublicNumbers(2**64 + 13, modulus).public_key()
    assert "exponent" in str(key_fault(slow))


class Remote:
    """A handle whose private half stays elsewhere; counts what it signs."""

    key_id = "remote"

    def __init__(self, inner: SoftKey) -> None:
        self._inner, self.signed = inner, 0

    def public_key(self) -> PublicKey:
        return self._inner.public_key()

    def sign(self, data: bytes) -> bytes:
        self.signed += 1
        return self._inner.sign(data)


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.RSA2048])
def test_builders_sign_through_the_handle(algorithm: KeyAlgorithm) -> None:
    remote = Remote(SoftKey.generate("remote", algorithm))
    signer = signing_key(remote)
    csr = x509.CertificateSigningRequestBuilder().subject_name(name("d")).sign(signer, hashes.SHA256())
    assert csr.is_signature_valid
    crl = x509.CertificateRevocationListBuilder().issuer_name(name("ca")).last_update(NOW).next_update(NOW)
    assert crl.sign(signer, hashes.SHA256()).is_signature_valid(remote.public_key())
    assert remote.signed == 2
    assert public_der(signer.public_key()) == public_der(remote.public_key())
    assert signer.key_size == remote.public_key().key_size
    assert copy.copy(signer) is signer
    assert copy.deepcopy(signer) is signer


def test_an_ec_handle_only_signs() -> None:
    signer = signing_key(Remote(SoftKey.generate("remote")))
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    assert signer.curve.name == "secp256r1"
    with pytest.raises(UnsupportedAlgorithm):
        signer.sign(b"", ec.ECDSA(hashes.SHA384()))
    with pytest.raises(UnsupportedAlgorithm):
        signer.exchange(ec.ECDH(), key("k").public_key())  # type: ignore[arg-type]
    with pytest.raises(UnsupportedAlgorithm):
        signer.private_numbers()
    with pytest.raises(UnsupportedAlgorithm):
        signer.private_bytes()  # type: ignore[call-arg]


def test_an_rsa_handle_only_signs() -> None:
    signer = signing_key(Remote(SoftKey("remote", key("k", "rsa-2048"))))
    assert isinstance(signer, rsa.RSAPrivateKey)
    with pytest.raises(UnsupportedAlgorithm):
        signer.sign(b"", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    with pytest.raises(UnsupportedAlgorithm):
        signer.sign(b"", padding.PKCS1v15(), hashes.SHA384())
    with pytest.raises(UnsupportedAlgorithm):
        signer.decrypt(b"", padding.PKCS1v15())
    with pytest.raises(UnsupportedAlgorithm):
        signer.private_numbers()
    with pytest.raises(UnsupportedAlgorithm):
        signer.private_bytes()  # type: ignore[call-arg]


def test_an_unfit_handle_signs_nothing() -> None:
    class Weak(Remote):
        def __init__(self) -> None:
            pass

        def public_key(self) -> PublicKey:
            return key("k", "rsa-1024").public_key()

    with pytest.raises(KeyUnfitError):
        signing_key(Weak())
