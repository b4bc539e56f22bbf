"""The server name in a TLS ClientHello, read before anybody speaks TLS: bytes in, the name out.

    record      22, version, length, fragment                    (RFC 8446, 5.1)
    handshake   1, length, ClientHello                           (RFC 8446, 4)
    extension   server_name: a list with one host_name           (RFC 6066, 3)

Rules. A hello may come in pieces, and in many records; it is read on from where it was, so that no peer makes us read
it twice. Nothing is believed and nothing changed: who gets the bytes gets all of them, as they came. What is not the
beginning of a ClientHello, or is too long for one, is HelloError at the first byte that shows it.

It must not know sockets, nor what a name is for.
"""

from __future__ import annotations

from typing import Final

from edgetrust.errors import PeerError
from edgetrust.limits import CLIENT_HELLO_BYTES

_HANDSHAKE, _CLIENT_HELLO, _MAJOR = 22, 1, 3
_RECORD_HEADER, _MESSAGE_HEADER = 5, 4
_RECORD_BYTES: Final = 16 * 1024  # of plaintext in one record
_VERSION_AND_RANDOM: Final = 2 + 32
_SERVER_NAME, _HOST_NAME = 0, 0
_LONGEST_NAME: Final = 253


class HelloError(PeerError):
    """These bytes do not begin a ClientHello that can be read. `reason` is `hello-malformed` or `hello-too-long`."""


class HelloReader:
    """Reads one ClientHello. `received` is everything that was fed; `name` counts once `complete`."""

    __slots__ = ("_at", "_message", "complete", "name", "received")

    def __init__(self) -> None:
        self.received = bytearray()
        self._at = 0  # where the next record begins in what was received
        self._message = bytearray()  # of the handshake message, from the records so far
        self.complete = False
        self.name: str | None = None  # in lower case; None when the client names nobody

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take in what arrived. Raises HelloError."""
        self.received += data
        while not self.complete and self._next_record():
            self._read_message()
        if not self.complete and len(self.received) > CLIENT_HELLO_BYTES:
            raise HelloError(f"no ClientHello in {CLIENT_HELLO_BYTES} bytes", reason="hello-too-long")

    def _next_record(self) -> bool:
        """Whether one more record is there; its fragment is part of the message then."""
        header = self.received[self._at : self._at + _RECORD_HEADER]
        if (header[:1] and header[0] != _HANDSHAKE) or (header[1:2] and header[1] != _MAJOR):
            raise _malformed("no TLS handshake record")
        if len(header) < _RECORD_HEADER:
            return False
        length = int.from_bytes(header[3:])
        if not 0 < length <= _RECORD_BYTES:
            raise _malformed(f"a record of {length} bytes")
        end = self._at + _RECORD_HEADER + length
        if len(self.received) < end:
            return False
        self._message += self.received[self._at + _RECORD_HEADER : end]
        self._at = end
        return True

    def _read_message(self) -> None:
        if self._message[0] != _CLIENT_HELLO:
            raise _malformed("another handshake message")
        if len(self._message) < _MESSAGE_HEADER:
            return
        end = _MESSAGE_HEADER + int.from_bytes(self._message[1:_MESSAGE_HEADER])
        if end > CLIENT_HELLO_BYTES:
            raise HelloError(f"a ClientHello of {end} bytes", reason="hello-too-long")
        if len(self._message) < end:
            return
        self.name = _server_name(_Fields(bytes(self._message[_MESSAGE_HEADER:end])))
        self.complete = True


class _Fields:
    """A message from front to back. Every method raises HelloError when there are fewer bytes than it needs."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def left(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise _malformed("a length that is longer than the message")
        taken, self._at = self._data[self._at : end], end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        """Bytes after their length, which is a number of `size` bytes."""
        return self.take(self.number(size))


def _server_name(hello: _Fields) -> str | None:
    hello.take(_VERSION_AND_RANDOM)
    hello.vector(1)  # session
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression
    if not hello.left():
        return None
    extensions, found = _Fields(hello.vector(2)), list[bytes]()
    if hello.left():
        raise _malformed("bytes behind the extensions")
    while extensions.left():
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            found.append(content)
    if len(found) > 1:
        raise _malformed("server_name twice")  # RFC 8446, 4.2
    return _host_name(_Fields(found[0])) if found else None


def _host_name(extension: _Fields) -> str | None:
    names, found = _Fields(extension.vector(2)), list[bytes]()
    if extension.left():
        raise _malformed("bytes behind the names")
    while names.left():
        kind, content = names.number(1), names.vector(2)
        if kind == _HOST_NAME:
            found.append(content)
    if len(found) > 1:
        raise _malformed("two host names")  # RFC 6066, 3
    if not found:
        return None
    try:
        name = found[0].decode("ascii").lower()
    except UnicodeDecodeError:
        raise _malformed("a host name that is not ASCII") from None
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise _malformed("a host name that is none")
    return name


def _malformed(what: str) -> HelloError:
    return HelloError(f"no ClientHello: {what}", reason="hello-malformed")
