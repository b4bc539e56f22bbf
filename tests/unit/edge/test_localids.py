"""Local identities: programs that no hub knows get certificates by the local CA."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgetrust.clock import ManualClock
from edgetrust.edge.files import Layout
from edgetrust.edge.handles import Handles
from edgetrust.edge.hubapi import HubTrust
from edgetrust.edge.identityd import Identities
from edgetrust.edge.identityservice import IdentityService
from edgetrust.edge.issuer import ConfiguredIssuer
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.localids import LocalIdentities
from edgetrust.edge.moduleids import ModuleIdentities
from edgetrust.edge.pairs import CertificateStore
from edgetrust.edge.principals import Principal, Principals
from edgetrust.edge.settings import Settings, load_settings
from edgetrust.errors import ConfigError
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import KeyAlgorithm, SecretBytes
from support.pki import Pki
from support.sockets import As, Client, served

READER, STRANGER = 4_711, 4_712
CONFIG = """
hostname = "edgegateway.local"
[provisioning]
source = "manual"
connection_string = "HostName=hub.example;DeviceId=EdgeGateway;SharedAccessKey=a2V5"
[localid]
domain = "contoso.example"
[cert_issuance.local_ca]
cert = "file://{folder}/ca.pem"
pk = "file://{folder}/ca.key"
[cert_issuance.certs.reader]
method = "local_ca"
expiry_days = 5
[cert_issuance.certs.printer]
method = "local_ca"
[[edgetrust.principal]]
uid = 4711
name = "reader"
idtype = ["local"]
"""


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetrust.edge.localids._KEY", KeyAlgorithm.P256)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    ca = Pki(datetime.now(UTC)).authority("the local ca")
    (tmp_path / "ca.pem").write_text(ca.full_chain.pem())
    (tmp_path / "ca.key").write_bytes(ca.key_pem())
    (tmp_path / "config.toml").write_text(CONFIG.format(folder=tmp_path))
    return load_settings(tmp_path / "config.toml")


class Bench:
    def __init__(self, client: Client, who: As, store: CertificateStore) -> None:
        self.client, self.who, self.store = client, who, store


@pytest.fixture
async def bench(settings: Settings, tmp_path: Path) -> AsyncIterator[Bench]:
    layout, clock, who = Layout(tmp_path / "root"), ManualClock(datetime.now(UTC)), As()
    layout.make()
    keys, store = open_keys(layout), CertificateStore(layout.certificates)
    device = Identities(settings, layout, keys, HubTrust(settings.upstream, clock), clock)
    modules = ModuleIdentities(settings, layout, keys, device.api, clock)
    issuer = ConfiguredIssuer(settings.issuing, keys, store, clock)
    local = LocalIdentities(settings, issuer, store, layout.identities / "local")
    handles, principals = Handles(SecretBytes(b"v" * 32)), settings.serving.principals
    service = IdentityService(settings, modules, keys, handles, principals, local=local)
    async with served(service.app(who), tmp_path / "i.sock", "2022-08-01") as client:
        yield Bench(client, who, store)


async def test_a_declared_identity_gets_a_key_and_a_certificate(bench: Bench) -> None:
    bench.who.uid = READER
    path = "/identities/modules/reader?type=local"
    made = await bench.client.ok("GET", path)
    assert (made["type"], made["spec"]["moduleId"]) == ("local", "reader")
    told = made["spec"]["auth"]
    chain = Chain.from_pem(told["certificate"])
    leaf = chain.end_entity
    assert leaf.subject.rfc4514_string() == "CN=reader.edgegateway.local.contoso.example"
    private = load_pem_private_key(told["privateKey"].encode(), None)
    assert private.public_key() == leaf.public_key()
    critical = {type(one.value).__name__: one.critical for one in leaf.extensions}
    assert critical["BasicConstraints"] and critical["KeyUsage"] and critical["ExtendedKeyUsage"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert told["expiration"] == leaf.not_valid_after_utc.isoformat()
    assert bench.store.load("reader") == chain
    assert (await bench.client.ok("GET", path))["spec"]["auth"]["privateKey"] != told["privateKey"]


async def test_one_is_made_listed_changed_and_deleted(bench: Bench) -> None:
    body = {"type": "local", "moduleId": "printer", "localIdOpts": {"type": "x509", "attributes": "server"}}
    made = await bench.client.ok("POST", "/identities/modules", body)
    usage = Chain.from_pem(made["spec"]["auth"]["certificate"]).end_entity.extensions
    wanted = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    assert list(usage.get_extension_for_class(x509.ExtendedKeyUsage).value) == wanted
    listed = await bench.client.ok("GET", "/identities/modules?type=local")
    assert [one["spec"] for one in listed["identities"]] == [{"moduleId": "printer"}, {"moduleId": "reader"}]
    again = await bench.client.ok("PUT", "/identities/modules/printer?type=local", {})
    usage = Chain.from_pem(again["spec"]["auth"]["certificate"]).end_entity.extensions
    assert list(usage.get_extension_for_class(x509.ExtendedKeyUsage).value) == wanted
    await bench.client.ok("DELETE", "/identities/modules/printer?type=local", status=204)
    for method in ("GET", "DELETE"):
        assert (await bench.client.call(method, "/identities/modules/printer?type=local")).status == 400


async def test_who_and_what_is_refused(bench: Bench) -> None:
    for uid, name, status in ((STRANGER, "reader", 401), (READER, "printer", 401), (0, "nobody", 400)):
        bench.who.uid = uid
        assert (await bench.client.call("GET", f"/identities/modules/{name}?type=local")).status == status
    bench.who.uid = READER
    for body in ({"type": "local", "moduleId": "printer"}, {"type": "local", "moduleId": "reader"}):
        assert (await bench.client.call("POST", "/identities/modules", body)).status == 401
    bench.who.uid = 0
    unordered = await bench.client.call("POST", "/identities/modules", {"type": "local", "moduleId": "other"})
    assert unordered.status == 404
    assert "nothing says how" in unordered.body["message"]
    for options in ({"type": "sas"}, {"attributes": "both"}):
        body = {"type": "local", "moduleId": "printer", "localIdOpts": options}
        assert (await bench.client.call("POST", "/identities/modules", body)).status == 400
    assert (await bench.client.call("GET", "/identities/modules/reader?type=other")).status == 400


def test_without_a_domain_or_with_too_long_a_name(settings: Settings, tmp_path: Path) -> None:
    assert settings.serving.local_domain == "contoso.example"
    without = replace(settings, serving=replace(settings.serving, local_domain=None))
    store = CertificateStore(tmp_path / "certs")
    issuer = ConfiguredIssuer(settings.issuing, open_keys(Layout(tmp_path)), store, ManualClock(datetime.now(UTC)))
    with pytest.raises(ConfigError, match="no domain"):
        LocalIdentities(without, issuer, store, tmp_path)._order("reader")
    long = replace(settings, hostname="x" * 50)
    with pytest.raises(ConfigError, match="more than 64"):
        LocalIdentities(long, issuer, store, tmp_path)._common_name("reader")
    assert Principals((Principal(1, "reader", idtype=("local",)),)).is_local(1, "reader")
