"""Identities of this device's modules: made, updated and deleted at the hub, remembered for times without it.

Rules (edge specification 4.6 to 4.8). Reading asks the hub and falls back to what is remembered, whatever the hub's
trouble is: an expired device certificate stops no running module. Making, updating and deleting need the hub. Keys are
derived here from the master key and the module's generation, and only told to the hub. The hub is asked about a module
at most twice a minute; in between what it said last is what counts. An answer that the module is gone removes what is
remembered.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import Any

from edgetrust.clock import Clock
from edgetrust.edge import keyuse
from edgetrust.edge.files import Layout, read_file
from edgetrust.edge.hubapi import MODULE_API, Answer, HubApi, hub_path
from edgetrust.edge.keyd import module_key
from edgetrust.edge.settings import Settings
from edgetrust.errors import ConfigError, Error, RefusedError
from edgetrust.limits import MODULE_ASK_SECONDS
from edgetrust.pki.keys import KeyStore, SecretBytes
from edgetrust.pki.softkeys import write_public

_OK, _NO_CONTENT, _NOT_FOUND = 200, 204, 404


class ModuleUnknownError(RefusedError):
    """There is no such module, here or at the hub."""

    def __init__(self, module: str) -> None:
        super().__init__(f"there is no module {module!r}", reason="module-unknown")


@dataclass(frozen=True, slots=True)
class Module:
    """A module of this device."""

    module_id: str
    generation: str
    managed_by: str


class ModuleIdentities:
    """The modules of one device. `api` calls the hub as the device."""

    def __init__(self, settings: Settings, layout: Layout, keys: KeyStore, api: HubApi, clock: Clock) -> None:
        self._settings = settings
        self._layout = layout
        self._keys = keys
        self._api = api
        self._clock = clock
        self._asked: dict[str, tuple[float, Module]] = {}

    # Reading: with the hub or without it ----------------------------------------------------------------------------

    async def get(self, module_id: str) -> Module:
        """A module. Raises ModuleUnknownError; any other trouble with the hub only if nothing is remembered."""
        held = self._asked.get(module_id)
        if held is not None and self._clock.monotonic() - held[0] < MODULE_ASK_SECONDS:
            return held[1]
        remembered = self._remembered(module_id)
        if remembered is not None and self._settings.prefer_backup:
            return remembered
        try:
            found = await self._ask(module_id)
        except ModuleUnknownError:
            raise
        except Error:
            if remembered is None:
                raise
            found = remembered
        self._asked[module_id] = (self._clock.monotonic(), found)
        return found

    async def listed(self) -> list[Module]:
        """All modules; without the hub those that are remembered."""
        try:
            answer = await self._api.call("GET", self._path(), api_version=MODULE_API)
            body = self._expect(answer, "listing the modules")
        except Error:
            return self._all_remembered()
        return [self._read(one) for one in body if isinstance(one, dict)] if isinstance(body, list) else []

    async def _ask(self, module_id: str) -> Module:
        return self._answered(module_id, await self._api.call("GET", self._path(module_id), api_version=MODULE_API))

    def _answered(self, module_id: str, answer: Answer) -> Module:
        if answer.status == _NOT_FOUND:
            self._forget(module_id)
            raise ModuleUnknownError(module_id)
        module = self._read(self._expect(answer, f"reading the module {module_id!r}"))
        self._remember(module)
        return module

    # Changing: with the hub only ------------------------------------------------------------------------------------

    async def create(self, module_id: str) -> Module:
        """Make a module, or take the one that is there, and tell the hub its keys. Raises Error."""
        body = {"moduleId": module_id, "deviceId": self._settings.device, "managedBy": "IotEdge"}
        answer = await self._api.call("PUT", self._path(module_id), api_version=MODULE_API, body=body)
        if answer.status != _OK:
            answer = await self._api.call("GET", self._path(module_id), api_version=MODULE_API)
        return await self._told(self._read(self._expect(answer, f"creating the module {module_id!r}")))

    async def update(self, module_id: str) -> Module:
        """Tell the hub the keys of a module that is there, unless it has them. Raises Error."""
        answer = await self._api.call("GET", self._path(module_id), api_version=MODULE_API)
        module = self._answered(module_id, answer)
        told = tuple(_base64(key) for key in await asyncio.to_thread(self._both_keys, module))
        return module if _keys_of(answer.body) == told else await self._told(module)

    async def delete(self, module_id: str) -> None:
        """Delete a module at the hub and here. Raises Error."""
        path = self._path(module_id)
        answer = await self._api.call("DELETE", path, api_version=MODULE_API, if_match="*")
        if answer.status not in (_NO_CONTENT, _NOT_FOUND):
            self._expect(answer, f"deleting the module {module_id!r}")
        self._forget(module_id)

    async def _told(self, module: Module) -> Module:
        primary, secondary = await asyncio.to_thread(self._both_keys, module)
        body = {
            "moduleId": module.module_id,
            "deviceId": self._settings.device,
            "managedBy": module.managed_by,
            "authentication": {
                "type": "sas",
                "symmetricKey": {"primaryKey": _base64(primary), "secondaryKey": _base64(secondary)},
            },
        }
        path = self._path(module.module_id)
        answer = await self._api.call("PUT", path, api_version=MODULE_API, body=body, if_match="*")
        self._expect(answer, f"telling the keys of the module {module.module_id!r}")
        self._remember(module)
        return module

    def _both_keys(self, module: Module) -> tuple[SecretBytes, SecretBytes]:
        return self._key(module, "primary"), self._key(module, "secondary")

    def _key(self, module: Module, slot: str) -> SecretBytes:
        return module_key(self._keys, module.module_id, module.generation, slot)

    def sign(self, module: Module, data: bytes) -> bytes:
        """HMAC-SHA256 with a module's primary key."""
        return keyuse.mac(self._key(module, "primary"), data)

    def _path(self, *module: str) -> str:
        return hub_path("devices", self._settings.device, "modules", *module)

    def _expect(self, answer: Answer, what: str) -> Any:
        if answer.status == _OK and answer.body is not None:
            return answer.body
        message = f"{what} failed at the hub {self._settings.hub}: {answer.problem}"
        raise RefusedError(message, reason="module-refused")

    def _read(self, body: Any) -> Module:
        try:
            return Module(str(body["moduleId"]), str(body["generationId"]), str(body.get("managedBy") or ""))
        except (KeyError, TypeError, AttributeError) as problem:
            raise RefusedError("the hub's answer is no module", reason="hub-answer-malformed") from problem

    # Remembering ----------------------------------------------------------------------------------------------------

    def _remember(self, module: Module) -> None:
        content = {
            "moduleId": module.module_id,
            "deviceId": self._settings.device,
            "generationId": module.generation,
            "managedBy": module.managed_by,
        }
        path = self._layout.module_backup(self._settings.hub, self._settings.device, module.module_id)
        encoded = json.dumps(content).encode()
        if not path.exists() or path.read_bytes() != encoded:
            write_public(path, encoded)
        self._asked[module.module_id] = (self._clock.monotonic(), module)

    def _remembered(self, module_id: str) -> Module | None:
        path = self._layout.module_backup(self._settings.hub, self._settings.device, module_id)
        try:
            return self._read(json.loads(read_file(path)))
        except (ConfigError, ValueError, RefusedError):
            return None

    def _all_remembered(self) -> list[Module]:
        folder = self._layout.module_backup(self._settings.hub, self._settings.device, "x").parent
        found = []
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            try:
                found.append(self._read(json.loads(read_file(path))))
            except (ConfigError, ValueError, RefusedError):
                continue
        return found

    def _forget(self, module_id: str) -> None:
        self._asked.pop(module_id, None)
        self._layout.module_backup(self._settings.hub, self._settings.device, module_id).unlink(missing_ok=True)


def _keys_of(module: Any) -> tuple[Any, Any] | None:
    """The keys that the hub has, when the module authenticates by keys."""
    authentication = module.get("authentication") if isinstance(module, dict) else None
    keys = authentication.get("symmetricKey") if isinstance(authentication, dict) else None
    if not isinstance(keys, dict) or not isinstance(authentication, dict) or authentication.get("type") != "sas":
        return None
    return keys.get("primaryKey"), keys.get("secondaryKey")


def _base64(secret: SecretBytes) -> str:
    return base64.b64encode(secret.reveal()).decode()
