"""`provisioning.source = "none"`: keys, certificates and local identities of a machine without a hub, in both forms."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.edge_world import Process, edgetrust
from support.separated import Separated
from support.sockets import curl

CONFIG = """
hostname = "machine"
[provisioning]
source = "none"
[localid]
domain = "contoso.local"
[cert_issuance.local_ca.cert]
method = "self_signed"
common_name = "local CA"
[cert_issuance.certs.scada]
method = "local_ca"
"""


@pytest.fixture
def edge() -> Iterator[Separated]:
    made = Separated()
    made.configure(CONFIG)
    yield made
    made.close()


def test_in_one_process(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    serve = ["edge", "serve", "-c", str(tmp_path / "config.toml"), "--root", str(tmp_path / "root"), "--json"]
    made = Process(serve, tmp_path / "log")
    try:
        assert set(made.start()["services"]) == {"keyd", "certd", "identityd"}
        issued = _local_identity(tmp_path / "root")
        _without_hub(tmp_path / "root")
        shown = edgetrust("edge", "check", *serve[2:6], "--dont-run", "hostname", "--json", ok=False)
        assert shown.returncode == 0, shown.stdout
        made.stop(signal.SIGKILL)
        made.start()
        assert _issuer(_local_identity(tmp_path / "root")) == _issuer(issued) == "issuer=CN=local CA"
        assert "warning" not in made.text()
    finally:
        assert made.stop() == 0


def test_in_processes_of_their_own(edge: Separated) -> None:
    edge.start(("identityd", "certd", "keyd"))
    edge.ready("identityd")
    assert _issuer(_local_identity(edge.root)) == "issuer=CN=local CA"
    _without_hub(edge.root)
    refused = edgetrust("edge", "edged", "--root", str(edge.root), ok=False)
    assert refused.returncode == 2
    assert "without a hub there are no devices to serve" in refused.stderr
    assert "start keyd, certd and identityd only" in refused.stderr


def _ask(root: Path, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    return curl(root / "run/aziot/identityd.sock", method, path, body, version="2021-12-01")


def _local_identity(root: Path) -> str:
    status, made = _ask(root, "POST", "/identities/modules", {"type": "local", "moduleId": "scada"})
    assert status == 200, made
    return str(made["spec"]["auth"]["certificate"])


def _issuer(pem: str) -> str:
    command = ["openssl", "x509", "-noout", "-issuer", "-nameopt", "RFC2253"]
    return subprocess.run(command, input=pem, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def _without_hub(root: Path) -> None:
    assert _ask(root, "GET", "/identities/provisioning") == (200, {"source": "none"})
    for method, path, body in (
        ("GET", "/identities/identity", None),
        ("POST", "/identities/device", {"type": "aziot"}),
        ("POST", "/identities/device/reprovision", {"type": "aziot"}),
        ("GET", "/identities/modules?type=aziot", None),
        ("POST", "/identities/modules", {"type": "aziot", "moduleId": "m"}),
        ("PUT", "/identities/modules/m?type=aziot", {"type": "aziot", "moduleId": "m"}),
        ("DELETE", "/identities/modules/m?type=aziot", None),
    ):
        status, refused = _ask(root, method, path, body)
        assert (status, "not provisioned" in refused["message"]) == (400, True), (path, refused)
