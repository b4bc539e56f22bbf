"""`edgetrust ca rotate`: a new CA in the place of an old one, step by step."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgetrust.ca import rotation as rotating
from edgetrust.ca.authority import CertificateAuthority
from edgetrust.cli.at_ca import at_ca
from edgetrust.cli.output import Json, iso, print_json, print_table, say

app = typer.Typer(help="Put a new CA in the place of an old one, step by step.", no_args_is_help=True)

Old = Annotated[str, typer.Argument(metavar="CA", help="The CA that is rotated; a root takes those below it along.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would happen, and what is missing.")]


@app.command(help="Make the successors: keys and certificates that nobody sees yet.")
@at_ca
async def start(ca: CertificateAuthority, name: Old, *, json: Json = False) -> None:
    made = await rotating.start(ca, name)
    _show([await rotating.preview(ca, made)], json=json)
    say(f"next: edgetrust ca rotate advance {name}")


@app.command(help="Where each rotation stands, and what its next step still lacks.")
@at_ca
async def show(ca: CertificateAuthority, *, json: Json = False) -> None:
    _show([await rotating.preview(ca, one) for one in await rotating.rotations(ca)], json=json)


@app.command(help="Take the next step: distributed, active, tainted, retired. Refused while evidence is missing.")
@at_ca
async def advance(
    ca: CertificateAuthority,
    name: Old,
    *,
    dry_run: DryRun = False,
    despite_missing: Annotated[
        bool, typer.Option("--despite-missing", help="Go on although evidence is missing; that is recorded.")
    ] = False,
    json: Json = False,
) -> None:
    step = await rotating.preview(ca, await rotating.named(ca, name))
    if dry_run:
        _show([step], json=json)
        say("nothing was done: --dry-run")
        return
    stage = await rotating.take(ca, step, despite=despite_missing)
    _show([await rotating.preview(ca, await rotating.named(ca, name))], json=json)
    say(f"{name} is {stage.value} now")


@app.command(help="Undo the last step. From `prepared`, the successors are put away.")
@at_ca
async def back(ca: CertificateAuthority, name: Old, *, dry_run: DryRun = False, json: Json = False) -> None:
    step = await rotating.preview(ca, await rotating.named(ca, name), back=True)
    if dry_run:
        _show([step], json=json)
        say("nothing was done: --dry-run")
        return
    await rotating.take(ca, step, back=True)
    _show([await rotating.preview(ca, one) for one in await rotating.rotations(ca) if one.old == name], json=json)
    say(f"{name} is {'not rotated any more' if step.to is None else step.to.value}")


def _show(steps: list[rotating.Step], *, json: bool) -> None:
    if json:
        print_json([_as_json(one) for one in steps])
        return
    rows = [
        (
            one.rotation.old,
            ", ".join(new for _, new in one.rotation.pairs),
            one.rotation.stage.value,
            "" if one.to is None else one.to.value,
            f"{len(one.lacks)} missing" if one.lacks else "",
        )
        for one in steps
    ]
    print_table(("CA", "SUCCESSORS", "STAGE", "NEXT", "EVIDENCE"), rows)
    for one in steps:
        for lack in one.lacks[:20]:
            say(f"missing for {one.to}: {lack.who} {lack.what}")


def _as_json(step: rotating.Step) -> dict[str, Any]:
    return {
        "ca": step.rotation.old,
        "pairs": [{"old": old, "new": new} for old, new in step.rotation.pairs],
        "stage": step.rotation.stage.value,
        "changed": iso(step.rotation.changed_at),
        "next": None if step.to is None else step.to.value,
        "missing": [{"who": one.who, "what": one.what} for one in step.lacks],
    }
