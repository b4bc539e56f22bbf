"""`edgetrust device explain`: shows a credential to the hub's decision, without connecting, and prints what it says.

Of a certificate's file only the certificates are sent; a private key in it stays here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.at_hub import at_hub
from edgetrust.cli.certificates import read_chain
from edgetrust.cli.client import HubClient, read_secret
from edgetrust.cli.output import Json, print_facts, print_json, print_line
from edgetrust.errors import RefusedError, UsageError


@at_hub
async def explain(
    client: HubClient,
    device: Annotated[str, typer.Argument(metavar="ID", help="The device's identifier; case-sensitive.")],
    *,
    module: Annotated[str | None, typer.Option("--module", metavar="ID", help="A module of the device.")] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="FILE", help="What the client shows, intermediates too.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="The SAS token it sends; - is standard input.")
    ] = None,
    json: Json = False,
) -> None:
    if certificate is not None and token_file is not None:
        raise UsageError(
            "--certificate and --token-file exclude each other",
            reason="options-exclude",
            fix="give the token: a hub never looks at a certificate beside it",
        )
    question: dict[str, Any] = {"device": device}
    if module is not None:
        question["module"] = module
    if certificate is not None:
        question["certificates"] = read_chain(certificate).pem()
    if token_file is not None:
        question["token"] = read_secret(token_file)
    answer: dict[str, Any] = await client.post("edgetrust", "explain", body=question)
    if not answer["accepted"]:
        for name in ("confirm", "fix"):
            answer[name] = re.sub(r"\bDEVICE\b", lambda _match: device, answer[name])
    if json:
        print_json(answer)
    else:
        _print(answer)
    if not answer["accepted"]:
        raise typer.Exit(RefusedError.exit_code)


def _print(answer: dict[str, Any]) -> None:
    verdict = "would be accepted" if answer["accepted"] else "would be refused"
    print_line(f"{answer['identity']} {verdict}: {answer['reason']}")
    for check in answer["checks"]:
        detail = f": {check['detail']}" if check["detail"] else ""
        print_line(f"   {'passed' if check['passed'] else 'FAILED'}  {check['name']}{detail}")
    if answer["accepted"]:
        print_facts([("until", answer["validUntil"] or "")], indent="   ")
    else:
        print_facts([(name, answer[name]) for name in ("means", "confirm", "fix")], indent="   ")
