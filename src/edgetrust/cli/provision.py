"""`edgetrust device provision`: be a device that registers with a provisioning service."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetrust.cli.at_hub import Directory
from edgetrust.cli.certificates import read_chain, read_file
from edgetrust.cli.client import default_directory, read_secret, up_json
from edgetrust.cli.output import Json, print_facts, print_json
from edgetrust.cli.through import Through, passing_gateway
from edgetrust.clock import SystemClock
from edgetrust.errors import ConfigError, UsageError
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.csr import CsrError, parse_csr
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.softkeys import load_key_file, write_private
from edgetrust.protocol.sas import KeyFormatError, decode_key

if TYPE_CHECKING:  # the client is imported when it is used: all other commands of `device` start without it
    from edgetrust.device.provision import ByCertificate, ByKey, DpsAddress, ProvisionedAs


def provision(
    registration: Annotated[str, typer.Argument(metavar="ID", help="The registration identifier.")],
    *,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", metavar="FILE", help="The device's symmetric key; - is stdin.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="FILE", help="Its certificate, with the intermediates.")
    ] = None,
    private_key: Annotated[Path | None, typer.Option("--private-key", metavar="FILE", help="Its private key.")] = None,
    csr: Annotated[
        Path | None, typer.Option("--csr", metavar="FILE", help="Ask for an operational certificate too.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where the issued chain goes, with --csr.")
    ] = None,
    dps: Annotated[str | None, typer.Option("--dps", metavar="URL", help="The service; with --id-scope.")] = None,
    id_scope: Annotated[str | None, typer.Option("--id-scope", metavar="SCOPE")] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="BUNDLE", help="CAs that verify the service. Default: --dir's.")
    ] = None,
    through: Through = None,
    directory: Directory = None,
    json: Json = False,
) -> None:
    from edgetrust.device.provision import register

    if (csr is None) != (out is None):
        raise UsageError("--csr and --out go together", reason="options-together", fix="give both or none")
    service = replace(_service(dps, id_scope, ca, directory), instead=passing_gateway(through))
    credential = _credential(key_file, certificate, private_key)
    asked = None if csr is None else _csr(csr)
    outcome = asyncio.run(register(service, registration, credential, SystemClock(), csr=asked))
    if out is not None and outcome.issued is not None:
        write_private(out, outcome.issued.pem().encode())
    _show(outcome, out, json=json)


def _service(dps: str | None, id_scope: str | None, ca: Path | None, directory: Path | None) -> DpsAddress:
    from edgetrust.device.provision import DpsAddress

    now = SystemClock().now()
    bundle = None if ca is None else TrustBundle(read_chain(ca).certificates, as_of=now)
    if dps is not None and id_scope is not None:
        return DpsAddress(dps if "//" in dps else f"https://{dps}", id_scope, bundle)
    if dps is not None or id_scope is not None:
        raise UsageError("--dps and --id-scope go together", reason="options-together", fix="give both or none")
    directory = directory or default_directory()
    if directory is None:
        raise UsageError(
            "no provisioning service was named",
            reason="dps-not-named",
            fix="add --dir D, or --dps URL --id-scope SCOPE",
        )
    ready = up_json(directory)
    try:
        at, trust = ready["dps"], Path(ready["trust_bundle"])
        url, scope = f"https://{at['hostname']}:{at['https_port']}", str(at["id_scope"])
    except (KeyError, TypeError) as problem:
        raise ConfigError(
            f"{directory / 'up.json'} names no provisioning service: {problem}", reason="up-json-unreadable"
        ) from problem
    return DpsAddress(url, scope, bundle or TrustBundle(read_chain(trust).certificates, as_of=now))


def _credential(key_file: Path | None, certificate: Path | None, private_key: Path | None) -> ByKey | ByCertificate:
    from edgetrust.device.provision import ByCertificate, ByKey

    if (key_file is None) == (certificate is None):
        raise UsageError(
            "a device shows a key or a certificate",
            reason="credential-not-named",
            fix="give --key-file or --certificate",
        )
    if key_file is not None:
        try:
            return ByKey(SecretBytes(decode_key(read_secret(key_file))))
        except KeyFormatError as problem:
            raise UsageError(f"{key_file}: {problem.message}", reason=problem.reason) from problem
    if certificate is None or private_key is None:
        raise UsageError("--certificate needs --private-key", reason="options-together", fix="add --private-key FILE")
    return ByCertificate(read_chain(certificate), load_key_file(private_key))


def _csr(file: Path) -> bytes:
    try:
        return parse_csr(read_file(file)).der
    except CsrError as problem:
        raise UsageError(f"{file}: {problem.message}", reason=problem.reason) from problem


def _show(outcome: ProvisionedAs, out: Path | None, *, json: bool) -> None:
    if json:
        print_json(
            {
                "assignedHub": outcome.hub,
                "deviceId": outcome.device,
                "substatus": outcome.substatus,
                "payload": outcome.payload,
                "issued": None if out is None else str(out),
            }
        )
        return
    print_facts(
        [
            ("hub", outcome.hub),
            ("device", outcome.device),
            ("substatus", outcome.substatus or ""),
            ("certificate", "" if out is None else str(out)),
        ]
    )
