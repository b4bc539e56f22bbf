"""The workload API and the identity service on their sockets, against a hub of few words."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgetrust.clock import ManualClock
from edgetrust.edge.files import MASTER_IDENTITY_KEY, Layout
from edgetrust.edge.handles import DerivedId, Handles
from edgetrust.edge.hubapi import HubTrust
from edgetrust.edge.identityd import Identities
from edgetrust.edge.identityservice import IdentityService
from edgetrust.edge.keyd import ensure_secret, open_keys
from edgetrust.edge.moduleids import ModuleIdentities
from edgetrust.edge.pairs import CertificateStore
from edgetrust.edge.principals import Principal, Principals
from edgetrust.edge.settings import Settings
from edgetrust.edge.workload import Workload
from edgetrust.pki.chain import Chain, TrustBundle
from edgetrust.pki.issue import Issuer
from edgetrust.pki.keys import KeyAlgorithm, SecretBytes
from edgetrust.pki.verify import ChainFailure, Purpose, verify_chain
from support.fake_hub import FakeHub
from support.pki import Pki
from support.sockets import As, Client, served

WORKLOAD, IDENTITY = "2022-08-03", "2022-08-01"
GENERATION = "637911101449272999"
MODULE_UID, DEVICE_UID, STRANGER, SERVICE = 3001, 3002, 3003, 3004
PID = 4242


class Processes:
    """One process, which is grafana."""

    def names(self) -> list[str]:
        return ["edgeHub", "grafana"]

    def is_of(self, pid: int, module: str) -> bool:
        return pid == PID and module == "grafana"

    def describe(self, module: str) -> dict[str, Any]:
        return {"name": module}


@dataclass
class Bench:
    hub: FakeHub
    workload: Client
    identity: Client
    who: As
    pki: Pki
    clock: ManualClock
    store: CertificateStore
    layout: Layout
    master: bytes
    handles: Handles
    bundle: list[str]
    issuers: list[Issuer]

    def module(self, **changes: Any) -> dict[str, Any]:
        return {"moduleId": "grafana", "generationId": GENERATION, "managedBy": "IotEdge", **changes}

    @property
    def primary(self) -> bytes:
        return hmac.new(self.master, f"grafana:{GENERATION}:primary".encode(), hashlib.sha256).digest()


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgetrust.edge.workload._KEY", KeyAlgorithm.P256)


@pytest.fixture
async def bench(hub: FakeHub, settings_for: Callable[[FakeHub], Settings], tmp_path: Path) -> AsyncIterator[Bench]:
    settings, clock, layout = settings_for(hub), ManualClock(datetime.now(UTC)), Layout(tmp_path / "root")
    layout.make()
    keys, store, who = open_keys(layout), CertificateStore(layout.certificates), As(pid=PID)
    identities = Identities(settings, layout, keys, HubTrust(settings.upstream, clock), clock)
    modules = ModuleIdentities(settings, layout, keys, identities.api, clock)
    handles, pki = Handles(SecretBytes(b"v" * 32)), Pki(clock.now())
    principals = Principals(
        (
            Principal(MODULE_UID, "grafana", idtype=("module",)),
            Principal(DEVICE_UID, "reader", idtype=("device",)),
            Principal(SERVICE, "aziot-edge"),
        )
    )
    edge_ca = pki.authority("the edge ca", path_length=0)
    issuers, bundle = [Issuer(edge_ca.key, edge_ca.full_chain)], ["PEM\n"]
    workload = Workload(
        settings, keys, store, modules, Processes(), lambda: issuers[0], lambda: bundle[0] or None, clock
    )
    identity = IdentityService(settings, modules, keys, handles, principals)
    master = ensure_secret(keys, MASTER_IDENTITY_KEY).reveal()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(identities.api.close)
        asking = await stack.enter_async_context(served(workload.app(who), tmp_path / "w.sock", WORKLOAD))
        naming = await stack.enter_async_context(served(identity.app(who), tmp_path / "i.sock", IDENTITY))
        yield Bench(hub, asking, naming, who, pki, clock, store, layout, master, handles, bundle, issuers)


# The workload API -----------------------------------------------------------------------------------------------------


async def test_a_server_certificate_for_any_name_the_module_wants(bench: Bench) -> None:
    path = f"/modules/grafana/genid/{GENERATION}/certificate/server"
    body = {"commonName": "Grafana.local", "expiration": "2999-01-01T00:00:00Z"}
    made = await bench.workload.ok("POST", path, body, status=201)
    chain = Chain.from_pem(made["certificate"])
    leaf = chain.end_entity
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one.value) for one in names] == ["Grafana.local", "grafana"]
    assert chain.intermediates == bench.issuers[0].chain.certificates
    assert leaf.not_valid_after_utc - bench.clock.now() <= timedelta(days=30)
    assert made["expiration"] == leaf.not_valid_after_utc.isoformat()
    private = load_pem_private_key(made["privateKey"]["bytes"].encode(), None)
    assert private.public_key() == leaf.public_key()
    assert bench.store.load(f"aziot-edged/module/grafana:{GENERATION}:server") == chain
    bundle = TrustBundle((bench.pki.root.certificate,), as_of=bench.clock.now())
    outcome = verify_chain(
        chain, bundle, Purpose.SERVER, bench.clock.now() + timedelta(seconds=1), name="grafana.local"
    )
    assert not isinstance(outcome, ChainFailure), outcome
    again = await bench.workload.ok("POST", path, body, status=201)
    assert again["certificate"] != made["certificate"]


async def test_an_address_becomes_an_ip_name_and_a_long_name_is_said_to_be(bench: Bench) -> None:
    path = f"/modules/grafana/genid/{GENERATION}/certificate/server"
    made = await bench.workload.ok("POST", path, {"commonName": "10.0.0.7"}, status=201)
    names = Chain.from_pem(made["certificate"]).end_entity.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [type(one) for one in names.value] == [x509.IPAddress, x509.DNSName]
    long = await bench.workload.call("POST", path, {"commonName": "x" * 65})
    assert long.status == 500
    assert long.body["message"].startswith("failed to generate csr subject")
    assert (await bench.workload.call("POST", path, {"commonName": "grün"})).status == 400


async def test_an_identity_certificate_says_which_module(bench: Bench) -> None:
    made = await bench.workload.ok("POST", "/modules/grafana/certificate/identity", {}, status=201)
    leaf = Chain.from_pem(made["certificate"]).end_entity
    assert leaf.subject.rfc4514_string() == "CN=grafana"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "URI: azureiot://hub.example/devices/EdgeGateway/modules/grafana"
    ]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


async def test_without_an_edge_ca_that_works_there_is_no_certificate(bench: Bench) -> None:
    ended = bench.pki.authority("the edge ca", begin=-timedelta(days=9), end=-timedelta(days=1))
    bench.issuers[0] = Issuer(ended.key, ended.full_chain)
    path = f"/modules/grafana/genid/{GENERATION}/certificate/server"
    answer = await bench.workload.call("POST", path, {"commonName": "x"})
    assert (answer.status, "ended at" in answer.body["message"]) == (500, True)


async def test_sign_uses_the_key_that_the_module_never_sees(bench: Bench) -> None:
    bench.hub.answers["GET grafana"] = (200, bench.module())
    path = f"/modules/grafana/genid/{GENERATION}/sign"
    body = {"keyId": "primary", "algo": "HMACSHA256", "data": base64.b64encode(b"data").decode()}
    expected = hmac.new(bench.primary, b"data", hashlib.sha256).digest()
    for _ in range(3):
        assert base64.b64decode((await bench.workload.ok("POST", path, body))["digest"]) == expected
    assert len(bench.hub.asked) == 1  # the hub is not asked for every token
    wrong = await bench.workload.ok("POST", path.replace(GENERATION, "1"), body)
    assert base64.b64decode(wrong["digest"]) == expected  # the generation of the path is not believed
    await bench.hub.stop()
    bench.clock.advance(3600)
    assert base64.b64decode((await bench.workload.ok("POST", path, body))["digest"]) == expected


async def test_sign_for_a_module_that_the_hub_does_not_have(bench: Bench) -> None:
    path = f"/modules/grafana/genid/{GENERATION}/sign"
    refused = await bench.workload.call("POST", path, {"data": ""})
    assert (refused.status, refused.body["message"].splitlines()[0]) == (
        500,
        "failed to get module identity for grafana",
    )
    assert (await bench.workload.call("POST", path, {"data": "%"})).status == 400


async def test_what_a_module_encrypts_only_it_and_its_generation_decrypt(bench: Bench) -> None:
    iv = base64.b64encode(b"a text of thirty-two characters!").decode()
    plain = base64.b64encode(b"secret").decode()
    path = f"/modules/grafana/genid/{GENERATION}"
    made = await bench.workload.ok("POST", f"{path}/encrypt", {"plaintext": plain, "initializationVector": iv})
    body = {"ciphertext": made["ciphertext"], "initializationVector": iv}
    assert (await bench.workload.ok("POST", f"{path}/decrypt", body))["plaintext"] == plain
    other = await bench.workload.call("POST", "/modules/grafana/genid/1/decrypt", body)
    assert (other.status, "not made with this key" in other.body["message"]) == (400, True)
    assert (await bench.workload.call("POST", f"{path}/decrypt", {**body, "initializationVector": ""})).status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/modules/grafana/genid/1/certificate/server",
        "/modules/grafana/certificate/identity",
        "/modules/grafana/genid/1/sign",
        "/modules/grafana/genid/1/encrypt",
        "/modules/grafana/genid/1/decrypt",
    ],
)
async def test_another_process_and_another_module_are_forbidden(bench: Bench, path: str) -> None:
    bench.who.pid = 1
    assert await bench.workload.ok("POST", path, {}, status=403) == {"message": "forbidden"}
    bench.who.pid = PID
    for other in ("edgeHub", "$edgeHub", "other"):
        assert (await bench.workload.call("POST", path.replace("grafana", other), {})).status == 403


async def test_what_is_open_to_all(bench: Bench) -> None:
    bench.who.pid = 1
    assert await bench.workload.ok("GET", "/trust-bundle") == {"certificate": "PEM\n"}
    assert await bench.workload.ok("GET", "/manifest-trust-bundle") == {"certificate": ""}
    for path in ("/modules", "/modules/"):
        assert (await bench.workload.ok("GET", path))["modules"][1] == {"name": "grafana"}
    bench.bundle[0] = ""
    missing = await bench.workload.call("GET", "/trust-bundle")
    assert missing.body == {"message": 'certificate "aziot-edged-trust-bundle" not found'}


# The identity service -------------------------------------------------------------------------------------------------


async def test_a_module_is_made_and_the_hub_is_told_its_keys(bench: Bench) -> None:
    told: list[Any] = []
    bench.hub.answers["PUT grafana"] = lambda asked: (told.append(asked), (200, bench.module()))[1]
    made = await bench.identity.ok("POST", "/identities/modules", {"type": "aziot", "moduleId": "grafana"})
    spec = made["spec"]
    assert {**spec, "auth": None} == {
        "hubName": "hub.example",
        "gatewayHost": "hub.example",
        "deviceId": "EdgeGateway",
        "moduleId": "grafana",
        "genId": GENERATION,
        "auth": None,
    }
    key = bench.handles.read(spec["auth"]["keyHandle"])
    assert isinstance(key, DerivedId)
    assert key.data == f"grafana:{GENERATION}:primary".encode()
    first, second = told
    assert ("If-Match" in first.headers, second.headers["If-Match"]) == (False, "*")
    keys = second.body["authentication"]["symmetricKey"]
    assert base64.b64decode(keys["primaryKey"]) == bench.primary
    assert keys["secondaryKey"] != keys["primaryKey"]


async def test_with_the_device_refused_reading_goes_on_and_changing_does_not(bench: Bench) -> None:
    bench.hub.answers["GET grafana"] = (200, bench.module())
    read = await bench.identity.ok("GET", "/identities/modules/grafana?type=aziot")
    refuse = (401, {"Message": "ErrorCode:IotHubUnauthorizedAccess;certificate expired"})
    bench.hub.answers.update({f"{method} grafana": refuse for method in ("GET", "PUT", "DELETE")})
    bench.hub.answers["GET modules"] = refuse
    bench.clock.advance(3600)
    again = await bench.identity.ok("GET", "/identities/modules/grafana?type=aziot")
    assert again["spec"]["genId"] == read["spec"]["genId"]
    listed = await bench.identity.ok("GET", "/identities/modules?type=aziot")
    assert [one["spec"]["moduleId"] for one in listed["identities"]] == ["grafana"]
    assert "auth" not in listed["identities"][0]["spec"]
    for method, path, body in (
        ("POST", "/identities/modules", {"type": "aziot", "moduleId": "grafana"}),
        ("PUT", "/identities/modules/grafana?type=aziot", {}),
        ("DELETE", "/identities/modules/grafana?type=aziot", None),
    ):
        answer = await bench.identity.call(method, path, body)
        assert answer.status == 404
        assert "certificate expired" in answer.body["message"]


async def test_a_module_that_is_gone_is_forgotten(bench: Bench) -> None:
    bench.hub.answers["GET grafana"] = (200, bench.module())
    await bench.identity.ok("GET", "/identities/modules/grafana")
    bench.hub.answers["GET grafana"] = (404, {"Message": "ErrorCode:ModuleNotFound;gone"})
    bench.clock.advance(3600)
    for _ in range(2):
        answer = await bench.identity.call("GET", "/identities/modules/grafana")
        assert (answer.status, answer.body) == (400, {"message": "there is no module 'grafana'"})
    bench.hub.answers["DELETE grafana"] = (204, "")
    await bench.identity.ok("DELETE", "/identities/modules/grafana", status=204)


async def test_the_device_and_how_it_was_provisioned(bench: Bench) -> None:
    made = await bench.identity.ok("POST", "/identities/device", {"type": "aziot"})
    assert made["spec"]["deviceId"] == "EdgeGateway"
    assert made["spec"]["auth"]["type"] == "sas"
    assert await bench.identity.ok("GET", "/identities/provisioning") == {"source": "manual", "auth": "sas"}
    bench.hub.answers["GET modules"] = (200, [])
    await bench.identity.ok("POST", "/identities/device/reprovision", {"type": "aziot"}, status=204)
    assert await bench.identity.ok("GET", "/trust-bundle") == {"certificate": ""}
    wrong = await bench.identity.call("POST", "/identities/device", {"type": "local"})
    assert wrong.status == 400
    named = await bench.identity.call("POST", "/identities/modules", {"moduleId": "a b"})
    assert named.status == 400


async def test_who_may_learn_what(bench: Bench) -> None:
    bench.hub.answers["GET grafana"] = (200, bench.module())
    bench.hub.answers["GET modules"] = (200, [bench.module()])
    may = {
        STRANGER: set(),
        MODULE_UID: {"identity", "grafana"},
        DEVICE_UID: {"identity", "device"},
        SERVICE: {"identity", "device", "grafana", "modules", "provisioning"},
    }
    asked = {
        "identity": ("GET", "/identities/identity", None),
        "device": ("POST", "/identities/device", {"type": "aziot"}),
        "grafana": ("GET", "/identities/modules/grafana", None),
        "modules": ("GET", "/identities/modules", None),
        "provisioning": ("GET", "/identities/provisioning", None),
    }
    for uid, allowed in may.items():
        bench.who.uid = uid
        for what, (method, path, body) in asked.items():
            answer = await bench.identity.call(method, path, body)
            assert answer.status == (200 if what in allowed else 401), (uid, what, answer)
    bench.who.uid = MODULE_UID
    own = await bench.identity.ok("GET", "/identities/identity")
    assert own["spec"]["moduleId"] == "grafana"
