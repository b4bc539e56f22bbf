"""`edge check`: each finding has its cause and its fix, and what cannot be looked at is skipped."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgetrust.cli.main import run
from edgetrust.clock import SystemClock
from edgetrust.edge.check import CHECKS, Outcome, Result, run_checks
from edgetrust.edge.files import EDGE_CA, Layout
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.pairs import CertificateStore
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
mqtt_port = 1
https_port = 1
{edge_ca}
""")
        return file

    async def results(self) -> dict[str, Result]:
        found = await run_checks(self.write(), self.layout.root, SystemClock())
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
    }
    errors = {name: one.cause for name, one in results.items() if one.outcome is Outcome.ERROR}
    assert "no gateway runs" in errors["keyd-running"]
    assert "cannot connect to 127.0.0.1" in errors["host-connect-iothub-mqtt"]
    assert results["est-server-https"].outcome is Outcome.SKIPPED


async def test_a_configuration_that_cannot_be_read_skips_what_needs_it(bench: Bench) -> None:
    bench.hostname = "a b"
    results = await bench.results()
    assert results["config-well-formed"].outcome is Outcome.ERROR
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
    assert "9 ok, 0 warning, 0 error" in capsys.readouterr().err
    assert run(base) == 1
    assert "fix: edgetrust edge serve" in capsys.readouterr().out
    assert run([*base, "--dont-run", "nothing"]) == 2
