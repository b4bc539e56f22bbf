"""Assigning a device: which hub and name it gets, what its hubs are told, and in which order.

Rules (hub specification 14.5, 14.6). A policy that never moves devices keeps the hub of the first assignment; otherwise
the hub is chosen anew at every registration. The new hub is told before an old one forgets, with what a service wrote
into the device's twin there, or with the enrollment's initial twin when data is to be reset. A device of an X.509
enrollment is registered by the thumbprint of the certificate it showed, in both slots; by symmetric key with its own or
derived keys.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import structlog
from cryptography.hazmat.primitives.serialization import Encoding

from edgetrust.errors import UnavailableError
from edgetrust.pki.chain import Chain, Thumbprint
from edgetrust.pki.csr import Csr, CsrError, parse_csr
from edgetrust.pki.keys import SecretBytes
from edgetrust.protocol.dps.bodies import Substatus, TpmKeys
from edgetrust.protocol.dps.enrollments import AllocationPolicy, Attestation, Enrollment, InitialTwin
from edgetrust.protocol.dps.errors import ALLOCATION_FAILED, ALLOCATION_WITHOUT_HUB, BAD_REQUEST, DpsError
from edgetrust.protocol.dps.names import registration_key
from edgetrust.provisioning.allocation import Choice, allocate, candidates, policy_of
from edgetrust.provisioning.hubs import Hub, HubDevice, HubTwin, pinned
from edgetrust.provisioning.tpm import wrap
from edgetrust.provisioning.webhook import Allocated
from edgetrust.store.provisioned import Assignment, Document, Provisioned, ProvisionedRecord
from edgetrust.telemetry import EVENT_HUB_UNREACHABLE
from edgetrust.trust.attest import Attested
from edgetrust.trust.registration import SasKeys, Thumbprints
from edgetrust.trust.verdict import Accepted

Issue = Callable[[Csr, str, Accepted], Awaitable[Chain]]
Ask = Callable[[str, dict[str, Any]], Awaitable[Allocated]]
_KEY_BYTES = 32
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """One assignment in work. `tpm` are the keys of a device that proved itself by them."""

    attested: Attested
    record: ProvisionedRecord
    peer: str
    tpm: TpmKeys | None = None


class Assigner:
    """Carries out assignments over the linked hubs."""

    def __init__(
        self,
        provisioned: Provisioned,
        hubs: Mapping[str, Hub],
        choice: Choice,
        ask: Ask | None = None,
        issue: Issue | None = None,
    ) -> None:
        self._provisioned = provisioned
        self._hubs = hubs
        self._ask = ask
        self._issue = issue
        self.choice = choice

    def target(
        self, attested: Attested, before: ProvisionedRecord | None, registration_id: str, peer: str
    ) -> Assignment | None:
        """Where the device goes; None when somebody else has to be asked. DpsError 400207, 400208."""
        body = attested.enrolled.body
        device = _device_name(attested, before, registration_id)
        if before is not None and before.assigned is not None and not body.reprovision_policy.update_hub_assignment:
            return replace(before.assigned, device=device)
        if policy_of(body, self.choice) is AllocationPolicy.CUSTOM:
            return None
        return Assignment(allocate(body, registration_id, peer, self.choice), device)

    def check_csr(self, csr: bytes, registration_id: str) -> None:
        """A certificate is issued for this registration only, if at all. DpsError 400."""
        common_name = _csr(csr).common_name
        if self._issue is None:
            raise DpsError(
                BAD_REQUEST,
                "this service issues no certificates",
                reason="csr-not-served",
                fix="let the device register without csr, or use a service with a certificate authority",
            )
        if common_name is None or registration_key(common_name) != registration_key(registration_id):
            what = f"the request is for {common_name!r}, the registration identifier is {registration_id!r}"
            raise DpsError(BAD_REQUEST, what, reason="csr-name-differs")

    def measured(self, latencies: Mapping[str, float]) -> None:
        """How fast the hubs answered, in seconds."""
        self.choice = replace(self.choice, latencies=latencies)

    async def assign(self, job: Job) -> None:
        """Hand the device over, then write down that it is assigned."""
        record, body = job.record, job.attested.enrolled.body
        target, custom = record.target, None
        if target is None:
            custom = await self._custom(job)
            target = Assignment(custom.hub, _device_name(job.attested, record, record.state.registration_id))
            await self._provisioned.aim(record.state.registration_id, record.operation_id, target)
        hub = self._hub(target.hub)
        old = [holder for holder in record.holders if holder != target]
        twin = _initial(body if custom is None or custom.twin is None else _with_twin(body, custom.twin))
        reset = not body.reprovision_policy.migrate_device_data and record.assigned is not None
        if not reset:
            twin = await self._kept_twin(old) or twin
        authentication, shown = _authentication(job)
        chain: tuple[str, ...] = ()
        if record.document.asked_csr is not None and self._issue is not None:
            issued = await self._issue(_csr(record.document.asked_csr), target.device, job.attested.accepted)
            chain = tuple(base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in issued.certificates)
            authentication = pinned(issued.thumbprint())
        await hub.put(HubDevice(target.device, authentication, body.capabilities.iot_edge, twin, reset))
        left = [holder for holder in old if not await self._cleared(holder)]
        await self._provisioned.finish(
            record.state.registration_id,
            record.operation_id,
            target,
            _substatus(record, target, reset=reset),
            Document(shown, None if custom is None else custom.payload, chain),
            left,
        )

    async def _custom(self, job: Job) -> Allocated:
        """The webhook's choice, among the hubs that the enrollment allows. DpsError 400207 to 400209."""
        body = job.attested.enrolled.body
        names = candidates(body, self.choice)
        if self._ask is None or body.custom_allocation_definition is None:
            raise DpsError(ALLOCATION_FAILED, "there is no webhook to ask", reason="allocation-failed")
        chosen = await self._ask(body.custom_allocation_definition.webhook_url, _question(job, names))
        known = {name.lower(): name for name in names}
        hub = known.get(chosen.hub.lower())
        if hub is None:
            what = f"the webhook chose {chosen.hub[:120]!r}, which is not one of {', '.join(names)[:200]}"
            raise DpsError(ALLOCATION_WITHOUT_HUB, what, reason="allocation-without-hub")
        return replace(chosen, hub=hub)

    def _hub(self, name: str) -> Hub:
        hub = self._hubs.get(name)
        if hub is None:
            raise DpsError(
                ALLOCATION_FAILED, f"hub {name} is not linked any more", reason="hub-not-linked", fix="link it again"
            )
        return hub

    async def _kept_twin(self, old: list[Assignment]) -> HubTwin | None:
        for holder in old:
            hub = self._hubs.get(holder.hub)
            try:
                twin = None if hub is None else await hub.twin(holder.device)
            except UnavailableError as problem:  # its hub is lost, and the device must not wait for it
                _log.warning(EVENT_HUB_UNREACHABLE, hub=holder.hub, detail=problem.message)
                continue
            if twin is not None:
                return twin
        return None

    async def _cleared(self, holder: Assignment) -> bool:
        """Whether the device is gone there. A hub that cannot be reached is asked again at the next registration."""
        hub = self._hubs.get(holder.hub)
        try:
            if hub is not None:
                await hub.delete(holder.device)
        except UnavailableError as problem:
            _log.warning(EVENT_HUB_UNREACHABLE, hub=holder.hub, detail=problem.message)
            return False
        return True


def _authentication(job: Job) -> tuple[SasKeys | Thumbprints, dict[str, Any]]:
    """What the hub shall know the device by, and what the registration's state shows of it."""
    attested, shown = job.attested, dict(job.record.state.credential)
    if attested.certificate is not None:
        return pinned(Thumbprint.of(attested.certificate)), shown
    if attested.keys is not None:
        return attested.keys, shown
    if job.tpm is None:
        raise DpsError(BAD_REQUEST, "the TPM's keys are forgotten: register again", reason="tpm-challenge-forgotten")
    key = SecretBytes(secrets.token_bytes(_KEY_BYTES))
    return SasKeys(key, key), {"tpm": {"authenticationKey": wrap(job.tpm, key)}}


def _csr(data: bytes) -> Csr:
    try:
        return parse_csr(data)
    except CsrError as problem:
        raise DpsError(BAD_REQUEST, f"csr: {problem.message}", reason=f"csr-{problem.reason}") from problem


def _question(job: Job, names: tuple[str, ...]) -> dict[str, Any]:
    """What the webhook is told; no keys."""
    body, record = job.attested.enrolled.body, job.record
    shown = msgspec.to_builtins(msgspec.structs.replace(body, attestation=Attestation(body.attestation.type)))
    context: dict[str, Any] = {"registrationId": record.state.registration_id, **record.state.credential}
    if record.assigned is not None:
        context.update(currentIotHubHostName=record.assigned.hub, currentDeviceId=record.assigned.device)
    if record.document.asked_payload is not None:
        context["payload"] = record.document.asked_payload
    kind = "individualEnrollment" if body.kind == "individual" else "enrollmentGroup"
    return {kind: shown, "deviceRuntimeContext": context, "linkedHubs": list(names)}


def _with_twin(body: Enrollment, twin: InitialTwin) -> Enrollment:
    return msgspec.structs.replace(body, initial_twin=twin)


def _device_name(attested: Attested, before: ProvisionedRecord | None, registration_id: str) -> str:
    """What the operator says, else what it was called before, else the registration identifier as it came."""
    body = attested.enrolled.body
    if body.device_id is not None:
        return body.device_id
    if before is not None and before.holders and before.enrollment == body.name.lower():
        return before.holders[0].device
    return body.name if body.kind == "individual" else registration_id


def _initial(body: Enrollment) -> HubTwin | None:
    twin = body.initial_twin
    return None if twin is None else HubTwin(_object(twin.tags), _object(twin.properties.desired))


def _object(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _substatus(record: ProvisionedRecord, target: Assignment, *, reset: bool) -> Substatus:
    if reset:
        return Substatus.RESET
    if record.assigned is not None and record.assigned.hub != target.hub:
        return Substatus.MIGRATED
    return Substatus.INITIAL
