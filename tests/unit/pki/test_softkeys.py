"""Key files: born private, written whole, and mended by one command when they cannot be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from edgetrust import limits
from edgetrust.errors import ConfigError
from edgetrust.pki.keys import KeyAlgorithm, KeyExistsError, KeyUnfitError, SecretBytes, public_der
from edgetrust.pki.softkeys import FileKeyStore, MemoryKeyStore, SoftKey, load_key_file, write_private, write_public
from support.pki import key, openssl


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_openssl_reads_our_keys_and_we_read_its(tmp_path: Path) -> None:
    file = tmp_path / "ours.pem"
    write_private(file, SoftKey.generate("k", KeyAlgorithm.P256).private_pem().reveal())
    assert "ASN1 OID: prime256v1" in openssl("pkey", "-in", str(file), "-text", "-noout").stdout
    for number, command in enumerate(
        (
            ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            ["ecparam", "-name", "prime256v1", "-genkey"],
            ["genrsa", "-traditional"],
        )
    ):
        theirs = tmp_path / f"theirs-{number}.pem"
        assert openssl(*command, *(["-out", str(theirs)])).returncode == 0
        shown = openssl("pkey", "-in", str(theirs), "-pubout", "-outform", "DER", "-out", str(tmp_path / "public.der"))
        assert shown.returncode == 0
        assert public_der(load_key_file(theirs).public_key()) == (tmp_path / "public.der").read_bytes()


@pytest.mark.parametrize(("algorithm", "bits"), [(KeyAlgorithm.RSA3072, 3072), (KeyAlgorithm.RSA4096, 4096)])
def test_rsa_sizes(algorithm: KeyAlgorithm, bits: int) -> None:
    assert SoftKey.generate("k", algorithm).public_key().key_size == bits


def test_keys_do_not_show() -> None:
    assert repr(SoftKey.generate("k")) == "SoftKey('k', <redacted>)"


def test_unusable_keys() -> None:
    odd = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    encrypted = key("k").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"1234"))
    weak = key("k", "rsa-1024").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem, reason in (
        (b"", "key-not-a-key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "key-not-a-key"),
        (b"x" * (limits.PEM_BYTES + 1), "key-not-a-key"),
        (odd, "key-unfit"),
        (weak, "key-unfit"),
        (encrypted, "key-encrypted"),
    ):
        with pytest.raises(KeyUnfitError) as caught:
            SoftKey.from_pem("k", SecretBytes(pem))
        assert caught.value.reason == reason


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_key_file(tmp_path / "absent.pem")
    assert caught.value.reason == "key-missing"
    with pytest.raises(ConfigError) as caught:
        load_key_file(tmp_path)
    assert caught.value.reason == "key-unreadable"
    file = tmp_path / "key.pem"
    file.write_bytes(b"hello")
    with pytest.raises(ConfigError) as caught:
        load_key_file(file)
    assert (caught.value.reason, str(file) in caught.value.message) == ("key-not-a-key", True)
    file.write_bytes(key("k").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"1234")))
    with pytest.raises(ConfigError) as caught:
        load_key_file(file)
    assert caught.value.reason == "key-encrypted"
    assert caught.value.fix.startswith("openssl pkey")


def test_a_private_file_is_never_wider(tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path / "keys", lambda key_id: f"{key_id}.key")
    before = os.umask(0)
    try:
        store.create("k", KeyAlgorithm.P256)
    finally:
        os.umask(before)
    assert mode(tmp_path / "keys") == 0o700
    assert mode(tmp_path / "keys/k.key") == 0o600
    assert [entry.name for entry in (tmp_path / "keys").iterdir()] == ["k.key"]


def test_writing_replaces_whole_files_and_their_mode(tmp_path: Path) -> None:
    file = tmp_path / "f"
    before = os.umask(0o077)
    try:
        write_public(file, b"public")
    finally:
        os.umask(before)
    assert (file.read_bytes(), mode(file)) == (b"public", 0o644)
    write_private(file, b"private")
    assert (file.read_bytes(), mode(file)) == (b"private", 0o600)


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"untouched")
    (tmp_path / "f").symlink_to(tmp_path / "elsewhere")
    write_private(tmp_path / "f", b"secret")
    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"
    assert not (tmp_path / "f").is_symlink()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    write_private(file, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(file, b"new")
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_race_between_creators_has_one_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileKeyStore(tmp_path, lambda key_id: f"{key_id}.key")
    first = store.create("k", KeyAlgorithm.P256)
    monkeypatch.setattr(FileKeyStore, "exists", lambda *_: False)  # the other process looked before we wrote
    with pytest.raises(KeyExistsError):
        store.create("k", KeyAlgorithm.P256)
    assert public_der(store.load("k").public_key()) == public_der(first.public_key())


@pytest.mark.parametrize("file_name", ["../k", "a/b", "", ".hidden", "..", "/k"])
def test_file_names_stay_in_the_directory(tmp_path: Path, file_name: str) -> None:
    store = FileKeyStore(tmp_path, lambda _: file_name)
    with pytest.raises(ConfigError) as caught:
        store.create_secret("k")
    assert caught.value.reason == "key-file-name"


def test_a_memory_store_keeps_its_keys_when_a_handle_goes() -> None:
    store = MemoryKeyStore()
    made = store.create("k", KeyAlgorithm.P256)
    assert store.load("k").public_key() == made.public_key()


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Be another user for file access, as only root can."""
    before = os.geteuid()
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)


def refused(uid: int, action: Callable[[], object]) -> tuple[str, str, str]:
    with acting_as(uid), pytest.raises(ConfigError) as caught:
        action()
    return caught.value.reason, caught.value.message, caught.value.fix


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A store of this user, in a place that others can reach (but for what the test closes)."""
    FileKeyStore(tmp_path / "keys", lambda key_id: f"{key_id}.key").create("k", KeyAlgorithm.P256)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.geteuid() and directory not in (Path("/"), Path("/tmp")):
            directory.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("uid", [65534, 12345])
def test_not_permitted_names_the_user_and_the_one_command(shared: Path, uid: int) -> None:
    if os.geteuid() != 0:  # only root can try as somebody else; one's own file shows the same
        (shared / "keys/k.key").chmod(0)
        fix = refused(os.geteuid(), lambda: load_key_file(shared / "keys/k.key"))[2]
        assert fix == f"chmod u+rw {shared}/keys/k.key"
        return
    keys, file = shared / "keys", shared / "keys/k.key"
    user = {65534: "nobody", 12345: "12345"}[uid]  # the second has no name
    store = FileKeyStore(keys, lambda key_id: f"{key_id}.key")
    reads = [lambda: load_key_file(file), lambda: store.load("k")]
    writes = [lambda: store.create_secret("new"), lambda: store.delete("k"), lambda: store.move("k", "l")]
    for action in (*reads, *writes, lambda: store.exists("k")):
        reason, message, fix = refused(uid, action)
        assert (reason, fix) == ("key-unreadable", f"chown {user} {keys}")
        assert f"user {user} " in message
    keys.chmod(0o755)
    for action in reads:
        assert refused(uid, action)[2] == f"chown {user} {file}"
    for action in writes:
        assert refused(uid, action)[2] == f"chown {user} {keys}"
    missing = FileKeyStore(shared / "new/keys", lambda key_id: f"{key_id}.key")
    assert refused(uid, lambda: missing.create_secret("s"))[2] == f"chown {user} {shared}"
    os.chown(file, uid, uid)
    with acting_as(uid):
        assert load_key_file(file).key_id == str(file)
    file.chmod(0)
    assert refused(uid, reads[0])[2] == f"chmod u+rw {file}"
