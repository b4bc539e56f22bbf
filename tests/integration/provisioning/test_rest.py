"""The provisioning service beside a hub, over HTTPS: what curl and bad clients get, and that the hub hears at once."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from edgetrust.cli import up_ca, up_dps
from edgetrust.clock import SystemClock
from edgetrust.device.provision import ByCertificate, ByKey, DpsAddress, register
from edgetrust.errors import RefusedError, UnavailableError
from edgetrust.hub.service import Hub
from edgetrust.pki.chain import Thumbprint, TrustBundle
from edgetrust.pki.csr import build_csr, parse_csr
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.names import Names
from edgetrust.pki.softkeys import SoftKey
from edgetrust.protocol.sas import decode_key, sign
from edgetrust.transport.guests import Guest
from support.enrollments import PRIMARY, certificates, keys, pem, references
from support.hub import NAME, Answer, World, identity_file, new_pki, running
from support.pki import Pki, self_signed

VERSION = "api-version=2021-06-01"


class Dps:
    """A hub with a provisioning service and a certificate authority as guests."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.directory = directory
        described = up_dps.described(world.hub)
        self.scope = described["id_scope"]
        said = dict(part.split("=", 1) for part in described["service_connection_string"].split(";"))
        self._policy, self._key = said["SharedAccessKeyName"], decode_key(said["SharedAccessKey"])

    def owner(self, policy: str | None = None, key: bytes | None = None) -> str:
        expires_at = int(self.world.clock.now().timestamp()) + 600
        return sign(key or self._key, NAME, expires_at, policy or self._policy)

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """A request of a service; header names with `_` for `-`."""
        return await self.world.ask(method, path, body, token=self.owner(), version=VERSION, **headers)

    async def enroll(self, name: str, attestation: dict[str, Any], **fields: Any) -> dict[str, Any]:
        body = {"registrationId": name, "attestation": attestation, **fields}
        answer = await self.ask("PUT", f"/enrollments/{name}", body)
        assert answer.status == 200, answer
        return dict(answer.json)

    def token(self, name: str, key: bytes = PRIMARY) -> str:
        """As the Rust client makes it: in lower case, encoded, for half a minute."""
        resource = f"{self.scope}%2Fregistrations%2F{name}".lower().replace("%2f", "%2F")
        return sign(key, resource, int(self.world.clock.now().timestamp()) + 30, "registration")

    async def curl(self, path: str, *options: str, show: Path | None = None) -> Answer:
        return await self.world.curl(*options, f"{self.world.base}/{self.scope}/registrations/{path}", show=show)

    def service(self, **changes: Any) -> DpsAddress:
        bundle = TrustBundle.from_pem(self.world.root.read_bytes(), as_of=self.world.clock.now())
        return DpsAddress(**{"url": self.world.base, "id_scope": self.scope, "bundle": bundle, **changes})


@pytest_asyncio.fixture
async def dps(tmp_path: Path) -> AsyncIterator[Dps]:
    async def invite(hub: Hub) -> list[Guest]:
        return [await up_ca.invited(hub), await up_dps.invited(hub)]

    async with running(tmp_path / "hub", new_pki(tmp_path), invite=invite) as world:
        yield Dps(world, tmp_path)


def error(answer: Answer) -> tuple[int, int]:
    said = answer.json
    assert set(said) == {"errorCode", "trackingId", "message", "timestampUtc"}, said
    assert answer.headers["x-ms-request-id"] == said["trackingId"]
    return answer.status, said["errorCode"]


async def test_a_registration_as_the_edge_runtime_makes_it(dps: Dps) -> None:
    await dps.enroll("Reg1", keys(), capabilities={"iotEdge": True})
    auth = ("--header", f"Authorization: {dps.token('Reg1')}")
    body = ("--header", "Content-Type: application/json", "--data", '{"registrationId":"Reg1"}')
    begun = await dps.curl(f"Reg1/register?{VERSION}", "--request", "PUT", *auth, *body)
    assert (begun.status, begun.json["status"]) == (202, "assigning")
    assert begun.headers["Retry-After"].isdecimal()
    where = begun.headers["Location"]
    assert where.endswith(f"/Reg1/operations/{begun.json['operationId']}?{VERSION}")
    while True:  # one client sends a body with its question, with the same token
        answer = await dps.world.curl("--request", "GET", *auth, *body, where)
        if answer.status != 202:
            break
    state = answer.json["registrationState"]
    assert (answer.status, state["assignedHub"], state["deviceId"]) == (200, NAME, "Reg1")
    looked = await dps.curl(f"Reg1?{VERSION}", "--request", "POST", *auth, *body)
    assert looked.json == state
    stored = (await dps.world.ask("GET", "/devices/Reg1")).json
    assert stored["authentication"]["symmetricKey"]["primaryKey"] == base64.b64encode(PRIMARY).decode()
    assert stored["capabilities"]["iotEdge"] is True
    shown = (await dps.ask("GET", "/enrollments/reg1")).json
    assert shown["registrationState"]["status"] == "assigned"
    assert "symmetricKey" not in shown["attestation"]


async def test_the_hub_hears_of_a_renewed_certificate_at_once(dps: Dps) -> None:
    first, second = (self_signed("own", now=dps.world.clock.now(), serial=serial) for serial in (1, 2))
    await dps.enroll("own", certificates("clientCertificates", first.certificate, second.certificate))
    ask = f"{dps.world.base}/devices/own/modules?{VERSION}"
    for new, old in ((first, second), (second, first)):
        by = ByCertificate(new.chain, new.key)
        assert (await register(dps.service(), "own", by, SystemClock())).device == "own"
        assert (await dps.world.curl(ask, show=identity_file(new, dps.directory, "new"))).status == 200
        assert (await dps.world.curl(ask, show=identity_file(old, dps.directory, "old"))).status == 401


async def test_a_csr_is_answered_with_a_certificate_for_the_hub(dps: Dps) -> None:
    await dps.enroll("csr-1", keys())
    key = SoftKey.generate("operational")
    csr = parse_csr(build_csr(key, Names("csr-1"))).der
    done = await register(dps.service(), "csr-1", ByKey(SecretBytes(PRIMARY)), SystemClock(), csr=csr)
    assert done.issued is not None
    assert len(done.issued.certificates) > 1
    stored = (await dps.world.ask("GET", "/devices/csr-1")).json["authentication"]
    assert stored["type"] == "selfSigned"
    assert set(stored["x509Thumbprint"].values()) == {Thumbprint.of(done.issued.end_entity).hex()}
    other = parse_csr(build_csr(key, Names("csr-2"))).der
    for wrong in (other, b"no csr"):
        with pytest.raises(RefusedError, match="400004"):
            await register(dps.service(), "csr-1", ByKey(SecretBytes(PRIMARY)), SystemClock(), csr=wrong)


async def test_our_client_says_what_went_wrong(dps: Dps) -> None:
    await dps.enroll("own", keys())
    wrong = ByKey(SecretBytes(b"x" * 32))
    with pytest.raises(RefusedError, match="401000 Unauthorized"):
        await register(dps.service(), "own", wrong, SystemClock())
    with pytest.raises(RefusedError, match="401000"):
        await register(dps.service(id_scope="0neOTHER"), "own", wrong, SystemClock())
    with pytest.raises(RefusedError) as untrusted:
        await register(dps.service(bundle=TrustBundle((), as_of=dps.world.clock.now())), "own", wrong, SystemClock())
    assert untrusted.value.reason == "server-untrusted"
    with pytest.raises(UnavailableError):
        await register(dps.service(url="https://127.0.0.1:1"), "own", wrong, SystemClock())


async def test_requests_that_cannot_be(dps: Dps) -> None:
    await dps.enroll("own", keys())
    auth, base = dps.token("own"), f"/{dps.scope}/registrations"

    async def put(path: str, body: object = None, **headers: str) -> Answer:
        return await dps.world.ask("PUT", base + path, body, token=auth, version=None, **headers)

    assert error(await put("/own/register", {})) == (400, 400_004)  # no api-version
    assert error(await put(f"/own/register?{VERSION}", b"x", Content_Type="text/plain")) == (415, 415_000)
    assert error(await put(f"/own/register?{VERSION}", b"{")) == (400, 400_004)
    assert error(await put(f"/own/register?{VERSION}", b" " * 70_000)) == (413, 413_000)
    assert error(await put(f"/own%00/register?{VERSION}", {})) == (400, 400_004)
    assert error(await put(f"/{'a' * 129}/register?{VERSION}", {})) == (400, 400_004)
    assert error(await put(f"/own/unregister?{VERSION}", {})) == (404, 404_000)
    assert error(await put(f"/other/register?{VERSION}", {})) == (401, 401_000)
    deleted = await dps.world.ask("DELETE", f"{base}/own/register", token=auth, version=VERSION)
    assert error(deleted) == (405, 405_000)
    assert (await put(f"/own/register?{VERSION}", {})).status == 202  # and a right one counts


async def test_services_need_the_right(dps: Dps) -> None:
    policies = json.loads((dps.world.settings.data / "dps-policies.json").read_text())
    reader = base64.b64decode(policies["enrollmentread"]["primary"])
    body = {"registrationId": "own", "attestation": keys()}

    async def ask(method: str, path: str, token: str | None, body: object = None) -> int:
        return (await dps.world.ask(method, path, body, token=token, version=VERSION)).status

    reading = dps.owner("enrollmentread", reader)
    assert await ask("PUT", "/enrollments/own", reading, body) == 401
    assert await ask("POST", "/enrollmentgroups/query", reading, {"query": "SELECT * FROM enrollmentGroups"}) == 200
    assert await ask("GET", "/enrollments/own", dps.world.service_token()) == 401  # the hub's owner is not this one's
    assert await ask("GET", "/enrollments/own", None) == 401
    assert await ask("GET", "/enrollments/own", dps.owner()) == 404
    assert await ask("GET", "/devices", dps.owner()) == 401


async def test_what_the_service_api_refuses(dps: Dps) -> None:
    made = await dps.enroll("own", keys())
    body = {"registrationId": "own", "attestation": keys()}
    assert error(await dps.ask("PUT", "/enrollments/own", body)) == (409, 409_000)
    assert error(await dps.ask("PUT", "/enrollments/own", body, If_Match='"AAAA"')) == (412, 412_000)
    assert (await dps.ask("PUT", "/enrollments/OWN", body, If_Match=made["etag"])).status == 200
    assert error(await dps.ask("PUT", "/enrollments/other", body)) == (400, 400_004)
    assert error(await dps.ask("PUT", "/enrollments/own", b"{")) == (400, 400_004)
    assert error(await dps.ask("POST", "/enrollments/query", {"query": "DELETE * FROM enrollments"})) == (400, 400_004)
    assert error(await dps.ask("POST", "/enrollments", {"mode": "guess", "enrollments": [body]})) == (400, 400_004)
    assert error(await dps.ask("POST", "/enrollments", {"mode": "create", "enrollments": []})) == (400, 400_004)
    many = {"mode": "create", "enrollments": [body, {"registrationId": "two", "attestation": keys()}, 7]}
    answer = (await dps.ask("POST", "/enrollments/", many)).json
    assert not answer["isSuccessful"]
    assert [one["errorCode"] // 1000 for one in answer["errors"]] == [409, 400]
    assert (await dps.ask("GET", "/enrollments/two")).status == 200
    pki = Pki(dps.world.clock.now(), 0, root_name="Some root")
    group = {"enrollmentGroupId": "g", "attestation": references("root")}
    assert error(await dps.ask("PUT", "/enrollmentGroups/g", group)) == (400, 400_004)
    path = "/provisioningServices/any/certificates/root"
    upload = {"properties": {"certificate": pem(pki.root.certificate), "isVerified": True}}
    assert (await dps.ask("PUT", path, upload)).status == 201
    assert (await dps.ask("PUT", "/enrollmentGroups/g", group)).status == 200
    assert error(await dps.ask("DELETE", path, If_Match="*")) == (409, 409_000)
    assert error(await dps.ask("DELETE", "/registrations/nobody")) == (404, 404_202)


async def test_a_refusal_is_on_record_with_its_checks(dps: Dps) -> None:
    pki = Pki(dps.world.clock.now(), 1, root_name="Some root")
    holder = pki.device("dev-1")
    with pytest.raises(RefusedError, match=r"401002 Invalid certificate\."):
        await register(dps.service(), "dev-1", ByCertificate(holder.chain, holder.key), SystemClock())
    (shown,) = await dps.world.refusals()
    assert (shown["identity"], shown["reason"], shown["place"]) == ("dev-1", "enrollment-unknown", "dps-https")
    assert [(check["name"], check["passed"]) for check in shown["checks"]] == [
        ("common-name", True),
        ("certificate-dates", True),
        ("enrolled", False),
    ]
