"""The identity service of another process, as the gateway and its modules need it: who they are, and their keys.

Rules. The module's key itself is taken from the key service as a derived key, named by the handle that the identity
service gives. What was learned last is remembered with its handle, so that a gateway starts while its hub or the
identity service is away; a handle is a capability, so the file is for this user only. What is remembered is good for
the same device at the same hub only. When the identity service is another device by now, the gateway has to start anew.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgetrust.edge.credentials import Assignment
from edgetrust.edge.files import read_file
from edgetrust.edge.identityd import EdgeHub
from edgetrust.edge.keyclient import KeyClient
from edgetrust.edge.moduleids import Module, ModuleUnknownError
from edgetrust.errors import ConfigError, RefusedError, UnavailableError
from edgetrust.limits import HUB_REQUEST_SECONDS, SERVICE_LOOK_SECONDS, START_WAIT_SECONDS
from edgetrust.pki.softkeys import write_private
from edgetrust.transport.unixclient import UnixClient
from edgetrust.trust.authorize import EDGE_HUB

IDENTITY_API = "2021-12-01"
_OK, _NO_CONTENT, _WRONG, _NOT_ALLOWED = 200, 204, 400, 401
_WAIT_SECONDS = 2 * HUB_REQUEST_SECONDS + 10  # it asks the hub, twice at most, and answers


class IdentityClient:
    """Identities by the service on a socket. `memory` is the file that outlives the service's absence. `moved` is set
    when the service is another device than `place`, which is None until it is known.
    """

    def __init__(self, socket: Path, keys: KeyClient, memory: Path) -> None:
        self._service = UnixClient(socket, "the identity service", IDENTITY_API)
        self._keys = keys
        self._memory = memory
        self.place: Assignment | None = None
        self.moved = asyncio.Event()

    # As this gateway ------------------------------------------------------------------------------------------------

    async def assigned(self) -> Assignment:
        """What this gateway is: as the service says, or as is remembered when it is away. Raises Error."""
        remembered = await asyncio.to_thread(self._remembered_place)
        try:
            async with asyncio.timeout(None if remembered is None else START_WAIT_SECONDS):
                self.place = await asyncio.to_thread(self._assigned)
        except (UnavailableError, TimeoutError):
            if remembered is None:
                raise
            self.place = remembered
        return self.place

    def _assigned(self) -> Assignment:
        return _place_of(self._called("GET", "/identities/identity", timeout=SERVICE_LOOK_SECONDS))

    def _remembered_place(self) -> Assignment | None:
        try:
            return _place_of(self._remembered())
        except (ConfigError, ValueError, KeyError, TypeError):
            return None

    async def look(self) -> None:
        """See whether this gateway is the same device still. Raises Error."""
        if await asyncio.to_thread(self._assigned) != self.place:
            self.moved.set()

    async def reprovision(self) -> None:
        """Have the service find out what this gateway is. Raises Error."""
        await asyncio.to_thread(self._called, "POST", "/identities/device/reprovision", {"type": "aziot"})
        await self.look()

    # As this gateway's module $edgeHub ------------------------------------------------------------------------------

    async def ensure_edge_hub(self) -> EdgeHub:
        """The module as the hub has it now, made or updated as needed. Raises Error."""
        found = await asyncio.to_thread(self._asked)
        place = _place_of(found)
        if self.place not in (None, place):
            message = f"the identity service is {place.device!r} at {place.hub}, and this gateway is not"
            raise UnavailableError(message, reason="service-failed")
        known = {"hubName": found["hubName"], "deviceId": found["deviceId"]}
        known |= {"generationId": found["genId"], "keyHandle": found["auth"]["keyHandle"]}
        return await asyncio.to_thread(self._kept, known)

    def _asked(self) -> Any:
        try:
            return self._told()
        except UnavailableError as problem:
            if problem.reason == "service-failed" and self._remembers():  # the hub's no, or its absence
                raise RefusedError(problem.message, reason="device-refused", fix=problem.fix) from problem
            raise

    def _kept(self, known: dict[str, str]) -> EdgeHub:
        encoded = json.dumps(known).encode()
        if not self._memory.exists() or self._memory.read_bytes() != encoded:
            write_private(self._memory, encoded)
        return self._edge_hub(known)

    def _told(self) -> Any:
        try:
            return self._called("PUT", _path(EDGE_HUB), {"type": "aziot"})
        except ModuleUnknownError:
            return self._called("POST", "/identities/modules", {"type": "aziot", "moduleId": EDGE_HUB})

    def backup(self) -> EdgeHub | None:
        """What was remembered; None when there never was anything, or the key service does not know it."""
        try:
            return self._edge_hub(self._remembered()) if self._remembers() else None
        except (ValueError, KeyError, TypeError):
            return None

    def _remembers(self) -> bool:
        """Whether what is remembered is of this device."""
        return self._memory.exists() and self.place in (None, self._remembered_place())

    def _remembered(self) -> Any:
        return json.loads(read_file(self._memory))

    def _edge_hub(self, known: dict[str, str]) -> EdgeHub:
        key = self._keys.exported(known["keyHandle"])
        return EdgeHub(known["generationId"], key, key)  # the secondary one is told to the hub only

    async def close(self) -> None:
        """Nothing is held."""

    def forget_certificate(self) -> None:
        """The identity service sees to the device's certificate."""

    # As the runtime of modules --------------------------------------------------------------------------------------

    async def get(self, module_id: str) -> Module:
        """A module. Raises ModuleUnknownError, UnavailableError, RefusedError."""
        return _module(await asyncio.to_thread(self._called, "GET", _path(module_id)))

    async def listed(self) -> list[Module]:
        """All modules."""
        status, answered = await asyncio.to_thread(
            lambda: self._service.call("GET", "/identities/modules", query={"type": "aziot"}, timeout=_WAIT_SECONDS)
        )
        return [_module(one["spec"]) for one in _expect(status, answered, "")["identities"]]

    async def create(self, module_id: str) -> Module:
        """Make a module. Raises Error."""
        body = {"type": "aziot", "moduleId": module_id}
        return _module(await asyncio.to_thread(self._called, "POST", "/identities/modules", body))

    async def update(self, module_id: str) -> Module:
        """Tell the hub the keys of a module. Raises Error."""
        return _module(await asyncio.to_thread(self._called, "PUT", _path(module_id), {"type": "aziot"}))

    async def delete(self, module_id: str) -> None:
        """Delete a module. Raises Error."""
        await asyncio.to_thread(self._called, "DELETE", _path(module_id))

    def sign(self, module: Module, data: bytes) -> bytes:
        """HMAC-SHA256 with a module's primary key."""
        handle = self._called("GET", _path(module.module_id))["auth"]["keyHandle"]
        return self._keys.mac_by(handle, data)

    def _called(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float = _WAIT_SECONDS
    ) -> Any:
        status, answered = self._service.call(method, path, body, query={"type": "aziot"}, timeout=timeout)
        return _expect(status, answered, path.rpartition("/")[2]).get("spec", {})


def _expect(status: int, answered: dict[str, Any], name: str) -> dict[str, Any]:
    if status in (_OK, _NO_CONTENT):
        return answered
    message = str(answered.get("message", f"HTTP {status}"))
    if status == _WRONG and "there is no module" in message:
        raise ModuleUnknownError(name)
    if status in (_WRONG, _NOT_ALLOWED):
        raise RefusedError(f"the identity service: {message}", reason="identity-not-authorized")
    raise UnavailableError(f"the identity service: {message}", reason="service-failed")


def _place_of(spec: dict[str, Any]) -> Assignment:
    return Assignment(str(spec["hubName"]).lower(), str(spec["deviceId"]))


def _module(spec: dict[str, Any]) -> Module:
    return Module(str(spec["moduleId"]), str(spec["genId"]), "IotEdge")


def _path(module_id: str) -> str:
    return f"/identities/modules/{quote(module_id, safe='')}"
