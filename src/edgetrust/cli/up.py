"""`edgetrust up`: a hub for development and tests in one command. State in one directory, trust included."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli import up_ca, up_dps
from edgetrust.cli.client import DEFAULT_DIRECTORY
from edgetrust.cli.output import Json, print_facts, print_json_line, say
from edgetrust.cli.ports import HTTPS
from edgetrust.cli.ports import https_port as choose
from edgetrust.clock import SystemClock
from edgetrust.errors import UsageError
from edgetrust.hub.pki import ensure_pki
from edgetrust.hub.policies import OWNER
from edgetrust.hub.service import Hub
from edgetrust.hub.settings import HubSettings, sqlite_url
from edgetrust.pki.softkeys import write_private
from edgetrust.protocol.est import PREFIX
from edgetrust.store.policyfile import connection_string
from edgetrust.telemetry import set_up_logging
from edgetrust.transport.guests import Guest

app = typer.Typer()

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@app.command()
def up(
    directory: Annotated[
        Path, typer.Option("--dir", metavar="D", help="Where everything is kept.")
    ] = DEFAULT_DIRECTORY,
    host: Annotated[
        str, typer.Option("--host", metavar="NAME", help="The hub's name, as clients dial it.")
    ] = "localhost",
    bind: Annotated[str, typer.Option("--bind", metavar="ADDRESS", help="Where to listen.")] = "localhost",
    mqtt_port: Annotated[int, typer.Option("--mqtt-port", min=0, max=65535, help="0 picks a free one.")] = 8883,
    https_port: Annotated[
        int | None,
        typer.Option("--https-port", min=0, max=65535, help="Default 443 where it may be bound, else 8443."),
    ] = None,
    *,
    json: Json = False,
) -> None:
    """A hub, a provisioning service and a certificate authority (EST) for development and tests: makes its own CAs and
    keys in the directory, then serves until it is told to stop.

    Prints how to reach it when it is ready: one JSON object with --json, the same in D/up.json.
    """
    from edgetrust.cli.running import run

    set_up_logging("json" if json else "text", level="warning")
    settings = _settings(directory, host, bind, mqtt_port, choose(https_port, bind))

    def ready(hub: Hub) -> None:
        described = describe(hub, directory)
        _write(described, directory)
        hub.policies.listen(lambda: _write(describe(hub, directory), directory))  # the owner's key may be another
        if json:
            print_json_line(described)
        else:
            _show(described)

    run(lambda: Hub.start(settings, SystemClock(), _invited), ready)


async def _invited(hub: Hub) -> list[Guest]:
    return [await up_ca.invited(hub), await up_dps.invited(hub)]


def _write(described: dict[str, Any], directory: Path) -> None:
    write_private(directory / "up.json", (_one_line(described) + "\n").encode())


def _settings(directory: Path, host: str, bind: str, mqtt_port: int, https_port: int) -> HubSettings:
    directory = directory.resolve()
    if not host.strip() or "/" in host:
        raise UsageError(f"{host!r} is no host name", reason="host-name-malformed")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    hosts = tuple(dict.fromkeys((host, *_LOOPBACK)))
    pki = ensure_pki(directory / "pki", hosts, SystemClock().now())
    return HubSettings(
        name=host,
        aliases=hosts[1:],
        data=directory,
        database=sqlite_url(directory),
        certificate=pki.certificate,
        key=pki.key,
        trust_bundle=pki.trust_bundle,
        host=bind,
        mqtt_port=mqtt_port,
        https_port=https_port,
    )


def describe(hub: Hub, directory: Path) -> dict[str, Any]:
    """The object that `up --json` prints. Holds a secret: the service connection string."""
    settings = hub.settings
    owner = hub.policies[OWNER]
    address = settings.name if hub.https_port == HTTPS else f"{settings.name}:{hub.https_port}"
    return {
        "hub": {"hostname": settings.name, "mqtt_port": hub.mqtt_port, "https_port": hub.https_port},
        "trust_bundle": str(settings.trust_bundle),
        "service_connection_string": connection_string(address, owner),
        "dps": up_dps.described(hub) if up_dps.is_guest(hub) else None,
        "est": _est(hub, address),
        "dashboard": None,
        "dir": str(directory.resolve()),
        "pid": os.getpid(),
    }


def _est(hub: Hub, address: str) -> dict[str, str] | None:
    """Where and how to enrol, if a certificate authority is a guest of this hub."""
    file = up_ca.password_file(hub.settings.data)
    if not file.exists():
        return None
    return {"url": f"https://{address}{PREFIX}", "username": up_ca.USERNAME, "password_file": str(file)}


def _one_line(value: object) -> str:
    import json

    return json.dumps(value)


def _show(described: dict[str, Any]) -> None:
    hub = described["hub"]
    print_facts(
        [
            ("hub", f"{hub['hostname']}, MQTT on {hub['mqtt_port']}, HTTPS on {hub['https_port']}"),
            ("provisioning", f"id scope {described['dps']['id_scope']}, on the same ports"),
            ("root to trust", described["trust_bundle"]),
            (
                "enrol",
                f"{described['est']['url']}, user {up_ca.USERNAME}, password in {described['est']['password_file']}",
            ),
            ("service", f"the connection string is in {described['dir']}/up.json"),
            ("next", f"edgetrust device create d1 --dir {described['dir']}"),
        ]
    )
    say("ready; Ctrl-C stops it")
