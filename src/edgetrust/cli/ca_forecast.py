"""`edgetrust ca forecast`: what ends when."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgetrust.ca.authority import CertificateAuthority
from edgetrust.cli.output import Json, duration, print_json, print_table, say, utc


async def forecast(
    ca: CertificateAuthority,
    *,
    days: Annotated[int, typer.Option("--days", min=0, max=36_500, help="How far to look.")] = 30,
    ics: Annotated[
        Path | None, typer.Option("--ics", metavar="FILE", help="Write a calendar with one entry per end.")
    ] = None,
    json: Json = False,
) -> None:
    from edgetrust.ca.forecast import calendar, in_use, within
    from edgetrust.ca.notices import as_data
    from edgetrust.pki.softkeys import write_public

    now = ca.clock.now()
    found = within(await in_use(ca), now, days)
    if ics is not None:
        write_public(ics, calendar(found, now).encode())
        say(f"{len(found)} entries written to {ics}")
    if json:
        print_json([as_data(one) for one in found])
    elif ics is None:
        rows = [
            (
                utc(one.not_after),
                f"{'in' if one.not_after > now else 'ended'} {duration(one.not_after - now)}",
                one.kind,
                one.name,
                one.authority,
            )
            for one in found
        ]
        print_table(("UNTIL", "LEFT", "KIND", "IDENTITY", "CA"), rows)
        for one in found:
            if one.to_do:
                say(f"{one.name}: {one.to_do}")
