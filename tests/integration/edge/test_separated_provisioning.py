"""A gateway as four processes that a provisioning service sends to its hub: by each attestation, watched by strace.

One gateway for all: its configuration is replaced, the services are started again, and the module runtime follows by
itself to the device that it is by then.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from support.edge_world import Gateway, World, edgetrust, wait_until, write_holder
from support.est_server import Asked, Served, TestEst
from support.pki import Holder, self_signed
from support.provisioned import by_key, enroll, hub_knows
from support.separated import NAMES, Separated, uid
from support.sockets import curl
from support.tpm import Tpm

_OPENED = re.compile(r'(?:open|openat|openat2|execve)\((?:AT_FDCWD, )?"([^"]+)"')
_SERVICES = ("keyd", "certd", "identityd")
# Due at once, two minutes before its end: looked at every six seconds.
_SHORT = TestEst(life=timedelta(minutes=10), begin=timedelta(minutes=-8))


@dataclass
class Site:
    world: World
    served: Served
    edge: Separated
    sensors: dict[str, Holder] = field(default_factory=dict)

    @property
    def gateway(self) -> Gateway:
        """The running one, for clients."""
        folder = self.world.folder / "clients"
        folder.mkdir(exist_ok=True)
        trust = folder / "trust.pem"
        trust.write_text(self.world.pki.bundle.pem())
        made = Gateway([], folder / "log", root=folder / "root", hostname="localhost", trust=trust)
        made.ready = self.state()  # where the device that it is by now is served
        return made

    def state(self) -> dict[str, Any]:
        path = self.edge.root / "var/lib/edgetrust/status.json"
        return dict(json.loads(path.read_text())) if path.exists() else {"identity": {}}

    def attest(self, name: str, attestation: str, extra: str = "") -> None:
        """Start the services with another configuration; the runtime follows to the device `name`."""
        self.edge.configure(_config(self.world, self.edge, attestation, extra))
        for one in reversed(_SERVICES):
            if one in self.edge.running:
                self.edge.end(one)
        starts = self.starts("identityd") if self.edge.log("identityd", "out").exists() else 0
        self.edge.start(_SERVICES)
        if "edged" not in self.edge.running:
            if starts:  # until the identity service says otherwise it goes on as what it was
                self.edge.ready("identityd", starts + 1)
            self.edge.start(("edged",))
        else:
            self.edge.ready("identityd", starts + 1)
            self.ask_again()
        self.is_now(name)

    def ask_again(self) -> None:
        """Have the runtime see what the device is."""
        management = self.edge.root / "run/iotedge/mgmt.sock"
        assert curl(management, "POST", "/device/reprovision", {}, version="2022-08-03")[0] == 204

    def is_now(self, name: str) -> None:
        """Wait until the runtime is the device `name`."""
        try:
            wait_until(lambda: self.state()["identity"].get("device") == name)
        except AssertionError as late:
            logs = "".join(f"--- {one}\n{self.edge.log(one).read_text()[-1500:]}" for one in NAMES)
            raise AssertionError(f"{self.state()['identity']} is not {name}\n{logs}") from late

    def starts(self, name: str) -> int:
        return len(self.edge.log(name, "out").read_text().splitlines())

    def publish(self, device: str, message: str) -> None:
        """A sensor below the gateway `device` reaches the hub."""
        sensor = f"Sensor{device}"
        if device not in self.sensors:
            self.sensors[device] = self_signed(sensor, now=self.world.pki.now)
            self.world.thumbprint_device(sensor, self.sensors[device], "--parent", device)
        done = self.gateway.publish(sensor, message, holder=self.sensors[device])
        assert done.returncode == 0, done.stdout + done.stderr + self.edge.log("edged").read_text()[-2000:]
        self.world.wait_for_events([message], sensor)

    def opened(self, name: str) -> set[str]:
        return set(_OPENED.findall(self.edge.log(name, "trace").read_text()))


def _config(world: World, edge: Separated, attestation: str, extra: str) -> str:
    ready = world.hub.ready
    return f"""
hostname = "localhost"
trust_bundle_cert = "file://{edge.file("trust.pem")}"
[provisioning]
source = "dps"
global_endpoint = "https://localhost:{ready["dps"]["https_port"]}/"
id_scope = "{ready["dps"]["id_scope"]}"
{attestation}
[edge_ca]
cert = "file://{edge.file("edge-ca.cert.pem")}"
pk = "file://{edge.file("edge-ca.key.pem")}"
[edgetrust.listen]
host = "127.0.0.1"
[edgetrust.upstream]
host = "127.0.0.1"
mqtt_port = {ready["hub"]["mqtt_port"]}
https_port = {ready["hub"]["https_port"]}
ca = "file://{edge.file("hub.pem")}"
{extra}
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="separated-"))
    folder.chmod(0o755)
    served, world, edge = Served(folder, _SHORT), World(folder), None
    try:
        world.hub.start()
        edge = Separated(trace=True)
        edge.file("trust.pem").write_text(world.pki.bundle.pem())
        edge.file("hub.pem").write_bytes(Path(world.hub.ready["trust_bundle"]).read_bytes())
        certificate, key = write_holder(folder, "edge-ca", world.edge_ca(), root=True)
        edge.give(key, "keyd")
        edge.file(certificate.name).write_bytes(certificate.read_bytes())
        yield Site(world, served, edge)
    finally:
        if edge is not None:
            edge.close()
        world.close()
        served.stop()
        shutil.rmtree(folder)


def _trust_at_dps(world: World, name: str, pem: str) -> None:
    path = world.folder / f"{name}.pem"
    path.write_text(pem)
    edgetrust("dps", "ca", "add", name, str(path), "--verified", "--dir", str(world.hub_folder))
    enroll(world, "group", "create", name, "--ca-name", name)


def _by_group_key(site: Site, name: str) -> Path:
    """The derived key of a group, in a file of the key service."""
    enroll(site.world, "group", "create", f"group-{name}")
    derived = edgetrust("group", "key", f"group-{name}", name, "--dir", str(site.world.hub_folder)).stdout.strip()
    plain = site.world.folder / f"{name}.key"
    plain.write_bytes(base64.b64decode(derived))
    given = site.edge.give(plain, "keyd")
    site.attest(name, by_key(derived, name).replace(f'value = "{derived}"', f'uri = "file://{given}"'))
    return given


def _only_keyd_read_keys(site: Site, keys: set[str]) -> None:
    own = str(site.edge.root / "var/lib/aziot/keyd/")
    for name in NAMES:
        read = {path for path in site.opened(name) if path.startswith(own) or path in keys}
        assert bool(read) is (name == "keyd"), (name, read)


def test_by_the_key_of_a_group_then_without_the_service(site: Site) -> None:
    """Each process is killed and started again while the enrollment is disabled: nothing asks anew, nothing is lost."""
    name = "ByGroupKey"
    key = _by_group_key(site, name)
    site.publish(name, "0")
    status, told = curl(
        site.edge.root / "run/aziot/identityd.sock", "GET", "/identities/provisioning", version="2021-12-01"
    )
    assert (status, told["source"], told["auth"], told["registration_id"]) == (200, "dps", "symmetric_key", name)
    edgetrust("group", "disable", f"group-{name}", "--dir", str(site.world.hub_folder))
    before = site.state()["identity"]
    for number, one in enumerate(NAMES, 1):
        started = site.starts(one)
        site.edge.end(one, signal.SIGKILL)
        site.edge.start((one,))
        site.edge.ready(one, started + 1)
        site.publish(name, str(number))
        assert site.state()["identity"] == before
    _only_keyd_read_keys(site, {str(key)})


def test_by_a_certificate_of_a_group(site: Site) -> None:
    name = "ByFiles"
    _trust_at_dps(site.world, "contoso", site.world.pki.root.chain.pem())
    certificate, key = write_holder(site.world.folder, name, site.world.pki.device(name))
    given = site.edge.give(key, "keyd")
    site.edge.file(certificate.name).write_bytes(certificate.read_bytes())
    site.attest(
        name,
        '[provisioning.attestation]\nmethod = "x509"\n'  # the common name is the registration
        f'identity_cert = "file://{site.edge.file(certificate.name)}"\nidentity_pk = "file://{given}"',
    )
    site.publish(name, "1")
    _only_keyd_read_keys(site, {str(given)})


def test_by_a_certificate_that_is_issued_by_est(site: Site) -> None:
    """It is renewed too, as is the identity that buys it: the service and the hub know each before it is used, and the
    runtime shows what is in use, and how it renews itself.
    """
    name, asked = "ByEst", site.served.est.asked
    _trust_at_dps(site.world, "est", site.served.est.pki.root.chain.pem())
    key = site.edge.give(site.served.key, "keyd")
    certificate = site.edge.file("bootstrap.pem")
    certificate.write_bytes(site.served.certificate.read_bytes())
    issuance = site.served.issuance()
    issuance = issuance.replace(str(site.served.key), str(key)).replace(str(site.served.certificate), str(certificate))
    issuance = issuance.replace(str(site.served.trust), str(site.edge.file("est.pem")))
    site.edge.file("est.pem").write_bytes(site.served.trust.read_bytes())
    if "edged" in site.edge.running:  # it tells how the certificate is renewed from the configuration that it has read
        site.edge.end("edged")
    site.attest(
        name,
        f'[provisioning.attestation]\nmethod = "x509"\nregistration_id = "{name}"\n'
        f'[provisioning.attestation.identity_cert]\nmethod = "est"\ncommon_name = "{name}"\n'
        'auto_renew = { rotate_key = true, threshold = "80%", retry = "4%" }',
        issuance,
    )
    site.publish(name, "1")
    first = hub_knows(site.world, name)
    assert [one.client for one in asked][:2] == ["CN=bootstrap", f"CN={name}"]

    def renewed() -> bool:
        shown = next(one for one in site.state()["certificates"] if one["id"] == "device-id")
        assert shown["auto_renew"]["threshold"] == "80%"
        return first != shown["thumbprint"].upper() == hub_knows(site.world, name)

    wait_until(renewed)
    wait_until(lambda: any(_for_client(one) for one in asked[1:]))
    identities, body = site.edge.root / "run/aziot/identityd.sock", {"type": "aziot", "moduleId": "late"}
    assert curl(identities, "POST", "/identities/modules", body, version="2021-12-01")[0] == 200
    assert {one.client for one in asked[1:]} == {f"CN={name}"}
    for one in ("certd", "identityd"):
        assert "not_renewed" not in site.edge.log(one).read_text()
    _only_keyd_read_keys(site, {str(key)})


def _for_client(one: Asked) -> bool:
    """Whether it is the identity that authenticates at the EST server, which alone asks for a use."""
    return bool(list(one.request.extensions))


def test_by_tpm(site: Site) -> None:
    """The key service alone uses the TPM, a restart needs no service, and a device that is moved is followed."""
    name, folder = "ByTpm", site.edge.root / "tpm"
    with Tpm(folder) as chip:
        endorsement, _ = chip.keys()
        (site.world.folder / "ek.pub").write_bytes(endorsement)
        enroll(site.world, "enrollment", "create", name, "--endorsement-key", str(site.world.folder / "ek.pub"))
        for path in (folder, *folder.glob("*.sock*")):
            os.chown(path, uid("keyd"), -1)
        site.attest(
            name,
            f'[provisioning.attestation]\nmethod = "tpm"\nregistration_id = "{name}"',
            f'[tpm]\ntcti = "swtpm:path={chip.socket}"',
        )
        site.publish(name, "1")
        edgetrust("enrollment", "disable", name, "--dir", str(site.world.hub_folder))
        started = site.starts("identityd")
        site.edge.end("identityd", signal.SIGKILL)
        site.edge.start(("identityd",))
        site.edge.ready("identityd", started + 1)
        identities = site.edge.root / "run/aziot/identityd.sock"
        body = {"type": "aziot", "moduleId": "m"}
        assert curl(identities, "POST", "/identities/modules", body, version="2021-12-01")[0] == 200
        edgetrust("enrollment", "enable", name, "--dir", str(site.world.hub_folder))
        edgetrust("enrollment", "update", name, "--device-id", "Moved", "--dir", str(site.world.hub_folder))
        site.ask_again()
        site.is_now("Moved")  # the services that a supervisor gave sockets take them again
        site.publish("Moved", "2")
        users = {one for one in NAMES if any("/tpm2_" in path for path in site.opened(one))}
        assert users == {"keyd"}


def test_a_service_that_refuses_leaves_the_runtime_waiting_and_says_why(site: Site) -> None:
    """`identityd` ends with the cause; who supervises it starts it again, and the others have not noticed."""
    _by_group_key(site, "WrongFirst")
    site.edge.configure(_config(site.world, site.edge, by_key("d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXkgISE=", "X"), ""))
    site.edge.end("keyd")
    site.edge.end("identityd")
    site.edge.start(("keyd", "identityd"))
    assert site.edge.running.pop("identityd").wait(60) == 1
    assert "the provisioning service refused: 401" in site.edge.log("identityd").read_text()
    assert site.edge.running["edged"].poll() is None
    site.publish("WrongFirst", "still")
