"""EST's bytes (RFC 7030, with the corrections of RFC 8951 and RFC 9908): bodies in, bodies out, nothing else.

Rules. Every payload is the base64 of DER, whatever Content-Transfer-Encoding says. Input may be broken into lines, hold
white space, or come with PEM armour, as real clients send it; anything else that is not base64 is refused, and so is
what is left over behind the DER. Output is in lines of 64 characters for clients that need them (libest), or in one
line for those that cannot read lines (strongSwan 5.9.8 and reqwest's users, known by their missing User-Agent).

A certs-only message keeps the order of its certificates: the edge runtime appends them to its own as they come. That is
BER rather than DER, as OpenSSL and Go send it too.

Must not know keys, policies or HTTP.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Final

from edgetrust.errors import PeerError

PREFIX: Final = "/.well-known/est"
OPERATIONS: Final = frozenset(
    {"cacerts", "simpleenroll", "simplereenroll", "csrattrs", "serverkeygen", "fullcmc"}
)  # a label never has one of these names
CSR_TYPE: Final = "application/pkcs10"
CERTIFICATES_TYPE: Final = "application/pkcs7-mime; smime-type=certs-only"
ATTRIBUTES_TYPE: Final = "application/csrattrs"
KEY_TYPE: Final = "application/pkcs8"

_WHITE: Final = re.compile(rb"[ \t\r\n]+")
_ARMOUR: Final = re.compile(rb"\s*-----BEGIN [A-Z0-9 ]+-----(.*?)-----END [A-Z0-9 ]+-----\s*", re.DOTALL)
_LINE: Final = 64
_LABEL: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")


class EstBodyError(PeerError):
    """The body is not the base64 of one DER value (reason `est-body-malformed`)."""


def parse_path(path: str) -> tuple[str | None, str] | None:
    """The label (None: the default CA) and the operation that a path names; None if it is not one of EST's."""
    rest = path.removeprefix(PREFIX)
    if rest == path or not rest.startswith("/"):
        return None
    parts = rest[1:].split("/")
    if len(parts) == 1:
        return None, parts[0]
    label, operation = parts[0], parts[-1]
    if len(parts) == 2 and _LABEL.fullmatch(label) and label not in OPERATIONS:  # noqa: PLR2004 - label, operation
        return label, operation
    return None


def decode(body: bytes) -> bytes:
    """One DER value from a body. Raises EstBodyError."""
    armoured = _ARMOUR.fullmatch(body)
    text = _WHITE.sub(b"", body if armoured is None else armoured[1])
    if not text:
        raise EstBodyError("the body is empty", reason="est-body-malformed")
    try:
        der = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EstBodyError(f"the body is not base64: {error}", reason="est-body-malformed") from error
    length = _element_length(der)
    if length is None or length != len(der):
        raise EstBodyError("the body is not one DER value: cut off, or more follows", reason="est-body-malformed")
    return der


def encode(der: bytes, *, one_line: bool = False) -> bytes:
    """Base64, in lines of 64 characters with a final line feed, or in one line without."""
    text = base64.b64encode(der)
    if one_line:
        return text
    return b"".join(text[at : at + _LINE] + b"\n" for at in range(0, len(text), _LINE))


def certs_only(certificates: Iterable[bytes]) -> bytes:
    """A certs-only SignedData (RFC 5652, 5.1; RFC 8551, 3.8) with these DER certificates in this order."""
    held = _tagged(0xA0, b"".join(certificates))
    content = _tagged(0x30, _DATA)
    signed = _tagged(0x30, b"\x02\x01\x01" + _tagged(0x31, b"") + content + held + _tagged(0x31, b""))
    return _tagged(0x30, _SIGNED_DATA + _tagged(0xA0, signed))


def key_and_certificates(key: bytes, certificates: bytes, boundary: str, *, one_line: bool = False) -> bytes:
    """The two parts of a serverkeygen answer (RFC 7030, 4.4.2): PKCS#8 and certs-only, each with the encoding header
    that libest insists on.
    """
    parts = (KEY_TYPE, key), (CERTIFICATES_TYPE, certificates)
    lines = [
        f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: base64\r\n\r\n".encode()
        + encode(der, one_line=one_line)
        + b"\r\n"
        for kind, der in parts
    ]
    return b"".join(lines) + f"--{boundary}--\r\n".encode()


# What a server asks of requests (RFC 7030, 4.5.2; RFC 9908) -----------------------------------------------------------

_OID_CHALLENGE: Final = "1.2.840.113549.1.9.7"
_OID_EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"
_OID_EC: Final = "1.2.840.10045.2.1"
_OID_P256: Final = "1.2.840.10045.3.1.7"
_OID_SHA256: Final = "1.2.840.10045.4.3.2"
_OID_TEMPLATE: Final = "1.2.840.113549.1.9.16.2.61"  # id-aa-certificationRequestInfoTemplate
_OID_COMMON_NAME: Final = "2.5.4.3"


def csr_attributes(extensions: Sequence[tuple[str, bool, bytes]], *, proof: bool = False) -> bytes:
    """CsrAttrs, DER: the key we like, the extensions that we dictate as (OID, critical, value), and, for clients of
    RFC 9908, the same as a template whose common name the client fills in. `proof` asks for challengePassword.
    """
    dictated = [_extension(oid, critical, value) for oid, critical, value in extensions]
    wanted = [_oid(_OID_CHALLENGE)] if proof else []
    wanted.append(_attribute(_OID_EC, [_oid(_OID_P256)]))
    if dictated:
        wanted.append(_attribute(_OID_EXTENSION_REQUEST, [_tagged(0x30, b"".join(dictated))]))
    wanted.append(_oid(_OID_SHA256))
    wanted.append(_attribute(_OID_TEMPLATE, [_template(dictated)]))
    return _tagged(0x30, b"".join(wanted))


def _template(dictated: Sequence[bytes]) -> bytes:
    """CertificationRequestInfoTemplate (RFC 9908, 3.4): version, a subject to fill in, the kind of key, extensions."""
    subject = _tagged(0x30, _tagged(0x31, _tagged(0x30, _oid(_OID_COMMON_NAME))))
    key = _tagged(0xA0, _tagged(0x30, _oid(_OID_EC) + _oid(_OID_P256)))
    attributes = [_attribute(_OID_EXTENSION_REQUEST, [_tagged(0x30, b"".join(dictated))])] if dictated else []
    return _tagged(0x30, b"\x02\x01\x00" + subject + key + _tagged(0xA1, b"".join(attributes)))


def _extension(oid: str, critical: bool, value: bytes) -> bytes:
    return _tagged(0x30, _oid(oid) + (b"\x01\x01\xff" if critical else b"") + _tagged(0x04, value))


def _attribute(oid: str, values: Sequence[bytes]) -> bytes:
    return _tagged(0x30, _oid(oid) + _tagged(0x31, b"".join(values)))


# DER ------------------------------------------------------------------------------------------------------------------


def _tagged(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:  # noqa: PLR2004 - X.690, 8.1.3.4
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _oid(text: str) -> bytes:
    first, second, *rest = (int(part) for part in text.split("."))
    content = bytearray()
    for number in (40 * first + second, *rest):
        septets = [number & 0x7F]
        while number := number >> 7:
            septets.append(0x80 | number & 0x7F)
        content += bytes(reversed(septets))
    return _tagged(0x06, bytes(content))


def _element_length(der: bytes) -> int | None:
    """How long the first element says it is, header included; None if the header is cut off or not DER."""
    if len(der) < 2:  # noqa: PLR2004 - tag and length
        return None
    length, start = der[1], 2
    if length & 0x80:
        octets = length & 0x7F
        if not 0 < octets <= 4 or len(der) < start + octets:  # noqa: PLR2004 - longer than any body
            return None
        start += octets
        length = int.from_bytes(der[2:start], "big")
    return start + length


_DATA: Final = _oid("1.2.840.113549.1.7.1")
_SIGNED_DATA: Final = _oid("1.2.840.113549.1.7.2")
