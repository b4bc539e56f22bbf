"""Keys of successors: one that has got no certificate is asked with again, one that has is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetrust.edge.files import Layout, key_file_name
from edgetrust.edge.pairs import CertificateStore, Pairs, temporary
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.softkeys import FileKeyStore
from support.pki import Pki

NAME = "est-id"


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Pairs, FileKeyStore, CertificateStore]:
    layout = Layout(tmp_path)
    layout.make()
    keys, store = FileKeyStore(layout.keys, key_file_name), CertificateStore(layout.certificates)
    return Pairs(keys, store), keys, store


def test_whose_request_waits_for_a_person_asks_again_with_the_same_key(
    pairs: tuple[Pairs, FileKeyStore, CertificateStore],
) -> None:
    several, keys, _ = pairs
    first = several.new_key(NAME, KeyAlgorithm.P256).public_key()
    several.recover(NAME)  # as at each attempt and each start
    assert several.new_key(NAME, KeyAlgorithm.P256).public_key() == first
    assert not keys.exists(NAME)


def test_a_key_that_has_its_certificate_is_not_used_for_the_next(
    pairs: tuple[Pairs, FileKeyStore, CertificateStore],
) -> None:
    several, keys, store = pairs
    holder = Pki().authority(NAME)
    keys.import_pem(temporary(NAME), holder.key.private_pem())
    several.promote(NAME, holder.chain)
    assert store.load(NAME) == holder.chain
    assert not keys.exists(temporary(NAME))
    assert several.new_key(NAME, KeyAlgorithm.P256).public_key() != holder.chain.end_entity.public_key()


def test_a_key_that_was_not_needed_goes_when_the_one_in_use_is_certified_again(
    pairs: tuple[Pairs, FileKeyStore, CertificateStore],
) -> None:
    several, keys, store = pairs
    holder = Pki().authority(NAME)
    keys.import_pem(NAME, holder.key.private_pem())
    several.new_key(NAME, KeyAlgorithm.P256)
    several.promote(NAME, holder.chain)
    assert store.load(NAME) == holder.chain
    assert not keys.exists(temporary(NAME))
