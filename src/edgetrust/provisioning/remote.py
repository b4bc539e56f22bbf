"""Another hub, told by its REST interface with a service connection string (hub specification 6).

Rules: its certificate is verified, always, for the name that devices will know it by, wherever it is reached. A request
is signed anew each time. What it refuses becomes a PeerError with its own words, what keeps it from answering an
UnavailableError.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from edgetrust.config import read_text
from edgetrust.errors import ConfigError, PeerError, UnavailableError
from edgetrust.limits import HUB_REQUEST_SECONDS
from edgetrust.pki.chain import TrustBundle
from edgetrust.pki.keys import SecretBytes
from edgetrust.protocol.iothub import parse_connection_string
from edgetrust.protocol.sas import decode_key, resource_text, sign
from edgetrust.provisioning.hubs import HubDevice, HubTwin, authentication_draft
from edgetrust.provisioning.settings import HubLink
from edgetrust.transport.http import https_session

_VERSION = "api-version=2021-04-12"
_TOKEN_SECONDS = 300
_NOT_FOUND, _CONFLICT, _TOO_MANY, _SERVER_FAULT, _ERROR = 404, 409, 429, 500, 400


class RemoteHub:
    """The port over HTTPS. Made on the loop; `close` ends its connections."""

    def __init__(self, link: HubLink, bundle: TrustBundle | None) -> None:
        """Raises ConfigError when the connection string cannot be used."""
        self._name = link.name
        self._url = link.url.rstrip("/")
        self._verified_as = link.name.rsplit(":", 1)[0] if ":" in link.name else link.name
        text = read_text(link.connection_string_file).strip()
        try:
            parsed = parse_connection_string(text)
            if parsed.policy is None or parsed.key is None:
                raise _unusable(link, "it has no SharedAccessKeyName or no SharedAccessKey")
            self._key = SecretBytes(decode_key(parsed.key))
        except PeerError as problem:
            raise _unusable(link, problem.message) from problem
        self._policy = parsed.policy
        self._host = parsed.host_name.rsplit(":", 1)[0] if ":" in parsed.host_name else parsed.host_name
        self._session = https_session(bundle, timeout=HUB_REQUEST_SECONDS)

    async def put(self, device: HubDevice) -> None:
        path = f"/devices/{quote(device.device, safe='')}"
        wanted = _body(device)
        stored = await self._ask("GET", path, missing_ok=True)
        if stored is None:
            await self._create(path, wanted)
        elif not _holds(stored, wanted):
            await self._ask("PUT", path, wanted, any_etag=True)
        if device.twin is None:
            return
        twin_path = f"/twins/{quote(device.device, safe='')}"
        if stored is None or device.reset or not await self._touched(twin_path):
            properties = {"desired": dict(device.twin.desired)}
            await self._ask("PUT", twin_path, {"tags": dict(device.twin.tags), "properties": properties}, any_etag=True)

    async def twin(self, device: str) -> HubTwin | None:
        found = await self._ask("GET", f"/twins/{quote(device, safe='')}", missing_ok=True)
        return None if found is None else _twin(found)

    async def delete(self, device: str) -> None:
        await self._ask("DELETE", f"/devices/{quote(device, safe='')}", any_etag=True, missing_ok=True)

    async def ping(self) -> None:
        await self._ask("GET", "/statistics/devices")

    async def close(self) -> None:
        await self._session.close()

    async def _create(self, path: str, body: dict[str, Any]) -> None:
        try:
            await self._ask("PUT", path, body)
        except PeerError as problem:
            if problem.status != _CONFLICT:  # somebody made it meanwhile
                raise
            await self._ask("PUT", path, body, any_etag=True)

    async def _touched(self, path: str) -> bool:
        """Whether a service wrote into the twin: if not, a crash may have come before its initial content."""
        twin = _twin(await self._ask("GET", path))
        return bool(twin.tags or twin.desired)

    async def _ask(
        self, method: str, path: str, body: object = None, *, any_etag: bool = False, missing_ok: bool = False
    ) -> Any:
        expires_at = int(time.time()) + _TOKEN_SECONDS
        headers = {"Authorization": sign(self._key.reveal(), resource_text(self._host), expires_at, self._policy)}
        if any_etag:
            headers["If-Match"] = "*"
        url = f"{self._url}{path}?{_VERSION}"
        try:
            async with self._session.request(
                method, url, json=body, headers=headers, server_hostname=self._verified_as
            ) as answer:
                content = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError) as problem:
            raise UnavailableError(
                f"hub {self._name} does not answer: {str(problem) or type(problem).__name__}", reason="hub-unavailable"
            ) from problem
        if status == _NOT_FOUND and missing_ok:
            return None
        if status >= _SERVER_FAULT or status == _TOO_MANY:
            raise UnavailableError(f"hub {self._name} cannot do that now ({status})", reason="hub-unavailable")
        if status >= _ERROR:
            raise PeerError(f"hub {self._name}: {_words(content)}", reason="hub-refused", status=status)
        return _decoded(content)


def _unusable(link: HubLink, why: str) -> ConfigError:
    return ConfigError(
        f"{link.connection_string_file}: no service connection string: {why}", reason="connection-string-not-service"
    )


def _body(device: HubDevice) -> dict[str, Any]:
    draft = authentication_draft(device.authentication)
    authentication: dict[str, Any] = {"type": draft.kind}
    if draft.kind == "sas":
        authentication["symmetricKey"] = {"primaryKey": draft.primary_key, "secondaryKey": draft.secondary_key}
    else:
        authentication["x509Thumbprint"] = {
            "primaryThumbprint": draft.primary_thumbprint,
            "secondaryThumbprint": draft.secondary_thumbprint,
        }
    return {
        "deviceId": device.device,
        "status": "enabled",
        "authentication": authentication,
        "capabilities": {"iotEdge": device.edge},
    }


def _holds(stored: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether everything wanted is stored already."""
    return all(
        _holds(stored.get(name) or {}, value) if isinstance(value, dict) else stored.get(name) == value
        for name, value in wanted.items()
    )


def _twin(found: dict[str, Any]) -> HubTwin:
    desired = dict((found.get("properties") or {}).get("desired") or {})
    for name in ("$version", "$metadata"):
        desired.pop(name, None)
    return HubTwin(dict(found.get("tags") or {}), desired)


def _decoded(content: bytes) -> Any:
    if not content.strip():
        return None
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise UnavailableError("the answer is not JSON: that is no hub", reason="hub-unavailable") from problem


def _words(content: bytes) -> str:
    try:
        return str(msgspec.json.decode(content)["Message"])[:500]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace")
