"""The name in a ClientHello: as OpenSSL writes it, cut up, and as nobody should write it."""

from __future__ import annotations

import pytest

from edgetrust.limits import CLIENT_HELLO_BYTES
from edgetrust.protocol.client_hello import HelloError, HelloReader
from support.hellos import hello_for, hello_with, in_records, server_name


def read(*pieces: bytes) -> HelloReader:
    reader = HelloReader()
    for piece in pieces:
        reader.feed(piece)
    return reader


@pytest.mark.parametrize("name", ["dps.example.com", "EST.example.com", "x" * 63 + ".example", None])
def test_what_openssl_sends_is_read(name: str | None) -> None:
    reader = read(hello_for(name))
    assert reader.complete
    assert reader.name == (name and name.lower())


@pytest.mark.parametrize("size", [1, 7, 100, 511])
def test_records_may_be_small_and_pieces_smaller(size: int) -> None:
    sent = in_records(hello_for("dps.example.com"), size)
    reader = HelloReader()
    for at in range(len(sent)):
        assert not reader.complete
        reader.feed(sent[at : at + 1])
    assert (reader.complete, reader.name) == (True, "dps.example.com")
    assert bytes(reader.received) == sent


def test_what_follows_the_hello_is_kept_and_not_read() -> None:
    sent = hello_for("dps.example.com") + b"\xff" * 300
    reader = read(sent)
    assert reader.name == "dps.example.com"
    assert bytes(reader.received) == sent


def test_a_hello_without_extensions_names_nobody() -> None:
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x00\x2f" + b"\x01\x00"
    reader = read(hello_with(body=body))
    assert (reader.complete, reader.name) == (True, None)


def test_a_name_of_another_kind_is_no_host_name() -> None:
    assert read(hello_with(server_name(b"x", kind=7))).name is None


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "no TLS handshake record"),
        (b"\x10\x20\x00\x04MQTT", "no TLS handshake record"),  # MQTT without TLS
        (b"\x16\x02\x00\x00\x10", "no TLS handshake record"),
        (b"\x16\x03\x01\x00\x00", "a record of 0 bytes"),
        (b"\x16\x03\x01\x40\x01", "a record of 16385 bytes"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "another handshake message"),
        (hello_with(server_name(b"a.example"), server_name(b"b.example")), "server_name twice"),
        (hello_with(server_name(b"a.example", b"b.example")), "two host names"),
        (hello_with(server_name(b"\xc3\xa4.example")), "a host name that is not ASCII"),
        (hello_with(server_name(b"")), "a host name that is none"),
        (hello_with(server_name(b"x" * 254)), "a host name that is none"),
        (hello_with(server_name(b"a\x00.example")), "a host name that is none"),
        (hello_with((0, b"\x00\x0c\x00\x00\x20a.example")), "longer than the message"),
        (hello_with((0, b"\x00\x00\x01")), "bytes behind the names"),
        (hello_with(body=b"\x03\x03" + bytes(10)), "longer than the message"),
        (hello_with(body=b"\x03\x03" + bytes(32) + b"\x00\x00\x00\x00\x00\x00\x01"), "bytes behind the extensions"),
    ],
)
def test_what_is_no_hello_is_said_to_be_none(sent: bytes, why: str) -> None:
    with pytest.raises(HelloError, match=why) as caught:
        read(sent)
    assert caught.value.reason == "hello-malformed"


def test_a_hello_has_a_longest_length() -> None:
    padding = (21, bytes(CLIENT_HELLO_BYTES - 100))
    assert read(in_records(hello_with((21, bytes(8_000))), 5_000)).complete
    with pytest.raises(HelloError, match="a ClientHello of") as caught:
        read(b"\x16\x03\x01\x00\x04\x01\x00\xff\xff")
    assert caught.value.reason == "hello-too-long"
    with pytest.raises(HelloError, match="no ClientHello in") as caught:
        read(in_records(hello_with(padding), 1)[: CLIENT_HELLO_BYTES + 1])
    assert caught.value.reason == "hello-too-long"
