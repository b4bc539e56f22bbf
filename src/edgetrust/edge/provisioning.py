"""A gateway that asks a provisioning service which hub it belongs to, and remembers the answer.

Rules (edge specification 4.2, 4.5). What was assigned is on the disk before it is used, and is good until the
configuration names another service, scope or registration: a restart does not ask again, unless the configuration says
so, and a service that is away or that refuses does not stop a gateway that was assigned once. A gateway that never was
waits for the service, and ends when it is refused. Asked again because the hub refuses the device, the service is
asked once per five minutes at most. A renewed identity certificate is registered here before it is stored, one whose
files were replaced as soon as that is seen.

It must not know how certificates are issued, nor what the hub does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from cryptography.x509.oid import NameOID

from edgetrust.clock import Clock
from edgetrust.device.provision import ByCertificate, ByKey, ByMac, ByTpm, Credential, DpsAddress, register
from edgetrust.edge.attesting import Dps, Reprovision
from edgetrust.edge.credentials import Assignment, DeviceKey, DeviceTpm
from edgetrust.edge.files import DEVICE_ID, Layout, read_file
from edgetrust.edge.hubapi import HubTrust
from edgetrust.edge.issuer import tls_key
from edgetrust.edge.keyd import SecretsElsewhere
from edgetrust.edge.pairs import Certificates, CertificateStore
from edgetrust.edge.settings import Settings
from edgetrust.edge.tpmclient import tpm_of
from edgetrust.errors import ConfigError, Error, UnavailableError
from edgetrust.limits import PROVISION_AGAIN_SECONDS, UPSTREAM_RETRY_SECONDS
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import KeyHandle, KeyStore
from edgetrust.pki.softkeys import write_public
from edgetrust.telemetry import EVENT_GATEWAY_ASSIGNED, EVENT_GATEWAY_DEGRADED

_log = structlog.get_logger()


class Provisioning:
    """One gateway towards its provisioning service. `latest` is what the service said last; `moved` is set when that is
    elsewhere than `current`, as what this process runs.
    """

    def __init__(
        self,
        settings: Settings,
        dps: Dps,
        layout: Layout,
        keys: KeyStore,
        clock: Clock,
        *,
        store: Certificates | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self.dps = dps
        self._keys = keys
        self._store = CertificateStore(layout.certificates) if store is None else store
        self._trust = HubTrust(replace(settings.upstream, ca=dps.ca), clock)
        self._clock = clock
        self._layout = layout
        self._path = layout.assignment
        self._pause = pause
        self._asked_at: float | None = None
        self._said = ""
        self._known: Chain | None = None  # the identity certificate that the service was shown last
        self._shown: Chain | None = None  # and the last one that was tried
        self.current: Assignment | None = None
        self.latest: Assignment | None = None
        self.moved = asyncio.Event()

    async def begin(self) -> Assignment:
        """What is remembered, or what the service says. Raises RefusedError or ConfigError without either."""
        backup = await asyncio.to_thread(backup_of, self._settings, self._layout, self._store)
        self._known = await asyncio.to_thread(self._store.load, DEVICE_ID)  # if not, the hub will say so
        if backup is not None and self.dps.reprovision is not Reprovision.ALWAYS:
            self.current = backup
            return backup
        attempt = 0
        while True:
            try:
                found = await self._registered()
            except Error as problem:
                if backup is not None:
                    self._degraded(problem, "going on with what was assigned")
                    self.current = backup
                    return backup
                if not isinstance(problem, UnavailableError):
                    raise
                self._degraded(problem, "waiting to be provisioned")
            else:
                self.current = found
                return found
            await self._pause(UPSTREAM_RETRY_SECONDS[min(attempt, len(UPSTREAM_RETRY_SECONDS) - 1)])
            attempt += 1

    def _degraded(self, problem: Error, what: str) -> None:
        if problem.message == self._said:  # once is enough, however often it is tried again
            return
        self._said = problem.message
        _log.warning(
            EVENT_GATEWAY_DEGRADED, detail=f"{what}: {problem.message}", reason=problem.reason, fix=problem.fix
        )

    # Asking again ---------------------------------------------------------------------------------------------------

    async def again(self) -> Assignment:
        """Ask the service now. What it says is stored; `moved` is set when it is another place. Raises Error."""
        found = await self._registered()
        if found != self.current:
            self.moved.set()
        return found

    async def refused(self) -> bool:
        """The hub does not take this device: ask the service, unless that was just done. Whether to try the hub once
        more.
        """
        if self._asked_lately():
            return False
        try:
            return await self.again() == self.current
        except Error as problem:
            self._degraded(problem, "the hub refuses the device, and it is not provisioned anew")
            return False

    async def make_known(self) -> None:
        """Register with another identity certificate, if there is one since. Raises Error when it is not taken; it is
        tried again once per five minutes.
        """
        if isinstance(self._settings.credential, DeviceKey | DeviceTpm):
            return
        chain = await asyncio.to_thread(self._store.load, DEVICE_ID)
        if chain is None or chain == self._known or (chain == self._shown and self._asked_lately()):
            return
        self._shown = chain
        await self.again()

    async def register_identity(self, chain: Chain, key: KeyHandle) -> None:
        """Make a new identity certificate known, before it becomes ours. Raises Error when it is not taken."""
        found = await self._registered(ByCertificate(chain, tls_key(key)))
        if found != self.current:
            self.moved.set()

    def _asked_lately(self) -> bool:
        return self._asked_at is not None and self._clock.monotonic() - self._asked_at < PROVISION_AGAIN_SECONDS

    async def _registered(self, shown: ByCertificate | None = None) -> Assignment:
        self._asked_at = self._clock.monotonic()
        credential = await asyncio.to_thread(self._credential) if shown is None else shown
        endpoint, bundle = self.dps.endpoint, await asyncio.to_thread(self._trust.bundle)
        service = DpsAddress(endpoint, self.dps.id_scope, bundle, self._settings.upstream.instead_of(endpoint))
        registration = self._registration(credential)
        payload = await asyncio.to_thread(self._payload)
        answer = await register(service, registration, credential, self._clock, payload=payload, pause=self._pause)
        if not answer.hub or not answer.device:
            raise UnavailableError("the provisioning service names no hub or no device", reason="answer-malformed")
        self.latest = found = Assignment(answer.hub.lower(), answer.device)
        await asyncio.to_thread(self._remember, found, registration, answer.payload)
        if isinstance(credential, ByCertificate):
            self._known = credential.chain
        _log.info(EVENT_GATEWAY_ASSIGNED, hub=found.hub, device=found.device, registration=registration)
        return found

    def _credential(self) -> Credential:
        credential, keys = self._settings.credential, self._keys
        if isinstance(credential, DeviceKey):
            if isinstance(keys, SecretsElsewhere):
                return ByMac(partial(keys.mac, DEVICE_ID))
            return ByKey(credential.key)
        if isinstance(credential, DeviceTpm):
            return ByTpm(tpm_of(credential.place, keys))
        chain = self._store.load(DEVICE_ID)
        if chain is None:
            raise ConfigError("there is no identity certificate to register with", reason="device-identity-unusable")
        return ByCertificate(chain, tls_key(keys.load(DEVICE_ID)))

    def _registration(self, credential: Credential) -> str:
        if self.dps.registration is not None:
            return self.dps.registration
        assert isinstance(credential, ByCertificate), "a key is registered by name"
        name = _common_name(credential.chain)
        if name is None:
            raise ConfigError(
                "the identity certificate has no common name to register by",
                reason="config-missing-key",
                fix="add registration_id to [provisioning.attestation]",
            )
        return name

    def _payload(self) -> Any:
        if self.dps.payload is None:
            return None
        try:
            return json.loads(read_file(self.dps.payload))
        except ValueError as problem:
            raise ConfigError(f"{self.dps.payload} is no JSON", reason="config-wrong-value") from problem

    # Remembering ----------------------------------------------------------------------------------------------------

    def _remember(self, found: Assignment, registration: str, payload: Any) -> None:
        content = {
            "endpoint": self.dps.endpoint,
            "id_scope": self.dps.id_scope,
            "registration_id": registration,
            "hub": found.hub,
            "device": found.device,
            "payload": payload,
        }
        write_public(self._path, json.dumps(content, indent=2).encode() + b"\n")

    def remembered(self) -> dict[str, Any] | None:
        """Everything that was stored, if it was for this service, scope and registration."""
        return _remembered(self.dps, self._path, self._store)


def backup_of(settings: Settings, layout: Layout, store: Certificates | None = None) -> Assignment | None:
    """What was assigned at the last time, if it is still good. `store` has the certificates, if not this process."""
    if settings.dps is None:
        return None
    certificates = CertificateStore(layout.certificates) if store is None else store
    content = _remembered(settings.dps, layout.assignment, certificates) or {}
    hub, device = content.get("hub"), content.get("device")
    return Assignment(hub, device) if isinstance(hub, str) and isinstance(device, str) and hub and device else None


def as_assigned(settings: Settings, layout: Layout) -> Settings:
    """A configuration as it was last served: with hub and device, if a provisioning service has named them."""
    backup = backup_of(settings, layout)
    return settings if backup is None else settings.assigned_to(backup)


def _remembered(dps: Dps, path: Path, store: Certificates) -> dict[str, Any] | None:
    try:
        content = json.loads(read_file(path))
    except (ConfigError, ValueError):
        return None
    named = dps.registration
    if named is None and (chain := store.load(DEVICE_ID)) is not None:
        named = _common_name(chain)
    same = isinstance(content, dict) and (
        (content.get("endpoint"), content.get("id_scope")) == (dps.endpoint, dps.id_scope)
        and named in (None, content.get("registration_id"))
    )
    return content if same else None


def _common_name(chain: Chain) -> str | None:
    names = chain.end_entity.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else None
