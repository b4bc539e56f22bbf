"""Shared access policies that change while the hub runs: what counts, for whom, and at once."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from edgetrust.protocol.sas import resource_text, sign
from support.hub import NAME, World, running
from support.mosquitto import device, wait

RIGHTS = {"rights": ["RegistryRead"]}


def by_policy(world: World, policy: dict[str, Any], *resource: str, key: str = "primaryKey") -> str:
    secret = base64.b64decode(policy[key])
    return sign(secret, resource_text(NAME, *resource), int(world.clock.now().timestamp()) + 3600, policy["name"])


async def test_the_life_of_a_policy(world: World) -> None:
    made = await world.ask("PUT", "/edgetrust/policies/reader", RIGHTS)
    assert (made.status, made.json["rights"]) == (201, ["RegistryRead"])
    again = await world.ask("PUT", "/edgetrust/policies/reader", RIGHTS)
    assert (again.status, again.error) == (409, "GenericConflict")
    token = by_policy(world, made.json)
    assert (await world.ask("GET", "/devices", token=token)).status == 200
    assert (await world.ask("PUT", "/devices/d1", {"deviceId": "d1"}, token=token)).status == 401

    wider = await world.ask("PUT", "/edgetrust/policies/reader", {"rights": ["RegistryWrite"]}, If_Match='"*"')
    assert wider.json == {**made.json, "rights": ["RegistryWrite"]}
    assert (await world.ask("GET", "/devices", token=token)).status == 401
    assert (await world.ask("PUT", "/devices/d1", {"deviceId": "d1"}, token=token)).status == 200

    rolled = await world.ask("POST", "/edgetrust/policies/reader/rollKey", {"key": "primary"})
    assert rolled.json["secondaryKey"] == made.json["secondaryKey"]
    assert (await world.ask("DELETE", "/devices/d1", token=token)).status == 401
    other = by_policy(world, made.json, key="secondaryKey")
    assert (await world.ask("DELETE", "/devices/d1", token=other)).status == 204
    swapped = await world.ask("POST", "/edgetrust/policies/reader/rollKey", {"key": "swap"})
    assert swapped.json["primaryKey"] == made.json["secondaryKey"]

    listed = (await world.ask("GET", "/edgetrust/policies")).json["policies"]
    assert {"name": "reader", "rights": ["RegistryWrite"]} in listed  # and no key
    assert (await world.ask("GET", "/edgetrust/policies/reader")).json == swapped.json
    assert (await world.ask("DELETE", "/edgetrust/policies/reader")).status == 204
    assert (await world.ask("PUT", "/devices/d1", {"deviceId": "d1"}, token=other)).status == 401
    for method, path, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("PUT", "", RIGHTS),
        ("POST", "/rollKey", {"key": "both"}),
    ):
        answer = await world.ask(method, f"/edgetrust/policies/reader{path}", body, If_Match="*")
        assert (answer.status, answer.error) == (404, "GenericNotFound"), method


async def test_only_who_has_every_right_may(world: World) -> None:
    most = {"rights": ["RegistryRead", "RegistryWrite", "ServiceConnect"]}
    made = (await world.ask("PUT", "/edgetrust/policies/most", most)).json
    for token in (by_policy(world, made), world.service_token("registryReadWrite"), None):
        for method, path, body in (
            ("GET", "", None),
            ("GET", "/most", None),
            ("PUT", "/mine", {"rights": ["DeviceConnect"]}),
            ("DELETE", "/most", None),
            ("POST", "/iothubowner/rollKey", {"key": "both"}),
        ):
            answer = await world.ask(method, f"/edgetrust/policies{path}", body, token=token)
            assert (answer.status, answer.error) == (401, "IotHubUnauthorizedAccess"), (method, path)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/p", b""),
        ("/p", {"rights": []}),
        ("/p", {"rights": ["Everything"]}),
        ("/p", {"rights": "RegistryRead"}),
        ("/a%20b", RIGHTS),
        ("/%00", RIGHTS),
        ("/" + "p" * 65, RIGHTS),
    ],
)
async def test_what_is_no_policy(world: World, path: str, body: Any) -> None:
    answer = await world.ask("PUT", f"/edgetrust/policies{path}", body)
    assert answer.status == 400, answer
    assert (await world.ask("POST", "/edgetrust/policies/service/rollKey", {"key": "third"})).status == 400


async def test_policies_survive_a_restart(world: World, tmp_path: Any, hub_pki: Any) -> None:
    made = (await world.ask("PUT", "/edgetrust/policies/reader", RIGHTS)).json
    await world.hub.stop()
    async with running(tmp_path, hub_pki, clock=world.clock) as again:
        assert (await again.ask("GET", "/devices", token=by_policy(again, made))).status == 200
        assert (await again.ask("GET", "/edgetrust/policies/reader")).json == made


async def test_a_policy_connects_any_device_until_its_key_is_gone(world: World) -> None:
    await world.create("d1")
    await world.create("d2")
    made = (await world.ask("PUT", "/edgetrust/policies/bridge", {"rights": ["DeviceConnect"]})).json
    by_its_own = world.token("d2")
    with (
        device(world, "d1", password=by_policy(world, made, "d1")) as bridged,
        device(world, "d2", password=by_its_own) as own,
    ):
        await wait(lambda: bridged.code == 0 and own.code == 0)
        await world.ask("POST", "/edgetrust/policies/bridge/rollKey", {"key": "secondary"})
        assert bridged.lost is None
        await world.ask("POST", "/edgetrust/policies/bridge/rollKey", {"key": "both"})
        await wait(lambda: bridged.lost is not None)
        assert own.lost is None
    with device(world, "d1", password=by_policy(world, made, "d1")) as refused:
        await wait(lambda: refused.code is not None)
        assert refused.code == 5
    reader = (await world.ask("PUT", "/edgetrust/policies/reader", RIGHTS)).json
    with device(world, "d1", password=by_policy(world, reader, "d1")) as refused:
        await wait(lambda: refused.code is not None)
        assert refused.code == 5


async def test_a_policy_speaks_for_any_device_over_https(world: World) -> None:
    await world.create("d1")
    made = (await world.ask("PUT", "/edgetrust/policies/bridge", {"rights": ["DeviceConnect"]})).json
    reader = (await world.ask("PUT", "/edgetrust/policies/reader", RIGHTS)).json
    for resource in (("d1",), ()):  # for one device, or for the hub as a whole
        token = by_policy(world, made, *resource)
        sent = await world.ask("POST", "/devices/d1/messages/events", b"1", token=token)
        assert (sent.status, sent.body) == (204, b""), resource
        refused = await world.ask(
            "POST", "/devices/d1/messages/events", b"1", token=by_policy(world, reader, *resource)
        )
        assert refused.status == 401, resource
        assert (await world.ask("GET", "/devices/d1", token=token)).status == 401  # it may connect, and no more
    assert [event["bodyText"] for event in await world.events()] == ["1", "1"]
    nobody = await world.ask("POST", "/devices/nobody/messages/events", b"1", token=by_policy(world, made))
    assert nobody.status in (401, 404)
