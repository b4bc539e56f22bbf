"""The option `--through`: a service is reached through a gateway, by a device that has no way to it itself."""

from __future__ import annotations

from typing import Annotated

import typer

from edgetrust.cli.ports import HTTPS

Through = Annotated[
    str | None,
    typer.Option("--through", metavar="HOST[:PORT]", help="Reach it through this gateway, which passes its name on."),
]


def passing_gateway(through: str | None) -> tuple[str, int] | None:
    """What is dialled in the place of the service; None: the service itself. Raises UsageError."""
    from edgetrust.cli.as_device import (
        host_and_port,  # with it comes a whole client, which reading a state does not need
    )

    if through is None:
        return None
    host, port = host_and_port(through)
    return host, port or HTTPS
