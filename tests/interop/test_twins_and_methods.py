"""Twins and direct methods: azure-iot-device on one side, azure-iot-hub on the other."""

from __future__ import annotations

from typing import Any

import pytest

from support.azure import Sdk, SdkError
from support.processes import HUB, MQTT, Contoso, Device, wait_for
from support.surface import PYTHON_DEVICE, PYTHON_SERVICE, surface


def connected(contoso: Contoso, device: str, module: str | None = None, **more: Any) -> Device:
    """A device, or a module of it, that is registered and connected."""
    made = contoso.register(device)
    if module is not None:
        made = contoso.register(device, module)
    key = str(made["authentication"]["symmetricKey"]["primaryKey"])
    client = contoso.with_key(device, key, **({} if module is None else {"module": module}), **more)
    client.connect()
    return client


def fails(service: Sdk, method: str, *arguments: object, status: int, phrase: str) -> None:
    with pytest.raises(SdkError, match=phrase) as raised:
        service.call(method, *arguments)
    assert (raised.value.kind, raised.value.status) == ("HttpOperationError", status)


def reboot(service: Sdk, device: str, **more: Any) -> Any:
    """Call a method; connect and response time-outs may be given."""
    return service.call("invoke_device_method", device, {"method_name": "reboot", "payload": {"delay": 5}, **more})


def subscribed(contoso: Contoso) -> int:
    return len(contoso.sdk.news("paho", "subscribe"))


# Twins --------------------------------------------------------------------------------------------------------------


@surface(PYTHON_SERVICE, "service-twins")
@surface(PYTHON_DEVICE, "twins")
def test_a_twin_is_read_reported_and_told_of_changes(contoso: Contoso, service: Sdk) -> None:
    client = connected(contoso, "t-twin")
    assert client.twin() == {"desired": {"$version": 1}, "reported": {"$version": 1}}
    client.watch()
    etag = service.call("get_twin", "t-twin")["etag"]
    changed = service.call(
        "update_twin", "t-twin", {"tags": {"site": "north"}, "properties": {"desired": {"rate": 5}}}, etag
    )
    assert (changed["tags"], changed["properties"]["desired"]["rate"]) == ({"site": "north"}, 5)
    assert client.wait_for("desired")[0]["patch"] == {"rate": 5, "$version": 2}
    client.report({"temperature": 21.5, "gone": None})
    assert client.twin()["reported"] == {"temperature": 21.5, "$version": 2}
    seen = service.call("get_twin", "t-twin")
    assert seen["properties"]["reported"]["temperature"] == 21.5
    assert (seen["device_id"], seen["version"], seen["authentication_type"]) == ("t-twin", 3, "sas")
    wait_for(lambda: service.call("get_twin", "t-twin")["connection_state"] == "Connected", "it is seen connected")
    replaced = service.call("replace_twin", "t-twin", {"properties": {"desired": {"mode": "eco"}}})
    assert replaced["tags"] == {}
    assert client.wait_for("desired", 2)[1]["patch"] == {"rate": None, "mode": "eco", "$version": 3}
    client.shutdown()


@surface(PYTHON_SERVICE, "service-twins")
@surface(PYTHON_DEVICE, "twins")
def test_a_module_has_a_twin_of_its_own(contoso: Contoso, service: Sdk) -> None:
    client = connected(contoso, "t-module", "m1")
    client.watch()
    service.call("update_module_twin", "t-module", "m1", {"properties": {"desired": {"a": 1}}}, "*")
    assert client.wait_for("desired")[0]["patch"] == {"a": 1, "$version": 2}
    client.report({"b": 2})
    assert service.call("get_module_twin", "t-module", "m1")["properties"]["reported"]["b"] == 2
    assert "a" not in service.call("get_twin", "t-module")["properties"]["desired"]
    client.shutdown()


@surface(PYTHON_SERVICE, "service-twins", "errors")
def test_an_old_etag_and_an_old_version_are_refused(contoso: Contoso, service: Sdk) -> None:
    client = connected(contoso, "t-conflict")
    etag = service.call("get_twin", "t-conflict")["etag"]
    service.call("update_twin", "t-conflict", {"tags": {"a": 1}}, etag)
    fails(service, "update_twin", "t-conflict", {"tags": {"a": 2}}, etag, status=412, phrase="Precondition Failed")
    fails(service, "get_twin", "t-nobody", status=404, phrase="Not Found")
    client.report({"a": 1, "$version": 1})
    for refused in ({"a": 2, "$version": 1}, {"not.a.name": 2}):
        with pytest.raises(SdkError, match="ServiceError"):
            client.report(refused)
    assert client.twin()["reported"] == {"a": 1, "$version": 2}
    client.shutdown()


@surface(PYTHON_DEVICE, "twins", "sessions")
def test_after_a_cut_changes_are_told_without_another_subscribe(contoso: Contoso, service: Sdk) -> None:
    client = connected(contoso, "t-cut")
    client.watch()
    service.call("update_twin", "t-cut", {"properties": {"desired": {"a": 1}}}, "*")
    client.wait_for("desired")
    packets = subscribed(contoso)
    contoso.proxy.cut()
    client.wait_for("connected", 2)
    service.call("update_twin", "t-cut", {"properties": {"desired": {"a": 2}}}, "*")
    assert client.wait_for("desired", 2)[1]["patch"]["$version"] == 3
    client.report({"back": True})
    assert subscribed(contoso) == packets + 1  # only to the answers, for the report
    client.shutdown()


@surface(PYTHON_DEVICE, "twins", "sessions")
def test_what_changed_while_it_was_away_is_told_when_it_is_back(contoso: Contoso, service: Sdk) -> None:
    """The SDK asks for its twin after each reconnect, without ever having subscribed to the answers."""
    client = connected(contoso, "t-away")
    client.watch()
    service.call("update_twin", "t-away", {"properties": {"desired": {"a": 1}}}, "*")
    client.wait_for("desired")
    client.disconnect()
    service.call("update_twin", "t-away", {"properties": {"desired": {"a": 2}}}, "*")
    client.connect()
    assert client.wait_for("desired", 2)[1]["patch"] == {"a": 2, "$version": 3}
    client.shutdown()


def test_a_model_is_named_when_it_connects(contoso: Contoso) -> None:
    client = connected(contoso, "t-model", product_info="dtmi:com:example:Thermostat;1")
    twin: dict[str, Any] = {}
    wait_for(lambda: twin.update(contoso.rest("GET", "twins", "t-model")) or twin["modelId"], "the model is kept")
    assert twin["modelId"] == "dtmi:com:example:Thermostat;1"
    assert twin["productInfo"].startswith("azure-iot-device-iothub-py/2.14.0")
    client.shutdown()


# Methods ------------------------------------------------------------------------------------------------------------


@surface(PYTHON_SERVICE, "service-methods")
@surface(PYTHON_DEVICE, "methods")
def test_a_method_is_answered(contoso: Contoso, service: Sdk) -> None:
    client = connected(contoso, "t-method")
    client.answer(status=207)
    done = reboot(service, "t-method", response_timeout_in_seconds=30, connect_timeout_in_seconds=30)
    assert done == {"status": 207, "payload": {"method": "reboot", "payload": {"delay": 5}}}
    assert client.news("method") == [
        {"client": client.name, "event": "method", "method": "reboot", "payload": {"delay": 5}}
    ]
    client.shutdown()


@surface(PYTHON_SERVICE, "service-methods")
@surface(PYTHON_DEVICE, "methods")
def test_a_method_of_a_module(contoso: Contoso, service: Sdk) -> None:
    client = connected(contoso, "t-method-m", "m1")
    client.answer()
    done = service.call("invoke_device_module_method", "t-method-m", "m1", {"method_name": "go", "payload": None})
    assert done["status"] == 200
    fails(
        *(service, "invoke_device_method", "t-method-m", {"method_name": "go"}), status=404, phrase="Not Found"
    )  # its device is not there
    client.shutdown()


@surface(PYTHON_DEVICE, "methods", "sessions")
def test_after_a_cut_methods_are_answered_without_another_subscribe(contoso: Contoso, service: Sdk) -> None:
    client = connected(contoso, "t-method-cut")
    client.answer()
    reboot(service, "t-method-cut")
    packets = subscribed(contoso)
    contoso.proxy.cut()
    assert reboot(service, "t-method-cut", connect_timeout_in_seconds=30)["status"] == 200
    assert subscribed(contoso) == packets
    client.shutdown()


@surface(PYTHON_DEVICE, "methods", "sessions")
def test_an_answer_after_the_token_was_renewed(contoso: Contoso, service: Sdk) -> None:
    """The connection that was called has gone when the answer comes; the device is the same."""
    client = connected(contoso, "t-method-renew", sastoken_ttl=122)
    client.answer(pause=4)
    dialled = contoso.proxy.asked_for((HUB, MQTT))
    assert reboot(service, "t-method-renew")["status"] == 200
    assert contoso.proxy.asked_for((HUB, MQTT)) > dialled
    client.shutdown()


@surface(PYTHON_SERVICE, "service-methods", "errors")
def test_who_is_away_and_who_does_not_answer(contoso: Contoso, service: Sdk) -> None:
    client = connected(contoso, "t-method-off")
    fails(service, "invoke_device_method", "t-method-off", {"method_name": "m"}, status=404, phrase="Not Found")
    client.answer(pause=8)
    fails(
        *(service, "invoke_device_method", "t-method-off", {"method_name": "m", "response_timeout_in_seconds": 5}),
        status=504,
        phrase="Gateway Timeout",
    )
    client.send("still here")
    client.shutdown()
