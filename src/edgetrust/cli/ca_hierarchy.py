"""`edgetrust ca request` and `install`: a CA of ours below the root of somebody else, by files; `renew`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgetrust.ca.authority import CertificateAuthority
from edgetrust.cli.certificates import read_chain
from edgetrust.cli.output import say, utc
from edgetrust.errors import UsageError
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.names import Names

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the CA is called here; its EST label.")]


async def request(
    ca: CertificateAuthority,
    name: Name,
    *,
    common_name: Annotated[str, typer.Option("--common-name", metavar="TEXT", help="Its subject.")],
    organization: Annotated[str | None, typer.Option("--organization", metavar="TEXT", help="Its subject.")] = None,
    key: Annotated[KeyAlgorithm, typer.Option("--key", help="What kind of key to make.")] = KeyAlgorithm.P256,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; default stdout.")
    ] = None,
) -> None:
    from edgetrust.ca import ceremony
    from edgetrust.pki.softkeys import write_public

    _plain(name)
    pem = ceremony.request(ca, name, Names(common_name, organization=organization), key)
    if out is None:
        sys.stdout.write(pem.decode())
    else:
        write_public(out, pem)
    say(f"the key is made; have the request certified, then: edgetrust ca install {name} CHAIN")


async def install(
    ca: CertificateAuthority,
    name: Name,
    chain: Annotated[Path, typer.Argument(metavar="CHAIN", help="The CA's certificate, then those above it.")],
    *,
    profile: Annotated[
        list[str] | None, typer.Option("--profile", metavar="NAME", help="What it is to issue by EST.")
    ] = None,
) -> None:
    from edgetrust.ca import ceremony
    from edgetrust.pki.profiles import PROFILES

    unknown = [one for one in profile or () if one not in PROFILES]
    if unknown:
        raise UsageError(f"there is no profile {unknown[0]!r}", reason="profile-unknown")
    if name in ca.authorities:
        from edgetrust.ca import upkeep

        await upkeep.install_next(ca, name, read_chain(chain))
        say(f"{name} has its next certificate, until {utc(ca.named(name).row.certificate.not_valid_after_utc)}")
        return
    await ceremony.install(ca, name, read_chain(chain), frozenset(profile or ()))
    say(f"{name} is active")


async def renew(ca: CertificateAuthority, name: Name) -> None:
    from edgetrust.ca import upkeep

    chain = await upkeep.renew(ca, name)
    say(f"{name} has its next certificate, until {utc(chain.end_entity.not_valid_after_utc)}")


def _plain(name: str) -> None:
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or len(name) > 64:  # noqa: PLR2004
        raise UsageError(f"{name!r} cannot name a CA: use letters, digits, - and _", reason="name-malformed")
