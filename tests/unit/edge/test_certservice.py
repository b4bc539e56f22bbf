"""The certificate service on its socket: storage, issuing by every method, and who may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgetrust.clock import ManualClock
from edgetrust.edge.certservice import CertificateService
from edgetrust.edge.files import EDGE_CA, certificate_file_name, key_file_name
from edgetrust.edge.handles import HandleError, Handles, KeyId, KeyPairId
from edgetrust.edge.issuer import ConfiguredIssuer
from edgetrust.edge.issuing import Files, Issuing, Method, Order
from edgetrust.edge.pairs import CertificateStore
from edgetrust.edge.principals import Principal, Principals
from edgetrust.pki.chain import Chain
from edgetrust.pki.csr import build_csr, request_for
from edgetrust.pki.keys import KeyAlgorithm, KeyHandle, SecretBytes
from edgetrust.pki.names import Names
from edgetrust.pki.softkeys import FileKeyStore, SoftKey
from support.pki import NOW, Pki, name, openssl
from support.sockets import As, Client, served

VERSION = "2020-09-01"
OTHER = 65_534
SERVER = ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),)
LEAF = SoftKey.generate("leaf")
CSR = build_csr(LEAF, Names("edgegateway.local", dns=("edgegateway.local", "edgeHub")), SERVER).decode()


@dataclass
class Bench:
    client: Client
    who: As
    store: CertificateStore
    keys: FileKeyStore
    handles: Handles
    folder: Path
    pki: Pki

    async def create(self, certificate_id: str, csr: str = CSR, issuer: dict[str, str] | None = None) -> Any:
        body = {"certId": certificate_id, "csr": csr, **({"issuer": issuer} if issuer else {})}
        return await self.client.call("POST", "/certificates", body)

    def edge_ca(self, **fields: Any) -> dict[str, str]:
        holder = self.pki.authority("the edge ca", **{"path_length": 0, **fields})
        self.store.save(EDGE_CA, holder.full_chain)
        self.keys.import_pem(EDGE_CA, holder.key.private_pem())
        return {"certId": EDGE_CA, "privateKeyHandle": self.handles.make(KeyPairId(EDGE_CA))}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    pki, clock, who = Pki(), ManualClock(NOW), As()
    store, keys = CertificateStore(tmp_path / "certs"), FileKeyStore(tmp_path / "keys", key_file_name)
    local = pki.authority("the local ca", path_length=1)
    (tmp_path / "local.pem").write_text(local.full_chain.pem())
    (tmp_path / "local.key").write_bytes(local.key_pem())
    (tmp_path / "user.pem").write_text(pki.root.chain.pem())
    orders = {
        "itself": Order("itself", Method.SELF_SIGNED, name("itself"), timedelta(days=7), None),
        "by-local": Order("by-local", Method.LOCAL_CA, name("other name"), None, None),
    }
    issuing = Issuing(local_ca=Files(tmp_path / "local.pem", tmp_path / "local.key"), orders=orders)
    preloaded = {
        "user": tmp_path / "user.pem",
        "gone": tmp_path / "gone.pem",
        "bundle": (EDGE_CA, "gone", "user", "bundle", "nested"),
        "nested": ("bundle", "user"),
        "empty": ("gone", "missing"),
    }
    handles = Handles(SecretBytes(b"v" * 32))
    issuer = ConfiguredIssuer(issuing, keys, store, clock)

    def key_pair(handle: str) -> KeyHandle:
        key = handles.read(handle)
        if not isinstance(key, KeyPairId):
            raise HandleError("it is not the handle of a key pair")
        return keys.load(key.key_id)

    principals = Principals((Principal(OTHER, certs=("own*",)),))
    made = CertificateService(store, key_pair, issuer, orders, preloaded, principals, clock)
    async with served(made.app(who), tmp_path / "certd.sock", VERSION) as client:
        yield Bench(client, who, store, keys, handles, tmp_path, pki)


def path(certificate_id: str) -> str:
    return f"/certificates/{quote(certificate_id, safe='')}"


async def test_by_an_issuer_the_csr_is_copied_and_the_whole_file_follows(bench: Bench) -> None:
    certificate_id = "aziot-edged/module/$edgeHub:637911101449272999:server"
    made = await bench.create(certificate_id, issuer=bench.edge_ca())
    assert made.status == 201
    chain = Chain.from_pem(made.body["pem"])
    issuer = bench.store.load(EDGE_CA)
    assert issuer is not None
    assert chain.intermediates == issuer.certificates
    leaf = chain.end_entity
    assert leaf.not_valid_before_utc == NOW
    assert leaf.not_valid_after_utc == NOW + timedelta(days=30)
    kinds = [type(extension.value).__name__ for extension in leaf.extensions]
    assert kinds == ["SubjectAlternativeName", "ExtendedKeyUsage", "SubjectKeyIdentifier", "AuthorityKeyIdentifier"]
    assert leaf.serial_number.bit_length() > 64
    file = bench.folder / "certs" / certificate_file_name(certificate_id)
    assert file.name.startswith("aziotedgedmoduleedgeHub637911101449272999server-a0407493b6b50ee0")
    assert file.stat().st_mode & 0o777 == 0o644
    assert (await bench.client.ok("GET", path(certificate_id)))["pem"] == file.read_text()

    (bench.folder / "leaf.pem").write_text(Chain((leaf,)).pem())
    (bench.folder / "above.pem").write_text(Chain(chain.intermediates).pem())
    (bench.folder / "root.pem").write_text(bench.pki.root.chain.pem())
    verified = openssl(
        "verify", "-x509_strict", "-attime", str(int(NOW.timestamp())), "-purpose", "sslserver",
        "-verify_hostname", "edgeHub", "-CAfile", "root.pem", "-untrusted", "above.pem", "leaf.pem",
        cwd=bench.folder,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr


async def test_nothing_outlives_its_issuer_and_an_ended_one_issues_nothing(bench: Bench) -> None:
    made = await bench.create("x", issuer=bench.edge_ca(end=timedelta(days=5)))
    assert Chain.from_pem(made.body["pem"]).end_entity.not_valid_after_utc == NOW + timedelta(days=5)
    ended = await bench.create("x", issuer=bench.edge_ca(begin=timedelta(days=-9), end=timedelta(days=-1)))
    assert (ended.status, ended.body) == (500, {"message": "internal error"})
    later = await bench.create("x", issuer=bench.edge_ca(begin=timedelta(days=60), end=timedelta(days=90)))
    assert (later.status, later.body) == (500, {"message": "internal error"})


async def test_self_signed_with_the_key_of_the_same_identifier(bench: Bench) -> None:
    key = bench.keys.create("itself", KeyAlgorithm.P256)
    made = await bench.create("itself", request_for(key, name("asked for")).decode())
    chain = Chain.from_pem(made.body["pem"])
    assert len(chain.certificates) == 1
    assert chain.end_entity.subject == chain.end_entity.issuer == name("itself")
    chain.end_entity.verify_directly_issued_by(chain.end_entity)
    assert chain.end_entity.not_valid_after_utc == NOW + timedelta(days=7)
    assert (await bench.create("itself")).status == 500  # a CSR for another key


async def test_by_the_local_ca_with_the_subject_of_the_configuration(bench: Bench) -> None:
    for certificate_id in ("by-local", "by-local-temp"):
        chain = Chain.from_pem((await bench.create(certificate_id)).body["pem"])
        assert chain.end_entity.subject == name("other name")
        assert chain.end_entity.issuer == name("the local ca")


async def test_without_a_method_and_without_an_issuer(bench: Bench) -> None:
    assert (await bench.create("unknown")).status == 500
    assert bench.store.text("unknown") is None


async def test_import_read_delete(bench: Bench) -> None:
    pem = bench.pki.device().chain.pem()
    await bench.client.ok("PUT", path("a b"), {"pem": pem}, status=201)
    assert (await bench.client.ok("GET", path("a b")))["pem"] == pem
    for _ in range(2):
        await bench.client.ok("DELETE", path("a b"), status=204)
    assert (await bench.client.call("GET", path("a b"))).status == 400
    form = await bench.client.call("PUT", path("x"), data=b"{}", headers={"Content-Type": "text/plain"})
    assert (form.status, form.body) == (415, {"message": "request body must be application/json"})


async def test_preloaded_certificates_and_lists(bench: Bench) -> None:
    bench.edge_ca()
    root, edge_ca = bench.pki.root.chain.pem(), bench.store.text(EDGE_CA)
    assert (await bench.client.ok("GET", path("user")))["pem"] == root
    assert (await bench.client.ok("GET", path("bundle")))["pem"] == f"{edge_ca}{root}{root}"
    for missing in ("gone", "empty"):
        assert (await bench.client.call("GET", path(missing))).status == 400
    await bench.client.ok("PUT", path("gone"), {"pem": root}, status=201)
    assert (bench.folder / "gone.pem").read_text() == root
    assert (await bench.client.call("PUT", path("bundle"), {"pem": root})).status == 400
    assert (await bench.client.call("DELETE", path("bundle"))).status == 400
    for _ in range(2):
        await bench.client.ok("DELETE", path("gone"), status=204)
    assert not (bench.folder / "gone.pem").exists()


async def test_who_may(bench: Bench) -> None:
    issuer = bench.edge_ca()
    bench.who.uid = OTHER
    for answer in (
        await bench.create(EDGE_CA, issuer=issuer),
        await bench.client.call("PUT", path(EDGE_CA), {"pem": ""}),
        await bench.client.call("DELETE", path(EDGE_CA)),
    ):
        assert answer.status == 401
        assert answer.body == {"message": f"user {OTHER} is not authorized to modify the cert {EDGE_CA}"}
    assert (await bench.client.call("GET", path(EDGE_CA))).status == 200
    assert (await bench.create("own one", issuer=issuer)).status == 201


async def test_what_is_wrong_in_a_request(bench: Bench) -> None:
    issuer = bench.edge_ca()
    tampered = bytearray(x509.load_pem_x509_csr(CSR.encode()).public_bytes(Encoding.DER))
    tampered[tampered.index(b"edgeHub")] = ord("E")
    forged = x509.load_der_x509_csr(bytes(tampered)).public_bytes(Encoding.PEM).decode()
    other = bench.keys.create("other", KeyAlgorithm.P256)
    for changes, words in (
        ({"csr": forged}, 'parameter "csr" has an invalid value\ncaused by: CSR failed to be verified'),
        ({"csr": "nonsense"}, 'parameter "csr"'),
        ({"csr": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"}, 'parameter "csr"'),
        ({"issuer": {**issuer, "certId": "nobody"}}, 'parameter "issuer.certId"'),
        ({"issuer": {**issuer, "privateKeyHandle": "sr=x&sig=y"}}, 'parameter "issuer.privateKeyHandle"'),
        ({"issuer": {**issuer, "privateKeyHandle": bench.handles.make(KeyId("k"))}}, "not the handle of a key pair"),
        ({"issuer": {**issuer, "privateKeyHandle": bench.handles.make(KeyPairId(other.key_id))}}, "does not belong"),
    ):
        body = {"certId": "x", "csr": CSR, "issuer": issuer, **changes}
        answer = await bench.client.call("POST", "/certificates", body)
        assert answer.status == 400
        assert words in answer.body["message"]
    assert bench.store.text("x") is None


async def test_reading_waits_for_nothing_that_is_being_issued(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EST server takes its time, and the gateway's own services read here meanwhile."""
    begun, goes_on = asyncio.Event(), asyncio.Event()
    issue = ConfiguredIssuer.issue

    async def slow(self: ConfiguredIssuer, order: Order, csr: bytes, *, key_id: str | None = None) -> Chain:
        begun.set()
        await goes_on.wait()
        return await issue(self, order, csr, key_id=key_id)

    monkeypatch.setattr(ConfiguredIssuer, "issue", slow)
    creating = asyncio.create_task(bench.create("by-local"))
    await begun.wait()
    assert (await bench.client.call("GET", path("user"))).status == 200
    assert (await bench.client.call("PUT", path("other"), {"pem": "x"})).status == 201
    goes_on.set()
    assert (await creating).status == 201
