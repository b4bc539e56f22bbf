"""Gateways and devices that have no way to the cloud but the gateway above them: certificates by EST and a hub by the
provisioning service, through two gateways, each level in a network of its own where that can be had. The lowest gateway
is four processes, as which it runs on machines that run more than that.

    cloud.plant.test (hub, provisioning service, EST), est.plant.test (EST, short lives) -- G1 -- G2 -- G3 -- devices
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetrust.pki.chain import Chain
from support.azure import PYTHON
from support.edge_world import Process, wait_until
from support.networks import Row
from support.ports import free_port

CLOUD, EST = "cloud.plant.test", "est.plant.test"
TOP, MIDDLE, BOTTOM, DEVICES = 1, 2, 3, 4
EST_PLACE = -1  # its process is in the place of the cloud
pytestmark = pytest.mark.filterwarnings("default:on loopback:UserWarning")
WAIT = 60.0


AUTHORITY = f"""
[ca]
database = "sqlite:///{{database}}"
registry = "sqlite:///{{database}}"
[listen]
host = "{{host}}"
https_port = {{port}}
names = ["{EST}"]
[lifetimes]
device = "2 min"
"""
AZURE = """
import sys
from azure.iot.device import X509, ProvisioningDeviceClient

host, scope, trust, certificate, key = sys.argv[1:]
with open(trust) as file:
    root = file.read()
client = ProvisioningDeviceClient.create_from_x509_certificate(
    host, "pump", scope, X509(certificate, key), server_verification_cert=root
)
result = client.register()
print(result.status, result.registration_state.assigned_hub, result.registration_state.device_id)
"""


class Plant:
    """The cloud, three gateways and a network of devices. Only G1 knows where the cloud is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.row = Row(DEVICES + 1)
        self.row.make()
        if not self.row.isolated:
            warnings.warn(UserWarning(f"on loopback, without networks of its own: {self.row.why_not}"), stacklevel=1)
        usual = (8883, 443) if self.row.isolated else (free_port(), free_port())
        self.ports = [usual] * DEVICES  # each has an address of its own
        self.processes: list[Process] = []
        for place in range(DEVICES + 1):
            names = {CLOUD: self.row.address(0), EST: self.row.address(0)} if place <= TOP else {}
            self.row.know(place, {CLOUD: self.row.address(BOTTOM)} if place == DEVICES else names)

    def begin(self) -> None:
        mqtt, https = self.ports[0]
        self.ready = self._start(0, "up", "--dir", str(self.folder / "hub"), "--host", CLOUD, "--bind",
                                 self.row.address(0), "--mqtt-port", str(mqtt), "--https-port", str(https))  # fmt: skip
        self.est_port = 8085 if self.row.isolated else free_port()
        authority = AUTHORITY.format(
            database=self.folder / "hub/hub.sqlite", host=self.row.address(0), port=self.est_port
        )
        (self.folder / "hub/ca/est.toml").write_text(authority)
        self._start(EST_PLACE, "ca", "serve", "-c", str(self.folder / "hub/ca/est.toml"))
        dps = ["--dir", str(self.folder / "hub")]
        (self.folder / "plant.yaml").write_text(json.dumps(self._topology()))
        self.edgetrust(0, "fleet", "apply", str(self.folder / "plant.yaml"), "--out", str(self.folder / "fleet"), *dps)
        identity = '[provisioning.attestation.identity_cert]\nmethod = "est"\ncommon_name = "G3"\nauto_renew = '
        soon = '{ rotate_key = true, threshold = "1%", retry = "1%" }'
        config = self.config(BOTTOM)
        text, count = re.subn(re.escape(identity) + r"\{.*\}", identity + soon, config.read_text())
        assert count == 1  # else as it was written
        config.write_text(text)
        for place in (TOP, MIDDLE, BOTTOM):
            self.serve(place)

    def _topology(self) -> dict[str, Any]:
        below: dict[str, Any] = {}
        for place in (BOTTOM, MIDDLE, TOP):
            mqtt, https = self.ports[place]
            address = self.row.address(place)
            below = {
                "id": f"G{place}",
                "hostname": address,
                "listen": address,
                **({"auth": "sas"} if place == TOP else {}),
                "mqtt_port": mqtt,
                "https_port": https,
                "devices": [{"id": f"Sensor{place}", "auth": "sas"}],
                **({"gateways": [below]} if below else {}),
            }
        services = {"enroll": "below", "est": {"url": f"https://{EST}:{self.est_port}/.well-known/est"}}
        return {
            "name": "plant",
            "install_dir": str(self.folder / "fleet"),
            "services": services,
            "gateways": [below],
        }

    def config(self, place: int) -> Path:
        return self.folder / f"fleet/G{place}/config.toml"

    def root(self, place: int) -> str:
        return str(self.folder / f"roots/G{place}")

    def serve(self, place: int) -> None:
        """Start a gateway: the lowest as four processes, of which each waits for those that it needs."""
        names = ("serve",) if place != BOTTOM else ("edged", "identityd", "certd", "keyd")
        started = [
            self._launch(place, f"{place}-{name}", "edge", name, "-c", str(self.config(place)), "--root",
                         self.root(place))
            for name in names
        ]  # fmt: skip
        for process in reversed(started):
            process.read_ready()

    def _start(self, place: int, *arguments: str) -> dict[str, Any]:
        return self._launch(place, str(place), *arguments).read_ready()

    def _launch(self, place: int, name: str, *arguments: str) -> Process:
        prefix = self.row.prefix(max(place, 0))
        process = Process([*arguments, "--json"], self.folder / f"{name}.log", prefix=prefix)
        self.processes.append(process)
        process.launch()
        return process

    def end(self) -> None:
        for process in self.processes:
            if process.running is not None:
                process.running.terminate()
        for process in self.processes:
            process.stop()
        self.row.close()

    def run(self, place: int, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.row.prefix(place), *words], capture_output=True, text=True, timeout=90, check=False,
            env={**os.environ, "EDGETRUST_DIR": str(self.folder / "hub") if place == 0 else ""},
        )  # fmt: skip

    def edgetrust(self, place: int, *arguments: str) -> str:
        done = self.run(place, sys.executable, "-m", "edgetrust.cli", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refusals(self, place: int) -> list[dict[str, Any]]:
        said = json.loads(self.edgetrust(place, "edge", "refusals", "--root", self.root(place), "--json"))
        return list(said["refusals"] if isinstance(said, dict) else said)

    def identity_print(self) -> str:
        """The thumbprint by which the hub knows G3."""
        shown = json.loads(self.edgetrust(0, "device", "show", "G3", "--json"))
        return str(shown["authentication"]["x509Thumbprint"]["primaryThumbprint"])

    def as_written(self, device: str) -> list[str]:
        """The command that the README of a device gives for sending."""
        text = (self.folder / "fleet" / device / "README.txt").read_text()
        line = next(line for line in text.splitlines() if "edgetrust device send" in line)
        return [sys.executable, "-m", "edgetrust.cli", *shlex.split(line)[1:]]

    def bodies(self, device: str) -> list[str]:
        done = self.run(0, sys.executable, "-m", "edgetrust.cli", "monitor", "--from", "start", "--device", device,
                        "--timeout", "1", "--json")  # fmt: skip
        return [line for line in done.stdout.splitlines() if line.startswith("{")]

    def checked(self, config: Path) -> dict[str, dict[str, Any]]:
        """What `edge check` finds about the services of G3."""
        done = self.run(BOTTOM, sys.executable, "-m", "edgetrust.cli", "edge", "check", "-c", str(config), "--root",
                        self.root(BOTTOM), "--json")  # fmt: skip
        found: dict[str, dict[str, Any]] = json.loads(done.stdout)["checks"]
        return {name: found[f"host-connect-{name}-endpoint"] for name in ("est", "dps")}

    def log(self, place: int) -> str:
        return (self.folder / f"{place}-serve.log").read_text()


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant(tmp_path_factory.mktemp("plant"))
    try:
        made.begin()
        yield made
    finally:
        made.end()


def test_the_lowest_gateway_is_issued_provisioned_and_renewed_through_the_others(plant: Plant) -> None:
    told = json.loads((Path(plant.root(BOTTOM)) / "var/lib/aziot/identityd/assignment.json").read_text())
    assert (told["hub"], told["device"]) == (CLOUD, "G3")
    shown = [json.loads(plant.edgetrust(0, "device", "show", f"G{place}", "--json")) for place in (MIDDLE, BOTTOM)]
    assert shown[1]["parentScopes"] == [shown[0]["deviceScope"]]  # provisioning left it where it stands
    first = plant.identity_print()

    wait_until(lambda: plant.identity_print() != first, WAIT)  # a new one by EST, registered before it is used
    identity = next(Path(plant.root(BOTTOM)).glob("var/lib/aziot/certd/certs/deviceid-*.cer"))
    wait_until(lambda: Chain.from_pem(identity.read_bytes()).thumbprint().hex().upper() != first.upper(), WAIT)
    for place in (TOP, MIDDLE):
        assert "forward.unreachable" not in plant.log(place)

    assert [one["outcome"] for one in plant.checked(plant.config(BOTTOM)).values()] == ["ok", "ok"]
    status = plant.edgetrust(MIDDLE, "edge", "status", "--root", plant.root(MIDDLE))
    assert re.search(rf"^passes on +{re.escape(CLOUD)}, {re.escape(EST)}; \d+ connections$", status, re.MULTILINE)
    sent = plant.run(DEVICES, *plant.as_written("Sensor3"))
    assert sent.returncode == 0, sent.stderr
    wait_until(lambda: plant.bodies("Sensor3") != [], WAIT)


def test_the_map_says_who_enrols_and_applying_again_changes_nothing(plant: Plant) -> None:
    bundles = ("--bundles", str(plant.folder / "fleet"), "--dir", str(plant.folder / "hub"))
    wait_until(lambda: plant.edgetrust(0, "fleet", "map", *bundles).count("thumbprint, connected") == 2, WAIT)
    drawn = plant.edgetrust(0, "fleet", "map", *bundles)
    for gateway in ("G2", "G3"):
        assert f"{gateway}  gateway, dps-est, thumbprint, connected, certificate: " in drawn
    assert "G1  gateway, sas, connected" in drawn
    again = ("fleet", "apply", str(plant.folder / "plant.yaml"), "--out", str(plant.folder / "again"))
    where = ("--dir", str(plant.folder / "hub"), "--dry-run", "--json")
    told = json.loads(plant.edgetrust(0, *again, *where))
    assert (told["changes"], told["services"]) == ([], [])
    group = json.loads(plant.edgetrust(0, "group", "show", "plant", "--json", "--dir", str(plant.folder / "hub")))
    assert (group["capabilities"], group["iotHubs"]) == ({"iotEdge": True}, [CLOUD])


def test_clients_that_nobody_told_of_gateways_reach_the_services_by_their_names(plant: Plant) -> None:
    """curl, strongSwan and Azure's SDK, for whom the name is the gateway's address, and its port the usual one."""
    url, trust = plant.ready["est"]["url"], plant.ready["trust_bundle"]
    assert plant.run(DEVICES, "curl", "-sSf", "--cacert", trust, f"{url}/cacerts").stdout.startswith("MI")
    password = Path(plant.ready["est"]["password_file"]).read_text().strip()
    folder = plant.folder / "pump"
    folder.mkdir()
    script = f"""set -e; cd {folder}
pki --gen --type ecdsa --size 256 --outform pem >key.pem
pki --req --in key.pem --type priv --dn CN=pump --outform der >csr.der
pki --est --url {url.removesuffix("/.well-known/est")} --cacert {trust} --in csr.der \
    --userpass {plant.ready["est"]["username"]}:{password} --outform pem >cert.pem
pki --est --url {url.removesuffix("/.well-known/est")} --cacert {trust} --in csr.der \
    --cert cert.pem --key key.pem --outform pem >renewed.pem
pki --estca --url {url.removesuffix("/.well-known/est")} --cacert {trust} --caout ca --outform pem
cat cert.pem ca*.pem >chain.pem"""
    done = plant.run(DEVICES, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    first, renewed = (Chain.from_pem((folder / name).read_bytes()) for name in ("cert.pem", "renewed.pem"))
    assert first.thumbprint() != renewed.thumbprint()  # its key was proven to the service itself

    address, port = plant.row.address(BOTTOM), plant.ports[0][1]
    other = f"https://{EST}:{plant.est_port}/.well-known/est/cacerts"
    way = f"{EST}:{plant.est_port}:{address}:{port}"
    told = plant.run(DEVICES, "curl", "-sSf", "--connect-to", way, "--cacert", trust, other)
    assert told.stdout.startswith("MI"), told.stderr

    est = plant.ready["est"]
    plant.edgetrust(DEVICES, "device", "enroll", "valve", "--est", other.removesuffix("/cacerts"), "--ca", trust,
                    "--through", f"{address}:{port}", "--into", str(folder / "valve"),
                    "--user", est["username"], "--password-file", est["password_file"])  # fmt: skip

    mqtt = plant.run(DEVICES, "openssl", "s_client", "-connect", f"{CLOUD}:{plant.ports[0][0]}", "-servername", CLOUD,
                     "-CAfile", trust, "-verify_hostname", CLOUD, "-verify_return_error")  # fmt: skip
    assert "Verify return code: 0 (ok)" in mqtt.stdout
    if plant.row.isolated:  # where the ports are the usual ones, which the SDK insists on
        registered = plant.run(DEVICES, str(PYTHON), "-c", AZURE, CLOUD, plant.ready["dps"]["id_scope"], trust,
                               str(folder / "chain.pem"), str(folder / "key.pem"))  # fmt: skip
        assert registered.stdout.split() == ["assigned", CLOUD, "pump"], registered.stderr


def test_no_other_name_is_passed_on_and_it_is_said_which(plant: Plant) -> None:
    address, port = plant.row.address(BOTTOM), plant.ports[0][1]
    for name in ("evil.example", f"{CLOUD}.evil.example", "localhost"):
        done = plant.run(DEVICES, "curl", "-sS", "--connect-to", f"{name}:{port}:{address}:{port}", "--cacert",
                         str(plant.folder / "fleet/Sensor3/trust.pem"), f"https://{name}:{port}/")  # fmt: skip
        assert "no alternative certificate subject name matches" in done.stderr
    found: dict[str, dict[str, Any]] = {}

    def both() -> bool:
        refusals = plant.refusals(BOTTOM)
        found.update({one["identity"]: one for one in refusals if one["reason"] == "forward-name-not-allowed"})
        return len(found) > 1

    wait_until(both, WAIT)
    assert set(found) == {"evil.example", f"{CLOUD}.evil.example"}
    assert CLOUD in found["evil.example"]["checks"][0]["detail"]
    assert "[edgetrust.forward]" in plant.edgetrust(BOTTOM, "explain", "forward-name-not-allowed")


def test_a_gateway_above_that_does_not_pass_on_is_named(plant: Plant) -> None:
    """A provisioning service that nobody passes on: the gateway above answers itself, and both ends say so."""
    config = plant.folder / "G4.toml"
    text = plant.config(BOTTOM).read_text().replace(CLOUD, "other.plant.test").replace("G3", "G4")
    text = text.replace("fleet/G4/", "fleet/G3/")  # whose bootstrap certificate is for no other name
    password = Path(plant.ready["est"]["password_file"]).read_text().strip()
    login = f'username = "{plant.ready["est"]["username"]}"\npassword = "{password}"\n'
    config.write_text(re.sub(r"bootstrap_identity_cert = .*\nbootstrap_identity_pk = .*\n", login, text))
    seen = plant.checked(config)
    assert (seen["est"]["outcome"], seen["dps"]["outcome"]) == ("ok", "error")
    assert f"let {plant.row.address(MIDDLE)} pass other.plant.test on" in seen["dps"]["fix"]
    done = plant.run(BOTTOM, sys.executable, "-m", "edgetrust.cli", "edge", "serve", "-c", str(config), "--root",
                     str(plant.folder / "roots/G4"))  # fmt: skip
    assert done.returncode == 1
    assert "is not trusted" in done.stderr
    assert f"let {plant.row.address(MIDDLE)} pass this name on" in done.stderr
    wait_until(lambda: "other.plant.test" in [one["identity"] for one in plant.refusals(MIDDLE)], WAIT)


def test_a_gateway_that_was_pruned_does_not_come_back_by_registering(plant: Plant) -> None:
    hub, est, key = ("--dir", str(plant.folder / "hub")), plant.ready["est"], plant.folder / "G5"
    plant.edgetrust(0, "device", "enroll", "G5", "--est", est["url"], "--ca", plant.ready["trust_bundle"], "--into",
                    str(key), "--user", est["username"], "--password-file", est["password_file"])  # fmt: skip
    held = ("--certificate", str(key / "cert.pem"), "--private-key", str(key / "key.pem"))

    def apply(*gateways: dict[str, str]) -> None:
        topology = json.loads((plant.folder / "plant.yaml").read_text())
        topology["gateways"][0]["gateways"] += gateways
        (plant.folder / "changed.yaml").write_text(json.dumps(topology))
        plant.edgetrust(0, "fleet", "apply", str(plant.folder / "changed.yaml"), "--prune", "--out",
                        str(plant.folder / "changed"), *hub)  # fmt: skip

    def register() -> subprocess.CompletedProcess[str]:
        return plant.run(0, sys.executable, "-m", "edgetrust.cli", "device", "provision", "G5", *held, *hub)

    apply({"id": "G5", "hostname": "g5.plant.test"})
    assert register().returncode == 0
    shown = json.loads(plant.edgetrust(0, "device", "show", "G5", "--json"))
    assert (shown["capabilities"], shown["parentScopes"] != []) == ({"iotEdge": True}, True)
    apply()
    refused = register()
    assert (refused.returncode, "the provisioning service refused" in refused.stderr) == (1, True), refused.stderr
    last = json.loads(plant.edgetrust(0, "refusals", "--json"))[0]
    assert (last["identity"], last["reason"]) == ("G5", "wrong-kind-of-credential")
    assert plant.run(0, sys.executable, "-m", "edgetrust.cli", "device", "show", "G5").returncode != 0
    apply({"id": "G5", "hostname": "g5.plant.test"})
    assert register().returncode == 0
