"""A device's enrolment on disk: what was ordered where (`enrolment.json`), and how its renewal goes (`state.json`).

What `device enroll` was told is kept beside the identity, so that `device renew` needs to be told nothing. Passwords
and keys stay in their own files; only their paths are kept.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edgetrust.cli.as_device import MQTT_PORT, host_and_port
from edgetrust.cli.certificates import read_chain
from edgetrust.cli.client import read_secret
from edgetrust.clock import SystemClock
from edgetrust.device.enroll import Enrolment, Order, Proof, Renewal
from edgetrust.device.est import EstServer, Shown
from edgetrust.device.identity import IdentityFolder
from edgetrust.device.proof import at_est_server, at_hub
from edgetrust.device.session import Route
from edgetrust.errors import ConfigError, UsageError
from edgetrust.pki.chain import TrustBundle, key_matches, load_system_bundle
from edgetrust.pki.keys import KeyAlgorithm, SecretText
from edgetrust.pki.renewal import AutoRenew, Period, RenewalState
from edgetrust.pki.softkeys import load_key_file, write_public

_ENROLMENT, _STATE = "enrolment.json", "state.json"


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """What was ordered. Paths are absolute. `hub` is NAME:PORT when new certificates are proven by connecting there,
    through `gateway` (HOST:PORT) if that is set.
    """

    device: str
    est: str
    ca: str | None = None
    bootstrap_cert: str | None = None
    bootstrap_key: str | None = None
    user: str | None = None
    password_file: str | None = None
    key: str = KeyAlgorithm.P256.value
    rotate_key: bool = True
    threshold: str = "80%"
    retry: str = "4%"
    hub: str | None = None
    gateway: str | None = None
    address: str | None = None
    trust: str | None = None

    def policy(self) -> AutoRenew:
        """When to renew. Raises UsageError."""
        return AutoRenew(self.rotate_key, period(self.threshold), period(self.retry))


class _State(msgspec.Struct, frozen=True, kw_only=True):
    renewed_at: datetime | None = None
    failed_at: datetime | None = None
    failures: int = 0
    problem: str = ""


def period(text: str) -> Period:
    """A share of the life, or a time. Raises UsageError."""
    found = Period.parse(text)
    if found is None:
        raise UsageError(
            f"{text!r} is no period", reason="period-malformed", fix='a number with %, min or day: "80%", "30 min"'
        )
    return found


def save(directory: Path, enrolled: Enrolled) -> None:
    """Keep what was ordered."""
    content = msgspec.json.format(msgspec.json.encode(enrolled), indent=2) + b"\n"
    write_public(directory / _ENROLMENT, content)


def load(directory: Path) -> Enrolled:
    """What was ordered. Raises ConfigError."""
    path = directory / _ENROLMENT
    try:
        return msgspec.json.decode(path.read_bytes(), type=Enrolled)
    except FileNotFoundError as problem:
        message = f"nothing was enrolled into {directory}: {path} does not exist"
        raise ConfigError(message, reason="not-enrolled", fix="edgetrust device enroll ID --into DIR") from problem
    except (OSError, msgspec.MsgspecError) as problem:
        raise ConfigError(f"{path} cannot be read: {problem}", reason="config-unreadable") from problem


def is_enrolled(directory: Path) -> bool:
    """Whether a device was enrolled into this directory."""
    return (directory / _ENROLMENT).is_file()


def load_state(directory: Path) -> RenewalState:
    """How the renewal goes; nothing is known when the file is missing or was damaged."""
    try:
        state = msgspec.json.decode((directory / _STATE).read_bytes(), type=_State)
    except (OSError, msgspec.MsgspecError):
        return RenewalState()
    return RenewalState(state.renewed_at, state.failed_at, state.failures, state.problem)


def save_state(directory: Path, state: RenewalState) -> None:
    """Write down how the renewal goes."""
    kept = _State(
        renewed_at=state.renewed_at, failed_at=state.failed_at, failures=state.failures, problem=state.problem
    )
    write_public(directory / _STATE, msgspec.json.encode(kept) + b"\n")


def renewal_of(directory: Path, enrolled: Enrolled) -> Renewal:
    """The renewal of an enrolment. Raises ConfigError, UsageError, IntegrityError."""
    clock = SystemClock()
    server = EstServer(enrolled.est, _trusted(enrolled.ca), enrolled.user, _password(enrolled.password_file))
    order = Order(
        enrolled.device, server, _bootstrap(enrolled), algorithm=KeyAlgorithm(enrolled.key), policy=enrolled.policy()
    )
    folder = IdentityFolder(directory)
    enrolment = Enrolment(folder, order, _proof(enrolled, server, clock), clock)
    return Renewal(
        enrolment,
        order.policy,
        clock,
        state=load_state(directory),
        tell=lambda state: save_state(directory, state),
    )


def _proof(enrolled: Enrolled, server: EstServer, clock: SystemClock) -> Proof:
    if enrolled.hub is None:
        return at_est_server(server, clock)
    hub, hub_port = _host_and_port(enrolled.hub)
    host, port = (hub, hub_port) if enrolled.gateway is None else _host_and_port(enrolled.gateway)
    route = Route(hub, host, port, enrolled.address)
    bundle = None if enrolled.trust is None else _anchors(Path(enrolled.trust))
    return at_hub(enrolled.device, route, bundle, clock)


def _host_and_port(text: str) -> tuple[str, int]:
    host, port = host_and_port(text)
    return host, port or MQTT_PORT


def _bootstrap(enrolled: Enrolled) -> Shown | None:
    if enrolled.bootstrap_cert is None or enrolled.bootstrap_key is None:
        return None
    chain, key = read_chain(Path(enrolled.bootstrap_cert)), load_key_file(Path(enrolled.bootstrap_key))
    key_matches(chain, key)
    return Shown(chain, key)


def _password(file: str | None) -> SecretText | None:
    return None if file is None else SecretText(read_secret(Path(file)))


def _trusted(ca: str | None) -> TrustBundle | None:
    """The machine's trust store and, beside it, the CAs that were named."""
    if ca is None:
        return None
    return load_system_bundle(datetime.now(UTC)).with_(anchors=read_chain(Path(ca)).certificates)


def _anchors(trust: Path) -> TrustBundle:
    return TrustBundle(read_chain(trust).certificates, as_of=datetime.now(UTC))
