"""What `device send` and `device listen` have in common: the options that make a device, and its session while it
runs.

A device needs a hub's name, a place to dial, a credential and somebody to trust. Each comes from its own option;
`--dir` knows the first and the last of a hub of `edgetrust up`, gives the key of a device that none was given for,
and says why that hub refused. What happens to the connection is told on stderr.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from edgetrust.cli.certificates import read_chain
from edgetrust.cli.chain_fixes import fix_for
from edgetrust.cli.client import HubClient, default_directory, find_hub, read_secret, up_json
from edgetrust.cli.output import say
from edgetrust.clock import SystemClock
from edgetrust.device.session import CertificateCredential, DeviceSession, KeyCredential, Route
from edgetrust.errors import ConfigError, RefusedError, UsageError
from edgetrust.pki.chain import TrustBundle, key_matches
from edgetrust.pki.keys import SecretBytes
from edgetrust.pki.softkeys import load_key_file
from edgetrust.pki.verify import ChainReason
from edgetrust.protocol.sas import decode_key
from edgetrust.transport.mqtt import ConnackError
from edgetrust.transport.tls.engine import ServerRefusedError
from edgetrust.trust.explain import explain
from edgetrust.trust.identity import Identity, IdentityError
from edgetrust.trust.verdict import Reason

MQTT_PORT = 8883
_PORTS = range(1, 65_536)
_NOT_AUTHORIZED = 5

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
    Path | None, typer.Option("--trust", metavar="BUNDLE", help="Trusted CAs. Default: --dir's, else the system's.")
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

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "hub": (HubName, None),
    "directory": (Directory, None),
    "gateway": (Gateway, None),
    "port": (Port, None),
    "address": (Address, None),
    "trust": (Trust, None),
    "cert": (Certificate, None),
    "cert_key": (CertificateKey, None),
    "key_file": (KeyFile, None),
    "give_up": (GiveUp, 60.0),
}


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What the options said."""

    device: str
    hub: str | None = None
    directory: Path | None = None
    gateway: str | None = None
    port: int | None = None
    address: str | None = None
    trust: Path | None = None
    cert: Path | None = None
    cert_key: Path | None = None
    key_file: Path | None = None
    give_up: float = 60.0


def as_device(command: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make `async def command(session: DeviceSession, ...)` a command with the argument and options of a device."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        options = DeviceOptions(values.pop("device"), **{name: values.pop(name) for name in _OPTIONS})

        async def with_session() -> None:
            async with connected(options) as session:
                await command(session, **values)

        asyncio.run(with_session())

    keyword = inspect.Parameter.KEYWORD_ONLY
    hints = get_type_hints(command, include_extras=True)
    own = list(inspect.signature(command).parameters.values())[1:]
    parameters = [inspect.Parameter("device", keyword, annotation=Device)]
    parameters += [parameter.replace(annotation=hints[parameter.name], kind=keyword) for parameter in own]
    parameters += [
        inspect.Parameter(name, keyword, default=default, annotation=option)
        for name, (option, default) in _OPTIONS.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@asynccontextmanager
async def connected(options: DeviceOptions) -> AsyncGenerator[DeviceSession, None]:
    """The open session of a device. Who was refused, or refused the server, is told why and what to do."""
    if options.directory is None and options.hub is None:
        options = replace(options, directory=default_directory())
    ready = up_json(options.directory) if options.directory is not None else None
    route = find_route(options, ready)
    identity = _identity(route.hub, options.device)
    credential = find_credential(options) or await _key_from_registry(options.directory, identity)
    session = DeviceSession(
        identity, route, credential, _bundle(options.trust, ready), give_up_seconds=options.give_up, tell=say
    )
    try:
        async with session:
            yield session
    except ServerRefusedError as problem:
        known = problem.reason in set(ChainReason)
        fix = fix_for(ChainReason(problem.reason)) if known else ""
        raise RefusedError(problem.message, reason=problem.reason, fix=fix.replace("--ca", "--trust")) from problem
    except ConnackError as problem:
        told = None
        if problem.code == _NOT_AUTHORIZED and options.directory is not None and options.gateway is None:
            told = await _why(options.directory, identity)
        raise told or problem from problem


def find_route(options: DeviceOptions, ready: dict[str, Any] | None) -> Route:
    """Where to go. Raises UsageError, ConfigError."""
    hub, hub_port = host_and_port(options.hub) if options.hub is not None else _hub_of(ready)
    host, port = host_and_port(options.gateway) if options.gateway is not None else (hub, hub_port)
    return Route(hub, host, options.port or port or MQTT_PORT, options.address)


def host_and_port(text: str) -> tuple[str, int | None]:
    """`host`, `host:port`, `[v6]:port` or a bare IPv6 address. Raises UsageError."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    if not host or (port and not (port.isdecimal() and int(port) in _PORTS)):
        raise UsageError(f"{text!r} is neither HOST nor HOST:PORT", reason="host-malformed")
    return host, int(port) if port else None


def find_credential(options: DeviceOptions) -> CertificateCredential | KeyCredential | None:
    """The credential that the options name, None for none. Raises UsageError, ConfigError, IntegrityError."""
    if (options.cert is None) != (options.cert_key is None):
        raise UsageError("--cert and --cert-key belong together", reason="options-belong", fix="give both")
    if options.cert is not None and options.key_file is not None:
        raise UsageError(
            "a certificate and a symmetric key exclude each other", reason="options-exclude", fix="give one of them"
        )
    if options.cert is not None and options.cert_key is not None:
        chain, key = read_chain(options.cert), load_key_file(options.cert_key)
        key_matches(chain, key)
        return CertificateCredential(chain, key)
    return None if options.key_file is None else KeyCredential(SecretBytes(decode_key(read_secret(options.key_file))))


def _identity(hub: str, text: str) -> Identity:
    try:
        return Identity.parse(hub.lower(), text)
    except IdentityError as problem:
        raise UsageError(
            problem.message, reason=problem.reason, fix="letters, digits and - . _ make an identifier"
        ) from problem


def _hub_of(ready: dict[str, Any] | None) -> tuple[str, int | None]:
    if ready is None:
        raise UsageError("no hub was named", reason="hub-not-named", fix="add --hub NAME, or --dir D (of edgetrust up)")
    try:
        return str(ready["hub"]["hostname"]), int(ready["hub"]["mqtt_port"])
    except (KeyError, TypeError, ValueError) as problem:
        raise ConfigError("up.json is not what edgetrust up writes", reason="up-json-unreadable") from problem


def _bundle(trust: Path | None, ready: dict[str, Any] | None) -> TrustBundle | None:
    if trust is None and ready is not None:
        trust = Path(str(ready.get("trust_bundle")))
    return None if trust is None else TrustBundle(read_chain(trust).certificates, as_of=SystemClock().now())


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
            f"{identity} has no symmetric key at the hub", reason="credential-missing", fix="add --cert and --cert-key"
        )
    say(f"using the primary key of {identity} from the registry")
    return KeyCredential(SecretBytes(decode_key(held)))


async def _why(directory: Path, identity: Identity) -> RefusedError | None:
    """What the hub of `--dir` recorded about the refusal that just happened."""
    async with HubClient(find_hub(directory, None, None, None)) as client:
        refusals = (await client.get("edgetrust", "refusals", limit="20"))["refusals"]
    last = next((entry for entry in refusals if entry["identity"] == str(identity)), None)
    if last is None or last["reason"] not in set(Reason):
        return None
    failed = [str(check["detail"]) for check in last["checks"] if not check["passed"]]
    detail = failed[-1] if failed else "no check is known"
    fix = explain(Reason(last["reason"])).fix
    return RefusedError(f"the hub refused {identity}: {last['reason']}: {detail}", reason=last["reason"], fix=fix)
