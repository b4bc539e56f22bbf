"""Revocation that bites: whatever an open connection rests on goes, the connection goes; its reason is on record.

Each cause is tried on devices and modules, connected by MQTT and by WebSocket, and made by this hub's HTTPS surface and
by another process on the same database. A bystander of the same kind stays connected.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgetrust.hub.pki import HubPki
from edgetrust.protocol.registry import AuthenticationType, Status
from edgetrust.store.certificates import CaCertificates
from edgetrust.store.engine import Database
from edgetrust.store.identities import Identities
from edgetrust.store.records import AuthenticationDraft, DeviceDraft, ModuleDraft
from support.database import PostgresServer
from support.hub import NAME, World, devices_pki, running
from support.mosquitto import Device, device, identity, wait

KEY = "bmV3bmV3bmV3bmV3bmV3bmV3"
OTHER = "AB" * 32


@dataclass
class Elsewhere:
    """Another process on the same database: its store, not the hub's."""

    identities: Identities
    certificates: CaCertificates


@asynccontextmanager
async def elsewhere(world: World) -> AsyncIterator[Elsewhere]:
    database = Database(world.settings.database)
    try:
        identities = Identities(database, world.clock, NAME)
        yield Elsewhere(identities, await CaCertificates.open(database, world.clock, identities))
    finally:
        await database.close()


Change = Callable[[World, str], Awaitable[None]]
ChangeElsewhere = Callable[[Elsewhere, str], Awaitable[Any]]


@dataclass(frozen=True)
class Cause:
    """`kind`: how the identity authenticates. `reason`: what the refusal says."""

    name: str
    kind: str
    reason: str
    here: Change
    there: ChangeElsewhere
    module: bool = False


async def _put(world: World, path: str, **changes: Any) -> None:
    body = (await world.ask("GET", path)).json
    assert (await world.ask("PUT", path, {**body, **changes}, If_Match="*")).status == 200


async def _delete(world: World, path: str) -> None:
    assert (await world.ask("DELETE", path, If_Match="*")).status == 204


def _path(who: str) -> str:
    owner, _, module = who.partition("/")
    return f"/devices/{owner}" + (f"/modules/{module}" if module else "")


def _keys(key: str = KEY) -> dict[str, Any]:
    return {"type": "sas", "symmetricKey": {"primaryKey": key, "secondaryKey": key}}


def _prints(print_: str = OTHER) -> dict[str, Any]:
    return {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": print_, "secondaryThumbprint": print_}}


def _draft(**fields: Any) -> AuthenticationDraft:
    return AuthenticationDraft(**fields)


NEW_KEYS = _draft(kind=AuthenticationType.SAS, primary_key=KEY, secondary_key=KEY)
NEW_PRINTS = _draft(kind=AuthenticationType.SELF_SIGNED, primary_thumbprint=OTHER, secondary_thumbprint=OTHER)


async def _retire(world: World, _who: str) -> None:
    found = await world.ask("GET", "/certificates/ca")
    assert (await world.ask("DELETE", "/certificates/ca", If_Match=found.etag)).status in (200, 204)


async def _retire_there(there: Elsewhere, _who: str) -> None:
    found = await there.certificates.certificate("ca")
    await there.certificates.delete("ca", found.etag)


def _owner(who: str) -> str:
    return who.partition("/")[0]


def _module_draft(who: str, draft: AuthenticationDraft) -> ModuleDraft:
    owner, _, module = who.partition("/")
    return ModuleDraft(owner, module, draft)


CAUSES = [
    Cause(
        "disabled", "sas", "disabled",
        lambda world, who: _put(world, _path(who), status="disabled"),
        lambda there, who: there.identities.put_device(DeviceDraft(who, status=Status.DISABLED), "*"),
    ),
    Cause(
        "deleted", "thumbprint", "unknown-identity",
        lambda world, who: _delete(world, _path(who)),
        lambda there, who: there.identities.delete_device(who, "*"),
    ),
    Cause(
        "key-rolled", "sas", "sas-signature-mismatch",
        lambda world, who: _put(world, _path(who), authentication=_keys()),
        lambda there, who: there.identities.put_device(DeviceDraft(who, NEW_KEYS), "*"),
    ),
    Cause(
        "thumbprint-removed", "thumbprint", "thumbprint-unknown-subject-known",
        lambda world, who: _put(world, _path(who), authentication=_prints()),
        lambda there, who: there.identities.put_device(DeviceDraft(who, NEW_PRINTS), "*"),
    ),
    Cause(
        "other-kind", "thumbprint", "wrong-kind-of-credential",
        lambda world, who: _put(world, _path(who), authentication=_keys()),
        lambda there, who: there.identities.put_device(DeviceDraft(who, NEW_KEYS), "*"),
    ),
    Cause("ca-retired", "ca", "chain-intermediate-missing", _retire, _retire_there),
    Cause(
        "device-disabled", "sas", "device-disabled",
        lambda world, who: _put(world, _path(_owner(who)), status="disabled"),
        lambda there, who: there.identities.put_device(DeviceDraft(_owner(who), status=Status.DISABLED), "*"),
        module=True,
    ),
    Cause(
        "module-deleted", "sas", "unknown-identity",
        lambda world, who: _delete(world, _path(who)),
        lambda there, who: there.identities.delete_module(*who.split("/"), "*"),
        module=True,
    ),
    Cause(
        "its-device-deleted", "thumbprint", "unknown-identity",
        lambda world, who: _delete(world, _path(_owner(who))),
        lambda there, who: there.identities.delete_device(_owner(who), "*"),
        module=True,
    ),
    Cause(
        "module-key-rolled", "sas", "sas-signature-mismatch",
        lambda world, who: _put(world, _path(who), authentication=_keys()),
        lambda there, who: there.identities.put_module(_module_draft(who, NEW_KEYS), "*"),
        module=True,
    ),
    Cause(
        "device-key-rolled", "device-key", "sas-signature-mismatch",
        lambda world, who: _put(world, _path(_owner(who)), authentication=_keys()),
        lambda there, who: there.identities.put_device(DeviceDraft(_owner(who), NEW_KEYS), "*"),
        module=True,
    ),
    Cause(
        "module-thumbprint-removed", "thumbprint", "thumbprint-unknown-subject-known",
        lambda world, who: _put(world, _path(who), authentication=_prints()),
        lambda there, who: there.identities.put_module(_module_draft(who, NEW_PRINTS), "*"),
        module=True,
    ),
    Cause("module-ca-retired", "ca", "chain-intermediate-missing", _retire, _retire_there, module=True),
]  # fmt: skip


async def _register(world: World, who: str, kind: str) -> dict[str, Any]:
    """Register an identity of this kind; what its client shows."""
    owner, _, module = who.partition("/")
    fields: dict[str, Any] = {}
    shown: dict[str, Any] = {}
    if kind in ("thumbprint", "ca"):
        holder = devices_pki().device(who)
        shown = {"show": identity(holder, world.directory, who.replace("/", "-"))}
        digest = holder.chain.thumbprint("sha256").hex()
        fields = {"authentication": _prints(digest) if kind == "thumbprint" else {"type": "certificateAuthority"}}
    if module:
        await world.create(owner)
        await world.create_module(owner, module, **fields)
        if kind == "device-key":
            shown = {"password": world.token(who, key=world.keys[owner])}
    else:
        await world.create(owner, **fields)
    return shown


@pytest.mark.parametrize("from_elsewhere", [False, True], ids=["here", "elsewhere"])
@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
async def test_open_connections_end(tmp_path: Path, hub_pki: HubPki, cause: Cause, *, from_elsewhere: bool) -> None:
    async with running(tmp_path, hub_pki) as world:
        await _ends(world, cause, from_elsewhere=from_elsewhere)


@pytest.mark.parametrize(
    "cause", [cause for cause in CAUSES if cause.name in ("disabled", "ca-retired", "module-key-rolled")],
    ids=lambda cause: cause.name,
)  # fmt: skip
async def test_of_two_processes_on_postgresql(
    tmp_path: Path, hub_pki: HubPki, postgres: PostgresServer, cause: Cause
) -> None:
    async with running(tmp_path, hub_pki, postgres.new_database()) as world:
        await _ends(world, cause, from_elsewhere=True)


async def _ends(world: World, cause: Cause, *, from_elsewhere: bool) -> None:
    """Two connections that rest on what goes, one that does not; the first two end, for the reason, and stay out."""
    suffix = "/m" if cause.module else ""
    by_mqtt, by_websocket, bystander = f"d1{suffix}", f"d2{suffix}", f"d3{suffix}"
    if cause.kind == "ca":
        await world.trust(devices_pki().root)
    shown = {who: await _register(world, who, cause.kind) for who in (by_mqtt, by_websocket)}
    shown[bystander] = await _register(world, bystander, "sas")
    with ExitStack() as stack:
        clients = {
            who: stack.enter_context(device(world, who, websocket=who == by_websocket, **more))
            for who, more in shown.items()
        }
        for client in clients.values():
            await wait(lambda client=client: client.code == 0)
        if from_elsewhere:
            async with elsewhere(world) as there:
                await cause.there(there, by_mqtt)
                if cause.kind != "ca":
                    await cause.there(there, by_websocket)
        else:
            await cause.here(world, by_mqtt)
            if cause.kind != "ca":
                await cause.here(world, by_websocket)
        for who in (by_mqtt, by_websocket):
            await wait(lambda who=who: clients[who].lost is not None)
        assert clients[bystander].lost is None
        await _still_works(clients[bystander], bystander)
    refused = {entry["identity"]: entry["reason"] for entry in await world.refusals()}
    assert refused == {by_mqtt: cause.reason, by_websocket: cause.reason}
    with device(world, by_mqtt, **shown[by_mqtt]) as again:
        await wait(lambda: again.code is not None)
        assert again.code == 5


async def _still_works(client: Device, who: str) -> None:
    client.client.publish(f"{_path(who).lstrip('/')}/messages/events/", b"still here", qos=1)
    await wait(lambda: client.acknowledged)


# HTTPS requests that are held ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_a_held_question_of_a_gateway_ends_with_401(world: World, *, from_elsewhere: bool) -> None:
    await world.gateway("g1")
    path = "/devices/g1/modules/%24edgeHub/scopeVersion"
    version = (await world.ask("GET", path, token=world.token("g1/$edgeHub"))).json["version"]
    asked = f"{path}?after={version}&wait_seconds=30"
    waiting = asyncio.create_task(world.ask("GET", asked, token=world.token("g1/$edgeHub")))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    if from_elsewhere:
        async with elsewhere(world) as there:
            await there.identities.put_device(DeviceDraft("g1", status=Status.DISABLED), "*")
    else:
        await _put(world, "/devices/g1", status="disabled")
    answer = await asyncio.wait_for(waiting, 20)
    assert (answer.status, answer.error) == (401, "IotHubUnauthorizedAccess")
    assert (await world.refusals())[0]["reason"] == "device-disabled"


async def test_a_held_question_of_a_service_ends_with_its_policys_key(world: World) -> None:
    token = world.service_token("service")
    path = "/edgetrust/events?after=latest&wait_seconds=30"
    waiting = asyncio.create_task(world.ask("GET", path, token=token, version=None))
    other = asyncio.create_task(world.ask("GET", path, version=None))
    await asyncio.sleep(0.1)
    await world.hub.policies.roll_keys("service", primary=True, secondary=True)
    answer = await asyncio.wait_for(waiting, 20)
    assert answer.status == 401
    assert not other.done()
    other.cancel()


async def test_an_upload_under_way_ends(world: World) -> None:
    """The address was good when the file began to arrive."""
    await world.create("d1")
    place = (await world.ask("POST", "/devices/d1/files", {"blobName": "b"}, token=world.token("d1"))).json
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        await go_on.wait()
        yield b"x"

    url = f"{world.base}/device-files/d1/b{place['sasToken']}"
    putting = asyncio.create_task(_put_file(world, url, slowly()))
    await asyncio.sleep(0.2)
    await _put(world, "/devices/d1", status="disabled")
    go_on.set()
    assert await asyncio.wait_for(putting, 60) == 403
    assert [file for file in (world.directory / "uploads").rglob("*") if file.is_file()] == []


async def _put_file(world: World, url: str, chunks: AsyncIterator[bytes]) -> int:
    from yarl import URL

    async with world.session.put(URL(url, encoded=True), data=chunks) as answer:
        return answer.status
