"""`edgetrust dps`: serve a provisioning service from its dps.toml, and manage the CA certificates it knows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgetrust.cli.at_hub import at_dps
from edgetrust.cli.client import HubClient
from edgetrust.cli.hub_ca import dps_app as ca
from edgetrust.cli.output import Json, print_json_line, say
from edgetrust.cli.ports import HTTPS, HttpsPort, MqttPort
from edgetrust.cli.refusals import print_refusals
from edgetrust.clock import SystemClock
from edgetrust.limits import REFUSALS_KEPT

if TYPE_CHECKING:
    from edgetrust.provisioning.server import DpsServer

app = typer.Typer(help="Serve a provisioning service; manage the CA certificates it knows.", no_args_is_help=True)
app.add_typer(ca, name="ca")


@app.command()
def serve(
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="dps.toml.")],
    mqtt_port: MqttPort = None,
    https_port: HttpsPort = None,
    *,
    json: Json = False,
) -> None:
    """Serve a provisioning service until it is told to stop. With --json prints one object when it is ready."""
    from dataclasses import replace

    from edgetrust.cli.running import run
    from edgetrust.provisioning.server import DpsServer
    from edgetrust.provisioning.settings import load_settings
    from edgetrust.telemetry import set_up_logging

    set_up_logging("json" if json else "text")
    settings = load_settings(config)
    settings = replace(
        settings,
        mqtt_port=settings.mqtt_port if mqtt_port is None else mqtt_port,
        https_port=settings.https_port if https_port is None else https_port,
    )

    def ready(server: DpsServer) -> None:
        if json:
            print_json_line(_described(server))
        else:
            say(f"ready: MQTT on {server.mqtt_port}, HTTPS on {server.https_port}, pid {os.getpid()}")

    run(lambda: DpsServer.start(settings, SystemClock()), ready)


@app.command(help="The last refusals of a service that stands alone, newest first, with all their checks.")
@at_dps
async def refusals(
    client: HubClient,
    *,
    limit: Annotated[int, typer.Option(min=1, max=REFUSALS_KEPT, help="At most that many.")] = 20,
    json: Json = False,
) -> None:
    print_refusals((await client.get("edgetrust", "refusals", limit=str(limit)))["refusals"], json=json)


def _described(server: DpsServer) -> dict[str, Any]:
    """How to reach it. Holds a secret: the service connection string."""
    from edgetrust.provisioning.policies import OWNER, load_policies
    from edgetrust.store.policyfile import connection_string

    settings = server.settings
    owner = load_policies(settings.data / "dps-policies.json")[OWNER]
    address = settings.name if server.https_port == HTTPS else f"{settings.name}:{server.https_port}"
    return {
        "dps": {
            "hostname": settings.name,
            "mqtt_port": server.mqtt_port,
            "https_port": server.https_port,
            "id_scope": settings.id_scope,
            "service_connection_string": connection_string(address, owner),
        },
        "trust_bundle": str(settings.trust_bundle),
        "pid": os.getpid(),
    }
