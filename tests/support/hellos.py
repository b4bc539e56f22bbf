"""ClientHellos: those that OpenSSL makes, and those that a test cuts up."""

from __future__ import annotations

import ssl
from contextlib import suppress


def hello_for(name: str | None) -> bytes:
    """What OpenSSL's client sends first when it dials `name`."""
    context = ssl.create_default_context()
    if name is None:
        context.check_hostname = False
    out = ssl.MemoryBIO()
    engine = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        engine.do_handshake()
    return out.read()


def in_records(hello: bytes, size: int) -> bytes:
    """The same hello in records of at most `size` bytes each."""
    message = hello[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2) + piece for piece in pieces)


def hello_with(*extensions: tuple[int, bytes], body: bytes | None = None) -> bytes:
    """A ClientHello with these extensions and nothing else to speak of, in one record."""
    packed = b"".join(kind.to_bytes(2) + len(content).to_bytes(2) + content for kind, content in extensions)
    rest = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    content = rest + len(packed).to_bytes(2) + packed if body is None else body
    message = b"\x01" + len(content).to_bytes(3) + content
    return b"\x16\x03\x01" + len(message).to_bytes(2) + message


def server_name(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    """The extension that names a server."""
    listed = b"".join(bytes([kind]) + len(name).to_bytes(2) + name for name in names)
    return 0, len(listed).to_bytes(2) + listed
