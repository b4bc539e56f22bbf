"""The identity service's routes: who this device and its modules are, with handles to the keys that prove it.

Rules (edge specification 4.1). A trusted service may do everything; a module may learn its own identity; a principal
for the device may read the device's. What the hub refuses or cannot be asked is 404 with the cause, as in the real
product. No answer holds a key.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from edgetrust.edge.api import NO_CONTENT, ServiceError, Who, answer, bad_parameter, caller, read, service
from edgetrust.edge.files import DEVICE_ID, MASTER_IDENTITY_KEY
from edgetrust.edge.handles import DerivedId, HandleMaker, KeyId, KeyPairId
from edgetrust.edge.keyd import SecretsElsewhere, ensure_secret
from edgetrust.edge.moduleids import Module, ModuleIdentities, ModuleUnknownError
from edgetrust.edge.principals import Principals
from edgetrust.edge.provisioning import Provisioning
from edgetrust.edge.settings import DeviceKey, Settings
from edgetrust.errors import Error
from edgetrust.pki.keys import KeyStore
from edgetrust.protocol.iothub import valid_identifier
from edgetrust.transport.unix import peer

VERSIONS = frozenset({"2020-09-01", "2021-12-01", "2022-08-01"})
_HUB_TROUBLE = 404


class _Kind(msgspec.Struct):
    type: str = "aziot"


class _NewModule(msgspec.Struct, rename="camel"):
    module_id: str
    type: str = "aziot"


class IdentityService:
    """The identities of one device."""

    def __init__(
        self,
        settings: Settings,
        modules: ModuleIdentities,
        keys: KeyStore,
        handles: HandleMaker,
        principals: Principals,
        provisioning: Provisioning | None = None,
    ) -> None:
        self._by_service = provisioning
        self._settings = settings
        self._modules = modules
        self._keys = keys
        self._handles = handles
        self._principals = principals
        if isinstance(settings.credential, DeviceKey) and not isinstance(keys, SecretsElsewhere):
            keys.import_secret(DEVICE_ID, settings.credential.key)

    def app(self, who: Who = peer) -> web.Application:
        """The service's application."""
        routes = [
            web.get("/identities/identity", self._own),
            web.post("/identities/device", self._device),
            web.post("/identities/device/reprovision", self._reprovision),
            web.get("/identities/provisioning", self._provisioning),
            web.get("/identities/modules", self._list),
            web.post("/identities/modules", self._create),
            web.get("/identities/modules/{id}", self._get),
            web.put("/identities/modules/{id}", self._update),
            web.delete("/identities/modules/{id}", self._delete),
            web.get("/trust-bundle", self._trust_bundle),
        ]
        return service(routes, VERSIONS, who=who)

    def primary_key(self, module: Module) -> str:
        """A handle of a module's primary key."""
        if not isinstance(self._keys, SecretsElsewhere):
            ensure_secret(self._keys, MASTER_IDENTITY_KEY)
        master = self._handles.make(KeyId(MASTER_IDENTITY_KEY))
        return self._handles.make(DerivedId(master, f"{module.module_id}:{module.generation}:primary".encode()))

    # Reading --------------------------------------------------------------------------------------------------------

    async def _own(self, request: web.Request) -> web.Response:
        uid = caller(request).uid
        own = self._principals.module_of(uid)
        if own is not None and not self._principals.trusted(uid):
            return answer(self._of_module(await self._asked(self._modules.get(own))))
        self._allow(self._principals.may_read_device(uid), uid)
        return answer(self._of_device())

    async def _device(self, request: web.Request) -> web.Response:
        _aziot((await read(request, _Kind)).type)
        uid = caller(request).uid
        self._allow(self._principals.may_read_device(uid), uid)
        return answer(self._of_device())

    async def _provisioning(self, request: web.Request) -> web.Response:
        self._trusted(request)
        authentication = "sas" if isinstance(self._settings.credential, DeviceKey) else "x509"
        if self._by_service is None:
            return answer({"source": "manual", "auth": authentication})
        dps, known = self._by_service.dps, self._by_service.remembered() or {}
        told = {name: known[name] for name in ("registration_id", "payload") if known.get(name) is not None}
        auth = "symmetric_key" if authentication == "sas" else authentication
        return answer({"source": "dps", "auth": auth, "endpoint": dps.endpoint, "scope_id": dps.id_scope, **told})

    async def _list(self, request: web.Request) -> web.Response:
        self._trusted(request)
        _aziot(request.query.get("type", "aziot"))
        modules = await self._asked(self._modules.listed())
        return answer({"identities": [self._of_module(module, key=False) for module in modules]})

    async def _get(self, request: web.Request) -> web.Response:
        module_id, uid = self._module_id(request), caller(request).uid
        self._allow(self._principals.trusted(uid) or self._principals.module_of(uid) == module_id, uid)
        return answer(self._of_module(await self._asked(self._modules.get(module_id))))

    async def _trust_bundle(self, _request: web.Request) -> web.Response:
        return answer({"certificate": ""})

    # Changing -------------------------------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.Response:
        self._trusted(request)
        body = await read(request, _NewModule)
        _aziot(body.type)
        if not valid_identifier(body.module_id.removeprefix("$")):
            raise bad_parameter("moduleId", f"{body.module_id[:140]!r} is no module id")
        return answer(self._of_module(await self._asked(self._modules.create(body.module_id))))

    async def _update(self, request: web.Request) -> web.Response:
        self._trusted(request)
        return answer(self._of_module(await self._asked(self._modules.update(self._module_id(request)))))

    async def _delete(self, request: web.Request) -> web.Response:
        self._trusted(request)
        await self._asked(self._modules.delete(self._module_id(request)))
        return web.Response(status=NO_CONTENT)

    async def _reprovision(self, request: web.Request) -> web.Response:
        """Ask the provisioning service; with manual provisioning, the hub about the modules."""
        self._trusted(request)
        _aziot((await read(request, _Kind)).type)
        await self._asked(self._modules.listed() if self._by_service is None else self._by_service.again())
        return web.Response(status=NO_CONTENT)

    # Parts ----------------------------------------------------------------------------------------------------------

    async def _asked(self, asking: Any) -> Any:
        try:
            return await asking
        except ModuleUnknownError as problem:
            raise ServiceError(400, problem.message, reason=problem.reason) from problem
        except Error as problem:
            raise ServiceError(_HUB_TROUBLE, problem.message, reason=problem.reason) from problem
        except OSError as problem:
            raise ServiceError(500, "internal error", reason="disk") from problem

    def _module_id(self, request: web.Request) -> str:
        _aziot(request.query.get("type", "aziot"))
        module_id = request.match_info["id"]
        if not valid_identifier(module_id.removeprefix("$")):
            raise bad_parameter("id", f"{module_id[:140]!r} is no module id")
        return module_id

    def _trusted(self, request: web.Request) -> None:
        uid = caller(request).uid
        self._allow(self._principals.trusted(uid), uid)

    def _allow(self, allowed: bool, uid: int) -> None:
        if not allowed:
            raise ServiceError(401, f"user {uid} is not authorized", reason="identity-not-authorized")

    def _of_device(self) -> dict[str, Any]:
        if isinstance(self._settings.credential, DeviceKey):
            authentication = {"type": "sas", "keyHandle": self._handles.make(KeyId(DEVICE_ID))}
        else:
            handle = self._handles.make(KeyPairId(DEVICE_ID))
            authentication = {"type": "x509", "keyHandle": handle, "certId": DEVICE_ID}
        return {"type": "aziot", "spec": {**self._place(), "auth": authentication}}

    def _of_module(self, module: Module, *, key: bool = True) -> dict[str, Any]:
        spec = {**self._place(), "moduleId": module.module_id, "genId": module.generation}
        if key:
            spec["auth"] = {"type": "sas", "keyHandle": self.primary_key(module)}
        return {"type": "aziot", "spec": spec}

    def _place(self) -> dict[str, Any]:
        settings = self._settings
        return {"hubName": settings.hub, "gatewayHost": settings.upstream.name, "deviceId": settings.device}


def _aziot(kind: str) -> None:
    if kind != "aziot":
        raise bad_parameter("type", f"{kind[:40]!r} is not offered; identities of a hub are: aziot")
