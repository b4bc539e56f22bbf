"""The identity service's routes: who this device and its modules are, with handles to the keys that prove it.

Rules (edge specification 4.1). A trusted service may do everything; a module may learn its own identity; a principal
for the device may read the device's. What the hub refuses or cannot be asked is 404 with the cause, as in the real
product. No answer holds a key but that of a local identity, whose new key goes to whom it belongs.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from edgetrust.edge.api import NO_CONTENT, ServiceError, Who, answer, bad_parameter, caller, not_found, read, service
from edgetrust.edge.credentials import Credential, DeviceKey, DeviceTpm
from edgetrust.edge.files import DEVICE_ID, MASTER_IDENTITY_KEY
from edgetrust.edge.handles import DerivedId, HandleMaker, KeyId, KeyPairId
from edgetrust.edge.keyd import SecretsElsewhere, ensure_secret
from edgetrust.edge.localids import Attributes, LocalIdentities
from edgetrust.edge.moduleids import Module, ModuleIdentities, ModuleUnknownError
from edgetrust.edge.principals import Principals
from edgetrust.edge.provisioning import Provisioning
from edgetrust.edge.settings import Settings
from edgetrust.errors import Error
from edgetrust.pki.keys import KeyStore
from edgetrust.protocol.iothub import valid_identifier
from edgetrust.transport.unix import peer

VERSIONS = frozenset({"2020-09-01", "2021-12-01", "2022-08-01"})
_PROVISIONING_SINCE = "2021-12-01"
_HUB_TROUBLE = 404
_LOCAL = "local"


class _Kind(msgspec.Struct):
    type: str = "aziot"


class _LocalOptions(msgspec.Struct):
    type: str = "x509"
    attributes: str = Attributes.CLIENT


class _NewModule(msgspec.Struct, rename="camel"):
    module_id: str
    type: str = "aziot"
    local_id_opts: _LocalOptions | None = None


class IdentityService:
    """The identities of one device. `modules` None: there is no hub."""

    def __init__(
        self,
        settings: Settings,
        modules: ModuleIdentities | None,
        keys: KeyStore,
        handles: HandleMaker,
        principals: Principals,
        provisioning: Provisioning | None = None,
        local: LocalIdentities | None = None,
    ) -> None:
        self._local = local
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

    def _of_hub(self) -> ModuleIdentities:
        """The modules at the hub. Raises ServiceError where there is none."""
        if self._modules is None:
            raise ServiceError(400, "this machine is not provisioned: it has no hub", reason="not-provisioned")
        return self._modules

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
            return await self._shown(await self._asked(self._of_hub().get(own)))
        self._allow(self._principals.may_read_device(uid), uid)
        return answer(await asyncio.to_thread(self._of_device))

    async def _device(self, request: web.Request) -> web.Response:
        _aziot((await read(request, _Kind)).type)
        uid = caller(request).uid
        self._allow(self._principals.may_read_device(uid), uid)
        return answer(await asyncio.to_thread(self._of_device))

    async def _provisioning(self, request: web.Request) -> web.Response:
        if request.query["api-version"] < _PROVISIONING_SINCE:
            raise not_found()
        self._trusted(request)
        if self._modules is None:
            return answer({"source": "none"})
        authentication = _word(self._settings.credential)
        if self._by_service is None:
            return answer({"source": "manual", "auth": authentication})
        dps, known = self._by_service.dps, self._by_service.remembered() or {}
        told = {name: known[name] for name in ("registration_id", "payload") if known.get(name) is not None}
        auth = "symmetric_key" if authentication == "sas" else authentication
        return answer({"source": "dps", "auth": auth, "endpoint": dps.endpoint, "scope_id": dps.id_scope, **told})

    async def _list(self, request: web.Request) -> web.Response:
        self._trusted(request)
        local = self._local_for(request.query.get("type", "aziot"))
        if local is not None:
            names = await asyncio.to_thread(local.names)
            return answer({"identities": [{"type": _LOCAL, "spec": {"moduleId": name}} for name in names]})
        modules = await self._asked(self._of_hub().listed())
        return answer({"identities": [self._of_module(module, key=False) for module in modules]})

    async def _get(self, request: web.Request) -> web.Response:
        module_id, uid = self._module_id(request), caller(request).uid
        local = self._local_for(request.query.get("type", "aziot"))
        if local is not None:
            self._allow(self._principals.trusted(uid) or self._principals.is_local(uid, module_id), uid)
            return _of_local(module_id, await self._asked(local.get(module_id)))
        self._allow(self._principals.trusted(uid) or self._principals.module_of(uid) == module_id, uid)
        return await self._shown(await self._asked(self._of_hub().get(module_id)))

    async def _trust_bundle(self, _request: web.Request) -> web.Response:
        return answer({"certificate": ""})

    # Changing -------------------------------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.Response:
        self._trusted(request)
        body = await read(request, _NewModule)
        local = self._local_for(body.type)
        if not valid_identifier(body.module_id.removeprefix("$")):
            raise bad_parameter("moduleId", f"{body.module_id[:140]!r} is no module id")
        if local is not None:
            attributes = _attributes(body.local_id_opts or _LocalOptions())
            return _of_local(body.module_id, await self._asked(local.create(body.module_id, attributes)))
        return await self._shown(await self._asked(self._of_hub().create(body.module_id)))

    async def _update(self, request: web.Request) -> web.Response:
        self._trusted(request)
        module_id = self._module_id(request)
        local = self._local_for(request.query.get("type", "aziot"))
        if local is not None:
            return _of_local(module_id, await self._asked(local.get(module_id)))
        return await self._shown(await self._asked(self._of_hub().update(module_id)))

    async def _delete(self, request: web.Request) -> web.Response:
        self._trusted(request)
        local, module_id = self._local_for(request.query.get("type", "aziot")), self._module_id(request)
        await self._asked((self._of_hub() if local is None else local).delete(module_id))
        return web.Response(status=NO_CONTENT)

    async def _reprovision(self, request: web.Request) -> web.Response:
        """Ask the provisioning service; with manual provisioning, the hub about the modules."""
        self._trusted(request)
        _aziot((await read(request, _Kind)).type)
        await self._asked(self._of_hub().listed() if self._by_service is None else self._by_service.again())
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

    def _local_for(self, kind: str) -> LocalIdentities | None:
        """Where identities of that type are: None for those of the hub. Raises ServiceError."""
        if kind == _LOCAL and self._local is not None:
            return self._local
        _aziot(kind)
        return None

    def _module_id(self, request: web.Request) -> str:
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

    async def _shown(self, module: Module) -> web.Response:
        """A module with a handle to its key, which the key service may have to be asked for."""
        return answer(await asyncio.to_thread(self._of_module, module))

    def _of_device(self) -> dict[str, Any]:
        self._of_hub()
        authentication: dict[str, Any]
        if isinstance(self._settings.credential, DeviceTpm):
            authentication = {"type": "tpm"}
        elif isinstance(self._settings.credential, DeviceKey):
            authentication = {"type": "sas", "keyHandle": self._handles.make(KeyId(DEVICE_ID))}
        else:
            handle = self._handles.make(KeyPairId(DEVICE_ID))
            authentication = {"type": "x509", "keyHandle": handle, "certId": DEVICE_ID}
        return {"type": "aziot", "spec": {**self._place(), **self._latest(), "auth": authentication}}

    def _of_module(self, module: Module, *, key: bool = True) -> dict[str, Any]:
        spec = {**self._place(), "moduleId": module.module_id, "genId": module.generation}
        if key:
            spec["auth"] = {"type": "sas", "keyHandle": self.primary_key(module)}
        return {"type": "aziot", "spec": spec}

    def _latest(self) -> dict[str, str]:
        """Where the device is by now, when this process is about to start anew for it."""
        latest = None if self._by_service is None else self._by_service.latest
        if latest is None:
            return {}
        above = {} if self._settings.upstream.name != self._settings.hub else {"gatewayHost": latest.hub}
        return {"hubName": latest.hub, "deviceId": latest.device, **above}

    def _place(self) -> dict[str, Any]:
        settings = self._settings
        return {"hubName": settings.hub, "gatewayHost": settings.upstream.name, "deviceId": settings.device}


def _word(credential: Credential) -> str:
    match credential:
        case DeviceKey():
            return "sas"
        case DeviceTpm():
            return "tpm"
        case _:
            return "x509"


def _aziot(kind: str) -> None:
    if kind != "aziot":
        raise bad_parameter("type", f"{kind[:40]!r} is not offered here; identities of a hub are: aziot")


def _attributes(options: _LocalOptions) -> Attributes:
    if options.type != "x509" or options.attributes not in tuple(Attributes):
        raise bad_parameter("localIdOpts", "its type is x509, its attributes are client or server")
    return Attributes(options.attributes)


def _of_local(name: str, issued: dict[str, Any]) -> web.Response:
    return answer({"type": _LOCAL, "spec": {"moduleId": name, "auth": issued}})
