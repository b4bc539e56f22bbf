"""Devices and modules by HTTPS, as curl sends it; refusals are on record; health, and metrics for Prometheus."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from edgetrust.protocol.sas import resource_text, sign
from support.edge_world import HUB_NAME, Story, edgetrust, wait_until, write_holder
from support.pki import self_signed
from support.prometheus import families

API = "?api-version=2021-04-12"


def token(key: str, device: str, module: str | None = None) -> str:
    raw = base64.b64decode(key)
    return sign(raw, resource_text(HUB_NAME, device, module), int(time.time()) + 600)


def events(story: Story, device: str) -> list[str]:
    return story.world.events(device)


def registered(story: Story, name: str) -> str:
    made = story.world.device(name, "--parent", "EdgeGateway")
    return str(made["authentication"]["symmetricKey"]["primaryKey"])


def plain(story: Story, path: str) -> tuple[int, str]:
    port = story.gateway.state()["gateway"]["metrics_port"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def test_telemetry_with_a_key_and_with_a_certificate(shared: Story, tmp_path: Path) -> None:
    key = registered(shared, "HttpKey")
    headers = ["-H", f"Authorization: {token(key, 'HttpKey')}", "-H", "iothub-app-level: high"]
    assert shared.gateway.curl(f"/devices/HttpKey/messages/events{API}", "-d", "1", *headers)[0] == 204
    batch = json.dumps([{"body": base64.b64encode(str(number).encode()).decode()} for number in (2, 3)])
    content = ["-H", "Content-Type: application/vnd.microsoft.iothub.json"]
    assert shared.gateway.curl(f"/devices/HttpKey/messages/events{API}", "-d", batch, *headers, *content)[0] == 204
    certificate, private = write_holder(tmp_path, "sensor", shared.sensor)
    shown = ["--cert", str(certificate), "--key", str(private)]
    assert shared.gateway.curl(f"/devices/TempSensor/messages/events{API}", "-d", "by certificate", *shown)[0] == 204
    wait_until(lambda: events(shared, "HttpKey") == ["1", "2", "3"])
    wait_until(lambda: "by certificate" in events(shared, "TempSensor"))


def test_telemetry_of_modules(shared: Story) -> None:
    """A module of the gateway, with its output, and one of a device below it; each with its own key or its device's."""
    leaf_key = registered(shared, "HttpLeaf")
    for device, module in (("EdgeGateway", "HttpFilter"), ("HttpLeaf", "m")):
        made = edgetrust("module", "create", device, module, "--keys", "--json", "--dir", str(shared.world.hub_folder))
        key = json.loads(made.stdout)["authentication"]["symmetricKey"]["primaryKey"]
        path = f"/devices/{device}/modules/{module}/messages/events{API}"
        shown = ["-H", f"Authorization: {token(key, device, module)}", "-H", "iothub-app-kind: a"]
        assert shared.gateway.curl(path, "-d", f"from {module}", *shown)[0] == 204
        other = ["-H", f"Authorization: {token(leaf_key, 'HttpLeaf', 'other')}"]
        assert shared.gateway.curl(path, "-d", "forged", *other)[0] == 401
    wait_until(lambda: events(shared, "HttpLeaf") == ["from m"])
    wait_until(lambda: "from HttpFilter" in events(shared, "EdgeGateway"))
    assert "forged" not in events(shared, "EdgeGateway")
    _, page = plain(shared, "/metrics")
    received = families(page)["edgehub_messages_received_total"]
    counted = {dict(labels)["id"]: value for labels, value in received.items()}
    assert (counted["EdgeGateway/HttpFilter"], counted["HttpLeaf/m"]) == (1, 1)


def test_what_the_hub_asks_of_the_gateway_itself_and_is_told_by_it(shared: Story) -> None:
    own, where = ("EdgeGateway", "$edgeHub"), ("--json", "--dir", str(shared.world.hub_folder))
    call = ("module", "method", *own, "RefreshDeviceScopeIdentityCache", "--payload", '{"deviceIds": ["TempSensor"]}')
    wait_until(lambda: shared.gateway.state()["scope"]["as_of"] is not None)
    before = shared.gateway.state()["scope"]["as_of"]
    wait_until(lambda: edgetrust(*call, *where, ok=False).returncode == 0)
    wait_until(lambda: shared.gateway.state()["scope"]["as_of"] > before)
    assert shared.gateway.publish("TempSensor", holder=shared.sensor).returncode == 0

    def told() -> dict[str, Any]:
        twin = json.loads(edgetrust("module", "twin", *own, *where).stdout)
        return dict(twin["properties"]["reported"].get("clients", {}).get("TempSensor", {}))

    wait_until(lambda: "lastConnectedTimeUtc" in told())


def test_refused_with_the_reason_on_record(shared: Story, tmp_path: Path) -> None:
    key = registered(shared, "HttpWrong")
    path = f"/devices/HttpWrong/messages/events{API}"
    wrong = token(base64.b64encode(bytes(32)).decode(), "HttpWrong")
    other = self_signed("HttpWrong", now=shared.world.pki.now)
    certificate, private = write_holder(tmp_path, "other", other)
    for options, reason in (
        ([], "no-credential"),
        (["-H", f"Authorization: {wrong}"], "sas-signature-mismatch"),
        (["--cert", str(certificate), "--key", str(private)], "wrong-kind-of-credential"),
    ):
        status, body = shared.gateway.curl(path, "-d", "1", *options)
        assert (status, json.loads(body)["Message"]) == (401, "the credential is not accepted for this request")
        last = [line for line in shared.gateway.text().splitlines() if "POST /devices/HttpWrong" in line][-1]
        assert reason in last
    large = tmp_path / "large"
    large.write_bytes(bytes(300_000))
    good = ["-H", f"Authorization: {token(key, 'HttpWrong')}"]
    status, body = shared.gateway.curl(f"/devices/HttpWrong/messages/devicebound{API}", *good)
    assert status == 501
    assert "by MQTT" in body
    for options, status in (
        (["--data-binary", f"@{large}"], 413),
        (["-d", "no json", "-H", "Content-Type: application/vnd.microsoft.iothub.json"], 400),
        (["-d", "[]", "-H", "Content-Type: application/vnd.microsoft.iothub.json"], 400),
    ):
        assert shared.gateway.curl(path, *good, *options)[0] == status
    assert events(shared, "HttpWrong") == []


@pytest.mark.parametrize(
    ("actor", "status", "said"),
    [("", 400, "DEVICE/MODULE"), ("EdgeGateway", 400, "DEVICE/MODULE"), ("Other/m", 401, "no module of this gateway")],
)
def test_a_method_needs_a_caller_of_this_gateway(shared: Story, actor: str, status: int, said: str) -> None:
    call = json.dumps({"methodName": "reset"})
    header = ["-H", f"x-ms-edge-moduleId: {actor}"] if actor else []
    answer = shared.gateway.curl("/twins/TempSensor/methods", "-d", call, *header)
    assert answer[0] == status
    assert said in answer[1]
    assert (
        shared.gateway.curl("/twins/TempSensor/methods", "-d", call, "-H", "x-ms-edge-moduleId: EdgeGateway/m")[0]
        == 401
    )


def test_health_and_metrics(shared: Story) -> None:
    assert shared.gateway.publish("TempSensor", holder=shared.sensor).returncode == 0
    assert shared.gateway.publish("Stranger", user=f"{HUB_NAME}/Stranger/{API}", password="x").returncode != 0
    wait_until(lambda: shared.gateway.state()["scope"]["as_of"] is not None)
    for where in (shared.gateway.curl, lambda path: plain(shared, path)):
        assert where("/edgetrust/health/live") == (200, '{"status": "live"}')
        status, body = where("/edgetrust/health/ready")
        ready: dict[str, Any] = json.loads(body)
        assert (status, ready["status"]) == (200, "ready"), ready
        assert [one["name"] for one in ready["checks"]] == ["scope", "certificate", "store", "queues"]
    wait_until(lambda: "edgehub_messages_sent_total{" in plain(shared, "/metrics")[1])
    status, page = plain(shared, "/metrics")
    read = families(page)
    received = {dict(labels)["id"]: value for labels, value in read["edgehub_messages_received_total"].items()}
    assert received["TempSensor"] >= 1
    refused = {dict(labels)["id"] for labels in read["edgehub_client_connect_failed_total"]}
    assert "unknown" in refused  # who is not registered makes no series of its own
    assert "Stranger" not in refused
    assert set(read["edgetrust_gateway_upstream_connected"].values()) == {1}
    assert min(read["edgetrust_gateway_certificate_not_after_seconds"].values()) > time.time()
    assert max(read["edgetrust_gateway_cache_age_seconds"].values()) < 3600
    assert status == 200


def test_a_port_for_metrics_that_is_taken_is_an_error_when_it_was_asked_for(shared: Story) -> None:
    port = shared.gateway.state()["gateway"]["metrics_port"]
    own = shared.world.gateway(shared.identity, name="second")
    config = Path(own.arguments[own.arguments.index("-c") + 1])
    config.write_text(
        config.read_text().replace("[edgetrust.metrics]\nport = 0", f"[edgetrust.metrics]\nport = {port}")
    )
    done = edgetrust(*own.arguments, ok=False)
    assert done.returncode == 2
    assert f"metrics cannot be served on 127.0.0.1:{port}" in done.stderr
