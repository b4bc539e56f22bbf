"""A gateway as four processes of four users: only the key service reads a private key, and no order of starts matters.

The gateway shows the hub its certificate, the Edge CA comes by EST with a bootstrap certificate, a device connects and
a module has something signed, all under strace.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from support.edge_world import Gateway, World, edgetrust, wait_until, write_holder
from support.est_server import Served
from support.module_process import ask, curl_arguments, parsed, processes_of
from support.pki import Holder, self_signed
from support.separated import NAMES, Separated, uid
from support.sockets import curl

_OPENED = re.compile(r'(?:open|openat|openat2|execve)\((?:AT_FDCWD, )?"([^"]+)"')
SCADA = 48_620  # a user of this machine with a local identity
EDGE_CA = "iotedged workload ca edgegateway"


@dataclass
class Site:
    world: World
    served: Served
    edge: Separated
    sensor: Holder
    control: Path

    @property
    def gateway(self) -> Gateway:
        """The running one, for clients."""
        folder = self.world.folder / "clients"
        folder.mkdir(exist_ok=True)
        made = Gateway([], folder / "log", root=folder / "root", hostname="localhost", trust=self.served.trust)
        lines = self.edge.log("edged", "out").read_text().splitlines()
        made.ready = json.loads(lines[-1])
        return made

    def publish(self, message: str) -> None:
        done = self.gateway.publish("TempSensor", message, holder=self.sensor)
        assert done.returncode == 0, done.stdout + done.stderr
        self.world.wait_for_events([message], "TempSensor")

    def opened(self, name: str) -> set[str]:
        return set(_OPENED.findall(self.edge.log(name, "trace").read_text()))


def _config(world: World, served: Served, edge: Path, control: Path) -> str:
    ports = world.hub.ready["hub"]
    command = json.dumps([sys.executable, "-m", "support.module_process", str(control)])
    return f"""
hostname = "localhost"
trust_bundle_cert = "file://{served.trust}"
[provisioning]
source = "manual"
iothub_hostname = "localhost"
device_id = "EdgeGateway"
[provisioning.authentication]
method = "x509"
identity_cert = "file://{edge}/identity.cert.pem"
identity_pk = "file://{edge}/identity.key.pem"
[cert_issuance.est]
trusted_certs = ["file://{served.trust}"]
[cert_issuance.est.auth]
bootstrap_identity_cert = "file://{edge}/bootstrap.pem"
bootstrap_identity_pk = "file://{edge}/bootstrap.key"
[cert_issuance.est.urls]
default = "{served.est.url}"
[cert_issuance.local_ca.cert]
method = "self_signed"
common_name = "local CA"
[cert_issuance.certs.scada]
method = "local_ca"
[localid]
domain = "contoso.local"
[[edgetrust.principal]]
uid = {SCADA}
name = "scada"
idtype = ["local"]
[edge_ca]
method = "est"
common_name = "{EDGE_CA}"
[edgetrust.listen]
host = "127.0.0.1"
[edgetrust.upstream]
host = "127.0.0.1"
mqtt_port = {ports["mqtt_port"]}
https_port = {ports["https_port"]}
ca = "file://{edge}/hub.pem"
[edgetrust.modules.grafana]
command = {command}
env = {{ PYTHONPATH = "{Path(__file__).parents[2]}" }}
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="separated-"))
    folder.chmod(0o755)
    served, world, edge = Served(folder), World(folder), None
    try:
        world.hub.start()
        identity = write_holder(folder, "identity", world.edge_device())
        sensor = self_signed("TempSensor", now=world.pki.now)
        world.thumbprint_device("TempSensor", sensor, "--parent", "EdgeGateway")
        control = Path(tempfile.mkdtemp(prefix="module-"))
        os.chown(control, uid("edged"), -1)
        edge = Separated(trace=True)
        edge.configure(_config(world, served, edge.file(""), control / "control.sock"))
        for key in (identity[1], served.key):
            edge.give(key, "keyd")
        for certificate in (identity[0], served.certificate):
            edge.file(certificate.name).write_bytes(certificate.read_bytes())
        edge.file("hub.pem").write_bytes(Path(world.hub.ready["trust_bundle"]).read_bytes())
        edge.start(reversed(NAMES))  # whoever needs another waits for it
        edge.ready("edged", seconds=60)
        wait_until((control / "control.sock").exists)
        yield Site(world, served, edge, sensor, control / "control.sock")
    finally:
        if edge is not None:
            edge.close()
        world.close()
        served.stop()


def test_a_device_connects_and_its_telemetry_is_at_the_hub(site: Site) -> None:
    site.publish("21")
    assert [one.client for one in site.served.est.asked] == ["CN=bootstrap", f"CN={EDGE_CA}"]
    shown = site.gateway.s_client("-showcerts", "-verify_hostname", "localhost", "-nameopt", "RFC2253")
    assert f"i:CN={EDGE_CA}" in shown
    assert "Verify return code: 0 (ok)" in shown


def test_a_module_signs_with_the_key_that_the_hub_has(site: Site) -> None:
    """`identityd` names the key, `keyd` uses it, and `edged` never has the master key."""
    told: dict[str, str] = json.loads(ask(site.control, "environment"))
    route = f"/modules/grafana/genid/{told['IOTEDGE_MODULEGENERATIONID']}/sign"
    body = {"keyId": "primary", "algo": "HMACSHA256", "data": base64.b64encode(b"to sign").decode()}
    socket = told["IOTEDGE_WORKLOADURI"].removeprefix("unix://")
    status, answered = parsed(ask(site.control, *curl_arguments(socket, "POST", route, body, "2022-08-03")))
    shown = edgetrust(
        "module", "show", "EdgeGateway", "grafana", "--keys", "--json", "--dir", str(site.world.hub_folder)
    )
    key = base64.b64decode(json.loads(shown.stdout)["authentication"]["symmetricKey"]["primaryKey"])
    assert status == 200
    assert base64.b64decode(answered["digest"]) == hmac.new(key, b"to sign", hashlib.sha256).digest()


def test_what_a_module_encrypts_only_it_can_read(site: Site) -> None:
    told: dict[str, str] = json.loads(ask(site.control, "environment"))
    socket, generation = told["IOTEDGE_WORKLOADURI"].removeprefix("unix://"), told["IOTEDGE_MODULEGENERATIONID"]
    iv = base64.b64encode(b"i" * 16).decode()

    def call(what: str, generation: str, **body: str) -> tuple[int, Any]:
        route, body = f"/modules/grafana/genid/{generation}/{what}", {**body, "initializationVector": iv}
        return parsed(ask(site.control, *curl_arguments(socket, "POST", route, body, "2022-08-03")))

    plaintext = base64.b64encode(b"secret").decode()
    _, sealed = call("encrypt", generation, plaintext=plaintext)
    assert call("decrypt", generation, ciphertext=sealed["ciphertext"]) == (200, {"plaintext": plaintext})
    status, refused = call("decrypt", "1", ciphertext=sealed["ciphertext"])
    assert status == 400
    assert "was not made with this key" in refused["message"]


def test_a_local_identity_is_certified_by_a_ca_that_is_issued_here(site: Site) -> None:
    """The local CA's key is made and used by the key service; the identity's own goes to its user and nowhere else."""
    socket = str(site.edge.root / "run/aziot/identityd.sock")
    url = "http://localhost/identities/modules/scada?type=local&api-version=2021-12-01"
    own = ["setpriv", f"--reuid={SCADA}", f"--regid={SCADA}", f"--groups={uid('identityd')}"]  # may use the socket
    asked = ["curl", "-sS", "--unix-socket", socket, url]
    done = subprocess.run([*own, *asked], capture_output=True, text=True, timeout=60, check=True)
    issued = json.loads(done.stdout)["spec"]["auth"]
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-issuer", "-nameopt", "RFC2253"],
        input=issued["certificate"], capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    assert shown.splitlines() == ["subject=CN=scada.localhost.contoso.local", "issuer=CN=local CA"]
    local_ca = curl(site.edge.root / "run/aziot/certd.sock", "GET", "/certificates/local-ca", version="2020-09-01")[1]
    leaf = x509.load_pem_x509_certificate(issued["certificate"].encode())
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(local_ca["pem"].encode()))
    key = load_pem_private_key(issued["privateKey"].encode(), None)
    assert key.public_key() == leaf.public_key()
    refused = subprocess.run(
        [*own, *asked[:-1], url.replace("scada", "other")], capture_output=True, text=True, timeout=60, check=False
    )
    assert "is not authorized" in refused.stdout


def test_only_the_key_service_opens_a_private_key(site: Site) -> None:
    """Since the start: enrolment, connections, signatures; as strace saw it."""
    site.publish("22")
    keys = str(site.edge.root / "var/lib/aziot/keyd/")
    wanted = {name: {path for path in site.opened(name) if _is_key(path, keys)} for name in NAMES}
    assert {name for name, paths in wanted.items() if paths} == {"keyd"}, wanted
    assert all(site.opened(name) for name in NAMES), "every process was watched"


def _is_key(path: str, keys: str) -> bool:
    return path.startswith(keys) or path.endswith((".key", ".key.pem"))


def test_the_files_let_nobody_else_read_a_key(site: Site) -> None:
    """Every file with a private or symmetric key belongs to the key service's user, who alone may read it."""
    keys = list((site.edge.root / "var/lib/aziot/keyd/keys").glob("*.key"))
    assert len(keys) >= 4, keys
    for path in keys:
        assert path.stat().st_uid == uid("keyd")
        assert path.stat().st_mode & 0o777 == 0o600
    for path in site.edge.root.rglob("*"):
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
            assert path.stat().st_uid == uid("keyd"), path
    assert os.geteuid() == 0, "run the tests as root: with one user for all nothing is shown"
    for name in ("certd", "identityd", "edged"):
        read = subprocess.run(
            ["setpriv", f"--reuid={uid(name)}", "cat", str(keys[0])], capture_output=True, check=False
        )
        assert read.returncode != 0
        assert b"Permission denied" in read.stderr


def test_each_user_has_the_keys_and_certificates_of_its_service_only(site: Site) -> None:
    keyd, certd = (site.edge.root / f"run/aziot/{name}.sock" for name in ("keyd", "certd"))
    assert curl(keyd, "GET", "/key/aziot_identityd_master_id", version="2021-05-01")[0] == 200  # root may
    for name, path, allowed in (
        ("identityd", "/key/aziot_identityd_master_id", True),
        ("edged", "/key/aziot_identityd_master_id", False),
        ("certd", "/key/iotedge_master_encryption_id", False),
        ("edged", "/key/iotedge_master_encryption_id", True),
        ("edged", "/keypair/aziot-edged-ca", True),
        ("identityd", "/keypair/device-id", True),
        ("edged", "/keypair/device-id", False),
    ):
        assert (_asked_as(name, keyd, path) == 200) is allowed, (name, path)
    assert _asked_as("edged", certd, "/certificates/aziot-edged-ca", "2020-09-01") == 200
    assert _asked_as("keyd", certd, "/certificates/aziot-edged-ca", "2020-09-01") == 0, "not in the group"


def _asked_as(name: str, socket: Path, path: str, version: str = "2021-05-01") -> int:
    groups = ",".join(str(uid(one)) for one in (NAMES[: NAMES.index(name)] or (name,)))
    url = f"http://localhost{path}?api-version={version}"
    done = subprocess.run(
        ["setpriv", f"--reuid={uid(name)}", f"--regid={uid(name)}", f"--groups={groups}",
         "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(socket), url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_each_may_be_killed_and_started_again(site: Site, name: str) -> None:
    """The others go on, and nothing is lost: same keys, same certificates, devices connect."""
    state = site.edge.root / "var/lib/edgetrust/status.json"
    wait_until(lambda: processes_of(site.edge.root) != {})
    before, modules = _identity_of(state), set(processes_of(site.edge.root))
    started = len(site.edge.log(name, "out").read_text().splitlines())
    site.edge.notified()
    site.edge.end(name, signal.SIGKILL)
    if name == "edged":  # no module outlives it
        wait_until(lambda: not modules & set(processes_of(site.edge.root)))
    site.edge.start((name,))
    site.edge.ready(name, started + 1)
    told = list[str]()  # right after the line that says so
    wait_until(lambda: told.extend(site.edge.notified()) or told != [])
    assert told == ["READY=1"]
    site.publish(f"after {name}")
    assert _identity_of(state) == before


def _identity_of(state: Path) -> tuple[str, str]:
    content = json.loads(state.read_text())
    edge_ca = next(one for one in content["certificates"] if one["id"] == "aziot-edged-ca")
    return content["identity"]["generation"], edge_ca["thumbprint"]
