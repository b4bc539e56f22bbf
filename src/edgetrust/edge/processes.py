"""The key, the certificate and the identity service, each as a process of its own.

    keyd        the keys, and nobody else reads them
    certd       the certificates; asks keyd to sign
    identityd   the device and its modules at the hub; asks keyd and certd

The module runtime (`gateway`) asks all three. Rules. No order of starts: who needs another waits for it. What each
keeps lies in a directory that only its user may enter, and what it must not lose is on disk before it answers, so that
each may be ended and started again by itself. Source: edge specification 0.1, 0.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Self, TypeVar

import structlog
from aiohttp import web

from edgetrust.clock import Clock
from edgetrust.device.tpm import Tpm
from edgetrust.edge.certclient import CertificateClient, IssuerClient
from edgetrust.edge.certd import GatewayCertificates
from edgetrust.edge.certservice import CertificateService
from edgetrust.edge.credentials import (
    Assignment,
    DeviceKey,
    DeviceTpm,
    IssuedIdentity,
    KeptByIdentityService,
    NoDevice,
)
from edgetrust.edge.elsewhere import Elsewhere
from edgetrust.edge.files import DEVICE_ID, Layout, make_private_directory
from edgetrust.edge.gateway import Gateway
from edgetrust.edge.hubapi import HubTrust
from edgetrust.edge.identityd import Identities
from edgetrust.edge.identityservice import IdentityService
from edgetrust.edge.issuer import ConfiguredIssuer
from edgetrust.edge.keyclient import KeyClient
from edgetrust.edge.keyd import open_keys
from edgetrust.edge.keyservice import KeyService
from edgetrust.edge.localids import LocalIdentities
from edgetrust.edge.moduleids import ModuleIdentities
from edgetrust.edge.owndevice import OwnDevice
from edgetrust.edge.pairs import CertificateStore
from edgetrust.edge.principals import Principals
from edgetrust.edge.services import SERVICE_MODE
from edgetrust.edge.settings import Settings
from edgetrust.edge.tpmservice import TpmRoutes
from edgetrust.edge.upkeep import Upkeep, look_again_after
from edgetrust.errors import ConfigError, Error, IntegrityError, UnavailableError
from edgetrust.limits import SERVICE_WAIT_SECONDS
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import KeyStore, SecretBytes
from edgetrust.telemetry import EVENT_CERTIFICATE_EXPIRING, EVENT_READY, EVENT_SERVICE_WAITING, EVENT_STOPPED
from edgetrust.transport.unix import serve_unix

T = TypeVar("T")
_log = structlog.get_logger()


class ServiceProcess:
    """One service that serves on its socket. `await KeyProcess.start(...)`, later `await process.stop()`."""

    name = ""

    def __init__(self, settings: Settings, layout: Layout, clock: Clock) -> None:
        self.settings = settings
        self.layout = layout
        self._clock = clock
        self._open = AsyncExitStack()
        serving = settings.serving
        local = () if serving.local_domain is None else tuple(settings.issuing.further)
        self._principals = Principals((*serving.principals.entries, *serving.users.principals(local)))

    @classmethod
    async def start(cls, settings: Settings, layout: Layout, clock: Clock) -> Self:
        """Open what is kept, and serve. Raises Error; then nothing stays open."""
        process = cls(settings, layout, clock)
        try:
            for name, app in (await _patiently(process._apps)).items():
                server = await serve_unix(app, layout.socket(name), mode=SERVICE_MODE)
                process._open.push_async_callback(server.close)
                _log.info(EVENT_READY, service=name, socket=str(server.path))
        except BaseException:
            await process._open.aclose()
            raise
        return process

    async def stop(self) -> None:
        """Let requests in progress finish, and close."""
        await self._open.aclose()
        _log.info(EVENT_STOPPED, service=self.name)

    async def wait_moved(self) -> None:
        """Wait until it has to start anew, since the device is another one."""
        await asyncio.Event().wait()

    async def _apps(self) -> dict[str, web.Application]:
        """What is served, by the name of its socket."""
        return {self.name: await self._app()}

    async def _app(self) -> web.Application:
        raise NotImplementedError

    def _keep(self, work: Callable[[], Awaitable[None]], held: Callable[[], list[Chain]]) -> None:
        """Do it until the process ends, as often as the lives of what is `held` demand; that may read the disk."""
        task = asyncio.create_task(_repeated(work, held))
        self._open.callback(task.cancel)


class KeyProcess(ServiceProcess):
    """The key service."""

    name = "keyd"

    async def _app(self) -> web.Application:
        layout, credential = self.layout, self.settings.credential
        for directory in (layout.keys.parent, layout.keys):
            make_private_directory(directory)
        keys = open_keys(layout, self.settings.token, self.settings.key_places(files=True))
        if isinstance(credential, DeviceKey):
            _adopt(keys, credential.key)
        tpm = TpmRoutes(Tpm(credential.place), self._principals).routes() if isinstance(credential, DeviceTpm) else ()
        return KeyService(keys, self._principals).app(more=tpm)


class CertificateProcess(ServiceProcess):
    """The certificate service."""

    name = "certd"

    async def _app(self) -> web.Application:
        layout, settings, serving = self.layout, self.settings, self.settings.serving
        for directory in (layout.certificates.parent, layout.certificates):
            make_private_directory(directory)
        store, keys = CertificateStore(layout.certificates), KeyClient(layout.socket("keyd"))
        issuer = ConfiguredIssuer(settings.issuing, keys, store, self._clock)
        self._keep(issuer.keep_identities, lambda: [one.chain for one in issuer.identities()])
        return CertificateService(
            store, keys.pair, issuer, settings.issuing.orders, serving.preloaded, self._principals, self._clock
        ).app()


class IdentityProcess(ServiceProcess):
    """The identity service."""

    name = "identityd"

    def __init__(self, settings: Settings, layout: Layout, clock: Clock) -> None:
        super().__init__(settings, layout, clock)
        self._device = OwnDevice()

    async def wait_moved(self) -> None:
        """Wait until a provisioning service has assigned the device elsewhere; for ever without one."""
        await self._device.moved.wait()

    async def _app(self) -> web.Application:
        layout, clock = self.layout, self._clock
        make_private_directory(layout.identities)
        keys = KeyClient(layout.socket("keyd"))
        store = CertificateClient(layout.socket("certd"), layout.certificates)
        issuer = IssuerClient(store, self.settings.issuing.orders)
        if isinstance(self.settings.credential, NoDevice):
            local = LocalIdentities(self.settings, issuer, store, layout.identities / "local")
            return IdentityService(self.settings, None, keys, keys, self._principals, local=local).app()
        self._certificates = GatewayCertificates(layout, keys, self.settings, clock, store)
        self._upkeep = Upkeep(
            self.settings, keys, self._certificates, clock, self._device.prove, issuer, kept=frozenset({DEVICE_ID})
        )
        await self._upkeep.have_identity()
        await asyncio.to_thread(self._certificates.take_device_identity)
        self.settings = settings = await self._device.assigned(self.settings, layout, keys, clock, store)
        trust = HubTrust(settings.upstream, clock)
        identities = Identities(settings, layout, keys, trust, clock, store, self._device.refused)
        self._device.identities = identities
        self._open.push_async_callback(identities.close)
        await self._renew()
        self._keep(self._renew, self._held)
        modules = ModuleIdentities(settings, layout, keys, identities.api, clock)
        local = LocalIdentities(settings, issuer, store, layout.identities / "local")
        provisioning = self._device.provisioning
        return IdentityService(settings, modules, keys, keys, self._principals, provisioning, local).app()

    async def _renew(self) -> None:
        await self._upkeep.renew_due()
        await self._device.take_up(self._certificates)

    def _held(self) -> list[Chain]:
        return [] if self._certificates.device_identity is None else [self._certificates.device_identity]


class LocalServices(ServiceProcess):
    """All three services in one process, on a machine without a hub: keys, certificates and local identities."""

    name = "local"

    async def _apps(self) -> dict[str, web.Application]:
        layout, settings, serving = self.layout, self.settings, self.settings.serving
        layout.make()
        keys = open_keys(layout, settings.token, settings.key_places())
        store = CertificateStore(layout.certificates)
        issuer = ConfiguredIssuer(settings.issuing, keys, store, self._clock)
        self._keep(issuer.keep_identities, lambda: [one.chain for one in issuer.identities()])
        keyd = KeyService(keys, serving.principals)
        orders = settings.issuing.orders
        certd = CertificateService(
            store, keyd.key_pair, issuer, orders, serving.preloaded, serving.principals, self._clock
        )
        local = LocalIdentities(settings, issuer, store, layout.identities / "local")
        identityd = IdentityService(settings, None, keys, keyd.handles, serving.principals, local=local)
        return {"keyd": keyd.app(), "certd": certd.app(), "identityd": identityd.app()}


async def start_runtime(settings: Settings, layout: Layout, clock: Clock) -> Gateway:
    """The module runtime and gateway, by the services below the same root. Raises as `Gateway.start`."""
    if isinstance(settings.credential, NoDevice):
        raise ConfigError(
            f'{settings.source}: provisioning.source = "none": without a hub there are no devices to serve',
            reason="config-wrong-value",
            fix="start keyd, certd and identityd only",
        )
    elsewhere = Elsewhere.below(layout, settings.issuing)

    async def start() -> Gateway:
        if settings.dps is None:
            known, elsewhere.identities.place = settings, Assignment(settings.hub, settings.device)
        else:
            known = settings.assigned_to(await elsewhere.identities.assigned())
        return await Gateway.start(as_runtime(known), layout, clock, elsewhere)

    return await _patiently(start)


def as_runtime(settings: Settings) -> Settings:
    """The configuration as the module runtime has it, which does not act as the device itself."""
    credential = settings.credential
    renewed = credential.auto_renew if isinstance(credential, IssuedIdentity) else None
    return replace(settings, credential=KeptByIdentityService(renewed))


def _adopt(keys: KeyStore, key: SecretBytes) -> None:
    try:
        same = keys.load_secret(DEVICE_ID) == key
    except IntegrityError:  # there is none, or a key pair of a time when the device had a certificate
        same = False
    if not same:
        keys.import_secret(DEVICE_ID, key)


async def _patiently(start: Callable[[], Awaitable[T]]) -> T:
    """Start, again and again while another service of this machine is not there yet."""
    pause, said = SERVICE_WAIT_SECONDS[0], ""
    while True:
        try:
            return await start()
        except UnavailableError as problem:
            if problem.reason not in ("service-unavailable", "service-failed"):
                raise
            if problem.message != said:
                _log.warning(EVENT_SERVICE_WAITING, detail=problem.message, reason=problem.reason)
            said = problem.message
        await asyncio.sleep(pause)
        pause = min(2 * pause, SERVICE_WAIT_SECONDS[1])


async def _repeated(work: Callable[[], Awaitable[None]], held: Callable[[], list[Chain]]) -> None:
    while True:
        await asyncio.sleep(look_again_after(await asyncio.to_thread(held)))
        try:
            await work()
        except (Error, OSError) as problem:  # what is in use stays in use; there is always another attempt
            reason, fix = (problem.reason, problem.fix) if isinstance(problem, Error) else ("disk", "")
            _log.error(EVENT_CERTIFICATE_EXPIRING, reason=reason, detail=str(problem), fix=fix)
