"""Registry commands say to the hub what was meant, and show no key that was not asked for."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgetrust.cli.demo_pki import DemoPki
from edgetrust.pki.chain import Chain
from edgetrust.trust.verdict import Reason

Call = Callable[..., Any]
KEYS = {"primaryKey": "cHJpbWFyeQ==", "secondaryKey": "c2Vjb25kYXJ5"}
HEX = "AB" * 32


def device(**changes: Any) -> dict[str, Any]:
    return {
        "deviceId": "d1",
        "status": "enabled",
        "etag": "MQ==",
        "authentication": {"type": "sas", "symmetricKey": KEYS},
        "capabilities": {"iotEdge": False},
        "lastActivityTime": "0001-01-01T00:00:00",
        **changes,
    }


def echo(asked: dict[str, Any]) -> Any:
    return {**device(), **asked["body"]}


@pytest.fixture
def call(edgetrust: Call, hub: Any) -> Call:
    return lambda *arguments: edgetrust(*arguments, "--dir", hub.directory)


# device create ------------------------------------------------------------------------------------------------------


def test_create_asks_for_keys_by_default(call: Call, hub: Any) -> None:
    hub.answer("PUT", "/devices/d1", echo)
    assert call("device", "create", "d1").code == 0
    assert hub.asked[0]["body"] == {
        "deviceId": "d1",
        "status": "enabled",
        "capabilities": {"iotEdge": False},
        "authentication": {"type": "sas", "symmetricKey": {"primaryKey": "", "secondaryKey": ""}},
    }
    assert "If-Match" not in hub.asked[0]["headers"]


def test_create_with_thumbprints(call: Call, hub: Any, demo: DemoPki) -> None:
    hub.answer("PUT", "/devices/d1", echo)
    first, second = demo.sensor
    call(
        "device", "create", "d1", "--thumbprint", "ab:" * 31 + "ab", "--secondary-certificate", second.certificate_file
    )
    sent = hub.asked[0]["body"]["authentication"]
    assert sent["type"] == "selfSigned"
    assert sent["x509Thumbprint"] == {
        "primaryThumbprint": HEX,
        "secondaryThumbprint": second.chain.thumbprint().hex(),
    }
    call("device", "create", "d1", "--certificate", first.certificate_file)
    assert hub.asked[1]["body"]["authentication"]["x509Thumbprint"]["secondaryThumbprint"] is None


def test_create_by_ca(call: Call, hub: Any) -> None:
    hub.answer("PUT", "/devices/d1", echo)
    call("device", "create", "d1", "--auth", "ca")
    assert hub.asked[0]["body"]["authentication"] == {"type": "certificateAuthority"}


@pytest.mark.parametrize("edge", [True, False])
def test_create_below_a_gateway(call: Call, hub: Any, edge: bool) -> None:
    scope = "ms-azure-iot-edge://gw-1"
    hub.answer("GET", "/devices/gw", device(deviceId="gw", capabilities={"iotEdge": True}, deviceScope=scope))
    hub.answer("PUT", "/devices/d1", echo)
    shown = call("device", "create", "d1", "--parent", "gw", *(["--edge"] if edge else []))
    sent = hub.asked[1]["body"]
    assert sent["parentScopes"] == [scope]
    assert sent.get("deviceScope") == (None if edge else scope)
    assert "parent          gw" in shown.out


def test_a_parent_must_be_a_gateway(call: Call, hub: Any) -> None:
    hub.answer("GET", "/devices/gw", device(deviceId="gw"))
    shown = call("device", "create", "d1", "--parent", "gw")
    assert (shown.code, "gw is no edge gateway" in shown.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--auth", "magic"], "there is no authentication 'magic'"),
        (["--auth", "thumbprint"], "needs a thumbprint"),
        (["--auth", "ca", "--thumbprint", HEX], "thumbprints do not go with --auth ca"),
        (["--thumbprint", "xyz"], "40 (SHA-1) or 64 (SHA-256)"),
        (["--thumbprint", HEX, "--certificate", "x.pem"], "exclude each other"),
        (["--certificate", "/does/not/exist"], "cannot be read"),
    ],
)
def test_contradictions_are_usage(call: Call, hub: Any, options: list[str], words: str) -> None:
    shown = call("device", "create", "d1", *options)
    assert shown.code == 2
    assert words in shown.err
    assert not hub.asked


# device show, list --------------------------------------------------------------------------------------------------


def test_keys_are_shown_only_when_asked_for(call: Call, hub: Any) -> None:
    hub.answer("GET", "/devices/d1", device())
    for options in ([], ["--json"]):
        assert KEYS["primaryKey"] not in call("device", "show", "d1", *options).out
    shown = call("device", "show", "d1", "--keys").out
    assert f"HostName=localhost;DeviceId=d1;SharedAccessKey={KEYS['primaryKey']}" in shown
    assert call("device", "show", "d1", "--keys", "--json").json()["authentication"]["symmetricKey"] == KEYS


def test_show_leaves_out_what_never_happened(call: Call, hub: Any) -> None:
    hub.answer("GET", "/devices/d1", device(statusReason="lost", status="disabled"))
    shown = call("device", "show", "d1").out
    assert "0001" not in shown
    assert "disabled (lost)" in shown


def test_list_is_a_line_each(call: Call, hub: Any) -> None:
    gateway = device(
        deviceId="gw",
        capabilities={"iotEdge": True},
        authentication={"type": "selfSigned"},
        connectionState="Connected",
    )
    child = device(parentScopes=["ms-azure-iot-edge://gw-with-dash-123"])
    hub.answer("GET", "/devices", [gateway, child])
    lines = call("device", "list").out.splitlines()
    assert lines[0].split() == ["DEVICE", "STATUS", "AUTH", "EDGE", "PARENT", "CONNECTION"]
    assert lines[1].split() == ["gw", "enabled", "thumbprint", "edge", "Connected"]
    assert lines[2].split() == ["d1", "enabled", "sas", "gw-with-dash"]
    assert KEYS["primaryKey"] not in call("device", "list", "--json").out
    assert "the first 2" in call("device", "list", "--limit", "2").err


def test_an_unknown_device_is_a_users_error(call: Call, hub: Any) -> None:
    shown = call("device", "show", "nobody")
    assert shown.code == 1
    assert shown.err.splitlines() == [
        "error: there is no such device",
        "fix: edgetrust device list shows what exists; identifiers are case-sensitive",
    ]


# device update, delete, enable, disable -----------------------------------------------------------------------------


def test_update_keeps_the_other_thumbprint(call: Call, hub: Any) -> None:
    stored = {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "AA", "secondaryThumbprint": "BB"}}
    hub.answer("GET", "/devices/d1", device(authentication=stored))
    hub.answer("PUT", "/devices/d1", echo)
    call("device", "update", "d1", "--secondary-thumbprint", HEX)
    sent = hub.asked[1]
    assert sent["body"]["authentication"]["x509Thumbprint"] == {"primaryThumbprint": "AA", "secondaryThumbprint": HEX}
    assert sent["headers"]["If-Match"] == '"MQ=="'


def test_update_keeps_keys_of_what_stays_sas(call: Call, hub: Any) -> None:
    hub.answer("GET", "/devices/d1", device())
    hub.answer("PUT", "/devices/d1", echo)
    call("device", "update", "d1", "--auth", "sas")
    assert hub.asked[1]["body"]["authentication"]["symmetricKey"] == KEYS


def test_update_changes_the_kind(call: Call, hub: Any) -> None:
    hub.answer("GET", "/devices/d1", device())
    hub.answer("PUT", "/devices/d1", echo)
    call("device", "update", "d1", "--auth", "ca", "--parent", "")
    assert hub.asked[1]["body"]["authentication"] == {"type": "certificateAuthority"}
    assert (hub.asked[1]["body"]["deviceScope"], hub.asked[1]["body"]["parentScopes"]) == ("", [])


def test_an_update_of_nothing_is_usage(call: Call) -> None:
    assert "nothing to change" in call("device", "update", "d1").err


def test_delete(call: Call, hub: Any) -> None:
    hub.answer("DELETE", "/devices/d1", None, 204)
    shown = call("device", "delete", "d1")
    assert (shown.code, shown.out, shown.err) == (0, "", "deleted d1\n")
    assert hub.asked[0]["headers"]["If-Match"] == '"*"'


def test_enable_and_disable(call: Call, hub: Any) -> None:
    hub.answer("GET", "/devices/d1", device(status="disabled", statusReason="old"))
    hub.answer("PUT", "/devices/d1", echo)
    call("device", "enable", "d1")
    call("device", "disable", "d1", "--why", "stolen")
    puts = [asked["body"] for asked in hub.asked if asked["method"] == "PUT"]
    assert [(put["status"], put["statusReason"]) for put in puts] == [("enabled", None), ("disabled", "stolen")]


def test_c2d(call: Call, hub: Any) -> None:
    hub.answer("POST", "/devices/d1/messages/devicebound", {"sequenceNumber": 1}, 202)
    shown = call("device", "c2d", "d1", "hello", "--property", "a b=c=d", "--message-id", "m1", "--json")
    assert shown.json() == {"sequenceNumber": 1}
    asked = hub.asked[0]
    assert asked["content"] == b"hello"
    assert asked["headers"]["iothub-app-a%20b"] == "c%3Dd"
    assert asked["headers"]["iothub-messageid"] == "m1"
    assert call("device", "c2d", "d1", "hello").err == "queued for d1\n"
    assert call("device", "c2d", "d1", "x", "--property", "nonsense").code == 2


# modules ------------------------------------------------------------------------------------------------------------


def test_modules(call: Call, hub: Any) -> None:
    module = {
        "deviceId": "d1",
        "moduleId": "m1",
        "etag": "MQ==",
        "authentication": {"type": "sas", "symmetricKey": KEYS},
    }
    hub.answer("PUT", "/devices/d1/modules/m1", module)
    hub.answer("GET", "/devices/d1/modules/m1", module)
    hub.answer("GET", "/devices/d1/modules", [module])
    hub.answer("DELETE", "/devices/d1/modules/m1", None, 204)
    assert "module          m1" in call("module", "create", "d1", "m1").out
    assert f"ModuleId=m1;SharedAccessKey={KEYS['primaryKey']}" in call("module", "show", "d1", "m1", "--keys").out
    assert call("module", "list", "d1").out.splitlines()[1].split() == ["m1", "sas"]
    assert KEYS["primaryKey"] not in call("module", "list", "d1", "--json").out
    assert call("module", "delete", "d1", "m1").err == "deleted d1/m1\n"


# CA certificates ----------------------------------------------------------------------------------------------------


def ca_entry(demo: DemoPki, **properties: Any) -> dict[str, Any]:
    known = {
        "subject": "CN=my_private_root_CA",
        "thumbprint": "AA",
        "expiry": "Sat, 31 Dec 2039 23:59:59 GMT",
        "isVerified": False,
        "certificate": base64.b64encode(demo.root.chain.pem().encode()).decode(),
    }
    return {"name": "root", "etag": "e1", "properties": {**known, **properties}}


def test_add_a_ca(call: Call, hub: Any, demo: DemoPki) -> None:
    hub.answer("PUT", "/certificates/root", ca_entry(demo))
    shown = call("hub", "ca", "add", "root", demo.intermediates[0].certificate_file)
    assert "NOT VERIFIED" in shown.out
    assert "edgetrust hub ca verify root" in shown.err
    sent = hub.asked[0]["body"]["properties"]
    assert sent["isVerified"] is False
    assert len(Chain.from_pem(base64.b64decode(sent["certificate"])).certificates) == 1
    call("hub", "ca", "add", "root", demo.root.certificate_file, "--verified")
    assert hub.asked[1]["body"]["properties"]["isVerified"] is True


def test_possession_is_proven_with_the_key(call: Call, hub: Any, demo: DemoPki) -> None:
    hub.answer("GET", "/certificates/root", ca_entry(demo))
    code = {"name": "root", "etag": "e2", "properties": {"verificationCode": "C0DE", "isVerified": False}}
    hub.answer("POST", "/certificates/root/generateVerificationCode", code)
    hub.answer("POST", "/certificates/root/verify", ca_entry(demo, isVerified=True))
    assert "verified" in call("hub", "ca", "verify", "root", "--key", demo.root.key_file).out
    made, verified = hub.asked[1], hub.asked[2]
    assert made["headers"]["If-Match"] == '"e1"'
    assert verified["headers"]["If-Match"] == '"e2"'
    proof = Chain.from_pem(base64.b64decode(verified["body"]["certificate"])).end_entity
    assert proof.subject.rfc4514_string() == "CN=C0DE"
    proof.verify_directly_issued_by(demo.root.chain.end_entity)
    assert call("hub", "ca", "code", "root").out == "C0DE\n"
    wrong = call("hub", "ca", "verify", "root", "--key", demo.edge_ca.key_file)
    assert wrong.code == 4


def test_possession_is_proven_with_a_certificate(call: Call, hub: Any, demo: DemoPki) -> None:
    hub.answer("GET", "/certificates/root", ca_entry(demo))
    hub.answer("POST", "/certificates/root/verify", ca_entry(demo, isVerified=True))
    assert call("hub", "ca", "verify", "root", demo.ca_sensor.certificate_file, "--json").json()["etag"] == "e1"
    assert call("hub", "ca", "verify", "root").code == 2


def test_list_and_remove_cas(call: Call, hub: Any, demo: DemoPki) -> None:
    hub.answer("GET", "/certificates", {"value": [ca_entry(demo, isVerified=True)]})
    hub.answer("GET", "/certificates/root", ca_entry(demo))
    hub.answer("DELETE", "/certificates/root", None, 204)
    assert "verified" in call("hub", "ca", "list").out
    assert call("hub", "ca", "list", "--json").json()[0]["name"] == "root"
    assert call("hub", "ca", "remove", "root").err == "removed root\n"
    assert hub.asked[-1]["headers"]["If-Match"] == '"e1"'


# refusals -----------------------------------------------------------------------------------------------------------


def test_refusals_have_all_their_checks(call: Call, hub: Any) -> None:
    refusal = {
        "at": "2026-01-01T00:00:00Z",
        "place": "mqtt",
        "peer": "1.2.3.4:5",
        "identity": "d1",
        "reason": Reason.DISABLED.value,
        "checks": [
            {"name": "registered", "passed": True, "detail": ""},
            {"name": "enabled", "passed": False, "detail": "off"},
        ],
    }
    hub.answer("GET", "/edgetrust/refusals", {"refusals": [refusal, {**refusal, "identity": "", "reason": "tls"}]})
    shown = call("refusals", "--limit", "2").out
    assert "d1  disabled  from 1.2.3.4:5 at mqtt" in shown
    assert "   FAILED  enabled: off" in shown
    assert "edgetrust device enable" in shown
    assert "(nobody)  tls" in shown
    assert hub.asked[0]["query"]["limit"] == "2"
    assert len(call("refusals", "--json").json()) == 2
    hub.answer("GET", "/edgetrust/refusals", {"refusals": []})
    assert call("refusals").err == "nothing was refused\n"


def test_files_stay_out_of_reach_of_others(demo: DemoPki) -> None:
    for file in Path(demo.directory / "private").rglob("*.pem"):
        assert file.stat().st_mode & 0o077 == 0
