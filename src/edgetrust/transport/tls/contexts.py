"""What a TLS connection is set up with, per role. Contexts are immutable: to change one, make another and swap it in a
slot.

Rules:
1. Servers offer TLS 1.2 and 1.3 with forward secrecy and authenticated ciphers, no renegotiation and no resumption:
   a resumed session would come without the chain that the decision needs (hub specification 2.2 and 2.4).
2. A server sends its end entity and intermediates, no self-signed root; the one exception is a self-signed CA that
   has issued the end entity itself and is the only CA of the chain, as a gateway's quickstart CA (edge
   specification 6.1).
3. A client verifies its server's chain and name with the project's own path validation, while the handshake waits.
   The trust bundle is the one given or, without one, the machine's store (`SSL_CERT_FILE` and `SSL_CERT_DIR`
   replace it).
4. The name sent (SNI) and the name verified are the same; IP literals are verified and not sent.

It must not know sockets.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL

from edgetrust.clock import Clock, SystemClock
from edgetrust.errors import ConfigError, IntegrityError
from edgetrust.pki.chain import Chain, ChainError, TrustBundle, load_system_bundle
from edgetrust.pki.keys import TlsKey
from edgetrust.pki.verify import ChainFailure, Purpose, verify_chain
from edgetrust.transport.tls import pyopenssl, thin
from edgetrust.transport.tls.engine import ServerCheck, ServerRefusedError, TlsEngine

_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"
_MODES: Final = SSL.MODE_RELEASE_BUFFERS  # an idle connection keeps no record buffers: 34 KiB less
_OPTIONS: Final = SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET

C = TypeVar("C")


def _context(method: int, chain: Chain | None, key: TlsKey | None) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_CIPHERS)
    context.set_options(_OPTIONS)
    context.set_mode(_MODES)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if chain is not None and key is not None:
        _present(context, chain, key)
    return context


def _present(context: SSL.Context, chain: Chain, key: TlsKey) -> None:
    # checked when it was read or made; checking RSA primes once more takes longer than anything else at a start
    private = load_pem_private_key(key.private_pem().reveal(), None, unsafe_skip_rsa_key_validation=True)
    sent = to_send(chain)
    try:
        context.use_certificate(sent[0])
        for certificate in sent[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(private)  # type: ignore[arg-type]  # whatever a key store holds, OpenSSL says if it cannot use it
        context.check_privatekey()
    except (SSL.Error, TypeError) as error:
        raise IntegrityError(
            f"TLS cannot use the key for the certificate of {chain.end_entity.subject.rfc4514_string()!r}: {error}",
            reason="key-certificate-mismatch",
            fix="use the key that the certificate was requested with, or request a new certificate",
        ) from error


def to_send(chain: Chain) -> tuple[x509.Certificate, ...]:
    """The certificates of `chain` that go over the wire: rule 2 of this module."""
    others = chain.intermediates
    if len(others) == 1:
        return chain.certificates
    return (chain.end_entity, *(certificate for certificate in others if not _self_signed(certificate)))


def _self_signed(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


# Any certificate is accepted here and judged later, so that OpenSSL need not look for issuers: for a device with an
# issuing CA it would verify a signature, whose outcome nobody sees. -1 would mean OpenSSL's default, 0 one issuer.
_NO_PATH: Final = -2


class ServerContext:
    """What a server's handshakes use. `public_only` keeps to pyOpenSSL's public interface."""

    __slots__ = ("_context", "_engine", "chain")

    def __init__(self, chain: Chain, key: TlsKey, *, public_only: bool = False) -> None:
        """Raises IntegrityError (`key-certificate-mismatch`) when key and certificate do not belong together."""
        self.chain = chain
        self._context = _context(SSL.TLS_SERVER_METHOD, chain, key)
        self._context.set_verify_depth(_NO_PATH)
        self._engine: Callable[[SSL.Context], TlsEngine]
        if thin.AVAILABLE and not public_only:
            thin.accept_any_client(self._context)
            self._engine = thin.ThinEngine.server
        else:
            self._context.set_verify(SSL.VERIFY_PEER, pyopenssl.accept_any)
            self._engine = pyopenssl.PyOpenSslEngine.server

    def engine(self) -> TlsEngine:
        """The TLS of one accepted connection."""
        return self._engine(self._context)


class ClientContext:
    """What a client's handshakes use: whom it trusts, and what it shows if it is asked for a certificate."""

    __slots__ = ("_bundle", "_clock", "_context", "_engine")

    def __init__(
        self,
        bundle: TrustBundle | None = None,
        *,
        chain: Chain | None = None,
        key: TlsKey | None = None,
        clock: Clock | None = None,
        public_only: bool = False,
    ) -> None:
        """`bundle` None means the machine's trust store. Raises ConfigError when that cannot be read, IntegrityError
        as servers.
        """
        self._clock = clock or SystemClock()
        self._bundle = load_system_bundle(self._clock.now()) if bundle is None else bundle
        self._context = _context(SSL.TLS_CLIENT_METHOD, chain, key)
        self._context.set_verify(SSL.VERIFY_PEER, pyopenssl.verify_server)
        self._engine: Callable[[SSL.Context, str | None, ServerCheck], TlsEngine]
        use_thin = thin.AVAILABLE and not public_only
        self._engine = thin.ThinEngine.client if use_thin else pyopenssl.PyOpenSslEngine.client

    def engine(self, server: str) -> TlsEngine:
        """The TLS of one connection to `server`, a host name or IP literal. Raises ConfigError for neither."""
        name = None if _is_address(server) else server
        try:
            return self._engine(self._context, name, lambda chain: self._check(chain, server))
        except UnicodeError as error:
            raise ConfigError(f"{server!r} is not a host name", reason="host-name-malformed") from error

    def _check(self, sent: tuple[bytes, ...], server: str) -> None:
        try:
            chain = Chain.from_der(sent)
        except ChainError as error:
            raise ServerRefusedError(f"{server}: {error}", reason=error.reason) from error
        outcome = verify_chain(chain, self._bundle, Purpose.SERVER, self._clock.now(), name=server)
        if isinstance(outcome, ChainFailure):
            raise ServerRefusedError(
                f"the server {server} is not trusted: {outcome.detail} (certificate of {outcome.certificate})",
                reason=outcome.reason,
                verdict=outcome,
            )


def _is_address(server: str) -> bool:
    try:
        ipaddress.ip_address(server)
    except ValueError:
        return False
    return True


class ContextSlot(Generic[C]):
    """The context in use. Swap `current` while serving: new handshakes use it, open connections keep theirs."""

    __slots__ = ("current",)

    def __init__(self, current: C) -> None:
        self.current = current
