"""`edgetrust device enroll` and `renew`: a device gets its certificate by EST, and keeps it."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.enroll_state import Enrolled, load, load_state, save
from edgetrust.cli.output import Json, iso, print_facts, print_json, say, utc
from edgetrust.cli.through import Through
from edgetrust.errors import UsageError
from edgetrust.pki.keys import KeyAlgorithm

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Where `device enroll --into` put it.")]


def enroll(
    device: Annotated[str, typer.Argument(metavar="ID", help="The device's identifier; its common name.")],
    *,
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="Where certificate and key will be.")],
    est: Annotated[
        str | None,
        typer.Option("--est", metavar="URL", help="The EST server, like https://est.example/.well-known/est."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="D", help="The directory of a running `edgetrust up`: its EST server and CA."),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="BUNDLE", help="CAs that may certify the EST server, beside the system's."),
    ] = None,
    through: Through = None,
    bootstrap_cert: Annotated[
        Path | None, typer.Option("--bootstrap-cert", metavar="FILE", help="Certificate for the first time.")
    ] = None,
    bootstrap_key: Annotated[Path | None, typer.Option("--bootstrap-key", metavar="FILE", help="Its key.")] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help="For HTTP Basic.")] = None,
    password_file: Annotated[Path | None, typer.Option("--password-file", metavar="FILE")] = None,
    key: Annotated[KeyAlgorithm, typer.Option("--key", help="The kind of key to make.")] = KeyAlgorithm.P256,
    keep_key: Annotated[bool, typer.Option("--keep-key", help="Renew with the same key.")] = False,
    threshold: Annotated[
        str, typer.Option(help="When to renew: a share of the life, or a time before its end.")
    ] = "80%",
    retry: Annotated[str, typer.Option(help="How long to wait after a failure.")] = "4%",
    hub: Annotated[
        str | None,
        typer.Option("--hub", metavar="NAME[:PORT]", help="Prove new certificates by connecting to this hub."),
    ] = None,
    gateway: Annotated[
        str | None, typer.Option("--gateway", metavar="HOST[:PORT]", help="Prove through this gateway.")
    ] = None,
    address: Annotated[str | None, typer.Option("--address", metavar="IP", help="Dial this address for it.")] = None,
    trust: Annotated[
        Path | None, typer.Option("--trust", metavar="BUNDLE", help="CAs of hub or gateway. Default: the system's.")
    ] = None,
    json: Json = False,
) -> None:
    """Get a certificate by EST: with a bootstrap certificate or a password at first, with its own from then on."""
    from edgetrust.cli.enroll_renewal import renewal_of

    if (bootstrap_cert is None) != (bootstrap_key is None):
        raise UsageError(
            "--bootstrap-cert and --bootstrap-key belong together", reason="options-belong", fix="give both"
        )
    if hub is None and (gateway or address or trust):
        raise UsageError("--gateway, --address and --trust need --hub", reason="options-belong", fix="add --hub NAME")
    known = _of_up(directory)
    url = est or known.get("url")
    if url is None:
        raise UsageError("no EST server was named", reason="est-not-named", fix="add --est URL, or --dir D")
    own_credential = bootstrap_cert is not None or user is not None
    enrolled = Enrolled(
        device=device,
        est=url,
        ca=_absolute(ca) or known.get("ca"),
        bootstrap_cert=_absolute(bootstrap_cert),
        bootstrap_key=_absolute(bootstrap_key),
        user=user or (None if own_credential else known.get("username")),
        password_file=_absolute(password_file) or (None if own_credential else known.get("password_file")),
        key=key.value,
        rotate_key=not keep_key,
        threshold=threshold,
        retry=retry,
        hub=hub,
        gateway=gateway,
        address=address,
        trust=_absolute(trust),
        through=through,
    )
    renewal = renewal_of(into, enrolled)
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    save(into, enrolled)
    say(f"asking {url} for a certificate of {device}")
    asyncio.run(renewal.attempt())
    _print(into, json=json)


def renew(
    directory: Directory,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also when it is not due.")] = False,
    new: Annotated[
        bool, typer.Option("--new", help="Ask for another certificate, also when one waits for its proof.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and renew in time for ever.")] = False,
    json: Json = False,
) -> None:
    """Renew a certificate that is due, with its own certificate, or with the bootstrap one when it has ended.

    The new certificate is tried in a real connection before it takes the place of the old one.
    """
    from edgetrust.cli.enroll_renewal import renewal_of
    from edgetrust.device.identity import IdentityFolder
    from edgetrust.pki.renewal import next_attempt

    enrolled = load(directory)
    renewal = renewal_of(directory, enrolled)
    folder = IdentityFolder(directory)
    folder.recover()
    if new:
        folder.discard()
    held, now = folder.current(), datetime.now(UTC)
    due = now if held is None else next_attempt(held.chain, enrolled.policy(), load_state(directory), now)
    if watch:
        from edgetrust.telemetry import set_up_logging

        set_up_logging("json" if json else "text")
        say(f"keeping the certificate of {enrolled.device}; next renewal {utc(max(due, now))}")
        asyncio.run(_until_told(renewal.keep()))
        return
    if due <= now or force or new:
        asyncio.run(renewal.attempt())
    else:
        say(f"not due before {utc(due)}; --force renews now")
    _print(directory, json=json)


async def _until_told(keeping: Any) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(keeping)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()


def _print(directory: Path, *, json: bool) -> None:
    from edgetrust.device.identity import IdentityFolder

    folder = IdentityFolder(directory)
    pair = folder.current()
    assert pair is not None, "there is a certificate, or an error was raised"
    leaf = pair.chain.end_entity
    if json:
        print_json(
            {
                "certificate": str(folder.certificate_file),
                "key": str(folder.key_file),
                "subject": leaf.subject.rfc4514_string(),
                "thumbprint": pair.chain.thumbprint().hex(),
                "notAfter": iso(leaf.not_valid_after_utc),
            }
        )
        return
    print_facts(
        [
            ("certificate", str(folder.certificate_file)),
            ("key", str(folder.key_file)),
            ("subject", leaf.subject.rfc4514_string()),
            ("thumbprint", pair.chain.thumbprint().hex()),
            ("until", utc(leaf.not_valid_after_utc)),
        ]
    )


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _of_up(directory: Path | None) -> dict[str, Any]:
    """What a running `edgetrust up` says of its EST server."""
    if directory is None:
        return {}
    from edgetrust.cli.client import up_json

    ready = up_json(directory)
    if "est" not in ready:
        raise UsageError(f"the hub of {directory} serves no EST", reason="est-not-named", fix="add --est URL")
    return {**ready["est"], "ca": ready.get("trust_bundle")}
