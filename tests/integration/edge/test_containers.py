"""A module in a container: its directory is mounted into namespaces of its own, and its user is who it is.

The container is made of what containers are made of: mount and process namespaces (unshare), a bind mount, another
user. Its processes are nobody's children here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.edge_world import Gateway, World, edgetrust, wait_until
from support.module_process import curl_arguments, parsed

UID = 48_620
INSIDE = "/mnt/iotedge/workload.sock"
VERSION = "2022-08-03"


@dataclass
class Site:
    world: World
    gateway: Gateway

    @property
    def mount(self) -> Path:
        return self.gateway.root / "var/lib/aziot/edged/mnt/grafana"

    def told(self) -> dict[str, str]:
        lines = (self.mount / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def inside(self, method: str, route: str, body: Any, user: int = UID) -> tuple[int, Any]:
        """Ask with curl from inside a container whose processes are `user`."""
        script = f"mount -t tmpfs none /mnt && mkdir /mnt/iotedge && mount --bind '{self.mount}' /mnt/iotedge"
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-ec", f'{script}; exec "$0" "$@"',
             "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
             *curl_arguments(INSIDE, method, route, body, VERSION)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return parsed(done.stdout)

    def sign(self, module: str = "grafana", user: int = UID) -> tuple[int, Any]:
        route = f"/modules/{module}/genid/{self.told()['IOTEDGE_MODULEGENERATIONID']}/sign"
        body = {"keyId": "primary", "algo": "HMACSHA256", "data": base64.b64encode(b"to sign").decode()}
        return self.inside("POST", route, body, user)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    assert os.geteuid() == 0, "run the tests as root: a container needs namespaces"
    world = World(tmp_path_factory.mktemp("containers"))
    try:
        world.hub.start()
        extra = f"[edgetrust.containers.grafana]\nuid = {UID}\n[edgetrust.containers.other]\nuid = {UID + 1}\n"
        gateway = world.gateway(world.edge_device(), extra=extra)
        gateway.start()
        made = Site(world, gateway)
        wait_until((made.mount / "environment").exists)
        yield made
    finally:
        world.close()


def test_it_is_told_what_an_sdk_needs(site: Site) -> None:
    told = site.told()
    assert told["IOTEDGE_WORKLOADURI"] == "unix:///var/run/iotedge/workload.sock"
    assert (told["IOTEDGE_DEVICEID"], told["IOTEDGE_MODULEID"]) == ("EdgeGateway", "grafana")
    assert told["IOTEDGE_GATEWAYHOSTNAME"] == "localhost"
    assert told["IOTEDGE_AUTHSCHEME"] == "sasToken"


def test_from_inside_it_signs_as_the_module_that_the_hub_knows(site: Site) -> None:
    status, answered = site.sign()
    shown = edgetrust("module", "show", "EdgeGateway", "grafana", "--keys", "--json", "--dir",
                      str(site.world.hub_folder))  # fmt: skip
    key = base64.b64decode(json.loads(shown.stdout)["authentication"]["symmetricKey"]["primaryKey"])
    assert status == 200
    assert base64.b64decode(answered["digest"]) == hmac.new(key, b"to sign", hashlib.sha256).digest()


def test_another_user_and_another_modules_name_are_refused(site: Site) -> None:
    assert site.sign(user=UID + 1) == (403, {"message": "forbidden"})
    assert site.sign("other") == (403, {"message": "forbidden"})
    assert site.sign("edgeHub") == (403, {"message": "forbidden"})
    legacy = str(site.gateway.root / "run/iotedge/workload.sock")
    route = f"/modules/grafana/genid/{site.told()['IOTEDGE_MODULEGENERATIONID']}/certificate/server"
    asked = ["setpriv", f"--reuid={UID}", *curl_arguments(legacy, "POST", route, {"commonName": "grafana"}, VERSION)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert "privateKey" not in done.stdout


def test_the_mounted_directory_shows_the_socket_of_a_gateway_that_was_restarted(site: Site) -> None:
    site.gateway.stop()
    site.gateway.start()
    assert site.sign()[0] == 200


def test_a_name_in_both_tables_is_refused(tmp_path: Path, site: Site) -> None:
    text = Path(site.gateway.arguments[3]).read_text() + '[edgetrust.modules.grafana]\ncommand = ["/bin/true"]\n'
    config = tmp_path / "config.toml"
    config.write_text(text)
    done = edgetrust("edge", "apply", "-c", str(config), "--root", str(tmp_path), ok=False)
    assert done.returncode == 2
    assert "'grafana' is in edgetrust.modules and in edgetrust.containers" in done.stderr
