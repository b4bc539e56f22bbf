"""The module `$edgeHub` of this gateway: made at the hub, its keys derived here, remembered for times without the hub.

Flow (edge specification 4.6, 4.7): get the module; create it when it is not there; derive both keys from the master
key and the module's generation; tell the hub the keys when it has others; keep a backup without keys. A hub that
cannot be reached, or that refuses the device's credential, is no reason to stop: the backup says which generation to
go on with (4.8). Only an answer that the module is gone removes the backup.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetrust.clock import Clock
from edgetrust.edge.credentials import DeviceKey, DeviceTpm
from edgetrust.edge.files import DEVICE_ID, Layout, read_file
from edgetrust.edge.hubapi import MODULE_API, UNAUTHORIZED, Answer, HubApi, HubTrust, hub_path
from edgetrust.edge.issuer import tls_key
from edgetrust.edge.keyd import SecretsElsewhere, module_key
from edgetrust.edge.pairs import Certificates, CertificateStore
from edgetrust.edge.settings import Settings
from edgetrust.edge.tpmclient import tpm_of
from edgetrust.errors import ConfigError, RefusedError, UnavailableError
from edgetrust.pki.chain import Chain
from edgetrust.pki.keys import ClientKey, KeyStore, SecretBytes
from edgetrust.pki.softkeys import write_public
from edgetrust.protocol.sas import SasToken, format_token, resource_text, sign, string_to_sign
from edgetrust.trust.authorize import EDGE_HUB

DEVICE_TOKEN_SECONDS = 30  # as aziot-identityd's tokens live
_OK, _NOT_FOUND, _CONFLICT = 200, 404, 409


class DeviceRefusedError(RefusedError):
    """The hub does not accept this device's credential, or does not know the device."""


@dataclass(frozen=True, slots=True)
class EdgeHub:
    """The module as this gateway acts as it: its generation and its keys."""

    generation: str
    primary: SecretBytes
    secondary: SecretBytes


class Identities:
    """This gateway's device and module at the hub. `refused` is asked when the hub does not take the device: whether
    to try again.
    """

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        keys: KeyStore,
        trust: HubTrust,
        clock: Clock,
        store: Certificates | None = None,
        refused: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._trust = trust
        self._clock = clock
        self._backup_path = layout.module_backup(settings.hub, settings.device, EDGE_HUB)
        self._device_info = layout.identities / "device_info"
        self._store = CertificateStore(layout.certificates) if store is None else store
        client = None if isinstance(settings.credential, DeviceKey | DeviceTpm) else self._identity
        self._tpm = tpm_of(settings.credential.place, keys) if isinstance(settings.credential, DeviceTpm) else None
        self.api = HubApi(settings, trust, authorization=self._device_token, client=client, refused=refused)
        self._path = hub_path("devices", settings.device, "modules", EDGE_HUB)

    def _identity(self) -> tuple[Chain, ClientKey]:
        chain = self._store.load(DEVICE_ID)
        if chain is None:
            raise ConfigError("there is no device identity certificate", reason="device-identity-unusable")
        return chain, tls_key(self._keys.load(DEVICE_ID))

    def _device_token(self) -> str | None:
        credential, settings = self._settings.credential, self._settings
        if not isinstance(credential, DeviceKey | DeviceTpm):
            return None
        expires_at = int(self._clock.now().timestamp()) + DEVICE_TOKEN_SECONDS
        resource = resource_text(settings.hub, settings.device)
        if self._tpm is not None:
            signature = self._tpm.sign(string_to_sign(resource, expires_at))
            return format_token(SasToken(resource, signature, expires_at))
        assert isinstance(credential, DeviceKey), "a TPM has signed"
        if isinstance(self._keys, SecretsElsewhere):
            signature = self._keys.mac(DEVICE_ID, string_to_sign(resource, expires_at))
            return format_token(SasToken(resource, signature, expires_at))
        return sign(credential.key.reveal(), resource, expires_at)

    async def close(self) -> None:
        """Close the connection to the hub."""
        await self.api.close()

    def forget_certificate(self) -> None:
        """The device has another certificate: show it at the next request."""
        self.api.forget_certificate()

    # With the hub ---------------------------------------------------------------------------------------------------

    async def ensure_edge_hub(self) -> EdgeHub:
        """The module as the hub has it now, made or updated as needed.

        Raises DeviceRefusedError when the hub says no, UnavailableError when it cannot be asked.
        """
        found = await self._get()
        module = await self._create() if found is None else found
        wanted = self._derived(_text(module, "generationId"))
        if not _has_keys(module, wanted):
            await self._tell_keys(wanted)
        self._remember(wanted.generation)
        return wanted

    async def _get(self) -> Any:
        answer = await self.api.call("GET", self._path, api_version=MODULE_API)
        if answer.status == _NOT_FOUND:
            self._backup_path.unlink(missing_ok=True)
            return None
        return self._expect(answer, "reading the module $edgeHub")

    async def _create(self) -> Any:
        body = {"moduleId": EDGE_HUB, "managedBy": "IotEdge", "deviceId": self._settings.device}
        answer = await self.api.call("PUT", self._path, api_version=MODULE_API, body=body)
        if answer.status == _CONFLICT:  # somebody made it in between
            answer = await self.api.call("GET", self._path, api_version=MODULE_API)
        return self._expect(answer, "creating the module $edgeHub")

    async def _tell_keys(self, wanted: EdgeHub) -> None:
        body = {
            "moduleId": EDGE_HUB,
            "deviceId": self._settings.device,
            "managedBy": "IotEdge",
            "authentication": {
                "type": "sas",
                "symmetricKey": {"primaryKey": _base64(wanted.primary), "secondaryKey": _base64(wanted.secondary)},
            },
        }
        answer = await self.api.call("PUT", self._path, api_version=MODULE_API, body=body, if_match="*")
        self._expect(answer, "telling the keys of the module $edgeHub")

    def _expect(self, answer: Answer, what: str) -> Any:
        module = answer.body
        if answer.status == _OK and isinstance(module, dict):
            return module
        device, hub = self._settings.device, self._settings.hub
        if answer.status in UNAUTHORIZED:
            raise DeviceRefusedError(
                f"the hub {hub} refuses device {device!r}: {answer.problem}",
                reason="device-refused",
                fix=f"compare the credential in {self._settings.source} with what is registered for {device!r}: "
                "its thumbprints (edgetrust cert thumbprint FILE), the dates of the certificate, or its key",
            )
        raise DeviceRefusedError(
            f"{what} failed at the hub {hub} for device {device!r}: {answer.problem}",
            reason="device-unknown" if answer.status == _NOT_FOUND else "module-refused",
            fix=f"create the edge device {device!r} at the hub" if answer.status == _NOT_FOUND else "",
        )

    async def try_certificate(self, chain: Chain, key: ClientKey) -> None:
        """Ask the hub with another certificate, before it becomes ours. Raises DeviceRefusedError when the hub does
        not take it, UnavailableError when it cannot be asked.
        """
        api = HubApi(self._settings, self._trust, authorization=lambda: None, client=lambda: (chain, key))
        try:
            answer = await api.call("GET", self._path, api_version=MODULE_API)
        finally:
            await api.close()
        if answer.status in UNAUTHORIZED:
            raise DeviceRefusedError(
                f"the hub {self._settings.hub} does not take the new certificate of {self._settings.device!r}: "
                f"{answer.problem}",
                reason="device-refused",
                fix=f"register its thumbprint {chain.thumbprint().hex()} as the secondary one, or register the device "
                "by its CA",
            )

    # Without it -----------------------------------------------------------------------------------------------------

    def backup(self) -> EdgeHub | None:
        """What was remembered at the last time the hub was there; None when there never was one."""
        try:
            content = json.loads(read_file(self._backup_path))
        except (ConfigError, ValueError):
            return None
        generation = content.get("generationId") if isinstance(content, dict) else None
        return self._derived(generation) if isinstance(generation, str) else None

    def _remember(self, generation: str) -> None:
        settings = self._settings
        module = {"moduleId": EDGE_HUB, "deviceId": settings.device, "generationId": generation, "managedBy": "IotEdge"}
        _write_changed(self._backup_path, json.dumps(module).encode())
        info = f'hub_name = "{settings.hub}"\nlocal_gateway_hostname = "{settings.hub}"\n'
        _write_changed(self._device_info, f"{info}device_id = {json.dumps(settings.device)}\n".encode())

    def _derived(self, generation: str) -> EdgeHub:
        primary, secondary = (module_key(self._keys, EDGE_HUB, generation, slot) for slot in ("primary", "secondary"))
        return EdgeHub(generation, primary, secondary)


def _write_changed(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        write_public(path, content)


def _text(module: Any, name: str) -> str:
    value = module.get(name)
    if not isinstance(value, str) or not value:
        raise UnavailableError(f"the hub's answer has no {name}", reason="hub-answer-malformed")
    return value


def _base64(secret: SecretBytes) -> str:
    return base64.b64encode(secret.reveal()).decode()


def _has_keys(module: Any, wanted: EdgeHub) -> bool:
    authentication = module.get("authentication")
    keys = authentication.get("symmetricKey") if isinstance(authentication, dict) else None
    if not isinstance(keys, dict) or authentication.get("type") != "sas":
        return False
    return bool(
        keys.get("primaryKey") == _base64(wanted.primary) and keys.get("secondaryKey") == _base64(wanted.secondary)
    )
