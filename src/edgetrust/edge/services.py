"""The services of a gateway on their sockets, and its modules: each is an application of its own.

    /run/aziot/keyd.sock, certd.sock, identityd.sock        mode 0660
    /run/iotedge/workload.sock                              mode 0666; the caller's process decides
    /run/iotedge/mgmt.sock                                  mode 0660; no module may change anything
    /var/lib/aziot/edged/mnt/MODULE.sock                    the same for one module

All below the root (edge specification 0.1, 0.4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web

from edgetrust.clock import Clock
from edgetrust.edge.certservice import CertificateService
from edgetrust.edge.containers import Containers
from edgetrust.edge.files import TRUST_BUNDLE, Layout
from edgetrust.edge.hubapi import HubApi
from edgetrust.edge.identityclient import IdentityClient
from edgetrust.edge.identityservice import IdentityService
from edgetrust.edge.issuer import ConfiguredIssuer
from edgetrust.edge.keyservice import KeyService
from edgetrust.edge.leftovers import WORKLOAD_VARIABLE, end_leftovers
from edgetrust.edge.localids import LocalIdentities
from edgetrust.edge.management import Management, Reprovision
from edgetrust.edge.moduleids import ModuleIdentities, ModuleUnknownError
from edgetrust.edge.modules import Modules
from edgetrust.edge.pairs import Certificates, CertificateStore
from edgetrust.edge.provisioning import Provisioning
from edgetrust.edge.settings import Settings
from edgetrust.edge.workload import Workload
from edgetrust.pki.issue import Issuer
from edgetrust.pki.keys import KeyStore
from edgetrust.telemetry import EVENT_MODULE_ENDED
from edgetrust.transport.unix import serve_unix

SERVICE_MODE, _WORKLOAD = 0o660, 0o666
_API_VERSION = "2022-08-03"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class InProcess:
    """What the services of one process are made of. `api` calls the hub as the device."""

    store: CertificateStore
    issuer: ConfiguredIssuer
    api: HubApi
    provisioning: Provisioning | None = None


class Services:
    """The services of one gateway. `edge_ca` gives the Edge CA in use. `behind` is what the key, certificate and
    identity services are made of, or who asks them when they are processes of their own.
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        keys: KeyStore,
        certificates: Certificates,
        behind: InProcess | IdentityClient,
        edge_ca: Callable[[], Issuer],
        clock: Clock,
    ) -> None:
        serving = settings.serving
        self._settings = settings
        self._layout = layout
        self._open = AsyncExitStack()
        self._apps: dict[str, web.Application] = {}
        self._trust_bundle: Callable[[], str | None]
        if isinstance(behind, InProcess):
            self._module_ids: ModuleIdentities | IdentityClient = self._served_here(behind, keys, clock)
        else:
            self._module_ids = behind
            self._trust_bundle = lambda: certificates.text(TRUST_BUNDLE)
        self._mounts = layout.root / "var/lib/aziot/edged/mnt"
        self._containers = Containers(serving.containers, self._environment, self._mounts)
        self.modules = Modules(serving.modules, self._environment, layout.own / "modules", clock)
        self._management = self._managed(behind.provisioning if isinstance(behind, InProcess) else None, clock)
        self._workload = Workload(
            settings,
            keys,
            certificates,
            self._module_ids,
            self.modules,
            edge_ca,
            self._trust_bundle,
            clock,
        )

    def _managed(self, provisioning: Provisioning | None, clock: Clock) -> Management:
        by_service = self._settings.dps is not None
        asking: Reprovision = self._module_ids.listed
        if provisioning is not None:
            asking = provisioning.again
        elif by_service and isinstance(self._module_ids, IdentityClient):
            asking = self._module_ids.reprovision
        source = "dps" if by_service else "manual"
        principals = self._settings.serving.principals
        return Management(self.modules, self._module_ids, principals, asking, source, clock.now())

    def _served_here(self, parts: InProcess, keys: KeyStore, clock: Clock) -> ModuleIdentities:
        """The key, certificate and identity services, in this process."""
        settings, serving = self._settings, self._settings.serving
        key_service = KeyService(keys, serving.principals)
        certificate_service = CertificateService(
            parts.store,
            key_service.key_pair,
            parts.issuer,
            settings.issuing.orders,
            serving.preloaded,
            serving.principals,
            clock,
        )
        modules = ModuleIdentities(settings, self._layout, keys, parts.api, clock)
        identity_service = IdentityService(
            settings,
            modules,
            keys,
            key_service.handles,
            serving.principals,
            parts.provisioning,
            LocalIdentities(settings, parts.issuer, parts.store, self._layout.identities / "local"),
        )
        self._apps = {
            "keyd": key_service.app(),
            "certd": certificate_service.app(),
            "identityd": identity_service.app(),
        }
        self._trust_bundle = lambda: certificate_service.read(TRUST_BUNDLE)
        return modules

    @property
    def workload_socket(self) -> Path:
        """Where every module may ask."""
        return self._layout.root / "run/iotedge/workload.sock"

    async def open(self) -> None:
        """Serve, then start the modules. Raises ConfigError; then nothing stays open."""
        try:
            for name, app in self._apps.items():
                await self._serve(app, self._layout.socket(name), SERVICE_MODE)
            await self._serve(self._management.app(), self._layout.root / "run/iotedge/mgmt.sock", SERVICE_MODE)
            await self._serve(self._workload.app(), self.workload_socket, _WORKLOAD)
            for container, path in self._containers.sockets():
                await self._serve(self._workload.app(through=container), path, _WORKLOAD)
            for module in self.modules.names():
                await self._serve(self._workload.app(), self._socket_of(module), _WORKLOAD)
        except BaseException:
            await self.close()
            raise
        await asyncio.to_thread(self._end_leftovers)
        self.modules.start()
        self._containers.start()
        self._open.push_async_callback(self._containers.close)
        self._open.push_async_callback(self.modules.close)

    async def close(self) -> None:
        """End the modules, close the sockets."""
        await self._open.aclose()

    def _end_leftovers(self) -> None:
        uris = [self._uri_of(module) for module in self._settings.serving.modules]
        for pid in end_leftovers(uris) if uris else ():
            _log.warning(EVENT_MODULE_ENDED, pid=pid, detail="left behind by a gateway that was killed")

    async def _serve(self, app: web.Application, path: Path, mode: int) -> None:
        server = await serve_unix(app, path, mode=mode)
        self._open.push_async_callback(server.close)

    def _socket_of(self, module: str) -> Path:
        return self._mounts / f"{module}.sock"

    def _uri_of(self, module: str) -> str:
        return f"unix://{self._socket_of(module)}"

    async def _environment(self, module: str) -> Mapping[str, str]:
        """What a module is told (edge specification 5.9); it is made at the hub when it is not there."""
        settings = self._settings
        try:
            known = await self._module_ids.get(module)
        except ModuleUnknownError:
            known = await self._module_ids.create(module)
        above = {} if settings.upstream.name == settings.hub else {"IOTEDGE_PARENTHOSTNAME": settings.upstream.name}
        return {
            **above,
            WORKLOAD_VARIABLE: self._uri_of(module),
            "IOTEDGE_AUTHSCHEME": "sasToken",
            "IOTEDGE_APIVERSION": _API_VERSION,
            "IOTEDGE_DEVICEID": settings.device,
            "IOTEDGE_IOTHUBHOSTNAME": settings.hub,
            "IOTEDGE_GATEWAYHOSTNAME": settings.hostname,
            "IOTEDGE_MODULEID": module,
            "IOTEDGE_MODULEGENERATIONID": known.generation,
        }
