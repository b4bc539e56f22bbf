"""Twins and direct methods on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., Any]


def twin(**more: Any) -> dict[str, Any]:
    return {
        "deviceId": "d1",
        "etag": "AAAAAAAAAAI=",
        "version": 3,
        "connectionState": "Connected",
        "status": "enabled",
        "modelId": "dtmi:acme:pump;1",
        "productInfo": "",
        "tags": {"site": "n\u00f6rd"},
        "properties": {
            "desired": {"rate": 5, "$version": 2, "$metadata": {"$lastUpdated": "2026"}},
            "reported": {"evil": "\x1b[2J", "$version": 4, "$metadata": {}},
        },
        **more,
    }


@pytest.fixture
def call(edgetrust: Call, hub: Any) -> Call:
    return lambda *arguments: edgetrust(*arguments, "--dir", hub.directory)


@pytest.mark.parametrize(
    ("words", "path", "more"),
    [
        (("device", "twin", "d1"), "/twins/d1", {}),
        (("module", "twin", "d1", "$m"), "/twins/d1/modules/%24m", {"moduleId": "$m"}),
    ],
)
def test_a_twin_is_shown_without_metadata(
    call: Call, hub: Any, words: tuple[str, ...], path: str, more: dict[str, Any]
) -> None:
    hub.answer("GET", path, twin(**more))
    shown = call(*words)
    assert shown.code == 0
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["twin", "d1/$m" if more else "d1"] in lines
    assert ["model", "dtmi:acme:pump;1"] in lines
    assert "desired, version 2 {" in shown.out
    assert "reported, version 4 {" in shown.out
    assert "metadata" not in shown.out
    assert "\x1b" not in shown.out
    assert call(*words, "--json").json() == twin(**more)


def test_a_change_is_a_patch(call: Call, hub: Any) -> None:
    hub.answer("PATCH", "/twins/d1", twin())
    done = call("device", "twin", "d1", "--tags", '{"a": null}', "--desired", '{"b": 1}', "--etag", '"AAAAAAAAAAE="')
    assert done.code == 0
    (asked,) = hub.asked
    assert asked["body"] == {"tags": {"a": None}, "properties": {"desired": {"b": 1}}}
    assert asked["headers"]["If-Match"] == '"AAAAAAAAAAE="'
    call("device", "twin", "d1", "--desired", "{}")
    assert hub.asked[1]["body"] == {"properties": {"desired": {}}}
    assert "If-Match" not in hub.asked[1]["headers"]


def test_a_replacement_says_everything(call: Call, hub: Any) -> None:
    hub.answer("PUT", "/twins/d1/modules/m1", twin(moduleId="m1"))
    assert call("module", "twin", "d1", "m1", "--replace", "--tags", "{}", "--desired", '{"b": 1}').code == 0
    assert hub.asked[0]["body"] == {"tags": {}, "properties": {"desired": {"b": 1}}}
    half = call("module", "twin", "d1", "m1", "--replace", "--tags", "{}")
    assert (half.code, len(hub.asked)) == (2, 1)
    assert "--replace empties what is not said" in half.err


@pytest.mark.parametrize("option", ["--tags", "--desired"])
def test_what_is_no_json_is_not_sent(call: Call, hub: Any, option: str) -> None:
    done = call("device", "twin", "d1", option, "{a: 1}")
    assert (done.code, hub.asked) == (2, [])
    assert f"{option}: no JSON" in done.err
    assert "fix: " in done.err


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("device", "method", "d1", "reboot"), "/twins/d1/methods"),
        (("module", "method", "d1", "m1", "reboot"), "/twins/d1/modules/m1/methods"),
    ],
)
def test_a_method_is_called(call: Call, hub: Any, words: tuple[str, ...], path: str) -> None:
    hub.answer("POST", path, {"status": 200, "payload": {"ok": True}})
    done = call(*words, "--payload", '{"delay": 5}', "--timeout", "9", "--wait", "3")
    assert (done.code, done.err) == (0, "status 200\n")
    assert done.json() == {"ok": True}
    assert hub.asked[0]["body"] == {
        "methodName": "reboot",
        "payload": {"delay": 5},
        "responseTimeoutInSeconds": 9,
        "connectTimeoutInSeconds": 3,
    }
    assert call(*words, "--json").json() == {"status": 200, "payload": {"ok": True}}
    assert hub.asked[1]["body"]["payload"] is None


def test_a_status_that_is_no_success_fails_after_it_was_printed(call: Call, hub: Any) -> None:
    hub.answer("POST", "/twins/d1/methods", {"status": 503, "payload": "busy"})
    done = call("device", "method", "d1", "reboot", "--json")
    assert done.code == 1
    assert done.json()["status"] == 503
    assert "status 503" in done.err


@pytest.mark.parametrize("words", [("--payload", "{"), ("--timeout", "4"), ("--wait", "301")])
def test_a_call_that_cannot_be_is_not_made(call: Call, hub: Any, words: tuple[str, ...]) -> None:
    assert call("device", "method", "d1", "reboot", *words).code == 2
    assert hub.asked == []


def test_who_is_away(call: Call, hub: Any) -> None:
    gone = {"Message": "ErrorCode:DeviceNotOnline;d1 is not connected and subscribed to methods"}
    hub.answer("POST", "/twins/d1/methods", gone, 404)
    done = call("device", "method", "d1", "reboot")
    assert (done.code, done.out) == (1, "")
    assert "d1 is not connected" in done.err


def test_a_message_may_ask_for_feedback(call: Call, hub: Any) -> None:
    hub.answer("POST", "/devices/d1/messages/devicebound", {"sequenceNumber": 1})
    assert call("device", "c2d", "d1", "x", "--ack", "full").code == 0
    assert hub.asked[0]["headers"]["iothub-ack"] == "full"
