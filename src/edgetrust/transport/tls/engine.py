"""The seam between bytes and TLS. An engine is one connection without a socket: ciphertext in, ciphertext out.

Rules:
1. An engine never blocks, waits or knows a socket or a clock. Whoever drives it calls `feed` with what arrived and
   sends what `take` gives, after every call of any other method.
2. A server's engine asks for a client certificate, accepts any and accepts none. TLS itself proves that the peer
   holds the key of the end entity that `peer_chain` starts with; nothing else is said about it.
3. A client's engine has verified the server before `handshake_done` is true. No byte of the application leaves
   before that.
4. Failures are TlsError with a reason out of a bounded set, so that the reason can be the label of a metric.

It must not know certificates beyond their DER.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from edgetrust.errors import PeerError, RefusedError

RECORD_BYTES: Final = 16 * 1024  # plaintext of one TLS record (RFC 8446, 5.1); engines work in such slices

Buffer = bytes | bytearray | memoryview
ServerCheck = Callable[[tuple[bytes, ...]], None]  # raises ServerRefusedError

NOT_TLS = "tls-not-tls"
CUT = "tls-cut"
LATE = "tls-late"
TOO_MANY_CERTIFICATES = "tls-too-many-certificates"
FAILED = "tls-failed"
_REASONS: Final = {
    "wrong version number": NOT_TLS,
    "http request": NOT_TLS,
    "https proxy request": NOT_TLS,
    "packet length too long": NOT_TLS,
    "unsupported protocol": "tls-version",
    "no protocols available": "tls-version",
    "tlsv1 alert protocol version": "tls-version",
    "no shared cipher": "tls-no-shared-cipher",
    "no shared signature algorithms": "tls-no-shared-cipher",
    "no suitable key share": "tls-no-shared-cipher",
    "no suitable groups": "tls-no-shared-cipher",
    "bad signature": "tls-key-not-proven",
    "wrong signature type": "tls-key-not-proven",
    "digest check failed": "tls-bad-record",
    "bad record type": "tls-bad-record",
    "decryption failed or bad record mac": "tls-bad-record",
    "unexpected message": "tls-bad-record",
    "unexpected record": "tls-bad-record",
    "no renegotiation": "tls-renegotiation",
    "unexpected eof while reading": CUT,
}
_REFUSED_BY_PEER: Final = ("unknown ca", "bad certificate", "certificate expired", "certificate unknown")
PEER_REFUSED_CERTIFICATE = "tls-peer-refused-certificate"
_FIXES: Final = {
    NOT_TLS: "connect with TLS; this port speaks nothing else",
    PEER_REFUSED_CERTIFICATE: "give the peer the root of our chain, and connect by a name that our certificate lists",
    "tls-version": "enable TLS 1.2 or 1.3 at the peer",
}


class TlsError(PeerError):
    """TLS ended because of what the peer sent, or did not send. `reason` is one of this module's `tls-...` slugs."""


class ServerRefusedError(RefusedError):
    """The server's certificates were not accepted. `reason` is a slug of path validation such as `name-mismatch`."""


def tls_error(words: str) -> TlsError:
    """The error for OpenSSL's words about a failure."""
    reason = _REASONS.get(words)
    if reason is None:
        refused = "alert" in words and any(part in words for part in _REFUSED_BY_PEER)
        reason = PEER_REFUSED_CERTIFICATE if refused else FAILED
    return TlsError(f"TLS failed: {words}", reason=reason, fix=_FIXES.get(reason, ""))


class TlsEngine(Protocol):
    """One TLS connection, either role, without a socket."""

    @property
    def handshake_done(self) -> bool: ...

    @property
    def closed(self) -> bool:
        """The peer has said with close_notify that nothing more comes."""
        ...

    @property
    def is_open(self) -> bool:
        """The handshake is done and neither side has closed: `write` may be called."""
        ...

    def start(self) -> None:
        """Say what the role has to say first: a client's hello. For a server nothing."""
        ...

    def feed(self, ciphertext: Buffer) -> None:
        """Take in what arrived. Raises TlsError or ServerRefusedError; `take` may then still hold an alert."""
        ...

    def read(self) -> bytes:
        """All plaintext there is, in one piece; empty when there is none."""
        ...

    def write(self, plaintext: Buffer) -> None:
        """Encrypt. Raises TlsError unless `is_open`."""
        ...

    def take(self) -> bytes:
        """The ciphertext to send now, in one piece; empty when there is none."""
        ...

    def close(self) -> None:
        """Say close_notify. Nothing can be written any more."""
        ...

    def peer_chain(self) -> tuple[bytes, ...]:
        """The peer's certificates in DER, the end entity first, then what else it sent, in its order; empty if none.

        Raises TlsError when the peer sent more than `limits.PEER_CHAIN_CERTIFICATES`.
        """
        ...

    @property
    def version(self) -> str:
        """`TLSv1.2` or `TLSv1.3`."""
        ...

    @property
    def cipher(self) -> str: ...

    @property
    def tls_unique(self) -> bytes | None:
        """The channel binding of this connection (RFC 5929, 3): the client's Finished message, since nothing here
        resumes. None with TLS 1.3, for which it is not defined (RFC 9266), and before the handshake is done.
        """
        ...

    @property
    def server_name(self) -> str | None:
        """The name a client asked for (SNI); None when it sent none."""
        ...
