"""The TLS engine that calls the OpenSSL of pyOpenSSL directly, through the cffi object that pyOpenSSL itself calls.

It does what `pyopenssl` does for a fifth less CPU per handshake and message. Contexts and the client's handshake
callbacks stay pyOpenSSL's; connections of servers have no pyOpenSSL object at all. The names it reaches for are not
public: `AVAILABLE` says whether this pyOpenSSL has them all, and if not, `pyopenssl` serves.

Rules for the calls: the error queue is emptied before a call whose error will be asked for, since it belongs to the
thread; memory BIOs never shrink, so that a server's are exchanged after the handshake and they are filled in slices
of one record and keep no more than that when a connection is idle; the buffer that OpenSSL writes into belongs to
the thread, since cffi lets other threads run during a call; what OpenSSL reads is given to cffi as bytes, which it
takes as they are, while a view would have to be opened and closed for every call. Messages come one at a time: a read
that would find nothing costs as much as one that finds something, so it is not made when the BIO is empty.

It must not know how contexts are made.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from OpenSSL import SSL

from edgetrust import limits
from edgetrust.transport.tls.engine import RECORD_BYTES, Buffer, ServerCheck, TlsError, tls_error
from edgetrust.transport.tls.pyopenssl import (
    ServerVerification,
    client_connection,
    finish_verification,
    not_open,
    too_many_certificates,
)

_lib: Any = getattr(SSL, "_lib", None)
_ffi: Any = getattr(SSL, "_ffi", None)
_CALLS: Final = [
    "SSL_new",
    "SSL_free",
    "SSL_set_bio",
    "SSL_set_accept_state",
    "SSL_CTX_set_verify",
    "SSL_do_handshake",
    "SSL_read",
    "SSL_write",
    "SSL_shutdown",
    "SSL_get_error",
    "SSL_get_version",
    "SSL_get_finished",
    "SSL_get_peer_finished",
    "SSL_get_servername",
    "SSL_get_current_cipher",
    "SSL_CIPHER_get_name",
    "SSL_get_peer_certificate",
    "SSL_get_peer_cert_chain",
    "BIO_new",
    "BIO_s_mem",
    "BIO_free",
    "BIO_read",
    "BIO_write",
    "BIO_get_mem_data",
    "i2d_X509_bio",
    "X509_free",
    "sk_X509_num",
    "sk_X509_value",
    "X509_STORE_CTX_set_error",
    "ERR_clear_error",
    "ERR_get_error",
    "ERR_reason_error_string",
]


def _available() -> bool:
    if _ffi is None or not all(hasattr(_lib, name) for name in _CALLS):
        return False
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    return all(name in vars(connection) for name in ("_ssl", "_into_ssl", "_from_ssl"))


AVAILABLE: Final = _available()
_SCRATCH_BYTES: Final = 2 * RECORD_BYTES
_FINISHED_BYTES: Final = 64  # TLS 1.2 has 12 of them (RFC 5246, 7.4.9)


class _Scratch(threading.local):
    """What OpenSSL writes into on a thread."""

    def __init__(self) -> None:
        self.pointer: Any = _ffi.new("char[]", _SCRATCH_BYTES)
        self.start: Any = _ffi.new("char **")  # where BIO_get_mem_data says that its data begins


_scratch = _Scratch()


def _accept_any(_ok: int, store_context: Any) -> int:
    """OpenSSL's verify callback of servers: TLS proves the key, the decision comes later."""
    _lib.X509_STORE_CTX_set_error(store_context, 0)
    return 1


_ACCEPT_ANY: Final = _ffi.callback("int (*)(int, X509_STORE_CTX *)", _accept_any) if AVAILABLE else None


def accept_any_client(context: SSL.Context) -> None:
    """Let a server's context ask for a client certificate and accept any, and none."""
    _lib.SSL_CTX_set_verify(context._context, SSL.VERIFY_PEER, _ACCEPT_ANY)


class ThinEngine:
    """A TlsEngine on an SSL object and two memory BIOs. `owner` keeps alive what the three belong to."""

    __slots__ = (
        "_cipher",
        "_closing",
        "_into",
        "_out",
        "_owner",
        "_plain",
        "_ssl",
        "_verification",
        "closed",
        "handshake_done",
    )

    def __init__(self, ssl: Any, into: Any, out: Any, owner: Any, verification: ServerVerification | None) -> None:
        self._ssl = ssl
        self._into = into
        self._out = out
        self._owner = owner
        self._verification = verification
        self._plain: list[bytes] = []
        self._cipher: list[bytes] = []
        self._closing = False
        self.handshake_done = False
        self.closed = False

    @classmethod
    def server(cls, context: SSL.Context) -> ThinEngine:
        """An engine that accepts. The context has been through `accept_any_client`."""
        ssl = _lib.SSL_new(context._context)
        into, out = _lib.BIO_new(_lib.BIO_s_mem()), _lib.BIO_new(_lib.BIO_s_mem())
        if _ffi.NULL in (ssl, into, out):
            raise MemoryError("OpenSSL cannot make another connection")
        _lib.SSL_set_bio(ssl, into, out)  # the BIOs belong to the SSL object now
        _lib.SSL_set_accept_state(ssl)
        return cls(_ffi.gc(ssl, _lib.SSL_free), into, out, context, None)

    @classmethod
    def client(cls, context: SSL.Context, name: str | None, check: ServerCheck) -> ThinEngine:
        """An engine that connects and verifies its server with `check`."""
        verification = ServerVerification(check)
        held: Any = client_connection(context, name, verification)
        return cls(held._ssl, held._into_ssl, held._from_ssl, held, verification)

    @property
    def is_open(self) -> bool:
        return self.handshake_done and not self.closed and not self._closing

    def start(self) -> None:
        _lib.ERR_clear_error()
        self._shake()

    def feed(self, ciphertext: Buffer) -> None:
        _lib.ERR_clear_error()
        if len(ciphertext) <= RECORD_BYTES:
            self._take_in(bytes(ciphertext))
            return
        for start in range(0, len(ciphertext), RECORD_BYTES):
            self._take_in(bytes(ciphertext[start : start + RECORD_BYTES]))

    def read(self) -> bytes:
        plain = self._plain
        if not plain:
            return b""
        self._plain = []
        return plain[0] if len(plain) == 1 else b"".join(plain)

    def write(self, plaintext: Buffer) -> None:
        if self._closing or self.closed or not self.handshake_done:
            raise not_open()
        _lib.ERR_clear_error()
        if len(plaintext) <= RECORD_BYTES:
            self._encrypt(bytes(plaintext))
            return
        for start in range(0, len(plaintext), RECORD_BYTES):
            self._encrypt(bytes(plaintext[start : start + RECORD_BYTES]))
            self._drain()

    def take(self) -> bytes:
        cipher = self._cipher
        if not cipher:
            pointer = _scratch.pointer
            count = _lib.BIO_read(self._out, pointer, _SCRATCH_BYTES)
            if count <= 0:
                return b""
            taken: bytes = _ffi.unpack(pointer, count)
            if count < _SCRATCH_BYTES:
                return taken
            cipher.append(taken)
        self._drain()
        self._cipher = []
        return b"".join(cipher)

    def close(self) -> None:
        if self.handshake_done and not self._closing:
            self._closing = True
            _lib.ERR_clear_error()
            if _lib.SSL_shutdown(self._ssl) < 0:
                raise _error()

    def peer_chain(self) -> tuple[bytes, ...]:
        end_entity = _lib.SSL_get_peer_certificate(self._ssl)
        if end_entity == _ffi.NULL:
            return ()
        try:
            first = _der(end_entity)
        finally:
            _lib.X509_free(end_entity)
        stack = _lib.SSL_get_peer_cert_chain(self._ssl)
        count = 0 if stack == _ffi.NULL else _lib.sk_X509_num(stack)
        if count > limits.PEER_CHAIN_CERTIFICATES:
            raise too_many_certificates(count)
        others = tuple(_der(_lib.sk_X509_value(stack, index)) for index in range(count))
        if others[:1] == (first,):  # only the client's side lists the end entity
            return others
        if count == limits.PEER_CHAIN_CERTIFICATES:
            raise too_many_certificates(count + 1)
        return (first, *others)

    @property
    def version(self) -> str:
        return _text(_lib.SSL_get_version(self._ssl))

    @property
    def cipher(self) -> str:
        current = _lib.SSL_get_current_cipher(self._ssl)
        return "" if current == _ffi.NULL else _text(_lib.SSL_CIPHER_get_name(current))

    @property
    def tls_unique(self) -> bytes | None:
        if not self.handshake_done or self.version != "TLSv1.2":
            return None
        get = _lib.SSL_get_peer_finished if self._verification is None else _lib.SSL_get_finished
        buffer = _ffi.new("char[]", _FINISHED_BYTES)
        return bytes(_ffi.buffer(buffer, get(self._ssl, buffer, _FINISHED_BYTES)))

    @property
    def server_name(self) -> str | None:
        name = _lib.SSL_get_servername(self._ssl, _lib.TLSEXT_NAMETYPE_host_name)
        return None if name == _ffi.NULL else _text(name)

    def _shake(self) -> bool:
        result = _lib.SSL_do_handshake(self._ssl)
        if result != 1:
            if _lib.SSL_get_error(self._ssl, result) == _lib.SSL_ERROR_WANT_READ:
                return False
            refusal = self._verification and self._verification.refusal
            raise refusal or _error()
        if self._verification is not None:
            finish_verification(self._verification, self._owner)
        self.handshake_done = True
        return True

    def _take_in(self, piece: bytes) -> None:
        """At most one record's size of what arrived."""
        if self.closed:
            return  # nothing after close_notify counts (RFC 8446, 6.1)
        _lib.BIO_write(self._into, piece, len(piece))
        if self.handshake_done:
            self._decrypt()
        elif self._shake():
            self._decrypt()
            if self._verification is None:  # a client's BIOs are known to its pyOpenSSL object
                self._renew_bios()

    def _decrypt(self) -> None:
        ssl, plain, pointer = self._ssl, self._plain, _scratch.pointer
        count = _lib.SSL_read(ssl, pointer, _SCRATCH_BYTES)
        if count > 0 and not _lib.BIO_get_mem_data(self._into, _scratch.start):
            plain.append(_ffi.unpack(pointer, count))
            return
        while count > 0:
            plain.append(_ffi.unpack(pointer, count))
            count = _lib.SSL_read(ssl, pointer, _SCRATCH_BYTES)
        error = _lib.SSL_get_error(ssl, count)
        if error == _lib.SSL_ERROR_ZERO_RETURN:
            self.closed = True
        elif error != _lib.SSL_ERROR_WANT_READ:
            raise _error()

    def _encrypt(self, piece: bytes) -> None:
        if _lib.SSL_write(self._ssl, piece, len(piece)) != len(piece):
            raise _error()

    def _renew_bios(self) -> None:
        """Put small BIOs in the place of those that the handshake's chains have made large."""
        self._drain()
        if self._pending():
            return  # the peer has closed already and said something behind that
        self._into, self._out = _lib.BIO_new(_lib.BIO_s_mem()), _lib.BIO_new(_lib.BIO_s_mem())
        if _ffi.NULL in (self._into, self._out):
            raise MemoryError("OpenSSL cannot make another buffer")
        _lib.SSL_set_bio(self._ssl, self._into, self._out)

    def _pending(self) -> int:
        """Ciphertext that OpenSSL has not taken in."""
        return int(_lib.BIO_get_mem_data(self._into, _scratch.start))

    def _drain(self) -> None:
        pointer = _scratch.pointer
        while (count := _lib.BIO_read(self._out, pointer, _SCRATCH_BYTES)) > 0:
            self._cipher.append(_ffi.unpack(pointer, count))
            if count < _SCRATCH_BYTES:
                return


def _error() -> TlsError:
    """The first failure in the thread's error queue, which is empty afterwards."""
    code = _lib.ERR_get_error()
    _lib.ERR_clear_error()
    words = _lib.ERR_reason_error_string(code) if code else _ffi.NULL
    return tls_error("no reason given" if words == _ffi.NULL else _text(words))


def _text(words: Any) -> str:
    return str(_ffi.string(words).decode("utf-8", "replace"))


def _der(certificate: Any) -> bytes:
    """A certificate in DER; the pointer stays the caller's."""
    sink = _lib.BIO_new(_lib.BIO_s_mem())
    try:
        if _lib.i2d_X509_bio(sink, certificate) != 1:
            raise _error()
        start = _ffi.new("char **")
        size = _lib.BIO_get_mem_data(sink, start)
        return bytes(_ffi.buffer(start[0], size))
    finally:
        _lib.BIO_free(sink)
