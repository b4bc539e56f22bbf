"""What the edge runtime's identity service does, with curl: exact statuses, its dialect, its way of signing."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from edgetrust.protocol.sas import sign
from support.hub import Answer, World, devices_pki, identity_file
from support.surface import HTTP, surface

VERSION = "?api-version=2017-11-08-preview"
KEYS = {"primaryKey": base64.b64encode(b"p" * 32).decode(), "secondaryKey": base64.b64encode(b"s" * 32).decode()}


def lower_cased(world: World, device: str) -> str:
    """A device token as the Rust client makes it: the whole audience in lower case, thirty seconds of life."""
    resource = quote(f"{world.settings.name}/devices/{device}".lower(), safe="")
    return sign(base64.b64decode(world.keys[device]), resource, int(world.clock.now().timestamp()) + 30)


async def call(world: World, method: str, path: str, token: str, body: object = None, *headers: str) -> Answer:
    arguments = ["-X", method, "-H", f"Authorization: {token}"]
    for header in headers:
        arguments += ["-H", header]
    if body is not None:
        arguments += ["-H", "Content-Type: application/json", "--data", json.dumps(body)]
    return await world.curl(*arguments, f"{world.base}{path}{VERSION}")


@surface(HTTP, "identityd")
async def test_modules_come_and_go(world: World) -> None:
    await world.create("Edge1", capabilities={"iotEdge": True})
    token = lower_cased(world, "Edge1")
    path = "/devices/Edge1/modules/tempSensor"
    body = {"moduleId": "tempSensor", "managedBy": "IotEdge", "deviceId": "Edge1"}

    made = await call(world, "PUT", path, token, body)
    assert made.status == 200
    assert made.json["authentication"]["type"] == "sas"
    assert {"moduleId", "deviceId", "generationId", "managedBy"} <= set(made.json)
    again = await call(world, "PUT", path, token, body)
    assert (again.status, again.error) == (409, "ModuleAlreadyExistsOnDevice")

    update = {**body, "authentication": {"type": "sas", "symmetricKey": KEYS}}
    changed = await call(world, "PUT", path, token, update, "If-Match: *")
    assert changed.status == 200
    assert changed.json["authentication"]["symmetricKey"] == KEYS
    assert changed.json["generationId"] == made.json["generationId"]
    assert (await call(world, "GET", path, token)).json == changed.json

    system = {"moduleId": "$edgeHub", "deviceId": "Edge1", "authentication": update["authentication"]}
    assert (await call(world, "PUT", "/devices/Edge1/modules/%24edgeHub", token, system, "If-Match: *")).status == 200

    listed = await call(world, "GET", "/devices/Edge1/modules", token)
    assert isinstance(listed.json, list)
    assert [module["moduleId"] for module in listed.json] == ["$edgeAgent", "$edgeHub", "tempSensor"]
    assert {module["authentication"]["type"] for module in listed.json} <= {"none", "sas", "x509"}

    gone = await call(world, "DELETE", path, token, None, "If-Match: *")
    assert (gone.status, gone.body) == (204, b"")
    missing = await call(world, "GET", path, token)
    assert (missing.status, missing.error) == (404, "ModuleNotFound")
    assert await world.refusals() == []


async def test_percent_encoded_everything(world: World) -> None:
    await world.create("edge=1", capabilities={"iotEdge": True})
    answer = await call(world, "GET", "/devices/edge%3D1/modules/%24edgeAgent", lower_cased(world, "edge=1"))
    assert answer.json["moduleId"] == "$edgeAgent"


@surface(HTTP, "identityd")
async def test_its_dialect_knows_one_word_for_certificates(world: World) -> None:
    await world.create("e", capabilities={"iotEdge": True})
    await world.create_module("e", "ca", authentication={"type": "certificateAuthority"})
    slots = {"primaryThumbprint": "AB" * 32, "secondaryThumbprint": None}
    await world.create_module("e", "thumb", authentication={"type": "selfSigned", "x509Thumbprint": slots})
    listed = (await call(world, "GET", "/devices/e/modules", lower_cased(world, "e"))).json
    kinds = {module["moduleId"]: module["authentication"]["type"] for module in listed}
    assert (kinds["ca"], kinds["thumb"]) == ("x509", "x509")
    newer = (await world.ask("GET", "/devices/e/modules")).json
    assert {module["authentication"]["type"] for module in newer} == {"sas", "selfSigned", "certificateAuthority"}


@surface(HTTP, "identityd")
@pytest.mark.parametrize("kind", ["thumbprint", "authority"])
async def test_by_certificate_without_a_token(world: World, kind: str) -> None:
    pki = devices_pki()
    holder = pki.device("leaf")
    if kind == "thumbprint":
        await world.by_thumbprint("leaf", holder)
    else:
        await world.trust(pki.root)
        await world.create("leaf", authentication={"type": "certificateAuthority"})
    url = f"{world.base}/devices/leaf/modules/m{VERSION}"
    body = ["-X", "PUT", "--data", json.dumps({"moduleId": "m", "deviceId": "leaf"})]
    assert (await world.curl(*body, url, show=identity_file(holder, world.directory))).status == 200
    assert (await world.curl(url, show=identity_file(holder, world.directory))).json["moduleId"] == "m"
    intruder = identity_file(pki.device("other"), world.directory, "intruder")
    refused = await world.curl(url, show=intruder)
    assert (refused.status, refused.error) == (401, "IotHubUnauthorizedAccess")
    reason = (await world.refusals())[0]["reason"]
    assert reason == ("thumbprint-mismatch" if kind == "thumbprint" else "cn-mismatch")
    nothing = await world.curl(url)
    assert nothing.status == 401
    assert (await world.refusals())[0]["reason"] == "no-credential"


async def test_a_token_that_has_run_out(world: World) -> None:
    await world.create("e", capabilities={"iotEdge": True})
    token = lower_cased(world, "e")
    world.clock.advance(29 + 300)
    assert (await call(world, "GET", "/devices/e/modules", token)).status == 200
    world.clock.advance(2)
    assert (await call(world, "GET", "/devices/e/modules", token)).status == 401
    assert (await world.refusals())[0]["reason"] == "sas-expired"
