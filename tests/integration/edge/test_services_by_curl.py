"""Every route of the services of a gateway that serves, asked with curl: status, field names, and what is refused.

One gateway for all of it. What the answers are worth is tried with openssl and with fakes in tests/unit/edge.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from edgetrust.pki.csr import request_for
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.softkeys import SoftKey
from support.edge_world import Gateway, World, wait_until
from support.module_process import parsed

KEYD, CERTD, IDENTITYD = ("2020-09-01", "2021-05-01"), ("2020-09-01",), ("2020-09-01", "2021-12-01", "2022-08-01")
EDGED = ("2018-06-28", "2019-01-30", "2019-10-22", "2019-11-05", "2020-07-07", "2021-12-07", "2022-08-03")
SOCKETS = {
    "keyd": ("run/aziot/keyd.sock", KEYD),
    "certd": ("run/aziot/certd.sock", CERTD),
    "identityd": ("run/aziot/identityd.sock", IDENTITYD),
    "workload": ("run/iotedge/workload.sock", EDGED),
    "mgmt": ("run/iotedge/mgmt.sock", EDGED),
    "grafana": ("var/lib/aziot/edged/mnt/grafana/workload.sock", EDGED),
}
HANDLE, PEM, SIGNED = {"keyHandle"}, {"pem"}, {"signature"}
SPEC, IDENTITY = {"type", "spec"}, {"moduleId", "managedBy", "generationId", "authType"}
ISSUED = {"privateKey", "certificate", "expiration"}
ZEROS, IV = base64.b64encode(bytes(32)).decode(), base64.b64encode(b"i" * 32).decode()
NOT_ALLOWED, NO_BODY, FORBIDDEN = "method not allowed", "missing request body", "forbidden"
INVALID = 'parameter "{}" has an invalid value'


@dataclass(frozen=True)
class Ask:
    """A request, and what is expected: the names in the answer, or its message's beginning.

    `keep`: a name for the answer's first value. What was kept stands in later requests as <name>.
    """

    what: str
    body: Any = None
    status: int = 200
    has: frozenset[str] | set[str] = frozenset()
    says: str | None = None
    keep: str = ""


class Site:
    def __init__(self, world: World, gateway: Gateway) -> None:
        self.world, self.gateway = world, gateway
        self.kept: dict[str, str] = {}

    def curl(self, service: str, method: str, path: str, *options: str, version: str | None = "") -> tuple[int, Any]:
        place, versions = SOCKETS[service]
        query = "" if version is None else f"{'&' if '?' in path else '?'}api-version={version or versions[-1]}"
        command = ["curl", "-s", "--unix-socket", str(self.gateway.root / place), "-X", method,
                   "-w", "\n%{http_code}", *options, f"http://localhost{path}{query}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (command, done.stderr)
        return parsed(done.stdout)

    def asked(self, service: str, one: Ask) -> Any:
        method, _, path = self._filled(one.what).partition(" ")
        body = [] if one.body is None else ["-d", self._filled(json.dumps(one.body))]
        status, answered = self.curl(service, method, path, "-H", "Content-Type: application/json", *body)
        assert status == one.status, (one, answered)
        if one.says is not None:
            assert list(answered) == ["message"], (one, answered)
            assert answered["message"].startswith(one.says), (one, answered)
        elif one.has:
            assert set(answered) == one.has, (one, answered)
        else:
            assert answered is None or one.status < 300, (one, answered)
        if one.keep:
            self.kept[one.keep] = str(next(iter(answered.values())))
        return answered

    def _filled(self, text: str) -> str:
        for name, value in self.kept.items():
            text = text.replace(f"<{name}>", json.dumps(value)[1:-1])
        return text

    def all(self, service: str, asks: Sequence[Ask]) -> list[Any]:
        return [self.asked(service, one) for one in asks]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    world = World(tmp_path_factory.mktemp("curl"))
    try:
        world.hub.start()
        folder = world.folder
        (folder / "user.pem").write_text(world.pki.root.chain.pem())
        extra = f"""
[edgetrust.containers.grafana]
uid = {os.geteuid()}
[edgetrust.modules.speaker]
command = ["/bin/sh", "-c", "echo one; echo two; exec sleep 600"]
[localid]
domain = "contoso.local"
[cert_issuance.local_ca.cert]
method = "self_signed"
common_name = "the local CA"
[cert_issuance.certs.program]
method = "local_ca"
[preloaded_certs]
user = "file://{folder}/user.pem"
both = ["user", "aziot-edged-ca", "none"]
"""
        gateway = world.gateway(world.edge_device(), extra=extra)
        gateway.start()
        wait_until((gateway.root / "var/lib/aziot/edged/mnt/grafana/environment").exists)
        yield Site(world, gateway)
    finally:
        world.close()


def csr() -> str:
    key = SoftKey.generate("curl", KeyAlgorithm.P256)
    return request_for(key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "curl")])).decode()


# What all services do -------------------------------------------------------------------------------------------------

READING = {
    "keyd": "/key/none",
    "certd": "/certificates/aziot-edged-ca",
    "identityd": "/identities/identity",
    "workload": "/modules",
    "mgmt": "/systeminfo",
    "grafana": "/trust-bundle",
}


@pytest.mark.parametrize("service", READING)
def test_versions_paths_methods_and_bodies(site: Site, service: str) -> None:
    path, usual = READING[service], 400 if service == "keyd" else 200
    for version in SOCKETS[service][1]:
        assert site.curl(service, "GET", path, version=version)[0] == usual
    assert site.curl(service, "GET", path, version=None) == (400, {"message": "api-version not specified"})
    assert site.curl(service, "GET", path, version="2020") == (400, {"message": 'invalid api-version "2020"'})
    assert site.curl(service, "GET", "/nothing") == (404, {"message": "not found"})
    assert site.curl(service, "PATCH", path) == (400, {"message": NOT_ALLOWED})
    assert site.curl(service, "HEAD", path, "-I", "-o", "/dev/null") == (400, None)


# The key service ------------------------------------------------------------------------------------------------------


def sign(handle: str, algorithm: str, **parameters: str) -> dict[str, Any]:
    return {"keyHandle": handle, "algorithm": algorithm, "parameters": parameters}


def test_key_pairs(site: Site) -> None:
    aead = {"keyHandle": "<pair>", "algorithm": "AEAD", "parameters": {"iv": IV, "aad": ""}, "plaintext": ""}
    *_, algorithm, _, _, _ = site.all("keyd", [
        Ask("POST /keypair", {"keyId": "a b/c", "preferredAlgorithms": "dsa:ec-p256"}, has=HANDLE, keep="pair"),
        Ask("POST /keypair", {"keyId": "a b/c", "preferredAlgorithms": "rsa-2048"}, has=HANDLE),
        Ask("POST /keypair", {"keyId": "rsa", "preferredAlgorithms": "rsa-2048:*"}, has=HANDLE, keep="rsa"),
        Ask("POST /keypair", {"keyId": "any"}, has=HANDLE),
        Ask("POST /keypair", {"keyId": "x", "preferredAlgorithms": "dsa"}, 400, says='parameter "preferredAlgorithms"'),
        Ask("POST /keypair", {"keyId": ""}, 400, says=INVALID.format("keyId")),
        Ask("POST /keypair", {"keyId": "x" * 181}, 400, says=INVALID.format("keyId")),
        Ask(f"GET /keypair/{'x' * 6000}", status=400, says=INVALID.format("keyId")),
        Ask("GET /keypair/..%2F..%2Fetc%2Fpasswd", status=400, says=INVALID.format("keyId")),
        Ask("POST /keypair", {"id": "x"}, 422, says="Object missing required field `keyId`"),
        Ask("POST /keypair", status=400, says=NO_BODY),
        Ask("GET /keypair", status=400, says=NOT_ALLOWED),
        Ask("GET /keypair/a%20b%2Fc", has=HANDLE),
        Ask("GET /keypair/none", status=400, says=INVALID.format("keyId")),
        Ask("POST /keypair/moved", {"from": "a b/c"}, 204),
        Ask("POST /keypair/moved", {"from": "moved"}, 400, says=INVALID.format("from")),
        Ask("POST /keypair/moved", {"from": "a b/c"}, 400, says=INVALID.format("keyId")),
        Ask("GET /keypair/moved", has=HANDLE, keep="pair"),
        Ask("POST /sign", sign("<pair>", "ECDSA", digest=ZEROS), has=SIGNED),
        Ask("POST /sign", sign("<pair>", "ECDSA", digest="AAAA"), 400, says=INVALID.format("parameters")),
        Ask("POST /sign", sign("<pair>", "ECDSA", digest="%"), 422, says="Invalid base64"),
        Ask("POST /sign", sign("<pair>", "ECDSA"), 422, says="Object missing required field `digest`"),
        Ask("POST /sign", sign("<pair>", "SHA1", digest=ZEROS), 422, says="Invalid value 'SHA1'"),
        Ask("POST /sign", sign("<pair>", "HMAC-SHA256", message=ZEROS), 400, says=INVALID.format("handle")),
        Ask("POST /sign", sign("sr=e30=&sig=e30=", "ECDSA", digest=ZEROS), 400, says=INVALID.format("handle")),
        Ask("POST /encrypt", aead, 400, says=INVALID.format("handle")),
        Ask("POST /encrypt", {"keyHandle": "<rsa>", "algorithm": "RSA-PKCS1", "plaintext": ZEROS}, has={"ciphertext"}),
        Ask("POST /encrypt", {"keyHandle": "<rsa>", "algorithm": "RSA-NO-PADDING",
                              "plaintext": base64.b64encode(bytes(256)).decode()}, has={"ciphertext"}),
        Ask("POST /parameters/algorithm", {"keyHandle": "<pair>"}, has={"value"}),
        Ask("POST /parameters/rsa-modulus", {"keyHandle": "<pair>"}, 400, says=INVALID.format("name")),
        Ask("DELETE /keypair", {"keyHandle": "<pair>"}, 204),
        Ask("DELETE /keypair", {"keyHandle": "<pair>"}, 400, says=INVALID.format("keyId")),
    ])  # fmt: skip
    assert algorithm == {"value": "ECDSA"}
    for kind, names in (("any", ("ec-curve-oid", "ec-point")), ("rsa", ("rsa-modulus", "rsa-exponent"))):
        site.asked("keyd", Ask(f"GET /keypair/{kind}", has=HANDLE, keep="one"))
        for name in names:
            assert site.asked("keyd", Ask(f"POST /parameters/{name}", {"keyHandle": "<one>"}, has={"value"}))["value"]


def test_symmetric_keys(site: Site) -> None:
    aead = {"keyHandle": "<key>", "algorithm": "AEAD", "parameters": {"iv": IV, "aad": "AAAA"}}
    site.all("keyd", [
        Ask("POST /key", {"keyId": "s", "usage": "derive,sign,encrypt"}, has=HANDLE, keep="key"),
        Ask("POST /key", {"keyId": "s", "usage": "sign", "keyBytes": ZEROS}, has=HANDLE),
        Ask("POST /key", {"keyId": "s", "usage": "verify"}, 422, says="invalid usage 'verify'"),
        Ask("POST /key", {"keyId": "s"}, 422, says="Object missing required field `usage`"),
        Ask("PUT /key", {"keyId": "s"}, 400, says=NOT_ALLOWED),
        Ask("POST /key", {"keyId": "aziot-edged-ca", "usage": "sign", "keyBytes": ZEROS}, 400,
            says=INVALID.format("keyId") + "\ncaused by: there is a key pair of this name"),
        Ask("GET /key/s", has=HANDLE),
        Ask("GET /key/none", status=400, says=INVALID.format("keyId")),
        Ask("GET /key/handle-validation-key", status=401, says="user "),
        Ask("POST /sign", sign("<key>", "HMAC-SHA256", message="AAAA"), has=SIGNED),
        Ask("POST /encrypt", {**aead, "plaintext": "AAAA"}, has={"ciphertext"}, keep="cipher"),
        Ask("POST /decrypt", {**aead, "ciphertext": "<cipher>"}, has={"plaintext"}),
        Ask("POST /decrypt", {**aead, "parameters": {"iv": IV, "aad": ""}, "ciphertext": "<cipher>"}, 400,
            says=INVALID.format("parameters")),
        Ask("POST /decrypt", {**aead, "algorithm": "RSA-PKCS1", "ciphertext": "AAAA"}, 422, says="Invalid value"),
        Ask("POST /derivedkey", {"baseKeyHandle": "<key>", "derivationData": "AAAA"}, has=HANDLE, keep="derived"),
        Ask("POST /derivedkey", {"baseKeyHandle": "<derived>", "derivationData": ""}, 400,
            says=INVALID.format("baseKeyHandle") + "\ncaused by: nested derived keys are not supported"),
        Ask("POST /derivedkey/export", {"keyHandle": "<derived>"}, has={"key"}),
        Ask("POST /derivedkey/export", {"keyHandle": "<key>"}, 400, says=INVALID.format("handle")),
        Ask("POST /sign", sign("<derived>", "HMAC-SHA256", message="AAAA"), has=SIGNED),
        Ask("POST /encrypt", {**aead, "keyHandle": "<derived>", "plaintext": "AAAA"}, has={"ciphertext"}),
        Ask("DELETE /key", {"keyHandle": "<key>"}, 204),
        Ask("POST /sign", sign("<key>", "HMAC-SHA256", message="AAAA"), 400, says=INVALID.format("keyId")),
    ])  # fmt: skip


# The certificate service ----------------------------------------------------------------------------------------------


def test_certificates(site: Site) -> None:
    ca = {"certId": "aziot-edged-ca", "privateKeyHandle": "<ca>"}
    forged = {**ca, "privateKeyHandle": "x"}
    module = "aziot-edged%2Fmodule%2Fgrafana%3A1%3Aserver"
    site.asked("keyd", Ask("GET /keypair/aziot-edged-ca", has=HANDLE, keep="ca"))
    issued, *_ = site.all("certd", [
        Ask("POST /certificates", {"certId": "aziot-edged/module/grafana:1:server", "csr": csr(), "issuer": ca}, 201,
            has=PEM),
        Ask(f"GET /certificates/{module}", has=PEM),
        Ask(f"DELETE /certificates/{module}", status=204),
        Ask(f"DELETE /certificates/{module}", status=204),
        Ask(f"GET /certificates/{module}", status=400, says=INVALID.format("id")),
        Ask("POST /certificates", {"certId": "program", "csr": csr()}, 201, has=PEM),
        Ask("POST /certificates", {"certId": "nobody-says-how", "csr": csr()}, 500, says="internal error"),
        Ask("POST /certificates", {"certId": "x", "csr": "x", "issuer": ca}, 400, says=INVALID.format("csr")),
        Ask("POST /certificates", {"certId": "", "csr": csr(), "issuer": ca}, 400, says=INVALID.format("certId")),
        Ask("POST /certificates", {"certId": "x", "csr": csr(), "issuer": {**ca, "certId": "none"}}, 400,
            says=INVALID.format("issuer.certId")),
        Ask("POST /certificates", {"certId": "x", "csr": csr(), "issuer": forged}, 400,
            says=INVALID.format("issuer.privateKeyHandle")),
        Ask("POST /certificates", {"certId": "x"}, 422, says="Object missing required field `csr`"),
        Ask("POST /certificates", status=400, says=NO_BODY),
        Ask("GET /certificates", status=400, says=NOT_ALLOWED),
        Ask(f"GET /certificates/{'x' * 181}", status=400, says=INVALID.format("id")),
        Ask("PUT /certificates/x", {"pem": "not looked at"}, 201, has=PEM),
        Ask("PUT /certificates/x", {"text": ""}, 422, says="Object missing required field `pem`"),
        Ask("PUT /certificates/both", {"pem": ""}, 400, says=INVALID.format("certId")),
        Ask("DELETE /certificates/both", status=400, says=INVALID.format("certId")),
        Ask("GET /certificates/both", has=PEM),
    ])  # fmt: skip
    chain = x509.load_pem_x509_certificates(issued["pem"].encode())
    assert [one.subject.rfc4514_string() for one in chain[:2]] == ["CN=curl", "CN=iotedged workload ca edgegateway"]
    plain = site.curl("certd", "PUT", "/certificates/x", "-H", "Content-Type: text/plain", "-d", "{}")
    assert plain == (415, {"message": "request body must be application/json"})


# The identity service -------------------------------------------------------------------------------------------------


def test_identities(site: Site) -> None:
    module, local = {"type": "aziot", "moduleId": "curled"}, {"type": "local", "moduleId": "program"}
    device, made, listed, _, _, of_program = site.all("identityd", [
        Ask("GET /identities/identity", has=SPEC),
        Ask("POST /identities/modules", module, has=SPEC),
        Ask("GET /identities/modules?type=aziot", has={"identities"}),
        Ask("GET /identities/modules/curled?type=aziot", has=SPEC),
        Ask("PUT /identities/modules/curled?type=aziot", module, has=SPEC),
        Ask("POST /identities/modules", {**local, "localIdOpts": {"type": "x509", "attributes": "server"}}, has=SPEC),
    ])  # fmt: skip
    place = {"hubName": "localhost", "gatewayHost": "localhost", "deviceId": "EdgeGateway"}
    handle = device["spec"]["auth"].pop("keyHandle")
    assert device == {"type": "aziot", "spec": {**place, "auth": {"type": "x509", "certId": "device-id"}}}
    assert handle.startswith("sr=")
    assert made["spec"]["auth"].pop("keyHandle").startswith("sr=")
    assert made["spec"].pop("genId").isdigit()
    assert made == {"type": "aziot", "spec": {**place, "moduleId": "curled", "auth": {"type": "sas"}}}
    names = {one["spec"]["moduleId"]: set(one["spec"]) for one in listed["identities"]}
    assert names["curled"] == {"hubName", "gatewayHost", "deviceId", "moduleId", "genId"}
    assert set(names) >= {"$edgeHub", "curled"}
    assert set(of_program["spec"]["auth"]) == {"privateKey", "certificate", "expiration"}
    site.all("identityd", [
        Ask("POST /identities/device", {"type": "aziot"}, has=SPEC),
        Ask("POST /identities/device", {"type": "local"}, 400, says=INVALID.format("type")),
        Ask("POST /identities/device", status=400, says=NO_BODY),
        Ask("POST /identities/device/reprovision", {"type": "aziot"}, 204),
        Ask("GET /identities/provisioning", has={"source", "auth"}),
        Ask("GET /identities/modules?type=other", status=400, says=INVALID.format("type")),
        Ask("GET /identities/modules?type=local", has={"identities"}),
        Ask("GET /identities/modules/program?type=local", has=SPEC),
        Ask("GET /identities/modules/$edgeHub?type=aziot", has=SPEC),
        Ask("GET /identities/modules/none?type=aziot", status=400, says="there is no module 'none'"),
        Ask("GET /identities/modules/a%20b", status=400, says=INVALID.format("id")),
        Ask("POST /identities/modules", {"type": "aziot"}, 422, says="Object missing required field `moduleId`"),
        Ask("DELETE /identities/modules/curled?type=aziot", status=204),
        Ask("DELETE /identities/modules/program?type=local", status=204),
        Ask("DELETE /identities/modules", status=400, says=NOT_ALLOWED),
        Ask("GET /trust-bundle", has={"certificate"}),
    ])  # fmt: skip
    older = site.curl("identityd", "GET", "/identities/provisioning", version="2020-09-01")
    assert older == (404, {"message": "not found"})


# The module runtime ---------------------------------------------------------------------------------------------------


def test_the_workload_of_a_module(site: Site) -> None:
    server = {"commonName": "grafana.local", "expiration": "2099-01-01T00:00:00Z"}
    own, iv = "/modules/grafana/genid/1", {"initializationVector": IV}
    issued, identity, *_ = site.all("grafana", [
        Ask(f"POST {own}/certificate/server", server, 201, has=ISSUED),
        Ask("POST /modules/grafana/certificate/identity", {}, 201, has=ISSUED),
        Ask(f"POST {own}/certificate/server", {"commonName": "x" * 65}, 500, says="failed to generate csr subject"),
        Ask(f"POST {own}/certificate/server", {}, 422, says="Object missing required field `commonName`"),
        Ask(f"POST /modules/grafana/genid/{'1' * 200}/certificate/server", server, 400, says=INVALID.format("genId")),
        Ask(f"POST {own}/sign", {"keyId": "primary", "algo": "HMACSHA256", "data": "AAAA"}, has={"digest"}),
        Ask(f"POST {own}/sign", {"data": "%"}, 400, says=INVALID.format("data")),
        Ask(f"POST {own}/encrypt", {"plaintext": "AAAA", **iv}, has={"ciphertext"}, keep="sealed"),
        Ask(f"POST {own}/decrypt", {"ciphertext": "<sealed>", **iv}, has={"plaintext"}),
        Ask("POST /modules/grafana/genid/2/decrypt", {"ciphertext": "<sealed>", **iv}, 400,
            says=INVALID.format("body")),
        Ask("POST /modules/other/genid/1/sign", {"data": "AAAA"}, 403, says=FORBIDDEN),
        Ask("POST /modules/$edgeHub/genid/1/sign", {"data": "AAAA"}, 403, says=FORBIDDEN),
    ])  # fmt: skip
    assert issued["privateKey"]["type"] == identity["privateKey"]["type"] == "key"
    assert issued["privateKey"]["bytes"].startswith("-----BEGIN PRIVATE KEY-----")
    assert issued["expiration"].endswith("+00:00")
    site.all("workload", [
        Ask("POST /modules/grafana/genid/1/sign", {"data": "AAAA"}, 403, says=FORBIDDEN),
        Ask("POST /modules/grafana/genid/1/certificate/server", server, 403, says=FORBIDDEN),
        Ask("GET /modules", has={"modules"}),
        Ask("GET /modules/", has={"modules"}),
        Ask("GET /trust-bundle", has={"certificate"}),
        Ask("GET /manifest-trust-bundle", has={"certificate"}),
    ])  # fmt: skip


def test_management(site: Site) -> None:
    _, edge_hub, made, *_ = site.all("mgmt", [
        Ask("GET /modules", has={"modules"}),
        Ask("GET /modules/edgeHub"),
        Ask("POST /identities", {"moduleId": "managed", "managedBy": "IotEdge"}, has=IDENTITY),
        Ask("PUT /identities/managed", {"moduleId": "managed"}, has=IDENTITY),
        Ask("GET /identities", has={"identities"}),
        Ask("DELETE /identities/managed", status=204),
        Ask("PUT /identities/managed", {}, 500, says="there is no module 'managed'"),
        Ask("POST /identities", {"moduleId": "a b"}, 400, says=INVALID.format("moduleId")),
        Ask("GET /systeminfo", has={"osType", "architecture", "version", "kernelVersion", "cpus", "provisioning"}),
        Ask("GET /systeminfo/resources", has={"host_uptime", "process_uptime", "used_cpu", "used_ram", "total_ram",
                                              "disks"}),
        Ask("POST /modules", {"name": "x"}, 403, says="modules are declared in the configuration"),
        Ask("PUT /modules/x", {"name": "x"}, 403, says="modules are declared in the configuration"),
        Ask("DELETE /modules/x", status=403, says="modules are declared in the configuration"),
        Ask("GET /modules/none", status=404, says="there is no module 'none'"),
        Ask("POST /modules/none/restart", status=404, says="there is no module 'none'"),
        Ask("POST /modules/edgeHub/stop", status=403, says="the module 'edgeHub' is the gateway itself"),
        Ask("GET /modules/speaker/logs?tail=x", status=400, says=INVALID.format("tail")),
        Ask("GET /modules/speaker/logs?follow=yes", status=400, says=INVALID.format("follow")),
        Ask("GET /modules/speaker/logs?since=yesterday", status=400, says=INVALID.format("since")),
        Ask("GET /modules/edgeHub/logs", status=404, says="the log of the module 'edgeHub' is not kept here"),
        Ask("POST /device/reprovision", status=204),
    ])  # fmt: skip
    assert edge_hub["name"] == "edgeHub"
    assert made["authType"] == "sas"


def test_a_log_is_streamed_until_its_module_is_stopped(site: Site) -> None:
    socket = str(site.gateway.root / "run/iotedge/mgmt.sock")
    url = "http://localhost/modules/speaker/logs?api-version=2022-08-03&follow=true&since=1h&timestamps=true"
    log = site.gateway.root / "var/lib/edgetrust/modules/speaker.log"
    wait_until(lambda: log.exists() and log.read_text().endswith("two\n"), 20)
    with subprocess.Popen(["curl", "-sSN", "--unix-socket", socket, url], stdout=subprocess.PIPE, text=True) as asked:
        assert asked.stdout is not None
        assert asked.stdout.readline().endswith("Z one\n")  # while the answer is under way
        site.asked("mgmt", Ask("POST /modules/speaker/stop", status=204))
        rest = asked.stdout.read()
        assert asked.wait(30) == 0, "the answer is whole"
    assert rest.split(" ")[1:] == ["two\n"]


def test_no_key_is_in_the_log(site: Site) -> None:
    """Row 48: nothing of any key, whole or encoded, is written down."""
    log = site.gateway.text()
    assert "CN=localhost" in log
    for path in site.gateway.keys.glob("*.key"):
        body = path.read_bytes()
        secret = body.splitlines()[1].decode() if body.startswith(b"-----") else base64.b64encode(body).decode()
        assert secret not in log
    assert not [path for path in Path(site.gateway.root).rglob("*.key") if path.stat().st_mode & 0o077]
