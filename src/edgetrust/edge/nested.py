"""What a gateway offers to gateways below it, by HTTPS: the face that its hub shows to itself (edge specification 6.9).

    /devices/{d}/modules[/{m}]                   the runtime of a child manages its own modules; passed on to the hub
    .../$edgeHub/...ModuleOnBehalfOf             the same from further below, through the child
    .../$edgeHub/...Scope, get...OnBehalfOf      who is below the child, from this gateway's copy
    .../$edgeHub/scopeVersion, verifiedCertificates

Rules: every caller is decided on like a connection, by the copy, and a refusal is on record. Who asks about one
identity has a copy of its own that may be behind: so the hub is asked before this copy answers. An auth-chain must be
one of this gateway's copy; it is passed on with this gateway at its end. While the hub is away what needs it is
answered 500, which a runtime takes for a network that is down, and goes on with what it has.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, assert_never

import msgspec
from aiohttp import web

from edgetrust.broker.ports import Auditor
from edgetrust.clock import Clock
from edgetrust.edge.answering import answering, refuse
from edgetrust.edge.callers import Callers
from edgetrust.edge.hubapi import SCOPE_API, Answer, HubApi, hub_path
from edgetrust.edge.listing import write_listing
from edgetrust.edge.scope import ScopeRegistry
from edgetrust.errors import Error, PeerError, UnavailableError
from edgetrust.limits import LOOK_UP_SECONDS, SCOPE_WAIT_SECONDS
from edgetrust.pki.chain import Chain
from edgetrust.protocol.iothub import valid_identifier
from edgetrust.protocol.registry import (
    encode_body,
    parse_module,
    parse_on_behalf_request,
    parse_scope_lookup,
    parse_scope_request,
)
from edgetrust.trust.authorize import EDGE_HUB
from edgetrust.trust.identity import Identity
from edgetrust.trust.registration import Missing, MissingWhy, Registration
from edgetrust.trust.verdict import Check, Reason, Refused

_EDGE_HUB: Final = "/devices/{actor}/modules/$edgeHub"
_MODULE: Final = "/devices/{device}/modules/{module}"
_NETWORK_DOWN: Final = 500
_ON_BEHALF: Final = (
    ("PUT", "putModuleOnBehalfOf"),
    ("POST", "getModuleOnBehalfOf"),
    ("POST", "getModulesOnTargetDevice"),
    ("POST", "deleteModuleOnBehalfOf"),
)


class Nested:
    """The routes. `api` asks the hub as this gateway's `$edgeHub`; `device` is this gateway."""

    def __init__(
        self,
        hub: str,
        device: str,
        registry: ScopeRegistry,
        api: HubApi,
        callers: Callers,
        auditor: Auditor,
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._device = device
        self._registry = registry
        self._api = api
        self._callers = callers
        self._auditor = auditor
        self._clock = clock
        self._stopping = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        """Add the routes to the gateway's application."""
        app.on_shutdown.append(self._stop_waiting)
        router = app.router
        for method, name in _ON_BEHALF:
            router.add_route(method, f"{_EDGE_HUB}/{name}", answering(self._passed_on, _NETWORK_DOWN))
        for method, name, handler in (
            ("POST", "devicesAndModulesInTargetDeviceScope", self._listing),
            ("POST", "getDeviceAndModuleOnBehalfOf", self._look_up),
            ("GET", "scopeVersion", self._version),
            ("GET", "verifiedCertificates", self._authorities),
        ):
            router.add_route(method, f"{_EDGE_HUB}/{name}", answering(handler, _NETWORK_DOWN))
        router.add_get("/devices/{device}/modules", answering(self._modules, _NETWORK_DOWN))
        for method in ("GET", "PUT", "DELETE"):
            router.add_route(method, _MODULE, answering(self._module, _NETWORK_DOWN))

    # Who asks -------------------------------------------------------------------------------------------------------

    async def _edge_hub(self, request: web.Request) -> str:
        actor = _name(request, "actor")
        await self._callers.admit(request, Identity(self._hub, actor, EDGE_HUB))
        device = await self._registry.find(Identity(self._hub, actor))
        if not isinstance(device, Registration) or not device.edge:  # whose module only has that name
            raise self._refused(request, Reason.NOT_AUTHORIZED, actor, f"{actor} is no gateway")
        return actor

    async def _chain(self, request: web.Request, text: str, actor: str) -> tuple[str, ...]:
        """The devices of an auth-chain that ends with `actor`, and then this gateway. Raises PeerError 403."""
        self._insist_on_copy()
        devices = tuple(dict.fromkeys(element.partition("/")[0] for element in text.split(";")))
        wanted = (*devices, self._device)
        if devices[-1] != actor:
            detail = f"{text[:140]!r} does not end with {actor}"
            raise self._refused(request, Reason.AUTH_CHAIN_MISMATCH, actor, detail)
        if not await self._leads(wanted):
            raise self._refused(request, Reason.NOT_A_CHILD, actor, f"{text[:140]!r} does not lead to {actor}")
        return wanted

    async def _leads(self, wanted: tuple[str, ...]) -> bool:
        """Whether the first of `wanted` is below this gateway by exactly this way. The hub is asked before that is
        denied, since the copy may be behind.
        """
        devices = [Identity(self._hub, device) for device in wanted]
        if self._registry.chain_to(self._device, devices[0]) == wanted:
            return True
        for device in devices[:-1]:
            await self._registry.refresh(device)
        return self._registry.chain_to(self._device, devices[0]) == wanted

    def _insist_on_copy(self) -> None:
        """Raises UnavailableError before the first synchronisation: half a listing would make the gateway below forget
        the other half, and half a chain is no chain.
        """
        if self._registry.as_of is None:
            message = "this gateway has not been told yet who is below it"
            raise UnavailableError(message, reason=MissingWhy.UNAVAILABLE.value)

    def _refused(self, request: web.Request, reason: Reason, actor: str, detail: str) -> PeerError:
        """What the accepted `actor` asked for is not its business: on record, and the error that says so."""
        who = Identity(self._hub, actor, EDGE_HUB)
        refuse(Refused(who, reason, (Check("auth-chain", False, detail),)), request, self._auditor, self._clock.now())
        return PeerError(detail, reason=reason.value, status=403)

    # The scope, from the copy ---------------------------------------------------------------------------------------

    async def _listing(self, request: web.Request) -> web.Response:
        actor = await self._edge_hub(request)
        asked = parse_scope_request(await request.read())
        target = (await self._chain(request, asked.auth_chain, actor))[0]
        return _json(encode_body(write_listing(self._registry.level(Identity(self._hub, target)))))

    async def _look_up(self, request: web.Request) -> web.Response:
        actor = await self._edge_hub(request)
        asked = parse_scope_lookup(await request.read())
        await self._chain(request, asked.auth_chain, actor)
        device = Identity(self._hub, asked.target_device_id)
        wanted = (
            device if asked.target_module_id is None else Identity(self._hub, device.device, asked.target_module_id)
        )
        await self._registry.ask(wanted, LOOK_UP_SECONDS)
        found = [await self._registry.find(each) for each in dict.fromkeys((device, wanted))]
        known = [one for one in found if isinstance(one, Registration)]
        for one in found:
            if isinstance(one, Missing):
                raise _why_not(one.why, wanted)
        if actor not in self._registry.chain_to(self._device, device):
            raise PeerError(f"{device} is not below {actor}", reason="not-a-child", status=403)
        return _json(encode_body(write_listing(known)))

    async def _version(self, request: web.Request) -> web.Response:
        await self._edge_hub(request)
        version = self._registry.version
        if request.query.get("after") == str(version):
            await self._change_or_end(version)
        return web.json_response({"version": self._registry.version})

    async def _change_or_end(self, version: int) -> None:
        """Wait for a change, or until this gateway stops, which must not take as long as those below wait."""
        changed = asyncio.create_task(self._registry.wait_for_change(version, SCOPE_WAIT_SECONDS))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((changed, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (changed, stopping):
                task.cancel()
            await asyncio.gather(changed, stopping, return_exceptions=True)

    async def _stop_waiting(self, _: web.Application) -> None:
        self._stopping.set()

    async def _authorities(self, request: web.Request) -> web.Response:
        await self._edge_hub(request)
        pems = [Chain((certificate,)).pem() for certificate in self._registry.authorities]
        return web.json_response({"certificates": pems, "asOf": self._clock.now().isoformat()})

    # Modules, passed on to the hub ----------------------------------------------------------------------------------

    async def _passed_on(self, request: web.Request) -> web.Response:
        actor = await self._edge_hub(request)
        content = await request.read()
        chain = await self._chain(request, parse_on_behalf_request(content).auth_chain, actor)
        body = {**msgspec.json.decode(content, type=dict[str, Any]), "authChain": ";".join(chain)}
        name = request.path.rpartition("/")[2]
        return await self._ask(request, request.method, name, body)

    async def _modules(self, request: web.Request) -> web.Response:
        device = _name(request, "device")
        await self._callers.admit(request, Identity(self._hub, device))
        return await self._ask(request, "POST", "getModulesOnTargetDevice", {"authChain": self._own_chain(device)})

    async def _module(self, request: web.Request) -> web.Response:
        device, module = _name(request, "device"), _name(request, "module")
        await self._callers.admit(request, Identity(self._hub, device))
        body: dict[str, Any] = {"authChain": self._own_chain(device)}
        match request.method:
            case "PUT":
                content = await request.read()
                sent = parse_module(content)
                if (sent.device_id, sent.module_id) != (device, module):
                    raise PeerError("the body is about another module", reason="argument-invalid", status=400)
                body["module"] = msgspec.json.decode(content)
                return await self._ask(request, "PUT", "putModuleOnBehalfOf", body)
            case "DELETE":
                return await self._ask(request, "POST", "deleteModuleOnBehalfOf", {**body, "moduleId": module})
            case _:
                return await self._ask(request, "POST", "getModuleOnBehalfOf", {**body, "targetModuleId": module})

    def _own_chain(self, device: str) -> str:
        self._insist_on_copy()
        return ";".join(self._registry.chain_to(self._device, Identity(self._hub, device)))

    async def _ask(self, request: web.Request, method: str, name: str, body: dict[str, Any]) -> web.Response:
        path = hub_path("devices", self._device, "modules", EDGE_HUB, name)
        if_match = request.headers.get("If-Match")
        answer: Answer = await self._api.call(method, path, api_version=SCOPE_API, body=body, if_match=if_match)
        return _json(answer.content, status=answer.status)


def _why_not(why: MissingWhy, identity: Identity) -> Error:
    """What a gateway below is told: it keeps its copy only when nobody knows."""
    match why:
        case MissingWhy.NOT_A_CHILD:
            return PeerError(f"{identity} is not below this gateway", reason="not-a-child", status=403)
        case MissingWhy.UNAVAILABLE:
            return UnavailableError(f"{identity} is not in the copy, and the hub cannot be asked", reason=why.value)
        case MissingWhy.UNKNOWN:
            return PeerError(f"{identity} is not known", reason="device-not-found", status=404)
        case _:
            assert_never(why)


def _name(request: web.Request, part: str) -> str:
    name = request.match_info[part]
    if not valid_identifier(name):
        raise PeerError(f"{name[:140]!r} names no {part}", reason="argument-invalid", status=400)
    return name


def _json(content: bytes, *, status: int = 200) -> web.Response:
    if not content:
        return web.Response(status=status)
    return web.Response(body=content, status=status, content_type="application/json", charset="utf-8")
