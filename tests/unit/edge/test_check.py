"""`edge check`: each finding has its cause and its fix, and what cannot be looked at is skipped."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from edgetrust import __version__
from edgetrust.cli.main import run
from edgetrust.clock import Clock, ManualClock, SystemClock
from edgetrust.edge.check import CHECKS, NOT_HERE, run_checks
from edgetrust.edge.checking import Outcome, Result
from edgetrust.edge.files import EDGE_CA, Layout
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.outside import check_as_device
from edgetrust.edge.pairs import CertificateStore
from edgetrust.edge.servicechecks import MANAGEMENT, WORKLOAD, _may_read
from edgetrust.errors import ConfigError
from edgetrust.transport.unix import serve_unix
from support.fake_hub import FakeHub
from support.pki import Holder, Pki

DAY = timedelta(days=1)


class Bench:
    """A configuration with files, and a root where nothing runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pki = Pki(datetime.now(UTC))
        self.hostname = socket.gethostname()
        self.layout = Layout(folder / "root")
        self.layout.make()
        self.identity = self.files("identity", self.pki.device("EdgeGateway"))
        self.edge_ca(self.pki.authority("the edge ca", path_length=0))
        self.table = ""
        self.upstream = "mqtt_port = 1\nhttps_port = 1"
        self.clock: Clock = SystemClock()
        self.time_server: str | None = None

    def files(self, name: str, holder: Holder) -> str:
        (self.folder / f"{name}.pem").write_text(holder.full_chain.pem())
        (self.folder / f"{name}.key").write_bytes(holder.key_pem())
        return name

    def edge_ca(self, holder: Holder) -> None:
        self.files("ca", holder)
        CertificateStore(self.layout.certificates).save(EDGE_CA, holder.full_chain)
        open_keys(self.layout).import_pem(EDGE_CA, holder.key.private_pem())

    def write(self) -> Path:
        edge_ca = self.table or f'[edge_ca]\ncert = "file://{self.folder}/ca.pem"\npk = "file://{self.folder}/ca.key"'
        file = self.folder / "config.toml"
        file.write_text(f"""
hostname = "{self.hostname}"
[provisioning]
source = "manual"
iothub_hostname = "hub.example"
device_id = "EdgeGateway"
[provisioning.authentication]
method = "x509"
identity_cert = "file://{self.folder}/identity.pem"
identity_pk = "file://{self.folder}/identity.key"
[edgetrust.upstream]
host = "127.0.0.1"
{self.upstream}
{edge_ca}
""")
        return file

    async def results(self) -> dict[str, Result]:
        found = await run_checks(self.write(), self.layout.root, self.clock, time_server=self.time_server)
        assert [one.check for one in found] == list(CHECKS)
        return {one.check: one for one in found}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_gateway_that_does_not_run(bench: Bench) -> None:
    results = await bench.results()
    assert {name for name, one in results.items() if one.outcome is Outcome.OK} == {
        "config-well-formed",
        "hostname",
        "certs-preloaded",
        "identity-certificate-expiry",
        "edge-ca-expiry",
        "edge-ca-production",
        "edge-ca-name-collision",
        "certs-match-private-keys",
        "key-pairs-read",
        "files-readable",
        "proxy-settings",
    }
    errors = {name: one.cause for name, one in results.items() if one.outcome is Outcome.ERROR}
    assert "no gateway runs" in errors["keyd-running"]
    assert "cannot connect to 127.0.0.1" in errors["host-connect-iothub-mqtt"]
    assert results["est-server-https"].outcome is Outcome.IGNORED


async def test_a_configuration_that_cannot_be_read_skips_what_needs_it(bench: Bench) -> None:
    bench.hostname = "a b"
    results = await bench.results()
    assert results["config-well-formed"].outcome is Outcome.FATAL
    assert results["edge-ca-expiry"].outcome is Outcome.SKIPPED


@pytest.mark.parametrize(
    ("fields", "check", "outcome", "words"),
    [
        ({"begin": -30 * DAY, "end": 3 * DAY}, "edge-ca-expiry", Outcome.WARNING, "will expire soon"),
        ({"begin": -9 * DAY, "end": -DAY}, "edge-ca-expiry", Outcome.ERROR, "expired at"),
        ({"begin": DAY}, "edge-ca-expiry", Outcome.ERROR, "not valid before"),
    ],
)
async def test_dates(bench: Bench, fields: dict[str, Any], check: str, outcome: Outcome, words: str) -> None:
    bench.edge_ca(bench.pki.authority("the edge ca", **fields))
    found = (await bench.results())[check]
    assert (found.outcome, words in found.cause, bool(found.fix)) == (outcome, True, True)


async def test_an_edge_ca_named_like_the_gateway_and_a_key_of_another(bench: Bench) -> None:
    bench.edge_ca(bench.pki.authority(bench.hostname))
    open_keys(bench.layout).import_pem(EDGE_CA, bench.pki.device("other").key.private_pem())
    results = await bench.results()
    assert "looks like a loop" in results["edge-ca-name-collision"].cause
    assert "does not belong" in results["certs-match-private-keys"].cause


async def test_a_quickstart_ca_is_a_warning_and_so_is_another_host_name(bench: Bench) -> None:
    bench.table, bench.hostname = "[edge_ca]\nauto_generated_edge_ca_expiry_days = 90", "elsewhere.example"
    results = await bench.results()
    for name in ("edge-ca-production", "hostname"):
        assert results[name].outcome is Outcome.WARNING
        assert results[name].fix


def test_the_command(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["edge", "check", "-c", str(bench.write()), "--root", str(bench.layout.root)]
    running = [name for name in CHECKS if "running" in name or "connect" in name or "server-cert" in name]
    without = [part for name in running for part in ("--dont-run", name)]
    assert run([*base, *without]) == 0
    assert "11 ok, 1 warning, 0 error" in capsys.readouterr().err
    assert run(base) == 1
    assert "fix: edgetrust edge serve" in capsys.readouterr().out
    assert run([*base, "--dont-run", "nothing"]) == 2


# What a gateway stands on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("apart", "outcome"), [(0, Outcome.OK), (60, Outcome.WARNING), (-60, Outcome.WARNING)])
async def test_the_clock_is_compared_with_the_hubs(bench: Bench, hub: FakeHub, apart: int, outcome: Outcome) -> None:
    """It stands in the header of whatever the hub answers."""
    (bench.folder / "hub.pem").write_text(hub.pki.root.chain.pem())
    bench.upstream = f'mqtt_port = 1\nhttps_port = {hub.port}\nca = "file://{bench.folder}/hub.pem"'
    bench.clock = ManualClock(datetime.now(UTC) + timedelta(seconds=apart))
    found = (await bench.results())["host-local-time"]
    assert found.outcome is outcome, found
    assert ("ahead of the hub" in found.cause, "behind the hub" in found.cause) == (apart > 0, apart < 0)


@pytest.mark.parametrize(("apart", "outcome"), [(0, Outcome.OK), (3600, Outcome.WARNING)])
async def test_the_clock_is_compared_with_an_ntp_server(bench: Bench, apart: int, outcome: Outcome) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def answer() -> None:
            asked, peer = server.recvfrom(100)
            assert asked[0] & 7 == 3, "a client asks"
            seconds = int(datetime.now(UTC).timestamp()) + apart + 2_208_988_800
            server.sendto(bytes(40) + seconds.to_bytes(4, "big") + bytes(4), peer)

        answering = threading.Thread(target=answer)
        answering.start()
        bench.time_server = f"127.0.0.1:{server.getsockname()[1]}"
        found = (await bench.results())["host-local-time"]
        answering.join()
    assert found.outcome is outcome, found


async def test_without_anybodys_time_it_is_not_judged(bench: Bench) -> None:
    assert (await bench.results())["host-local-time"].outcome is Outcome.SKIPPED


async def test_files_that_cannot_be_read_and_keys_that_others_can(bench: Bench) -> None:
    (bench.folder / "ca.key").chmod(0o644)
    (bench.folder / "identity.key").unlink()
    results = await bench.results()
    assert "identity.key does not exist" in results["files-readable"].cause
    assert results["private-keys-closed"].outcome is Outcome.WARNING
    assert f"chmod 600 {bench.folder}/ca.key" in results["private-keys-closed"].fix


async def test_a_configuration_that_was_not_applied(bench: Bench) -> None:
    assert (await bench.results())["configs-up-to-date"].outcome is Outcome.IGNORED
    bench.layout.config.parent.mkdir(parents=True)
    bench.layout.config.write_text("# another\n")
    found = (await bench.results())["configs-up-to-date"]
    assert found.outcome is Outcome.WARNING
    assert "edgetrust edge apply -c" in found.fix


async def test_a_proxy_that_is_not_used(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    found = (await bench.results())["proxy-settings"]
    assert (found.outcome, "HTTPS_PROXY" in found.cause) == (Outcome.WARNING, True)


# The services ---------------------------------------------------------------------------------------------------------

OTHER = 65_534


@asynccontextmanager
async def answering(path: Path, status: int, **answer: object) -> AsyncIterator[None]:
    """Somebody who answers everything with the same."""

    async def handle(_request: web.Request) -> web.Response:
        return web.json_response(answer, status=status)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    server = await serve_unix(app, path)
    yield
    await server.close()


@pytest.mark.parametrize(
    ("version", "outcome", "words"),
    [(__version__, Outcome.OK, ""), ("0.0.1", Outcome.WARNING, "of version 0.0.1"), (None, Outcome.WARNING, "unknown")],
)
async def test_a_gateway_that_runs_is_the_one_that_is_installed(
    bench: Bench, version: str | None, outcome: Outcome, words: str
) -> None:
    async with answering(bench.layout.root / MANAGEMENT, 200, version=version):
        results = await bench.results()
    found = results["aziot-edge-version"]
    assert (found.outcome, words in found.cause, bool(found.fix)) == (outcome, True, bool(words))
    assert results["connect-management-uri"].outcome is Outcome.OK
    assert results["aziot-edged-config-well-formed"].outcome is Outcome.OK


async def test_an_api_that_answers_something_else_and_one_that_is_not_there(bench: Bench) -> None:
    async with answering(bench.layout.root / WORKLOAD, 403):
        results = await bench.results()
    assert results["connect-workload-uri"].cause.endswith("workload.sock answers 403")
    assert results["connect-management-uri"].fix == "edgetrust edge serve"
    assert results["aziot-edge-version"].outcome is Outcome.SKIPPED
    assert results["tpmd-running"].outcome is Outcome.IGNORED


async def test_a_service_whose_user_may_not_read_its_part(bench: Bench) -> None:
    """Whose it is shows the owner of its socket."""
    for service in ("keyd", "certd"):
        socket_file = bench.layout.socket(service)
        socket_file.parent.mkdir(parents=True, exist_ok=True)
        socket_file.touch()
        os.chown(socket_file, OTHER, OTHER)
    results = await bench.results()
    for name in ("keyd-config-well-formed", "certd-config-well-formed"):
        assert results[name].outcome is Outcome.ERROR
        assert "who may not read" in results[name].cause
        assert "chgrp" in results[name].fix
    assert results["identityd-config-well-formed"].outcome is Outcome.SKIPPED
    assert _may_read(Path("/etc/passwd"), OTHER)
    assert not _may_read(Path("/etc/shadow"), OTHER)


def test_checks_that_are_not_made_are_none_that_are() -> None:
    assert not set(CHECKS) & set(NOT_HERE)


# From outside ---------------------------------------------------------------------------------------------------------


async def test_as_a_device_with_the_right_root_another_root_and_another_name(bench: Bench, hub: FakeHub) -> None:
    """Any TLS server shows it; the root, the name and the port are what a device may have wrong."""
    right, wrong = bench.folder / "right.pem", bench.folder / "wrong.pem"
    right.write_text(hub.pki.root.chain.pem())
    wrong.write_text(Pki(datetime.now(UTC), root_name="another").root.chain.pem())
    name = "127.0.0.1"
    hub.hosts = (*hub.hosts, name)
    await hub.stop()
    await hub.start()

    async def looked(address: str, trust: Path) -> dict[str, Result]:
        found = await check_as_device(address, trust, bench.layout, SystemClock())
        return {one.check: one for one in found}

    fine = await looked(f"{name}:{hub.port}", right)
    assert {one.outcome for one in fine.values()} == {Outcome.OK}
    assert str(right) in fine["device-trust-root"].fix
    assert (await looked(f"{name}:{hub.port}", wrong))["device-trusts-gateway"].outcome is Outcome.ERROR
    closed = await looked("127.0.0.1:1", right)
    assert closed["device-reaches-gateway"].outcome is Outcome.ERROR
    assert closed["device-trusts-gateway"].outcome is Outcome.SKIPPED
    unknown = await looked("no-such-host.invalid", right)
    assert "cannot be resolved" in unknown["device-resolves-gateway"].cause
    with pytest.raises(ConfigError):
        await looked("host:port", right)
