"""`edgetrust ca pending`, `approve` and `deny`: requests whose rule wants a person's word."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer
from sqlalchemy import Connection

from edgetrust.ca.authority import CertificateAuthority
from edgetrust.cli.output import Json, iso, print_json, print_table, say, utc
from edgetrust.errors import UsageError
from edgetrust.store import chained
from edgetrust.store.est import APPROVED, DENIED, PENDING, RequestRow, decide_request, read_requests

Request = Annotated[str, typer.Argument(metavar="REQUEST", help="The identifier, or its beginning.")]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; it is kept with the request.")]


async def pending(ca: CertificateAuthority, *, json: Json = False) -> None:
    found = await ca.database.read(read_requests)
    if json:
        print_json([_as_json(row) for row in found])
        return
    rows = [
        (row.id[:12], row.identity, row.profile, row.authority, row.credential, row.peer, utc(row.asked_at))
        for row in found
    ]
    print_table(("REQUEST", "IDENTITY", "PROFILE", "CA", "BY", "PEER", "SINCE"), rows)


def _as_json(row: RequestRow) -> dict[str, str]:
    return {
        "request": row.id,
        "identity": row.identity,
        "profile": row.profile,
        "authority": row.authority,
        "subject": row.subject,
        "publicKey": row.public_key,
        "credential": row.credential,
        "peer": row.peer,
        "asked": iso(row.asked_at),
    }


async def approve(ca: CertificateAuthority, request: Request, *, note: Note = "") -> None:
    row = await _decide(ca, request, APPROVED, note)
    say(f"approved: {row.identity} gets its certificate when it asks again")


async def deny(ca: CertificateAuthority, request: Request, *, note: Note = "") -> None:
    row = await _decide(ca, request, DENIED, note)
    say(f"denied: {row.identity} is told when it asks again; a request with another key is new")


async def _decide(ca: CertificateAuthority, request: str, state: str, note: str) -> RequestRow:
    found = [row for row in await ca.database.read(read_requests) if row.id.startswith(request.lower())]
    if len(found) != 1:
        what = "no request waits" if not found else f"{len(found)} requests wait"
        raise UsageError(
            f"{what} whose identifier begins with {request!r}", reason="request-unknown", fix="edgetrust ca pending"
        )
    row, now = found[0], ca.clock.now()
    assert row.state == PENDING
    detail = json_module.dumps({"request": row.id, "note": note, "subject": row.subject})

    def work(connection: Connection) -> None:
        decide_request(connection, row.id, state, now, note)
        entry = chained.Entry(now, state, "operator", row.peer, row.identity, f"enroll-{state}", detail)
        chained.append(connection, entry)

    await ca.database.write(work)
    return row
