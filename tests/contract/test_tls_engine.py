"""Every TLS engine keeps the contract of `transport.tls.engine`, against itself and the standard library's ssl."""

from __future__ import annotations

import ssl
import tempfile
import warnings
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL, crypto

from edgetrust import limits
from edgetrust.errors import Error, IntegrityError
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.transport.tls import contexts, thin
from edgetrust.transport.tls.contexts import ClientContext, ServerContext
from edgetrust.transport.tls.engine import ServerRefusedError, TlsEngine, TlsError
from support.pki import EXPIRED, SERVER_ONLY, Holder, Pki, self_signed

NOW = datetime.now(UTC)
PKI = Pki(NOW, intermediates=2)
SERVER = PKI.server("hub.test", "127.0.0.1", "::1")
VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def der(*certificates: x509.Certificate) -> tuple[bytes, ...]:
    return tuple(each.public_bytes(Encoding.DER) for each in certificates)


@dataclass
class Engines:
    """Makes engines of one kind."""

    public_only: bool

    def server(self, holder: Holder = SERVER, chain: Chain | None = None) -> TlsEngine:
        return ServerContext(chain or holder.full_chain, holder.key, public_only=self.public_only).engine()

    def client(
        self, host: str = "hub.test", shown: Holder | None = None, bundle: TrustBundle = PKI.bundle
    ) -> TlsEngine:
        context = ClientContext(
            bundle,
            chain=shown and shown.chain,
            key=shown and shown.key,
            public_only=self.public_only,
        )
        return context.engine(host)


@pytest.fixture(params=["thin", "public"])
def engines(request: pytest.FixtureRequest) -> Engines:
    assert thin.AVAILABLE
    return Engines(request.param == "public")


class StdlibEnd:
    """The standard library's ssl with the methods of an engine that these tests use."""

    def __init__(self, context: ssl.SSLContext, name: str | None = None) -> None:
        self._into, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.protocol == ssl.PROTOCOL_TLS_SERVER
        self.tls = context.wrap_bio(self._into, self._out, server_side=server, server_hostname=name)
        self.handshake_done = False
        self.closed = False
        self._plain = b""

    def start(self) -> None:
        self._advance()

    def feed(self, data: bytes) -> None:
        if data:
            self._into.write(data)
        self._advance()

    def _advance(self) -> None:
        try:
            if not self.handshake_done:
                self.tls.do_handshake()
                self.handshake_done = True
            while part := self.tls.read(65536):
                self._plain += part
            self.closed = True
        except ssl.SSLWantReadError:
            pass

    def read(self) -> bytes:
        plain, self._plain = self._plain, b""
        return plain

    def write(self, data: bytes) -> None:
        self.tls.write(data)

    def take(self) -> bytes:
        return self._out.read()


def load(context: ssl.SSLContext, holder: Holder, chain: Chain | None = None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "identity.pem"
        file.write_bytes(holder.key_pem() + (chain or holder.chain).pem().encode())
        context.load_cert_chain(file)


def stdlib_client(
    shown: Holder | None, version: str, chain: Chain | None = None, name: str | None = "hub.test"
) -> StdlibEnd:
    context = ssl.create_default_context(cadata=PKI.bundle.pem())
    context.minimum_version = context.maximum_version = VERSIONS[version]
    if shown is not None:
        load(context, shown, chain)
    if name is None:
        context.check_hostname = False
    return StdlibEnd(context, name)


def talk(client: Any, server: Any, piece: int = 1 << 20) -> None:
    """Carry bytes between the two until both are silent."""
    while True:
        there, back = client.take(), server.take()
        if not there and not back:
            return
        for data, end in ((there, server), (back, client)):
            for start in range(0, len(data), piece):
                end.feed(data[start : start + piece])


def connect(client: Any, server: Any, piece: int = 1 << 20) -> None:
    client.start()
    server.start()
    talk(client, server, piece)
    assert client.handshake_done
    assert server.handshake_done


SHOWN: dict[str, tuple[Holder | None, Chain | None]] = {
    "none": (None, None),
    "self-signed": (self_signed("lonely", now=NOW), None),
    "of a known CA": (PKI.device(), None),
    "with its root": (PKI.device("rooted"), PKI.device("rooted").full_chain),
    "end entity only": (PKI.device("bare"), Chain((PKI.device("bare").certificate,))),
    "of an unknown CA": (PKI.impostor().device("stranger"), None),
    "expired": (PKI.device("old", **EXPIRED), None),
    "for servers only": (PKI.device("wrong", **SERVER_ONLY), None),
    "RSA": (self_signed("rsa", key_kind="rsa-2048", now=NOW), None),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("shown", SHOWN)
def test_any_client_certificate_is_accepted_and_handed_on_as_sent(engines: Engines, shown: str, version: str) -> None:
    holder, chain = SHOWN[shown]
    client, server = stdlib_client(holder, version, chain), engines.server()
    connect(client, server)
    sent = () if holder is None else (chain or holder.chain).certificates
    assert server.peer_chain() == der(*sent)
    assert server.version == version
    assert server.server_name == "hub.test"
    assert server.cipher
    client.write(b"hello")
    talk(client, server)
    assert server.read() == b"hello"
    server.write(b"welcome")
    talk(client, server)
    assert client.read() == b"welcome"


@pytest.mark.parametrize("shown", ["none", "self-signed", "of a known CA"])
def test_our_client_shows_its_chain_and_sees_the_servers(engines: Engines, shown: str) -> None:
    holder, _ = SHOWN[shown]
    client, server = engines.client(shown=holder), engines.server()
    connect(client, server)
    assert server.peer_chain() == (() if holder is None else der(*holder.chain.certificates))
    assert client.peer_chain() == der(*SERVER.chain.certificates)  # without the root
    assert client.version == "TLSv1.3"
    assert client.is_open
    assert server.is_open


@pytest.mark.parametrize(
    ("host", "sni"), [("hub.test", "hub.test"), ("HUB.test", "HUB.test"), ("127.0.0.1", None), ("::1", None)]
)
def test_a_name_is_sent_and_an_address_is_only_verified(engines: Engines, host: str, sni: str | None) -> None:
    client, server = engines.client(host), engines.server()
    connect(client, server)
    assert server.server_name == sni


def test_a_client_without_server_name_is_served(engines: Engines) -> None:
    client, server = stdlib_client(None, "TLSv1.2", name=None), engines.server()
    connect(client, server)
    assert server.server_name is None


def refusal(engines: Engines, client: TlsEngine, server: Any) -> ServerRefusedError:
    client.start()
    with pytest.raises(ServerRefusedError) as caught:
        talk(client, server)
    assert not client.handshake_done
    with pytest.raises(TlsError):
        client.write(b"secret")
    with pytest.raises(TlsError) as alert:
        server.feed(client.take())
    assert alert.value.reason == "tls-peer-refused-certificate"
    assert not server.handshake_done
    return caught.value


def test_a_server_of_another_name_is_refused_before_the_handshake_ends(engines: Engines) -> None:
    error = refusal(engines, engines.client("gateway.test"), engines.server())
    assert error.reason == "name-mismatch"
    assert "hub.test" in error.message


@pytest.mark.parametrize(
    ("holder", "reason"),
    [
        (PKI.impostor().server("hub.test"), "chain-untrusted"),
        (PKI.server("hub.test", **EXPIRED), "chain-expired"),
        (PKI.device("client", hosts=("hub.test",)), "chain-wrong-usage"),
        (self_signed("hub.test", hosts=("hub.test",), now=NOW), "chain-untrusted"),
    ],
)
def test_an_untrusted_server_is_refused_with_the_reason(engines: Engines, holder: Holder, reason: str) -> None:
    chain = holder.full_chain if holder.issuer else holder.chain
    # An impostor's chain has our CAs' names and not their keys: both words for that are right.
    error = refusal(engines, engines.client(), engines.server(holder, chain))
    assert error.reason in {reason, "chain-bad-signature" if reason == "chain-untrusted" else reason}


def test_a_server_whose_chain_has_no_end_is_refused(engines: Engines) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain = SERVER.chain
    many = Chain((chain.certificates[0], *(chain.certificates[1:] * limits.PEER_CHAIN_CERTIFICATES)))
    load(context, SERVER, many)
    client, server = engines.client(), StdlibEnd(context)
    client.start()
    server.start()
    with pytest.raises(ServerRefusedError) as caught:
        talk(client, server)
    assert caught.value.reason == "chain-too-long"


@pytest.mark.parametrize("version", VERSIONS)
def test_our_client_against_the_standard_librarys_server(engines: Engines, version: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = VERSIONS[version]
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=PKI.bundle.pem())
    load(context, SERVER)
    device = PKI.device()
    client, server = engines.client(shown=device), StdlibEnd(context)
    connect(client, server)
    assert server.tls.getpeercert(True) == der(device.certificate)[0]
    server.write(b"x" * 50_000)
    talk(client, server)
    assert client.read() == b"x" * 50_000


def test_a_client_chain_that_is_too_long_is_not_read(engines: Engines) -> None:
    device = PKI.device()
    many = Chain((device.certificate, *([PKI.issuing.certificate] * limits.PEER_CHAIN_CERTIFICATES)))
    client, server = stdlib_client(device, "TLSv1.3", many), engines.server()
    connect(client, server)
    with pytest.raises(TlsError) as caught:
        server.peer_chain()
    assert caught.value.reason == "tls-too-many-certificates"


@pytest.mark.parametrize("version", VERSIONS)
def test_who_does_not_hold_the_key_does_not_get_in(engines: Engines, version: str) -> None:
    """A client that shows somebody else's certificate signs with its own key."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    number = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}[version]
    context.set_max_proto_version(number)
    victim = PKI.device("victim")
    thief = ForeignKey(context, victim.certificate)
    server = engines.server()
    thief.start()
    with pytest.raises(TlsError) as caught:
        talk(thief, server)
    assert caught.value.reason in {"tls-key-not-proven", "tls-bad-record", "tls-failed"}
    assert not server.handshake_done


class ForeignKey:
    """A client that shows a certificate unchanged and signs with another key.

    OpenSSL refuses to be set up like that, so the certificate is loaded with the thief's public key in it, which is put
    back to the owner's afterwards, in the object that OpenSSL holds.
    """

    def __init__(self, context: SSL.Context, certificate: x509.Certificate) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        mine = crypto.PKey.from_cryptography_key(private)
        shown = crypto.X509.from_cryptography(certificate)
        owners = shown.get_pubkey()
        set_key: Any = SSL._lib.X509_set_pubkey  # type: ignore[attr-defined]
        set_key(shown._x509, mine._pkey)  # type: ignore[attr-defined]
        use: Any = SSL._lib.SSL_CTX_use_certificate  # type: ignore[attr-defined]
        assert use(context._context, shown._x509) == 1  # type: ignore[attr-defined]
        context.use_privatekey(private)
        set_key(shown._x509, owners._pkey)  # type: ignore[attr-defined]
        assert shown.to_cryptography() == certificate
        self._connection = SSL.Connection(context, None)
        self._connection.set_connect_state()

    def start(self) -> None:
        self.feed(b"")

    def feed(self, data: bytes) -> None:
        if data:
            self._connection.bio_write(data)
        with suppress(SSL.WantReadError):
            self._connection.do_handshake()

    def take(self) -> bytes:
        with suppress(SSL.WantReadError):
            return self._connection.bio_read(65536)
        return b""


@pytest.mark.parametrize(
    "garbage", [b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 50]
)
def test_what_is_not_tls_is_told_apart(engines: Engines, garbage: bytes) -> None:
    server = engines.server()
    with pytest.raises(TlsError) as caught:
        server.feed(garbage)
    assert caught.value.reason == "tls-not-tls"
    assert caught.value.fix


def test_a_failure_lets_go_of_the_callers_buffer(engines: Engines) -> None:
    """The error's traceback keeps frames alive; a buffer still exported from there has ended the process."""
    view = memoryview(bytearray(b"GET / HTTP/1.1\r\n\r\n"))
    with pytest.raises(TlsError) as caught:
        engines.server().feed(view)
    assert caught.tb
    view.release()


def test_small_messages_after_a_large_handshake(engines: Engines) -> None:
    """Data behind the last flight of the handshake, and a record cut in two by its end, arrive all the same."""
    client, server = engines.client(shown=PKI.device()), engines.server()
    client.start()
    server.feed(client.take())
    client.feed(server.take())
    client.write(b"first")
    client.write(b"second")
    flight = client.take()
    server.feed(flight[:-10])
    assert server.read() == b"first"
    server.feed(flight[-10:])
    assert server.read() == b"second"
    talk(client, server)
    server.write(b"answer")
    talk(client, server)
    assert client.read() == b"answer"


@given(data=st.binary(min_size=1, max_size=2_000), header=st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_wait_or_end_in_a_documented_error(engines: Engines, data: bytes, header: bool) -> None:
    server = engines.server()
    hello = b"\x16\x03\x01" + (len(data)).to_bytes(2, "big") if header else b""
    with suppress(TlsError):
        server.feed(hello + data)
    assert not server.handshake_done
    assert server.read() == b""


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_byte_is_noticed_or_harmless(engines: Engines, data: st.DataObject) -> None:
    """In the middle of an open connection every changed byte breaks a record's seal; none changes the plaintext."""
    client, server = engines.client(), engines.server()
    connect(client, server)
    client.write(b"telemetry")
    sealed = bytearray(client.take())
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with suppress(TlsError):
        server.feed(bytes(sealed))
    assert server.read() in {b"", b"telemetry"}  # the record's legacy version is not sealed by all


@pytest.mark.parametrize("shown", ["none", "of a known CA"])
def test_one_byte_at_a_time(engines: Engines, shown: str) -> None:
    client, server = engines.client(shown=SHOWN[shown][0]), engines.server()
    connect(client, server, piece=1)
    client.write(b"slow but complete")
    talk(client, server, piece=1)
    assert server.read() == b"slow but complete"


def test_every_prefix_of_a_handshake_waits(engines: Engines) -> None:
    client = engines.client(shown=PKI.device())
    client.start()
    hello = client.take()
    for size in (0, 1, 4, 5, 6, 50, len(hello) - 1):
        server = engines.server()
        server.feed(hello[:size])
        assert not server.handshake_done
        assert server.take() == b""


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 300_000])
def test_writes_of_any_size_arrive_whole(engines: Engines, size: int) -> None:
    client, server = engines.client(), engines.server()
    connect(client, server)
    payload = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    client.write(payload)
    server.write(memoryview(payload))
    talk(client, server)
    assert server.read() == payload
    assert client.read() == payload


def test_all_records_of_one_arrival_are_one_piece(engines: Engines) -> None:
    client, server = engines.client(), engines.server()
    connect(client, server)
    for number in range(20):
        client.write(b"%d," % number)
    server.feed(client.take())
    assert server.read() == b"".join(b"%d," % number for number in range(20))
    assert server.read() == b""


def test_closing_is_said_and_heard(engines: Engines) -> None:
    client, server = engines.client(), engines.server()
    connect(client, server)
    client.write(b"last words")
    client.close()
    client.close()
    assert not client.is_open
    server.feed(client.take() + b"whatever comes behind it")
    assert server.read() == b"last words"
    assert server.closed
    assert not server.is_open
    with pytest.raises(TlsError):
        client.write(b"more")
    server.feed(b"more")
    assert server.read() == b""


def test_closing_before_the_handshake_says_nothing(engines: Engines) -> None:
    server = engines.server()
    server.close()
    assert server.take() == b""


def test_half_closed_by_the_client_the_server_may_still_say_goodbye(engines: Engines) -> None:
    client, server = engines.client(), engines.server()
    connect(client, server)
    client.close()
    talk(client, server)
    assert server.closed
    server.close()
    talk(client, server)
    assert client.closed


def test_renegotiation_is_refused(engines: Engines) -> None:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    peer, server = RawPeer(context), engines.server()
    connect(peer, server)
    assert peer.connection.renegotiate()
    with suppress(SSL.WantReadError, SSL.Error):
        peer.connection.do_handshake()
    with suppress(TlsError, SSL.Error):
        talk(peer, server)
    assert peer.connection.total_renegotiations() == 0 or peer.connection.renegotiate_pending()
    server.feed(b"")
    assert server.peer_chain() == ()


class RawPeer:
    """pyOpenSSL itself as a client that checks nothing."""

    def __init__(self, context: SSL.Context) -> None:
        self.connection = SSL.Connection(context, None)
        self.connection.set_connect_state()
        self.handshake_done = False

    def start(self) -> None:
        self.feed(b"")

    def feed(self, data: bytes) -> None:
        if data:
            self.connection.bio_write(data)
        with suppress(SSL.WantReadError):
            self.connection.do_handshake()
            self.handshake_done = True

    def take(self) -> bytes:
        with suppress(SSL.WantReadError):
            return self.connection.bio_read(65536)
        return b""


def test_sessions_are_not_resumed(engines: Engines) -> None:
    for version in VERSIONS.values():
        context = ssl.create_default_context(cadata=PKI.bundle.pem())
        context.maximum_version = version
        made = ServerContext(SERVER.full_chain, SERVER.key, public_only=engines.public_only)
        first, server = StdlibEnd(context, "hub.test"), made.engine()
        connect(first, server)
        server.write(b"tickets would be in front of this")
        talk(first, server)
        again = StdlibEnd(context, "hub.test")
        again.tls.session = first.tls.session
        connect(again, made.engine())
        assert not again.tls.session_reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(engines: Engines, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cadata=PKI.bundle.pem())
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    client, server = StdlibEnd(context, "hub.test"), engines.server()
    client.start()
    with pytest.raises(TlsError) as caught:
        talk(client, server)
    assert caught.value.reason == "tls-version"


def test_ciphers_without_forward_secrecy_are_refused(engines: Engines) -> None:
    context = ssl.create_default_context(cadata=PKI.bundle.pem())
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA")
    client, server = StdlibEnd(context, "hub.test"), engines.server()
    client.start()
    with pytest.raises(TlsError) as caught:
        talk(client, server)
    assert caught.value.reason == "tls-no-shared-cipher"


# What a context sends and accepts as its own ------------------------------------------------------------------------


def test_a_quickstart_ca_is_sent_and_other_roots_are_not() -> None:
    quickstart = Pki(NOW, intermediates=0)
    gateway = quickstart.server("gateway.test")
    assert contexts.to_send(gateway.full_chain) == (gateway.certificate, quickstart.root.certificate)
    assert contexts.to_send(SERVER.full_chain) == SERVER.chain.certificates
    alone = self_signed("alone", now=NOW)
    assert contexts.to_send(alone.chain) == (alone.certificate,)


def test_a_context_with_a_foreign_key_is_refused() -> None:
    with pytest.raises(IntegrityError) as caught:
        ServerContext(SERVER.chain, PKI.device("someone").key)
    assert caught.value.reason == "key-certificate-mismatch"


def test_a_host_that_is_no_name_is_refused(engines: Engines) -> None:
    with pytest.raises(Error) as caught:
        engines.client("a" * 70 + ".test")
    assert caught.value.reason == "host-name-malformed"


def test_the_machines_store_is_the_default(engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "roots.pem"
    file.write_text(PKI.bundle.pem())
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    client = ClientContext(public_only=engines.public_only).engine("hub.test")
    connect(client, engines.server())
    file.write_text(Pki(NOW, root_name="Other").bundle.pem())
    refusal(engines, ClientContext(public_only=engines.public_only).engine("hub.test"), engines.server())


def test_without_openssls_names_the_public_interface_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thin, "AVAILABLE", False)
    server = ServerContext(SERVER.chain, SERVER.key).engine()
    client = ClientContext(PKI.bundle).engine("hub.test")
    assert type(server).__name__ == type(client).__name__ == "PyOpenSslEngine"
    connect(client, server)
    for missing in ("_lib", "_ffi"):
        monkeypatch.setattr(thin, missing, None)
        assert not thin._available()


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_the_channel_binding_is_the_standard_librarys(engines: Engines, version: str) -> None:
    client, server = stdlib_client(None, version), engines.server()
    assert server.tls_unique is None, "the handshake is not done"
    connect(client, server)
    expected = client.tls.get_channel_binding("tls-unique") if version == "TLSv1.2" else None  # RFC 9266
    assert server.tls_unique == expected
    ours, theirs = engines.client(), engines.server()
    connect(ours, theirs)
    assert ours.tls_unique == theirs.tls_unique
