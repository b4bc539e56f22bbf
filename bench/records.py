"""TLS 1.3 records made before they are sent and read after they came, so that the generator is lean.

A record's encryption depends on its number, not on time (RFC 8446, 5.3): with a connection's keys, from the key log of
the handshake, all publishes of a measurement are sealed before it begins. Incoming records are counted by their length
and opened when it is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import pack

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

HEADER_BYTES = 5
OVERHEAD_BYTES = 17  # inside a record: content type and tag
_APPLICATION = 23
_SUITES: dict[str, tuple[type[SHA256 | SHA384], int]] = {
    "TLS_AES_128_GCM_SHA256": (SHA256, 16),
    "TLS_AES_256_GCM_SHA384": (SHA384, 32),
}
_FIRST_AFTER_HANDSHAKE = 16  # session tickets may come before the first answer


class Direction:
    """One direction of a connection. `number` is the number of the next record."""

    __slots__ = ("_aead", "_iv", "number")

    def __init__(self, suite: str, secret: bytes, number: int) -> None:
        algorithm, size = _SUITES[suite]
        self._aead = AESGCM(_expand(algorithm, secret, b"key", size))
        self._iv = int.from_bytes(_expand(algorithm, secret, b"iv", 12), "big")
        self.number = number

    def seal(self, plaintexts: Iterable[bytes]) -> bytes:
        """One record for each of `plaintexts`."""
        sealed: list[bytes] = []
        for plaintext in plaintexts:
            header = pack("!BHH", _APPLICATION, 0x0303, len(plaintext) + OVERHEAD_BYTES)
            sealed += header, self._aead.encrypt(self._nonce(self.number), plaintext + bytes([_APPLICATION]), header)
            self.number += 1
        return b"".join(sealed)

    def open(self, records: bytes) -> Iterator[bytes]:
        """The plaintext of each application record in `records`."""
        at = 0
        while at < len(records):
            header = records[at : at + HEADER_BYTES]
            stop = at + HEADER_BYTES + int.from_bytes(header[3:], "big")
            plaintext = self._opened(header, records[at + HEADER_BYTES : stop])
            self.number += 1
            if plaintext[-1] == _APPLICATION:
                yield plaintext[:-1]
            at = stop

    def _opened(self, header: bytes, body: bytes) -> bytes:
        """The first record is found among those that may precede it; after that the numbers follow each other."""
        last = self.number + (_FIRST_AFTER_HANDSHAKE if self.number < _FIRST_AFTER_HANDSHAKE else 1)
        for number in range(self.number, last):
            try:
                plaintext = self._aead.decrypt(self._nonce(number), body, header)
            except InvalidTag:
                continue
            self.number = number
            return plaintext
        raise InvalidTag

    def _nonce(self, number: int) -> bytes:
        return (self._iv ^ number).to_bytes(12, "big")


def directions(key_log: Path, suite: str) -> tuple[Direction, Direction]:
    """(to the server, from the server) of the last handshake in `key_log`, when the client has sent one record."""
    secrets: dict[str, bytes] = {}
    for line in key_log.read_text().splitlines():
        label, _, secret = line.split(" ") if line.count(" ") == 2 else ("", "", "")
        secrets[label] = bytes.fromhex(secret)
    return (
        Direction(suite, secrets["CLIENT_TRAFFIC_SECRET_0"], 1),
        Direction(suite, secrets["SERVER_TRAFFIC_SECRET_0"], 0),
    )


def _expand(algorithm: type[SHA256 | SHA384], secret: bytes, label: bytes, size: int) -> bytes:
    named = b"tls13 " + label
    info = pack("!HB", size, len(named)) + named + b"\0"
    return HKDFExpand(algorithm(), size, info).derive(secret)
