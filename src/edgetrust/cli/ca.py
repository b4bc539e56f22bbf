"""`edgetrust ca`: make a certificate authority, serve EST, and look at what it issued."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.ca.authority import CertificateAuthority, Order
from edgetrust.cli.at_ca import DEFAULT_CONFIG, Config, at_ca, opened
from edgetrust.cli.ca_forecast import forecast
from edgetrust.cli.ca_hierarchy import install, renew, request
from edgetrust.cli.ca_output import as_json, authority_as_json, show_authorities
from edgetrust.cli.ca_requests import approve, deny, pending
from edgetrust.cli.ca_revoke import crl, revoke
from edgetrust.cli.ca_rotate import app as rotate
from edgetrust.cli.output import Json, print_facts, print_json, print_json_line, print_line, print_table, say, utc
from edgetrust.cli.ports import HttpsPort
from edgetrust.errors import UsageError
from edgetrust.pki.keys import KeyAlgorithm, SecretText
from edgetrust.store.est import release_claim
from edgetrust.store.issuance import find_issued
from edgetrust.telemetry import set_up_logging

app = typer.Typer(
    help="A certificate authority: make it, serve EST, issue, list, revoke, rotate.", no_args_is_help=True
)

app.add_typer(rotate, name="rotate")
app.command("revoke", help="Revoke certificates; shows what depends on them first. --dry-run only shows it.")(
    at_ca(revoke)
)
app.command("forecast", help="What ends in the next days: devices, servers, CAs. --ics writes a calendar.")(
    at_ca(forecast)
)
app.command("pending", help="Requests that wait for approval.")(at_ca(pending))
app.command("approve", help="Let a waiting request have its certificate.")(at_ca(approve))
app.command("deny", help="Refuse a waiting request.")(at_ca(deny))
app.command("request", help="Make a key for a new CA and a CSR, for another company's CA to certify.")(at_ca(request))
app.command("install", help="Take the chain that came back for a CSR of `ca request`, or for one in renewals/.")(
    at_ca(install)
)
app.command("renew", help="Give a CA its next certificate now: the same key and name, by the CA above it.")(
    at_ca(renew)
)
app.command("crl", help="Make the CRL of a CA: PEM.")(at_ca(crl))

Algorithm = Annotated[KeyAlgorithm, typer.Option("--key", help="What kind of keys to make.")]
_SECRET_BYTES = 24

_CONFIG = """\
# The certificate authority of {organization}. Every key: docs/reference/config.md.
[ca]
data = "."

[listen]
https_port = 8085
names = [{names}]
"""


@app.command()
def init(
    directory: Annotated[Path, typer.Option("--dir", metavar="D", help="Where everything is kept.")] = Path(
        "edgetrust-ca"
    ),
    organization: Annotated[
        str, typer.Option("--organization", metavar="NAME", help="Stands in the subject of every CA.")
    ] = "edgetrust",
    department: Annotated[
        list[str] | None,
        typer.Option("--department", metavar="NAME", help="A CA between root and issuing CAs; in this order."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="HOST", help="What clients call the EST server. Default: localhost."),
    ] = None,
    key: Algorithm = KeyAlgorithm.P256,
    pkcs11_module: Annotated[
        Path | None, typer.Option("--pkcs11-module", metavar="FILE", help="Make the keys in a token: its library.")
    ] = None,
    pkcs11_token: Annotated[str | None, typer.Option("--pkcs11-token", metavar="LABEL", help="The token.")] = None,
    pin_file: Annotated[Path | None, typer.Option("--pin-file", metavar="FILE", help="A file with its PIN.")] = None,
    *,
    json: Json = False,
) -> None:
    """Make a root, departments and issuing CAs with their keys, and a ca.toml. Says what to guard."""
    from edgetrust.ca.ceremony import make_hierarchy
    from edgetrust.ca.settings import parse_settings
    from edgetrust.pki.names import Names
    from edgetrust.pki.softkeys import write_public

    config = directory / "ca.toml"
    if config.exists():
        raise UsageError(f"{config} exists already", reason="authority-exists", fix="choose another --dir")
    text = _config_text(organization, name or ["localhost"], pkcs11_module, pkcs11_token, pin_file)
    for title in ("device identity", *(department or ())):
        Names(
            f"{organization} {title} CA", organization=organization
        )  # too long a name is an error before anything is made

    async def make() -> list[dict[str, Any]]:
        async with opened(parse_settings(text, config)) as ca:
            await make_hierarchy(ca, organization, departments=department or (), algorithm=key)
            for one in ca.authorities.values():
                write_public(directory / f"{one.name}.cert.pem", one.chain.pem().encode())
            write_public(config, text.encode())
            return [authority_as_json(one) for one in ca.authorities.values()]

    made = asyncio.run(make())
    if json:
        print_json({"config": str(config), "authorities": made, "trust_bundle": str(directory / "root.cert.pem")})
        return
    show_authorities(made)
    print_facts([("clients trust", f"{directory}/root.cert.pem"), ("next", f"edgetrust ca serve -c {config}")])
    if pkcs11_module is not None:
        say("guard: the token and its PIN; it holds the keys of all CAs. Back up the database.")
        return
    say(f"guard: {directory}/keys/root.key.pem signs everything: move it to a medium that you lock away; it is needed")
    say("       again only to make or renew a CA. Back up the other keys and the database, readable by nobody else.")


def _config_text(
    organization: str, hosts: list[str], module: Path | None, token: str | None, pin_file: Path | None
) -> str:
    names = ", ".join(f'"{_plain(host)}"' for host in hosts)
    text = _CONFIG.format(organization=_plain(organization), names=names)
    if module is None and token is None and pin_file is None:
        return text
    if module is None or token is None or pin_file is None:
        raise UsageError("a token needs --pkcs11-module, --pkcs11-token and --pin-file", reason="pkcs11-token")
    values = (("module", str(module.resolve())), ("token", token), ("pin_file", str(pin_file.resolve())))
    return text + "\n[pkcs11]\n" + "".join(f'{name} = "{_plain(value)}"\n' for name, value in values)


def _plain(text: str) -> str:
    if not text.isprintable() or '"' in text or "\\" in text or not text.strip():
        raise UsageError(f"{text!r} cannot be used here", reason="name-malformed")
    return text


@app.command()
def serve(
    config: Config = DEFAULT_CONFIG,
    https_port: HttpsPort = None,
    *,
    json: Json = False,
) -> None:
    """Serve EST until it is told to stop. With --json prints one object when it is ready."""
    from dataclasses import replace

    from edgetrust.ca.service import CaService
    from edgetrust.ca.settings import load_settings
    from edgetrust.cli.running import run
    from edgetrust.clock import SystemClock

    set_up_logging("json" if json else "text")
    settings = load_settings(config)
    settings = settings if https_port is None else replace(settings, https_port=https_port)

    def ready(service: CaService) -> None:
        url = f"https://{settings.names[0]}:{service.https_port}/.well-known/est"
        if json:
            print_json_line({"est": {"url": url}, "pid": os.getpid()})
        else:
            say(f"ready: EST at {url}, pid {os.getpid()}")

    run(lambda: CaService.start(settings, SystemClock()), ready)


@app.command("list", help="List the certificates that were issued, the newest first.")
@at_ca
async def list_(
    ca: CertificateAuthority,
    *,
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="ID", help="Only those of this identity.")
    ] = None,
    profile: Annotated[str | None, typer.Option("--profile", metavar="NAME", help="Only those of this kind.")] = None,
    authority: Annotated[str | None, typer.Option("--authority", metavar="CA", help="Only those of this CA.")] = None,
    revoked: Annotated[bool, typer.Option("--revoked", help="Only revoked ones.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")] = 100,
    authorities: Annotated[bool, typer.Option("--authorities", help="The CAs instead.")] = False,
    json: Json = False,
) -> None:
    if authorities:
        from edgetrust.ca.upkeep import to_do

        shown = [{**authority_as_json(one), "toDo": to_do(ca, one)} for one in ca.authorities.values()]
        print_json(shown) if json else show_authorities(shown)
        return
    rows = await ca.database.read(
        lambda connection: find_issued(
            connection,
            identity=identity,
            profile=profile,
            authority=authority,
            revoked=True if revoked else None,
            limit=limit,
        )
    )
    if json:
        print_json([as_json(row) for row in rows])
        return
    columns = ("IDENTITY", "PROFILE", "CA", "SERIAL", "UNTIL", "BY", "REVOKED")
    print_table(
        columns,
        [
            (
                row.identity,
                row.profile,
                row.authority,
                row.serial,
                utc(row.not_after),
                row.credential,
                row.revocation if row.revoked_at else "",
            )
            for row in rows
        ],
    )


@app.command(help="Issue a certificate for a CSR, on your word. Prints the chain, or writes it to --out.")
@at_ca
async def issue(
    ca: CertificateAuthority,
    csr: Annotated[Path, typer.Argument(metavar="CSR", help="The request, PEM or DER; - is stdin.")],
    *,
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help="The kind of certificate.")] = "device",
    authority: Annotated[
        str | None, typer.Option("--authority", metavar="CA", help="Default: the one that issues this kind.")
    ] = None,
    path_length: Annotated[
        int | None, typer.Option("--path-length", min=0, max=8, help="For a CA: how many CAs may be below it.")
    ] = None,
    days: Annotated[int | None, typer.Option("--days", min=1, max=7_300, help="Default: the kind's.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write the chain.")] = None,
    json: Json = False,
) -> None:
    from edgetrust.ca.request import owner_of
    from edgetrust.pki.csr import parse_csr
    from edgetrust.pki.names import Names
    from edgetrust.pki.profiles import PROFILES
    from edgetrust.pki.softkeys import write_public

    kind = PROFILES.get(profile)
    if kind is None or kind.self_signed:
        known = ", ".join(name for name, one in PROFILES.items() if not one.self_signed)
        raise UsageError(f"there is no profile {profile!r}", reason="profile-unknown", fix=f"use one of {known}")
    if path_length is not None and kind.is_ca:
        kind = kind.with_path_length(path_length)
    asked = parse_csr(_read(csr))
    if asked.common_name is None:
        raise UsageError("the request has not exactly one common name", reason="enroll-name-missing")
    organizations = [str(one.value) for one in asked.subject if one.oid.dotted_string == "2.5.4.10"]
    organization = organizations[0] if kind.is_ca and organizations else None
    names = Names(asked.common_name, asked.dns, asked.ips, asked.uris, organization)
    if kind.is_ca:
        names = Names(asked.common_name, organization=organization)
    order = Order(
        asked,
        kind,
        names,
        owner_of(asked.common_name),
        "issue",
        "operator",
        place="ca issue",
        validity=None if days is None else timedelta(days=days),
    )
    issued = await ca.issue(order, authority=authority)
    if out is not None:
        write_public(out, issued.chain.pem().encode())
    if json:
        print_json({**as_json(issued.row), "chain": issued.chain.pem()})
    elif out is None:
        sys.stdout.write(issued.chain.pem())
    else:
        say(f"{out}: {issued.row.identity}, serial {issued.row.serial}, until {utc(issued.row.not_after)}")


def _read(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as problem:
        raise UsageError(f"{path} cannot be read: {problem.strerror}", reason="file-unreadable") from problem


@app.command(help="Print certificates: the trust bundle, or the chain of one CA or one certificate.")
@at_ca
async def export(
    ca: CertificateAuthority,
    *,
    authority: Annotated[str | None, typer.Option("--authority", metavar="CA", help="The chain of this CA.")] = None,
    serial: Annotated[str | None, typer.Option("--serial", metavar="HEX", help="This certificate's chain.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write it.")] = None,
) -> None:
    from edgetrust.pki.chain import Chain
    from edgetrust.pki.softkeys import write_public

    text = ca.bundle().pem()
    if serial is not None:
        wanted = serial.lower().replace(":", "").zfill(40)
        found = await ca.database.read(lambda connection: find_issued(connection, serial=wanted))
        if not found:
            raise UsageError(f"no certificate has the serial number {serial!r}", reason="serial-unknown")
        text = Chain((found[0].certificate, *ca.named(found[0].authority).chain.certificates)).pem()
    elif authority is not None:
        text = ca.named(authority).chain.pem()
    if out is None:
        sys.stdout.write(text)
    else:
        write_public(out, text.encode())
        say(f"written to {out}")


@app.command(help="Give an enrolling client a password: made here and printed once, or read from --password-file.")
@at_ca
async def password(
    ca: CertificateAuthority,
    username: Annotated[str, typer.Argument(metavar="USER", help="The user name: the device's identifier.")],
    *,
    names: Annotated[
        str | None, typer.Option("--names", metavar="PATTERN", help="Identities it is good for. Default: USER.")
    ] = None,
    uses: Annotated[
        int, typer.Option("--uses", min=0, max=1_000_000, help="How many enrolments it is good for; 0: no limit.")
    ] = 1,
    hours: Annotated[
        int | None, typer.Option("--hours", min=1, max=876_000, help="How long it is good. Default: for ever.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", metavar="FILE", help="Use this one instead; - is stdin.")
    ] = None,
    json: Json = False,
) -> None:
    from edgetrust.store.passwords import UNLIMITED, new_password, put_password

    if ":" in username or not username.isprintable() or not username:
        raise UsageError(f"{username!r} cannot be a user name", reason="name-malformed")
    given = None if password_file is None else _read(password_file).decode("utf-8", "replace").rstrip("\r\n")
    if given == "":
        raise UsageError("the password is empty", reason="password-empty")
    secret = SecretText(given or secrets.token_urlsafe(_SECRET_BYTES))
    now = ca.clock.now()
    ends = None if hours is None else now + timedelta(hours=hours)
    made = await asyncio.to_thread(new_password, username, secret, names or username, uses or UNLIMITED, ends, now)
    await ca.database.write(lambda connection: put_password(connection, made))
    if json:
        print_json({"username": username, "names": made.names, "uses": uses, "password": secret.reveal()})
    elif given is None:
        print_line(secret.reveal())
        say(f"{username} may enrol {made.names} with it, {'without limit' if uses == 0 else f'{uses} time(s)'}")
    else:
        say(f"{username} may enrol {made.names} with it")


@app.command(help="Let a name that a bootstrap credential has claimed be claimed again.")
@at_ca
async def release(
    ca: CertificateAuthority, name: Annotated[str, typer.Argument(metavar="NAME", help="As it was claimed.")]
) -> None:
    if not await ca.database.write(lambda connection: release_claim(connection, name)):
        raise UsageError(f"nobody has claimed {name!r}", reason="claim-unknown")
    say(f"{name} can be claimed again")
