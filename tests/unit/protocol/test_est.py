"""EST's bytes: what is read, what is refused, and what others read of what is written."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from edgetrust.protocol.est import (
    EstBodyError,
    certs_only,
    csr_attributes,
    decode,
    encode,
    key_and_certificates,
    parse_path,
)
from support.ca import csr
from support.ca_server import certificates_in
from support.pki import Pki

PREFIX = "/.well-known/est"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/cacerts", (None, "cacerts")),
        ("/edge/cacerts", ("edge", "cacerts")),
        ("/edge/", ("edge", "")),
        ("/", (None, "")),
        ("", None),
        ("x/cacerts", None),
        ("/a/b/cacerts", None),
        ("/cacerts/cacerts", None),
        ("/a b/cacerts", None),
        ("/" + "x" * 65 + "/cacerts", None),
    ],
)
def test_paths(path: str, expected: tuple[str | None, str] | None) -> None:
    assert parse_path(PREFIX + path) == expected


@given(der=st.binary(max_size=300), width=st.integers(1, 80), end=st.sampled_from([b"\n", b"\r\n", b" ", b"\t"]))
def test_white_space_means_nothing(der: bytes, width: int, end: bytes) -> None:
    value = b"\x04\x82" + len(der).to_bytes(2, "big") + der
    text = base64.b64encode(value)
    broken = b"".join(text[at : at + width] + end for at in range(0, len(text), width))
    assert decode(broken) == value
    for one_line in (True, False):
        assert decode(encode(value, one_line=one_line)) == value
    assert b"\n" not in encode(value, one_line=True)


@given(body=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        der = decode(body)
    except EstBodyError as error:
        assert (error.reason, error.status) == ("est-body-malformed", 400)
    else:
        assert len(der) >= 2


@given(cut=st.integers(1, 100))
def test_every_proper_part_of_a_request_is_refused(cut: int) -> None:
    der = csr()
    with pytest.raises(EstBodyError):
        decode(base64.b64encode(der[:-cut]))


@pytest.mark.parametrize("text", [b"QUJD-_", b"QUI=QUI=", b"=", b"QQ", "é".encode(), b"QUJDRA==garbage"])
def test_what_is_not_base64(text: bytes) -> None:
    with pytest.raises(EstBodyError):
        decode(text)


def test_certificates_keep_their_order() -> None:
    path = Pki(intermediates=3).device("x").path
    for order in (path, path[::-1], path[2:] + path[:2]):
        der = certs_only(one.public_bytes(Encoding.DER) for one in order)
        assert certificates_in(der) == list(order)


def test_a_key_and_its_certificate() -> None:
    body = key_and_certificates(b"\x30\x00", b"\x31\x00", "edge", one_line=True)
    assert body == (
        b"--edge\r\nContent-Type: application/pkcs8\r\nContent-Transfer-Encoding: base64\r\n\r\nMAA=\r\n"
        b"--edge\r\nContent-Type: application/pkcs7-mime; smime-type=certs-only\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\nMQA=\r\n--edge--\r\n"
    )


def test_attributes_hold_the_list_and_the_template() -> None:
    """One extension request in the list and one in the template (RFC 9908, 3.2 and 3.4)."""
    usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH])
    der = csr_attributes([("2.5.29.37", False, usage.public_bytes())])
    request = bytes.fromhex("06092a864886f70d01090e")
    template = bytes.fromhex("060b2a864886f70d010910023d")
    assert der.count(request) == 2
    assert der.count(template) == 1
    assert decode(encode(der)) == der
    challenge = bytes.fromhex("06092a864886f70d010907")
    assert challenge not in der
    assert challenge in csr_attributes([], proof=True)
