"""`edgetrust edge check` and `edge apply`: diagnose a gateway; validate a configuration and put it in its place."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.output import Json, print_json, print_line, say

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="config.toml. Default: the one that was applied below the root."
    ),
]
RootOption = Annotated[Path, typer.Option("--root", metavar="DIR", help="Everything the gateway keeps lies below it.")]
_MARKED = 8  # characters of an outcome, padded


def check(
    config: ConfigOption = None,
    root: RootOption = Path("/"),
    *,
    without: Annotated[
        list[str] | None, typer.Option("--dont-run", metavar="ID", help="Leave a check out; may be repeated.")
    ] = None,
    warnings_as_errors: Annotated[
        bool, typer.Option("--warnings-as-errors", help="Exit code 1 for warnings too.")
    ] = False,
    time_server: Annotated[
        str | None,
        typer.Option("--ntp-server", metavar="HOST[:PORT]", help="Compare the clock with it. Default: with the hub's."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Only list the checks.")] = False,
    as_device: Annotated[
        str | None,
        typer.Option(
            "--as-device", metavar="HOST[:PORT]", help="Look at the gateway from outside instead, as a device would."
        ),
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option("--trust", metavar="FILE", help="With --as-device: the root that the device has."),
    ] = None,
    json: Json = False,
) -> None:
    """Look for what is wrong with a gateway: cause and fix of each finding. Exit code 1 when there is an error."""
    from edgetrust.clock import SystemClock
    from edgetrust.edge.check import CHECKS, run_checks
    from edgetrust.edge.checking import Outcome
    from edgetrust.edge.files import Layout
    from edgetrust.errors import UsageError

    left_out = frozenset(without or ())
    if unknown := sorted(left_out - set(CHECKS)):
        raise UsageError(f"there is no check {unknown[0]!r}", reason="check-unknown", fix=f"one of {', '.join(CHECKS)}")
    found = config or Layout(root.absolute()).config
    if listed:
        _list(json=json)
        return
    if as_device is not None:
        results = _from_outside(as_device, trust, root)
    else:
        work = run_checks(found, root.absolute(), SystemClock(), without=left_out, time_server=time_server)
        results = asyncio.run(work)
    if json:
        print_json({"checks": {one.check: as_json(one) for one in results}})
    else:
        for one in results:
            print_line(f"{one.outcome.value:<{_MARKED}} {one.check}: {one.description}")
            if one.outcome in (Outcome.WARNING, Outcome.ERROR, Outcome.FATAL):
                print_line(f"          {one.cause}")
            if one.fix:
                print_line(f"          fix: {one.fix}")
        counted = {outcome: sum(one.outcome is outcome for one in results) for outcome in Outcome}
        say(", ".join(f"{count} {outcome.value}" for outcome, count in counted.items()))
    bad = {Outcome.ERROR, Outcome.FATAL} | ({Outcome.WARNING} if warnings_as_errors else set())
    if any(one.outcome in bad for one in results):
        raise typer.Exit(1)


def _list(*, json: bool) -> None:
    from edgetrust.edge.check import CHECKS

    if json:
        print_json({name: description for name, (description, _) in CHECKS.items()})
        return
    for name, (description, _) in CHECKS.items():
        print_line(f"{name}: {description}")


def _from_outside(address: str, trust: Path | None, root: Path) -> list[Any]:
    from edgetrust.clock import SystemClock
    from edgetrust.edge.files import Layout
    from edgetrust.edge.outside import check_as_device

    return asyncio.run(check_as_device(address, trust, Layout(root.absolute()), SystemClock()))


def as_json(one: Any) -> dict[str, str]:
    """A result as it is printed."""
    return {"outcome": one.outcome.value, "description": one.description, "cause": one.cause, "fix": one.fix}


def apply(
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="config.toml.")],
    root: RootOption = Path("/"),
    *,
    json: Json = False,
) -> None:
    """Validate a config.toml with every file it names, and put it in its place below the root.

    Nothing is written when anything is wrong. Certificates and keys stay. A gateway that runs there takes up another
    hostname or other names at once, and the rest when it is started again.
    """
    from edgetrust.edge.apply import apply as put
    from edgetrust.edge.rootlock import tell_to_reread

    applied = put(config, root.absolute())
    if json:
        print_json({"path": str(applied.path), "changed": applied.changed, "warnings": list(applied.warnings)})
    else:
        print_line(f"{applied.path} {'written' if applied.changed else 'says the same already'}")
        for warning in applied.warnings:
            print_line(f"warning: {warning}")
    if applied.changed and tell_to_reread(root.absolute()):
        say("the gateway was told to read its names again; for anything else, restart it")
    elif applied.changed:
        say("restart the gateway for it to take effect")
