"""The commands of `edgetrust fleet`."""

from __future__ import annotations

import typer

from edgetrust.cli.fleet.apply import apply
from edgetrust.cli.fleet.map import map_

app = typer.Typer(help="A whole hierarchy of gateways and devices from one file.", no_args_is_help=True)
app.command("apply", help="Make hub and bundles what a topology file says. Again: changes nothing.")(apply)
app.command("map", help="Draw who is below whom at the hub, who is connected, and when certificates end.")(map_)
