"""The door: from a CONNECT to a session, or to a refusal that is on record.

In this order, and nothing observable changes before the verdict (a connected client is not disturbed by a wrong
CONNECT):

    claim                       who does it say it is; on which hub; the client identifier agrees
    credential                  password, else certificate chain, else nothing
    registration                asked from the registry port; may be away
    verdict                     trust.authenticate, and trust.speak_for when a gateway speaks for somebody
    record                      audit
    act                         refused: CONNACK and close.  accepted: session, take-over, CONNACK 0

The client learns only what MQTT 3.1.1 allows: 1 protocol level, 2 identifier, 3 try again later, 4 user name, 5
refused.
"""

from __future__ import annotations

from typing import assert_never

from edgetrust.broker.claim import Claim, House, read_claim, refusal
from edgetrust.broker.ports import Auditor, Stream
from edgetrust.broker.session import Session, Surroundings
from edgetrust.errors import Error
from edgetrust.limits import KEEP_ALIVE_GRACE, KEEP_ALIVE_MAX_SECONDS
from edgetrust.protocol.mqtt.codec import encode
from edgetrust.protocol.mqtt.packets import Connack, Connect
from edgetrust.protocol.sas import SasToken
from edgetrust.trust.audit import record
from edgetrust.trust.authenticate import Policy, authenticate
from edgetrust.trust.behalf import speak_for
from edgetrust.trust.credential import Credential, credential_from
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy, Registration
from edgetrust.trust.verdict import Accepted, Check, Reason, Refused, Verdict

ACCEPTED, BAD_IDENTIFIER, TRY_LATER, BAD_USER_NAME, NOT_AUTHORIZED = 0, 2, 3, 4, 5
_CODES = {
    Reason.USER_NAME_MALFORMED: BAD_USER_NAME,
    Reason.CLIENT_IDENTIFIER_MISMATCH: BAD_IDENTIFIER,
    Reason.REGISTRY_UNAVAILABLE: TRY_LATER,
}


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
        claimed = read_claim(packet, self._house, self._policy.hosts)
        if isinstance(claimed, Refused):
            self._refuse(claimed, stream, f"{packet.client_id} as {packet.user_name}")
            return None
        decided_on = self._around.registry.version
        verdict, credential = await self._decide(claimed, packet.password, stream)
        match verdict:
            case Refused():
                self._refuse(verdict, stream, str(claimed.identity))
                return None
            case Accepted():
                session = await self._accept(claimed, verdict, credential, packet, stream)
            case _:
                assert_never(verdict)
        if session is None:
            return None
        if self._around.twins is not None:
            who = claimed.identity
            self._around.twins.note_client(who.device, who.module, claimed.model_id, claimed.product_info)
        if self._around.registry.version != decided_on:
            await self.decide_again(session)  # the registry changed while we decided
        session.resume()
        return session

    async def decide_again(self, session: Session) -> Verdict | None:
        """The decision on an open session, with what is registered now. A refusal is recorded and closes the
        connection. None when the session has ended by itself.
        """
        around = self._around
        credential = session.credential or credential_from(None, session.stream.peer_chain)
        verdict = await self._judge(session.claim, credential)
        if session.is_over:
            return None
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

    def decide_by(self, policy: Policy) -> None:
        """Decide by another policy from now on."""
        self._policy = policy

    def violated(self, identity: Identity | None, detail: str, stream: Stream | None) -> None:
        """Put on record that a peer broke MQTT; `identity` if it had been accepted as one."""
        self._record(refusal(identity, Reason.PROTOCOL_VIOLATION, "mqtt", detail), stream)

    # The decision ---------------------------------------------------------------------------------------------------

    async def _decide(self, claim: Claim, password: bytes | None, stream: Stream) -> tuple[Verdict, SasToken | None]:
        credential = credential_from(_text(password), stream.peer_chain)
        verdict = await self._judge(claim, credential)
        return verdict, credential if isinstance(credential, SasToken) else None

    async def _judge(self, claim: Claim, credential: Credential) -> Verdict:
        around, speaker = self._around, claim.speaker
        found = await self._find(speaker)
        links = [await self._find(identity) for identity in claim.chain]
        verdict = authenticate(speaker, credential, found, around.registry.bundle(), around.clock.now(), self._policy)
        match verdict:
            case Accepted() if claim.chain:
                return speak_for(verdict, claim.identity, claim.chain, links)
            case _:
                return verdict

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
        self, claim: Claim, accepted: Accepted, credential: SasToken | None, packet: Connect, stream: Stream
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
            filters=kept or {},
            will=packet.will,
            report=self._report,
            claim=claim,
        )
        self._around.sessions.enter(session)
        stream.set_keep_alive(_keep_alive(packet.keep_alive))
        stream.send(encode(Connack(kept is not None, ACCEPTED)))
        return session


def _text(password: bytes | None) -> str | None:
    return None if password is None else password.decode("utf-8", "replace")


def _keep_alive(seconds: int) -> float:
    """How long silence is allowed: one and a half times what was asked, 0 and too much count as the maximum."""
    asked = seconds if 0 < seconds <= KEEP_ALIVE_MAX_SECONDS else KEEP_ALIVE_MAX_SECONDS
    return asked * KEEP_ALIVE_GRACE


def _ignore(error: BaseException | None) -> None:
    """Nobody waits for a discarded session; the store reports its own failures."""
