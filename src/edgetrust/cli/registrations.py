"""Registrations as the command line makes, changes and shows them: between options, REST bodies (hub specification 5)
and words.

A body that is read may hold keys; whatever is shown goes through `without_keys` first, unless keys were asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.certificates import read_chain
from edgetrust.cli.output import print_facts, print_json, printable
from edgetrust.errors import UsageError
from edgetrust.pki.chain import Thumbprint, ThumbprintError

AuthOption = Annotated[
    str | None, typer.Option("--auth", metavar="sas|thumbprint|ca", help="Default: sas; thumbprint if one is given.")
]
ThumbprintOption = Annotated[str | None, typer.Option("--thumbprint", metavar="HEX", help="Primary: SHA-256 or SHA-1.")]
CertificateOption = Annotated[
    Path | None, typer.Option("--certificate", metavar="FILE", help="Take the primary thumbprint (SHA-256) from it.")
]
SecondThumbprintOption = Annotated[str | None, typer.Option("--secondary-thumbprint", metavar="HEX")]
SecondCertificateOption = Annotated[Path | None, typer.Option("--secondary-certificate", metavar="FILE")]
KeysOption = Annotated[bool, typer.Option("--keys", help="Show symmetric keys and the connection string.")]

_TYPES = {"sas": "sas", "thumbprint": "selfSigned", "ca": "certificateAuthority"}
_WORDS = {"sas": "sas", "selfSigned": "thumbprint", "certificateAuthority": "ca", "none": "none"}
_HIDDEN = "(hidden; --keys shows it)"

GENERATED_KEYS: Mapping[str, Any] = {"type": "sas", "symmetricKey": {"primaryKey": "", "secondaryKey": ""}}


def authentication(
    auth: str | None,
    thumbprint: str | None,
    certificate: Path | None,
    second_thumbprint: str | None,
    second_certificate: Path | None,
) -> dict[str, Any] | None:
    """The `authentication` of a body; None when no option says anything of it. Raises UsageError."""
    first = _thumbprint("--thumbprint", thumbprint, "--certificate", certificate)
    second = _thumbprint("--secondary-thumbprint", second_thumbprint, "--secondary-certificate", second_certificate)
    if auth is None and first is None and second is None:
        return None
    kind = auth or "thumbprint"
    if kind not in _TYPES:
        raise UsageError(f"there is no authentication {kind!r}", reason="auth-unknown", fix="sas, thumbprint or ca")
    if kind != "thumbprint" and (first or second):
        raise UsageError(
            f"thumbprints do not go with --auth {kind}",
            reason="auth-contradicts",
            fix="use --auth thumbprint or leave them out",
        )
    if kind == "thumbprint" and not (first or second):
        raise UsageError(
            "--auth thumbprint needs a thumbprint",
            reason="auth-thumbprint-missing",
            fix="add --thumbprint HEX or --certificate FILE",
        )
    if kind == "sas":
        return dict(GENERATED_KEYS)
    if kind == "ca":
        return {"type": "certificateAuthority"}
    return {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": first, "secondaryThumbprint": second}}


def merged(stored: Mapping[str, Any], wished: dict[str, Any]) -> dict[str, Any]:
    """`wished` with what was not said taken from what is stored: the other thumbprint, the keys of an identity that
    keeps SAS.
    """
    if wished["type"] != stored.get("type"):
        return wished
    if wished["type"] == "sas":
        return dict(stored)
    if wished["type"] == "selfSigned":
        given = {name: value for name, value in wished["x509Thumbprint"].items() if value is not None}
        return {**wished, "x509Thumbprint": {**(stored.get("x509Thumbprint") or {}), **given}}
    return wished


def without_keys(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with its symmetric keys left out."""
    shown = dict(body)
    kept = dict(shown.get("authentication") or {})
    kept.pop("symmetricKey", None)
    shown["authentication"] = kept
    return shown


def auth_word(body: Mapping[str, Any]) -> str:
    """`sas`, `thumbprint`, `ca` or `none`."""
    kind = str((body.get("authentication") or {}).get("type") or "none")
    return _WORDS.get(kind, kind)


def parent_of(body: Mapping[str, Any]) -> str:
    """The identifier of the gateway above, without the scheme and the generation of its scope; empty when there is
    none.
    """
    scopes = body.get("parentScopes") or []
    if not scopes:
        return ""
    return str(scopes[0]).removeprefix("ms-azure-iot-edge://").rpartition("-")[0]


def facts(body: Mapping[str, Any], host_name: str, *, keys: bool) -> list[tuple[str, str]]:
    """A device or module as aligned lines for people."""
    device, module = str(body.get("deviceId", "")), body.get("moduleId")
    return [
        ("device", device),
        ("module", str(module or "")),
        ("status", _status(body)),
        ("authentication", auth_word(body)),
        *_credentials(body, host_name, device, module, keys=keys),
        ("edge", "yes" if (body.get("capabilities") or {}).get("iotEdge") else ""),
        ("parent", parent_of(body)),
        ("scope", str(body.get("deviceScope") or "")),
        ("connection", str(body.get("connectionState") or "")),
        ("last seen", _moment(body.get("lastActivityTime"))),
        ("waiting messages", str(body.get("cloudToDeviceMessageCount") or "")),
        ("generation", str(body.get("generationId") or "")),
        ("etag", str(body.get("etag") or "")),
    ]


def print_registration(body: Mapping[str, Any], host_name: str, *, keys: bool, json: bool) -> None:
    """A device or module on stdout; its keys only if they were asked for."""
    if json:
        print_json(body if keys else without_keys(body))
    else:
        print_facts(facts(body, host_name, keys=keys))


def _status(body: Mapping[str, Any]) -> str:
    reason = body.get("statusReason")
    return str(body.get("status") or "") + (f" ({printable(str(reason))})" if reason else "")


def _moment(text: object) -> str:
    return "" if text is None or str(text).startswith("0001-") else str(text)


def _credentials(
    body: Mapping[str, Any], host_name: str, device: str, module: object, *, keys: bool
) -> list[tuple[str, str]]:
    authentication = body.get("authentication") or {}
    match authentication.get("type"):
        case "selfSigned":
            prints = authentication.get("x509Thumbprint") or {}
            return [
                ("primary", str(prints.get("primaryThumbprint") or "")),
                ("secondary", str(prints.get("secondaryThumbprint") or "")),
            ]
        case "sas":
            held = authentication.get("symmetricKey") or {}
            primary = str(held.get("primaryKey") or "")
            if not keys:
                return [("primary key", _HIDDEN), ("secondary key", _HIDDEN)]
            who = f"DeviceId={device}" + (f";ModuleId={module}" if module else "")
            return [
                ("primary key", primary),
                ("secondary key", str(held.get("secondaryKey") or "")),
                ("connection string", f"HostName={host_name};{who};SharedAccessKey={primary}"),
            ]
        case _:
            return []


def _thumbprint(text_option: str, text: str | None, file_option: str, file: Path | None) -> str | None:
    """Hexadecimal digits from a text or from a certificate file; None if neither was given."""
    if text is not None and file is not None:
        raise UsageError(
            f"{text_option} and {file_option} exclude each other", reason="options-exclude", fix="give one of them"
        )
    if file is not None:
        return read_chain(file).thumbprint().hex()
    if text is None:
        return None
    try:
        return Thumbprint.parse(text).hex()
    except ThumbprintError as problem:
        raise UsageError(f"{text_option}: {problem.message}", reason=problem.reason, fix=problem.fix) from problem
