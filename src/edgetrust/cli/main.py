"""`edgetrust`: finds the command, runs it, and turns what went wrong into two lines and an exit code.

Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, 3 unavailable, 4 integrity, 130 interrupted. A
user's error is never a traceback (`-v` shows it). Commands are imported when they are called: the table below is all
that `--help` needs.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from edgetrust import __version__
from edgetrust.errors import Error

_COLLECT_AFTER = (
    25_000  # new containers; importing makes 100,000 that stay, and a collection after each 700 finds nothing
)

_START = "Start"
_ACTORS = "Actors"
_REGISTRY = "Registry and messages"
_CERTIFICATES = "Certificates and decisions"

COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": (
        "edgetrust.cli.demo",
        _START,
        "The article's story on loopback, as real processes, with evidence for each line.",
    ),
    "up": ("edgetrust.cli.up", _START, "A hub for development and tests, ready in one command."),
    "hub": ("edgetrust.cli.hub", _ACTORS, "Serve a hub; manage the CA certificates and policies it knows."),
    "ca": ("edgetrust.cli.ca", _ACTORS, "A certificate authority: make it, serve EST, issue, list, revoke, rotate."),
    "dps": ("edgetrust.cli.dps", _ACTORS, "Serve a provisioning service; manage the CA certificates it knows."),
    "edge": ("edgetrust.cli.edge", _ACTORS, "Serve an edge gateway."),
    "device": ("edgetrust.cli.device", _REGISTRY, "Devices: registry, sending, listening."),
    "module": ("edgetrust.cli.module", _REGISTRY, "Modules of devices."),
    "enrollment": ("edgetrust.cli.enrollment", _REGISTRY, "Individual enrollments: who may register, and how."),
    "group": ("edgetrust.cli.group", _REGISTRY, "Enrollment groups: fleets that may register."),
    "fleet": ("edgetrust.cli.fleet", _REGISTRY, "A whole hierarchy of gateways and devices from one file; its map."),
    "deployment": ("edgetrust.cli.deployment", _REGISTRY, "Deployments: content for the modules of edge devices."),
    "monitor": ("edgetrust.cli.monitor", _REGISTRY, "Live tail of the telemetry that arrives at the hub."),
    "cert": ("edgetrust.cli.cert", _CERTIFICATES, "Show, verify and make certificates."),
    "explain": ("edgetrust.cli.explain", _CERTIFICATES, "What a reason means, how to confirm it, how to mend it."),
    "audit": (
        "edgetrust.cli.audit",
        _CERTIFICATES,
        "The certificate authority's audit log: list it, verify its chain.",
    ),
    "refusals": ("edgetrust.cli.refusals", _CERTIFICATES, "The last refused connections with all their checks."),
}


@dataclass(slots=True)
class Invocation:
    """What the options before the command said."""

    verbose: bool = False


class _Commands(TyperGroup):
    """The commands of the table; a module is imported when its command is called or completed."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (_, panel, text) in COMMANDS.items():
            self.add_command(TyperCommand(name=name, help=text, rich_help_panel=panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if command is not None and name is not None else None, rest


def load(name: str) -> Any:
    """The command `name`, imported."""
    module = COMMANDS[name][0]
    command = typer.main.get_command(import_module(module).app)
    command.name = name
    command.params = [param for param in command.params if param.name not in ("install_completion", "show_completion")]
    return command


app = typer.Typer(
    name="edgetrust",
    cls=_Commands,
    help="The trust system of an IoT fleet, self-hosted: hub, edge gateway, certificates, devices.",
    epilog="Exit codes: 0 done, 1 refused or failed, 2 usage, 3 unavailable, 4 integrity.",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"edgetrust {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and debug logs.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    context.obj.verbose = verbose


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Errors are on stderr when it returns."""
    invocation = Invocation()
    try:
        code = typer.main.get_command(app).main(
            args=list(arguments), prog_name="edgetrust", standalone_mode=False, obj=invocation
        )
        sys.stdout.flush()
    except Error as problem:
        return _report(problem, verbose=invocation.verbose)
    except typer.TyperException as problem:
        return _usage(problem)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough. Python flushes at exit and would complain: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def _report(problem: Error, *, verbose: bool) -> int:
    if verbose:
        traceback.print_exception(problem, file=sys.stderr)
    sys.stderr.write(f"error: {problem.message}\n")
    if problem.fix:
        sys.stderr.write(f"fix: {problem.fix}\n")
    return problem.exit_code


def _usage(problem: typer.TyperException) -> int:
    context = getattr(problem, "ctx", None)
    message = problem.format_message()
    if not message:  # a group without a command: its help has been printed
        return problem.exit_code
    sys.stderr.write(f"error: {message}\n")
    if context is not None:
        sys.stderr.write(f"fix: see {context.command_path} --help\n")
    return problem.exit_code


def main() -> NoReturn:
    """The console script."""
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
    sys.exit(run(sys.argv[1:]))
