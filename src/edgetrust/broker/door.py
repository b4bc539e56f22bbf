"""The door: from a CONNECT to a session, or to a refusal that is on record.

In this order, and nothing observable changes before the verdict (a connected client is not disturbed by a wrong
CONNECT):

    user name => claim          who does it say it is; on which hub
    client identifier agrees
    credential                  password, else certificate chain, else nothing
    registration                asked from the registry port; may be away
    verdict                     trust.authenticate
    record                      audit
    act                         refused: CONNACK and close.  accepted: session, take-over, CONNACK 0

The client learns only what MQTT 3.1.1 allows: 1 protocol level, 2 identifier, 3 try again later, 4 user name, 5
refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from edgetrust.broker.ports import Auditor, Stream
from edgetrust.broker.session import Session, Surroundings
from edgetrust.errors import Error
from edgetrust.limits import KEEP_ALIVE_GRACE, KEEP_ALIVE_MAX_SECONDS
from edgetrust.protocol import iothub
from edgetrust.protocol.iothub import UserName, UserNameError
from edgetrust.protocol.mqtt.codec import encode
from edgetrust.protocol.mqtt.packets import Connack, Connect
from edgetrust.protocol.sas import SasToken
from edgetrust.trust.audit import record
from edgetrust.trust.authenticate import Policy, authenticate
from edgetrust.trust.credential import credential_from
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy, Registration
from edgetrust.trust.verdict import Accepted, Check, Reason, Refused, Verdict

ACCEPTED, BAD_IDENTIFIER, TRY_LATER, BAD_USER_NAME, NOT_AUTHORIZED = 0, 2, 3, 4, 5
_CODES = {
    Reason.USER_NAME_MALFORMED: BAD_USER_NAME,
    Reason.CLIENT_IDENTIFIER_MISMATCH: BAD_IDENTIFIER,
    Reason.REGISTRY_UNAVAILABLE: TRY_LATER,
}


@dataclass(frozen=True, slots=True)
class House:
    """Whose door this is. `hub` is the name of the hub that identities belong to; `place` names the listener in
    records.

    `any_host`: do not check the host in the user name (a gateway's clients say the hub's name or the gateway's).
    """

    hub: str
    place: str
    any_host: bool = False


class Door:
    """Admits or refuses clients of one actor."""

    def __init__(self, house: House, around: Surroundings, policy: Policy, auditor: Auditor) -> None:
        self._house = house
        self._around = around
        self._policy = policy
        self._auditor = auditor
        self._report = self._record  # one bound method for all sessions

    async def admit(self, packet: Connect, stream: Stream) -> Session | None:
        """Decide on one CONNECT. Answers it on `stream`; the session when it was accepted, None when it was refused."""
        claimed = self._claim(packet)
        if isinstance(claimed, Refused):
            self._refuse(claimed, stream, f"{packet.client_id} as {packet.user_name}")
            return None
        decided_on = self._around.registry.version
        verdict, credential = await self._decide(claimed, packet.password, stream)
        match verdict:
            case Refused():
                self._refuse(verdict, stream, str(claimed))
                return None
            case Accepted():
                session = await self._accept(verdict, credential, packet, stream)
            case _:
                assert_never(verdict)
        if session is None:
            return None
        if self._around.registry.version != decided_on:
            await self.decide_again(session)  # the registry changed while we decided
        session.resume()
        return session

    async def decide_again(self, session: Session) -> Verdict | None:
        """The decision on an open session, with what is registered now. A refusal is recorded and closes the
        connection. None when the session has ended by itself.
        """
        around = self._around
        found = await self._find(session.identity)
        credential = session.credential or credential_from(None, session.stream.peer_chain)
        now = around.clock.now()
        if session.is_over:
            return None
        verdict = authenticate(session.identity, credential, found, around.registry.bundle(), now, self._policy)
        match verdict:
            case Refused():
                if verdict.reason is Reason.REGISTRY_UNAVAILABLE:
                    return verdict  # not knowing is no reason to cut off who was accepted
                self._record(verdict, session.stream)
                session.refuse(f"decided again: {verdict.reason}")
            case Accepted():
                around.sessions.renew(session, verdict.valid_until)
            case _:
                assert_never(verdict)
        return verdict

    def violated(self, identity: Identity | None, detail: str, stream: Stream | None) -> None:
        """Put on record that a peer broke MQTT; `identity` if it had been accepted as one."""
        self._record(_refusal(identity, Reason.PROTOCOL_VIOLATION, "mqtt", detail), stream)

    # The claim ------------------------------------------------------------------------------------------------------

    def _claim(self, packet: Connect) -> Identity | Refused:
        try:
            name = iothub.parse_user_name(packet.user_name or "")
        except UserNameError as problem:
            return _refusal(None, Reason.USER_NAME_MALFORMED, "user-name", problem.message)
        if not all(iothub.mqtt_usable(part) for part in (name.device, name.module) if part is not None):
            detail = f"{name.client_id!r} cannot be used over MQTT: + and # are wildcards"
            return _refusal(None, Reason.USER_NAME_MALFORMED, "user-name", detail)
        claim = Identity(self._house.hub, name.device, name.module)
        if not self._house.any_host and _host(name) not in self._policy.hosts:
            return _refusal(claim, Reason.HUB_NAME_UNKNOWN, "hub-name", f"{name.host!r} is not a name of this hub")
        if packet.client_id != str(claim):
            detail = f"client identifier {packet.client_id[:140]!r}, user name says {str(claim)!r}"
            return _refusal(claim, Reason.CLIENT_IDENTIFIER_MISMATCH, "client-identifier", detail)
        return claim

    # The decision ---------------------------------------------------------------------------------------------------

    async def _decide(self, claim: Identity, password: bytes | None, stream: Stream) -> tuple[Verdict, SasToken | None]:
        credential = credential_from(_text(password), stream.peer_chain)
        found = await self._find(claim)
        around = self._around
        verdict = authenticate(claim, credential, found, around.registry.bundle(), around.clock.now(), self._policy)
        return verdict, credential if isinstance(credential, SasToken) else None

    async def _find(self, claim: Identity) -> Registration | Missing:
        try:
            return await self._around.registry.find(claim)
        except Error:  # away, or what is stored contradicts itself: either way nothing is known that could be relied on
            return Missing(MissingWhy.UNAVAILABLE)

    # Record, then act -----------------------------------------------------------------------------------------------

    def _record(self, verdict: Verdict, stream: Stream | None, claimed: str = "") -> None:
        at, peer = self._around.clock.now(), "" if stream is None else stream.peer_address
        self._auditor.record(record(verdict, at=at, place=self._house.place, peer=peer, claimed=claimed))

    def _refuse(self, refused: Refused, stream: Stream, claimed: str) -> None:
        self._record(refused, stream, claimed)
        stream.send(encode(Connack(False, _CODES.get(refused.reason, NOT_AUTHORIZED))))
        stream.close(f"refused: {refused.reason}")

    async def _accept(
        self, accepted: Accepted, credential: SasToken | None, packet: Connect, stream: Stream
    ) -> Session | None:
        subscriptions = self._around.subscriptions
        client_id = str(accepted.identity)
        try:
            stored = await subscriptions.load(client_id)
        except Error as problem:
            check = Check("stored-session", False, problem.message)
            refused = Refused(accepted.identity, Reason.REGISTRY_UNAVAILABLE, (*accepted.checks, check))
            self._refuse(refused, stream, client_id)
            return None
        if stream.is_closing:
            return None  # gone while we looked: nothing was changed, nothing needs undoing
        self._record(accepted, stream)
        kept = None if packet.clean_session else stored
        if packet.clean_session and stored is not None:
            subscriptions.discard(client_id, _ignore)
        session = Session(
            accepted,
            stream,
            self._around,
            credential=credential,
            persistent=not packet.clean_session,
            filters=dict(kept or {}),
            will=packet.will,
            report=self._report,
        )
        self._around.sessions.enter(session)
        stream.set_keep_alive(_keep_alive(packet.keep_alive))
        stream.send(encode(Connack(kept is not None, ACCEPTED)))
        return session


def _refusal(claim: Identity | None, reason: Reason, check: str, detail: str) -> Refused:
    return Refused(claim, reason, (Check(check, False, detail),))


def _host(name: UserName) -> str:
    """The host part in lower case, without port and brackets (hub specification 3.1, rule 4)."""
    host, _, port = name.host.rpartition(":")
    return (host if host and port.isdigit() else name.host).removeprefix("[").removesuffix("]").lower()


def _text(password: bytes | None) -> str | None:
    return None if password is None else password.decode("utf-8", "replace")


def _keep_alive(seconds: int) -> float:
    """How long silence is allowed: one and a half times what was asked, 0 and too much count as the maximum."""
    asked = seconds if 0 < seconds <= KEEP_ALIVE_MAX_SECONDS else KEEP_ALIVE_MAX_SECONDS
    return asked * KEEP_ALIVE_GRACE


def _ignore(error: BaseException | None) -> None:
    """Nobody waits for a discarded session; the store reports its own failures."""
