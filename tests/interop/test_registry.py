"""azure-iot-hub's registry manager against the hub's REST interface."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from support.azure import Sdk, SdkError
from support.pki import self_signed
from support.processes import Contoso, wait_for
from support.surface import PYTHON_SERVICE, surface

SHA1, SHA256 = "AB" * 20, "CD" * 32
KEY, OTHER_KEY = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))


def fails(service: Sdk, method: str, *arguments: object, status: int, phrase: str) -> None:
    """The call raises the SDK's own error, with the hub's status and phrase in it."""
    with pytest.raises(SdkError, match=phrase) as raised:
        service.call(method, *arguments)
    assert (raised.value.module, raised.value.kind) == ("msrest.exceptions", "HttpOperationError")
    assert raised.value.status == status


@surface(PYTHON_SERVICE, "devices")
def test_a_device_with_keys_of_the_callers(service: Sdk) -> None:
    made = service.call("create_device_with_sas", "r-keys", KEY, OTHER_KEY, "enabled")
    assert made["authentication"]["type"] == "sas"
    assert made["authentication"]["symmetric_key"] == {"primary_key": KEY, "secondary_key": OTHER_KEY}
    assert (made["status"], made["connection_state"]) == ("enabled", "Disconnected")
    assert made["capabilities"] == {"iot_edge": False}
    assert service.call("get_device", "r-keys") == made


@surface(PYTHON_SERVICE, "devices")
def test_a_device_with_keys_of_the_hubs(service: Sdk) -> None:
    keys = service.call("create_device_with_sas", "r-made", "", "", "enabled")["authentication"]["symmetric_key"]
    assert len(base64.b64decode(keys["primary_key"])) >= 32
    assert keys["primary_key"] != keys["secondary_key"]


@surface(PYTHON_SERVICE, "devices")
def test_a_device_with_thumbprints(service: Sdk) -> None:
    made = service.call("create_device_with_x509", "r-x509", SHA1, SHA256, "enabled")
    assert made["authentication"]["type"] == "selfSigned"
    assert made["authentication"]["x509_thumbprint"] == {"primary_thumbprint": SHA1, "secondary_thumbprint": SHA256}
    single = service.call("create_device_with_x509", "r-x509-single", SHA256, "", "enabled")
    assert single["authentication"]["x509_thumbprint"] == {"primary_thumbprint": SHA256}


@surface(PYTHON_SERVICE, "devices")
def test_a_device_of_a_ca(service: Sdk) -> None:
    made = service.call("create_device_with_certificate_authority", "r-ca", "disabled", status_reason="not yet")
    assert made["authentication"]["type"] == "certificateAuthority"
    assert (made["status"], made["status_reason"]) == ("disabled", "not yet")


def test_what_is_no_thumbprint_and_what_is_no_key(service: Sdk) -> None:
    bad = {"status": 400, "phrase": "Bad Request"}
    fails(service, "create_device_with_x509", "r-bad", "AB", "", "enabled", **bad)
    fails(service, "create_device_with_x509", "r-bad", "", "", "enabled", **bad)
    fails(service, "create_device_with_sas", "r-bad", "no base64!", KEY, "enabled", **bad)
    fails(service, "create_device_with_sas", "r-bad", KEY, OTHER_KEY, "perhaps", **bad)
    fails(service, "create_device_with_sas", "r bad", KEY, OTHER_KEY, "enabled", **bad)
    fails(service, "get_device", "r-bad", status=404, phrase="Not Found")


@surface(PYTHON_SERVICE, "errors")
def test_a_device_exists_once(service: Sdk) -> None:
    service.call("create_device_with_sas", "r-once", KEY, OTHER_KEY, "enabled")
    fails(service, "create_device_with_sas", "r-once", KEY, OTHER_KEY, "enabled", status=409, phrase="Conflict")


@surface(PYTHON_SERVICE, "devices", "errors")
def test_an_update_with_the_right_etag_and_with_an_old_one(service: Sdk) -> None:
    made = service.call("create_device_with_sas", "r-update", KEY, OTHER_KEY, "enabled")
    changed = service.call(
        *("update_device_with_sas", "r-update", made["etag"], OTHER_KEY, KEY, "disabled"), status_reason="maintenance"
    )
    assert changed["etag"] != made["etag"]
    assert changed["generation_id"] == made["generation_id"]
    assert (changed["status"], changed["status_reason"]) == ("disabled", "maintenance")
    assert changed["authentication"]["symmetric_key"]["primary_key"] == OTHER_KEY
    fails(
        *(service, "update_device_with_sas", "r-update", made["etag"], KEY, OTHER_KEY, "enabled"),
        status=412,
        phrase="Precondition Failed",
    )
    assert service.call("get_device", "r-update") == changed


def test_an_update_without_an_etag_and_to_another_kind(service: Sdk) -> None:
    service.call("create_device_with_sas", "r-kinds", KEY, OTHER_KEY, "enabled")
    by_thumbprint = service.call("update_device_with_x509", "r-kinds", None, SHA1, SHA256, "enabled")
    assert by_thumbprint["authentication"]["type"] == "selfSigned"
    assert "primary_key" not in by_thumbprint["authentication"].get("symmetric_key", {})
    by_ca = service.call("update_device_with_certificate_authority", "r-kinds", by_thumbprint["etag"], "enabled")
    assert by_ca["authentication"]["type"] == "certificateAuthority"
    fails(
        *(service, "update_device_with_sas", "r-unknown", None, KEY, OTHER_KEY, "enabled"),
        status=404,
        phrase="Not Found",
    )


@surface(PYTHON_SERVICE, "devices")
def test_devices_are_listed(service: Sdk) -> None:
    for number in range(3):
        service.call("create_device_with_sas", f"r-list-{number}", KEY, OTHER_KEY, "enabled")
    listed = [device["device_id"] for device in service.call("get_devices")]
    assert {"r-list-0", "r-list-1", "r-list-2"} <= set(listed)
    assert len(service.call("get_devices", 2)) == 2


@surface(PYTHON_SERVICE, "devices")
def test_a_device_is_deleted_with_its_etag(service: Sdk) -> None:
    made = service.call("create_device_with_sas", "r-delete", KEY, OTHER_KEY, "enabled")
    fails(service, "delete_device", "r-delete", "AAAA", status=412, phrase="Precondition Failed")
    assert service.call("delete_device", "r-delete", made["etag"]) is None
    fails(service, "get_device", "r-delete", status=404, phrase="Not Found")
    fails(service, "delete_device", "r-delete", status=404, phrase="Not Found")
    again = service.call("create_device_with_sas", "r-delete", KEY, OTHER_KEY, "enabled")
    assert again["generation_id"] != made["generation_id"]
    service.call("delete_device", "r-delete")


@surface(PYTHON_SERVICE, "modules")
def test_modules(service: Sdk) -> None:
    service.call("create_device_with_sas", "r-modules", KEY, OTHER_KEY, "enabled")
    by_key = service.call("create_module_with_sas", "r-modules", "m-key", "me", KEY, OTHER_KEY)
    assert (by_key["module_id"], by_key["device_id"], by_key["managed_by"]) == ("m-key", "r-modules", "me")
    by_thumbprint = service.call("create_module_with_x509", "r-modules", "m-x509", "me", SHA1, SHA256)
    assert by_thumbprint["authentication"]["x509_thumbprint"]["secondary_thumbprint"] == SHA256
    by_ca = service.call("create_module_with_certificate_authority", "r-modules", "m-ca", "me")
    assert by_ca["authentication"]["type"] == "certificateAuthority"
    assert service.call("get_module", "r-modules", "m-key") == by_key
    listed = service.call("get_modules", "r-modules")
    assert {module["module_id"] for module in listed} == {"m-key", "m-x509", "m-ca"}

    changed = service.call("update_module_with_sas", "r-modules", "m-key", "other", by_key["etag"], OTHER_KEY, KEY)
    assert changed["managed_by"] == "other"
    fails(
        *(service, "update_module_with_sas", "r-modules", "m-key", "me", by_key["etag"], KEY, OTHER_KEY),
        status=412,
        phrase="Precondition Failed",
    )
    fails(
        *(service, "create_module_with_sas", "r-modules", "m-key", "me", KEY, OTHER_KEY), status=409, phrase="Conflict"
    )
    service.call("delete_module", "r-modules", "m-key", changed["etag"])
    fails(service, "get_module", "r-modules", "m-key", status=404, phrase="Not Found")
    fails(service, "create_module_with_sas", "r-none", "m", "me", KEY, OTHER_KEY, status=404, phrase="Not Found")
    service.call("delete_device", "r-modules")
    fails(service, "get_module", "r-modules", "m-ca", status=404, phrase="Not Found")


@surface(PYTHON_SERVICE, "devices")
def test_an_edge_device_and_its_children(service: Sdk) -> None:
    edge = service.call("create_device_with_sas", "r-edge", KEY, OTHER_KEY, "enabled", True)
    assert edge["capabilities"] == {"iot_edge": True}
    assert edge["device_scope"] == f"ms-azure-iot-edge://r-edge-{edge['generation_id']}"
    assert {each["module_id"] for each in service.call("get_modules", "r-edge")} == {"$edgeAgent", "$edgeHub"}
    leaf = service.call(
        *("create_device_with_x509", "r-leaf", SHA1, SHA256, "enabled"), device_scope=edge["device_scope"]
    )
    assert (leaf["device_scope"], leaf["parent_scopes"]) == (edge["device_scope"], [edge["device_scope"]])
    lower = service.call(
        *("create_device_with_sas", "r-lower-edge", KEY, OTHER_KEY, "enabled", True),
        parent_scopes=[edge["device_scope"]],
    )
    assert lower["parent_scopes"] == [edge["device_scope"]]
    assert lower["device_scope"] != edge["device_scope"]


def test_a_parent_that_does_not_exist(service: Sdk) -> None:
    with pytest.raises(SdkError, match="Bad Request"):
        service.call(
            *("create_device_with_sas", "r-orphan", KEY, OTHER_KEY, "enabled"),
            device_scope="ms-azure-iot-edge://nobody-1",
        )


def test_an_edge_device_by_ca_is_refused_as_the_portal_does(service: Sdk) -> None:
    fails(
        *(service, "create_device_with_certificate_authority", "r-edge-ca", "enabled", True),
        status=400,
        phrase="Bad Request",
    )


@surface(PYTHON_SERVICE, "bulk")
def test_many_devices_at_once(service: Sdk) -> None:
    names = [f"r-bulk-{number}" for number in range(3)]

    def bulk(mode: str, **more: object) -> dict[str, Any]:
        devices = [{"id": name, "import_mode": mode, **more} for name in names]
        done: dict[str, Any] = service.call("bulk_create_or_update_devices", devices)
        return done

    assert bulk("create", status="disabled")["is_successful"] is True
    assert service.call("get_device", names[2])["status"] == "disabled"
    again = bulk("create")
    assert again["is_successful"] is False
    assert [each["device_id"] for each in again["errors"]] == names
    assert {each["error_code"] for each in again["errors"]} == {"DeviceAlreadyExists"}
    assert bulk("update", status="enabled")["is_successful"] is True
    assert service.call("get_device", names[0])["status"] == "enabled"
    assert bulk("delete")["is_successful"] is True
    fails(service, "get_device", names[1], status=404, phrase="Not Found")


@surface(PYTHON_SERVICE, "query")
def test_queries_with_continuation(service: Sdk) -> None:
    devices = [{"id": f"r-query-{number}", "import_mode": "create", "tags": {"query": "yes"}} for number in range(5)]
    assert service.call("bulk_create_or_update_devices", devices)["is_successful"] is True
    question = {"query": "SELECT * FROM devices WHERE tags.query = 'yes'"}
    found, more = [], None
    for size in (2, 2, 1):
        page = service.call("query_iot_hub", question, more, 2)
        assert len(page["items"]) == size
        found += [twin["device_id"] for twin in page["items"]]
        more = page["continuation"]
    assert more is None
    assert found == [f"r-query-{number}" for number in range(5)]
    fails(service, "query_iot_hub", {"query": "SELECT"}, status=400, phrase="Bad Request")


def test_configurations(service: Sdk) -> None:
    service.call("create_device_with_sas", "r-deploy", KEY, OTHER_KEY, "enabled", True)
    content = {"modules_content": {"r-sensor": {"properties.desired": {"interval": 5}}}}
    assert service.call("configurations.apply_configuration_on_edge_device", "r-deploy", content) is None
    twin = service.call("get_module_twin", "r-deploy", "r-sensor")
    assert twin["properties"]["desired"]["interval"] == 5

    wished = {"id": "r-all", "content": content, "target_condition": "deviceId = 'r-deploy'", "priority": 3}
    made = service.call("configurations.create_configuration", wished)
    assert (made["id"], made["priority"], made["target_condition"]) == ("r-all", 3, "deviceId = 'r-deploy'")
    assert service.call("configurations.get_configuration", "r-all")["content"] == made["content"]
    changed = service.call("configurations.update_configuration", {**wished, "priority": 4}, made["etag"])
    assert changed["priority"] == 4
    assert [one["id"] for one in service.call("configurations.get_configurations", 10)] == ["r-all"]
    tried = service.call("configurations.test_configuration_queries", {"target_condition": "tags."})
    assert "position 6" in tried["target_condition_error"]
    assert service.call("configurations.delete_configuration", "r-all", changed["etag"]) is None
    fails(service, "configurations.get_configuration", "r-all", status=404, phrase="Not Found")


def test_scheduled_jobs(service: Sdk) -> None:
    service.call("create_device_with_sas", "r-job", KEY, OTHER_KEY, "enabled")
    request = {
        "type": "scheduleUpdateTwin",
        "update_twin": {"tags": {"job": "done"}},
        "query_condition": "deviceId = 'r-job'",
        "max_execution_time_in_seconds": 60,
    }
    made = service.call("jobs.create_scheduled_job", "r-job-1", request)
    assert (made["job_id"], made["type"]) == ("r-job-1", "scheduleUpdateTwin")
    wait_for(lambda: service.call("jobs.get_scheduled_job", "r-job-1")["status"] == "completed", "the job is done")
    assert service.call("get_twin", "r-job")["tags"] == {"job": "done"}
    service.call("jobs.cancel_scheduled_job", "r-job-1")
    assert service.call("jobs.get_scheduled_job", "r-job-1")["status"] == "completed"  # it had ended before


@surface(PYTHON_SERVICE, "statistics")
def test_statistics_count(contoso: Contoso, service: Sdk) -> None:
    before = service.call("get_device_registry_statistics")
    service.call("create_device_with_sas", "r-counted", KEY, OTHER_KEY, "enabled")
    service.call("create_device_with_sas", "r-counted-off", KEY, OTHER_KEY, "disabled")
    after = service.call("get_device_registry_statistics")
    assert after["total_device_count"] == before["total_device_count"] + 2
    assert after["disabled_device_count"] == before["disabled_device_count"] + 1
    wait_for(lambda: service.call("get_service_statistics")["connected_device_count"] == 0, "nobody is connected")
    client = contoso.with_key("r-counted", KEY)
    client.connect()
    wait_for(lambda: service.call("get_service_statistics")["connected_device_count"] == 1, "one is connected")
    assert service.call("get_device", "r-counted")["connection_state"] == "Connected"
    client.shutdown()


def test_what_the_sdk_has_registered_connects(contoso: Contoso, service: Sdk) -> None:
    holder = self_signed("r-connects", now=contoso.pki.now)
    shown = holder.chain.thumbprint("sha1").hex()
    service.call("create_device_with_x509", "r-connects", shown.lower(), "", "enabled")
    client = contoso.with_certificate("r-connects", holder)
    client.connect()
    client.send("1")
    client.shutdown()
    assert contoso.bodies("r-connects") == ["1"]


@surface(PYTHON_SERVICE, "errors")
def test_a_policy_without_the_right_and_a_wrong_key(contoso: Contoso, tmp_path: Path) -> None:
    whole = contoso.local_connection_string()
    wrong = whole[: whole.index("SharedAccessKey=")] + f"SharedAccessKey={KEY}"
    other = whole.replace("SharedAccessKeyName=iothubowner", "SharedAccessKeyName=nobody")
    for number, text in enumerate((wrong, other)):
        service = Sdk(
            *("registry", text),
            log=tmp_path / f"{number}.log",
            environment={"REQUESTS_CA_BUNDLE": contoso.world.hub.ready["trust_bundle"]},
        )
        try:
            fails(service, "get_devices", status=401, phrase="Unauthorized")
        finally:
            service.close()
