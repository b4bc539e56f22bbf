"""Laws of the ClientHello reader: pieces mean nothing, any change is one documented error or another reading."""

from __future__ import annotations

import string
from contextlib import suppress
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edgetrust.protocol.client_hello import HelloError, HelloReader
from support.hellos import hello_for, hello_with, in_records, server_name

names = st.text(string.ascii_letters + string.digits + "-._", min_size=1, max_size=253)
HELLO = hello_for("dps.example.com")


def outcome(pieces: list[bytes]) -> tuple[bool, str | None] | str:
    reader = HelloReader()
    try:
        for piece in pieces:
            reader.feed(piece)
    except HelloError as error:
        return error.reason
    assert bytes(reader.received) == b"".join(pieces)
    return reader.complete, reader.name


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(min(one, len(data)) for one in at)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(
    names,
    st.integers(1, 300),
    st.lists(st.integers(0, 800), max_size=8),
    st.lists(st.tuples(st.integers(1, 60), st.binary(max_size=40)), max_size=4),
)
def test_any_name_comes_out_however_it_is_cut(
    name: str, size: int, at: list[int], others: list[tuple[int, bytes]]
) -> None:
    sent = in_records(hello_with(*others, server_name(name.encode())), size)
    assert outcome(cut(sent, at)) == (True, name.lower())


@given(st.data())
def test_a_changed_hello_is_read_or_refused_the_same_in_one_piece_and_in_many(data: st.DataObject) -> None:
    changed = bytearray(HELLO)
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(HELLO) - 1), st.integers(0, 255)), max_size=4)):
        changed[at] = byte
    sent = bytes(changed[: data.draw(st.integers(0, len(changed)))])
    pieces = [sent[at : at + 1] for at in range(len(sent))]
    assert outcome([sent]) == outcome(pieces)


@given(st.binary(max_size=600))
def test_garbage_is_no_hello(garbage: bytes) -> None:
    with suppress(HelloError):
        HelloReader().feed(garbage)
