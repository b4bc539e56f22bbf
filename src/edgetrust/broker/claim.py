"""The claim: who a CONNECT says it is, before anything is believed.

Rules: the user name must be readable, of this hub, and usable over MQTT; the client identifier must agree with it. An
auth-chain says that a gateway speaks for the identity (hub specification 9.4): the chain is read into identities here,
the claim first, then devices up to the gateway.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgetrust.protocol import iothub
from edgetrust.protocol.iothub import UserName, UserNameError
from edgetrust.protocol.mqtt.packets import Connect
from edgetrust.trust.authorize import EDGE_HUB
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Check, Reason, Refused


@dataclass(frozen=True, slots=True)
class House:
    """Whose door this is. `hub` is the name of the hub that identities belong to; `place` names the listener in
    records.

    `any_host`: do not check the host in the user name (a gateway's clients say the hub's name or the gateway's).
    """

    hub: str
    place: str
    any_host: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """`identity` is who the client wants to be. `chain` is empty when it speaks for itself. `model_id` and
    `product_info` are what else the client says of itself, "" for nothing.
    """

    identity: Identity
    chain: tuple[Identity, ...] = ()
    model_id: str = ""
    product_info: str = ""

    @property
    def speaker(self) -> Identity:
        """Whose credential must come: the identity's own, or that of the gateway's `$edgeHub`."""
        if not self.chain:
            return self.identity
        return Identity(self.identity.hub, self.chain[-1].device, EDGE_HUB)

    @property
    def rests_on(self) -> tuple[Identity, ...]:
        """The identities besides its own whose registration the claim depends on."""
        return (*self.chain[1:], self.speaker) if self.chain else ()


def read_claim(packet: Connect, house: House, hosts: frozenset[str]) -> Claim | Refused:
    """The claim in a CONNECT; `hosts` are the names of this hub."""
    try:
        name = iothub.parse_user_name(packet.user_name or "")
    except UserNameError as problem:
        return refusal(None, Reason.USER_NAME_MALFORMED, "user-name", problem.message)
    if not all(iothub.mqtt_usable(part) for part in (name.device, name.module) if part is not None):
        detail = f"{name.client_id!r} cannot be used over MQTT: + and # are wildcards"
        return refusal(None, Reason.USER_NAME_MALFORMED, "user-name", detail)
    identity = Identity(house.hub, name.device, name.module)
    if not house.any_host and _host(name) not in hosts:
        return refusal(identity, Reason.HUB_NAME_UNKNOWN, "hub-name", f"{name.host!r} is not a name of this hub")
    if packet.client_id != str(identity):
        detail = f"client identifier {packet.client_id[:140]!r}, user name says {str(identity)!r}"
        return refusal(identity, Reason.CLIENT_IDENTIFIER_MISMATCH, "client-identifier", detail)
    said = (_said(name, "model-id"), _said(name, "DeviceClientType"))
    return Claim(identity, _chain(identity, name.auth_chain), *said)


def refusal(claim: Identity | None, reason: Reason, check: str, detail: str) -> Refused:
    """A refusal by one failed check."""
    return Refused(claim, reason, (Check(check, False, detail),))


def _chain(identity: Identity, elements: tuple[str, ...]) -> tuple[Identity, ...]:
    """A chain of one identity says nothing: who claims it must prove it."""
    devices = dict.fromkeys(element.partition("/")[0] for element in elements)
    chain = tuple(Identity(identity.hub, device) for device in devices)
    if len(elements) > 1 and identity.module is not None and elements[0] in (str(identity), identity.device):
        chain = (identity, *chain)
    return chain if len(chain) > 1 else ()


def _host(name: UserName) -> str:
    """The host part in lower case, without port and brackets (hub specification 3.1, rule 4)."""
    host, _, port = name.host.rpartition(":")
    return (host if host and port.isdigit() else name.host).removeprefix("[").removesuffix("]").lower()


def _said(name: UserName, parameter: str) -> str:
    return name.parameters.get(parameter, "").replace("\0", "\ufffd")  # no store takes U+0000
