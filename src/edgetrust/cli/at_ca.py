"""What every command of `edgetrust ca` has in common: the option that names its ca.toml, and an open authority while it
runs. Commands work on the store itself, so that they need no running server; one that runs sees the change in seconds.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from edgetrust.ca.authority import CertificateAuthority
from edgetrust.ca.settings import CaSettings, load_settings
from edgetrust.clock import SystemClock
from edgetrust.store.engine import Database

Config = Annotated[
    Path,
    typer.Option(
        "--config", "-c", metavar="FILE", envvar="EDGETRUST_CA_CONFIG", help="The ca.toml of the certificate authority."
    ),
]
DEFAULT_CONFIG = Path("edgetrust-ca/ca.toml")


@asynccontextmanager
async def opened(settings: CaSettings) -> AsyncIterator[CertificateAuthority]:
    """The authority of a configuration, for the length of a command."""
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings.database)
    try:
        await database.migrate()
        yield await CertificateAuthority.open(settings, database, SystemClock())
    finally:
        await database.close()


def at_ca(command: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make `async def command(ca: CertificateAuthority, ...)` a command with the option that names its ca.toml."""

    @functools.wraps(command)
    def run(config: Path, **values: Any) -> None:
        settings = load_settings(config)

        async def with_authority() -> None:
            async with opened(settings) as authority:
                await command(authority, **values)

        asyncio.run(with_authority())

    hints = get_type_hints(command, include_extras=True)
    own = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=DEFAULT_CONFIG, annotation=Config)
    rest = [
        parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in list(inspect.signature(command).parameters.items())[1:]
    ]
    run.__signature__ = inspect.Signature([*rest, own])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*rest, own)}
    return run
