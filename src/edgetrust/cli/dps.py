"""`edgetrust dps`: the CA certificates that a provisioning service knows."""

from __future__ import annotations

import typer

from edgetrust.cli.hub_ca import dps_app as ca

app = typer.Typer(help="Serve a provisioning service; manage the CA certificates it knows.", no_args_is_help=True)
app.add_typer(ca, name="ca")


@app.callback()
def _root() -> None:
    """Commands below."""
