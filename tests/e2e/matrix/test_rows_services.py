"""Rows 7, 42 to 48, 70, 72, 79, 81, 88, 89, 98 to 103 and 110: certificates by EST, module identities, modules."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from support.edge_world import Gateway, World, edgetrust, wait_until, write_holder
from support.est_server import Served, TestEst
from support.module_process import ask, curl_arguments, parsed
from support.pki import Holder, openssl, self_signed
from support.story import false_server
from support.tokens import PIN, TOKENS

EDGE_CA = "iotedged workload ca edgegateway"
WORKLOAD, IDENTITY = "2022-08-03", "2022-08-01"


@dataclass
class Site:
    """A gateway whose Edge CA comes by EST, with a sensor below it and a module that does what a test says."""

    world: World
    served: Served
    gateway: Gateway
    identity: Holder
    sensor: Holder
    control: Path

    def module(self, *arguments: str) -> str:
        """Run a program as the module's process."""
        return ask(self.control, *arguments)

    def told(self) -> dict[str, str]:
        return dict(json.loads(self.module("environment")))

    def workload(self, method: str, route: str, body: Any = None, *, inside: bool = True) -> tuple[int, Any]:
        """Ask the workload API with curl, from the module's process or from here."""
        path = self.told()["IOTEDGE_WORKLOADURI"].removeprefix("unix://")
        arguments = curl_arguments(path, method, route, body, WORKLOAD)
        if inside:
            return parsed(self.module(*arguments))
        return parsed(subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True).stdout)

    def identities(self, method: str, route: str, body: Any = None) -> tuple[int, Any]:
        path = str(self.gateway.root / "run/aziot/identityd.sock")
        arguments = curl_arguments(path, method, route, body, IDENTITY)
        return parsed(subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True).stdout)

    def hub_keys(self, module: str) -> dict[str, str]:
        done = edgetrust(
            "module", "show", "EdgeGateway", module, "--keys", "--json", "--dir", str(self.world.hub_folder)
        )
        keys: dict[str, str] = json.loads(done.stdout)["authentication"]["symmetricKey"]
        return keys

    @property
    def generation(self) -> str:
        return self.told()["IOTEDGE_MODULEGENERATIONID"]


def begin(folder: Path, *, est: TestEst | None = None, **identity: Any) -> Site:
    folder.mkdir(exist_ok=True)
    served, world = Served(folder, est), World(folder)
    try:
        world.hub.start()
        holder = world.edge_device(holder=self_signed("EdgeGateway", now=datetime.now(UTC), **identity))
        sensor = self_signed("TempSensor", now=world.pki.now)
        world.thumbprint_device("TempSensor", sensor, "--parent", "EdgeGateway")
        control = Path(tempfile.mkdtemp(prefix="module-")) / "control.sock"
        command = json.dumps([sys.executable, "-m", "support.module_process", str(control)])
        extra = f"""{served.issuance()}
[edge_ca]
method = "est"
common_name = "{EDGE_CA}"
[edgetrust.modules.grafana]
command = {command}
env = {{ PYTHONPATH = "{Path(__file__).parents[2]}" }}
"""
        gateway = world.gateway(holder, quickstart=True, extra=extra)
        root = served.est.pki.bundle.pem()
        gateway.trust.write_text(root)
        gateway.start()
        wait_until(control.exists)
    except BaseException:
        world.close()
        served.stop()
        raise
    return Site(world, served, gateway, holder, sensor, control)


def end(site: Site) -> None:
    site.world.close()
    site.served.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = begin(tmp_path_factory.mktemp("site"))
    yield made
    end(made)


# Certificates by EST ------------------------------------------------------------------------------------------------


def test_row_099_no_certificate_file_is_copied_but_roots_and_the_bootstrap(site: Site) -> None:
    """The Edge CA comes from the EST server; the configuration names only roots and the bootstrap certificate."""
    config = (site.world.folder / "gateway/config.toml").read_text()
    assert '[edge_ca]\nmethod = "est"' in config
    assert {one.request.subject.rfc4514_string() for one in site.served.est.asked} >= {f"CN={EDGE_CA}"}
    held = edgetrust("cert", "status", str(site.gateway.root), "--json").stdout
    renewing = {one["id"]: one["renewsItself"] for one in json.loads(held)}
    assert renewing["aziot-edged-ca"] is True
    assert renewing["est-id"] is True


def test_row_100_a_certificate_authenticates_to_the_est_server(site: Site) -> None:
    """Every enrolment carries a client certificate in TLS, and no password."""
    assert all(one.client is not None and one.authorization is None for one in site.served.est.asked)


def test_row_101_the_bootstrap_certificate_authenticates_first(site: Site) -> None:
    """The EST log's first request has the subject of the bootstrap certificate, which lives long."""
    assert site.served.est.asked[0].client == "CN=bootstrap"


def test_row_102_an_identity_is_requested_at_the_first_time(site: Site) -> None:
    """The EST identity lies in its file, and the EST server's CA has issued it."""
    file = site.gateway.certificates / ("estid-c45f3e96a312cc524fecceddbc40dfc2aa789eae911d8bc7dd4eda19b93be900.cer")
    issuer = openssl("x509", "-in", str(file), "-noout", "-issuer").stdout
    assert "Test Intermediate 1" in issuer


def test_row_103_the_identity_asks_from_then_on(site: Site) -> None:
    """The bootstrap once, then the identity; when its file is deleted, the bootstrap again."""
    asked = site.served.est.asked
    assert [one.client for one in asked[:2]] == ["CN=bootstrap", f"CN={EDGE_CA}"]
    site.gateway.stop()
    for file in (*site.gateway.certificates.glob("estid-*"), *site.gateway.certificates.glob("aziotedgedca-*")):
        file.unlink()
    before = len(asked)
    site.gateway.start()
    wait_until(site.control.exists)
    assert [one.client for one in asked[before:]] == ["CN=bootstrap", f"CN={EDGE_CA}"]


def test_row_070_the_edge_ca_has_the_articles_name(site: Site) -> None:
    """The Edge CA's subject is what the configuration says."""
    shown = site.gateway.s_client("-showcerts")
    assert f"1 s:CN = {EDGE_CA}" in shown or f"1 s:CN={EDGE_CA}" in shown


def test_row_098_own_certificates_or_made_by_themselves(site: Site) -> None:
    """With the Edge CA from EST nothing is provided by hand; the server certificate is made by itself, below it."""
    shown = site.gateway.s_client("-verify_hostname", "localhost")
    assert "Verify return code: 0 (ok)" in shown
    names = [file.name.split("-")[0] for file in site.gateway.certificates.glob("*.cer")]
    assert sum(name.startswith("aziotedgedmoduleedgeHub") for name in names) == 1


def test_row_079_a_refused_renewal_ends_the_trust_in_a_gateway(tmp_path: Path) -> None:
    """The EST server refuses; the gateway tries again and says so until the end; then clients reject it."""
    est = TestEst(life=timedelta(seconds=75), begin=timedelta(seconds=-60))
    site = begin(tmp_path / "site", est=est)
    try:
        est.answer = lambda: web.Response(status=403, text="compromised")
        wait_until(lambda: "certificate has expired" in site.gateway.s_client())
        done = site.gateway.publish("TempSensor", holder=site.sensor)
        assert done.returncode != 0
        wait_until(lambda: "compromised" in site.gateway.text())
        shown = edgetrust("cert", "status", str(site.gateway.root)).stdout
        assert "est-not-authorized" in shown
    finally:
        end(site)


RENEWED_AT_EVERY_START = """
[edge_ca]
auto_generated_edge_ca_expiry_days = 1
[edge_ca.auto_renew]
rotate_key = true
threshold = "1 day"
retry = "60 min"
"""


@pytest.mark.parametrize("kind", TOKENS)
def test_row_078_the_edge_cas_key_is_made_in_a_token_and_never_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The key is in the token: sensitive and never extractable, in no file; the gateway serves with what it signs, and
    after a renewal with another key that was made there. The token is SoftHSM's, and a TPM's; pkcs11-tool looks.
    """
    with TOKENS[kind](tmp_path) as token:
        for name, value in token.environment.items():
            monkeypatch.setenv(name, value)
        world = World(tmp_path)
        try:
            world.hub.start()
            extra = token.configuration + RENEWED_AT_EVERY_START
            gateway = world.gateway(world.edge_device(), quickstart=True, extra=extra)
            served: list[str] = []
            for _ in range(2):
                gateway.start()
                edge_ca = gateway.file("aziotedgedca")
                served.append(openssl("x509", "-in", str(edge_ca), "-noout", "-pubkey").stdout)
                gateway.trust.write_text(edge_ca.read_text())
                assert "Verify return code: 0 (ok)" in gateway.s_client("-verify_hostname", "localhost")
                assert list(gateway.keys.glob("aziotedgedca*")) == []
                gateway.stop()
                assert _private_keys(token.objects()) == {
                    "aziot-edged-ca": "sensitive, always sensitive, never extractable, local"
                }
            assert served[0] != served[1], "renewed with a new key"
            assert f"={PIN}" not in gateway.text()
        finally:
            world.close()


def _private_keys(printed: str) -> dict[str, str]:
    """Label and access of the private keys that pkcs11-tool printed."""
    parts = [part.partition("Public Key Object")[0].splitlines() for part in printed.split("Private Key Object;")[1:]]
    fields = [dict(line.strip().partition(":")[::2] for line in part if ":" in line) for part in parts]
    return {one["label"].strip(): one["Access"].strip() for one in fields}


# Module identities ----------------------------------------------------------------------------------------------------


def test_row_042_the_devices_certificate_manages_module_identities(site: Site) -> None:
    """curl with the device's certificate and key lists the modules at the hub; without them it is refused."""
    ready, port = site.world.hub.ready, site.world.hub.ready["hub"]["https_port"]
    certificate, key = write_holder(site.world.folder, "row-042", site.identity)
    url = f"https://localhost:{port}/devices/EdgeGateway/modules?api-version=2017-11-08-preview"
    base = ["curl", "-s", "--cacert", ready["trust_bundle"], "-w", "\n%{http_code}", url]
    shown = subprocess.run([*base, "--cert", str(certificate), "--key", str(key)], capture_output=True, text=True,
                           timeout=60, check=True).stdout  # fmt: skip
    status, modules = parsed(shown)
    assert status == 200
    assert {one["moduleId"] for one in modules} >= {"$edgeHub", "grafana"}
    assert parsed(subprocess.run(base, capture_output=True, text=True, timeout=60, check=True).stdout)[0] == 401


def test_row_043_modules_use_tokens_and_no_certificate(site: Site, tmp_path: Path) -> None:
    """On its connection as $edgeHub the gateway shows no certificate to a hub that asks for one, but a SAS token."""
    hub = site.world.pki.server("localhost")
    with false_server(tmp_path, hub, "-tls1_2", "-verify", "3") as server:
        config = (site.world.folder / "gateway/config.toml").read_text()
        port = site.world.hub.ready["hub"]["mqtt_port"]
        both = tmp_path / "both.pem"
        both.write_text(Path(site.world.hub.ready["trust_bundle"]).read_text() + site.world.pki.root.chain.pem())
        changed = config.replace(f"mqtt_port = {port}", f"mqtt_port = {server.port}")
        changed = changed.replace(site.world.hub.ready["trust_bundle"], str(both)).partition("[edgetrust.modules")[0]
        file = tmp_path / "config.toml"
        file.write_text(changed)
        other = Gateway(
            ["edge", "serve", "-c", str(file), "--root", str(tmp_path / "root"), "--json"], tmp_path / "log"
        )
        try:
            other.start()
            wait_until(lambda: "SharedAccessSignature" in server.text)
        finally:
            other.stop()
        assert "%24edgeHub" in server.text or "$edgeHub" in server.text
        assert "Client certificate" not in server.text


@pytest.mark.parametrize(("module", "slot"), [("$edgeHub", "primary"), ("grafana", "secondary")])
def test_row_044_sas_keys_are_derived_from_a_secret_of_the_runtime(site: Site, module: str, slot: str) -> None:
    """openssl's HMAC of name, generation and slot under the master key is the key that the hub has."""
    master = next(site.gateway.keys.glob("aziotidentitydmasterid-*.key"))
    _, body = site.identities("GET", f"/identities/modules/{module.replace('$', '%24')}")
    generation = body["spec"]["genId"]
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{master.read_bytes().hex()}", "-binary"],
        input=f"{module}:{generation}:{slot}".encode(), capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert base64.b64encode(done.stdout).decode() == site.hub_keys(module)[f"{slot}Key"]


def test_row_045_keys_stay_when_the_devices_certificate_changes(site: Site) -> None:
    """Another device certificate with another key: the modules' keys at the hub are the same."""
    before = {module: site.hub_keys(module) for module in ("$edgeHub", "grafana")}
    other = self_signed("EdgeGateway", now=site.world.pki.now, begin=timedelta(days=-2), key_kind="rsa-2048")
    shown = other.chain.thumbprint().hex()
    site.world.device_command("update", "EdgeGateway", "--secondary-thumbprint", shown)
    site.gateway.stop()
    write_holder(site.world.folder / "gateway", "identity", other)
    site.gateway.start()
    wait_until(site.control.exists)
    status, _ = site.identities("PUT", "/identities/modules/grafana", {})
    assert status == 200
    assert {module: site.hub_keys(module) for module in before} == before
    site.identity = other


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose gateway's device certificate ended while it ran."""
    short = TestEst(life=timedelta(minutes=10))  # the gateway looks at its certificates every few seconds
    made = begin(tmp_path_factory.mktemp("ended"), est=short, begin=timedelta(minutes=-5), end=timedelta(seconds=45))
    until = made.identity.certificate.not_valid_after_utc + timedelta(seconds=1)
    wait_until(lambda: datetime.now(UTC) > until, 60)
    yield made
    end(made)


def test_row_046_edge_hub_still_runs_after_the_end(ended: Site) -> None:
    """Telemetry through the gateway after the end of its device certificate arrives at the hub."""
    assert ended.gateway.publish("TempSensor", "after the end", holder=ended.sensor).returncode == 0
    ended.world.wait_for_events(["after the end"], "TempSensor")


def test_row_047_only_module_identity_operations_fail_after_the_end(ended: Site) -> None:
    """Making a module fails with the hub's words; reading and signing go on, also after a restart; with another
    certificate it is made, without one.
    """
    new = {"type": "aziot", "moduleId": "late"}
    status, body = ended.identities("POST", "/identities/modules", new)
    assert (status, bool(body["message"])) == (404, True)
    assert ended.identities("GET", "/identities/modules/grafana")[0] == 200
    route = f"/modules/grafana/genid/{ended.generation}/sign"
    status, body = ended.workload("POST", route, {"data": "eA=="})
    assert (status, len(base64.b64decode(body["digest"]))) == (200, 32)

    ended.gateway.stop()
    ended.gateway.start()
    wait_until(lambda: ended.workload("POST", route, {"data": "eA=="})[1] == body)
    assert ended.identities("POST", "/identities/modules", new)[0] == 404

    other = self_signed("EdgeGateway", now=ended.world.pki.now, key_kind="rsa-2048")
    ended.world.device_command("update", "EdgeGateway", "--thumbprint", other.chain.thumbprint().hex())
    write_holder(ended.world.folder / "gateway", "identity", other)
    wait_until(lambda: ended.identities("POST", "/identities/modules", new)[0] == 200, 40)


def test_row_048_keys_are_printed_and_sent_nowhere(site: Site) -> None:
    """The master key is random, closed to others, in no log; a module gets signatures and no key."""
    master = next(site.gateway.keys.glob("aziotidentitydmasterid-*.key"))
    assert len(master.read_bytes()) == 32
    assert master.stat().st_mode & 0o777 == 0o600
    assert site.gateway.keys.parent.stat().st_mode & 0o777 == 0o700
    secrets = [base64.b64encode(master.read_bytes()).decode(), *site.hub_keys("grafana").values()]
    everything = site.gateway.text() + json.dumps(site.told()) + json.dumps(site.gateway.state())
    assert [secret for secret in secrets if secret in everything] == []
    status, body = site.workload("POST", f"/modules/grafana/genid/{site.generation}/sign", {"data": "eA=="})
    assert status == 200
    primary = base64.b64decode(site.hub_keys("grafana")["primaryKey"])
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{primary.hex()}", "-binary"],
        input=b"x", capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert base64.b64decode(body["digest"]) == done.stdout


# Modules and the workload API -----------------------------------------------------------------------------------------


def grafana_certificate(site: Site, folder: Path) -> tuple[Path, Path]:
    """A server certificate and its key, asked for with curl by the module's process."""
    body = {"commonName": "grafana.local", "expiration": "2999-01-01T00:00:00Z"}
    status, made = site.workload("POST", f"/modules/grafana/genid/{site.generation}/certificate/server", body)
    assert status == 201, made
    certificate, key = folder / "grafana.pem", folder / "grafana.key"
    certificate.write_text(made["certificate"])
    key.write_text(made["privateKey"]["bytes"])
    return certificate, key


def test_row_007_the_edge_ca_signs_module_server_certificates(site: Site, tmp_path: Path) -> None:
    """openssl verifies a module's certificate, with the Edge CA as its issuer."""
    certificate, _ = grafana_certificate(site, tmp_path)
    issuer = openssl("x509", "-in", str(certificate), "-noout", "-issuer").stdout
    assert EDGE_CA in issuer
    verified = openssl("verify", "-purpose", "sslserver", "-verify_hostname", "grafana.local", "-CAfile",
                       str(site.gateway.trust), "-untrusted", str(certificate), str(certificate))  # fmt: skip
    assert verified.returncode == 0, verified.stderr


def test_row_088_other_modules_serve_with_certificates_of_the_edge_ca(site: Site, tmp_path: Path) -> None:
    """`openssl s_server` with what the module got is verified by `s_client` up to the private root, by name."""
    certificate, key = grafana_certificate(site, tmp_path)
    server = false_server(tmp_path, site.identity, "-cert_chain", certificate, key_file=key)
    server.arguments[server.arguments.index("-cert") + 1] = certificate
    with server:
        done = openssl("s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile", str(site.gateway.trust),
                       "-verify_hostname", "grafana.local", "-verify_return_error")  # fmt: skip
    assert "Verify return code: 0 (ok)" in done.stdout


def test_row_072_the_edge_ca_issues_to_any_module(site: Site, tmp_path: Path) -> None:
    """The certificate lies under the module's identifier beside edgeHub's."""
    grafana_certificate(site, tmp_path)
    names = [file.name for file in site.gateway.certificates.glob("aziotedgedmodule*server-*.cer")]
    assert any(name.startswith(f"aziotedgedmodulegrafana{site.generation}server-") for name in names)
    assert any(name.startswith("aziotedgedmoduleedgeHub") for name in names)


def test_row_088_a_module_gets_its_certificate_chained_to_the_edge_ca(site: Site, tmp_path: Path) -> None:
    """The answer holds the end entity, the Edge CA and everything above it."""
    certificate, _ = grafana_certificate(site, tmp_path)
    edge_ca = next(site.gateway.certificates.glob("aziotedgedca-*.cer")).read_text()
    assert certificate.read_text().endswith(edge_ca)


@pytest.mark.parametrize(("module", "inside"), [("grafana", False), ("$edgeHub", True), ("other", True)])
def test_row_089_a_certificate_is_a_privilege_of_the_modules_own_process(site: Site, module: str, inside: bool) -> None:
    """The same curl from another process, or for another module, is answered 403 forbidden."""
    route = f"/modules/{module}/genid/{site.generation}/certificate/server"
    answer = site.workload("POST", route, {"commonName": "grafana.local"}, inside=inside)
    assert answer == (403, {"message": "forbidden"})


def test_row_081_the_trust_bundle_holds_the_private_root(site: Site, tmp_path: Path) -> None:
    """curl gets the bundle from any process; the root in it is the one that devices have, by its fingerprint."""
    status, body = site.workload("GET", "/trust-bundle", inside=False)
    assert status == 200
    (tmp_path / "bundle.pem").write_text(body["certificate"])
    root = openssl("x509", "-in", str(site.gateway.trust), "-noout", "-fingerprint", "-sha256").stdout
    blocks = body["certificate"].split("-----END CERTIFICATE-----\n")[:-1]
    prints = []
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.pem"
        file.write_text(block + "-----END CERTIFICATE-----\n")
        prints.append(openssl("x509", "-in", str(file), "-noout", "-fingerprint", "-sha256").stdout)
    assert root in prints


def test_row_110_certificates_and_configuration_modules_and_a_transparent_gateway(site: Site) -> None:
    """What the article says comes next: the gateway is configured, its module runs, a device sends through it."""
    told = site.told()
    assert told["IOTEDGE_MODULEID"] == "grafana"
    assert told["IOTEDGE_GATEWAYHOSTNAME"] == "localhost"
    assert site.gateway.publish("TempSensor", "through the gateway", holder=site.sensor).returncode == 0
    site.world.wait_for_events(["through the gateway"], "TempSensor")
    assert told["IOTEDGE_WORKLOADURI"].endswith("/grafana.sock")
