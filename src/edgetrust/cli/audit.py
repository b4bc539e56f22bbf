"""`edgetrust audit`: the hash-chained log of every signature and every refusal of a certificate authority."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer

from edgetrust.ca.authority import CertificateAuthority
from edgetrust.cli.at_ca import at_ca
from edgetrust.cli.output import Json, iso, print_json, print_line, print_table, say, utc
from edgetrust.errors import IntegrityError
from edgetrust.store import chained

app = typer.Typer(help="The certificate authority's audit log: list it, verify its chain.", no_args_is_help=True)


@app.command("list", help="The newest records first.")
@at_ca
async def list_(
    ca: CertificateAuthority,
    *,
    event: Annotated[
        str | None, typer.Option("--event", metavar="NAME", help="Only these: issued, refused, revoked, ...")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")] = 50,
    json: Json = False,
) -> None:
    found = await ca.database.read(lambda connection: chained.entries(connection, limit, event=event))
    if json:
        print_json([_as_json(one) for one in found])
        return
    rows = [
        (
            str(one.number),
            utc(one.entry.at),
            one.entry.event,
            one.entry.identity,
            one.entry.reason,
            one.entry.place,
            one.entry.peer,
        )
        for one in found
    ]
    print_table(("NUMBER", "AT", "EVENT", "IDENTITY", "REASON", "PLACE", "PEER"), rows)


@app.command(help="Compute every hash again. Exit code 4 when a record was changed, removed or put in between.")
@at_ca
async def verify(
    ca: CertificateAuthority,
    *,
    head: Annotated[
        str | None, typer.Option("--head", metavar="HASH", help="A head noted earlier: it must be in the chain.")
    ] = None,
    json: Json = False,
) -> None:
    outcome = await ca.database.read(lambda connection: chained.verify(connection, wanted=head))
    if json:
        print_json(
            {
                "intact": outcome.intact,
                "records": outcome.records,
                "head": outcome.head,
                "brokenAt": outcome.broken_at,
                "headSeen": outcome.seen,
            }
        )
    elif outcome.intact:
        print_line(outcome.head)
        say(f"{outcome.records} records, each fits the one before; keep the head elsewhere, for --head next time")
    if outcome.broken_at is not None:
        raise IntegrityError(
            f"record {outcome.broken_at} does not fit the {outcome.records} before it",
            reason="audit-broken",
            fix="somebody has changed the database: compare it with a backup, and revoke what you cannot explain",
        )
    if not outcome.seen:
        raise IntegrityError(
            "the head that was noted is not in the chain: its newest records are missing, or all were written anew",
            reason="audit-cut-off",
            fix="compare the database with a backup",
        )


def _as_json(one: chained.Chained) -> dict[str, object]:
    entry = one.entry
    return {
        "number": one.number,
        "at": iso(entry.at),
        "event": entry.event,
        "place": entry.place,
        "peer": entry.peer,
        "identity": entry.identity,
        "reason": entry.reason,
        "detail": json_module.loads(entry.detail),
        "hash": one.hash,
    }
