"""`edgetrust hub`: serve a hub from its hub.toml, and manage the CA certificates and policies it knows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edgetrust.cli.hub_ca import app as ca
from edgetrust.cli.hub_policy import app as policy
from edgetrust.cli.output import Json, print_json_line, say
from edgetrust.cli.ports import HttpsPort, MqttPort
from edgetrust.cli.routes import routes
from edgetrust.clock import SystemClock

app = typer.Typer(help="Serve a hub; manage the CA certificates and policies it knows.", no_args_is_help=True)
app.add_typer(ca, name="ca")
app.add_typer(policy, name="policy")
app.command("routes", help="How the event routes are doing: place in the log, deliveries, what stands in the way.")(
    routes
)


@app.command()
def serve(
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="hub.toml.")],
    mqtt_port: MqttPort = None,
    https_port: HttpsPort = None,
    *,
    json: Json = False,
) -> None:
    """Serve a hub until it is told to stop. With --json prints one object when it is ready."""
    from dataclasses import replace

    from edgetrust.cli.running import run
    from edgetrust.cli.up import describe
    from edgetrust.hub.service import Hub
    from edgetrust.hub.settings import load_settings
    from edgetrust.telemetry import set_up_logging

    set_up_logging("json" if json else "text")
    settings = load_settings(config)
    settings = replace(
        settings,
        mqtt_port=settings.mqtt_port if mqtt_port is None else mqtt_port,
        https_port=settings.https_port if https_port is None else https_port,
    )

    def ready(hub: Hub) -> None:
        if json:
            print_json_line(describe(hub, settings.data))
        else:
            say(f"ready: MQTT on {hub.mqtt_port}, HTTPS on {hub.https_port}, pid {os.getpid()}")

    run(lambda: Hub.start(settings, SystemClock()), ready)
