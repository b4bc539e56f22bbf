"""`edgetrust device send` and `listen`: being a device.

A device needs a hub's name, a place to dial, a credential and somebody to trust. Each comes from its own option;
`--dir` knows the first and the last of a hub of `edgetrust up`, and asks that hub for the key of a device that none
was given for. What happens to the connection is told on stderr, what was sent or received stands on stdout.
"""

from __future__ import annotations

import asyncio
import json as jsonlib
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from edgetrust.cli.certificates import read_chain
from edgetrust.cli.chain_fixes import fix_for
from edgetrust.cli.client import HubClient, find_hub, read_secret, up_json
from edgetrust.cli.output import Json, iso, print_json_line, print_line, say
from edgetrust.clock import SystemClock
from edgetrust.device.session import CertificateCredential, DeviceSession, KeyCredential, Received, Route
from edgetrust.errors import ConfigError, Error, RefusedError, UsageError
from edgetrust.pki.chain import TrustBundle, key_matches
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.softkeys import load_key_file
from edgetrust.pki.verify import ChainReason
from edgetrust.protocol.sas import decode_key
from edgetrust.transport.tls.engine import ServerRefusedError
from edgetrust.trust.identity import Identity, IdentityError

MQTT_PORT = 8883

Device = Annotated[str, typer.Argument(metavar="ID", help="The device, or DEVICE/MODULE.")]
HubName = Annotated[str | None, typer.Option("--hub", metavar="NAME", help="The hub's name; may be NAME:PORT.")]
Directory = Annotated[
    Path | None,
    typer.Option("--dir", metavar="D", envvar="EDGETRUST_DIR", help="The directory of a running `edgetrust up`."),
]
Gateway = Annotated[
    str | None, typer.Option("--gateway", metavar="HOST[:PORT]", help="Connect through this gateway, not to the hub.")
]
Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="MQTT port; default 8883, or --dir's.")]
Address = Annotated[
    str | None, typer.Option("--address", metavar="IP", help="Dial this address; the name is still what is verified.")
]
Trust = Annotated[
    Path | None,
    typer.Option("--trust", metavar="BUNDLE", help="Trusted CAs. Default: --dir's, else the system's store."),
]
Certificate = Annotated[
    Path | None, typer.Option("--cert", metavar="FILE", help="The device's certificate, intermediates behind it.")
]
CertificateKey = Annotated[Path | None, typer.Option("--cert-key", metavar="FILE", help="Its private key.")]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", metavar="FILE", help="The symmetric key, base64; - is stdin.")
]
GiveUp = Annotated[
    float, typer.Option("--give-up", metavar="S", min=0, help="How long to try again after a lost connection.")
]


def send(
    device: Device,
    *,
    message: Annotated[
        str | None,
        typer.Option("--message", metavar="TEXT", help="Default: a temperature. - sends stdin, line by line."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    interval: Annotated[float, typer.Option(metavar="S", min=0, help="Between two.")] = 0.0,
    properties: Annotated[list[str] | None, typer.Option("--property", metavar="K=V", help="May be repeated.")] = None,
    hub: HubName = None,
    directory: Directory = None,
    gateway: Gateway = None,
    port: Port = None,
    address: Address = None,
    trust: Trust = None,
    cert: Certificate = None,
    cert_key: CertificateKey = None,
    key_file: KeyFile = None,
    give_up: GiveUp = 60.0,
    json: Json = False,
) -> None:
    bag = pairs(properties)

    async def run() -> None:
        session = await _session(
            device, hub, directory, gateway, port, address, trust, cert, cert_key, key_file, give_up
        )
        sent = 0
        async with _mended(session), aclosing(_messages(message, count, interval)) as texts:
            async for text in texts:
                began = time.monotonic()
                await session.send(text.encode(), bag)
                sent += 1
                took = time.monotonic() - began
                if json:
                    at = iso(SystemClock().now())
                    print_json_line({"sequence": sent, "body": text, "acknowledgedAt": at, "seconds": round(took, 4)})
        say(f"sent {sent} message{'' if sent == 1 else 's'}, each acknowledged")

    asyncio.run(run())


def listen(
    device: Device,
    *,
    count: Annotated[
        int | None, typer.Option(min=1, help="Stop after that many; fewer at --timeout is a failure.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="S", min=0, help="Stop after that many seconds.")] = None,
    hub: HubName = None,
    directory: Directory = None,
    gateway: Gateway = None,
    port: Port = None,
    address: Address = None,
    trust: Trust = None,
    cert: Certificate = None,
    cert_key: CertificateKey = None,
    key_file: KeyFile = None,
    give_up: GiveUp = 60.0,
    json: Json = False,
) -> None:
    async def run() -> int:
        session = await _session(
            device, hub, directory, gateway, port, address, trust, cert, cert_key, key_file, give_up
        )
        seen = 0
        async with _mended(session), aclosing(session.messages()) as messages:
            try:
                async with asyncio.timeout(timeout):
                    async for received in messages:
                        print_received(received, json=json)
                        seen += 1
                        if seen == count:
                            break
            except TimeoutError:
                pass
        return seen

    seen = asyncio.run(run())
    if count is not None and seen < count:
        raise Error(f"{seen} of {count} messages arrived", reason="messages-missing", fix="wait longer (--timeout)")


def print_received(received: Received, *, json: bool) -> None:
    """One cloud-to-device message as one line."""
    text = received.body.decode("utf-8", "replace")
    if json:
        print_json_line({"body": text, "properties": received.properties})
    else:
        print_line(text + "".join(f"  {name}={value or ''}" for name, value in received.properties.items()))


def pairs(texts: list[str] | None) -> dict[str, str]:
    """`K=V` options as a mapping. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(
                f"--property {text!r} is not K=V", reason="property-malformed", fix="write it like --property k=v"
            )
        found[name] = value
    return found


@asynccontextmanager
async def _mended(session: DeviceSession) -> AsyncGenerator[None, None]:
    """An open session; a server that is not trusted is told with what to do about it."""
    try:
        async with session:
            yield
    except ServerRefusedError as problem:
        known = problem.reason in set(ChainReason)
        fix = fix_for(ChainReason(problem.reason)) if known else ""
        raise RefusedError(problem.message, reason=problem.reason, fix=fix.replace("--ca", "--trust")) from problem


async def _messages(message: str | None, count: int, interval: float) -> AsyncGenerator[str, None]:
    if message == "-":
        while line := await asyncio.to_thread(sys.stdin.readline):
            yield line.rstrip("\n")
        return
    for number in range(1, count + 1):
        if number > 1:
            await asyncio.sleep(interval)
        yield message if message is not None else jsonlib.dumps({"temperature": 21.5, "sequence": number})


async def _session(
    device: str,
    hub: str | None,
    directory: Path | None,
    gateway: str | None,
    port: int | None,
    address: str | None,
    trust: Path | None,
    cert: Path | None,
    cert_key: Path | None,
    key_file: Path | None,
    give_up: float,
) -> DeviceSession:
    ready = up_json(directory) if directory is not None else None
    hub_name, hub_port = _host_port(hub) if hub is not None else _named_by(ready)
    dialled, dialled_port = _host_port(gateway) if gateway is not None else (hub_name, hub_port)
    route = Route(hub_name, dialled, port or dialled_port or MQTT_PORT, address)
    try:
        identity = Identity.parse(hub_name.lower(), device)
    except IdentityError as problem:
        raise UsageError(
            problem.message, reason=problem.reason, fix="letters, digits and - . _ make a device"
        ) from problem
    credential = _credential(cert, cert_key, key_file)
    if credential is None:
        credential = await _key_from_registry(directory, identity)
    return DeviceSession(identity, route, credential, _bundle(trust, ready), give_up_seconds=give_up, tell=say)


def _named_by(ready: dict[str, Any] | None) -> tuple[str, int | None]:
    if ready is None:
        raise UsageError("no hub was named", reason="hub-not-named", fix="add --hub NAME, or --dir D (of edgetrust up)")
    try:
        return str(ready["hub"]["hostname"]), int(ready["hub"]["mqtt_port"])
    except (KeyError, TypeError, ValueError) as problem:
        raise ConfigError("up.json is not what edgetrust up writes", reason="up-json-unreadable") from problem


def _host_port(text: str) -> tuple[str, int | None]:
    """`host`, `host:port`, `[v6]:port` or a bare IPv6 address."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, None
    host, _, port = text.removeprefix("[").replace("]", "").rpartition(":") if _has_port(text) else (text, "", "")
    if port and not (port.isdecimal() and 0 < int(port) < 65536):  # noqa: PLR2004  (ports have 16 bits)
        raise UsageError(f"{text!r} has no port between 1 and 65535", reason="port-malformed")
    return host.strip("[]"), int(port) if port else None


def _has_port(text: str) -> bool:
    return "]:" in text if text.startswith("[") else ":" in text


def _credential(
    cert: Path | None, cert_key: Path | None, key_file: Path | None
) -> CertificateCredential | KeyCredential | None:
    if (cert is None) != (cert_key is None):
        raise UsageError("--cert and --cert-key belong together", reason="options-belong", fix="give both")
    if cert is not None and key_file is not None:
        raise UsageError(
            "a certificate and a symmetric key exclude each other", reason="options-exclude", fix="give one of them"
        )
    if cert is not None and cert_key is not None:
        chain, key = read_chain(cert), load_key_file(cert_key)
        key_matches(chain, key)
        return CertificateCredential(chain, key)
    return None if key_file is None else KeyCredential(_key(read_secret(key_file)))


def _key(text: str) -> SecretBytes:
    return SecretBytes(decode_key(text))


async def _key_from_registry(directory: Path | None, identity: Identity) -> KeyCredential:
    """The primary key that the hub of `--dir` has for this identity: a convenience of development."""
    if directory is None:
        raise UsageError(
            "no credential was given", reason="credential-missing", fix="add --cert and --cert-key, or --key-file"
        )
    path = ("devices", identity.device) + (("modules", identity.module) if identity.module else ())
    async with HubClient(find_hub(directory, None, None, None)) as client:
        body = await client.get(*path)
    held = ((body.get("authentication") or {}).get("symmetricKey") or {}).get("primaryKey")
    if not held:
        raise UsageError(
            f"{identity} has no symmetric key at the hub",
            reason="credential-missing",
            fix="add --cert and --cert-key",
        )
    say(f"using the primary key of {identity} from the registry")
    return KeyCredential(_key(held))


def _bundle(trust: Path | None, ready: dict[str, Any] | None) -> TrustBundle | None:
    if trust is None and ready is not None:
        trust = Path(str(ready.get("trust_bundle")))
    return None if trust is None else TrustBundle(read_chain(trust).certificates, as_of=SystemClock().now())
