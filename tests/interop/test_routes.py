"""Routes of a gateway, with the unmodified azure-iot-device as leaf device and as modules of the gateway."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from support.azure import SdkError
from support.edge_world import Gateway
from support.processes import GATEWAY, Contoso, Device, wait_for
from support.surface import PYTHON_DEVICE, surface

EDGE = "EdgeGateway"
HUB_MODULE = ("twins", EDGE, "modules", "$edgeHub")


def deploy(contoso: Contoso, gateway: Gateway, **desired: Any) -> dict[str, Any]:
    """Set what is desired of `$edgeHub`, and wait until the gateway has reported about it. What it reported."""
    body = {"properties": {"desired": {"routes": None, "storeAndForwardConfiguration": None}}}
    contoso.rest("PATCH", *HUB_MODULE, body=body)
    twin = contoso.rest("PATCH", *HUB_MODULE, body={"properties": {"desired": desired}})
    version = twin["properties"]["desired"]["$version"]
    told: dict[str, Any] = {}

    def is_told() -> bool:
        told.update(contoso.rest("GET", *HUB_MODULE)["properties"]["reported"])
        return bool(told.get("lastDesiredVersion") == version)

    wait_for(is_told, "the gateway reports about its routes")
    return told


def module(contoso: Contoso, name: str, **options: Any) -> Device:
    key = contoso.register(EDGE, name)["authentication"]["symmetricKey"]["primaryKey"]
    return contoso.with_key(EDGE, key, module=name, gateway=GATEWAY, **options)


def leaf(contoso: Contoso, name: str) -> Device:
    made = contoso.register(name, **contoso.scope())
    return contoso.with_key(name, made["authentication"]["symmetricKey"]["primaryKey"], gateway=GATEWAY)


def into(name: str, entry: str) -> str:
    return f'BrokeredEndpoint("/modules/{name}/inputs/{entry}")'


@surface(PYTHON_DEVICE, "scope", "outputs")
def test_from_leaf_to_module_to_hub_while_the_hub_is_away(own_contoso: Contoso) -> None:
    """The path of most deployments: a filter module sees what leaves send, and only what it lets through goes up. All
    of it works without a hub, and what waits for a module waits through a crash of the gateway.
    """
    contoso = own_contoso
    gateway = contoso.start_gateway()
    told = deploy(
        contoso,
        gateway,
        routes={
            "toFilter": f"FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO {into('filter', 'in1')}",
            "up": {"route": "FROM /messages/modules/filter/outputs/high INTO $upstream", "priority": 1},
            "next": f"FROM /messages/modules/filter/outputs/* WHERE $body.t > 40 INTO {into('alarm', 'hot')}",
        },
        storeAndForwardConfiguration={"timeToLiveSecs": 7200},
    )
    assert told["lastDesiredStatus"] == {"code": 200, "description": ""}
    sensor, filtering, alarm = leaf(contoso, "sensor"), module(contoso, "filter"), module(contoso, "alarm")
    for each in (sensor, filtering, alarm):
        each.connect()
    filtering.listen()
    sensor.send('{"t": 30}', properties={"level": "low"}, system={"message_id": "m1"})
    (got,) = filtering.wait_for("message")
    assert (got["input"], got["body"]) == ("in1", '{"t": 30}')
    assert got["system"]["message_id"] == "m1"
    assert got["properties"] == {"level": "low", "$.cdid": "sensor"}

    contoso.world.hub.stop(signal.SIGKILL)
    filtering.disconnect()
    for number in range(3):
        sensor.send(f'{{"t": {41 + number}}}')
    gateway.stop(signal.SIGKILL)
    gateway.start()
    contoso.proxy.routes[GATEWAY, 8883] = gateway.port
    filtering.connect()
    bodies = [one["body"] for one in filtering.wait_for("message", 4)]
    assert list(dict.fromkeys(bodies)) == ['{"t": 30}', '{"t": 41}', '{"t": 42}', '{"t": 43}']
    alarm.connect()
    alarm.listen()
    for body in ('{"t": 50}', '{"t": 20}'):
        filtering.begin("send_output", output="high", body=body).result(60)
    (hot,) = alarm.wait_for("message")
    assert (hot["input"], hot["body"]) == ("hot", '{"t": 50}')
    assert hot["properties"]["$.cmid"] == "filter"

    contoso.start_hub()
    wait_for(lambda: contoso.bodies(EDGE) == ['{"t": 50}', '{"t": 20}'], "what the filter let through is at the hub")
    assert contoso.bodies("sensor") == []
    assert contoso.events(EDGE)[0]["module"] == "filter"
    for each in (sensor, filtering, alarm):
        each.shutdown()
    wait_for(lambda: gateway.state()["queue"]["messages"] == 0, "nothing waits any more")


def test_a_route_that_is_wrong_is_reported_with_its_fix_and_the_others_work(contoso: Contoso, gateway: Gateway) -> None:
    good = {"leaves": "FROM /messages/events/* INTO $upstream"}
    deploy(contoso, gateway, routes=good)
    wrong = {"modules": "FROM /messages/module/* INTO $upstream", "leaves": "FROM /* INTO upstream"}
    told = deploy(contoso, gateway, routes=wrong)
    assert told["lastDesiredStatus"]["code"] == 400
    assert [(one["place"], one["fix"]) for one in told["problems"]] == [
        ("routes.modules", "did you mean /messages/modules/*?"),
        ("routes.leaves", "did you mean $upstream?"),
    ]
    deploy(contoso, gateway, routes=good)
    told = deploy(contoso, gateway, routes={**good, "modules": "FROM /messages/module/* INTO $upstream"})
    assert told["lastDesiredStatus"]["code"] == 400
    device = leaf(contoso, "routed-leaf")
    device.connect()
    device.send("21")
    device.shutdown()
    wait_for(lambda: contoso.bodies("routed-leaf") == ["21"], "the route that can be used is in force")
    deploy(contoso, gateway, routes=None)


@surface(PYTHON_DEVICE, "scope", "methods")
def test_a_module_calls_methods_of_devices_and_modules_while_the_hub_is_away(own_contoso: Contoso) -> None:
    """`invoke_method` of the SDK asks its gateway by HTTPS; nothing of it needs the hub."""
    contoso = own_contoso
    trust = str(contoso.start_gateway().trust)
    by_name = {"kind": "HTTP", "port": contoso.proxy.port}  # for HTTPS the SDK resolves names before it asks SOCKS
    sensor, asking = leaf(contoso, "sensor"), module(contoso, "asking", proxy=by_name, edge=trust)
    answering = module(contoso, "answering")
    for each in (sensor, asking, answering):
        each.connect()
    for each in (sensor, answering):
        each.answer(status=207)
    contoso.world.hub.stop(signal.SIGKILL)
    called = asking.begin("invoke", method="reset", payload={"a": 1}, device="sensor").result(60)
    assert called == {"status": 207, "payload": {"method": "reset", "payload": {"a": 1}}}
    called = asking.begin("invoke", method="show", payload=None, device=EDGE, module="answering").result(60)
    assert called == {"status": 207, "payload": {"method": "show", "payload": None}}
    with pytest.raises(SdkError, match="ServiceError"):
        asking.begin("invoke", method="reset", payload=1, device="absent").result(60)
    for each in (sensor, asking, answering):
        each.shutdown()
