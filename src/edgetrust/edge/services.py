"""The services of a gateway on their sockets, and its modules: each is an application of its own.

    /run/aziot/keyd.sock, certd.sock, identityd.sock        mode 0660
    /run/iotedge/workload.sock                              mode 0666; the caller's process decides
    /var/lib/aziot/edged/mnt/MODULE.sock                    the same for one module

All below the root (edge specification 0.1, 0.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from edgetrust.clock import Clock
from edgetrust.edge.certservice import CertificateService
from edgetrust.edge.files import TRUST_BUNDLE, Layout
from edgetrust.edge.hubapi import HubApi
from edgetrust.edge.identityservice import IdentityService
from edgetrust.edge.issuer import ConfiguredIssuer
from edgetrust.edge.keyservice import KeyService
from edgetrust.edge.moduleids import ModuleIdentities, ModuleUnknownError
from edgetrust.edge.modules import Modules
from edgetrust.edge.pairs import CertificateStore
from edgetrust.edge.provisioning import Provisioning
from edgetrust.edge.settings import Settings
from edgetrust.edge.workload import Workload
from edgetrust.pki.issue import Issuer
from edgetrust.pki.keys import KeyStore
from edgetrust.transport.unix import serve_unix

_SERVICE, _WORKLOAD = 0o660, 0o666
_API_VERSION = "2022-08-03"


class Services:
    """The services of one gateway. `api` calls the hub as the device, `edge_ca` gives the Edge CA in use."""

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        keys: KeyStore,
        store: CertificateStore,
        issuer: ConfiguredIssuer,
        api: HubApi,
        edge_ca: Callable[[], Issuer],
        clock: Clock,
        provisioning: Provisioning | None = None,
    ) -> None:
        serving = settings.serving
        self._settings = settings
        self._layout = layout
        self._open = AsyncExitStack()
        self._keys = KeyService(keys, serving.principals)
        self._certificates = CertificateService(
            store,
            keys,
            self._keys.handles,
            issuer,
            settings.issuing.orders,
            serving.preloaded,
            serving.principals,
            clock,
        )
        self._modules_ids = ModuleIdentities(settings, layout, keys, api, clock)
        self._identities = IdentityService(
            settings, self._modules_ids, keys, self._keys.handles, serving.principals, provisioning
        )
        self.modules = Modules(serving.modules, self._environment)
        self._workload = Workload(
            settings,
            keys,
            store,
            self._modules_ids.get,
            self.modules,
            edge_ca,
            lambda: self._certificates.read(TRUST_BUNDLE),
            clock,
        )

    @property
    def workload_socket(self) -> Path:
        """Where every module may ask."""
        return self._layout.root / "run/iotedge/workload.sock"

    async def open(self) -> None:
        """Serve, then start the modules. Raises ConfigError; then nothing stays open."""
        try:
            for name, app in (
                ("keyd", self._keys.app()),
                ("certd", self._certificates.app()),
                ("identityd", self._identities.app()),
            ):
                await self._serve(app, self._layout.root / f"run/aziot/{name}.sock", _SERVICE)
            await self._serve(self._workload.app(), self.workload_socket, _WORKLOAD)
            for module in self.modules.names():
                await self._serve(self._workload.app(), self._socket_of(module), _WORKLOAD)
        except BaseException:
            await self.close()
            raise
        self.modules.start()
        self._open.push_async_callback(self.modules.close)

    async def close(self) -> None:
        """End the modules, close the sockets."""
        await self._open.aclose()

    async def _serve(self, app: web.Application, path: Path, mode: int) -> None:
        server = await serve_unix(app, path, mode=mode)
        self._open.push_async_callback(server.close)

    def _socket_of(self, module: str) -> Path:
        return self._layout.root / f"var/lib/aziot/edged/mnt/{module}.sock"

    async def _environment(self, module: str) -> Mapping[str, str]:
        """What a module is told (edge specification 5.9); it is made at the hub when it is not there."""
        settings = self._settings
        try:
            known = await self._modules_ids.get(module)
        except ModuleUnknownError:
            known = await self._modules_ids.create(module)
        above = {} if settings.upstream.name == settings.hub else {"IOTEDGE_PARENTHOSTNAME": settings.upstream.name}
        return {
            **above,
            "IOTEDGE_WORKLOADURI": f"unix://{self._socket_of(module)}",
            "IOTEDGE_AUTHSCHEME": "sasToken",
            "IOTEDGE_APIVERSION": _API_VERSION,
            "IOTEDGE_DEVICEID": settings.device,
            "IOTEDGE_IOTHUBHOSTNAME": settings.hub,
            "IOTEDGE_GATEWAYHOSTNAME": settings.hostname,
            "IOTEDGE_MODULEID": module,
            "IOTEDGE_MODULEGENERATIONID": known.generation,
        }
