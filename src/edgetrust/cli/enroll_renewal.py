"""The renewal of what `device enroll` was told: server, proof and policy, from the kept paths and names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from edgetrust.cli.as_device import MQTT_PORT, host_and_port
from edgetrust.cli.certificates import read_chain
from edgetrust.cli.client import read_secret
from edgetrust.cli.enroll_state import Enrolled, load_state, save_state
from edgetrust.cli.through import passing_gateway
from edgetrust.clock import SystemClock
from edgetrust.device.enroll import Enrolment, Order, Proof, Renewal
from edgetrust.device.est import EstServer, Shown
from edgetrust.device.identity import IdentityFolder
from edgetrust.device.proof import at_est_server, at_hub
from edgetrust.device.session import Route
from edgetrust.pki.chain import TrustBundle, key_matches, load_system_bundle
from edgetrust.pki.keys import KeyAlgorithm, SecretText
from edgetrust.pki.softkeys import load_key_file


def renewal_of(directory: Path, enrolled: Enrolled) -> Renewal:
    """The renewal of an enrolment. Raises ConfigError, UsageError, IntegrityError."""
    clock = SystemClock()
    trusted, password, instead = (
        _trusted(enrolled.ca),
        _password(enrolled.password_file),
        passing_gateway(enrolled.through),
    )
    server = EstServer(enrolled.est, trusted, enrolled.user, password, instead)
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
