"""azure-iothub's registry for Node, which dials 443 only: identities, their errors, bulk operations and statistics."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from support.azure import SdkError
from support.node import NodeContoso
from support.pki import self_signed
from support.processes import wait_for
from support.surface import NODE_SERVICE, surface

KEY, OTHER_KEY = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
SHA1, SHA256 = "AB" * 20, "CD" * 32


def fails(node: NodeContoso, method: str, *arguments: Any, error: str, text: str = "") -> None:
    """The call raises the SDK's own error; its text is the hub's."""
    with pytest.raises(SdkError) as raised:
        node.ask("registry", method, *arguments)
    assert raised.value.kind == error
    assert text in str(raised.value)


@surface(NODE_SERVICE, "devices")
def test_a_device_is_created_read_changed_and_deleted(node: NodeContoso) -> None:
    made = node.ask("registry", "create", {"deviceId": "nr-1"})
    keys = made["authentication"]["symmetricKey"]
    assert (made["status"], made["authentication"]["type"]) == ("enabled", "sas")
    assert len(base64.b64decode(keys["primaryKey"])) >= 32
    assert node.ask("registry", "get", "nr-1") == made
    changed = node.ask("registry", "update", {**made, "status": "disabled", "statusReason": "maintenance"})
    assert (changed["status"], changed["statusReason"]) == ("disabled", "maintenance")
    assert (changed["generationId"], changed["authentication"]) == (made["generationId"], made["authentication"])
    assert changed["etag"] != made["etag"]
    node.ask("registry", "delete", "nr-1")
    fails(node, "get", "nr-1", error="DeviceNotFoundError", text="nr-1")


@surface(NODE_SERVICE, "errors")
def test_what_does_not_exist_is_not_found(node: NodeContoso) -> None:
    for method in ("get", "delete"):
        fails(node, method, "nr-nobody", error="DeviceNotFoundError", text="nr-nobody")
    fails(node, "update", {"deviceId": "nr-nobody", "status": "enabled"}, error="DeviceNotFoundError")


@surface(NODE_SERVICE, "errors")
def test_a_device_exists_once(node: NodeContoso) -> None:
    node.ask("registry", "create", {"deviceId": "nr-once"})
    fails(node, "create", {"deviceId": "nr-once"}, error="DeviceAlreadyExistsError")


@surface(NODE_SERVICE, "errors")
def test_what_is_no_key_and_what_is_no_name(node: NodeContoso) -> None:
    bad_key = {"type": "sas", "symmetricKey": {"primaryKey": "no base64!", "secondaryKey": KEY}}
    fails(node, "create", {"deviceId": "nr-bad", "authentication": bad_key}, error="ArgumentError")
    fails(node, "create", {"deviceId": "nr bad"}, error="ArgumentError")
    fails(node, "create", {"deviceId": "nr-bad", "status": "perhaps"}, error="ArgumentError")


@surface(NODE_SERVICE, "devices")
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("sas", {"symmetricKey": {"primaryKey": KEY, "secondaryKey": OTHER_KEY}}),
        ("selfSigned", {"x509Thumbprint": {"primaryThumbprint": SHA1, "secondaryThumbprint": SHA256}}),
        ("certificateAuthority", {}),
    ],
)
def test_every_kind_of_authentication(node: NodeContoso, kind: str, more: dict[str, Any]) -> None:
    wanted = {"type": kind, **more}
    made = node.ask("registry", "create", {"deviceId": f"nr-{kind}", "authentication": wanted})
    assert {name: made["authentication"][name] for name in wanted} == wanted
    assert node.ask("registry", "get", f"nr-{kind}")["authentication"] == made["authentication"]


def test_what_the_registry_has_made_connects(node: NodeContoso) -> None:
    own = self_signed("nr-connects", now=node.pki.now)
    slots = {"primaryThumbprint": own.chain.thumbprint("sha1").hex(), "secondaryThumbprint": None}
    authentication = {"type": "selfSigned", "x509Thumbprint": slots}
    node.ask("registry", "create", {"deviceId": "nr-connects", "authentication": authentication})
    client = node.with_certificate("nr-connects", own)
    client.connect()
    client.send("1")
    client.shutdown()
    assert node.bodies("nr-connects") == ["1"]


@surface(NODE_SERVICE, "devices")
def test_devices_are_listed(node: NodeContoso) -> None:
    for number in range(3):
        node.ask("registry", "create", {"deviceId": f"nr-list-{number}"})
    listed = {device["deviceId"] for device in node.ask("registry", "list")}
    assert {"nr-list-0", "nr-list-1", "nr-list-2"} <= listed


@surface(NODE_SERVICE, "modules")
def test_modules(node: NodeContoso) -> None:
    node.ask("registry", "create", {"deviceId": "nr-modules"})
    made = node.ask("registry", "addModule", {"deviceId": "nr-modules", "moduleId": "m1", "managedBy": "me"})
    assert (made["deviceId"], made["moduleId"], made["managedBy"]) == ("nr-modules", "m1", "me")
    assert node.ask("registry", "getModule", "nr-modules", "m1") == made
    assert node.ask("registry", "getModulesOnDevice", "nr-modules") == [made]
    changed = node.ask("registry", "updateModule", {**made, "managedBy": "other"}, True)
    assert changed["managedBy"] == "other"
    with pytest.raises(SdkError) as raised:
        node.ask("registry", "updateModule", {**made, "managedBy": "me"}, False)
    assert raised.value.kind == "InvalidEtagError"
    node.ask("registry", "removeModule", "nr-modules", "m1")
    assert node.ask("registry", "getModulesOnDevice", "nr-modules") == []
    fails(node, "addModule", {"deviceId": "nr-nobody", "moduleId": "m1"}, error="DeviceNotFoundError")


@surface(NODE_SERVICE, "devices")
def test_an_edge_device_and_its_child(node: NodeContoso) -> None:
    edge = node.ask("registry", "create", {"deviceId": "nr-edge", "capabilities": {"iotEdge": True}})
    modules = {module["moduleId"] for module in node.ask("registry", "getModulesOnDevice", "nr-edge")}
    assert modules == {"$edgeAgent", "$edgeHub"}
    child = node.ask("registry", "create", {"deviceId": "nr-child", "deviceScope": edge["deviceScope"]})
    assert child["parentScopes"] == [edge["deviceScope"]]


@surface(NODE_SERVICE, "bulk")
def test_many_at_once(node: NodeContoso) -> None:
    wanted = [{"deviceId": f"nr-bulk-{number}", "status": "enabled"} for number in range(5)]
    assert node.ask("registry", "addDevices", wanted)["isSuccessful"] is True
    again = [*wanted[:1], {"deviceId": "nr-bulk-new", "status": "enabled"}]
    fails(node, "addDevices", again, error="ArgumentError", text='"errorCode":"DeviceAlreadyExists"')
    assert node.ask("registry", "get", "nr-bulk-new")["status"] == "enabled"
    disabled = [{**one, "status": "disabled"} for one in wanted]
    assert node.ask("registry", "updateDevices", disabled, True)["isSuccessful"] is True
    assert node.ask("registry", "get", "nr-bulk-4")["status"] == "disabled"
    assert node.ask("registry", "removeDevices", wanted, True)["isSuccessful"] is True
    fails(node, "get", "nr-bulk-0", error="DeviceNotFoundError")


@surface(NODE_SERVICE, "query")
def test_the_pages_of_a_query_end(node: NodeContoso) -> None:
    names = [f"nr-query-{number}" for number in range(5)]
    node.ask("registry", "addDevices", [{"deviceId": name, "status": "enabled"} for name in names])
    for name in names:
        node.ask("registry", "updateTwin", name, {"tags": {"nodequery": name[-1]}}, "*")
    pages = node.query("SELECT * FROM devices WHERE is_defined(tags.nodequery)", 2)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [twin["deviceId"] for page in pages for twin in page] == names
    assert pages[0][0]["tags"] == {"nodequery": "0"}
    assert node.query("SELECT * FROM devices WHERE tags.nodequery = 'none'") == [[]]
    (counted,) = node.query("SELECT COUNT() AS many FROM devices WHERE is_defined(tags.nodequery)")
    assert [row["many"] for row in counted] == [5]
    (some,) = node.query("SELECT deviceId FROM devices WHERE tags.nodequery IN ['1', '3']")
    assert [row["deviceId"] for row in some] == ["nr-query-1", "nr-query-3"]
    with pytest.raises(SdkError) as raised:
        node.query("SELECT")
    assert raised.value.kind == "ArgumentError"


def job_ends(node: NodeContoso, job: str) -> dict[str, Any]:
    """The job when it has ended."""
    seen: dict[str, Any] = {}
    ended = ("completed", "failed", "cancelled")
    wait_for(lambda: seen.update(node.ask("jobs", "getJob", job)) or seen["status"] in ended, f"{job} ends")
    return seen


@surface(NODE_SERVICE, "jobs")
def test_a_job_changes_the_twins_of_many(node: NodeContoso) -> None:
    for number in range(3):
        node.ask("registry", "create", {"deviceId": f"nr-job-{number}"})
        node.ask("registry", "updateTwin", f"nr-job-{number}", {"tags": {"nodejob": number < 2}}, "*")
    patch = {"etag": "*", "properties": {"desired": {"rate": 5}}}
    asked = node.ask("jobs", "scheduleTwinUpdate", "nr-job-twins", "tags.nodejob = true", patch)
    assert (asked["jobId"], asked["type"]) == ("nr-job-twins", "scheduleUpdateTwin")
    done = job_ends(node, "nr-job-twins")
    assert done["status"] == "completed"
    assert (done["deviceJobStatistics"]["deviceCount"], done["deviceJobStatistics"]["succeededCount"]) == (2, 2)
    rates = [node.ask("registry", "getTwin", f"nr-job-{number}")["properties"]["desired"] for number in range(3)]
    assert [rate.get("rate") for rate in rates] == [5, 5, None]


@surface(NODE_SERVICE, "jobs")
def test_a_job_calls_methods(node: NodeContoso) -> None:
    key = node.ask("registry", "create", {"deviceId": "nr-job-call"})["authentication"]["symmetricKey"]["primaryKey"]
    client = node.with_key("nr-job-call", key)
    client.connect()
    client.answer(method="reboot")
    call = {"methodName": "reboot", "payload": {"now": True}, "responseTimeoutInSeconds": 20}
    node.ask("jobs", "scheduleDeviceMethod", "nr-job-method", "deviceId = 'nr-job-call'", call)
    done = job_ends(node, "nr-job-method")
    assert (done["status"], done["deviceJobStatistics"]["succeededCount"]) == ("completed", 1)
    client.shutdown()


@surface(NODE_SERVICE, "statistics")
def test_statistics_count(node: NodeContoso) -> None:
    before = node.ask("registry", "getRegistryStatistics")
    node.ask("registry", "create", {"deviceId": "nr-counted", "status": "disabled"})
    after = node.ask("registry", "getRegistryStatistics")
    for name in ("totalDeviceCount", "disabledDeviceCount"):
        assert after[name] == before[name] + 1


@surface(NODE_SERVICE, "errors")
def test_a_wrong_key_and_an_unknown_policy(node: NodeContoso) -> None:
    wrong = f"{node.owner[: node.owner.index('SharedAccessKey=')]}SharedAccessKey={KEY}"
    other = node.owner.replace("SharedAccessKeyName=iothubowner", "SharedAccessKeyName=nobody")
    for policy in (wrong, other):
        with pytest.raises(SdkError) as raised:
            node.ask("registry", "list", policy=policy)
        assert raised.value.kind == "UnauthorizedError"
