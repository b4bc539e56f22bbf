"""Columns of an authentication, read back."""

from __future__ import annotations

from typing import Any

import pytest

from edgetrust.errors import IntegrityError
from edgetrust.pki.chain import Thumbprint
from edgetrust.pki.keys import SecretBytes
from edgetrust.store.authentication import Rules, authentication_from, columns_of, decide_authentication
from edgetrust.store.records import AuthenticationDraft
from edgetrust.trust.registration import (
    Authentication,
    CertificateAuthority,
    NoAuthentication,
    SasKeys,
    Thumbprints,
)

ONE = Thumbprint.parse("AB" * 32)
EVERY: list[Authentication] = [
    SasKeys(SecretBytes(b"p" * 16), SecretBytes(b"s" * 16)),
    Thumbprints(ONE, None),
    Thumbprints(None, ONE),
    CertificateAuthority(),
    NoAuthentication(),
]


@pytest.mark.parametrize("authentication", EVERY)
def test_columns_come_back(authentication: Authentication) -> None:
    row: Any = columns_of(authentication)
    assert authentication_from(row) == authentication


@pytest.mark.parametrize("kind", ["sas", "gibberish", ""])
def test_a_row_that_is_not_ours_is_noticed(kind: str) -> None:
    row: Any = {**columns_of(NoAuthentication()), "authentication": kind}
    with pytest.raises(IntegrityError) as caught:
        authentication_from(row)
    assert caught.value.reason == "store-row"


def test_the_word_that_identityd_knows_means_self_signed() -> None:
    draft = AuthenticationDraft("x509", primary_thumbprint="ab" * 32)
    assert decide_authentication(draft, None, Rules("d1", edge=False, allow_edge_ca=False)) == Thumbprints(ONE, None)
