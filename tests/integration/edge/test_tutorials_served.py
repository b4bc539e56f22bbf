"""Configurations of tutorials, applied and served as they are but for names and ports: a sensor's message arrives."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from support.edge_world import Gateway, World, edgetrust, write_holder
from support.est_server import Served, TestEst
from support.provisioned import NAME, group_of, serves
from support.tutorials import EST, TRANSPARENT_GATEWAY, filled


def applied(world: World, text: str) -> Gateway:
    """A gateway to start, whose configuration was applied; the ports are those of this test."""
    folder, ready = world.folder, world.hub.ready
    config, root = folder / "config.toml", folder / "root"
    config.write_text(
        f"""{text}
[edgetrust.listen]
host = "127.0.0.1"
mqtt_port = 0
https_port = 0
[edgetrust.upstream]
mqtt_port = {ready["hub"]["mqtt_port"]}
https_port = {ready["hub"]["https_port"]}
ca = "file://{ready["trust_bundle"]}"
"""
    )
    edgetrust("edge", "apply", "-c", str(config), "--root", str(root))
    arguments = ["edge", "serve", "--root", str(root), "--json"]
    made = Gateway(arguments, folder / "gateway.log", root=root, hostname="localhost", trust=folder / "root.pem")
    world.gateways.append(made)
    return made


def test_a_transparent_gateway_with_its_files(world: World) -> None:
    write_holder(world.folder, "identity", world.edge_device())
    write_holder(world.folder, "edge-ca", world.edge_ca(), root=True)
    (world.folder / "root.pem").write_text(world.pki.root.chain.pem())
    made = applied(world, filled(TRANSPARENT_GATEWAY, world.folder, hub="localhost", edgegateway="localhost"))
    made.start()
    serves(world, made)
    assert "CN = iotedged workload ca edgegateway" in made.s_client()
    shown = made.s_client("-verify_hostname", "localhost", "-verify_return_error")
    assert "Verify return code: 0 (ok)" in shown


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, TestEst(life=timedelta(hours=1), begin=timedelta(seconds=-60)))
    yield made
    made.stop()


def test_certificates_by_est_with_a_bootstrap_certificate(world: World, served: Served) -> None:
    """From nothing but a bootstrap certificate, a password and a root."""
    est, ready = served.est, world.hub.ready
    write_holder(world.folder, "identity", est.bootstrap())
    (world.folder / "root.pem").write_text(est.pki.bundle.pem())
    group_of(world, world.folder, est.pki.root.chain, "est")
    place = est.url.removeprefix("https://").removesuffix("/.well-known/est")
    text = 'hostname = "localhost"\n' + filled(EST, world.folder, dps=f"localhost:{ready['dps']['https_port']}")
    text = text.replace("est.example:8085", place).replace("ca.example", place)
    made = applied(world, text.replace("0ne00AB12CD", ready["dps"]["id_scope"]))
    made.start()
    serves(world, made)
    assert [one.client for one in est.asked] == ["CN=bootstrap", f"CN={NAME}", f"CN={NAME}"]
    assert {one.authorization for one in est.asked} == {"Basic ZXN0dXNlcjplc3Rwd2Q="}
    assert made.state()["identity"]["device"] == NAME
    assert "CN = iotedged workload ca edgegateway" in made.s_client()
    checked = edgetrust("edge", "check", "--root", str(made.root), ok=False).stdout
    assert "error" not in [line.split()[0] for line in checked.splitlines()], checked
