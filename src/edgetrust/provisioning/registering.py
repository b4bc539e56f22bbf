"""Registering devices: the decision, then the assignment, so that a crash at any point is healed by the next attempt.

    decide      attest; a refusal is on record before anybody is told
    begin       written down: operation, hub, device             <- the device is told "assigning" from here on
    hand over   old hubs: what to migrate; the new hub: the device; old hubs: gone
    finish      written down: assigned

Rules. One operation at a time for one registration identifier: who registers meanwhile gets that operation, so that a
flood of one identifier costs one assignment. An operation that this process does not know of (it was killed) is taken
up again by the next question about it, which proves itself like a registration does. Handing over is idempotent, and
wherever the device may be is written down before it is. A device learns no more than numbers (hub specification 13.4).
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import structlog

from edgetrust.broker.ports import Auditor
from edgetrust.clock import Clock
from edgetrust.errors import Error, PeerError, UnavailableError
from edgetrust.limits import (
    DPS_KEPT_IDS,
    DPS_OPERATIONS_AT_ONCE,
    DPS_POLL_GRACE_SECONDS,
    DPS_REGISTERS_PER_ID,
    DPS_REGISTERS_SECONDS,
    DPS_RETRY_AFTER_SECONDS,
)
from edgetrust.pki.remember import VerifiedChains
from edgetrust.protocol.dps.bodies import (
    RegisterRequest,
    RegistrationState,
    RegistrationStatus,
    TpmKeys,
    operation_body,
)
from edgetrust.protocol.dps.errors import (
    ALLOCATION_FAILED,
    BAD_REQUEST,
    INTERNAL,
    INVALID_CERTIFICATE,
    NOT_FOUND,
    THROTTLED,
    UNAUTHORIZED,
    DpsError,
)
from edgetrust.protocol.dps.names import registration_key, valid_registration_id
from edgetrust.provisioning.assigning import Assigner, Job
from edgetrust.provisioning.bodies import certificate_info
from edgetrust.provisioning.tpm import Challenges
from edgetrust.store.enrollments import Enrollments
from edgetrust.store.provisioned import Beginning, Document, Provisioned, ProvisionedRecord
from edgetrust.telemetry import EVENT_REGISTRATION_FAILED
from edgetrust.transport.tasks import LoopTasks
from edgetrust.trust.attest import Attested, Attesting, Known, attest
from edgetrust.trust.audit import record
from edgetrust.trust.credential import ClientChain, Credential, MalformedChain, NoCredential
from edgetrust.trust.identity import Identity
from edgetrust.trust.verdict import Check, Reason, Refused

_GRACE = timedelta(seconds=DPS_POLL_GRACE_SECONDS)
_ACCEPTED, _OK, _UNPROVEN = 202, 200, 401
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Claim:
    """Who asks, and what it showed. `peer` is its address, `place` what it asked."""

    id_scope: str
    registration_id: str
    credential: Credential
    peer: str
    place: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device is told. `operation_id` is for the Location header."""

    status: int
    body: bytes
    retry_after: int | None = None
    operation_id: str = ""


class Registering:
    """The device API behind MQTT and HTTPS. Methods raise DpsError and the store's errors."""

    def __init__(
        self,
        id_scope: str,
        enrollments: Enrollments,
        provisioned: Provisioned,
        assigner: Assigner,
        auditor: Auditor,
        clock: Clock,
        tasks: LoopTasks,
    ) -> None:
        self.id_scope = id_scope
        self._enrollments = enrollments
        self._provisioned = provisioned
        self._assigner = assigner
        self._auditor = auditor
        self._clock = clock
        self._tasks = tasks
        self._running: dict[str, asyncio.Future[str]] = {}  # by registration key: the operation, once it is on disk
        self._room = asyncio.Semaphore(DPS_OPERATIONS_AT_ONCE)
        self._challenges = Challenges(clock)
        self._verify = VerifiedChains(whole=True).verify  # a registration and the questions about it are one decision
        self._recent: OrderedDict[str, deque[float]] = OrderedDict()

    async def register(self, claim: Claim, request: RegisterRequest) -> Answer:
        """Begin to assign a device, or say which operation does so already."""
        self._named(claim, request.registration_id)
        if request.tpm is not None and isinstance(claim.credential, NoCredential):
            return await self._challenge(claim, request.tpm)
        attested = await self._attest(claim)
        if isinstance(attested, Refused):
            return _refused(claim, attested)
        if request.csr is not None:
            self._assigner.check_csr(request.csr, claim.registration_id)
        key = registration_key(claim.registration_id)
        self._throttle(key)
        running = self._running.get(key)
        if running is not None:
            return _assigning(await asyncio.shield(running), claim.registration_id)
        running = self._running[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._begin(claim, attested, request, running)
        except BaseException as problem:
            del self._running[key]
            running.set_exception(problem if isinstance(problem, Error) else _given_up())
            running.exception()  # who joined gets it too, and nobody may have
            raise

    async def poll(self, claim: Claim, operation_id: str) -> Answer:
        """How an operation goes."""
        self._named(claim, None)
        attested = await self._attest(claim, polling=True)
        if isinstance(attested, Refused):
            return _refused(claim, attested)
        found = await self._provisioned.find(claim.registration_id)
        if found is None or found.operation_id != operation_id:
            raise DpsError(NOT_FOUND, "there is no such operation", reason="operation-unknown")
        key = registration_key(claim.registration_id)
        if found.state.status is RegistrationStatus.ASSIGNING:
            if key not in self._running:  # another life of this service began it
                running = self._running[key] = asyncio.get_running_loop().create_future()
                tpm = self._challenges.keys(claim.registration_id)
                self._start(running, Job(attested, found, claim.peer, tpm))
            return Answer(_ACCEPTED, operation_body(operation_id, found.state), DPS_RETRY_AFTER_SECONDS, operation_id)
        return Answer(_OK, operation_body(operation_id, found.state))

    async def lookup(self, claim: Claim) -> RegistrationState:
        """The registration as it is."""
        self._named(claim, None)
        attested = await self._attest(claim, polling=True)
        if isinstance(attested, Refused):
            _refused(claim, attested)
            return RegistrationState(claim.registration_id, RegistrationStatus.DISABLED)
        return (await self._provisioned.get(claim.registration_id)).state

    # The decision ---------------------------------------------------------------------------------------------------

    def _named(self, claim: Claim, in_body: str | None) -> None:
        if not valid_registration_id(claim.registration_id):
            raise DpsError(
                BAD_REQUEST,
                f"{claim.registration_id[:140]!r} is no registration identifier",
                reason="registration-id-malformed",
            )
        if in_body is not None and registration_key(in_body) != registration_key(claim.registration_id):
            raise DpsError(
                BAD_REQUEST, "the body names another registration than the request", reason="registration-id-differs"
            )

    async def _attest(self, claim: Claim, *, polling: bool = False) -> Attested | Refused:
        individual = await self._enrollments.individual(claim.registration_id)
        known = Known(individual, self._enrollments.groups(), self._challenges.key(claim.registration_id))
        how = Attesting(self.id_scope, _GRACE if polling else timedelta(0), self._verify)
        identity = Identity(claim.id_scope, claim.registration_id)
        outcome = attest(identity, claim.credential, known, self._clock.now(), how)
        verdict = outcome.accepted if isinstance(outcome, Attested) else outcome
        if isinstance(outcome, Refused) or not polling:
            self._record(claim, verdict)
        return outcome

    async def _challenge(self, claim: Claim, keys: TpmKeys) -> Answer:
        """401 with a key that only the enrolled TPM can decrypt."""
        known = Known(await self._enrollments.individual(claim.registration_id), self._enrollments.groups())
        outcome = self._challenges.begin(Identity(claim.id_scope, claim.registration_id), known, keys)
        if isinstance(outcome, Refused):
            self._record(claim, outcome)
            raise DpsError(UNAUTHORIZED, reason=outcome.reason.value)
        return Answer(_UNPROVEN, msgspec.json.encode({"authenticationKey": outcome}))

    def _record(self, claim: Claim, verdict: Any) -> None:
        at = self._clock.now()
        self._auditor.record(record(verdict, at=at, place=claim.place, peer=claim.peer))

    def _throttle(self, key: str) -> None:
        """A device needs one registration; one that asks again and again keeps others waiting."""
        now = self._clock.monotonic()
        times = self._recent.setdefault(key, deque())
        self._recent.move_to_end(key)
        while times and times[0] <= now - DPS_REGISTERS_SECONDS:
            times.popleft()
        if len(times) >= DPS_REGISTERS_PER_ID:
            wait = max(1, round(times[0] + DPS_REGISTERS_SECONDS - now))
            raise DpsError(THROTTLED, reason="registration-throttled", retry_after=wait)
        times.append(now)
        if len(self._recent) > DPS_KEPT_IDS:
            self._recent.popitem(last=False)

    # The assignment -------------------------------------------------------------------------------------------------

    async def _begin(
        self, claim: Claim, attested: Attested, request: RegisterRequest, running: asyncio.Future[str]
    ) -> Answer:
        before = await self._provisioned.find(claim.registration_id)
        operation_id = _new_operation(claim.registration_id)
        target = self._assigner.target(attested, before, claim.registration_id, claim.peer)
        beginning = Beginning(
            claim.registration_id,
            attested.enrolled.body,
            operation_id,
            target,
            Document(_credential_shown(attested), asked_payload=request.payload, asked_csr=request.csr),
        )
        begun = await self._provisioned.begin(beginning)
        if begun is None:
            gone = Check("enrolled", False, f"{attested.enrolled} was deleted meanwhile")
            refused = Refused(attested.accepted.identity, Reason.ENROLLMENT_UNKNOWN, (*attested.accepted.checks, gone))
            self._record(claim, refused)
            return _refused(claim, refused)  # which raises
        tpm = self._challenges.keys(claim.registration_id)
        self._start(running, Job(attested, begun, claim.peer, tpm))
        return _assigning(operation_id, claim.registration_id)

    def _start(self, running: asyncio.Future[str], job: Job) -> None:
        running.set_result(job.record.operation_id)
        self._tasks.start(self._work(registration_key(job.record.state.registration_id), job))

    async def _work(self, key: str, job: Job) -> None:
        record_ = job.record
        try:
            async with self._room:
                await self._assigner.assign(job)
        except PeerError as problem:
            await self._failed(record_, problem, getattr(problem, "code", ALLOCATION_FAILED))
        except UnavailableError as problem:  # the operation stays, the next question takes it up
            _log.warning(
                EVENT_REGISTRATION_FAILED,
                registration=record_.state.registration_id,
                reason=problem.reason,
                detail=problem.message,
            )
        except Error as problem:
            await self._failed(record_, problem, INTERNAL)
        finally:
            del self._running[key]

    async def _failed(self, record_: ProvisionedRecord, problem: Error, code: object) -> None:
        number = code if isinstance(code, int) else INTERNAL
        name = record_.state.registration_id
        _log.warning(EVENT_REGISTRATION_FAILED, registration=name, reason=problem.reason, detail=problem.message)
        await self._provisioned.fail(name, record_.operation_id, number, problem.message)


def _given_up() -> UnavailableError:
    return UnavailableError("the registration was given up", reason="registration-given-up")


def _new_operation(registration_id: str) -> str:
    """As the cloud service's look: a number, sixteen hexadecimal digits, a UUID; safe in URLs."""
    place = hashlib.sha256(registration_key(registration_id).encode()).hexdigest()[:16]
    return f"5.{place}.{uuid.uuid4()}"


def _assigning(operation_id: str, registration_id: str) -> Answer:
    state = RegistrationState(registration_id, RegistrationStatus.ASSIGNING)
    return Answer(_ACCEPTED, operation_body(operation_id, state, brief=True), DPS_RETRY_AFTER_SECONDS, operation_id)


def _refused(claim: Claim, refused: Refused) -> Answer:
    """What a refused device is told: that it is disabled, when it has proven itself, else only a number."""
    if refused.reason is Reason.ENROLLMENT_DISABLED:
        state = RegistrationState(claim.registration_id, RegistrationStatus.DISABLED)
        return Answer(_OK, operation_body("", state))
    by_certificate = isinstance(claim.credential, ClientChain | MalformedChain)
    raise DpsError(INVALID_CERTIFICATE if by_certificate else UNAUTHORIZED, reason=refused.reason.value)


def _credential_shown(attested: Attested) -> dict[str, Any]:
    """The member of a registration's state that says how the device proved itself (hub specification 13.3)."""
    enrolled = attested.enrolled
    group = {"enrollmentGroupId": enrolled.name} if enrolled.kind == "group" else {}
    if attested.certificate is not None:
        members: dict[str, Any] = {"certificateInfo": certificate_info(attested.certificate), **group}
        if attested.signer is not None:
            members["signingCertificateInfo"] = certificate_info(attested.signer)
        return {"x509": members}
    return {"tpm": {}} if attested.keys is None else {"symmetricKey": group}
