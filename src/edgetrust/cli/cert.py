"""`edgetrust cert`: show, verify, thumbprint, renewal, and the demonstration set.

`show` judges nothing; `verify` makes the same path validation as hub and gateway and names the check that failed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.cert_status import needs_renewal, status
from edgetrust.cli.certificates import describe, facts, read_chain
from edgetrust.cli.chain_fixes import fix_for
from edgetrust.cli.demo_pki import DemoOptions, make_demo_pki
from edgetrust.cli.demo_text import as_json, as_text
from edgetrust.cli.output import Json, iso, print_block, print_facts, print_json, print_line, say, utc
from edgetrust.clock import SystemClock
from edgetrust.errors import IntegrityError, RefusedError, UsageError
from edgetrust.pki.chain import Chain, TrustBundle, key_matches, load_system_bundle
from edgetrust.pki.keys import KeyAlgorithm
from edgetrust.pki.softkeys import load_key_file
from edgetrust.pki.verify import ChainFailure, Purpose, VerifiedChain, verify_chain

app = typer.Typer(help="Show, verify and make certificates.", no_args_is_help=True)
app.command("status")(status)
app.command("needs-renewal")(needs_renewal)

File = Annotated[Path, typer.Argument(metavar="FILE", help="Certificate or chain, PEM or DER.")]


@app.command(help="Show a certificate with its whole chain: names, dates, key, usages, thumbprints.")
def show(
    file: File,
    *,
    key: Annotated[Path | None, typer.Option("--key", metavar="KEY", help="Say whether this private key fits.")] = None,
    json: Json = False,
) -> None:
    now = SystemClock().now()
    chain = read_chain(file)
    fault = _key_fault(chain, key) if key is not None else None
    if json:
        certificates = [describe(certificate, now) for certificate in chain.certificates]
        answer: dict[str, Any] = {"file": str(file), "certificates": certificates}
        print_json(answer if key is None else {**answer, "keyFits": fault is None})
    else:
        for depth, certificate in enumerate(chain.certificates):
            print_line(f"{depth}  {certificate.subject.rfc4514_string() or '(empty subject)'}")
            print_facts(facts(certificate, now)[1:], indent="   ")
        if key is not None and fault is None:
            print_line(f"key {key} fits")
    if fault is not None:
        raise fault


@app.command(
    help="Verify a chain up to a trusted CA, for a purpose, a name and a time. Exit code 1 when it is refused."
)
def verify(
    file: File,
    *,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="BUNDLE", help="Trusted CAs, PEM. Default: the system's store.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Host name or IP address that the certificate must be good for.")
    ] = None,
    purpose: Annotated[
        str | None,
        typer.Option("--purpose", metavar="server|device|ca", help="Default: server with --name, else by what it is."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="Validation time, e.g. 2027-01-31T12:00Z. Default: now.")
    ] = None,
    json: Json = False,
) -> None:
    now = SystemClock().now() if at is None else parse_time(at)
    chain = read_chain(file)
    wanted = _purpose(purpose, chain, name)
    outcome = verify_chain(chain, _bundle(ca, now), wanted, now, name=name)
    if isinstance(outcome, ChainFailure):
        _refuse(outcome, wanted, now, json=json)
    else:
        _accept(outcome, wanted, now, name, json=json)


@app.command(help="Print the thumbprint as openssl prints it, or plain as a registry stores it.")
def thumbprint(
    file: File,
    *,
    sha1: Annotated[bool, typer.Option("--sha1", help="SHA-1.")] = False,
    sha256: Annotated[bool, typer.Option("--sha256", help="SHA-256 (default).")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Only hexadecimal digits.")] = False,
    json: Json = False,
) -> None:
    if sha1 and sha256:
        raise UsageError("--sha1 and --sha256 exclude each other", reason="options-exclude", fix="give one of them")
    chain = read_chain(file)
    algorithm = "sha1" if sha1 else "sha256"
    print_of = chain.thumbprint("sha1" if sha1 else "sha256")
    if json:
        print_json({"algorithm": algorithm, "thumbprint": print_of.hex(), "openssl": print_of.openssl()})
    else:
        print_line(print_of.hex() if plain else f"{algorithm} Fingerprint={print_of.openssl()}")


@app.command(help="Make the demonstration set: CAs, hub, gateway and device certificates, and the lines that use them.")
def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to.")] = Path("demo-certificates"),
    *,
    bad: Annotated[bool, typer.Option("--bad", help="Also certificates that must be refused.")] = False,
    intermediates: Annotated[int, typer.Option(min=0, max=5, help="CAs between root and Edge CA.")] = 1,
    algorithm: Annotated[str, typer.Option(metavar="ec-p256|rsa-2048|rsa-3072|rsa-4096")] = "ec-p256",
    days: Annotated[int, typer.Option(min=1, max=3650, help="Validity of everything below the CAs.")] = 30,
    hub: Annotated[str, typer.Option(help="Host name of the hub.")] = "contosoiothub.local",
    gateway: Annotated[str, typer.Option(help="Host name or IP address of the gateway.")] = "edgegateway.local",
    force: Annotated[bool, typer.Option("--force", help="Replace an older set.")] = False,
    json: Json = False,
) -> None:
    options = DemoOptions(
        intermediates=intermediates, algorithm=_algorithm(algorithm), days=days, hub=hub, gateway=gateway, bad=bad
    )
    if (directory / "private").exists() and not force:
        raise UsageError(
            f"{directory} holds a set already", reason="demo-exists", fix="name another directory or add --force"
        )
    made = make_demo_pki(directory.absolute(), SystemClock().now(), options)
    if json:
        print_json(as_json(made))
    else:
        print_block(as_text(made))
        say("For demonstrations and tests: the private keys of the CAs lie beside everything else.")


def parse_time(text: str) -> datetime:
    """An ISO 8601 time; UTC unless it says otherwise. Raises UsageError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as problem:
        raise UsageError(
            f"{text!r} is no time", reason="time-malformed", fix="write it like 2027-01-31 or 2027-01-31T12:00:00Z"
        ) from problem
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _key_fault(chain: Chain, key: Path) -> IntegrityError | None:
    try:
        key_matches(chain, load_key_file(key))
    except IntegrityError as problem:
        return problem
    return None


def _algorithm(text: str) -> KeyAlgorithm:
    try:
        return KeyAlgorithm(text)
    except ValueError as problem:
        known = ", ".join(algorithm.value for algorithm in KeyAlgorithm)
        raise UsageError(
            f"there is no key algorithm {text!r}", reason="algorithm-unknown", fix=f"one of {known}"
        ) from problem


def _bundle(ca: Path | None, now: datetime) -> TrustBundle:
    return load_system_bundle(now) if ca is None else TrustBundle(read_chain(ca).certificates, as_of=now)


def _purpose(text: str | None, chain: Chain, name: str | None) -> Purpose:
    if text is None:
        known = describe(chain.end_entity, datetime.now(UTC))
        serves = name is not None or "serverAuth" in known["extendedKeyUsage"]
        return Purpose.SERVER if serves else Purpose.CA if known["ca"] else Purpose.DEVICE
    try:
        return Purpose(text)
    except ValueError as problem:
        raise UsageError(
            f"there is no purpose {text!r}", reason="purpose-unknown", fix="server, device or ca"
        ) from problem


def _accept(outcome: VerifiedChain, purpose: Purpose, now: datetime, name: str | None, *, json: bool) -> None:
    path = [certificate.subject.rfc4514_string() for certificate in outcome.path]
    if json:
        until = iso(outcome.valid_until)
        print_json(
            {
                "accepted": True,
                "purpose": purpose.value,
                "name": name,
                "at": iso(now),
                "path": path,
                "validUntil": until,
            }
        )
        return
    print_line(f"accepted as the certificate of a {purpose.value}" + (f" named {name}" if name else ""))
    print_facts([("at", utc(now)), ("path", "\n".join(path)), ("until", utc(outcome.valid_until))], indent="  ")


def _refuse(failure: ChainFailure, purpose: Purpose, now: datetime, *, json: bool) -> None:
    reason, fix = failure.reason.value, fix_for(failure.reason)
    if json:
        print_json(
            {
                "accepted": False,
                "purpose": purpose.value,
                "at": iso(now),
                "reason": reason,
                "certificate": failure.certificate,
                "detail": failure.detail,
                "fix": fix,
            }
        )
        raise typer.Exit(RefusedError.exit_code)
    raise RefusedError(f"{reason}: {failure.certificate}: {failure.detail}", reason=reason, fix=fix)
