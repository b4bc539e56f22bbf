"""`edgetrust ca revoke` and `crl`: take certificates back, and say so in files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgetrust.ca.authority import CertificateAuthority
from edgetrust.cli.ca_output import as_json
from edgetrust.cli.output import Json, print_json, print_table, say, utc
from edgetrust.errors import UsageError


async def revoke(
    ca: CertificateAuthority,
    *,
    serial: Annotated[str | None, typer.Option("--serial", metavar="HEX", help="This certificate.")] = None,
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="ID", help="Every certificate of this identity.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="WORD", help="RFC 5280's word for it.")] = "unspecified",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be revoked.")] = False,
    json: Json = False,
) -> None:
    from edgetrust.ca import revocation

    if (serial is None) == (identity is None):
        raise UsageError("give either --serial or --identity", reason="usage")
    wanted = await revocation.plan(ca, serial=serial, identity=identity)
    if not dry_run:
        await revocation.revoke(ca, wanted, reason)
    if json:
        print_json(
            {
                "revoked": not dry_run,
                "certificates": [as_json(row) for row in wanted.rows],
                "depending": [{"what": one.what, "count": one.count} for one in wanted.dependents],
            }
        )
        return
    rows = [(row.identity, row.profile, row.authority, row.serial, utc(row.not_after)) for row in wanted.rows]
    print_table(("IDENTITY", "PROFILE", "CA", "SERIAL", "UNTIL"), rows)
    for one in wanted.dependents:
        say(f"depends on it: {one.what} ({one.count})")
    say(
        "nothing was done: --dry-run"
        if dry_run
        else f"{len(rows)} revoked; EST refuses them, and the next CRL has them"
    )


async def crl(
    ca: CertificateAuthority,
    authority: Annotated[str, typer.Argument(metavar="CA", help="Whose revocations.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; default stdout.")
    ] = None,
) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from edgetrust.ca.revocation import RevocationLists
    from edgetrust.pki.softkeys import write_public

    der = await RevocationLists(ca).crl(authority)
    pem = x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
    if out is None:
        sys.stdout.write(pem.decode())
    else:
        write_public(out, pem)
        say(f"written to {out}")
