"""The TLS engine on pyOpenSSL's public interface, over memory BIOs.

It is the reference for the contract of engines and the one that is used when pyOpenSSL changes what `thin` reaches
into.

It must not know how contexts are made.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from edgetrust import limits
from edgetrust.transport.tls.engine import (
    FAILED,
    RECORD_BYTES,
    TOO_MANY_CERTIFICATES,
    Buffer,
    ServerCheck,
    ServerRefusedError,
    TlsError,
    tls_error,
)

_TAKE_BYTES: Final = 2 * RECORD_BYTES


def too_many_certificates(count: int) -> TlsError:
    """The peer's chain is longer than anybody reads."""
    sent = f"the peer sent {count} certificates, at most {limits.PEER_CHAIN_CERTIFICATES} are read"
    return TlsError(sent, reason=TOO_MANY_CERTIFICATES)


def not_open() -> TlsError:
    """Somebody wrote before the handshake was done or after the end."""
    return TlsError("the TLS connection is not open", reason=FAILED)


class ServerVerification:
    """A client's check of its server, made once while the handshake is waiting for it."""

    __slots__ = ("_check", "done", "refusal")

    def __init__(self, check: ServerCheck) -> None:
        self._check = check
        self.done = False
        self.refusal: ServerRefusedError | None = None

    def verify(self, connection: SSL.Connection) -> None:
        """Check what the server sent. Notes a refusal; OpenSSL's callbacks must not raise."""
        if self.done:
            return
        chain = connection.get_peer_cert_chain(as_cryptography=True) or []
        self.done = True
        if len(chain) > limits.PEER_CHAIN_CERTIFICATES:
            self.refusal = ServerRefusedError(str(too_many_certificates(len(chain))), reason="chain-too-long")
            return
        try:
            self._check(tuple(certificate.public_bytes(Encoding.DER) for certificate in chain))
        except ServerRefusedError as refusal:
            self.refusal = refusal


def verify_server(connection: SSL.Connection, _certificate: object, _error: int, _depth: int, _ok: int) -> bool:
    """pyOpenSSL's verify callback of client contexts: our own path validation in the place of OpenSSL's."""
    verification: ServerVerification = connection.get_app_data()
    verification.verify(connection)
    return verification.refusal is None


def accept_any(_connection: object, _certificate: object, _error: int, _depth: int, _ok: int) -> bool:
    """pyOpenSSL's verify callback of server contexts: TLS proves the key, the decision comes later."""
    return True


def client_connection(context: SSL.Context, name: str | None, verification: ServerVerification) -> SSL.Connection:
    """A connection in the client's role. `name` is sent as SNI (none for IP literals: RFC 6066, 3)."""
    connection = SSL.Connection(context, None)
    connection.set_app_data(verification)
    if name is not None:
        connection.set_tlsext_host_name(name.encode("idna"))
    connection.set_connect_state()
    return connection


def server_connection(context: SSL.Context) -> SSL.Connection:
    """A connection in the server's role."""
    connection = SSL.Connection(context, None)
    connection.set_accept_state()
    return connection


class PyOpenSslEngine:
    """A TlsEngine on pyOpenSSL's public methods."""

    __slots__ = ("_cipher", "_closing", "_connection", "_plain", "_verification", "closed", "handshake_done")

    def __init__(self, connection: SSL.Connection, verification: ServerVerification | None) -> None:
        self._connection = connection
        self._verification = verification
        self._plain: list[bytes] = []
        self._cipher: list[bytes] = []
        self._closing = False
        self.handshake_done = False
        self.closed = False

    @classmethod
    def server(cls, context: SSL.Context) -> PyOpenSslEngine:
        """An engine that accepts."""
        return cls(server_connection(context), None)

    @classmethod
    def client(cls, context: SSL.Context, name: str | None, check: ServerCheck) -> PyOpenSslEngine:
        """An engine that connects and verifies its server with `check`."""
        verification = ServerVerification(check)
        return cls(client_connection(context, name, verification), verification)

    @property
    def is_open(self) -> bool:
        return self.handshake_done and not self.closed and not self._closing

    def start(self) -> None:
        self._shake()

    def feed(self, ciphertext: Buffer) -> None:
        whole = memoryview(ciphertext)
        for start in range(0, len(whole), RECORD_BYTES):
            if self.closed:
                return  # nothing after close_notify counts (RFC 8446, 6.1)
            self._connection.bio_write(bytes(whole[start : start + RECORD_BYTES]))
            if self.handshake_done or self._shake():
                self._decrypt()

    def read(self) -> bytes:
        plain, self._plain = self._plain, []
        return b"".join(plain)

    def write(self, plaintext: Buffer) -> None:
        if not self.is_open:
            raise not_open()
        whole = memoryview(plaintext)
        for start in range(0, len(whole), RECORD_BYTES):
            try:
                self._connection.send(bytes(whole[start : start + RECORD_BYTES]))
            except SSL.Error as error:
                raise tls_error(_words(error)) from error
            self._drain()

    def take(self) -> bytes:
        self._drain()
        cipher, self._cipher = self._cipher, []
        return b"".join(cipher)

    def close(self) -> None:
        if self.handshake_done and not self._closing:
            self._closing = True
            try:
                self._connection.shutdown()
            except SSL.Error as error:
                raise tls_error(_words(error)) from error

    def peer_chain(self) -> tuple[bytes, ...]:
        connection = self._connection
        end_entity = connection.get_peer_certificate(as_cryptography=True)
        if end_entity is None:
            return ()
        others = connection.get_peer_cert_chain(as_cryptography=True) or []
        if others and others[0] == end_entity:  # only the client's side lists the end entity
            others = others[1:]
        if 1 + len(others) > limits.PEER_CHAIN_CERTIFICATES:
            raise too_many_certificates(1 + len(others))
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in (end_entity, *others))

    @property
    def version(self) -> str:
        return self._connection.get_protocol_version_name()

    @property
    def cipher(self) -> str:
        return self._connection.get_cipher_name() or ""

    @property
    def tls_unique(self) -> bytes | None:
        if not self.handshake_done or self.version != "TLSv1.2":
            return None
        is_client = self._verification is not None
        return self._connection.get_finished() if is_client else self._connection.get_peer_finished()

    @property
    def server_name(self) -> str | None:
        name = self._connection.get_servername()
        return None if name is None else name.decode("ascii", "replace")

    def _shake(self) -> bool:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            refusal = self._verification and self._verification.refusal
            raise refusal or tls_error(_words(error)) from error
        finish_verification(self._verification, self._connection)
        self.handshake_done = True
        return True

    def _decrypt(self) -> None:
        try:
            while True:
                self._plain.append(self._connection.recv(RECORD_BYTES))
        except SSL.WantReadError:
            return
        except SSL.ZeroReturnError:
            self.closed = True
        except SSL.Error as error:
            raise tls_error(_words(error)) from error

    def _drain(self) -> None:
        try:
            while True:
                self._cipher.append(self._connection.bio_read(_TAKE_BYTES))
        except SSL.WantReadError:
            return


def finish_verification(verification: ServerVerification | None, connection: SSL.Connection) -> None:
    """Make sure that a client has verified its server now that the handshake is done; raises ServerRefusedError."""
    if verification is None:
        return
    connection.set_app_data(None)
    verification.verify(connection)
    if verification.refusal is not None:
        raise verification.refusal


def _words(error: SSL.Error) -> str:
    """What OpenSSL says, without its library and function names."""
    if isinstance(error, SSL.SysCallError):
        return "unexpected eof while reading"
    queue = error.args[0] if error.args else ()
    return str(queue[0][2]) if queue else "no reason given"
