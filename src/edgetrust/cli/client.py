"""The hub's REST interface as commands use it: where the hub is, how to prove who asks, and what its answers mean.

The place is the directory of `edgetrust up` (its `up.json` has everything) or a URL with a connection string in a
file. Every request carries a fresh service SAS token; the hub is verified by a bundle file or the system's store.
What the hub refuses becomes an Error with the hub's own words; no key is ever printed from here.
"""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from edgetrust.clock import SystemClock
from edgetrust.errors import ConfigError, Error, RefusedError, UnavailableError, UsageError
from edgetrust.pki.keys import SecretText
from edgetrust.protocol.iothub import parse_connection_string
from edgetrust.protocol.sas import decode_key, resource_text, sign

if TYPE_CHECKING:
    import aiohttp

API_VERSION = "2021-04-12"
DEFAULT_DIRECTORY = Path("edgetrust-hub")
TOKEN_SECONDS = 300  # one command makes a few requests; a long tail makes a token per request
REQUEST_SECONDS = 30.0
CONTINUATION = "x-ms-continuation"
_FORBIDDEN, _TOO_MANY, _SERVER_FAULT = 403, 429, 500


@dataclass(frozen=True, slots=True)
class Hub:
    """Where a hub is and what proves the right to ask it. `host_name` is its name in tokens; `base_url` where it
    listens; `directory` that of `edgetrust up`, where it was named by that.
    """

    base_url: str
    host_name: str
    policy: str
    key: SecretText
    trust_file: Path | None
    directory: Path | None = None

    @property
    def address(self) -> str:
        """Its name, with the port where that is not HTTPS's own: what service clients dial."""
        port = urlsplit(self.base_url).port
        return self.host_name if port in (None, 443) else f"{self.host_name}:{port}"


class HubError(Error):
    """The hub answered with an error. `status` is HTTP's, `reason` the slug of the hub's error name."""

    def __init__(self, message: str, *, reason: str, status: int, fix: str = "") -> None:
        super().__init__(message, reason=reason, fix=fix)
        self.status = status


def find_hub(
    directory: Path | None, url: str | None, file: Path | None, trust: Path | None, *, dps: bool = False
) -> Hub:
    """The hub, or with `dps` the provisioning service, that the options name. Raises UsageError or ConfigError."""
    if url is None:
        directory = directory or default_directory()
    if directory is not None and url is None:
        return _from_directory(directory, trust, dps=dps)
    if url is None:
        raise UsageError(
            "no hub was named", reason="hub-not-named", fix="add --dir D (of edgetrust up), or set EDGETRUST_DIR"
        )
    if file is None:
        raise UsageError(
            f"{'--dps' if dps else '--hub'} needs credentials",
            reason="hub-no-credentials",
            fix="add --connection-string-file FILE (or - for stdin)",
        )
    return _from_connection_string(read_secret(file), trust, url)


def default_directory() -> Path | None:
    """Where `edgetrust up` keeps a hub unless told otherwise, if there is one below the current directory."""
    return DEFAULT_DIRECTORY if (DEFAULT_DIRECTORY / "up.json").exists() else None


def up_json(directory: Path) -> dict[str, Any]:
    """What `edgetrust up` wrote about itself. Raises ConfigError."""
    path = directory / "up.json"
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as problem:
        raise ConfigError(
            f"{path} does not exist", reason="up-json-missing", fix=f"start a hub there: edgetrust up --dir {directory}"
        ) from problem
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path} cannot be read: {problem}", reason="up-json-unreadable") from problem
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not what edgetrust up writes", reason="up-json-unreadable")
    return content


def read_secret(file: Path) -> str:
    """One line of a file that holds a secret, or of standard input for `-`. Raises UsageError."""
    if str(file) == "-":
        return sys.stdin.readline().strip()
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"{file} cannot be read: {problem}", reason="file-unreadable") from problem


def _from_directory(directory: Path, trust: Path | None, *, dps: bool = False) -> Hub:
    ready = up_json(directory)
    try:
        actor = ready["dps" if dps else "hub"]
        host, port = str(actor["hostname"]), int(actor["https_port"])
        text = str((actor if dps else ready)["service_connection_string"])
        bundle = Path(ready["trust_bundle"])
    except (KeyError, TypeError, ValueError) as problem:
        raise ConfigError(
            f"{directory / 'up.json'} is not what edgetrust up writes: {problem}", reason="up-json-unreadable"
        ) from problem
    hub = _from_connection_string(text, trust or bundle, f"https://{_bracketed(host)}:{port}")
    return replace(hub, directory=directory)


def _from_connection_string(text: str, trust: Path | None, url: str) -> Hub:
    parsed = parse_connection_string(text)
    if parsed.policy is None or parsed.key is None:
        raise UsageError(
            "the connection string has no SharedAccessKeyName or no SharedAccessKey",
            reason="connection-string-not-service",
            fix="use a service connection string: HostName=...;SharedAccessKeyName=...;SharedAccessKey=...",
        )
    address = urlsplit(url if "//" in url else f"https://{url}")
    if not address.hostname or address.scheme != "https":
        raise UsageError(f"{url!r} is no https address", reason="hub-url", fix="write it like https://hub.example:443")
    host = parsed.host_name.rsplit(":", 1)[0] if ":" in parsed.host_name else parsed.host_name
    base = f"https://{_bracketed(address.hostname)}:{address.port or 443}"
    return Hub(base, host, parsed.policy, SecretText(parsed.key), trust)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content: bytes
    phrase: str
    headers: Mapping[str, str]


class HubClient:
    """An open line to one hub: `async with HubClient(hub) as client`. Every method raises Error when the hub does.

    `certificates` is where its CA certificates are, `command` the word for it on the command line.
    """

    certificates: tuple[str, ...] = ("certificates",)
    command = "hub"

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp

        connector = aiohttp.TCPConnector(ssl=_verifier(self.hub.trust_file))
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, *path: str, **query: str) -> Any:
        return await self.request("GET", path, query=query)

    async def put(self, *path: str, body: object, etag: str | None = None) -> Any:
        """Create without `etag`, update with it (`*` updates whatever is there)."""
        return await self.request("PUT", path, body=body, headers=_if_match(etag))

    async def post(self, *path: str, body: object = None, etag: str | None = None) -> Any:
        return await self.request("POST", path, body=body, headers=_if_match(etag))

    async def delete(self, *path: str, etag: str = "*") -> Any:
        return await self.request("DELETE", path, headers=_if_match(etag))

    async def request(
        self,
        method: str,
        path: Sequence[str],
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = REQUEST_SECONDS,
        also: Sequence[int] = (),
    ) -> Any:
        """One request; `path` are segments, not yet encoded. Returns the decoded JSON answer, None for an empty one.

        `also`: further statuses whose answer is data and no error.
        """
        answer = await self._exchange(method, path, query, body, raw, headers, seconds)
        return _read(answer.status, answer.content, answer.phrase, also)

    async def pages(
        self,
        method: str,
        path: Sequence[str],
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[bytes]:
        """What a route answers page by page, until no continuation follows; at least one page."""
        more: str | None = ""
        while more is not None:
            sent = {**(headers or {}), **({CONTINUATION: more} if more else {})}
            answer = await self._exchange(method, path, query, body, None, sent)
            if answer.status >= 400:  # noqa: PLR2004  (HTTP's own border)
                _read(answer.status, answer.content, answer.phrase)
            yield answer.content
            more = answer.headers.get(CONTINUATION)

    async def _exchange(
        self,
        method: str,
        path: Sequence[str],
        query: Mapping[str, str] | None,
        body: object,
        raw: bytes | None,
        headers: Mapping[str, str] | None,
        seconds: float = REQUEST_SECONDS,
    ) -> _Answer:
        import aiohttp
        from yarl import URL

        assert self._session is not None
        url = self.hub.base_url + "".join("/" + quote(part, safe="") for part in path)
        url += f"?api-version={API_VERSION}" + "".join(
            f"&{name}={quote(value)}" for name, value in (query or {}).items()
        )
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                data=raw,
                json=body,
                headers={**(headers or {}), "Authorization": self._token()},
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as answer:
                return _Answer(answer.status, await answer.read(), answer.reason or "", answer.headers)
        except aiohttp.ClientConnectorCertificateError as problem:
            raise RefusedError(
                f"the hub at {self.hub.base_url} is not trusted: {problem.certificate_error}",
                reason="server-untrusted",
                fix="name the CA that issued the hub's certificate with --ca, and the hub by a name in its certificate",
            ) from problem
        except (aiohttp.ClientError, TimeoutError) as problem:
            raise UnavailableError(
                f"the hub at {self.hub.base_url} does not answer: {str(problem) or type(problem).__name__}",
                reason="hub-unavailable",
                fix="start it (edgetrust up --dir D, edgetrust hub serve -c hub.toml), or correct the address",
            ) from problem

    def _token(self) -> str:
        expires_at = int(SystemClock().now().timestamp()) + TOKEN_SECONDS
        return sign(decode_key(self.hub.key.reveal()), resource_text(self.hub.host_name), expires_at, self.hub.policy)


class DpsClient(HubClient):
    """An open line to a provisioning service."""

    certificates = ("provisioningServices", "dps", "certificates")
    command = "dps"


def _verifier(trust_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if trust_file is None else str(trust_file))
    except (OSError, ssl.SSLError) as problem:
        raise ConfigError(
            f"{trust_file} holds no CA certificates: {problem}", reason="trust-bundle-unreadable"
        ) from problem


def _if_match(etag: str | None) -> dict[str, str]:
    return {} if etag is None else {"If-Match": f'"{etag}"'}


def _read(status: int, content: bytes, phrase: str, also: Sequence[int] = ()) -> Any:
    if status < 400 or status in also:  # noqa: PLR2004  (HTTP's own border)
        try:
            return json.loads(content) if content.strip() else None
        except ValueError as problem:
            raise UnavailableError("the answer is not JSON: that is no hub", reason="hub-answer-malformed") from problem
    name, text = _error_words(content, phrase)
    reason = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")
    if status == _TOO_MANY or status >= _SERVER_FAULT:
        raise UnavailableError(f"the hub cannot do that now ({status}): {text}", reason=reason)
    if status in (401, _FORBIDDEN):
        raise RefusedError(
            f"the hub refused ({status}): {text}",
            reason=reason,
            fix="use a connection string whose policy holds the right, with the current key",
        )
    raise HubError(text, reason=reason, status=status, fix=_FIXES.get(name, ""))


_FIXES = {
    "DeviceNotFound": "edgetrust device list shows what exists; identifiers are case-sensitive",
    "ModuleNotFound": "edgetrust module list DEVICE shows what exists; identifiers are case-sensitive",
    "DeviceAlreadyExists": "change it with edgetrust device update, or delete it first",
    "EnrollmentNotFound": "edgetrust enrollment list and edgetrust group list show what exists",
    "EnrollmentExists": "change it with update, or delete it first",
    "PreconditionFailed": "somebody changed it meanwhile; run the command again",
}


_DPS_NAMES = {
    400_004: "ArgumentInvalid",
    401_000: "Unauthorized",
    404_201: "EnrollmentNotFound",
    404_202: "RegistrationNotFound",
    409_000: "EnrollmentExists",
    412_000: "PreconditionFailed",
    429_001: "Throttled",
}


def _error_words(content: bytes, phrase: str) -> tuple[str, str]:
    """Name and text of an error body: `ErrorCode:Name;text` of a hub (hub specification 12.1), or number and message of
    a provisioning service (13.4).
    """
    try:
        values = json.loads(content)
        if "errorCode" in values:
            return _DPS_NAMES.get(int(values["errorCode"]), "ProvisioningRefused"), str(values["message"])
        message = str(values["Message"])
    except (ValueError, KeyError, TypeError):
        return "Error", phrase or content[:200].decode("utf-8", "replace")
    head, _, text = message.partition(";")
    name = head.removeprefix("ErrorCode:").strip()
    return name or "Error", text.strip() or message
