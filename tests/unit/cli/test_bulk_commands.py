"""Import, export and keys: what the hub is told, in which order, and what stays hidden."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]
DONE = {"isSuccessful": True, "errors": [], "warnings": []}
KEYS = {"primaryKey": "cHJpbWFyeQ==", "secondaryKey": "c2Vjb25kYXJ5"}


@pytest.fixture
def call(edgetrust: Call, hub: Any) -> Call:
    return lambda *arguments: edgetrust(*arguments, "--dir", hub.directory)


def lines(tmp_path: Path, *bodies: Any) -> Path:
    file = tmp_path / "identities.jsonl"
    file.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    return file


def sent(hub: Any) -> list[list[dict[str, Any]]]:
    return [asked["body"] for asked in hub.asked if asked["method"] == "POST"]


def test_import_in_batches(call: Call, hub: Any, tmp_path: Path) -> None:
    hub.answer("POST", "/devices", DONE)
    outcome = call("device", "import", lines(tmp_path, *({"id": f"d{n}"} for n in range(250))), "--json")
    assert outcome.code == 0
    assert outcome.json() == {"total": 250, "succeeded": 250, "errors": []}
    assert [len(batch) for batch in sent(hub)] == [100, 100, 50]
    assert sent(hub)[0][0] == {"id": "d0", "importMode": "createOrUpdate"}


def test_import_goes_from_the_top_down_with_the_scopes_of_this_hub(call: Call, hub: Any, tmp_path: Path) -> None:
    hub.answer("POST", "/devices", DONE)
    for name in ("top", "low"):
        hub.answer("GET", f"/devices/{name}", {"deviceScope": f"ms-azure-iot-edge://{name}-new"})
    edge = {"capabilities": {"iotEdge": True}}
    file = lines(
        tmp_path,
        {"id": "leaf", "deviceScope": "ms-azure-iot-edge://low-old", "eTag": "MQ=="},
        {"id": "low", "parentScopes": ["ms-azure-iot-edge://top-old"], "deviceScope": "ms-azure-iot-edge://low-old"}
        | edge,
        {"id": "top", "deviceScope": "ms-azure-iot-edge://top-old"} | edge,
        {"id": "top", "moduleId": "$edgeHub"},
    )
    assert call("device", "import", file, "--mode", "create").code == 0
    batches = sent(hub)
    assert [[one["id"] for one in batch] for batch in batches] == [["top"], ["low"], ["leaf"], ["top"]]
    assert batches[0][0] == {"id": "top", "importMode": "create", **edge}
    assert batches[1][0]["parentScopes"] == ["ms-azure-iot-edge://top-new"]
    assert batches[2][0] == {
        "id": "leaf",
        "importMode": "create",
        "parentScopes": ["ms-azure-iot-edge://low-new"],
    }
    assert batches[3][0]["importMode"] == "update"  # it came with its gateway


def test_import_names_what_failed(call: Call, hub: Any, tmp_path: Path) -> None:
    error = {"deviceId": "d2", "moduleId": None, "errorCode": "DeviceAlreadyExists", "errorStatus": "device d2 exists"}
    hub.answer("POST", "/devices", {"isSuccessful": False, "errors": [error], "warnings": []}, 400)
    outcome = call("device", "import", lines(tmp_path, {"id": "d1"}, {"id": "d2"}))
    assert outcome.code == 1
    assert outcome.out == "1 of 2 done\n"
    assert "line 2: d2: DeviceAlreadyExists: device d2 exists" in outcome.err
    assert "error: 1 of 2 failed" in outcome.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1 is not JSON"),
        ("\n[]\n", "line 2 is no identity"),
        ('{"id": 7}', "line 1 is no identity"),
        ('{"id": "d"}\n{"id": "d"}', "line 2: d stands in line 1 already"),
        ("\udcff", "cannot be read"),
    ],
)
def test_import_of_what_is_no_export(call: Call, hub: Any, tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "broken"
    file.write_bytes(text.encode(errors="surrogateescape"))
    outcome = call("device", "import", file)
    assert outcome.code == 2
    assert says in outcome.err
    assert hub.asked == []
    assert call("device", "import", tmp_path / "missing").code == 2
    assert call("device", "import", lines(tmp_path, {"id": "d"}), "--mode", "maybe").code == 2


def test_export_to_a_private_file_and_to_stdout(call: Call, hub: Any, tmp_path: Path) -> None:
    hub.answer("GET", "/edgetrust/identities", '{"id":"d1"}\n{"id":"d2"}\n')
    file = tmp_path / "out.jsonl"
    outcome = call("device", "export", "--output", file)
    assert (outcome.code, outcome.out) == (0, "")
    assert file.read_text() == '{"id":"d1"}\n{"id":"d2"}\n'
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "exported 2 identities, with symmetric keys" in outcome.err
    shown = call("device", "export", "--exclude-keys")
    assert shown.out == file.read_text()
    assert [asked["query"]["excludeKeys"] for asked in hub.asked] == ["false", "true"]


def body(**changes: Any) -> dict[str, Any]:
    return {"deviceId": "d1", "etag": "MQ==", "authentication": {"type": "sas", "symmetricKey": KEYS}, **changes}


@pytest.mark.parametrize(
    ("option", "changed"),
    [("--primary", {"primaryKey"}), ("--secondary", {"secondaryKey"}), ("--both", {"primaryKey", "secondaryKey"})],
)
@pytest.mark.parametrize("who", [("device", "d1"), ("module", "d1", "m1")])
def test_roll_key(call: Call, hub: Any, who: tuple[str, ...], option: str, changed: set[str]) -> None:
    path = "/devices/d1" + ("/modules/m1" if who[0] == "module" else "")
    hub.answer("GET", path, body())
    hub.answer("PUT", path, lambda asked: asked["body"])
    outcome = call(who[0], "roll-key", *who[1:], option)
    assert outcome.code == 0
    put = hub.asked[1]
    assert put["headers"]["If-Match"] == '"MQ=="'
    keys = put["body"]["authentication"]["symmetricKey"]
    assert {name for name in KEYS if keys[name] != KEYS[name]} == changed
    assert all(len(base64.b64decode(keys[name])) == 32 for name in changed)
    assert not any(key in outcome.out for key in keys.values())


def test_swap_keys(call: Call, hub: Any) -> None:
    hub.answer("GET", "/devices/d1", body())
    hub.answer("PUT", "/devices/d1", lambda asked: asked["body"])
    assert call("device", "roll-key", "d1", "--swap", "--keys", "--json").json()["authentication"]["symmetricKey"] == {
        "primaryKey": KEYS["secondaryKey"],
        "secondaryKey": KEYS["primaryKey"],
    }


def test_roll_key_needs_one_choice_and_keys(call: Call, hub: Any) -> None:
    assert call("device", "roll-key", "d1").code == 2
    assert call("device", "roll-key", "d1", "--primary", "--swap").code == 2
    assert hub.asked == []
    hub.answer("GET", "/devices/d1", body(authentication={"type": "certificateAuthority"}))
    outcome = call("device", "roll-key", "d1", "--primary")
    assert outcome.code == 2
    assert "d1 does not authenticate by symmetric keys" in outcome.err


def test_connection_strings(call: Call, hub: Any) -> None:
    hub.answer("GET", "/devices/d1", body())
    hub.answer("GET", "/devices/d1/modules/m1", body(moduleId="m1"))
    hub.answer("GET", "/devices/d2", body(deviceId="d2", authentication={"type": "selfSigned"}))
    hub.answer("GET", "/devices/d3", body(deviceId="d3", authentication={"type": "none"}))
    assert call("device", "connection-string", "d1").out == (
        "HostName=localhost;DeviceId=d1;SharedAccessKey=cHJpbWFyeQ==\n"
    )
    assert call("module", "connection-string", "d1", "m1", "--secondary", "--json").json() == {
        "connectionString": "HostName=localhost;DeviceId=d1;ModuleId=m1;SharedAccessKey=c2Vjb25kYXJ5"
    }
    assert call("device", "connection-string", "d2", "--gateway", "edge.local").out == (
        "HostName=localhost;DeviceId=d2;x509=true;GatewayHostName=edge.local\n"
    )
    assert call("device", "connection-string", "d3").code == 2
