"""What every key store promises, run on each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from edgetrust.pki.keys import (
    KeyAlgorithm,
    KeyExistsError,
    KeyHandle,
    KeyMissingError,
    KeyStore,
    KeyUnfitError,
    SecretBytes,
    TlsKey,
    public_der,
)
from edgetrust.pki.softkeys import FileKeyStore, MemoryKeyStore, SoftKey

STORES: dict[str, Callable[[Path], KeyStore]] = {
    "memory": lambda _: MemoryKeyStore(),
    "file": lambda directory: FileKeyStore(
        directory / "keys", lambda key_id: hashlib.sha256(key_id.encode()).hexdigest() + ".key"
    ),
}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> KeyStore:
    return STORES[request.param](tmp_path)


def assert_signs(handle: KeyHandle) -> None:
    signature, public = handle.sign(b"data"), handle.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, b"data", ec.ECDSA(hashes.SHA256()))
    else:
        public.verify(signature, b"data", padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.RSA2048])
def test_create_load_sign(store: KeyStore, algorithm: KeyAlgorithm) -> None:
    made = store.create("a/b c", algorithm)
    assert store.exists("a/b c")
    loaded = store.load("a/b c")
    assert loaded.key_id == made.key_id == "a/b c"
    assert public_der(loaded.public_key()) == public_der(made.public_key())
    assert isinstance(made.public_key(), rsa.RSAPublicKey) == (algorithm is KeyAlgorithm.RSA2048)
    assert_signs(made)
    assert_signs(loaded)
    assert isinstance(loaded, TlsKey)


def test_creating_never_overwrites(store: KeyStore) -> None:
    made = store.create("k", KeyAlgorithm.P256)
    for again in (lambda: store.create("k", KeyAlgorithm.P256), lambda: store.create_secret("k")):
        with pytest.raises(KeyExistsError) as caught:
            again()
        assert caught.value.reason == "key-exists"
    assert public_der(store.load("k").public_key()) == public_der(made.public_key())


def test_import_replaces(store: KeyStore) -> None:
    store.create("k", KeyAlgorithm.P256)
    other = SoftKey.generate("elsewhere")
    assert store.import_pem("k", other.private_pem()).key_id == "k"
    assert public_der(store.load("k").public_key()) == public_der(other.public_key())
    with pytest.raises(KeyUnfitError):
        store.import_pem("k", SecretBytes(b"nonsense"))
    assert public_der(store.load("k").public_key()) == public_der(other.public_key())


def test_secrets(store: KeyStore) -> None:
    secret = store.create_secret("s")
    assert len(secret) == 32
    assert store.load_secret("s") == secret
    assert store.create_secret("t") != secret
    store.import_secret("s", SecretBytes(b"\x00other"))
    assert store.load_secret("s") == SecretBytes(b"\x00other")
    for unusable in (b"", b"-----BEGIN PRIVATE KEY-----"):
        with pytest.raises(KeyUnfitError):
            store.import_secret("s", SecretBytes(unusable))


def test_the_other_kind(store: KeyStore) -> None:
    store.create("pair", KeyAlgorithm.P256)
    store.create_secret("secret")
    with pytest.raises(KeyUnfitError):
        store.load_secret("pair")
    with pytest.raises(KeyUnfitError):
        store.load("secret")


def test_absent(store: KeyStore) -> None:
    assert not store.exists("k")
    actions: list[Callable[[], object]] = [
        lambda: store.load("k"),
        lambda: store.load_secret("k"),
        lambda: store.delete("k"),
        lambda: store.move("k", "l"),
    ]
    for action in actions:
        with pytest.raises(KeyMissingError) as caught:
            action()
        assert caught.value.reason == "key-missing"
        assert caught.value.key_id == "k"


def test_delete(store: KeyStore) -> None:
    store.create("k", KeyAlgorithm.P256)
    store.delete("k")
    assert not store.exists("k")
    store.create("k", KeyAlgorithm.P256)


def test_move_replaces_the_target(store: KeyStore) -> None:
    new = store.create("k-temp", KeyAlgorithm.P256)
    store.create("k", KeyAlgorithm.P256)
    store.move("k-temp", "k")
    assert not store.exists("k-temp")
    assert public_der(store.load("k").public_key()) == public_der(new.public_key())
    store.move("k", "k")
    assert store.exists("k")
