"""TLS clients whose key is elsewhere: handshakes in memory with the standard library's server."""

from __future__ import annotations

import gc
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgetrust.edge import keyuse
from edgetrust.errors import IntegrityError, UnavailableError
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import HeldKey, KeyAlgorithm, PublicKey, SecretBytes, TlsKey
from edgetrust.pki.softkeys import SoftKey
from edgetrust.transport.http import https_context
from edgetrust.transport.tls import held
from support.pki import Pki


class Elsewhere:
    """A key that signs, and does not show itself; it counts what it is asked."""

    def __init__(self, key: SoftKey) -> None:
        self._key = key
        self.asked: list[str] = []
        self.away = False

    @property
    def key_id(self) -> str:
        return "device-id"

    def public_key(self) -> PublicKey:
        return self._key.public_key()

    def sign_digest(self, digest: bytes) -> bytes:
        self._note("digest")
        return keyuse.sign_digest(self._key, digest)

    def sign_padded(self, content: bytes) -> bytes:
        self._note("padded")
        return keyuse.rsa_pkcs1(self._key, content)

    def sign_raw(self, block: bytes) -> bytes:
        self._note("raw")
        return keyuse.rsa_raw(self._key, block)

    def _note(self, what: str) -> None:
        if self.away:
            raise UnavailableError("the token is gone", reason="pkcs11-failed")
        self.asked.append(what)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.devices = 0
        self.pki = Pki(datetime.now(UTC), intermediates=1)
        server = self.pki.server("hub.example")
        (folder / "server.pem").write_bytes(server.key_pem() + server.chain.pem().encode())
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(folder / "server.pem")
        self.server.load_verify_locations(cadata=self.pki.root.chain.pem())
        self.server.verify_mode = ssl.CERT_REQUIRED

    def device(self, algorithm: KeyAlgorithm) -> tuple[Chain, Elsewhere]:
        self.devices += 1
        kind = "ec" if algorithm is KeyAlgorithm.P256 else "rsa-2048"
        holder = self.pki.device("EdgeGateway", key_kind=kind, key_label=f"held {self.devices % 3}")
        return holder.chain, Elsewhere(SoftKey.from_pem("device-id", SecretBytes(holder.key_pem())))

    def shake(self, context: ssl.SSLContext) -> str:
        """The common name that the server sees."""
        pipes = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(pipes[0], pipes[1], server_hostname="hub.example")
        server = self.server.wrap_bio(pipes[1], pipes[0], server_side=True)
        done: set[ssl.SSLObject] = set()
        for _ in range(10):
            for side in (client, server):
                try:
                    side.do_handshake()
                    done.add(side)
                except ssl.SSLWantReadError:
                    continue
            if len(done) == 2:
                shown = server.getpeercert()
                assert shown is not None
                return dict(pair[0] for pair in shown["subject"])["commonName"]  # type: ignore[misc, index]
        raise AssertionError("no end")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("held"))


def test_this_python_can() -> None:
    assert held.AVAILABLE


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("algorithm", [KeyAlgorithm.P256, KeyAlgorithm.RSA2048])
def test_a_server_sees_the_certificate(bench: Bench, algorithm: KeyAlgorithm, version: ssl.TLSVersion) -> None:
    chain, key = bench.device(algorithm)
    context = https_context(bench.pki.bundle, chain=chain, key=key)
    context.maximum_version = version
    assert bench.shake(context) == "EdgeGateway"
    assert key.asked == ["digest" if algorithm is KeyAlgorithm.P256 else "raw"]
    assert bench.shake(context) == "EdgeGateway"
    assert not isinstance(key, TlsKey)
    assert isinstance(key, HeldKey)
    del context
    gc.collect()


def test_a_key_that_does_not_answer_ends_the_handshake(bench: Bench) -> None:
    chain, key = bench.device(KeyAlgorithm.P256)
    context = https_context(bench.pki.bundle, chain=chain, key=key)
    key.away = True
    with pytest.raises(ssl.SSLError):
        bench.shake(context)
    key.away = False
    assert bench.shake(context) == "EdgeGateway"


def test_a_key_of_another_certificate(bench: Bench) -> None:
    chain, _ = bench.device(KeyAlgorithm.P256)
    for algorithm in (KeyAlgorithm.P256, KeyAlgorithm.RSA2048):
        with pytest.raises(IntegrityError) as caught:
            https_context(bench.pki.bundle, chain=chain, key=bench.device(algorithm)[1])
        assert caught.value.reason == "key-certificate-mismatch"


def test_where_it_is_not_possible(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "AVAILABLE", False)
    chain, key = bench.device(KeyAlgorithm.P256)
    with pytest.raises(IntegrityError) as caught:
        https_context(bench.pki.bundle, chain=chain, key=key)
    assert caught.value.reason == "held-key-unsupported"


def test_contexts_come_and_go(bench: Bench) -> None:
    before = len(held._signers)
    for _ in range(20):
        chain, key = bench.device(KeyAlgorithm.P256)
        assert bench.shake(https_context(bench.pki.bundle, chain=chain, key=key)) == "EdgeGateway"
    gc.collect()
    assert len(held._signers) == before
