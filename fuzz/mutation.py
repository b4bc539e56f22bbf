"""Damage done to inputs: what links, disks and attackers do to bytes, and what breaks parsers most often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_WORDS = (
    *(b"/", b"//", b"+", b"#", b"$", b"%", b"%2", b"%00", b"%ff", b"%252F", b"&", b"=", b";", b"?", b" ", b"\0", b"\n"),
    *(b"\r\n", b"\xc0\x80", b"\xed\xa0\x80", b"\xff\xfe", "\N{CYRILLIC SMALL LETTER A}".encode(), b'"', b"{", b"}"),
    *(
        b"[" * 64,
        b"]",
        b"null",
        b"true",
        b"-1",
        b"1e999",
        b"0" * 40,
        b"9" * 40,
        b"\x30\x80",
        b"\x30\x84\xff\xff\xff\xff",
    ),
    *(b"devices/", b"/messages/events/", b"$iothub/", b"?$rid=", b"-----BEGIN CERTIFICATE-----", b"-----END"),
)
_STACKED = 5


def mutated(random: Random, pool: Sequence[bytes]) -> bytes:
    """A damaged copy of one of `pool`."""
    data = bytearray(random.choice(pool))
    for _ in range(random.randint(1, _STACKED)):
        random.choice(_WAYS)(random, data, pool)
    return bytes(data)


def _flip(random: Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _replace(random: Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] = random.randrange(256)


def _insert(random: Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    at = random.randint(0, len(data))
    data[at:at] = random.choice(_WORDS)


def _number(random: Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    size = random.choice((1, 2, 4, 8))
    at = random.randint(0, len(data))
    number = random.choice(_NUMBERS) % 256**size
    data[at : at + size] = number.to_bytes(size, random.choice(("big", "little")))


def _cut(random: Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    start, end = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
    del data[start:end]


def _truncate(random: Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    del data[random.randint(0, len(data)) :]


def _repeat(random: Random, data: bytearray, _pool: Sequence[bytes]) -> None:
    start, end = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
    data[end:end] = data[start:end] * random.randint(1, 8)


def _splice(random: Random, data: bytearray, pool: Sequence[bytes]) -> None:
    other = random.choice(pool)
    data[random.randint(0, len(data)) :] = other[random.randint(0, len(other)) :]


_WAYS: tuple[Callable[[Random, bytearray, Sequence[bytes]], None], ...] = (
    *(_flip, _replace, _insert, _number, _cut, _truncate, _repeat, _splice),
)
