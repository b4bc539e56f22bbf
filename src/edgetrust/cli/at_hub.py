"""What every command that asks a hub, or a provisioning service, has in common: the options that name it, and an open
client while it runs.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from edgetrust.cli.client import DpsClient, HubClient, find_hub

Directory = Annotated[
    Path | None,
    typer.Option("--dir", metavar="D", envvar="EDGETRUST_DIR", help="The directory of a running `edgetrust up`."),
]
HubUrl = Annotated[
    str | None, typer.Option("--hub", metavar="URL", help="A hub elsewhere; with --connection-string-file.")
]
DpsUrl = Annotated[
    str | None,
    typer.Option("--dps", metavar="URL", help="A provisioning service elsewhere; with --connection-string-file."),
]
ConnectionFile = Annotated[
    Path | None,
    typer.Option(
        "--connection-string-file", metavar="FILE", help="The service connection string for --hub; - is stdin."
    ),
]
TrustFile = Annotated[
    Path | None,
    typer.Option("--ca", metavar="BUNDLE", help="CAs that verify the hub. Default: --dir's, else the system's."),
]

_OPTIONS = {
    "directory": Directory,
    "hub_url": HubUrl,
    "connection_string_file": ConnectionFile,
    "trust_file": TrustFile,
}


def at_hub(command: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make `async def command(client: HubClient, ...)` a command with the options that name the hub."""
    return _asking(command, HubClient, _OPTIONS)


def at_dps(command: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make `async def command(client: HubClient, ...)` a command with the options that name a provisioning service."""
    return _asking(command, DpsClient, {**_OPTIONS, "hub_url": DpsUrl})


def _asking(
    command: Callable[..., Coroutine[Any, Any, None]], kind: type[HubClient], options: dict[str, Any]
) -> Callable[..., None]:
    @functools.wraps(command)
    def run(**values: Any) -> None:
        hub = find_hub(*(values.pop(name) for name in options), dps=kind is DpsClient)

        async def with_client() -> None:
            async with kind(hub) as client:
                await command(client, **values)

        asyncio.run(with_client())

    hints = {**get_type_hints(command, include_extras=True), **options}
    own = list(inspect.signature(command).parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(annotation=hints[parameter.name], kind=keyword) for parameter in own]
    parameters += [
        inspect.Parameter(name, keyword, default=None, annotation=option) for name, option in options.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
