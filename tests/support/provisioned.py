"""Gateways that know a provisioning service and no hub, and their services asked on their sockets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from edgetrust.pki.chain import Chain
from edgetrust.transport.unix import address_of
from support.edge_world import Gateway, World, edgetrust, write_holder
from support.pki import self_signed

NAME = "EdgeGateway"


def enroll(world: World, *arguments: str) -> dict[str, Any]:
    command = [*arguments, "--edge", "--keys", "--json", "--dir", str(world.hub_folder)]
    return dict(json.loads(edgetrust(*command).stdout))


def group_of(world: World, folder: Path, ca: Chain, name: str) -> None:
    """An enrollment group of all that a CA certifies."""
    (folder / "ca.pem").write_text(ca.pem())
    edgetrust("dps", "ca", "add", name, str(folder / "ca.pem"), "--verified", "--dir", str(world.hub_folder))
    enroll(world, "group", "create", "fleet", "--ca-name", name)


def hub_knows(world: World, name: str = NAME) -> str:
    """The thumbprint by which the hub knows a gateway, in capitals."""
    device = edgetrust("device", "show", name, "--json", "--dir", str(world.hub_folder)).stdout
    return str(json.loads(device)["authentication"]["x509Thumbprint"]["primaryThumbprint"]).upper()


def gateway(
    world: World, attestation: str, *, root: str = "", extra: str = "", edge_ca: str = "", name: str = "gateway"
) -> Gateway:
    """A gateway whose config.toml knows a provisioning service and no hub. `edge_ca`: in place of files."""
    folder, ready = world.folder / name, world.hub.ready
    folder.mkdir(exist_ok=True)
    trust = folder / "root.pem"
    trust.write_text(world.pki.bundle.pem())
    ca = write_holder(folder, "edge-ca", world.edge_ca(), root=True)
    files = f'[edge_ca]\ncert = "file://{ca[0]}"\npk = "file://{ca[1]}"'
    config = folder / "config.toml"
    config.write_text(
        f"""
hostname = "localhost"
trust_bundle_cert = "file://{trust}"
{root}

[provisioning]
source = "dps"
global_endpoint = "https://localhost:{ready["dps"]["https_port"]}/"
id_scope = "{ready["dps"]["id_scope"]}"
{attestation}

{edge_ca or files}

[edgetrust.listen]
host = "127.0.0.1"
mqtt_port = 0
https_port = 0

[edgetrust.upstream]
host = "127.0.0.1"
mqtt_port = {ready["hub"]["mqtt_port"]}
https_port = {ready["hub"]["https_port"]}
ca = "file://{ready["trust_bundle"]}"
{extra}
"""
    )
    arguments = ["edge", "serve", "-c", str(config), "--root", str(folder / "root"), "--json"]
    log = folder / "gateway.log"
    made = Gateway(arguments, log, root=folder / "root", hostname="localhost", trust=trust)
    world.gateways.append(made)
    return made


def by_key(key: str, name: str = NAME, payload: Path | None = None) -> str:
    sent = "" if payload is None else f'payload = {{ uri = "file://{payload}" }}\n'
    return (
        f'{sent}[provisioning.attestation]\nmethod = "symmetric_key"\nregistration_id = "{name}"\n'
        f'symmetric_key = {{ value = "{key}" }}'
    )


def serves(world: World, made: Gateway, sensor: str = "TempSensor") -> None:
    """A sensor below the gateway reaches the hub."""
    holder = self_signed(sensor, now=world.pki.now)
    world.thumbprint_device(sensor, holder, "--parent", NAME)
    done = made.publish(sensor, "21", holder=holder)
    assert done.returncode == 0, done.stdout + done.stderr + made.text()[-2000:]
    world.wait_for_events(["21"], sensor)


def ask(
    made: Gateway, method: str, path: str, body: Any = None, *, socket: str = "identityd", version: str = "2022-08-01"
) -> tuple[int, Any]:
    """Ask a service of the gateway on its socket."""

    async def go(address: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(address)) as session:
            url = f"http://gateway{path}{'&' if '?' in path else '?'}api-version={version}"
            async with session.request(method, url, json=body) as answer:
                return answer.status, await answer.json() if answer.status != 204 else None

    with address_of(made.root / f"run/aziot/{socket}.sock") as address:
        return asyncio.run(go(address))
