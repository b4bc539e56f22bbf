"""`edgetrust hub ca` and `edgetrust dps ca`: the CA certificates that a hub, or a provisioning service, accepts devices
below, with proof of possession (hub specification 11).
"""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.at_hub import at_dps, at_hub
from edgetrust.cli.certificates import read_chain
from edgetrust.cli.client import HubClient
from edgetrust.cli.output import Json, print_facts, print_json, print_line, print_table, say
from edgetrust.clock import SystemClock
from edgetrust.errors import UsageError
from edgetrust.pki.chain import Chain
from edgetrust.pki.issue import Issuer
from edgetrust.pki.names import Names
from edgetrust.pki.profiles import DEVICE
from edgetrust.pki.softkeys import SoftKey, load_key_file

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the CA certificate.")]

_PROOF_VALIDITY = timedelta(hours=1)  # it is shown once, at once


async def add(
    client: HubClient,
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The CA certificate, PEM or DER.")],
    *,
    verified: Annotated[
        bool, typer.Option("--verified", help="Trust it on your word, without proof of possession.")
    ] = False,
    json: Json = False,
) -> None:
    body = {"properties": {"certificate": _encoded(read_chain(file)), "isVerified": verified}}
    _show(await client.put(*client.certificates, name, body=body), json=json)
    if not verified:
        say(f"not verified yet: edgetrust {client.command} ca verify {name} --key CA_KEY")


async def list_(client: HubClient, *, json: Json = False) -> None:
    entries: list[dict[str, Any]] = (await client.get(*client.certificates))["value"]
    if json:
        print_json(entries)
        return
    rows = [
        (
            str(entry["name"]),
            _verified(entry),
            str(entry["properties"]["subject"]),
            str(entry["properties"]["expiry"]),
            str(entry["properties"]["thumbprint"]),
        )
        for entry in entries
    ]
    print_table(("NAME", "STATUS", "SUBJECT", "EXPIRES", "SHA-1"), rows)


async def code(client: HubClient, name: Name, *, json: Json = False) -> None:
    entry = await _new_code(client, name)
    if json:
        print_json(entry)
    else:
        print_line(str(entry["properties"]["verificationCode"]))


async def verify(
    client: HubClient,
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The certificate that proves possession.")
    ] = None,
    *,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="KEY", help="The CA's key: the proof is made here.")
    ] = None,
    json: Json = False,
) -> None:
    if file is not None and key is None:
        proof, entry = read_chain(file), await client.get(*client.certificates, name)
    elif key is not None and file is None:
        ca_key, entry = load_key_file(key), await _new_code(client, name)
        proof = prove(entry, ca_key)
    else:
        raise UsageError(
            "either a certificate or the CA's key proves possession",
            reason="proof-missing",
            fix=f"edgetrust {client.command} ca verify {name} FILE, or --key CA_KEY",
        )
    body = {"certificate": _encoded(proof)}
    _show(await client.post(*client.certificates, name, "verify", body=body, etag=str(entry["etag"])), json=json)


async def remove(client: HubClient, name: Name) -> None:
    entry = await client.get(*client.certificates, name)
    await client.delete(*client.certificates, name, etag=str(entry["etag"]))
    say(f"removed {name}")


def prove(entry: dict[str, Any], ca_key: SoftKey) -> Chain:
    """A certificate that shows possession of the CA's key: its common name is the code. Raises IntegrityError."""
    now = SystemClock().now()
    stored = _decoded(str(entry["properties"]["certificate"]))
    code_name = Names(str(entry["properties"]["verificationCode"]))
    issuer = Issuer(ca_key, Chain(stored.certificates[:1]))
    public = SoftKey.generate("proof").public_key()
    issued = issuer.issue(public, DEVICE, code_name, now, validity=_PROOF_VALIDITY)
    return Chain(issued.certificates[:1])


async def _new_code(client: HubClient, name: str) -> dict[str, Any]:
    entry = await client.get(*client.certificates, name)
    answer = await client.post(*client.certificates, name, "generateVerificationCode", etag=str(entry["etag"]))
    properties = {**entry["properties"], **answer["properties"]}
    return {**answer, "properties": properties}


def _encoded(chain: Chain) -> str:
    return base64.b64encode(Chain(chain.certificates[:1]).pem().encode()).decode()


def _decoded(text: str) -> Chain:
    content = base64.b64decode(text)
    return Chain.from_pem(content) if b"-----BEGIN" in content else Chain.from_der([content])


def _verified(entry: dict[str, Any]) -> str:
    return "verified" if entry["properties"]["isVerified"] else "NOT VERIFIED"


def _show(entry: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(entry)
        return
    properties = entry["properties"]
    print_facts(
        [
            ("name", str(entry["name"])),
            ("status", _verified(entry)),
            ("subject", str(properties["subject"])),
            ("expires", str(properties["expiry"])),
            ("SHA-1", str(properties["thumbprint"])),
        ]
    )


_COMMANDS = (
    ("add", add, "Register a CA certificate. It counts when possession is proven, or with --verified."),
    ("list", list_, "List CA certificates."),
    ("code", code, "Get a new verification code: issue a certificate with it as common name, then `verify`."),
    (
        "verify",
        verify,
        "Prove possession: with a certificate whose common name is the code, or with the CA's key, at once.",
    ),
    ("remove", remove, "Remove a CA certificate. Devices that only it vouched for are refused from then on."),
)

app = typer.Typer(help="CA certificates that devices may authenticate below.", no_args_is_help=True)
dps_app = typer.Typer(help="CA certificates that enrollment groups may name.", no_args_is_help=True)
for _name, _command, _help in _COMMANDS:
    app.command(_name, help=_help)(at_hub(_command))
    dps_app.command(_name, help=_help)(at_dps(_command))
