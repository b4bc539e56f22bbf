"""The management API: what runs here, started, stopped and looked at; identities of modules; this machine.

Rules (edge specification 5.8). Who may ask is whoever may use the socket: root, the gateway's user and trusted
services. A module may look and change nothing: only an agent may, and modules are declared in the configuration here,
so that none is made or changed through this API. Failures of identities are 500 with their words, as in the real
product.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
from aiohttp import web

from edgetrust import __version__, limits
from edgetrust.edge.api import NO_CONTENT, ServiceError, Who, answer, bad_parameter, caller, read, service
from edgetrust.edge.moduleids import Module
from edgetrust.edge.modulelogs import Wanted, moment
from edgetrust.edge.modules import Modules
from edgetrust.edge.principals import Principals
from edgetrust.edge.workload import VERSIONS
from edgetrust.errors import Error
from edgetrust.protocol.iothub import valid_identifier
from edgetrust.transport.unix import peer

_FORBIDDEN, _NOT_FOUND, _INTERNAL = 403, 404, 500
Reprovision = Callable[[], Awaitable[object]]


class Identities(Protocol):
    """The modules of this device at the hub."""

    async def listed(self) -> list[Module]: ...

    async def create(self, module_id: str) -> Module: ...

    async def update(self, module_id: str) -> Module: ...

    async def delete(self, module_id: str) -> None: ...


class _New(msgspec.Struct, rename="camel"):
    module_id: str
    managed_by: str = ""


class Management:
    """The management API of one gateway. `reprovision` asks who this gateway is, anew."""

    def __init__(
        self,
        modules: Modules,
        identities: Identities,
        principals: Principals,
        reprovision: Reprovision,
        source: str,
        started_at: datetime,
    ) -> None:
        self._modules = modules
        self._identities = identities
        self._principals = principals
        self._reprovision = reprovision
        self._source = source
        self._started_at = started_at

    def app(self, who: Who = peer) -> web.Application:
        """The service's application."""
        routes = [
            web.get("/modules", self._list),
            web.post("/modules", self._declared),
            web.get("/modules/{name}", self._show),
            web.put("/modules/{name}", self._declared),
            web.delete("/modules/{name}", self._declared),
            web.post("/modules/{name}/prepareupdate", self._declared),
            web.post("/modules/{name}/{verb:start|stop|restart}", self._control),
            web.get("/modules/{name}/logs", self._logs),
            web.get("/identities", self._list_identities),
            web.post("/identities", self._create_identity),
            web.put("/identities/{name}", self._update_identity),
            web.delete("/identities/{name}", self._delete_identity),
            web.get("/systeminfo", self._system),
            web.get("/systeminfo/resources", self._resources),
            web.post("/device/reprovision", self._device_reprovision),
        ]
        return service(routes, VERSIONS, at_once=limits.MANAGEMENT_REQUESTS, who=who)

    # Modules --------------------------------------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.Response:
        self._known(request)
        return answer({"modules": [self._modules.details(name) for name in self._modules.names()]})

    async def _show(self, request: web.Request) -> web.Response:
        self._known(request)
        return answer(self._modules.details(self._module(request)))

    async def _declared(self, request: web.Request) -> web.Response:
        self._agent(request)
        raise ServiceError(
            _FORBIDDEN,
            "modules are declared in the configuration\ncaused by: edit [edgetrust.modules] and apply it",
            reason="module-declared",
        )

    async def _control(self, request: web.Request) -> web.Response:
        self._agent(request)
        name, verb = self._module(request), request.match_info["verb"]
        if not self._modules.is_declared(name):
            raise ServiceError(_FORBIDDEN, f"the module {name!r} is the gateway itself", reason="module-declared")
        if verb != "start":
            await self._modules.stop(name)
        if verb != "stop":
            self._modules.begin(name)
        return web.Response(status=NO_CONTENT)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        self._known(request)
        name, wanted, follow = self._module(request), _of_log(request.query), _flag(request.query, "follow")
        if not self._modules.is_declared(name):
            raise ServiceError(
                _NOT_FOUND,
                f"the log of the module {name!r} is not kept here\ncaused by: it is the gateway, which writes to "
                "standard error: journalctl -u aziot-edged",
                reason="log-elsewhere",
            )
        if not follow:
            return web.Response(
                body=await asyncio.to_thread(self._modules.log_of, name, wanted), content_type="text/plain"
            )
        return await _streamed(request, self._modules.follow(name, wanted))

    def _module(self, request: web.Request) -> str:
        name = request.match_info["name"].removeprefix("$")
        if name not in self._modules.names():
            raise ServiceError(_NOT_FOUND, f"there is no module {name[:140]!r}", reason="module-unknown")
        return name

    # Identities -----------------------------------------------------------------------------------------------------

    async def _list_identities(self, request: web.Request) -> web.Response:
        self._known(request)
        found = await self._asked(self._identities.listed())
        return answer({"identities": [_described(one) for one in found]})

    async def _create_identity(self, request: web.Request) -> web.Response:
        self._agent(request)
        name = _name((await read(request, _New)).module_id)
        return answer(_described(await self._asked(self._identities.create(name))))

    async def _update_identity(self, request: web.Request) -> web.Response:
        self._agent(request)
        return answer(_described(await self._asked(self._identities.update(_name(request.match_info["name"])))))

    async def _delete_identity(self, request: web.Request) -> web.Response:
        self._agent(request)
        await self._asked(self._identities.delete(_name(request.match_info["name"])))
        return web.Response(status=NO_CONTENT)

    async def _device_reprovision(self, request: web.Request) -> web.Response:
        self._agent(request)
        await self._asked(self._reprovision())
        return web.Response(status=NO_CONTENT)

    async def _asked(self, asking: Awaitable[Any]) -> Any:
        try:
            return await asking
        except Error as problem:
            raise ServiceError(_INTERNAL, problem.message, reason=problem.reason) from problem

    # The machine ----------------------------------------------------------------------------------------------------

    async def _system(self, request: web.Request) -> web.Response:
        self._known(request)
        return answer(
            {
                "osType": platform.system().lower(),
                "architecture": platform.machine(),
                "version": __version__,
                "kernelVersion": platform.release(),
                "cpus": os.cpu_count(),
                "provisioning": {"type": self._source},
            }
        )

    async def _resources(self, request: web.Request) -> web.Response:
        self._known(request)
        memory = await asyncio.to_thread(_memory)
        disk = os.statvfs("/")
        return answer(
            {
                "host_uptime": int(float((await asyncio.to_thread(_read, "/proc/uptime")).split()[0])),
                "process_uptime": int((datetime.now(self._started_at.tzinfo) - self._started_at).total_seconds()),
                "used_cpu": os.getloadavg()[0],
                "used_ram": memory["MemTotal"] - memory["MemAvailable"],
                "total_ram": memory["MemTotal"],
                "disks": [
                    {
                        "name": "/",
                        "available_space": disk.f_bavail * disk.f_frsize,
                        "total_space": disk.f_blocks * disk.f_frsize,
                    }
                ],
            }
        )

    # Who asks -------------------------------------------------------------------------------------------------------

    def _known(self, request: web.Request) -> None:
        """Anybody who may use the services."""
        asking = caller(request)
        if not self._principals.trusted(asking.uid):
            raise ServiceError(_FORBIDDEN, "forbidden", reason="management-not-authorized")

    def _agent(self, request: web.Request) -> None:
        """Whoever may change something: no module."""
        self._known(request)
        if self._modules.module_of(caller(request).pid) is not None:
            raise ServiceError(_FORBIDDEN, "forbidden", reason="management-not-authorized")


async def _streamed(request: web.Request, words: AsyncGenerator[bytes]) -> web.StreamResponse:
    """As they come, until they end or nobody listens."""
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    async with aclosing(words):
        async for some in words:
            if request.transport is None or request.transport.is_closing():
                break
            if some:
                with suppress(ConnectionError):  # seen at the next turn
                    await response.write(some)
    return response


def _of_log(query: Mapping[str, str]) -> Wanted:
    """What of a log a request asks for. Raises ServiceError."""
    tail, now = query.get("tail", "all"), datetime.now(UTC)
    if tail != "all" and not re.fullmatch("[0-9]{1,18}", tail):
        raise bad_parameter("tail", "it is a number of lines, or all")
    named: dict[str, datetime] = {}
    for name in ("since", "until"):
        if name in query:
            found = moment(query[name], now)
            if found is None:
                raise bad_parameter(name, "it is a time (RFC 3339), seconds since 1970, or how long ago, as 1h30m")
            named[name] = found
    return Wanted(None if tail == "all" else int(tail), timestamps=_flag(query, "timestamps"), **named)


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise bad_parameter(name, "it is true or false")
    return value == "true"


def _name(module_id: str) -> str:
    if not valid_identifier(module_id.removeprefix("$")):
        raise bad_parameter("moduleId", f"{module_id[:140]!r} is no module id")
    return module_id


def _described(module: Module) -> dict[str, Any]:
    return {
        "moduleId": module.module_id,
        "managedBy": module.managed_by or "iotedge",
        "generationId": module.generation,
        "authType": "sas",
    }


def _memory() -> dict[str, int]:
    """`/proc/meminfo` in bytes."""
    lines = (line.split() for line in _read("/proc/meminfo").splitlines())
    return {name.rstrip(":"): int(value) * 1024 for name, value, *_ in lines}


def _read(path: str) -> str:
    return Path(path).read_text("ascii", "replace")
