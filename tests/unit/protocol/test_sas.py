"""SAS tokens: captured tokens verify, every caller's spelling is read, and everything else is one error."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from edgetrust.limits import PASSWORD_BYTES
from edgetrust.protocol.sas import (
    KeyFormatError,
    SasError,
    SasToken,
    covers,
    decode_key,
    derive_key,
    format_token,
    parse_token,
    resource_parts,
    resource_text,
    sign,
    signature_matches,
    string_to_sign,
)

VECTORS: dict[str, Any] = json.loads(Path(__file__).parents[2].joinpath("vectors/sas.json").read_text())
KEY = b64decode(VECTORS["key"])
HOSTS = frozenset({"hub.example", "localhost"})
SIGNATURE = b64encode(bytes(range(32))).decode()  # has neither + nor /
GOOD = f"SharedAccessSignature sr=localhost&sig={SIGNATURE}&se=10"


def token(resource: str, policy: str | None = None) -> SasToken:
    return parse_token(sign(KEY, resource, 1_795_469_356, policy))


# Vectors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["signatures"], ids=lambda vector: vector["source"])
def test_captured_signatures(vector: dict[str, Any]) -> None:
    made = parse_token(sign(KEY, vector["sr"], vector["se"]))
    assert made == SasToken(vector["sr"], b64decode(vector["sig"]), vector["se"])
    assert signature_matches(made, KEY)


@pytest.mark.parametrize("vector", VECTORS["tokens"], ids=lambda vector: vector["source"])
def test_captured_tokens(vector: dict[str, Any]) -> None:
    parsed = parse_token(vector["text"])
    assert (parsed.resource, parsed.expires_at, parsed.policy) == (vector["sr"], vector["se"], vector["skn"])
    assert signature_matches(parsed, KEY)
    assert not signature_matches(parsed, KEY + b"x")


@pytest.mark.parametrize("vector", VECTORS["derived_keys"], ids=lambda vector: vector["registration_id"])
def test_keys_of_an_enrollment_group(vector: dict[str, str]) -> None:
    derived = derive_key(b64decode(vector["group_key"]), vector["registration_id"])
    assert b64encode(derived).decode() == vector["device_key"]


# Text ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"SharedAccessSignature   sr=localhost&sig={SIGNATURE}&se=10",
        f"SharedAccessSignature se=10&sig={SIGNATURE}&sr=localhost",
        f"SharedAccessSignature sr=localhost&skn=&sig={SIGNATURE}&se=10",
        f"SharedAccessSignature sr=localhost&sig={SIGNATURE.replace('=', '%3D')}&se=10",
        f"SharedAccessSignature sr=localhost&sig={SIGNATURE.replace('=', '%3d')}&se=10&other=1",
    ],
)
def test_spellings_of_the_same(text: str) -> None:
    assert parse_token(text) == SasToken("localhost", bytes(range(32)), 10)


def test_the_resource_stays_raw() -> None:
    text = f"SharedAccessSignature sr=a%2fB/c=d%25&sig={SIGNATURE}&se=10&skn=iothub%6Fwner"
    assert parse_token(text) == SasToken("a%2fB/c=d%25", bytes(range(32)), 10, "iothubowner")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "SharedAccessSignature",
        "SharedAccessSignature ",
        f" {GOOD}",
        GOOD.replace("Shared", "shared", 1),
        GOOD.replace(" ", "\t"),
        GOOD.replace("SharedAccessSignature ", "Bearer "),
        GOOD.replace("sr=", "sx="),
        GOOD.replace("sr=localhost", "sr="),
        GOOD.replace("sr=localhost", "sr=local host"),
        GOOD.replace("localhost", "localhöst"),
        GOOD.replace("localhost", "local\nhost"),
        GOOD.replace("&se=10", ""),
        GOOD.replace(f"&sig={SIGNATURE}", ""),
        f"{GOOD}&se=10",
        f"{GOOD}&sr=localhost",
        f"{GOOD}&skn=a&skn=b",
        f"{GOOD}\n",
        "x" * (PASSWORD_BYTES + 1),
        f"{GOOD}&pad={'x' * PASSWORD_BYTES}",
    ],
)
def test_no_token(text: str) -> None:
    with pytest.raises(SasError) as caught:
        parse_token(text)
    assert (caught.value.reason, caught.value.status) == ("sas-malformed", 401)


@pytest.mark.parametrize(
    "expiry",
    ["", "-1", "+1", "1.5", "1e9", "0x10", "01", "00", " 1", "1_0", "٣", "9223372036854775808", "1" * 20, "nan", "%31"],
)
def test_expiry(expiry: str) -> None:
    with pytest.raises(SasError):
        parse_token(GOOD.replace("se=10", f"se={expiry}"))


@pytest.mark.parametrize("expiry", [0, 1, 2**63 - 1])
def test_expiries_that_are_numbers(expiry: int) -> None:
    assert parse_token(GOOD.replace("se=10", f"se={expiry}")).expires_at == expiry


@pytest.mark.parametrize(
    "signature",
    [
        "AAAA",
        SIGNATURE[:-1],
        f"{SIGNATURE}=",
        f"{SIGNATURE[:-1]}!",
        SIGNATURE.replace("AAEC", "AA C"),
        SIGNATURE.replace("AAEC", "%00EC"),
        SIGNATURE.replace("AAEC", "%FFEC"),
        SIGNATURE.replace("AAEC", "%zzEC"),
        f"{SIGNATURE[:-2]}9=",  # the two unused bits set: another text of the same bytes
        b64encode(bytes(31)).decode(),
        b64encode(bytes(33)).decode(),
    ],
)
def test_signatures_that_are_none(signature: str) -> None:
    with pytest.raises(SasError):
        parse_token(GOOD.replace(SIGNATURE, signature))


def test_a_plus_is_a_plus() -> None:
    signature = b64encode(b"\xfb\xff" * 16).decode()
    assert "+" in signature
    assert parse_token(GOOD.replace(SIGNATURE, signature)).signature == b"\xfb\xff" * 16


def test_errors_and_values_keep_the_signature_to_themselves() -> None:
    with pytest.raises(SasError) as caught:
        parse_token(f"{GOOD}x")
    assert SIGNATURE not in str(caught.value)
    assert "signature" not in repr(parse_token(GOOD))


def test_formatting_is_read_back() -> None:
    for policy in (None, "a policy&more"):
        made = SasToken("h%2Fdevices%2Fd", b"\xfb\xff" * 16, 7, policy)
        if policy is None or " " not in policy:
            assert parse_token(format_token(made)) == made
        else:
            assert "skn=a%20policy%26more" in format_token(made)
            assert parse_token(format_token(made)) == made


def test_what_is_signed() -> None:
    assert string_to_sign("a%2Fb", 7) == b"a%2Fb\n7"
    expected = hmac.new(KEY, b"a%2Fb\n7", hashlib.sha256).digest()
    assert parse_token(sign(KEY, "a%2Fb", 7)).signature == expected


# Keys ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32, 64])
def test_keys(size: int) -> None:
    assert decode_key(b64encode(bytes(size)).decode()) == bytes(size)


@pytest.mark.parametrize("text", ["", "AAAA", "!", "é", "A" * 23, b64encode(bytes(15)).decode(), "A" * 88])
def test_texts_that_are_no_keys(text: str) -> None:
    with pytest.raises(KeyFormatError) as caught:
        decode_key(text)
    assert caught.value.reason == "key-malformed"


# Resources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "resource",
    [
        "hub.example%2Fdevices%2FEdge.1",
        "hub.example/devices/Edge.1",
        "HUB.example%2Fdevices%2Fedge.1",
        "hub.example%2fdevices%2fedge.1",
        "hub.example%3A8883%2Fdevices%2FEdge.1",
        "hub.example%2Fdevices%2FEdge.1%2F",
        "hub.example%2Fdevices%2FEdge%252E1",
        "localhost%3A18883%2Fdevices%2FEdge.1",
    ],
)
def test_resources_of_a_device(resource: str) -> None:
    assert covers(token(resource), HOSTS, "Edge.1", None)
    assert not covers(token(resource), HOSTS, "Edge", None)
    assert not covers(token(resource), HOSTS, "Edge.1", "m")
    assert not covers(token(resource), HOSTS, None, None)


@pytest.mark.parametrize(
    "resource",
    [
        "hub.example%2Fdevices%2Fd1%2Fmodules%2F%24edgeHub",
        "hub.example%2Fdevices%2Fd1%2Fmodules%2F%2524edgeHub",
        "hub.example%2fdevices%2fd1%2fmodules%2f%2524edgehub",
        "hub.example/devices/d1/modules/$edgeHub",
    ],
)
def test_resources_of_a_module(resource: str) -> None:
    assert covers(token(resource), HOSTS, "d1", "$edgeHub")
    assert not covers(token(resource), HOSTS, "d1", "$edgeAgent")
    assert not covers(token(resource), HOSTS, "d2", "$edgeHub")
    assert not covers(token(resource), HOSTS, "d1", None)


def test_an_identifier_may_have_a_percent_sign() -> None:
    assert covers(token(resource_text("localhost", "a%20b")), HOSTS, "a%20b", None)
    assert covers(token("localhost%2Fdevices%2Fa%252520b"), HOSTS, "a%20b", None)


@pytest.mark.parametrize("resource", ["localhost", "LOCALHOST", "localhost%3A8443", "localhost:15671", "localhost%2F"])
def test_resources_of_a_hub(resource: str) -> None:
    assert covers(token(resource, "service"), HOSTS, None, None)
    assert not covers(token(resource, "service"), HOSTS, "d1", None)


@pytest.mark.parametrize(
    "resource",
    [
        "other%2Fdevices%2Fd1",
        "hub.example.other%2Fdevices%2Fd1",
        "localhost%3Ax%2Fdevices%2Fd1",
        "%3A443%2Fdevices%2Fd1",
        "localhost%2Fdevices",
        "localhost%2Fthings%2Fd1",
        "localhost%2Fdevices%2Fd1%2Fmodules",
        "localhost%2Fdevices%2Fd1%2Fthings%2Fm1",
        "localhost%2Fthings%2Fd1%2Fmodules%2Fm1",
        "localhost%2Fdevices%2Fd1%2Fmodules%2Fm1%2Fx",
        "localhost%2F%2Fdevices%2Fd1",
        "%FF%2Fdevices%2Fd1",
        "localhost%2Fdevices%2F%E2%84%AA",  # the Kelvin sign, whose lower case is k
        "%2F",
    ],
)
def test_resources_of_nobody(resource: str) -> None:
    for device, module in (("d1", None), ("d1", "m1"), (None, None), ("k", None)):
        assert not covers(token(resource), HOSTS, device, module)


def test_building_resources() -> None:
    assert resource_text("hub.example") == "hub.example"
    assert resource_text("localhost:18883", "d1") == "localhost%3A18883%2Fdevices%2Fd1"
    assert resource_text("h", "d", "$edgeHub") == "h%2Fdevices%2Fd%2Fmodules%2F%24edgeHub"


def test_parts() -> None:
    assert resource_parts(token("0ne001%2Fregistrations%2FReg1")) == ("0ne001", "registrations", "reg1")
    assert resource_parts(token("%C3%A9")) == ()
