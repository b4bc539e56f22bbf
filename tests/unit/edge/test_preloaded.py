"""Keys that the configuration puts in a place: found there, made there, never anywhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetrust.edge.files import key_file_name
from edgetrust.edge.preloaded import PreloadedKeys
from edgetrust.edge.tokens import TokenKey
from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.pki.keys import KeyAlgorithm, KeyExistsError, KeyMissingError, KeyUnfitError, SecretBytes, public_der
from edgetrust.pki.softkeys import FileKeyStore, SoftKey


@pytest.fixture
def keys(tmp_path: Path) -> PreloadedKeys:
    token = TokenKey(tmp_path / "no-module.so", "pkcs11:token=a;object=b?pin-value=1234")
    places = {"pair": tmp_path / "pair.pem", "secret": tmp_path / "secret.key", "token": token}
    return PreloadedKeys(FileKeyStore(tmp_path / "keys", key_file_name), places)


def test_a_pair_is_made_and_replaced_in_its_place(keys: PreloadedKeys, tmp_path: Path) -> None:
    assert not keys.exists("pair")
    with pytest.raises(KeyMissingError):
        keys.load("pair")
    made = keys.create("pair", KeyAlgorithm.P256)
    assert public_der(keys.load("pair").public_key()) == public_der(made.public_key())
    assert (tmp_path / "pair.pem").stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyExistsError):
        keys.create("pair", KeyAlgorithm.P256)
    other = SoftKey.generate("other")
    (tmp_path / "pair.pem").write_bytes(other.private_pem().reveal())
    assert public_der(keys.load("pair").public_key()) == public_der(other.public_key())
    (tmp_path / "pair.pem").write_text("no key")
    with pytest.raises(IntegrityError) as caught:
        keys.load("pair")
    assert caught.value.reason == "key-not-a-key"


def test_a_symmetric_key_is_its_bytes(keys: PreloadedKeys, tmp_path: Path) -> None:
    with pytest.raises(KeyMissingError):
        keys.load_secret("secret")
    assert keys.create_secret("secret") == keys.load_secret("secret")
    with pytest.raises(KeyExistsError):
        keys.create_secret("secret")
    (tmp_path / "secret.key").write_bytes(b"bytes")
    assert keys.load_secret("secret").reveal() == b"bytes"
    with pytest.raises(KeyUnfitError):
        keys.load_secret("token")


def test_what_is_the_users_is_not_moved_imported_or_deleted(keys: PreloadedKeys, tmp_path: Path) -> None:
    keys.create("pair", KeyAlgorithm.P256)
    keys.create("own", KeyAlgorithm.P256)
    for refused in (
        lambda: keys.delete("pair"),
        lambda: keys.move("pair", "own"),
        lambda: keys.move("own", "pair"),
        lambda: keys.import_pem("pair", SecretBytes(b"x")),
        lambda: keys.import_secret("token", SecretBytes(b"x")),
    ):
        with pytest.raises(KeyUnfitError) as caught:
            refused()
        assert "1234" not in caught.value.message
    keys.move("own", "other")
    assert (keys.exists("own"), keys.exists("other")) == (False, True)
    keys.delete("other")
    assert list((tmp_path / "keys").glob("*")) == []


def test_a_token_whose_module_is_missing(keys: PreloadedKeys) -> None:
    with pytest.raises(ConfigError) as caught:
        keys.exists("token")
    assert caught.value.reason == "pkcs11-module"
