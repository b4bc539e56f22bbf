"""The device's TPM, where it is: in this process, or used by the key service of another.

Rules. A wrapped key is passed on as it came, and only the TPM can unwrap it. Every method takes its time: a TPM makes
RSA keys, and signs in tenths of a second.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Protocol

from edgetrust.device.provision import Chip
from edgetrust.device.tpm import Tpm, TpmPlace
from edgetrust.edge.keyclient import KEY_API, KeyClient
from edgetrust.errors import RefusedError, UnavailableError
from edgetrust.limits import SERVICE_TPM_SECONDS
from edgetrust.pki.keys import KeyStore
from edgetrust.transport.unixclient import UnixClient

_OK, _NO_CONTENT, _WRONG, _NOT_ALLOWED = 200, 204, 400, 401


class SigningChip(Chip, Protocol):
    """A TPM that also signs with the key that it keeps."""

    def sign(self, text: bytes) -> bytes: ...


def tpm_of(place: TpmPlace, keys: KeyStore) -> SigningChip:
    """The TPM in `place`, by the key service when that is another process."""
    return RemoteTpm(keys.socket) if isinstance(keys, KeyClient) else Tpm(place)


class RemoteTpm:
    """The TPM that the key service on a socket uses. Every method raises UnavailableError, RefusedError."""

    def __init__(self, socket: Path) -> None:
        self._service = UnixClient(socket, "the key service", KEY_API)

    def keys(self) -> tuple[bytes, bytes]:
        """The public areas of the endorsement key and of the storage root key."""
        told = self._called("GET", "/tpm/keys")
        return _bytes(told["endorsement_key"]), _bytes(told["storage_root_key"])

    def sign_once(self, wrapped: bytes, text: bytes) -> bytes:
        """HMAC-SHA256 with the key in `wrapped`, which is kept nowhere."""
        return _bytes(self._called("POST", "/tpm/sign", {"key": _text(wrapped), "data": _text(text)})["digest"])

    def keep(self, wrapped: bytes) -> None:
        """Keep the key in `wrapped`, in the place of the one before."""
        self._called("PUT", "/tpm/key", {"key": _text(wrapped)})

    def sign(self, text: bytes) -> bytes:
        """HMAC-SHA256 with the key that was kept."""
        return _bytes(self._called("POST", "/tpm/sign", {"data": _text(text)})["digest"])

    def _called(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        status, answered = self._service.call(method, path, body, timeout=SERVICE_TPM_SECONDS)
        if status in (_OK, _NO_CONTENT):
            return answered
        message = f"the key service: {answered.get('message', f'HTTP {status}')}"
        if status in (_WRONG, _NOT_ALLOWED):
            raise RefusedError(message, reason="tpm-key-mismatch" if status == _WRONG else "key-not-authorized")
        raise UnavailableError(message, reason="tpm-failed", fix="the log of the key service says why")


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: Any) -> bytes:
    return base64.b64decode(str(text), validate=True)
