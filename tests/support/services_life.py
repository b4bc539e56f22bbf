"""The life of a gateway's key, certificate and state files, in a process that is killed at its Nth step.

python -m support.services_life RUNS MATERIAL      prints how many steps a whole life has

Everything that Python audits below the root (a file opened, renamed, linked, removed, a directory made) is a step.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec

from edgetrust.clock import ManualClock
from edgetrust.edge.certd import GatewayCertificates
from edgetrust.edge.credentials import DeviceCertificate
from edgetrust.edge.edgeca import QuickstartCa
from edgetrust.edge.files import MASTER_ENCRYPTION_KEY, Layout, key_file_name
from edgetrust.edge.handles import VALIDATION_KEY
from edgetrust.edge.hubapi import Answer, HubApi
from edgetrust.edge.keyd import ensure_secret
from edgetrust.edge.moduleids import ModuleIdentities
from edgetrust.edge.reaching import UpstreamAddress
from edgetrust.edge.settings import Listen, Settings
from edgetrust.edge.status import StateFile
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.renewal import AutoRenew
from edgetrust.pki.softkeys import FileKeyStore, SoftKey, load_key_file
from support.pki import NOW

STEPS = ("open", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.chmod")
RENEWED_AFTER = timedelta(days=80)


class Given(FileKeyStore):
    """A key store whose new keys are made already: making RSA keys takes its time."""

    def __init__(self, directory: Path, made: list[SoftKey]) -> None:
        super().__init__(directory, key_file_name)
        self._made = iter(made)

    def create(self, key_id: str, algorithm: KeyAlgorithm) -> SoftKey:
        del algorithm
        return self.import_pem(key_id, next(self._made).private_pem())


class Hub:
    """A hub that has every module, with a generation of its own, and takes everything that it is told."""

    async def call(self, method: str, path: str, **_: Any) -> Answer:
        module = path.rpartition("/")[2]
        body = {"moduleId": module, "generationId": "638", "managedBy": "IotEdge"}
        return Answer(204 if method == "DELETE" else 200, msgspec.json.encode(body))


def settings_for(material: Path) -> Settings:
    return Settings(
        source=Path("config.toml"),
        hostname="edgegateway.local",
        hub="hub.example",
        device="EdgeGateway",
        credential=DeviceCertificate(material / "id.pem", material / "id.key"),
        edge_ca=QuickstartCa(90, None, AutoRenew()),
        trust_bundle=None,
        listen=Listen("127.0.0.1", 0, 0),
        upstream=UpstreamAddress("hub.example", "127.0.0.1", 1, 1, None),
        hub_verified_anchors=True,
        thumbprint_needs_common_name=False,
        keep_dollar_in_certificate_ids=True,
        server_key=KeyAlgorithm.P256,
        prefer_backup=False,
        retries=1,
    )


def live(root: Path, material: Path) -> None:
    """First start, a module that comes and goes, replaced identity files, a renewed Edge CA, and what is written."""
    layout, clock = Layout(root), ManualClock(NOW)
    layout.make()
    keys = Given(layout.keys, [load_key_file(material / f"ca{number}.key") for number in range(2)])
    settings = settings_for(material)
    certificates = GatewayCertificates(layout, keys, settings, clock)
    ensure_secret(keys, VALIDATION_KEY)
    ensure_secret(keys, MASTER_ENCRYPTION_KEY)
    certificates.prepare()
    server = load_key_file(material / "server.key")
    certificates.issue_server("638", server)
    modules = ModuleIdentities(settings, layout, keys, cast("HubApi", Hub()), clock)
    asyncio.run(modules.create("grafana"))
    asyncio.run(modules.create("other"))
    asyncio.run(modules.delete("other"))
    replaced = replace(settings, credential=DeviceCertificate(material / "id2.pem", material / "id2.key"))
    GatewayCertificates(layout, keys, replaced, clock).take_device_identity()
    clock.advance(RENEWED_AFTER.total_seconds())
    certificates.refresh_edge_ca()
    certificates.issue_server("638", server)
    state = StateFile(layout.status)
    state.write({"pid": 1})
    state.remove()


def killed_at(root: Path, material: Path, limit: int) -> None:
    """Live, and be killed before step number `limit`."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in STEPS and any(str(root) in str(one) for one in arguments if isinstance(one, str | Path)):
            count += 1
            if count == limit:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    live(root, material)


def main(runs: Path, material: Path) -> int:
    for limit in range(1, 2000):
        child = os.fork()
        if child == 0:
            killed_at(runs / str(limit), material, limit)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return limit
        assert code == -signal.SIGKILL, f"step {limit}: {code}"
    raise AssertionError("it never gets through")


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2])))
