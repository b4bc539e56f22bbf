"""The registry over HTTPS, as azure-iot-hub uses it: statuses, ETags, bodies, errors; on SQLite and PostgreSQL."""

from __future__ import annotations

import base64
from urllib.parse import quote

from support.hub import World

KEY = base64.b64encode(b"k" * 32).decode()


def sas(primary: str = "", secondary: str = "") -> dict[str, object]:
    return {"type": "sas", "symmetricKey": {"primaryKey": primary, "secondaryKey": secondary}}


async def test_life_of_a_device(each_world: World) -> None:
    ask = each_world.ask
    body = {"deviceId": "d1", "status": "enabled", "authentication": sas(), "capabilities": {"iotEdge": False}}
    made = await ask("PUT", "/devices/d1", body)
    assert made.status == 200
    device = made.json
    assert made.etag == f'"{device["etag"]}"'
    assert made.headers["Content-Type"] == "application/json; charset=utf-8"
    keys = device["authentication"]["symmetricKey"]
    assert len(base64.b64decode(keys["primaryKey"])) >= 16
    assert keys["primaryKey"] != keys["secondaryKey"]
    assert device["status"] == "enabled"
    assert device["connectionState"] == "Disconnected"
    assert device["lastActivityTime"] == "0001-01-01T00:00:00"
    assert len(device["generationId"]) == 18

    got = await ask("GET", "/devices/d1")
    assert (got.status, got.json, got.etag) == (200, device, made.etag)

    again = await ask("PUT", "/devices/d1", body)
    assert (again.status, again.error) == (409, "DeviceAlreadyExists")

    changed = await ask(
        "PUT", "/devices/d1", {**body, "status": "disabled", "statusReason": "lost"}, If_Match=made.etag
    )
    assert changed.status == 200
    assert (changed.json["status"], changed.json["statusReason"]) == ("disabled", "lost")
    assert changed.json["authentication"] == device["authentication"]  # empty keys keep what is there
    assert changed.etag != made.etag

    stale = await ask("PUT", "/devices/d1", body, If_Match=made.etag)
    assert (stale.status, stale.error) == (412, "PreconditionFailed")
    stale = await ask("DELETE", "/devices/d1", If_Match=made.etag)
    assert (stale.status, stale.error) == (412, "PreconditionFailed")

    gone = await ask("DELETE", "/devices/d1", If_Match='"*"')
    assert (gone.status, gone.body) == (204, b"")
    for method in ("GET", "DELETE"):
        missing = await ask(method, "/devices/d1", If_Match='"*"')
        assert (missing.status, missing.error) == (404, "DeviceNotFound")
    missing = await ask("PUT", "/devices/d1", body, If_Match="*")
    assert (missing.status, missing.error) == (404, "DeviceNotFound")


async def test_every_form_of_if_match(world: World) -> None:
    etag = (await world.create("d1"))["etag"]
    for form in ('"*"', "*", "{0}", '"{0}"', 'W/"{0}"'):
        answer = await world.ask("PUT", "/devices/d1", {"deviceId": "d1"}, If_Match=form.format(etag))
        assert answer.status == 200, form
        etag = answer.json["etag"]
    for form in ("", '""', "x", '"x"', "**"):
        answer = await world.ask("PUT", "/devices/d1", {"deviceId": "d1"}, If_Match=form)
        assert (answer.status, answer.error) == (412, "PreconditionFailed"), form


async def test_recreating_makes_another(each_world: World) -> None:
    first = await each_world.create("d1")
    await each_world.ask("DELETE", "/devices/d1")
    second = await each_world.create("d1")
    assert first["generationId"] != second["generationId"]
    assert first["etag"] != second["etag"]


async def test_kinds_of_authentication(each_world: World) -> None:
    sha1, sha256 = "AB" * 20, "cd" * 32
    prints = {"primaryThumbprint": sha1, "secondaryThumbprint": sha256}
    made = await each_world.create("t", authentication={"type": "selfSigned", "x509Thumbprint": prints})
    assert made["authentication"] == {
        "type": "selfSigned",
        "symmetricKey": {"primaryKey": None, "secondaryKey": None},
        "x509Thumbprint": {"primaryThumbprint": sha1, "secondaryThumbprint": sha256.upper()},
    }
    one = {"primaryThumbprint": sha1, "secondaryThumbprint": ""}
    made = await each_world.create("t2", authentication={"x509Thumbprint": one})
    assert made["authentication"]["type"] == "selfSigned"
    assert made["authentication"]["x509Thumbprint"]["secondaryThumbprint"] is None
    made = await each_world.create("c", authentication={"type": "certificateAuthority"})
    assert made["authentication"]["type"] == "certificateAuthority"
    made = await each_world.create("k", authentication=sas(KEY, KEY))
    assert made["authentication"]["symmetricKey"] == {"primaryKey": KEY, "secondaryKey": KEY}
    made = await each_world.create("n", authentication={"type": "none"})
    assert made["authentication"]["type"] == "none"


WRONG_DEVICES: list[tuple[dict[str, object], str | None]] = [
    ({"authentication": {"type": "selfSigned"}}, "ArgumentInvalid"),
    ({"authentication": {"x509Thumbprint": {"primaryThumbprint": "12"}}}, "ArgumentInvalid"),
    ({"authentication": sas("not base64!")}, "ArgumentInvalid"),
    ({"authentication": sas(base64.b64encode(b"short").decode())}, "ArgumentInvalid"),
    ({"authentication": {"type": "biometric"}}, "ArgumentInvalid"),
    (
        {"authentication": {"type": "certificateAuthority"}, "capabilities": {"iotEdge": True}},
        "ArgumentInvalid",
    ),
    ({"status": "broken"}, "ArgumentInvalid"),
    ({"parentScopes": ["ms-azure-iot-edge://nobody-1"]}, "InvalidDeviceScope"),
    ({"deviceScope": "nonsense"}, "InvalidDeviceScope"),
    ({"parentScopes": "text"}, "ArgumentInvalid"),
    ({"deviceId": "d2"}, None),
    ({"deviceId": "d/1"}, "ArgumentInvalid"),
]


async def test_what_cannot_be(world: World) -> None:
    for fields, error in WRONG_DEVICES:
        answer = await world.ask("PUT", "/devices/d1", {"deviceId": "d1", **fields})
        assert (answer.status, answer.error) == (400, error or "GenericBadRequest"), fields
        assert (await world.ask("GET", "/devices/d1")).status == 404


async def test_an_edge_device_has_its_system_modules(each_world: World) -> None:
    made = await each_world.gateway("gw")
    assert made["deviceScope"] == f"ms-azure-iot-edge://gw-{made['generationId']}"
    assert made["parentScopes"] == []
    modules = (await each_world.ask("GET", "/devices/gw/modules")).json
    assert [module["moduleId"] for module in modules] == ["$edgeAgent", "$edgeHub"]
    child = await each_world.create("leaf", parentScopes=[made["deviceScope"]])
    assert (child["deviceScope"], child["parentScopes"]) == (made["deviceScope"], [made["deviceScope"]])
    refused = await each_world.ask("DELETE", "/devices/gw/modules/$edgeHub", If_Match="*")
    assert (refused.status, refused.error) == (401, "SystemModuleModifyUnauthorizedAccess")


async def test_life_of_a_module(each_world: World) -> None:
    ask = each_world.ask
    await each_world.create("d1")
    body = {"moduleId": "m1", "managedBy": "IotEdge", "deviceId": "d1", "authentication": sas()}
    made = await ask("PUT", "/devices/d1/modules/m1", body)
    assert made.status == 200
    assert made.json["managedBy"] == "IotEdge"
    assert made.etag == f'"{made.json["etag"]}"'
    again = await ask("PUT", "/devices/d1/modules/m1", body)
    assert (again.status, again.error) == (409, "ModuleAlreadyExistsOnDevice")
    changed = await ask("PUT", "/devices/d1/modules/m1", {**body, "authentication": sas(KEY, KEY)}, If_Match=made.etag)
    assert changed.json["authentication"]["symmetricKey"]["primaryKey"] == KEY
    assert changed.json["generationId"] == made.json["generationId"]
    stale = await ask("PUT", "/devices/d1/modules/m1", body, If_Match=made.etag)
    assert (stale.status, stale.error) == (412, "PreconditionFailed")
    assert (await ask("GET", "/devices/d1/modules/m1")).json == changed.json
    assert (await ask("GET", "/devices/d1/modules")).json == [changed.json]
    assert (await ask("DELETE", "/devices/d1/modules/m1", If_Match=changed.etag)).status == 204
    missing = await ask("GET", "/devices/d1/modules/m1")
    assert (missing.status, missing.error) == (404, "ModuleNotFound")
    missing = await ask("GET", "/devices/nobody/modules")
    assert (missing.status, missing.error) == (404, "DeviceNotFound")
    missing = await ask("PUT", "/devices/nobody/modules/m", {"moduleId": "m", "deviceId": "nobody"})
    assert (missing.status, missing.error) == (404, "DeviceNotFound")
    for wrong in ({**body, "moduleId": "m2"}, {**body, "deviceId": "d2"}):
        assert (await ask("PUT", "/devices/d1/modules/m1", wrong)).status == 400


async def test_deleting_a_device_deletes_its_modules(each_world: World) -> None:
    await each_world.create("d1")
    await each_world.create_module("d1", "m1")
    await each_world.ask("DELETE", "/devices/d1")
    await each_world.create("d1")
    assert (await each_world.ask("GET", "/devices/d1/modules")).json == []


async def test_lists_and_statistics(each_world: World) -> None:
    for name in ("b", "a", "C"):
        await each_world.create(name)
    await each_world.create("off", status="disabled")
    assert [d["deviceId"] for d in (await each_world.ask("GET", "/devices")).json] == ["C", "a", "b", "off"]
    assert [d["deviceId"] for d in (await each_world.ask("GET", "/devices/?top=2")).json] == ["C", "a"]
    assert len((await each_world.ask("GET", "/devices?top=100000")).json) == 4
    assert len((await each_world.ask("GET", "/devices?top=0")).json) == 1
    wrong = await each_world.ask("GET", "/devices?top=-1")
    assert (wrong.status, wrong.error) == (400, "GenericBadRequest")
    numbers = (await each_world.ask("GET", "/statistics/devices")).json
    assert numbers == {"totalDeviceCount": 4, "enabledDeviceCount": 3, "disabledDeviceCount": 1}
    assert (await each_world.ask("GET", "/statistics/service")).json == {"connectedDeviceCount": 0}


async def test_odd_names_are_decoded_once(each_world: World) -> None:
    for device in ("a%20", "100%", "a+b", "a#b", "a?b", "$d", "(x)='y'*!,@:.-_", "x" * 128):
        made = await each_world.create(device)
        assert made["deviceId"] == device
        path = f"/devices/{quote(device, safe='')}"
        assert (await each_world.ask("GET", path)).json["deviceId"] == device
        assert (await each_world.ask("DELETE", path, If_Match="*")).status == 204


async def test_names_that_name_nothing(each_world: World) -> None:
    for path in ("a%2Fb", "a%00b", "x" * 129, "%C3%A9", "a%20b", "d/modules/m%00", "d/modules/m%2F"):
        for method in ("GET", "PUT", "DELETE"):
            body = {"deviceId": "a", "moduleId": "m"} if method == "PUT" else None
            answer = await each_world.ask(method, f"/devices/{path}", body)
            assert (answer.status, answer.error) == (400, "ArgumentInvalid"), (method, path)


async def test_the_hub_remembers_across_a_restart(each_world: World, hub_pki: object) -> None:
    from support.hub import running

    made = await each_world.create("d1")
    await each_world.hub.stop()
    async with running(each_world.directory, hub_pki, each_world.settings.database) as second:  # type: ignore[arg-type]
        answer = await second.ask("GET", "/devices/d1")
        assert answer.json == made


async def test_texts_that_a_store_cannot_hold(each_world: World) -> None:
    for reason in ("a\0b", "\ud800"):
        answer = await each_world.ask("PUT", "/devices/d1", {"deviceId": "d1", "statusReason": reason})
        assert (answer.status, answer.error) in ((400, "ArgumentInvalid"), (400, "IotHubFormatError")), answer
    await each_world.create("d1", statusReason="ünï©ødé 🦀")
    answer = await each_world.ask(
        "PUT", "/devices/d1/modules/m", {"deviceId": "d1", "moduleId": "m", "managedBy": "\0"}
    )
    assert (answer.status, answer.error) == (400, "ArgumentInvalid")
